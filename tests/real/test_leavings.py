"""Nothing of a task stays on the node: neither when it ends in order, nor, after the next dispatch,
`gc` or the epilog, when it is killed."""

import json
import os
import re

import pytest
from conftest import SUITES, Slurm
from ends import record
from images import IMAGES
from running import Task, left, none_left, until
from slurm_root import SlurmRoot

GC = "/opt/slurm-oci/bin/slurm-oci-plugins", "gc"
# The ways in which the dispatcher stays, because there is something to clean up.
SUPERVISED = [("crun", "oci-bundle"), ("runc", "oci-bundle"), ("charliecloud", "squashfs")]


@pytest.fixture(params=SUPERVISED, ids=[runtime for runtime, _ in SUPERVISED])
def supervised(request, slurm):
    """A runtime that leaves something if its supervisor is killed, and an image for it."""
    runtime, kind = request.param
    yield runtime, IMAGES[kind]
    none_left(slurm)


def killed(slurm, runtime, image):
    """A task that the kernel kills with everything that belongs to it; what it leaves."""
    task = Task(slurm, runtime, image)
    task.cancel("-s", "KILL", f"{task.job}.0")
    assert task.status() == 137
    found = left(slurm)
    assert len(found["state"]) == 1
    assert found.keys() <= {"state", "mounts"}
    return task, found


def test_what_a_task_that_was_killed_left_is_removed_by_gc(slurm, supervised):
    """By its user, who is told of it; a dead mount of squashfuse too."""
    runtime, image = supervised
    task, found = killed(slurm, runtime, image)
    assert ("mounts" in found) == (runtime == "charliecloud")
    path = f"/run/slurm-oci/1001/{found['state'][0]}"
    expected = {"path": path, "uid": 1001, "job": int(task.job), "step": 0, "task": 0}
    assert json.loads(slurm(*GC, "--dry-run", "--json")[1]) == [{**expected, "removed": False}]
    assert left(slurm) == found
    assert json.loads(slurm(*GC, "--json", user="bob")[1]) == []
    hint = b"slurm-oci: something is left over on this machine of node node1: `slurm-oci-plugins gc --node node1`"
    for user in ("alice", "root"):  # NodeName need not be the host's name
        told = slurm("env", "SLURMD_NODENAME=host", *GC, user=user)
        assert told == (0, b"nothing is left over on host\n", hint)
    status, out, err = slurm(*GC, "--json")
    assert (status, json.loads(out), err) == (0, [{**expected, "removed": True}], b"")
    none_left(slurm)
    record(slurm, "SIGKILL to the whole step", runtime, 137, found)


def test_what_a_task_that_was_killed_left_is_removed_by_root_s_gc(slurm, supervised):
    """For whomever it belongs to."""
    _, found = killed(slurm, *supervised)
    status, out, _ = slurm(*GC, user="root")
    assert (status, out.decode()) == (0, f"removed /run/slurm-oci/1001/{found['state'][0]}\n")


def test_what_a_task_that_was_killed_left_is_removed_by_the_next(slurm, supervised):
    """Of the same user on the same node, before it makes its own."""
    killed(slurm, *supervised)
    runtime, image = supervised
    assert slurm.srun(image, "/bin/true", SLURM_OCI_RUNTIME=runtime)[0] == 0


def test_the_dispatcher_alone_is_killed(slurm, supervised):
    """Slurm then ends what is left of the step; `gc` does the rest."""
    task = Task(slurm, *supervised)
    pids = slurm("pgrep", "-f", "/opt/slurm-oci/run ", user="root")[1].split()
    slurm("kill", "-KILL", *pids, user="root")
    assert task.status() == 137
    found = left(slurm)
    assert slurm(*GC)[0] == 0
    none_left(slurm)
    record(slurm, "SIGKILL to the dispatcher alone", supervised[0], 137, found)


def test_a_live_task_is_left_alone(slurm, supervised):
    """`gc` while it runs, by the user and by root, has no effect on it."""
    task = Task(slurm, *supervised)
    for user in ("alice", "root"):
        assert slurm(*GC, user=user)[:2] == (0, b"nothing is left over on node1\n")
    task.cancel("-s", "USR1", f"{task.job}.0")
    task.wait_for("USR1")
    task.stop()
    assert task.status() == 5


