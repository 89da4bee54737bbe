"""`explain --oci-conf`: the line that Slurm would give to the shell, and what becomes of it."""

import json

import pytest
from click.testing import CliRunner

from slurm_oci import guide
from slurm_oci.cli import cli
from slurm_oci.ociconf import multi

COMMAND = ("echo", "it's", "")
OLD_QUOTE = (
    "%@: Slurm 24.11.5 writes the single quote in `it's` wrongly; 26.05.5 is right, and so is the"
    " line that `oci-conf` prints in every release"
)


@pytest.fixture
def explain(tmp_path, monkeypatch):
    """Explains a text as oci.conf, outside of any job; the exit status and the object."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    def run(text, version, image, *command):
        (tmp_path / "oci.conf").write_text(text)
        words = ["explain", "--json", "--oci-conf", f"{tmp_path}/oci.conf", "--slurm-version", version]
        done = CliRunner().invoke(cli, [*words, image, "--", *command], catch_exceptions=False)
        return done.exit_code, json.loads(done.output)

    return run


@pytest.mark.parametrize("version", ["23.02", "24.11.5", "25.05", "26.05.5"])
def test_the_shipped_line_brings_every_word(explain, version):
    """In each release, quoted rightly or not, the entry point reads what the user wrote."""
    status, shown = explain(multi("/opt/slurm-oci"), version, "/a 'b", *COMMAND)
    assert (status, shown["command"], shown["faults"]) == (0, list(COMMAND), [])
    assert (shown["key"], shown["line"], shown["image"]) == ("RunTimeRun", 18, "/a 'b")
    program, *fields = shown["words"][1:]
    assert (program, fields[0], fields[3:][2:]) == ("/opt/slurm-oci/run", "-", [fields[5], "0", "0"])


def test_the_guides_line_is_shown_word_by_word(explain):
    """As the shell takes it apart, where nothing in it acts."""
    status, shown = explain(guide.example("multi"), "26.05.5", "/images/x", *COMMAND)
    user, uid, node = shown["words"][3:6]
    spool = "/var/spool/slurmd/oci-job0-0"
    assert status == 0
    assert shown["shell"] == (
        f"/opt/slurm-oci/run /images/x {spool} {user} {uid} {node} 0 0 0 'echo' 'it'\"'\"'s' ''"
    )
    assert shown["words"] == (
        ["/opt/slurm-oci/run", "/images/x", spool, user, uid, node, "0", "0", "0", *COMMAND]
    )


@pytest.mark.parametrize(
    ("version", "image", "command", "faults"),
    [
        ("26.05.5", "/a b", "x", ["%b: the shell reads `/a b` itself, since %b is not in quotes"]),
        ("26.05.5", "/a;b", "x", ["%b: the shell reads `/a;b` itself, since %b is not in quotes"]),
        ("26.05.5", "/a", "it's", []),
        ("26.05.4", "/a", "it's", [OLD_QUOTE.replace("24.11.5 writes", "26.05.4 may write")]),
        (
            "24.11.5",
            "/a",
            "it's",
            [OLD_QUOTE],
        ),
    ],
)
def test_what_the_guides_line_breaks_is_explained(explain, version, image, command, faults):
    """An unquoted path and an old release's quotes; exit status 1."""
    status, shown = explain(guide.example("multi"), version, image, command)
    assert (status, shown["faults"]) == (1 if faults else 0, faults)


def test_a_quote_in_a_quoted_path_is_explained(explain):
    """It ends the quotes around the letter."""
    text = "IgnoreFileConfigJson=true\nRunTimeRun=\"exec x '%b' %@\"\n"
    status, shown = explain(text, "26.05.5", "/a'b", "x")
    assert (status, shown["words"]) == (1, None)
    assert shown["acts"].startswith("a quote without its partner")
    assert shown["faults"] == ["%b: the single quote in `/a'b` ends the quotes around %b"]


BEHIND = "%@: it stands behind a comment sign, and the entry point takes it from there only with SLURM_OCI_LINE and"


@pytest.mark.parametrize(
    ("old", "new", "faults"),
    [
        ("run - '%m'", "run %b '%m'", ["%b: the shell reads `/a b` itself, since %b is not in quotes", f"{BEHIND} `-` in the place of %b"]),
        ("SLURM_OCI_LINE=", "LINE=", [f"{BEHIND} `-` in the place of %b"]),
        ("CreateEnvFile=null", "", ["%b: `-` stands for it, and without CreateEnvFile nothing says what it is"]),
    ],
)  # fmt: skip
def test_a_line_that_only_looks_like_the_shipped_one_has_faults(explain, old, new, faults):
    """The entry point takes nothing from the shell's line then, or nothing can tell it the image."""
    status, shown = explain(multi("/opt/slurm-oci").replace(old, new), "26.05.5", "/a b", "echo")
    assert (status, shown["faults"]) == (1, faults)
    assert (shown["command"] is None) == (BEHIND in faults[-1])


