"""`slurm-oci-plugins doctor`: what it finds, on this machine and on nodes that are set up wrong."""

import contextlib
import io
import json
import os
import platform
import pwd
import random
import shutil
import socket
import subprocess
from pathlib import Path

import attrs
import click
import pytest
from conftest import NAMESPACES, ROOT
from test_cli import ask

from slurm_oci import across, ociconf
from slurm_oci import doctor as doctors
from slurm_oci.checks import Finding, file_system, installation, last_line, tiny, tried, user
from slurm_oci.checks import slurm as slurm_checks
from slurm_oci.commands.doctor import show_nodes
from slurm_oci.conf import read
from slurm_oci.doctor import Report

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what a user may not write")
MACHINE = platform.machine()


def found_by(findings) -> dict[str, str]:
    return {finding.check: finding.state for finding in findings}


# The image and its program


@pytest.mark.parametrize("machine", tiny.CODES)
def test_the_tiny_program_says_so_and_ends_or_waits(machine, tmp_path):
    """With one word it waits to be killed; without, or with a shell's, it ends with 0."""
    emulator = (
        []
        if machine == MACHINE
        else [shutil.which(f"qemu-{machine}") or shutil.which(f"qemu-{machine}-static")]
    )
    if emulator == [None]:
        pytest.skip(f"no qemu for {machine}")
    path = tmp_path / "true"
    path.write_bytes(tiny.program(machine))
    path.chmod(0o755)
    done = subprocess.run([*emulator, path], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, tiny.SAYS, b"")
    as_shell = subprocess.run([*emulator, path, "/etc/rc", "/", "/bin/true"], capture_output=True)
    assert (as_shell.returncode, as_shell.stdout) == (0, tiny.SAYS)
    with subprocess.Popen([*emulator, path, "wait"], stdout=subprocess.PIPE) as waiting:
        assert waiting.stdout.readline() == tiny.SAYS
        assert waiting.poll() is None
        waiting.terminate()
    assert waiting.returncode == -15


def test_a_machine_without_a_program_has_no_image(tmp_path):
    """And so its runtimes are not tried, which is said."""
    assert tiny.make(str(tmp_path), "vax") == {}


# Trials


def test_a_trial_gives_status_and_output():
    """Of a process of its own: what it does to itself stays there."""

    def work() -> int:
        os.chdir("/")
        os.write(1, b"some text\n")
        os.write(2, b"more\n")
        return 3

    before = os.getcwd()
    assert tried(work) == (3, "some text\nmore\n")
    assert os.getcwd() == before


def test_a_trial_that_hangs_is_ended_with_all_that_it_started():
    """Also one that takes no SIGTERM."""

    def hang() -> int:
        script = "trap '' TERM; sleep 1000 & echo $! $$; while :; do wait; done"
        os.execv("/bin/sh", ["sh", "-c", script])

    status, said = tried(hang, 0.3)
    assert status == 124
    assert len(said.split()) == 2
    assert [pid for pid in said.split() if runs(pid)] == []


