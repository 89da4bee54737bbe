"""`slurm-oci-plugins`, as installed: what it prints, its JSON, and how it ends."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from conftest import ORDINARY, OWN_UID, ROOT, Ended, Slurm, tree

from slurm_oci import installation, ociconf, scrun
from slurm_oci.cache import BASE
from slurm_oci.choose import ORDER
from slurm_oci.cli import COMMANDS
from slurm_oci.launch import Launch
from slurm_oci.site import Images, Site

TOOL = '\n[runtimes.tool]\nrun = ["tool", "%b", "--", "%@"]\naccepts = ["rootfs"]\nsummary = "a tool"\n'


@pytest.fixture
def image(place):
    folder = place / "image"
    (folder / "bin").mkdir(parents=True)
    for name in ("echo", "sh"):
        (folder / "bin" / name).write_text("")
    return folder


@pytest.fixture
def tool(slurm, stand_in):
    """A runtime of the site's, on a node that has no other but the fallback."""
    path = slurm.prefix / "site.toml"
    path.write_text('order = ["tool"]\n' + path.read_text() + TOOL)
    return stand_in("tool", "exit 7", "tool 1.2.3")


def ask(slurm: Slurm, *words: object, **options) -> Ended:
    """Calls the command as the user."""
    return slurm.call(*words, program="bin/slurm-oci-plugins", **options)


def told(slurm: Slurm, *words: object, status: int = 0):
    """What the command prints as JSON."""
    ended = ask(slurm, *words)
    assert (ended.status, ended.err) == (status, "")
    return json.loads(ended.out)


# The command itself


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help(slurm, name):
    """Whose first sentence is the command's own."""
    ended = ask(slurm, name, "--help")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: slurm-oci-plugins {name} ")


def test_help_lists_every_command(slurm):
    """In the order of use."""
    text = ask(slurm, "--help").out.partition("Commands:")[2]
    assert [
        line.split()[0] for line in text.splitlines() if line.startswith("  ") and line[2] != " "
    ] == list(COMMANDS)


@pytest.mark.parametrize("words", [["lst"], ["--no-such"], ["show"], ["run"], ["explain"], ["list", "more"]])
def test_wrong_usage_ends_with_2(slurm, words):
    """And says what is wrong; a near name is offered."""
    ended = ask(slurm, *words)
    assert (ended.status, ended.out) == (2, "")
    assert "Error: " in ended.err
    assert ("Did you mean 'list'?" in ended.err) == (words == ["lst"])


@pytest.mark.parametrize("name", ["list", "site"])
def test_a_site_toml_that_is_wrong_is_a_finding(slurm, name):
    """1, with file and line, and no traceback."""
    (slurm.prefix / "site.toml").write_text("\noder = []\n")
    ended = ask(slurm, name)
    assert (ended.status, ended.out, ended.code) == (1, "", "site-invalid")
    assert f"{slurm.prefix}/site.toml:2: there is no `oder`; did you mean `order`?" in ended.err


# list and show

LISTED = ("name", "summary", "source", "accepts", "executable", "version", "usable", "reason")


def test_list_tells_of_every_runtime(slurm, tool):
    """In the order in which they are tried, and what was put aside last."""
    (slurm.prefix / "plugins.d/bad.py").write_text("raise ValueError('no')")
    found = told(slurm, "list", "--json")
    assert all(tuple(entry) == LISTED for entry in found)
    by_name = {entry["name"]: entry for entry in found}
    assert found[0] == {
        "name": "tool",
        "summary": "a tool",
        "source": f"{slurm.prefix}/site.toml",
        "accepts": ["rootfs"],
        "executable": str(tool.path),
        "version": "tool 1.2.3",
        "usable": True,
        "reason": None,
    }
    assert by_name["unshare"]["executable"] is None
    assert by_name["unshare"]["usable"] is True
    assert found[-1] == {
        "name": "bad.py",
        "summary": "",
        "source": f"{slurm.prefix}/plugins.d/bad.py",
        "accepts": [],
        "executable": None,
        "version": None,
        "usable": False,
        "reason": "no",
    }


