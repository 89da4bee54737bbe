"""Writing what saves every task time: the catalog, its compiled twin and the modules in one file.

Each is replaced as a whole.
"""

import ast
import json
import marshal
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import MAGIC_NUMBER
from types import CodeType

from slurm_oci import catalog, cdi, modules
from slurm_oci.node import folders_of, probe_all
from slurm_oci.plugins import Gathered, gather
from slurm_oci.problems import Problem

# What every task imports, each after what it imports itself, and what only some tasks do. The
# modules of the runtimes come on top.
CORE = (
    *("problems", "values", "__init__", "modules", "catalog", "job", "rootfs", "container"),
    *("execute", "hook", "image", "request", "settings", "choose", "main"),
)
OTHERS = (
    *("advice", "archive", "breakage", "bundle", "cache", "cdi", "claims", "client", "cover", "defined"),
    *("definition", "image_problems", "images", "importers", "importing", "line", "log", "lookup", "mpi"),
    "pattern",
    *("plainjson", "policy", "positions", "secret", "slurm_conf", "state", "supervise", "trust"),
)

# What `run` executes when it has read the file: in its own words, which Python need not compile then.
START = """
sys.path.append(library)
space = {"__name__": "slurm_oci.modules"}
exec(first, space)
space["install"](library, file, size + 8, *modules)
"""


class CatalogUnwritable(Problem):
    """The catalog cannot be written into the installation."""

    area = "site"


def write(prefix: str, warn: Callable[[str], None] | None = None) -> Gathered:
    """Asks the plugins and writes the catalog of the installation in `prefix`. `warn` is told what of
    this node cannot be read.

    Raises SiteInvalid, CatalogUnwritable.
    """
    gathered = gather(prefix)
    content = gathered.catalog(probe_all(gathered), folders_of(gathered), cdi.read_yaml(warn))
    library = os.path.realpath(os.path.join(prefix, "lib"))
    try:
        if os.path.isdir(library):
            os.makedirs(os.path.dirname(modules.path(library)), exist_ok=True)
            replace(modules.path(library), in_one_file(library, gathered))
        replace(catalog.twin(prefix), catalog.packed(content))
        replace(os.path.join(prefix, catalog.TEXT), json.dumps(content, indent=2).encode() + b"\n")
    except OSError as error:
        raise CatalogUnwritable(
            f"cannot write the catalog into `{prefix}`: {error.strerror}",
            "run it as the owner of the installation; `--prefix` says which one is meant",
        ) from None
    return gathered


def in_one_file(library: str, gathered: Gathered) -> bytes:
    """The content of the file that `run` reads (see `slurm_oci.modules`).

    The program's own modules are as new as their folder, so that a task need not look at each;
    a runtime's is compared by itself.
    """
    core = [(name, path, bare_code_of(library, path)) for name, path in map(place, CORE)]
    others: modules.Others = {}
    rest = b""

    def add(name: str, path: str, signature: "modules.Signature", code: CodeType) -> None:
        nonlocal rest
        packed = marshal.dumps(code)
        others[name] = (path, signature, len(rest), len(packed))
        rest += packed

    for name, path in map(place, OTHERS):
        add(name, path, None, bare_code_of(library, path))
    for name, path in plugin_modules(library, gathered):
        is_empty = not os.path.getsize(os.path.join(library, path))  # a package's: not worth a call
        signature = None if is_empty else modules.signature(os.path.join(library, path))
        add(name, path, signature, code_of(library, path))
    first = next(code for name, _, code in core if name == "slurm_oci.modules")
    folders = [("slurm_oci", modules.signature(os.path.join(library, "slurm_oci")))]
    start = compile(START, os.path.join(library, "start"), "exec")
    head = marshal.dumps((start, first, folders, core, others))
    return MAGIC_NUMBER + len(head).to_bytes(4, "little") + head + rest


def place(stem: str) -> tuple[str, str]:
    """The name and the path of a module of the program."""
    return "slurm_oci" if stem == "__init__" else f"slurm_oci.{stem}", f"slurm_oci/{stem}.py"


def plugin_modules(library: str, gathered: Gathered) -> Iterator[tuple[str, str]]:
    """The modules in the library that runtimes come from, with their packages and what they import
    of these: name and path."""
    tops = {found.origin["module"].partition(".")[0] for found in gathered.found if "module" in found.origin}
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None) or ""
        if name.partition(".")[0] in tops and path.startswith(library + "/") and path.endswith(".py"):
            yield name, os.path.relpath(path, library)


def code_of(library: str, path: str) -> CodeType:
    """The code of somebody's module, as an import has it."""
    place = os.path.join(library, path)
    return compile(modules.content(place), place, "exec", dont_inherit=True, optimize=0)


def bare_code_of(library: str, path: str) -> CodeType:
    """The code of a module of the program without what no task reads: docstrings, the annotations of
    functions, what is there for type checkers alone."""
    place = os.path.join(library, path)
    tree = Bare().visit(ast.parse(modules.content(place), place))
    return compile(tree, place, "exec", dont_inherit=True, optimize=2)


class Bare(ast.NodeTransformer):
    """Takes away what a program does not need to run."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_If(self, node: ast.If) -> "ast.AST | list[ast.stmt]":
        self.generic_visit(node)
        is_for_checkers = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return node.orelse if is_for_checkers else node


def replace(path: str, content: bytes) -> None:
    """Writes a file as a whole or not at all. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=os.path.dirname(path), prefix=os.path.basename(path) + ".")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
