"""Looking into a root file system from outside, as a process inside would see it."""

import errno
import os

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


def find_command(root: str, name: str, path: str, workdir: str) -> str:
    """Where the program `name` is in the container: in the directories of `path`, of which an empty one
    is `workdir`. Empty where it is not."""
    for folder in path.split(":"):
        candidate = os.path.join(folder or workdir, name)
        inside, there = resolve(root, candidate)
        if there and not os.path.isdir(root + inside):
            return candidate
    return ""


def is_below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or in it, both absolute and normal."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
