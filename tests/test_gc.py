"""What killed tasks leave, and who may remove it: `slurm-oci-plugins gc` and the epilog."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
from conftest import NAMESPACES, ORDINARY, OWN_UID, STANDARD_PATH, alive, dead, make_stand_in

from slurm_oci import gc, state

NODE = f"node-of-test-{os.getpid()}"  # the machine's own state roots are looked at too, and have none of it
OTHER = ORDINARY + 1
BATCH = 4294967291
only_root = pytest.mark.skipif(OWN_UID != 0, reason="only root can act for others")
OTHER_BOOT = "0" * 32


def reused() -> str:
    """The id of a process that is there, and the start time of one that had it before."""
    return f"{os.getpid()}-{int(state.start_time(os.getpid())) - 1}"


def name(process: str, task: str = "42.0.0", boot: str = "", node: str = NODE) -> str:
    return f"{node}.{boot or state.boot_id()}.{task}.{process}"


@attrs.frozen
class Node:
    """An installation whose users' state roots lie in `base`."""

    prefix: Path
    base: Path

    def root(self, uid: int = ORDINARY) -> Path:
        folder = self.base / str(uid)
        if not folder.exists():
            folder.mkdir(0o700)
            os.chown(folder, uid, -1)
        return folder

    def leave(self, *names: str, uid: int = ORDINARY) -> list[Path]:
        """Private directories of the user, each with something in it."""
        made = []
        for entry in names:
            folder = self.root(uid) / entry
            (folder / "bundle").mkdir(parents=True)
            (folder / "bundle" / "config.json").write_text("{}")
            for path in (folder, folder / "bundle", folder / "bundle" / "config.json"):
                os.chown(path, uid, -1)
            made.append(folder)
        return made

    def gc(self, *options: str, uid: int = ORDINARY, wrap: tuple[str, ...] = ()) -> tuple[int, list[dict]]:
        """Exit status and what is told of each private directory, as `uid`."""
        done = self.call(*options, "--json", uid=uid, wrap=wrap)
        return done.returncode, json.loads(done.stdout)

    def call(
        self, *options: str, uid: int = ORDINARY, wrap: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess:
        program = (str(self.prefix / "bin/slurm-oci-plugins"), "--prefix", str(self.prefix), "gc")
        ids = {"user": uid, "group": uid, "extra_groups": []} if not OWN_UID else {}
        env = {"PATH": STANDARD_PATH, "SLURMD_NODENAME": NODE}
        argv = [*wrap, *program, *options]
        return subprocess.run(argv, env=env, cwd="/", capture_output=True, text=True, **ids)


@pytest.fixture
def node(prefix, place):
    base = place / "base"
    base.mkdir()
    base.chmod(0o1777)
    (prefix / "site.toml").write_text(f'state = "{base}"\n')
    return Node(prefix, base)


def told(path: Path, removed: bool = True, uid: int = ORDINARY, job: int = 42, step: int = 0) -> dict:
    return {"path": str(path), "uid": uid, "job": job, "step": step, "task": 0, "removed": removed}


def by_path(found: list[dict]) -> list[dict]:
    return sorted(found, key=lambda left: left["path"])


# Whose it is


def test_what_dead_tasks_left_is_removed_and_nothing_else(node):
    """The process is gone, or another one has its number, or the node was booted since. What lives,
    is another node's or has another form is not touched."""
    gone = node.leave(
        name(dead()),
        name(reused(), "42.1.0"),
        name(alive(), f"43.{BATCH}.0", boot=OTHER_BOOT),
    )
    kept = node.leave(
        name(alive()),
        name(dead(), node="node-of-others"),
        name(dead(), node=f"{NODE}.domain"),
        f"{NODE}.cache",
        f"{NODE}.a.b.c.d.e",
        name("1", boot=OTHER_BOOT),
        name("-1-1", boot=OTHER_BOOT),
        name("1-1", "42.0", boot=OTHER_BOOT),
        name("1-1", "42.0.0.0", boot=OTHER_BOOT),
        name("1-1", "42.0.x", boot=OTHER_BOOT),
        name("1-1", boot=OTHER_BOOT[1:]),
        "cache",
    )
    expected = [told(gone[0]), told(gone[1], step=1), told(gone[2], job=43, step=BATCH)]
    status, found = node.gc()
    assert (status, by_path(found)) == (0, by_path(expected))
    assert sorted(node.root().iterdir()) == sorted(kept)
    assert all((folder / "bundle/config.json").exists() for folder in kept)


@pytest.fixture
def meeting(monkeypatch, place):
    """Makes a file by which tasks with share=node met, some seconds ago."""
    monkeypatch.setattr(gc, "SHM", str(place))
    monkeypatch.setattr(gc, "sees_slurm", lambda: False)

    def make(entry: str, seconds: float = 1000) -> Path:
        path = place / entry
        path.write_text("")
        os.utime(path, (time.time() - seconds,) * 2)
        return path

    return make


def test_what_tasks_met_by_goes_when_their_step_is_over(meeting, monkeypatch, place):
    """ch-run's files and apptainer's, where the step's slurmstepd is gone; nothing of another name."""
    gone, here = dead().partition("-")[0], os.getpid()
    removed = [
        meeting(f"ch-run_shm-slurm-oci.42.3.{gone}"),
        meeting(f"sem.ch-run_sem-slurm-oci.42.3.{gone}"),
        meeting(f"sharens_instance_{gone}"),
    ]
    kept = [
        meeting(f"ch-run_shm-slurm-oci.42.3.{here}"),
        meeting(f"sharens_instance_{here}"),
        meeting(f"ch-run_shm-slurm-oci.42.4.{gone}", seconds=1),
        meeting(f"ch-run_shm-42.{gone}"),
        meeting(f"sharens_instance_{gone}.mine"),
    ]
    (place / "sharens_instance_0").symlink_to(kept[0])
    monkeypatch.setattr(state, "existing", lambda uid, base: ())
    wanted = gc.Wanted(NODE)
    dry = gc.own(attrs.evolve(wanted, dry_run=True)).left
    assert sorted((left.path, left.job, left.step, left.removed) for left in dry) == sorted(
        (str(path), job, step, False) for path, job, step in zip(removed, (42, 42, 0), (3, 3, 0))
    )
    assert [left.job for left in gc.own(attrs.evolve(wanted, job=42)).left] == [42, 42]
    assert [left.removed for left in gc.own(wanted).left] == [True]
    assert [path.exists() for path in (*removed, *kept)] == [False] * 3 + [True] * 5
    assert os.path.lexists(place / "sharens_instance_0")


@pytest.mark.parametrize("seen", [False, True])
def test_it_goes_at_once_where_it_is_certain_that_the_step_is_over(meeting, monkeypatch, seen):
    """Where Slurm's own processes are seen, so that one that is not there is gone; else only after the
    time for which tasks wait for each other."""
    monkeypatch.setattr(gc, "sees_slurm", lambda: seen)
    gone, here = dead().partition("-")[0], os.getpid()
    left = meeting(f"ch-run_shm-slurm-oci.42.3.{gone}", seconds=1)
    living = meeting(f"ch-run_shm-slurm-oci.42.3.{here}", seconds=1)
    assert gc.meetings(OWN_UID) == ([(str(left), 42, 3)] if seen else [])
    assert living.exists()


def test_slurm_is_seen_by_its_daemon(tmp_path, monkeypatch):
    """A process of that name, among those that are no process or are gone already."""
    monkeypatch.setattr(gc, "PROC", str(tmp_path))
    for name, comm in {"1": "init", "7": "slurmstepd", "self": "slurmd"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "comm").write_text(comm + "\n")
    (tmp_path / "8").mkdir()
    assert not gc.sees_slurm()
    (tmp_path / "7/comm").write_text("slurmd\n")
    assert gc.sees_slurm()


def test_root_asks_each_owner_of_what_tasks_met_by(meeting, place):
    """Also one who has no state root, because his tasks need no private directory."""
    path = meeting("sharens_instance_1")
    if OWN_UID == 0:
        os.chown(path, ORDINARY, -1)
    assert ORDINARY in gc.owners(gc.Wanted("node1", str(place / "none")))


def test_two_nodes_share_a_directory(node):
    """Each removes its own alone, also where the other's processes are unknown to it."""
    mine, others = node.leave(name(dead()), name(dead(), node="node-2"))
    assert node.gc() == (0, [told(mine)])
    assert list(node.root().iterdir()) == [others]
    assert node.gc("--node", "node-2") == (0, [told(others)])
    assert list(node.root().iterdir()) == []


@pytest.mark.parametrize("uid", [ORDINARY, pytest.param(0, marks=only_root)])
def test_what_is_left_of_this_machine_under_another_name_is_told(node, uid):
    """NodeName need not be the host's name. What lives, is of another boot and so perhaps of another
    machine, or is no private directory, gives no hint; nor does what is of another job."""
    node.leave(
        name(dead(), node="n 1"),
        name(dead(), "43.0.0", node="n2"),
        name(alive(), node="n3"),
        name(dead(), node="n4", boot=OTHER_BOOT),
        name("x", node="n5"),
    )
    hints = [
        f"slurm-oci: something is left over on this machine of node {n}: `slurm-oci-plugins gc --node {word}`\n"
        for n, word in (("n 1", "'n 1'"), ("n2", "n2"))
    ]
    done = node.call(uid=uid)
    assert (done.returncode, done.stdout) == (0, f"nothing is left over on {NODE}\n")
    assert done.stderr == "".join(hints)
    done = node.call("--job", "43", "--json", uid=uid)
    assert (done.stdout, done.stderr) == ("[]\n", hints[1])
    assert node.call("--node", "n2", uid=uid).stderr == hints[0]


def test_a_dry_run_removes_nothing(node):
    """And says what would be removed."""
    (left,) = node.leave(name(dead()))
    assert node.gc("--dry-run") == (0, [told(left, removed=False)])
    assert node.call("--dry-run").stdout == f"would remove {left}\n"
    assert (left / "bundle/config.json").exists()
    assert node.call().stdout == f"removed {left}\n"
    assert node.call().stdout == f"nothing is left over on {NODE}\n"


def test_one_job_alone(node):
    """`--job` leaves other jobs' as they are."""
    mine, others = node.leave(name(dead(), "42.0.0"), name(dead(), "421.0.0"))
    assert node.gc("--job", "42") == (0, [told(mine)])
    assert list(node.root().iterdir()) == [others]


def test_where_no_task_ever_ran_there_is_nothing_to_do(node):
    """No state root is made by looking for one."""
    assert node.gc() == (0, [])
    assert list(node.base.iterdir()) == []


@pytest.mark.skipif(not NAMESPACES, reason="the kernel refuses user namespaces")
def test_a_task_in_another_pid_namespace_is_alive(node):
    """Its process cannot be seen from there: the lock on its directory tells."""
    path = node.root() / name(alive(), "42.0.0")
    ids = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []} if not OWN_UID else {}
    code = (
        "import sys; from slurm_oci import state;"
        f"fd = state.make({str(path)!r}, {NODE!r}); print('made', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", **ids
    )
    assert holder.stdout.readline() == b"made\n"
    elsewhere = ("unshare", "--user", "--map-current-user", "--pid", "--fork", "--mount-proc")
    assert node.gc(wrap=elsewhere) == (0, [])
    holder.communicate()
    assert node.gc(wrap=elsewhere) == (0, [told(path)])


