"""Unpacking an image once: one task does the work, the others wait, and all share the result.

Only time depends on who thinks that he is the one: an entry is published by one rename, complete,
and two who make the same one make no harm. So nothing here needs locks that a network file system
may not have. Who does the work says so by a link that can be made once. On his own node he is gone
when his process is; on another, when his `beat` has not changed for a while by the onlooker's clock.
"""

import _signal as signals
import os
import stat
import time

from slurm_oci import cache, choose, claims, execute, importers, importing, state
from slurm_oci.cache import Cache, Import
from slurm_oci.image import tag
from slurm_oci.job import STANDARD_PATH
from slurm_oci.problems import CacheUnavailable, ImageBroken, Problem, RuntimeNone, visible
from slurm_oci.values import TYPE_CHECKING, Image, Job, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from slurm_oci.main import Decision

FOLDERS = ("entries", "aliases", "users", "claims", "work")
ROUNDS = 5  # how often an image may be evicted again before it is used
PATIENCE = 3.0  # seconds without a word
GIB = 1 << 30
# How long the mark of a task on another node, of which nothing can be known, keeps an entry.
MARKED = 30 * 86400.0


def ready(decision: "Decision", again: "Callable[[], Decision]", limit: int) -> "Decision":
    """`decision`, or the one that `again` makes once the image is unpacked: with its entry marked as
    used. `limit`: how many GiB the cache may hold.

    Raises SystemExit with 128+N where signal N asked for the end, and any Problem.
    """
    for _ in range(ROUNDS):
        with state.usual_umask():  # but not round `again`: the job's is part of a plan
            if decision.first:
                obtain(decision.first, decision.request, decision.job, limit)
            elif hold(decision):
                return decision
        decision = again()
    raise CacheUnavailable(
        f"`{decision.image.name}` is unpacked and removed again before it can be used",
        f"`limit` in [images] of site.toml, {limit} GiB, is too little for what is used at once",
    )


def hold(decision: "Decision") -> bool:
    """Marks the entry as used by this process, as long as it lives; False where it is gone."""
    assert decision.entry
    where, name = decision.entry
    if where.is_store:
        return True
    users = os.path.join(where.path, "users", name)
    mark = os.path.join(users, state.name(decision.request, os.getpid()))
    with written(users):
        os.makedirs(users, 0o700, exist_ok=True)
        if decision.request.task == 0:  # one for all of the step
            is_used(where, name, decision.request.node)
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except FileNotFoundError:
            return False  # who removes an entry removes that folder after it
    if os.path.isdir(where.entry(name)):
        return True
    os.unlink(mark)
    return False


class written:
    """What the system refuses in this block is told as a Problem."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: "BaseException | None", __: object) -> None:
        if isinstance(error, OSError):
            raise CacheUnavailable(
                f"cannot write `{error.filename or self.path}`: {error.strerror}",
                "unpacked images are kept there: `cache` in [images] of site.toml names another place",
            ) from None


def obtain(wanted: Import, request: Request, job: Job, limit: int, anew: bool = False) -> None:
    """Has the image in the cache, by this process's work or another's; with `anew` even if it is there,
    since a tag may have moved."""
    where = wanted.cache
    signals.signal(signals.SIGINT, signals.SIG_DFL)  # ^C ends the waiting, without Python's words
    make_folders(where)
    claim = claims.Claim(where.path, f"{wanted.key}.{wanted.importer.gives}", request)
    began, said = time.monotonic(), False
    while (anew and not claim.seen) or not cache.find(where, wanted.key, wanted.importer.gives):
        with written(where.path):
            is_mine = claim.take()
        if is_mine:
            work(wanted, job, claim, limit, anew)
            return
        if not said and request.task == 0 and time.monotonic() - began > PATIENCE:
            said = True
            execute.tell(
                f"slurm-oci: waiting for `{visible(wanted.image.name)}`, which {claim.who()} unpacks"
            )
        time.sleep(min(5.0, max(0.05, (time.monotonic() - began) / 10)))


def fill(picture: Image, site: "Mapping[str, Any]", request: Request, job: Job, path: str) -> str:
    """Unpacks the image into the site's store, by the first importer on this node that can: the
    entry's path. `path`: where programs are looked for, like $PATH. Raises RuntimeNone."""
    where = cache.store(site["images"]["store"], site["images"]["owner"])
    node = choose.Node((path, STANDARD_PATH), {"site": site})
    for importer in importers.TABLE:
        programs, missing = node.find_all(list(importer.executables))
        if importers.takes(importer, picture) and not missing:
            wanted = Import(importer, picture, programs, where, cache.key(picture, None, job))
            with state.usual_umask():
                obtain(wanted, request, job, 0, anew=True)
            return where.entry(cache.find(where, wanted.key, importer.gives))
    raise RuntimeNone(
        f"nothing on this node can unpack `{picture.name}`, of kind {picture.kind}",
        *(f"{one.name}: needs {', '.join(one.executables)}" for one in importers.TABLE),
        "the site: install one of these, or put the image into its store",
    )


