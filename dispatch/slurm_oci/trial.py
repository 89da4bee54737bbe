"""A task without Slurm: what `explain` and `run` decide about."""

import os
from typing import Any

from slurm_oci import catalog, job
from slurm_oci.installed_slurm import this_node
from slurm_oci.main import Decision, decide, ready
from slurm_oci.request import is_number
from slurm_oci.values import Job, Request

NO_JOB = 0


def request_for(image: str, command: tuple[str, ...]) -> tuple[Request, Job]:
    """The request and the job context that a first task of this user would have here.

    Inside a job they are that job's: `explain` shows what a step of it would get.
    """
    env = {name: value for name, value in job.at_start().items() if name not in job.OWN}
    job_id = env.get("SLURM_JOB_ID", "")
    here = int(job_id) if is_number(job_id) else NO_JOB
    blank = Request(image, "", "", os.geteuid(), this_node(), here, 0, 0, command)
    notes: list[str] = []
    user, home, shell = job.passwd_entry(blank, notes)
    context = Job(env, "process", job.directory([]), user, home, shell, tuple(notes))
    return blank.replace(user=user), context


def decision_for(
    prefix: str,
    image: str,
    command: tuple[str, ...],
    trace: list[tuple[str, str, str]],
    private_directory: Any,
    made: Any = None,
    is_ready: bool = False,
) -> Decision:
    """What would be done for `image` and `command`; with `is_ready` it can be, that is, an image that
    must be unpacked first is. `made`: the catalog, if it is there already.

    Raises Problem.
    """
    request, context = request_for(image, command)
    trace.append(("environment", "process", "no Slurm: this shell's variables are the job's"))
    made = made or catalog_of(prefix)

    def decided() -> Decision:
        return decide(request, context, dict(os.environ), made, prefix, trace, private_directory)

    return ready(decided, trace, made["site"]) if is_ready else decided()


def catalog_of(prefix: str) -> Any:
    return catalog.read(prefix) or catalog.build(prefix)
