"""Tasks in bad worlds: each ends as it should or with one clear error, and leaves nothing.

What is found for each fault is compared with the table in docs/faults.md; SLURM_OCI_UPDATE=1 writes
what was found instead, and then `python docs/generate.py` makes the table from it.
"""

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import table as tables
from conftest import (
    OWN_UID,
    STANDARD_PATH,
    Ended,
    Slurm,
    StandIn,
    abandoned,
    last_resorts,
    make_stand_in,
    remove_last_resorts,
)

only_root = pytest.mark.skipif(OWN_UID != 0, reason="only root can give files away and mount")


@attrs.frozen
class World:
    """A node with the stand-ins of two runtimes, each of which ends with 7, and an image for each."""

    slurm: Slurm
    crun: StandIn  # supervised, with a bundle
    apptainer: StandIn  # which the dispatcher becomes, with a directory
    image: Path
    bundle: Path

    @property
    def place(self) -> Path:
        return self.slurm.place

    @property
    def prefix(self) -> Path:
        return self.slurm.prefix

    @property
    def state(self) -> Path:
        return self.place / "state"

    def exec(self, **options) -> Ended:
        return self.slurm.run(self.image, "/bin/true", **options)

    def supervise(self, **options) -> Ended:
        return self.slurm.run(self.bundle, "/bin/true", **options)

    def start(self, **options) -> subprocess.Popen:
        """A supervised task that is not waited for."""
        return self.slurm.start(*self.slurm.words(self.bundle, "/bin/true"), **options)

    def body(self, tool: StandIn, body: str) -> None:
        """Has the stand-in do something else, but for crun's `delete`."""
        text = tool.path.read_text()
        tool.path.write_text(text.replace("exit 7", f'case "$*" in *delete*) exit 0;; esac; {body}'))

    def remains(self) -> list[str]:
        """Of tasks, anywhere: in the state root, in Slurm's spool, in the home, and as a process."""
        found = [path for root in self.state.iterdir() for path in root.iterdir()]
        found += [path for root in last_resorts(self.slurm.uid) for path in abandoned(root)]
        spool = self.slurm.spool
        if spool.exists():
            found += [path for path in spool.rglob("*") if path.name not in ("task-0", "environment")]
        found += self.slurm.home.iterdir() if self.slurm.home.exists() else []
        return [*map(str, found), *processes(self.slurm.home)]


