"""`share=node`: one container for the tasks of a step on a node, by the means that a runtime has.

Those means let tasks find each other by the process that has started them all, slurmstepd.
"""

import os

from slurm_oci import Container, SettingRefused


def tasks_here(container: Container) -> int:
    """How many tasks of the step run on this node; 1 where nobody says.

    SLURM_STEP_TASKS_PER_NODE is such as `4(x2),3`: four on the first two nodes of the step, three on
    the next. SLURM_NODEID says which one this is (srun(1), OUTPUT ENVIRONMENT VARIABLES).
    """
    env = container.job.env
    if container.request.step_kind != "step":
        return 1  # the script of `sbatch`, or a shell
    here = int(env["SLURM_NODEID"]) if env.get("SLURM_NODEID", "").isdecimal() else 0
    for part in env.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        count, _, repeated = part.removesuffix(")").partition("(x")
        if not count.isdecimal() or not (repeated or "1").isdecimal():
            break
        here -= int(repeated or 1)
        if here < 0:
            return int(count)
    return 1


def parent(container: Container) -> int:
    """The process by which the tasks find each other. Raises SettingRefused where it is not theirs."""
    number = os.getppid()
    try:
        with open(f"/proc/{number}/comm", "rb", 0) as file:
            name = os.fsdecode(file.read().rstrip(b"\n"))
    except OSError:
        name = "gone"
    if name != "slurmstepd":
        raise SettingRefused(
            f"{container.settings.origins['share']} is `node`: the tasks of a step find each other by"
            f" slurmstepd, which has started them, and this one's parent is `{name}`",
            "in oci.conf and in ~/.slurm-oci-run there must be an `exec` before what they start",
        )
    return number
