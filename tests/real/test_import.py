"""Images that must be unpacked first: by one task, for all; from files and from a registry."""

import json
import os
import subprocess

import pytest
import table
from conftest import SUITES
from images import IMAGES
from running import until
from slurm_root import SlurmRoot

PACKED = ("oci-layout", "oci-archive", "docker-archive")
OWN = "/var/cache/slurm-oci/1001"
# In the place of a program: writes down each call, and does what the test has put there.
COUNTING = """#!/bin/sh
echo "{name} $1 $2" >>/opt/count/$(uname -n)
. /opt/count/before
exec /usr/bin/{name} "$@"
"""
SITE = """
pull = true
[executables]
umoci = "/opt/count/umoci"
skopeo = "/opt/count/skopeo"
[images]
"""


class Counted:
    """What umoci and skopeo are asked for on the nodes of a root."""

    def __init__(self, root):
        self.root = root
        root.run(["install", "-d", "-m", "1777", "/opt/count"], user="root", check=True)
        for name in ("umoci", "skopeo"):
            root.write(f"/opt/count/{name}", COUNTING.format(name=name), mode=0o755)

    def site(self, **images):
        keys = "".join(f"{key} = {json.dumps(value)}\n" for key, value in images.items())
        self.root.write("/opt/slurm-oci/site.toml", SITE + keys)
        compiled = self.root.run(["/opt/slurm-oci/bin/slurm-oci-plugins", "compile"], user="root")
        assert compiled.returncode == 0, compiled.stderr

    def begin(self, before=":"):
        """Nothing is unpacked, and nothing counted; `before` is what the programs do first, in sh."""
        places = [OWN, "/opt/count/killed", *(f"/opt/count/{name}" for name in self.names)]
        self.root.run(["rm", "-rf", *places], user="root", check=True)
        self.root.write("/opt/count/before", before)

    @property
    def names(self):
        return [f"node{n}" for n in range(1, self.root.nodes + 1)]

    def calls(self, words="umoci raw unpack"):
        """How often on each node."""
        paths = [self.root.path(f"/opt/count/{name}") for name in self.names]
        return [path.read_text().count(words) if path.exists() else 0 for path in paths]


@pytest.fixture
def counted(slurm):
    found = Counted(slurm.root)
    found.site()
    found.begin()
    yield found
    found.begin()
    slurm.root.path("/opt/slurm-oci/site.toml").unlink(missing_ok=True)
    slurm.root.run(["/opt/slurm-oci/bin/slurm-oci-plugins", "compile"], user="root", check=True)


SHOW = 'echo "$IMAGE $PATH"; id -u; cat /etc/os-release'


@pytest.mark.parametrize("runtime", ["crun", "runc", "charliecloud", "apptainer", "podman", "unshare"])
def test_every_runtime_runs_what_is_packed(slurm, counted, runtime):
    """A layout and both kinds of archive: with the image's variables, as the user himself, and the
    unpacked image stays as it is. The layout and its archive are one image, kept once."""
    if runtime == "apptainer" and not slurm.root.has("apptainer"):
        pytest.skip(f"{slurm.root.suite} has no package of apptainer")
    uid = 0 if runtime == "runc" else 1001
    for kind in PACKED:
        script = f"{SHOW}; touch /bin/new 2>/dev/null"
        status, out, err = slurm.srun(
            IMAGES[kind], "/bin/sh", "-c", f"{script}; :", SLURM_OCI_RUNTIME=runtime
        )
        shown = f'busybox /bin\n{uid}\nID=busybox\nPRETTY_NAME="busybox for tests"\n'
        assert (status, out.decode(), err) == (0, shown, b"")
    entries = sorted(os.listdir(slurm.root.path(f"{OWN}/entries")))
    assert len(entries) == 2
    assert not list(slurm.root.path(f"{OWN}/entries").glob("*/image/rootfs/bin/new"))
    assert os.listdir(slurm.root.path(f"{OWN}/work")) == []
    made = {name.partition(".")[2] for name in entries}
    assert len(made) == 1, entries
    version = slurm("sinfo", "--version")[1].decode().split()[1]
    found = dict.fromkeys(PACKED, made.pop())
    table.compare("imported", (slurm.root.suite, "rows", runtime), found, slurm=version)
    # The next job takes it as it is.
    before = counted.calls()
    assert slurm.srun(IMAGES["oci-archive"], "/bin/true", SLURM_OCI_RUNTIME=runtime)[0] == 0
    assert counted.calls() == before


