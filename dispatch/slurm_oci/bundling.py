"""An OCI bundle of whatever holds a root file system, by the programs that are on this host.

What unpacks layouts, archives and references for tasks (`slurm_oci.importers`) comes first; what is
here besides takes the other kinds of images, distributions, and the stores of podman and Docker.
"""

import json
import os
import pwd
import re
import shlex
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

from slurm_oci import bundle, images, importers, importing, rootfs, state
from slurm_oci.choose import find_executable
from slurm_oci.container import HOST
from slurm_oci.image import KINDS, classify
from slurm_oci.importers import RESULT, SOURCE, Importer
from slurm_oci.job import STANDARD_PATH
from slurm_oci.problems import ImageRefused, ImportFailed, Problem
from slurm_oci.values import Image, Job

Words = tuple[str, ...]
Commands = Callable[[Image, Mapping[str, str]], tuple[Words, ...]]

ROOTFS = f"{RESULT}/rootfs"
TAR = "rootfs.tar"
INSPECTED = "inspected"  # what podman or Docker say of the image
STORES = ("podman", "docker")
DISTRIBUTIONS = ("mmdebstrap", "debootstrap", "dnf", "yum")
FROM = (*(kind for kind in KINDS if kind not in ("name", "environment")), *STORES, *DISTRIBUTIONS)
PACKAGES = ("bash", "coreutils", "glibc-minimal-langpack")  # for dnf and yum; what these need comes along
OF_BUNDLE = 0o755


class BundleRefused(Problem):
    """The OCI bundle cannot be made where, of what or for whom it was asked for."""

    area = "image"


class BundlerMissing(Problem):
    """No program on this host can make an OCI bundle of this source."""

    area = "runtime"
    status = 127


# How

SHELL = ("/bin/sh", "-c")
UNPACK = ("--extract", "--file", TAR, "--directory", ROOTFS)


def by_copy(image: Image, programs: Mapping[str, str]) -> tuple[Words, ...]:
    return ((programs["cp"], "--archive", "--reflink=auto", f"{SOURCE}/.", ROOTFS),)


def by_unsquashfs(image: Image, programs: Mapping[str, str]) -> tuple[Words, ...]:
    # An ordinary user can make no device files; all else is there, and that is told as well.
    return ((programs["unsquashfs"], "-no-exit-code", "-dest", ROOTFS, SOURCE),)


def sandbox(program: str) -> Commands:
    def by_build(image: Image, programs: Mapping[str, str]) -> tuple[Words, ...]:
        source = SOURCE if image.kind == "sif" else importers.location(image)
        return ((programs[program], "build", "--sandbox", ROOTFS, source),)

    return by_build


def by_podman(image: Image, programs: Mapping[str, str]) -> tuple[Words, ...]:
    """In a store of its own, which goes with the directory."""
    own = ("--root", "store", "--runroot", "run", "--storage-driver", "vfs")
    podman = (programs["podman"], *own, "--storage-opt", "vfs.ignore_chown_errors=true")
    location = (
        f"oci:{importers.LAYOUT}:{importers.TAG}" if image.kind == "oci-layout" else importers.location(image)
    )
    pull = (*podman, "pull", "--quiet", location)
    return (pull, *exported(podman, programs))


def exported(engine: Words, programs: Mapping[str, str], name: str = "") -> tuple[Words, ...]:
    """The words after which the image `name`, or the only one there is, lies in `TAR`."""
    shell = (
        "set -e; name=$1; shift; made=\n"
        'trap "exit 1" INT TERM HUP; trap \'[ -z "$made" ] || "$0" "$@" rm "$made"\' EXIT\n'
        '[ "$name" ] || name=$("$0" "$@" images --quiet | head -n 1)\n'
        f'"$0" "$@" image inspect --format "{{{{json .Config}}}}" "$name" > {INSPECTED}\n'
        'made=$("$0" "$@" create "$name" /bin/true)\n'
        f'"$0" "$@" export --output {TAR} "$made"'
    )
    extract = (programs["tar"], *UNPACK)
    return ((*SHELL, shell, engine[0], name, *engine[1:]), (programs["mkdir"], ROOTFS), extract)


def by_store(program: str) -> Commands:
    def by_export(image: Image, programs: Mapping[str, str]) -> tuple[Words, ...]:
        host = os.environ.get("DOCKER_HOST") if program == "docker" else ""
        engine = (programs[program], *(("--host", host) if host else ()))
        return exported(engine, programs, image.name)

    return by_export


