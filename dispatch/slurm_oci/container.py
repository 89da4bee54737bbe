"""From request, job, image and settings to the `Container` that every runtime understands."""

import os

from slurm_oci import problems
from slurm_oci.rootfs import is_below, resolve
from slurm_oci.values import TYPE_CHECKING, Container, Image, Job, Mount, Request, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# What an image has its own of: the host's would break programs inside.
IMAGES_OWN = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT")
# The profile `slurm`: what Slurm, MPI libraries and GPU drivers read, by the starts of the names.
SLURMS_OWN = (
    *("SLURM", "SBATCH_", "SRUN_", "PMI_", "PMI2_", "PMIX_", "OMPI_", "PRTE_", "MPICH_", "MPIR_"),
    *("I_MPI_", "UCX_", "NCCL_", "FI_", "CUDA_", "NVIDIA_", "ROCR_", "HIP_", "GPU_", "ZE_"),
    *("OMP_", "TMPDIR"),
)
# Directories that every image has its own of: the job's is never laid over them.
SYSTEM = ("/bin", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr")
# What Slurm sets for a step with GPUs: numbers of the node's first, then what programs shall count by.
GRANTED = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
# Of the host's own in a container: what the kernel shows, for which there would have to be more namespaces
# than a job has, and how names are looked up.
HOST = ("/dev", "/proc", "/sys")
HOST_FILES = ("/etc/hosts", "/etc/resolv.conf")
MOUNTINFO = "/proc/self/mountinfo"  # proc(5)
TOP = ("/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/var")


def build(
    request: Request, job: Job, image: Image, settings: Settings, is_argument: bool = False
) -> Container:
    """The container that the task asks for. `is_argument`: its command goes to the image's entry point.

    Raises RequestMalformed, ArgumentTooLong, SettingRefused, MpiRefused, CommandMissing.
    """
    command = request.command
    if image.kind == "oci-bundle":
        from slurm_oci import bundle  # only bundles pay for it

        if not command or bundle.is_slurms(image.path, request.spool):
            command = tuple(image.config["process"].get("args", ()))
    if not command and settings.entrypoint == "no":
        raise problems.RequestMalformed(
            f"there is no command to run in `{image.name}`", "name one after the image"
        )
    container = Container(
        request=request,
        job=job,
        image=image,
        settings=settings,
        command=command,
        env=variables(job, settings),
        mounts=mounts(request, job, image, settings, command),
        workdir=settings.workdir or job.cwd,
    )
    if "PMI_FD" in job.env:
        from slurm_oci import mpi  # only tasks that are offered it pay for it

        container = container.replace(descriptors=mpi.descriptors(request, job.env))
    require_image_lets_go(image, settings)
    require_short(container)
    if request.step_kind == "batch":
        if image.root and command:
            from slurm_oci import lookup  # once for a job

            lookup.require_interpreter(container)
    elif command:
        is_argument = is_argument or settings.entrypoint == "yes"
        container = container.replace(command=command_in(container, is_argument))
    return container


def require_short(container: Container) -> None:
    """Raises ArgumentTooLong for a word or variable that no program can be given: every runtime would
    fail over it in words of its own (execve(2), MAX_ARG_STRLEN)."""
    longest = 32 * os.sysconf("SC_PAGE_SIZE") - 1
    texts = ((f"word {number} of the command", word) for number, word in enumerate(container.command))
    pairs = ((f"the variable `{name}`", f"{name}={value}") for name, value in container.env.items())
    for what, text in (*texts, *pairs):
        if 4 * len(text) > longest and len(os.fsencode(text)) > longest:
            raise problems.ArgumentTooLong(
                f"{what} is {len(os.fsencode(text))} bytes long: the kernel passes {longest} at most",
                "put it into a file, and the file's name in its place",
            )


def variables(job: Job, settings: Settings) -> dict[str, str]:
    """The container's variables by profile; what the image has its own of is left to it.

    An environment definition takes a variable away by setting it to an empty text.
    """
    kept = {name: value for name, value in job.env.items() if is_kept(name, settings.env)}
    found = {**kept, **settings.variables}
    return {name: value for name, value in found.items() if value or name not in settings.variables}


def require_image_lets_go(image: Image, settings: Settings) -> None:
    """Raises SettingRefused for a variable to be taken away that the image declares itself."""
    for name, value in settings.variables.items():
        if not value and name in image.env:
            raise problems.SettingRefused(
                f"{settings.origins['variables']} takes away `{name}`, which the image itself declares",
                f"take it away in the command: env -u {name} COMMAND",
            )


def is_kept(name: str, profile: str) -> bool:
    if profile == "job":
        return name not in IMAGES_OWN
    return profile == "all" or (profile == "slurm" and name.startswith(SLURMS_OWN))


def mounts(
    request: Request, job: Job, image: Image, settings: Settings, command: tuple[str, ...]
) -> tuple[Mount, ...]:
    """The wishes, and of the defaults those whose place is not taken; parents before children."""
    found = {mount.target: mount for wish in settings.mounts for mount in as_far_as_it_reaches(wish)}
    if image.kind == "oci-bundle":
        from slurm_oci import bundle  # only bundles pay for it

        found = {**{mount.target: mount for mount in bundle.own_mounts(image)}, **found}
    if settings.slurm == "yes":
        from slurm_oci import client  # few tasks ask for it

        for mount in client.mounts(job, settings):
            found.setdefault(mount.target, mount)
    if request.step_kind == "batch" and command and os.path.exists(command[0]):
        # Slurm keeps the job script in its spool directory, which no container has.
        script = command[0]
        found.setdefault(script, Mount(script, script, True, True, "the batch script"))
    places = [("/tmp", "/tmp")]
    if settings.home == "bind":
        places.append((job.home, "home"))
    places.append((job.cwd, "the job's directory"))
    for place, why in places:
        wish = why == "home" and settings.wished("home")
        if is_free(place, found) and is_ours(place, image):
            found[place] = Mount(place, place, False, wish, why)
    if "PMIX_NAMESPACE" in job.env:
        from slurm_oci import mpi  # only tasks that are offered it pay for it

        of_server = mpi.server_mount(request, job.env)
        if of_server and is_free(of_server.target, found):
            found[of_server.target] = of_server
    return tuple(sorted(found.values(), key=lambda mount: mount.target))


def has_gpus(container: Container) -> bool:
    """Whether the task shall have GPUs: asked for by vendor, or granted by Slurm and not declined."""
    gpu = container.settings.gpu
    return gpu not in ("auto", "none") or (gpu == "auto" and any(map(container.job.env.get, GRANTED)))


def as_far_as_it_reaches(mount: Mount) -> "Iterable[Mount]":
    """`mount`, and where it is read-only each of the node's mounts below its source as one of its own:
    what makes a mount read-only makes no other so that lies in it (mount(2), MS_REMOUNT)."""
    yield mount
    if not mount.readonly:
        return
    folder = mount.source.rstrip("/") + "/"
    with open(MOUNTINFO, "rb", 0) as file:
        # `splitlines` takes a carriage return for an end too, which the kernel leaves in a name.
        places = [os.fsdecode(line.split(b" ")[4]) for line in file.read().split(b"\n") if line]
    for place in sorted({unescaped(place) for place in places}):
        if place.startswith(folder) and os.path.exists(place):  # and can be reached
            yield mount.replace(source=place, target=mount.target.rstrip("/") + place[len(folder) - 1 :])


def unescaped(place: str) -> str:
    """A path in mountinfo, which writes white space and backslashes as octal numbers (proc(5))."""
    first, *rest = place.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def is_free(place: str, found: "Mapping[str, Mount]") -> bool:
    """Whether the default mount of `place` neither repeats nor hides one that was asked for."""
    return not any(
        is_below(place, target) or (is_below(target, place) and mount.wish and not os.path.exists(target))
        for target, mount in found.items()
    )


def is_ours(place: str, image: Image) -> bool:
    """Whether the host's directory `place` may be laid over the image's by default."""
    if place == "/tmp":
        return True
    if not place.startswith("/") or any(is_below(place, folder) for folder in SYSTEM):
        return False
    if place in TOP:  # images have things of their own there
        return place != "/" and bool(image.root) and not resolve(image.root, place)[1]
    return os.path.isdir(place)


def command_in(container: Container, is_argument: bool) -> tuple[str, ...]:
    """The command, checked against the image where that can be looked into. Raises CommandMissing."""
    program, root = container.command[0], container.image.root
    if program.startswith("/"):
        if any(is_below(program, mount.target) for mount in container.mounts):
            return container.command
        if resolve(root, program)[1] if root else container.settings.command == "as-given":
            return container.command
    elif is_argument or (program and not root):
        return container.command
    from slurm_oci import lookup

    return lookup.command(container, is_argument)


def with_host(container: Container, folders: "Iterable[str]" = HOST) -> Container:
    """For runtimes that do not see to it themselves: the container with mounts of the host's own
    `folders`, and of its files for looking names up where the image has their place."""
    root, taken = container.image.root, {mount.target for mount in container.mounts}
    files = (path for path in HOST_FILES if not root or os.path.lexists(root + path))
    paths = [*folders, *filter(os.path.exists, files)]
    added = [Mount(path, path, wish=False, why="the host's own") for path in paths if path not in taken]
    ordered = sorted([*container.mounts, *added], key=lambda mount: mount.target)
    return container.replace(mounts=tuple(ordered))


def placed(container: Container) -> tuple[tuple[Mount, ...], tuple[Mount, ...]]:
    """For runtimes that start from a root directory: the mounts with their targets' links followed
    in the image, and those among them whose target is not there.

    What would have to be made in another mount's source is left out. Raises SettingRefused for a
    wish of that kind.
    """
    ready: list[Mount] = []
    lacking = []
    for mount in container.mounts:
        outer = next((m for m in reversed(ready) if is_below(mount.target, m.target)), None)
        if outer:
            if os.path.exists(outer.source + mount.target[len(outer.target.rstrip("/")) :]):
                ready.append(mount)
            elif mount.wish:
                raise problems.SettingRefused(
                    f"{mount.why} asks for a mount at `{mount.target}`, which lies in the mount of"
                    f" `{outer.source}` and is not there",
                    f"make it: mkdir -p {outer.source}{mount.target[len(outer.target) :]}",
                )
            continue
        target, there = resolve(container.image.root, mount.target)
        ready.append(mount.replace(target=target))
        if not there:
            lacking.append(ready[-1])
    return tuple(ready), tuple(lacking)


def workdir_in(container: Container) -> tuple[str, tuple[str, ...]]:
    """Where the command starts, seen from the image's root directory and the mounts, and a note
    if that is not the job's directory. Raises SettingRefused for a wish that cannot be had.

    A file cannot be looked into: there a wish stays as it is, for the runtime to try.
    """
    workdir = container.workdir
    for mount in reversed(container.mounts):
        if is_below(workdir, mount.target):
            inside = mount.source + workdir[len(mount.target.rstrip("/")) :]
            there = inside == container.job.cwd or os.path.isdir(inside)  # the former is where we are
            break
    else:
        if not container.image.root and (container.workdir_wished or workdir == "/"):
            return workdir, ()
        inside, there = resolve(container.image.root, workdir)
        there = there and bool(container.image.root) and os.path.isdir(container.image.root + inside)
    return (workdir, ()) if there else no_workdir(container)


def no_workdir(container: Container) -> tuple[str, tuple[str, ...]]:
    """`/` and a note for a default that cannot be had. Raises SettingRefused for a wish."""
    if container.workdir_wished:
        raise workdir_missing(container)
    why = "the image has no" if container.image.root else "a file cannot be searched for"
    return "/", (f"the command starts in `/`: {why} `{container.workdir}`",)


def workdir_missing(container: Container) -> problems.Problem:
    """What is wrong where the directory that was asked for is not there."""
    workdir = container.workdir
    return problems.SettingRefused(
        f"{container.settings.origins['workdir']} is `{workdir}`, which is not in `{container.image.name}`",
        f"mount it, as in SLURM_OCI_MOUNTS={workdir}:{workdir}, or name a directory of the image",
    )


def require_utf8(runtime: str, container: Container) -> None:
    """Raises ArgumentRefused where something that the runtime is told is not UTF-8, for runtimes that
    would change it."""
    for what, text in told(container):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise problems.ArgumentRefused(
                f"{what} is not UTF-8, and `{runtime}` would change it",
                "charliecloud and unshare carry any bytes: SLURM_OCI_RUNTIME=unshare",
            ) from None


def told(container: Container) -> "Iterable[tuple[str, str]]":
    """Every text of the user's that a runtime is told, with what it is. (Not the values of variables
    in what it is called: they may be secrets.)"""
    for number, word in enumerate(container.command):
        yield f"word {number} of the command, `{word[:80]}`,", word
    for name, value in {**container.image.env, **container.env}.items():
        yield f"the name of the variable `{name}`", name
        yield f"the value of the variable `{name}`", value
    for mount in container.mounts:
        yield f"the source of a mount ({mount.why}), `{mount.source}`,", mount.source
        yield f"the target of a mount ({mount.why}), `{mount.target}`,", mount.target
    yield f"the working directory, `{container.workdir}`,", container.workdir
    image = container.image.root or container.image.path or container.image.name
    yield f"the image's path, `{image}`,", image
