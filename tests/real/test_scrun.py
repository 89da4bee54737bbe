"""Podman whose containers run as jobs, and podman within a job, by the files that `scrun` writes.

Docker is not in the test roots; its bundle is: what scrun makes of one whose directory no node sees.
"""

import json
import signal

import pytest
from images import IMAGES

COMMAND = "/opt/slurm-oci/bin/slurm-oci-plugins"
RUNTIME = {"XDG_RUNTIME_DIR": "/run/user/1001"}
IMAGE = "docker.io/library/busybox:latest"


@pytest.fixture
def written(slurm):
    """Writes the files for alice with the given words; all is removed afterwards."""
    make = "mkdir -p /run/user && install -d -o alice -g alice -m 700 /run/user/1001"
    assert slurm("sh", "-c", make, user="root")[0] == 0

    def write(*words):
        status, out, error = slurm(COMMAND, "scrun", *words, "--user", "alice", "--write", user="root")
        assert (status, error) == (0, b"")
        return out

    yield write
    slurm("pkill", "-KILL", "-f", "^scrun: ", user="root")  # 24.11's does not always end by itself
    slurm("podman", "unshare", "rm", "-rf", "containers", ".local/share/containers", env=RUNTIME)
    slurm("rm", "-rf", "/etc/slurm/scrun.lua", "/run/user/1001", "/home/alice/.config", user="root")
    slurm("rm", "-f", "out", "err")


def podman(slurm, *words, before=()):
    """Exit status, output and errors; through files, since scrun may keep a pipe open for long."""
    script = 'exec </dev/null >out 2>err "$@"'
    status, *_ = slurm(*before, "sh", "-c", script, "sh", "podman", *words, env=RUNTIME)
    lines = slurm("cat", "err")[1].splitlines()
    error = b"\n".join(line for line in lines if not (line.startswith(b"scrun: ") and DELETED in line))
    return status, slurm("cat", "out")[1], error


# What scrun says when conmon and podman have both had it delete the container.
DELETED = b"assumed already deleted"


def podman_run(slurm, *words, tries=6):
    """The same of `podman run`, whose container is a job.

    After about every fifth short job the process of 24.11's scrun that stands for the container (its
    anchor, `scrun: ID`) does not end: it turns round and round, and podman waits for it, though the job
    is over and all output there. Then that process is ended and all is done once more.
    """
    for _ in range(tries):
        ended = podman(slurm, "run", *words, before=("timeout", "--signal=KILL", "20"))
        if ended[0] != -signal.SIGKILL:  # timeout(1) dies of it itself
            return ended
        anchors = slurm("pgrep", "-f", "^scrun: ", user="root")[1].split()
        assert anchors, ended
        assert slurm("squeue", "--noheader")[1] == b"", ended
        slurm("kill", "-KILL", *anchors, user="root")
    raise AssertionError(f"scrun never ended, {tries} times")


def test_podman_run_is_a_job(slurm, written):
    """With its output, its words and its mounts; alice's files are hers, and the check finds them."""
    written("podman")
    assert slurm("find", ".config/containers", "!", "-user", "alice")[1] == b""
    assert podman(slurm, "load", "--quiet", "--input", IMAGES["docker-archive"])[0] == 0
    found = json.loads(slurm(COMMAND, "scrun", "podman", "--check", "--json", env=RUNTIME)[1])
    failed = {finding["check"] for finding in found if finding["state"] == "failed"}
    assert failed <= {"storage"}  # all of this machine is in memory
    script = 'echo $SLURM_JOB_NAME $SLURM_CONTAINER_ID; cat "$1/file"; printf "%s|" "$@"; echo err >&2'
    slurm("sh", "-c", "mkdir -p 'odd $(x)'; echo mine > 'odd $(x)/file'")
    words = ("/bin/sh", "-c", script, "sh", "/it's here", "", "$HOME", "`id`")
    status, out, error = podman_run(slurm, "--rm", "-v", "/home/alice/odd $(x):/it's here", IMAGE, *words)
    first, *rest = out.split(b"\n")
    assert (status, rest, error) == (0, [b"mine", b"/it's here||$HOME|`id`|"], b"err")
    assert first.startswith(b"scrun ")
    slurm("rm", "-r", "odd $(x)")


def test_a_bundle_that_no_node_sees_is_staged_and_removed(slurm, written):
    """As Docker's: with hooks for its own host, in a directory of its own; the root file system in place."""
    written("docker")
    script = f"""
        mkdir -p containers/docker local && cp -r {IMAGES["rootfs"]} containers/docker/rootfs
        cd local && runc spec && sed -i 's/"terminal": true/"terminal": false/' config.json
    """
    assert slurm("sh", "-ec", script)[0] == 0
    path = slurm.root.path("/home/alice/local/config.json")
    config = json.loads(path.read_text())
    config["root"] = {"path": "/home/alice/containers/docker/rootfs"}
    config["process"]["args"] = ["/bin/sh", "-c", "echo $SLURM_CONTAINER > /home/alice/seen"]
    hook = {"path": "/nowhere", "args": ['a "hooks": {', "\\"]}
    config = {"annotations": {"hooks": '"hooks":{'}, "hooks": {"prestart": [hook]}, **config}
    path.write_text(json.dumps(config))
    create = (
        'exec </dev/null >/tmp/out 2>&1; d=$PWD; cd /tmp; scrun create -b "$d/local" c1 && scrun start c1'
    )
    assert slurm("sh", "-c", create, env=RUNTIME)[0] == 0
    seen = "until grep -qs . seen; do sleep 0.1; done; cat seen; scrun delete c1; ls containers/scrun"
    status, out, _ = slurm("sh", "-c", f"timeout 30 sh -c '{seen}'", env=RUNTIME)
    assert (status, out) == (0, b"/home/alice/containers/scrun/c1\n")
    slurm("rm", "-rf", "local", "seen")


def test_podman_in_a_job_stays_in_its_cgroup(slurm, written):
    """Its container is in the step's, named as from outside."""
    written("podman", "--in-job")
    assert podman(slurm, "load", "--quiet", "--input", IMAGES["docker-archive"])[0] == 0
    script = f"cat /proc/self/cgroup; echo --; podman run --rm {IMAGE} cat /proc/self/cgroup"
    status, out, _ = slurm("srun", "sh", "-c", script, env=RUNTIME)
    outside, inside = out.split(b"--\n")
    assert (status, inside) == (0, outside)
