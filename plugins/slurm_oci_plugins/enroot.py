"""enroot: squashfs files and directories, without root.

Variables and mounts go through a configuration script (`--conf`), since the options for them can
carry neither white space nor colons, and cost a process each. The command goes through a script of
ours (`--rc`), or the image's own entry point would get it. Everything lies in the task's private
directory. Read in enroot's own source, 3.3 to 4.1.
"""

import os

from slurm_oci import Container, File, Mount, Plan, Runtime, SettingRefused, problems
from slurm_oci.choose import helper
from slurm_oci.container import require_utf8, workdir_in
from slurm_oci.job import STANDARD_PATH
from slurm_oci_plugins import carried

QUOTES = "'\""
FSTAB_LINE = 4096  # bytes, in enroot-mount.c
# enroot sources it: what it shall print is in the files beside it. A PATH of the image's own stays.
CONF = f"""environ() {{
    grep -q '^PATH=' "$ENROOT_ENVIRON" || echo 'PATH={STANDARD_PATH}'
    cat "${{ENROOT_RUNTIME_PATH%/*}}/environ"
}}
mounts() {{ cat "${{ENROOT_RUNTIME_PATH%/*}}/fstab"; }}
"""
# SHELL is the one by which enroot would choose what runs this, and not the job's.
RC = "unset SHELL\n" + carried.ENTER


def slurm_oci_runtimes() -> list[Runtime]:
    return [
        Runtime(
            name="enroot",
            summary="enroot, NVIDIA's: squashfs, directories",
            accepts=("squashfs", "rootfs", "name"),
            executables=("enroot",),
            plan=plan,
            carries=(
                *("mounts", "workdir", "variables", "arguments", "home=none"),
                *("writable=tmp", "writable=yes", "gpu=nvidia", "gpu=none"),
            ),
            private=("squashfs", "rootfs", "name"),
            variables=("ENROOT_",),
            version=("version",),
        )
    ]


def plan(container: Container) -> Plan:
    require_utf8("enroot", container)
    settings, private = container.settings, container.private
    is_stored = container.image.kind == "name"
    if settings.writable == ("tmp" if is_stored else "yes"):
        raise SettingRefused(
            f"{settings.origins['writable']} is `{settings.writable}`: "
            + ("what enroot has unpacked keeps" if is_stored else "what enroot mounts for the task loses")
            + " every change",
            "`tmp` is for files and directories, `yes` for what `enroot create` has unpacked",
        )
    place, prepare = place_of(container)
    mounts = carried.mounts(container, fault_of_mount)
    workdir, notes = workdir_in(container.replace(mounts=mounts))
    container = container.replace(env={**without_own(container), **gpu_variables(container)})
    variables, lost = carried.variables(container, fault_of)
    shells = carried.through_shell(variables, ("SHELL", *carried.SHELLS_OWN))
    variables.pop("SHELL", None)
    environ = "".join(f"{name}={quoted(value)}\n" for name, value in variables.items())
    env = {
        "PATH": STANDARD_PATH,
        "HOME": container.job.home,
        "USER": container.job.user,
        "XDG_RUNTIME_DIR": private,
        "ENROOT_CACHE_PATH": os.path.join(private, "cache"),
        "ENROOT_TEMP_PATH": os.path.join(private, "temp"),
        # The user's own store for a name; else enroot would make it in his home.
        **({} if is_stored else {"ENROOT_DATA_PATH": os.path.join(private, "data")}),
        "ENROOT_LOGIN_SHELL": "n",  # it would replace the image's PATH
        "ENROOT_MOUNT_HOME": "n",  # it is among the mounts, if it is wanted
        "ENROOT_REMAP_ROOT": "n",
        "ENROOT_ROOTFS_WRITABLE": "n" if settings.writable == "no" else "y",
        **container.own,
        # The configuration script finds its files by it.
        "ENROOT_RUNTIME_PATH": os.path.join(private, "run"),
    }
    options = ("--conf", os.path.join(private, "conf"), "--rc", os.path.join(private, "rc"))
    start = (container.executables["enroot"], "start", *container.arguments, *options)
    return Plan(
        argv=(*start, "--", place, workdir, *shells, *container.command),
        env=env,
        folders=("run", "cache", "temp", "data"),
        files=(
            File("conf", CONF.encode()),
            File("rc", RC.encode()),
            File("environ", environ.encode()),
            File("fstab", "".join(map(fstab_line, mounts)).encode()),
        ),
        prepare=prepare,
        notes=(*notes, *lost),
    )


