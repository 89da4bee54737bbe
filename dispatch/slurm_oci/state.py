"""A task's private directory: the ledger of everything it creates.

`ROOT/NODE.BOOT.JOB.STEP.TASK.PID-START`, where ROOT is the user's own (0700) on this node. What is
in it is left over once the process PID that started at START (proc(5), field 22) is gone or the
node has another boot id, and nobody holds its lock. Nothing else is ever removed.
"""

import errno
import os
import stat

from slurm_oci import problems
from slurm_oci.job import STANDARD_PATH
from slurm_oci.values import TYPE_CHECKING, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = "/run/slurm-oci"  # made by `install` with mode 1777, as tmpfiles.d does at each boot
SHARED = ("/tmp", "/var/tmp", "/dev/shm")  # places of last resort, where names can be squatted
NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES)  # nothing that a task could hold
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # by this process or the node, whatever the place
DEEP = 100  # directories in each other that are gone into: each takes two descriptors
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def roots(uid: int, base: str) -> "Iterator[str]":
    """The places where the user's state root may be, best first; not all of them exist."""
    yield os.path.join(base, str(uid))
    yield f"/run/user/{uid}/slurm-oci"


class usual_umask:
    """In this block what is made gets the mode that it is made with, whatever umask the job has: by its
    own a directory could be closed to the user himself."""

    def __enter__(self) -> None:
        self.jobs = os.umask(0o022)

    def __exit__(self, *_: object) -> None:
        os.umask(self.jobs)


def existing(uid: int, base: str) -> "Iterator[str]":
    """The state roots that the user has on this node."""
    for folder in roots(uid, base):
        if is_private(folder, uid):
            yield folder
    for shared in SHARED:
        yield from fresh(shared, uid)


def root(uid: int, base: str) -> str:
    """The user's state root on this node, made if need be: his own and closed to others.

    Raises StateUnavailable.
    """
    with usual_umask():
        return root_made(uid, base)


def root_made(uid: int, base: str) -> str:
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
            open_up(folder)
            return folder
        tried.append(f"{folder}: not a directory of yours alone")
    for folder in SHARED:
        for found in fresh(folder, uid):
            open_up(found)
            return found
        try:
            return make_fresh(folder, uid)
        except OSError as error:
            tried.append(f"{folder}: {error.strerror}")
    raise problems.StateUnavailable("there is no place for the task's private directory", *tried)


def fresh(folder: str, uid: int) -> "Iterator[str]":
    """The state roots that `make_fresh` made in `folder` for this user earlier."""
    for name in sorted(listed(folder)):
        path = os.path.join(folder, name)
        if name.startswith(f"slurm-oci-{uid}.") and is_private(path, uid):
            yield path


def listed(folder: str) -> list[str]:
    """What is in the directory; nothing where it cannot be listed."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def make_fresh(folder: str, uid: int) -> str:
    """A new state root in a directory that all may write, under a name nobody can take first."""
    path = os.path.join(folder, f"slurm-oci-{uid}.{os.urandom(8).hex()}")
    os.mkdir(path, 0o700)
    return path


def is_private(folder: str, uid: int) -> bool:
    """Whether `folder` is a real directory that belongs to `uid` and is closed to all others. Raises OSError
    where that cannot be told, for another place would be no better."""
    try:
        found = status(folder, uid)
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        return False
    if found is None:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077


def status(path: str, uid: int) -> "os.stat_result | None":
    """What lstat(2) says of `path`; None where another user than `uid` and root has mounted a file system
    there. Raises OSError."""
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return os.fstat(place) if mounted_by(place, path) in (None, 0, uid) else None
    finally:
        close(place)


def mounted_by(place: int, path: str) -> "int | None":
    """Who has mounted a file system of his own (FUSE) at `path`, which is open as `place`: its program says
    whose it is, sees what is written there and answers what it likes, or never. It is asked nothing here.
    None where there is none, -1 where it has been unmounted since. Raises OSError."""
    above = os.open(os.path.dirname(path), os.O_PATH | os.O_CLOEXEC)
    try:
        mount = mount_of(place)
        if mount == mount_of(above):
            return None
    finally:
        close(above)
    number = mount.split()[1] + b" "
    with open("/proc/self/mountinfo", "rb", 0) as file:
        # `splitlines` takes a carriage return for an end too, and he can write one into the line.
        line = next((line for line in file.read().split(b"\n") if line.startswith(number)), b"")
    users = [part[8:] for part in line.split(b",") if part.startswith(b"user_id=")]
    if b" - fuse" in line and users:
        return int(users[-1])  # the kernel's own stands last
    return None if line else -1


def open_up(folder: str) -> None:
    """Gives the directory's owner his rights, where it has been closed even to him. Where that cannot
    be, what he does in it next will say so."""
    try:
        if os.stat(folder).st_mode & 0o700 != 0o700:
            os.chmod(folder, 0o700)
    except OSError:
        pass


def is_gone(path: str) -> bool:
    """Whether there is nothing: not where nobody can tell."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno == errno.ENOENT
    return False


