"""The shipped oci.conf's line: no shell reads what a user wrote, and the command arrives exactly."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slurm_oci.line import QUOTE, QUOTE_TWICE, decode, unquote
from slurm_oci.problems import LineUndecodable

ROOT = Path(__file__).parent.parent
SHIPPED = (
    r"L=;while IFS= read -r l;do L=$L$l${IFS\#??};done</proc/$$/cmdline;"
    r"SLURM_OCI_LINE=$L$l exec /opt/slurm-oci/run - '%m' '%u' %U '%n' %j %s %t \# %@"
)
SHELLS = [name for name in ("dash", "bash", "busybox", "mksh", "ksh") if shutil.which(name)]
FORMS = {"since 26.05.5": QUOTE, "before": QUOTE_TWICE}

CRITICAL = ["'", '"', " ", "#", "\n", "\\", "$", "`", ";", "%", "-", "a", "\udcff", "\udc81", "é"]
PIECES = [
    *CRITICAL,
    QUOTE,
    QUOTE_TWICE,
    "' '",
    " # ",
    "$(touch ran)",
    "`touch ran`",
    "\ntouch ran\n",
]
WORDS = st.lists(
    st.lists(
        st.sampled_from(PIECES) | st.binary(max_size=4).map(lambda b: os.fsdecode(b.replace(b"\0", b""))),
        max_size=6,
    ).map(lambda pieces: os.fsdecode(os.fsencode("".join(pieces)))),
    max_size=5,
).map(tuple)

KNOWN = [  # each of these has broken something once, in Slurm or here
    (),
    ("",),
    ("", "", ""),
    ("it's",),
    ("'",),
    ("''",),
    ("'\"'",),
    ("' ' '",),
    ("'", "'", "'"),
    ("'", '"', "'"),
    ('"', "'"),
    ("\"'x", "'\"'"),
    ("a", " # ", "' # '"),
    ("'; touch ran; echo '",),
    ("'$(touch ran)'", "`touch ran`", "$(touch ran)", "\n touch ran \n"),
    ("\n", "\n\n", "\na", "a\n", "a\nb\n\n"),
    ("\\", "\\\n", "\\'", "a\\"),
    ("-n", "--", "-c", "%m 100%", "%"),
    (os.fsdecode(bytes(range(1, 256))),),
    tuple(os.fsdecode(bytes([byte])) for byte in range(1, 256)),
]


def written(words, quote):
    """The words as Slurm writes them for `%@`."""
    return " ".join("'" + word.replace("'", quote) + "'" for word in words)


@settings(deadline=None)
@given(WORDS, st.sampled_from(list(FORMS)))
@example(("it's", "'\"'", "' ' '", ""), "before")
@example(("it's", "'\"'", "' ' '", ""), "since 26.05.5")
def test_a_command_is_what_it_was_before_slurm_quoted_it(words, form):
    """Decoding undoes either of Slurm's ways to quote, without being told which one it was."""
    assert decode("/bin/sh-cL=;… exec /opt/slurm-oci/run - … # " + written(words, FORMS[form])) == words


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("words", KNOWN, ids=lambda words: ascii(words)[:30])
def test_what_once_broke_arrives(words, form):
    """Every command in the catalogue of failures is decoded from both forms."""
    assert decode("… # " + written(words, FORMS[form])) == words


def steps(quote):
    """The way of writing as an automaton over characters: states to (character -> state), where
    `other` is every character but the two quotes and the blank. It ends well in `start` (no words)
    and `quoted` (a quote was read that may close the word)."""
    table = {
        "start": {"'": "inside"},
        "inside": {"'": "quoted", '"': "inside", " ": "inside", "other": "inside"},
        "quoted": {" ": "between", '"': quote[:2]},
        "between": {"'": "inside"},
    }
    for length in range(2, len(quote)):
        done = length + 1 == len(quote)
        table[quote[:length]] = {quote[length]: "escaped" if done else quote[: length + 1]}
    return table


