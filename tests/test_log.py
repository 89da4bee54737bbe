"""The optional log: `log` in site.toml."""

import json
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import attrs
import pytest
from conftest import OWN_UID, ROOT, request

from slurm_oci.gc import Left
from slurm_oci.log import Record

SECRET = "--password=secret"


@pytest.fixture
def log(slurm):
    """A log file that every user may write to, as a site sets it up."""
    path = slurm.place / "log"
    path.touch()
    path.chmod(0o622)
    site = slurm.prefix / "site.toml"
    site.write_text(site.read_text() + f'log = "{path}"\n')
    return path


def lines(path: Path) -> list[dict]:
    """The lines of the log without what differs each time, which only has to be there."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for line in found:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line.pop("time"))
        assert isinstance(line.pop("start_ms"), int if line["mode"] else type(None))
    return found


def expected(image: Path, **fields) -> dict:
    return {
        "node": "node1", "job": 42, "step": "0", "task": 0, "user": "alice", "image": str(image),
        "kind": None, "runtime": None, "why": None, "mode": None, "status": None, "error": None, **fields,
    }  # fmt: skip


def test_a_task_is_a_line(slurm, log, rootfs, stand_in):
    """Written before the dispatcher becomes the runtime, whose end it does not see. No word of the
    command is in it."""
    stand_in("apptainer", "exit 3")
    image = rootfs()
    assert slurm.run(image, "true", SECRET).status == 3
    why = "the first in the site's order that takes rootfs"
    assert lines(log) == [expected(image, kind="rootfs", runtime="apptainer", why=why, mode="exec")]
    assert "secret" not in log.read_text()


def test_a_supervised_task_s_line_has_its_status(slurm, log, rootfs, stand_in):
    """Written when it has ended."""
    stand_in("crun", "case $* in *delete*) ;; *) exit 7;; esac")
    bundle = slurm.place / "bundle"
    bundle.mkdir()
    config = {"ociVersion": "1.0.2", "root": {"path": str(rootfs())}, "process": {"args": ["sh"], "cwd": "/"}}
    (bundle / "config.json").write_text(json.dumps(config))
    slurm.job["SLURM_OCI_RUNTIME"] = "crun"
    ended = slurm.run(bundle, "true")
    assert ended.status == 7, ended.err
    why = "asked for by SLURM_OCI_RUNTIME"
    assert lines(log) == [
        expected(bundle, kind="oci-bundle", runtime="crun", why=why, mode="supervise", status=7)
    ]


def test_the_user_s_hook_is_a_line(slurm, log, rootfs):
    """The image is the hook's business: its kind is not looked at."""
    slurm.hook("#!/bin/sh\nexit 4\n")
    image = rootfs()
    assert slurm.run(image, "true").status == 4
    assert lines(log) == [
        expected(image, runtime="user hook", why="there and safe: it takes over", mode="exec")
    ]


def test_a_task_that_cannot_be_started_is_a_line(slurm, log):
    """With the stable code of the error and its exit status."""
    image = slurm.place / "nothing"
    assert slurm.run(image, "true").status == 125
    assert lines(log) == [expected(image, status=125, error="image-missing")]


@pytest.mark.parametrize("kind", ["missing folder", "missing", "folder", "fifo", "closed", "link"])
def test_a_log_that_cannot_be_written_harms_no_task(slurm, log, rootfs, stand_in, kind):
    """Nothing is said, nothing waits; and nothing is made, nor written where a link leads: others may have
    laid it, to a file of the user's."""
    log.unlink()
    others = slurm.place / "others"
    others.touch()
    others.chmod(0o666)
    if kind == "missing folder":
        text = (slurm.prefix / "site.toml").read_text().replace(str(log), "/no/such/folder/log")
        (slurm.prefix / "site.toml").write_text(text)
    elif kind == "folder":
        log.mkdir()
    elif kind == "link":
        log.symlink_to(others)
    elif kind == "fifo":
        subprocess.run(["mkfifo", "-m", "666", log], check=True)
    elif kind == "closed":
        log.touch(0o000)
    slurm.place.chmod(0o1777)
    stand_in("apptainer", "echo ran")
    ended = slurm.run(rootfs(), "true")
    assert (ended.status, ended.out, ended.err) == (0, "ran\n", "")
    assert others.read_text() == ""
    assert log.exists() == (kind not in ("missing folder", "missing"))


