"""singularity, enroot, podman, nvidia-container-runtime, shifter and sarus: their plans, and each one
started through a stand-in that reads its command line as the real one is documented to.

podman is also tested for real (`tests/real/test_podman.py`), and so is what starts
nvidia-container-runtime; the others are in no archive of Debian's.
"""

import json
import os
import sys
from pathlib import Path

import pytest
from conftest import Slurm, container, job, make_stand_in, request
from hypothesis import given
from hypothesis import strategies as st
from readers import READERS, make_image

from slurm_oci import File, Image, Mount, Plan, SettingRefused, Settings
from slurm_oci.choose import ORDER
from slurm_oci.image import KINDS
from slurm_oci.problems import ArgumentRefused, ImageRefused, RuntimeMissing
from slurm_oci.settings import CHOICES
from slurm_oci_plugins import carried, enroot, nvidia, oci, podman, sarus, shifter, singularity

MODULES = (singularity, enroot, podman, nvidia, shifter, sarus)
RUNTIMES = {runtime.name: runtime for module in MODULES for runtime in module.slurm_oci_runtimes()}
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SQUASHFS = Image("/i.sqsh", "squashfs", "/i.sqsh")
OWN = {"PATH": STANDARD_PATH, "HOME": "/home/alice", "USER": "alice"}
NOBODYS = "/no/such"


def box(name: str, image: Image, **changes):
    """A container for the runtime `name`, whose programs are in /node/bin."""
    programs = {program: f"/node/bin/{program}" for program in RUNTIMES[name].executables}
    return container(image=image, executables=programs, private="/private", **changes)


def wished(**values) -> Settings:
    return Settings(**values, origins={name: f"SLURM_OCI_{name.upper()}" for name in values})


def mount(source: object, target: str, readonly: bool = False, wish: bool = True) -> Mount:
    return Mount(str(source), target, readonly, wish, "SLURM_OCI_MOUNTS" if wish else "home")


@pytest.fixture
def root(tmp_path):
    """A directory of the user's own, which holds a root file system."""
    root = tmp_path / "image"
    for folder in ("dev", "proc", "sys", "bin", "data"):
        (root / folder).mkdir(parents=True)
    return Image(str(root), "rootfs", str(root), str(root))


@pytest.fixture(autouse=True)
def no_catatonit(monkeypatch):
    """Whatever this machine has."""
    monkeypatch.setattr(podman, "INITS", NOBODYS)


# What is said about each


@pytest.mark.parametrize("name", RUNTIMES)
def test_what_a_runtime_says_of_itself_is_of_the_known_words(name):
    """Kinds that exist, settings that exist, one line of summary, a place in the order."""
    runtime = RUNTIMES[name]
    choices = {f"{setting}={choice}" for setting, values in CHOICES.items() for choice in values}
    assert set(runtime.accepts) <= set(KINDS)
    assert set(runtime.private) <= {*runtime.accepts, *runtime.unpacked, *runtime.carries}
    assert set(runtime.carries) <= choices | {"mounts", "workdir", "variables", "arguments"}
    assert set(runtime.unpacked) <= set(KINDS)
    assert len(runtime.summary.splitlines()) == 1
    assert name in ORDER


# What an option syntax can carry


def test_a_wish_that_cannot_be_carried_is_refused_and_a_default_left_out():
    """Of the mounts."""
    mounts = (mount("/a", "/a", wish=False), mount("/b", "/b"))
    fault = lambda each: "it is odd" if each.source == "/a" else ""  # noqa: E731
    assert carried.mounts(container(mounts=mounts), fault) == mounts[1:]
    with pytest.raises(SettingRefused, match="SLURM_OCI_MOUNTS asks for a mount of `/b` at `/b`: it is odd"):
        carried.mounts(container(mounts=mounts), lambda each: "it is odd")


def test_a_mount_whose_place_another_mount_lacks_is_never_made_there(tmp_path):
    """It would be made in the user's own directory."""
    (tmp_path / "there").mkdir()
    home = mount(tmp_path, "/home/alice", wish=False)
    there = mount("/a", "/home/alice/there")
    missing = mount("/a", "/home/alice/missing", wish=False)
    kept = carried.mounts(container(mounts=(home, missing, there)), lambda each: "")
    assert kept == (home, there)
    with pytest.raises(SettingRefused, match=f"lies in the mount of `{tmp_path}`"):
        carried.mounts(container(mounts=(home, missing.replace(wish=True))), lambda each: "")


