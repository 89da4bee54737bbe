"""Looking into a root file system from outside, as a process inside would see it."""

import os

from slurm_oci.problems import ImageUnreadable
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
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            done = done[:-1]
            continue
        here = root + "/" + "/".join([*done, part])
        try:
            target = os.readlink(here)
        except FileNotFoundError:
            rest = [part, *reversed(todo)]
            return "/" + "/".join([*done, *rest]), False
        except OSError:  # EINVAL: no link
            done.append(part)
            continue
        links += 1
        if links > LINKS_AT_MOST:
            return "/" + "/".join([*done, part, *reversed(todo)]), False
        if target.startswith("/"):
            done = []
        todo += [name for name in reversed(target.split("/")) if name not in ("", ".")]
    inside = "/" + "/".join(done)
    return inside, os.path.lexists(root + inside)


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


class Cover(Value):
    """A directory of the image to lay a new one over, so that mount points can be made in it
    without changing the image. What the image has there is brought back entry by entry."""

    parent: str  # in the container
    folders: tuple[str, ...]  # of the image's own, to bind back; in the container, as all here
    files: tuple[str, ...]  # likewise
    links: tuple[tuple[str, str], ...]  # likewise, to make again: (path, what it points to)
    new_folders: tuple[str, ...]  # parents first
    new_files: tuple[str, ...]


def covers(root: str, mounts: "Iterable[Mount]") -> tuple[Cover, ...]:
    """How to get the targets of `mounts` that the image at `root` lacks; parents first.

    The targets must have their links followed (`resolve`).
    """
    by_parent: dict[str, list[Mount]] = {}
    for mount in mounts:
        parent = mount.target
        while not os.path.isdir(root + parent):
            parent = os.path.dirname(parent)
        by_parent.setdefault(parent, []).append(mount)
    return tuple(cover(root, parent, by_parent[parent]) for parent in sorted(by_parent))


def cover(root: str, parent: str, mounts: "list[Mount]") -> Cover:
    inner = [(os.path.join(parent, name), what) for name, what in entries(root + parent)]
    folders: dict[str, None] = {}  # as ordered sets
    files: dict[str, None] = {}
    for mount in mounts:
        parts = mount.target[len(parent.rstrip("/")) + 1 :].split("/")
        steps = [os.path.join(parent, *parts[:n]) for n in range(1, len(parts) + 1)]
        is_folder = os.path.isdir(mount.source)
        folders.update(dict.fromkeys(steps if is_folder else steps[:-1]))
        files.update({} if is_folder else {steps[-1]: None})
    return Cover(
        parent,
        tuple(path for path, what in inner if what == "folder"),
        tuple(path for path, what in inner if what == "file"),
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
        raise ImageUnreadable(f"cannot list `{folder}`: {error.strerror}") from None
    return sorted(found, key=lambda pair: pair[0])