def make_folders(where: Cache) -> None:
    """Raises CacheUnavailable, CacheUnsafe."""
    mode = 0o755 if where.is_store else 0o700
    with written(where.path):
        parent = os.path.dirname(where.path)
        if where.path.endswith("/" + cache.HOME):  # any other place is the site's to make
            os.makedirs(parent, 0o700, exist_ok=True)
        for path in (where.path, *(os.path.join(where.path, name) for name in FOLDERS)):
            try:
                os.mkdir(path, mode)
            except FileExistsError:
                continue
            os.chmod(path, mode)  # whatever the umask
    cache.require_safe(where)


def work(wanted: Import, job: Job, claim: claims.Claim, limit: int, anew: bool) -> None:
    """Makes the entry. What goes wrong ends the others' waiting too, except that the end is asked for.

    Raises SystemExit with 128+N where signal N did that, once nothing is left of what was begun.
    """
    ending = importing.Ending()
    try:
        work_until(ending, wanted, job, claim, limit, anew)
    finally:
        ending.restore()
    if ending.number:
        raise SystemExit(128 + ending.number)


def work_until(
    ending: "importing.Ending", wanted: Import, job: Job, claim: claims.Claim, limit: int, anew: bool
) -> None:
    where = wanted.cache
    if not anew and cache.find(where, wanted.key, wanted.importer.gives):
        claim.done()  # somebody was quicker than our look
        return
    place = os.path.join(where.path, "work", claim.task)
    try:
        try:
            ending.raises = True
            ending.check()
            with written(place):
                name = make(wanted, job, place, claim, ending)
        finally:
            ending.raises = False
    except importing.Interrupted as signal:
        ending.number = signal.number
        claim.release()
        return
    except Problem as problem:
        if claim.is_latest():
            claim.fail(problem)
            raise
        return  # another took us for dead and has taken the work away: wait for him
    except BaseException:
        claim.release()
        raise
    claim.done()
    if not where.is_store:
        evict(where, claim.node, limit, keep=name)


def make(wanted: Import, job: Job, place: str, claim: claims.Claim, ending: "importing.Ending") -> str:
    """What `publish` gives, with `place` made for it and removed after it."""
    held = state.make(place, claim.node)
    try:
        claim.beat()
        return publish(wanted, job, place, claim)
    finally:
        ending.raises = False  # no call before it, in which a signal could be noticed
        state.remove(place)
        state.close(held)


