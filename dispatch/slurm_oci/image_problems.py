"""What is wrong with an image, said well: nobody is in a hurry any more."""

import errno
import os
import stat

from slurm_oci import problems
from slurm_oci.image import absolute, is_bare
from slurm_oci.problems import Problem

CHOICE = (
    "an image is a directory (root file system, OCI bundle or layout), a SIF or squashfs file, an"
    " archive from `docker save` or of an OCI layout, a `.toml` environment definition, or"
    " `docker://…`"
)


def nameless(name: str) -> Problem:
    if name.startswith("file:"):
        return problems.ImageMissing(
            f"`{shown(name)}` has no absolute path", "write `file:///…`, or the path"
        )
    if name:
        return problems.ImageMissing(f"`{shown(name)}` names no image: nothing follows the colon", CHOICE)
    return problems.ImageMissing(
        "`--container` is empty",
        "is a variable empty or misspelt in `--container=$VARIABLE`?",
    )


def no_path(name: str) -> Problem:
    return problems.ImageMissing(
        f"no path can have the characters of the image's, {shown(ascii(name))}",
        "NUL and lone surrogates cannot stand in a path",
    )


def other_kind(name: str, path: str, kind: str, found: str) -> Problem:
    return problems.ImageBroken(
        f"`{shown(name)}` should be of kind {kind}, but is of kind {found}",
        f"write the path alone and its kind is found out: `--container={shown(path)}`",
    )


def no_file(path: str, mode: int) -> Problem:
    return problems.ImageUnknown(f"`{shown(path)}` is {type_name(mode)}", CHOICE)


def no_configuration(path: str, mode: int) -> Problem:
    what = type_name(mode)
    return problems.ImageBroken(f"`{shown(path)}/config.json` is {what}, not a file", CHOICE)


def not_accessible(name: str, cwd: str, path: str, error: OSError) -> Problem:
    if isinstance(error, PermissionError):
        return unreadable(path)
    if error.errno == errno.ENAMETOOLONG:
        size = max(len(os.fsencode(part)) for part in path.split("/"))
        return problems.ImageMissing(
            f"the image's path is too long: {len(os.fsencode(path))} bytes, one part of it {size}",
            "Linux takes 4095 bytes, 255 for each part: is something else in the variable?",
        )
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return missing(name, cwd, path)
    return problems.ImageUnreadable(
        f"`{shown(path)}` cannot be read: {error.strerror}",
        f"try `ls -l {quoted(path)}` on this node",
    )


def unreadable(path: str) -> Problem:
    """Names the first component on the way that the user may not enter, else the file itself."""
    part = ""
    for word in path.split("/")[1:]:
        part += "/" + word
        try:
            os.stat(part + "/.")
        except PermissionError:
            real = os.path.realpath(part)
            where = f"`{shown(part)}`" + (f" (that is `{shown(real)}`)" if real != part else "")
            return problems.ImageUnreadable(
                f"the image `{shown(path)}` cannot be reached: {where} may not be entered"
                f" by user {os.geteuid()}{owner_and_mode(part)}",
                opened("x", real, "pass through"),
            )
        except OSError:
            break
    return problems.ImageUnreadable(
        f"the image `{shown(path)}` may not be read by user {os.geteuid()}{owner_and_mode(path)}",
        opened("r", path, "read it"),
    )


def opened(bit: str, path: str, what: str) -> str:
    """The command that gives the user the permission: his own, where it is his."""
    try:
        is_own = os.stat(path).st_uid == os.geteuid()
    except OSError:
        is_own = False
    if is_own:
        return f"`chmod u+{bit} {quoted(path)}`: it is yours"
    return f"`chmod o+{bit} {quoted(path)}` by its owner lets others {what}"


