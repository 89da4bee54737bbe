"""The built-in fallback, `plugins/slurm_oci_plugins/unshare.py` and `enter.py`: real containers from
the kernel's own namespaces, started through the entry point as root and as a user who is not."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from conftest import NAMESPACES, ORDINARY, OWN_UID, Ended, Slurm, tree

pytestmark = pytest.mark.skipif(not NAMESPACES, reason="the kernel refuses user namespaces")

USERS = {"a user": ORDINARY, "root": 0} if OWN_UID == 0 else {"a user": ORDINARY}
ODD = {
    "blank": "a b",
    "comma": "a,b",
    "colon": "a:b",
    "quotes": 'it\'s "b"',
    "newline": "a\nb",
    "backslash": "a\\b",
    "dollar": "$(a)`b`",
    "dash": "-a",
    "bytes": os.fsdecode(b"\xff\xfe"),
    "e": "é",
}


@pytest.fixture(params=USERS)
def slurm(request, place, prefix):
    """A task of root's or of somebody else's, on a node without any other runtime."""
    made = Slurm(place, prefix, uid=USERS[request.param], job={"SLURM_OCI_RUNTIME": "unshare"})
    made.set_up()
    return made


@pytest.fixture
def image(rootfs, slurm):
    return rootfs(uid=slurm.uid)


def sh(slurm: Slurm, image: object, script: str, *arguments: str, **options) -> Ended:
    """A shell script in the container."""
    return slurm.run(image, "/bin/sh", "-c", script, "sh", *arguments, **options)


def said(ended: Ended) -> str:
    """What a script printed that was to end well and without a warning."""
    assert (ended.status, ended.err) == (0, "")
    return ended.out


def mounted(source: object, target: str, *flags: str) -> str:
    """One entry of SLURM_OCI_MOUNTS for a path with any signs."""
    parts = ["".join(f"\\{c}" if c in "\\:,\n" else c for c in part) for part in (str(source), target)]
    return ":".join([*parts, *flags])


def folder(slurm: Slurm, name: str, content: str = "from the host\n") -> Path:
    made = slurm.place / name
    made.mkdir()
    (made / "file").write_text(content)
    for path in (made, made / "file"):
        os.chown(path, slurm.uid, -1)
    return made


# Who and where one is


def test_the_user_is_himself_in_the_image(slurm, image):
    """The image's files, the user's own number, no rights left to mount with."""
    found = said(sh(slurm, image, "cat /etc/greeting; id -u; grep CapEff /proc/self/status; ls /"))
    assert found.splitlines()[:3] == ["hello from the image", str(slurm.uid), "CapEff:\t" + (
        "0000000000000000" if slurm.uid else found.splitlines()[2].partition("\t")[2]
    )]  # fmt: skip
    assert "usr" not in found.splitlines()[3:]  # which every host has


def test_the_host_s_root_is_gone(slurm, image):
    """There is no way back: the host's file system is not mounted any more."""
    mounts = said(sh(slurm, image, "cat /proc/self/mountinfo")).splitlines()
    points = [line.split()[4] for line in mounts]
    assert points.count("/") == 1
    assert [line for line in mounts if line.split()[4] == "/" and str(image) in line.split()[3]]


def test_kernel_interfaces_are_the_host_s(slurm, image):
    """/dev, /proc and /sys work as programs expect."""
    assert said(sh(slurm, image, "echo x >/dev/null; test -r /proc/self/status && test -d /sys/kernel && echo ok")) == (
        "ok\n"
    )  # fmt: skip


def test_the_job_s_directory_and_home_are_there(slurm, image):
    """Bound at their own paths although the image has no such places, and the command starts there."""
    work = folder(slurm, "work")
    script = 'pwd; cat file; echo new >new; test -d "$HOME" && echo home'
    assert said(sh(slurm, image, script, cwd=work)) == f"{work}\nfrom the host\nhome\n"
    assert (work / "new").read_text() == "new\n"


def test_places_that_the_image_lacks_do_not_change_it(slurm, image):
    """Mount points are made in memory: afterwards the image is byte for byte as it was."""
    before = tree(image)
    slurm.job["SLURM_OCI_MOUNTS"] = ",".join(
        mounted(folder(slurm, name), target)
        for name, target in (("one", "/srv/new/place"), ("two", "/new"), ("three", "/srv/deep"))
    )
    script = "cat /srv/new/place/file /new/file /srv/deep/file; cat /etc/greeting; ls -d /srv/*"
    assert said(sh(slurm, image, script)) == (
        "from the host\n" * 3 + "hello from the image\n/srv/deep\n/srv/new\n"
    )
    assert tree(image) == before


