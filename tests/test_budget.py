"""What a task costs, in counts that do not wobble: file-system calls, modules, processes, memory.

Time is measured by benchmarks/, not here.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from conftest import OWN_UID, ROOT, STANDARD_PATH, StandIn

from slurm_oci.compiled import CORE, OTHERS

FORBIDDEN = {
    *("argparse", "contextlib", "enum", "importlib.metadata", "inspect", "json", "logging", "re"),
    *("subprocess", "typing", "attr", "attrs", "click", "pluggy", "shellingham", "yaml"),
}
FILE_CALLS = re.compile(
    r"(open|openat|openat2|stat|lstat|fstat|newfstatat|statx|access|faccessat2?|readlink|readlinkat)\("
)
STRACE = shutil.which("strace")


@attrs.frozen
class Node:
    """An installation with its catalog, a directory for programs, and one task's image and spool."""

    prefix: Path
    place: Path

    @property
    def path(self) -> str:
        return f"{self.place}/bin:{STANDARD_PATH}"

    def compile(self) -> None:
        command = [self.prefix / "bin" / "slurm-oci-plugins", "--prefix", self.prefix, "compile"]
        done = subprocess.run(command, env={"PATH": self.path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def words(self, image: Path, **job: str) -> list[str]:
        """The entry point and its words, the environment file written for a job with `job`."""
        spool = self.place / "spool"
        (spool / "task-0").mkdir(parents=True, exist_ok=True)
        env = {"SLURM_JOB_ID": "42", "PATH": "/usr/bin:/bin", **job}
        (spool / "task-0" / "environment").write_text("".join(f"{k}={v}\0" for k, v in env.items()))
        fields = [image, spool, "someone", OWN_UID, "node1", 42, 0, 0, "/bin/true"]
        return [str(self.prefix / "run"), *map(str, fields)]

    def run(self, *argv: str, **options) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, env={"PATH": self.path}, cwd=self.place, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", **options,
        )  # fmt: skip

    def traced(self, *argv: str, calls: str = "%file,%desc") -> list[str]:
        """The system calls of the program from its start on, with those of its children."""
        if not STRACE:
            pytest.skip("strace is not installed")
        record = self.place / "strace"
        options = ("-f", "-qq", "-s", "4096", "-e", f"trace={calls}", "-e", "signal=none", "-o", str(record))
        self.run(STRACE, *options, *argv)
        lines = record.read_text(errors="replace").splitlines()
        return [line.lstrip("0123456789 ") for line in lines]

    def dispatch(self, argv: list[str]) -> list[str]:
        """The file-system calls of the entry point until it has become another program."""
        first, *lines = self.traced(*argv)
        assert first.startswith("execve("), first
        becomes = [n for n, line in enumerate(lines) if line.startswith("execve(") and line.endswith("= 0")]
        assert becomes, lines[-1]
        return [line for line in lines[: becomes[0]] if FILE_CALLS.match(line)]

    def more_than_bare(self, argv: list[str]) -> int:
        """How many more file-system calls `argv` makes than the same interpreter that does nothing."""
        bare = self.traced(interpreter(self.prefix), "-I", "-S", "-c", "pass")
        return len(self.dispatch(argv)) - len([line for line in bare if FILE_CALLS.match(line)])


def interpreter(prefix: Path) -> str:
    return (prefix / "run").read_text().split()[0].removeprefix("#!")


@pytest.fixture
def node(prefix, place, stand_in):
    """A node with a compiled catalog and the stand-ins of apptainer and crun."""
    for name in ("apptainer", "crun"):
        stand_in(name)
    found = Node(prefix, place)
    found.compile()
    return found


@pytest.fixture
def image(place):
    """A root file system that has what the runtimes mount things at."""
    root = place / "image"
    for name in (
        "bin",
        "dev",
        "etc",
        "proc",
        "sys",
        "tmp",
        os.path.expanduser("~").lstrip("/"),
        str(place)[1:],
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/true", root / "bin/true")
    return root


@pytest.fixture
def bundle(place, image):
    folder = place / "bundle"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"ociVersion": "1.0.2", "root": {"path": str(image)}}))
    return folder


# File-system calls beyond those of the interpreter alone


@pytest.mark.parametrize("runtime", ["apptainer", "unshare"])
def test_a_task_makes_at_most_55_file_system_calls(node, image, runtime):
    """The environment file, the look for a hook, the image's kind, the choice and the plan."""
    if runtime == "unshare":
        (node.place / "bin" / "apptainer").unlink()
    argv = node.words(image, SLURM_OCI_RUNTIME=runtime)
    assert node.more_than_bare(argv) <= 55