def processes(home: Path) -> list[str]:
    """Those that were started in the job's directory."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cwd").readlink() == home:
                found.append(os.fsdecode((folder / "cmdline").read_bytes().replace(b"\0", b" ")))
        except OSError:
            continue
    return found


@pytest.fixture
def world(slurm, place):
    for folder in ("bin", "state"):
        (place / folder).mkdir()
    (place / "state").chmod(0o1777)
    tools = [make_stand_in(place / "bin" / name, "exit 7") for name in ("crun", "apptainer")]
    order = 'order = ["crun", "apptainer"]\n'
    (slurm.prefix / "site.toml").write_text(f'state = "{place}/state"\n{order}')
    slurm.set_up()
    image = place / "image"
    for folder in ("bin", "dev", "etc", "proc", "sys", "tmp", str(slurm.home)[1:]):
        (image / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/true", image / "bin/true")
    bundle = place / "bundle"
    bundle.mkdir()
    config = {"ociVersion": "1.0.2", "root": {"path": str(image)}, "process": {"args": ["sh"], "cwd": "/"}}
    (bundle / "config.json").write_text(json.dumps(config))
    made = World(slurm, *tools, image, bundle)
    slurm.compile()
    yield made
    remove_last_resorts(slurm.uid)


@pytest.fixture
def table() -> Callable[[str, Ended | str, World], None]:
    """Compares how a task ended with what the documentation says of this fault."""

    def compare(fault: str, ended: Ended | str, world: World) -> None:
        ended = ended if isinstance(ended, str) else outcome(ended)
        found = [ended, ", ".join(world.remains()) or "nothing"]
        tables.compare("faults", ("worlds", "rows", fault), found)

    return compare


def outcome(ended: Ended) -> str:
    """In the words of the table. A failure that is none of the two allowed ends fails here."""
    lines = ended.err.splitlines()
    warned = [line for line in lines if line.startswith("slurm-oci: warning: ")]
    rest = attrs.evolve(ended, err="\n".join(line for line in lines if line not in warned))
    if (rest.status, rest.err) == (7, ""):
        return "runs, with a warning" if warned else "runs"
    if not rest.err:
        return f"the runtime's own, {rest.status}"
    assert rest.status in (125, 126, 127), ended
    return f"{rest.status} `{rest.code}`"


# What the site has made: catalog, site.toml, plugins.d


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 16)


def huge(path: Path) -> None:
    """More than the memory of a node, without taking up any."""
    with open(path, "wb") as file:
        file.truncate(1 << 42)


def missing(path: Path) -> None:
    path.unlink()


def unreadable(path: Path) -> None:
    path.chmod(0)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o644)


def a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


FILE_FAULTS = [emptied, binary, huge, missing, unreadable, a_directory, a_fifo, a_link_to_itself]


def named(function: Callable) -> str:
    return function.__name__.replace("_", " ")


def damage(path: Path, fault: Callable[[Path], None]) -> None:
    fault(path)
    if OWN_UID == 0 and path.exists():
        os.chown(path, 0, 0)  # so that the job's user is none that may read what is closed


@pytest.mark.parametrize("fault", FILE_FAULTS, ids=named)
def test_a_catalog(world, table, fault):
    """Whatever it is: the plugins are asked instead."""
    catalog = next(world.prefix.glob("catalog.cpython*"))
    damage(catalog, fault)
    table(f"the catalog is {named(fault)}", world.supervise(), world)


@pytest.mark.parametrize("fault", FILE_FAULTS, ids=named)
def test_a_site_toml(world, table, fault):
    """No wish of the site's is passed over in silence."""
    damage(world.prefix / "site.toml", fault)
    table(f"site.toml is {named(fault)}", world.exec(), world)


@pytest.mark.parametrize("fault", FILE_FAULTS, ids=named)
def test_a_plugin(world, table, fault):
    """It harms only itself."""
    plugin = world.prefix / "plugins.d" / "own.py"
    plugin.write_text("def slurm_oci_runtimes():\n    return []\n")
    damage(plugin, fault)
    table(f"a file in plugins.d is {named(fault)}", world.exec(), world)


def nested(path: Path) -> None:
    path.write_text("[" * 100_000)


@pytest.mark.parametrize("fault", [*FILE_FAULTS, nested], ids=named)
def test_a_bundle_s_config_json(world, table, fault):
    """The user's own file."""
    damage(world.bundle / "config.json", fault)
    table(f"a bundle's config.json is {named(fault)}", world.supervise(), world)


WRONG = ["rules = 5", "rules = [1]", "[[rules]]\nruntime = 1", "[runtimes]\nx = 5", "order = {}"]
WRONG += ["x = " + "1" * 5000, "x = " + "[" * 100_000, "defaults = 1", "[defaults]\nmounts = 7", "state = []"]
WRONG += ["[runtimes.x]\nrun = []\naccepts = 1", "executables = [1]", "[[rules]]\nruntime='crun'\nuser=[1]"]
WRONG += ["[runtimes.x]\nrun = ['a']\naccepts = ['rootfs']\nsummary = 5", "[defaults]\nhome = {}", "log = 1"]


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:30])
def test_a_site_toml_with_values_of_other_types(world, text):
    """One error that names the file, whatever stands in it."""
    path = world.prefix / "site.toml"
    path.write_text(
        f'{text}\nstate = "{world.state}"\n' if "state" not in text and "[" not in text[:2] else text
    )
    ended = world.exec()
    assert (outcome(ended), str(path) in ended.err) == ("125 `site-invalid`", True)


@pytest.mark.parametrize("fault", ["missing", "unreadable", "a file"])
def test_a_folder_of_plugins(world, table, fault):
    """There may be none."""
    folder = world.prefix / "plugins.d"
    if fault == "unreadable":
        folder.chmod(0)
        if OWN_UID == 0:
            os.chown(folder, 0, 0)
    else:
        shutil.rmtree(folder)
        if fault == "a file":
            folder.touch()
    table(f"plugins.d is {fault}", world.exec(), world)


