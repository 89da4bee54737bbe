"""A task's private directory: `slurm_oci.state`."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ORDINARY, OWN_UID, STANDARD_PATH, alive, dead, request

from slurm_oci import state
from slurm_oci.problems import StateUnavailable

ME = OWN_UID
ASKED = request(uid=ME)
only_root = pytest.mark.skipif(OWN_UID != 0, reason="only root can give files away")


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A base as `install` makes it; the node's other places are not used."""
    folder = tmp_path / "base"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(state, "SHARED", (str(tmp_path),))
    monkeypatch.setattr(state, "roots", lambda uid, base: iter([os.path.join(base, str(uid))]))
    return folder


def place(base: Path) -> str:
    return state.place(ASKED, str(base))


def named(boot: str = "", job: str = "42.3.5", process: str = "", node: str = "node1") -> str:
    return f"{node}.{boot or state.boot_id()}.{job}.{process}"


def test_the_name_says_whose_it_is(base):
    """Node, boot, job, step, task, and the process by id and start time."""
    assert place(base) == f"{base}/{ME}/node1.{state.boot_id()}.42.3.5.{alive()}"


def test_a_start_time_is_that_of_proc():
    """Field 22 of /proc/PID/stat, also where the program's name holds blanks and brackets."""
    line = Path(f"/proc/{os.getpid()}/stat").read_text()
    assert state.start_time(os.getpid()) == line[line.rindex(")") + 2 :].split()[19]
    assert state.start_time(2**22 + 1) == ""


def test_the_root_is_the_user_s_alone(base):
    """Made when it is first wanted, closed to all others whatever the umask."""
    old = os.umask(0)
    try:
        path = place(base)
        state.make(path, "node1")
    finally:
        os.umask(old)
    modes = [os.stat(folder).st_mode & 0o7777 for folder in (path, os.path.dirname(path))]
    assert modes == [0o700, 0o700]


@pytest.mark.parametrize("umask", [0o177, 0o777])
def test_a_job_s_umask_closes_nothing_to_its_user(base, umask):
    """Neither the root nor the directory; and the job's own umask stays as it was."""
    old = os.umask(umask)
    try:
        path = place(base)
        state.make(path, "node1")
    finally:
        assert os.umask(old) == umask
    modes = [os.stat(folder).st_mode & 0o7777 for folder in (path, os.path.dirname(path))]
    assert modes == [0o700, 0o700]


@pytest.mark.parametrize("mode", [0, 0o600, 0o100])
def test_a_root_that_is_closed_to_its_owner_is_opened(base, mode):
    """Left by a version that had the job's umask close it, or by the user himself."""
    (base / str(ME)).mkdir()
    (base / str(ME)).chmod(mode)
    assert state.root(ME, str(base)) == f"{base}/{ME}"
    assert (base / str(ME)).stat().st_mode & 0o7777 == 0o700


def test_a_directory_is_made_once(base):
    """Two tasks never share one: a name that is there already is a problem."""
    state.make(place(base), "node1")
    with pytest.raises(StateUnavailable, match="File exists"):
        state.make(place(base), "node1")


def test_what_dead_tasks_left_is_removed_by_the_next_one(base):
    """Of this node alone, and only where the process is gone or the node has another boot."""
    root = Path(state.root(ME, str(base)))
    gone = [named(process=dead()), named(boot="0" * 32, process=alive())]
    kept = [
        named(process=alive()),
        named(node="node2", process=dead()),
        named(node="node1.domain", process=dead()),
        "node1.something else",
        "cache",
    ]
    for name in gone + kept:
        (root / name / "deep").mkdir(parents=True)
        (root / name / "deep/file").write_text("")
    path = place(base)
    (root / named(process=alive())).rename(path)  # the name of this very process: still in use
    assert sorted(state.left_over(str(root), "node1")) == sorted(str(root / name) for name in gone)
    state.remove_left_over(str(root), "node1")
    assert sorted(os.listdir(root)) == sorted(kept)


def test_a_directory_that_is_held_is_in_use(base):
    """A process in another pid namespace cannot be seen; its lock can."""
    path = f"{state.root(ME, str(base))}/{named(process=dead())}"
    descriptor = state.make(path, "node1")
    state.remove_left_over(os.path.dirname(path), "node1")
    assert os.path.isdir(path)
    os.close(descriptor)
    state.remove_left_over(os.path.dirname(path), "node1")
    assert not os.path.exists(path)


def test_removing_follows_no_link(base):
    """Neither one in the directory nor one in its place."""
    kept = base / "kept"
    kept.mkdir()
    (kept / "file").write_text("")
    folder = base / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(kept)
    (base / "instead").symlink_to(kept)
    (base / "parent").symlink_to(kept)
    state.remove(str(folder))
    state.remove(str(base / "instead"))
    state.remove(str(base / "parent/file"))
    assert sorted(os.listdir(base)) == ["kept", "parent"]
    assert os.listdir(kept) == ["file"]


def test_removing_opens_what_is_closed(place, as_user):
    """Images hold directories without any rights, which their owner may still remove."""
    folder = place / "folder"
    as_user(
        f"mkdir -p {folder}/a/b/c && touch {folder}/a/b/c/file && chmod 0 {folder}/a/b/c {folder}/a/b {folder}/a"
    )
    as_user(f"exec {sys.executable} -c 'from slurm_oci import state; state.remove(\"{folder}\")'")
    assert not folder.exists()