def test_variables_that_cannot_be_carried_are_named_in_one_note():
    """Of the job; what an environment definition sets is refused."""
    fault = lambda name, value: "no newline" if "\n" in value else "odd" if name == "C" else ""  # noqa: E731
    box = container(env={"A": "\n", "B": "\n", "C": "", "D": "1"})
    assert carried.variables(box, fault) == (
        {"D": "1"},
        ("left out of the container's variables: A, B (no newline); C (odd)",),
    )
    wanted = Settings(variables={"A": "\n"}, origins={"variables": "/env.toml:3"})
    with pytest.raises(SettingRefused, match=r"/env\.toml:3 sets `A`: no newline"):
        carried.variables(box.replace(settings=wanted), fault)


@pytest.mark.parametrize(
    ("env", "gpu", "expected"),
    [
        ({}, "auto", None),
        ({"SLURM_STEP_GPUS": "2,3"}, "auto", "all"),
        ({"SLURM_JOB_GPUS": "0"}, "auto", "all"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "auto", "all"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "auto", None),
        ({}, "nvidia", "all"),
        ({"SLURM_STEP_GPUS": "2"}, "none", "void"),
        ({"NVIDIA_VISIBLE_DEVICES": "1", "SLURM_STEP_GPUS": "2"}, "auto", None),
    ],
)
def test_nvidia_s_devices_are_those_that_slurm_has_granted(env, gpu, expected):
    """As its control group shows them; what the job says itself stays."""
    found = carried.nvidia_devices(container(job=job(env), env=env, settings=wished(gpu=gpu)))
    assert found == ({"NVIDIA_VISIBLE_DEVICES": expected} if expected else {})


# singularity


def test_singularity_is_told_what_apptainer_is(root):
    """By its own names."""
    env = {"HOME": "/home/alice", "PATH": "/job/bin", "A": "1"}
    made = singularity.plan(box("singularity", root, env=env, mounts=(mount("/a,b", "/c:d", True),)))
    assert made == Plan(
        (
            *("/node/bin/singularity", "-s", "exec", "--mount", 'type=bind,"src=/a,b",dst=/c:d,ro'),
            *("--cwd", "/", root.path, "echo", "hello"),
        ),
        {**OWN, "SINGULARITYENV_PATH": "/job/bin", "A": "1"},
    )


OLD = {"cwd": False, "mount": False, "no-eval": False}  # 3.8


def test_an_old_singularity_is_told_by_its_older_options(root):
    """Which are found out by asking it."""
    command = ("echo", "--mount", "x")
    mounts = (mount("/a", "/b"), mount("/c d", "/d", True))
    made = singularity.plan(box("singularity", root, mounts=mounts, probed=OLD, command=command))
    assert made.argv[1:] == (
        *("-s", "exec", "--bind", "/a:/b", "--bind", "/c d:/d:ro", "--pwd", "/", root.path),
        *command,
    )


def test_what_an_old_singularity_cannot_carry_is_refused(root):
    """A colon in a path, and an entry point that would read the command as a shell does."""
    with pytest.raises(SettingRefused, match="`--bind` cannot carry `:` or `,`"):
        singularity.plan(box("singularity", root, mounts=(mount("/a:b", "/b"),), probed=OLD))
    with pytest.raises(SettingRefused, match="SLURM_OCI_ENTRYPOINT is `yes`: this singularity would read"):
        singularity.plan(box("singularity", root, settings=wished(entrypoint="yes"), probed=OLD))


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("--pwd --bind", {"cwd": False, "mount": False, "no-eval": False}),
        ("--pwd --cwd --mount --no-eval", {"cwd": True, "mount": True, "no-eval": True}),
    ],
)
def test_a_version_is_asked_and_not_guessed(stand_in, answer, found):
    """By its own help."""
    assert singularity.probe(str(stand_in("singularity", answers=answer).path)) == found


# enroot


def files_of(made: Plan) -> dict[str, str]:
    return {file.name: os.fsdecode(file.content) for file in made.files}


