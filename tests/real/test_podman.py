"""Podman on a real Slurm: a directory of the user's own, layouts and archives, names in his store.

It stands apart from the runtimes in test_container.py: it takes no directory of somebody else's.
"""

import pytest
from conftest import CHATTER
from images import IMAGES
from running import at_a_terminal, until

ROOTFS = "/home/alice/rootfs"
SHELL = "/bin/sh"
CATATONIT = "/usr/bin/catatonit"
# It ignores SIGTERM, and so does what it starts.
STUBBORN = (SHELL, "-c", "trap '' TERM; echo up; sleep 4242")
EACH = [ROOTFS, "oci:/images/oci:latest", "/images/oci", "/images/oci.tar", "/images/docker.tar"]
WARNING = (
    b"slurm-oci: warning: without catatonit on the node the command is process 1 of its container,"
    b" and gets only the signals that it handles"
)


@pytest.fixture
def podman(slurm):
    """`srun` with podman, where alice has a directory of her own to run."""
    slurm("sh", "-c", f"rm -rf {ROOTFS} && cp -r {IMAGES['rootfs']} {ROOTFS}")
    yield lambda image, *command, **more: slurm.srun(image, *command, SLURM_OCI_RUNTIME="podman", **more)
    slurm("rm", "-rf", ROOTFS)


def content(slurm, folder):
    """Every file below, with its mode, owner and time of change."""
    return slurm("find", folder, "-printf", "%p %m %u %C@ %l\\n")[1]


@pytest.mark.parametrize("image", EACH)
def test_each_kind_of_image_runs(podman, slurm, image):
    """As the user himself, in his directory, with the status and output of the command."""
    script = "head -n1 /etc/os-release; id -u; id -g; pwd; cat; echo err >&2; exit 7"
    status, out, err = podman(image, SHELL, "-c", script, input=b"in\n")
    assert (status, out) == (7, b"ID=busybox\n1001\n1001\n/home/alice\nin\n")
    assert err == b"err\nsrun: error: node1: task 0: Exited with exit code 7"


@pytest.mark.parametrize("status", [0, 1, 126, 127, 255])
def test_the_exit_status_is_the_command_s(podman, status):
    """Whatever podman's own would mean."""
    assert podman(ROOTFS, SHELL, "-c", f"exit {status}")[0] == status


def test_words_arrive_as_they_were_written(podman):
    """The options end before the image."""
    words = ["it's", "a b", "", "$HOME", "`id`", "two\nlines", "*", "--", "-n", "\\", '"', "é"]
    status, out, _ = podman(ROOTFS, SHELL, "-c", 'for word; do printf "%s|" "$word"; done', "--rm", *words)
    assert (status, out) == (0, "".join(word + "|" for word in words).encode())