def test_list_prints_the_same_for_people(slurm, tool):
    """Two lines a runtime."""
    ended = ask(slurm, "list")
    assert (ended.status, ended.err) == (0, "")
    first, second = ended.out.splitlines()[:2]
    assert first.split() == ["yes", "tool", str(tool.path), "tool", "1.2.3"]
    assert second.strip() == f"rootfs  (from {slurm.prefix}/site.toml)"
    assert {line[:5] for line in ended.out.splitlines()[::2]} <= {"yes  ", "no   "}


def test_show_tells_all_of_one_runtime(slurm, tool):
    """What `list` tells, and what it can express."""
    found = told(slurm, "show", "tool", "--json")
    (listed,) = [entry for entry in told(slurm, "list", "--json") if entry["name"] == "tool"]
    assert {name: found[name] for name in LISTED} == listed
    assert (found["executables"], found["carries"], found["variables"]) == (["tool"], [], [])
    assert "version:     tool 1.2.3\n" in ask(slurm, "show", "tool").out


def test_show_of_an_unknown_name_offers_a_near_one(slurm):
    """1."""
    ended = ask(slurm, "show", "aptainer")
    assert (ended.status, ended.code) == (1, "runtime-unknown")
    assert "did you mean `apptainer`?" in ended.err


# explain and run


def test_explain_tells_what_would_be_done(slurm, tool, image):
    """Whole, as data: the decision step by step, the plan, and what of the environment changes."""
    slurm.environ = {"API_TOKEN": "abc", "LD_PRELOAD": "", "A": "1"}
    slurm.environ |= {"HOME": str(slurm.home), "SLURM_OCI_ENV": "all", "SLURM_OCI_USER_HOOK": "no"}
    found = told(slurm, "explain", "--json", image, "--", "/bin/echo", "it's", "")
    assert found["image"] == {"name": str(image), "path": str(image), "kind": "rootfs"}
    assert (found["runtime"], found["mode"]) == ("tool", "exec")
    assert found["argv"] == [str(tool.path), str(image), "--", "/bin/echo", "it's", ""]
    assert (found["prepare"], found["cleanup"]) == ([], [])
    assert set(found["env"]) == {"set", "unset"}
    assert all(set(step) == {"step", "result", "why"} for step in found["trace"])
    steps = [(step["step"], step["result"]) for step in found["trace"] if step["step"] != "catalog"]
    assert steps == [("environment", "process"), ("hook", "no"), ("image", "rootfs"), ("runtime", "tool")]
    assert found["settings"]["env"] == {"value": "all", "from": "SLURM_OCI_ENV"}
    assert "abc" not in json.dumps(found)
    assert tool.calls == []


def test_the_docs_name_every_member_of_the_json(slurm, tool, image, place):
    """In the table of docs/commands.md; the other commands' are on pages of their own."""
    text = (ROOT / "docs" / "commands.md").read_text().partition("## JSON")[2]
    table = dict(re.findall(r"^\| `([^`]+)` \|(.*)$", text, re.MULTILINE))
    shown = {
        "list": told(slurm, "list", "--json")[0],
        "show": told(slurm, "show", "tool", "--json"),
        "explain": told(slurm, "explain", "--json", image) | told(slurm, "explain", "--json", "/-", status=1),
        "oci-conf": told(slurm, "oci-conf", "--json", "--slurm-version", "24.11.5"),
        "explain --oci-conf": attrs.fields_dict(Launch),
        "scrun": attrs.fields_dict(scrun.File) | attrs.fields_dict(scrun.Written),
    }
    shown["show"] = set(shown["show"]) - set(LISTED)
    missing = {name: [m for m in found if f"`{m}`" not in table[name]] for name, found in shown.items()}
    assert missing == {name: [] for name in shown}


def test_a_prefix_that_is_not_there_is_named(slurm):
    """Nothing is answered for another installation in its place."""
    for words in (["list"], ["site"], ["gc", "--dry-run"], ["oci-conf"]):
        ended = ask(slurm, "--prefix", "/no/where", *words)
        assert (ended.status, "there is no directory `/no/where`" in ended.err) == (2, True)


