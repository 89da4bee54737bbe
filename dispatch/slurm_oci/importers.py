"""Programs that make of an image one of another kind: what is unpacked once, not by every task.

The table is data. What a runtime takes only after an importer has worked is decided from it when
the plugins are asked, and is in the catalog; `slurm_oci.importing` starts the programs.
"""

from slurm_oci.image import tag
from slurm_oci.values import TYPE_CHECKING, Image, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Words = tuple[str, ...]
    Commands = Callable[[Image, Mapping[str, str]], tuple[Words, ...]]

ARCHIVES = ("oci-archive", "docker-archive")
# Names in the directory that an importer's commands start in. A path there holds no sign that a
# program would take for more than a path.
SOURCE = "source"  # a link to the image, where it is a file
LAYOUT = "layout"  # an OCI layout of the one image `TAG`
TAG = "image"
RESULT = "result"  # what they make; for an oci-bundle a directory that is there, and empty


class Importer(Value):
    """A way to make an image of another kind, on this node and as its user.

    `commands(image, programs)` are started one after the other in a directory that holds, for an
    archive, `source`, and for an oci-layout, `layout` (see `slurm_oci.importing.made`); `programs`
    are its executables' paths by name.
    """

    name: str
    takes: tuple[str, ...]  # image kinds
    gives: str  # the kind of the result
    executables: tuple[str, ...]  # all are needed
    commands: "Commands"
    schemes: tuple[str, ...] = ()  # of the references it takes


def takes(importer: Importer, image: Image) -> bool:
    """Whether the importer can do something with this image."""
    is_known = image.kind != "reference" or scheme(image) in importer.schemes
    return image.kind in importer.takes and is_known


def scheme(image: Image) -> str:
    return image.name.partition("://")[0]


def by_umoci(image: Image, programs: "Mapping[str, str]") -> "tuple[Words, ...]":
    """`umoci raw`, since `umoci unpack` writes a check sum of every file besides."""
    of = ("--rootless", "--image", f"{LAYOUT}:{TAG}")
    return (
        (programs["umoci"], "raw", "unpack", *of, f"{RESULT}/rootfs"),
        (programs["umoci"], "raw", "runtime-config", *of, "--rootfs", f"{RESULT}/rootfs", config()),
    )


def config() -> str:
    return f"{RESULT}/config.json"


def by_skopeo(image: Image, programs: "Mapping[str, str]") -> "tuple[Words, ...]":
    copy = (programs["skopeo"], "copy", "--retry-times", "2", location(image), f"oci:{LAYOUT}:{TAG}")
    return (copy, *by_umoci(image, programs))


def builder(program: str) -> "Commands":
    """The commands of apptainer, or of what has its command line."""

    def by_build(image: Image, programs: "Mapping[str, str]") -> "tuple[Words, ...]":
        # Of a layout apptainer knows no tags; there is but one image in this one.
        source = f"oci:{LAYOUT}" if image.kind == "oci-layout" else location(image)
        return ((programs[program], "build", RESULT, source),)

    return by_build


def by_enroot(image: Image, programs: "Mapping[str, str]") -> "tuple[Words, ...]":
    return ((programs["enroot"], "import", "--output", RESULT, enroots_name(image.name)),)


def location(image: Image) -> str:
    """The image as skopeo and apptainer are told of it (containers-transports(5))."""
    if image.kind == "reference":
        return image.name
    return ":".join(filter(None, (image.kind, SOURCE, tag(image))))


def enroots_name(name: str) -> str:
    """`docker://HOST/PATH` with the `#` after the host by which every version of enroot knows it."""
    scheme, _, rest = name.partition("://")
    host, slash, path = rest.partition("/")
    is_host = "." in host or ":" in host.rpartition("@")[2] or host == "localhost"
    return (
        f"{scheme}://{host}#{path}" if scheme == "docker" and slash and is_host and "#" not in rest else name
    )


ANY = ("reference", "oci-layout", *ARCHIVES)
BUILT = ("docker", "oras", "library", "shub")  # what apptainer and singularity fetch

# Best first: a directory needs no mounting, and most runtimes take it.
TABLE = (
    Importer("umoci", ("oci-layout",), "oci-bundle", ("umoci",), by_umoci),
    Importer(
        "skopeo+umoci", ("reference", *ARCHIVES), "oci-bundle", ("skopeo", "umoci"), by_skopeo, ("docker",)
    ),
    Importer("apptainer", ANY, "sif", ("apptainer",), builder("apptainer"), BUILT),
    Importer("singularity", ANY, "sif", ("singularity",), builder("singularity"), BUILT),
    Importer(
        "enroot", ("reference",), "squashfs", ("enroot",), by_enroot, ("docker", "dockerd", "podman")
    ),
)  # fmt: skip


def by_name(name: str) -> Importer:
    return next(importer for importer in TABLE if importer.name == name)