@pytest.mark.parametrize("name", ["catalog.cpython*", "site.toml"])
def test_a_file_that_changes_while_it_is_read(world, table, name):
    """Written in place, again and again, by something that knows nothing of us: each task reads what
    was there before, what comes after, or what is half of both."""
    path = next(world.prefix.glob(name))
    content = path.read_bytes()
    code = (
        "import sys; path, length = sys.argv[1], int(sys.argv[2]); content = open(path, 'rb').read()\n"
        "print(flush=True)\n"
        "while True:\n"
        "    with open(path, 'r+b', 0) as f: f.truncate(length); f.seek(0); f.write(content)"
    )
    words = ["python3", "-c", code, path, str(len(content) // 2)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        ended = [world.exec() for _ in range(12)]
        writer.kill()
    found = {outcome(one) for one in ended}
    allowed = {"runs"} | ({"125 `site-invalid`"} if name == "site.toml" else set())
    assert found <= allowed
    path.write_bytes(content)
    table(f"{'the catalog' if name != 'site.toml' else name} has changed", world.exec(), world)


# The image


def a_device(path: Path) -> None:
    os.mknod(path, 0o20644, os.makedev(1, 5))  # /dev/zero


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


@pytest.mark.parametrize("fault", ["a fifo", "a socket", "a device", "empty", "closed", "a link to itself"])
def test_an_image(world, table, fault):
    """Told as what it is; nothing waits for a FIFO's writer or a device's end."""
    if fault == "a device" and OWN_UID != 0:
        pytest.skip("only root makes devices")
    path = world.place / "odd"
    if fault == "a fifo":
        os.mkfifo(path, 0o644)
    elif fault == "a socket":
        a_socket(path)
    elif fault == "a device":
        a_device(path)
    elif fault == "a link to itself":
        path.symlink_to("odd")
    else:
        path.touch(0o644 if fault == "empty" else 0)
    table(f"the image is {fault}", world.slurm.run(path, "/bin/true"), world)


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("a name of 4 kB", "x" * 4096),
        ("a path of 5 kB", "/".join(["x" * 200] * 25)),
        ("a name of control characters", "\x1b[31m\n\r\x07"),
    ],
)
def test_a_name_of_an_image(world, table, fault, name):
    """The error stays one line."""
    table(f"the image has {fault}", world.slurm.run(world.place / name, "/bin/true"), world)


def test_an_image_in_a_closed_directory(world, table):
    """Whether it is there, nobody can say."""
    closed = world.place / "closed"
    shutil.copytree(world.image, closed / "image")
    closed.chmod(0)
    if OWN_UID == 0:
        os.chown(closed, 0, 0)
    table(
        "the image lies in a directory without permission",
        world.slurm.run(closed / "image", "/bin/true"),
        world,
    )


@only_root
def test_an_image_that_vanishes(world, table):
    """Between choice and start: the built-in runtime's program says so."""
    tool = world.prefix / "bin" / "slurm-oci-plugins"
    shown = subprocess.run(
        [tool, "--prefix", world.prefix, "explain", "--json", world.image, "--", "/bin/true"],
        env={"SLURM_OCI_RUNTIME": "unshare", "PATH": STANDARD_PATH},
        capture_output=True, check=True,
    )  # fmt: skip
    plan = json.loads(shown.stdout)
    shutil.rmtree(world.image)
    done = subprocess.run(plan["argv"], env=plan["env"]["set"], capture_output=True, text=True)
    table("the image vanishes before the start", Ended(done.returncode, done.stdout, done.stderr), world)


# Spool, PATH, descriptors, processes, memory