def runs(pid: str) -> bool:
    """A zombie does not, which waits only for whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_trial_that_fails_says_how():
    """An error of the system's by its text; a mistake of ours by its name."""
    assert tried(lambda: os.open("/no/such/file", 0)) == (1, "/no/such/file: No such file or directory\n")
    status, said = tried(lambda: 1 // 0)
    assert (status, said.partition(":")[0]) == (125, "ZeroDivisionError")


def test_our_own_error_line_counts_more_than_a_later_one():
    """It says what the runtime's last words mean."""
    assert last_line("x\nslurm-oci: error: no [code]\n  hint\n") == "no [code]"
    assert last_line("first\n\nlast\n\n") == "last"
    assert last_line("") == "it printed nothing"
    assert last_line("\x1b[31mred\x1b[0m\n") == "red"


def test_the_end_of_a_colour_is_no_line():
    """apptainer writes it behind the line break."""
    assert last_line("\x1b[91mERROR  : no\n\x1b[0m") == "ERROR  : no"


# The command


def doctor(slurm, *words, **options):
    ended = ask(slurm, "doctor", *words, **options)
    assert ended.err == ""
    return ended


def test_json_holds_every_finding_and_the_worst_state_is_the_exit_status(slurm):
    """1 for a failure, here at least the missing oci.conf; each that is not ok has its cure."""
    slurm.environ["SLURM_CONF"] = str(slurm.place / "slurm.conf")
    ended = doctor(slurm, "--json")
    told = json.loads(ended.out)
    assert (ended.status, told["state"], told["user"]) == (1, "failed", "alice" if slurm.uid else "root")
    assert {"group", "check", "state", "message", "cure", "same"} == set(told["findings"][0])
    by_check = {finding["check"]: finding for finding in told["findings"]}
    assert by_check["oci-conf"]["state"] == "failed"
    assert by_check["oci-conf"]["cure"].startswith(f"`ln -s {slurm.prefix}/oci.conf {slurm.place}/oci.conf`")
    assert [f for f in told["findings"] if (f["state"] == "ok") != (f["cure"] == "")] == []


@pytest.mark.skipif(not NAMESPACES, reason="the kernel refuses user namespaces")
@pytest.mark.skipif(MACHINE not in tiny.CODES, reason="no tiny program for this machine")
def test_the_built_in_runtime_really_runs_the_tiny_program(slurm):
    """In the installation that a task would use."""
    ended = doctor(slurm)
    assert "  ok       unshare: runs a program in an image of kind rootfs\n" in ended.out
    assert "  ok       user-namespaces: " in ended.out


def test_people_get_no_line_over_80_columns_but_of_one_word(slurm):
    """A path or a command is never broken."""
    ended = doctor(slurm)
    long = [line for line in ended.out.splitlines() if len(line) > 79 and " " in line.strip()]
    assert long == []
    assert ended.out.splitlines()[0] == "the kernel"


@pytest.mark.skipif(not NAMESPACES, reason="the kernel refuses user namespaces")
def test_a_kernel_that_allows_no_user_namespaces_is_found_and_the_setting_named(slurm):
    """The limit holds below the namespace that it is set in, which is the test's own."""
    installed = slurm.prefix / "bin" / "slurm-oci-plugins"
    script = f"echo 0 >/proc/sys/user/max_user_namespaces && exec {installed} doctor --json"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script], capture_output=True, text=True
    )
    assert done.stderr == ""
    by_check = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert by_check["user-namespaces"]["state"] == "failed"
    assert "No space left on device" in by_check["user-namespaces"]["message"]
    assert by_check["user-namespaces"]["cure"] == "`sysctl -w user.max_user_namespaces=65536`"
    assert by_check["unshare"]["state"] == "failed"
    assert "overlay" not in by_check


@pytest.mark.parametrize(
    "words",
    [["--across"], ["srun"], ["--user", "no-such-user-here"]],
    ids=["no command", "no --across", "unknown"],
)
def test_what_cannot_be_asked_is_said(slurm, words):
    """Before anything is tried."""
    ended = ask(slurm, "doctor", *words)
    assert ended.status in (1, 2)
    assert ended.out == ""
    assert ended.err


# The installation


def own(prefix):
    """Makes the copy that of whoever owns the files in it."""
    os.chown(prefix, (prefix / "lib" / "slurm_oci" / "__init__.py").stat().st_uid, -1)


def test_what_is_wrong_with_an_installation(prefix):
    """Stale catalog, plugin that cannot be used, file that others can write, no state base."""
    own(prefix)
    (prefix / "site.toml").write_text('state = "/no/such/base"\n[images]\ncache = "/no/such/cache"\n')
    (prefix / "plugins.d" / "bad.py").write_text("import nothing_that_there_is\n")
    (prefix / "plugins.d" / "bad.py").chmod(0o664)
    assert installation.entry_point(str(prefix)).state == "ok"
    findings = list(installation.checks(str(prefix)))
    assert found_by(findings) == {
        "modes": "failed",
        "catalog": "warning",
        "plugin": "warning",
        "state": "warning",
        "images": "warning",
    }
    by_check = {finding.check: finding for finding in findings}
    assert by_check["modes"].message.startswith(f"{prefix}/plugins.d/bad.py has mode 0664: others")
    assert "`site.toml` has changed since" in by_check["catalog"].message
    assert "nothing_that_there_is" in by_check["plugin"].message
    assert "d /no/such/base 1777 root root -" in by_check["state"].cure