def test_enroot_runs_a_squashfs_file(tmp_path):
    """From files in the private directory, which hold what its options cannot."""
    env = {
        "HOME": "/home/alice",
        "SHELL": "/bin/zsh",
        "A": "b c",
        "ENROOT_X": "1",
        "BASH_FUNC_x%%": "() {\n}",
    }
    mounts = (mount(tmp_path, "/a b", True), mount("/c:\\d", "/c", wish=False))
    made = enroot.plan(box("enroot", SQUASHFS, env=env, mounts=mounts, own={"ENROOT_TEMP_PATH": "/fast"}))
    assert made.replace(files=()) == Plan(
        argv=(
            *("/node/bin/enroot", "start", "--conf", "/private/conf", "--rc", "/private/rc"),
            *("--", "/i.sqsh", "/", "SHELL=/bin/zsh", "", "echo", "hello"),
        ),
        env={
            **OWN,
            "XDG_RUNTIME_DIR": "/private",
            "ENROOT_CACHE_PATH": "/private/cache",
            "ENROOT_TEMP_PATH": "/fast",
            "ENROOT_DATA_PATH": "/private/data",
            "ENROOT_LOGIN_SHELL": "n",
            "ENROOT_MOUNT_HOME": "n",
            "ENROOT_REMAP_ROOT": "n",
            "ENROOT_ROOTFS_WRITABLE": "n",
            "ENROOT_RUNTIME_PATH": "/private/run",
        },
        folders=("run", "cache", "temp", "data"),
        notes=(
            "left out of the container's variables: ENROOT_X (enroot keeps its own for itself);"
            " BASH_FUNC_x%% (enroot wants a name of letters, digits and `_`)",
        ),
    )
    flags = "rbind,rw,nosuid,nodev,rslave"
    assert files_of(made) == {
        "conf": enroot.CONF,
        "rc": enroot.RC,
        "environ": "HOME=/home/alice\nA=b c\n",
        "fstab": f"{tmp_path} /a\\040b none x-create=dir,{flags.replace('rw', 'ro')}\n"
        f"/c:\\134d /c none x-create=file,{flags}\n",
    }


def test_a_variable_for_enroot_itself_is_not_lost():
    """It gets it, and nobody is warned that the container does not; what a definition sets for the
    container is refused."""
    own = {"ENROOT_ALLOW_HTTP": "y"}
    made = enroot.plan(box("enroot", SQUASHFS, env={**own, "A": "b"}, own=own))
    assert (made.env["ENROOT_ALLOW_HTTP"], files_of(made)["environ"], made.notes) == ("y", "A=b\n", ())
    settings = wished(variables=own)
    with pytest.raises(SettingRefused, match="sets `ENROOT_ALLOW_HTTP`: enroot keeps its own for itself"):
        enroot.plan(box("enroot", SQUASHFS, env=own, own=own, settings=settings))


def test_enroot_makes_a_squashfs_file_of_a_directory(root, tmp_path):
    """It would write into the directory itself."""
    (tmp_path / "mksquashfs").write_text("#!/bin/sh\n")
    (tmp_path / "mksquashfs").chmod(0o755)
    made = enroot.plan(box("enroot", root, places=(str(tmp_path),)))
    options = ("-noI", "-noD", "-noF", "-noX", "-no-progress", "-quiet")
    assert made.prepare == ((f"{tmp_path}/mksquashfs", root.path, "/private/image.sqsh", *options),)
    assert made.argv[6:8] == ("--", "/private/image.sqsh")


def test_enroot_without_mksquashfs_takes_no_directory(root):
    """And says what is missing."""
    with pytest.raises(RuntimeMissing, match="`enroot` needs `mksquashfs` for a directory"):
        enroot.plan(box("enroot", root, places=()))


@pytest.mark.parametrize("is_there", [True, False])
def test_enroot_s_hook_for_gpus_needs_nvidia_s_program(tmp_path, is_there):
    """Without it the hook would end the task: a default is left out, a wish refused."""
    if is_there:
        (tmp_path / "nvidia-container-cli").write_text("#!/bin/sh\n")
        (tmp_path / "nvidia-container-cli").chmod(0o755)
    granted = box("enroot", SQUASHFS, job=job({"SLURM_JOB_GPUS": "0"}), places=(str(tmp_path),))
    told = files_of(enroot.plan(granted))["environ"]
    assert ("NVIDIA_VISIBLE_DEVICES=all\n" in told) == is_there
    wish = granted.replace(settings=wished(gpu="nvidia"))
    if is_there:
        assert "NVIDIA_VISIBLE_DEVICES=all\n" in files_of(enroot.plan(wish))["environ"]
    else:
        with pytest.raises(
            SettingRefused, match="SLURM_OCI_GPU is `nvidia`: enroot needs `nvidia-container-cli`"
        ):
            enroot.plan(wish)