@pytest.mark.parametrize("fault", ["missing", "not ours", "read-only"])
def test_a_spool(world, table, fault):
    """Without the job's environment a task runs, and the trace says what is missing; an environment
    that is there and closed is an error."""
    spool = world.slurm.spool
    if fault == "not ours" and OWN_UID != 0:
        pytest.skip("only root can give files away")
    if fault == "missing":
        words = world.slurm.words(world.bundle, "/bin/true")
        words[1] = "/no/such/spool"
        table("the spool is missing", world.slurm.call(*words), world)
        return
    world.slurm.write()
    process = world.slurm.start("--", program="bin/slurm-oci-plugins")  # writes the environment file
    process.communicate()
    os.chown(spool, 0 if fault == "not ours" else -1, -1)
    spool.chmod(0o700 if fault == "not ours" else 0o555)
    try:
        table(f"the spool is {fault}", world.supervise(), world)
    finally:
        spool.chmod(0o755)


@pytest.mark.parametrize(
    ("fault", "path"),
    [("is empty", ""), ("names no directory", "/no/such"), ("is relative", "relative:.:")],
)
def test_a_path(world, table, fault, path):
    """A runtime is looked for in the standard directories too, and never in a relative one."""
    world.slurm.environ["PATH"] = path
    world.slurm.job["PATH"] = path
    site = world.prefix / "site.toml"
    site.write_text(site.read_text() + f'[executables]\ncrun = "{world.crun.path}"\n')
    table(f"PATH {fault}", world.supervise(), world)


def limited(kind: int, value: int) -> tuple[str, ...]:
    name = {resource.RLIMIT_NOFILE: "nofile", resource.RLIMIT_NPROC: "nproc", resource.RLIMIT_AS: "as"}[kind]
    return ("prlimit", f"--{name}={value}:{value}")


WAYS = {World.exec: "a runtime that is become", World.supervise: "a supervised one"}


def together(found: list[str]) -> str:
    """Of many tasks. Where the first of them fails is Python's, and no two versions have the same place."""
    failed = [one for one in found if not one.startswith("runs")]
    return "runs while there is enough, then one error" if failed else "runs"


def begins(ended: Ended) -> bool:
    """Whether Python itself could start: what fails before says so in Python's or the loader's words."""
    return "slurm-oci:" in ended.err or not ended.err


@pytest.mark.parametrize("run", [World.exec, World.supervise], ids=["exec", "supervise"])
def test_no_descriptor_left(world, table, run):
    """With every number of descriptors that Python itself can start with: runs, or one error."""
    ended = [run(world, wrap=limited(resource.RLIMIT_NOFILE, number)) for number in range(3, 13)]
    found = [outcome(one) for one in ended if begins(one)]
    assert found[-1] == "runs"
    assert set(found) <= {
        "runs", "runs, with a warning", "125 `node-failed`", "125 `hook-unsafe`", "126 `runtime-failed`",
        "125 `state-unavailable`", "125 `environment-unreadable`", "125 `plugin-failed`",
    }  # fmt: skip
    assert len(set(found)) > (run is World.supervise)
    table(f"ever fewer descriptors are left, {WAYS[run]}", together(found), world)


@only_root
def test_no_process_left(world, table):
    """`ulimit -u`: what needs no process runs, what does is told so."""
    wrap = limited(resource.RLIMIT_NPROC, 1)
    world.apptainer.path.write_text("#!/bin/sh\nexit 7\n")  # which starts none either
    world.slurm.compile()
    for run, way in WAYS.items():
        table(f"no process is left, {way}", run(world, wrap=wrap), world)


@pytest.mark.parametrize("run", [World.exec, World.supervise], ids=["exec", "supervise"])
def test_no_memory_left(world, table, run):
    """With ever less memory: runs, or one error, until Python itself cannot start."""
    for tool in (world.crun, world.apptainer):
        tool.path.write_text("#!/bin/sh\nexit 7\n")
    world.slurm.compile()
    ended = [
        run(world, wrap=limited(resource.RLIMIT_AS, size << 20)) for size in (128, 48, 36, 24, 20, 18, 16, 14)
    ]
    found = [outcome(one) for one in ended if begins(one) and one.status != 139]
    assert found[0] == "runs"
    assert set(found) <= {"runs", "runs, with a warning", "125 `node-failed`", "126 `runtime-failed`"}
    table(f"ever less memory is left, {WAYS[run]}", together(found), world)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_closed_descriptor(world, table, number):
    """Nothing of ours needs the first three."""
    close = ("/bin/sh", "-c", f'exec "$@" {number}{"<" if number == 0 else ">"}&-', "sh")
    world.crun.path.write_text("#!/bin/sh\nexit 7\n")
    world.slurm.compile()
    table(f"descriptor {number} is closed", world.supervise(wrap=close), world)


