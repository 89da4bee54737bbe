"""What `slurm-oci-plugins doctor` looks into, a subject a module."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator

import attrs

from slurm_oci.container import MOUNTINFO, unescaped
from slurm_oci.rootfs import is_below

# File systems that many machines see.
NETWORK = (
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "ceph", "afs", "panfs", "wekafs"),
    *("glusterfs", "fuse.glusterfs", "fuse.sshfs"),
)
OK, WARNING, FAILED = "ok", "warning", "failed"
GRACE = 3.0  # seconds to end in, for one that is late
SECONDS = 60.0  # for one trial: a runtime that hangs must not hang the doctor


@attrs.frozen
class Finding:
    """What one check found on this node."""

    group: str  # kernel, user, slurm, installation, runtimes
    check: str  # a name that stays
    state: str  # ok, warning, failed
    message: str
    cure: str = ""
    same: str = ""  # what all nodes of a cluster should have alike; empty where they need not


@attrs.frozen
class Group:
    """Makes the findings of one group."""

    name: str

    def ok(self, check: str, message: str, same: str = "") -> Finding:
        return Finding(self.name, check, OK, message, "", same)

    def warning(self, check: str, message: str, cure: str, same: str = "") -> Finding:
        return Finding(self.name, check, WARNING, message, cure, same)

    def failed(self, check: str, message: str, cure: str, same: str = "") -> Finding:
        return Finding(self.name, check, FAILED, message, cure, same)


def tried(function: Callable[[], int], seconds: float = SECONDS) -> tuple[int, str]:
    """What `function` gives in a process of its own, as an exit status, and what that prints.

    An OSError in it is 1 and its text. The process and what it has started are ended after
    `seconds`; that is 124, as timeout(1) has it. A signal that ended it counts as in a shell.
    """
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            status = 125
            try:
                os.setpgid(0, 0)
                null = os.open(os.devnull, os.O_RDONLY)
                for target, descriptor in enumerate((null, said.fileno(), said.fileno())):
                    os.dup2(descriptor, target)
                status = function()
            except OSError as error:
                os.write(2, f"{error.filename or 'kernel'}: {error.strerror}\n".encode())
                status = 1
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="replace"))
            finally:
                os._exit(status)
        ended = status_of(child, time.monotonic() + seconds)
        said.seek(0)
        return ended, said.read().decode(errors="replace")


def status_of(child: int, end: float) -> int:
    """The exit status of `child`, which is asked to end when it is late, and then made to."""
    late = False
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            if late:  # what it has started may have outlived it
                kill_group(child, signal.SIGKILL)
                return 124
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
        if time.monotonic() > end:
            kill_group(child, signal.SIGKILL if late else signal.SIGTERM)
            late, end = True, end + GRACE
        time.sleep(0.01)


def kill_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def command_status(*argv: str) -> int:
    """For `tried`: becomes the program. Its environment is this process's."""
    os.execvp(argv[0], argv)


def last_line(said: str) -> str:
    """Of what a program printed, the line that most likely says why it failed, without its colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("slurm-oci: error: ")]
    return (ours or lines or ["it printed nothing"])[-1].removeprefix("slurm-oci: error: ")


def sysctl(name: str) -> str:
    """The kernel's setting; empty where this kernel has none by the name."""
    try:
        with open("/proc/sys/" + name.replace(".", "/"), encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def file_system(path: str) -> str:
    """The type of the file system that `path` is on, or its nearest parent that is there (proc(5),
    mountinfo); empty where that cannot be told."""
    while not os.path.lexists(path) and path != "/":
        path = os.path.dirname(path)
    path = os.path.realpath(path)
    best = ("", "")
    # The kernel leaves carriage returns in a name, and the blanks of other languages.
    with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            top = unescaped(fields.split(" ")[4])
            if is_below(path, top) and len(top) >= len(best[0]):
                best = (top, rest.split(" ")[0])
    return best[1]


def programs(*names: str) -> Iterator[str]:
    """Where each program is, in the places in which tasks look; empty where it is not."""
    from slurm_oci.choose import find_executable
    from slurm_oci.job import STANDARD_PATH

    for name in names:
        yield find_executable(name, {}, (os.environ.get("PATH", ""), STANDARD_PATH))
