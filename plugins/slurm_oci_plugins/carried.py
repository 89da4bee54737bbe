"""What the option syntax of a runtime can carry. The rest is refused by name where somebody asked
for it, and left out where it is only a default."""

import os

from slurm_oci import Container, Mount, SettingRefused, problems
from slurm_oci.rootfs import is_below

# What the C library takes away from a setuid program: the names in glibc's unsecvars.h since 2.17.
TAKEN_AWAY = (
    *("GCONV_PATH", "GETCONF_DIR", "GLIBC_TUNABLES", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH", "NIS_PATH"),
    *("NLSPATH", "RESOLV_HOST_CONF", "RES_OPTIONS", "TMPDIR", "TZDIR"),
)

# The beginning of a script for the image's shell: it goes to the first word, takes the next ones up to
# an empty one as variables that a shell would otherwise keep for itself, and becomes the rest.
ENTER = """cd -- "$1" || exit 125
shift
while [ -n "$1" ]; do export "$1"; shift; done
shift
exec "$@"
"""
SHELLS_OWN = ("IFS", "PS1")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def mounts(container: Container, fault: "Callable[[Mount], str]") -> tuple[Mount, ...]:
    """The container's mounts without those in which `fault` finds something, and without those whose
    place would have to be made in another mount's source. Raises SettingRefused for a wish."""
    kept: list[Mount] = []
    for mount in container.mounts:
        found = fault(mount) or buried(mount, kept)
        if found and mount.wish:
            raise refusal(mount, found)
        if not found:
            kept.append(mount)
    return tuple(kept)


def refusal(mount: Mount, fault: str) -> problems.Problem:
    return SettingRefused(
        f"{mount.why} asks for a mount of `{mount.source}` at `{mount.target}`: {fault}",
        "another runtime may: `slurm-oci-plugins list` shows what this node has",
    )


def through_shell(variables: "dict[str, str]", names: "tuple[str, ...]" = SHELLS_OWN) -> tuple[str, ...]:
    """The words for `ENTER` between the directory and the command, with the empty one."""
    return (*(f"{name}={variables[name]}" for name in names if name in variables), "")


def is_taken_away(name: str) -> bool:
    """Whether a setuid program finds this variable neither in its own environment nor passes it on."""
    return name.startswith(("LD_", "MALLOC_", "RTLD_")) or name in TAKEN_AWAY


def buried(mount: Mount, before: list[Mount]) -> str:
    outer = next((other for other in reversed(before) if is_below(mount.target, other.target)), None)
    if outer is None or os.path.exists(outer.source + mount.target[len(outer.target.rstrip("/")) :]):
        return ""
    return f"the place lies in the mount of `{outer.source}` and is not there"


def variables(
    container: Container, fault: "Callable[[str, str], str]"
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The container's variables without those in which `fault` finds something, and a note that
    names these. Raises SettingRefused for one that an environment definition sets."""
    kept, lost = {}, {}
    for name, value in {**container.image.env, **container.env}.items():
        found = fault(name, value)
        if found and name in container.settings.variables:
            raise SettingRefused(
                f"{container.settings.origins['variables']} sets `{name}`: {found}",
                "another runtime may: `slurm-oci-plugins list` shows what this node has",
            )
        if found:
            lost[name] = found
        else:
            kept[name] = value
    notes = (f"left out of the container's variables: {named(lost)}",) if lost else ()
    return kept, notes


def named(lost: dict[str, str]) -> str:
    """`A, B (why); C (why else)`."""
    by_fault: dict[str, list[str]] = {}
    for name, fault in lost.items():
        by_fault.setdefault(fault, []).append(name)
    return "; ".join(f"{', '.join(names)} ({fault})" for fault, names in by_fault.items())


def nvidia_devices(container: Container) -> dict[str, str]:
    """NVIDIA_VISIBLE_DEVICES, by which NVIDIA's tools choose the devices to bring along.

    `all` where Slurm has granted some: its control group leaves no others to see, and where it has
    none, CUDA_VISIBLE_DEVICES holds the programs to what was granted. (A device's number in there
    is not always the one that NVIDIA_VISIBLE_DEVICES would want.)
    """
    gpu, env = container.settings.gpu, container.job.env
    if gpu == "none":
        return {"NVIDIA_VISIBLE_DEVICES": "void"}
    granted = any(env.get(name) for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES"))
    if "NVIDIA_VISIBLE_DEVICES" in container.env or not (granted or gpu == "nvidia"):
        return {}
    return {"NVIDIA_VISIBLE_DEVICES": "all"}