def publish(wanted: Import, job: Job, place: str, claim: claims.Claim) -> str:
    """Has the image's entry made in `place`, or finds that it is there under another name; makes the
    alias. The entry's name."""
    where, importer, image = wanted.cache, wanted.importer, wanted.image
    began, said = time.monotonic(), False

    def tick() -> None:
        nonlocal said
        claim.beat()
        if not said and time.monotonic() - began > PATIENCE:
            said = True
            execute.tell(f"slurm-oci: unpacking `{visible(image.name)}` ({importer.name})")

    runs = importing.Runs(place, job, tick)
    digest, image = identity(wanted, runs)
    name = f"{digest.replace(':', '-')}.{importer.gives}"
    if not digest or not os.path.isdir(where.entry(name)):
        result = importing.made(importer, image, place, wanted.programs, job, tick)
        digest = digest or made_from(place) or f"key:{wanted.key}"
        name = f"{digest.replace(':', '-')}.{importer.gives}"
        if importer.gives == "oci-bundle":
            importing.plain_config(place)
        entry = os.path.join(place, "entry")
        os.mkdir(entry, 0o755)
        os.rename(result, os.path.join(entry, "image"))
        if where.is_store:
            readable(entry)
        with open(os.path.join(entry, "bytes"), "w") as file:
            file.write(str(size(entry)))
        importing.settle(entry)
        try:
            os.rename(entry, where.entry(name))
        except OSError:
            if not os.path.isdir(where.entry(name)):  # else somebody was quicker, with the same
                raise
    link(place, name, os.path.join(where.path, "aliases", f"{wanted.key}.{importer.gives}"))
    return name


def link(place: str, target: str, path: str) -> None:
    """Makes the link `path` as a whole, in place of another one."""
    new = os.path.join(place, "alias")
    os.symlink(target, new)
    os.rename(new, path)


def identity(wanted: Import, runs: "importing.Runs") -> tuple[str, Image]:
    """The digest of the image's manifest, where it can be had before anything is fetched, and the
    image by that digest, so that what is fetched is what was asked for."""
    image = wanted.image
    if image.kind == "oci-layout":
        return str(importing.manifest_of(image.path, tag(image))["digest"]), image
    if image.kind != "reference" or not image.name.startswith("docker://"):
        return "", image
    if "skopeo" not in wanted.programs:
        return image.name.partition("@")[2], image
    told = runs.output(
        image, (wanted.programs["skopeo"], "inspect", "--raw", "--retry-times", "2", image.name)
    )
    digest = f"sha256:{cache.sha256(told)}"
    return digest, image.replace(name=pinned(image.name, digest))


def pinned(name: str, digest: str) -> str:
    """`docker://HOST/PATH@DIGEST` of a name with a tag, or with a digest."""
    bare = name.partition("@")[0]
    folder, slash, last = bare.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}@{digest}"


def made_from(place: str) -> str:
    """The digest of the image that was copied to the layout in `place`; empty where there is none."""
    try:
        return str(importing.manifest_of(os.path.join(place, "layout"), "image")["digest"])
    except ImageBroken:
        return ""


def readable(folder: str) -> None:
    """Lets everybody read what is in the site's store."""
    without_privileges(folder)
    for path, mode in walk(folder):
        if not stat.S_ISLNK(mode):
            os.chmod(path, stat.S_IMODE(mode) | (0o555 if stat.S_ISDIR(mode) or mode & 0o100 else 0o444))


def without_privileges(folder: str) -> None:
    """Takes away the set-user-id and set-group-id bits and the capabilities (capabilities(7)) of all files in
    the folder. Whoever can reach it could start them on the node, outside of any container: as the account
    that has unpacked them, or as root. Nobody else may change what its owner starts, either."""
    for path, mode in walk(folder):
        if stat.S_ISLNK(mode):
            continue
        if mode & 0o6022:
            os.chmod(path, stat.S_IMODE(mode) & ~0o6022)
        try:
            os.removexattr(path, "security.capability")
        except OSError:  # it has none, and the file system need not know of any
            pass


def size(folder: str) -> int:
    """In bytes, as the file system counts."""
    return sum(512 * os.lstat(path).st_blocks for path, _ in walk(folder))


def walk(folder: str) -> "Iterator[tuple[str, int]]":
    """Everything in the folder and itself, with its type and mode; folders of an image that are closed
    to their owner are opened."""
    folders = [folder]
    while folders:
        folder = folders.pop()
        mode = os.lstat(folder).st_mode
        if mode & 0o700 != 0o700:
            os.chmod(folder, stat.S_IMODE(mode) | 0o700)
            mode |= 0o700
        yield folder, mode
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    yield entry.path, entry.stat(follow_symlinks=False).st_mode


# Removing