def test_variables_arrive_as_they_are(podman, slurm):
    """Whatever they hold and are called, also those that podman would obey itself."""
    given = {
        "BASH_FUNC_x%%": "() { :\n}",
        "MINE": 'it\'s\n "mine",a=b',
        "EMPTY": "",
        "STAR*": "1",
        "TMPDIR": "/tmp/mine",
        "XDG_RUNTIME_DIR": "/run/user/1001",
        "CONTAINER_HOST": "unix:///nowhere",
        "LD_DEBUG_OUTPUT": "/nowhere",
    }
    env = {**given, "SLURM_OCI_RUNTIME": "podman"}
    _, out, _ = slurm("srun", f"--container={ROOTFS}", "/bin/cat", "/proc/self/environ", env=env)
    found = dict(pair.split("=", 1) for pair in out.decode().split("\0")[:-1])
    assert {name: found.get(name) for name in given} == given
    assert (found["HOME"], found["USER"], found["SLURM_PROCID"]) == ("/home/alice", "alice", "0")
    assert found["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_the_image_s_own_variables_are_there(podman):
    """Of a layout its PATH, below the job's others."""
    assert podman("/images/oci", SHELL, "-c", "echo $IMAGE $PATH $MINE", MINE="3")[1] == b"busybox /bin 3\n"


@pytest.mark.parametrize("image", [ROOTFS, "/images/oci.tar"])
def test_mounts_and_workdir_are_carried_out(podman, slurm, image):
    """At paths with every sign that an option could stumble over; read-only where it is said."""
    odd = '/home/alice/a b,"c":d\''
    slurm("mkdir", "-p", odd)
    slurm.root.write(f"{odd}/file", "content\n", user="alice")
    escaped = odd.replace(",", "\\,").replace(":", "\\:")
    mounts = f"{escaped}:/of\\,the \\:host,{escaped}:/fixed:ro"
    script = "pwd; cat file; echo more >> file; touch /fixed/new"
    status, out, err = podman(
        image, SHELL, "-c", script, SLURM_OCI_MOUNTS=mounts, SLURM_OCI_WORKDIR="/of,the :host"
    )
    assert (status, out) == (1, b"/of,the :host\ncontent\n")
    assert b"touch: /fixed/new: Read-only file system" in err
    assert slurm("cat", f"{odd}/file")[1] == b"content\nmore\n"
    slurm("rm", "-r", odd)


def test_a_mount_that_would_make_its_place_in_another_is_refused(podman, slurm):
    """podman would make it in the user's home."""
    mounts = "/home/alice:/home/alice,/etc:/home/alice/no/such"
    status, _, err = podman(ROOTFS, "/bin/true", SLURM_OCI_MOUNTS=mounts)
    assert status == 125
    assert b"lies in the mount of `/home/alice`" in err
    assert not slurm.root.path("/home/alice/no").exists()


def test_a_workdir_that_is_not_there_is_refused(podman):
    """Before anything is started, where the image is a directory."""
    status, out, err = podman(ROOTFS, "/bin/pwd", SLURM_OCI_WORKDIR="/no/such")
    assert (status, out) == (125, b"")
    assert b"SLURM_OCI_WORKDIR is `/no/such`" in err


def test_a_directory_of_somebody_else_s_is_refused(podman):
    """And a runtime named that takes it."""
    status, _, err = podman(IMAGES["rootfs"], "/bin/true")
    assert status == 125
    assert b"belongs to somebody else" in err
    assert b"SLURM_OCI_RUNTIME=unshare" in err


def test_the_image_stays_as_it_was(podman, slurm):
    """It cannot be written, and the places for mounts are made elsewhere."""
    before = content(slurm, ROOTFS)
    status, _, err = podman(ROOTFS, SHELL, "-c", "touch /x /etc/x; ls -d /home/alice")
    assert status == 0
    assert err.count(b"Read-only file system") == 2
    assert content(slurm, ROOTFS) == before


def test_the_image_changes_where_it_was_asked_for(podman, slurm):
    """SLURM_OCI_WRITABLE=yes, a directory alone."""
    assert podman(ROOTFS, "/bin/touch", "/new", SLURM_OCI_WRITABLE="yes")[0] == 0
    assert slurm.root.path(ROOTFS + "/new").exists()
    status, _, err = podman("/images/oci.tar", "/bin/true", SLURM_OCI_WRITABLE="yes")
    assert status == 125
    assert b"SLURM_OCI_WRITABLE is `yes`" in err


def test_a_path_with_a_colon_is_no_tag(podman, slurm):
    """Of a directory, a layout, an archive."""
    for image in (ROOTFS, "/images/oci", "/images/oci.tar"):
        slurm("rm", "-rf", "/home/alice/a:b c")
        slurm("cp", "-r", image, "/home/alice/a:b c")
        assert podman("/home/alice/a:b c", "/bin/echo", "in")[:2] == (0, b"in\n")
    slurm("rm", "-rf", "/home/alice/a:b c")


@pytest.mark.parametrize("image", [ROOTFS, "/images/docker.tar"])
def test_nothing_is_left(podman, slurm, image):
    """No file of the user's subordinate ids, no process, not even the one that holds his namespace."""
    script = f"srun --container={image} /bin/true; pgrep -u alice -l 'podman|conmon'; true"
    status, out = slurm.batch(f"#!/bin/sh\n{script}\n".encode(), SLURM_OCI_RUNTIME="podman")
    lines = [line for line in out.splitlines() if not any(word in line for word in CHATTER)]
    assert (status, lines) == (0, [])
    assert list(slurm.root.path("/run/slurm-oci/1001").iterdir()) == []
    assert not slurm.root.path("/home/alice/.local/share/containers").exists()


@pytest.mark.parametrize("image", [ROOTFS, "/images/oci.tar"])
def test_eight_tasks_run_at_once(podman, image):
    """Each in a store of its own."""
    status, out, err = podman(image, SHELL, "-c", "echo $SLURM_PROCID", options=["-n8"])
    assert (status, sorted(out.split())) == (0, [str(n).encode() for n in range(8)])
    assert err == b""


def test_signals_that_the_command_handles_reach_it(podman, slurm):
    """USR1 and the TERM of scancel."""
    script = "trap 'echo usr1' USR1; trap 'echo term; exit 4' TERM; echo up; while :; do sleep 0.1; done"
    command = ["srun", "-J", "signals", f"--container={ROOTFS}", SHELL, "-c", script]
    with slurm.root.popen(command, env={"SLURM_OCI_RUNTIME": "podman"}, stdout=-1, stderr=-1) as task:
        assert task.stdout.readline() == b"up\n"
        job = slurm("squeue", "-h", "-n", "signals", "-o", "%A")[1].decode().strip()
        slurm("scancel", "-s", "USR1", f"{job}.0")
        assert task.stdout.readline() == b"usr1\n"
        slurm("scancel", job)
        assert task.stdout.read() == b"term\n"


@pytest.fixture
def no_catatonit(slurm):
    """A node without it."""
    assert slurm("chmod", "a-x", CATATONIT, user="root")[0] == 0
    yield
    slurm("chmod", "a+x", CATATONIT, user="root")


SIGNAL_ITSELF = (SHELL, "-c", "kill -TERM $$; echo 'nothing came'")


def test_a_signal_that_the_command_does_not_handle_ends_it(podman):
    """Process 1 is catatonit, which ends with the command."""
    assert podman(ROOTFS, *SIGNAL_ITSELF)[:2] == (143, b"")


def test_without_catatonit_such_a_signal_is_lost_and_a_warning_says_so(podman, no_catatonit):
    """The command is process 1, which the kernel keeps signals from (pid_namespaces(7))."""
    status, out, err = podman(ROOTFS, *SIGNAL_ITSELF)
    assert (status, out, err) == (0, b"nothing came\n", WARNING)


def test_what_ignores_the_end_does_not_outlive_the_job(podman, slurm):
    """The container is in the job's control group: Slurm's SIGKILL reaches it."""
    command = ["srun", "-J", "stays", f"--container={ROOTFS}", *STUBBORN]
    with slurm.root.popen(command, env={"SLURM_OCI_RUNTIME": "podman"}, stdout=-1, stderr=-1) as task:
        assert task.stdout.readline() == b"up\n"
        assert slurm("pgrep", "-f", "sleep 4242")[0] == 0
        slurm("scancel", "-n", "stays")
        task.wait()
    slurm.root.wait_idle()
    assert slurm("pgrep", "-f", "sleep 4242", user="root")[0] == 1
    slurm("/opt/slurm-oci/bin/slurm-oci-plugins", "gc")


@pytest.mark.parametrize("by", ["gc", "the next task"])
def test_what_a_task_that_was_killed_left_is_removed(podman, slurm, by):
    """Its unpacked image belongs to the user's subordinate ids, and to him only in a user namespace."""
    command = ["srun", "-J", "killed", "--container=/images/oci.tar", *STUBBORN]
    with slurm.root.popen(command, env={"SLURM_OCI_RUNTIME": "podman"}, stdout=-1, stderr=-1) as task:
        assert task.stdout.readline() == b"up\n"
        slurm("scancel", "-n", "killed", "-s", "KILL")
        task.wait()
    slurm.root.wait_idle()
    state = slurm.root.path("/run/slurm-oci/1001")
    (left,) = state.iterdir()
    found = list((left / "root/overlay").iterdir())
    assert 100000 in {folder.stat().st_uid for folder in found}
    if by == "gc":
        assert slurm("/opt/slurm-oci/bin/slurm-oci-plugins", "gc")[0] == 0
    else:
        assert podman(ROOTFS, "/bin/true")[0] == 0
    assert list(state.iterdir()) == []


def test_the_descriptor_of_pmi_is_kept(podman):
    """`srun --mpi=pmi2` names it in PMI_FD; those below it are not needed."""
    script = "readlink /proc/self/fd/$PMI_FD"
    status, out, _ = podman(ROOTFS, SHELL, "-c", script, options=["--mpi=pmi2"])
    assert (status, out[:8]) == (0, b"socket:[")


def test_the_node_s_shared_memory_is_there(podman, slurm):
    """In which ranks find each other."""
    slurm("touch", "/dev/shm/of-alice")
    assert podman(ROOTFS, "/bin/ls", "/dev/shm")[1] == b"of-alice\n"
    assert podman(ROOTFS, "/bin/rm", "/dev/shm/of-alice")[0] == 0


def test_a_terminal_works(podman, slurm):
    """`srun --pty`: a size, ^C for the foreground command, the shell's own status."""

    def talk(terminal):
        terminal.send(b"tty; stty size; echo $((6 * 7)); sleep 100\n")
        seen = terminal.expect(b"42\r\n")
        until(lambda: slurm("pgrep", "-xf", "sleep 100")[0] == 0)  # it is in the foreground
        terminal.send(b"\x03")
        terminal.send(b"echo after=$?; exit 5\n")
        return seen, *terminal.finish()

    command = ["srun", "--pty", f"--container={ROOTFS}", SHELL]
    seen, status, rest = at_a_terminal(slurm, command, talk, env={"SLURM_OCI_RUNTIME": "podman"})
    assert b"/dev/" in seen
    assert b"24 80" in seen
    assert status == 5
    assert b"after=130" in rest


def test_a_batch_script_runs_inside(podman, slurm):
    """Slurm keeps it where no image has it."""
    script = b"#!/bin/sh\nhead -n1 /etc/os-release\npwd\nexit 3\n"
    status, out = slurm.batch(script, f"--container={ROOTFS}", SLURM_OCI_RUNTIME="podman")
    assert (status, out) == (3, b"ID=busybox\n/home/alice\n")


def test_a_name_is_an_image_in_the_user_s_own_store(podman, slurm):
    """It is never pulled; the store is as before afterwards."""
    own = ("podman", "--cgroup-manager=cgroupfs")
    status, image, err = slurm(*own, "pull", "-q", "oci:/images/oci:latest")
    assert status == 0, err
    assert slurm(*own, "tag", image.strip(), "tools:1")[0] == 0
    assert podman("tools:1", SHELL, "-c", "head -n1 /etc/os-release; exit 3")[:2] == (3, b"ID=busybox\n")
    status, _, err = podman("tools:2", "/bin/true")
    assert status == 125
    assert b"tools:2" in err
    assert slurm(*own, "ps", "-aq")[1] == b""
    slurm(*own, "system", "reset", "-f")
    slurm("rm", "-rf", "/home/alice/.local")


CDI = """{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [
  {"name": "all", "containerEdits": {"env": ["MADE_UP=1"], "deviceNodes": [{"path": "/dev/null",
    "hostPath": "/dev/null"}]}}]}"""


def test_gpus_are_what_cdi_describes(podman, slurm):
    """SLURM_OCI_GPU=nvidia asks for all that the node's description has; a made-up one here."""
    slurm.root.write("/etc/cdi/nvidia.json", CDI)
    assert podman(ROOTFS, SHELL, "-c", "echo $MADE_UP", SLURM_OCI_GPU="nvidia")[:2] == (0, b"1\n")
    assert podman(ROOTFS, SHELL, "-c", "echo $MADE_UP")[:2] == (0, b"\n")
    slurm.root.path("/etc/cdi/nvidia.json").unlink()
