"""What the plugins and site.toml say, asked once and kept as plain data.

`slurm-oci-plugins compile` writes `catalog.json`, for people, and its compiled twin, for this
module. What they were made from is recorded in them; if any of it has changed, or the twin could
have been written by somebody else, it is not trusted and the plugins are asked again.
"""

import marshal
import os
import stat
import sys

from slurm_oci.problems import RuntimeMissing
from slurm_oci.values import TYPE_CHECKING, Runtime

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FORMAT = 1
TEXT = "catalog.json"


def twin(prefix: str) -> str:
    """The compiled catalog's path; what marshal writes differs between versions of Python."""
    return os.path.join(prefix, f"catalog.{sys.implementation.cache_tag}")


def read(prefix: str) -> "dict[str, Any] | None":
    """The catalog of the installation, or None where it is not there or not to be trusted."""
    try:
        with open(twin(prefix), "rb", 0) as file:
            found = os.fstat(file.fileno())
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return None
            if found.st_uid not in (0, os.stat(prefix).st_uid):
                return None
            catalog = marshal.loads(file.read())
    except (OSError, ValueError, EOFError, TypeError):
        return None
    if type(catalog) is not dict or catalog.get("format") != FORMAT:
        return None
    return catalog if is_fresh(catalog) else None


def is_fresh(catalog: "Mapping[str, Any]") -> bool:
    """Whether everything that the catalog was made from is as it was."""
    return all(signature(path) == recorded for path, recorded in catalog["made_from"])


def signature(path: str) -> "tuple[int, int] | None":
    """Size and modification time (ns) of what is at `path`, None for nothing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def build(prefix: str) -> "dict[str, Any]":
    """The same from the plugins themselves: slower, and the same answer. Raises SiteInvalid."""
    from slurm_oci.plugins import gather  # pluggy, attrs: not on the usual path

    return gather(prefix).catalog()


def load(name: str, catalog: "Mapping[str, Any]", prefix: str) -> Runtime:
    """The runtime `name` from its one module. Raises RuntimeMissing."""
    entry = catalog["runtimes"][name]
    if "run" in entry:
        from slurm_oci import defined

        return defined.runtime(name, entry["run"], entry["accepts"], entry["summary"])
    try:
        module = from_file(entry["file"]) if "file" in entry else from_name(entry["module"])
        found: Runtime = next(r for r in module.slurm_oci_runtimes() if r.name == name)
        return found
    except Exception as error:
        raise RuntimeMissing(
            f"the plugin of `{name}` ({entry['source']}) cannot be used: {type(error).__name__}: {error}",
            "`slurm-oci-plugins list` shows the state of every plugin",
        ) from None


def from_name(name: str) -> "Any":
    __import__(name)
    return sys.modules[name]


def from_file(path: str) -> "Any":
    """The drop-in plugin at `path`, as a module of its own. Raises whatever it raises."""
    name = "slurm_oci_plugins_d." + os.path.basename(path).removesuffix(".py")
    module = type(sys)(name)
    module.__file__ = path
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    sys.modules[name] = module
    exec(code, module.__dict__)
    return module


def probed(
    runtime: Runtime, executables: "Mapping[str, str]", catalog: "Mapping[str, Any]"
) -> "Mapping[str, Any]":
    """What the runtime's probe says about the executable on this node: from the catalog, if it
    was probed there, else asked now."""
    if runtime.probe is None:
        return {}
    path = executables[runtime.executables[0]]
    for known in catalog["probed"].get(runtime.name, ()):
        if known["path"] == path and known["signature"] == signature(path):
            found: Mapping[str, Any] = known["found"]
            return found
    return runtime.probe(path)
