"""How `explain` looks in a terminal and in a pipe."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import click
import pytest
from conftest import ODD_WORDS, container
from hypothesis import given
from hypothesis import strategies as st

from slurm_oci import Plan
from slurm_oci.commands.explain import HIDDEN, without_secrets
from slurm_oci.explanation import UNLIMITED, Page, shell_word
from slurm_oci.main import Decision


@given(st.lists(ODD_WORDS, min_size=1, max_size=4), st.sampled_from([40, UNLIMITED]))
def test_a_command_can_be_pasted(words, width):
    """bash makes the same bytes of it, also where it stands on several lines."""
    page = Page(width, False)
    page.command(["printf", "%s\\0", *words])
    done = subprocess.run(["bash", "-c", page.text()], capture_output=True, check=True)
    assert [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]] == words


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("a", "a"),
        ("", "''"),
        ("it's", "'it'\"'\"'s'"),
        ("é b", "'é b'"),
        ("a\n\udcff\\", "$'a\\012\\377\\134'"),
    ],
)
def test_a_word_is_as_plain_as_can_be(word, shown):
    """What a terminal cannot show is written as bytes."""
    assert shell_word(word) == shown


@given(st.text("ab \u00e9", max_size=200), st.integers(10, 80))
def test_folding_loses_no_word_and_keeps_to_the_width(text, width):
    """But for words that are longer themselves."""
    lines = Page(width, False).folded("  " + text.lstrip(), 4)
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= max(width, 4 + max(map(len, text.split()), default=0)) for line in lines)


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (60, ["  runtime:     not crun  (`crun` is not on this node)"]),
        (40, ["  runtime:     not crun", "               (`crun` is not on this", "                node)"]),
    ],
)
def test_a_step_s_reason_goes_below_where_there_is_no_room(width, lines):
    """In the column of the results."""
    page = Page(width, False)
    page.step("runtime", "not crun", "`crun` is not on this node", "yellow")
    assert page.lines == lines


def test_a_long_value_is_cut_in_a_terminal_alone():
    """In a pipe it is whole."""
    for width, shown in ((20, "  set    A=" + "x" * 8 + "…"), (UNLIMITED, "  set    A=" + "x" * 100)):
        page = Page(width, False)
        page.variable("set", "A", "x" * 100)
        assert page.text() == shown


def in_terminal(columns: int, *words: str, **variables: str) -> str:
    """What `slurm-oci-plugins` prints to a terminal of that width."""
    own, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {"PATH": os.environ["PATH"], "TERM": "xterm", **variables}
    with subprocess.Popen([sys.executable, "-m", "slurm_oci.cli", *words], stdout=other, env=env):
        os.close(other)
        out = b""
        while True:
            try:
                out += os.read(own, 65536)
            except OSError:  # its other end is closed
                break
    os.close(own)
    return out.decode().replace("\r\n", "\n")


@pytest.fixture
def image(tmp_path):
    (tmp_path / "image/bin").mkdir(parents=True)
    (tmp_path / "image/bin/sh").write_text("")
    return str(tmp_path / "image")


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_gets_colours_and_its_own_width(image, columns):
    """No line is longer but where one word is."""
    shown = in_terminal(columns, "explain", image, "--", "/bin/sh", *["word"] * 60)
    assert "\x1b[" in shown
    bare = click.unstyle(shown).splitlines()
    assert max(len(line) for line in bare if len(line.split()) > 1) <= columns
    assert any(line.endswith(" \\") for line in bare)


@pytest.mark.parametrize("words", ["list", "show apptainer", "template", "site"])
def test_a_table_keeps_to_the_terminal_s_width(words):
    """The last column goes on below itself."""
    wide, narrow = (click.unstyle(in_terminal(columns, *words.split())) for columns in (200, 70))
    assert max(map(len, narrow.splitlines())) <= 70 < max(map(len, wide.splitlines()))
    assert narrow.split() == wide.split()


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_who_wants_no_colours_gets_none(image, variables):
    """By the variables that programs agree on."""
    assert "\x1b" not in in_terminal(80, "explain", image, **variables)


def test_a_secret_is_shown_nowhere(image, tmp_path):
    """Not as a variable, and not where a runtime is told it by an option; the command is the user's."""
    definition = tmp_path / "env.toml"
    definition.write_text(
        f'image = "{image}"\nruntime = "unshare"\n[env]\nLC_CTYPE = "C"\nX_TOKEN = "hush-hush"\n'
    )
    shown = in_terminal(200, "explain", str(definition))
    assert "hush" not in shown
    assert re.search(r"env\s+X_TOKEN=\*{8}", click.unstyle(shown))


def test_an_option_that_tells_a_secret_is_masked_and_the_command_is_not():
    """Shifter and Sarus are told some variables so; what the user typed is shown as he typed it."""
    box = container(env={"API_TOKEN": "hush", "A": "b"}, command=("cmd", "hush"))
    made = Plan(("/shifter", "--env=API_TOKEN=hush", "--env=A=b", "cmd", "hush"), {})
    decision = Decision(box.request, box.job, box.image, box.settings, "shifter", made, container=box)
    assert without_secrets(decision) == ["/shifter", f"--env=API_TOKEN={HIDDEN}", "--env=A=b", "cmd", "hush"]