def owner_and_mode(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f" (owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o})"


def missing(name: str, cwd: str, path: str) -> Problem:
    hints = left_as_written(name)
    if not hints:
        if name.startswith("docker:"):
            hints = [f"an image in a registry is written `docker://{shown(name[7:].lstrip('/'))}`"]
        elif is_registry_name(name) and not os.path.lexists(absolute(name.partition("/")[0], cwd)):
            hints = [f"an image in a registry is written `docker://{shown(name)}`"]
    return problems.ImageMissing(f"there is no image at `{shown(path)}`", *hints, *nearby(path))


def left_as_written(path: str) -> list[str]:
    """A hint, where the path has what a shell would have replaced."""
    if path.startswith("~"):
        return ["the shell leaves `~` as it is after `=` and in quotes: write `$HOME/…`"]
    if "$" in path:
        return ["nothing replaces variables in `#SBATCH` lines and single quotes: write it in full"]
    return []


def is_registry_name(name: str) -> bool:
    """`library/alpine`, `ghcr.io/x/y:1`, `localhost:5000/x`."""
    parts = name.replace("@", ":").split("/")
    return len(parts) > 1 and all(is_bare(part.replace(":", "")) for part in parts)


def nearby(path: str) -> list[str]:
    """Hints about what is there instead: names like it, in the nearest folder that exists."""
    from difflib import get_close_matches
    from itertools import islice

    if os.path.exists(path):
        return [f"`{shown(path)}` is there now: a file server may have been slow; submit again"]
    while not os.path.lexists(path):
        path, _, lost = path.rpartition("/")
        path = path or "/"
    if os.path.islink(path) and not os.path.exists(path):
        target = shown(os.readlink(path))
        return [f"`{shown(path)}` is a symbolic link to `{target}`, which is not there"]
    if not os.path.isdir(path):
        return [f"`{shown(path)}` is there, and is no directory"]
    try:
        with os.scandir(path) as entries:  # a limit, since scratch folders can hold millions
            names = sorted(entry.name for entry in islice(entries, 10_000))
    except OSError as error:
        return [f"`{shown(path)}` is there, and may not be listed ({error.strerror})"]
    begun = [name for name in names if name.startswith(lost + ".")]
    near = (begun + [n for n in get_close_matches(lost, names, 3) if n not in begun])[:3]
    base = path.rstrip("/")
    if near:
        return ["did you mean " + ", or ".join(f"`{shown(f'{base}/{name}')}`" for name in near) + "?"]
    return [f"`{shown(path)}` is there, and {holding(names)}"]


def holding(names: list[str]) -> str:
    """What a folder with these names holds, for a sentence about it."""
    seen = [name for name in names if not name.startswith(".")]
    if not seen:
        return "holds nothing but hidden files" if names else "is empty"
    return "holds " + ", ".join(f"`{shown(name)}`" for name in seen[:5]) + (", …" if len(seen) > 5 else "")


def unknown(path: str, head: bytes) -> Problem:
    folder, _, file = path.rpartition("/")
    hints = [CHOICE]
    if file in ("config.json", "index.json", "oci-layout"):
        hints.insert(0, f"name the directory it is in: `--container={shown(folder)}`")
    elif head.startswith(b"[") or b"\nimage" in b"\n" + head:
        hints.insert(0, "an environment definition's file name must end in `.toml`")
    return problems.ImageUnknown(f"`{shown(path)}` is of no known kind: it is {looks_like(head)}", *hints)


def looks_like(head: bytes) -> str:
    for offset, magic, words in (
        (0, b"\x7fELF", "an ELF program"),
        (0, b"\x1f\x8b", "gzip data with no tar file in it"),
        (0, b"BZh", "bzip2 data with no tar file in it"),
        (0, b"\xfd7zXZ\0", "xz data with no tar file in it"),
        (0, b"\x28\xb5\x2f\xfd", "zstd data with no tar file in it"),
        (0, b"PK\x03\x04", "a zip archive"),
        (0, b"sqsh", "a squashfs of a version that Linux no longer reads"),
        (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
        (0, b"QFI\xfb", "a virtual machine's disk (QCOW)"),
        (1024, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
        (1080, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    ):
        if head[offset : offset + len(magic)] == magic:
            return words
    if not head:
        return "empty"
    if not head.strip(b"\0"):
        return "zeros"
    if any(byte < 7 for byte in head):
        return f"data that begins with the bytes {head[:8].hex(' ')}"
    line = shown(head.partition(b"\n")[0][:60].decode("utf-8", "replace").strip())
    return f"a script (`{line}`)" if head.startswith(b"#!") else f"text (`{line}`)"


def type_name(mode: int) -> str:
    """A file's type in words, with its article."""
    return {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO (named pipe)",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
    }.get(stat.S_IFMT(mode), "a special file")


def quoted(path: str) -> str:
    from shlex import quote

    return quote(path)


def shown(text: str) -> str:
    """`text` shortened, so that an error stays one line that can be read."""
    return text if len(text) <= 200 else f"{text[:120]}…{text[-60:]}"
