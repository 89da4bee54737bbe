"""runc: OCI bundles, each task from a copy of the bundle's config.json."""

import os

from slurm_oci import Container, Plan, Runtime
from slurm_oci_plugins import oci


def slurm_oci_runtimes() -> list[Runtime]:
    return [
        Runtime(
            name="runc",
            summary="runc, the reference OCI runtime: bundles",
            accepts=("oci-bundle",),
            executables=("runc",),
            plan=plan,
            check=lambda container: oci.step_by_step(plan(container)),
            carries=(
                *("mounts", "workdir", "variables", "arguments", "home=none"),
                *("writable=tmp", "writable=yes", "gpu=nvidia", "gpu=amd", "gpu=none"),
            ),
            private=("oci-bundle",),
        )
    ]


def plan(container: Container) -> Plan:
    oci.require_home(container)
    container, notes = oci.with_gpus(container)
    # rootless: control groups that it may not write are passed over.
    # Its warnings about them go into a file; what ends it is said on stderr all the same.
    log = os.path.join(container.private, "log")
    made = oci.plan_for(container, "runc", ("--rootless=true", "--log", log), needs_root=True)
    return made.replace(notes=(*made.notes, *notes))