def test_explain_hides_what_looks_like_a_secret(slurm, tool, image, place):
    """A value that is set for the container alone, too."""
    definition = place / "env.toml"
    definition.write_text(f'image = "{image}"\n[env]\nMY_TOKEN = "abc"\nPLAIN = "def"\n')
    found = told(slurm, "explain", "--json", definition, status=1)
    assert found["error"]["code"] == "setting-refused"
    slurm.environ["SLURM_OCI_RUNTIME"] = "unshare"
    found = told(slurm, "explain", "--json", definition, "--", "/bin/sh")
    assert (found["env"]["set"]["MY_TOKEN"], found["env"]["set"]["PLAIN"]) == ("********", "def")
    assert "abc" not in json.dumps(found)


def test_explain_names_the_user_s_hook(slurm, tool, image):
    """As what would take over."""
    path = slurm.hook("#!/bin/sh\n")
    found = told(slurm, "explain", "--json", image, "--", "x")
    assert (found["runtime"], found["argv"][0], found["argv"][-1]) == ("user hook", str(path), "x")
    assert found["image"] == {"name": str(image), "path": str(image), "kind": "rootfs"}
    assert found["hints"] == ["SLURM_OCI_USER_HOOK=no shows what happens after it hands back"]
    assert told(slurm, "explain", "--json", "/no/where", "--", "x")["image"]["kind"] == ""
    path.chmod(0o777)
    found = told(slurm, "explain", "--json", image, status=1)
    step = found["trace"][-1]
    assert (step["step"], step["result"], found["error"]["code"]) == ("hook", "refused", "hook-unsafe")
    assert "can be written by everybody" in step["why"]


def test_explain_tells_what_a_setting_came_over(slurm, tool, image, place):
    """And what the container's PATH is, which is none of the job's."""
    slurm.environ |= {"SLURM_OCI_WORKDIR": "/tmp", "SLURM_OCI_RUNTIME": "unshare"}
    base, definition = place / "base.toml", place / "env.toml"
    base.write_text(f'image = "{image}"\nworkdir = "/a"\n')
    definition.write_text(f'base_environment = "{base}"\nworkdir = "/b"\n')
    found = told(slurm, "explain", "--json", definition)
    over = [
        {"value": "/b", "from": f"`workdir` in {definition}:2"},
        {"value": "/a", "from": f"`workdir` in {base}:2"},
    ]
    assert found["settings"]["workdir"] == {"value": "/tmp", "from": "SLURM_OCI_WORKDIR", "over": over}
    assert found["container_env"]["image"] == ["PATH"]
    assert "PATH" not in found["container_env"]["unset"]
    text = ask(slurm, "explain", definition).out
    assert f"workdir=/tmp  (SLURM_OCI_WORKDIR, over /b of `workdir` in {definition}:2, over /a of" in text
    assert "\n  from the image, or standard: PATH\n" in text


def test_explain_of_what_is_unpacked_first_promises_no_plan(slurm, tool, place, stand_in):
    """It is made then."""
    stand_in("umoci")
    stand_in("crun")
    layout = place / "layout"
    layout.mkdir()
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    digest = "sha256:" + "a" * 64
    (layout / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": [{"digest": digest, "mediaType": "x", "size": 1}]})
    )
    slurm.environ["SLURM_OCI_RUNTIME"] = "crun"
    found = told(slurm, "explain", "--json", layout)
    assert (found["mode"], found["argv"], found["import"]["importer"]) == (None, [], "umoci")
    assert "the plan is made when the image is unpacked" in ask(slurm, "explain", layout).out


def test_a_supervised_command_is_not_shown_as_one_to_paste(slurm, tool, image, place, stand_in):
    """Its paths are made before."""
    stand_in("crun")
    (place / "config.json").write_text('{"root": {"path": "image"}}')
    slurm.environ["SLURM_OCI_RUNTIME"] = "crun"
    lines = ask(slurm, "explain", place, "/bin/sh").out.splitlines()
    beside = lines[lines.index("command  (supervise)") + 1]
    assert beside == "  needs what `before` makes: `slurm-oci-plugins run …` does all of it"