@pytest.mark.parametrize("mode", [0o755, 0])
def test_removing_gets_to_the_ground(place, as_user, mode):
    """However many directories lie in each other, also closed ones, and with files beside them: programs
    make such trees, and neither Python nor the limit of descriptors goes so far."""
    folder = place / "folder"
    code = f"""if True:
        import os, resource
        from slurm_oci import state
        folder = {str(folder)!r}
        os.mkdir(folder)
        os.chdir(folder)
        for _ in range(2500):
            os.mkdir("a")
            open("file", "w").close()
            os.chdir("a")
        for _ in range(2500):
            os.chdir("..")
            os.chmod("a", {mode})
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        state.remove(folder)
    """
    as_user(f"exec {sys.executable} -c {shlex.quote(code)}")
    assert not folder.exists()


def test_removing_what_is_gone_is_nothing(tmp_path):
    """A second cleanup finds nothing to do."""
    state.remove(str(tmp_path / "gone"))
    state.remove(str(tmp_path / "gone/deeper"))


@only_root
def test_a_root_that_others_could_have_made_is_not_used(base):
    """A squatted name, a link in its place or a root that is open to others: another place is taken."""
    (base / str(ORDINARY)).mkdir(mode=0o700)  # root's, not the user's
    assert os.path.dirname(state.root(ORDINARY, str(base))) == str(base.parent)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o707])
def test_a_root_that_is_open_is_not_used(base, mode):
    """What others can read or write is not private, whoever made it."""
    (base / str(ME)).mkdir()
    (base / str(ME)).chmod(mode)
    assert os.path.dirname(state.root(ME, str(base))) == str(base.parent)


@only_root
def test_a_root_that_is_another_user_s_file_system_is_not_used(base, fuse):
    """Where users may open theirs to others (`user_allow_other` in fuse.conf): it can say what it likes of
    its owner, and would have all that tasks write there."""
    for user, is_used in ((ORDINARY + 1, False), (ORDINARY, True)):
        place = base / str(user)
        place.mkdir()
        fuse(place, user, owner=ORDINARY, is_open=True)
        assert place.stat().st_uid == ORDINARY
        assert state.is_private(str(place), ORDINARY) == is_used


@only_root
def test_another_user_s_file_system_is_not_asked(base, fuse):
    """Its program need not answer, and every task would wait for it."""
    place = base / str(ORDINARY)
    place.mkdir()
    fuse(place, ORDINARY + 1, is_open=True)
    code = f"from slurm_oci import state; print(state.is_private({str(place)!r}, {ORDINARY}))"
    task = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert task.communicate(timeout=30)[0] == "False\n"


@only_root
def test_what_has_been_unmounted_since_is_nobody_s(tmp_path):
    """Its program could wait with its answer until there is nothing more to be seen of it."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
    place = os.open(tmp_path, os.O_PATH)
    try:
        assert state.mounted_by(place, str(tmp_path)) is None
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)
    assert state.mounted_by(place, str(tmp_path)) == -1
    os.close(place)


def test_a_link_in_place_of_the_root_is_not_followed(base):
    """Also where it leads to a directory of the user's own."""
    (base / "mine").mkdir(mode=0o700)
    (base / str(ME)).symlink_to("mine")
    assert os.path.dirname(state.root(ME, str(base))) == str(base.parent)


def test_the_place_of_last_resort_has_a_name_nobody_can_take_first(tmp_path, base):
    """Random, and found again by the next task of the same user."""
    missing = str(tmp_path / "no base")
    first = state.root(ME, missing)
    assert first.startswith(f"{tmp_path}/slurm-oci-{ME}.")
    assert state.root(ME, missing) == first
    assert os.stat(first).st_mode & 0o7777 == 0o700


def test_where_there_is_no_place_each_one_is_named(monkeypatch):
    """With its own reason, so that the site knows what to mend."""
    monkeypatch.setattr(state, "SHARED", ("/proc/nowhere",))
    monkeypatch.setattr(state, "roots", lambda uid, base: iter([f"{base}/{uid}"]))
    with pytest.raises(StateUnavailable) as caught:
        state.root(ME, "/proc/base")
    assert caught.value.hints == (
        f"/proc/base/{ME}: No such file or directory",
        "/proc/nowhere: No such file or directory",
    )


def test_proposing_a_place_makes_nothing(base):
    """`explain` shows where it would be."""
    assert state.propose(ASKED, str(base)) == f"{base}/{ME}/{named(process=alive())}"
    assert os.listdir(base) == []


def test_a_node_s_name_cannot_lead_elsewhere(base):
    """It comes from outside: a slash in it is no path."""
    path = state.place(request(uid=ME, node="../../x"), str(base))
    assert os.path.dirname(path) == f"{base}/{ME}"


@pytest.fixture
def as_user(place):
    """Runs shell commands as a user who is not root, in a place of his own."""
    if OWN_UID == 0:
        os.chown(place, ORDINARY, ORDINARY)

    def run(command: str) -> None:
        ids = {} if OWN_UID else {"user": ORDINARY, "group": ORDINARY, "extra_groups": []}
        env = {"PATH": STANDARD_PATH, "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run(["/bin/sh", "-c", command], check=True, cwd="/", env=env, **ids)

    return run