def test_enroot_finds_a_name_in_the_user_s_own_store():
    """Where `enroot create` has put it."""
    made = enroot.plan(box("enroot", Image("tools", "name"), settings=wished(writable="yes")))
    assert "ENROOT_DATA_PATH" not in made.env
    assert (made.argv[6:8], made.env["ENROOT_ROOTFS_WRITABLE"]) == (("--", "tools"), "y")


@pytest.mark.parametrize(("kind", "value"), [("name", "tmp"), ("squashfs", "yes")])
def test_enroot_refuses_what_would_not_be_what_it_says(kind, value):
    """Changes that stay, of a file; changes that go, of a container in the user's store."""
    with pytest.raises(SettingRefused, match=f"SLURM_OCI_WRITABLE is `{value}`"):
        enroot.plan(box("enroot", Image("tools", kind), settings=wished(writable=value)))


def test_enroot_refuses_images_that_it_would_misread():
    """A quote in a path, which goes into a shell's line."""
    with pytest.raises(ImageRefused, match="would read the quote"):
        enroot.plan(box("enroot", Image("/it's", "squashfs", "/it's")))


@given(st.text(st.sampled_from("'\"a \t"), max_size=6))
def test_a_value_comes_through_enroot_s_quotes(value):
    """It goes twice over the file with this expression of sed's (common.sh, envfmt)."""
    line = enroot.quoted(value)
    for _ in range(2):
        bare = line.rstrip(" \t\r\v\f")
        if len(bare) > 1 and bare[0] in "'\"" and bare[-1] in "'\"":
            line = bare[1:-1]
    assert line == value


@given(st.text(min_size=1))
def test_a_path_comes_back_from_enroot_s_fstab(path):
    """As getmntent(3) reads it."""
    text = enroot.escaped(path)
    assert not set(text) & set(" \t\n")
    for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, sign)
    assert text == path


# podman


def test_podman_runs_a_directory_of_the_user_s_own(root, tmp_path, monkeypatch):
    """In a store of the task's own, under a layer that takes what podman writes."""
    monkeypatch.setattr(podman, "shared_memory", lambda mounts: ())
    umask = os.umask(0o027)
    env = {"HOME": "/home/alice", "A": "b\nc", "STAR*": "1", "BASH_FUNC_x%%": "() {\n}"}
    mounts = (mount(tmp_path, "/a,b", True),)
    uid = os.geteuid()
    made = podman.plan(
        box("podman", root, env=env, mounts=mounts, workdir="/data", descriptors=7,
            request=request(uid=uid), own={"REGISTRY_AUTH_FILE": "/auth"})
    )  # fmt: skip
    assert os.umask(umask) == 0o027
    own = (
        *("/node/bin/podman", "--root", "/private/root", "--runroot", "/private/run"),
        *("--tmpdir", "/private/tmp", "--cgroup-manager=cgroupfs", "--events-backend=none"),
    )
    what = "the command is process 1 of its container, and gets only the signals that it handles"
    assert made == Plan(
        argv=(
            *(*own, "run", "--rm", "--quiet", "--interactive", "--cgroups=disabled", "--network=host"),
            *("--uts=host", "--no-hosts", "--security-opt=label=disable", "--userns=keep-id"),
            *("--http-proxy=false", "--sdnotify=ignore", "--umask=0027", "--pull=never"),
            *("--log-driver=passthrough", "--read-only", "--read-only-tmpfs=false", "--preserve-fds=7"),
            *("--mount", f'type=bind,src={tmp_path},"dst=/a,b",ro', "--workdir", "/data"),
            *("--env=HOME=/home/alice", "--env=A", "--env=STAR*=1", "--env=BASH_FUNC_x%%"),
            *("--rootfs", f"{root.path}:O", "echo", "hello"),
        ),
        env={
            **OWN,
            "XDG_RUNTIME_DIR": "/private",
            "XDG_DATA_HOME": "/private",
            "CONTAINERS_CONF_OVERRIDE": "/private/containers.conf",
            "REGISTRY_AUTH_FILE": "/auth",
            "A": "b\nc",
            "BASH_FUNC_x%%": "() {\n}",
        },
        folders=("root", "run", "tmp"),
        files=(File("containers.conf", b'[engine]\nlock_type = "file"\n'),),
        cleanup=(
            (*own, "unshare", "rm", "-rf", "/private/root", "/private/run"),
            ("/bin/sh", "-c", 'kill -9 "$(cat "$1")"', "sh", "/private/libpod/tmp/pause.pid"),
        ),
        descriptors=7,
        umask=0o022,
        notes=(f"without catatonit on the node {what}",),
    )


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image("/o", "oci-layout", "/o"), ("oci:/o",)),
        (Image("oci:/o:a:1", "oci-layout", "/o"), ("oci:/o:a:1",)),
        (Image("oci-archive:///o.tar:a", "oci-archive", "/o.tar"), ("oci-archive:/o.tar:a",)),
        (Image("d.tar", "docker-archive", "/d.tar"), ("docker-archive:/d.tar",)),
        (Image("/o:b", "oci-layout", "/o:b"), ("oci:/private/image",)),
        (Image("docker://x/y:1", "reference"), ("docker://x/y:1",)),
        (Image("tools:1", "name"), ("tools:1",)),
    ],
)
def test_podman_is_told_each_kind_of_image(image, words):
    """By its transports; a path with a colon by a link to it; the entry point is taken away."""
    made = podman.plan(box("podman", image))
    assert made.argv[-3:] == (*words, "echo", "hello")
    assert made.links == ((("image", "/o:b"),) if ":" in image.path else ())
    assert "--entrypoint=" in made.argv
    assert ("--pull=missing" in made.argv) == (image.kind == "reference")
    assert ("--root" in made.argv) != (image.kind == "name") == ("--transient-store" in made.argv)
    assert ("XDG_DATA_HOME" in made.env) == (image.kind != "name")