# What is in the way


def test_links_are_removed_and_not_followed(node, place):
    """One in place of a private directory, and one in it."""
    victim = place / "victim"
    victim.mkdir()
    (victim / "file").write_text("")
    os.chown(victim, ORDINARY, -1)
    (left,) = node.leave(name(dead()))
    (left / "bundle" / "link").symlink_to(victim)
    instead = node.root() / name(dead(), "43.0.0")
    instead.symlink_to(victim)
    assert node.gc()[0] == 0
    assert list(node.root().iterdir()) == []
    assert [path.name for path in victim.iterdir()] == ["file"]


@only_root
def test_what_is_mounted_there_is_not_entered(node, place):
    """Not even a bind mount of the same file system. It stays, and is told as what stays."""
    image = place / "image"
    image.mkdir()
    (image / "file").write_text("")
    for path in (image, image / "file"):
        os.chown(path, ORDINARY, -1)
    (left,) = node.leave(name(dead()))
    (left / "image").mkdir()
    os.chown(left / "image", ORDINARY, -1)
    script = f'mount --bind {image} {left}/image && exec setpriv --reuid={ORDINARY} --clear-groups "$@"'
    status, found = node.gc(uid=0, wrap=("unshare", "--mount", "sh", "-c", script, "sh"))
    assert (status, found) == (1, [told(left, removed=False)])
    assert (image / "file").exists()
    assert [path.name for path in left.iterdir()] == ["image"]  # all else is gone
    assert node.gc() == (0, [told(left)])