def test_what_site_toml_calls_a_runtime_and_is_none(prefix):
    """Wherever it does; with what was meant. It fails where a task would."""
    own(prefix)
    path = prefix / "site.toml"
    text = 'order = ["cruun", "runc"]\n' + path.read_text()
    path.write_text(text + '[[rules]]\nruntime = "unshar"\n[arguments]\nfoo = []\n')
    findings = [finding for finding in installation.checks(str(prefix)) if finding.check == "site"]
    assert [finding.message for finding in findings] == [
        f"{path}:1: `order` names no runtime: `cruun`",
        f"{path}:5: `arguments` names no runtime: `foo`",
        f"{path}:4: `rules[1].runtime` names no runtime: `unshar`",
    ]
    assert [finding.state for finding in findings] == ["warning", "warning", "failed"]
    assert [finding.cure for finding in findings][::2] == ["did you mean `crun`?", "did you mean `unshare`?"]


def test_a_site_toml_that_is_wrong_and_an_entry_point_without_its_python(prefix):
    """Either alone makes every task fail."""
    own(prefix)
    (prefix / "site.toml").write_text("pul = true\n")
    run = prefix / "run"
    run.write_text("#!/no/such/python3\n" + run.read_text().partition("\n")[2])
    findings = found_by((installation.entry_point(str(prefix)), *installation.checks(str(prefix))))
    assert findings == {"entry-point": "failed", "site": "failed"}


def test_where_there_is_no_installation_that_is_said_and_how_to_have_one(tmp_path, monkeypatch):
    """Rather than what is wrong with the files that `install` copies from, and cures that name these."""
    source = str(ROOT / "opt-slurm-oci")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    entry_point = installation.entry_point(source)
    assert entry_point.message == "there is no installation at /opt/slurm-oci, and no other was named"
    assert entry_point.cure.startswith("make it: `slurm-oci-plugins install`; or ")
    assert "catalog" not in found_by(installation.checks(source))
    without = next(slurm_checks.configuration(source))
    assert without.cure == f"`ln -s /opt/slurm-oci/oci.conf {tmp_path}/oci.conf`, on every node"
    (tmp_path / "oci.conf").write_text(ociconf.multi("/opt/slurm-oci"))
    assert set(found_by(slurm_checks.configuration(source)).values()) == {"ok"}


def test_a_python_that_users_cannot_reach_is_found_also_by_root(prefix, place):
    """Who himself may enter everything."""
    own(prefix)
    (place / "shut").mkdir(mode=0o700)
    python = place / "shut" / "python3"
    run = prefix / "run"
    first, _, rest = run.read_text().partition("\n")
    python.symlink_to(first.removeprefix("#!").partition(" ")[0])
    run.write_text(f"#!{python} -ISB\n{rest}")
    findings = {finding.check: finding for finding in installation.checks(str(prefix))}
    assert findings["reach"].message == f"users cannot enter `{place}/shut`, where `{python}` is"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try as somebody else")
def test_the_entry_point_is_tried_as_the_user_and_what_he_cannot_reach_is_said(prefix, place, monkeypatch):
    """Also where this command itself is what he cannot reach, and so can import nothing more."""
    own(prefix)
    (place / "shut").mkdir(mode=0o700)
    run = prefix / "run"
    run.write_text(f"#!{place}/shut/python3\n")
    (place / "shut" / "python3").symlink_to("/bin/true")
    monkeypatch.setattr(doctors, "OURS", (str(place / "shut" / "os.py"),))
    entry_point, who = doctors.as_user(str(prefix), "nobody")
    assert entry_point.message == f"cannot start {run}: Permission denied"
    assert (entry_point.state, who.state) == ("failed", "failed")
    assert f"nobody, who cannot enter `{place}/shut`" in who.message


