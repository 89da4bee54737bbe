"""Each file-system and process call of a task fails once, and the task ends as it should or with one
clear error.

strace makes the calls fail that the dispatcher makes after `main()` has begun: one run for each call,
with the first of the errors that it can give. SLURM_OCI_FAULTS=full tries each of them, and also the
calls that are like others: in the same directory, or by which Python loads a module of its own.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path

import attrs
import pytest
from conftest import OWN_UID, Ended, Slurm, abandoned, last_resorts, remove_last_resorts

STRACE = shutil.which("strace")
FULL = os.environ.get("SLURM_OCI_FAULTS") == "full"
pytestmark = [
    pytest.mark.skipif(not STRACE, reason="strace is not installed"),
    pytest.mark.skipif(OWN_UID != 0, reason="strace cannot follow into a user namespace"),
]

# What each call gives where a disk, a file server, a table or the memory is full or broken, by the
# manual pages. Not among them: rt_sigtimedwait(2), which fails only when interrupted.
FILE = ("EIO", "EACCES", "ENOMEM", "ESTALE", "ENOENT")
MADE = ("ENOSPC", "EDQUOT", "EROFS", "EIO", "EACCES")
ERRORS = {
    "openat": ("EMFILE", "ENFILE", *FILE, *MADE[:3]),
    **dict.fromkeys(("newfstatat", "readlink", "access", "faccessat2", "statfs", "chdir"), FILE),
    **dict.fromkeys(("fstat", "getcwd", "getdents64", "pread64", "lseek"), FILE[:1]),
    "read": ("EIO", "ESTALE", "EISDIR", "EINTR"),
    "write": ("ENOSPC", "EDQUOT", "EIO", "EINTR"),
    **dict.fromkeys(("mkdir", "symlink", "unlink", "unlinkat", "rmdir", "chmod", "fchmod", "rename"), MADE),
    "pipe2": ("EMFILE", "ENFILE"),
    "close": ("EIO",),
    "flock": ("ENOLCK", "EINTR"),
    "fcntl": ("EMFILE",),
    "ioctl": ("ENOTTY",),
    **dict.fromkeys(("fork", "vfork", "clone", "clone3"), ("EAGAIN", "ENOMEM")),
    "execve": ("ENOMEM", "EACCES", "ENOENT", "E2BIG", "ETXTBSY", "ENOEXEC", "EIO"),
    "wait4": ("EINTR",),
    "kill": ("ESRCH", "EPERM"),
}
MARK = "/main has begun"
PYTHONS_OWN = "/usr/lib/python3"  # hundreds of calls, to load modules
TOOL = """#!/bin/sh
case $1 in --version | --help | help) echo 1.0; exit;; esac
exec 9>>RECORD
/bin/cat /proc/$$/cmdline /proc/$$/environ >&9
for word; do case $word in /*bundle) /bin/cat "$word/config.json" >&9;; esac; done
BODY
"""


@attrs.frozen
class Fault:
    """The call number `number` of this name fails with `error`."""

    name: str
    number: int
    error: str
    line: str  # as strace has shown it when it did not fail

    @property
    def option(self) -> str:
        return f"inject={self.name}:error={self.error}:when={self.number}"


@attrs.frozen
class Case:
    """A task whose runtime writes down how it was called."""

    slurm: Slurm
    image: Path

    @property
    def record(self) -> Path:
        return self.slurm.place / "record"

    @property
    def state(self) -> Path:
        return self.slurm.place / "state"

    @property
    def cache(self) -> Path:
        return self.slurm.place / "cache"

    @property
    def trace(self) -> Path:
        return self.slurm.place / "trace" / "calls"

    def tool(self, name: str, body: str = "exit 7") -> None:
        path = self.slurm.place / "bin" / name
        path.write_text(TOOL.replace("RECORD", str(self.record)).replace("BODY", body))
        path.chmod(0o755)

    def run(self, *options: str) -> tuple[Ended, bytes]:
        """How the task ended under strace, and what its runtime has written down."""
        self.record.unlink(missing_ok=True)
        for path in self.cache.glob("*"):
            shutil.rmtree(path)
        strace = (STRACE, "-qq", "-y", "-e", "signal=none", "-s", "200", "-o", str(self.trace), *options)
        words = self.slurm.words(self.image, "/bin/true")
        process = self.slurm.start(*words, wrap=strace, start_new_session=True)
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        written = self.record.read_bytes() if self.record.exists() else b""
        return Ended(process.returncode, os.fsdecode(out), os.fsdecode(err)), plain(written)

    def calls(self) -> list[str]:
        """What strace saw from the mark on, until the dispatcher became another program."""
        lines = self.trace.read_text(errors="replace").splitlines()
        begun = next(n for n, line in enumerate(lines) if MARK in line) + 1
        became = [n for n, line in enumerate(lines) if line.startswith("execve(") and n > begun]
        return lines[: became[0] + 1 if became else None]

    def faults(self) -> list[Fault]:
        """One for each call that can fail, and with FULL for each error."""
        counted: Counter[str] = Counter()
        alike: Counter[str] = Counter()
        found = []
        begun = False
        for line in self.calls():
            name = line.partition("(")[0]
            counted[name] += 1
            kind = re.sub(r"[^/<\"]*[>\"].*", "", line)  # the call and the directory
            alike[kind] += begun
            # A close(2) that the kernel fails has closed, one that strace fails has not: nobody would
            # ever see the end of that pipe.
            of_pipe = name == "close" and "pipe:" in line
            if begun and not of_pipe and (FULL or (PYTHONS_OWN not in line and alike[kind] <= 2)):
                errors = ERRORS.get(name, ())[: None if FULL else 1]
                if '/environment"' in line:  # which need not be there: then the task has less of the job's
                    errors = [error for error in errors if error != "ENOENT"]
                found += [Fault(name, counted[name] - (name == "execve"), error, line) for error in errors]
            begun = begun or MARK in line
        return found

    def left(self) -> list[str]:
        """What there is that was not there before."""
        roots = last_resorts(self.slurm.uid)
        places = [path for root in self.state.iterdir() for path in root.iterdir()]
        places += [path for root in roots for path in abandoned(root)]
        places += self.cache.glob("*/work/*")
        places += [path for path in self.slurm.spool.rglob("*") if path.name not in ("task-0", "environment")]
        places += [path for path in self.slurm.home.iterdir() if path.name != ".slurm-oci-run"]
        return [str(path) for path in places]

    def gc(self) -> None:
        tool = self.slurm.prefix / "bin" / "slurm-oci-plugins"
        subprocess.run([tool, "--prefix", self.slurm.prefix, "gc", "--node", "node1"], check=True)


def plain(record: bytes) -> bytes:
    """Without what is another in each run: where the private directory is, and its process."""
    return re.sub(rb"(/[^/\0\"]+)+/(node1\.\w+\.42\.0\.0)\.\d+-\d+", rb"\2", record)


@pytest.fixture
def case(slurm, place):
    (place / "bin").mkdir()
    for folder in (place / "trace", place / "state", place):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o1777)
    (slurm.prefix / "site.toml").write_text(f'state = "{place}/state"\n')
    run = slurm.prefix / "run"
    run.write_text(
        run.read_text().replace("sys.exit(run", f"__import__('posix').access({MARK!r}, 0)\nsys.exit(run")
    )
    image = place / "image"
    for folder in ("bin", "dev", "etc", "proc", "sys", "tmp", str(slurm.home)[1:]):
        (image / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/true", image / "bin/true")
    yield Case(slurm, image)
    remove_last_resorts(slurm.uid)


def an_exec_runtime(case: Case) -> Case:
    case.tool("apptainer")
    case.slurm.job["SLURM_OCI_RUNTIME"] = "apptainer"
    log = case.slurm.place / "log"
    log.touch()
    log.chmod(0o622)
    path = case.slurm.prefix / "site.toml"
    path.write_text(path.read_text() + f'log = "{log}"\n')
    return case


def the_user_s_hook(case: Case) -> Case:
    case.tool("hook")
    case.slurm.hook((case.slurm.place / "bin/hook").read_text())
    return case


def a_bundle_s_runtime(case: Case) -> Case:
    case.tool("crun")
    bundle = case.slurm.place / "bundle"
    bundle.mkdir()
    process = {"args": ["sh"], "cwd": "/"}
    config = {"ociVersion": "1.0.2", "root": {"path": str(case.image)}, "process": process}
    (bundle / "config.json").write_text(json.dumps(config))
    case.slurm.job["SLURM_OCI_RUNTIME"] = "crun"
    return attrs.evolve(case, image=bundle)


def a_runtime_that_prepares(case: Case) -> Case:
    case.tool("ch-run")
    case.tool("squashfuse", 'mkdir "$4/bin" && : >"$4/bin/true"')
    case.tool("fusermount3", "exit 0")
    image = case.slurm.place / "image.sqsh"
    image.write_bytes(b"hsqs" + bytes(4096))
    case.slurm.job["SLURM_OCI_RUNTIME"] = "charliecloud"
    case.slurm.job["PATH"] = f"{case.slurm.place}/bin:/usr/bin:/bin"
    return attrs.evolve(case, image=image)


UMOCI = """#!/bin/sh
for word; do last=$word; done
case $* in
*unpack*) mkdir -p "$last/bin"; cp /bin/true "$last/bin/true";;
*runtime-config*) echo '{"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": {"args": ["sh"], "cwd": "/"}}' >"$last";;
*) echo 1.0;;
esac
"""


def an_image_to_unpack(case: Case) -> Case:
    """It is in no cache before."""
    case.tool("crun")
    umoci = case.slurm.place / "bin/umoci"
    umoci.write_text(UMOCI)
    umoci.chmod(0o755)
    layout = case.slurm.place / "layout"
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    manifest = {"digest": "sha256:aa", "mediaType": "m", "size": 1}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (blobs / "aa").write_text(json.dumps({"config": {"digest": "sha256:bb"}}))
    (blobs / "bb").write_text(json.dumps({"config": {}}))
    case.cache.mkdir()
    case.cache.chmod(0o1777)
    path = case.slurm.prefix / "site.toml"
    path.write_text(path.read_text() + f'[images]\ncache = "{case.cache}"\n')
    case.slurm.job["SLURM_OCI_RUNTIME"] = "crun"
    case.slurm.job["PATH"] = f"{case.slurm.place}/bin:/usr/bin:/bin"
    return attrs.evolve(case, image=layout)


CASES = [an_image_to_unpack, an_exec_runtime, the_user_s_hook, a_bundle_s_runtime, a_runtime_that_prepares]


@pytest.mark.parametrize("prepared", CASES)
def test_whatever_call_fails_the_task_ends_right_or_with_one_error(case, prepared):
    """And leaves nothing, or what the next `gc` removes."""
    case = prepared(case)
    case.slurm.compile()
    case.run()
    right = case.run()
    assert right[0].status == 7, right
    assert case.left() == []
    faults = case.faults()
    wrong, counts = [], Counter()
    for fault in faults:
        outcome = judged(case, fault, right)
        counts[outcome.partition(":")[0]] += 1
        if outcome.startswith("WRONG"):
            wrong.append(f"{fault.name}:{fault.number} {fault.error} {fault.line}\n    {outcome}")
    print(f"\n{prepared.__name__}: {counts.total()} faults, {dict(counts)}")  # for docs/faults.md, with -s
    assert wrong == [], "\n".join(wrong)


def without_warnings(ended: Ended) -> tuple[list[str], Ended]:
    lines = ended.err.splitlines()
    warnings = [line for line in lines if line.startswith("slurm-oci: warning: ")]
    rest = "\n".join(line for line in lines if line not in warnings)
    return warnings, attrs.evolve(ended, err=rest)


def judged(case: Case, fault: Fault, right: tuple[Ended, bytes]) -> str:
    ended, record = case.run("-e", fault.option)
    if case.trace.read_text(errors="replace").count("(INJECTED)") != 1:
        return "WRONG: not injected"
    left = case.left()
    if left:
        case.gc()
    remained = " gc" if left else ""
    if case.left():
        for path in case.left():
            shutil.rmtree(path)
        return f"WRONG: left {left}"
    warnings, ended = without_warnings(ended)
    if (ended.status, ended.err) == (7, "") and record:
        if record == right[1]:
            return f"right{remained}"
        if warnings != without_warnings(right[0])[0]:
            return f"another way, with a warning{remained}"
    try:
        code = ended.code
    except (AssertionError, ValueError):
        return f"WRONG: {ended.status} {ended.err[:3000]!r} {record != right[1] and record}"
    if ended.status not in (125, 126, 127):
        return f"WRONG: {ended.status} {code}"
    return f"{ended.status}{remained}: {code}"


@pytest.mark.parametrize("error", ["EACCES", "ENOENT", "ENOMEM"])
@pytest.mark.parametrize("prepared", [a_bundle_s_runtime, a_runtime_that_prepares])
def test_what_the_supervisor_cannot_start_is_one_error(case, prepared, error):
    """The runtime, or what prepares for it: each child's first execve fails."""
    case = prepared(case)
    case.slurm.compile()
    ended, record = case.run("-f", "-e", f"inject=execve:error={error}:when=1")
    _, ended = without_warnings(ended)
    status, code = (127, "runtime-missing") if error == "ENOENT" else (126, "runtime-failed")
    assert (ended.status, ended.code, record) == (status, code, b"")
    assert case.left() == []
