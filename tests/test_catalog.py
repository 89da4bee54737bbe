"""The catalog: what the plugins say, kept; `slurm_oci.catalog` and `slurm_oci.compiled`."""

import importlib
import json
import marshal
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import OWN_UID, make_stand_in

import slurm_oci
from slurm_oci import catalog, compiled
from slurm_oci.problems import RuntimeMissing, SiteInvalid

PLUGIN = """
from slurm_oci import Plan, Runtime
def slurm_oci_runtimes():
    return [Runtime("mine", "a drop-in", ("rootfs",), lambda c: Plan(("/bin/true",), {}), executables=("mine",))]
"""


@pytest.fixture
def place(tmp_path):
    """An installation's directory, with all that a catalog is made from."""
    prefix = tmp_path / "prefix"
    (prefix / "plugins.d").mkdir(parents=True)
    (prefix / "lib-1").write_text("no folder, so that no modules are compiled")
    (prefix / "lib").symlink_to("lib-1")
    (prefix / "plugins.d/mine.py").write_text(PLUGIN)
    (prefix / "site.toml").write_text(
        'order = ["mine"]\n[runtimes.tool]\nrun = ["tool", "%@"]\naccepts = ["sif"]\n'
        '[[rules]]\nruntime = "mine"\nuser = "alice"\n'
    )
    return prefix


def why_not(prefix) -> str:
    """Why the catalog is not used; empty where it is."""
    trace = []
    found = catalog.read(str(prefix), trace)
    assert (found is None) == bool(trace)
    return trace[0][2] if trace else ""


def test_reading_gives_what_asking_gives(place):
    """The same answer, from the compiled twin and from the plugins, but for what was probed."""
    compiled.write(str(place))
    read, asked = catalog.read(str(place)), catalog.build(str(place))
    for part in ("format", "site", "order", "made_from"):
        assert read[part] == asked[part]
    for part in ("runtimes", "candidates"):
        assert dict(read[part].items()) == asked[part]
        assert [read[part].get(name) for name in read[part]] == list(asked[part].values())
    assert read["runtimes"].get("nothing", 7) == 7
    assert read["order"][0] == "mine"
    assert read["candidates"]["sif"][-1] == ("tool", ["tool"], None)


