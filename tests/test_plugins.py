"""Asking the plugins: `slurm_oci.plugins`, and what the node has: `slurm_oci.node`."""

import importlib.metadata

import pytest
from conftest import make_stand_in

from slurm_oci import Runtime
from slurm_oci.node import probe_all, states
from slurm_oci.plugins import Aside, gather

BUILT_IN = [
    *("crun", "runc", "apptainer", "singularity", "charliecloud", "enroot", "podman"),
    *("nvidia-container-runtime", "shifter", "sarus", "unshare"),
]
GOOD = """
from slurm_oci import Plan, Runtime
def slurm_oci_runtimes():
    return [Runtime("mine", "a drop-in", ("rootfs",), plan)]
def plan(container):
    return Plan(("/bin/true",), {})
"""


@pytest.fixture
def prefix(tmp_path):
    (tmp_path / "plugins.d").mkdir()
    return tmp_path


@pytest.fixture
def drop_in(prefix):
    """Writes a drop-in plugin and asks all."""

    def write(text: str, name: str = "mine.py"):
        (prefix / "plugins.d" / name).write_text(text)
        return gather(str(prefix))

    return write


def names(gathered) -> list[str]:
    return [found.runtime.name for found in gathered.found]


def test_the_built_in_runtimes_come_in_by_the_entry_points(prefix):
    """As anyone's do, in the order in which they are tried."""
    gathered = gather(str(prefix))
    own = [found for found in gathered.found if found.source.startswith("slurm-oci ")]
    assert sorted(found.runtime.name for found in own) == sorted(BUILT_IN)
    assert [name for name in gathered.order() if name in BUILT_IN] == BUILT_IN
    version = importlib.metadata.version("slurm-oci")
    assert {found.source for found in own} == {f"slurm-oci {version}"}


def test_a_drop_in_is_a_file_with_a_function(drop_in, prefix):
    """No import of pluggy, no registration; it is tried before the fallback."""
    gathered = drop_in(GOOD)
    assert gathered.aside == ()
    assert gathered.order()[-2:] == ["mine", "unshare"]
    (found,) = [found for found in gathered.found if found.runtime.name == "mine"]
    assert (found.source, found.runtime.summary) == (f"{prefix}/plugins.d/mine.py", "a drop-in")


def test_a_plugin_can_name_its_function_by_the_marker_too(drop_in):
    """For an author who likes pluggy's own way."""
    marked = "import pluggy\nhookimpl = pluggy.HookimplMarker('slurm_oci')\n" + GOOD.replace(
        "def slurm", "@hookimpl\ndef slurm"
    )
    assert "mine" in names(drop_in(marked))


def test_other_files_are_left_alone(drop_in):
    """A README or an editor's copy is no plugin."""
    for name in ("README", "mine.py~", "mine.txt"):
        assert "mine" not in names(drop_in(GOOD, name))


ASIDE = {
    "raise ValueError('not here')": "not here",
    "raise KeyError('x')": "KeyError: 'x'",
    "raise SystemExit(3)": "SystemExit: 3",
    "x = 1\ndef (": "line 2: invalid syntax",
    "import no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
    "": "it does not define slurm_oci_runtimes()",
    "def slurm_oci_runtime(): return []": (
        "it does not define slurm_oci_runtimes(); `slurm_oci_runtime` is no hook"
    ),
    "def slurm_oci_runtimes(x): return []": "Plugin 'mine.py' for hook 'slurm_oci_runtimes'",
    "def slurm_oci_runtimes(): return None": "TypeError: 'NoneType' object is not iterable",
    "def slurm_oci_runtimes(): return [1]": "slurm_oci_runtimes() gave int, not a Runtime",
    GOOD.replace('"mine"', '"crun"'): "the name `crun` is taken by slurm-oci",
    GOOD.replace('"rootfs"', '"rootf"'): "there is no image kind `rootf`; did you mean `rootfs`?",
    GOOD.replace('("rootfs",)', '"rootfs"'): "its `accepts` is 'rootfs': expected a tuple of texts",
    GOOD.replace('("rootfs",)', "7"): "its `accepts` is 7: expected a tuple of texts",
    GOOD.replace(", plan)", ", 7)"): "its plan is no function",
    GOOD.replace('"mine"', "7"): "its name is 7: expected a text",
    GOOD + "\ndef slurm_oci_runtmes(): pass": "unknown hook 'slurm_oci_runtmes'",
}


