"""The runtimes that come with the program: whole plans, and each one started through a stand-in."""

import importlib
import json
import os
import sys
from pathlib import Path

import pytest
from conftest import Slurm, container, job, request
from hypothesis import given
from hypothesis import strategies as st

from slurm_oci import File, Image, Mount, Plan, SettingRefused, Settings
from slurm_oci.choose import ORDER
from slurm_oci.container import with_host
from slurm_oci.image import KINDS
from slurm_oci.main import refuse_what_is_not_carried
from slurm_oci.problems import ArgumentRefused, ImageRefused, RequestMalformed
from slurm_oci.settings import CHOICES
from slurm_oci_plugins import (
    apptainer,
    charliecloud,
    crun,
    enroot,
    nvidia,
    oci,
    podman,
    runc,
    sarus,
    sharing,
    shifter,
    singularity,
    unshare,
)

MODULES = (apptainer, charliecloud, crun, runc, unshare)
RUNTIMES = {runtime.name: runtime for module in MODULES for runtime in module.slurm_oci_runtimes()}
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOT_UTF8 = os.fsdecode(b"\xff")


@pytest.fixture
def root(tmp_path):
    """An image with the places that every runtime binds the host's own at."""
    root = tmp_path / "image"
    for folder in ("dev", "proc", "sys", "data", "bin"):
        (root / folder).mkdir(parents=True)
    (root / "bin/sh").write_text("")
    return root


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "host data"
    folder.mkdir()
    return folder


def box(name: str, image: Image, **changes):
    """A container for the runtime `name`, whose programs are in /node/bin."""
    runtime = RUNTIMES[name]
    programs = {program: f"/node/bin/{program}" for program in runtime.executables}
    return container(image=image, executables=programs, private="/private", **changes)


def rootfs(root: Path) -> Image:
    return Image(str(root), "rootfs", str(root), str(root))


def bundle(root: Path, **process) -> Image:
    config = {"ociVersion": "1.0.2", "root": {"path": "image"}, "process": process, "hostname": "x"}
    return Image(str(root.parent), "oci-bundle", str(root.parent), str(root), config)


def wished(**values) -> Settings:
    return Settings(**values, origins={name: f"SLURM_OCI_{name.upper()}" for name in values})


def mount(source: object, target: str, readonly: bool = False) -> Mount:
    return Mount(str(source), target, readonly, True, "SLURM_OCI_MOUNTS")


# What is said about each


@pytest.mark.parametrize("name", RUNTIMES)
def test_what_a_runtime_says_of_itself_is_of_the_known_words(name):
    """Kinds that exist, settings that exist, one line of summary, a place in the order."""
    runtime = RUNTIMES[name]
    choices = {f"{setting}={choice}" for setting, values in CHOICES.items() for choice in values}
    assert set(runtime.accepts) <= set(KINDS)
    assert set(runtime.private) <= {*runtime.accepts, *runtime.carries, "gpu"}
    assert set(runtime.carries) <= choices | {"mounts", "workdir", "variables", "arguments"}
    assert len(runtime.summary.splitlines()) == 1
    assert name in ORDER


NOTHING_ELSE = (Image("/i", "rootfs", "/i"), {"candidates": {}}, "/opt/slurm-oci")  # to suggest instead


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("setting", ["home", "writable", "entrypoint", "gpu", "slurm", "share"])
def test_a_setting_is_carried_or_refused_by_name(name, setting):
    """No value but the default is passed over in silence."""
    runtime = RUNTIMES[name]
    for choice in CHOICES[setting][1:]:
        settings = wished(**{setting: choice})
        # What a Slurm client needs inside are mounts.
        needed = "mounts" if setting == "slurm" else f"{setting}={choice}"
        if needed in runtime.carries:
            refuse_what_is_not_carried(runtime, settings, *NOTHING_ELSE)
        without = runtime.replace(carries=tuple(carried for carried in runtime.carries if carried != needed))
        with pytest.raises(SettingRefused, match=f"SLURM_OCI_{setting.upper()} asks for `{needed}`"):
            refuse_what_is_not_carried(without, settings, *NOTHING_ELSE)


# apptainer


def test_apptainer_runs_a_directory(root):
    """Variables as they are; what apptainer takes for itself goes by another name."""
    env = {"HOME": "/home/alice", "PATH": "/job/bin", "LD_PRELOAD": "/x.so", "BASH_FUNC_x%%": "() { :\n}"}
    made = apptainer.plan(box("apptainer", rootfs(root), env=env, own={"APPTAINER_BIND": "/a"}))
    assert made == Plan(
        ("/node/bin/apptainer", "-s", "exec", "--cwd", "/", str(root), "echo", "hello"),
        {
            "PATH": STANDARD_PATH,
            "HOME": "/home/alice",
            "USER": "alice",
            "APPTAINERENV_PATH": "/job/bin",
            "APPTAINERENV_LD_PRELOAD": "/x.so",
            "BASH_FUNC_x%%": "() { :\n}",
            "APPTAINER_BIND": "/a",
        },
    )


