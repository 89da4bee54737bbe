"""`lint` finds what is wrong, where, and says what to do."""

import json
import os
import re

import pytest
from click.testing import CliRunner

from slurm_oci import guide
from slurm_oci.accepted import flags_of
from slurm_oci.cli import cli
from slurm_oci.conf import OciConfInvalid, read
from slurm_oci.lint import CODES, lint
from slurm_oci.ociconf import MODES
from slurm_oci.pattern import Version

OLD, NEW = Version((24, 11, 5)), Version((26, 5, 5))
FILTERS = 'EnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="\nRunTimeEnvExclude="^SLURM_CONF"\n'
SCRIPT = f"{FILTERS}IgnoreFileConfigJson=true\nCreateEnvFile=null\n"
CLEAN = f"{SCRIPT}RunTimeRun=\"exec /opt/x '%b' %@\"\n"
RUN = f"{FILTERS}RunTimeRun=\"exec x '%b'\"\n"  # and what follows
ENDS = 'RunTimeKill="true"\nRunTimeDelete="true"\n'

EXAMPLES = {  # code -> a file that has it and nothing else, and the line
    "syntax": (CLEAN + 'SrunPath="a b\n', 6),
    "unknown-key": (CLEAN + "RunTimeStop=x\n", 6),
    "include": (CLEAN + "Include missing\n", 6),
    "include-end": (CLEAN + "Include missing", 6),
    "boolean": (CLEAN + "DisableCleanup=Y\n", 6),
    "env-file-value": (CLEAN.replace("null", "Null0"), 4),
    "debug-flag": (CLEAN + "DebugFlags=Steps,TimeCray\n", 6),
    "expression": (CLEAN.replace("^SLURM_CONF", "("), 2),
    "incomplete": (RUN, 3),
    "no-run": (SCRIPT, 3),
    "letter": (CLEAN.replace("%b", "%B"), 5),
    "user-text-as-root": (RUN + "RunTimeKill=\"true '%b'\"\nRunTimeDelete=true\n", 4),
    "user-state-as-root": (RUN + 'RunTimeKill="true"\nRunTimeDelete="crun delete x"\n', 5),
    "sudo": (CLEAN.replace("exec ", "exec sudo "), 5),
    "unquoted": (CLEAN.replace("'%b'", "%b '%m' %m"), 5),
    "no-exec": (CLEAN.replace("exec ", "singularity exec "), 5),
    "argument-quotes": (CLEAN, 5),
    "env-file-off": (CLEAN.replace("CreateEnvFile=null\n", ""), 1),
    "env-file-newline": (CLEAN.replace("null", "newline"), 4),
    "no-filter": (CLEAN.replace("^SLURM_CONF", "^SLURM_CONF_SERVER="), 2),
    "no-effect": (CLEAN + 'RunTimeKill="kill %p"\n', 6),
    "stray-quote": (CLEAN + 'SrunPath="a\n', 6),
    "duplicate": ("SrunPath=x\n" + CLEAN + "srunpath=y\n", 1),
    "no-pid": (RUN + 'RunTimeKill="kill %p"\nRunTimeDelete="true"\n', 4),
    "no-task": (RUN + 'RunTimeKill="true %t"\nRunTimeDelete="true"\n', 4),
    "create-hangs": (f"{FILTERS}RunTimeCreate=x\nRunTimeStart=x\nRunTimeQuery=x\n{ENDS}", 3),
    "no-gpu": (RUN.replace("exec x", "exec nvidia-container-runtime run x") + ENDS, 3),
    "user-in-name": (RUN.replace("exec x", "exec crun run %u.%j") + ENDS, 3),
    "run-user": (CLEAN.replace("exec ", "cd /run/user/%U && exec "), 5),
}


@pytest.fixture
def linted(tmp_path):
    """Lints a text as oci.conf; `CODE` of each finding with its line."""

    def run(text, version=NEW, **beside):
        for name, content in beside.items():
            (tmp_path / f"{name}.conf").write_text(content)
        (tmp_path / "oci.conf").write_text(text)
        found = lint(str(tmp_path / "oci.conf"), version)
        return [(finding.file.rpartition("/")[2], finding.line, finding.code) for finding in found]

    return run


def test_a_right_file_has_no_findings(linted):
    """Nothing is found where nothing is wrong."""
    assert linted(CLEAN) == []
    assert linted(RUN + ENDS) == []


