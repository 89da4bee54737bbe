#!/usr/bin/env python3
"""A real Slurm in a Debian root file system of its own, for the tests and for trying things.

    python3 tests/real/slurm_root.py up trixie            # Slurm 24.11; sid has 26.05
    python3 tests/real/slurm_root.py run trixie -- srun -n2 hostname
    python3 tests/real/slurm_root.py shell trixie
    python3 tests/real/slurm_root.py down trixie

Needs root, mmdebstrap (installed when missing) and a Debian archive in this machine's apt
configuration. The file system is built once and kept; each start puts a layer in memory on
top of it and forgets that at the end. All of Slurm lives in namespaces of its own: nothing of
it is seen by the machine, and when the first process in there ends, nothing is left.

In tests:

    with SlurmRoot.start("trixie") as root:
        done = root.run(["srun", "-n2", "hostname"])  # as alice, in /home/alice
        assert done.stdout == b"node1\\nnode1\\n"
"""

import argparse
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import debian_root
import namespaces
from debian_root import RootUnavailable, say

STATES = Path("/run/slurm-oci-roots")  # one file for each running root
HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
USER_PATH = "/usr/local/bin:/usr/bin:/bin"
ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_SECONDS = 120  # what a start may take on a very busy machine
CGROUP_VARIABLE = "SLURM_ROOT_CGROUP"  # v1, v2 or none, against what the machine suggests

Word = str | bytes | os.PathLike


class SlurmRootError(Exception):
    """The root could not be started or used; the text says why."""


