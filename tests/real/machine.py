"""What running roots leave on the machine that carries them: a state file each, and cgroups.

Nothing else: mounts, networks and files in memory go with a root's last process.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import namespaces
from debian_root import locked, say

STATES = Path("/run/slurm-oci-roots")


class AlreadyRunning(Exception):
    """There is a root of that name."""


# State files


def claim(name: str, **state: object) -> dict:
    """Take `name` for a root that this process is about to start; returns its state, saved.

    Cleans up first after roots that have died. Raises AlreadyRunning.
    """
    with changing():
        _sweep()
        if find(name):
            raise AlreadyRunning(name)
        starter = {"pid": os.getpid(), "start": namespaces.start_time(os.getpid())}
        claimed = {"name": name, "boot": boot_id(), "cgroups": [], "starter": starter, **state}
        save(claimed)
        return claimed


def save(state: dict) -> None:
    temporary = state_file(state["name"]).with_suffix(".new")
    temporary.write_text(json.dumps(state, indent=2))
    temporary.rename(state_file(state["name"]))


def find(name: str) -> dict | None:
    """The state of the root called `name`, running or dead; None if there is no such root."""
    try:
        return json.loads(state_file(name).read_text())
    except (FileNotFoundError, ValueError):
        return None


def running() -> list[dict]:
    """The state of every running root, after what dead ones left has been removed."""
    with changing():
        _sweep()
        return list(_states())


def alive(state: dict) -> bool:
    """Whether the root's first process, or while it is starting its starter, still runs."""
    process = state if "pid" in state else state.get("starter", {"pid": 0, "start": 0})
    return state["boot"] == boot_id() and namespaces.start_time(process["pid"]) == process["start"]


def end(state: dict) -> None:
    """Kill the root's first process, with which the kernel ends all others; remove the rest."""
    with changing():
        _end(state)


@contextlib.contextmanager
def changing() -> Iterator[None]:
    """Hold the lock under which roots are claimed and removed."""
    STATES.mkdir(mode=0o700, exist_ok=True)
    with locked(STATES / "lock", silent=True):
        yield


def state_file(name: str) -> Path:
    return STATES / f"{name}.json"


def log_file(name: str) -> Path:
    """Where the root's first process complains before it has a Slurm."""
    return STATES / f"{name}.log"


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _states() -> Iterator[dict]:
    for path in sorted(STATES.glob("*.json")):
        state = find(path.stem)
        if state is not None:
            yield state


def _sweep() -> None:
    for state in _states():
        if not alive(state):
            _end(state)


def _end(state: dict) -> None:
    if "pid" in state and alive(state):
        with contextlib.suppress(ProcessLookupError):
            os.kill(state["pid"], signal.SIGKILL)
        thaw(state["cgroups"])
        deadline = time.monotonic() + 20
        while alive(state):
            if time.monotonic() > deadline:
                say(f"!!! process {state['pid']}, killed, does not end; try `down {state['name']}` again")
                return
            time.sleep(0.01)
    if state["boot"] == boot_id():
        for directory in state["cgroups"]:
            remove_cgroup(Path(directory))
    for path in (state_file(state["name"]), log_file(state["name"])):
        path.unlink(missing_ok=True)


# cgroups


def mounts(table: bytes) -> list[list[str]]:
    """The fields of each line of /proc/PID/mounts, in which the kernel leaves a carriage return and other
    languages' blanks as they are."""
    return [line.split(" ") for line in os.fsdecode(table).split("\n") if line]


def own_cgroups() -> dict[str, Path]:
    """This process's own cgroup in the freezer ("v1") and in version 2 ("v2"), where mounted."""
    ours = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        ours.update(dict.fromkeys(controllers.split(","), path))
    found = {}
    for line in mounts(Path("/proc/self/mounts").read_bytes()):
        _, place, kind, options, *_ = line
        if kind == "cgroup" and "freezer" in options.split(","):
            version, path = "v1", ours.get("freezer", "/")
        elif kind == "cgroup2":
            version, path = "v2", ours.get("", "/")
        else:
            continue
        # In a container the mount may begin further down than the path says.
        here = Path(place + path)
        found[version] = here if here.is_dir() else Path(place)
    return found


def thaw(directories: list[str]) -> None:
    """A frozen process does not die, not even of SIGKILL (cgroups v1, freezer)."""
    for directory in directories:
        for file in sorted(Path(directory).rglob("freezer.state")):
            with contextlib.suppress(OSError):
                file.write_text("THAWED")


def remove_cgroup(directory: Path) -> None:
    """Remove a cgroup and those below; what just died may keep one busy for a moment."""
    for _ in range(200):
        below = sorted((path for path in directory.rglob("*") if path.is_dir()), reverse=True)
        with contextlib.suppress(OSError):
            for path in (*below, directory):
                path.rmdir()
        if not directory.exists():
            return
        time.sleep(0.02)
    say(f"!!! {directory} is still in use and stays")
