"""Where a command is in the image, where it is not simply the path that was named.

`srun` looks a bare name up in PATH on the submit host and passes what it finds there (srun(1),
"execution line"): an image may have the program elsewhere, or not at all.
"""

import os

from slurm_oci import problems
from slurm_oci.container import workdir_missing
from slurm_oci.job import STANDARD_PATH, content
from slurm_oci.problems import Problem, nearest
from slurm_oci.rootfs import find_command, is_below, resolve
from slurm_oci.values import TYPE_CHECKING, Container, Image, Value

if TYPE_CHECKING:
    from collections.abc import Iterator

OF_APPTAINER = "/.singularity.d/env"  # scripts that it reads inside, which may set any PATH
OF_ENROOT = "/etc/environment"  # lines that it reads inside
LIKE_IT = 5000  # programs that are looked through for a name that is near


def command(container: Container, is_argument: bool) -> tuple[str, ...]:
    """The command as the runtime shall get it. An argument of the image's entry point is a program only
    if `srun` has found it. Raises CommandMissing."""
    program, *arguments = container.command
    if not program:
        raise problems.CommandMissing(
            "the command's first word is empty",
            'is a variable empty or misspelt, as in `srun --container=IMAGE "$PROGRAM"`?',
        )
    folder, name = os.path.split(program)
    searched = f"{container.job.env.get('PATH', '')}:{STANDARD_PATH}".split(":")
    is_found_by_srun = bool(name) and folder in searched
    in_image, root = container.settings.command == "in-image", container.image.root
    if not root:  # what cannot be looked into: every runtime looks a bare name up in the container's PATH
        return (name, *arguments) if in_image and is_found_by_srun else container.command
    if (folder and not program.startswith("/")) or (is_argument and not is_found_by_srun):
        return container.command
    path = container.env.get("PATH") or container.image.env.get("PATH") or STANDARD_PATH
    inside = find_command(root, name, path, container.workdir) if name else ""
    if inside and (not folder or in_image):
        return (inside if folder else name, *arguments)
    if not folder and may_be_elsewhere(name, path, container):
        return container.command
    raise missing(program, inside, path, container)


def may_be_elsewhere(name: str, path: str, container: Container) -> bool:
    """Whether `name` can be in a mount, or in a PATH that the image's own files set."""
    root = container.image.root
    targets = [resolve(root, mount.target)[0] for mount in container.mounts]
    for folder in path.split(":"):
        place = resolve(root, os.path.join(folder or container.workdir, name))[0]
        if any(is_below(place, target) for target in targets):
            return True
    if container.env.get("PATH") or container.image.env.get("PATH"):
        return False
    of_enroot = path_of_enroot(root)
    is_enroots = bool(of_enroot and find_command(root, name, of_enroot, container.workdir))
    return is_enroots or resolve(root, OF_APPTAINER)[1]


def path_of_enroot(root: str) -> str:
    file = root + resolve(root, OF_ENROOT)[0]
    try:
        lines = content(file).splitlines() if os.path.isfile(file) else []
    except OSError:
        return ""
    paths = (os.fsdecode(line)[5:].strip("'\"") for line in lines if line.startswith(b"PATH="))
    return next(paths, "")


def missing(program: str, inside: str, path: str, container: Container) -> Problem:
    name, image = os.path.basename(program), container.image
    near = nearest(name, programs(image.root, path)) if name and image.root and not inside else ""
    meant = [f"did you mean `{near}`?"] if near else []
    unlike = [*no_root_file_system(image)]
    if program == name:
        return problems.CommandMissing(
            f"the image `{image.name}` has no `{name}` in its PATH",
            *unlike,
            *meant,
            f"it was looked for in {path}",
        )
    if inside:
        hint = f"the image has `{inside}`: write that, or set SLURM_OCI_COMMAND=in-image"
    elif image.root:
        hint = f"the image has no `{name}` in {path}"
    else:
        hint = "write the path that it has in the image, or set SLURM_OCI_COMMAND=in-image"
    return problems.CommandMissing(
        f"the image `{image.name}` has no `{program}`",
        *unlike,
        f"srun looks a bare `{name}` up on the submit host and passes what it finds there; {hint}",
        *meant,
    )


def no_root_file_system(image: Image) -> "Iterator[str]":
    """That a directory does not look like one: any without a `config.json` is taken for an image."""
    if image.kind != "rootfs" or any(resolve(image.root, top)[1] for top in ("/bin", "/usr")):
        return
    try:
        names = sorted(os.listdir(image.root))
    except OSError:
        return
    from slurm_oci.image_problems import holding

    yield f"it has neither `bin` nor `usr`, and {holding(names)}: is the image in it, or elsewhere?"


def require_interpreter(container: Container) -> None:
    """Raises CommandMissing for a batch script whose first line names a program that the image has not,
    in a directory where no mount has brought it: runtimes say then that the script is missing."""
    try:
        with open(container.command[0], "rb", 0) as file:
            line = file.read(256).partition(b"\n")[0]
    except OSError:
        return  # which the runtime says
    words = os.fsdecode(line[2:]).split()
    program = words[0] if line.startswith(b"#!") and words else ""
    root = container.image.root
    place, is_there = resolve(root, program)
    if os.path.dirname(program) not in STANDARD_PATH.split(":") or is_there:
        return
    if any(is_below(place, resolve(root, mount.target)[0]) for mount in container.mounts):
        return
    name, path = os.path.basename(program), container.image.env.get("PATH") or STANDARD_PATH
    inside = find_command(root, name, path, container.workdir)
    other = [f"the image has `{inside}`: let it begin with that"] if inside else []
    if not inside and name.endswith("sh") and resolve(root, "/bin/sh")[1]:
        other = ["the image has `/bin/sh`: let it begin with that, if it needs no more"]
    raise problems.CommandMissing(
        f"the batch script begins with `#!{program}`, and the image `{container.image.name}` has no"
        f" `{program}`",
        *other,
        "a script on the host can start containers: `--container` for each `srun` in it, none for `sbatch`",
    )


def programs(root: str, path: str) -> list[str]:
    """The names of what the image has in the directories of `path`."""
    found: dict[str, None] = {}
    for folder in path.split(":"):
        try:
            found |= dict.fromkeys(os.listdir(root + resolve(root, folder)[0]))
        except OSError:
            continue
    return sorted(found)[:LIKE_IT]


class Required(Value):
    """What must be in an image that is mounted for the task, when it is."""

    root: str  # the directory where it will be
    paths: tuple[str, ...]  # in the image: one of them; a directory, where it ends in `/`
    outside: tuple[str, ...]  # what lies below one of these paths comes from a mount
    problem: Problem  # what is raised if it is not there

    def is_there(self) -> bool:
        places = (resolve(self.root, path) for path in self.paths)
        return any(there or any(is_below(place, mount) for mount in self.outside) for place, there in places)


def required(container: Container, root: str, path: str) -> tuple[Required, ...]:
    """What the command needs of an image that will be mounted at `root`: its program, looked for in
    `path` if it is a bare name, and the directory that was asked for."""
    program, workdir = container.command[0], container.workdir
    outside = tuple(mount.target for mount in container.mounts)
    found = []
    if container.workdir_wished:
        found.append(Required(root, (workdir + "/",), outside, workdir_missing(container)))
    if program.startswith("/"):
        places = [program]
    elif "/" in program:
        return tuple(found)
    else:
        places = [os.path.join(folder or workdir, program) for folder in path.split(":")]
    return (*found, Required(root, tuple(places), outside, missing(program, "", path, container)))
