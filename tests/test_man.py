"""The manual pages: that `man` shows them without a complaint, and that they are shipped."""

import re
import shutil
import subprocess
import tomllib

import pytest
from conftest import ROOT

PAGES = sorted((ROOT / "man").iterdir())
SECTIONS = (
    *("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES"),
    "SEE ALSO",
)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def texts(page, macro):
    """What stands behind each `macro`."""
    return re.findall(rf"^\.{macro} (.*)$", page.read_text(), re.MULTILINE)


@every_page
@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
def test_mandoc_finds_nothing_wrong(page):
    """But that no page has a date: its text is as new as the program."""
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True)
    found = [line for line in (done.stdout + done.stderr).splitlines() if "missing date" not in line]
    assert found == []


@every_page
@pytest.mark.skipif(not shutil.which("man"), reason="man is not installed")
def test_man_shows_it_without_a_warning(page):
    """And with every section, by its own name."""
    done = subprocess.run(
        ["man", "--warnings=w", "-l", page], capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MAN_KEEP_FORMATTING": ""},
    )  # fmt: skip
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.count("\n") > 50
    assert not re.search(r"[^\x00-\x7f\u2010-\u2019]", done.stdout)


@every_page
def test_a_page_has_every_section_that_people_look_for(page):
    """The entry point has no options, but arguments."""
    expected = [
        ("ARGUMENTS" if page.suffix == ".8" else name) if name == "OPTIONS" else name for name in SECTIONS
    ]
    assert [name for name in expected if name not in texts(page, "SH")] == []
    title = page.stem.upper().replace("-", "\\-")
    assert texts(page, "TH")[0].startswith(f"{title} {page.suffix[1:]} ")


@every_page
def test_a_page_is_shipped(page):
    """In the folder where `man` looks for its section."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert data[f"man/{page.name}"] == f"share/man/man{page.suffix[1:]}/{page.name}"


@every_page
def test_pages_refer_to_each_other(page):
    """Each names the two others at its end."""
    seen = page.read_text().partition(".SH SEE ALSO")[2]
    others = [other.name.rpartition(".") for other in PAGES if other != page]
    assert [
        name for name, _, section in others if f"{name} ({section})".replace("-", "\\-") not in seen
    ] == []
