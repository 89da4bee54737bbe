"""What README and docs say is what the program does."""

import ast
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
from conftest import job

from slurm_oci import Plan, Runtime, definition, settings, state
from slurm_oci.cli import COMMANDS
from slurm_oci.pattern import LETTERS
from slurm_oci.site import RULE_KEYS, Defined, Site
from slurm_oci.site import read as read_site
from slurm_oci.values import Settings

PROJECT = Path(__file__).resolve().parent.parent
PAGES = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted(PROJECT.glob("docs/*.md"))]
SCRIPTS = Path(sys.executable).parent  # where slurm-oci-plugins lies
BLOCK = re.compile(r"(?:<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

BWRAP = """#!/bin/sh
[ "$1" = --version ] && exec echo 'bubblewrap 0.8.0'
echo "${0##*/}" "$@"
"""


def blocks(mark: str) -> list:
    """The fenced blocks that the comment `mark` precedes, by page."""
    found = [
        (page, block[3]) for page in PAGES for block in BLOCK.finditer(page.read_text()) if block[1] == mark
    ]
    return [pytest.param(text, id=f"{page.name}-{number}") for number, (page, text) in enumerate(found)]


def rows(page: str, heading: str) -> dict[str, str]:
    """The table whose first line begins with `heading`: what is in its first column, and the rest."""
    text = (PROJECT / page).read_text()
    table = text[text.index(f"\n| {heading} |") :].strip().partition("\n\n")[0]
    lines = [line.strip("| ").partition(" | ") for line in table.splitlines()[2:]]
    return {first: rest for first, _, rest in lines}


def names(text: str) -> list[str]:
    """What is in back-ticks, each."""
    return re.findall(r"`([^`]+)`", text)


def test_parts_made_from_the_code_are_up_to_date():
    """Errors, commands, kinds, runtimes and the example: `python docs/generate.py` mends them."""
    done = subprocess.run(
        [sys.executable, PROJECT / "docs" / "generate.py", "--check"], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize("text", blocks("run"))
def test_sessions_in_the_docs_are_real(text, tmp_path):
    """Each command of a session prints what stands below it."""
    places = {"PREFIX": tmp_path / "prefix", "BIN": tmp_path / "bin", "IMAGE": tmp_path / "image"}
    for folder in (*places.values(), places["PREFIX"] / "plugins.d", tmp_path / "home"):
        folder.mkdir()
    for name in ("bin", "dev", "proc", "sys", "tmp"):
        (places["IMAGE"] / name).mkdir()
    (places["IMAGE"] / "bin" / "echo").write_text("")
    (places["BIN"] / "bwrap").write_text(BWRAP)
    (places["BIN"] / "bwrap").chmod(0o755)
    (places["BIN"] / "slurm-oci-plugins").symlink_to(SCRIPTS / "slurm-oci-plugins")
    done = subprocess.run(
        ["bash", "-c", session(text)],
        env={
            **{name: str(path) for name, path in places.items()},
            "DOCS": str(PROJECT / "docs"),
            "PATH": f"{places['BIN']}:/usr/bin:/bin",
            "HOME": str(tmp_path / "home"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    shown = done.stdout
    for name, path in places.items():
        shown = shown.replace(str(path), f"${name}")
    assert shown == text


def session(text: str) -> str:
    """A script that prints each command of a session before its output."""
    commands = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    return "\n".join(f"cat <<'COMMAND'\n$ {command}\nCOMMAND\n{command}" for command in commands)


@pytest.mark.parametrize("text", blocks("site.toml"))
def test_a_site_toml_in_the_docs_is_valid_and_uses_every_key(text, tmp_path):
    """The file that shows every key is read without an error, and shows every key."""
    path = tmp_path / "site.toml"
    path.write_text(text)
    site = read_site(str(path))
    assert [
        name for name in attrs.fields_dict(Site) if not re.search(rf"^\[*{name}\b", text, re.MULTILINE)
    ] == []
    assert attrs.asdict(site)["runtimes"]["mytool"]["accepts"] == ["rootfs", "oci-bundle"]


@pytest.mark.parametrize("text", blocks("environment"))
def test_an_environment_definition_in_the_docs_is_valid(text, tmp_path):
    """It is read as the table below it says."""
    (tmp_path / "data").mkdir()
    (tmp_path / "common.toml").write_text("slurm = true\n")
    path = tmp_path / "env.toml"
    path.write_text(text.replace("/project/", "./"))
    found = definition.read(str(path), job({"HOME": str(tmp_path)}, cwd=str(tmp_path)))
    made = settings.combine(found.layers, "/")
    assert found.image == "/images/tools.sqsh"
    assert [(mount.source, mount.target, mount.readonly) for mount in made.mounts] == [
        ("/tmp", "/scratch", False),
        (f"{tmp_path}/data", "/data", True),
    ]
    assert made.replace(mounts=(), origins={}) == Settings(
        runtime="charliecloud",
        workdir="/scratch",
        home="none",
        slurm="yes",
        variables={"OMP_NUM_THREADS": "4", "LC_ALL": ""},
    )


def test_every_toml_block_is_tested():
    """A block without its mark would be read by nobody but people."""
    found = [block[1] for page in PAGES for block in BLOCK.finditer(page.read_text()) if block[2] == "toml"]
    assert sorted(found) == ["environment", "site.toml", "site.toml of its own"]


@pytest.mark.parametrize("text", blocks("site.toml of its own"))
def test_a_piece_of_a_site_toml_in_the_docs_is_valid(text, tmp_path):
    """As a file by itself."""
    (tmp_path / "site.toml").write_text(text)
    assert read_site(str(tmp_path / "site.toml")) != Site()


SHOWN = ("run", "from the demo", "on slurm", "on a fresh machine")  # how outputs in the docs are proved


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_every_output_that_a_page_shows_is_proved(page):
    """By a test that runs the session (tests/real/test_howto.py does on Slurm); one without a mark shows
    commands alone."""
    for block in BLOCK.finditer(page.read_text()):
        if block[2] == "console" and block[1] not in SHOWN:
            assert [line for line in block[3].splitlines() if line[:2] not in ("$ ", "# ", "> ")] == []


def test_every_command_stands_in_a_session():
    """With what it really printed."""
    found = [block[3] for page in PAGES for block in BLOCK.finditer(page.read_text()) if block[1] in SHOWN]
    called = set(re.findall(r"slurm-oci-plugins +([a-z-]+)", "\n".join(found)))
    assert [name for name in COMMANDS if name not in called] == []


def test_the_site_and_the_readme_lead_to_every_page():
    """A page that no list names is found by nobody."""
    index, readme = ((PROJECT / path).read_text() for path in ("docs/index.md", "README.md"))
    for page in PROJECT.glob("docs/*.md"):
        if page.name not in ("index.md", "changelog.md"):
            assert f"(docs/{page.name})" in readme, page.name
            assert re.search(rf"^{page.stem}$", index, re.MULTILINE) or page.stem.startswith("howto-"), (
                page.name
            )


def test_readme_lists_every_setting_with_its_values_in_order():
    """The default stands first."""
    table = {names(name)[0]: names(rest) for name, rest in rows("README.md", "variable").items()}
    assert sorted(table) == sorted(settings.PREFIX + name.upper() for name in settings.NAMES)
    for name, values in settings.CHOICES.items():
        assert tuple(table[settings.PREFIX + name.upper()][: len(values)]) == values


def test_settings_page_lists_every_setting_with_its_values_in_order():
    """The same under the names that the files use."""
    table = {
        names(name)[0]: rest.partition(" | ")[0] for name, rest in rows("docs/settings.md", "setting").items()
    }
    assert sorted(table) == sorted(settings.NAMES)
    assert {name: tuple(names(table[name])) for name in settings.CHOICES} == settings.CHOICES


def test_definitions_page_lists_every_key_of_an_environment_definition():
    """No more and no fewer than the reader takes."""
    keys = [key for first in rows("docs/definitions.md", "key") for key in names(first)]
    assert sorted(keys) == sorted(definition.KEYS)


def test_site_page_lists_every_key():
    """Of site.toml, of its rules and of a runtime in it."""
    table = rows("docs/site.md", "key")
    assert [names(first)[0] for first in table] == list(attrs.fields_dict(Site))
    assert [key for key in RULE_KEYS if key not in names(table["`rules`"])] == []
    assert [key for key in attrs.fields_dict(Defined) if key not in names(table["`runtimes`"])] == []


def test_site_page_lists_every_letter():
    """All of oci.conf's."""
    letters = [letter for first in rows("docs/site.md", "letter") for letter in names(first)]
    assert sorted(letters) == sorted("%" + letter for letter in LETTERS)


def test_plugin_page_lists_every_field_of_a_runtime_and_of_a_plan():
    """In the order of the code."""
    assert [names(first)[0] for first in rows("docs/plugins.md", "field")] == list(Runtime.fields)
    text = (PROJECT / "docs" / "plugins.md").read_text()
    about_plans = text[text.index("## A plan") :]
    assert [name for name in Plan.fields if f"`{name}`" not in about_plans] == []


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_commands_that_a_page_names_exist(page):
    """`slurm-oci-plugins` has every command that the docs tell people to use."""
    found = re.findall(r"slurm-oci-plugins(?: +--prefix \S+)? +([a-z][a-z-]+)", page.read_text())
    assert [name for name in found if name not in COMMANDS] == []


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_links_lead_somewhere(page):
    """Every relative link is a file of the project."""
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).is_file()] == []


@pytest.mark.parametrize(
    "program", ["benchmarks/run.py", "tests/fuzz.py", "tests/real/slurm_root.py", "tests/real/soak.py"]
)
def test_a_program_that_pages_name_starts_by_itself(program):
    """Where pytest has not made its folders importable."""
    done = subprocess.run([sys.executable, PROJECT / program, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


def test_oci_conf_is_explained_line_by_line():
    """The explanation quotes every setting of the shipped file, in its order."""
    shipped = (PROJECT / "opt-slurm-oci" / "oci.conf").read_text().splitlines()
    text = (PROJECT / "docs" / "slurm.md").read_text()
    blocks = [block[3] for block in BLOCK.finditer(text) if block[2] != "sh"]
    quoted = [line for block in blocks for line in block.splitlines()]
    assert quoted == [line for line in shipped if line and not line.startswith("#")]


def test_line_for_tmpfiles_is_the_one_that_install_writes():
    """An admin who pastes it gets the directory that the program looks for."""
    text = (PROJECT / "docs" / "install.md").read_text()
    assert f"\nd {state.BASE} 1777 root root -\n" in text


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's output, and where it was to leave nothing."""
    scratch = tmp_path_factory.mktemp("demo")
    for name in ("home", "tmp", "cache"):
        (scratch / name).mkdir()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(scratch / "home"),
        "TMPDIR": str(scratch / "tmp"),
        "XDG_CACHE_HOME": str(scratch / "cache"),
        "VIRTUAL_ENV": sys.prefix,
    }
    done = subprocess.run(
        ["bash", PROJECT / "tests" / "demo.sh"],
        cwd="/",
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return done, scratch


def test_demo_ends_well_and_leaves_nothing(demo):
    """Neither its image nor, in an environment that has the program, anything else."""
    done, scratch = demo
    assert (done.stderr, done.returncode) == ("", 0)
    assert sorted(path.name for path in scratch.rglob("*")) == ["cache", "home", "tmp"]


@pytest.mark.parametrize("transcript", blocks("from the demo"))
def test_readme_shows_what_the_demo_shows(demo, transcript):
    """Line by line and in order, except where `…` stands for lines left out."""
    done, scratch = demo
    shown = re.sub(rf"{scratch}/tmp/slurm-oci-demo\.\w+", "/tmp/demo", done.stdout)
    expected = transcript.splitlines()
    if other_runtimes_for_directories():
        expected = [line for line in expected if "unshare" not in line]
    rest = iter(shown.splitlines())
    assert [line for line in expected if line != "…" and line not in rest] == []


def other_runtimes_for_directories() -> list[str]:
    """Those that this machine would use before the built-in one."""
    done = subprocess.run(
        [SCRIPTS / "slurm-oci-plugins", "list", "--json"], capture_output=True, text=True, check=True
    )
    usable = [entry for entry in json.loads(done.stdout) if entry["usable"] and "rootfs" in entry["accepts"]]
    return [entry["name"] for entry in usable if entry["name"] != "unshare"]


def test_every_error_says_what_to_do():
    """A line below it, at each place in the code that makes one; what plugins raise gets a general one."""
    sys.path.insert(0, str(PROJECT / "docs"))
    import generate

    known = {problem.__name__ for problem in generate.problems()}
    without = []
    for path in [*PROJECT.glob("dispatch/**/*.py"), *PROJECT.glob("plugins/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and len(node.args) == 1:
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in known and not isinstance(node.args[0], ast.Name | ast.Call):
                    without.append(f"{path.name}:{node.lineno}")
    assert without == []


def test_every_error_on_the_page_has_its_cure():
    """Also those whose cures are put together when something is wrong."""
    lines = (PROJECT / "docs/errors.md").read_text().partition("made from the code")[2].splitlines()
    pairs = [(line, below) for line, below in pairwise(lines) if line.startswith("* ")]
    assert [line for line, below in pairs if not below.startswith("    * ")] == []
