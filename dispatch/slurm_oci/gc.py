"""What tasks that are gone have left on this node, found and removed.

Everybody removes his own. Root removes nothing: for each owner of a state root he has a child, which
becomes that owner for good before it looks at anything of his, and is waited for a limited time.
"""

import contextlib
import json
import os
import pwd
import re
import select
import signal
import stat
import time
from typing import NoReturn

import attrs

from slurm_oci import cache, images, state
from slurm_oci.job import STANDARD_PATH
from slurm_oci.state import listed

SECONDS = 30.0  # for one owner: a file system of his own may never answer
NOBODY = 65534  # the group of a uid without passwd entry
# By what the tasks of a step with share=node meet: ch-run's files, whose tag charliecloud.py has made
# (job, step and the parent's process), and apptainer's, which is named after the parent alone.
SHM = "/dev/shm"
PROC = "/proc"
MEETING = re.compile(r"(?:sem\.)?ch-run_(?:sem|shm)-slurm-oci\.(\d+)\.(\d+)\.(\d+)|sharens_instance_(\d+)")
MEETING_SECONDS = 120.0  # nobody waits in one for longer; for where it cannot be seen who lives


@attrs.frozen
class Left:
    """A private directory whose task is gone, or an unpacked image for which there is no room."""

    path: str
    uid: int
    job: int  # 0: of none, as the next two
    step: int  # as Slurm's %s: 4294967291 is the batch step's
    task: int
    removed: bool  # False in a dry run too


@attrs.frozen
class Found:
    """What was found of one user's, or of all users'."""

    left: list[Left] = attrs.Factory(list)
    wrong: list[str] = attrs.Factory(list)  # a line each
    # Other names under which dead tasks of this very machine, since its boot, have left something: it
    # runs several slurmd, or its NodeName is not the one that was looked for.
    nodes: list[str] = attrs.Factory(list)


@attrs.frozen
class Wanted:
    """What is to be looked for, and what to be done with it."""

    node: str  # as Slurm's %n
    base: str = state.BASE  # site.toml's `state`
    job: int | None = None  # of this job alone
    dry_run: bool = False
    cache: str = ""  # site.toml's `cache` in [images]
    limit: int = 0  # GiB, its `limit`


def collect(wanted: Wanted, seconds: float = SECONDS) -> Found:
    """What this user's dead tasks have left, as root everybody's."""
    if os.geteuid() != 0:
        return own(wanted, home_of(os.geteuid()))
    left, wrong = [], []
    nodes: set[str] = set()
    for uid in owners(wanted):
        try:
            his = as_owner(uid, wanted, seconds)
        except OSError as error:
            wrong.append(f"uid {uid}: {error}")
        else:
            left += his.left
            wrong += his.wrong
            nodes |= {*his.nodes}
    return Found(left, wrong, sorted(nodes))


def own(wanted: Wanted, home: str = "") -> Found:
    """Removes what the effective user's dead tasks have left, and the unpacked images that are too
    much; tells all of it, removed or not, and where nobody can tell. Root looks into no `home`, which may be
    on another machine."""
    uid = os.geteuid()
    left, wrong = [], []
    nodes: set[str] = set()
    images_of = cache.own(wanted.cache, uid, home)
    work = os.path.join(images_of.path, "work")
    is_there = os.path.isabs(work) and state.is_private(images_of.path, uid) and os.path.isdir(work)
    for root in (*state.existing(uid, wanted.base), *([work] if is_there else [])):
        if not wanted.dry_run:
            state.open_up(root)
        try:
            for path in state.left_over(root, wanted.node):
                *_, job, step, task, _ = os.path.basename(path).split(".")
                if wanted.job in (None, int(job)):
                    if not wanted.dry_run:
                        state.remove_dead(path)
                    left.append(Left(path, uid, int(job), int(step), int(task), state.is_gone(path)))
            nodes |= other_nodes(root, wanted)
        except OSError as error:
            wrong.append(f"`{root}` cannot be looked into: {error.strerror}")
    for path, of_job, of_step in meetings(uid):
        if wanted.job in (None, of_job):
            if not wanted.dry_run:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            left.append(Left(path, uid, of_job, of_step, 0, state.is_gone(path)))
    if is_there and wanted.job is None:
        evicted = images.tidy(images_of, wanted.node, wanted.limit, wanted.dry_run)
        left += [Left(path, uid, 0, 0, 0, state.is_gone(path)) for path in evicted]
    return Found(left, wrong, sorted(nodes))


def other_nodes(root: str, wanted: Wanted) -> set[str]:
    """By what other names of nodes something is left over in the state root that is of this boot, and
    so of this machine."""
    boot = f".{state.boot_id()}."
    names = {entry.partition(boot)[0] for entry in os.listdir(root) if boot in entry}
    of_job = boot if wanted.job is None else f"{boot}{wanted.job}."
    return {
        node
        for node in names - {wanted.node.replace("/", "_")}
        if any(of_job in os.path.basename(path) for path in state.left_over(root, node))
    }


