"""Linux namespaces from Python 3.11: the few system calls that `os` lacks.

Making namespaces, mounting in them, and starting a command inside somebody else's.
Names and numbers are those of unshare(2), mount(2), pivot_root(2) and prctl(2).
"""

import ctypes
import fcntl
import os
import platform
import resource
import signal
import termios
from pathlib import Path
from typing import NoReturn

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
NODE = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET  # a machine's own

MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SHARED = 1 << 20

MNT_DETACH = 2
PR_SET_PDEATHSIG = 1

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags`; a new pid namespace counts for children only."""
    _call("unshare", ctypes.c_int(flags))


def setns(descriptor: int) -> None:
    """Enter the namespace that `descriptor`, an open /proc/PID/ns/* file, stands for."""
    _call("setns", ctypes.c_int(descriptor), ctypes.c_int(0))


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    """mount(2); raises OSError that names the target."""
    _call(
        "mount",
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
        about=f"mount {kind or 'bind'} on {target}",
    )


def bind(source: str, target: str) -> None:
    """Show `source`, with all that is mounted below it, at `target` too."""
    mount(source, target, flags=MS_BIND | MS_REC)


def unmount(target: str) -> None:
    """Detach `target` at once; what still uses it keeps it alive."""
    _call("umount2", os.fsencode(target), ctypes.c_int(MNT_DETACH), about=f"unmount {target}")


def pivot_root(new_root: str) -> None:
    """Make the mount point `new_root` this mount namespace's `/` and let go of the old one.

    A chroot would not do: a chrooted process may not make user namespaces
    (user_namespaces(7)), and every rootless container runtime needs one.
    """
    os.chdir(new_root)
    number = _PIVOT_ROOT[platform.machine()]
    # pivot_root(2), NOTES: with both arguments "." the old root ends up stacked over the
    # new one, and detaching "." removes it; no directory has to exist for it.
    _call("syscall", ctypes.c_long(number), b".", b".", about="pivot_root")
    unmount(".")
    os.chdir("/")


def set_hostname(name: str) -> None:
    """sethostname(2) in this UTS namespace."""
    _call("sethostname", name.encode(), ctypes.c_size_t(len(name)))


def start_time(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot; None if it is gone or a zombie.

    Together with the pid it names a process for good (proc(5), field 22 of stat).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in b"ZX" else int(fields[19])


class Entrance:
    """A way for `subprocess` to start a program as some user beside process `pid`, in its namespaces.

    `enter` is the `preexec_fn`; the `with` block around the start closes what that needs. The
    process that `subprocess` knows stays outside, since none can move into a pid namespace, only
    have children there. It stands for the child: signals sent to it are passed on, the child's
    exit status or deadly signal becomes its own, and should it be killed, the child dies too. The
    child is in a session of its own, with the terminal `tty` if one is given, and in the cgroups
    whose directories are named.
    """

    def __init__(
        self,
        pid: int,
        *,
        cgroups: list[Path],
        uid: int,
        gid: int,
        groups: list[int],
        cwd: bytes,
        tty: int | None = None,
    ) -> None:
        # Opened here, in the parent, so that a root that is gone is an error in the parent.
        kinds = ("cgroup", "ipc", "uts", "net", "pid", "mnt")
        self._namespaces = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
        self._cgroups = [os.open(cgroup / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for cgroup in cgroups]
        self._uid, self._gid, self._groups = uid, gid, groups
        self._cwd, self._tty = cwd, tty

    def __enter__(self) -> "Entrance":
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in (*self._namespaces, *self._cgroups):
            os.close(descriptor)

    def enter(self) -> None:
        """Fork; go on as the child, in the namespaces and as the user."""
        for descriptor in self._cgroups:
            os.write(descriptor, b"0")
        for descriptor in self._namespaces:
            setns(descriptor)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        child = os.fork()
        if child:
            _stand_for(child)
        os.setsid()
        if self._tty is not None:
            fcntl.ioctl(self._tty, termios.TIOCSCTTY, 0)
        os.setgroups(self._groups)
        os.setresgid(self._gid, self._gid, self._gid)
        os.setresuid(self._uid, self._uid, self._uid)
        # After the change of user, which clears it (prctl(2), PR_SET_PDEATHSIG).
        _call("prctl", ctypes.c_int(PR_SET_PDEATHSIG), ctypes.c_ulong(signal.SIGKILL))
        os.chdir(self._cwd)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _stand_for(child: int) -> NoReturn:
    """Be `child` for whoever watches this process; never returns."""
    # Every descriptor: `subprocess` waits for the end of its error pipe, and a reader of the
    # command's output must not wait for us.
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    while True:
        number = signal.sigwait(signal.valid_signals())
        if number != signal.SIGCHLD:
            os.kill(child, number)
            continue
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.kill(os.getpid(), -code)
    os._exit(code)


def _call(name: str, *arguments: object, about: str = "") -> None:
    if getattr(_libc, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), about or name)