def test_podman_s_options_for_each_setting(root):
    """And none without."""

    def options(image=root, **values):
        one = box("podman", image, settings=wished(**values), request=request(uid=os.geteuid()))
        return podman.plan(one).argv

    assert options(writable="yes")[-4:-2] == ("--rootfs", root.path)
    assert "--read-only" not in options(writable="yes")
    assert not [word for word in options(gpu="none") if word.startswith("--device")]
    assert "--entrypoint=" not in options(Image("tools:1", "name"), entrypoint="yes")


def test_podman_gets_an_init_where_the_node_has_one(root, tmp_path, monkeypatch):
    """Which passes every signal on; then there is nothing to warn of."""
    (tmp_path / "catatonit").write_text("")
    (tmp_path / "catatonit").chmod(0o755)
    monkeypatch.setattr(podman, "INITS", str(tmp_path))
    made = podman.plan(box("podman", root, request=request(uid=os.geteuid())))
    assert made.argv[made.argv.index("--init") + 1] == f"--init-path={tmp_path}/catatonit"
    assert made.notes == ()


def test_podman_refuses_what_it_cannot_run(root):
    """A directory of somebody else's, a registry that it does not know, a file that shall change."""
    with pytest.raises(ImageRefused, match="belongs to somebody else"):
        podman.plan(box("podman", root, request=request(uid=os.geteuid() + 1)))
    with pytest.raises(ImageRefused, match="cannot fetch `library://x`"):
        podman.plan(box("podman", Image("library://x", "reference")))
    with pytest.raises(SettingRefused, match="SLURM_OCI_WRITABLE is `yes`"):
        podman.plan(box("podman", Image("/a", "oci-archive", "/a"), settings=wished(writable="yes")))
    with pytest.raises(ArgumentRefused):
        podman.plan(box("podman", Image("tools", "name"), env={"A": "\udcff"}))


@pytest.mark.parametrize(
    ("name", "is_there"),
    [("tools", True), ("tools:latest", True), ("tools:2", False), ("ubuntu:24.04", False), ("beef", True)],
)
def test_a_name_that_podman_s_store_lacks_is_told_how_a_registry_is_named(tmp_path, name, is_there):
    """What podman itself says of it is no help: `image not known`."""
    box_of = lambda: box("podman", Image(name, "name"), job=job(home=str(tmp_path)))  # noqa: E731
    assert any(f"`docker://{name}`" in note for note in podman.plan(box_of()).notes) == (name != "beef")
    store = tmp_path / ".local/share/containers/storage/overlay-images"
    store.mkdir(parents=True)
    (store / "images.json").write_text('[{"id": "1", "names": ["localhost/tools:latest"]}, {"id": "2"}]')
    assert any(f"`docker://{name}`" in note for note in podman.plan(box_of()).notes) != is_there