# Places that are full


@pytest.fixture
def mounted():
    """Mounts a small file system on a directory, in the place of one that it has mounted there before."""
    places = set()

    def mount(place: Path, *words: str) -> None:
        if place in places:
            subprocess.run(["umount", place], check=True)
            places.remove(place)
        subprocess.run(["mount", *words, place], check=True)
        places.add(place)

    yield mount
    for place in places:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def small(world, mounted):
    """Makes the place of the state roots a small file system."""

    def mount(options: str) -> None:
        mounted(world.state, "-t", "tmpfs", "-o", f"mode=1777,{options}", "tmpfs")
        if options != "ro":  # else another place would be taken
            root = world.state / str(world.slurm.uid)
            root.mkdir(0o700)
            os.chown(root, world.slurm.uid, -1)

    return mount


def fill(folder: Path) -> Path:
    """A file there that takes what is left of the space, to the last byte."""
    filler = folder / "filler"
    with filler.open("wb", 0) as file, contextlib.suppress(OSError):
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    return filler


@only_root
def test_a_full_spool(world, table, mounted):
    """Nothing of ours is written there."""
    spool = world.slurm.spool
    mounted(spool, "-t", "tmpfs", "-o", "size=16k", "tmpfs")
    world.slurm.write()
    filler = fill(spool)
    with pytest.raises(OSError, match="No space"):
        (spool / "more").write_bytes(b"x")
    (spool / "more").unlink()
    ended = world.supervise()
    filler.unlink()
    table("the spool is full", ended, world)


@pytest.fixture
def quota(place, mounted):
    """Makes a directory one whose quota is used up: the kernel's own EDQUOT, of a btrfs subvolume."""
    if not (shutil.which("mkfs.btrfs") and shutil.which("btrfs")):
        pytest.skip("btrfs-progs is not installed")
    image, whole = place / "btrfs", place / "whole"
    whole.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.btrfs", "-q", "-M", image], check=True, capture_output=True)
    try:
        mounted(whole, "-o", "loop", str(image))
        for words in (("subvolume", "create", whole / "limited"), ("quota", "enable", whole)):
            subprocess.run(["btrfs", *words], check=True, capture_output=True)
        subprocess.run(["btrfs", "qgroup", "limit", "64k", whole / "limited"], check=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no btrfs with quotas can be mounted here: {error}")

    def use_up(folder: Path, uid: int) -> Path:
        mounted(folder, "--bind", str(whole / "limited"))
        os.chown(folder, uid, -1)
        folder.chmod(0o700)
        filler = fill(folder)
        with pytest.raises(OSError, match="Disk quota exceeded"):
            (folder / "more").mkdir()
        return filler

    return use_up


@only_root
@pytest.mark.parametrize("where", ["state root", "home"])
def test_a_quota_that_is_used_up(world, table, quota, where):
    """One error where a supervised task needs a place, with the kernel's own words; a home is not written
    in."""
    root = world.state / str(world.slurm.uid) if where == "state root" else world.slurm.home
    root.mkdir(0o700, exist_ok=True)
    filler = quota(root, world.slurm.uid)
    ended = world.supervise()
    filler.unlink()
    if where == "state root":
        assert os.strerror(errno.EDQUOT) in ended.err
    table(f"the quota of the {where} is used up", ended, world)


@only_root
@pytest.mark.parametrize("option", ["size", "nr_inodes"])
def test_a_full_place(world, small, table, option):
    """With every amount of space or files from nothing on: one error, until it is enough. Nothing is
    left in any case, and no file is half there."""
    world.slurm.job["BIG"] = "x" * 20_000  # in config.json, which then is of several pages
    found = []
    for step in range(2, 14):
        small(f"{option}={step if option == 'nr_inodes' else f'{(step - 1) * 4}k'}")
        if option == "size":
            (world.state / "filler").write_bytes(b"x")
        ended = world.supervise()
        (world.state / "filler").unlink(missing_ok=True)
        assert world.remains() == []
        found.append(outcome(ended))
    failing = found.index("runs")
    assert failing > 1, found
    assert found == ["125 `state-unavailable`"] * failing + ["runs"] * (len(found) - failing)
    small(f"{option}={'4k' if option == 'size' else 2}")
    table(
        f"no {'space' if option == 'size' else 'file'} is left for the private directory",
        world.supervise(),
        world,
    )


@only_root
def test_a_read_only_place(world, small, table):
    """Another place is taken, where there is one."""
    small("ro")
    ended = world.supervise()
    table("the place of the state roots is read-only", ended, world)


# The runtime


def test_a_runtime_that_is_killed(world, table):
    """Its container cleaned up after, its end told as it was."""
    world.body(world.crun, "kill -KILL $$")
    table("the runtime is killed", world.supervise(), world)


def test_a_runtime_that_prints_megabytes(world, table):
    """All of it goes through: nothing of ours is in the way, or keeps it."""
    world.body(world.crun, "head -c 30000000 /dev/zero; exit 7")
    ended = world.supervise()
    assert len(ended.out) == 30_000_000
    table("the runtime prints megabytes", ended, world)


@pytest.fixture
def preparing(world):
    """A squashfs image for Charliecloud, whose preparation does what the test says."""

    def make(body: str) -> Path:
        (world.prefix / "site.toml").write_text(f'state = "{world.state}"\norder = ["charliecloud"]\n')
        for name in ("squashfuse", "fusermount3", "ch-run"):
            make_stand_in(world.place / "bin" / name, body if name == "squashfuse" else "exit 7")
        world.slurm.job["PATH"] = f"{world.place}/bin:/usr/bin:/bin"
        world.slurm.compile()
        image = world.place / "image.sqsh"
        image.write_bytes(b"hsqs" + bytes(4096))
        return image

    return make


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        ("fails", "exit 1"),
        ("is killed", "kill -KILL $$"),
        ("prints megabytes and fails", "head -c 30000000 /dev/zero; exit 3"),
    ],
)
def test_a_preparation(world, table, preparing, fault, body):
    """Nothing is started after it, and what it made is cleaned up."""
    ended = world.slurm.run(preparing(body), "/bin/true")
    table(f"the preparation {fault}", ended, world)