def test_a_state_base_that_is_not_sticky_is_a_failure(tmp_path):
    """Another user could take somebody's place in it."""
    (tmp_path / "state").mkdir(mode=0o777)
    assert installation.place("state", str(tmp_path / "state"), "").state == "failed"
    (tmp_path / "file").write_text("")
    assert installation.place("state", str(tmp_path / "file"), "").state == "failed"


@pytest.mark.parametrize(
    ("made", "wrong", "cure"),
    [
        ("", "No such file or directory", "install -D -m 622 /dev/null "),
        ("mkdir", "Is a directory", "`syslog`"),
        ("ln -s /dev/null", "symbolic links", "names the file itself, no link: /dev/null"),
        ("mkfifo -m 622", "nobody reads the FIFO", "start its reader"),
        pytest.param("install -m 644 /dev/null", "Permission denied", "chmod a+w ", marks=only_root),
        pytest.param("install -D -m 622 /dev/null", "Permission denied", "chmod a+x ", marks=only_root),
    ],
)
def test_a_log_that_tasks_cannot_write_is_told(slurm, made, wrong, cure):
    """They go on without a word. Nothing is made: whose it were, it would be his alone."""
    path = slurm.place / "shut" / "log" if "-D" in made else slurm.place / "log"
    (slurm.prefix / "site.toml").write_text(f'log = "{path}"\n')
    if made:
        subprocess.run([*made.split(), path], check=True)
    if "-D" in made:
        path.parent.chmod(0o700)
    found = tried_log(slurm)
    assert (found["state"], found["group"]) == ("warning", "installation")
    assert wrong in found["message"]
    assert str(path) in found["message"]
    assert cure in found["cure"]
    assert path.exists() == bool(made)


def tried_log(slurm) -> dict | None:
    findings = json.loads(doctor(slurm, "--json").out)["findings"]
    return next((finding for finding in findings if finding["check"] == "log"), None)


def test_a_log_that_tasks_can_write_is_fine(slurm):
    """And has no line of the doctor's. Where none is wanted, no word is lost about it."""
    path = slurm.place / "log"
    path.touch()
    path.chmod(0o622)
    site = slurm.prefix / "site.toml"
    site.write_text(f'log = "{path}"\n')
    assert tried_log(slurm)["message"] == f"{path} can be written"
    assert path.read_text() == ""
    site.write_text("")
    assert tried_log(slurm) is None


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_syslog_without_a_daemon_is_told(slurm, tmp_path, kind):
    """The C library's own silence would lose every line."""
    (slurm.prefix / "site.toml").write_text('log = "syslog"\n')
    assert "/dev/log" in tried_log(slurm)["message"]
    path = str(tmp_path / "log")
    assert (installation.syslog(path).state, "No such file" in installation.syslog(path).message) == (
        "warning",
        True,
    )
    with socket.socket(socket.AF_UNIX, kind) as daemon:
        daemon.bind(path)
        if kind == socket.SOCK_STREAM:
            daemon.listen()
        assert installation.syslog(path).state == "ok"
    assert "Connection refused" in installation.syslog(path).message


# Slurm


@pytest.mark.parametrize(
    ("mode", "state"), [(0o755, "ok"), (0o700, "failed"), (0o777, "failed"), (0o1777, "ok")]
)
def test_the_spool_must_let_users_in_and_nothing_of_theirs(tmp_path, mode, state):
    """slurmd makes the steps' directories there as root."""
    spool = tmp_path / "spool"
    spool.mkdir()
    spool.chmod(mode)
    owner = pwd.getpwuid(os.geteuid()).pw_name
    (tmp_path / "slurm.conf").write_text(f"SlurmdSpoolDir={tmp_path}/spool\nSlurmdUser={owner}\n")
    assert slurm_checks.spool(read(str(tmp_path / "slurm.conf"))).state == state


