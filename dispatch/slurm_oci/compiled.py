"""Writing what saves every task time: the catalog, its compiled twin and the modules in one file.

Each is replaced as a whole.
"""

import json
import marshal
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import MAGIC_NUMBER
from typing import Any

from slurm_oci import catalog, modules
from slurm_oci.node import probe_all
from slurm_oci.plugins import Gathered, gather
from slurm_oci.problems import Problem

# The modules of the program that tasks import; those of the runtimes come on top.
DISPATCH = (
    *("__init__", "bundle", "catalog", "choose", "container", "defined", "execute", "hook", "image"),
    *("job", "line", "main", "modules", "pattern", "problems", "request", "rootfs", "settings"),
    *("state", "values"),
)


class CatalogUnwritable(Problem):
    """The catalog cannot be written into the installation."""

    area = "site"


def write(prefix: str) -> Gathered:
    """Asks the plugins and writes the catalog of the installation in `prefix`.

    Raises SiteInvalid, CatalogUnwritable.
    """
    gathered = gather(prefix)
    content = gathered.catalog(probe_all(gathered))
    library = os.path.realpath(os.path.join(prefix, "lib"))
    try:
        if os.path.isdir(library):
            os.makedirs(os.path.dirname(modules.path(library)), exist_ok=True)
            replace(modules.path(library), marshal.dumps(in_one_file(library, gathered)))
        replace(catalog.twin(prefix), catalog.packed(content))
        replace(os.path.join(prefix, catalog.TEXT), json.dumps(content, indent=2).encode() + b"\n")
    except OSError as error:
        raise CatalogUnwritable(
            f"cannot write the catalog into `{prefix}`: {error.strerror}",
            "run it as the owner of the installation; `--prefix` says which one is meant",
        ) from None
    return gathered


def in_one_file(library: str, gathered: Gathered) -> tuple[Any, ...]:
    """The content of the file that `run` reads (see `slurm_oci.modules`).

    The program's own modules are as new as their folder, so that a task need not look at each;
    a runtime's is compared by itself.
    """
    found: modules.Modules = {}
    for name in DISPATCH:
        path = os.path.join("slurm_oci", name + ".py")
        dotted = "slurm_oci" if name == "__init__" else f"slurm_oci.{name}"
        found[dotted] = (path, name == "__init__", None, code_of(library, path))
    for dotted, path in plugin_modules(library, gathered):
        signature = modules.signature(os.path.join(library, path))
        found[dotted] = (path, path.endswith("/__init__.py"), signature, code_of(library, path))
    folders = [("slurm_oci", modules.signature(os.path.join(library, "slurm_oci")))]
    return MAGIC_NUMBER, found["slurm_oci.modules"][3], folders, found


def plugin_modules(library: str, gathered: Gathered) -> Iterator[tuple[str, str]]:
    """The modules in the library that runtimes come from, with their packages and what they import
    of these: name and path."""
    tops = {found.origin["module"].partition(".")[0] for found in gathered.found if "module" in found.origin}
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None) or ""
        if name.partition(".")[0] in tops and path.startswith(library + "/") and path.endswith(".py"):
            yield name, os.path.relpath(path, library)


def code_of(library: str, path: str) -> bytes:
    place = os.path.join(library, path)
    with open(place, "rb") as file:
        return marshal.dumps(compile(file.read(), place, "exec", dont_inherit=True))


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