def test_an_image_of_somebody_else_s_will_do(slurm, busybox_root):
    """It only has to be readable."""
    assert said(sh(slurm, busybox_root, "cat /etc/greeting")) == "hello from the image\n"


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_an_image_s_path_may_hold_any_signs(slurm, rootfs, name):
    """Also in the modes where another program would take it apart."""
    image = rootfs(name, slurm.uid)
    for mode in ("no", "tmp", "yes"):
        slurm.job["SLURM_OCI_WRITABLE"] = mode
        assert said(sh(slurm, image, "cat /etc/greeting")) == "hello from the image\n"


# Mounts


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_a_mount_s_paths_may_hold_any_signs(slurm, image, name):
    """As its source and as its target."""
    slurm.job["SLURM_OCI_MOUNTS"] = mounted(folder(slurm, name), f"/srv/{name}")
    assert said(sh(slurm, image, 'cat "/srv/$1/file"', name)) == "from the host\n"


def test_a_mount_is_writable_unless_it_is_said_to_be_read_only(slurm, image):
    """`ro` holds against the user's own rights to the directory."""
    free, fixed = folder(slurm, "free"), folder(slurm, "fixed")
    slurm.job["SLURM_OCI_MOUNTS"] = f"{free}:/srv/free,{fixed}:/srv/fixed:ro"
    ended = sh(slurm, image, "echo new >/srv/free/file; echo new >/srv/fixed/file")
    assert ended.status == 1
    assert ended.err.endswith("/srv/fixed/file: Read-only file system\n")
    assert [(path / "file").read_text() for path in (free, fixed)] == ["new\n", "from the host\n"]


def test_a_file_is_mounted_over_a_file_and_where_there_is_none(slurm, image):
    """A single file of the host's."""
    source = folder(slurm, "source") / "file"
    slurm.job["SLURM_OCI_MOUNTS"] = f"{source}:/etc/greeting,{source}:/etc/new"
    assert said(sh(slurm, image, "cat /etc/greeting /etc/new")) == "from the host\n" * 2


def test_a_mount_s_target_follows_links_in_the_image_alone(slurm, image):
    """A link in the image that leads to /etc is the image's /etc, not the host's."""
    (image / "absolute").symlink_to("/srv/deep")
    (image / "climbing").symlink_to("../../../srv")
    slurm.job["SLURM_OCI_MOUNTS"] = f"{folder(slurm, 'a')}:/absolute,{folder(slurm, 'b', 'b')}:/climbing/b"
    assert said(sh(slurm, image, "cat /srv/deep/file /srv/b/file")) == "from the host\nb"


def test_a_mount_within_a_mount(slurm, image):
    """The inner one is seen where the outer one has the place, and refused where it has not."""
    outer, inner = folder(slurm, "outer"), folder(slurm, "inner", "inner")
    (outer / "there").mkdir()
    slurm.job["SLURM_OCI_MOUNTS"] = f"{inner}:/srv/x/there,{outer}:/srv/x"
    assert said(sh(slurm, image, "cat /srv/x/file /srv/x/there/file")) == "from the host\ninner"
    slurm.job["SLURM_OCI_MOUNTS"] = f"{inner}:/srv/x/missing,{outer}:/srv/x"
    ended = sh(slurm, image, "true")
    assert (ended.status, ended.code) == (125, "setting-refused")
    assert f"mkdir -p {outer}/missing" in ended.err


# Writing


def test_by_default_the_image_cannot_be_written(slurm, image):
    """Nor what was laid over it to make mount points in."""
    before = tree(image)
    slurm.job["SLURM_OCI_MOUNTS"] = f"{folder(slurm, 'a')}:/new"
    ended = sh(
        slurm, image, "for f in /x /etc/x /srv/x /bin/x /etc/greeting; do echo x >$f && echo $f; done; true"
    )
    assert (ended.status, ended.out) == (0, "")
    assert ended.err.count("Read-only file system") == 5
    assert tree(image) == before


def test_what_is_written_for_the_time_being_is_lost(slurm, image):
    """SLURM_OCI_WRITABLE=tmp: everywhere in the image, seen in the task, gone afterwards."""
    before = tree(image)
    slurm.job["SLURM_OCI_WRITABLE"] = "tmp"
    script = "echo new >/etc/greeting; mkdir /srv/d; rm /srv/deep/file; cat /etc/greeting; ls /srv /srv/deep"
    assert said(sh(slurm, image, script)) == "new\n/srv:\nd\ndeep\n\n/srv/deep:\n"
    assert tree(image) == before


