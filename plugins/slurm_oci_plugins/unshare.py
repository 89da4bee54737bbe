"""The built-in fallback: a user and a mount namespace of the kernel's, and nothing else.

It runs root file system directories and bundles on a node that has no container runtime at all.
The namespaces are made by `enter.py` beside this file, from the operations planned here.
"""

import os
import sys

from slurm_oci import Container, Plan, Runtime
from slurm_oci.container import IMAGES_OWN, has_gpus, placed, with_host, workdir_in
from slurm_oci.cover import covers
from slurm_oci.job import STANDARD_PATH


def slurm_oci_runtimes() -> list[Runtime]:
    return [
        Runtime(
            name="unshare",
            summary="built-in fallback: user and mount namespaces of the kernel, no state",
            accepts=("rootfs", "oci-bundle"),
            plan=plan,
            carries=(
                *("mounts", "workdir", "variables", "home=none"),
                *("writable=tmp", "writable=yes", "gpu=nvidia", "gpu=amd", "gpu=none"),
            ),
            private=("writable=tmp",),
        )
    ]


def plan(container: Container) -> Plan:
    notes: tuple[str, ...] = ()
    if has_gpus(container):
        from slurm_oci_plugins import gpus  # few tasks have some

        container, notes = gpus.edited(container)
    if container.settings.writable == "tmp":
        from slurm_oci_plugins import overlay  # few tasks ask for it

        if not overlay.is_own(container):
            return overlay.over(container, plan_for(container, "yes", overlay.root(container), notes))
    return plan_for(container, container.settings.writable, container.image.root, notes)


def plan_for(container: Container, writable: str, place: str, more: tuple[str, ...]) -> Plan:
    """The plan for the image that will lie at `place`; `writable` as enter.py's MODE, `more` notes."""
    root = container.image.root
    container = with_host(container)
    mounts, lacking = placed(container)
    workdir, notes = workdir_in(container)
    operations = ["image", writable, place]
    fresh = []
    for cover in covers(root, mounts, lacking):
        if writable != "yes":  # else the places are made in the image itself
            operations += ["tmpfs", cover.parent]
            for path in (*cover.folders, *cover.files):
                operations += ["own", path]
            for path, target in cover.links:
                operations += ["link", target, path]
        for path in cover.new_folders:
            operations += ["folder", path]
        for path in cover.new_files:
            operations += ["file", path]
        fresh += ["readonly", cover.parent] if writable == "no" else []
    for mount in mounts:
        operations += ["bind", mount.source, mount.target]
        operations += ["readonly", mount.target] if mount.readonly else []
    operations += fresh

    env = {"PATH": STANDARD_PATH, **container.image.env, **container.env}
    for name in IMAGES_OWN[1:]:  # not for the Python in between
        if name in env:
            operations += ["variable", name, env.pop(name)]
    # That Python adds or changes it where the locale is C (PEP 538).
    operations += ["variable", "LC_CTYPE", env["LC_CTYPE"]] if "LC_CTYPE" in env else ["unset", "LC_CTYPE"]
    enter = os.path.join(os.path.dirname(__file__), "enter.py")
    argv = (sys.executable, "-ISBXutf8", enter, *operations, "start", workdir, *container.command)
    return Plan(argv, env, cwd="/", notes=(*notes, *more))
