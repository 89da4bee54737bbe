"""The codebase itself: what must stay true of it as it grows."""

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from conftest import ROOT

import slurm_oci
import slurm_oci.checks
import slurm_oci.commands
import slurm_oci_plugins
from slurm_oci import hookspecs, ociconf, problems
from slurm_oci.cli import COMMANDS
from slurm_oci.job import STANDARD_PATH
from slurm_oci.pattern import LETTERS
from slurm_oci.request import FIELDS
from slurm_oci.settings import CHOICES, NAMES
from slurm_oci.values import Settings, Value

SOURCES = sorted((ROOT / "dispatch").rglob("*.py")) + sorted((ROOT / "plugins").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
# What a plugin may use: the package's own names, and the modules that docs/plugins.md lists.
PUBLIC = {
    "slurm_oci",
    *re.findall(r"^\| `(slurm_oci\.\w+)` \|", (ROOT / "docs/plugins.md").read_text(), re.M),
}


def modules() -> list:
    """Every module of the program."""
    found = []
    for package in (slurm_oci, slurm_oci.checks, slurm_oci.commands, slurm_oci_plugins):
        names = (info.name for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."))
        found += [importlib.import_module(name) for name in names]
    return [slurm_oci, *found]


def problem_classes() -> list[type[problems.Problem]]:
    modules()
    for name in (name for meanings in problems.KINDS.values() for name in meanings):
        getattr(problems, name)  # which makes the class
    return sorted(problems.Problem.__subclasses__(), key=lambda cls: cls.__name__)


def text(*paths: Path) -> str:
    return "\n".join(path.read_text() for path in paths)


# Errors


@pytest.mark.parametrize("problem", problem_classes(), ids=lambda cls: cls.__name__)
def test_every_problem_is_described_raised_and_of_a_known_area(problem):
    """Its docstring is its line in the docs; one that nobody raises would be a promise."""
    assert problem.__doc__
    assert problem.__doc__.rstrip().endswith(".")
    assert re.search(rf"\b{problem.__name__}\(", text(*SOURCES).replace(f"class {problem.__name__}(", ""))
    assert problem.area in ("dispatcher", "job", "image", "runtime", "hook", "site")
    assert problem.status in (125, 126, 127)


def test_every_problem_that_is_raised_is_known():
    """They are asked for by name when it is too late to find out."""
    used = set(re.findall(r"\bproblems\.([A-Z]\w+)", text(*SOURCES)))
    assert used - {cls.__name__ for cls in problem_classes()} - {"Problem", "KINDS"} == set()


def test_codes_are_names_in_lower_case():
    """What scripts may rely on."""
    assert problems.HookUnsafe("x").code == "hook-unsafe"
    assert len({problem("x").code for problem in problem_classes()}) == len(problem_classes())


def test_a_problem_always_says_what_to_do():
    """Without hints of its own, it points to the command that shows more."""
    assert problems.SettingInvalid("x").lines()[1:] == [
        "  `slurm-oci-plugins explain` shows each step of the decision"
    ]
    assert "`slurm-oci-plugins site`" in problems.SiteInvalid("x").lines()[1]


# Plugins


def test_every_hook_is_documented_and_used():
    """In one sentence, by a plugin that comes with the program."""
    hooks = [name for name in vars(hookspecs) if name.startswith(hookspecs.PREFIX)]
    assert hooks
    for name in hooks:
        assert inspect.getdoc(getattr(hookspecs, name)).endswith(".")
        assert f"def {name}(" in text(*PLUGINS)
        assert f"`{name}" in (ROOT / "docs/plugins.md").read_text()


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.name)
def test_built_in_plugins_have_no_privileges(path):
    """They import the public names, as a site's own would, and nothing of others'."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            modules = {name.name for name in node.names} - set(slurm_oci.__all__)
            is_package = node.module == "slurm_oci"
            imported |= {f"slurm_oci.{name}" for name in modules} if is_package else {node.module}
        elif isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
    ours = {name for name in imported if name.startswith("slurm_oci") and name != "slurm_oci_plugins"}
    assert ours <= PUBLIC
    assert {name.partition(".")[0] for name in imported} <= {
        *("slurm_oci", "slurm_oci_plugins", "os", "sys", "json", "ctypes", "collections", "typing", "_signal")
    }


def test_every_plugin_module_is_an_entry_point():
    """A runtime that nobody can find is none."""
    listed = set(
        re.findall(r'^\w[\w-]* = "slurm_oci_plugins\.(\w+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    )
    with_runtimes = {path.stem for path in PLUGINS if "def slurm_oci_runtimes(" in path.read_text()}
    assert listed == with_runtimes


def test_the_public_names_are_there():
    """`from slurm_oci import *` gives what `__all__` says, all of it documented."""
    for name in slurm_oci.__all__:
        assert inspect.getdoc(getattr(slurm_oci, name))


# oci.conf and the entry point


def test_the_shipped_oci_conf_is_what_the_command_prints():
    """For the installation's usual place."""
    assert (ROOT / "opt-slurm-oci/oci.conf").read_text() == ociconf.multi("/opt/slurm-oci")


def test_the_entry_point_s_fields_are_in_oci_conf_s_order():
    """Of the shipped line and of the guide's: each letter stands where its field is read."""
    by_field = {letter.field.upper(): f"%{letter.letter}" for letter in LETTERS.values()}
    guide = [by_field[field] for field in FIELDS]
    assert guide == ["%b", "%m", "%u", "%U", "%n", "%j", "%s", "%t"]
    line = re.search(r'^RunTimeRun="(.*)"$', ociconf.multi("/opt/slurm-oci"), re.M)[1]
    words = line.partition("/opt/slurm-oci/run ")[2].split()
    assert [word.strip("'") for word in words] == ["-", *guide[1:], "\\#", "%@"]


def test_no_line_of_ours_hands_a_user_s_text_to_root():
    """Slurm runs RunTimeQuery, RunTimeKill and RunTimeDelete as root."""
    keys = re.findall(r"^(RunTime\w+)=", ociconf.multi("/opt/slurm-oci"), re.M)
    assert not {"RunTimeQuery", "RunTimeKill", "RunTimeDelete"} & set(keys)


def test_the_default_script_shows_the_fields_in_order():
    """To the user who starts from it."""
    script = (ROOT / "opt-slurm-oci/slurm-oci-run-default").read_text()
    shown = re.findall(r"\$(\d) ([a-z]+)", script)
    names = ["image", "spool", "user", "uid", "node", "job", "step", "task"]
    assert shown == [(str(number), name) for number, name in enumerate(names, 1)]


# Everything


def test_every_setting_has_its_field_and_its_default():
    """The table of choices and the value that carries them agree."""
    assert set(NAMES) <= set(Settings.fields)
    assert {name: getattr(Settings(), name) for name in CHOICES} == {n: c[0] for n, c in CHOICES.items()}


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_every_module_and_every_value_says_what_it_is(module):
    """The first line of each file, and each class of values."""
    if module.__name__ != "slurm_oci_plugins":
        assert module.__doc__
    for thing in vars(module).values():
        if isinstance(thing, type) and issubclass(thing, Value) and thing.__module__ == module.__name__:
            assert inspect.getdoc(thing), thing


def test_every_command_has_a_module_and_every_module_a_command():
    """One a file."""
    files = {path.stem.replace("_", "-") for path in Path(slurm_oci.commands.__path__[0]).glob("*.py")}
    assert files - {"--init--"} == set(COMMANDS)


def test_nothing_is_started_through_a_shell():
    """A command is a tuple of words from the first line to execve."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                assert "shell" not in [keyword.arg for keyword in node.keywords], path
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("system", "popen"), path


def test_only_one_module_prints_errors_of_a_task():
    """`print` is nobody's; what a task says goes through `execute.tell`."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", path


def test_the_standard_path_is_the_same_for_us_and_the_tests():
    """conftest repeats it, since a test that took it from the program could not see it change."""
    from conftest import STANDARD_PATH as REPEATED

    assert STANDARD_PATH == REPEATED