@pytest.mark.parametrize(
    ("image", "place"),
    [
        (Image("/i.sif", "sif", "/i.sif"), "/i.sif"),
        (Image("/i.sqsh", "squashfs", "/i.sqsh"), "/i.sqsh"),
        (Image("/b", "oci-bundle", "/b", "/b/rootfs", {"process": {"env": ["A=image", "B=2"]}}), "/b/rootfs"),
    ],
)
def test_apptainer_takes_each_kind_where_it_lies(image, place):
    """A bundle by its root directory, with its variables below the job's."""
    made = apptainer.plan(box("apptainer", image))
    assert made.argv == ("/node/bin/apptainer", "-s", "exec", "--cwd", "/", place, "echo", "hello")
    own = {"B": "2"} if image.config else {}
    assert made.env == {"PATH": STANDARD_PATH, "HOME": "/home/alice", "USER": "alice", "A": "1", **own}


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, ["exec"]),
        ({"entrypoint": "yes"}, ["run", "--no-eval"]),
        ({"home": "none"}, ["exec", "--no-home"]),
        ({"writable": "tmp"}, ["exec", "--writable-tmpfs"]),
        ({"writable": "yes"}, ["exec", "--writable"]),
        ({"gpu": "nvidia"}, ["exec", "--nv"]),
        ({"gpu": "amd"}, ["exec", "--rocm"]),
        ({"gpu": "none"}, ["exec"]),
    ],
)
def test_apptainer_s_options_for_each_setting(root, settings, options, monkeypatch):
    """And none without."""
    there = {"nvidia": ("--nv", "/dev/null"), "amd": ("--rocm", "/dev/null")}
    monkeypatch.setattr(apptainer, "VENDORS", there)
    (root / ".singularity.d").mkdir()
    (root / ".singularity.d/runscript").write_text("")
    made = apptainer.plan(box("apptainer", rootfs(root), settings=wished(**settings), probed={"cwd": False}))
    assert made.argv[2:-2] == (*options, "--pwd", "/", str(root))


@pytest.mark.parametrize("module", [apptainer, singularity])
def test_apptainer_has_a_directory_without_an_entry_point_run_the_command(root, module):
    """Else its shell would read the command as a script. Only apptainer can look into a file."""
    name = module.__name__.rpartition(".")[2]
    programs, settings = {name: f"/node/bin/{name}"}, wished(entrypoint="yes")
    asked = container(image=bundle(root), executables=programs, settings=settings)
    assert module.plan(asked).argv[2] == "exec"
    assert module.plan(asked.replace(image=Image("/i.sif", "sif", "/i.sif"))).argv[2:4] == (
        "run",
        "--no-eval",
    )
    with pytest.raises(RequestMalformed, match="has no entry point"):
        module.plan(asked.replace(command=()))


def test_apptainer_s_mounts_are_lines_of_csv(root):
    """Each field that holds a comma, a quote or a newline stands in quotes."""
    mounts = (mount("/a b", "/a:b"), mount('/a,"b"', "/c\n", True))
    made = apptainer.plan(box("apptainer", rootfs(root), mounts=mounts))
    assert made.argv[3:7] == (
        "--mount",
        "type=bind,src=/a b,dst=/a:b",
        "--mount",
        'type=bind,"src=/a,""b""","dst=/c\n",ro',
    )


@given(st.text(min_size=1), st.text(min_size=1), st.booleans())
def test_apptainer_s_mounts_come_back_from_csv(source, target, readonly):
    """Any paths: what a reader of RFC 4180 makes of the line are the fields."""
    fields = [f"src={source}", f"dst={target}"]
    read = read_csv(apptainer.mount_text(source, target, readonly))
    assert read == ["type=bind", *fields, *(["ro"] if readonly else [])]


def read_csv(line: str) -> list[str]:
    """One record as Go's encoding/csv, which apptainer uses, reads it."""
    fields, rest = [], line
    while True:
        if rest.startswith('"'):
            end = 1
            while rest[end : end + 2] == '""' or rest[end] != '"':
                end += 2 if rest[end] == '"' else 1
            field, rest = rest[1:end].replace('""', '"'), rest[end + 1 :]
        else:
            field, comma, rest = rest.partition(",")
            rest = comma + rest
            assert '"' not in field
            assert "\n" not in field
        fields.append(field)
        if not rest:
            return fields
        assert rest.startswith(",")
        rest = rest[1:]