@only_root
def test_a_mount_in_a_directory_is_seen(place):
    """Also where blanks are in the path; one beside it is none in it."""
    for folder in ("a b/in it", "a b c/in it"):
        (place / folder).mkdir(parents=True)
    code = f"from slurm_oci.state import holds_mounts as h; print(h('{place}/a b'), h('{place}/a b c'), h('{place}/a'))"
    script = f"mount -t tmpfs tmpfs '{place}/a b/in it' && exec \"$@\""
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", code]
    assert subprocess.run(argv, capture_output=True, text=True).stdout == "True False False\n"


def test_a_dead_fuse_mount_is_unmounted_first(node, place):
    """squashfuse was killed with its task: nothing can look into what it had mounted."""
    for program in ("squashfuse", "fusermount3", "mksquashfs"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    if not os.access("/dev/fuse", os.W_OK):
        pytest.skip("/dev/fuse cannot be used")
    (place / "tree").mkdir()
    subprocess.run(
        ["mksquashfs", place / "tree", place / "image.sqsh", "-quiet"], check=True, capture_output=True
    )
    (left,) = node.leave(name(dead()))
    (left / "image").mkdir()
    os.chown(left / "image", ORDINARY, -1)
    ids = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []} if not OWN_UID else {}
    mounted = subprocess.Popen(["squashfuse", "-f", place / "image.sqsh", left / "image"], cwd="/", **ids)
    wait_until(lambda: str(left) in Path("/proc/mounts").read_text())
    mounted.kill()
    mounted.wait()
    assert node.gc() == (0, [told(left)])
    assert str(left) not in Path("/proc/mounts").read_text()


