"""The light `os` of a task, and the code in the one file."""

import ast
import os
import posixpath
import subprocess
import sys

import pytest
from conftest import ROOT
from hypothesis import example, given
from hypothesis import strategies as st

from slurm_oci.compiled import Bare
from slurm_oci.modules import light_path

# What `run` does before anything else, in an interpreter that has not imported `os`.
START = f"""
import sys
assert "os" not in sys.modules
sys.path[:0] = [{str(ROOT / "dispatch")!r}]
import slurm_oci.modules
def is_light():
    return "MutableMapping" not in vars(sys.modules["os"]) and "_collections_abc" not in sys.modules
"""


def alone(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [getattr(sys, "_base_executable", sys.executable), "-I", "-S", "-c", START + code],
        env={"PATH": "/usr/bin:/bin", "HERE": "yes"}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.stat('/'); os.path.join('a', 'b'); os.path.isdir('.'); os.scandir('/'); os.fsencode('ä')",
        "from os import path; from os.path import join; import os.path; assert os.sep == '/'",
        "import os; assert os.path.realpath('/') == os.path.normpath('//.')[1:] and os.path.join('a', 'b') == 'a/b'",
        "import os; os.read(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 1); os.access('/', os.X_OK)",
    ],
)
def test_what_a_task_needs_is_in_the_light_os(code):
    """So that the whole one is not imported."""
    done = alone(code + "\nassert is_light()")
    assert done.returncode == 0, done.stderr


@given(st.lists(st.text("ab/.", max_size=5), min_size=1))
@example(["", ""])
@example(["//", "a"])
def test_the_light_path_functions_are_those_of_posixpath(parts):
    """On any text."""
    light = light_path(os)
    assert light.join(*parts) == posixpath.join(*parts)
    for name in ("dirname", "basename", "exists", "lexists", "isdir"):
        assert getattr(light, name)("/".join(parts)) == getattr(posixpath, name)("/".join(parts))


@pytest.mark.parametrize("path", ["/", "/etc/passwd", "/nowhere", "/proc/self/exe", "a\0b", "x" * 5000])
def test_the_light_path_sees_what_is_there(path, tmp_path):
    """And nothing where a path is none."""
    light = light_path(os)
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("exists", "lexists", "isdir"):
        for place in (path, str(tmp_path / "dangling")):
            assert getattr(light, name)(place) == getattr(posixpath, name)(place)


@pytest.mark.parametrize(
    "code",
    [
        "import os; assert os.environ['HERE'] == 'yes'; os.environ['NEW'] = 'x'; assert os.system('test $NEW = x') == 0",
        "from os import PathLike, makedirs; import os; assert os.PathLike is PathLike",
        "from os import *; assert callable(walk)",
        "import subprocess; assert subprocess.run(['printenv', 'HERE'], capture_output=True).stdout == b'yes\\n'",
        "import pathlib, tempfile, os; assert os.fspath(pathlib.Path('/a')) == '/a'",
        "import os; assert not hasattr(os, 'no_such_name'); assert os.getenv('HERE') == 'yes'",
        "import os, re, typing, inspect; assert os.path.expanduser('~x') and os.__name__ == 'os' and os.__file__",
    ],
)
def test_the_light_os_becomes_the_whole_one(code):
    """As soon as a plugin, or a module that it imports, asks for more."""
    done = alone(
        code + "\nassert not is_light()\nimport os\nassert os is sys.modules['os'] is slurm_oci.modules.os"
    )
    assert done.returncode == 0, done.stderr


def test_the_code_in_the_one_file_is_without_what_only_readers_need():
    """Annotations of functions and imports for type checkers; those of classes are their fields."""
    source = """
TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing
else:
    kept = 1
class Kept(object):
    field: int = 1
def function(one: "int", *rest: "str", two: int = 2, **more: "str") -> "int":
    async def inner(x: "y") -> "z": ...
    return one + two
"""
    text = ast.unparse(Bare().visit(ast.parse(source)))
    assert text == (
        "TYPE_CHECKING = False\nkept = 1\n\nclass Kept(object):\n    field: int = 1\n\n"
        "def function(one, *rest, two=2, **more):\n\n    async def inner(x):\n        ...\n    return one + two"
    )
