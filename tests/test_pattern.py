"""oci.conf's letters: as words, and as the line that Slurm gives to the shell."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from argument_classes import CLASSES, QUOTES, verdict
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from table import compare

from slurm_oci.line import decode
from slurm_oci.ociconf import multi
from slurm_oci.pattern import (
    LETTERS,
    NO_PID,
    Fields,
    ShellActs,
    Version,
    check,
    letters,
    parse,
    shell_line,
    shell_words,
    words,
)
from slurm_oci.problems import SiteInvalid
from slurm_oci.values import Request

ROOT = Path(__file__).parent.parent
GUIDE = "/opt/slurm-oci/run %b %m %u %U %n %j %s %t %@"
SHELLS = [name for name in ("dash", "bash", "busybox", "mksh", "ksh") if shutil.which(name)]
OLD, NEW = Version((24, 11, 5)), Version((26, 5, 5))
VERSIONS = st.sampled_from([Version((23, 2, 0)), OLD, Version((25, 5, 0)), NEW])

PIECES = [
    "'",
    '"',
    " ",
    "#",
    "\n",
    "\t",
    "\\",
    "$(touch ran)",
    "%b",
    "%",
    "%@",
    "-",
    "a",
    "é",
    "\udcff",
]
TEXT = (
    st.lists(
        st.sampled_from(PIECES) | st.binary(max_size=3).map(lambda b: os.fsdecode(b.replace(b"\0", b""))),
        max_size=5,
    )
    .map("".join)
    .map(lambda text: os.fsdecode(os.fsencode(text)))
)
COMMAND = st.lists(TEXT, max_size=4).map(tuple)


def request(bundle="/images/a b", command=("echo", "it's"), **changes):
    values = {"user": "alice", "uid": 1001, "node": "n1", "job": 7, "step": 0, "task": 2}
    return Request(bundle, "/spool/7", *{**values, **changes}.values(), command)


def fields(*args, **named):
    return Fields.of(request(*args, **named), cwd="/home/alice", env_file="/spool/7/environment")


# Versions.


@pytest.mark.parametrize(
    ("text", "version", "shown"),
    [
        ("24.11.5", (24, 11, 5), "24.11.5"),
        ("26.05", (26, 5, 0), "26.05.0"),
        ("slurm 25.05.3-1", (25, 5, 3), "25.05.3"),
        ("slurm-wlm 23.02.8", (23, 2, 8), "23.02.8"),
        ("26.11.0", (26, 11, 0), "26.11.0"),
        ("slurm 26.11.0-0rc1", (26, 11, -1), "26.11.0-0rc"),
        ("26.11.0-0pre1", (26, 11, -1), "26.11.0-0rc"),
    ],
)
def test_a_version_is_read_as_slurm_prints_it(text, version, shown):
    """A series without a patch number is its first release."""
    assert Version.parse(text) == version
    assert str(Version.parse(text)) == shown


@pytest.mark.parametrize("text", ["", "slurm", "26", "26.", ".05", "x.y.z", "²6.05"])
def test_what_is_no_version_is_refused(text):
    """With the text and an example of a right one."""
    with pytest.raises(ValueError, match=r"is no Slurm version: expected one like `24\.11\.5`"):
        Version.parse(text)


# Reading.


def test_the_letters_are_those_of_the_manual():
    """oci.conf(5), OCI Pattern; 22.05 knows ten of them, 26.05 was the first with %Z."""
    assert list(LETTERS) == list("%@bejmnprstuUZ")
    assert [name for name in LETTERS if LETTERS[name].since <= (22, 5, 8)] == list("%@bejnrstu")
    assert [name for name in LETTERS if LETTERS[name].since > (25, 11, 9)] == ["Z"]
    assert [name for name in LETTERS if LETTERS[name].from_user] == ["@", "b", "r", "Z"]


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("%q", "`%q` in `%q` stands for nothing"),
        ("--root=%J", "`%J` in `--root=%J` stands for nothing"),
        ("100%", "`100%` ends in a `%` without a letter"),
        ("%%%", "`%%%` ends in a `%` without a letter"),
        ("% b", "`% ` in `% b` stands for nothing"),
        (
            "--cmd=%@",
            "`%@` stands for several words and cannot be a part of the one word `--cmd=%@`",
        ),
        ("a\0b", "`a\0b` holds a NUL, which no argument of a program can"),
        ("%@%@", "`%@` stands for several words and cannot be a part of the one word `%@%@`"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused_when_it_is_read(word, error):
    """Not when a task runs; the message names word and letter."""
    with pytest.raises(SiteInvalid) as caught:
        parse(["tool", word, "%b"])
    assert caught.value.message == error
    assert caught.value.hints


def test_an_unknown_letter_is_answered_by_the_one_that_was_probably_meant():
    """The letters differ in case alone where one is easily taken for another."""
    with pytest.raises(SiteInvalid) as caught:
        check("%J")
    assert caught.value.hints[0] == "did you mean `%j`, the job's number?"


def test_a_template_without_words_is_refused():
    """There would be nothing to start."""
    with pytest.raises(SiteInvalid, match="has no words"):
        parse([])


def test_a_percent_sign_is_written_twice():
    """`%%@` is a percent sign and an at sign, not the command."""
    assert words(parse(["%%@", "%%%%", "%%b%b"]), fields("/x")) == ("%@", "%%", "%b/x")


# Words.


def test_every_letter_has_its_value():
    """One word each; `%@` the command's words."""
    template = parse([f"{name}=%{name}" for name in LETTERS if name not in "%@"] + ["%%", "%@"])
    assert words(template, fields()) == (
        "b=/images/a b",
        "e=/spool/7/environment",
        "j=7",
        "m=/spool/7",
        "n=n1",
        "p=4294967295",
        "r=/images/a b",
        "s=0",
        "t=2",
        "u=alice",
        "U=1001",
        "Z=/home/alice",
        "%",
        "echo",
        "it's",
    )