def test_a_rebooted_node(slurm, supervised):
    """Simulated: the kernel has another boot id, and the process number is in use again."""
    _, found = killed(slurm, *supervised)
    (name,) = found["state"]
    node, boot, *job, _ = name.split(".")
    root = slurm.root.path("/run/slurm-oci/1001")
    stat = slurm("cat", "/proc/1/stat", user="root")[1].rpartition(b")")[2].split()
    here, before = (".".join([node, b, *job, f"1-{int(stat[19])}"]) for b in (boot, "0" * 32))
    (root / name).rename(root / here)
    assert slurm(*GC)[1] == b"nothing is left over on node1\n"
    (root / here).rename(root / before)
    assert slurm(*GC)[1].decode() == f"removed /run/slurm-oci/1001/{before}\n"
    none_left(slurm)
    record(slurm, "the node reboots (another boot id)", supervised[0], 137, found)


def test_a_job_that_is_requeued_runs_again(slurm, supervised):
    """Under the same job number, in a place of its own."""
    runtime, image = supervised
    home = slurm.root.path("/home/alice")
    (home / "log").unlink(missing_ok=True)
    script = b"#!/bin/sh\necho run >>/home/alice/log\n[ $(wc -l </home/alice/log) = 2 ] || exec sleep 600\n"
    argv = ["sbatch", "--parsable", "--requeue", "-o", "/home/alice/out", f"--container={image}"]
    job = slurm(*argv, input=script, env={"SLURM_OCI_RUNTIME": runtime})[1].decode().strip()
    until((home / "log").exists)
    assert slurm("scontrol", "requeue", job, user="root")[0] == 0
    until(lambda: b"JobState=PENDING" in slurm("scontrol", "show", "job", job)[1])
    # Slurm would wait two minutes. One second is needed: by it the node knows the first run's
    # credential, which is void, from the next one's.
    slurm("sleep", "2")
    assert slurm("scontrol", "update", f"JobId={job}", "StartTime=now", user="root")[0] == 0
    until(lambda: b"JobState=COMPLETED" in slurm("scontrol", "show", "job", job)[1], seconds=200)
    assert (home / "log").read_text() == "run\nrun\n"
    slurm(*GC)


def test_the_epilog_removes_what_is_left(slurm, supervised):
    """As slurmd runs it, with the variables that it sets; the node stays in service."""
    conf = slurm.root.path("/etc/slurm/slurm.conf")
    before = conf.read_text()
    try:
        slurm.root.write("/etc/slurm/slurm.conf", before + "Epilog=/opt/slurm-oci/epilog\n")
        assert slurm("scontrol", "reconfigure", user="root")[0] == 0
        until(lambda: b"/opt/slurm-oci/epilog" in slurm("scontrol", "show", "config")[1])
        task = Task(slurm, *supervised)
        task.cancel("-s", "KILL", f"{task.job}.0")
        assert task.status() == 137
        slurm.root.wait_idle()
        until(lambda: not left(slurm), lambda: left(slurm), seconds=20)
        assert b" idle" in slurm("sinfo", "-h", "-o", "%n %t")[1]
    finally:
        slurm.root.write("/etc/slurm/slurm.conf", before)
        slurm("scontrol", "reconfigure", user="root")


@pytest.mark.parametrize(
    ("options", "command", "status"),
    [
        ((), ("/bin/false",), 1),
        ((), ("/no/such/program",), None),
        (("-n4",), ("/bin/true",), 0),
        (("--chdir=/tmp",), ("/bin/sh", "-c", "kill -KILL $$"), 137),
    ],
    ids=["the command fails", "no such command", "four tasks end", "the command is killed"],
)
def test_nothing_is_left_after_any_end_in_order(slurm, pair, options, command, status, request):
    """Not even for a moment after the job: the supervisor ends last."""
    runtime, image = pair
    found = slurm.srun(image, *command, options=options, SLURM_OCI_RUNTIME=runtime)[0]
    assert found == status if status is not None else found != 0
    none_left(slurm)
    if status is not None:
        record(slurm, request.node.callspec.id.rpartition("-")[2], "each way to run", found)


def test_nothing_is_left_where_preparing_fails(slurm):
    """A squashfs file that cannot be mounted: the error names the command that failed."""
    slurm.root.write("/home/alice/broken.sqsh", b"hsqs" + bytes(8192), user="alice")
    status, out, err = slurm.srun("/home/alice/broken.sqsh", "/bin/true", SLURM_OCI_RUNTIME="charliecloud")
    assert (status, out) == (126, b"")
    assert b"slurm-oci: error: preparing failed: " in err
    none_left(slurm)
    record(slurm, "the preparation fails", "charliecloud", status)


