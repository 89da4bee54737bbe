"""Each form of the Containers Guide's "Requesting container jobs or steps"."""

import pytest
from images import IMAGES
from running import at_a_terminal

IMAGE = IMAGES["rootfs"]
INSIDE = b"ID=busybox\n"
COMMAND = ("/bin/head", "-n1", "/etc/os-release")


@pytest.fixture
def with_bash(slurm):
    """An image that has the shell of Slurm's interactive step, which is the user's own."""
    slurm("sh", "-c", f"rm -rf /images/bash && cp -a {IMAGE} /images/bash", user="root")
    slurm.root.write("/images/bash/bin/bash", '#!/bin/sh\nexec /bin/sh "$@"\n', mode=0o755)
    return "/images/bash"


def test_sbatch_with_a_container_and_wrap(slurm):
    """sbatch --container IMAGE --wrap COMMAND"""
    status, out = slurm.batch(None, f"--container={IMAGE}", "--wrap", "head -n1 /etc/os-release")
    assert (status, out) == (0, INSIDE)


def test_srun_with_a_container_in_a_batch_job(slurm):
    """sbatch --wrap 'srun --container IMAGE COMMAND'; the batch script itself runs on the host."""
    inner = f"srun --container={IMAGE} {' '.join(COMMAND)}; head -n1 /etc/os-release"
    status, out = slurm.batch(None, "--wrap", inner)
    assert status == 0
    assert out.startswith(INSIDE + b"PRETTY_NAME=")


def test_srun_with_a_container_in_an_allocation(slurm):
    """salloc srun --container IMAGE COMMAND"""
    status, out, _ = slurm("salloc", "srun", f"--container={IMAGE}", *COMMAND)
    assert (status, out) == (0, INSIDE)


def test_an_allocation_with_a_container_starts_its_shell_inside(slurm, with_bash):
    """salloc --container IMAGE, with LaunchParameters=use_interactive_step"""

    def talk(terminal):
        terminal.send(b"head -n1 /etc/os-release; echo step=$SLURM_STEP_ID; exit\n")
        return terminal.finish()

    status, seen = at_a_terminal(slurm, ["salloc", f"--container={with_bash}"], talk)
    assert status == 0
    assert b"\nID=busybox\r\n" in seen


def test_srun_with_a_container(slurm):
    """srun --container IMAGE COMMAND"""
    assert slurm.srun(IMAGE, *COMMAND) == (0, INSIDE, b"")


def test_srun_within_srun(slurm):
    """srun srun --container IMAGE COMMAND"""
    status, out, _ = slurm("srun", "--overlap", "srun", "--overlap", f"--container={IMAGE}", *COMMAND)
    assert (status, out) == (0, INSIDE)


def test_a_directive_in_the_script(slurm):
    """#SBATCH --container=IMAGE, with arguments for the script"""
    script = f"#!/bin/sh\n#SBATCH --container={IMAGE}\nhead -n1 /etc/os-release\necho $SLURM_JOB_ID\n"
    status, out = slurm.batch(script.encode())
    assert status == 0
    assert out.startswith(INSIDE)


def test_an_array_job(slurm):
    """Each of the array's tasks has its own job number and its own container."""
    script = (
        f"#!/bin/sh\n#SBATCH --container={IMAGE}\n#SBATCH --array=1-3\necho $SLURM_ARRAY_TASK_ID >> done\n"
    )
    status, _ = slurm.batch(script.encode())
    assert status == 0
    done = slurm.root.path("/home/alice/done")
    assert sorted(done.read_text().split()) == ["1", "2", "3"]
    done.unlink()
