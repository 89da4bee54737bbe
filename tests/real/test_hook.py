"""The user's own `~/.slurm-oci-run` under a real Slurm."""

import pytest
from images import IMAGES

IMAGE = IMAGES["rootfs"]
HOOK = "/home/alice/.slurm-oci-run"
GUIDES = """#!/bin/bash --login
# Parse
CONTAINER="$1"
SPOOL_DIR="$2"
USER_NAME="$3"
USER_ID="$4"
NODE_NAME="$5"
JOB_ID="$6"
STEP_ID="$7"
TASK_ID="$8"
shift 8 # subsequent arguments are the command to run in the container
echo "hook: $CONTAINER $USER_NAME $USER_ID $NODE_NAME $STEP_ID $TASK_ID"
[ "$JOB_ID" = "$SLURM_JOB_ID" ] && [ -d "$SPOOL_DIR" ] && pwd
exec "$@"
"""


def test_a_script_as_the_guide_shows_it_takes_over(slurm):
    """With the eight fields, the command and the job's environment."""
    slurm.root.write(HOOK, GUIDES, user="alice", mode=0o755)
    status, out, _ = slurm.srun(IMAGE, "/bin/sh", "-c", 'echo "$1 $MINE"; exit 6', "sh", "it's", MINE="x y")
    assert (status, out) == (6, b"hook: /images/rootfs alice 1001 node1 0 0\n/home/alice\nit's x y\n")


def test_a_script_that_others_can_write_is_refused(slurm):
    """With 125 and the command that cures it; never skipped silently."""
    slurm.root.write(HOOK, GUIDES, user="alice", mode=0o777)
    status, out, err = slurm.srun(IMAGE, "/bin/true")
    assert (status, out) == (125, b"")
    first, *hints = err.decode().splitlines()
    assert first.startswith(f"slurm-oci: error: `{HOOK}` ")
    assert first.endswith("[hook-unsafe]")
    cure = next(hint for hint in hints if "chmod" in hint)
    command = cure[cure.index("chmod") :].partition("`")[0]
    assert slurm("sh", "-c", command)[0] == 0
    assert slurm.srun(IMAGE, "/bin/echo", "cured")[1].endswith(b"cured\n")


def test_the_job_can_go_without_it(slurm):
    """SLURM_OCI_USER_HOOK=no"""
    slurm.root.write(HOOK, GUIDES, user="alice", mode=0o777)
    assert slurm.srun(IMAGE, "/bin/echo", "x", SLURM_OCI_USER_HOOK="no")[:2] == (0, b"x\n")


def test_it_hands_back_in_the_environment_it_leaves(slurm):
    """exec /opt/slurm-oci/slurm-oci-run-default "$@", under the guide's name."""
    leave = 'export SLURM_OCI_RUNTIME=unshare MINE="it\'s new"'
    hook = f'#!/bin/bash\n{leave}\nexec /opt/slurm-oci/slurm-oci-run-default "$@"\n'
    slurm.root.write(HOOK, hook, user="alice", mode=0o700)
    script = 'echo "$MINE|$SLURM_PROCID|$SLURM_OCI_HOOK|$1"; head -n1 /etc/os-release'
    status, out, err = slurm.srun(
        IMAGE, "/bin/sh", "-c", script, "sh", "a 'b'", MINE="old", SLURM_OCI_DEBUG="1"
    )
    assert (status, out) == (0, b"it's new|0||a 'b'\nID=busybox\n")
    assert b"runtime: unshare (asked for by SLURM_OCI_RUNTIME)" in err


def test_it_may_call_the_entry_point_itself(slurm):
    """Which does not call it again."""
    slurm.root.write(HOOK, '#!/bin/sh\necho once\nexec /opt/slurm-oci/run "$@"\n', user="alice", mode=0o700)
    assert slurm.srun(IMAGE, "/bin/echo", "inside")[:2] == (0, b"once\ninside\n")