class SlurmRoot:
    """A running Slurm. Made by `start` or `attach`; ended by `stop` or a `with` block."""

    def __init__(self, state: dict, lifeline: int | None = None) -> None:
        self._state = state
        self._lifeline = lifeline

    # Starting and stopping

    @classmethod
    def start(
        cls,
        suite: str,
        nodes: int = 1,
        *,
        name: str | None = None,
        slurm_conf: str = "",
        slurm: bool = True,
        tied: bool = True,
        images: bool = True,
    ) -> "SlurmRoot":
        """Start Slurm in a fresh copy of `suite` ("trixie" or "sid") and wait until it is idle.

        nodes: 1 to 3; with one, users' commands run on `node1` itself, with more on `head`.
        name: what the root is called, `suite` by default; roots of different names coexist.
        slurm_conf: lines to add to slurm.conf. slurm: False starts no daemon at all.
        tied: the root ends with this process, however that ends; else it stays until `down`.
        images: have the test images at /images (see `images.py`).

        Raises RootUnavailable if the file system cannot be had, SlurmRootError otherwise.
        """
        name = name or suite
        if os.geteuid():
            raise SlurmRootError("a Slurm of its own needs root: use sudo")
        if not 1 <= nodes <= 3:
            raise SlurmRootError(f"{nodes} nodes; 1 to 3 are possible")
        base = debian_root.ensure(suite)
        layers = [str(base / "root")]
        if images:
            layers.insert(0, str(image_layer(suite, base)))
        return cls._boot(suite, layers, nodes, name, slurm_conf, slurm, tied)

    @classmethod
    def _boot(
        cls, suite: str, layers: list[str], nodes: int, name: str, slurm_conf: str, slurm: bool, tied: bool
    ) -> "SlurmRoot":
        STATES.mkdir(mode=0o700, exist_ok=True)
        sweep()
        with debian_root.locked(lock_file(name)):
            if state_file(name).exists():
                raise SlurmRootError(f"`{name}` is running already; end it with `slurm_root.py down {name}`")
            cgroup, directories = cgroups_for(name)
            state = {"name": name, "suite": suite, "layers": layers, "cgroups": directories, "boot": boot_id()}
            save(state)
            for directory in directories:
                os.makedirs(directory, exist_ok=True)
            lifeline, hold = os.pipe() if tied else (None, None)
            report, ready = os.pipe()
            request = {
                "layers": layers,
                "cgroups": directories,
                "cgroup": cgroup,
                "lifeline": lifeline,
                "ready": ready,
                "nodes": nodes,
                "slurm": slurm,
                "slurm_conf": slurm_conf,
            }
            with log_file(name).open("wb") as log:
                boot = subprocess.run(
                    [sys.executable, "-I", "-c", _BOOT, str(HERE), json.dumps(request)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[fd for fd in (lifeline, ready) if fd is not None],
                )
            os.close(ready)
            if lifeline is not None:
                os.close(lifeline)
            if boot.stdout.strip():
                state["pid"] = int(boot.stdout)
                state["start"] = namespaces.start_time(state["pid"])
                save(state)
            self = cls(state, hold)
            with open(report) as file:
                started = select.select([file], [], [], START_SECONDS)[0]
                answer = json.loads((started and file.readline()) or '{"error": "its first process said nothing"}')
            if "error" in answer:
                message = f"`{name}` did not start: {answer['error']}\n{self._logs()}"
                self.stop()
                raise SlurmRootError(message)
            state["nodes"] = [outside_pid(state["pid"], inside) for inside in answer["nodes"]]
            save(state)
            return self

    @classmethod
    def attach(cls, name: str) -> "SlurmRoot":
        """The root called `name` that is running already; SlurmRootError if there is none."""
        state = read_state(state_file(name))
        if state is None or not alive(state):
            raise SlurmRootError(f"no root called `{name}` is running; start it with `slurm_root.py up {name}`")
        return cls(state)

    def stop(self) -> None:
        """End everything in the root and remove every trace of it on the machine."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        end(self._state)

    def __enter__(self) -> "SlurmRoot":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Running commands

    def run(
        self,
        argv: Iterable[Word],
        *,
        user: str = "alice",
        env: Mapping[str, str | bytes | None] | None = None,
        cwd: str | None = None,
        input: bytes | str | None = None,
        timeout: float | None = 60,
        node: int | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess:
        """Run a command in the root and wait for it; stdout and stderr are bytes.

        The words of `argv` arrive byte for byte. The environment is HOME, USER, LOGNAME, SHELL,
        PATH and LANG, with `env` on top (None takes a variable away). `cwd` is the user's home
        by default. `node` 1 to 3 runs it in that node's own namespaces. After `timeout` seconds
        it is killed and subprocess.TimeoutExpired raised.
        """
        data = input.encode() if isinstance(input, str) else input
        stdin = {} if data is not None else {"stdin": subprocess.DEVNULL}
        with self.popen(argv, user=user, env=env, cwd=cwd, node=node, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                        **(stdin or {"stdin": subprocess.PIPE})) as process:
            try:
                out, err = process.communicate(data, timeout)
            except BaseException:
                process.kill()
                raise
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        if check:
            done.check_returncode()
        return done

    def popen(
        self,
        argv: Iterable[Word],
        *,
        user: str = "alice",
        env: Mapping[str, str | bytes | None] | None = None,
        cwd: str | None = None,
        node: int | None = None,
        tty: int | None = None,
        **options: object,
    ) -> subprocess.Popen:
        """Start a command in the root; `options` are subprocess.Popen's (stdin, stdout, stderr).

        The process answers to send_signal and the rest as if it were the command itself.
        """
        entry = self._user(user)
        home = entry["home"]
        values: dict[str, str | bytes | None] = {
            "HOME": home,
            "USER": user,
            "LOGNAME": user,
            "SHELL": entry["shell"],
            "PATH": USER_PATH if entry["uid"] else ROOT_PATH,
            "LANG": "C.UTF-8",
            **(env or {}),
        }
        enter = namespaces.entering(
            self._pid(node),
            uid=entry["uid"],
            gid=entry["gid"],
            groups=entry["groups"],
            cwd=os.fsencode(cwd or home),
            tty=tty,
        )
        try:
            return subprocess.Popen(
                [os.fsencode(word) for word in argv],
                env={os.fsencode(key): os.fsencode(value) for key, value in values.items() if value is not None},
                preexec_fn=enter,
                umask=0o022,
                **options,  # type: ignore[call-overload]
            )
        finally:
            enter.close()  # type: ignore[attr-defined]

    def terminal(self, argv: Iterable[Word], *, size: tuple[int, int] = (24, 80), **options: object) -> "Terminal":
        """Start a command on a terminal of the root's own, `size` in rows and columns.

        `options` are those of `popen`.
        """
        node = options.get("node")
        master = os.open(self.path("/dev/pts/ptmx", node=node), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)  # type: ignore[arg-type]
        number = struct.unpack("i", fcntl.ioctl(master, termios.TIOCGPTN, b"\0" * 4))[0]
        fcntl.ioctl(master, termios.TIOCSPTLCK, struct.pack("i", 0))
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        path = self.path(f"/dev/pts/{number}", node=node)  # type: ignore[arg-type]
        entry = self._user(str(options.get("user", "alice")))
        os.chown(path, entry["uid"], -1)
        slave = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        options["env"] = {"TERM": "xterm", **(options.get("env") or {})}  # type: ignore[dict-item]
        try:
            process = self.popen(argv, stdin=slave, stdout=slave, stderr=slave, tty=slave, **options)  # type: ignore[arg-type]
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        return Terminal(process, master)

    def wait_idle(self, timeout: float = 30) -> None:
        """Wait until no job is left and every node is idle; SlurmRootError after `timeout` seconds."""
        end_time = time.monotonic() + timeout
        while True:
            jobs = self.run(["squeue", "--noheader"], user="root").stdout.decode().strip()
            states = self.run(["sinfo", "--noheader", "--Node", "--format=%N %T"], user="root").stdout.decode().split("\n")
            busy = [line for line in states if line and not line.endswith(" idle")]
            if not jobs and not busy:
                return
            if time.monotonic() > end_time:
                raise SlurmRootError(f"not idle after {timeout} s:\n{jobs}\n" + "\n".join(busy))
            time.sleep(0.05)

    # Files

    def path(self, inside: str, *, node: int | None = None) -> Path:
        """Where the file that the root calls `inside` (absolute) can be reached from outside.

        Symbolic links on the way are resolved as in the root; the last component need not exist.
        """
        top = f"/proc/{self._pid(node)}/root"
        todo, done = [part for part in inside.split("/") if part], ""
        links = 0
        while todo:
            part = todo.pop(0)
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            here = f"{top}{done}/{part}"
            if not os.path.islink(here):
                done += f"/{part}"
                continue
            links += 1
            if links > 40:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), inside)
            target = os.readlink(here)
            done = "" if target.startswith("/") else done
            todo[:0] = [piece for piece in target.split("/") if piece not in ("", ".")]
        return Path(top + done)

    def write(self, inside: str, content: str | bytes, *, user: str = "root", mode: int = 0o644, node: int | None = None) -> None:
        """Make or replace the file `inside`, owned by `user` as are directories made for it."""
        entry = self._user(user)
        path = self.path(inside, node=node)
        for parent in reversed(path.parents):
            if not parent.exists():
                parent.mkdir()
                os.chown(parent, entry["uid"], entry["gid"])
        path.unlink(missing_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        os.chown(path, entry["uid"], entry["gid"])
        path.chmod(mode)

    def set_oci_conf(self, text: str) -> None:
        """Have `text` as oci.conf; Slurm reads it anew for every step."""
        self.write("/etc/slurm/oci.conf", text)

    def clear_oci_conf(self) -> None:
        """Have no oci.conf."""
        self.path("/etc/slurm/oci.conf").unlink(missing_ok=True)

    def log(self, what: str, node: int = 1) -> str:
        """The log of `slurmd` (of that node), `slurmctld` or `munged`, as it is now."""
        names = {"slurmd": (f"slurmd-node{node}.log", f"slurmd-node{node}.out", "slurmd.out")}
        directory = self.path("/var/log/slurm")
        found = [directory / name for name in names.get(what, (f"{what}.log", f"{what}.out"))]
        return "".join(file.read_text(errors="replace") for file in found if file.exists())

    # Facts

    @property
    def name(self) -> str:
        return self._state["name"]

    @property
    def suite(self) -> str:
        return self._state["suite"]

    @property
    def nodes(self) -> int:
        return len(self._state["nodes"])

    @property
    def pid(self) -> int:
        """The root's first process, as the machine counts."""
        return self._state["pid"]

    @property
    def about(self) -> dict:
        """What the file system holds: `slurm`, `packages`, `left out` (name: reason)."""
        return json.loads(Path(self._state["layers"][-1]).with_name("about.json").read_text())

    @property
    def slurm_version(self) -> str:
        return self.about["slurm"]

    def has(self, program: str) -> bool:
        """Whether `program` is there to be run."""
        return any(os.access(self.path(f"{place}/{program}"), os.X_OK) for place in ROOT_PATH.split(":"))

    # Helpers

    def _pid(self, node: int | None) -> int:
        pid = self._state["pid"] if node is None else self._state["nodes"][node - 1]
        if namespaces.start_time(pid) is None:
            raise SlurmRootError(f"`{self.name}` is not running any more" if node is None else f"node {node} is not running any more")
        return pid

    def _user(self, name: str) -> dict:
        for line in self.path("/etc/passwd").read_text().splitlines():
            login, _, uid, gid, _, home, shell = line.split(":")
            if login == name:
                groups = [fields.split(":") for fields in self.path("/etc/group").read_text().splitlines()]
                more = [int(group[2]) for group in groups if name in group[3].split(",")]
                return {"uid": int(uid), "gid": int(gid), "home": home, "shell": shell, "groups": [int(gid), *more]}
        raise SlurmRootError(f"the root has no user `{name}`")

    def _logs(self) -> str:
        parts = []
        if log_file(self.name).exists():
            parts.append(log_file(self.name).read_text(errors="replace"))
        with contextlib.suppress(SlurmRootError, OSError, KeyError):
            for file in sorted(self.path("/var/log/slurm").iterdir()):
                parts.append(f"--- {file.name}\n{file.read_text(errors='replace')[-1500:]}")
        return "\n".join(parts).strip()


class Terminal:
    """A command on a terminal: what it writes is read here, and typed what it reads."""

    def __init__(self, process: subprocess.Popen, master: int) -> None:
        self.process = process
        self.seen = b""
        self._master = master

    def send(self, data: bytes) -> None:
        """Type `data`; b"\\x03" is ^C."""
        os.write(self._master, data)

    def expect(self, text: bytes, timeout: float = 20) -> bytes:
        """Read until `text` appears; returns what came up to its end. TimeoutError, EOFError."""
        end_time = time.monotonic() + timeout
        while text not in self.seen:
            if not select.select([self._master], [], [], max(0, end_time - time.monotonic()))[0]:
                raise TimeoutError(f"no {text!r} within {timeout} s, but {self.seen!r}")
            data = self._read()
            if not data:
                raise EOFError(f"no {text!r} to the end, but {self.seen!r}")
            self.seen += data
        at = self.seen.index(text) + len(text)
        before, self.seen = self.seen[:at], self.seen[at:]
        return before

    def finish(self, timeout: float = 20) -> tuple[int, bytes]:
        """Wait for the command's end; returns its exit code and what it still wrote."""
        end_time = time.monotonic() + timeout
        while True:
            if not select.select([self._master], [], [], max(0, end_time - time.monotonic()))[0]:
                self.process.kill()
                raise TimeoutError(f"still running after {timeout} s; it wrote {self.seen!r}")
            data = self._read()
            if not data:
                break
            self.seen += data
        code = self.process.wait(timeout)
        os.close(self._master)
        return code, self.seen

    def interact(self) -> int:
        """Connect the caller's own terminal to this one until the command ends; returns its code."""
        saved = termios.tcgetattr(0)

        def resize(*_: object) -> None:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))

        signal.signal(signal.SIGWINCH, resize)
        resize()
        try:
            tty.setraw(0)
            pty._copy(self._master, lambda _: self._read(), lambda _: os.read(0, 1024))  # type: ignore[attr-defined]
        finally:
            termios.tcsetattr(0, termios.TCSAFLUSH, saved)
        return self.process.wait()

    def _read(self) -> bytes:
        try:
            return os.read(self._master, 65536)
        except OSError as problem:
            if problem.errno == errno.EIO:  # nobody has the terminal open any more
                return b""
            raise