# nvidia-container-runtime


def bundle(folder: Path) -> Image:
    (folder / "rootfs/bin").mkdir(parents=True)
    for name in ("dev", "proc", "sys", "tmp"):
        (folder / "rootfs" / name).mkdir()
    (folder / "rootfs/bin/echo").write_text("")
    config = {"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": {}}
    (folder / "config.json").write_text(json.dumps(config))
    return Image(str(folder), "oci-bundle", str(folder), str(folder / "rootfs"), config)


def test_nvidia_container_runtime_creates_starts_and_waits(tmp_path):
    """Since its `run` adds nothing; from runc's own copy of the bundle."""
    made = nvidia.plan(box(nvidia.NAME, bundle(tmp_path), settings=wished(gpu="nvidia")))
    runtime = (
        *(f"/node/bin/{nvidia.NAME}", "--rootless=true", "--log", "/private/log"),
        *("--root", "/private/state"),
    )
    assert made.argv == (
        *(sys.executable, "-ISBXutf8", os.path.join(os.path.dirname(nvidia.__file__), "foreground.py")),
        *("/private/pid", *runtime, "create", "--pid-file", "/private/pid"),
        *("--bundle", "/private/bundle", "task", "then", *runtime, "start", "task"),
    )
    assert made.cleanup == ((*runtime, "delete", "--force", "task"),)
    (config,) = [json.loads(file.content) for file in made.files if file.name == "bundle/config.json"]
    assert "NVIDIA_VISIBLE_DEVICES=all" in config["process"]["env"]


def test_its_container_has_the_terminal_of_the_job(tmp_path, monkeypatch):
    """One of its own would need a program that holds the other end."""
    monkeypatch.setattr(os, "isatty", lambda descriptor: True)
    monkeypatch.setattr(os, "get_terminal_size", lambda descriptor: os.terminal_size((80, 24)))
    image = bundle(tmp_path)
    of = lambda made: json.loads(next(f.content for f in made.files if f.name == "bundle/config.json"))  # noqa: E731
    assert of(nvidia.plan(box(nvidia.NAME, image)))["process"]["terminal"] is False
    programs = {"runc": "/node/bin/runc"}
    own = oci.plan_for(container(image=image, executables=programs, private="/private"), "runc", ())
    assert of(own)["process"]["terminal"] is True


# shifter and sarus


def test_shifter_is_told_a_name_and_the_wishes():
    """What the C library would take away from a setuid program goes by an option."""
    env = {"A": "1", "TMPDIR": "/x", "LD_PRELOAD": "/y.so", "PATH": "/z"}
    mounts = (mount("/home/alice", "/home/alice", wish=False), mount("/data", "/data", True))
    image = Image("tools:1", "name")
    made = shifter.plan(box("shifter", image, env=env, mounts=mounts, workdir="/job", own={"SHIFTER": "x"}))
    assert made == Plan(
        (
            *("/node/bin/shifter", "--image=docker:tools:1", "--volume=/data:/data:ro", "--workdir=/job"),
            *("--env=TMPDIR=/x", "--env=LD_PRELOAD=/y.so", "--env=PATH=/z", "echo", "hello"),
        ),
        {**OWN, "SHIFTER": "x", "A": "1"},
    )


def test_shifter_s_command_may_begin_with_a_dash():
    """Its options end there."""
    made = shifter.plan(box("shifter", Image("docker://x", "reference"), command=("-x", "-y")))
    assert made.argv[-4:] == ("--workdir=/", "--", "-x", "-y")


def test_shifter_s_command_starts_where_it_was_asked_for():
    """By the image's shell: shifter itself would go on in `/`. An entry point has no place for that."""
    settings = wished(workdir="/data")
    one = box("shifter", Image("x", "name"), settings=settings, workdir="/data", command=("-x",))
    words = ("/bin/sh", "-c", carried.ENTER, "sh", "/data", "IFS=:", "", "-x")
    assert shifter.plan(one.replace(env={"IFS": ":"})).argv[1:] == ("--image=docker:x", *words)
    both = wished(workdir="/data", entrypoint="yes")
    with pytest.raises(SettingRefused, match="SLURM_OCI_WORKDIR is `/data`"):
        shifter.plan(one.replace(settings=both))


