"""Unpacking once: keys, who does the work, what is kept and what is removed."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
from conftest import BUSYBOX, ORDINARY, OWN_UID, StandIn, job, make_stand_in, request
from hypothesis import given
from hypothesis import strategies as st

from slurm_oci import cache, claims, gc, images, state
from slurm_oci.cache import Cache, Caches
from slurm_oci.main import Decision
from slurm_oci.problems import CacheUnavailable, CacheUnsafe, ImportFailed
from slurm_oci.values import Image, Plan, Settings

NODE = "node1"
only_root = pytest.mark.skipif(OWN_UID != 0, reason="only root can mount")
GONE = "node1.{boot}.42.3.5.999999-1"  # no process has this start time


def until(true, seconds: float = 30) -> None:
    """Waits for what must come to be; what never comes is a failure."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# Keys


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"one")
    return Image(str(path), "oci-archive", str(path))


def test_a_file_has_one_key_for_everybody(archive):
    """Whoever asks, from whatever job; by any name of the same path."""
    key = cache.key(archive, request(), job())
    assert cache.key(archive, request(job=7, task=9), job({"X": "1"})) == key
    assert cache.key(archive, None, job()) == key
    link = Path(archive.path).with_name("link.tar")
    link.symlink_to(archive.path)
    assert cache.key(archive.replace(name="link.tar", path=str(link)), request(), job()) == key


@pytest.mark.parametrize("change", ["content", "times", "replaced"])
def test_a_file_that_changes_gets_another_key(archive, change):
    """Also where size and times of the content are set back."""
    path, key = Path(archive.path), cache.key(archive, request(), job())
    before = path.stat()
    if change == "content":
        path.write_bytes(b"two")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "times":
        path.touch()
    else:
        new = path.with_name("new")
        new.write_bytes(b"one")
        os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
        new.rename(path)
    assert cache.key(archive, request(), job()) != key


def test_the_images_of_an_archive_have_keys_of_their_own(archive):
    """By their tags."""
    names = [archive.name, f"oci-archive:{archive.path}:1", f"oci-archive:{archive.path}:2"]
    assert len({cache.key(archive.replace(name=name), request(), job()) for name in names}) == 3


STEPS = st.tuples(st.integers(1, 3), st.integers(0, 2), st.sampled_from(["", "1"]), st.sampled_from("ab"))


@given(STEPS, STEPS)
def test_a_tag_has_one_key_for_each_step(one, other):
    """Of a job, of each of its starts, on each cluster; a digest has one for ever."""

    def keys(step):
        number, of_job, restart, cluster = step
        asked = request(job=number, step=of_job, task=os.getpid())
        told = job({"SLURM_RESTART_COUNT": restart, "SLURM_CLUSTER_NAME": cluster})
        names = ("docker://x:1", "docker://x@sha256:aa")
        return [cache.key(Image(name, "reference"), asked, told) for name in names]

    assert (keys(one)[0] == keys(other)[0]) == (one == other)
    assert keys(one)[1] == keys(other)[1]


# Trust


@pytest.fixture
def own(tmp_path):
    """A cache of this user's, as `make_folders` makes it."""
    found = Cache(str(tmp_path / "cache"), (OWN_UID,))
    images.make_folders(found)
    return found


def entry(where: Cache, name: str, size: int = 0, key: str = "key", kind: str = "sif") -> Path:
    """An entry that counts as `size` GiB, known as `key`."""
    place = Path(where.entry(f"{name}.{kind}"))
    place.mkdir()
    (place / "image").write_text(name)
    (place / "bytes").write_text(str(size * images.GIB))
    (Path(where.path) / "aliases" / f"{key}-{name}.{kind}").symlink_to(f"{name}.{kind}")
    return place


def test_a_cache_is_closed_to_others(own):
    assert {path.name for path in Path(own.path).iterdir()} == set(images.FOLDERS)
    assert {path.stat().st_mode & 0o777 for path in (Path(own.path), *Path(own.path).iterdir())} == {0o700}


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o705, 0o711])
@pytest.mark.parametrize("folder", [".", "entries", "aliases"])
def test_a_cache_that_others_may_enter_is_refused(own, folder, mode):
    """By its name, with what cures it."""
    entry(own, "a")
    os.chmod(os.path.join(own.path, folder), mode)
    with pytest.raises(CacheUnsafe, match=f"{mode:04o}"):
        cache.find(own, "key-a", "sif")
    with pytest.raises(CacheUnsafe):
        images.make_folders(own)


def test_a_cache_of_somebody_elses_is_refused(own):
    """And a link in its place."""
    entry(own, "a")
    with pytest.raises(CacheUnsafe, match="belongs to uid"):
        cache.find(own.replace(owners=(OWN_UID + 1,)), "key-a", "sif")
    link = Path(own.path).with_name("link")
    link.symlink_to(own.path)
    with pytest.raises(CacheUnsafe, match="is no directory"):
        cache.find(own.replace(path=str(link)), "key-a", "sif")