def test_a_file_system_that_is_full_is_told_and_nothing_is_left(slurm):
    """Where the private directory cannot be written: one error, 125, no half of a bundle."""
    slurm("mkdir", "-p", "/full", user="root")
    try:
        slurm("mount", "-t", "tmpfs", "-o", "size=4k,mode=1777", "tmpfs", "/full", user="root")
        slurm.root.write("/opt/slurm-oci/site.toml", 'state = "/full"\n')
        slurm("sh", "-c", "cat /dev/zero >/full/file", user="root")
        status, out, err = slurm.srun(IMAGES["oci-bundle"], "/bin/true", SLURM_OCI_RUNTIME="crun")
        assert (status, out) == (125, b"")
        assert err.startswith(b"slurm-oci: error: cannot ")
        assert b"No space left on device [state-unavailable]" in err
        state = slurm.root.path("/full/1001")
        assert not state.exists() or list(state.iterdir()) == []
        none_left(slurm)
    finally:
        slurm("umount", "/full", user="root")


def test_random_ends_leave_nothing_after_gc(slurm, supervised):
    """Many tasks of one step, killed while some are being prepared and others run."""
    runtime, image = supervised
    for wait in (0.05, 0.2, 0.6):
        argv = ["srun", "-n8", f"--container={image}", "/bin/sleep", "60"]
        process = slurm.root.popen(argv, env={"SLURM_OCI_RUNTIME": runtime}, stdout=-1, stderr=-1)
        until(lambda: slurm("squeue", "-h", "-t", "R", "-o", "%A")[1].split())
        slurm("sleep", str(wait))
        slurm("scancel", "-s", "KILL", "-u", "alice")
        slurm("scancel", "-u", "alice")
        process.communicate(timeout=60)
    slurm.root.wait_idle()
    assert slurm(*GC)[0] == 0


@pytest.fixture(params=SUITES)
def own_tmp(request, tmp_path):
    """A Slurm in which each job has a /tmp of its own, which is gone after it (job_container/tmpfs).

    All of it runs on one processor: Slurm keeps a job's mount namespace by a bind mount, which Linux 6.18
    refuses (EINVAL) unless the namespace has a higher number than that of slurmd, and each processor counts
    for itself. In 24.11, salloc then waits for ever.
    """
    layer = tmp_path / "layer"
    (layer / "etc" / "slurm").mkdir(parents=True)
    (layer / "etc" / "slurm" / "job_container.conf").write_text("AutoBasePath=true\nBasePath=/var/tmp/own\n")
    lines = "JobContainerType=job_container/tmpfs\nPrologFlags=Contain\n"
    name = f"own-tmp-{request.param}-{os.getpid()}"
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        with SlurmRoot.start(request.param, name=name, slurm_conf=lines, layers=[layer]) as root:
            root.install_project()
            yield Slurm(root)
    finally:
        os.sched_setaffinity(0, processors)


@pytest.mark.parametrize(
    ("base", "end"),
    [
        ("/run/slurm-oci", "SIGKILL to the whole step, in a job with its own `/tmp`"),
        (
            "/tmp/state",
            "SIGKILL to the whole step, in a job with its own `/tmp`, with `state` of site.toml there",
        ),
    ],
    ids=["elsewhere", "in it"],
)
def test_jobs_whose_tmp_is_hidden_from_the_node(own_tmp, base, end):
    """What is in /run is found by `gc`, what is in the job's own /tmp goes with the job."""
    slurm = own_tmp
    slurm.root.write("/opt/slurm-oci/site.toml", f'state = "{base}"\n')
    slurm.root.write("/tmp/on-the-node", "")
    for runtime, kind in SUPERVISED:
        status, _, err = slurm("salloc", "--no-shell")
        assert status == 0, err
        job = re.search(rb"job allocation (\d+)", err)[1].decode()
        ended = slurm.srun(
            IMAGES[kind], "/bin/sh", "-c", "ls /tmp/on-the-node; exit 3", options=(f"--jobid={job}",), SLURM_OCI_RUNTIME=runtime
        )  # fmt: skip
        assert ended[:2] == (3, b""), ended[2]
        task = Task(slurm, runtime, IMAGES[kind], f"--jobid={job}")
        task.cancel("-s", "KILL", f"{job}.1")
        assert task.status() == 137
        slurm.root.cancel_jobs()
        found = left(slurm)
        assert slurm(*GC)[0] == 0
        none_left(slurm)
        assert not slurm.root.path("/tmp/state").exists()
        record(slurm, end, runtime, 137, found)