def test_a_group_shared_with_others_can_read_what_slurm_writes(tmp_path):
    """A warning, unless no environment is written; a group of the user's own is fine."""
    entry = Entry(pw_name="root", pw_uid=0, pw_gid=65534)
    (tmp_path / "oci.conf").write_text("IgnoreFileConfigJson=true\nCreateEnvFile=null\nRunTimeRun=x\n")
    with_file = read(str(tmp_path / "oci.conf"))
    assert user.primary_group(entry, with_file).state == "warning"
    (tmp_path / "oci.conf").write_text("IgnoreFileConfigJson=true\nRunTimeRun=x\n")
    assert user.primary_group(entry, read(str(tmp_path / "oci.conf"))).state == "ok"
    (tmp_path / "oci.conf").write_text("RunTimeRun=x\n")  # Slurm writes a config.json with it
    assert user.primary_group(entry, read(str(tmp_path / "oci.conf"))).state == "warning"
    assert user.primary_group(Entry(pw_name="root", pw_uid=0, pw_gid=0), with_file).state == "ok"


class Entry:
    """As much of a passwd entry as a check looks at."""

    def __init__(self, **fields) -> None:
        self.__dict__.update(fields)


def test_subordinate_ids_are_found_by_name_and_by_number(tmp_path):
    """The first range counts (subuid(5))."""
    file = tmp_path / "subuid"
    file.write_text("bob:1:2\nalice:100000:65536\n1002:300000:1000\nalice:5:6\nbroken\n")
    entry = Entry(pw_name="alice", pw_uid=1001)
    assert user.subordinate(str(file), entry) == (100000, 65536)
    assert user.subordinate(str(file), Entry(pw_name="carol", pw_uid=1002)) == (300000, 1000)
    assert user.subordinate(str(file), Entry(pw_name="dave", pw_uid=1003)) == (0, 0)
    assert user.subordinate("/no/such/file", entry) == (0, 0)


# Many nodes


def report(node: str, state: str = "ok", **same: str) -> Report:
    findings = [
        Finding("slurm", check.replace("_", "-"), state, "x" * 700, "", value)
        for check, value in same.items()
    ]
    return Report(node, "alice", tuple(findings))


def test_reports_arrive_whole_however_their_lines_are_mixed():
    """With what a program puts before each line, and lines of others between."""
    reports = (report("node1", oci_conf="a"), report("node2", oci_conf="a"), report("node3", oci_conf="b"))
    said = [f"{r.node}: {line}" for r in reports for line in across.lines(r)]
    assert max(map(len, said)) < 500
    random.Random(1).shuffle(said)
    found = across.compare("\n".join(["Warning: something else", *said]))
    assert found.reports == reports
    assert found.differences == {"oci-conf": {"a": ["node1", "node2"], "b": ["node3"]}}
    assert [across.deviating(found, r.node) for r in reports] == [[], [], ["oci-conf"]]
    assert not found.is_fine


def test_an_answer_that_lacks_a_line_counts_as_none():
    """And is no reason to be content."""
    lines = list(across.lines(report("node1", oci_conf="a")))
    found = across.compare("\n".join(lines[1:]))
    assert (found.reports, found.incomplete, found.is_fine) == ((), ("node1",), False)


def test_what_one_node_lacks_differs_too():
    """A runtime, for one."""
    found = across.compare("\n".join([*across.lines(report("a", crun="1.2")), *across.lines(report("b"))]))
    assert found.differences == {"crun": {"1.2": ["a"], across.NOTHING: ["b"]}}


