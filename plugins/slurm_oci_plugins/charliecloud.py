"""Charliecloud's ch-run: directories and squashfs files, without root.

A squashfs file ch-run can mount itself, but then it stays as the command's parent: it passes no
signal on, and tells a death by one as 1. So squashfuse mounts the file, in the task's private
directory, and ch-run becomes the command in what is then a directory.
"""

import os

from slurm_oci import Container, File, Image, Mount, Plan, Runtime, SettingRefused
from slurm_oci.choose import helper
from slurm_oci.container import IMAGES_OWN, has_gpus, placed, workdir_in
from slurm_oci.job import STANDARD_PATH

# Of the container's variables those that ch-run changes, or would obey itself: TMPDIR must exist on
# the node, and LD_ and the like are for programs of the image.
NOT_FOR_CH_RUN = ("HOME", "TMPDIR", *IMAGES_OWN[1:])
CANNOT_MAKE = ", and this ch-run cannot make that there to mount on"
ANOTHER = "another runtime can: `slurm-oci-plugins list` shows what this node has"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def slurm_oci_runtimes() -> list[Runtime]:
    return [
        Runtime(
            name="charliecloud",
            summary="Charliecloud's ch-run: directories and squashfs, the lightest",
            accepts=("rootfs", "oci-bundle", "squashfs"),
            executables=("ch-run",),
            plan=plan,
            carries=(
                *("mounts", "workdir", "variables", "arguments", "home=none"),
                *("writable=tmp", "writable=yes", "gpu=nvidia", "gpu=amd", "gpu=none", "share=node"),
            ),
            private=("squashfs", "writable=tmp", "gpu"),
            probe=probe,
        )
    ]


def probe(executable: str) -> dict[str, bool]:
    """Which of the options that came and went this version knows (`ch-run --help`)."""
    from slurm_oci.ask import answer  # tasks take the answer from the catalog

    told = answer(executable, "--help")
    # Where there is no `--home`, `--no-home` says what is the default elsewhere (before 0.31).
    return {
        "write-fake": "--write-fake" in told,
        "no-home": "--no-home" in told and " --home" not in told,
        "cdi": "--cdi-dirs" in told and "--cdi[" in told,  # 0.40 had other options
    }


def plan(container: Container) -> Plan:
    image, settings = container.image, container.settings
    options = joining(container) if settings.share == "node" else []
    if container.probed.get("no-home", False):
        options += ["--no-home"]  # it is among the mounts, if it is wanted
    if settings.slurm == "yes":
        options += ["--no-passwd"]  # else ch-run lays its own over the host's
    if settings.writable == "yes" and not image.root:
        raise SettingRefused(
            f"{settings.origins['writable']} is `yes`: `{image.name}` is a file, which cannot change",
            "unpack it once: `unsquashfs -d DIR IMAGE`, and name DIR",
        )
    driver: tuple[Mount, ...] = ()
    notes: tuple[str, ...] = ()
    if has_gpus(container):
        container, driver, notes = with_driver(container)
    # A file is looked into when it has been mounted.
    mounts, lacking = placed(container) if image.root else (container.mounts, container.mounts)
    way = way_to_write(container, bool(lacking or driver))
    mounts = tuple(kept(mounts, lacking, way, container))
    if way and (driver or settings.writable != "no" or any(mount in lacking for mount in mounts)):
        options.append(way)
    workdir, lost = workdir_in(container.replace(mounts=mounts))
    notes += lost
    for mount in mounts:
        options += ["--bind", bind_text(mount, image)]
    if driver:
        private = container.private
        options += [f"--cdi-dirs={private}/cdi", "--cdi", "--bind", f"{private}/ch:/ch"]
    options += ["--cd", workdir]
    env = {"PATH": STANDARD_PATH, **image.env, "USER": container.job.user, **container.env}
    set_env = [name for name in NOT_FOR_CH_RUN if name in env]
    if "/bin" not in env["PATH"].split(":"):  # which it would append
        set_env.append("PATH")
    for name in set_env:
        options += ["--env-no-expand", f"--set-env={name}={quoted(env[name])}"]
        if name != "PATH":
            del env[name]

    def put(place: str, notes: tuple[str, ...]) -> Plan:
        words = (*options, place, "--", *container.command)
        return Plan(
            argv=(container.executables["ch-run"], *container.arguments, *words),
            env=env,
            folders=("cdi", "ch") if driver else (),
            files=(File("cdi/driver.json", description(driver)),) if driver else (),
            notes=notes,
        )

    if settings.writable == "tmp" and way == "--write":
        from slurm_oci_plugins import overlay

        return overlay.over(container, put(overlay.root(container), notes))
    if image.root:
        return put(image.root, notes)
    squashfuse = mounting(container)
    if not squashfuse:
        note = "without squashfuse and fusermount3 on the node no signal reaches the command"
        return put(image.path, (*notes, note))
    place = os.path.join(container.private, "image")
    from slurm_oci import lookup  # directories are looked into before

    squash, unmount = squashfuse
    # What is to be written, or laid over, must appear as the user's own.
    is_changed = settings.writable == "tmp" or driver
    owner = f",uid={container.request.uid},gid={os.getegid()}" if is_changed else ""
    targets = [mount.target for mount in mounts]
    places = tuple(
        lookup.Required(
            root=place,
            paths=(mount.target,),
            outside=tuple(target for target in targets if target != mount.target),
            problem=SettingRefused(
                f"{mount.why}: `{image.name}` lacks `{mount.target}`{CANNOT_MAKE}", ANOTHER
            ),
        )
        for mount in mounts
        if mount.wish and not can_make(mount, way)
    )
    made = put(place, notes)
    return made.replace(
        folders=("image", *made.folders),
        prepare=((squash, "-o", "ro" + owner, image.path, place),),
        required=(*places, *lookup.required(container.replace(mounts=mounts), place, env["PATH"])),
        cleanup=((unmount, "-u", "-z", place),),
    )