def test_explain_of_what_cannot_be_done_tells_how_far_it_came(slurm, tool):
    """1, with the error in the same form."""
    found = told(slurm, "explain", "--json", "/no/where", status=1)
    assert set(found) == {"trace", "error"}
    assert found["error"]["code"] == "image-missing"
    ended = ask(slurm, "explain", "/no/where")
    assert (ended.status, ended.err) == (1, "")
    assert "there is no image at `/no/where`" in ended.out


def test_options_are_options_on_both_sides_of_the_image(slurm, tool, image):
    """And what looks like one is never the command, unless it stands after `--`."""
    slurm.environ["HOME"] = str(slurm.home)
    before = told(slurm, "explain", "--json", image, "--", "/bin/sh")
    assert told(slurm, "explain", image, "--json", "--", "/bin/sh") == before
    assert told(slurm, "explain", image, "--json", "/bin/sh") == before
    assert told(slurm, "explain", image, "--json")["argv"][-1] == "/bin/sh"
    assert told(slurm, "explain", "--json", image, "/bin/sh", "--json")["argv"][-1] == "--json"
    for words in (["explain", image, "--jsn"], ["run", image, "--json", "/bin/sh"], ["run", image, "-x"]):
        ended = ask(slurm, *words)
        assert (ended.status, "a COMMAND that begins with '-' after '--'" in ended.err) == (2, True)
    assert tool.calls == []
    assert ask(slurm, "run", image, "--", "./-x").status == 7


def test_a_bundle_s_own_command_is_what_runs_without_another(slurm, tool, image, place):
    """In `explain` and in `run`; an image that has none is refused by name."""
    slurm.environ |= {"HOME": str(slurm.home), "SLURM_OCI_RUNTIME": "unshare"}
    (place / "config.json").write_text(
        json.dumps({"root": {"path": str(image)}, "process": {"args": ["/bin/echo", "own"]}})
    )
    assert told(slurm, "explain", "--json", place)["argv"][-2:] == ["/bin/echo", "own"]
    ended = ask(slurm, "run", place)
    assert (ended.status, ended.code, "`/bin/echo`" in ended.err) == (126, "runtime-failed", True)
    del slurm.environ["SLURM_OCI_RUNTIME"]
    ended = ask(slurm, "run", image)
    assert (ended.status, ended.code) == (125, "request-malformed")


def test_explain_leaves_nothing(slurm, image, place):
    """Also where the plan has a private directory: nothing is made, not even the user's root."""
    (place / "config.json").write_text('{"root": {"path": "image"}}')
    (place / "bin").mkdir()
    (place / "bin/crun").write_text("#!/bin/sh\n")
    (place / "bin/crun").chmod(0o755)
    slurm.environ["SLURM_OCI_RUNTIME"] = "crun"
    slurm.set_up()
    before = tree(place)
    found = told(slurm, "explain", "--json", place, "--", "/bin/sh")
    after = tree(place)
    assert found["mode"] == "supervise"
    assert found["cleanup"][-1][0] == "remove"
    new = {name for name in after if name not in before}
    assert new <= {"passwd", "spool/task-0/environment"}  # which the test itself writes


def test_run_starts_what_explain_shows(slurm, tool, image):
    """With the same words, and ends as the command does."""
    slurm.environ["HOME"] = str(slurm.home)
    for dashes in (["--"], []):
        ended = ask(slurm, "run", image, *dashes, "/bin/echo", "-x", "--help", "it's")
        assert (ended.status, ended.out, ended.err) == (7, "", "")
    argv = told(slurm, "explain", "--json", image, "--", "/bin/echo", "-x", "--help", "it's")["argv"]
    assert [call.argv for call in tool.calls] == [argv, argv]


def test_run_s_own_failures_have_slurm_s_numbers(slurm, tool, image):
    """125 to 127, as under Slurm."""
    assert ask(slurm, "run", "/no/where", "x").status == 125
    slurm.environ["SLURM_OCI_RUNTIME"] = "nothing"
    ended = ask(slurm, "run", image, "/bin/sh")
    assert (ended.status, ended.code) == (127, "runtime-unknown")


