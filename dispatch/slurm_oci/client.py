"""SLURM_OCI_SLURM=yes: what a Slurm client inside a container needs of the host.

As the Containers Guide's Charliecloud line binds it: the configuration, what vouches for the user, and
who the users are; and how the controller's name is looked up.
"""

import os

from slurm_oci import problems, slurm_conf
from slurm_oci.values import TYPE_CHECKING, Job, Mount, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGURATIONS = ("/etc/slurm", "/run/slurm/conf", "/etc/slurm-llnl")  # the second on a configless node
SOCKETS = ("/run/munge/munge.socket.2", "/run/slurm/sack.socket")  # auth/munge's and auth/slurm's
FILES = ("/etc/passwd", "/etc/group", "/etc/hosts", "/etc/resolv.conf")


def mounts(job: Job, settings: Settings) -> "Iterator[Mount]":
    """Each a wish, at its own place. Raises SettingRefused where the node has no configuration or
    nothing that vouches for the user."""
    label = settings.origins["slurm"]
    folder = configuration(job, label)
    wanted = sockets(f"{folder}/slurm.conf")
    there = [os.path.dirname(socket) for socket in wanted if os.path.exists(socket)]
    if not there:
        raise problems.SettingRefused(
            f"{label} is `yes`: a Slurm client needs `{'` or `'.join(wanted)}`, and this node has none",
            "the site: `munged` makes the first one, `slurmd` the second where AuthType is auth/slurm",
        )
    for place in (folder, *there, *filter(os.path.exists, FILES)):
        yield Mount(place, place, False, True, label)


def configuration(job: Job, label: str) -> str:
    """The directory that holds slurm.conf. Raises SettingRefused."""
    named = job.env.get("SLURM_CONF")
    places = [os.path.dirname(named)] if named else CONFIGURATIONS
    found = next((place for place in places if os.path.isfile(f"{place}/slurm.conf")), "")
    if not found:
        where = f"`{named}`, which SLURM_CONF names," if named else f"`{'` or `'.join(places)}`"
        raise problems.SettingRefused(
            f"{label} is `yes`: a Slurm client needs slurm.conf, and this node has none in {where}",
            "if it is elsewhere, SLURM_CONF in the job's environment tells where: a path on this node",
        )
    # On a configless node a link, in a directory that may be bound itself.
    return os.path.realpath(found) if found == CONFIGURATIONS[1] else found


def sockets(conf: str) -> list[str]:
    """Where they may be: munge's where the configuration says (slurm.conf(5), AuthInfo), and slurmd's."""
    munge, slurmd = SOCKETS
    for part in slurm_conf.value(conf, "AuthInfo").split(","):
        munge = part.removeprefix("socket=") if part.startswith("socket=") else munge
    return [munge, slurmd]