def with_driver(container: Container) -> tuple[Container, tuple[Mount, ...], tuple[str, ...]]:
    """The container with the variables of the step's GPUs, the driver's files for it, and notes.

    They are told to `ch-run --cdi` in a description of our own: with `--bind` it makes no mount points
    for files. It lays the kernel's overlay over the image for that. Raises SettingRefused.
    """
    from slurm_oci_plugins import gpus  # few tasks have some

    made, notes = gpus.edited(container)
    driver = tuple(mount for mount in made.mounts if mount not in container.mounts)
    fault = fault_of_cdi(container) if driver else ""
    gpu = container.settings.gpu
    if fault and gpu != "auto":
        raise SettingRefused(
            f"{container.settings.origins['gpu']} is `{gpu}`: {fault}",
            ANOTHER,
        )
    if fault:
        return container, (), (*notes, f"Slurm has granted GPUs, and the container is without them: {fault}")
    return container.replace(env=made.env), driver, notes


def fault_of_cdi(container: Container) -> str:
    """Why `ch-run --cdi` cannot be had, if it cannot."""
    image, settings = container.image, container.settings
    if not container.probed.get("cdi", False):
        return "this ch-run has no `--cdi`, which 0.45 has"
    if settings.wished("writable") and settings.writable != "tmp":
        return f"with `ch-run --cdi` {settings.origins['writable']} cannot be `{settings.writable}`"
    if image.root and os.stat(image.root).st_uid != container.request.uid:
        return (
            f"`ch-run --cdi` takes directories of your own, and squashfs files, and `{image.name}` is neither"
        )
    if odd(image.root):
        return f"`ch-run --cdi` cannot take the path `{image.root}`"
    if not image.root and not mounting(container):
        return "for files `ch-run --cdi` needs squashfuse and fusermount3 on the node"
    return ""


def description(driver: tuple[Mount, ...]) -> bytes:
    """A CDI file (Container Device Interface) that asks for these mounts."""
    import json  # few tasks have GPUs

    mounts = [
        {"hostPath": mount.source, "containerPath": mount.target, "options": ["rbind"]} for mount in driver
    ]
    spec = {
        "cdiVersion": "0.6.0",
        "kind": "slurm-oci/driver",
        "devices": [{"name": "all", "containerEdits": {}}],
        "containerEdits": {"mounts": mounts},
    }
    return os.fsencode(json.dumps(spec, ensure_ascii=False))