@pytest.mark.parametrize("code", EXAMPLES)
def test_each_code_is_found_alone_and_in_its_line(linted, code):
    """A right file with one fault has that finding and no other."""
    text, line = EXAMPLES[code]
    version = OLD if code == "argument-quotes" else NEW
    found = linted(text, version)
    assert found == [("oci.conf", line, code)]


def test_every_code_has_an_example():
    """A code without an example here would be one that nobody has seen."""
    beside = {"spank-plugin", "interactive-step", "signals-twice"}
    assert set(EXAMPLES) | beside == set(CODES)


def test_the_files_beside_it_are_read(linted):
    """slurm.conf, cgroup.conf, and plugstack.conf with what it includes."""
    found = linted(
        CLEAN,
        slurm="NodeName=n1 CPUs=2\nLaunchParameters=enable_nss_slurm\n",
        cgroup="# c\nSignalChildrenProcesses=yes\n",
        plugstack="include plug*.d.conf\n",
        **{"plugs.d": "# pyxis\nrequired /usr/lib/slurm/spank_pyxis.so a=/run\noptional other.so\n"},
    )
    assert found == [
        ("cgroup.conf", 2, "signals-twice"),
        ("plugs.d.conf", 2, "spank-plugin"),
        ("slurm.conf", 2, "interactive-step"),
    ]


def test_plugstack_is_where_slurm_conf_says(linted, tmp_path):
    """PlugStackConfig names another file."""
    slurm = f"PlugStackConfig={tmp_path}/mine.conf\nLaunchParameters=use_interactive_step\n"
    found = linted(CLEAN, slurm=slurm, mine="optional sarus.so\n", plugstack="optional pyxis.so\n")
    assert found == [("mine.conf", 1, "spank-plugin")]


@pytest.mark.parametrize(
    "drop",
    [
        "setpriv --reuid=%U --regid=1 --clear-groups crun delete x",
        "runuser -u x -- crun delete x",
        "sudo -u x crun delete x",
        "/usr/bin/doas -u x crun delete x",
        "chroot --userspec=%U: / crun delete x",
    ],
)
def test_a_runtime_may_read_its_state_once_it_is_the_user(linted, drop):
    """Whatever becomes the user before the runtime is called will do."""
    assert linted(f'{RUN}RunTimeKill="true"\nRunTimeDelete="{drop}"\n') == []


@pytest.mark.parametrize("program", ["sudo", "/usr/bin/sudo", "doas", "/usr/local/bin/doas", "sudo -n"])
def test_root_by_sudo_is_found_however_it_is_called(linted, program):
    """By its path, by its lesser brother; not where it only makes the user of root."""
    assert linted(CLEAN.replace("exec ", f"exec {program} ")) == [("oci.conf", 5, "sudo")]
    assert linted(CLEAN.replace("exec ", f"exec {program} -u x ")) == []


@pytest.mark.parametrize("line", ["crun delete x; setpriv --reuid=1 true", "setpriv --nnp crun delete x"])
def test_becoming_the_user_too_late_or_not_at_all_is_found(linted, line):
    """The order counts, and so does what setpriv is told."""
    found = linted(f'{RUN}RunTimeKill="true"\nRunTimeDelete="{line}"\n')
    assert found == [("oci.conf", 5, "user-state-as-root")]


def test_our_own_entry_point_must_not_run_as_root(linted):
    """It reads what the user wrote, as any runtime does."""
    found = linted(RUN + 'RunTimeKill="true"\nRunTimeDelete="/opt/slurm-oci/run x"\n')
    assert found == [("oci.conf", 5, "user-state-as-root")]


@pytest.mark.parametrize(
    "line",
    [
        "L=;while x;do y;done</z;A=$L exec /opt/x \\# %b %@",
        "cd / && exec x",
        "A=1 B=2 exec x",
        "( exec x )",
    ],
)
def test_exec_is_seen_where_a_shell_sees_it(linted, line):
    """Behind an operator and behind assignments; what stands behind a comment sign is not read."""
    assert linted(f'{SCRIPT}RunTimeRun="{line}"\n', OLD) == []