def meetings(uid: int) -> list[tuple[str, int, int]]:
    """What steps with share=node have left in shared memory because a task of theirs was killed or
    missing: path, job and step (0 where the name does not say), of steps that are over."""
    found = []
    is_certain = sees_slurm()
    for entry in sorted(listed(SHM)):
        match, path = MEETING.fullmatch(entry), os.path.join(SHM, entry)
        if match is None or owner(path) != uid or state.start_time(int(match[3] or match[4])):
            continue
        if is_certain or time.time() - os.lstat(path).st_mtime > MEETING_SECONDS:
            found.append((path, int(match[1] or 0), int(match[2] or 0)))
    return found


def sees_slurm() -> bool:
    """Whether the node's slurmd is among the processes that are seen from here: then so is every
    slurmstepd that lives. In a pid namespace of a job's own neither is, nor where /proc hides them."""
    for number in filter(str.isdecimal, listed(PROC)):
        with contextlib.suppress(OSError), open(f"{PROC}/{number}/comm", "rb", 0) as file:
            if file.read() == b"slurmd\n":
                return True
    return False


def owner(path: str) -> int:
    """Of the regular file at `path`; -1 where there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return -1
    return status.st_uid if stat.S_ISREG(status.st_mode) else -1


def home_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return ""


def owners(wanted: Wanted) -> list[int]:
    """The users who may have a state root here, by the names in directories that are nobody's own.

    Anybody can make such a name, and thousands: one that belongs to another than it names gives nobody
    a turn. Whether it is a state root is for the user to find out.
    """
    named = [
        (os.path.join(folder, name), name)
        for folder in (wanted.base, wanted.cache or cache.BASE, "/run/user")
        for name in listed(folder)
    ]
    for folder in state.SHARED:
        named += [
            (os.path.join(folder, name), name[len("slurm-oci-") :].partition(".")[0])
            for name in listed(folder)
            if name.startswith("slurm-oci-")
        ]
    numbers = {
        int(name)
        for path, name in named
        if name.isascii() and name.isdecimal() and len(name) < 11 and may_be_of(path, int(name))
    }
    numbers |= {owner(os.path.join(SHM, name)) for name in listed(SHM) if MEETING.fullmatch(name)} - {-1}
    return sorted(number for number in numbers if number < 2**32 - 1)  # which setresuid(2) takes for none


def may_be_of(path: str, uid: int) -> bool:
    """Whether what is there belongs to the user; yes where root may not look. A file system that a user has
    mounted is not asked: it need not answer, and who has mounted it is known."""
    try:
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        maker = state.mounted_by(place, path)
        return os.fstat(place).st_uid == uid if maker is None else maker in (0, uid)
    except OSError:
        return True
    finally:
        state.close(place)


def as_owner(uid: int, wanted: Wanted, seconds: float) -> Found:
    """What `own` gives, done by a child that is `uid`. Raises OSError."""
    answer, end = os.pipe()
    child = os.fork()
    if child == 0:
        be_owner(uid, wanted, end)
    os.close(end)
    try:
        told = json.loads(read(answer, time.monotonic() + seconds))
    except ValueError:  # nothing, or a part: its user may kill it at any moment
        told = "its process was killed"
    finally:
        os.close(answer)
        end_for_good(child)
    if isinstance(told, str):
        raise OSError(told)
    return Found([Left(**left) for left in told["left"]], told["wrong"], told["nodes"])


def end_for_good(child: int) -> None:
    """Ends the owner's child with what it has started, whatever he makes of it. Nobody waits for one that
    a file system of his does not let go: no signal ends that, and it goes when the file system does."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            kill(child, signal.SIGKILL)
    for _ in range(100):
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.01)


def be_owner(uid: int, wanted: Wanted, end: int) -> NoReturn:
    """Goes on as the owner alone, in a process group of its own, and tells what `own` gives."""
    try:
        os.setpgid(0, 0)
        become(uid)
        told: object = attrs.asdict(own(wanted))
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    try:
        with open(end, "wb") as out:
            out.write(json.dumps(told).encode())
    finally:
        os._exit(0)


def become(uid: int) -> None:
    """Makes this process one of the user's: no group, no variable and no directory of root's is left."""
    try:
        entry = pwd.getpwuid(uid)
        gid, groups = entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)
    except KeyError:
        gid, groups = NOBODY, []
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    os.environ.clear()
    os.environ["PATH"] = STANDARD_PATH
    os.umask(0o077)
    os.chdir("/")


def read(answer: int, end: float) -> bytes:
    """All that the child writes until it closes its end. Raises TimeoutError."""
    parts: list[bytes] = []
    while select.select([answer], [], [], max(0.0, end - time.monotonic()))[0]:
        part = os.read(answer, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
    raise TimeoutError("gave no answer in time, and was ended")
