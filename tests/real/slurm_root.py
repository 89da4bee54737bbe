#!/usr/bin/env python3
"""A real Slurm in a Debian root file system of its own, for the tests and for trying things.

    python3 tests/real/slurm_root.py up trixie            # Slurm 24.11; sid has 26.05
    python3 tests/real/slurm_root.py install trixie       # this checkout, at /opt/slurm-oci in there
    python3 tests/real/slurm_root.py run trixie -- srun -n2 hostname
    python3 tests/real/slurm_root.py shell trixie
    python3 tests/real/slurm_root.py down trixie

Needs root, mmdebstrap (installed when missing) and a Debian archive in this machine's apt
configuration. The file system is built once and kept; each start puts a layer in memory on
top of it and forgets that at the end. All of Slurm lives in namespaces of its own: the machine
sees nothing of it, and when the first process in there ends, nothing is left.

In tests:

    with SlurmRoot.start("trixie") as root:
        done = root.run(["srun", "-n2", "hostname"])  # as alice, in /home/alice
        assert done.stdout == b"node1\\nnode1\\n"
"""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import checkout
import debian_root
import machine
import namespaces
from debian_root import RootUnavailable, say
from terminal import Command, Terminal, open_terminal

HERE = Path(__file__).resolve().parent
USER_PATH = "/usr/local/bin:/usr/bin:/bin"
ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_SECONDS = 120  # what a start may take on a very busy machine
CGROUP_VARIABLE = "SLURM_ROOT_CGROUP"  # v1, v2 or none, instead of what suits this machine

