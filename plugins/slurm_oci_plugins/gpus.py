"""GPUs by CDI, the Container Device Interface: what a vendor's tool has written down for this node of
the device nodes, driver files and variables that a container needs.

For runtimes that get the host's /dev as a whole the device nodes are there, and Slurm's control group
decides which can be opened. Hooks need root or a writable image: what NVIDIA's are for, the links to
libraries and the linker's cache, is done by mounts of the links' names and LD_LIBRARY_PATH.
"""

import os

from slurm_oci import Container, Mount, SettingRefused, cdi
from slurm_oci.container import GRANTED, has_gpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

KINDS = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}


def granted(container: Container) -> str:
    """The GPUs of the step, as Slurm's variables say: `0,2`; empty for none."""
    env = container.job.env
    return next((env[name] for name in GRANTED if env.get(name)), "")


def devices(container: Container) -> tuple[list[str], tuple[str, ...]]:
    """The CDI names of the step's devices (`nvidia.com/gpu=0`), and notes: for a runtime that reads the
    files itself, and fails where one names what is not there.

    Raises SettingRefused where a vendor's were asked for and nothing on the node describes them.
    """
    if not has_gpus(container):
        return [], ()
    known, unknown = cdi.specs(container.prefix)
    names, notes = chosen(container, known, unknown)
    gone = missing(container, names, known, "the task is without them")
    return ([] if gone else names), (*notes, *gone)


def chosen(
    container: Container, known: "dict[str, cdi.Spec]", unknown: list[str]
) -> tuple[list[str], tuple[str, ...]]:
    """The same, from what is `known` of the files and the paths of those of which it is `unknown`. A
    name is the number on the node where the file has it, else `all`, of which the control group shows
    the step's own."""
    gpu, numbers = container.settings.gpu, granted(container)
    for vendor in KINDS if gpu == "auto" else (gpu,):
        kind = KINDS[vendor]
        specs = [spec for spec in known.values() if spec.get("kind") == kind]
        names = {device["name"] for spec in specs for device in spec["devices"]}
        wanted = [number for number in numbers.split(",") if number in names]
        if not wanted or len(wanted) < len(numbers.split(",")):
            wanted = ["all"] if "all" in names else sorted(names)
        if wanted:
            return [f"{kind}={name}" for name in wanted], ()
    if gpu != "auto":
        label = container.settings.origins["gpu"]
        if unknown:
            raise SettingRefused(f"{label} is `{gpu}`: {cdi.not_kept(unknown[0])}", f"the site: {cdi.KEEP}")
        raise SettingRefused(
            f"{label} is `{gpu}`: no file in /etc/cdi or /var/run/cdi describes devices of `{KINDS[gpu]}`",
            f"the site: {cdi.MADE_BY[gpu]}",
        )
    if unknown:
        return [], (f"Slurm has granted GPUs: {cdi.not_kept(unknown[0])}; the site: {cdi.KEEP}",)
    return [], ("Slurm has granted GPUs, and no file in /etc/cdi says what the container needs for them",)


def missing(
    container: Container, names: list[str], known: "dict[str, cdi.Spec]", outcome: str
) -> tuple[str, ...]:
    """A note on the files for these devices that are not on the node, as those of a driver that is gone,
    with the outcome. Raises SettingRefused where the devices were asked for."""
    gone = [
        (path, mount["hostPath"])
        for path, edits in edits_of(names, known)
        for mount in edits.get("mounts") or ()
        if not os.path.exists(mount["hostPath"])
    ]
    if not gone:
        return ()
    path, first = gone[0]
    more = f" and {len(gone) - 1} more" if gone[1:] else ""
    fault = f"`{path}` names `{first}`{more}, which this node does not have"
    gpu = container.settings.gpu
    if gpu != "auto":
        raise SettingRefused(
            f"{container.settings.origins['gpu']} is `{gpu}`: {fault}",
            f"the site: write it anew for the driver that is there: {cdi.MADE_BY[gpu]}",
        )
    return (f"Slurm has granted GPUs, and {fault}: {outcome}",)


def edited(container: Container) -> tuple[Container, tuple[str, ...]]:
    """The container with the mounts and variables of the step's devices, and notes."""
    if not has_gpus(container):
        return container, ()
    known, unknown = cdi.specs(container.prefix)
    names, notes = chosen(container, known, unknown)
    if not names:
        return container, notes
    notes += missing(container, names, known, "that is left out")
    env = dict(container.env)
    mounts = {mount.target: mount for mount in container.mounts}
    label = container.settings.origins.get("gpu", "the step's GPUs")
    folders = []
    for _, edits in edits_of(names, known):
        env |= dict(text.partition("=")[::2] for text in edits.get("env") or ())
        for mount in edits.get("mounts") or ():
            source, target = mount["hostPath"], os.path.normpath(mount["containerPath"])
            if not os.path.exists(source):
                continue
            for name in (os.path.basename(target), *links_to(source)):
                place = os.path.join(os.path.dirname(target), name)
                is_wish = container.settings.wished("gpu")
                readonly = "ro" in (mount.get("options") or ())
                mounts.setdefault(place, Mount(source, place, readonly, is_wish, label))
            if ".so" in os.path.basename(target):
                folders.append(os.path.dirname(target))
    if folders:
        old = (env.get("LD_LIBRARY_PATH") or container.image.env.get("LD_LIBRARY_PATH", "")).split(":")
        env["LD_LIBRARY_PATH"] = ":".join(dict.fromkeys(filter(None, [*old, *folders])))
    ordered = sorted(mounts.values(), key=lambda mount: mount.target)
    return container.replace(env=env, mounts=tuple(ordered)), notes


def links_to(library: str) -> "Iterable[str]":
    """The other names of a library in its directory, as `libcuda.so.1` of `libcuda.so.550.54.14`."""
    folder, name = os.path.split(library)
    stem = name.partition(".so")[0] + ".so"
    if stem == name + ".so" or not os.path.isdir(folder):
        return
    for other in sorted(os.listdir(folder)):
        path = os.path.join(folder, other)
        if other != name and other.startswith(stem) and os.path.realpath(path) == os.path.realpath(library):
            yield other


def edits_of(names: list[str], known: "dict[str, cdi.Spec]") -> "Iterable[tuple[str, dict[str, Any]]]":
    """The edits of these devices with the path of their file, each file's own before. What counts first
    describes a device alone."""
    left = set(names)
    for path, spec in known.items():
        wanted = [device for device in spec["devices"] if f"{spec.get('kind')}={device['name']}" in left]
        left.difference_update(f"{spec.get('kind')}={device['name']}" for device in wanted)
        for each in (spec, *wanted) if wanted else ():
            yield path, each.get("containerEdits") or {}