def test_a_line_that_is_cut_short_is_taken_back(tmp_path):
    """By a limit here, as by a full disk: the next task's line begins a line."""
    path = tmp_path / "log"
    code = f"""if True:
        import os, resource, signal
        from slurm_oci import log
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        open({str(path)!r}, "w").close()
        for limit in (20, 25, 60):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            descriptor = log.opened({str(path)!r})
            try:
                log.put(descriptor, b"a line of 20 signs.\\n")
            except OSError as error:
                print(error.strerror)
            os.close(descriptor)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert path.read_text() == "a line of 20 signs.\n" * 2


def test_a_refused_image_s_line_has_its_kind(slurm, log, rootfs):
    """As far as the decision has come."""
    slurm.job["SLURM_OCI_RUNTIME"] = "aptainer"
    image = rootfs()
    assert slurm.run(image, "true").status == 127
    assert lines(log) == [expected(image, kind="rootfs", status=127, error="runtime-unknown")]


def test_a_task_that_is_cancelled_while_it_unpacks_is_a_line(slurm, log, stand_in):
    """With 128 and the signal's number."""
    begun = slurm.place / "bin" / "begun"
    stand_in("apptainer", f"touch {begun}; exec sleep 100")
    begun.parent.chmod(0o777)
    with (slurm.prefix / "site.toml").open("a") as file:
        file.write(f'[images]\ncache = "{slurm.place}/bin"\n')
    image = slurm.place / "image.tar"
    with tarfile.open(image, "w") as file:
        for name in ("oci-layout", "index.json"):
            file.addfile(tarfile.TarInfo(name))
    process = slurm.start(*slurm.words(image, "true"))
    while not begun.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert lines(log) == [expected(image, kind="oci-archive", status=143)]


def test_names_that_users_wrote_cannot_forge_a_line(slurm, log):
    """A newline in the image's name stays within the one line."""
    image = slurm.place / 'a\n{"job": 1}'
    assert slurm.run(image, "true").status == 125
    assert lines(log) == [expected(image, status=125, error="image-missing")]


def test_nothing_is_imported_where_there_is_no_log(slurm, rootfs, stand_in):
    """The module is loaded for the sites that want it alone."""
    stand_in("apptainer")
    image = rootfs()
    run = slurm.prefix / "run"
    run.write_text(run.read_text().replace("Xutf8", "Ximporttime", 1))
    without = slurm.run(image, "true").err
    site = slurm.prefix / "site.toml"
    site.write_text(site.read_text() + 'log = "/no/such/log"\n')
    with_log = slurm.run(image, "true").err
    assert ("slurm_oci.log" in without, "slurm_oci.log" in with_log) == (False, True)


@pytest.mark.skipif(OWN_UID != 0, reason="only root can put a syslog socket in place of the machine's")
def test_syslog_gets_the_line():
    """Facility user, priority info, with the program's name and process id."""
    code = """
import ctypes, os, socket, sys
sys.path.insert(0, sys.argv[1])
from conftest import request
from slurm_oci.log import Record
from slurm_oci.problems import ImageMissing
libc = ctypes.CDLL(None, use_errno=True)
assert not libc.unshare(0x20000) and not libc.mount(b"", b"/", b"", ctypes.c_ulong(1 << 18 | 16384), None)
assert not libc.mount(b"tmpfs", b"/dev", b"tmpfs", ctypes.c_ulong(0), None)
daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
daemon.bind("/dev/log")
Record("syslog", request("/image", "true", "--password=secret"), []).failed(ImageMissing("gone"))
print(os.getpid())
print(daemon.recv(1 << 16).decode())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, Path(__file__).parent], capture_output=True, text=True, check=True
    )
    pid, message = done.stdout.splitlines()
    head, _, line = message.partition(f" slurm-oci[{pid}]: ")
    assert head.startswith("<14>")  # user, info
    found = json.loads(line.rstrip("\0"))
    assert (found["image"], found["status"], found["error"]) == ("/image", 125, "image-missing")
    assert "secret" not in line


def test_the_docs_name_every_member_of_a_line():
    """In its order."""
    assert members("line") == list(Record("/log", request(), []).fields)


def test_the_docs_name_every_member_of_what_gc_prints():
    """In its order."""
    assert members("gc") == list(attrs.fields_dict(Left))


def members(of: str) -> list[str]:
    text = (ROOT / "docs/cleanup.md").read_text()
    table = text[text.index(f"| member of {'a ' if of == 'line' else ''}{of} |") :].partition("\n\n")[0]
    return [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
