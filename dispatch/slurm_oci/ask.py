"""Asking a runtime what it is, in the same words for every user."""

import os
import pwd
import subprocess

from slurm_oci.job import STANDARD_PATH


def answer(*argv: str) -> str:
    """What the program prints, on stdout and stderr; empty if it cannot be started or hangs.

    Its environment is bare and the same for one user wherever he asks: a task of Slurm's may have no
    HOME or USER, without which some programs tell nothing but that; podman wants a HOME that is his.
    """
    try:
        user, home = pwd.getpwuid(os.geteuid())[0:6:5]
    except KeyError:
        user, home = str(os.geteuid()), "/"
    env = {"PATH": STANDARD_PATH, "HOME": home, "USER": user, "LANG": "C.UTF-8"}
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=20,  # seconds; a program on a file system that hangs
            check=False,
            env=env,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")
