"""Bubblewrap as a container runtime, for directories: a plugin to learn from.

Put it into PREFIX/plugins.d, then run `slurm-oci-plugins compile`.
"""

from slurm_oci import Container, Mount, Plan, Runtime, SettingRefused
from slurm_oci.container import placed, workdir_in
from slurm_oci.job import STANDARD_PATH


def slurm_oci_runtimes() -> list[Runtime]:
    return [
        Runtime(
            name="bubblewrap",
            summary="bubblewrap: directories, in a mount namespace of the task's own",
            accepts=("rootfs", "oci-bundle"),
            executables=("bwrap",),
            plan=plan,
            carries=("mounts", "workdir", "variables", "home=none", "writable=yes"),
        )
    ]


def plan(container: Container) -> Plan:
    image, settings = container.image, container.settings
    mounts, lacking = placed(container)
    mounts = without(lacking, mounts, container)
    workdir, notes = workdir_in(container.replace(mounts=mounts))

    options = ["--bind" if settings.writable == "yes" else "--ro-bind", image.root, "/"]
    options += ["--dev-bind", "/dev", "/dev", "--bind", "/proc", "/proc", "--ro-bind", "/sys", "/sys"]
    for mount in mounts:
        options += ["--ro-bind" if mount.readonly else "--bind", mount.source, mount.target]
    argv = (container.executables["bwrap"], *options, "--chdir", workdir, "--", *container.command)
    env = {"PATH": STANDARD_PATH, **image.env, **container.env}
    return Plan(argv, env, notes=notes)


def without(lacking: tuple[Mount, ...], mounts: tuple[Mount, ...], container: Container) -> tuple[Mount, ...]:
    """Leaves out the defaults whose place the image lacks; what somebody asked for is refused."""
    for mount in lacking:
        if mount.wish:
            raise SettingRefused(
                f"{mount.why}: `{container.image.name}` has no `{mount.target}` to mount on",
                "make it in the image, or choose another runtime: `slurm-oci-plugins list`",
            )
    return tuple(mount for mount in mounts if mount not in lacking)
