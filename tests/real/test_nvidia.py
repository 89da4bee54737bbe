"""nvidia-container-runtime's way on a real Slurm: create, start and wait, with the node's own runc.

NVIDIA's program is in no archive of Debian's. Its place is taken by one that does what it is known
to do: where the word `create` is on the command line it adds to the bundle's config.json in place,
and then becomes runc. The file that makes that known, in NVIDIA's source: runtime_factory.go.
"""

import pytest
from images import IMAGES

BUNDLE = IMAGES["oci-bundle"]
SHELL = "/bin/sh"
STAND_IN = """#!/usr/bin/python3
import json, os, sys
words = sys.argv[1:]
if "create" in words:
    path = words[words.index("--bundle") + 1] + "/config.json"
    config = json.load(open(path))
    devices = [v for v in config["process"]["env"] if v.startswith("NVIDIA_VISIBLE_DEVICES=")]
    config["process"]["env"].append("ADDED=" + ",".join(devices))
    json.dump(config, open(path, "w"))
os.execvp("runc", ["runc", *words])
"""


@pytest.fixture
def nvidia(slurm):
    """`srun` with the stand-in on the node."""
    slurm.root.write("/usr/local/bin/nvidia-container-runtime", STAND_IN, mode=0o755)
    name = "nvidia-container-runtime"
    yield lambda *command, **more: slurm.srun(BUNDLE, *command, SLURM_OCI_RUNTIME=name, **more)
    slurm("rm", "/usr/local/bin/nvidia-container-runtime", user="root")


def test_what_it_adds_is_in_the_container(nvidia):
    """All devices where Slurm has granted some; the job's own choice stays; none where none is wanted."""
    script = "cat; echo $ADDED; exit 7"
    granted = nvidia(SHELL, "-c", script, SLURM_JOB_GPUS="3", CUDA_VISIBLE_DEVICES="0", input=b"in\n")
    assert granted == (
        7,
        b"in\nNVIDIA_VISIBLE_DEVICES=all\n",
        b"srun: error: node1: task 0: Exited with exit code 7",
    )
    assert nvidia(SHELL, "-c", script, NVIDIA_VISIBLE_DEVICES="1")[1] == b"NVIDIA_VISIBLE_DEVICES=1\n"
    assert nvidia(SHELL, "-c", script, SLURM_OCI_GPU="none")[1] == b"NVIDIA_VISIBLE_DEVICES=void\n"
    assert nvidia(SHELL, "-c", script)[1] == b"\n"


@pytest.mark.parametrize(("signal", "status"), [("TERM", 143), ("KILL", 137), ("SEGV", 139)])
def test_the_command_s_end_is_told_as_it_was(nvidia, signal, status):
    """By `foreground.py`, whose child the container has become."""
    assert nvidia(SHELL, "-c", f"kill -{signal} $$")[0] == status


def test_signals_reach_the_command(nvidia, slurm):
    """USR1 and the TERM of scancel, through both parents."""
    script = "trap 'echo usr1' USR1; trap 'echo term; exit 4' TERM; echo up; while :; do sleep 0.1; done"
    command = ["srun", "-J", "signals", f"--container={BUNDLE}", SHELL, "-c", script]
    env = {"SLURM_OCI_RUNTIME": "nvidia-container-runtime"}
    with slurm.root.popen(command, env=env, stdout=-1, stderr=-1) as task:
        assert task.stdout.readline() == b"up\n"
        job = slurm("squeue", "-h", "-n", "signals", "-o", "%A")[1].decode().strip()
        slurm("scancel", "-s", "USR1", f"{job}.0")
        assert task.stdout.readline() == b"usr1\n"
        slurm("scancel", job)
        assert task.stdout.read() == b"term\n"


def test_a_command_that_is_not_there_is_runc_s_error(nvidia):
    """It says what is missing, and the status is not 0."""
    status, out, err = nvidia("/bin/busybox.missing")
    assert (status, out) == (127, b"")
    assert b"busybox.missing" in err


def test_the_descriptor_of_pmi_is_kept(nvidia):
    """`srun --mpi=pmi2` names it in PMI_FD."""
    status, out, _ = nvidia(SHELL, "-c", "readlink /proc/self/fd/$PMI_FD", options=["--mpi=pmi2"])
    assert (status, out[:8]) == (0, b"socket:[")


def test_nothing_is_left_and_the_user_s_bundle_stays(nvidia, slurm):
    """The config.json that was written into is the task's own copy."""
    before = slurm.root.path(f"{BUNDLE}/config.json").read_bytes()
    assert nvidia("/bin/true", options=["-n4"])[0] == 0
    assert slurm.root.path(f"{BUNDLE}/config.json").read_bytes() == before
    assert list(slurm.root.path("/run/slurm-oci/1001").iterdir()) == []