# State on the machine


def state_file(name: str) -> Path:
    return STATES / f"{name}.json"


def lock_file(name: str) -> Path:
    return STATES / f"{name}.lock"


def log_file(name: str) -> Path:
    return STATES / f"{name}.log"


def save(state: dict) -> None:
    temporary = state_file(state["name"]).with_suffix(".new")
    temporary.write_text(json.dumps(state, indent=2))
    temporary.rename(state_file(state["name"]))


def read_state(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def states() -> Iterator[dict]:
    for path in sorted(STATES.glob("*.json")):
        state = read_state(path)
        if state is not None:
            yield state


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def alive(state: dict) -> bool:
    return state["boot"] == boot_id() and "pid" in state and namespaces.start_time(state["pid"]) == state["start"]


def sweep() -> None:
    """Clean up after roots whose first process is gone."""
    for name in [state["name"] for state in states()]:
        with debian_root.locked(lock_file(name), wait=False) as held:  # else it is just starting
            state = read_state(state_file(name)) if held else None
            if state and not alive(state):
                end(state)


def end(state: dict) -> None:
    """Kill the root's first process, with which the kernel ends all others; remove the rest."""
    if alive(state):
        with contextlib.suppress(ProcessLookupError):
            os.kill(state["pid"], signal.SIGKILL)
        thaw(state["cgroups"])
        deadline = time.monotonic() + 20
        while alive(state) and time.monotonic() < deadline:
            time.sleep(0.01)
    if state["boot"] == boot_id():
        for directory in state["cgroups"]:
            remove_cgroup(Path(directory))
    for path in (state_file(state["name"]), log_file(state["name"]), lock_file(state["name"])):
        path.unlink(missing_ok=True)


def outside_pid(first: int, inside: int) -> int:
    """The machine's number of the process that is `inside` in the pid namespace of `first`."""
    if inside == 1:
        return first
    for child in Path(f"/proc/{first}/task/{first}/children").read_text().split():
        status = Path(f"/proc/{child}/status").read_text()
        numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
        if numbers[2] == str(inside):
            return int(child)
    raise SlurmRootError(f"process {inside} of the root is gone")


# cgroups


def cgroups_for(name: str) -> tuple[str, list[str]]:
    """How Slurm shall track processes here, and the directories for the root to be in.

    Slurm's proctrack/cgroup needs the freezer of cgroup version 1, or version 2 as a whole
    (cgroup.conf(5)); otherwise it is proctrack/pgid, which finds fewer processes.
    """
    mounts = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup" and "freezer" in options.split(","):
            mounts["v1"] = (place, "freezer")
        if kind == "cgroup2":
            mounts["v2"] = (place, "")
    directories = {kind: own_cgroup(*where) / f"slurm-oci-{name}" for kind, where in mounts.items()}
    kind = os.environ.get(CGROUP_VARIABLE) or next(iter(sorted(directories)), "none")
    if kind == "none" or kind not in directories:
        say(f"!!! no usable cgroups ({CGROUP_VARIABLE}={kind}): Slurm tracks processes by process group alone")
        kind = "none"
    return kind, [str(directory) for directory in directories.values()]


def own_cgroup(mount_point: str, controller: str) -> Path:
    """The directory of this process's own cgroup, or the hierarchy's top where that is not shown."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            place = Path(mount_point + path)
            return place if place.is_dir() else Path(mount_point)
    return Path(mount_point)


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


# Images


def image_layer(suite: str, base: Path) -> Path:
    """A directory with nothing but images/, made once in a root of this suite and then kept."""
    recipe = (HERE / "images.py").read_bytes()
    place = base / f"images-{hashlib.sha256(recipe).hexdigest()[:12]}"
    if place.exists():
        return place
    with debian_root.locked(base / "images.lock"):
        if place.exists():
            return place
        partial = base / f"images.partial-{os.getpid()}"
        say(f"making the test images for {suite}")
        root = SlurmRoot._boot(suite, [str(base / "root")], 1, f"images-{suite}-{os.getpid()}", "", False, True)
        try:
            root.write("/opt/slurm-root/images.py", recipe)
            done = root.run(["python3", "-I", "/opt/slurm-root/images.py", "/images"], user="root", timeout=300)
            sys.stderr.write(done.stdout.decode(errors="replace"))
            if done.returncode:
                raise SlurmRootError(f"the test images could not be made:\n{done.stderr.decode(errors='replace')}")
            partial.mkdir()
            subprocess.run(["cp", "-a", str(root.path("/images")), str(partial / "images")], check=True)
            partial.rename(place)
        finally:
            root.stop()
            debian_root.remove(partial)
    return place


_BOOT = "import sys, json; sys.path.insert(0, sys.argv[1]); import boot; boot.main(json.loads(sys.argv[2]))"


# The command


def main() -> int:
    parser = argparse.ArgumentParser(prog="slurm_root.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str, *, named: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help)
        if named:
            sub.add_argument("suite", help="trixie or sid")
            sub.add_argument("--name", help="of the root, where several of a suite run (default: the suite)")
        return sub

    sub = command("build", "build a root file system, or see that it is there")
    sub.add_argument("--force", action="store_true", help="build it again")
    sub = command("up", "start Slurm and leave it running")
    sub.add_argument("--nodes", type=int, default=1, help="1 (default) to 3")
    sub = command("run", "run a command in a running Slurm, as alice in her home")
    sub.add_argument("--root", action="store_const", dest="user", const="root", default="alice", help="as root")
    sub.add_argument("--user", default=argparse.SUPPRESS, help="as that user (alice, bob, root)")
    sub.add_argument("--node", type=int, help="on that node")
    sub.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="command and arguments")
    sub = command("shell", "a shell in a running Slurm, as alice")
    sub.add_argument("--root", action="store_const", dest="user", const="root", default="alice", help="as root")
    sub.add_argument("--node", type=int, help="on that node")
    command("install", "install this checkout in a running Slurm")
    command("down", "end a running Slurm and remove all of it")
    command("status", "what is running, what is built", named=False)
    arguments = parser.parse_args()
    try:
        return globals()[f"do_{arguments.command}"](arguments)
    except (RootUnavailable, SlurmRootError, FileNotFoundError) as problem:
        say(f"error: {problem}")
        return 1


def do_build(arguments: argparse.Namespace) -> int:
    base = debian_root.ensure(arguments.suite, force=arguments.force)
    image_layer(arguments.suite, base)
    print(base)
    return 0


def do_up(arguments: argparse.Namespace) -> int:
    root = SlurmRoot.start(arguments.suite, arguments.nodes, name=arguments.name, tied=False)
    me = f"{os.path.basename(sys.executable)} {os.path.relpath(__file__)}"
    print(f"Slurm {root.slurm_version} on {root.nodes} node(s) is up. Submit as alice, and end it, with")
    print(f"  {me} run {root.name} -- srun -n2 hostname")
    print(f"  {me} down {root.name}")
    return 0


def do_run(arguments: argparse.Namespace) -> int:
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not words:
        say("error: no command; write it after `--`")
        return 2
    root = SlurmRoot.attach(arguments.name or arguments.suite)
    return foreground(root, words, user=arguments.user, node=arguments.node)


def do_shell(arguments: argparse.Namespace) -> int:
    root = SlurmRoot.attach(arguments.name or arguments.suite)
    return foreground(root, ["bash", "-l"], user=arguments.user, node=arguments.node)


def foreground(root: SlurmRoot, words: list[str], **options: object) -> int:
    """Run a command with the caller's own terminal or files; returns a shell's exit code for it."""
    if os.isatty(0) and os.isatty(1):
        code = root.terminal(words, env={"TERM": os.environ.get("TERM", "xterm")}, **options).interact()
    else:
        process = root.popen(words, **options)  # type: ignore[arg-type]
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command gets it too, and decides
        code = process.wait()
    return code if code >= 0 else 128 - code


def do_install(arguments: argparse.Namespace) -> int:
    SlurmRoot.attach(arguments.name or arguments.suite).install_project()
    return 0


def do_down(arguments: argparse.Namespace) -> int:
    name = arguments.name or arguments.suite
    state = read_state(state_file(name))
    if state is None:
        say(f"`{name}` is not running")
    else:
        end(state)
    sweep()
    return 0


def do_status(_: argparse.Namespace) -> int:
    sweep()
    for state in states():
        print(f"running: {state['name']} ({state['suite']}), {len(state.get('nodes', ()))} node(s), first process {state['pid']}")
    for suite in debian_root.SUITES:
        place = debian_root.location(suite)
        print(f"{'built' if place.exists() else 'not built'}: {suite} {place}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