Word = str | bytes | os.PathLike
Environment = Mapping[str, str | bytes | None]


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
        layers: Iterable[Path] = (),
        tied: bool = True,
    ) -> "SlurmRoot":
        """Start Slurm in a fresh copy of `suite` ("trixie" or "sid") and wait until it is idle.

        nodes: 1 to 3; with one, users' commands run on `node1` itself, with more on `head`.
        name: what the root is called, `suite` by default; roots of different names coexist.
        slurm_conf: lines to add to slurm.conf, the last word where one is there already.
        layers: directories to lay over the file system, each with what shall be there on top.
        tied: the root ends with this process, however that ends; else it stays until `down`.

        Raises RootUnavailable if the file system cannot be had, SlurmRootError otherwise.
        """
        if not 1 <= nodes <= 3:
            raise SlurmRootError(f"{nodes} nodes; 1 to 3 are possible")
        base = debian_root.ensure(suite)
        request = {
            "layers": [*map(str, layers), str(image_layer(suite, base)), str(base / "root")],
            "nodes": nodes,
            "slurm": True,
            "slurm_conf": slurm_conf,
            "cgroup": os.environ.get(CGROUP_VARIABLE) or best_cgroup(),
        }
        name = name or suite
        if request["cgroup"] == "v2":
            try:
                return cls._boot(suite, name, request, tied)
            except SlurmRootError as problem:
                say(f"!!! Slurm does not start with cgroup v2: {str(problem).splitlines()[0]}")
                request["cgroup"] = "none"
        if request["cgroup"] == "none":
            say("!!! Slurm tracks processes by process group alone here, and misses some")
        return cls._boot(suite, name, request, tied)

    @classmethod
    def _boot(cls, suite: str, name: str, request: dict, tied: bool) -> "SlurmRoot":
        if os.geteuid():
            raise SlurmRootError("a Slurm of its own needs root: use sudo")
        cgroups = [str(place / f"slurm-oci-{name}") for place in machine.own_cgroups().values()]
        try:
            state = machine.claim(name, suite=suite, layers=request["layers"], cgroups=cgroups)
        except machine.AlreadyRunning:
            raise SlurmRootError(
                f"`{name}` is running already; end it with `slurm_root.py down`, or take another name"
            ) from None
        for directory in cgroups:
            os.makedirs(directory, exist_ok=True)
        lifeline, hold = os.pipe() if tied else (None, None)
        report, ready = os.pipe()
        request = {**request, "cgroups": cgroups, "lifeline": lifeline, "ready": ready}
        with machine.log_file(name).open("wb") as log:
            boot = subprocess.run(
                [sys.executable, "-I", HERE / "boot.py", json.dumps(request)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                pass_fds=[descriptor for descriptor in (lifeline, ready) if descriptor is not None],
            )
        os.close(ready)
        if lifeline is not None:
            os.close(lifeline)
        if boot.stdout.strip():
            state["pid"] = int(boot.stdout)
            state["start"] = namespaces.start_time(state["pid"])
            machine.save(state)
        self = cls(state, hold)
        with open(report) as file:
            told = select.select([file], [], [], START_SECONDS)[0]
            answer = json.loads((told and file.readline()) or '{"error": "its first process ended or hangs"}')
        if "error" in answer:
            message = f"`{name}` did not start: {answer['error']}\n{self._all_logs()}"
            self.stop()
            raise SlurmRootError(message)
        state["nodes"] = [outside_pid(state["pid"], inside) for inside in answer["nodes"]]
        machine.save(state)
        return self

    @classmethod
    def attach(cls, name: str) -> "SlurmRoot":
        """The root called `name` that is running already; SlurmRootError if there is none."""
        state = machine.find(name)
        if state is None or "nodes" not in state or not machine.alive(state):
            raise SlurmRootError(f"no root called `{name}` is running; `slurm_root.py up {name}` starts one")
        return cls(state)

    def stop(self) -> None:
        """End everything in the root and remove every trace of it on the machine."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        machine.end(self._state)

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
        env: Environment | None = None,
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
        it is killed and subprocess.TimeoutExpired raised; a job that it started goes on.
        """
        data = input.encode() if isinstance(input, str) else input
        with self.popen(
            argv,
            user=user,
            env=env,
            cwd=cwd,
            node=node,
            stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
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
        env: Environment | None = None,
        cwd: str | None = None,
        node: int | None = None,
        tty: int | None = None,
        **options: object,
    ) -> Command:
        """Start a command in the root; `options` are subprocess.Popen's (stdin, stdout, stderr)."""
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
        entrance = namespaces.Entrance(
            self._pid(node),
            cgroups=self._cgroups(node),
            uid=entry["uid"],
            gid=entry["gid"],
            groups=entry["groups"],
            cwd=os.fsencode(cwd or home),
            tty=tty,
        )
        with entrance:
            return Command(
                [os.fsencode(word) for word in argv],
                env={
                    os.fsencode(key): os.fsencode(value) for key, value in values.items() if value is not None
                },
                preexec_fn=entrance.enter,
                umask=0o022,
                **options,  # type: ignore[call-overload]
            )

    def terminal(
        self,
        argv: Iterable[Word],
        *,
        user: str = "alice",
        env: Environment | None = None,
        cwd: str | None = None,
        node: int | None = None,
    ) -> Terminal:
        """Start a command at a terminal of the root's own, of 24 rows and 80 columns."""
        master, slave = open_terminal(self.path("/dev/pts", node=node), self._user(user)["uid"])
        environment = {"TERM": "xterm", **(env or {})}
        try:
            process = self.popen(
                argv,
                user=user,
                env=environment,
                cwd=cwd,
                node=node,
                tty=slave,
                stdin=slave,
                stdout=slave,
                stderr=slave,
            )
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        terminal = Terminal(process, master)
        terminal.resize(24, 80)
        return terminal

    def cancel_jobs(self) -> None:
        """Cancel every job and wait until all is idle again."""
        self.run(["sh", "-c", "squeue --noheader --format=%A | xargs --no-run-if-empty scancel"], user="root")
        self.wait_idle()

    def wait_idle(self, timeout: float = 30) -> None:
        """Wait until no job is left and every node is idle; SlurmRootError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            jobs = self.run(["squeue", "--noheader"], user="root").stdout.decode()
            nodes = self.run(["sinfo", "--noheader", "--Node", "--format=%N %T"], user="root").stdout.decode()
            busy = [*jobs.splitlines(), *(line for line in nodes.splitlines() if not line.endswith(" idle"))]
            if not busy:
                return
            if time.monotonic() > deadline:
                raise SlurmRootError(f"not idle after {timeout:.0f} s:\n" + "\n".join(busy))
            time.sleep(0.05)

    # Files

    def path(self, inside: str, *, node: int | None = None) -> Path:
        """Where the file that the root calls `inside` (absolute) can be reached from outside.

        Symbolic links are resolved as in the root; what does not exist may follow.
        """
        top = f"/proc/{self._pid(node)}/root"
        todo, done = inside.split("/"), ""
        links = 0
        while todo:
            part = todo.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            if not os.path.islink(f"{top}{done}/{part}"):
                done += f"/{part}"
                continue
            links += 1
            if links > 40:  # path_resolution(7)
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), inside)
            target = os.readlink(f"{top}{done}/{part}")
            done = "" if target.startswith("/") else done
            todo[:0] = target.split("/")
        return Path(top + done)

    def write(
        self,
        inside: str,
        content: str | bytes,
        *,
        user: str = "root",
        mode: int = 0o644,
        node: int | None = None,
    ) -> None:
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

    def install_project(self) -> None:
        """Install this checkout at /opt/slurm-oci, by its own `install`, with its oci.conf in force.

        Doing so again replaces what is installed. Raises checkout.InstallFailed.
        """
        checkout.install(self)

    def log(self, daemon: str, node: int = 1) -> str:
        """The log of `slurmd` (of that node), `slurmctld` or `munged`, as it is now."""
        name = f"slurmd-node{node}" if daemon == "slurmd" else daemon
        directory = self.path("/var/log/slurm")
        # What a daemon prints is the same again, or all there is if it failed early.
        found = [file for file in (directory / f"{name}.log", directory / f"{name}.out") if file.exists()]
        if not found:
            raise SlurmRootError(
                f"no log of `{daemon}`; there are {', '.join(sorted(os.listdir(directory)))}"
            )
        return found[0].read_text(errors="replace")

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
        """What the file system holds: `slurm` (version), `packages`, `left out` (name: reason)."""
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
            what = f"`{self.name}`" if node is None else f"node {node} of `{self.name}`"
            raise SlurmRootError(f"{what} is not running any more")
        return pid

    def _cgroups(self, node: int | None) -> list[Path]:
        """Where a command on `node` belongs; `init.py` has made these."""
        places = [Path(place) for place in self._state["cgroups"]]
        for below in (f"node{node}", "daemons"):
            places = [place / below if (place / below).exists() else place for place in places]
        return places

    def _user(self, name: str) -> dict:
        groups = [line.split(":") for line in self.path("/etc/group").read_text().splitlines()]
        for line in self.path("/etc/passwd").read_text().splitlines():
            login, _, uid, gid, _, home, shell = line.split(":")
            if login == name:
                more = [int(group[2]) for group in groups if name in group[3].split(",")]
                return {
                    "uid": int(uid),
                    "gid": int(gid),
                    "groups": [int(gid), *more],
                    "home": home,
                    "shell": shell,
                }
        raise SlurmRootError(f"the root has no user `{name}`")

    def _all_logs(self) -> str:
        """The ends of all logs there are, the latest last, for a start that failed."""
        files = [machine.log_file(self.name)]
        with contextlib.suppress(SlurmRootError, OSError, KeyError):
            files += sorted(self.path("/var/log/slurm").iterdir(), key=lambda file: file.stat().st_mtime)
        texts = {file.name: file.read_text(errors="replace").strip() for file in files if file.exists()}
        return "\n".join(f"--- {name}\n{text[-1500:]}" for name, text in texts.items() if text)


def best_cgroup() -> str:
    """How Slurm shall track processes here: "v1", "v2" or, for want of both, "none".

    proctrack/cgroup takes the freezer of cgroup version 1, or version 2 where nothing of
    version 1 is mounted (Slurm refuses "hybrid mode"); without, it is proctrack/pgid.
    """
    return next(iter(sorted(machine.own_cgroups())), "none")


def image_layer(suite: str, base: Path) -> Path:
    """A directory with nothing but images/, made once in a root of this suite and then kept."""
    recipe = (HERE / "images.py").read_bytes()
    place = base / f"images-{hashlib.sha256(recipe).hexdigest()[:12]}"
    if place.exists():
        return place
    with debian_root.locked(base / "images.lock"):
        if place.exists():
            return place
        say(f"making the test images for {suite}")
        partial = base / f"images.partial-{os.getpid()}"
        request = {
            "layers": [str(base / "root")],
            "nodes": 1,
            "slurm": False,
            "slurm_conf": "",
            "cgroup": "none",
        }
        try:
            with SlurmRoot._boot(suite, f"images-{suite}-{os.getpid()}", request, tied=True) as root:
                root.write("/opt/slurm-root/images.py", recipe)
                command = ["python3", "-I", "/opt/slurm-root/images.py", "/images"]
                done = root.run(command, user="root", timeout=300)
                if done.returncode:
                    raise SlurmRootError(f"no test images: {done.stderr.decode(errors='replace')}")
                partial.mkdir()
                subprocess.run(["cp", "-a", root.path("/images"), partial / "images"], check=True)
            for kind, reason in json.loads(done.stdout).items():
                say(f"!!! {suite}: image LEFT OUT {kind}: {reason}")
            partial.rename(place)
        finally:
            debian_root.remove(partial)
    return place


def outside_pid(first: int, inside: int) -> int:
    """The machine's number of the process that is `inside` in the pid namespace of `first`."""
    for candidate in (first, *Path(f"/proc/{first}/task/{first}/children").read_text().split()):
        status = Path(f"/proc/{candidate}/status").read_text()
        numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
        if numbers[-1] == str(inside):
            return int(candidate)
    raise SlurmRootError(f"process {inside} of the root is gone")


# The command


def main() -> int:
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    arguments = parser().parse_args(words[:split])
    arguments.words = words[split + 1 :]
    if os.geteuid():
        say(f"error: a Slurm of its own needs root: sudo python3 {' '.join(sys.argv)}")
        return 1
    try:
        return arguments.do(arguments)
    except (RootUnavailable, SlurmRootError, checkout.InstallFailed) as problem:
        say(f"error: {problem}")
        return 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="slurm_root.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, do: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help)
        sub.set_defaults(do=do)
        sub.add_argument("suite", choices=debian_root.SUITES)
        return sub

    def named(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub.add_argument("--name", help="of the root, where several of a suite run (default: the suite)")
        return sub

    def as_user(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        who = sub.add_mutually_exclusive_group()
        who.add_argument(
            "--root", action="store_const", dest="user", const="root", default="alice", help="as root"
        )
        who.add_argument("--user", default="alice", help="alice (default), bob or root")
        sub.add_argument("--node", type=int, help="1 to 3: on that node, where the root has several")
        return sub

    sub = command("build", do_build, "build a root file system, or see that it is there")
    sub.add_argument("--force", action="store_true", help="build it again")
    sub = named(command("up", do_up, "start Slurm and leave it running"))
    sub.add_argument("--nodes", type=int, default=1, help="1 (default) to 3")
    sub = as_user(named(command("run", do_run, "run a command in a running Slurm, as alice in her home")))
    sub.usage = (
        "slurm_root.py run [--name NAME] [--root | --user USER] [--node N] SUITE -- COMMAND [ARGUMENT...]"
    )
    as_user(named(command("shell", do_shell, "a shell in a running Slurm, as alice")))
    named(command("install", do_install, "install this checkout in a running Slurm, or install it anew"))
    named(command("down", do_down, "end a running Slurm and remove all of it"))
    sub = commands.add_parser("status", help="what is running, what is built")
    sub.set_defaults(do=do_status)
    return top


def do_build(arguments: argparse.Namespace) -> int:
    base = debian_root.ensure(arguments.suite, force=arguments.force)
    image_layer(arguments.suite, base)
    print(base)
    return 0


def do_up(arguments: argparse.Namespace) -> int:
    root = SlurmRoot.start(arguments.suite, arguments.nodes, name=arguments.name, tied=False)
    me = f"python3 {os.path.relpath(__file__)}"
    name = f" --name {root.name}" if arguments.name else ""
    print(f"Slurm {root.slurm_version} on {root.nodes} node(s) is up. Submit as alice, and end it, with")
    print(f"  {me} run {root.suite}{name} -- srun -n2 hostname")
    print(f"  {me} down {root.suite}{name}")
    return 0


def do_run(arguments: argparse.Namespace) -> int:
    if not arguments.words:
        say("error: no command; it comes after `--`")
        return 2
    return foreground(attached(arguments), arguments.words, user=arguments.user, node=arguments.node)


def do_shell(arguments: argparse.Namespace) -> int:
    return foreground(attached(arguments), ["bash", "-l"], user=arguments.user, node=arguments.node)


def do_install(arguments: argparse.Namespace) -> int:
    attached(arguments).install_project()
    return 0


def do_down(arguments: argparse.Namespace) -> int:
    name = arguments.name or arguments.suite
    state = machine.find(name)
    if state is None:
        say(f"`{name}` is not running")
    else:
        machine.end(state)
    return 0


def do_status(_: argparse.Namespace) -> int:
    for state in machine.running():
        nodes = f"{len(state['nodes'])} node(s)" if "nodes" in state else "starting"
        print(f"running: {state['name']}, Debian {state['suite']}, {nodes}")
    for suite in debian_root.SUITES:
        place = debian_root.location(suite)
        print(f"{'built' if place.exists() else 'not built'}: {suite}, {place}")
    return 0


def attached(arguments: argparse.Namespace) -> SlurmRoot:
    return SlurmRoot.attach(arguments.name or arguments.suite)


def foreground(root: SlurmRoot, words: list[str], *, user: str, node: int | None) -> int:
    """Run a command with the caller's own terminal or files; returns the exit code as a shell has it."""
    try:
        if os.isatty(0) and os.isatty(1):
            environment = {"TERM": os.environ.get("TERM", "xterm")}
            code = root.terminal(words, user=user, node=node, env=environment).interact()
        else:
            process = root.popen(words, user=user, node=node)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command gets it too, and decides
            code = process.wait()
    except FileNotFoundError as problem:
        say(f"error: {problem}")
        return 127
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