def test_a_plugins_module_is_in_the_one_file_as_it_was_written(tmp_path, monkeypatch):
    """With what it may rest on: assertions, docstrings, annotations. The program's own go without."""
    shutil.copytree(Path(slurm_oci.__file__).parent, tmp_path / "slurm_oci")
    (tmp_path / "mine.py").write_text('def checked(one: int) -> str:\n    """Text."""\n    assert one\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    found = (SimpleNamespace(origin={"module": importlib.import_module("mine").__name__}),)
    file = compiled.in_one_file(str(tmp_path), SimpleNamespace(found=found))
    end = 8 + int.from_bytes(file[4:8], "little")
    *_, core, others = marshal.loads(file[8:end])
    assert all("__doc__" not in code.co_names for _, _, code in core)
    path, _, start, size = others["mine"]
    space = {}
    exec(marshal.loads(file[end + start : end + start + size]), space)
    assert (path, space["checked"].__doc__) == ("mine.py", "Text.")
    assert space["checked"].__annotations__ == {"one": int, "return": str}
    with pytest.raises(AssertionError):
        space["checked"](0)


def test_the_readable_text_says_the_same(place):
    """For people: the twin's content as JSON."""
    compiled.write(str(place))
    text = json.loads((place / "catalog.json").read_text())
    assert text["order"] == catalog.read(str(place))["order"]
    assert text["runtimes"]["mine"]["source"] == str(place / "plugins.d/mine.py")


CHANGES = {
    "site.toml changed": lambda prefix: (prefix / "site.toml").write_text("order = ['tool']\n"),
    "site.toml gone": lambda prefix: (prefix / "site.toml").unlink(),
    "a plugin changed": lambda prefix: (prefix / "plugins.d/mine.py").write_text(PLUGIN + "\n"),
    "a plugin gone": lambda prefix: (prefix / "plugins.d/mine.py").unlink(),
    "a plugin new": lambda prefix: (prefix / "plugins.d/new.py").write_text(""),
    "plugins.d gone": lambda prefix: shutil.rmtree(prefix / "plugins.d"),
    "another library": lambda prefix: (prefix / "lib-1").write_text("another"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_catalog_made_from_something_else_is_not_trusted(place, change):
    """Whatever it was made from and is no more, the plugins are asked."""
    compiled.write(str(place))
    assert why_not(place) == ""
    CHANGES[change](place)
    assert "has changed since `slurm-oci-plugins compile`" in why_not(place)


def test_a_site_toml_that_comes_later_counts(place):
    """That there was none is recorded too."""
    (place / "site.toml").unlink()
    compiled.write(str(place))
    assert why_not(place) == ""
    (place / "site.toml").write_text("")
    assert "`site.toml` has changed" in why_not(place)


def test_the_same_size_at_another_time_is_a_change(place):
    """An editor that changes one letter leaves the size."""
    compiled.write(str(place))
    path = place / "site.toml"
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    assert "`site.toml` has changed" in why_not(place)


def test_a_copy_of_the_installation_holds(place, tmp_path):
    """What lies in PREFIX is recorded relative to it, so a node's own copy needs no compile."""
    compiled.write(str(place))
    copy = tmp_path / "copy"
    shutil.copytree(place, copy, symlinks=True)
    assert why_not(copy) == ""
    assert catalog.load("mine", catalog.read(str(copy)), str(copy)).name == "mine"


def test_a_twin_that_is_cut_short_or_damaged_is_not_trusted(place):
    """At every length, and with any byte another one: a full disk leaves such files."""
    compiled.write(str(place))
    twin = place / os.path.basename(catalog.twin(str(place)))
    content = twin.read_bytes()
    for length in range(0, len(content), 7):
        with pytest.raises(catalog.Untrusted):
            catalog.unpacked(content[:length])
    for at in range(0, len(content), 11):
        with pytest.raises(catalog.Untrusted):
            catalog.unpacked(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    assert catalog.unpacked(content)["order"][0] == "mine"
    twin.write_bytes(b"")
    assert why_not(place)


def test_no_catalog_is_said(place):
    """With its path, in the trace."""
    assert f"cannot read `{catalog.twin(str(place))}`: No such file or directory" in why_not(place)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_twin_that_others_could_write_is_not_trusted(place, mode):
    """Nobody runs what another user could have written; it is warned about."""
    compiled.write(str(place))
    os.chmod(catalog.twin(str(place)), mode)
    warnings = []
    assert catalog.read(str(place), [], warnings.append) is None
    assert "could have been written by others" in warnings[0]


@pytest.mark.skipif(OWN_UID != 0, reason="only root can give files away")
def test_a_twin_of_somebody_else_s_is_not_trusted(place):
    """It belongs to root or to the installation's owner."""
    compiled.write(str(place))
    os.chown(catalog.twin(str(place)), 54321, -1)
    assert "could have been written by others" in why_not(place)
    os.chown(place, 54321, -1)
    assert why_not(place) == ""


def test_writing_leaves_no_traces(place):
    """Each file is replaced as a whole."""
    before = set(os.listdir(place))
    compiled.write(str(place))
    compiled.write(str(place))
    assert set(os.listdir(place)) - before == {"catalog.json", os.path.basename(catalog.twin(str(place)))}


@pytest.mark.skipif(OWN_UID == 0, reason="root writes everywhere")
def test_a_catalog_that_cannot_be_written_is_a_problem(place):
    """Said with the installation's path."""
    place.chmod(0o500)
    with pytest.raises(compiled.CatalogUnwritable):
        compiled.write(str(place))


def test_a_site_toml_that_is_wrong_is_a_problem(place):
    """Asking and writing both say so."""
    (place / "site.toml").write_text("oder = []\n")
    for function in (catalog.build, compiled.write):
        with pytest.raises(SiteInvalid, match="did you mean `order`"):
            function(str(place))


@pytest.mark.parametrize("text", ["raise SystemExit", "1/0", "def slurm_oci_runtimes(): return []"])
def test_a_plugin_that_changes_its_mind_is_named(place, text):
    """Between choosing and loading: the runtime is missing, and its file is named."""
    found = catalog.build(str(place))
    (place / "plugins.d/mine.py").write_text(text)
    with pytest.raises(RuntimeMissing, match=r"the plugin of `mine` .*mine\.py"):
        catalog.load("mine", found, str(place))


def test_a_probe_s_answer_holds_for_that_executable_alone(place, tmp_path):
    """The same path with another file in it, or another path, is asked again."""
    tool = make_stand_in(tmp_path / "mine", answers="--cwd")
    (place / "plugins.d/mine.py").write_text(
        PLUGIN.replace('executables=("mine",)', 'executables=("mine",), probe=lambda path: {"asked": path}')
    )
    (place / "site.toml").write_text(f'[executables]\nmine = "{tool.path}"\n')
    compiled.write(str(place))
    known = catalog.read(str(place))
    runtime = catalog.load("mine", known, str(place))
    never = runtime.replace(probe=lambda path: {"again": path})
    at = lambda path: catalog.probed(never, {"mine": str(path)}, known)  # noqa: E731
    assert at(tool.path) == {"asked": str(tool.path)}
    assert at("/bin/true") == {"again": "/bin/true"}
    tool.path.write_text("#!/bin/sh\n")
    assert at(tool.path) == {"again": str(tool.path)}