@pytest.mark.parametrize("number", ["rubbish", "-1", "7_7", "²"])
def test_a_job_s_number_that_is_none_is_no_failure(slurm, tool, image, number):
    """Outside of a job SLURM_JOB_ID may hold anything."""
    slurm.environ["SLURM_JOB_ID"] = number
    assert ask(slurm, "run", image, "/bin/sh").status == 7


# site and oci-conf


def test_site_tells_each_setting_and_where_it_comes_from(slurm):
    """The file's or the built-in one."""
    path = slurm.prefix / "site.toml"
    path.write_text(
        'user_hook = false\norder = ["unshare"]\n[defaults]\nenv = "slurm"\n[forced]\nhome = "none"\n'
        '[[rules]]\nuser = "alice"\nenv = "all"\n'
    )
    found = told(slurm, "site", "--json")
    assert found["user_hook"] == {"value": False, "from": str(path), "line": 1}
    assert found["pull"] == {"value": False, "from": "built-in", "line": None}
    assert list(found) == [*attrs.fields_dict(Site), "settings", "findings"]
    rest = [name for name in ORDER if name != "unshare"]
    assert found["order"]["value"][0] == "unshare"
    assert sorted(found["order"]["value"][1:]) == sorted(rest)
    assert (found["order"]["from"], found["order"]["line"]) == (str(path), 2)
    assert found["images"]["value"]["cache"] == BASE
    of_jobs = found["settings"]
    free = {"forced": False, "rules": []}
    assert of_jobs["gpu"] == {"value": "auto", "from": "built-in", "line": None, **free}
    rules = [{"rule": 1, "value": "all", "line": 9}]
    assert of_jobs["env"] == {"value": "slurm", "from": str(path), "line": 4, "forced": False, "rules": rules}
    assert of_jobs["home"] == {"value": "none", "from": str(path), "line": 6, "forced": True, "rules": []}
    assert of_jobs["user_hook"] == {"value": "no", "from": str(path), "line": 1, "forced": True, "rules": []}
    lines = ask(slurm, "site").out.splitlines()
    assert f"user_hook:       false  ({path}:1)" in lines
    assert f'home:       "none"  ({path}:6, forced on every job)' in lines
    assert f'env:        "slurm"  ({path}:4; "all" by rule 1 in line 9)' in lines


def test_oci_conf_prints_the_installation_s(slurm):
    """What `install` put beside the entry point."""
    ended = ask(slurm, "oci-conf")
    assert (ended.status, ended.out) == (0, ociconf.multi(str(slurm.prefix)))
    assert (slurm.prefix / "oci.conf").read_text() == ended.out


# install and uninstall


def install(*words: object, user: int = ORDINARY, umask: int = 0o022) -> Ended:
    """The checkout's own command, as a user who is not root: only his prefix may change."""
    ids = {} if OWN_UID else {"user": user, "group": user, "extra_groups": []}
    command = [sys.executable, "-m", "slurm_oci.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", umask=umask, **ids)
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def fresh(place):
    """An empty directory of the ordinary user's."""
    folder = place / "fresh"
    folder.mkdir()
    os.chown(folder, ORDINARY, -1)
    return folder


def test_install_puts_down_all_that_a_node_needs(installed):
    """Programs, one library, its oci.conf, the catalog; everybody may read, nobody else write."""
    names = {path.name.partition("-0.")[0] for path in installed.iterdir()}
    assert {"run", "slurm-oci-run-default", "oci.conf", "bin", "lib", "plugins.d", "catalog.json"} <= names
    for path in installed.rglob("*"):
        mode = path.lstat().st_mode
        assert path.is_symlink() or (mode & 0o044 == 0o044 and not mode & 0o022), path
    text = (installed / "slurm-oci-run-default").read_text()
    assert f'exec {installed}/run "$@"' in text


def test_everybody_can_read_what_an_admin_with_a_strict_umask_installs(fresh):
    """Whose tasks would not start otherwise."""
    assert install("install", "--prefix", fresh / "prefix", umask=0o077).status == 0
    closed = [path for path in (fresh / "prefix").rglob("*") if path.stat().st_mode & 0o044 != 0o044]
    assert closed == []
    assert (fresh / "prefix").stat().st_mode & 0o777 == 0o755


