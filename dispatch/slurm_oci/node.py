"""What this node has of what the plugins need: the admin's view of the runtimes."""

import os
from typing import Any

import attrs

from slurm_oci import importers
from slurm_oci.ask import answer
from slurm_oci.choose import allowed, find_all, folders
from slurm_oci.job import STANDARD_PATH
from slurm_oci.modules import signature
from slurm_oci.plugins import Found, Gathered
from slurm_oci.site import NAME as SITE


@attrs.frozen
class State:
    """One line of `list`."""

    name: str
    summary: str
    source: str  # distribution and version, drop-in file or site.toml
    accepts: tuple[str, ...]
    executable: str | None
    version: str | None
    usable: bool
    reason: str | None  # why not


def states(gathered: Gathered) -> list[State]:
    """Every runtime in the order in which they are tried, then what was put aside."""
    by_name = {found.runtime.name: found for found in gathered.found}
    good = [state_of(by_name[name], gathered) for name in gathered.order()]
    bad = [State(a.name, "", a.source, (), None, None, False, a.reason) for a in gathered.aside]
    return good + bad


def state_of(found: Found, gathered: Gathered) -> State:
    runtime = found.runtime
    executables, missing = on_node(found, gathered)
    first = executables.get(runtime.executables[0]) if runtime.executables else None
    version = version_of(first, runtime.version) if first else None
    reason = f"`{missing}` is not on this node" if missing else None
    if not allowed(runtime.name, gathered.site.plain()):
        reason = f"{SITE} does not allow it"
    return State(
        name=runtime.name,
        summary=runtime.summary,
        source=found.source,
        accepts=runtime.accepts,
        executable=first,
        version=version,
        usable=reason is None,
        reason=reason,
    )


def on_node(found: Found, gathered: Gathered) -> tuple[dict[str, str], str]:
    """The runtime's executables on this node, and the first that is missing."""
    places = (os.environ.get("PATH", ""), STANDARD_PATH)
    return find_all(list(found.runtime.executables), gathered.site.executables, places)


def version_of(executable: str, arguments: tuple[str, ...]) -> str | None:
    """What the program prints first when it is asked for its version; None if it says nothing."""
    return next(filter(None, map(str.strip, answer(executable, *arguments).splitlines())), None)


def probe_all(gathered: Gathered) -> dict[str, Any]:
    """What each runtime's probe says about its executable on this node, for the catalog. One that
    fails is left out: it is asked again, and named, when a task wants its runtime."""
    probed = {}
    for found in gathered.found:
        executables, missing = on_node(found, gathered)
        if found.runtime.probe and not missing:
            path = executables[found.runtime.executables[0]]
            try:
                result = dict(found.runtime.probe(path))
            except (Exception, SystemExit):
                continue
            probed[found.runtime.name] = [{"path": path, "signature": signature(path), "found": result}]
    return probed


def folders_of(gathered: Gathered) -> dict[str, Any]:
    """For each folder of this node in which programs are looked for: its signature, and those of
    the runtimes' programs that it has something by the name of (see `choose.Known`)."""
    names = {name for found in gathered.found for name in found.runtime.executables}
    names.update(name for importer in importers.TABLE for name in importer.executables)
    known = {}
    for folder in folders((os.environ.get("PATH", ""), STANDARD_PATH)):
        before = signature(folder)
        if before:
            known[folder] = (before, sorted(names.intersection(os.listdir(folder))))
    return known
