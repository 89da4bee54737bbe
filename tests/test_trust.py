"""What `compile` writes is used if it is what `compile` wrote, and only as long as what it was made
from is as it was. Else the plugins are asked: slower, and the same answer."""

import json
import marshal
import os
import shutil
import subprocess
from pathlib import Path

import attrs
import pytest
from conftest import OWN_UID, Slurm, StandIn

from slurm_oci import catalog, modules


@attrs.frozen
class Node:
    """A node with apptainer, where a task says what it trusts."""

    slurm: Slurm
    image: Path
    apptainer: StandIn

    @property
    def prefix(self) -> Path:
        return self.slurm.prefix

    @property
    def twin(self) -> Path:
        return Path(catalog.twin(str(self.prefix)))

    def compile(self) -> None:
        self.slurm.compile()

    def why_not(self) -> str:
        """Runs a task as always; why the catalog was not used, or nothing."""
        done = self.slurm.run(self.image, "/bin/true")
        assert done.status == 0, done.err
        words = self.apptainer.words.pop()
        assert words[-2:] == [str(self.image), "/bin/true"]
        lines = [line for line in done.err.splitlines() if line.startswith("slurm-oci: catalog: ")]
        return lines[0].removeprefix("slurm-oci: catalog: not used ") if lines else ""


@pytest.fixture
def node(slurm, stand_in, place):
    image = place / "image"
    (image / "bin").mkdir(parents=True)
    shutil.copy("/bin/true", image / "bin" / "true")
    slurm.job = {"SLURM_OCI_DEBUG": "1"}
    found = Node(slurm, image, stand_in("apptainer"))
    found.compile()
    assert found.why_not() == ""
    return found


