"""Which kind of image a tar file is, by the members that it begins with."""

import os

from slurm_oci import problems
from slurm_oci.image import HEAD
from slurm_oci.image_problems import quoted, shown, unknown
from slurm_oci.problems import Problem
from slurm_oci.values import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def kind_of(path: str, descriptor: int, compression: str, said: str) -> str:
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
