"""nvidia-container-runtime: runc with NVIDIA's devices and libraries added to the bundle.

It adds them when the word `create` is on its command line, and on `run` it adds nothing. So the
container is created, started and waited for, by `foreground.py` beside this file. It writes into
the bundle's config.json, which is the task's own copy.
"""

import os
import sys

from slurm_oci import Container, Plan, Runtime
from slurm_oci_plugins import carried, oci

NAME = "nvidia-container-runtime"


def slurm_oci_runtimes() -> list[Runtime]:
    return [
        Runtime(
            name=NAME,
            summary="NVIDIA's wrapper of runc: bundles, with NVIDIA GPUs",
            accepts=("oci-bundle",),
            executables=(NAME,),
            plan=plan,
            check=lambda container: oci.step_by_step(as_run(container)),
            carries=(
                *("mounts", "workdir", "variables", "arguments", "home=none"),
                *("writable=tmp", "writable=yes", "gpu=nvidia", "gpu=none"),
            ),
            private=("oci-bundle",),
        )
    ]


def as_run(container: Container) -> Plan:
    """The plan with `run`, to which no devices would be added."""
    oci.require_home(container)
    container = container.replace(env={**container.env, **carried.nvidia_devices(container)})
    log = os.path.join(container.private, "log")
    # A terminal of the container's own would need a program that holds its other end.
    return oci.plan_for(
        container, NAME, ("--rootless=true", "--log", log), own_terminal=False, needs_root=True
    )


def plan(container: Container) -> Plan:
    made = as_run(container)
    at = made.argv.index("run")
    runtime, words = made.argv[:at], made.argv[at + 1 :]
    pid_file = os.path.join(container.private, "pid")
    create = (*runtime, "create", "--pid-file", pid_file, *words)
    start = (*runtime, "start", oci.NAME)
    foreground = os.path.join(os.path.dirname(__file__), "foreground.py")
    argv = (sys.executable, "-ISBXutf8", foreground, pid_file, *create, "then", *start)
    return made.replace(argv=argv, leaves="")  # what was created stays until it is deleted