def test_a_choice_among_all_runtimes_keeps_to_the_budget(node, image):
    """Also where the first ones in the order are not on the node."""
    (node.place / "bin" / "apptainer").unlink()
    assert node.more_than_bare(node.words(image)) <= 55


def test_a_site_defined_runtime_keeps_to_the_budget(node, image):
    """Its words need one module more, which comes from the same file."""
    (node.prefix / "site.toml").write_text('[runtimes.mine]\nrun = ["crun", "%b"]\naccepts = ["rootfs"]\n')
    node.compile()
    assert node.more_than_bare(node.words(image, SLURM_OCI_RUNTIME="mine")) <= 55


def test_a_hook_costs_less_than_a_runtime(node, image, place):
    """The user's script is found, judged and run before any runtime is looked for."""
    of_runtime = node.more_than_bare(node.words(image))
    home = place / "home"
    home.mkdir()
    (home / ".slurm-oci-run").write_text("#!/bin/sh\n")
    (home / ".slurm-oci-run").chmod(0o700)
    passwd = (
        f"import pwd; pwd.getpwuid = lambda uid: pwd.struct_passwd(('x', 'x', 0, 0, '', {str(home)!r}, ''))"
    )
    run = node.prefix / "run"
    run.write_text(run.read_text().replace("\nimport sys\n", f"\nimport sys\n{passwd}\n", 1))
    calls = node.dispatch(node.words(image))
    assert not [line for line in calls if "apptainer" in line]
    # The look at the processes above ends at the first that is not the user's: Slurm's own, at once.
    # Here these are all the user's, as many as there are above pytest.
    above = [number for number, line in enumerate(calls) if re.search(r'"/proc/\d+/environ"', line)]
    each = above[1] - above[0]
    assert node.more_than_bare(node.words(image)) - (len(above) - 1) * each < of_runtime


@pytest.mark.parametrize("number", [10, 100, 1000])
def test_the_number_of_defined_runtimes_costs_nothing(node, image, number):
    """Though all of them would take the image, and none of them is on the node."""
    (node.place / "bin" / "apptainer").unlink()
    table = '[runtimes.r{0}]\nrun = ["no-such-tool-{0}", "%b"]\naccepts = ["rootfs"]\n'
    (node.prefix / "site.toml").write_text("".join(table.format(n) for n in range(number)))
    node.compile()
    assert node.more_than_bare(node.words(image)) <= 55


def test_a_bundle_takes_5_calls_more(node, bundle):
    """To find its root. Its config.json is read without Python's `json`, which would make 130 more."""
    argv = node.words(bundle, SLURM_OCI_RUNTIME="apptainer")
    assert node.more_than_bare(argv) <= 60
    assert imported(node, argv) & FORBIDDEN == set()


def test_crun_may_write_a_config_of_its_own(node, bundle, place):
    """In a private directory, which takes 33 calls more."""
    (node.prefix / "site.toml").write_text(f'state = "{place}/state"\n')
    (place / "state").mkdir(mode=0o1777)
    node.compile()
    assert node.more_than_bare(node.words(bundle, SLURM_OCI_RUNTIME="crun")) <= 55 + 33


def test_an_environment_definition_may_import_tomllib(node, image):
    """Which takes `re`, `typing` and more: 180 calls more."""
    path = node.place / "env.toml"
    path.write_text(f'image = "{image}"\n')
    assert node.more_than_bare(node.words(path)) <= 55 + 180


# Modules


def imported(node: Node, argv: list[str]) -> set[str]:
    """The modules that Python's import system sees on the way of a task."""
    done = node.run(interpreter(node.prefix), "-ISBXutf8", "-Ximporttime", *argv)
    lines = re.findall(r"^import time: +[0-9]+ \| +[0-9]+ \| +(\S+)$", done.stderr, re.MULTILINE)
    assert "pwd" in lines, done.stderr
    return set(lines)


def test_a_task_imports_nothing_of_others_and_nothing_heavy(node, image):
    """No package of somebody else's, and none of the library's modules that take long."""
    names = imported(node, node.words(image))
    assert names & {*FORBIDDEN, "os", "_collections_abc"} == set()
    assert {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names} == {
        *("slurm_oci_plugins", "slurm_oci_plugins.apptainer"),
    }


