"""Looking into a root file system from outside, as a process inside would see it."""

import errno
import os

from slurm_oci import problems
from slurm_oci.values import TYPE_CHECKING, Mount, Value

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

LINKS_AT_MOST = 40  # as the kernel (path_resolution(7))


def resolve(root: str, path: str) -> tuple[str, bool]:
    """`path` in the container with its symbolic links followed inside `root`, and whether it is
    there. Of what is not there the missing rest is kept as it is.

    The result starts with `/` and is relative to `root`. A loop of links counts as missing.
    """
    done: list[str] = []
    todo = parts(path)
    links = 0
    while todo:
        part = todo.pop()
        if part in ("", ".", ".."):
            if not os.path.isdir(root + "/" + "/".join(done)):
                return missing(done, part, todo)
            done = done[:-1] if part == ".." else done
            continue
        try:
            target = os.readlink(root + "/" + "/".join([*done, part]))
        except (FileNotFoundError, ValueError):  # or no name that a file can have
            return missing(done, part, todo)
        except OSError as error:
            done.append(part)
            if error.errno == errno.EINVAL and not todo:  # it is there, and no link
                return "/" + "/".join(done), True
            continue
        links += 1
        if links > LINKS_AT_MOST:
            return missing(done, part, todo)
        if target.startswith("/"):
            done = []
        todo += parts(target)
    inside = "/" + "/".join(done)
    return inside, os.path.lexists(root + inside)


def parts(path: str) -> list[str]:
    """The components of `path`, last one first; an empty one or a dot wants a directory before it."""
    return path.lstrip("/").split("/")[::-1] if path.strip("/") else []


def missing(done: list[str], part: str, todo: list[str]) -> tuple[str, bool]:
    return "/" + "/".join(name for name in [*done, part, *reversed(todo)] if name not in ("", ".")), False


def find_command(root: str, command: str, path: str, cwd: str = "/") -> str:
    """Where `command` is in the container: as it is if it holds a `/`, else in the directories of
    `path`. Empty where it is not."""
    if "/" in command:
        candidates = [os.path.join(cwd, command)]
    else:
        candidates = [os.path.join(folder or cwd, command) for folder in path.split(":")]
    for candidate in candidates:
        inside, there = resolve(root, candidate)
        if there and not os.path.isdir(root + inside):
            return candidate
    return ""


def is_below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or in it, both absolute and normal."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


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