def way_to_write(container: Container, is_lacking: bool) -> str:
    """The option by which the image can be written, or mount points be made that it lacks; empty where
    there is none, or none is wanted. Raises SettingRefused.

    `--write-fake` is the kernel's overlay: it changes nothing that is not the user's own, and its
    options have no way to write some signs of a path.
    """
    image, settings = container.image, container.settings
    fake = container.probed.get("write-fake", False)
    if settings.writable == "yes":
        return "--write"
    if settings.writable == "no":
        if settings.wished("writable") or not is_lacking:
            return ""  # with it everything could be written
        return "--write-fake" if fake and not odd(image.root) else ""
    if image.root:
        from slurm_oci_plugins import overlay  # few tasks ask for it

        if fake and not odd(image.root) and overlay.is_own(container):
            return "--write-fake"
        if settings.share == "node":
            raise SettingRefused(
                f"{settings.origins['writable']} is `tmp`: `{image.name}` needs a layer of the task's own,"
                f" which goes with it, and {settings.origins['share']} is `node`",
                "keep one of the two: each task has a container of its own without the latter",
            )
        return "--write"  # to that layer
    if not fake:
        raise SettingRefused(
            f"{settings.origins['writable']} is `tmp`: this ch-run has no `--write-fake`, which 0.36 brought",
            "leave it out, or take another runtime: `slurm-oci-plugins list` shows what this node has",
        )
    return "--write-fake"


def odd(path: str) -> bool:
    return bool(path and set(os.path.realpath(path)) & set(",:\\"))


def joining(container: Container) -> list[str]:
    """Options by which the tasks of the step on this node meet in one container. Raises SettingRefused.

    The tag must be the same for all of them and no other step's, also where one was killed.
    """
    from slurm_oci_plugins import sharing  # few tasks ask for it

    tasks, request = sharing.tasks_here(container), container.request
    if tasks == 1:
        return []
    tag = f"slurm-oci.{request.job}.{request.step}.{sharing.parent(container)}"
    return [f"--join-ct={tasks}", f"--join-tag={tag}"]


def kept(
    mounts: tuple[Mount, ...], lacking: tuple[Mount, ...], way: str, container: Container
) -> "Iterable[Mount]":
    """What of `mounts` ch-run can do, as far as that can be told: of those that an image in a file may
    lack the wishes are `required` of it. Raises SettingRefused for a wish that it cannot do."""
    image = container.image
    is_seen_later = not image.root and bool(mounting(container))
    for mount in mounts:
        if ":" in mount.source + mount.target and not mount.wish:
            continue  # `bind_text` refuses the wishes
        if mount not in lacking or can_make(mount, way):
            yield mount
        elif way and mount.why == "the batch script":
            folder = os.path.dirname(mount.source)  # which holds this job's script and nothing else
            yield mount.replace(source=folder, target=folder)
        elif mount.wish and is_seen_later:
            yield mount
        elif mount.wish and image.root:
            raise SettingRefused(f"{mount.why}: `{image.name}` lacks `{mount.target}`{CANNOT_MAKE}", ANOTHER)
        elif mount.wish:
            raise SettingRefused(
                f"{mount.why}: `{image.name}` may lack `{mount.target}`{CANNOT_MAKE}, and without squashfuse"
                " and fusermount3 on the node nobody can look",
                ANOTHER,
            )


def can_make(mount: Mount, way: str) -> bool:
    """Whether ch-run makes the mount point: directories where it makes anything, never files."""
    return bool(way) and os.path.isdir(mount.source)


def mounting(container: Container) -> list[str]:
    """The programs that mount a squashfs file and unmount it, if this node has both."""
    found = [helper(name, container) for name in ("squashfuse", "fusermount3")]
    return found if all(found) else []


def quoted(value: str) -> str:
    """A variable's value for `--set-env`, which takes off one pair of single quotes around it."""
    return f"'{value}'" if value.startswith("'") and value.endswith("'") else value


def bind_text(mount: Mount, image: Image) -> str:
    """A mount for `--bind`, which has no sign to write a colon by and no read-only mounts."""
    others = "SLURM_OCI_RUNTIME=unshare" if image.root else "SLURM_OCI_RUNTIME=apptainer"
    if ":" in mount.source + mount.target:
        raise SettingRefused(
            f"{mount.why} asks for a mount of `{mount.source}` at `{mount.target}`:"
            " ch-run cannot mount a path with a colon",
            f"mount a directory above it, or take another runtime, as {others}",
        )
    if mount.readonly and mount.why != "the batch script":
        raise SettingRefused(
            f"{mount.why} asks for a read-only mount, which ch-run does not have",
            f"leave `ro` out, or take another runtime, as {others}",
        )
    return f"{mount.source}:{mount.target}"