def test_an_installation_installs_no_other(prefix):
    """It has not all that is needed; nothing is changed, and the way to do it is said."""
    before = sources(prefix)
    command = [prefix / "bin/slurm-oci-plugins", "install", "--prefix", prefix]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is an installation, and cannot make one" in done.stderr
    assert sources(prefix) == before


def test_nothing_is_installed_over_what_is_copied_from(fresh):
    """The next installation would be a copy of that one, with its paths."""
    shutil.copytree(ROOT / "opt-slurm-oci", fresh / "opt")
    before = tree(fresh / "opt")
    ended = install("install", "--prefix", fresh / "opt")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(f"slurm-oci: error: `{fresh}/opt` holds what `install` copies from [")
    ended = install("--prefix", fresh / "opt", "compile")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("slurm-oci: error: there is no installation at /opt/slurm-oci, and no other")
    assert tree(fresh / "opt") == before


def test_nothing_is_installed_where_a_file_is(fresh):
    """Which is not told to be made readable."""
    (fresh / "file").touch(0)
    ended = install("install", "--prefix", fresh / "file")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(f"slurm-oci: error: `{fresh}/file` is no directory [")


def sources(folder: Path) -> dict[str, tuple[int, bytes]]:
    """What is in `folder`, but for what Python itself keeps of the modules it imports."""
    return {name: found for name, found in tree(folder).items() if "__pycache__" not in name}


def test_installing_again_upgrades_and_leaves_the_admin_s_files(fresh):
    """site.toml, plugins.d and an edited oci.conf stay; the old library goes at the next time, as
    tasks that have begun may still read from it."""
    assert install("install", "--prefix", fresh).status == 0
    before = (fresh / "lib").readlink()
    assert install("install", "--prefix", fresh).status == 0
    first = (fresh / "lib").readlink()
    for name, text in (
        ("site.toml", "pull = true\n"),
        ("plugins.d/x.py", "x = 1\n"),
        ("oci.conf", "# mine\n"),
    ):
        (fresh / name).write_text(text)
    ended = install("install", "--prefix", fresh)
    assert ended.status == 0
    assert "x.py" in ended.err  # a plugin that defines nothing is named
    assert "is not this version's and is left alone" in ended.out
    assert (fresh / "oci.conf").read_text() == "# mine\n"
    assert (fresh / "oci.conf.new").read_text() == ociconf.multi(str(fresh))
    assert (fresh / "site.toml").read_text() == "pull = true\n"
    last = (fresh / "lib").readlink()
    assert len({before, first, last}) == 3
    assert {path.name for path in fresh.iterdir() if path.name.startswith("lib-")} == {str(first), str(last)}


def test_what_a_site_had_in_the_place_of_the_programs_is_kept(fresh):
    """The Containers Guide's pair of scripts lies in the same place, by the same names."""
    (fresh / "run").write_text("the guide's")
    ended = install("install", "--prefix", fresh)
    assert f"note: `{fresh}/run` was there already: a copy of it is `{fresh}/run.old`\n" in ended.out
    assert (fresh / "run.old").read_text() == "the guide's"
    assert ".old`" not in install("install", "--prefix", fresh).out
    assert install("uninstall", "--prefix", fresh).out == f"removed from {fresh}; left there: run.old\n"


def test_what_was_kept_of_a_site_s_stays_where_an_installation_is_mended(fresh):
    """The only copy of its script is not written over by one of the program's own."""
    (fresh / "run").write_text("the guide's")
    (fresh / "epilog").mkdir()
    assert install("install", "--prefix", fresh).status == 1
    (fresh / "epilog").rmdir()
    install("install", "--prefix", fresh)
    (fresh / "lib").unlink()
    install("install", "--prefix", fresh)
    assert "the guide's" not in (fresh / "run").read_text()
    assert (fresh / "run.old").read_text() == "the guide's"


def test_what_a_site_had_is_kept_also_where_the_first_try_fails(fresh):
    """The next one would take it for the program's own."""
    (fresh / "slurm-oci-run-default").mkdir()
    (fresh / "epilog").write_text("the site's")
    assert install("install", "--prefix", fresh).status == 1
    (fresh / "slurm-oci-run-default").rmdir()
    install("install", "--prefix", fresh)
    assert (fresh / "epilog.old").read_text() == "the site's"


