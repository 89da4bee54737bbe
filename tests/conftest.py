"""What the tests share: an installation, programs that record how they were called, images, and
the entry point called as slurmstepd calls it.

Nothing here touches the machine: a task runs in a mount namespace of its own in which
`/etc/passwd` says that its home is a directory of the test's.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from slurm_oci import state
from slurm_oci.values import Container, Image, Job, Request, Settings

# A shell's background job has these ignored, and every program that it starts inherits that.
for number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("here"), max_examples=400, database=None)  # fuzz.py
settings.load_profile("here")

ROOT = Path(__file__).parent.parent
OWN_UID = os.geteuid()
ORDINARY = OWN_UID or 54321  # whose tasks are tried: root can be anybody
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Texts as a kernel passes them: any bytes but NUL, not necessarily UTF-8.
WORDS = st.binary(max_size=12).map(lambda text: os.fsdecode(text.replace(b"\0", b"")))
# The same, with the signs that shells, lists and terminals take for something else.
ODD_WORDS = WORDS | st.text(" '\"\\$`;,:=\n\t#%@*-aé\udcff", max_size=12)


# Places


@pytest.fixture(scope="session")
def open_folder():
    """A directory that everybody can enter, as those of pytest are not."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-oci-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def place(open_folder):
    """A directory of the test's own that everybody can enter."""
    folder = Path(tempfile.mkdtemp(dir=open_folder))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def folder_of(path: Path, uid: int) -> Path:
    path.mkdir(parents=True)
    os.chown(path, uid, uid if uid else -1)
    return path


# Installations


@pytest.fixture(scope="session")
def installed(open_folder):
    """PREFIX as `slurm-oci-plugins install` leaves it, done by a user who is not root."""
    prefix = folder_of(open_folder / "slurm-oci", ORDINARY)
    state = open_folder / "state"
    state.mkdir()
    state.chmod(0o1777)
    # One runtime that needs nothing, and a place for private directories: the node's own are not used.
    (prefix / "site.toml").write_text(f'state = "{state}"\n')
    command = [sys.executable, "-m", "slurm_oci.cli", "install", "--prefix", str(prefix)]
    done = subprocess.run(
        command, capture_output=True, text=True, user=ORDINARY, group=ORDINARY if not OWN_UID else None,
        extra_groups=[] if not OWN_UID else None, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return prefix


@pytest.fixture
def prefix(installed, place):
    """An installation of the test's own, to write site.toml and plugins.d in."""
    own = place / "slurm-oci"
    own.mkdir()
    for path in installed.iterdir():
        if path.name == "lib":
            (own / "lib").symlink_to(path.readlink())
        elif path.name.startswith("lib-"):
            shutil.copytree(path, own / path.name, copy_function=os.link)
        elif path.is_dir():
            shutil.copytree(path, own / path.name)
        else:
            shutil.copy2(path, own)
    for path in (own / "slurm-oci-run-default", own / "oci.conf"):
        path.write_text(path.read_text().replace(str(installed), str(own)))
    return own


# Programs that record how they were called


@attrs.frozen
class Call:
    """How a stand-in was called once."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    descriptors: list[str]
    status: dict[str, str]  # proc(5), /proc/PID/status


@attrs.frozen
class StandIn:
    """A program that records each call, and then does what its last lines say."""

    path: Path
    record: Path

    @property
    def calls(self) -> list[Call]:
        return [self.call(folder) for folder in sorted(self.record.iterdir(), key=lambda f: int(f.name))]

    @property
    def words(self) -> list[list[str]]:
        """Of each call the words after the program's own name."""
        return [call.argv[1:] for call in self.calls]

    def call(self, folder: Path) -> Call:
        def texts(name: str) -> list[str]:
            return [os.fsdecode(text) for text in (folder / name).read_bytes().split(b"\0")[:-1]]

        status = (line.partition(":\t") for line in (folder / "status").read_text().splitlines())
        return Call(
            argv=texts("argv")[1:],  # the first one is the shell's
            env=dict(text.partition("=")[::2] for text in texts("environ")),
            cwd=os.fsdecode((folder / "cwd").read_bytes()[:-1]),
            descriptors=(folder / "descriptors").read_text().split(),
            status={name: value for name, _, value in status},
        )


# The shell itself reads its status: while it starts another program it may have signals blocked.
STAND_IN = """#!/bin/sh
case $1 in --version | --help | help) echo "stand-in 1.0 $1"; exit 0;; esac
n=1
while ! /bin/mkdir RECORD/$n 2>/dev/null; do n=$((n + 1)); done
/bin/cat /proc/$$/cmdline >RECORD/$n/argv
/bin/cat /proc/$$/environ >RECORD/$n/environ
while read -r line; do echo "$line"; done </proc/$$/status >RECORD/$n/status
/bin/readlink /proc/$$/cwd >RECORD/$n/cwd
/bin/ls /proc/$$/fd >RECORD/$n/descriptors
BODY
"""


def make_stand_in(path: Path, body: str = "exit 0", answers: str = "") -> StandIn:
    """A recording program at `path` whose last lines, in sh, are `body`."""
    record = Path(f"{path}.record")
    record.mkdir()
    record.chmod(0o1777)
    text = STAND_IN.replace("RECORD", str(record)).replace("BODY", body)
    path.write_text(text.replace("stand-in 1.0 $1", answers or "stand-in 1.0"))
    path.chmod(0o755)
    return StandIn(path, record)


@pytest.fixture
def stand_in(place):
    """Makes a recording program called `name` in the directory `bin` of the test's place."""
    (place / "bin").mkdir()
    return lambda name, body="exit 0", answers="": make_stand_in(place / "bin" / name, body, answers)


# Images

BUSYBOX = shutil.which("busybox")


@pytest.fixture(scope="session")
def busybox_root(open_folder):
    """A small root file system with the commands of busybox, which nobody may write."""
    if not BUSYBOX:
        pytest.skip("busybox is not installed")
    root = open_folder / "busybox"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "srv/deep"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    listed = subprocess.run(["ldd", BUSYBOX], capture_output=True, text=True, check=False).stdout
    for library in [word for word in listed.split() if word.startswith("/")]:
        (root / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library.lstrip("/"))
    for name in subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True).stdout.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "etc/greeting").write_text("hello from the image\n")
    (root / "srv/deep/file").write_text("deep\n")
    return root