def step(table, state, char):
    """The next state; `escaped` is `inside` right after a quote has been written."""
    return table.get("inside" if state == "escaped" else state, {}).get(char)


def ends_well(state):
    return state in ("start", "quoted")


def test_no_text_with_a_quote_in_it_can_be_read_in_both_forms():
    """For texts of any length: the two automatons, run side by side over every text there is,
    never both end well once either of them has read a quote inside a word. So at most one form
    fits, or both give the same words, and trying one first decides nothing."""
    new, old = steps(QUOTE), steps(QUOTE_TWICE)
    seen, todo = set(), [("start", "start", False)]
    while todo:
        place = todo.pop()
        if place in seen:
            continue
        seen.add(place)
        one, two, escaped = place
        assert not (escaped and ends_well(one) and ends_well(two))
        for char in ("'", '"', " ", "other"):
            after = step(new, one, char), step(old, two, char)
            if None not in after:
                todo.append((*after, escaped or "escaped" in after))
    assert len(seen) > 10, "the automatons must have been walked through"


@pytest.mark.parametrize("quote", FORMS.values(), ids=FORMS)
def test_the_decoder_reads_what_its_automaton_reads(quote):
    """The proof above is about the program: every text of up to eight critical characters is
    taken or refused by the decoder as by the automaton."""
    table = steps(quote)
    for length in range(9):
        for chars in itertools.product(("'", '"', " ", "other"), repeat=length):
            state = "start"
            for char in chars:
                state = state and step(table, state, char)
            text = "".join(chars).replace("other", "x")
            assert (unquote(text, quote) is not None) == ends_well(state), text


def test_no_short_text_is_read_as_two_different_commands():
    """The same by trial: all texts of up to eleven characters that begin and end as a command."""
    both = 0
    for length in range(9):
        for chars in itertools.product("'\" x", repeat=length):
            text = "'" + "".join(chars) + "'"
            one, two = unquote(text, QUOTE), unquote(text, QUOTE_TWICE)
            if one is not None and two is not None:
                both += 1
                assert one == two, text
    assert both > 1000


@pytest.mark.parametrize(
    "text",
    [
        "echo",
        "'echo",
        "echo'",
        "'",
        "'a''b'",
        "'a'  'b'",
        "'a' ",
        " 'a'",
        "'a'\t'b'",
        "'a' b",
        "'it'\"'\"'s' 'it'\"'\"''s'",  # both ways in one text
        "'a' # 'b'",
    ],
)
def test_a_text_that_slurm_did_not_write_is_refused(text):
    """Nothing is guessed: 125, with the cure, in place of a command that nearly fits."""
    with pytest.raises(LineUndecodable) as caught:
        decode("/bin/sh-c… # " + text)
    assert caught.value.status == 125
    assert caught.value.message == (
        f"the command in the shell's line is not quoted as Slurm quotes it: `{text}`"
    )


def test_a_line_without_the_comment_sign_is_refused():
    """As when a shell handed over only the beginning of its command line."""
    with pytest.raises(LineUndecodable) as caught:
        decode("/usr/bin/yash")
    assert caught.value.lines() == [
        (
            "slurm-oci: error: the shell's line in SLURM_OCI_LINE has no ` # `, behind which the command"
            " stands (it begins with `/usr/bin/yash`) [line-undecodable]"
        ),
        (
            "  the site: take RunTimeRun in oci.conf unchanged from `slurm-oci-plugins oci-conf`,"
            " and see that /bin/sh is dash, bash, busybox or ksh"
        ),
    ]


def test_reading_the_line_imports_nothing():
    """It runs once for every task of every step."""
    code = "import sys; old = set(sys.modules); sys.path.insert(0, sys.argv[1]);"
    code += "import slurm_oci.line; print(*sorted(set(sys.modules) - old))"
    run = [sys.executable, "-I", "-S", "-c", code, str(ROOT / "dispatch")]
    assert subprocess.check_output(run, text=True).split() == [
        "slurm_oci",
        "slurm_oci.line",
        "slurm_oci.problems",
        "slurm_oci.values",
    ]