@pytest.mark.parametrize("path", ["/a b", "/a:b", "/a;b", "/é"])
def test_shifter_refuses_a_path_of_which_it_would_drop_signs(path):
    """In silence (utility.c, userInputPathFilter)."""
    for wish in (mount(path, "/b"), mount("/b", path)):
        with pytest.raises(SettingRefused, match="letters, digits"):
            shifter.plan(box("shifter", Image("tools", "name"), mounts=(wish,)))


def test_shifter_leaves_out_an_empty_value_of_its_options():
    """With a note; what a definition sets is refused."""
    made = shifter.plan(box("shifter", Image("tools", "name"), env={"TMPDIR": "", "A": ""}))
    assert made.env == {**OWN, "A": ""}
    assert made.notes == ("left out of the container's variables: TMPDIR (shifter takes no empty value)",)


def test_sarus_is_told_a_name_and_the_mounts():
    """The job's variables by name, so that they count before the image's."""
    env = {"A": "1\n", "BASH_FUNC_x%%": "() {\n}", "LD_PRELOAD": "/y.so"}
    mounts = (mount("/home/alice", "/home/alice", wish=False), mount("/a b", "/data", True),
              mount("/a=b", "/default", wish=False))  # fmt: skip
    made = sarus.plan(box("sarus", Image("tools:1", "name"), env=env, mounts=mounts, workdir="/"))
    assert made == Plan(
        (
            *("/node/bin/sarus", "run", "--mount=type=bind,source=/home/alice,destination=/home/alice"),
            *("--mount=type=bind,source=/a b,destination=/data,readonly", "--workdir=/"),
            *("--entrypoint", "", "--env=A", "--env=BASH_FUNC_x%%", "--env=LD_PRELOAD=/y.so"),
            *("tools:1", "echo", "hello"),
        ),
        {**OWN, "A": "1\n", "BASH_FUNC_x%%": "() {\n}"},
    )


def test_sarus_refuses_what_its_lists_cannot_carry():
    """By name."""
    with pytest.raises(SettingRefused, match="sarus cannot carry `,` or `=`"):
        sarus.plan(box("sarus", Image("tools", "name"), mounts=(mount("/a,b", "/b"),)))


@pytest.mark.parametrize("module", [shifter, sarus])
def test_their_repositories_know_docker_alone(module):
    """Under the name that the registry's address says."""
    (name,) = [runtime.name for runtime in module.slurm_oci_runtimes()]
    told = module.plan(box(name, Image("docker://reg.example/x:1", "reference"))).argv
    assert {"--image=docker:reg.example/x:1", "reg.example/x:1"} & set(told)
    with pytest.raises(ImageRefused, match="by docker:// alone"):
        module.plan(box(name, Image("oras://x", "reference")))


@pytest.mark.parametrize("module", [shifter, sarus])
def test_their_entry_points_are_kept_where_it_was_asked_for(module):
    """And else the command is what runs."""
    (name,) = [runtime.name for runtime in module.slurm_oci_runtimes()]
    options = lambda **values: module.plan(box(name, Image("x", "name"), settings=wished(**values))).argv  # noqa: E731
    assert ("--entrypoint" in options(entrypoint="yes")) == (module is shifter)
    assert ("--entrypoint" in options()) == (module is sarus)


# Each one through the entry point, read as the real one reads it

WORDS = ("/bin/echo", "it's", "", "a b", "--rm")


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("singularity", "rootfs", "IMAGE\n/bin/echo|it's||a b|--rm|"),
        ("enroot", "squashfs", "IMAGE\n/\nit's  a b --rm\n"),
        ("podman", "rootfs", "IMAGE:O\n/bin/echo|it's||a b|--rm|"),
        ("shifter", "name", "docker:IMAGE\n/bin/echo|it's||a b|--rm|"),
        ("sarus", "name", "IMAGE\n/bin/echo|it's||a b|--rm|"),
    ],
)
def test_a_runtime_is_started_with_its_plan_s_words(slurm: Slurm, stand_in, place, name, kind, told):
    """As a process: only options that it knows, the command in its own way, its status, nothing left."""
    tool = stand_in(name, READERS[name], answers="--cwd --mount")
    image = make_image(kind, place)
    slurm.job |= {"SLURM_OCI_RUNTIME": name, "A": "1"}
    ended = slurm.run(image, *WORDS, cwd=Path("/"))
    notes = [
        line
        for line in ended.err.splitlines()
        if not line.startswith("slurm-oci: warning: without catatonit")
    ]
    assert (ended.status, ended.out, notes) == (9, told.replace("IMAGE", image), [])
    private = tool.calls[-1].env.get("XDG_RUNTIME_DIR", NOBODYS)
    assert (f"/state/{slurm.uid}/node1." in private) == (kind in RUNTIMES[name].private)
    assert not os.path.exists(private)