@pytest.mark.parametrize("text", ASIDE)
def test_a_plugin_that_cannot_be_used_is_kept_aside_with_its_reason(drop_in, prefix, text):
    """And the others go on: a second drop-in, read after it, is there."""
    (prefix / "plugins.d/zzz.py").write_text(GOOD.replace('"mine"', '"other"'))
    gathered = drop_in(text)
    assert sorted(names(gathered)) == sorted([*names(gather("/no/where")), "other"])
    (aside,) = gathered.aside
    assert aside.source == f"{prefix}/plugins.d/mine.py"
    assert ASIDE[text] in aside.reason


def test_a_second_runtime_of_a_plugin_may_be_wrong_alone(drop_in, prefix):
    """What is good of it is used."""
    text = GOOD.replace(
        "plan)]", 'plan), Runtime("mine", "again", ("sif",), plan), Runtime("two", "", (), plan)]'
    )
    gathered = drop_in(text)
    path = f"{prefix}/plugins.d/mine.py"
    assert [name for name in names(gathered) if name in ("mine", "two")] == ["mine", "two"]
    assert gathered.aside == (Aside("mine", path, f"the name `mine` is taken by {path}"),)


def test_a_runtime_of_site_toml_is_one_of_them(prefix):
    """With the words as its summary where it has none."""
    (prefix / "site.toml").write_text(
        '[runtimes.tool]\nrun = ["tool", "%b", "--", "%@"]\naccepts = ["sif"]\n'
    )
    gathered = gather(str(prefix))
    (found,) = [found for found in gathered.found if found.runtime.name == "tool"]
    assert (found.source, found.runtime.summary, found.runtime.executables) == (
        f"{prefix}/site.toml",
        "defined in site.toml: tool %b -- %@",
        ("tool",),
    )


def test_the_site_s_order_comes_first_and_the_rest_after(prefix):
    """Names that are not known are passed over; the fallback has no special place then."""
    (prefix / "site.toml").write_text('order = ["unshare", "nothing", "runc"]\n')
    order = gather(str(prefix)).order()
    assert order[:2] == ["unshare", "runc"]
    assert sorted(order) == sorted(names(gather(str(prefix))))


def test_the_node_s_state_of_each_runtime(drop_in, prefix, tmp_path, monkeypatch):
    """Where its program is, what it says of its version, or why it cannot be used."""
    tool = make_stand_in(tmp_path / "tool", answers="tool 1.2.3")
    (prefix / "site.toml").write_text(f'[executables]\ntool = "{tool.path}"\nnone = "/no/where"\n')
    drop_in("raise ValueError('not here')", "bad.py")
    two = GOOD.replace(
        "plan)]", 'plan, executables=("tool",)), Runtime("none", "s", ("sif",), plan, ("none",))]'
    )
    found = {state.name: state for state in states(drop_in(two))}
    mine, none, bad = found["mine"], found["none"], found["bad.py"]
    assert (mine.executable, mine.version, mine.usable, mine.reason) == (
        str(tool.path),
        "tool 1.2.3",
        True,
        None,
    )
    assert (none.executable, none.version, none.usable) == (None, None, False)
    assert none.reason == "`/no/where` is not on this node"
    assert (bad.usable, bad.reason) == (False, "not here")


@pytest.mark.parametrize(
    "probe", ["lambda path: 1 / 0", "lambda path: None", "lambda path: __import__('sys').exit(1)"]
)
def test_a_probe_that_fails_keeps_nobody_from_compiling(drop_in, prefix, tmp_path, probe):
    """It is asked again when a task wants its runtime, and named then."""
    tool = make_stand_in(tmp_path / "tool")
    (prefix / "site.toml").write_text(f'[executables]\ntool = "{tool.path}"\n')
    assert "mine" not in probe_all(
        drop_in(GOOD.replace("plan)]", f'plan, executables=("tool",), probe={probe})]'))
    )


def test_a_runtime_is_a_value():
    """Its fields are what the plugin page lists; it cannot be changed, only copied with a change."""
    made = Runtime("a", "b", ("sif",), print)
    assert made.replace(name="c") == Runtime("c", "b", ("sif",), print)
    with pytest.raises(AttributeError, match="immutable"):
        made.name = "c"
    with pytest.raises(TypeError, match="needs `accepts`"):
        Runtime("a", "b")
    with pytest.raises(TypeError, match="cannot take `nmae`"):
        Runtime("a", "b", ("sif",), print, nmae="c")