def name(request: Request, pid: int) -> str:
    step = f"{request.job}.{request.step}.{request.task}"
    started = start_time(pid)
    if not started:  # without it another process could be taken for this one
        raise problems.StateUnavailable(
            f"`/proc/{pid}/stat` does not say when this process began", "is /proc that of this node?"
        )
    return f"{request.node.replace('/', '_')}.{boot_id()}.{step}.{pid}-{started}"


def propose(request: Request, base: str) -> str:
    """Where the private directory of this process would be; nothing is made."""
    uid = request.uid
    known = [folder for folder in roots(uid, base) if os.path.isdir(os.path.dirname(folder))]
    return os.path.join(known[0] if known else f"/tmp/slurm-oci-{uid}.RANDOM", name(request, os.getpid()))


def place(request: Request, base: str) -> str:
    """Where the private directory of this process is to be made: in the user's state root, which
    is there afterwards. Raises StateUnavailable."""
    return os.path.join(root(request.uid, base), name(request, os.getpid()))


def make(path: str, node: str) -> int:
    """Makes the private directory, 0700, and removes what dead tasks of this node left beside it.

    Gives a descriptor that is to stay open as long as the task lives: its lock tells so to those
    who cannot see the process because they are in another pid namespace. Raises StateUnavailable.
    """
    remove_left_over(os.path.dirname(path), node)
    cure = "the site: `slurm-oci-plugins doctor` tries that place; `state` in site.toml names another"
    while True:
        try:
            with usual_umask():
                os.mkdir(path, 0o700)
        except OSError as error:
            raise problems.StateUnavailable(f"cannot make `{path}`: {error.strerror}", cure) from None
        try:
            descriptor = os.open(path, FOLDER)
        except OSError as error:
            remove(path)
            raise problems.StateUnavailable(f"cannot enter `{path}`: {error.strerror}", cure) from None
        lock(descriptor, wait=True)
        if os.path.isdir(path):
            return descriptor
        close(descriptor)  # removed as a dead task's before it was locked: see `remove_dead`


def close(descriptor: int) -> None:
    """Closes what nothing was written to: an error says nothing of interest then."""
    try:
        os.close(descriptor)
    except OSError:
        pass


def lock(descriptor: int, wait: bool) -> bool:
    """Whether the directory is this process's now. Without `wait`, False where another holds it;
    a file system without such locks says no word about any."""
    import fcntl  # few tasks have a private directory

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def left_over(folder: str, node: str) -> "Iterator[str]":
    """The private directories in the state root `folder` whose task on this node is gone."""
    for entry in os.listdir(folder):
        task = task_of(entry, node)
        path = os.path.join(folder, entry)
        if task and not is_alive(task[0], task[4]) and not is_held(path):
            yield path


def task_of(entry: str, node: str) -> "tuple[str, ...] | None":
    """Boot id, job, step, task and process in the name of a private directory of this node; None
    for every other name."""
    here = node.replace("/", "_") + "."
    parts = tuple(entry.removeprefix(here).split("."))
    if not entry.startswith(here) or len(parts) != 5 or len(parts[0]) != 32:
        return None
    numbers = (*parts[1:4], *parts[4].split("-", 1))
    return parts if len(numbers) == 5 and all(n.isascii() and n.isdecimal() for n in numbers) else None


def is_alive(boot: str, process: str) -> bool:
    pid, _, start = process.partition("-")
    return boot == boot_id() and start_time(int(pid)) == start


def is_held(path: str) -> bool:
    try:
        descriptor = os.open(path, FOLDER)
    except OSError as error:
        return error.errno not in NO_FOLDER  # of what cannot be asked it is not known
    free = lock(descriptor, wait=False)
    close(descriptor)
    return not free