def test_installing_again_keeps_the_python_that_was_named(fresh, place):
    """The one that all nodes have, though this machine has another one, until it has gone."""
    (place / "python").symlink_to(sys.executable)
    assert install("install", "--prefix", fresh, "--python", place / "python").status == 0
    assert install("install", "--prefix", fresh).status == 0
    assert (fresh / "run").read_text().startswith(f"#!{place}/python ")
    (place / "python").unlink()
    assert install("install", "--prefix", fresh).status == 0
    assert not (fresh / "run").read_text().startswith(f"#!{place}/python ")


def test_a_python_or_a_prefix_that_users_cannot_reach_is_said(fresh, place):
    """Every task would end with 126, and root would not see it."""
    (place / "shut").mkdir(mode=0o700)
    os.chown(place / "shut", ORDINARY, -1)
    python = place / "shut" / "python3"
    python.symlink_to(Path(sys._base_executable).resolve())
    ended = install("install", "--prefix", fresh / "prefix", "--python", python)
    cure = "`slurm-oci-plugins install --python /usr/bin/python3`"
    assert f"note: users cannot enter `{place}/shut`, where `{python}` is: {cure}\n" in ended.out
    fresh.chmod(0o700)
    ended = install("install", "--prefix", fresh / "prefix", "--python", "/usr/bin/python3")
    assert f"note: users cannot enter `{fresh}`, where `{fresh}/prefix` is: a --prefix that" in ended.out
    fresh.chmod(0o755)
    assert "cannot enter" not in install("install", "--prefix", fresh / "prefix").out


def test_uninstall_removes_what_install_has_put_there(fresh):
    """And tells what it leaves because it is the admin's; an empty prefix goes too."""
    install("install", "--prefix", fresh)
    (fresh / "site.toml").write_text("")
    (fresh / "plugins.d/x.py").write_text("")
    ended = install("uninstall", "--prefix", fresh)
    assert (ended.status, ended.out) == (0, f"removed from {fresh}; left there: plugins.d, site.toml\n")
    assert sorted(path.name for path in fresh.rglob("*")) == ["plugins.d", "site.toml", "x.py"]


def test_an_installation_that_was_moved_where_none_can_be_made_is_removed_too(fresh):
    """Its oci.conf, which names the old place, is left."""
    install("install", "--prefix", fresh)
    moved = fresh.rename(fresh.with_name("it's moved"))
    ended = install("uninstall", "--prefix", moved)
    assert (ended.status, ended.out) == (0, f"removed from {moved}; left there: oci.conf\n")


@pytest.mark.parametrize("is_link", [True, False])
def test_uninstall_warns_of_an_oci_conf_that_is_still_there(fresh, place, monkeypatch, is_link):
    """A link that leads nowhere is to Slurm as if there were none, which it does not say."""
    monkeypatch.setenv("SLURM_CONF", str(place / "slurm.conf"))
    conf, prefix = place / "oci.conf", fresh / "prefix"
    install("install", "--prefix", prefix)
    if is_link:
        conf.symlink_to(prefix / "oci.conf")
        said = f"`{conf}` leads nowhere now: Slurm runs on the host"
    else:
        shutil.copyfile(prefix / "oci.conf", conf)
        said = f"`{conf}` still calls `{prefix}/run`: every task"
    ended = install("uninstall", "--prefix", prefix)
    assert (ended.status, ended.out) == (0, f"removed from {prefix}\n")
    assert ended.err.startswith(f"slurm-oci: warning: {said}")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "is_called"),
    [
        ("exec /opt/x/run %b", True),
        ("/opt/x/run %b", True),
        ("exec /my/opt/x/run %b", False),
        ("exec /opt/x/runner %b", False),
    ],
)
def test_an_oci_conf_that_calls_an_installation_is_known_by_the_whole_path(fresh, line, is_called):
    (fresh / "oci.conf").write_text(f'RunTimeRun="{line}"\n')
    assert installation.is_called_by(str(fresh / "oci.conf"), "/opt/x") == is_called