@only_root
def test_a_cache_that_another_user_s_file_system_is_is_refused(own, fuse):
    """It says that it belongs to the user: its program would say what he executes."""
    Path(own.path).rename(own.path + ".his")
    Path(own.path).mkdir()
    fuse(Path(own.path), ORDINARY, owner=OWN_UID, is_open=True)
    with pytest.raises(CacheUnsafe, match="is a file system that another user has mounted"):
        cache.require_safe(own)


def test_a_store_may_be_read_by_all_and_written_by_its_owner_alone(own):
    store = own.replace(is_store=True)
    entry(own, "a")
    for folder in (".", "entries", "aliases"):
        os.chmod(os.path.join(own.path, folder), 0o755)
    assert cache.find(store, "key-a", "sif") == "a.sif"
    os.chmod(own.entry("a.sif"), 0o775)
    assert cache.find(store, "key-a", "sif") == ""
    os.chmod(own.path, 0o775)
    with pytest.raises(CacheUnsafe, match="may write"):
        cache.find(store, "key-a", "sif")


def test_an_alias_leads_to_entries_alone(own):
    """Not out of the folder, whatever it says."""
    outside = Path(own.path).with_name("outside")
    outside.mkdir(mode=0o700)
    alias = Path(own.path) / "aliases" / "key.sif"
    for target in ("../../outside", str(outside), "nothing.sif"):
        alias.unlink(missing_ok=True)
        alias.symlink_to(target)
        assert cache.find(own, "key", "sif") == ""


def test_where_a_user_s_cache_is(tmp_path, monkeypatch):
    """Where the site says; else on the node's disk, if `install` has made the place; else in his home."""
    assert cache.own("/scratch/images", 7, "/home/x").path == "/scratch/images/7"
    monkeypatch.setattr(cache, "BASE", str(tmp_path))
    assert cache.own("", 7, "/home/x").path == f"{tmp_path}/7"
    monkeypatch.setattr(cache, "BASE", str(tmp_path / "none"))
    assert cache.own("", 7, "/home/x").path == "/home/x/.cache/slurm-oci/images"


def test_a_cache_in_the_home_is_made_with_what_leads_to_it(tmp_path, monkeypatch):
    """Closed to others from the beginning; at any other place only the last directory is made."""
    monkeypatch.setattr(cache, "BASE", str(tmp_path / "none"))
    home = cache.own("", OWN_UID, str(tmp_path))
    images.make_folders(home)
    assert Path(home.path).stat().st_mode & 0o777 == 0o700
    with pytest.raises(CacheUnavailable, match="No such file"):
        images.make_folders(cache.own(str(tmp_path / "not" / "there"), OWN_UID, ""))


def test_the_store_is_looked_into_first(tmp_path, archive):
    """For a reference by its name alone."""
    site = {"images": {"cache": str(tmp_path), "store": str(tmp_path / "store"), "owner": ""}}
    caches = Caches(site, request(), job(), Image("docker://x:1", "reference"))
    assert [where.is_store for where, _ in caches.looked_in] == [True, False]
    assert caches.looked_in[0][1] == cache.key(Image("docker://x:1", "reference"), None, job())
    assert caches.find("sif") is None


# Who does the work


def claim(own: Cache, **asked) -> claims.Claim:
    return claims.Claim(own.path, "key.sif", request(node=NODE, **asked))


def held_by(own: Cache, holder: str, number: int = 1) -> None:
    folder = Path(own.path) / "claims" / "key.sif"
    folder.mkdir(exist_ok=True)
    (folder / str(number)).symlink_to(holder)


def test_one_takes_the_work(own):
    """And may do it again when it is done, or given up."""
    first, second = claim(own, task=0), claim(own, task=1)
    assert first.take()
    assert not second.take()
    assert second.who() == "task 0 of step 42.3 on node1"
    first.done()
    assert second.take()
    second.release()
    assert first.take()


def test_who_comes_just_as_the_work_is_done_looks_again(own, monkeypatch):
    """What he could not make was there, and is gone before he can see whose it is."""
    first, late = claim(own, task=0), claim(own, task=1)
    assert first.take()
    symlink = os.symlink

    def meanwhile(target, path):
        try:
            symlink(target, path)
        finally:
            first.done()

    monkeypatch.setattr(claims.os, "symlink", meanwhile)
    assert not late.make(1)


def test_the_work_of_a_dead_process_is_taken_over_by_one(own):
    """On the same node at once, by its pid and start."""
    held_by(own, GONE.format(boot=state.boot_id()))
    first, second = claim(own, task=0), claim(own, task=1)
    assert [first.take(), second.take()] == [True, False]
    assert (first.number, second.seen) == (2, 2)


def test_a_node_that_has_booted_since_does_nothing_any_more(own):
    held_by(own, f"{NODE}.{'0' * 32}.42.3.5.{os.getpid()}-{state.start_time(os.getpid())}")
    assert claim(own).take()