def test_apptainer_alone_makes_a_sif_file(slurm, counted):
    """On a node without umoci."""
    if not slurm.root.has("apptainer"):
        pytest.skip(f"{slurm.root.suite} has no package of apptainer")
    for name in ("umoci", "skopeo"):
        slurm.root.path(f"/opt/count/{name}").unlink()
    for kind in PACKED:
        status, out, _ = slurm.srun(IMAGES[kind], "/bin/sh", "-c", "id -u; cat /etc/os-release; echo $IMAGE")
        assert (status, out.splitlines()) == (
            0, [b"1001", b"ID=busybox", b'PRETTY_NAME="busybox for tests"', b"busybox"],
        )  # fmt: skip
    assert {name.partition(".")[2] for name in os.listdir(slurm.root.path(f"{OWN}/entries"))} == {"sif"}


def test_what_a_runtime_lacks_to_unpack_it_is_named(slurm, counted):
    """Where it was asked for by name."""
    for name in ("umoci", "skopeo"):
        slurm.root.path(f"/opt/count/{name}").unlink()
    status, _, err = slurm.srun(IMAGES["oci-layout"], "/bin/true", SLURM_OCI_RUNTIME="crun")
    assert status == 127
    assert b"it needs `/opt/count/umoci`" in err


def test_what_cannot_be_unpacked_is_tried_once_for_all_tasks(slurm, counted):
    """Each of them ends with 126 and the program's own words."""
    counted.begin('[ "$2" != unpack ] || { sleep 0.5; echo "no space left" >&2; exit 1; }')
    status, _, err = slurm.srun(
        IMAGES["oci-layout"], "/bin/true", options=["-n8", "-O"], SLURM_OCI_RUNTIME="crun"
    )
    assert status == 126
    assert err.count(b"umoci ended with 1 [import-failed]\n  no space left") == 8
    assert counted.calls() == [1]
    counted.site()
    counted.root.write("/opt/count/before", "")
    assert slurm.srun(IMAGES["oci-layout"], "/bin/true", SLURM_OCI_RUNTIME="crun")[0] == 0


def test_cancelling_ends_the_unpacking(slurm, counted):
    """The program is ended and nothing is left of it; the next job does the work."""
    counted.begin('[ "$2" != unpack ] || { touch /opt/count/killed; exec sleep 100; }')
    job = slurm.root.popen(["srun", f"--container={IMAGES['oci-layout']}", "/bin/true"])
    until(slurm.root.path("/opt/count/killed").exists)
    slurm.root.run(["scancel", "-u", "alice"])
    assert job.wait(60) != 0
    slurm.root.wait_idle()
    assert os.listdir(slurm.root.path(f"{OWN}/work")) == []
    counted.root.write("/opt/count/before", "")
    assert slurm.srun(IMAGES["oci-layout"], "/bin/echo", "done")[:2] == (0, b"done\n")


# A registry

REGISTRY = """
version: 0.1
storage: {filesystem: {rootdirectory: /srv/registry}}
http: {addr: "localhost:5000"}
"""