def wait_until(true) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@only_root
@pytest.mark.parametrize("mode", [0, 0o600, 0o100])
def test_a_root_that_is_closed_to_its_owner_is_opened_and_emptied(node, mode):
    """A dry run, which changes nothing, says that it cannot look into it: nothing is called removed that
    is there."""
    (left,) = node.leave(name(dead()))
    node.root().chmod(mode)
    done = node.call("--dry-run", "--json")
    if mode & 0o400:
        assert (done.returncode, json.loads(done.stdout)) == (0, [told(left, removed=False)])
    else:
        assert (done.returncode, json.loads(done.stdout)) == (1, [])
        warning = f"slurm-oci: warning: `{node.root()}` cannot be looked into: Permission denied\n"
        assert done.stderr == warning
        assert warning in node.call("--dry-run", uid=0).stderr
    assert node.gc() == (0, [told(left)])
    assert not left.exists()


# As root


@only_root
def test_root_removes_each_user_s_as_that_user(node):
    """What a user may not remove himself stays, though root could."""
    mine, others, guarded = (
        *node.leave(name(dead())),
        *node.leave(name(dead(), "43.0.0"), uid=OTHER),
        *node.leave(name(dead(), "44.0.0"), uid=OTHER),
    )
    (guarded / "bundle").chmod(0o755)
    os.chown(guarded / "bundle", 0, 0)
    status, found = node.gc(uid=0)
    expected = [
        told(mine),
        told(others, uid=OTHER, job=43),
        told(guarded, removed=False, uid=OTHER, job=44),
    ]
    assert (status, by_path(found)) == (1, by_path(expected))
    assert (guarded / "bundle/config.json").exists()
    assert node.call(uid=0).stdout == f"cannot remove {guarded}\n"