# The shipped line through real shells.


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    """An entry point that prints SLURM_OCI_LINE and its own words, each with a NUL behind it."""
    path = tmp_path_factory.mktemp("recorder") / "run"
    path.write_text('#!/bin/sh\nprintf \'%s\\0\' "$SLURM_OCI_LINE" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    return tmp_path_factory.mktemp("empty")


def through(shell, recorder, cwd, words, quote, env=None):
    """What the entry point gets from `shell` for `words`: its own words, and those decoded."""
    line = SHIPPED.replace(r"\#", "#").replace("/opt/slurm-oci/run", str(recorder))
    for letter, value in {"%m": "/var/spool/a b", "%u": "alice", "%U": "1001", "%n": "n1"}.items():
        line = line.replace(letter, value)
    line = line.replace("%j %s %t", "7 4294967291 0").replace("%@", written(words, quote))
    name = [shell, "sh"] if shell == "busybox" else ["sh"]
    done = subprocess.run(
        [*name, "-c", os.fsencode(line)],
        executable=shutil.which(shell),
        cwd=cwd,
        env={"PATH": os.defpath} | (env or {}),
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert list(cwd.iterdir()) == [], "something of the command was executed"
    text, *own = os.fsdecode(done.stdout).split("\0")
    return own[:-1], decode(text)


OWN = ["-", "/var/spool/a b", "alice", "1001", "n1", "7", "4294967291", "0"]


@pytest.mark.parametrize("shell", SHELLS)
@settings(deadline=None)
@given(WORDS, st.sampled_from(list(FORMS)))
@example(("'; touch ran; echo '", "$(touch ran)", "\n touch ran \n"), "before")
@example(("'; touch ran; echo '", "$(touch ran)", "\n touch ran \n"), "since 26.05.5")
def test_the_shipped_line_delivers_any_command_and_runs_nothing(shell, recorder, empty, words, form):
    """Whatever the user wrote and however Slurm quoted it: it arrives, and no shell has read it."""
    assert through(shell, recorder, empty, words, FORMS[form]) == (OWN, words)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("words", KNOWN, ids=lambda words: ascii(words)[:30])
def test_what_once_broke_goes_through_the_shell(shell, recorder, empty, words, form):
    """Every command in the catalogue of failures passes the real shells in both forms."""
    assert through(shell, recorder, empty, words, FORMS[form]) == (OWN, words)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "words",
    [("x" * 100_000,), ("\udcff" * 100_000,), ("a\n" * 2_000,), ("'" * 15_000,), ("ab",) * 20_000],
    ids=["100 kB", "100 kB of no text", "2000 lines", "15,000 quotes", "20,000 words"],
)
def test_long_commands_arrive_whole(shell, recorder, empty, words):
    """Up to nearly the 128 KiB that the system allows for the text of `/bin/sh -c`."""
    assert through(shell, recorder, empty, words, QUOTE) == (OWN, words)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "env", [{"IFS": "a"}, {"IFS": ""}, {"L": "x", "l": "y"}, {"POSIXLY_CORRECT": "1"}], ids=str
)
def test_the_environment_does_not_change_the_line(shell, recorder, empty, env):
    """In some Slurm versions (25.05.3 to 25.11.1) the shell has the job's own environment."""
    words = ("a\nb a\tc", "\n a \n")
    assert through(shell, recorder, empty, words, QUOTE, env) == (OWN, words)


def test_the_shipped_file_holds_the_line_that_is_tested_here():
    """opt-slurm-oci/oci.conf and these tests are about the same line."""
    conf = ROOT / "opt-slurm-oci" / "oci.conf"
    assert f'RunTimeRun="{SHIPPED}"' in conf.read_text().splitlines()