# charliecloud


def test_charliecloud_runs_a_directory(root, data):
    """Everything that ch-run would change is told to it as it is."""
    env = {"HOME": "/home/$USER", "TMPDIR": "/tmp/x", "A": "1"}
    made = charliecloud.plan(
        box("charliecloud", rootfs(root), env=env, mounts=(mount(data, "/data"),), workdir="/data")
    )
    assert made == Plan(
        (
            *("/node/bin/ch-run", "--bind", f"{data}:/data", "--cd", "/data"),
            *("--env-no-expand", "--set-env=HOME=/home/$USER", "--env-no-expand", "--set-env=TMPDIR=/tmp/x"),
            *(str(root), "--", "echo", "hello"),
        ),
        {"PATH": STANDARD_PATH, "USER": "alice", "A": "1"},
    )


@pytest.mark.parametrize("can_make", [True, False])
def test_charliecloud_makes_a_place_where_it_can(root, data, can_make):
    """With --write-fake; else a wish is refused and a default left out."""
    made = lambda each: charliecloud.plan(  # noqa: E731
        box("charliecloud", rootfs(root), mounts=(each,), probed={"write-fake": can_make})
    )
    default = mount(data, "/new").replace(wish=False)
    if can_make:
        assert made(mount(data, "/new")).argv[1:4] == ("--write-fake", "--bind", f"{data}:/new")
        assert made(default).argv[1] == "--write-fake"
        return
    assert "--bind" not in made(default).argv
    with pytest.raises(SettingRefused, match="lacks `/new`"):
        made(mount(data, "/new"))


@pytest.mark.parametrize("writable", ["tmp", "yes"])
def test_a_writable_image_has_every_place_in_charliecloud(root, data, writable, fuse):
    """Without --write-fake: in the layer over it, or in itself."""
    settings, old = wished(writable=writable), {"write-fake": False}
    asked = {"settings": settings, "mounts": (mount(data, "/new"),), "request": request(uid=7)}
    made = charliecloud.plan(box("charliecloud", rootfs(root), probed=old, places=(fuse,), **asked))
    assert made.argv[1:4] == ("--write", "--bind", f"{data}:/new")
    assert made.argv[-4] == ("/private/merged" if writable == "tmp" else str(root))


def test_charliecloud_says_no_where_it_was_asked_for(root, data):
    """With --write-fake, which a mount point takes, everything could be written."""
    box_of = lambda settings: box(  # noqa: E731
        "charliecloud",
        rootfs(root),
        settings=settings,
        mounts=(mount(data, "/new"),),
        probed={"write-fake": True},
    )
    assert "--write-fake" in charliecloud.plan(box_of(Settings())).argv
    with pytest.raises(SettingRefused, match="lacks `/new`"):
        charliecloud.plan(box_of(wished(writable="no")))


def test_charliecloud_writes_for_the_time_being(root, tmp_path, fuse):
    """By the kernel's overlay where all is the user's own: an image of his, a file."""
    tmp = wished(writable="tmp")
    new, own = {"write-fake": True}, request(uid=os.geteuid())
    made = charliecloud.plan(box("charliecloud", rootfs(root), settings=tmp, probed=new, request=own))
    assert (made.mode, made.argv[1]) == ("exec", "--write-fake")
    squashed = Image("/i.sqsh", "squashfs", "/i.sqsh")
    made = charliecloud.plan(box("charliecloud", squashed, settings=tmp, probed=new, places=(fuse,)))
    assert made.argv[1] == "--write-fake"
    assert made.prepare[0][2] == f"ro,uid=1001,gid={os.getegid()}"
    with pytest.raises(SettingRefused, match="this ch-run has no `--write-fake`"):
        charliecloud.plan(box("charliecloud", squashed, settings=tmp, probed={"write-fake": False}))
    shared = wished(writable="tmp", share="node")
    with pytest.raises(SettingRefused, match="needs a layer of the task's own"):
        charliecloud.plan(
            box("charliecloud", rootfs(root), settings=shared, probed=new, request=request(uid=7))
        )