def by_mmdebstrap(image: Image, programs: Mapping[str, str]) -> tuple[Words, ...]:
    """Through an archive: what an ordinary user unpacks belongs to the user alone."""
    suite, *mirror = image.name.split(maxsplit=1)
    # It works under subordinate ids, which may not enter the user's own directories.
    make = (programs["env"], "TMPDIR=/tmp", programs["mmdebstrap"], "--variant=minbase", "--skip=output/dev")
    return ((*make, suite, TAR, *mirror), (programs["mkdir"], ROOTFS), (programs["tar"], *UNPACK))


def by_debootstrap(image: Image, programs: Mapping[str, str]) -> tuple[Words, ...]:
    suite, *mirror = image.name.split(maxsplit=1)
    return ((programs["debootstrap"], "--variant=minbase", suite, ROOTFS, *mirror),)


def with_install_root(program: str) -> Commands:
    """As in the guide, but with packages, which it forgets, and with their signatures checked."""

    def by_install(image: Image, programs: Mapping[str, str]) -> tuple[Words, ...]:
        # The install root is an absolute path for dnf: the shell knows where it is.
        words = ("--assumeyes", f"--releasever={image.name}", "--setopt=install_weak_deps=False", "install")
        script = f'exec "$0" --installroot="$PWD/{ROOTFS}" "$@"'
        return ((*SHELL, script, programs[program], *words, *PACKAGES),)

    return by_install


WITH_TAR = ("tar", "mkdir")
PULLED = ("reference", "oci-layout", *importers.ARCHIVES)
# Best first, after those of `importers` that give a bundle.
TABLE = (
    *(way for way in importers.TABLE if way.gives == "oci-bundle"),
    Importer("podman", PULLED, "oci-bundle", ("podman", *WITH_TAR), by_podman, ("docker",)),
    *(
        Importer(
            program, ("sif", "reference", *importers.ARCHIVES), "oci-bundle", (program,), sandbox(program),
            importers.BUILT,
        )
        for program in ("apptainer", "singularity")
    ),
    Importer("unsquashfs", ("squashfs",), "oci-bundle", ("unsquashfs",), by_unsquashfs),
    Importer("cp", ("rootfs", "oci-bundle"), "oci-bundle", ("cp",), by_copy),
    *(
        Importer(store, (store,), "oci-bundle", (store, *WITH_TAR), by_store(store)) for store in STORES
    ),
    Importer("mmdebstrap", ("mmdebstrap",), "oci-bundle", ("mmdebstrap", "env", *WITH_TAR), by_mmdebstrap),
    Importer("debootstrap", ("debootstrap",), "oci-bundle", ("debootstrap",), by_debootstrap),
    *(
        Importer(name, (name,), "oci-bundle", (name,), with_install_root(name)) for name in ("dnf", "yum")
    ),
)  # fmt: skip
AS_ROOT = ("debootstrap", "dnf", "yum")


# What and by what


@attrs.frozen
class Way:
    """How a bundle is made of one image."""

    image: Image
    importer: Importer
    programs: Mapping[str, str]


def chosen(source: str, kind: str = "") -> Way:
    """The first way whose programs are here. `kind`: what `source` is, where it is not found out.

    Raises BundleRefused, BundlerMissing, and what `classify` raises.
    """
    image = image_of(source, kind)
    fit = [importer for importer in TABLE if importers.takes(importer, image)]
    for importer in fit:
        programs = {name: find_executable(name, {}, (STANDARD_PATH,)) for name in importer.executables}
        if all(programs.values()):
            if importer.name in AS_ROOT and os.geteuid():
                raise BundleRefused(
                    f"{importer.name} installs packages as root alone",
                    "call it with sudo; `--from mmdebstrap` needs no root",
                )
            return Way(image, importer, programs)
    would = [
        " and ".join(name for name in way.executables if name not in ("cp", "env", *WITH_TAR)) for way in fit
    ]
    raise BundlerMissing(
        f"no program on this host makes a bundle of `{image.name}`, of kind {image.kind}",
        f"install one of: {'; '.join(would)}"
        if would
        else "its scheme is known to no program: try docker://",
    )