def test_another_node_s_task_is_believed_dead_after_its_last_sign(own, monkeypatch):
    """By the clock of who waits; each sign begins the time anew."""
    holder = f"node2.{state.boot_id()}.42.3.5.{os.getpid()}-{state.start_time(os.getpid())}"
    held_by(own, holder)
    now = [1000.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    (Path(own.path) / "work" / holder).mkdir()
    beat = Path(own.path) / "work" / holder / "beat"
    waiting = claim(own)
    for sign in (None, "1", "2"):
        if sign:
            beat.write_text(sign)
        assert not waiting.take()
        now[0] += claims.SILENT - 1
        assert not waiting.take()
    now[0] += 2
    assert waiting.take()


def test_who_was_taken_for_dead_finds_out(own):
    """And leaves it to the other."""
    first = claim(own)
    assert first.take()
    assert first.is_latest()
    held_by(own, "node2.x", 2)
    assert not first.is_latest()


def test_a_failure_ends_the_waiting_of_all_and_the_trying_of_the_step(own):
    """Who came later from another step tries again."""
    first, waiting = claim(own, task=0), claim(own, job=77)
    assert first.take()
    assert not waiting.take()
    first.fail(ImportFailed("it broke", "no space left"))
    for told in (waiting, claim(own, task=7), claim(own, task=0)):
        with pytest.raises(ImportFailed, match="it broke") as found:
            told.take()
        assert found.value.hints == ("no space left",)
    later = claim(own, step=4)
    assert later.take()
    assert later.number == 2


def test_what_is_asked_without_slurm_is_tried_each_time(own):
    """There is no step that it could belong to."""
    first = claim(own, job=0)
    assert first.take()
    first.fail(ImportFailed("it broke"))
    second = claim(own, job=0, task=9)
    assert second.take()


def test_claims_that_nobody_needs_are_removed(own):
    """A day after the last try, if nobody is at it."""
    first = claim(own)
    assert first.take()
    first.fail(ImportFailed("it broke"))
    folder = Path(own.path) / "claims" / "key.sif"
    claims.tidy(own.path, NODE)
    assert folder.exists()
    os.utime(folder, (1, 1))
    claims.tidy(own.path, NODE)
    assert folder.exists()  # this very process has made it
    (folder / "1").unlink()
    (folder / "1").symlink_to(GONE.format(boot=state.boot_id()))
    os.utime(folder, (1, 1))
    claims.tidy(own.path, NODE)
    assert not folder.exists()


# Many processes at once, with a program that makes the image

WORKER = """
import json, os, sys
from slurm_oci import cache, images, importers, state
from slurm_oci.values import Image, Job, Request
place, number, program = sys.argv[1:]
where = cache.Cache(place, (os.getuid(),))
request = Request("/image", "/spool", "me", os.getuid(), "node1", 42, 3, int(number), ("x",))
job = Job({}, "", "/", "me", "/home/me", "/bin/sh")
image = Image("/image.tar", "oci-archive", "/image.tar")
importer = importers.Importer("tool", ("oci-archive",), "sif", ("tool",), lambda image, programs: ((program,),))
SLOW
images.obtain(cache.Import(importer, image, {"tool": program}, where, "key"), request, job, 20)
print(open(where.entry(cache.find(where, "key", "sif")) + "/image").read(), end="")
"""


@attrs.define
class Workers:
    """Processes that all want one image, which `body`, in sh, makes as `result`."""

    place: Path
    own: Cache
    running: list[subprocess.Popen] = attrs.Factory(list)
    tool: StandIn | None = None
    errors: list[str] = attrs.Factory(list)

    def start(self, number: int, body: str, slow: str = "") -> None:
        """`slow`: a function of theirs that takes 100 seconds, and makes a file called `slow` before."""
        self.tool = make_stand_in(self.place / "tool", body)
        code = f"import time\nfrom slurm_oci import importing\n{slow} = lambda *_: open('{self.own.path}/slow', 'w').close() or time.sleep(100)"
        code = WORKER.replace("SLOW", code if slow else "")
        self.running = [
            subprocess.Popen(
                [sys.executable, "-c", code, self.own.path, str(n), str(self.tool.path)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for n in range(number)
        ]  # fmt: skip

    def ended(self) -> list[tuple[int, str]]:
        """Exit status and output of each."""
        told = [process.communicate(timeout=60) for process in self.running]
        self.errors = [err for _, err in told]
        return [(process.returncode, out) for process, (out, _) in zip(self.running, told, strict=True)]

    @property
    def winner(self) -> subprocess.Popen:
        """The one whose work is being done."""
        (name,) = os.listdir(f"{self.own.path}/work")
        return next(p for p in self.running if name.rpartition(".")[2].startswith(f"{p.pid}-"))


@pytest.fixture
def workers(tmp_path, own):
    found = Workers(tmp_path, own)
    yield found
    for process in found.running:
        process.kill()
        process.wait()


def nothing_left(own: Cache) -> bool:
    return not os.listdir(f"{own.path}/work") and not os.listdir(f"{own.path}/claims")


def test_of_many_one_does_the_work(workers, own):
    """All get the result, and nothing else stays."""
    workers.start(12, "sleep 0.5; echo made >result")
    assert workers.ended() == [(0, "made\n")] * 12
    assert len(workers.tool.calls) == 1
    assert nothing_left(own)


def test_when_the_winner_is_killed_another_one_does_it(workers, own):
    """What it had made is removed, and its program ends with it."""
    body = "echo half >result; [ -e ../../pid ] || { echo $$ >../../new; mv ../../new ../../pid; exec sleep 100; }"
    workers.start(6, f"{body}; echo made >result")
    pid = Path(own.path, "pid")
    until(pid.exists)
    killed = workers.winner
    killed.kill()
    killed.wait()
    assert sorted(workers.ended()) == [(-9, ""), *[(0, "made\n")] * 5]
    assert len(workers.tool.calls) == 2
    assert nothing_left(own)
    status = Path("/proc", pid.read_text().strip(), "status")
    until(lambda: not status.exists() or "State:\tZ" in status.read_text())


def test_what_fails_is_tried_once(workers, own):
    """All end with the program's own words."""
    workers.start(6, "sleep 0.5; echo no space left >&2; exit 1")
    assert [status for status, _ in workers.ended()] == [1] * 6
    assert all("no space left" in err or "cannot be unpacked" in err for err in workers.errors)
    assert len(workers.tool.calls) == 1
    assert os.listdir(f"{own.path}/work") == []
    assert os.listdir(f"{own.path}/entries") == []


def test_sigterm_ends_the_program_and_leaves_the_work_to_others(workers, own):
    """128+15, and nothing stays of what it had made."""
    workers.start(3, "[ -e ../../second ] || { touch ../../begun; exec sleep 100; }; echo made >result")
    until(Path(own.path, "begun").exists)
    ended = workers.winner
    Path(own.path, "second").touch()
    ended.send_signal(signal.SIGTERM)
    assert sorted(workers.ended()) == [(0, "made\n"), (0, "made\n"), (143, "")]
    assert nothing_left(own)


@pytest.mark.parametrize("slow", ["images.identity", "images.made_from", "images.size", "importing.settle"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_between_the_programs_ends_it_with_nothing_left(workers, own, slow, number):
    """While the image is measured or written out, too; another task can begin at once."""
    workers.start(1, "mkdir result; echo made >result/file", slow)
    until(Path(own.path, "slow").exists)
    workers.running[0].send_signal(number)
    assert workers.ended() == [(128 + number, "")]
    assert nothing_left(own)
    assert os.listdir(f"{own.path}/entries") == []


def test_a_signal_does_not_cut_removing_short(workers, own):
    """It ends the task when what was begun is removed."""
    workers.start(1, "exit 1", "state.remove")
    until(Path(own.path, "slow").exists)
    workers.running[0].terminate()
    time.sleep(0.3)
    assert workers.running[0].poll() is None


# Keeping and removing


def mark(own: Cache, name: str, task: str, age: float = 0) -> Path:
    path = Path(own.path) / "users" / f"{name}.sif" / task
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.utime(path, (time.time() - age,) * 2)
    return path


def used(own: Cache, name: str, seconds_ago: float) -> None:
    """The last task that used the entry ended then."""
    folder = Path(own.path) / "users" / f"{name}.sif"
    folder.mkdir(exist_ok=True)
    os.utime(folder, (time.time() - seconds_ago,) * 2)


ALIVE = f"{NODE}.{state.boot_id()}.42.3.5.{os.getpid()}-{state.start_time(os.getpid())}"


def test_what_was_used_least_recently_goes_first(own):
    """Until the rest is within the limit; never what is about to be used."""
    for name, seconds in (("new", 1), ("old", 300), ("older", 400), ("kept", 500)):
        entry(own, name, 10)
        used(own, name, seconds)
    assert images.evict(own, NODE, 25, keep="kept.sif") == [own.entry("older.sif"), own.entry("old.sif")]
    assert sorted(os.listdir(own.entry(""))) == ["kept.sif", "new.sif"]
    assert os.listdir(f"{own.path}/work") == []


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 99)), max_size=6), st.integers(0, 30)
)
def test_eviction_keeps_to_the_limit_and_to_what_is_used(tmp_path_factory, entries, limit):
    """Whatever is there: what is in use stays, the rest fits, and no more is removed than has to be."""
    own = Cache(str(tmp_path_factory.mktemp("cache") / "own"), (OWN_UID,))
    images.make_folders(own)
    for number, (size, in_use, seconds) in enumerate(entries):
        entry(own, str(number), size)
        if in_use:
            mark(own, str(number), ALIVE)
        used(own, str(number), seconds)
    images.evict(own, NODE, limit)
    left = {int(name.partition(".")[0]) for name in os.listdir(own.entry(""))}
    assert {number for number, (_, in_use, _) in enumerate(entries) if in_use} <= left
    total = sum(entries[number][0] for number in left)
    assert total <= limit or all(entries[number][1] for number in left)
    gone = [entries[number][0] for number in range(len(entries)) if number not in left]
    assert not gone or total + max(gone) > limit


@pytest.mark.parametrize(
    ("task", "age", "is_used"),
    [
        (ALIVE, 0, True),
        (GONE.format(boot=state.boot_id()), 0, False),
        (f"{NODE}.{'0' * 32}.42.3.5.1-1", 0, False),
        (f"node2.{'0' * 32}.42.3.5.1-1", 86400 * 29, True),
        (f"node2.{'0' * 32}.42.3.5.1-1", 86400 * 31, False),
    ],
    ids=["living", "dead", "before a boot", "of another node", "of another node, long ago"],
)
def test_a_living_task_keeps_its_image(own, task, age, is_used):
    """The marks of dead ones are removed."""
    entry(own, "a", 10)
    path = mark(own, "a", task, age)
    images.evict(own, NODE, 5)
    assert os.path.isdir(own.entry("a.sif")) == is_used
    assert path.exists() == is_used


def test_a_task_that_comes_while_its_image_is_removed_keeps_it(own, monkeypatch):
    """Its mark is seen when the entry has been put aside, and it is put back."""
    entry(own, "a", 10)
    rename = os.rename

    def meanwhile(old, new):
        rename(old, new)
        if old == own.entry("a.sif"):
            mark(own, "a", ALIVE)

    monkeypatch.setattr(images.os, "rename", meanwhile)
    assert images.evict(own, NODE, 0) == []
    assert os.path.isdir(own.entry("a.sif"))


def test_a_task_whose_image_is_removed_before_it_can_mark_it_is_told_so(own, monkeypatch):
    """It has the image unpacked once more."""
    entry(own, "a", 10)
    image = Image("/a.tar", "oci-archive", "/a.tar")
    asked = request(node=NODE, task=0)
    decision = Decision(asked, job(), image, Settings(), "tool", Plan((), {}), entry=(own, "a.sif"))
    is_used = images.is_used

    def meanwhile(*words):
        monkeypatch.setattr(images, "is_used", is_used)
        assert images.evict(own, NODE, 0) == [own.entry("a.sif")]
        return False

    monkeypatch.setattr(images, "is_used", meanwhile)
    assert not images.hold(decision)


def test_a_directory_whose_closing_fails_changes_nothing(own, monkeypatch):
    """Nothing was written by it: what has been removed is removed."""
    entry(own, "a", 1)
    close = os.close

    def failing(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", failing)
        gone = images.evict(own, NODE, 0)
    assert gone == [own.entry("a.sif")]


def test_without_room_to_remove_an_image_it_stays(own):
    """That must not be the end of the task whose own image is unpacked."""
    entry(own, "a", 10)
    os.rmdir(f"{own.path}/work")
    assert images.evict(own, NODE, 5) == []
    assert os.path.isdir(own.entry("a.sif"))


def test_an_image_with_folders_that_are_closed_to_their_owner_is_removed(own):
    """As package managers' caches in images are."""
    inner = entry(own, "a", 10) / "closed"
    inner.mkdir()
    (inner / "file").touch()
    inner.chmod(0)
    assert images.evict(own, NODE, 0) == [own.entry("a.sif")]
    assert os.listdir(f"{own.path}/work") == []


def test_gc_removes_what_leads_nowhere(own):
    """Aliases without their entry, aliases of steps long ago, marks of the dead."""
    entry(own, "a", 1)
    aliases = Path(own.path) / "aliases"
    (aliases / "lost.sif").symlink_to("lost.sif")
    (aliases / "old.sif").symlink_to("a.sif")
    os.utime(aliases / "old.sif", (1, 1), follow_symlinks=False)
    path = mark(own, "lost", GONE.format(boot=state.boot_id()))
    assert images.tidy(own, NODE, 20, False) == []
    assert [alias.name for alias in aliases.iterdir()] == ["key-a.sif"]
    assert not path.parent.exists()


def test_gc_passes_over_what_another_has_just_removed(own, monkeypatch):
    """Another gc, or a task."""
    (Path(own.path) / "aliases/seen.sif").symlink_to("a.sif")
    readlink = os.readlink

    def meanwhile(path):
        os.unlink(path)
        return readlink(path)

    monkeypatch.setattr(images.os, "readlink", meanwhile)
    assert images.tidy(own, NODE, 20, False) == []
    os.rmdir(f"{own.path}/claims")
    assert images.tidy(own, NODE, 20, False) == []


def test_gc_keeps_the_cache_within_its_limit(tmp_path):
    """And removes what a dead task has half made; not for a job alone. A dry run lists the same and
    changes nothing, not even the marks of dead tasks."""
    own = cache.own(str(tmp_path), OWN_UID, "")
    images.make_folders(own)
    entry(own, "a", 10)
    entry(own, "kept", 5)
    marks = [mark(own, "a", GONE.format(boot=state.boot_id())), mark(own, "kept", ALIVE)]
    used(own, "a", 100)
    work = Path(own.path) / "work" / GONE.format(boot=state.boot_id())
    (work / "result").mkdir(parents=True)
    wanted = gc.Wanted(NODE, str(tmp_path / "none"), cache=str(tmp_path), limit=5)
    paths = [str(work), own.entry("a.sif")]
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in tmp_path.rglob("*"))
    dry = gc.own(attrs.evolve(wanted, dry_run=True)).left
    assert [(left.path, left.job, left.removed) for left in dry] == [
        (paths[0], 42, False),
        (paths[1], 0, False),
    ]
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
    assert gc.own(attrs.evolve(wanted, job=41)) == gc.Found()
    assert [(left.path, left.job, left.removed) for left in gc.own(wanted).left] == [
        (paths[0], 42, True),
        (paths[1], 0, True),
    ]
    assert gc.own(wanted) == gc.Found()
    assert [path.exists() for path in marks] == [False, True]


def test_a_dead_task_s_mark_makes_its_image_no_newer(own):
    """Taken away first it would: the image of a killed task would stay in place of one used later."""
    for name, seconds in (("killed", 400), ("later", 300)):
        entry(own, name, 10)
        used(own, name, seconds)
    mark(own, "killed", GONE.format(boot=state.boot_id()))
    used(own, "killed", 400)
    for dry_run in (True, False):
        assert images.tidy(own, NODE, 10, dry_run) == [own.entry("killed.sif")]


# From the entry point, with programs in the places of umoci and of skopeo

UMOCI = """
case "$2" in
unpack) /bin/mkdir -p result/rootfs/bin result/rootfs/tmp result/rootfs/dev result/rootfs/proc result/rootfs/sys
  /bin/cp BUSYBOX result/rootfs/bin/sh ;;
runtime-config) echo '{"ociVersion": "1.0.0", "root": {"path": "rootfs"}, "linux": {}, "hostname": "x",
  "mounts": [{"destination": "/odd", "type": "bind", "source": "/nowhere"}],
  "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", "echo entry $0"], "env": ["TERM=xterm"], "cwd": "/"}}' \\
  >result/config.json ;;
esac
"""


@pytest.fixture
def layout(place):
    """An OCI layout whose image declares a variable."""
    folder = place / "layout"
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (folder / "oci-layout").write_text("{}")
    manifest = {"digest": "sha256:aa", "mediaType": "m", "size": 1}
    (folder / "index.json").write_text(json.dumps({"manifests": [manifest]}))
    (blobs / "aa").write_text(json.dumps({"config": {"digest": "sha256:bb"}}))
    (blobs / "bb").write_text(
        json.dumps({"config": {"Env": ["FROM=the image", "PATH=/bin"], "Entrypoint": ["/bin/sh", "-c"]}})
    )
    return folder


@pytest.fixture
def site(slurm):
    """A task's surroundings with a cache of their own."""
    folder = slurm.place / "images"
    folder.mkdir()
    folder.chmod(0o1777)
    with (slurm.prefix / "site.toml").open("a") as file:
        file.write(f'[images]\ncache = "{folder}"\n')
    return slurm


def test_an_unpacked_image_runs_as_its_maker_meant(site, layout, stand_in):
    """With the variables that it declares and not those that umoci adds; a second task unpacks nothing."""
    tool = stand_in("umoci", UMOCI.replace("BUSYBOX", BUSYBOX))
    for _ in range(2):
        ended = site.run(layout, "/bin/sh", "-c", 'echo "$FROM $PATH $TERM."; echo x >/bin/x')
        assert (ended.status, ended.out) == (1, "the image /bin .\n"), ended.err
    assert [words[1] for words in tool.words] == ["unpack", "runtime-config"]
    (name,) = os.listdir(site.place / "images" / str(site.uid) / "entries")
    assert name == "sha256-aa.oci-bundle"


@pytest.mark.parametrize("umask", ["0177", "0777"])
def test_a_job_s_umask_does_not_reach_an_unpacked_image(site, layout, stand_in, umask):
    """It is unpacked as for everybody, and the command has the job's."""
    stand_in("umoci", UMOCI.replace("BUSYBOX", BUSYBOX))
    wrap = ("/bin/sh", "-c", f'umask {umask}; exec "$@"', "sh")
    for _ in range(2):
        ended = site.run(layout, "/bin/sh", "-c", 'umask; echo "$FROM"', wrap=wrap)
        assert (ended.status, ended.out) == (0, f"{umask}\nthe image\n"), ended.err
    made = Path(site.place / "images" / str(site.uid))
    assert {path.stat().st_mode & 0o777 for path in (made, *made.iterdir())} == {0o700}


def test_the_same_image_by_two_paths_at_once_is_kept_once(site, layout, stand_in):
    """Two that do the same work do no harm: the second finds it done, and both run."""
    body = UMOCI.replace("BUSYBOX", BUSYBOX)
    tool = stand_in("umoci", f"[ $2 != unpack ] || sleep 1\n{body}")
    shutil.copytree(layout, site.place / "other")
    words = ("/bin/sh", "-c", 'echo "$FROM"')
    running = [site.start(*site.words(path, *words)) for path in (layout, site.place / "other")]
    assert [process.communicate(timeout=60)[0] for process in running] == [b"the image\n"] * 2
    assert len(os.listdir(site.place / "images" / str(site.uid) / "entries")) == 1
    assert len(os.listdir(site.place / "images" / str(site.uid) / "aliases")) == 2
    assert len(tool.calls) == 4


def test_the_entry_point_of_an_unpacked_image_gets_the_command(site, layout, stand_in):
    """On every runtime, since it is known what it is; the image's own arguments are not among it."""
    stand_in("umoci", UMOCI.replace("BUSYBOX", BUSYBOX))
    site.job["SLURM_OCI_ENTRYPOINT"] = "yes"
    for _ in range(2):
        ended = site.run(layout, 'echo "got $0"', "a b")
        assert (ended.status, ended.out) == (0, "got a b\n"), ended.err


def test_the_trace_says_how_the_image_was_got(site, layout, stand_in):
    """Once unpacked, from where."""
    stand_in("umoci", UMOCI.replace("BUSYBOX", BUSYBOX))
    site.job["SLURM_OCI_DEBUG"] = "1"
    err = site.run(layout, "/bin/sh", "-c", ":").err
    assert "slurm-oci: runtime: unshare (the first in the site's order that takes oci-layout;" in err
    assert "as oci-bundle from the cache)" in err
    assert err.count("slurm-oci: image: ") == 1


def test_what_is_kept_for_others_is_not_to_be_changed(site, layout, stand_in):
    """SLURM_OCI_WRITABLE=yes is refused before anything is unpacked, and when it is there."""
    tool = stand_in("umoci", UMOCI.replace("BUSYBOX", BUSYBOX))
    for _ in range(2):
        site.job["SLURM_OCI_WRITABLE"] = "yes"
        ended = site.run(layout, "/bin/sh", "-c", ":")
        assert (ended.status, ended.code) == (125, "setting-refused")
        assert "is kept for other tasks" in ended.err
        assert not tool.calls or tool.words[0][1] == "unpack"
        del site.job["SLURM_OCI_WRITABLE"]
        assert site.run(layout, "/bin/sh", "-c", ":").status == 0


def test_explain_shows_what_is_done_first_and_does_nothing(site, layout, stand_in):
    """The importer's commands; all that depends on the unpacked image is empty."""
    tool = stand_in("umoci", UMOCI.replace("BUSYBOX", BUSYBOX))
    command = [site.prefix / "bin" / "slurm-oci-plugins", "explain", "--json", layout, "--", "/bin/sh"]
    env = {"PATH": f"{site.place}/bin:/usr/bin:/bin"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    shown = json.loads(done.stdout)
    assert shown["image"]["kind"] == "oci-layout"
    assert (shown["runtime"], shown["argv"]) == ("unshare", [])
    assert (shown["import"]["importer"], shown["import"]["makes"]) == ("umoci", "oci-bundle")
    assert [argv[2] for argv in shown["import"]["commands"]] == ["unpack", "runtime-config"]
    assert tool.calls == []
    done = subprocess.run([*command[:2], layout], env=env, capture_output=True, text=True, check=True)
    assert "first, once for all tasks  (oci-bundle, kept below " in done.stdout
    assert list((site.place / "images").iterdir()) == []


def test_prefetch_unpacks_before_jobs_need_it(site, layout, stand_in):
    """Into the user's own cache; it prints where."""
    tool = stand_in("umoci", UMOCI.replace("BUSYBOX", BUSYBOX))
    command = [site.prefix / "bin" / "slurm-oci-plugins", "prefetch"]
    env = {"PATH": f"{site.place}/bin:/usr/bin:/bin"}
    for _ in range(2):
        done = subprocess.run([*command, layout], env=env, capture_output=True, text=True, check=True)
        path = f"{site.place}/images/{OWN_UID}/entries/sha256-aa.oci-bundle"
        assert (done.stdout, done.stderr) == (f"{path}\n", "")
    assert len(tool.calls) == 2
    done = subprocess.run([*command, "--store", layout], env=env, capture_output=True, text=True)
    assert (done.returncode, "names no store" in done.stderr) == (1, True)
    with (site.prefix / "site.toml").open("a") as file:
        file.write(f'store = "{site.place}/store"\n')
    for _ in range(2):
        done = subprocess.run([*command, "--store", layout], env=env, capture_output=True, text=True)
        path = f"{site.place}/store/entries/sha256-aa.oci-bundle"
        assert (done.stdout, done.stderr) == (f"{path}\n", "")
    assert len(tool.calls) == 4
    assert Path(path, "image", "rootfs").stat().st_mode & 0o777 == 0o755


def test_nothing_in_the_store_gives_anybody_its_owner_s_rights(site, layout, stand_in):
    """Everybody can start what is in it, outside of any container."""
    odd = "chmod 6755 result/rootfs/bin/sh; chmod 2777 result/rootfs/tmp ;;\nruntime-config)"
    stand_in("umoci", UMOCI.replace("BUSYBOX", BUSYBOX).replace(";;\nruntime-config)", f"; {odd}", 1))
    with (site.prefix / "site.toml").open("a") as file:
        file.write(f'store = "{site.place}/store"\n')
    command = [site.prefix / "bin" / "slurm-oci-plugins", "prefetch", "--store", layout]
    env = {"PATH": f"{site.place}/bin:/usr/bin:/bin"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    root = Path(done.stdout.strip(), "image", "rootfs")
    assert [(root / name).stat().st_mode & 0o7777 for name in ("bin/sh", "tmp")] == [0o755, 0o755]


def test_the_files_of_an_image_are_seen_however_deep(tmp_path):
    """Python itself does not go a thousand directories deep."""
    place = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(1200):
            os.mkdir("a")
            os.chdir("a")
        assert len([*images.walk(str(tmp_path))]) == 1201
    finally:
        os.chdir(place)
        state.remove(str(tmp_path / "a"))


def test_without_an_importer_each_runtime_says_what_it_needs(site, layout):
    """One line a runtime; no trial and error."""
    ended = site.run(layout, "/bin/sh")
    assert (ended.status, ended.code) == (127, "runtime-none")
    assert "  unshare: needs `umoci`" in ended.err.splitlines()
    site.job["SLURM_OCI_RUNTIME"] = "unshare"
    ended = site.run(layout, "/bin/sh")
    assert (ended.status, ended.code) == (127, "runtime-missing")
    assert "it needs `umoci`" in ended.err


def test_a_directory_that_is_not_the_user_s_is_refused_by_name(site, layout, stand_in):
    """Nothing is unpacked into it, and nothing started from it."""
    tool = stand_in("umoci", UMOCI.replace("BUSYBOX", BUSYBOX))
    folder = site.place / "images" / str(site.uid)
    folder.mkdir()
    folder.chmod(0o777)
    ended = site.run(layout, "/bin/sh")
    assert (ended.status, ended.code) == (125, "cache-unsafe")
    assert str(folder) in ended.err
    assert tool.calls == []


@pytest.mark.skipif(OWN_UID != 0, reason="needs somebody else's directory")
def test_what_one_runtime_refuses_the_next_one_runs(site, rootfs, stand_in):
    """podman cannot start from somebody else's directory; nobody has asked for podman."""
    stand_in("podman")
    with (site.prefix / "site.toml").open("r+") as file:
        text = file.read()
        file.seek(0)
        file.write('order = ["podman", "unshare"]\n' + text)
    image = rootfs(uid=site.uid + 1)
    site.job["SLURM_OCI_DEBUG"] = "1"
    ended = site.run(image, "/bin/sh", "-c", "echo ran")
    assert (ended.status, ended.out) == (0, "ran\n"), ended.err
    assert "slurm-oci: runtime: not podman (" in ended.err
    site.job["SLURM_OCI_RUNTIME"] = "podman"
    ended = site.run(image, "/bin/sh", "-c", "echo ran")
    assert (ended.status, "[image-refused]" in ended.err) == (125, True)


def test_podman_leaves_to_umoci_what_it_would_do_in_every_task(site, layout, stand_in):
    """It starts from what was unpacked once; by itself where there is no umoci."""
    podman, umoci = stand_in("podman"), stand_in("umoci", UMOCI.replace("BUSYBOX", BUSYBOX))
    site.job["SLURM_OCI_RUNTIME"] = "podman"

    def image():
        done = len(podman.calls)
        ended = site.run(layout, "/bin/sh")
        assert ended.status == 0, ended.err
        words = next(list(words) for words in podman.words[done:] if "run" in words)
        return words[-3:-1] if "--rootfs" in words else words[-2:-1]

    entry = f"{site.place}/images/{site.uid}/entries/sha256-aa.oci-bundle"
    assert image() == ["--rootfs", f"{entry}/image/rootfs:O"]
    assert len(umoci.calls) == 2
    umoci.path.unlink()
    assert image() == ["--rootfs", f"{entry}/image/rootfs:O"]  # it is there
    shutil.rmtree(f"{site.place}/images/{site.uid}")
    assert image() == [f"oci:{layout}"]