@pytest.mark.parametrize("where", ["slurmd's PATH", "site.toml"])
def test_a_runtime_s_helpers_are_where_its_programs_are(slurm: Slurm, stand_in, place, prefix, where):
    """squashfuse for ch-run: the job's PATH has neither."""
    stand_in("ch-run", "exit 9")
    (place / "tools").mkdir()
    folder = place / ("tools" if where == "site.toml" else "bin")
    mounted = 'mkdir "$4/bin" && : >"$4/bin/true"'
    scripts = {"squashfuse": mounted, "fusermount3": ":"}
    helpers = [make_stand_in(folder / name, script) for name, script in scripts.items()]
    if where == "site.toml":
        with (prefix / "site.toml").open("a") as site:
            site.write("[executables]\n" + "".join(f'{tool.path.name} = "{tool.path}"\n' for tool in helpers))
    slurm.job["SLURM_OCI_RUNTIME"] = "charliecloud"
    ended = slurm.run(make_image("squashfs", place), "/bin/true", cwd=Path("/"))
    assert (ended.status, ended.err) == (9, "")
    assert [len(tool.calls) for tool in helpers] == [1, 1]


def test_nvidia_container_runtime_s_steps_are_one_task(slurm: Slurm, stand_in, place):
    """The container's output and status, though `create` and `start` have ended long before."""
    tool = stand_in(nvidia.NAME, READERS[nvidia.NAME])
    slurm.job |= {"SLURM_OCI_RUNTIME": nvidia.NAME, "SLURM_JOB_GPUS": "0"}
    ended = slurm.run(make_image("oci-bundle", place), *WORDS, cwd=Path("/"))
    assert (ended.status, ended.err) == (9, "")
    process = json.loads(ended.out)["process"]
    assert process["args"] == list(WORDS)
    assert "NVIDIA_VISIBLE_DEVICES=all" in process["env"]
    steps = [next(word for word in words if word in ("create", "start", "delete")) for words in tool.words]
    assert steps == ["create", "start", "delete"]
    assert not os.path.exists(tool.calls[0].env["XDG_RUNTIME_DIR"])


def test_nvidia_container_runtime_s_failure_to_create_is_the_end(slurm: Slurm, stand_in, place):
    """With its own status and words; nothing is started then."""
    tool = stand_in(nvidia.NAME, 'case "$*" in *" create "*) echo "no driver" >&2; exit 3;; esac')
    slurm.job |= {"SLURM_OCI_RUNTIME": nvidia.NAME}
    ended = slurm.run(make_image("oci-bundle", place), *WORDS, cwd=Path("/"))
    assert (ended.status, ended.err) == (3, "no driver\n")
    assert [("create" in words, "delete" in words) for words in tool.words] == [(True, False), (False, True)]


def test_a_reference_is_imported_before_it_is_started(slurm: Slurm, stand_in, prefix):
    """Once for all tasks of a step, where the site allows to fetch it; and what could not be fetched is
    not started."""
    with (prefix / "site.toml").open("a") as site:
        site.write(f'pull = true\n[images]\ncache = "{slurm.place}/cache"\n')
    (slurm.place / "cache").mkdir()
    (slurm.place / "cache").chmod(0o1777)
    importing = '[ "$1" = import ] && { echo >"$3"; exit 0; }\n'
    tool = stand_in("enroot", importing + READERS["enroot"])
    slurm.job |= {"SLURM_OCI_RUNTIME": "enroot"}
    ended = slurm.run("docker://alpine", *WORDS, cwd=Path("/"))
    assert (ended.status, ended.err) == (9, "")
    assert ended.out.splitlines()[1:] == ["/", "it's  a b --rm"]
    assert slurm.run("docker://alpine", *WORDS, cwd=Path("/")).status == 9
    assert [words[0] for words in tool.words] == ["import", "start", "start"]
    tool.path.write_text("#!/bin/sh\necho 'no network' >&2\nexit 1\n")
    ended = slurm.run("docker://busybox", *WORDS, cwd=Path("/"))
    assert (ended.status, ended.code, ended.err.splitlines()[1]) == (126, "import-failed", "  no network")