LITERAL = TEXT.map(lambda text: text.replace("%", "%%"))
WORD = st.just("%@") | st.lists(st.sampled_from(["%b", "%r", "%Z", "%j", "%%"]) | LITERAL, max_size=4).map(
    "".join
)


@settings(deadline=None)
@given(st.lists(WORD, min_size=1, max_size=5), TEXT, COMMAND)
@example(["%b", "%@"], "%@ %b", ("%b", "%@", "", "a b"))
@example(["", "%@", ""], "", ())
def test_one_word_stays_one_word(template, bundle, command):
    """Nothing is split, joined or dropped: `%@` gives the command's words, any other word one."""
    filled = list(words(parse(template), fields(bundle, command)))
    for word in template:
        mine = len(command) if word == "%@" else 1
        if word == "%@":
            assert tuple(filled[:mine]) == command
        else:
            assert filled[:1] == list(words((word,), fields(bundle)))
        del filled[:mine]
    assert filled == []


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, st.sampled_from("brZjt%")), max_size=4), TEXT, TEXT)
@example([("x=", "b"), ("", "r")], "%b%%%@", "%Z")
def test_what_a_value_holds_is_not_read_again(pieces, bundle, cwd):
    """A bundle called `%b`, or with blanks and quotes, is put in as it is."""
    made = Fields.of(request(bundle), cwd=cwd, rootfs="/root fs")
    values = {"b": bundle, "r": "/root fs", "Z": cwd, "j": "7", "t": "2", "%": "%"}
    template = "".join(plain.replace("%", "%%") + "%" + letter for plain, letter in pieces)
    assume(template != "%@")
    assert words(parse([template]), made) == ("".join(plain + values[letter] for plain, letter in pieces),)


def test_without_a_root_file_system_it_is_the_bundle():
    """As in Slurm when config.json is ignored."""
    assert Fields.of(request("/b"), cwd="/").rootfs == "/b"
    assert Fields.of(request("/b"), cwd="/", rootfs="/b/rootfs").rootfs == "/b/rootfs"


