"""The Slurm on this machine."""

import os
import subprocess

from slurm_oci.pattern import QUOTES_RIGHT, Version

NEWEST = QUOTES_RIGHT  # assumed where no Slurm is installed: the newest release that was tried


def version() -> Version:
    """What `slurmd -V` says; the newest known release where there is no slurmd."""
    try:
        done = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=True)
        return Version.parse(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return NEWEST


def folder() -> str:
    """Where slurm.conf lies, and oci.conf beside it."""
    return os.path.dirname(os.environ.get("SLURM_CONF", "")) or "/etc/slurm"
