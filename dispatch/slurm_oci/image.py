"""What an image is, decided by content: `classify("rootfs", "/home/alice").kind`.

On the way of every task: few file-system calls (a bundle takes two, any other directory three, a
file four), and nothing imported before something is an archive or an error.
"""

import errno
import os
import stat

from slurm_oci import problems
from slurm_oci.problems import Problem
from slurm_oci.values import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

KINDS = {
    "oci-bundle": "a directory with config.json, for an OCI runtime",
    "rootfs": "a directory that is a root file system",
    "sif": "a file in Apptainer's and Singularity's image format",
    "squashfs": "a file that is a squashfs file system",
    "oci-layout": "a directory with oci-layout, index.json and blobs",
    "oci-archive": "a tar file of an OCI layout",
    "docker-archive": "a tar file as `docker save` writes it",
    "reference": "an image in a registry, as in docker://alpine",
    "name": "a word for an image in a runtime's own local store",
    "environment": "a .toml file that describes image and settings",
}

# The transports of containers-transports(5) that name something on this node's disks, and the kind
# of what they name.
TRANSPORTS = {
    "oci": "oci-layout",
    "oci-archive": "oci-archive",
    "docker-archive": "docker-archive",
}

COMPRESSIONS = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zst"}

# What a name in a runtime's own store never ends in, so that a misspelt file is called missing.
FILE_ENDINGS = (
    *(".sif", ".simg", ".img", ".sqsh", ".sqfs", ".squashfs", ".toml", ".json"),
    *(".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst"),
)

HEAD = 2048  # bytes read of a file; every magic number that is looked for lies in them


def classify(name: str, cwd: str) -> Image:
    """What `name`, as written after `--container`, is; a relative path starts at `cwd`.

    Transports and schemes come first, then what is there as a path, then names. Raises
    ImageMissing, ImageUnreadable, ImageUnknown and ImageBroken.
    """
    kind, location = as_transport(name)
    if kind == "reference":
        return Image(name, kind)
    path = absolute(location, cwd)
    try:
        if not location:
            raise nameless(name)
        found = kind_of(path, said=kind)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not kind and is_word(name):
            return Image(name, "name")
        raise not_accessible(name, cwd, path, error) from None
    except ValueError:  # never from a command line, but a TOML file can write such characters
        raise problems.ImageMissing(
            f"no path can have the characters of the image's, {shown(ascii(name))}",
            "NUL and lone surrogates cannot stand in a path",
        ) from None
    if kind and kind != found:
        raise problems.ImageBroken(
            f"`{shown(name)}` should be of kind {kind}, but is of kind {found}",
            f"write the path alone and its kind is found out: `--container={shown(path)}`",
        )
    return Image(name, found, path)


def tag(image: Image) -> str:
    """The image meant among several in one layout or archive: `TAG` of `oci:PATH:TAG`, or empty.

    Whatever follows the path's colon, also `alpine:3.20` and `@0` (containers-transports(5)).
    """
    transport, _, rest = image.name.partition(":")
    return rest.partition(":")[2] if image.path and transport in TRANSPORTS else ""


def as_transport(name: str) -> tuple[str, str]:
    """The kind that the transport before a colon promises, or none, and the path after it."""
    transport, _, rest = name.partition(":")
    # Three slashes leave the place of a registry's host empty, so that it is a path. Two name a
    # registry after `oci:` (as Helm writes it), but no registry speaks `oci-archive://`.
    local = rest.startswith("///") or not rest.startswith("//")
    if transport in TRANSPORTS and ":" in name and (local or transport != "oci"):
        return TRANSPORTS[transport], rest.removeprefix("//").partition(":")[0]
    if transport == "file" and rest.removeprefix("//").startswith("/"):
        return "", rest.removeprefix("//")
    if not is_scheme(transport) or not rest.startswith("//"):
        return "", name
    if transport == "file" or rest == "//":
        raise nameless(name)
    return "reference", ""


def is_scheme(text: str) -> bool:
    """RFC 3986, 3.1."""
    bare = text.replace("+", "").replace("-", "").replace(".", "")
    return text[:1].isalpha() and text.isascii() and bare.isalnum()


def absolute(location: str, cwd: str) -> str:
    """The path from the root. `..` stays, since what it means depends on symbolic links."""
    parts = os.path.join(cwd, location).split("/")
    return "/" + "/".join(part for part in parts if part not in ("", "."))


def is_word(name: str) -> bool:
    """`alpine`, `alpine:3.20` or `alpine@sha256:…`, and nothing that can only be a file."""
    word, _, version = name.replace("@sha256:", ":").partition(":")
    return is_bare(word) and (is_bare(version) or word == name) and not name.endswith(FILE_ENDINGS)


def is_bare(text: str) -> bool:
    letters = "".join(c for c in text if c not in "._-")
    return letters.isalnum() and text.isascii() and text[0].isalnum()


def kind_of(path: str, said: str = "") -> str:
    """The kind of what is at `path`. `said`: what the user says an archive is, it can be both."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        return directory_kind(path)
    if stat.S_ISREG(mode):  # nothing else is ever opened: that can hang, or do something
        return file_kind(path, said)
    raise problems.ImageUnknown(f"`{shown(path)}` is {type_name(mode)}", CHOICE)


def directory_kind(path: str) -> str:
    config = type_of(path + "/config.json")
    if config and not stat.S_ISREG(config) and not stat.S_ISLNK(config):
        what = type_name(config)
        raise problems.ImageBroken(f"`{shown(path)}/config.json` is {what}, not a file", CHOICE)
    if config:
        return "oci-bundle"
    if type_of(path + "/oci-layout") and type_of(path + "/index.json"):
        return "oci-layout"
    return "rootfs"


def type_of(path: str) -> int:
    """The file's type and mode, of a link itself even if it leads nowhere; 0 for what is not."""
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0