def as_text(tmp_path, text, *words):
    path = tmp_path / "oci.conf"
    path.write_text(text)
    done = CliRunner().invoke(cli, ["explain", "--oci-conf", str(path), *words])
    return done.output.replace(str(path), "FILE").splitlines()


def test_people_see_where_the_image_comes_from(tmp_path):
    """With the shipped file no word of the shell's is the image."""
    shown = as_text(
        tmp_path, multi("/opt/slurm-oci"), "--slurm-version", "24.11.5", "/a b", "--", "echo", "it's"
    )
    image = shown.index("image  (from SLURM_CONTAINER in the job's environment)")
    assert shown[2:5] == ["words  (as /bin/sh makes them)", "  exec", "  /opt/slurm-oci/run"]
    assert shown[image + 1 :] == [
        "  '/a b'",
        "command  (as the entry point reads it in the line above)",
        "  echo",
        "  'it'\"'\"'s'",
    ]


def test_people_see_bytes_and_line_breaks_as_what_they_are(tmp_path):
    """And not as the letters that look like them."""
    text = 'IgnoreFileConfigJson=true\nRunTimeRun="exec x %@"\n'
    words = ["--slurm-version", "26.05.5", "/a", "--", "a\nb", "a\\nb", "\udcff", "é", "\x80"]
    first, line, *_ = as_text(tmp_path, text, *words)
    assert first.endswith(r"Slurm 26.05.5; a backslash is shown as \\, a line break as \n, a byte as \xff)")
    assert line == r"  exec x 'a\nb' 'a\\nb' '\xff' 'é' '\u0080'"


def test_people_are_told_that_nothing_starts(tmp_path):
    """A quote without its partner is no work for a shell."""
    shown = as_text(tmp_path, guide.example("multi"), "--slurm-version", "26.05.5", "/a'b", "--", "x")
    assert shown[2] == "  the shell does not start it: a quote without its partner at `'`"


def test_people_are_told_which_release_is_assumed(tmp_path, monkeypatch):
    """Where there is no Slurm to ask, and none was named."""
    monkeypatch.setattr("slurm_oci.installed_slurm.found", lambda: None)
    first, *_ = as_text(tmp_path, guide.example("multi"), "/a", "--", "x")
    assert first == "/bin/sh -c  (RunTimeRun, FILE:3, Slurm 26.05.5, assumed: there is no slurmd here)"
    first, *_ = as_text(tmp_path, guide.example("multi"), "--slurm-version", "26.05.5", "/a", "--", "x")
    assert first == "/bin/sh -c  (RunTimeRun, FILE:3, Slurm 26.05.5)"


def test_a_bundle_is_the_tasks_own_where_slurm_fills_in_the_config(explain, tmp_path):
    """Without IgnoreFileConfigJson, %b is Slurm's directory and %r what config.json says."""
    (tmp_path / "config.json").write_text('{"root": {"path": "fs"}}')
    text = "ContainerPath=/spool\nRunTimeRun='%b','%r'\nRunTimeKill=x\nRunTimeDelete=x\n"
    status, shown = explain(text, "26.05.5", str(tmp_path), "x")
    assert (status, shown["words"]) == (0, [f"/spool/oci-job0-0/task-0,{tmp_path}/fs"])


def test_a_file_that_slurm_refuses_is_refused(tmp_path):
    """With the reason and where."""
    path = tmp_path / "oci.conf"
    path.write_text("RunTimeRun=x\n")
    done = CliRunner().invoke(cli, ["explain", "--oci-conf", str(path), "/images/x"])
    assert done.exit_code == 1
    assert str(done.exception) == (
        f"Slurm 26.05.5 does not take {path}:1: RunTimeDelete and RunTimeKill missing"
    )


def test_people_get_the_same_as_text(tmp_path):
    """The line, its words in quotes where a shell would want them, and the faults."""
    path = tmp_path / "oci.conf"
    path.write_text("IgnoreFileConfigJson=true\nRunTimeRun=\"exec x %b '%m' %@\"\n")
    words = ["explain", "--oci-conf", str(path), "--slurm-version", "26.05.5", "/a b", "--", "", "c d"]
    done = CliRunner().invoke(cli, words)
    number = done.output.partition("oci-job")[2].partition("-")[0]
    spool = f"/var/spool/slurmd/oci-job{number}-0"
    assert done.output.splitlines() == [
        f"/bin/sh -c  (RunTimeRun, {path}:2, Slurm 26.05.5)",
        f"  exec x /a b '{spool}' '' 'c d'",
        "words  (as /bin/sh makes them)",
        *("  exec", "  x", "  /a", "  b", f"  {spool}", "  ''", "  'c d'"),
        "fault: %b: the shell reads `/a b` itself, since %b is not in quotes",
    ]
