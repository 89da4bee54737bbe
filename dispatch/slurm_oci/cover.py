"""Mount points that an image lacks, without changing it: a new directory laid over one of its own."""

import os

from slurm_oci import problems
from slurm_oci.values import TYPE_CHECKING, Mount, Value

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class Cover(Value):
    """A directory of the image to lay a new one over, so that mount points can be made in it
    without changing the image. What the image has there is brought back entry by entry."""

    parent: str  # in the container
    folders: tuple[str, ...]  # of the image's own, to bind back; paths in the container, as all here
    files: tuple[str, ...]  # likewise
    links: tuple[tuple[str, str], ...]  # likewise, to make again: (path, what it points to)
    new_folders: tuple[str, ...]  # mount points to make, parents first
    new_files: tuple[str, ...]


def covers(root: str, mounts: "Iterable[Mount]", lacking: "Iterable[Mount]") -> tuple[Cover, ...]:
    """How to get the targets of those of `mounts` that the image at `root` lacks; parents first.

    The targets must have their links followed (`resolve`).
    """
    by_parent: dict[str, list[Mount]] = {}
    for mount in lacking:
        parent = mount.target
        while not os.path.isdir(root + parent):
            parent = os.path.dirname(parent)
        by_parent.setdefault(parent, []).append(mount)
    taken = {mount.target for mount in mounts}
    return tuple(cover(root, parent, by_parent[parent], taken) for parent in sorted(by_parent))


def cover(root: str, parent: str, lacking: "list[Mount]", taken: set[str]) -> Cover:
    inner = [(os.path.join(parent, name), what) for name, what in entries(root + parent)]
    # As ordered sets. What is mounted over anyway needs no more than its mount point.
    folders = {path: None for path, what in inner if what == "folder" and path in taken}
    files = {path: None for path, what in inner if what == "file" and path in taken}
    for mount in lacking:
        parts = mount.target[len(parent.rstrip("/")) + 1 :].split("/")
        steps = [os.path.join(parent, *parts[:n]) for n in range(1, len(parts) + 1)]
        is_folder = os.path.isdir(mount.source)
        folders.update(dict.fromkeys(steps if is_folder else steps[:-1]))
        files.update({} if is_folder else {steps[-1]: None})
    return Cover(
        parent,
        tuple(path for path, what in inner if what == "folder" and path not in taken),
        tuple(path for path, what in inner if what == "file" and path not in taken),
        tuple((path, what[1]) for path, what in inner if isinstance(what, tuple)),
        tuple(folders),
        tuple(files),
    )


def entries(folder: str) -> "list[tuple[str, Any]]":
    """What is in `folder`, sorted: (name, `folder` | `file` | (`link`, what it points to)).

    Raises ImageUnreadable.
    """
    found: list[tuple[str, Any]] = []
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                if entry.is_symlink():
                    found.append((entry.name, ("link", os.readlink(entry.path))))
                else:
                    found.append((entry.name, "folder" if entry.is_dir() else "file"))
    except OSError as error:
        raise problems.ImageUnreadable(
            f"cannot list `{folder}`: {error.strerror}",
            "its owner must let you in: `chmod a+rx` that directory",
        ) from None
    return sorted(found, key=lambda pair: pair[0])
