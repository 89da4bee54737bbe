"""Slurm's configuration files are read as Slurm reads them."""

import pytest
from hypothesis import given
from oci_conf_texts import files

from slurm_oci import accepted
from slurm_oci.conf import Conf, Entry, read
from slurm_oci.lint import CODES, lint
from slurm_oci.pattern import Version

KNOWN = ("RunTimeRun", "RunTimeKill", "EnvExclude")


@pytest.fixture
def write(tmp_path):
    """Writes a file into the test's folder; its path."""

    def put(text, name="oci.conf"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return put


def pairs(conf: Conf):
    return [(entry.line, entry.key, entry.value) for entry in conf.entries]


def kinds(conf: Conf):
    return [(fault.line, fault.kind) for fault in conf.faults]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('RunTimeRun="a b"', "a b"),
        ("RunTimeRun=a", "a"),
        ('  runtimerun = "a b"  ', "a b"),
        ('RunTimeRun+="a"', "a"),
        ('RunTimeRun=""', ""),
        ('RunTimeRun="a" # why', "a"),
        (r'RunTimeRun="a \# b"', "a # b"),
        (r'RunTimeRun="a \\# b"', '"a'),  # two backslashes are one, and the comment cuts the value
        (r'RunTimeRun="a\\\\b\c"', r"a\\bc"),
        ('RunTimeRun="a \\\nb"', "a b"),
        ('RunTimeRun="a \\ \t\nb"', "a b"),
        ('RunTimeRun="a"b', '"a"b'),
        (r"RunTimeRun=\"a\"b", '"a"b'),
        ("RunTimeRun='a'", "'a'"),
        ("RunTimeRun==a", "=a"),
        ("RunTimeRun=a\r\n", "a"),
        ("RunTimeRun=a\0 b", "a"),
    ],
)
def test_the_value_is_what_slurm_takes_it_for(write, text, value):
    """Quotes, backslashes, comments and continued lines end where Slurm ends them."""
    assert read(write(text), KNOWN).value("RunTimeRun") == value


@pytest.mark.parametrize(
    "text",
    [
        "RunTimeRun=a b",
        'RunTimeRun="a b',
        r'RunTimeRun="say \"x y\""',
        'RunTimeRun="a" RunTimeKill="b"',
        "RunTimeRun=",
        "RunTimeRun",
        "'RunTimeRun=a'",
        "RunTimeRun='a b'",
    ],
)
def test_what_is_left_over_in_a_line_is_a_fault(write, text):
    """One key and its value fill a line; a double quote inside a value cannot be written."""
    assert kinds(read(write("# first\n" + text + "\n"), KNOWN)) == [(2, "syntax")]


@pytest.mark.parametrize(("text", "is_said"), [('RunTimeRun="a b', True), ("RunTimeRun=a b", False)])
def test_a_double_quote_that_nothing_closes_is_said(write, text, is_said):
    """Rather than that blanks belong into quotes alone."""
    (fault,) = read(write(text + "\n"), KNOWN).faults
    assert fault.message.endswith(", whose closing double quote is missing") == is_said


def test_a_fault_names_the_cure(write):
    """An unknown key is answered with the nearest one there is."""
    (fault,) = read(write('\nOCIRunTimeRun="a"\n'), KNOWN).faults
    assert (fault.line, fault.message, fault.cure) == (
        2,
        "Slurm knows no key `OCIRunTimeRun` here",
        "did you mean `RunTimeRun`?",
    )


def test_lines_are_counted_as_an_editor_counts_them(write):
    """A continued line is where it begins, and those behind it keep their numbers."""
    text = '\n# c\nRunTimeRun="a \\\n b \\\n c"\n\nRunTimeKill=x\n'
    assert pairs(read(write(text), KNOWN)) == [(3, "RunTimeRun", "a  b  c"), (7, "RunTimeKill", "x")]


def test_a_comment_does_not_go_on(write):
    """A backslash at the end of a comment is a part of it."""
    assert pairs(read(write("# a \\\nRunTimeRun=x\n"), KNOWN)) == [(2, "RunTimeRun", "x")]


def test_an_included_file_is_read_in_its_place(write):
    """Entries come in the order of Slurm, each with its own file; the last one counts."""
    outer, inner = "RunTimeRun=a\nInclude inner.conf\nRunTimeKill=k\n", "RunTimeRun=b\n"
    path, other = write(outer), write(inner, "inner.conf")
    conf = read(path, KNOWN)
    assert list(conf.entries) == [
        Entry("RunTimeRun", "a", path, 1),
        Entry("RunTimeRun", "b", other, 1),
        Entry("RunTimeKill", "k", path, 3),
    ]
    assert conf.value("runtimerun") == "b"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Include missing.conf\n", "include"),
        ("Include inner*.conf\n", "include"),
        ("Include %c.conf\n", "include"),
        ("Include inner.conf x\n", "include"),
        ("Include oci.conf\n", "include"),
        ("Include inner.conf", "include-end"),
        ("Include inner.conf# c\n", "include-end"),
        ("Include \n", "include-end"),
        (" Include inner.conf\n", "syntax"),
    ],
)
def test_an_include_that_slurm_cannot_follow_is_a_fault(write, text, kind):
    """Missing files, patterns, circles and a name that touches the line's end."""
    write("RunTimeRun=a\n", "inner.conf")
    assert {fault.kind for fault in read(write(text), KNOWN).faults} == {kind}


def test_slurm_conf_has_many_keys_in_a_line(write):
    """Without a list of keys, all pairs are taken and none is a fault."""
    conf = read(write("NodeName=n[1-2] CPUs=4\nLaunchParameters=a,b # c\nwhat is this\n"))
    assert pairs(conf) == [(1, "NodeName", "n[1-2]"), (1, "CPUs", "4"), (2, "LaunchParameters", "a,b")]
    assert conf.faults == ()


@given(files())
def test_any_file_is_read_and_linted(tmp_path_factory, texts):
    """No file whatever makes the reader or the linter fail, and every fault has a code."""
    folder = tmp_path_factory.mktemp("conf")
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    path = str(folder / "oci.conf")
    for version in (Version((23, 2, 0)), Version((26, 5, 5))):
        found = lint(path, version)
        assert all(finding.code in CODES and finding.message and finding.cure for finding in found)
        refused = {fault.kind for fault in accepted.refusals(read(path, accepted.KEYS), path, version)}
        assert refused <= {finding.code for finding in found if finding.severity == "rejected"}
