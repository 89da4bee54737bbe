"""The words from Slurm: `slurm_oci.request`."""

import os

import pytest
from conftest import ODD_WORDS, OWN_UID
from hypothesis import given
from hypothesis import strategies as st

from slurm_oci import request
from slurm_oci.problems import LineUndecodable, Problem, RequestMalformed, RequestShifted
from slurm_oci.values import STEP_KINDS, Request

ME = str(OWN_UID)
FIRST = ["/image", "/spool", "alice", ME, "node1", "42", "0", "3"]
NUMBERS = st.integers(0, 2**64 - 1)


@st.composite
def requests(draw):
    return Request(
        draw(ODD_WORDS), draw(ODD_WORDS), draw(ODD_WORDS), OWN_UID, draw(ODD_WORDS),
        draw(NUMBERS), draw(NUMBERS | st.sampled_from(list(STEP_KINDS))), draw(NUMBERS),
        tuple(draw(st.lists(ODD_WORDS, max_size=5))),
    )  # fmt: skip


def test_words_are_taken_by_position_alone():
    """Eight fields, then the command: nothing is an option, nothing is looked into."""
    words = ["--help", "-", "--", ME, "-n", "42", "7", "0", "--version", "", "a b"]
    expected = Request("--help", "-", "--", OWN_UID, "-n", 42, 7, 0, ("--version", "", "a b"))
    assert request.read(words, {}) == expected


@given(requests())
def test_a_request_s_words_make_the_same_request(made):
    """Whatever the texts hold, `words()` and `read` are each other's inverse."""
    assert request.read(made.words(), {}) == made


@given(st.lists(ODD_WORDS, max_size=12), st.none() | ODD_WORDS)
def test_any_words_make_a_request_or_a_problem(words, line):
    """No list of words makes the entry point fail in another way than it says."""
    environ = {} if line is None else {"SLURM_OCI_LINE": line}
    try:
        assert request.read(words, environ).words()[:8] == tuple(words[:8])
    except Problem as problem:
        assert all(text.isprintable() for text in problem.lines())


@given(st.integers(3, 7).filter(lambda n: n != 4), ODD_WORDS)
def test_a_field_that_is_no_number_is_a_problem(place, word):
    """UID, JOB, STEP and TASK are numbers as Slurm prints them, or the words are out of place."""
    words = [*FIRST[:place], word, *FIRST[place + 1 :]]
    if word.isascii() and word.isdecimal():
        return
    with pytest.raises(RequestShifted):
        request.read(words, {})


@pytest.mark.parametrize("word", ["", "-1", "+1", "01", " 1", "1 ", "1_0", "²", "٣", "0x1", "1" * 21, "1.0"])
def test_what_only_python_takes_for_a_number_is_none(word):
    """Python's `int` reads more than Slurm writes: signs, blanks, other scripts' digits."""
    with pytest.raises(RequestShifted):
        request.read([*FIRST[:5], word, *FIRST[6:]], {})


def test_the_error_for_shifted_words_names_the_cause_and_the_cure():
    """A blank in the image's path is named as what is likely, and the shipped oci.conf as the cure."""
    with pytest.raises(RequestShifted) as caught:
        request.read(["/my", "image", "/spool", "alice", ME, "node1", "42", "0", "3", "true"], {})
    assert caught.value.lines() == [
        "slurm-oci: error: the words from oci.conf are out of place: UID is `alice`, JOB is `node1`:"
        f" expected a number (the first words: `/my` `image` `/spool` `alice` `{ME}` `node1` `42` `0` `3`)"
        " [request-shifted]",
        "  white space, a quote or a special character of the shell in the image's path does this where oci.conf has"
        " %b without quotes, as in the Containers Guide",
        "  the site: install the oci.conf that `slurm-oci-plugins oci-conf` prints; you: use a path"
        " without them",
    ]