@pytest.fixture
def rootfs(busybox_root, place):
    """Makes a copy of the busybox image that belongs to `uid`, at `name` in the test's place."""

    def make(name: str = "image", uid: int = ORDINARY) -> Path:
        root = place / name
        shutil.copytree(busybox_root, root, symlinks=True)
        for parent, _, files in os.walk(root):
            for path in (parent, *(os.path.join(parent, file) for file in files)):
                os.chown(path, uid, uid if not OWN_UID else -1, follow_symlinks=False)
        return root

    return make


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of all that is in `folder`, to see that nothing has changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = os.fsencode(path.readlink()) if path.is_symlink() else b""
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else content
        found[str(path.relative_to(folder))] = (path.lstat().st_mode, content)
    return found


# The entry point, called as slurmstepd calls it

NEW_NAMESPACE, NEW_USER = 0x00020000, 0x10000000  # sched.h
BIND, SLAVE = 4096, (1 << 19) | 16384  # sys/mount.h


def at_home(passwd: Path, uid: int, gid: int) -> None:
    """Makes this process, which is about to exec, one of the user `uid` as `passwd` describes him."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NAMESPACE | (NEW_USER if OWN_UID else 0)):
        raise OSError(ctypes.get_errno(), "unshare")
    if OWN_UID:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            Path(f"/proc/self/{name}").write_text(text)
    libc.mount(b"", b"/", b"", ctypes.c_ulong(SLAVE), None)
    if libc.mount(bytes(passwd), b"/etc/passwd", b"", ctypes.c_ulong(BIND), None):
        raise OSError(ctypes.get_errno(), "mount")
    if not OWN_UID:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


@attrs.define
class Slurm:
    """One task's surroundings: the spool directory, the user's home, the node's programs."""

    place: Path
    prefix: Path
    uid: int = ORDINARY
    job: dict[str, str] = attrs.Factory(dict)  # the job's own variables, beside the usual ones
    environ: dict[str, str] = attrs.Factory(dict)  # slurmd's, beside PATH
    file: bytes | None = None  # the environment file, if not made from `job`

    @property
    def home(self) -> Path:
        return self.place / f"home-{self.uid}"

    @property
    def spool(self) -> Path:
        return self.place / "spool"

    @property
    def gid(self) -> int:
        return self.uid if not OWN_UID else os.getegid()

    def hook(self, text: str, mode: int = 0o700) -> Path:
        """Writes ~/.slurm-oci-run."""
        self.set_up()
        path = self.home / ".slurm-oci-run"
        path.write_text(text)
        path.chmod(mode)
        os.chown(path, self.uid, -1)
        return path

    def set_up(self) -> None:
        for folder in (self.home, self.spool / "task-0"):
            if not folder.exists():
                folder_of(folder, self.uid)

    def variables(self) -> dict[str, str]:
        """The job's environment as Slurm writes it."""
        fixed = {
            "HOME": str(self.home),
            "USER": "alice",
            "PATH": "/job/bin:/usr/bin:/bin",
            "SLURM_JOB_ID": "42",
        }
        return {**fixed, **self.job}

    def words(self, image: object, *command: str, step: int = 0) -> list[str]:
        return [str(image), str(self.spool), "alice", str(self.uid), "node1", "42", str(step), "0", *command]

    def start(
        self, *words: object, program: str = "run", cwd: Path | None = None, wrap=(), **options
    ) -> subprocess.Popen:
        """Starts `program` of the installation on `words`, by the command `wrap`, and does not wait."""
        self.write()
        path = f"{self.place}/bin:{STANDARD_PATH}"
        argv = [*wrap, str(self.prefix / program), *map(str, words)]
        return subprocess.Popen(
            [os.fsencode(word) for word in argv],
            env={"PATH": path, **self.environ},
            cwd=cwd or self.home,
            preexec_fn=self.at_home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            **options,
        )

    def compile(self) -> None:
        """Has the installation's catalog written anew, with the programs of the test's place."""
        command = [self.prefix / "bin" / "slurm-oci-plugins", "--prefix", self.prefix, "compile"]
        path = f"{self.place}/bin:{STANDARD_PATH}"
        done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def at_home(self) -> None:
        at_home(self.place / "passwd", self.uid, self.gid)

    def write(self) -> None:
        """Writes the job's environment file, as Slurm does before it starts the task."""
        self.set_up()
        (self.place / "passwd").write_text(
            f"root:x:0:0::/:/bin/sh\nalice:x:{self.uid}:{self.gid}::{self.home}:/bin/sh\n"
            if self.uid
            else f"root:x:0:0::{self.home}:/bin/sh\n"
        )
        pairs = (os.fsencode(f"{name}={value}") for name, value in self.variables().items())
        content = b"".join(pair + b"\0" for pair in pairs) if self.file is None else self.file
        (self.spool / "task-0" / "environment").write_bytes(content)

    def call(self, *words: object, **options) -> "Ended":
        """Calls the entry point on `words` and waits for its end."""
        process = self.start(*words, **options)
        out, err = process.communicate(timeout=60)
        return Ended(process.returncode, os.fsdecode(out), os.fsdecode(err))

    def run(self, image: object, *command: str, **options) -> "Ended":
        """Runs one task as the guide's line would, with the words in place."""
        return self.call(*self.words(image, *command), **options)