def test_a_site_toml_that_is_wrong_is_refused_before_anything_changes(fresh):
    """Else every task would fail from then on."""
    install("install", "--prefix", fresh)
    before = (fresh / "lib").readlink()
    (fresh / "site.toml").write_text("pul = true\n")
    ended = install("install", "--prefix", fresh)
    assert (ended.status, ended.code) == (1, "site-invalid")
    assert (fresh / "lib").readlink() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes them")
@pytest.mark.parametrize("prefix", [installation.DEFAULT, "/apps/slurm-oci"])
def test_the_places_of_an_installation_are_those_that_its_site_toml_names(place, monkeypatch, prefix):
    """Now and at each boot; each prefix has a file of its own for that."""
    monkeypatch.setattr(installation, "TMPFILES", str(place))
    images = Images(cache=f"{place}/images")
    assert installation.bases(prefix, Site(state=f"{place}/state", images=images)) == []
    assert [oct((place / name).stat().st_mode) for name in ("state", "images")] == ["0o41777"] * 2
    file = {"/apps/slurm-oci": "slurm-oci-apps-slurm-oci.conf"}.get(prefix, "slurm-oci.conf")
    assert installation.tmpfiles(prefix) == f"{place}/{file}"
    lines = [f"d {place}/{name} 1777 root root -\n" for name in ("state", "images")]
    assert (place / file).read_text() == "".join(lines)


def test_uninstalling_what_is_not_there_is_refused(fresh):
    """Nothing is removed from a directory that holds something else."""
    (fresh / "run").write_text("mine")
    ended = install("uninstall", "--prefix", fresh)
    assert (ended.status, ended.code) == (1, "install-failed")
    assert (fresh / "run").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--python", "python3"], "is no absolute path"),
        (["--python", "/bin/true"], "does not run as a Python interpreter"),
        (["--python", "/no/where"], "does not run as a Python interpreter"),
        (["--prefix", "/tmp/a b"], "has characters that oci.conf or the shell would read"),
        (
            ["--prefix", "/tmp/a b"],
            "\n  install into an absolute path of nothing but letters A-Z and a-z, digits, and `/._-+@`\n",
        ),
        (["--prefix", "/proc/nowhere"], "cannot write"),
    ],
)
def test_what_cannot_be_installed_is_said(fresh, words, message):
    """With the cure, before anything is changed."""
    before = tree(fresh)
    ended = install("install", *(words if "--prefix" in words else ["--prefix", fresh, *words]))
    assert (ended.status, ended.code) == (1, "install-failed")
    assert message in ended.err
    assert tree(fresh) == before


def test_another_installation_is_asked_itself(installed, prefix, slurm):
    """`--prefix` goes on in that one, with its own plugins."""
    (prefix / "plugins.d/mine.py").write_text(
        "from slurm_oci import Runtime\ndef slurm_oci_runtimes(): return [Runtime('mine', 's', ('sif',), print)]\n"
    )
    command = [installed / "bin/slurm-oci-plugins", "--prefix", prefix, "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "mine" in [entry["name"] for entry in json.loads(done.stdout)]


def test_the_prefix_s_command_works_by_a_link(installed, place):
    """As `ln -s PREFIX/bin/slurm-oci-plugins /usr/local/bin` makes one."""
    (place / "linked").symlink_to(installed / "bin/slurm-oci-plugins")
    done = subprocess.run([place / "linked", "oci-conf"], capture_output=True, text=True)
    assert done.stdout == ociconf.multi(str(installed))


def test_the_checkout_s_data_is_what_is_installed(installed):
    """The programs of opt-slurm-oci, with this Python and this prefix written in."""
    shipped = (ROOT / "opt-slurm-oci/run").read_text().partition("\n")[2]
    assert (installed / "run").read_text().partition("\n")[2] == shipped.replace(
        "/opt/slurm-oci", str(installed)
    )
    assert os.access(installed / "run", os.X_OK)
    assert shutil.which("slurm-oci-plugins", path=str(installed / "bin"))
    assert Path(installed / "run").read_text().startswith("#!/")