def test_without_the_file_of_modules_a_task_imports_the_same(node, image):
    """One by one, and nothing heavy either."""
    library = node.prefix / "lib"
    shutil.copytree(library.resolve(), node.prefix / "lib-plain", ignore=shutil.ignore_patterns("one-file.*"))
    library.unlink()
    library.symlink_to("lib-plain")
    node.run(str(node.prefix / "bin" / "slurm-oci-plugins"), "compile")
    for path in (node.prefix / "lib-plain").rglob("one-file.*"):
        path.unlink()
    names = imported(node, node.words(image))
    assert names & FORBIDDEN == set()
    ours = {f"slurm_oci.{stem}" for stem in CORE if stem != "__init__"}
    assert {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names} == {
        *("slurm_oci", "slurm_oci_plugins", "slurm_oci_plugins.apptainer", *ours),
    }


def test_every_module_of_a_task_comes_from_the_one_file(node, image):
    """Nothing else of the library is opened: a module that is missing from the list shows here."""
    opened = [
        line for line in node.dispatch(node.words(image)) if line.startswith("openat(") and "lib-" in line
    ]
    assert [line for line in opened if "one-file." not in line] == []
    assert len(opened) == 1


def test_the_lists_of_modules_name_modules():
    """Each once, and each is there."""
    names = [*CORE, *OTHERS]
    assert len(names) == len(set(names))
    assert [name for name in names if not (ROOT / f"dispatch/slurm_oci/{name}.py").is_file()] == []


# Processes and memory


def test_no_process_is_started_before_the_runtime(node, image):
    """The entry point becomes the runtime: two programs in one process."""
    calls = node.traced(*node.words(image), calls="%process")
    until = next(n for n, line in enumerate(calls) if "bin/apptainer" in line.partition(",")[0])
    started = [line.partition("(")[0] for line in calls[: until + 1]]
    assert [name for name in started if name != "exit_group"] == ["execve", "execve"]


def test_nothing_stays_between_slurm_and_the_runtime(node, image, place):
    """The runtime's parent is who called the entry point."""
    node.run(*node.words(image))
    [call] = StandIn(place / "bin" / "apptainer", place / "bin" / "apptainer.record").calls
    assert call.status["PPid"] == str(os.getpid())


def test_a_supervised_task_holds_little_memory(node, bundle, place):
    """At most 12 MiB stay resident while the container runs."""
    crun = place / "bin" / "crun"
    crun.write_text("#!/bin/sh\nexec grep VmRSS /proc/$PPID/status\n")
    (node.prefix / "site.toml").write_text(f'state = "{place}/state"\n')
    (place / "state").mkdir(mode=0o1777)
    node.compile()
    done = node.run(*node.words(bundle, SLURM_OCI_RUNTIME="crun"))
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout.split()[1]) <= 12 * 1024


# The entry point itself


def test_the_entry_point_can_be_read_by_any_python_3():
    """So that an old one can say that it is too old."""
    ast.parse((ROOT / "opt-slurm-oci" / "run").read_text(), feature_version=(3, 4))


@pytest.mark.parametrize("version", [(3, 6, 8), (3, 10, 12)])
def test_an_old_python_is_refused_in_one_line(node, image, version):
    """With the cure, and without a traceback."""
    run = node.prefix / "run"
    old = f"import sys\nsys.version_info = {version}; sys.implementation.cache_tag = 'cpython-old'\n"
    run.write_text(run.read_text().replace("import sys\n", old, 1))
    done = node.run(*node.words(image))
    assert (done.returncode, done.stdout) == (125, "")
    found = "{} is Python {}.{}".format(interpreter(node.prefix), *version)
    assert done.stderr == (
        f"slurm-oci: error: {found}, and slurm-oci needs 3.11 or newer\n"
        "  the site: `slurm-oci-plugins install --python /path/to/python3` writes another one"
        " into this file\n"
    )


@pytest.mark.parametrize("is_link_left", [False, True])
def test_an_installation_without_its_library_says_so(node, image, is_link_left):
    """A copy of half of it, or one that was taken away."""
    library = node.prefix / "lib"
    shutil.rmtree(library.resolve())
    if not is_link_left:
        library.unlink()
    command = subprocess.run([node.prefix / "bin/slurm-oci-plugins"], capture_output=True, text=True)
    assert (command.returncode, command.stdout) == (1, "")
    assert command.stderr.startswith(
        f"slurm-oci: error: `{library}` does not lead to the program\n  the site"
    )
    done = node.run(*node.words(image))
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == (
        f"slurm-oci: error: cannot read `{node.prefix}/lib`: No such file or directory\n"
        f"  the site: `slurm-oci-plugins install --prefix {node.prefix}` mends it\n"
    )
