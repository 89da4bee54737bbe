"""From request, job, image and settings to the container: `slurm_oci.container`."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from conftest import STANDARD_PATH, container, job, request

from slurm_oci import client
from slurm_oci.container import build, placed, require_utf8, workdir_in
from slurm_oci.problems import ArgumentRefused, CommandMissing, RequestMalformed, SettingRefused
from slurm_oci.values import STEP_KINDS, Image, Mount, Settings

BATCH = next(number for number, kind in STEP_KINDS.items() if kind == "batch")
TMP = Mount("/tmp", "/tmp", wish=False, why="/tmp")


@pytest.fixture
def root(tmp_path):
    """An image with a few places of its own."""
    root = tmp_path / "image"
    for folder in ("bin", "etc", "opt/tools/bin", "job", "tmp"):
        (root / folder).mkdir(parents=True)
    for program in ("bin/sh", "opt/tools/bin/tool"):
        (root / program).write_text("")
    (root / "link").symlink_to("/job")
    return root


@pytest.fixture
def host(tmp_path):
    """Directories of the host's that no image has."""
    for name in ("home", "job", "data"):
        (tmp_path / "host" / name).mkdir(parents=True)
    return tmp_path / "host"


@pytest.fixture
def outside():
    """The same outside /tmp, which is mounted whole."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    for name in ("home/below", "job"):
        (folder / name).mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


def rootfs(root) -> Image:
    return Image(str(root), "rootfs", str(root), str(root))


def built(root, *command, env=None, step=3, cwd="/", home="/no/home", spool="/spool", **wished):
    wished = {{"env_profile": "env", "home_wish": "home"}.get(name, name): v for name, v in wished.items()}
    origins = {name: f"SLURM_OCI_{name.upper()}" for name in wished}
    told = job(env, cwd=str(cwd), home=str(home))
    asked = request(str(root), *(command or ("/bin/sh",)), step=step, spool=str(spool))
    return build(asked, told, rootfs(root), Settings(**wished, origins=origins))


def wish(source, target, readonly=False):
    return Mount(str(source), target, readonly, True, "SLURM_OCI_MOUNTS")


# Variables

ENV = {
    "HOME": "/home/alice", "PATH": "/job/bin", "LD_LIBRARY_PATH": "/l", "LD_PRELOAD": "/p", "LD_AUDIT": "/a",
    "SLURM_JOB_ID": "42", "PMIX_RANK": "0", "CUDA_VISIBLE_DEVICES": "0", "MYVAR": "1", "BASH_FUNC_x%%": "() { :\n}",
}  # fmt: skip


@pytest.mark.parametrize(
    ("profile", "names"),
    [
        ("job", ["HOME", "SLURM_JOB_ID", "PMIX_RANK", "CUDA_VISIBLE_DEVICES", "MYVAR", "BASH_FUNC_x%%"]),
        ("slurm", ["SLURM_JOB_ID", "PMIX_RANK", "CUDA_VISIBLE_DEVICES"]),
        ("all", list(ENV)),
        ("none", []),
    ],
)
def test_the_profile_says_which_variables_the_container_gets(root, profile, names):
    """Their values unchanged; what the image has its own of is left to it unless all are wanted."""
    assert built(root, env=ENV, env_profile=profile).env == {name: ENV[name] for name in names}


def test_a_definition_s_variables_are_laid_over_all(root):
    """Also over a profile that gives none, and also PATH."""
    made = built(root, env=ENV, env_profile="none", variables={"PATH": "/mine", "MYVAR": "2"})
    assert made.env == {"PATH": "/mine", "MYVAR": "2"}


# Mounts


def test_home_and_the_job_s_directory_are_mounted_at_their_own_paths(root, outside):
    """As defaults: what cannot be had is left out."""
    home, work = outside / "home", outside / "job"
    made = built(root, home=home, cwd=work)
    assert sorted(made.mounts, key=lambda mount: mount.why) == [
        TMP,
        Mount(str(home), str(home), wish=False, why="home"),
        Mount(str(work), str(work), wish=False, why="the job's directory"),
    ]
    assert [mount.why for mount in built(root, home=home, cwd=home / "below").mounts] == ["/tmp", "home"]
    assert built(root, home=home, home_wish="none").mounts == (TMP,)


@pytest.mark.parametrize("place", ["/usr/bin", "/etc", "/proc/self", "/", "/no/where"])
def test_the_host_s_system_is_never_laid_over_the_image_s(root, place):
    """A job that was submitted from /usr/bin has its image's /usr/bin."""
    assert built(root, home=place, cwd=place).mounts == (TMP,)