@pytest.mark.skipif(
    not shutil.which("fuse-overlayfs") or not os.path.exists("/dev/fuse"), reason="no FUSE here"
)
def test_what_is_written_for_the_time_being_into_somebody_else_s_image_is_lost(slurm, rootfs):
    """His files appear as the user's own, which the kernel's overlay does not allow."""
    image = rootfs(uid=slurm.uid + 1)
    before = tree(image)
    slurm.job["SLURM_OCI_WRITABLE"] = "tmp"
    script = "echo new >/etc/greeting; mkdir /srv/d; rm /srv/deep/file; cat /etc/greeting; ls /srv /srv/deep"
    assert said(sh(slurm, image, script)) == "new\n/srv:\nd\ndeep\n\n/srv/deep:\n"
    assert tree(image) == before


def test_somebody_else_s_image_is_not_written_without_fuse_overlayfs(slurm, rootfs, monkeypatch):
    """It says what the node lacks."""
    if shutil.which("fuse-overlayfs"):
        pytest.skip("this node has fuse-overlayfs")
    slurm.job["SLURM_OCI_WRITABLE"] = "tmp"
    ended = sh(slurm, rootfs(uid=slurm.uid + 1), "true")
    assert (ended.status, ended.code) == (125, "setting-refused")
    assert "needs fuse-overlayfs and fusermount3" in ended.err


def test_what_is_written_to_stay_stays(slurm, image):
    """SLURM_OCI_WRITABLE=yes changes the image itself."""
    slurm.job["SLURM_OCI_WRITABLE"] = "yes"
    said(sh(slurm, image, "echo new >/etc/greeting; mkdir /srv/d; rm /srv/deep/file"))
    assert (image / "etc/greeting").read_text() == "new\n"
    assert sorted(path.name for path in (image / "srv").iterdir()) == ["d", "deep"]


# Where it starts


def test_the_working_directory_can_be_asked_for(slurm, image):
    """A directory of the image, or one in a mount."""
    slurm.job["SLURM_OCI_WORKDIR"] = "/srv/deep"
    assert said(sh(slurm, image, "pwd; cat file")) == "/srv/deep\ndeep\n"
    slurm.job |= {"SLURM_OCI_MOUNTS": f"{folder(slurm, 'a')}:/new", "SLURM_OCI_WORKDIR": "/new"}
    assert said(sh(slurm, image, "pwd; cat file")) == "/new\nfrom the host\n"


@pytest.mark.parametrize("workdir", ["/no/where", "/etc/greeting"])
def test_a_working_directory_that_is_none_is_refused(slurm, image, workdir):
    """What was asked for is had or refused."""
    slurm.job["SLURM_OCI_WORKDIR"] = workdir
    ended = sh(slurm, image, "pwd")
    assert (ended.status, ended.code, ended.out) == (125, "setting-refused", "")


def test_a_job_s_directory_that_cannot_be_had_is_warned_about(slurm, image):
    """The host's /usr is not laid over the image's; the command starts in `/`, with one line."""
    ended = sh(slurm, image, "pwd", cwd=Path("/usr/bin"))
    assert (ended.status, ended.out) == (0, "/\n")
    assert ended.err == "slurm-oci: warning: the command starts in `/`: the image has no `/usr/bin`\n"


# The environment and the words


def test_the_environment_is_exact(slurm, image):
    """Every byte of every variable, PATH from us where the image has none, and nothing added."""
    odd = os.fsdecode(b"\xff\xfe=\n")
    slurm.job |= {"BASH_FUNC_x%%": "() { echo x\n}", "ODD": odd, "EMPTY": "", "with.dot": "1", "LC_ALL": "C"}
    slurm.job |= {"PYTHONHOME": "/nowhere", "LD_PRELOAD": "/no.so", "LD_LIBRARY_PATH": "/host"}
    ended = slurm.run(image, "/bin/cat", "/proc/self/environ")
    found = dict(text.partition("=")[::2] for text in said(ended).split("\0")[:-1])
    expected = {**slurm.variables(), "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH"):
        del expected[name]
    assert found == expected


