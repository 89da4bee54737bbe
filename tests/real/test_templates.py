"""The starting points for `~/.slurm-oci-run`, each as `slurm-oci-plugins template --write` leaves it."""

import shutil
from pathlib import Path

import pytest
from images import IMAGES

HOOK = "/home/alice/.slurm-oci-run"
COMMAND = "/opt/slurm-oci/bin/slurm-oci-plugins"
ROOTFS, BUNDLE, SQUASHFS, SIF = (IMAGES[kind] for kind in ("rootfs", "oci-bundle", "squashfs", "sif"))
# Templates that need nothing but what is in the root, and an image for each.
PAIRS = [
    *((name, ROOTFS) for name in ("default", "project", "modules", "names", "gpu", "mpi", "debug", "rules")),
    *((name, image) for name in ("charliecloud", "unshare", "apptainer") for image in (ROOTFS, BUNDLE)),
    *((name, SQUASHFS) for name in ("charliecloud", "apptainer")),
    ("apptainer", SIF),
    *((name, BUNDLE) for name in ("crun", "runc")),
    ("podman", "/home/alice/rootfs"),
]
# In these the task stays what Slurm has started, or passes signals on.
SIGNALLED = [pair for pair in PAIRS if pair not in [("charliecloud", SQUASHFS)]]
INSIDE = 'cat /etc/os-release | head -n1; id -u; echo "$SLURM_PROCID $MINE"; printf "%s|" "$@"; exit 7'


@pytest.fixture
def hook(slurm):
    """Makes a template the hook of alice, as she does."""
    if not slurm.root.path("/home/alice/rootfs").exists():
        shutil.copytree(slurm.root.path(ROOTFS), slurm.root.path("/home/alice/rootfs"), symlinks=True)
        slurm.root.run(["chown", "-R", "alice:", "/home/alice/rootfs"], user="root")

    def write(name):
        if name == "apptainer" and not slurm.root.has("apptainer"):
            pytest.skip(f"{slurm.root.suite} has no package of apptainer")
        status, out, err = slurm(COMMAND, "template", name, "--write")
        said = f"written: {HOOK}\n`{HOOK}` is run for every task of yours with --container\n"
        assert (status, out.decode(), err) == (0, said, b"")

    return write


def named(pair):
    return f"{pair[0]}-{pair[1].rpartition('/')[2]}"


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_a_template_runs_the_command_in_the_image(slurm, hook, pair):
    """As the user, or whom his bundle names, with the job's variables, every word, and the exit status."""
    name, image = pair
    hook(name)
    uid = 0 if name in ("crun", "runc") else 1001
    words = ["it's", "", "a  b", "$HOME", "-n"]
    status, out, err = slurm.srun(image, "/bin/sh", "-c", INSIDE, "sh", *words, MINE="x y")
    assert (status, out) == (7, b"ID=busybox\n%d\n0 x y\nit's||a  b|$HOME|-n|" % uid), err


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_a_template_runs_a_batch_script(slurm, hook, pair):
    """Which lies in a directory of Slurm's, outside the image."""
    name, image = pair
    hook(name)
    script = "#!/bin/sh\nhead -n1 /etc/os-release; echo $SLURM_JOB_NAME\n"
    status, written = slurm.batch(script, f"--container={image}", "--job-name=mine")
    assert (status, written.splitlines()[-2:]) == (0, [b"ID=busybox", b"mine"])


@pytest.mark.parametrize("pair", SIGNALLED, ids=named)
def test_the_command_gets_the_signals_of_a_template_s_task(slurm, hook, pair):
    """What `srun --signal` and `scancel` send."""
    name, image = pair
    hook(name)
    script = "trap 'echo got it; exit 3' USR1; touch /tmp/ready; while :; do sleep 0.1; done"
    signalling = (
        "while ! [ -e /tmp/ready ]; do sleep 0.1; done; rm /tmp/ready; scancel --signal=USR1 --name=mine"
    )
    status, out, _ = slurm(
        "sh", "-c",
        f'({signalling}) & srun --job-name=mine --time=1 --container="$1" /bin/sh -c "$2"; s=$?; wait; exit $s',
        "sh", image, script,
    )  # fmt: skip
    assert (status, out) == (3, b"got it\n")


@pytest.mark.parametrize("name", ["crun", "runc"])
def test_pmi2_reaches_the_command_of_an_oci_runtime_s_template(slurm, hook, name):
    """Over the descriptor that Slurm has opened."""
    hook(name)
    slurm.root.write("/tmp/pmi2.sh", (Path(__file__).parent / "pmi2.sh").read_bytes(), user="alice")
    words = ("srun", "-n2", "--mpi=pmi2", f"--container={BUNDLE}", "/bin/sh", "/tmp/pmi2.sh")
    status, out, err = slurm(*words)
    said = [f"rank {rank} of 2 on node1, beside node1".encode() for rank in range(2)]
    assert (status, sorted(out.splitlines())) == (0, said), err