def test_no_process_is_slurms_number_for_it():
    """In RunTimeRun `%p` is the largest number, not the task."""
    assert (fields().pid, fields().value("p")) == (NO_PID, "4294967295")


# Slurm's line.


@pytest.mark.parametrize(
    ("version", "step", "spool", "env_file"),
    [
        (
            "23.02.1",
            0,
            "/s/oci-job00007-00000/task-00002/",
            "/s/oci-job00007-00000/task-00002//environment",
        ),
        (
            "23.02.1",
            4294967291,
            "/s/oci-job00007-batch/task-00002/",
            "/s/oci-job00007-batch/task-00002//environment",
        ),
        ("24.11.5", 0, "/s/oci-job7-0/task-2/", "/s/oci-job7-0/task-2//environment"),
        (
            "24.11.5",
            4294967290,
            "/s/oci-job7-interactive/task-2/",
            "/s/oci-job7-interactive/task-2//environment",
        ),
        (
            "24.11.5",
            4294967292,
            "/s/oci-job7-4294967292/task-2/",
            "/s/oci-job7-4294967292/task-2//environment",
        ),
        ("25.05.0", 0, "/s/oci-job7-0", "/s/oci-job7-0/task-2/environment"),
        ("26.05.5", 4294967291, "/s/oci-job7-batch", "/s/oci-job7-batch/task-2/environment"),
        ("26.05.5", 4294967292, "/s/oci-job7-extern", "/s/oci-job7-extern/task-2/environment"),
    ],
)
def test_spool_and_environment_file_lie_where_the_version_puts_them(version, step, spool, env_file):
    """`%m` is the task's before 25.05 and the step's since; `%e` is always the task's."""
    made = Fields.in_slurm(Version.parse(version), request(step=step), cwd="/", spool="/s")
    assert (made.spool, made.env_file) == (spool, env_file)


@pytest.mark.parametrize(
    ("version", "line"),
    [
        (
            "24.11.5",
            (
                "/opt/slurm-oci/run /images/a b /var/spool/slurmd/oci-job7-0/task-2/"
                """ alice 1001 n1 7 0 2 'echo' 'it'"'"''s'"""
            ),
        ),
        (
            "26.05.3",
            (
                "/opt/slurm-oci/run /images/a b /var/spool/slurmd/oci-job7-0 alice 1001 n1 7 0 2"
                """ 'echo' 'it'"'"''s'"""
            ),
        ),
        (
            "26.05.5",
            (
                "/opt/slurm-oci/run /images/a b /var/spool/slurmd/oci-job7-0 alice 1001 n1 7 0 2"
                """ 'echo' 'it'"'"'s'"""
            ),
        ),
    ],
)
def test_the_guides_line_is_what_slurm_hands_to_the_shell(version, line):
    """Letter for letter, the bundle unquoted and the quote of older versions included."""
    made = Fields.in_slurm(Version.parse(version), request(), cwd="/home/alice")
    assert shell_line(GUIDE, made, Version.parse(version)) == line


def test_a_command_without_words_leaves_nothing():
    """Slurm writes nothing for `%@` then."""
    assert shell_line("run # %@", fields("/x", ()), NEW) == "run # "


@pytest.mark.parametrize(("version", "letter"), [("22.05.8", "m"), ("22.05.8", "U"), ("25.11.7", "Z")])
def test_a_letter_that_the_version_lacks_is_refused(version, letter):
    """Slurm itself ends the step there."""
    with pytest.raises(SiteInvalid) as caught:
        shell_line(f"run %{letter}", fields(), Version.parse(version))
    assert caught.value.message == (
        f"Slurm {version} does not know `%{letter}` ({LETTERS[letter].meaning}) in `run %{letter}`"
    )


@settings(deadline=None)
@given(COMMAND, VERSIONS)
def test_the_decoder_gets_back_what_slurms_line_holds(command, version):
    """Renderer and decoder agree in every version."""
    assert decode(shell_line("run - %u # %@", fields("/x", command), version)) == command


# Slurm's line in real shells.