@pytest.fixture
def fuse(tmp_path):
    """A node with the programs that mount by FUSE, in the directory that it gives."""
    folder = tmp_path / "fuse"
    folder.mkdir()
    for name in ("fuse-overlayfs", "squashfuse", "fusermount3"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return str(folder)


@pytest.mark.parametrize("name", ["crun", "runc", "unshare", "charliecloud"])
def test_a_layer_is_mounted_over_somebody_else_s_image(root, name, fuse):
    """In the private directory, before all else, and unmounted after all else."""
    image = bundle(root) if name in ("crun", "runc") else rootfs(root)
    his = request(uid=os.geteuid() + 1)
    made = RUNTIMES[name].plan(box(name, image, settings=wished(writable="tmp"), request=his, places=(fuse,)))
    layers = "lowerdir=/private/lower,upperdir=/private/upper,workdir=/private/work"
    owners = f"squash_to_uid={os.geteuid() + 1},squash_to_gid={os.getegid()}"
    assert made.prepare == ((f"{fuse}/fuse-overlayfs", "-o", f"{layers},{owners}", "/private/merged"),)
    assert made.cleanup[-1] == (f"{fuse}/fusermount3", "-u", "-z", "/private/merged")
    assert made.folders[:3] == ("upper", "work", "merged")
    assert made.links == (("lower", str(root)),)
    if name in ("crun", "runc"):
        assert config_of(made)["root"] == {"path": "/private/merged", "readonly": False}
    elif name == "unshare":
        assert made.argv[3:6] == ("image", "yes", "/private/merged")
    else:
        assert made.argv[1:2] + made.argv[-4:-3] == ("--write", "/private/merged")


def test_without_fuse_overlayfs_somebody_else_s_image_is_not_written(root):
    """It says what the node lacks."""
    with pytest.raises(SettingRefused, match="needs fuse-overlayfs and fusermount3"):
        crun.plan(box("crun", bundle(root), settings=wished(writable="tmp"), places=()))


@pytest.mark.parametrize("image", [Image("/i.sif", "sif", "/i.sif"), Image("docker://a", "reference")])
def test_apptainer_changes_directories_alone(image):
    """SLURM_OCI_WRITABLE=yes."""
    with pytest.raises(SettingRefused, match="is no directory, and cannot change"):
        apptainer.plan(box("apptainer", image, settings=wished(writable="yes")))


@pytest.mark.parametrize(
    ("source", "readonly", "why"), [("/a:b", False, "a colon"), ("/a", True, "read-only")]
)
def test_charliecloud_refuses_mounts_that_it_cannot_do(root, source, readonly, why):
    """By name, never mangled."""
    with pytest.raises(SettingRefused, match=why):
        charliecloud.plan(box("charliecloud", rootfs(root), mounts=(mount(source, "/data", readonly),)))


def test_charliecloud_writes_into_a_directory_alone(root):
    """SLURM_OCI_WRITABLE=yes; a squashfs file cannot change."""
    settings = wished(writable="yes")
    made = charliecloud.plan(box("charliecloud", rootfs(root), settings=settings))
    assert made.argv[1] == "--write"
    with pytest.raises(SettingRefused, match="is a file, which cannot change"):
        charliecloud.plan(box("charliecloud", Image("/i", "squashfs", "/i"), settings=settings))


def test_charliecloud_has_a_squashfs_file_mounted_beforehand(fuse):
    """By squashfuse in the private directory, and unmounted afterwards."""
    made = charliecloud.plan(box("charliecloud", Image("/i.sqsh", "squashfs", "/i.sqsh"), places=(fuse,)))
    assert (made.mode, made.folders) == ("supervise", ("image",))
    assert made.prepare == ((f"{fuse}/squashfuse", "-o", "ro", "/i.sqsh", "/private/image"),)
    assert made.cleanup == ((f"{fuse}/fusermount3", "-u", "-z", "/private/image"),)
    assert made.argv[:3] + made.argv[-4:] == (
        *("/node/bin/ch-run", "--cd", "/"),
        *("/private/image", "--", "echo", "hello"),
    )


@pytest.mark.parametrize(
    ("words", "wished_workdir", "said"),
    [
        (("/bin/sh",), "", ""),
        (("sh",), "/link", ""),
        (("/data/tool",), "/data/below", ""),
        (("./tool",), "", ""),
        (("shh",), "", "the image `/i.sqsh` has no `shh` in its PATH"),
        (("/usr/bin/sh",), "", "the image `/i.sqsh` has no `/usr/bin/sh`"),
        (("sh",), "/bin/sh", "SLURM_OCI_WORKDIR is `/bin/sh`, which is not in `/i.sqsh`"),
    ],
)
def test_charliecloud_looks_into_a_squashfs_file_when_it_is_mounted(
    tmp_path, fuse, words, wished_workdir, said
):
    """For the program and the directory that was asked for; links lead where they do inside."""
    image, host = tmp_path / "image", tmp_path / "host"
    for folder in (image / "bin", image / "opt", host / "below"):
        folder.mkdir(parents=True)
    (image / "bin/sh").touch()
    (image / "link").symlink_to("/opt")
    fake, mounts = {"write-fake": True}, (mount(host, "/data"),)
    changes = {"places": (fuse,), "probed": fake, "command": words, "mounts": mounts}
    if wished_workdir:
        changes |= {"settings": wished(workdir=wished_workdir), "workdir": wished_workdir}
    asked = box("charliecloud", Image("/i.sqsh", "squashfs", "/i.sqsh"), **changes)
    made = charliecloud.plan(asked.replace(private=str(tmp_path)))
    assert [one.problem.message for one in made.required if not one.is_there()] == [said] * bool(said)


def squashed(fuse, mounts, **wishes):
    return charliecloud.plan(
        box(
            "charliecloud",
            Image("/i.sqsh", "squashfs", "/i.sqsh"),
            places=(fuse,) if fuse else (),
            mounts=mounts,
            settings=wished(**wishes),
            probed={"write-fake": True},
        )
    )


def required_for(made: Plan) -> list[tuple[str, ...]]:
    """What must be in the image for the mounts of a plan."""
    return [one.paths for one in made.required if "to mount on" in one.problem.message]


def test_what_is_mounted_on_in_a_file_must_be_in_it_where_charliecloud_cannot_make_it(fuse, data):
    """It is looked for when the image has been mounted: files, and directories where nothing is made."""
    file, folder = mount("/etc/passwd", "/etc/x"), mount(data, "/opt")
    lacks = "SLURM_OCI_MOUNTS: `/i.sqsh` lacks `/etc/x`, and this ch-run cannot make that there to mount on"
    made = squashed(fuse, (file, folder))
    assert made.argv[1:6] == ("--write-fake", "--bind", "/etc/passwd:/etc/x", "--bind", f"{data}:/opt")
    assert required_for(made) == [("/etc/x",)]
    assert made.required[0].problem.message == lacks
    made = squashed(fuse, (file, folder, Mount("/tmp", "/tmp", wish=False)), writable="no")
    assert made.argv[1:5] == ("--bind", "/etc/passwd:/etc/x", "--bind", f"{data}:/opt")
    assert required_for(made) == [("/etc/x",), ("/opt",)]
    with pytest.raises(SettingRefused, match=r"`/i\.sqsh` may lack `/etc/x`, .* nobody can look"):
        squashed("", (file,))


@pytest.mark.parametrize("of_bind", [{"target": "/a:b"}, {"target": "/opt", "readonly": True}])
def test_charliecloud_names_another_runtime_that_takes_the_image(fuse, root, data, of_bind):
    """`unshare` for a directory; that takes no file."""
    asked = mount(data, **of_bind)
    with pytest.raises(SettingRefused) as refused:
        squashed(fuse, (asked,))
    assert "SLURM_OCI_RUNTIME=apptainer" in refused.value.hints[0]
    with pytest.raises(SettingRefused) as refused:
        charliecloud.plan(box("charliecloud", rootfs(root), mounts=(asked,), probed={"write-fake": True}))
    assert "SLURM_OCI_RUNTIME=unshare" in refused.value.hints[0]


def test_charliecloud_without_squashfuse_mounts_it_itself_and_says_what_is_lost():
    """No signal reaches the command then."""
    made = charliecloud.plan(box("charliecloud", Image("/i.sqsh", "squashfs", "/i.sqsh"), places=()))
    assert (made.mode, made.argv[-4:]) == ("exec", ("/i.sqsh", "--", "echo", "hello"))
    assert made.notes == ("without squashfuse and fusermount3 on the node no signal reaches the command",)


# One container for a step's tasks


def sharing_box(name, root, tasks, **changes):
    env = {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": "1"}
    return box(name, rootfs(root), settings=wished(share="node"), job=job(env), **changes)


@pytest.mark.parametrize(
    ("tasks", "node", "expected"),
    [
        ("2", "0", 2),
        ("4(x2),3", "0", 4),
        ("4(x2),3", "1", 4),
        ("4(x2),3", "2", 3),
        ("4(x2),3", "3", 1),
        ("1(x1000),16(x24)", "1023", 16),
        ("2", "", 2),
        ("", "0", 1),
        ("some", "0", 1),
    ],
)
def test_how_many_tasks_are_on_this_node(tasks, node, expected):
    """As Slurm writes it; one where it says nothing that can be read."""
    env = {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": node}
    assert sharing.tasks_here(container(job=job(env))) == expected
    batch = request(step=4294967291)
    assert sharing.tasks_here(container(job=job(env), request=batch)) == 1


def test_tasks_find_each_other_by_slurmstepd_alone():
    """Here pytest's parent is something else."""
    with pytest.raises(SettingRefused, match="SLURM_OCI_SHARE is `node`: the tasks of a step find each"):
        sharing.parent(container(settings=wished(share="node")))


def test_tasks_that_share_a_container_are_told_how_they_meet(root, monkeypatch):
    """By options of their own, on a node with more than one of them."""
    monkeypatch.setattr(sharing, "parent", lambda container: 777)
    assert apptainer.plan(sharing_box("apptainer", root, "2(x2)")).argv[1:4] == ("-s", "exec", "--sharens")
    assert apptainer.plan(sharing_box("apptainer", root, "2,1")).argv[1:4] == ("-s", "exec", "--cwd")
    joined = charliecloud.plan(sharing_box("charliecloud", root, "2(x2)")).argv
    assert joined[1:3] == ("--join-ct=2", "--join-tag=slurm-oci.42.3.777")
    assert charliecloud.plan(sharing_box("charliecloud", root, "2,1")).argv[1] == "--cd"


def test_an_apptainer_that_cannot_share_refuses_it(root):
    """Before 1.3, as its own help says."""
    with pytest.raises(SettingRefused, match="this apptainer has no `--sharens`"):
        apptainer.plan(sharing_box("apptainer", root, "2", probed={"cwd": True, "sharens": False}))


ALL = (*MODULES, enroot, nvidia, podman, sarus, shifter, singularity)
BEFORE = {  # the word that a site's arguments follow, where it is not `run`
    **dict.fromkeys(("apptainer", "singularity"), "exec"),
    "charliecloud": "/node/bin/ch-run",
    "enroot": "start",
    "nvidia-container-runtime": "/private/pid",  # create --pid-file PLACE
    "shifter": "/node/bin/shifter",
}
TAKING = [r for module in ALL for r in module.slurm_oci_runtimes() if "arguments" in r.carries]


@pytest.mark.parametrize("runtime", TAKING, ids=lambda runtime: runtime.name)
def test_a_site_s_arguments_come_before_a_runtime_s_own_options(root, runtime):
    """Each a word as it is, in one place: so that what the job asks for comes later, and counts."""
    images = {"rootfs": rootfs(root), "oci-bundle": bundle(root), "name": Image("tools", "name")}
    image = next(images[kind] for kind in runtime.accepts if kind in images)
    programs = {program: f"/node/bin/{program}" for program in (*runtime.executables, "mksquashfs")}
    asked = request(uid=os.geteuid())
    plain = container(request=asked, image=image, executables=programs, private="/private")
    words = ("--site", "a b", "run")
    without, made = runtime.plan(plain), runtime.plan(plain.replace(arguments=words))
    at = made.argv.index("--site")
    assert made.argv[at : at + 3] == words
    assert made.replace(argv=(*made.argv[:at], *made.argv[at + 3 :])) == without
    assert made.argv[at - 1] == BEFORE.get(runtime.name, "run")


# crun and runc


def config_of(made: Plan) -> dict:
    (content,) = [file.content for file in made.files if file.name == "bundle/config.json"]
    return json.loads(content)


@pytest.mark.parametrize(
    ("plan", "options"),
    [
        (crun.plan, ("/node/bin/crun", "--cgroup-manager=disabled")),
        (runc.plan, ("/node/bin/runc", "--rootless=true", "--log", "/private/log")),
    ],
)
def test_an_oci_runtime_runs_a_copy_of_the_bundle(root, data, plan, options):
    """From the task's private directory, removed afterwards; the user's config.json is only read."""
    name = options[0].rpartition("/")[2]
    uid, gid = (5, 6) if name == "crun" else (0, 0)
    image = bundle(
        root, args=["sh"], env=["A=image", "B=2"], cwd="/x", rlimits=[1], capabilities={"bounding": []},
        noNewPrivileges=True, user={"uid": uid, "gid": gid},
    )  # fmt: skip
    before = json.dumps(image.config)
    umask = os.umask(0o027)
    made = plan(box(name, image, mounts=(mount(data, "/data", True),), workdir="/data", descriptors=5))
    assert os.umask(umask) == 0o027
    state = ("--root", "/private/state")
    assert made.replace(files=()) == Plan(
        (*options, *state, "run", "--preserve-fds", "5", "--bundle", "/private/bundle", "task"),
        {"PATH": STANDARD_PATH, "HOME": "/home/alice", "XDG_RUNTIME_DIR": "/private"},
        folders=("bundle", "state"),
        cleanup=((*options, *state, "delete", "--force", "task"),),
        leaves="/private/state/task",
        descriptors=5,
        umask=0o022,
    )
    host = [bind(path, path) for path in ("/dev", "/proc", "/sys")]
    assert config_of(made) == {
        "ociVersion": "1.0.2",
        "root": {"path": str(root), "readonly": True},
        "process": {
            "args": ["echo", "hello"],
            "env": [f"PATH={STANDARD_PATH}", "A=1", "B=2", "HOME=/home/alice"],
            "cwd": "/data",
            "capabilities": {"bounding": []},
            "noNewPrivileges": True,
            "terminal": False,
            "user": {"uid": uid, "gid": gid, "umask": 0o027},
        },
        "mounts": [bind(str(data), "/data", *oci.read_only(str(data))), *host],
        "linux": {
            "namespaces": [{"type": "user"}, {"type": "mount"}],
            "uidMappings": [{"containerID": uid, "hostID": 1001, "size": 1}],
            "gidMappings": [{"containerID": gid, "hostID": os.getegid(), "size": 1}],
        },
    }
    assert json.dumps(image.config) == before


def test_the_steps_of_an_oci_runtime_for_the_doctor(root):
    """Its own plan with create, start and kill before it, and a delete that removes what is left."""
    container = box("crun", bundle(root))
    made = crun.plan(container)
    crun_words = ("/node/bin/crun", "--cgroup-manager=disabled", "--root", "/private/state")
    (runtime,) = crun.slurm_oci_runtimes()
    assert runtime.check(container) == made.replace(
        argv=(*crun_words, "delete", "--force", "task"),
        prepare=(
            (*crun_words, "create", "--bundle", "/private/bundle", "task"),
            (*crun_words, "start", "task"),
            (*crun_words, "kill", "task", "KILL"),
        ),
    )


def test_runc_runs_a_bundle_as_root_alone(root):
    """In the one way that it can be in a user namespace of one user; crun can be anybody."""
    for user in ({"uid": 5, "gid": 0}, {"gid": 6}):
        with pytest.raises(ImageRefused, match=r"process\.user of") as refusal:
            runc.plan(box("runc", bundle(root, user=user)))
        assert refusal.value.hints == ("crun can be any: SLURM_OCI_RUNTIME=crun",)
        assert crun.plan(box("crun", bundle(root, user=user)))


def bind(source: str, target: str, *options: str) -> dict:
    return {
        "destination": target,
        "type": "bind",
        "source": source,
        "options": ["rbind", "rprivate", *options],
    }


def test_an_oci_runtime_s_missing_places_are_made_beside_the_image(root, data):
    """As folders and links of the private directory, with the image's own entries bound back."""
    (root / "link").symlink_to("data")
    made = crun.plan(box("crun", bundle(root), mounts=(mount(data, "/new/place"),)))
    cover = "bundle/cover0"
    assert set(made.folders) == {"bundle", "state", cover} | {
        f"{cover}/{name}" for name in ("bin", "data", "dev", "proc", "sys", "new", "new/place")
    }
    assert made.links == ((f"{cover}/link", "data"),)
    config = config_of(made)
    assert config["root"] == {"path": f"/private/{cover}", "readonly": True}
    assert config["mounts"] == [
        bind(f"{root}/bin", "/bin", *oci.read_only(str(root))),
        bind(f"{root}/data", "/data", *oci.read_only(str(root))),
        bind("/dev", "/dev"),
        bind(str(data), "/new/place"),
        bind("/proc", "/proc"),
        bind("/sys", "/sys"),
    ]


def test_a_read_only_mount_keeps_what_its_file_system_forbids(root, data, monkeypatch):
    """The kernel lets nobody in a user namespace take these flags away, and runc would."""
    flags = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME | os.ST_RELATIME
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((0,) * 8 + (flags, 255)))
    mounts = (mount(data, "/data", True), mount(data, "/bin"))
    free, fixed = config_of(runc.plan(box("runc", bundle(root), mounts=mounts)))["mounts"][:2]
    assert fixed == bind(str(data), "/data", "ro", "nosuid", "nodev", "noexec")
    assert free == bind(str(data), "/bin")


def test_names_are_looked_up_as_on_the_node(root):
    """Where the image has the files for it; what somebody has mounted there stays."""
    (root / "etc").mkdir()
    (root / "etc/hosts").write_text("")
    (root / "etc/resolv.conf").symlink_to("/nowhere")
    own = mount("/etc/passwd", "/etc/hosts")
    found = with_host(box("crun", bundle(root), mounts=(own,)))
    resolv = Mount("/etc/resolv.conf", "/etc/resolv.conf", wish=False, why="the host's own")
    assert [each for each in found.mounts if each.target.startswith("/etc")] == [own, resolv]
    for module in (crun, runc, unshare, podman):
        (runtime,) = module.slurm_oci_runtimes()
        image = bundle(root) if "oci-bundle" in runtime.accepts else rootfs(root)
        programs = {program: f"/node/bin/{program}" for program in runtime.executables}
        asked = request(uid=os.geteuid())
        made = runtime.plan(container(image=image, executables=programs, private="/private", request=asked))
        assert "/etc/hosts" in str(made), runtime.name


def test_an_oci_runtime_with_a_writable_image_makes_them_in_it(root, data):
    """Nothing of it is covered or read-only then."""
    settings = wished(writable="yes")
    made = crun.plan(box("crun", bundle(root), settings=settings, mounts=(mount(data, "/new"),)))
    assert (made.folders, config_of(made)["root"]) == (
        ("bundle", "state"),
        {"path": str(root), "readonly": False},
    )
    assert not [each for each in config_of(made)["mounts"] if "ro" in each["options"]]


def test_the_bundle_s_own_file_systems_stay_and_the_kernel_s_are_the_host_s(root):
    """A tmpfs of its own is kept; a proc needs namespaces that a job has not."""
    image = bundle(root)
    own = {"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]}
    proc = {"destination": "/proc", "type": "proc", "source": "proc"}
    image = image.replace(config={**image.config, "mounts": [proc, own]})
    assert config_of(crun.plan(box("crun", image)))["mounts"][0] == own


@pytest.mark.parametrize("name", ["crun", "runc", "apptainer"])
def test_a_word_that_would_be_changed_is_refused(root, name):
    """By the runtimes whose channel is UTF-8 alone."""
    with pytest.raises(ArgumentRefused):
        RUNTIMES[name].plan(box(name, bundle(root), command=("echo", NOT_UTF8)))


# unshare


def test_unshare_is_a_list_of_operations(root, data):
    """The image, the host's own, the mounts; then the command as it is."""
    env = {"A": NOT_UTF8, "LD_PRELOAD": "/x.so"}
    mounts = (mount(data, "/data", True),)
    made = unshare.plan(
        box("unshare", rootfs(root), env=env, mounts=mounts, workdir="/data", command=("echo", "", NOT_UTF8))
    )
    assert made == Plan(
        (
            *(sys.executable, "-ISBXutf8", os.path.join(os.path.dirname(unshare.__file__), "enter.py")),
            *("image", "no", str(root)),
            *("bind", str(data), "/data", "readonly", "/data"),
            *("bind", "/dev", "/dev", "bind", "/proc", "/proc", "bind", "/sys", "/sys"),
            *("variable", "LD_PRELOAD", "/x.so", "unset", "LC_CTYPE"),
            *("start", "/data", "echo", "", NOT_UTF8),
        ),
        {"PATH": STANDARD_PATH, "A": NOT_UTF8},
        cwd="/",
    )


# Each one through the entry point

SCRIPTS = {
    "apptainer": ("apptainer", "-s", "exec", "--no-home"),
    "charliecloud": ("ch-run",),
    "crun": ("crun", "--cgroup-manager=disabled"),
    "runc": ("runc", "--rootless=true"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_runtime_is_started_with_its_plan_s_words(slurm: Slurm, stand_in, root, name, place):
    """By name, as a process: the command in its own way, its exit status, and nothing left behind."""
    image = place / "image"
    for folder in ("bin", "dev", "proc", "sys", "tmp"):
        (image / folder).mkdir(parents=True)
    (image / "bin/echo").write_text("")
    (place / "config.json").write_text(json.dumps({"root": {"path": "image"}}))
    program, *options = SCRIPTS[name]
    # One that was killed: its state is left.
    left = "mkdir -p $XDG_RUNTIME_DIR/state/task; cat $XDG_RUNTIME_DIR/bundle/config.json"
    tool = stand_in(program, f'[ -z "$XDG_RUNTIME_DIR" ] || {{ {left}; }}; exit 9')
    slurm.job |= {"SLURM_OCI_RUNTIME": name, "SLURM_OCI_HOME": "none"}
    ended = slurm.run(place, "/bin/echo", "it's", "", "a b", cwd=Path("/"))
    assert (ended.status, ended.err) == (9, "")
    first = tool.calls[0]
    assert first.argv[1 : 1 + len(options)] == options
    if name in ("crun", "runc"):
        config, private = json.loads(ended.out), first.env["XDG_RUNTIME_DIR"]
        assert config["process"]["args"] == ["/bin/echo", "it's", "", "a b"]
        assert [call.argv[-3:] for call in tool.calls[1:]] == [["delete", "--force", "task"]]
        assert not os.path.exists(private)
        assert f"/state/{slurm.uid}/node1." in private
    else:
        assert first.argv[-4:] == ["/bin/echo", "it's", "", "a b"]
        assert len(tool.calls) == 1


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_plugin_s_module_can_be_imported_alone(name):
    """As a site's own would be, from the public names."""
    assert importlib.import_module(f"slurm_oci_plugins.{name}").slurm_oci_runtimes()[0].name == name


def test_a_file_of_a_plan_is_closed_to_others():
    """Unless it says otherwise."""
    assert File("f", b"").mode == 0o600
