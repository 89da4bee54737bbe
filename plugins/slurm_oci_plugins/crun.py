"""crun: OCI bundles, each task from a copy of the bundle's config.json."""

from slurm_oci import Container, Plan, Runtime
from slurm_oci_plugins import oci


def slurm_oci_runtimes() -> list[Runtime]:
    return [
        Runtime(
            name="crun",
            summary="crun, the OCI runtime in C: bundles",
            accepts=("oci-bundle",),
            executables=("crun",),
            plan=plan,
            check=lambda container: oci.step_by_step(plan(container)),
            version=("--root=/tmp", "--version"),  # as a user without /run/user/UID it would say no more
            carries=(
                *("mounts", "workdir", "variables", "arguments", "home=none"),
                *("writable=tmp", "writable=yes", "gpu=nvidia", "gpu=amd", "gpu=none"),
            ),
            private=("oci-bundle",),
        )
    ]


def plan(container: Container) -> Plan:
    # The job stays in the control group that Slurm gave it.
    container, notes = oci.with_gpus(container)
    made = oci.plan_for(container, "crun", ("--cgroup-manager=disabled",))
    return made.replace(notes=(*made.notes, *notes))