@attrs.frozen
class Ended:
    """How a program ended; a signal that killed it counts as in a shell."""

    returncode: int
    out: str
    err: str

    @property
    def status(self) -> int:
        return 128 - self.returncode if self.returncode < 0 else self.returncode

    @property
    def code(self) -> str:
        """The stable code at the end of the error line, if that is how an error is to be printed:
        one line that says what, then indented lines that say what to do."""
        first, *hints = self.err.splitlines()
        assert first.startswith("slurm-oci: error: "), self.err
        assert hints, self.err
        assert all(hint.startswith("  ") for hint in hints), self.err
        assert "Traceback" not in self.err
        return first.rpartition("[")[2].rstrip("]")


def dead() -> str:
    """The id of a process that has ended, and its start time, as in a private directory's name."""
    child = subprocess.Popen(["/bin/true"])
    start = state.start_time(child.pid)
    child.wait()
    return f"{child.pid}-{start}"


def alive() -> str:
    return f"{os.getpid()}-{state.start_time(os.getpid())}"


def last_resorts(uid: int) -> list[Path]:
    """The user's state roots in the machine's own /tmp, where a task could not make one elsewhere."""
    return list(Path("/tmp").glob(f"slurm-oci-{uid}.*"))


def abandoned(root: Path) -> list[Path]:
    """Private directories there whose task is gone: other tests may run at the same time."""
    alive = [
        path for path in root.iterdir() if state.is_alive(path.name.split(".")[1], path.name.split(".")[-1])
    ]
    return [path for path in root.iterdir() if path not in alive]