def remove_left_over(folder: str, node: str) -> None:
    """Removes what dead tasks of this node left in the state root `folder`."""
    try:
        for path in left_over(folder, node):
            remove_dead(path)
    except OSError:  # it stays until the next one
        pass


def remove_dead(path: str) -> None:
    """Removes what `left_over` has found, with the lock in hand: in another pid namespace its task
    may have made it a moment ago."""
    try:
        descriptor = os.open(path, FOLDER)
    except OSError:
        return remove(path)
    if lock(descriptor, wait=False):
        remove(path)
    close(descriptor)


def remove(path: str) -> None:
    """Removes the private directory `path` with all that is in it; links are not followed, what is
    mounted there is unmounted and never entered, what cannot be removed is passed over."""
    for _ in range(2):  # a call that failed may not fail again
        try:
            remove_once(path)
        except OSError:
            pass
        if is_gone(path):
            return


def remove_once(path: str) -> None:
    parent = os.open(os.path.dirname(path), FOLDER)
    try:
        remove_entry(parent, os.path.basename(path))
    finally:
        close(parent)
    if os.path.isdir(path) and not holds_mounts(path):
        # Of his subordinate ids (subuid(5)), as podman leaves it: he may in a namespace that maps them.
        command = ("rm", "-rf", "--one-file-system", "--", path)
        run_quietly("unshare", "--map-root-user", "--map-auto", "--", *command)


def holds_mounts(path: str) -> bool:
    """Whether something is mounted in `path`, which rm(1) would enter where it is a bind mount."""
    place = os.path.realpath(path)
    for sign in "\\ \t\n":  # as they stand there (proc(5), mountinfo)
        place = place.replace(sign, f"\\{ord(sign):03o}")
    place += "/"
    with open("/proc/self/mountinfo", "rb", 0) as file:
        return os.fsencode(place) in file.read()


def remove_entry(parent: int, entry: str, top: int = -1, depth: int = 0) -> None:
    """`top` and `depth`: the directory in which this began, and how far below it `parent` is."""
    try:
        os.unlink(entry, dir_fd=parent)
        return
    except IsADirectoryError:
        pass
    except OSError:
        return
    try:
        place = os.open(entry, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError:
        return
    try:
        if mount_of(place) != mount_of(parent):
            unmount(f"{os.readlink(by_number(parent))}/{entry}")
        elif depth < DEEP:
            empty(place, top, depth)
        else:
            open_up(by_number(place))
            os.rename(entry, os.urandom(16).hex(), src_dir_fd=parent, dst_dir_fd=top)
            return
    except OSError:
        pass
    finally:
        close(place)
    try:
        os.rmdir(entry, dir_fd=parent)
    except OSError:
        pass


def empty(place: int, top: int, depth: int) -> None:
    """Removes what is in a directory. What lies too deep is moved into the `top` one, to be next there."""
    open_up(by_number(place))  # an image's own may be closed even to its owner
    folder = os.open(by_number(place), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if depth:
            for name in os.listdir(folder):
                remove_entry(folder, name, top, depth + 1)
            return
        seen: set[str] = set()
        while names := set(os.listdir(folder)) - seen:
            for name in names:
                remove_entry(folder, name, folder, depth + 1)
            seen |= names
    finally:
        close(folder)


def by_number(descriptor: int) -> str:
    """A path to the very thing that is open, for calls that take no O_PATH descriptor (proc(5))."""
    return f"/proc/self/fd/{descriptor}"


def mount_of(descriptor: int) -> bytes:
    """Which mount the open file lies in (proc(5), fdinfo). Its device would not tell: a bind mount
    has the same."""
    file = os.open(f"/proc/self/fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return next(line for line in os.read(file, 4096).splitlines() if line.startswith(b"mnt_id:"))
    finally:
        close(file)


def unmount(path: str) -> None:
    """Takes away a file system that the user has mounted himself (FUSE), also where the program
    behind it is dead. Any other stays: he has no right to."""
    run_quietly("fusermount3", "-u", "-z", "--", path)


def run_quietly(program: str, *words: str) -> None:
    """Runs the node's `program` to its end, if the node has it."""
    null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
    for folder in STANDARD_PATH.split(":"):
        try:
            path = f"{folder}/{program}"
            child = os.posix_spawn(path, (path, *words), {}, file_actions=null, setsigmask=())
            os.waitpid(child, 0)
            return
        except OSError:
            continue


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