def test_what_is_wrong_is_told_once_with_its_nodes_and_its_cure():
    """As on a node alone, in the order of the nodes."""
    failed = Finding("runtimes", "runc", "failed", "it fails: no good", "mend it")
    other = Finding("runtimes", "crun", "failed", "it fails", "mend this one")
    warning = Finding("user", "subuid", "warning", "alice has no entry", "usermod")
    reports = (
        Report("a", "alice", (warning, failed)),  # only the worst is named in a node's line, and told
        Report("b", "alice", (attrs.evolve(failed, same="1.1"), other)),
        Report("c", "alice", (warning,)),
        Report("d", "alice", (attrs.evolve(warning, state="ok"),)),
    )
    found = across.Nodes(reports, {}, ())
    assert across.wrong(found) == {("a", "b"): [failed], ("b",): [other], ("c",): [warning]}
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert show_nodes(found, False) == 1
    assert click.unstyle(out.getvalue()).splitlines() == [
        "a  FAILED   runc",
        "b  FAILED   runc, crun",
        "c  warning  subuid",
        "d  ok",
        "on a, b",
        "  FAILED   runc: it fails: no good",
        "               mend it",
        "on b",
        "  FAILED   crun: it fails",
        "               mend this one",
        "on c",
        "  warning  subuid: alice has no entry",
        "               usermod",
    ]


TWO = """
SLURMD_NODENAME=one SLURM_CONF={place}/1/slurm.conf "$@"
SLURMD_NODENAME=two SLURM_CONF={place}/2/slurm.conf "$@"
"""


def test_nodes_that_are_not_alike_are_marked_a_line_each(slurm):
    """Two calls stand for two nodes, whose oci.conf differ."""
    for name, text in (("1", ""), ("2", "# another\n")):
        (slurm.place / name).mkdir()
        shutil.copy(slurm.prefix / "oci.conf", slurm.place / name)
        with (slurm.place / name / "oci.conf").open("a") as file:
            file.write(text)
    slurm.set_up()
    ended = ask(slurm, "doctor", "--across", "sh", "-c", TWO.format(place=slurm.place), "sh")
    assert (ended.status, ended.err) == (1, "")
    one, two, *told = ended.out.splitlines()
    title, *values = told[-3:]
    assert one.split()[0] == "one"
    assert two.split()[0] == "two"
    assert "differs in" not in one
    assert two.endswith("differs in oci-conf")
    assert title == "oci-conf is not the same on all nodes"
    assert [value.rpartition(": ")[2] for value in values] == ["one", "two"]


def test_when_no_node_answers_that_is_an_error(slurm):
    """With what was to be started there."""
    ended = ask(slurm, "doctor", "--across", "false")
    assert (ended.status, ended.code) == (1, "nobody-answered")
    assert f"{slurm.prefix}/bin/slurm-oci-plugins" in ended.err


def test_a_file_system_is_known_by_its_kind():
    """/proc/self/mountinfo says what is where."""
    mounts = Path("/proc/self/mountinfo").read_text()
    shm = subprocess.run(
        ["stat", "-f", "-c", "%T", "/dev/shm"], capture_output=True, text=True
    ).stdout.strip()
    if shm != "tmpfs" or " /dev/shm " not in mounts:
        pytest.skip("/dev/shm is no tmpfs of its own here")
    assert file_system("/dev/shm/not/there/yet") == "tmpfs"


def test_mount_points_are_read_with_blanks_and_letters_of_any_language(tmp_path, monkeypatch):
    """The kernel writes the blanks as numbers, and the letters as they are (proc(5))."""
    (tmp_path / "Büro 1").mkdir()
    (tmp_path / "Büro\u00a02").mkdir()
    table = tmp_path / "mountinfo"
    table.write_text(
        f"1 0 0:1 / / rw - ext4 /dev/root rw\n2 1 0:2 / {tmp_path}/Büro\\0401 rw - nfs4 server:/ rw\n"
        f"3 1 0:3 / {tmp_path}/Büro\u00a02 rw - lustre server:/ rw\n4 1 0:4 / /tmp/a\rb rw - fuse x rw\n"
    )
    monkeypatch.setattr("slurm_oci.checks.MOUNTINFO", str(table))
    assert file_system(f"{tmp_path}/Büro 1/images") == "nfs4"
    assert file_system(f"{tmp_path}/Büro\u00a02/images") == "lustre"