def test_a_wish_takes_the_place_of_a_default(root, host):
    """What is asked for at /tmp or the home's path is what is there."""
    made = built(root, home="/srv", mounts=(wish(host / "data", "/tmp"),))
    assert [mount for mount in made.mounts if mount.target == "/tmp"] == [wish(host / "data", "/tmp")]


def test_mounts_are_in_the_order_to_mount(root, host):
    """Outer ones first, however they were asked for."""
    made = built(root, mounts=(wish(host, "/job/a/b"), wish(host, "/job"), wish(host, "/job/a")))
    assert [mount.target for mount in made.mounts] == ["/job", "/job/a", "/job/a/b", "/tmp"]


def test_a_read_only_mount_is_so_as_far_as_it_reaches(root, host, tmp_path, monkeypatch):
    """What is mounted below its source is a mount of its own; where writing is allowed nothing is."""
    for name in ("a b", "a b/deep", "other"):
        (host / name).mkdir()
    line = "36 35 98:0 / {} rw,noatime - ext4 /dev/root rw\n"
    places = (
        f"{host}/a\\040b/deep",
        f"{host}/a\\040b",
        f"{host}/a\\040b",
        f"{host}2",
        f"{host}/gone",
        "/a\rb\rc",
        "/",
    )
    (tmp_path / "mountinfo").write_text("".join(map(line.format, places)), newline="\n")
    monkeypatch.setattr("slurm_oci.container.MOUNTINFO", str(tmp_path / "mountinfo"))
    found = built(root, mounts=(wish(host, "/x", True), wish(host, "/y"))).mounts
    asked = [mount for mount in found if mount.target.startswith(("/x", "/y"))]
    assert [(mount.source, mount.target, mount.readonly, mount.wish) for mount in asked] == [
        (str(host), "/x", True, True),
        (f"{host}/a b", "/x/a b", True, True),
        (f"{host}/a b/deep", "/x/a b/deep", True, True),
        (str(host), "/y", False, True),
    ]


def test_the_batch_script_is_mounted_where_slurm_put_it(root, tmp_path):
    """In Slurm's spool directory, which no container has; read-only."""
    script = tmp_path / "slurm_script"
    script.write_text("")
    mount = Mount(str(script), str(script), True, True, "the batch script")
    assert mount in built(root, str(script), step=BATCH).mounts
    assert mount not in built(root, "/bin/sh", step=0).mounts


@pytest.mark.parametrize(
    ("first", "is_refused"),
    [
        ("#!/bin/bash", True),
        ("#! /usr/bin/env python3", True),
        ("#!/bin/sh -l", False),
        ("#!/home/mine/python", False),
        ("echo", False),
        ("#!", False),
    ],
)
def test_a_batch_script_whose_interpreter_the_image_lacks_is_refused(root, tmp_path, first, is_refused):
    """Runtimes say that the script is missing, or a library. Where a mount may bring it, they are asked."""
    script = tmp_path / "slurm_script"
    script.write_text(f"{first}\n")
    if not is_refused:
        assert built(root, str(script), step=BATCH).command == (str(script),)
        return
    with pytest.raises(CommandMissing) as caught:
        built(root, str(script), step=BATCH)
    assert f"`{first.replace(' ', '').removesuffix('python3')}`, and the image `{root}` has no" in str(
        caught.value
    )
    assert ("the image has `/bin/sh`" in caught.value.hints[0]) == (first == "#!/bin/bash")
    folder = os.path.dirname(first[2:].split()[0])
    bound = (Mount(folder, folder, True, True, "SLURM_OCI_MOUNTS"),)
    assert built(root, str(script), step=BATCH, mounts=bound).command == (str(script),)


