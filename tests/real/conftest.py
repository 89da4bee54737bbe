"""A running Slurm for each suite that is to be tested, with this checkout installed in it."""

import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from images import IMAGES
from slurm_root import SlurmRoot

# A shell's background job has these ignored, and every program that it starts inherits that.
for number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

SUITES = os.environ.get("SLURM_OCI_SUITES", "trixie sid").split()
GUIDES_LINE = "/opt/slurm-oci/run %b %m %u %U %n %j %s %t %@"
# What srun says of queueing when jobs follow each other quickly.
CHATTER = (b"queued and waiting for resources", b"has been allocated resources", b"Submitted batch job")


def pytest_collection_modifyitems(items):
    """A Slurm is running for as short as can be: the tests of one suite follow each other."""
    for item in items:
        item.add_marker(pytest.mark.real)


# podman, called by itself, leaves a process, locks and a store for the user's next containers.
AFTER_A_TEST = """
rm -rf /home/alice/.slurm-oci-run /opt/slurm-oci/site.toml /home/alice/.local/share/containers
ps -o pid= -u alice | xargs -r kill -KILL
find /dev/shm -mindepth 1 -user alice -delete
"""


class Slurm:
    """A real Slurm, as its user alice sees it."""

    def __init__(self, root):
        self.root = root

    def __call__(self, *argv, user="alice", env=None, cwd=None, input=None, timeout=90):
        """Runs a command; (exit status, stdout, stderr without srun's chatter), as bytes. What srun says
        of a task's end comes last: it is not always later than what the task has said itself."""
        done = self.root.run(argv, user=user, env=env, cwd=cwd, input=input, timeout=timeout)
        lines = [line for line in done.stderr.splitlines() if not any(word in line for word in CHATTER)]
        lines.sort(key=lambda line: line.startswith(b"srun: error: node"))
        return done.returncode, done.stdout, b"\n".join(lines)

    def srun(self, image, *command, options=(), **settings):
        """`srun --container=IMAGE COMMAND…`; keywords in capitals are variables of the job."""
        env = {name: value for name, value in settings.items() if name.isupper()}
        rest = {name: value for name, value in settings.items() if not name.isupper()}
        return self("srun", *options, f"--container={image}", *command, env=env, **rest)

    def batch(self, script, *options, **settings):
        """`sbatch -W` with `script` on its standard input; (exit status, what it wrote)."""
        output = "/home/alice/batch.out"
        status, _, error = self("sbatch", "-W", "-o", output, *options, input=script, env=settings or None)
        path = self.root.path(output)
        written = path.read_bytes() if path.exists() else error
        self("rm", "-f", output)
        return status, written

    def has(self, kind):
        return self.root.path(IMAGES[kind]).exists()

    def oci_conf(self, *lines):
        self.root.set_oci_conf("".join(line + "\n" for line in lines))


@pytest.fixture(scope="session", params=SUITES)
def installed(request):
    with SlurmRoot.start(request.param, name=f"tests-{request.param}-{os.getpid()}") as root:
        root.install_project()
        yield root


@pytest.fixture
def slurm(installed):
    """A Slurm with the shipped oci.conf, and nothing left of the test before."""
    shipped = installed.path("/etc/slurm/oci.conf").read_text()
    yield Slurm(installed)
    installed.cancel_jobs()
    installed.set_oci_conf(shipped)
    installed.run(["sh", "-c", AFTER_A_TEST], user="root")


# Which runtimes a test of "every runtime" goes through: (runtime, image kind).
PAIRS = [
    ("unshare", "rootfs"),
    ("unshare", "oci-bundle"),
    ("crun", "oci-bundle"),
    ("runc", "oci-bundle"),
    ("charliecloud", "rootfs"),
    ("charliecloud", "oci-bundle"),
    ("charliecloud", "squashfs"),
    ("apptainer", "rootfs"),
    ("apptainer", "oci-bundle"),
    ("apptainer", "squashfs"),
    ("apptainer", "sif"),
]


@pytest.fixture(params=PAIRS, ids=["-".join(pair) for pair in PAIRS])
def pair(request, slurm):
    """A runtime's name and an image for it, where this Debian has both."""
    runtime, kind = request.param
    if runtime == "apptainer" and not slurm.root.has("apptainer"):
        pytest.skip(f"{slurm.root.suite} has no package of apptainer")
    return runtime, IMAGES[kind]