def test_a_preparation_that_hangs(world, table, preparing):
    """It lasts until Slurm ends the task: then all is cleaned up."""
    image = preparing(f"echo >{world.place}/hangs; exec sleep 600")
    world.place.chmod(0o777)
    process = world.slurm.start(*world.slurm.words(image, "/bin/true"))
    until((world.place / "hangs").exists)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    ended = Ended(process.returncode, os.fsdecode(out), os.fsdecode(err))
    table("the preparation hangs, until SIGTERM", outcome_without_warnings(ended), world)


def outcome_without_warnings(ended: Ended) -> Ended:
    lines = [line for line in ended.err.splitlines() if not line.startswith("slurm-oci: warning: ")]
    return attrs.evolve(ended, err="\n".join(lines))


def test_a_runtime_that_vanishes(world, table):
    """Since the catalog was made: it is asked for by name, and no other takes its place."""
    world.slurm.job["SLURM_OCI_RUNTIME"] = "crun"
    world.crun.path.unlink()
    table("the runtime has vanished", world.supervise(), world)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_the_same_task_twice_at_once(world, table):
    """As after a requeue whose first run still ends: each has a place of its own, and neither takes
    the other's away."""
    go = world.place / "go"
    world.body(world.crun, f"while [ ! -e {go} ]; do sleep 0.02; done; exit 7")
    first, second = world.start(), world.start()
    until(lambda: len(list(world.crun.record.glob("*/descriptors"))) == 2)
    places = {call.argv[3] for call in world.crun.calls}
    assert len(places) == 2
    go.touch()
    for process in (first, second):
        out, err = process.communicate(timeout=60)
        ended = Ended(process.returncode, os.fsdecode(out), os.fsdecode(err))
        assert outcome(ended) == "runs"
    table("the same task runs twice at once", ended, world)
