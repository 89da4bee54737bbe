"""SLURM_OCI_SHARE=node on a real Slurm: the tasks of a step on a node in one container."""

import os

import pytest
from images import IMAGES

# Task 1 reads the memory of task 0, as MPI libraries do between ranks (process_vm_readv(2)); both stay
# until that is done.
READ = r"""
my $text = "read";
sub wait_for { select(undef, undef, undef, 0.01) until -e $_[0] }
if ($ENV{SLURM_LOCALID} == 0) {
    open(my $file, ">", "new"); print $file "$$ ", unpack("Q", pack("P", $text)); close($file);
    rename("new", "told");
    wait_for("done");
} else {
    wait_for("told");
    open(my $file, "<", "told"); my ($pid, $place) = split(" ", <$file>);
    my $got = "....";
    my ($here, $there) = (pack("PQ", $got, 4), pack("QQ", $place, 4));
    my $count = syscall($ARGV[0], $pid + 0, $here, 1, $there, 1, 0);
    print $count == 4 ? $got : $!, "\n";
    open(my $end, ">", "done");
}
"""
NUMBERS = {"x86_64": "310", "aarch64": "270"}  # of that call
# The node's perl with what it needs, in a directory of the user's, to run in an image without any.
PERL = "cp -L /usr/bin/perl $(ldd /usr/bin/perl | grep -o '/[^ ]*') ."
WAYS = [
    ("charliecloud", "rootfs"),
    ("charliecloud", "squashfs"),
    ("apptainer", "rootfs"),
    ("apptainer", "squashfs"),
    ("apptainer", "sif"),
]


@pytest.fixture(params=WAYS, ids="-".join)
def way(request, slurm):
    runtime, kind = request.param
    if runtime == "apptainer" and not slurm.root.has("apptainer"):
        pytest.skip(f"{slurm.root.suite} has no package of apptainer")
    return runtime, IMAGES[kind]


@pytest.fixture
def folder(slurm):
    """A directory of alice's, empty."""
    slurm("rm", "-rf", "/home/alice/share")
    slurm("mkdir", "/home/alice/share")
    return "/home/alice/share"


@pytest.mark.parametrize(("share", "seen"), [("task", b"Operation not permitted\n"), ("node", b"read\n")])
def test_a_task_reads_another_s_memory_in_the_container_that_they_share(slurm, way, folder, share, seen):
    """And in two containers the kernel refuses it."""
    runtime, image = way
    assert slurm("sh", "-c", PERL, cwd=folder) == (0, b"", b"")
    (loader,) = slurm.root.path(folder).glob("ld-*")
    ended = slurm.srun(
        image, f"./{loader.name}", "--library-path", ".", "./perl", "-e", READ, NUMBERS[os.uname().machine],
        options=["-n2"], cwd=folder, SLURM_OCI_RUNTIME=runtime, SLURM_OCI_SHARE=share, LC_ALL="C",
    )  # fmt: skip
    assert ended == (0, seen, b"")


# Each waits for the others: a container that its first task has left cannot be joined.
TOGETHER = """: >here.$SLURM_LOCALID
until [ -e here.0 ] && [ -e here.1 ] && [ -e here.2 ]; do sleep 0.05; done
echo "$SLURM_PROCID:$MINE:$(pwd):$(readlink /proc/self/ns/mnt)"
exit $((3 + SLURM_LOCALID))
"""


def test_each_task_keeps_what_is_its_own_and_nothing_is_left(slurm, way, folder):
    """Its variables, its exit status, the directory; what they met by is gone when they have."""
    runtime, image = way
    status, out, err = slurm.srun(
        image, "/bin/sh", "-c", TOGETHER, options=["-n3"], cwd=folder,
        SLURM_OCI_RUNTIME=runtime, SLURM_OCI_SHARE="node", MINE="it's",
    )  # fmt: skip
    lines = sorted(out.decode().split())
    assert [line.rpartition(":mnt:")[0] for line in lines] == [f"{n}:it's:{folder}" for n in range(3)]
    assert len({line.rpartition(":")[2] for line in lines}) == 1
    assert (status, sorted(err.splitlines())) == (
        5,
        [b"srun: error: node1: task %d: Exited with exit code %d" % (n, n + 3) for n in range(3)],
    )
    assert list(slurm.root.path("/dev/shm").iterdir()) == []


def test_a_single_task_has_nothing_to_share(slurm, way):
    """A step's only one, and the script of `sbatch`."""
    runtime, image = way
    wish = {"SLURM_OCI_RUNTIME": runtime, "SLURM_OCI_SHARE": "node"}
    assert slurm.srun(image, "/bin/echo", "in", **wish) == (0, b"in\n", b"")
    script = b"#!/bin/sh\necho batch\n"
    assert slurm.batch(script, "-n2", f"--container={image}", **wish) == (0, b"batch\n")


def test_without_a_common_parent_it_is_refused(slurm, way):
    """Where a hook has not become what it starts."""
    runtime, image = way
    hook = '#!/bin/sh\n/opt/slurm-oci/slurm-oci-run-default "$@"\nexit\n'
    slurm.root.write("/home/alice/.slurm-oci-run", hook, user="alice", mode=0o700)
    status, out, err = slurm.srun(
        image, "/bin/true", options=["-n2"], SLURM_OCI_RUNTIME=runtime, SLURM_OCI_SHARE="node"
    )
    assert (status, out) == (125, b"")
    assert b"find each other by slurmstepd, which has started them, and this one's parent is `" in err


EARLY = """#!/bin/sh
[ "$8" = 0 ] || exit 9
exec /opt/slurm-oci/slurm-oci-run-default "$@"
"""


@pytest.mark.parametrize("by", ["gc", "epilog"])
def test_what_tasks_would_have_met_by_goes_after_the_step(slurm, way, by):
    """Where one of them never came. Neither waits until it is old."""
    runtime, image = way
    slurm.root.write("/home/alice/.slurm-oci-run", EARLY, user="alice", mode=0o700)
    wish = {"SLURM_OCI_RUNTIME": runtime, "SLURM_OCI_SHARE": "node"}
    slurm("timeout", "20", "srun", "-n2", f"--container={image}", "/bin/true", env=wish)
    slurm.root.cancel_jobs()
    shared = slurm.root.path("/dev/shm")
    left = sorted(path.name for path in shared.iterdir())
    assert len(left) == (2 if runtime == "charliecloud" else 0), left
    if by == "gc":
        status, out, _ = slurm("/opt/slurm-oci/bin/slurm-oci-plugins", "gc")
        assert (status, out.count(b"removed /dev/shm/")) == (0, len(left))
    else:
        ids = {"SLURM_JOB_UID": "1001", "SLURM_JOB_GID": "1001", "SLURMD_NODENAME": "node1"}
        assert slurm("/opt/slurm-oci/epilog", user="root", env=ids)[0] == 0
    assert list(shared.iterdir()) == []
