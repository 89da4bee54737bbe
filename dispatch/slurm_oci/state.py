"""A task's private directory: the ledger of everything it creates.

`ROOT/NODE.BOOT.JOB.STEP.TASK.PID-START`, where ROOT is the user's own (0700) on this node. What is
in it is left over once the process PID that started at START (proc(5), field 22) is gone or the
node has another boot id. Nothing else is ever removed.
"""

import os
import stat

from slurm_oci.problems import StateUnavailable
from slurm_oci.values import TYPE_CHECKING, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = "/run/slurm-oci"  # made by `install` with mode 1777, as tmpfiles.d does at each boot
SHARED = ("/tmp", "/var/tmp", "/dev/shm")  # places of last resort, where names can be squatted


def roots(uid: int, base: str = BASE) -> "Iterator[str]":
    """The places where the user's state root may be, best first; not all of them exist."""
    yield os.path.join(base, str(uid))
    yield f"/run/user/{uid}/slurm-oci"


def root(uid: int, base: str = BASE) -> str:
    """The user's state root on this node, made if need be: his own and closed to others.

    Raises StateUnavailable.
    """
    tried = []
    for folder in roots(uid, base):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            tried.append(f"{folder}: {error.strerror}")
            continue
        if is_private(folder, uid):
            return folder
        tried.append(f"{folder}: not a directory of yours alone")
    for folder in SHARED:
        for found in fresh(folder, uid):
            return found
        try:
            return make_fresh(folder, uid)
        except OSError as error:
            tried.append(f"{folder}: {error.strerror}")
    raise StateUnavailable("there is no place for the task's private directory", *tried)


def fresh(folder: str, uid: int) -> "Iterator[str]":
    """The state roots that `make_fresh` made in `folder` for this user earlier."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in sorted(names):
        path = os.path.join(folder, name)
        if name.startswith(f"slurm-oci-{uid}.") and is_private(path, uid):
            yield path


def make_fresh(folder: str, uid: int) -> str:
    """A new state root in a directory that all may write, under a name nobody can take first."""
    path = os.path.join(folder, f"slurm-oci-{uid}.{os.urandom(8).hex()}")
    os.mkdir(path, 0o700)
    return path


def is_private(folder: str, uid: int) -> bool:
    """Whether `folder` is a real directory that belongs to `uid` and is closed to all others."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077


def name(request: Request, pid: int) -> str:
    step = f"{request.job}.{request.step}.{request.task}"
    return f"{request.node.replace('/', '_')}.{boot_id()}.{step}.{pid}-{start_time(pid)}"


def propose(request: Request, base: str = BASE) -> str:
    """Where the private directory of this process would be; nothing is made."""
    uid = request.uid
    known = [folder for folder in roots(uid, base) if os.path.isdir(os.path.dirname(folder))]
    return os.path.join(known[0] if known else f"/tmp/slurm-oci-{uid}.RANDOM", name(request, os.getpid()))


def place(request: Request, base: str = BASE) -> str:
    """Where the private directory of this process is to be made: in the user's state root, which
    is there afterwards. Raises StateUnavailable."""
    return os.path.join(root(request.uid, base), name(request, os.getpid()))


def make(path: str, node: str) -> None:
    """Makes the private directory, 0700, and removes what dead tasks of this node left beside it.

    Raises StateUnavailable.
    """
    remove_left_over(os.path.dirname(path), node)
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        raise StateUnavailable(f"cannot make `{path}`: {error.strerror}") from None


def left_over(folder: str, node: str) -> "Iterator[str]":
    """The private directories in the state root `folder` whose task on this node is gone."""
    here = node.replace("/", "_") + "."
    for entry in os.listdir(folder):
        if not entry.startswith(here):
            continue
        parts = entry[len(here) :].split(".")
        if len(parts) == 5 and not is_alive(parts[0], parts[4]):
            yield os.path.join(folder, entry)


def is_alive(boot: str, process: str) -> bool:
    pid, _, start = process.partition("-")
    return boot == boot_id() and pid.isdecimal() and start_time(int(pid)) == start


def remove_left_over(folder: str, node: str) -> list[str]:
    """Removes what dead tasks of this node left in the state root `folder`; what was removed."""
    removed = []
    for path in left_over(folder, node):
        remove(path)
        removed.append(path)
    return removed


def remove(path: str) -> None:
    """Removes the private directory `path` with all that is in it; links are not followed, what
    is gone already or cannot be removed is passed over."""
    try:
        parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        remove_entry(parent, os.path.basename(path))
    finally:
        os.close(parent)


def remove_entry(parent: int, entry: str) -> None:
    try:
        os.unlink(entry, dir_fd=parent)
        return
    except IsADirectoryError:
        pass
    except OSError:
        return
    try:
        folder = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except PermissionError:  # an image's own directory may be closed even to its owner
        try:
            os.chmod(entry, 0o700, dir_fd=parent)
            folder = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        except OSError:
            return
    except OSError:
        return
    try:
        if os.fstat(folder).st_mode & 0o700 != 0o700:
            os.fchmod(folder, 0o700)
        for name in os.listdir(folder):
            remove_entry(folder, name)
    except OSError:
        pass
    finally:
        os.close(folder)
    try:
        os.rmdir(entry, dir_fd=parent)
    except OSError:
        pass


def boot_id() -> str:
    """This boot of this node, random(4)."""
    with open("/proc/sys/kernel/random/boot_id", "rb", 0) as file:
        return file.read().decode().strip().replace("-", "")


def start_time(pid: int) -> str:
    """When the process started, in clock ticks since boot (proc(5), stat, field 22); empty if gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", 0) as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""
