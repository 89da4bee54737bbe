"""GPUs that Slurm itself grants (`--gres=gpu:…`), made up of a device that every kernel has."""

import json

import pytest
from images import IMAGES
from running import until

DEVICES = "for n in 0 1; do mknod -m 666 /dev/granted$n c 1 3; done"
GRES = "".join(
    f"NodeName=node1 Name=gpu Type={kind} File=/dev/granted{n}\n"
    for n, kind in enumerate(("first", "second"))
)
NODE, WITH_GPUS = "NodeName=node1 ", "NodeName=node1 Gres=gpu:first:1,gpu:second:1 "
NAMES = {"0": "0", "1": "1", "all": "01"}
CDI = {
    "cdiVersion": "0.6.0",
    "kind": "nvidia.com/gpu",
    "devices": [
        {
            "name": name,
            "containerEdits": {
                "deviceNodes": [{"path": f"/dev/granted{n}"} for n in numbers],
                "env": [f"DESCRIBED{n}=1" for n in numbers],
            },
        }
        for name, numbers in NAMES.items()
    ],
}
SAY = 'echo "$SLURM_STEP_GPUS ${DESCRIBED0:-no} ${DESCRIBED1:-no}"; [ -c /dev/granted1 ]'


@pytest.fixture
def granting(slurm):
    """A Slurm whose node has two GPUs, each of a type of its own, and the node's description of them."""
    conf = slurm.root.path("/etc/slurm/slurm.conf")
    before = conf.read_text()
    slurm.root.run(["sh", "-c", DEVICES], user="root", check=True)
    slurm.root.write("/etc/cdi/nvidia.json", json.dumps(CDI))
    slurm.root.write("/etc/slurm/gres.conf", GRES)
    configure(slurm, before.replace(NODE, WITH_GPUS) + "GresTypes=gpu\n")
    yield slurm
    slurm.root.cancel_jobs()
    slurm.root.path("/etc/slurm/gres.conf").unlink()
    configure(slurm, before)
    slurm.root.run(["rm", "/etc/cdi/nvidia.json", "/dev/granted0", "/dev/granted1"], user="root", check=True)


def configure(slurm, text):
    slurm.root.write("/etc/slurm/slurm.conf", text)
    assert slurm("scontrol", "reconfigure", user="root")[0] == 0
    until(lambda: (b"gpu:second" in slurm("sinfo", "-h", "-o", "%G")[1]) == (WITH_GPUS in text))
    slurm.root.wait_idle()


@pytest.mark.parametrize(
    ("gres", "seen"),
    [
        ("gpu:first:1", b"0 1 no\n"),
        ("gpu:second:1", b"1 no 1\n"),
        ("gpu:2", b"0,1 1 1\n"),
        ("none", b" no no\n"),
    ],
)
def test_a_step_gets_what_is_described_of_the_gpus_that_it_was_granted(granting, gres, seen):
    """By their numbers on the node."""
    for runtime in ("crun", "unshare"):
        task = (IMAGES["oci-bundle"], "/bin/sh", "-c", SAY)
        ended = granting.srun(*task, options=(f"--gres={gres}",), SLURM_OCI_RUNTIME=runtime)
        assert ended == (0, seen, b"")