@pytest.fixture
def registry(slurm, counted):
    """One that speaks plain http at localhost:5000, with the image `busybox:1`."""
    root = slurm.root
    root.write(
        "/etc/containers/registries.conf.d/test.conf",
        '[[registry]]\nlocation = "localhost:5000"\ninsecure = true\n',
    )
    root.write("/srv/registry.yml", REGISTRY)
    server = root.popen(
        ["docker-registry", "serve", "/srv/registry.yml"],
        user="root",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    push = ["skopeo", "copy", "-q", "oci:/images/oci:latest", "docker://localhost:5000/busybox:1"]
    until(lambda: root.run(push).returncode == 0)
    yield "docker://localhost:5000/busybox:1"
    server.kill()
    server.wait()
    root.path("/etc/containers/registries.conf.d/test.conf").unlink()


@pytest.mark.parametrize("runtime", ["", "charliecloud", "podman"])
def test_a_reference_is_fetched_once(slurm, counted, registry, runtime):
    """And the registry asked once for each step; later steps fetch nothing as long as it has the same."""
    status, out, _ = slurm.srun(
        registry, "/bin/sh", "-c", "echo $IMAGE", options=["-n8", "-O"], SLURM_OCI_RUNTIME=runtime
    )
    assert (status, out) == (0, b"busybox\n" * 8)
    assert [counted.calls(f"skopeo {what}") for what in ("inspect", "copy")] == [[1], [1]]
    assert slurm.srun(registry, "/bin/true", options=["-n4", "-O"])[0] == 0
    assert [counted.calls(f"skopeo {what}") for what in ("inspect", "copy")] == [[2], [1]]


def test_podman_fetches_by_itself_where_nothing_else_can(slurm, counted, registry):
    """On a node without umoci, and without apptainer: in each task, with the image's variables."""
    site = slurm.root.path("/opt/slurm-oci/site.toml")
    lacking = [f'{name} = "/nowhere"\n' for name in ("apptainer", "singularity")]
    site.write_text(site.read_text().replace("[images]", "".join(lacking) + "[images]"))
    slurm.root.path("/opt/count/umoci").unlink()
    status, out, err = slurm.srun(
        registry, "/bin/sh", "-c", "echo $IMAGE; id -u", options=["-n2", "-O"], SLURM_OCI_RUNTIME="podman"
    )
    assert (status, out) == (0, b"busybox\n1001\n" * 2), err
    assert counted.calls("") == [0]
    for kind in PACKED:
        ended = slurm.srun(IMAGES[kind], "/bin/sh", "-c", "echo $IMAGE; id -u", SLURM_OCI_RUNTIME="podman")
        assert ended == (0, b"busybox\n1001\n", b"")


def test_podman_leaves_a_sites_store_that_it_cannot_write_to_others(slurm, counted):
    """It takes no directory of somebody else's: then it unpacks the image itself."""
    root = slurm.root
    root.run(["install", "-d", "-o", "bob", "/srv/store"], user="root", check=True)
    counted.site(store="/srv/store", owner="bob")
    command = ["/opt/slurm-oci/bin/slurm-oci-plugins", "prefetch", "--store", IMAGES["docker-archive"]]
    assert root.run(command, user="bob").returncode == 0
    ended = slurm.srun(IMAGES["docker-archive"], "/bin/sh", "-c", "echo $IMAGE", SLURM_OCI_RUNTIME="podman")
    assert ended == (0, b"busybox\n", b"")
    root.run(["rm", "-rf", "/srv/store"], user="root", check=True)


def test_a_tag_that_moves_is_seen_by_the_next_step(slurm, counted, registry):
    """And one named by its digest is what it always was."""
    assert slurm.srun(registry, "/bin/true")[0] == 0
    (entry,) = os.listdir(slurm.root.path(f"{OWN}/entries"))
    digest = entry.partition(".")[0].replace("-", ":")
    new = "/home/alice/new"
    for words in (
        ["cp", "-r", "/images/oci", new],
        ["umoci", "config", "--image", f"{new}:latest", "--config.env", "IMAGE=new"],
        ["skopeo", "copy", "-q", f"oci:{new}:latest", registry],
        ["rm", "-rf", new],
    ):
        slurm.root.run(words, check=True)
    assert slurm.srun(registry, "/bin/sh", "-c", "echo $IMAGE")[:2] == (0, b"new\n")
    pinned = registry.removesuffix(":1") + "@" + digest
    asked = counted.calls("skopeo copy")
    assert slurm.srun(pinned, "/bin/sh", "-c", "echo $IMAGE")[:2] == (0, b"busybox\n")
    assert counted.calls("skopeo copy") == asked


def test_what_the_registry_lacks_is_told_in_its_words(slurm, counted, registry):
    """Once asked, for all tasks; and nothing is asked where the site does not allow it."""
    missing = "docker://localhost:5000/nothing:1"
    status, _, err = slurm.srun(missing, "/bin/true", options=["-n4", "-O"])
    assert status == 126
    assert err.count(b"[import-failed]") == 4
    assert b"manifest unknown" in err
    assert counted.calls("skopeo inspect") == [1]
    slurm.root.path("/opt/slurm-oci/site.toml").unlink()
    status, _, err = slurm.srun(registry, "/bin/true")
    assert (status, b"[pull-refused]" in err) == (125, True)


def test_a_sites_store_is_looked_into_first(slurm, counted, registry):
    """Filled by the account that the site names; used even where nothing may be fetched."""
    root = slurm.root
    root.run(["install", "-d", "-o", "bob", "/srv/store"], user="root", check=True)
    counted.site(store="/srv/store", owner="bob")
    command = ["/opt/slurm-oci/bin/slurm-oci-plugins", "prefetch", "--store"]
    for image in (registry, IMAGES["docker-archive"]):
        done = root.run([*command, image], user="bob")
        assert (done.returncode, done.stderr) == (0, b"")
    counted.begin()
    site = root.path("/opt/slurm-oci/site.toml")
    site.write_text(site.read_text().replace("pull = true", "pull = false"))
    for image in (registry, IMAGES["docker-archive"]):
        assert slurm.srun(image, "/bin/sh", "-c", "echo $IMAGE; id -u")[:2] == (0, b"busybox\n1001\n")
    assert counted.calls("") == [0]
    root.run(["chmod", "0777", "/srv/store"], user="root", check=True)
    status, _, err = slurm.srun(registry, "/bin/true")
    assert (status, b"[cache-unsafe]" in err) == (125, True)
    root.run(["rm", "-rf", "/srv/store"], user="root", check=True)


# Three nodes


@pytest.fixture(scope="module", params=SUITES)
def nodes(request):
    with SlurmRoot.start(request.param, 3, name=f"import-{request.param}-{os.getpid()}") as root:
        root.install_project()
        for node in (1, 2, 3):
            root.run(["install", "-d", "-m", "1777", "/tmp/images"], user="root", node=node, check=True)
        yield Counted(root)


KILLING = '[ "$2" != unpack ] || { sleep 1; ! mkdir /opt/count/killed 2>/dev/null || kill -KILL $PPID; }'


@pytest.mark.parametrize("shared", [False, True], ids=["a cache on each node", "a shared cache"])
@pytest.mark.parametrize("killed", [False, True], ids=["", "the first one killed"])
def test_one_task_unpacks_for_all(nodes, shared, killed):
    """Eight tasks on each of three nodes: one unpacking a node, or one in all; one more where it was
    killed."""
    nodes.site(cache="/var/cache/slurm-oci" if shared else "/tmp/images")
    nodes.begin(KILLING if killed else "")
    for node in (1, 2, 3):
        nodes.root.run(["rm", "-rf", "/tmp/images/1001"], user="root", node=node, check=True)
    words = ["srun", "-N3", "-n24", "-O", f"--container={IMAGES['oci-archive']}", "/bin/sh", "-c"]
    done = nodes.root.run([*words, "echo $SLURM_PROCID $IMAGE"])
    ran = len(done.stdout.splitlines())
    assert (done.returncode, ran) == ((137, 23) if killed else (0, 24)), done.stderr
    assert {line.split()[1] for line in done.stdout.splitlines()} == {b"busybox"}
    calls = nodes.calls()
    assert sum(calls) == (1 if shared else 3) + killed
    if not shared:
        assert sorted(calls) == [1, 1, 1 + killed]