def image_of(source: str, kind: str) -> Image:
    if kind in (*STORES, *DISTRIBUTIONS):
        if not source.strip() or source.startswith("-"):
            raise BundleRefused(
                f"`{source}` is nothing that {kind} could know", "docs/bundles.md has examples"
            )
        return Image(source, kind)
    image = classify(source, os.getcwd())
    if image.kind in ("name", "environment"):
        raise BundleRefused(
            f"`{source}` is {KINDS[image.kind]}, and no image that can be unpacked",
            f"docker://{source} fetches it; --from podman or docker takes it from there"
            if image.kind == "name"
            else "name the image that is in it",
            f"a distribution is made by --from {', '.join(DISTRIBUTIONS)}",
        )
    if kind and kind != image.kind:
        raise ImageRefused(f"`{source}` is of kind {image.kind}, not {kind}", "leave --from out")
    if image.kind in ("rootfs", "oci-bundle"):
        return bundle.opened(image)
    return image


# Making it


def make(way: Way, dest: str, user: pwd.struct_passwd, tell: Callable[[str], None]) -> None:
    """Makes the bundle at `dest`, for `user`; `tell` gets a line for each program that is run.

    Nothing is left where it fails or a signal ends it. Raises BundleRefused, ImportFailed,
    ImageBroken, and importing.Interrupted.
    """
    dest = os.path.abspath(dest)
    if os.path.lexists(dest):
        raise BundleRefused(f"`{dest}` is there already", "name another place, or remove it first")
    try:
        work = tempfile.mkdtemp(prefix=f".{os.path.basename(dest)}.", dir=os.path.dirname(dest))
    except OSError as error:
        raise BundleRefused(
            f"nothing can be made in `{os.path.dirname(dest)}`: {error.strerror}",
            "the bundle grows beside DEST: name a place in a directory of yours",
        ) from None
    try:
        with interruptible():
            run(way, work, tell)
            write_config(way, work, user)
            result = os.path.join(work, RESULT)
            images.without_privileges(result)
            os.chmod(result, OF_BUNDLE)
            if os.path.lexists(dest):
                raise BundleRefused(f"`{dest}` has come up meanwhile", "name another place")
            os.rename(result, dest)
    finally:
        state.remove(work)