def without_own(container: Container) -> dict[str, str]:
    """The variables but those of the job that enroot itself is given: they are not lost."""
    settled = container.settings.variables
    return {
        name: value for name, value in container.env.items() if name not in container.own or name in settled
    }


def gpu_variables(container: Container) -> dict[str, str]:
    """NVIDIA_VISIBLE_DEVICES, for enroot's hook, which fails where NVIDIA's program is not on the node.

    Raises SettingRefused where somebody asked for NVIDIA's.
    """
    found = carried.nvidia_devices(container)
    if found.get("NVIDIA_VISIBLE_DEVICES") != "all" or helper("nvidia-container-cli", container):
        return found
    if container.settings.gpu == "nvidia":
        raise SettingRefused(
            f"{container.settings.origins['gpu']} is `nvidia`: enroot needs `nvidia-container-cli` for that,"
            " which is not on this node",
            "the site: it is in NVIDIA's package libnvidia-container-tools",
        )
    return {}


def place_of(container: Container) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """What `enroot start` is told of the image, and the commands that make it.

    A directory becomes a squashfs file: enroot would write into the directory itself.
    """
    image, made = container.image, os.path.join(container.private, "image.sqsh")
    if image.kind == "name":
        return image.name, ()
    if image.kind == "rootfs":
        mksquashfs = helper("mksquashfs", container)
        if not mksquashfs:
            raise problems.RuntimeMissing(
                "`enroot` needs `mksquashfs` for a directory, which is not on this node",
                "the site: it is in the package squashfs-tools",
            )
        # Not compressed: it is read once.
        options = ("-noI", "-noD", "-noF", "-noX", "-no-progress", "-quiet")
        return made, ((mksquashfs, image.root, made, *options),)
    if "'" in os.path.realpath(image.path):
        raise problems.ImageRefused(
            f"`enroot` would read the quote in the image's path `{image.path}` as one of its shell's",
            "rename it, or choose another runtime: `slurm-oci-plugins list` shows what this node has",
        )
    return image.path, ()


def fault_of(name: str, value: str) -> str:
    """Why the file that enroot reads its variables from cannot carry this one."""
    if not (name.isascii() and name.isidentifier()):
        return "enroot wants a name of letters, digits and `_`"
    if name.startswith("ENROOT_"):
        return "enroot keeps its own for itself"
    return "enroot cannot carry a newline" if "\n" in value else ""


def fault_of_mount(mount: Mount) -> str:
    if set(mount.source + mount.target) & set("\v\f\r"):  # blanks to musl, and no escape for glibc
        return "enroot cannot carry a carriage return, a form feed or a vertical tab"
    return "" if len(os.fsencode(fstab_line(mount))) < FSTAB_LINE else "enroot cannot carry so long a path"


def quoted(value: str) -> str:
    """A value for that file. enroot goes over it twice, and each time takes off a pair of quotes round
    the whole value, be they alike or not."""
    bare = value.rstrip(" \t\r\v\f")
    is_stripped = len(bare) > 1 and bare[0] in QUOTES and bare[-1] in QUOTES
    return f'""{value}""' if is_stripped else value


def fstab_line(mount: Mount) -> str:
    """A bind mount as fstab(5) writes it, which getmntent(3) reads. enroot makes the mount point."""
    kind = "dir" if os.path.isdir(mount.source) else "file"
    flags = f"x-create={kind},rbind,{'ro' if mount.readonly else 'rw'},nosuid,nodev,rslave"
    return f"{escaped(mount.source)} {escaped(mount.target)} none {flags}\n"


def escaped(path: str) -> str:
    return "".join(f"\\{ord(sign):03o}" if sign in " \t\n\\" else sign for sign in path)