@pytest.mark.parametrize(
    ("version", "known", "unknown"),
    [
        ("23.02", "TimeCray", "Sack"),
        ("23.11.4", "GLOB_SILENCE", "TLS"),
        ("24.05", "TLS", "TimeCray"),
        ("24.11", "ConMgr", "AuditTLS"),
        ("25.05", "AuditTLS", "FrontEnd"),
        ("25.11", "Namespace", "Threads"),
        ("26.11", "Threads", "FrontEnd"),
    ],
)
def test_debug_flags_come_and_go(version, known, unknown):
    """Each release has its own, as read in its source."""
    flags = flags_of(Version.parse(version))
    assert (known in flags, unknown in flags) == (True, False)


def test_letters_come_with_a_release(linted):
    """%Z is known from 26.05 on."""
    text = CLEAN.replace("'%b'", "'%Z'")
    assert linted(text, Version((25, 11, 0))) == [
        ("oci.conf", 5, "letter"),
        ("oci.conf", 5, "argument-quotes"),
    ]
    assert linted(text, NEW) == []


# The guide's own files, as they are printed.

SAME = "unquoted user-in-name run-user"
AT_END = "user-state-as-root user-in-name run-user no-task"
SUDO_AT_END = "sudo user-state-as-root user-in-name no-task"
GUIDE = {
    ("multi", "run"): """
        1 env-file-off, 1 no-filter, 1 no-filter, 3 unquoted no-exec, 4 no-effect, 5 no-effect""",
    ("runc", "run"): f"4 {AT_END}, 5 {AT_END}, 6 {AT_END}, 7 {SAME} no-exec",
    ("runc", "create-start"): f"""
        4 {AT_END}, 5 {SAME} create-hangs, 6 user-in-name run-user, 7 {AT_END}, 8 {AT_END}""",
    ("crun", "run"): f"4 {AT_END}, 5 {AT_END}, 6 {AT_END}, 7 {SAME} no-exec",
    ("crun", "create-start"): f"""
        4 {AT_END}, 5 {AT_END}, 6 {AT_END}, 7 {SAME} create-hangs, 8 user-in-name run-user""",
    ("nvidia-container-runtime", "run"): f"""
        4 {AT_END}, 5 {AT_END}, 6 {AT_END}, 7 {SAME} no-gpu no-exec""",
    ("nvidia-container-runtime", "create-start"): f"""
        4 {AT_END}, 5 {SAME} create-hangs, 6 user-in-name run-user, 7 {AT_END}, 8 {AT_END}""",
    ("singularity", "run"): "1 env-file-off, 5 unquoted no-exec, 6 no-effect, 7 no-effect",
    ("singularity-4.0-oci", "run"): f"""
        4 {SUDO_AT_END}, 5 sudo unquoted user-in-name no-exec, 6 {SUDO_AT_END}, 7 {SUDO_AT_END}""",
    ("singularity-3.8-oci", "create-start"): """
        1 incomplete, 4 unknown-key, 5 unknown-key, 6 unknown-key, 7 unknown-key,
        8 unknown-key stray-quote""",
    ("charliecloud", "run"): """
        3 env-file-newline, 6 unquoted no-exec, 7 no-effect, 8 no-effect""",
    ("enroot", "run"): "3 env-file-newline, 6 unquoted no-exec, 7 no-effect, 8 no-effect",
}


@pytest.mark.parametrize(("runtime", "mode"), GUIDE)
def test_the_guides_own_files_have_exactly_these_findings(linted, runtime, mode):
    """Every example of Slurm's Containers Guide, as printed, judged for 26.05.5."""
    expected = []
    for part in GUIDE[runtime, mode].split(","):
        line, *codes = part.split()
        expected += [("oci.conf", int(line), code) for code in codes]
    assert sorted(linted(guide.example(runtime, mode))) == sorted(expected)


def test_old_slurm_breaks_the_guides_arguments_too(linted):
    """Where %@ reaches the shell, releases before 26.05.5 have one finding more."""
    for runtime in ("multi", "singularity", "charliecloud", "enroot"):
        codes = [code for _, _, code in linted(guide.example(runtime), OLD)]
        assert codes.count("argument-quotes") == 1


def test_all_examples_of_the_guide_are_there():
    """One for every runtime and mode that can be generated."""
    assert set(GUIDE) == {(runtime, mode) for runtime, modes in MODES.items() for mode in modes}


# The command.

