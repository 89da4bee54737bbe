"""This checkout, installed in a running root as a site does it: from wheels, by its own `install`."""

import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from debian_root import tail

if TYPE_CHECKING:
    from slurm_root import SlurmRoot

PROJECT = Path(__file__).resolve().parent.parent.parent
VENV = "/opt/slurm-oci-venv"
PREFIX = "/opt/slurm-oci"
WHEELS = "/opt/slurm-root/wheels"


class InstallFailed(Exception):
    """A step of the installation failed; the text holds the step and its output."""


def install(root: "SlurmRoot") -> None:
    """Install, or install anew, this checkout at /opt/slurm-oci of `root`, with its oci.conf in force."""

    def inside(*words: str) -> bytes:
        done = root.run(words, user="root", timeout=300)
        if done.returncode:
            output = (done.stdout + done.stderr).decode(errors="replace")
            raise InstallFailed(f"`{shlex.join(words)}` in the root: {output}")
        return done.stdout

    version = inside("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").decode().strip()
    put_wheels(root, version)
    inside("python3", "-m", "venv", "--clear", VENV)
    inside(f"{VENV}/bin/pip", "install", "--quiet", "--no-index", f"--find-links={WHEELS}", "slurm-oci")
    inside(f"{VENV}/bin/slurm-oci-plugins", "install", "--prefix", PREFIX)
    inside("cp", f"{PREFIX}/oci.conf", "/etc/slurm/oci.conf")


def put_wheels(root: "SlurmRoot", python_version: str, *more: str) -> None:
    """Put the wheels, and `more` from where pip finds it, into the root, at WHEELS."""
    with tempfile.TemporaryDirectory(prefix="slurm-oci-wheels-") as directory:
        fetch_wheels(Path(directory), python_version, *more)
        wheels = root.path(WHEELS)
        shutil.rmtree(wheels, ignore_errors=True)
        shutil.copytree(directory, wheels)
    root.run(["chmod", "-R", "a+rX", WHEELS], user="root", check=True)


def fetch_wheels(directory: Path, python_version: str, *more: str) -> None:
    """Put the project's wheel and all it needs, for that version of Python, into `directory`."""
    pip("wheel", "--no-deps", f"--wheel-dir={directory}", str(PROJECT))
    (wheel,) = directory.glob("slurm_oci-*.whl")
    pip(
        "download",
        "--only-binary=:all:",
        "--platform=any",
        f"--platform=manylinux2014_{platform.machine()}",
        f"--python-version={python_version}",
        f"--dest={directory}",
        str(wheel),
        *more,
    )


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if "No module named pip" in done.stderr:
        raise InstallFailed(
            f"{sys.executable} has no pip: run this from a virtual environment, or install python3-pip"
        )
    if done.returncode:
        raise InstallFailed(f"`{shlex.join(command)}`: {tail(done.stderr, 12)}")