def test_a_mount_brings_an_interpreter_also_behind_a_link_of_the_image(root, tmp_path):
    """As most have `/bin`, which leads to `/usr/bin`."""
    (root / "usr").mkdir()
    (root / "bin").rename(root / "usr/bin")
    (root / "bin").symlink_to("usr/bin")
    script = tmp_path / "slurm_script"
    script.write_text("#!/bin/bash\n")
    assert built(root, str(script), step=BATCH, mounts=(wish("/usr", "/usr"),)).command == (str(script),)


def test_where_the_image_has_a_batch_script_s_interpreter_is_said(root, tmp_path):
    """By the image's own PATH."""
    script = tmp_path / "slurm_script"
    script.write_text("#!/usr/bin/sh\n")
    with pytest.raises(CommandMissing) as caught:
        built(root, str(script), step=BATCH)
    assert caught.value.hints[0] == "the image has `/bin/sh`: let it begin with that"


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node with Slurm's configuration and munge, and an /etc/hosts."""
    for path in ("etc/slurm/slurm.conf", "etc/hosts", "run/munge/socket", "run/slurm/sack"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    (tmp_path / "run/slurm/sack").unlink()
    for name, paths in (
        ("CONFIGURATIONS", ("etc/slurm", "run/slurm/conf")),
        ("SOCKETS", ("run/munge/socket", "run/slurm/sack")),
        ("FILES", ("etc/hosts", "etc/resolv.conf")),
    ):
        monkeypatch.setattr(client, name, tuple(f"{tmp_path}/{path}" for path in paths))
    return tmp_path


def clients(root, node, **env):
    return [
        mount.target.removeprefix(f"{node}/")
        for mount in built(root, slurm="yes", env=env).mounts
        if mount.why == "SLURM_OCI_SLURM" and mount.wish
    ]


def test_a_slurm_client_gets_what_it_needs_of_the_node(root, node):
    """Its configuration, what vouches for the user, and how names are looked up; each a wish."""
    assert clients(root, node) == ["etc/hosts", "etc/slurm", "run/munge"]
    (node / "run/slurm/sack").write_text("")
    assert clients(root, node) == ["etc/hosts", "etc/slurm", "run/munge", "run/slurm"]
    (node / "run/munge/socket").unlink()
    assert clients(root, node) == ["etc/hosts", "etc/slurm", "run/slurm"]


def test_munge_s_socket_is_where_the_configuration_says(root, node):
    """By AuthInfo in slurm.conf, or in a file that it includes."""
    (node / "own").mkdir()
    (node / "own/socket").write_text("")
    (node / "etc/slurm/slurm.conf").write_text("ClusterName=x\nInclude auth.conf\n#AuthInfo=socket=/no\n")
    (node / "etc/slurm/auth.conf").write_text(f'AuthInfo="ttl=60,socket={node}/own/socket"\n')
    assert clients(root, node) == ["etc/hosts", "etc/slurm", "own"]


def test_a_configless_node_s_configuration_is_mounted_where_its_link_leads(root, node):
    """Into the daemon's spool directory."""
    (node / "spool").mkdir()
    shutil.move(node / "etc/slurm/slurm.conf", node / "spool")
    (node / "run/slurm/conf").symlink_to(node / "spool")
    assert clients(root, node) == ["etc/hosts", "run/munge", "spool"]
    (node / "own").mkdir()
    (node / "own/slurm.conf").write_text("")
    assert clients(root, node, SLURM_CONF=f"{node}/own/slurm.conf") == ["etc/hosts", "own", "run/munge"]


def test_a_slurm_client_that_could_not_work_is_refused(root, node):
    """With what the node lacks; without the wish it does not matter."""
    (node / "run/munge/socket").unlink()
    with pytest.raises(SettingRefused, match=r"a Slurm client needs `.*/socket` or `.*/sack`, and"):
        clients(root, node)
    (node / "run/munge/socket").write_text("")
    with pytest.raises(SettingRefused, match=r"none in `/no/slurm\.conf`, which SLURM_CONF names"):
        clients(root, node, SLURM_CONF="/no/slurm.conf")
    (node / "etc/slurm/slurm.conf").unlink()
    with pytest.raises(SettingRefused, match=r"a Slurm client needs slurm\.conf, and this node has none in"):
        clients(root, node)
    assert built(root, slurm="no").mounts == (TMP,)


# The command


def test_a_program_that_the_image_has_is_left_alone(root):
    """Absolute and there, a name that the runtime will find, a path from the directory it starts in."""
    for command in (("/bin/sh", "-c", ""), ("sh",), ("./here",)):
        assert built(root, *command).command == command


def test_a_program_in_a_mount_is_not_looked_for_in_the_image(root, host):
    """It comes from the host."""
    made = built(root, "/data/tool", mounts=(wish(host, "/data"),))
    assert made.command == ("/data/tool",)


def test_a_path_from_the_submit_host_is_named_or_replaced(root):
    """SLURM_OCI_COMMAND=in-image takes the last component from the image's PATH."""
    with pytest.raises(CommandMissing) as caught:
        built(root, "/usr/bin/sh", "-c", "x")
    assert caught.value.lines() == [
        f"slurm-oci: error: the image `{root}` has no `/usr/bin/sh` [command-missing]",
        "  srun looks a bare `sh` up on the submit host and passes what it finds there; the image has"
        " `/bin/sh`: write that, or set SLURM_OCI_COMMAND=in-image",
    ]
    assert built(root, "/usr/bin/sh", "-c", "x", command="in-image").command == ("/bin/sh", "-c", "x")
    with pytest.raises(CommandMissing, match="has no `/usr/bin/nothing`"):
        built(root, "/usr/bin/nothing", command="in-image")


def test_the_image_s_own_path_counts_where_the_job_has_none(root):
    """As inside."""
    image = rootfs(root).replace(config={"process": {"env": ["PATH=/opt/tools/bin", "A"]}})
    asked, settings = request("/image", "/usr/bin/tool"), Settings(command="in-image")
    assert build(asked, job({}), image, settings).command == ("/opt/tools/bin/tool",)


def test_a_name_that_the_image_lacks_is_named(root):
    """Whatever the runtime would say of it; with what is like it."""
    with pytest.raises(CommandMissing) as caught:
        built(root, "shh", "-c", "x")
    assert caught.value.lines() == [
        f"slurm-oci: error: the image `{root}` has no `shh` in its PATH [command-missing]",
        "  did you mean `sh`?",
        f"  it was looked for in {STANDARD_PATH}",
    ]


def test_an_empty_part_of_path_is_the_directory_that_the_command_starts_in(root):
    """As for a shell inside."""
    asked = {"env": {"PATH": ":/bin"}, "env_profile": "all", "workdir": "/opt/tools/bin"}
    assert built(root, "tool", **asked).command == ("tool",)


def test_a_name_that_can_be_where_nobody_sees_it_is_left_to_the_runtime(root, host):
    """In a mount, or in a PATH that the image sets where apptainer and enroot read it."""
    in_mount = {"mounts": (wish(host, "/usr/local"),)}
    assert built(root, "tool", **in_mount).command == ("tool",)
    (root / "etc/environment").write_text('A=1\nPATH="/no:/opt/tools/bin"\n')
    assert built(root, "tool").command == ("tool",)
    with pytest.raises(CommandMissing):
        built(root, "other")
    (root / ".singularity.d/env").mkdir(parents=True)
    assert built(root, "other").command == ("other",)
    with pytest.raises(CommandMissing):
        built(root, "other", env={"PATH": "/bin"}, env_profile="all")


def test_of_a_file_a_path_that_srun_found_becomes_a_name_where_that_is_asked_for():
    """Which the runtime looks up inside; any other path stays what it is."""

    def command(word, wanted="in-image"):
        image, settings = Image("a.sif", "sif", "/a.sif"), Settings(command=wanted)
        return build(request("a.sif", word, "-c"), job(), image, settings).command

    assert command("/usr/bin/python3") == command("/job/bin/python3") == ("python3", "-c")
    assert command("/opt/own/python3") == ("/opt/own/python3", "-c")
    assert command("/usr/bin/python3", "as-given") == ("/usr/bin/python3", "-c")


def test_a_directory_that_does_not_look_like_an_image_is_said_to(tmp_path):
    """As the one in which the images lie."""
    (tmp_path / "tools.sqsh").write_text("")
    with pytest.raises(CommandMissing) as caught:
        built(tmp_path, "/bin/sh")
    hint = "it has neither `bin` nor `usr`, and holds `tools.sqsh`: is the image in it, or elsewhere?"
    assert caught.value.hints[0] == hint
    (tmp_path / "usr").mkdir()
    with pytest.raises(CommandMissing) as caught:
        built(tmp_path, "/bin/sh")
    assert hint not in caught.value.hints


@pytest.mark.parametrize("image", [Image("a.sif", "sif", "/a.sif"), None])
def test_an_empty_command_word_is_named(root, image):
    """No program is called so; a variable was empty."""
    with pytest.raises(CommandMissing, match="the command's first word is empty") as caught:
        build(request("/image", "").replace(command=("", "x")), job(), image or rootfs(root), Settings())
    assert "is a variable empty" in caught.value.hints[0]


def test_arguments_of_an_entry_point_are_no_programs(root):
    """But for what `srun` has made a path of; an empty one is one."""

    def command(*words, wanted="as-given"):
        settings = Settings(entrypoint="yes", command=wanted)
        return build(request("/image").replace(command=words), job(), rootfs(root), settings).command

    for words in (("--option",), ("/no/such/file", "x"), ("", "x"), ()):
        assert command(*words) == words
    assert command("/usr/bin/sh", wanted="in-image") == ("/bin/sh",)
    with pytest.raises(CommandMissing):
        command("/usr/bin/sh")


def test_no_command_is_a_problem(root):
    """An image alone says nothing to run."""
    with pytest.raises(RequestMalformed, match="there is no command to run"):
        build(request().replace(command=()), job(), rootfs(root), Settings())


# Mounts in an image's root directory


def test_targets_are_followed_in_the_image_and_missing_ones_are_told(root, host):
    """A link in the image decides; what is not there has to be made."""
    there, new = wish(host, "/link"), wish(host, "/new/place")
    box = container(image=rootfs(root), mounts=(there, new))
    followed = there.replace(target="/job")
    assert placed(box) == ((followed, new), (new,))


def test_what_would_be_made_in_another_mount_s_source_is_not(root, host):
    """A default is left out, a wish is refused with the command that makes it possible."""
    outer = wish(host, "/job")
    there, missing = wish("/srv", "/job/data"), Mount("/srv", "/job/no", wish=False, why="home")
    box = container(image=rootfs(root), mounts=(outer, there, missing))
    assert placed(box) == ((outer, there), ())
    with pytest.raises(SettingRefused) as caught:
        placed(box.replace(mounts=(outer, wish("/srv", "/job/no"))))
    assert caught.value.hints == (f"make it: mkdir -p {host}/no",)


@pytest.mark.parametrize(
    ("workdir", "mounts", "found"),
    [
        ("/job", (), "/job"),
        ("/link", (), "/link"),
        ("/bin/sh", (), "/"),
        ("/no/where", (), "/"),
        ("/new/data", (("", "/new"),), "/new/data"),
        ("/new/no", (("", "/new"),), "/"),
        ("/new/data/x", (("", "/new"), ("/data", "/new/data")), "/"),
        ("/data", (("", "/"),), "/data"),
    ],
)
def test_the_command_starts_where_that_is_a_directory(root, host, workdir, mounts, found):
    """In the image or in the innermost mount; else in `/`, which is said."""
    mounted = tuple(Mount(f"{host}{source}", target) for source, target in mounts)
    notes = () if found == workdir else (f"the command starts in `/`: the image has no `{workdir}`",)
    assert workdir_in(container(image=rootfs(root), mounts=mounted, workdir=workdir)) == (found, notes)


def test_a_directory_that_was_asked_for_is_had_or_refused(root):
    """Never replaced by `/`."""
    asked_for = Settings(workdir="/no", origins={"workdir": "SLURM_OCI_WORKDIR"})
    with pytest.raises(SettingRefused, match="SLURM_OCI_WORKDIR is `/no`, which is not in"):
        workdir_in(container(image=rootfs(root), workdir="/no", settings=asked_for))


def test_a_word_that_a_runtime_would_change_is_refused_by_name():
    """Which word, and which runtimes would carry it."""
    require_utf8("runc", container(command=("echo", "é", "\x01")))
    with pytest.raises(
        ArgumentRefused, match=r"word 1 of the command, .*, is not UTF-8, and `runc` would change it"
    ):
        require_utf8("runc", container(command=("echo", os.fsdecode(b"\xff"))))
