"""Bundles made by alice of every kind of image, run by slurm-oci and by Slurm's own lines."""

import pytest
from images import IMAGES

from slurm_oci.ociconf import generate
from slurm_oci.pattern import Version

COMMAND = "/opt/slurm-oci/bin/slurm-oci-plugins"
MADE = "/home/alice/made"
SCRIPT = ("/bin/sh", "-c", "head -n1 /etc/os-release; echo it\\'s $0; exit 7", "a b")
SAID = (7, b"ID=busybox\nit's a b\n")


@pytest.fixture
def bundle(slurm):
    """Makes one, and says what was said."""
    slurm("sh", "-c", "mkdir -p -m 1777 /run/slurm-oci && chmod 1777 /run/slurm-oci", user="root")
    yield lambda *words, **more: slurm(COMMAND, "bundle", *words, **more)
    slurm("sh", "-c", f"chmod -R u+w {MADE}*; rm -rf {MADE}*")


def native(slurm, runtime, mode="run"):
    version = Version.parse(slurm.root.slurm_version)
    slurm.root.set_oci_conf(generate(runtime, mode, version, "/opt/slurm-oci"))


@pytest.mark.parametrize("kind", IMAGES)
def test_a_bundle_of_every_kind_of_image_runs(slurm, bundle, kind):
    """By the entry point, and by crun and runc as Slurm calls them itself."""
    if not slurm.has(kind):
        pytest.skip(f"{slurm.root.suite} has no tool that makes a {kind}")
    status, out, said = bundle(IMAGES[kind], MADE)
    assert (status, out) == (0, f"made: {MADE}\n".encode()), said
    assert slurm.srun(MADE, *SCRIPT)[:2] == SAID
    for runtime in ("crun", "runc"):
        native(slurm, runtime)
        assert slurm.srun(MADE, *SCRIPT)[:2] == SAID
    assert slurm("sh", "-c", "ls -A | grep -c made")[1] == b"1\n"


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_bundle_is_created_and_started_by_slurm(slurm, bundle, runtime):
    """By the lines with create and start. The output is in a file, behind what the runtime itself says."""
    assert bundle(IMAGES["docker-archive"], MADE)[0] == 0
    native(slurm, runtime, "create-start")
    assert slurm.srun(MADE, *SCRIPT)[:2] == (0, b"")
    try:
        assert slurm("sh", "-c", "cat container-*.0.0.out")[1].endswith(SAID[1])
    finally:
        slurm("sh", "-c", "rm -f container-*.out")


def test_what_the_image_declares_is_in_config_json(slurm, bundle):
    """Its variables, below the job's, and its command; the same from an engine's store."""
    env = {"XDG_RUNTIME_DIR": "/tmp/alice"}
    slurm("mkdir", "-p", "-m", "700", "/tmp/alice")
    slurm("podman", "load", "--quiet", "--input", IMAGES["docker-archive"], env=env)
    script = (
        "import json; c = json.load(open('config.json'))['process']; print(c['args'], c['env'], c['cwd'])"
    )
    for words in ([IMAGES["docker-archive"]], ["--from", "podman", "busybox"]):
        assert bundle(*words, MADE, env=env)[0] == 0
        said = slurm("python3", "-c", script, cwd=MADE)[1]
        assert said == b"['/bin/sh'] ['PATH=/bin', 'IMAGE=busybox'] /\n"
        assert slurm.srun(MADE, *SCRIPT)[:2] == SAID
        slurm("rm", "-rf", MADE)
    slurm("podman", "unshare", "rm", "-rf", ".local/share/containers", "/tmp/alice", env=env)


def test_another_program_does_it_where_the_first_is_missing(slurm, bundle):
    """podman for skopeo and umoci; and where that is missing too, the error names them all."""
    tools = ("skopeo", "umoci", "apptainer", "singularity")
    hide = "for t; do p=/usr/bin/$t; [ -e $p ] && mv $p $p.off; done; true"
    show = "for t; do p=/usr/bin/$t; [ -e $p.off ] && mv $p.off $p; done; true"
    slurm("sh", "-c", hide, "sh", *tools, user="root")
    try:
        status, _, said = bundle(IMAGES["docker-archive"], MADE)
        assert (status, said.splitlines()[0].startswith(b"podman")) == (0, True), said
        assert slurm.srun(MADE, *SCRIPT)[:2] == SAID
        slurm("rm", "-rf", MADE)
        slurm("sh", "-c", hide, "sh", "podman", user="root")
        status, _, said = bundle(IMAGES["docker-archive"], MADE)
        assert (status, said.splitlines()[1]) == (
            1,
            b"  install one of: skopeo and umoci; podman; apptainer; singularity",
        )
    finally:
        slurm("sh", "-c", show, "sh", "podman", *tools, user="root")


SILENT = """
import socket, time
server = socket.create_server(("127.0.0.1", 5999))
print("listening", flush=True)
held = server.accept()
time.sleep(600)
"""


@pytest.mark.parametrize("number", ["INT", "TERM"])
def test_a_signal_leaves_nothing(slurm, bundle, number):
    """While a program is at work: skopeo waits for a registry that says nothing."""
    registry = slurm.root.popen(["python3", "-c", SILENT], stdout=-1)
    try:
        assert registry.stdout.readline() == b"listening\n"
        source = "docker://127.0.0.1:5999/image"
        process = slurm.root.popen([COMMAND, "bundle", source, MADE], stderr=-1)
        assert process.stderr.readline().startswith(b"skopeo ")
        slurm("pkill", f"-{number}", "-f", f"bundle {source}")
        assert process.wait(60) == 128 + {"INT": 2, "TERM": 15}[number]
        assert slurm("sh", "-c", "ls -A | grep -c made")[1] == b"0\n"
    finally:
        registry.kill()
        registry.wait()


STRICT = "/home/alice/strict"  # as many a site's home or scratch


@pytest.fixture
def strict(slurm):
    """A file system that forbids more than the image's own: with a bundle and a file on it."""
    copy = f"cp -r {IMAGES['oci-bundle']} {STRICT}/bundle; echo data >{STRICT}/file"
    mount = f"mkdir {STRICT}; mount -t tmpfs -o nosuid,nodev,noatime,mode=0777 strict {STRICT}; {copy}"
    slurm.root.run(["sh", "-c", mount], user="root", check=True)
    yield slurm
    slurm.root.run(["sh", "-c", f"umount {STRICT}; rmdir {STRICT}"], user="root", check=True)


@pytest.mark.parametrize("runtime", ["crun", "runc", "unshare"])
def test_a_bundle_or_a_read_only_mount_may_lie_on_a_strict_file_system(strict, runtime):
    """One with nosuid and nodev, which nobody in a user namespace may take away."""
    for image in (f"{STRICT}/bundle", IMAGES["oci-bundle"]):
        script = "cat /srv/new/file; echo x >/srv/new/file"
        status, out, err = strict.srun(
            image,
            "/bin/sh",
            "-c",
            script,
            SLURM_OCI_RUNTIME=runtime,
            SLURM_OCI_MOUNTS=f"{STRICT}:/srv/new:ro",
        )
        assert (status, out) == (1, b"data\n"), err
        assert b"Read-only file system" in err
