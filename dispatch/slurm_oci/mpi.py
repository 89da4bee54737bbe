"""What Slurm offers a task for MPI, and what of it a container has to be given on purpose.

PMI2 speaks over a descriptor that the task inherits, PMI_FD. PMIx speaks over TCP, and by files in
a directory of its server's, PMIX_SERVER_TMPDIR, which lies in Slurm's spool directory for the step.
The variables of either go by the profile, as all others.

Sources: Slurm's src/plugins/mpi/pmi2 and mpi/pmix; oci.conf(5), MountSpoolDir.
"""

import os

from slurm_oci import problems, slurm_conf
from slurm_oci.values import TYPE_CHECKING, Container, Job, Mount, Request, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

WITHOUT = "if the command uses no MPI, take nothing of it: srun --mpi=none"
OFFERS = {"PMI_JOBID": "PMI2", "PMIX_NAMESPACE": "PMIx"}


def offered(request: Request, env: "Mapping[str, str]") -> str:
    """`PMI2` or `PMIx` where Slurm offers it to this very step, else empty: what a surrounding step
    was offered stays in the environment of jobs and steps that are started from it."""
    step = f"{request.job}.{request.step}"
    found = (way for name, way in OFFERS.items() if env.get(name, "") in (step, f"slurm.pmix.{step}"))
    return next(found, "")


def ranks(env: "Mapping[str, str]") -> int:
    """How many tasks the step has, on all nodes; 1 where that is not told."""
    number = env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS", "")
    return int(number) if number.isdecimal() else 1


def is_wish(request: Request, env: "Mapping[str, str]") -> bool:
    """Whether the task must be given what it is offered, or be refused: where the job asked for it, by
    `srun --mpi` or SLURM_MPI_TYPE. What is merely the site's MpiDefault, every task is offered, whether
    it has to do with MPI or not."""
    return bool(offered(request, env)) and env.get("SLURM_MPI_TYPE") != default()


def default() -> str:
    """MpiDefault in slurm.conf(5), which Slurm names in our own environment, or in what it includes."""
    return slurm_conf.value(os.environ.get("SLURM_CONF", "/etc/slurm/slurm.conf"), "MpiDefault") or "none"


def descriptors(request: Request, env: "Mapping[str, str]") -> int:
    """How many descriptors from 3 on reach up to the one that PMI2 speaks over; 0 without one.

    Raises MpiRefused if that is not open here though Slurm has opened it.
    """
    number = env.get("PMI_FD", "")
    if not number.isdecimal() or int(number) < 3:
        return 0
    try:
        os.fstat(int(number))
        return int(number) - 2
    except (OSError, OverflowError):
        if offered(request, env) == "PMI2" and is_wish(request, env):
            raise problems.MpiRefused(
                f"PMI2 speaks over descriptor {number} (PMI_FD), which is not open any more",
                "what stands between Slurm and the container must leave it open: oci.conf, ~/.slurm-oci-run",
                WITHOUT,
            ) from None
    return 0


def server_mount(request: Request, env: "Mapping[str, str]") -> "Mount | None":
    """The mount by which a PMIx client finds its server's files at the path that it was told.

    Raises MpiRefused where the files are not on this node.
    """
    told = os.path.normpath(env.get("PMIX_SERVER_TMPDIR") or "/")
    target, name = os.path.split(told)
    spool = os.path.normpath(request.spool)
    # With MountSpoolDir in oci.conf the path told is not the node's own.
    for folder in (target, spool, os.path.dirname(spool)):
        if name and os.path.isdir(os.path.join(folder, name)):
            why = "PMIx (srun --mpi=pmix; without MPI --mpi=none)"
            return Mount(folder, target, False, is_wish(request, env), why)
    if offered(request, env) == "PMIx" and is_wish(request, env):
        raise problems.MpiRefused(
            f"PMIx keeps its files in `{told}` (PMIX_SERVER_TMPDIR): it is not on this node", WITHOUT
        )
    return None


def for_user(container: Container, uid: int, gid: int) -> tuple[Container, tuple[str, ...]]:
    """For runtimes whose command is not the user himself but `uid` and `gid`, as it sees it: the container
    without PMIx, and a note. Its clients tell the server who they are, and wait for ever where it knows
    them as another. Raises MpiRefused where PMIx was asked for.

    The name of the step stays, alone: by that an MPI library sees that it is one of several and fails at
    once, where it would take itself for the only rank.
    """
    request, env = container.request, container.job.env
    himself = (request.uid, os.getegid())
    if offered(request, env) != "PMIx" or (uid, gid) == himself:
        return container, ()
    what = (
        f"PMIx cannot be had: it knows the ranks as user {himself[0]}:{himself[1]}, and process.user of"
        f" `{container.image.name}` makes them {uid}:{gid}"
    )
    if is_wish(request, env):
        raise problems.MpiRefused(
            what,
            "charliecloud and unshare run a bundle as the user: SLURM_OCI_RUNTIME=unshare",
            f"or write {himself[0]} and {himself[1]} into process.user of its config.json, and take crun",
            WITHOUT,
        )
    is_one_of_several = ranks(env) > 1
    kept = {
        name: value
        for name, value in container.env.items()
        if not name.startswith("PMIX_")
        or name.startswith("PMIX_MCA_")
        or (name == "PMIX_NAMESPACE" and is_one_of_several)
    }
    note = f"{what}; an MPI program ends with an error in MPI_Init, all others run"
    return container.replace(env=kept), first_rank(env, note) if is_one_of_several else ()


def notes(request: Request, job: Job, settings: Settings) -> tuple[str, ...]:
    """A warning where the job itself keeps the offer from the container."""
    way = offered(request, job.env)
    if settings.env != "none" or not way or ranks(job.env) < 2:
        return ()
    of = settings.origins["env"]
    return first_rank(job.env, f"{of} is `none`: an MPI program finds no {way}, and each task is rank 0 of 1")


def first_rank(env: "Mapping[str, str]", note: str) -> tuple[str, ...]:
    """`note`, where a step shall have it once."""
    return (note,) if env.get("SLURM_PROCID", "0") == "0" else ()
