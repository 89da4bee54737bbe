"""Where unpacked images are kept, and whether one is there. Only looks; `images` makes and removes.

Below the user's own directory (0700), or a store that the site names and one account fills:

    entries/DIGEST.KIND/image   an image of that kind, never changed after it is there
    aliases/KEY.KIND            a link to an entry's name: what an image as named was unpacked to
    users/DIGEST.KIND/TASK      a task that uses the entry (its name as in `state.name`)
    claims/KEY.KIND/N           a link to the name of the task that does the work, at the N-th try
    work/TASK/                  what it is about to make; removed when the task is gone
"""

import os
import stat

from slurm_oci.image import tag
from slurm_oci.problems import CacheUnsafe
from slurm_oci.state import status
from slurm_oci.values import TYPE_CHECKING, Image, Job, Request, Value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from slurm_oci.importers import Importer

# Not in /run or /tmp, which may be memory; nor in /var/tmp, where systemd-tmpfiles(8) removes what
# nobody has read for 30 days, file by file. Made by `install`.
BASE = "/var/cache/slurm-oci"
HOME = ".cache/slurm-oci/images"  # in the user's home, where the node has no such place


class Cache(Value):
    """A directory of unpacked images."""

    path: str
    owners: tuple[int, ...]  # who may own it
    is_store: bool = False  # the site's, which tasks only read

    def entry(self, name: str) -> str:
        return os.path.join(self.path, "entries", name)


class Import(Value):
    """What has to be done once before the image can be used."""

    importer: "Importer"
    image: Image
    programs: "Mapping[str, str]"
    cache: Cache
    key: str


class Caches:
    """The store and the user's own cache, for one image of one task. Raises CacheUnsafe."""

    def __init__(self, site: "Mapping[str, Any]", request: Request, job: Job, image: Image) -> None:
        images = site["images"]
        self.own = own(images["cache"], request.uid, job.home)
        self.key = key(image, request, job)
        self.looked_in = [(self.own, self.key)]
        if images["store"]:
            shared = store(images["store"], images["owner"])
            # Of a reference the store has what its owner has fetched, whatever the registry has now.
            self.looked_in.insert(0, (shared, key(image, None, job)))

    def find(self, kind: str) -> "tuple[Cache, str] | None":
        """The entry that has the image as one of `kind`: its cache and name; None where there is none."""
        for cache, name in self.looked_in:
            found = find(cache, name, kind)
            if found:
                return cache, found
        return None


def find(cache: Cache, key: str, kind: str) -> str:
    """The name of the entry that `key` stands for; empty where there is none."""
    try:
        name = os.readlink(os.path.join(cache.path, "aliases", f"{key}.{kind}"))
    except OSError:
        return ""
    require_safe(cache)
    try:
        found = os.lstat(cache.entry(name))
    except OSError:
        return ""
    is_good = stat.S_ISDIR(found.st_mode) and found.st_uid in cache.owners and not found.st_mode & 0o022
    return name if is_good and "/" not in name else ""


def require_safe(cache: Cache) -> None:
    """Raises CacheUnsafe where somebody else could have put something there."""
    closed = 0o022 if cache.is_store else 0o077
    for path in (cache.path, cache.entry("")[:-1], os.path.join(cache.path, "aliases")):
        is_top = path == cache.path and not cache.is_store
        try:
            found = status(path, cache.owners[0]) if is_top else os.lstat(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise CacheUnsafe(
                f"cannot look at `{path}`: {error.strerror}",
                "try `ls -ld` of it on this node, and of the directories above it",
            ) from None
        if found is None:
            raise CacheUnsafe(
                f"`{path}` holds unpacked images and is a file system that another user has mounted",
                "somebody else was there first: ask the site to unmount it",
            )
        if not stat.S_ISDIR(found.st_mode):
            raise CacheUnsafe(
                f"`{path}` is no directory, and no place for unpacked images",
                "remove it, or name another place in [images] of site.toml (docs/images.md)",
            )
        if found.st_uid not in cache.owners:
            raise CacheUnsafe(
                f"`{path}` holds unpacked images and belongs to uid {found.st_uid}, who is neither"
                f" {' nor '.join(f'uid {uid}' for uid in cache.owners)}",
                "the site: `owner` in [images] of site.toml names the account that fills the store"
                if cache.is_store
                else "somebody else was there first: ask the site to remove it",
            )
        if found.st_mode & closed:
            who = "others than its owner" if cache.is_store else "others"
            raise CacheUnsafe(
                f"`{path}` holds unpacked images, and {who} may write or enter it"
                f" (mode {stat.S_IMODE(found.st_mode):04o})",
                f"its owner: chmod {'go-w' if cache.is_store else '0700'} {path}",
            )


def own(configured: str, uid: int, home: str) -> Cache:
    """The user's own cache: where the site says, else on this node, else in his home."""
    base = configured or BASE
    if configured or os.path.isdir(base):
        return Cache(os.path.join(base, str(uid)), (uid,))
    return Cache(os.path.join(home, HOME), (uid,))


def store(path: str, owner: str) -> Cache:
    """The site's store, filled by root or the account `owner`."""
    owners = [0]
    if owner:
        import pwd

        try:
            owners.append(pwd.getpwnam(owner).pw_uid)
        except KeyError:
            raise CacheUnsafe(
                f"[images] of site.toml names the owner `{owner}`: no such user here",
                "name an account that every node knows: `getent passwd` on this node tells",
            ) from None
    return Cache(path, tuple(owners), True)


def key(image: Image, request: "Request | None", job: Job) -> str:
    """What stands for the image as named. A file or layout that is changed gets another key.

    A tag in a registry may move: each step asks for it once, and all its tasks get the same. Without
    `request` the key of a reference is the same for everybody.
    """
    if image.kind == "reference":
        parts = [image.kind, image.name]
        if request and "@sha256:" not in image.name:
            parts += step(request, job)
    else:
        # Not the device: the number of a network file system differs between nodes.
        path = os.path.realpath(image.path)
        found = os.stat(os.path.join(path, "index.json") if image.kind == "oci-layout" else path)
        times = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        parts = [image.kind, path, tag(image), *map(str, times)]
    return sha256(os.fsencode("\0".join(parts)))


def step(request: Request, job: Job) -> list[str]:
    """The step, told from every other of any cluster that shares the cache."""
    if not request.job:  # no Slurm: each call for itself
        from slurm_oci.state import start_time

        return [request.node, str(os.getpid()), start_time(os.getpid())]
    names = ("SLURM_CLUSTER_NAME", "SLURM_RESTART_COUNT")
    return [*(job.env.get(name, "") for name in names), str(request.job), str(request.step)]


def sha256(content: bytes) -> str:
    # The C modules: `hashlib` would load OpenSSL.
    try:
        import _sha2 as module  # type: ignore[import-not-found]
    except ImportError:
        import _sha256 as module  # type: ignore[import-not-found]  # Python 3.11
    found: str = module.sha256(content).hexdigest()
    return found