def damaged(content: bytes) -> dict[str, bytes]:
    other = marshal.dumps({"format": catalog.FORMAT, "made_from": 5})
    return {
        "empty": b"",
        "half written": content[: len(content) // 2],
        "one byte short": content[:-1],
        "one bit other": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "zeros after a crash": bytes(len(content)),
        "of other types": other,
        "of other types, with our head": content[: len(catalog.HEAD) + 9] + other,
        "of another version": catalog.HEAD + bytes([catalog.FORMAT + 1]) + content[len(catalog.HEAD) + 1 :],
        "text": b"{}",
    }


@pytest.mark.parametrize("what", damaged(b" " * 99))
def test_a_damaged_catalog_is_noticed(node, what):
    """Whatever happened to it, the task runs as it would have."""
    node.twin.write_bytes(damaged(node.twin.read_bytes())[what])
    assert node.why_not().endswith(": the plugins are asked)")


def test_a_missing_catalog_is_no_fault(node):
    """A node that was never compiled for works."""
    node.twin.unlink()
    assert node.why_not() == f"(cannot read `{node.twin}`: No such file or directory: the plugins are asked)"


@pytest.mark.skipif(OWN_UID == 0, reason="root's files are for everybody to read here")
def test_a_catalog_that_cannot_be_read_is_no_fault(node):
    """As where its mode was changed."""
    node.twin.chmod(0)
    assert node.why_not() == f"(cannot read `{node.twin}`: Permission denied: the plugins are asked)"


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_catalog_that_others_may_write_is_ignored_with_a_warning(node, mode):
    """Also without the trace: somebody could have written what every task would do."""
    node.twin.chmod(mode)
    node.slurm.job = {}
    done = node.slurm.run(node.image, "/bin/true")
    assert done.status == 0
    assert done.err == (
        f"slurm-oci: warning: `{node.twin}` could have been written by others than the installation's owner,"
        " and is not used: `chown` it to that owner and `chmod go-w` it\n"
    )


@pytest.mark.skipif(OWN_UID != 0, reason="needs root, to give files away")
@pytest.mark.parametrize(("owner", "of_prefix", "is_used"), [(7, 0, False), (7, 7, True), (0, 7, True)])
def test_a_catalog_is_roots_or_the_installations_owners(node, owner, of_prefix, is_used):
    """Anybody else's is not used."""
    os.chown(node.twin, owner, -1)
    os.chown(node.prefix, of_prefix, -1)
    assert (node.why_not() == "") is is_used


def change_site(node: Node) -> None:
    (node.prefix / "site.toml").write_text("pull = true\n")


def change_drop_in(node: Node) -> None:
    (node.prefix / "plugins.d" / "own.py").write_text("def slurm_oci_runtimes():\n    return []\n")


def change_library(node: Node) -> None:
    library = node.prefix / "lib"
    shutil.copytree(library.resolve(), node.prefix / "lib-other", copy_function=shutil.copy2)
    library.unlink()
    library.symlink_to("lib-other")
    (node.prefix / "lib-other" / "more").mkdir()


@pytest.mark.parametrize(
    ("change", "name"),
    [(change_site, "site.toml"), (change_drop_in, "plugins.d"), (change_library, "lib")],
)
def test_a_catalog_of_something_else_is_not_used(node, change, name):
    """Until it is compiled again."""
    change(node)
    assert (
        node.why_not() == f"(`{name}` has changed since `slurm-oci-plugins compile`: the plugins are asked)"
    )
    node.compile()
    assert node.why_not() == ""


def test_a_copy_of_the_installation_needs_no_compiling(node, place):
    """On another file system, where directories have other sizes and times are whole seconds."""
    copy = place / "copy"
    shutil.copytree(node.prefix, copy, symlinks=True)
    for path in (node.prefix, *node.prefix.rglob("*")):
        time = int(path.lstat().st_mtime) * 10**9
        os.utime(copy / path.relative_to(node.prefix), ns=(time, time), follow_symlinks=False)
    own = Node(attrs.evolve(node.slurm, prefix=copy), node.image, node.apptainer)
    assert own.why_not() == ""


def test_the_readable_text_says_the_same(node):
    """catalog.json is the twin's content, for people."""
    text = json.loads((node.prefix / catalog.TEXT).read_text())
    found = catalog.read(str(node.prefix))
    plain = {**found, **{part: dict(found[part].items()) for part in ("runtimes", "candidates")}}
    assert json.loads(json.dumps(plain)) == text


def test_asking_the_plugins_gives_the_same(node):
    """But for what is known about this node alone."""
    of_node = {"probed": {}, "folders": {}}
    found = catalog.read(str(node.prefix))
    plain = {**found, **{part: dict(found[part].items()) for part in ("runtimes", "candidates")}, **of_node}
    script = (
        "import json, sys; sys.path.append(sys.argv[1] + '/lib');"
        "from slurm_oci import catalog; print(json.dumps(catalog.build(sys.argv[1])))"
    )
    python = (node.prefix / "run").read_text().split()[0].removeprefix("#!")
    done = subprocess.run([python, "-ISc", script, node.prefix], capture_output=True, text=True)
    assert json.loads(done.stdout) == json.loads(json.dumps(plain)), done.stderr


def test_a_program_that_came_later_is_found(node, place):
    """What the catalog knows of a directory holds until the directory changes."""
    other = place / "bin" / "crun"
    shutil.copy("/bin/true", other)
    found = catalog.read(str(node.prefix))
    assert "crun" not in found["folders"][str(place / "bin")][1]
    bundle = place / "bundle"
    bundle.mkdir()
    (bundle / "config.json").write_text(json.dumps({"root": {"path": str(node.image)}}))
    done = node.slurm.run(bundle, "/bin/true")
    assert "slurm-oci: runtime: crun (the first in the site's order that takes oci-bundle)" in done.err


def test_the_probe_of_another_executable_is_not_used(node, place):
    """One with another size or time is asked itself."""
    calls = place / "bin" / "apptainer"
    calls.write_text(calls.read_text().replace("stand-in 1.0", "stand-in 2.0 --cwd"))
    done = node.slurm.run(node.image, "/bin/true")
    assert done.status == 0, done.err
    assert "--cwd" in node.apptainer.words[-1]


# The file with the modules' code


@pytest.fixture
def one_file(node, place):
    """The file of modules, of a library of the test's own."""
    library = node.prefix / "lib"
    shutil.copytree(library.resolve(), node.prefix / "lib-own", copy_function=shutil.copy2)
    library.unlink()
    library.symlink_to("lib-own")
    node.compile()
    return Path(modules.path(str(node.prefix / "lib-own")))


def origin(node: Node, module: str) -> str:
    """Where a task would take `module` from: the file of modules, or the library itself."""
    run = (node.prefix / "run").read_text()
    show = f"import {module}; print(type({module}.__spec__.loader).__name__); sys.exit()\nfrom slurm_oci.main"
    probe = node.prefix / "probe"
    probe.write_text(run.replace("from slurm_oci.main", show, 1))
    probe.chmod(0o755)
    done = subprocess.run([probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "change", [lambda b: b"", lambda b: b[:9999], lambda b: b"abcd" + b[4:], lambda b: b[:4] + b"i"]
)
def test_a_damaged_file_of_modules_is_noticed(node, one_file, change):
    """Empty, truncated, by another Python, of another type: each module is imported by itself."""
    assert origin(node, "slurm_oci.main") == "Finder"
    one_file.write_bytes(change(one_file.read_bytes()))
    assert origin(node, "slurm_oci.main") == "SourceFileLoader"
    assert node.why_not() == ""


def test_a_file_of_modules_without_its_end_is_noticed(node, one_file):
    """What is still in it is taken from it."""
    with open(one_file, "r+b") as file:
        file.truncate(one_file.stat().st_size - 9)
    last = "slurm_oci_plugins.unshare"
    assert origin(node, "slurm_oci.main") == "Finder"
    assert origin(node, last) == "SourceFileLoader"


def test_a_library_that_was_changed_is_imported_itself(node, one_file):
    """A file of the program that was replaced makes all of them be looked at."""
    target = one_file.parent.parent / "choose.py"
    other = target.with_suffix(".new")
    other.write_bytes(target.read_bytes())
    other.replace(target)
    assert origin(node, "slurm_oci.main") == "SourceFileLoader"


def test_a_runtimes_module_that_was_changed_is_imported_itself(node, one_file):
    """Written in place, too."""
    name = "slurm_oci_plugins.apptainer"
    assert origin(node, name) == "Finder"
    with open(one_file.parent.parent.parent / "slurm_oci_plugins" / "apptainer.py", "a") as file:
        file.write("# changed\n")
    assert origin(node, name) == "SourceFileLoader"
    assert origin(node, "slurm_oci.main") == "Finder"
