"""The Slurm on this machine."""

import os
import socket
import subprocess

from slurm_oci.client import CONFIGURATIONS
from slurm_oci.job import STANDARD_PATH
from slurm_oci.pattern import QUOTES_RIGHT, Version

NEWEST = QUOTES_RIGHT  # assumed where no Slurm is installed: the newest release that was tried


def version() -> Version:
    """The installed release; the newest known one where there is no slurmd."""
    return found() or NEWEST


def found() -> Version | None:
    """What `slurmd -V` says, in a user's PATH or where daemons lie."""
    path = f"{os.environ.get('PATH', '')}:{STANDARD_PATH}"
    try:
        done = subprocess.run(
            ["slurmd", "-V"], capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
        )
        return Version.parse(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None


def this_node() -> str:
    """The node's name as Slurm has it in steps, prolog and epilog, else the host's."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]


def folder() -> str:
    """Where slurm.conf lies, and oci.conf beside it."""
    named = os.path.dirname(os.environ.get("SLURM_CONF", ""))
    found = (place for place in CONFIGURATIONS if os.path.exists(f"{place}/slurm.conf"))
    return named or next(found, CONFIGURATIONS[0])