def remove_last_resorts(uid: int) -> None:
    for root in last_resorts(uid):
        with contextlib.suppress(OSError):  # another test uses it
            root.rmdir()


def namespaces_allowed() -> bool:
    script = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10020000))"
    return subprocess.run([sys.executable, "-c", script]).returncode == 0


NAMESPACES = namespaces_allowed()


@pytest.fixture
def fuse():
    """Lays a FUSE of a user's over a directory, `is_open` to all users or to him alone. Its program says that
    `owner` has it, and closed to all; else it takes all questions of the kernel's and answers none."""
    servers = []

    def make(place: Path, user: int, owner: int | None = None, is_open: bool = False) -> None:
        try:
            served = os.open("/dev/fuse", os.O_RDWR)
        except OSError as error:
            pytest.skip(f"no FUSE here: {error.strerror}")
        data = f"fd={served},rootmode=40000,user_id={user},group_id=65534"
        data += ",allow_other" if is_open else ""
        source = b"a\r,user_id=0"  # he may name it as he likes, to mislead who reads /proc/self/mountinfo
        if ctypes.CDLL(None, use_errno=True).mount(source, bytes(place), b"fuse", 6, data.encode()):
            pytest.skip(f"no mounting here: {os.strerror(ctypes.get_errno())}")
        answer_init(served)
        server = os.fork()
        if server == 0:
            serve(served, owner)
        os.close(served)
        servers.append((server, place))

    yield make
    for server, place in servers:
        os.kill(server, signal.SIGKILL)  # which lets go of all who wait
        os.waitpid(server, 0)
        subprocess.run(["umount", "--lazy", place], check=True)


def answer_init(served: int) -> None:
    number = struct.unpack_from("<Q", os.read(served, 1 << 16), 8)[0]  # linux/fuse.h
    reply(served, number, struct.pack("<6I", 7, 31, 0, 0, 0, 4096).ljust(64, b"\0"))


def serve(served: int, owner: int | None) -> NoReturn:
    while True:
        operation, number = struct.unpack_from("<IQ", os.read(served, 1 << 16), 4)
        if operation == 3 and owner is not None:  # FUSE_GETATTR
            numbers = (stat.S_IFDIR | 0o700, 2, owner, owner, 0, 4096, 0)
            reply(served, number, struct.pack("<2Q 6Q 3I 7I", 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, *numbers))
        elif operation == 1 and owner is not None:  # FUSE_LOOKUP
            reply(served, number, b"", errno.ENOENT)


def reply(served: int, number: int, content: bytes, error: int = 0) -> None:
    os.write(served, struct.pack("<IiQ", 16 + len(content), -error, number) + content)


@pytest.fixture
def slurm(place, prefix):
    """A task on a node of its own, of a user who is not root where the tests may choose."""
    if OWN_UID and not NAMESPACES:
        pytest.skip("the kernel refuses user namespaces")
    return Slurm(place, prefix)


# Values


def request(image: str = "/image", *command: str, **changes) -> Request:
    words = command or ("echo", "hello")
    return Request(image, "/spool", "alice", 1001, "node1", 42, 3, 5, words).replace(**changes)


def job(env: Mapping[str, str] | None = None, **changes) -> Job:
    found = {"HOME": "/home/alice", "PATH": "/job/bin"} if env is None else env
    return Job(found, "/spool/task-5/environment", "/", "alice", "/home/alice", "/bin/sh").replace(**changes)


def container(**changes) -> Container:
    """A container without mounts, for plans that are compared whole."""
    values = {
        "request": request(),
        "job": job(),
        "image": Image("/image", "rootfs", "/image", "/image"),
        "settings": Settings(),
        "command": ("echo", "hello"),
        "env": {"HOME": "/home/alice", "A": "1"},
        "mounts": (),
        "workdir": "/",
        "prefix": "/opt/slurm-oci",
        "places": (STANDARD_PATH,),
    }
    return Container(**{**values, **changes})