@only_root
def test_root_believes_no_name(node, place):
    """A root under another user's number, a link in its place, and numbers that are none."""
    left = name(dead())
    squatted = node.leave(left, uid=OTHER)[0].parent.rename(node.base / str(ORDINARY))
    mine = place / "mine"
    shutil.copytree(squatted, mine)
    for path in (mine, mine / left):
        os.chown(path, OTHER, -1)
        path.chmod(0o700)
    (node.base / str(OTHER)).symlink_to(mine)
    roots_own = node.base / "0"
    roots_own.symlink_to("/root")
    for odd in ("-1", "4294967295", "99999999999", "1e3", "٣", "0x1", " 1"):
        (node.base / odd / left).mkdir(parents=True)
    assert node.gc(uid=0) == (0, [])
    assert (squatted / left / "bundle/config.json").exists()
    assert (mine / left / "bundle/config.json").exists()
    assert sorted(path.name for path in node.base.iterdir()) == sorted(
        ["-1", "4294967295", "99999999999", "1e3", "٣", "0x1", " 1", str(ORDINARY), str(OTHER), "0"]
    )


@only_root
def test_names_that_another_has_made_give_nobody_a_turn(node):
    """A user could make them by the thousand, and each turn takes a process."""
    node.leave(name(dead()))
    for number in range(70000, 70010):
        (node.base / str(number)).mkdir()
        os.chown(node.base / str(number), OTHER, -1)
    found = gc.owners(gc.Wanted(NODE, str(node.base)))
    assert ORDINARY in found
    assert not {OTHER, *range(70000, 70010)} & {*found}


@only_root
def test_root_asks_no_user_s_file_system(node, fuse):
    """Its program need not answer. Who has mounted it is known without."""
    for uid, maker in ((ORDINARY, ORDINARY), (OTHER, ORDINARY)):
        (node.base / str(uid)).mkdir()
        fuse(node.base / str(uid), maker, is_open=True)
    code = f"from slurm_oci import gc; print(gc.owners(gc.Wanted({NODE!r}, {str(node.base)!r})))"
    asking = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    found = json.loads(asking.communicate(timeout=30)[0])
    assert ORDINARY in found
    assert OTHER not in found


