"""What an image is, decided by content: `classify("rootfs", "/home/alice").kind`.

On the way of every task: few file-system calls (a bundle takes two, any other directory three, a
file four), and nothing imported before something is an archive or an error.
"""

import _stat as stat  # the C module, of which `stat` itself makes more than is needed
import os

from slurm_oci.values import TYPE_CHECKING, Image

if TYPE_CHECKING:
    from types import ModuleType

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
            raise wrong().nameless(name)
        found = kind_of(path, said=kind)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not kind and is_word(name):
            return Image(name, "name")
        raise wrong().not_accessible(name, cwd, path, error) from None
    except ValueError:  # never from a command line, but a TOML file can write such characters
        raise wrong().no_path(name) from None
    if kind and kind != found:
        raise wrong().other_kind(name, path, kind, found)
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
        raise wrong().nameless(name)
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


def kind_of(path: str, said: str) -> str:
    """The kind of what is at `path`. `said`: what the user says an archive is, it can be both."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        return directory_kind(path)
    if stat.S_ISREG(mode):  # nothing else is ever opened: that can hang, or do something
        return file_kind(path, said)
    raise wrong().no_file(path, mode)


def directory_kind(path: str) -> str:
    config = type_of(path + "/config.json")
    if config and not stat.S_ISREG(config) and not stat.S_ISLNK(config):
        raise wrong().no_configuration(path, config)
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
        compression = next((name for magic, name in COMPRESSIONS.items() if head.startswith(magic)), "")
        if compression or head[257:262] == b"ustar":  # tar(5)
            from slurm_oci import archive

            return archive.kind_of(path, descriptor, compression, said)
    finally:
        os.close(descriptor)
    if path.endswith(".toml"):
        return "environment"
    raise wrong().unknown(path, head)


def wrong() -> "ModuleType":
    """What to say where something is wrong with an image."""
    from slurm_oci import image_problems

    return image_problems