def file_kind(path: str, said: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        head = os.pread(descriptor, HEAD, 0)
        if head[32:41] == b"SIF_MAGIC":  # the SIF specification, Global Header
            return "sif"
        if head[:4] == b"hsqs":
            return "squashfs"
        if head[257:262] == b"ustar":  # tar(5)
            return archive_kind(path, descriptor, "", said)
        for magic, compression in COMPRESSIONS.items():
            if head.startswith(magic):
                return archive_kind(path, descriptor, compression, said)
    finally:
        os.close(descriptor)
    if path.endswith(".toml"):
        return "environment"
    raise unknown(path, head)


def archive_kind(path: str, descriptor: int, compression: str, said: str) -> str:
    """`oci-archive` or `docker-archive`, as soon as the members read so far tell.

    `docker save` writes a manifest.json and, since Docker 25, an OCI layout round the same files.
    Such an archive is called a docker-archive, after the command that made it, unless `said` calls
    it the other. Its writer sorts the members by name (containerd's `writeTar`), so manifest.json
    comes before oci-layout, and what has both files of a layout by then is an oci-archive; where
    somebody sorted them otherwise, either name is true. Blobs come before all of them: an archive
    that is compressed must be unpacked that far, of another only the headers are read.
    """
    import tarfile

    seen: list[str] = []
    try:
        for member in members(descriptor, compression):
            if not seen or member in ("manifest.json", "oci-layout", "index.json"):
                seen.append(member)
            docker = "manifest.json" in seen
            oci = "oci-layout" in seen and "index.json" in seen
            if docker and said != "oci-archive":
                return "docker-archive"
            if oci and said != "docker-archive":
                return "oci-archive"
    except tarfile.CompressionError:
        if said:  # the runtime may well read it
            return said
        raise problems.ImageUnreadable(
            f"`{shown(path)}` is compressed ({compression}), which this Python cannot read",
            f"write `docker-archive:{shown(path)}` or `oci-archive:{shown(path)}`, as it may be",
            "or unpack it to an archive without compression",
        ) from None
    except OSError as error:
        if error.errno:
            raise
        raise broken_archive(path, error) from None  # gzip.BadGzipFile is one without a number
    except Exception as error:  # every decompressor has an error class of its own
        if not seen and compression:
            raise unknown(path, os.pread(descriptor, HEAD, 0)) from None
        raise broken_archive(path, error) from None
    if "manifest.json" in seen:
        return "docker-archive"
    if "oci-layout" in seen and "index.json" in seen:
        return "oci-archive"
    raise problems.ImageUnknown(
        f"`{shown(path)}` is a tar file with neither manifest.json (docker-archive) nor oci-layout"
        f" and index.json (oci-archive) at its top; it begins with `{shown(''.join(seen[:1]))}`",
        f"a packed root file system is unpacked first: `mkdir rootfs && tar -C rootfs -xf {quoted(path)}`",
    )


def members(descriptor: int, compression: str) -> "Iterator[str]":
    import tarfile

    mode: Any = f"r:{compression}"
    file = os.fdopen(os.dup(descriptor), "rb")
    with file, tarfile.open(fileobj=file, mode=mode) as archive:
        while member := archive.next():
            yield member.name.removeprefix("./")
            # Else it remembers a kilobyte for each file ever seen.
            archive.members = []  # type: ignore[attr-defined]


def broken_archive(path: str, error: Exception) -> Problem:
    return problems.ImageBroken(
        f"the archive `{shown(path)}` cannot be read to its end: {error or type(error).__name__}",
        "a copy or download that was cut short looks like this: compare its size",
    )


# From here on something is wrong with the image, and the time to say it well is there.

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
                f"`chmod o+x {quoted(real)}` by its owner lets others pass through",
            )
        except OSError:
            break
    return problems.ImageUnreadable(
        f"the image `{shown(path)}` may not be read by user {os.geteuid()}{owner_and_mode(path)}",
        f"`chmod o+r {quoted(path)}` by its owner lets others read it",
    )


def owner_and_mode(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f" (owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o})"


def missing(name: str, cwd: str, path: str) -> Problem:
    hints = []
    if name.startswith("~"):
        hints.append("the shell leaves `~` as it is after `=` and in quotes: write `$HOME/…`")
    elif "$" in name:
        hints.append("nothing replaces variables in `#SBATCH` lines and single quotes: write it in full")
    elif name.startswith("docker:"):
        hints.append(f"an image in a registry is written `docker://{shown(name[7:].lstrip('/'))}`")
    elif is_registry_name(name) and not os.path.lexists(absolute(name.partition("/")[0], cwd)):
        hints.append(f"an image in a registry is written `docker://{shown(name)}`")
    return problems.ImageMissing(f"there is no image at `{shown(path)}`", *hints, *nearby(path))


def is_registry_name(name: str) -> bool:
    """`library/alpine`, `ghcr.io/x/y:1`, `localhost:5000/x`."""
    parts = name.replace("@", ":").split("/")
    return len(parts) > 1 and all(is_bare(part.replace(":", "")) for part in parts)


def nearby(path: str) -> list[str]:
    """Hints about what is there instead: names like it, in the nearest folder that exists."""
    from difflib import get_close_matches
    from itertools import islice

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
    seen = [name for name in names if not name.startswith(".")]
    if not seen:
        return [f"`{shown(path)}` is there, and is empty"]
    listed = ", ".join(f"`{shown(name)}`" for name in seen[:5]) + (", …" if len(seen) > 5 else "")
    return [f"`{shown(path)}` is there, and holds {listed}"]


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