@only_root
def test_the_child_of_root_is_the_owner_and_nothing_more():
    """Ids, groups, environment, directory and umask."""
    code = (
        "import os; from slurm_oci import gc;"
        f"os.environ['SECRET'] = 'of root'; gc.become({ORDINARY});"
        "print(os.getresuid(), os.getresgid(), os.getgroups(), dict(os.environ), os.getcwd(), os.umask(0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ids, gids = (ORDINARY,) * 3, (gc.NOBODY,) * 3
    assert done.stdout == f"{ids} {gids} [] {{'PATH': {STANDARD_PATH!r}}} / {0o077}\n"


@only_root
def test_an_owner_whose_files_never_answer_does_not_hold_up_the_others(node, monkeypatch):
    """His child is ended after a time, the next owner's turn comes, and it is told."""
    (left,) = node.leave(name(dead()), uid=OTHER)
    node.root(ORDINARY)
    own = gc.own
    monkeypatch.setattr(gc, "own", lambda w: signal.pause() if os.geteuid() == ORDINARY else own(w))
    monkeypatch.setattr(gc, "owners", lambda base: [ORDINARY, OTHER])
    found = gc.collect(gc.Wanted(NODE, str(node.base)), seconds=0.5)
    assert [left.path for left in found.left] == [str(left)]
    assert found.wrong == [f"uid {ORDINARY}: gave no answer in time, and was ended"]


@only_root
def test_an_owner_s_child_that_fails_is_told(node, monkeypatch):
    """With what went wrong, or that it was killed."""
    node.root(ORDINARY)
    monkeypatch.setattr(gc, "owners", lambda base: [ORDINARY])
    wanted = gc.Wanted(NODE, str(node.base))
    monkeypatch.setattr(gc, "own", lambda wanted: os.kill(os.getpid(), signal.SIGKILL))
    assert gc.collect(wanted) == gc.Found([], [f"uid {ORDINARY}: its process was killed"])
    monkeypatch.setattr(gc, "own", lambda wanted: 1 / 0)
    assert gc.collect(wanted) == gc.Found([], [f"uid {ORDINARY}: ZeroDivisionError: division by zero"])


@only_root
@pytest.mark.parametrize("answer", [b'{"left": [{"path": "/run/', b"", b"\xff"])
def test_an_owner_who_kills_his_child_in_the_middle_of_its_answer_stops_nobody(node, monkeypatch, answer):
    """He may: it is a process of his."""
    (left,) = node.leave(name(dead()), uid=OTHER)
    be_owner = gc.be_owner

    def interrupted(uid: int, wanted: gc.Wanted, end: int) -> None:
        if uid == OTHER:
            be_owner(uid, wanted, end)
        os.write(end, answer)
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(gc, "be_owner", interrupted)
    monkeypatch.setattr(gc, "owners", lambda base: [ORDINARY, OTHER])
    found = gc.collect(gc.Wanted(NODE, str(node.base)))
    assert [left.path for left in found.left] == [str(left)]
    assert found.wrong == [f"uid {ORDINARY}: its process was killed"]


@only_root
def test_an_owner_who_stops_his_child_after_its_answer_stops_nobody(node, monkeypatch):
    """It has said all, and does not end."""

    def stopped(uid: int, wanted: gc.Wanted, end: int) -> None:
        os.write(end, json.dumps(attrs.asdict(gc.Found())).encode())
        os.close(end)
        os.kill(os.getpid(), signal.SIGSTOP)

    monkeypatch.setattr(gc, "be_owner", stopped)
    monkeypatch.setattr(gc, "owners", lambda base: [ORDINARY])
    assert gc.collect(gc.Wanted(NODE, str(node.base))) == gc.Found()


@only_root
def test_an_owner_whose_file_system_keeps_his_child_does_not_hold_up_the_others(node, monkeypatch, fuse):
    """Where a program of his takes the kernel's question and never answers, not even SIGKILL ends it."""
    fuse(node.root(ORDINARY), ORDINARY)
    (left,) = node.leave(name(dead()), uid=OTHER)
    monkeypatch.setattr(gc, "owners", lambda base: [ORDINARY, OTHER])
    found = gc.collect(gc.Wanted(NODE, str(node.base)), seconds=0.5)
    assert [left.path for left in found.left] == [str(left)]
    assert found.wrong == [f"uid {ORDINARY}: gave no answer in time, and was ended"]


# The epilog


def epilog(node: Node, env: dict[str, str]) -> int:
    script = node.prefix / "epilog"
    installed_at = re.search(r"(/\S+)/bin/slurm-oci-plugins", script.read_text())[1]
    script.write_text(script.read_text().replace(installed_at, str(node.prefix)))
    done = subprocess.run(
        [script], env={"SLURMD_NODENAME": NODE, **env}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    return done.returncode


@only_root
def test_the_epilog_removes_the_job_s_user_s_alone(node):
    """As that user: what only root could remove stays."""
    mine, guarded = node.leave(name(dead()), name(dead(), "43.0.0"))
    others = node.leave(name(dead()), uid=OTHER)[0]
    (guarded / "bundle").chmod(0o755)
    os.chown(guarded / "bundle", 0, 0)
    assert epilog(node, {"SLURM_JOB_UID": str(ORDINARY), "SLURM_JOB_ID": "42"}) == 0
    assert (mine.exists(), guarded.exists(), others.exists()) == (False, True, True)


@only_root
@pytest.mark.parametrize("uid", ["", "0", "x", "1; touch /tmp/pwned", "99999999999999"])
def test_the_epilog_ends_well_whatever_it_is_given(node, uid):
    """Slurm would take the node out of service."""
    assert epilog(node, {"SLURM_JOB_UID": uid}) == 0


@only_root
def test_the_epilog_ends_well_where_the_command_is_gone_or_fails(node):
    """An installation half removed is no reason to drain nodes."""
    tool = node.prefix / "bin/slurm-oci-plugins"
    tool.unlink()
    assert epilog(node, {"SLURM_JOB_UID": str(ORDINARY)}) == 0
    recorded = make_stand_in(tool, "exit 1")
    assert epilog(node, {"SLURM_JOB_UID": str(ORDINARY), "SECRET": "of root"}) == 0
    (call,) = recorded.calls
    assert (call.argv[1:], call.cwd) == (["--prefix", str(node.prefix), "gc"], "/")
    assert call.status["Uid"].split() == [str(ORDINARY)] * 4
    assert call.status.get("Groups", "").split() == []
    assert sorted(call.env) in (["PATH", "SLURMD_NODENAME"], ["PATH", "PWD", "SLURMD_NODENAME"])