def test_all_of_the_job_s_variables_can_be_asked_for(slurm, image):
    """SLURM_OCI_ENV=all: also those that would have disturbed the Python in between."""
    slurm.job |= {"SLURM_OCI_ENV": "all", "LD_PRELOAD": "", "LD_LIBRARY_PATH": "/host\n", "PATH": "/bin"}
    found = said(slurm.run(image, "cat", "/proc/self/environ")).split("\0")[:-1]
    assert dict(text.partition("=")[::2] for text in found) == slurm.variables()


def test_words_arrive_as_they_are(slurm, image):
    """Empty ones, options, operations of ours, any bytes."""
    words = ["", "a b", "it's", "-x", "--", "start", "bind", "\n", os.fsdecode(b"\xff"), "*", "$HOME"]
    found = said(slurm.run(image, "/bin/sh", "-c", 'for w; do printf "%s\\0" "$w"; done', "sh", *words))
    assert found.split("\0")[:-1] == words


def test_a_bare_name_is_looked_up_in_the_image(slurm, image):
    """In the directories of the container's PATH."""
    assert said(slurm.run(image, "cat", "/etc/greeting")) == "hello from the image\n"


def test_a_bundle_s_own_words_and_variables_count(slurm, image, place):
    """Of an oci-bundle the arguments where no command is given, and its variables below the job's."""
    args, env = '["cat", "/proc/self/environ"]', '["PATH=/nowhere:/bin", "A=image", "B=image"]'
    (place / "config.json").write_text(
        f'{{"root": {{"path": "image"}}, "process": {{"args": {args}, "env": {env}}}}}'
    )
    slurm.job["A"] = "job"
    found = dict(text.partition("=")[::2] for text in said(slurm.run(place)).split("\0")[:-1])
    assert found == {**slurm.variables(), "PATH": "/nowhere:/bin", "A": "job", "B": "image"}


# How it ends


@pytest.mark.parametrize("status", [0, 1, 2, 125, 126, 127, 128, 255])
def test_the_exit_status_is_the_command_s(slurm, image, status):
    """And nothing is printed."""
    ended = sh(slurm, image, f"exit {status}")
    assert (ended.status, ended.out, ended.err) == (status, "", "")


def test_the_process_that_slurm_started_is_the_command(slurm, image):
    """So that every signal arrives, SIGKILL included, and tells the truth about how it ended."""
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1, signal.SIGINT):
        process = slurm.start(*slurm.words(image, "/bin/sh", "-c", "echo ready; exec sleep 60"))
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == -number


def test_stop_and_continue_are_the_command_s(slurm, image):
    """As Slurm suspends and resumes a job."""
    process = slurm.start(*slurm.words(image, "/bin/sh", "-c", "echo ready; sleep 0.2; exit 3"))
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    state = lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]  # noqa: E731
    for _ in range(5000):
        if state() == "T":
            break
        time.sleep(0.001)
    assert state() == "T"
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 3


def test_nothing_stays_mounted_on_the_host(slurm, image):
    """Everything was in a mount namespace that is gone."""
    before = Path("/proc/self/mounts").read_text()
    said(sh(slurm, image, "true"))
    assert Path("/proc/self/mounts").read_text() == before


@pytest.mark.parametrize(
    ("name", "content", "mode", "status"),
    [
        ("missing", None, 0, 127),
        ("interpreter", b"#!/no/such/shell\n", 0o755, 127),
        ("plain", b"#!/bin/sh\n", 0o644, 126),
        ("rubbish", b"\x7fELF rubbish", 0o755, 126),
    ],
)
def test_a_command_that_does_not_start_is_named(slurm, image, name, content, mode, status):
    """127 for what is not there, 126 for what is there and does not start; with what to do."""
    if content is not None:
        (image / "bin" / name).write_bytes(content)
        (image / "bin" / name).chmod(mode)
        os.chown(image / "bin" / name, slurm.uid, -1)
    for command in (name, f"/bin/{name}"):
        ended = slurm.run(image, command)
        assert (ended.status, ended.out) == (status, "")
        assert ended.code == ("command-missing" if status == 127 else "runtime-failed")
        assert f"`{command}`" in ended.err


@pytest.mark.parametrize("writable", ["no", "tmp"])
@pytest.mark.parametrize("umask", ["0177", "0777"])
def test_a_job_s_umask_is_the_command_s_alone(slurm, image, umask, writable):
    """The places that are made for it can be entered."""
    slurm.job["SLURM_OCI_WRITABLE"] = writable
    wrap = ("/bin/sh", "-c", f'umask {umask}; exec "$@"', "sh")
    assert said(sh(slurm, image, "umask; pwd", wrap=wrap)) == f"{umask}\n{slurm.home}\n"