def run_by(shell, line, cwd):
    """The words that a program gets from `shell -c line`, in which `RUN` is that program."""
    line = line.replace("RUN", r"/usr/bin/printf '%s\0' began", 1)
    done = subprocess.run(
        [*([shell, "sh"] if shell == "busybox" else ["sh"]), "-c", os.fsencode(line)],
        executable=shutil.which(shell),
        cwd=cwd,
        env={"PATH": os.defpath},
        capture_output=True,
        timeout=60,
    )
    assert list(cwd.iterdir()) == [], "something in the line was executed"
    began, *got = os.fsdecode(done.stdout).split("\0")
    assert began == ("began" if got else "")
    return done.returncode, tuple(got[:-1])


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    return tmp_path_factory.mktemp("empty")


# Blanks, quotes and comment signs, and nothing that a shell carries out.
QUIET = (
    st.lists(
        st.sampled_from(
            [
                "'",
                '"',
                " ",
                "\t",
                "#",
                "a",
                "%b",
                "-",
                "é",
                "\udcff",
                "\udc81",
                "\x01",
                "\x7f",
                "/",
                ":",
                ",",
                "=",
                "\\a",
                "\\'",
            ]
        ),
        max_size=6,
    )
    .map("".join)
    .map(lambda text: os.fsdecode(os.fsencode(text)))
)


@pytest.mark.parametrize("shell", SHELLS)
@settings(deadline=None)
@given(bundle=QUIET, command=st.lists(QUIET, max_size=3).map(tuple), version=VERSIONS)
@example(bundle="/tmp/a b", command=("x",), version=NEW)
@example(bundle="", command=("x",), version=NEW)
@example(bundle="/tmp/a#b", command=("#hash", ""), version=OLD)
@example(bundle="/b", command=("'\"'",), version=OLD)
@example(bundle="/b", command=("' ' '",), version=OLD)
@example(bundle="/b", command=("'", "'", "'"), version=OLD)
@example(bundle="/b", command=("it's",), version=OLD)
@example(bundle="/b'", command=("it's",), version=NEW)
def test_the_shell_makes_of_a_line_what_the_model_says(shell, empty, bundle, command, version):
    """In every Slurm version: the predicted words arrive, and where the prediction is a quote
    without its partner, the shell starts nothing."""
    line = shell_line("exec RUN %b %m %@", fields(bundle, command), version)
    try:
        expected = shell_words(line)[2:]
    except ShellActs as reason:
        assume("without its partner" in str(reason))
        code, got = run_by(shell, line, empty)
        assert code != 0
        assert got == ()
    else:
        assert run_by(shell, line, empty) == (0, expected)


@pytest.mark.parametrize("shell", SHELLS)
@settings(deadline=None)
@given(bundle=TEXT.filter(lambda text: "'" not in text), command=COMMAND)
@example(bundle="/tmp/a;touch ran", command=("'; touch ran; echo '",))
@example(bundle="/tmp/$(touch ran)*", command=("$(touch ran)", "\ntouch ran\n"))
def test_since_26_05_5_a_quoted_bundle_and_any_command_arrive(shell, empty, bundle, command):
    """With `'%b'` in place of `%b`, only a single quote in the bundle's path is left to break."""
    line = shell_line("exec RUN '%b' '%m' %@", fields(bundle, command), NEW)
    assert shell_words(line)[2:] == (bundle, "/spool/7", *command)
    assert run_by(shell, line, empty) == (0, (bundle, "/spool/7", *command))


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        (("'\"'",), ("''\"",)),
        (("'", "'", "'"), ("' \"''' ''\"",)),
        (("a b", "", "c"), ("a b", "", "c")),
    ],
)
@pytest.mark.parametrize("shell", SHELLS)
def test_older_slurm_breaks_quotes_without_a_word(shell, empty, command, seen):
    """What Slurm 24.11.5 was seen to hand over for them."""
    line = shell_line("exec RUN %@", fields("/b", command), OLD)
    assert shell_words(line)[2:] == seen
    assert run_by(shell, line, empty) == (0, seen)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("run it's", "a quote without its partner at `'s`"),
        ("run /tmp/a;touch x", "the end of the command at `;touch x`"),
        ("run a\nb", "the end of the command (a line break) at `\nb`"),
        ("run $(touch x) y", "an expansion at `$(touch x) y`"),
        ('run "$HOME"', 'an expansion or an escape in double quotes at `"$HOME"`'),
        ("run /tmp/*", "a pattern for file names at `*`"),
        ("run ~/x", "a home directory at `~/x`"),
        ("run a>b", "a redirection at `>b`"),
        ("A=b run", "an assignment at `=b run`"),
        ("run a\\", "a backslash that joins lines"),
    ],
)
def test_what_a_shell_would_act_on_is_named(line, reason):
    """The model does not guess what an expansion yields; it says where one stands."""
    with pytest.raises(ShellActs) as caught:
        shell_words(line)
    assert str(caught.value) == reason