def test_a_hook_that_empties_the_environment_and_calls_again_is_refused(slurm):
    """Once, and not once for each process that the node can have."""
    hook = '#!/bin/sh\necho once\nenv -i /opt/slurm-oci/run "$@"\nexit $?\n'
    slurm.root.write(HOOK, hook, user="alice", mode=0o700)
    status, out, err = slurm.srun(IMAGE, "/bin/echo", "x")
    assert (status, out) == (126, b"once\n")
    assert b"by which it would be known as the one that calls [hook-failed]" in err


def test_a_copy_of_the_default_script_works_as_hook(slurm):
    """The guide tells users to model their script after it."""
    slurm("sh", "-c", f"cp /opt/slurm-oci/slurm-oci-run-default {HOOK} && chmod 700 {HOOK}")
    assert slurm.srun(IMAGE, "/bin/echo", "inside")[:2] == (0, b"inside\n")


def test_the_default_script_as_run_time_run_looks_for_no_hook(slurm):
    """As a site may set it that wants none."""
    slurm.root.write(HOOK, "#!/bin/sh\necho hook\n", user="alice", mode=0o700)
    line = "exec /opt/slurm-oci/slurm-oci-run-default '%b' '%m' %u %U %n %j %s %t %@"
    slurm.oci_conf("IgnoreFileConfigJson=true", "CreateEnvFile=null", f'RunTimeRun="{line}"')
    assert slurm.srun(IMAGE, "/bin/sh", "-c", "echo $MINE", MINE="here")[:2] == (0, b"here\n")


@pytest.fixture
def closed_home(slurm):
    """Mounts over alice's home one that even root cannot enter, with `hook` in it: FUSE lets nobody in but
    who has mounted it, as an NFS server that squashes root does."""
    home = HOOK.rpartition("/")[0]

    def mount(hook, mode):
        made = f"mkdir -p /tmp/home && cat >/tmp/home/.slurm-oci-run && chmod {mode} /tmp/home/.slurm-oci-run"
        made += " && mksquashfs /tmp/home /tmp/home.sqsh -quiet -no-progress -noappend"
        for words in (("sh", "-c", made), ("squashfuse", "/tmp/home.sqsh", home)):
            status, _, err = slurm(*words, input=hook, cwd="/tmp")
            assert status == 0, err
        assert b"Permission denied" in slurm("ls", home, user="root", cwd="/tmp")[2]

    yield mount
    slurm.root.cancel_jobs()
    assert slurm("fusermount3", "-u", home, cwd="/tmp")[0] == 0
    slurm("rm", "-rf", "/tmp/home", "/tmp/home.sqsh", cwd="/tmp")


def test_a_home_that_root_cannot_enter_has_its_script_run(slurm, closed_home):
    """Its user looks for it, judges it and runs it: nothing of ours is done as root."""
    closed_home(GUIDES, "700")
    status, out, err = slurm.srun(IMAGE, "/bin/echo", "inside", options=("-D", "/tmp"), cwd="/tmp")
    assert (status, out) == (0, b"hook: /images/rootfs alice 1001 node1 0 0\n/tmp\ninside\n"), err


def test_a_home_that_root_cannot_enter_is_no_directory_for_a_container(slurm, closed_home):
    """Slurm, as root, goes there before anything of ours is called: it goes on in /tmp without a
    container, and ends the task with one."""
    closed_home(GUIDES, "700")
    assert slurm("srun", "-D", "/home/alice", "/bin/pwd", cwd="/tmp")[:2] == (0, b"/tmp\n")
    status, out, err = slurm.srun(IMAGE, "/bin/pwd", options=("-D", "/home/alice"), cwd="/tmp")
    assert (status, out) == (1, b"")
    assert b"couldn't chdir to `/home/alice': Permission denied\n" in err
    assert b"slurm-oci" not in err


def test_a_home_that_root_cannot_enter_has_its_script_judged(slurm, closed_home):
    """As in any other."""
    closed_home(GUIDES, "777")
    status, out, err = slurm.srun(IMAGE, "/bin/true", options=("-D", "/tmp"), cwd="/tmp")
    assert (status, out) == (125, b"")
    assert err.startswith(f"slurm-oci: error: `{HOOK}` can be written by everybody".encode())