@contextmanager
def interruptible() -> Iterator[None]:
    """Signals that would end the program raise Interrupted instead."""

    def interrupt(number: int, frame: object) -> None:
        raise importing.Interrupted(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(way: Way, work: str, tell: Callable[[str], None]) -> None:
    folder = way.image.kind in ("rootfs", "oci-bundle")
    # The programs get a name without odd signs: of a bundle, that of its root file system.
    image = way.image.replace(path=way.image.root) if folder else way.image
    importing.prepare(way.importer, image, work)
    runs = importing.Runs(work, whoever_asks(), lambda: None)
    for argv in way.importer.commands(way.image, way.programs):
        tell(told(argv))
        status = runs.status(argv)
        if status:
            what = f"{program(argv)[0]} ended with {status}"
            hints = importing.last_lines(runs.log)
            raise ImportFailed(f"no bundle can be made of `{way.image.name}`: {what}", *hints)
    if not os.path.isdir(os.path.join(work, ROOTFS)):
        raise ImportFailed(
            f"{way.importer.name} made no root file system of `{way.image.name}`",
            *importing.last_lines(runs.log),
        )


def told(argv: Words) -> str:
    """A program's first words, as a line about what is being done."""
    return " ".join([word for word in program(argv) if word][:4]) + " …"


def program(argv: Words) -> Words:
    """The name of the program that does the work, and its words."""
    words = argv[len(SHELL) + 1 :] if argv[:2] == SHELL else argv
    words = words[2:] if os.path.basename(words[0]) == "env" else words
    return (os.path.basename(words[0]), *words[1:])


def whoever_asks() -> Job:
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError:
        return Job(dict(os.environ), "process", os.getcwd(), str(os.geteuid()), "/", "/bin/sh")
    return Job(dict(os.environ), "process", os.getcwd(), entry.pw_name, entry.pw_dir, entry.pw_shell)


# config.json

DEFAULTS: Mapping[str, Any] = {"args": ["/bin/sh"], "env": [], "cwd": "/"}
RUNTIME_SPECIFICATION = "1.0.2"


def write_config(way: Way, work: str, user: pwd.struct_passwd) -> None:
    process = {**DEFAULTS, **{key: value for key, value in declared(way, work).items() if value}}
    if not any(variable.startswith("PATH=") for variable in process["env"]):
        process["env"] = [f"PATH={STANDARD_PATH}", *process["env"]]
    for place in HOST:  # who runs the bundle may not be allowed to make them
        if not os.path.lexists(os.path.join(work, ROOTFS) + place):
            os.mkdir(os.path.join(work, ROOTFS) + place)
    path = os.path.join(work, RESULT, "config.json")
    if os.path.lexists(path):
        os.unlink(path)
    with open(path, "x", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(config(process, user), file, indent=4)
        file.write("\n")
        os.fchmod(file.fileno(), 0o644)


def config(process: Mapping[str, Any], user: pwd.struct_passwd) -> dict[str, Any]:
    """What runc and crun run as `user`, without root, in the job's own control group and network.

    Source: the OCI Runtime Specification, config.md; `runc spec --rootless`.
    """
    # A new procfs, sysfs or /dev needs namespaces that a job has not, and MPI and GPUs need what is in the
    # host's. Nothing but rbind: another option would be a remount, which a user may not do to these.
    mounts = [{"destination": path, "type": "none", "source": path, "options": ["rbind"]} for path in HOST]
    return {
        "ociVersion": RUNTIME_SPECIFICATION,
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},  # the user, by the mappings below
            **process,
            "noNewPrivileges": True,
        },
        # Slurm and the runtime make places for what is mounted; the bundle is its owner's.
        "root": {"path": "rootfs", "readonly": False},
        "mounts": mounts,
        "linux": {
            "uidMappings": [{"containerID": 0, "hostID": user.pw_uid, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": user.pw_gid, "size": 1}],
            "namespaces": [{"type": "user"}, {"type": "mount"}],
        },
    }


def declared(way: Way, work: str) -> dict[str, Any]:
    """What the image says of its process: args, env, cwd, as far as it is known."""
    if way.image.kind == "oci-bundle":
        return {key: way.image.config["process"].get(key) for key in DEFAULTS}
    inspected = os.path.join(work, INSPECTED)
    if os.path.exists(inspected):
        return of_image(importing.read_json(inspected))
    if os.path.exists(os.path.join(work, importers.LAYOUT)) and way.importer.name.endswith("umoci"):
        layout = os.path.join(work, importers.LAYOUT)
        manifest = importing.read_json(importing.blob(layout, importing.manifest_of(layout, importers.TAG)))
        return of_image(importing.read_json(importing.blob(layout, manifest["config"])).get("config") or {})
    return of_sif(os.path.join(work, ROOTFS)) if way.image.kind == "sif" else {}


OF_SIF = ".singularity.d"  # what apptainer and singularity keep of the image that a SIF was made of
SETS = re.compile(r'export ([A-Za-z_]\w*)="(?:\$\{\1:-"([^"\\$`]*)"\}|([^"\\$`]*))"')


def of_sif(root: str) -> dict[str, Any]:
    """The variables and the command of the OCI image that a SIF was made of; values that only a shell
    could tell are left out."""
    exports = map(SETS.fullmatch, lines_of(root, f"{OF_SIF}/env/10-docker2singularity.sh"))
    env = [f"{found[1]}={found[2] or found[3] or ''}" for found in exports if found]
    said = {"OCI_ENTRYPOINT": "", "OCI_CMD": ""}
    for line in lines_of(root, f"{OF_SIF}/runscript")[:10]:
        name, _, value = line.partition("=")
        if name in said:
            said[name] = value
    try:
        args = [word for value in said.values() for text in shlex.split(value) for word in shlex.split(text)]
    except ValueError:
        args = []
    return {"args": args, "env": env}


def lines_of(root: str, name: str) -> list[str]:
    """Of a file in the root file system, which a link in there does not leave."""
    path, _ = rootfs.resolve(root, name)
    try:
        with open(root + path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().split("\n")
    except OSError:
        return []


def of_image(found: Mapping[str, Any]) -> dict[str, Any]:
    """From an image's configuration (the OCI Image Specification, config.md)."""
    args = [*(found.get("Entrypoint") or []), *(found.get("Cmd") or [])]
    return {"args": args, "env": found.get("Env") or [], "cwd": found.get("WorkingDir") or ""}