@settings(deadline=None)
@given(st.text(alphabet="%@bq ", max_size=8))
def test_a_text_is_refused_exactly_for_the_letters_it_uses(text):
    """Unknown letters and a `%` at the end, and nothing else."""
    known = all(letter in LETTERS for letter in letters(text))
    try:
        check(text)
    except SiteInvalid:
        assert not known
    else:
        assert known


def test_the_language_imports_nothing_heavy():
    """A site-defined runtime is rendered once for every task of every step."""
    code = "import sys; old = set(sys.modules); sys.path.insert(0, sys.argv[1]);"
    code += "import slurm_oci.pattern; print(*sorted(set(sys.modules) - old))"
    run = [sys.executable, "-I", "-S", "-c", code, str(ROOT / "dispatch")]
    assert subprocess.check_output(run, text=True).split() == [
        "slurm_oci",
        "slurm_oci.line",
        "slurm_oci.pattern",
        "slurm_oci.problems",
        "slurm_oci.values",
    ]


# 26.05.4 may be as either of its neighbours: nobody has looked.
OLDER = ("23.02.0", "23.11.0", "24.05.0", "24.11.5", "25.05.0", "25.11.0", "26.05.3", "26.11.0-0rc1")
NEWER = ("26.05.5", "26.11.0")
SHIPPED = re.search(r'^RunTimeRun="(.*)"$', multi("/opt/slurm-oci"), re.M)[1].replace("\\#", "#")


@pytest.mark.parametrize(
    ("release", "suite"), [*((one, "trixie") for one in OLDER), *((one, "sid") for one in NEWER)]
)
def test_every_release_breaks_what_the_tables_of_arguments_say(release, suite):
    """Those that were not run quote as one of the two that were, in docs/arguments.md; the shipped line
    brings all of it in each."""
    run = json.loads((ROOT / "docs/arguments.json").read_text())[suite]
    found = {
        line: {
            name: verdict([arrives(Version.parse(release), command) for command in lists])
            for name, lists in CLASSES.items()
        }
        for line, arrives in (("the guide's line", by_the_guides), ("the shipped line", by_the_shipped))
    }
    assert found == {line: run["columns"][line] for line in found}
    seen = "run" if release == run["slurm"] else "model"
    quotes = {line: {name: verdicts[name] for name in QUOTES} for line, verdicts in found.items()}
    compare("releases", (release, "quotes"), quotes, seen=seen)


def by_the_shipped(version, command):
    """What the entry point decodes of the words after the command's first one."""
    fields = Fields.in_slurm(version, request("/image", ("sh", *command)), cwd="/")
    return "arrives" if list(decode(shell_line(SHIPPED, fields, version))[1:]) == command else "is changed"


def by_the_guides(version, command):
    """What arrives of the words after the command's first one, with dash for /bin/sh."""
    fields = Fields.in_slurm(version, request("/image", ("sh", *command)), cwd="/")
    try:
        told = shell_words(shell_line(GUIDE, fields, version))
    except ShellActs as acts:
        assert "without its partner" in str(acts)
        return "does not start: sh finds no end of a quote"
    return "arrives" if list(told[10:]) == command else "refused: request-shifted"  # see test_breakage.py