def evict(where: Cache, node: str, limit: int, keep: str = "", dry_run: bool = False) -> list[str]:
    """Removes entries that nobody uses, least recently used first, until the rest is within `limit`
    GiB; what was removed, or would be. `keep`: the entry that is about to be used."""
    sizes = {name: bytes_of(where, name) for name in state.listed(os.path.join(where.path, "entries"))}
    total, gone = sum(sizes.values()), []
    for name in sorted(sizes, key=lambda name: last_used(where, name)):
        if total <= limit * GIB:
            break
        if name == keep or is_used(where, name, node, dry_run):
            continue
        if dry_run or remove(where, name, node):
            total -= sizes[name]
            gone.append(where.entry(name))
    return gone


def tidy(where: Cache, node: str, limit: int, dry_run: bool) -> list[str]:
    """What `gc` does, beside removing dead tasks' work: everything that no living task needs. The
    entries among it; a dry run changes nothing."""
    gone = evict(where, node, limit, dry_run=dry_run)  # first: who takes a mark away changes `last_used`
    if dry_run:
        return gone
    for name in state.listed(os.path.join(where.path, "users")):
        users = os.path.join(where.path, "users", name)
        if not is_used(where, name, node) and not os.path.isdir(where.entry(name)):
            quietly(os.rmdir, users)
    for name in state.listed(os.path.join(where.path, "aliases")):
        alias = os.path.join(where.path, "aliases", name)
        try:
            target = os.readlink(alias)
        except OSError:  # somebody else has removed it
            continue
        if not os.path.isdir(where.entry(target)) or age(alias) > MARKED:
            quietly(os.unlink, alias)
    claims.tidy(where.path, node)
    return gone


def remove(where: Cache, name: str, node: str) -> bool:
    """Removes an entry, unless a task has marked it as used in the meantime, or nothing can be made
    to put it aside in."""
    me = os.getpid()
    place = os.path.join(where.path, "work", f"{node}.{state.boot_id()}.0.0.0.{me}-{state.start_time(me)}")
    try:
        held = state.make(place, node)
    except Problem:
        return False
    try:
        aside = os.path.join(place, "entry")
        os.rename(where.entry(name), aside)
        if is_used(where, name, node):
            quietly(os.rename, aside, where.entry(name))
            return False
        quietly(os.rmdir, os.path.join(where.path, "users", name))
        return True
    except OSError:  # somebody else has removed it
        return False
    finally:
        state.remove(place)
        state.close(held)


def is_used(where: Cache, name: str, node: str, dry_run: bool = False) -> bool:
    """Whether a living task uses the entry; the marks of dead ones are removed, but in a dry run. Of a
    task on another node nobody here knows whether it lives: its mark counts for 30 days."""
    used = False
    users = os.path.join(where.path, "users", name)
    for mark in state.listed(users):
        path = os.path.join(users, mark)
        task = state.task_of(mark, node)
        if state.is_alive(task[0], task[4]) if task else age(path) < MARKED:
            used = True
        elif not dry_run:
            quietly(os.unlink, path)
    return used


def last_used(where: Cache, name: str) -> float:
    """When a task began to use the entry, or ended; else when it was made."""
    for path in (os.path.join(where.path, "users", name), where.entry(name)):
        try:
            return os.stat(path).st_mtime
        except OSError:
            continue
    return 0.0


def bytes_of(where: Cache, name: str) -> int:
    try:
        with open(os.path.join(where.entry(name), "bytes"), "rb", 0) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def age(path: str) -> float:
    """Seconds since the file changed; the clocks of nodes differ by little against a month."""
    try:
        return time.time() - os.lstat(path).st_mtime
    except OSError:
        return 0.0


def quietly(function: "Callable[..., None]", *words: str) -> None:
    try:
        function(*words)
    except OSError:
        pass


def release(decision: "Decision") -> None:
    """Takes back the mark of `hold`, at the end of a supervised task."""
    if decision.entry and not decision.entry[0].is_store:
        where, name = decision.entry
        me = state.name(decision.request, os.getpid())
        quietly(os.unlink, os.path.join(where.path, "users", name, me))