@pytest.mark.parametrize("words", [[], FIRST[1:], ["/image", *FIRST]])
def test_words_that_the_user_s_own_script_has_lost_are_not_blamed_on_oci_conf(words):
    """It had the right ones. `slurm-oci-run-default` marks its own call in the place of a script."""
    with pytest.raises(RequestMalformed) as caught:
        request.read(words, {"SLURM_OCI_HOOK": "42.0.3"})
    assert "`~/.slurm-oci-run` has" in caught.value.lines()[0]
    assert caught.value.hints[0].endswith('`exec /opt/slurm-oci/slurm-oci-run-default "$@"`')
    with pytest.raises(Problem) as caught:
        request.read(words, {"SLURM_OCI_HOOK": "skip"})
    assert "oci.conf" in " ".join(caught.value.lines())


def test_somebody_else_s_uid_means_that_the_words_are_shifted():
    """The number before the node's name is the user's own, or it is another field."""
    with pytest.raises(RequestShifted, match=f"UID is `{OWN_UID + 1}`, but this process runs as {ME}"):
        request.read([*FIRST[:3], str(OWN_UID + 1), *FIRST[4:]], {})


def test_no_words_at_all_are_no_call_of_slurms():
    """The error says how Slurm is to call the program."""
    with pytest.raises(RequestMalformed, match=r"and a command, got 0$"):
        request.read([], {})


@pytest.mark.parametrize("count", range(1, 8))
def test_a_line_that_ended_in_the_image_s_path_is_named_as_such(count):
    """A sign of the shell in the path cuts off what comes behind it; what came is shown."""
    words = ["/tmp/a", "b", *FIRST[1:]][:count]
    shown = " ".join(f"`{word}`" for word in words)
    with pytest.raises(RequestShifted) as caught:
        request.read(words, {})
    assert caught.value.lines() == [
        f"slurm-oci: error: only {count} word{'s' * (count > 1)} of oci.conf's line came: {shown};"
        " expected 8 words (BUNDLE SPOOL USER UID NODE JOB STEP TASK) and a command [request-shifted]",
        "  a `;`, `&`, `|`, `#` or line break in the image's path ended the line there, where oci.conf has"
        " %b without quotes, as in the Containers Guide",
        "  the site: install the oci.conf that `slurm-oci-plugins oci-conf` prints; you: use a path"
        " without them",
        "  to try a container without Slurm: slurm-oci-plugins run BUNDLE -- COMMAND",
    ]


def test_the_line_gives_the_command_where_the_bundle_is_a_dash():
    """With the shipped oci.conf, the words after the eighth are taken from the shell's own line."""
    line = "/bin/sh-c... # 'echo' 'a  b'"
    words = ["-", *FIRST[1:], "what", "the", "shell", "saw"]
    assert request.read(words, {"SLURM_OCI_LINE": line}).command == ("echo", "a  b")


def test_the_line_does_not_count_beside_a_bundle():
    """A user who sets SLURM_OCI_LINE himself changes nothing under the guide's line."""
    environ = {"SLURM_OCI_LINE": "x # 'rm'"}
    assert request.read([*FIRST, "echo"], environ).command == ("echo",)


def test_a_dash_without_a_line_is_a_name():
    """`--container=-` under the guide's line is passed on as it is."""
    assert request.read(["-", *FIRST[1:], "true"], {}).bundle == "-"


def test_a_line_that_cannot_be_read_is_never_guessed_at():
    """Text that is in neither of Slurm's two forms is refused."""
    with pytest.raises(LineUndecodable):
        request.read(["-", *FIRST[1:]], {"SLURM_OCI_LINE": "x # 'echo' it"})


@pytest.mark.parametrize(
    ("step", "kind", "name"),
    [
        (0, "step", "0"),
        (4294967291, "batch", "batch"),
        (4294967290, "interactive", "interactive"),
        (4294967292, "extern", "extern"),
    ],
)
def test_step_numbers_are_decoded(step, kind, name):
    """Steps that are no numbered ones are called as squeue(1) calls them."""
    made = request.read([*FIRST[:6], str(step), "0"], {})
    assert (made.step_kind, made.step_name) == (kind, name)


def test_words_are_bytes_that_the_operating_system_gave():
    """What is no UTF-8 goes through unchanged."""
    word = os.fsdecode(b"\xff\xfe\n")
    assert os.fsencode(request.read([*FIRST, word], {}).command[0]) == b"\xff\xfe\n"