REASON = "Slurm leaves out each variable that contains a line break (exported shell functions do)"


def run(*words, **options):
    return CliRunner().invoke(cli, ["lint", *words], **options)


def test_a_finding_is_one_line(tmp_path):
    """FILE:LINE: CODE SEVERITY, the reason and the cure; exit status 1."""
    path = tmp_path / "oci.conf"
    path.write_text(CLEAN.replace("null", "newline"))
    done = run(str(path), "--slurm-version", "26.05.5")
    assert done.output == f"{path}:4: env-file-newline warning {REASON}; CreateEnvFile=null\n"
    assert done.exit_code == 1


def test_json_has_the_same(tmp_path):
    """A list of objects with the parts of the line by name."""
    path = tmp_path / "oci.conf"
    path.write_text(CLEAN.replace("null", "newline"))
    assert json.loads(run(str(path), "--json", "--slurm-version", "26.05.5").output) == [
        {
            "file": str(path),
            "line": 4,
            "code": "env-file-newline",
            "message": REASON,
            "cure": "CreateEnvFile=null",
            "severity": "warning",
        }
    ]


def test_nothing_found_is_nothing_said(tmp_path):
    """Exit status 0 and no output."""
    path = tmp_path / "oci.conf"
    path.write_text(CLEAN)
    done = run(str(path), "--slurm-version", "26.05.5")
    assert (done.exit_code, done.output) == (0, "")


def test_without_a_file_it_is_the_one_beside_slurm_conf(tmp_path, monkeypatch):
    """SLURM_CONF says where."""
    (tmp_path / "oci.conf").write_text(CLEAN.replace("null", "newline"))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert run("--slurm-version", "26.05.5").output.startswith(f"{tmp_path}/oci.conf:4: env-file-newline")


def test_without_any_file_it_says_what_that_means_and_how_to_have_one(tmp_path, monkeypatch):
    """As `doctor` does; a file that was named and is not there is said with its name."""
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(OciConfInvalid) as caught:
        run("--slurm-version", "26.05.5", catch_exceptions=False)
    assert caught.value.message.startswith(f"there is no `{tmp_path}/oci.conf`: Slurm runs")
    assert re.fullmatch(rf"`ln -s \S+/oci.conf {tmp_path}/oci.conf`, on every node", caught.value.hints[0])
    with pytest.raises(OciConfInvalid, match="cannot read `/no/such/file`: No such file"):
        run("--slurm-version", "26.05.5", "/no/such/file", catch_exceptions=False)


@pytest.mark.parametrize("name", ["oci", "slurm", "plugstack", "cgroup"])
def test_what_is_no_file_keeps_nobody(tmp_path, name):
    """A FIFO that nobody writes: an error where it is oci.conf, nothing where it is beside it."""
    (tmp_path / "oci.conf").write_text(CLEAN)
    (tmp_path / f"{name}.conf").unlink(missing_ok=True)
    os.mkfifo(tmp_path / f"{name}.conf")
    if name != "oci":
        assert lint(str(tmp_path / "oci.conf"), NEW) == []
        return
    with pytest.raises(OciConfInvalid, match="it is no regular file"):
        lint(str(tmp_path / "oci.conf"), NEW)


def test_the_installed_slurm_is_asked_for_its_release(tmp_path, monkeypatch):
    """Without --slurm-version, `slurmd -V` says it."""
    (tmp_path / "slurmd").write_text("#!/bin/sh\necho slurm 24.11.5\n")
    (tmp_path / "slurmd").chmod(0o755)
    (tmp_path / "oci.conf").write_text(CLEAN)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert "argument-quotes" in run(str(tmp_path / "oci.conf")).output


def test_a_wrong_release_is_wrong_usage():
    """Exit status 2 and what was expected."""
    done = run("--slurm-version", "new", "x")
    assert (done.exit_code, "expected one like `24.11.5`" in done.output) == (2, True)


def test_reading_its_own_examples_needs_no_slurm(tmp_path):
    """The reader sees in the guide's multi-runtime text what is printed there."""
    path = tmp_path / "oci.conf"
    path.write_text(guide.example("multi"))
    keys = [entry.key for entry in read(str(path)).entries]
    assert keys == ["IgnoreFileConfigJson", "RunTimeRun", "RunTimeKill", "RunTimeDelete"]
