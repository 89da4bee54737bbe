"""Which runtime runs this image: what the job says, what the site says, what the node has."""

import os

from slurm_oci import problems
from slurm_oci.job import STANDARD_PATH
from slurm_oci.modules import signature
from slurm_oci.problems import nearest
from slurm_oci.values import TYPE_CHECKING, Image, Job, Request, Settings, Value

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from typing import Any

    from slurm_oci.cache import Cache, Caches
    from slurm_oci.importers import Importer
    from slurm_oci.values import Container, Step

# The default order, best first: what needs no help from outside and leaves nothing, then the rest.
ORDER = (
    *("crun", "runc", "apptainer", "singularity", "charliecloud", "enroot", "podman"),
    *("nvidia-container-runtime", "shifter", "sarus", "unshare"),
)


class Way(Value):
    """A runtime that can run the image here, and how it gets it."""

    runtime: str
    executables: "Mapping[str, str]"  # the runtime's programs on this node, by name
    places: tuple[str, ...]  # where they were looked for, each like $PATH
    is_named: bool = False  # asked for by name: this one or none
    entry: "tuple[Cache, str] | None" = None  # the cache and the entry in it, where it is unpacked
    kind: str = ""  # of the entry, or of what the importer will make; empty: the image's own
    importer: "Importer | None" = None  # what has to unpack the image first
    programs: "Mapping[str, str]" = {}  # the importer's, by name


def ways(
    request: Request,
    job: Job,
    image: Image,
    settings: Settings,
    catalog: "Mapping[str, Any]",
    trace: "list[Step]",
    path: str,
) -> "Iterator[Way]":
    """The ways to run `image`, best first; one alone where job or site has named the runtime.

    `path`: slurmd's PATH. Raises RuntimeUnknown, RuntimeMissing, ImageRefused, CacheUnsafe,
    PullRefused, and RuntimeNone where there is none at all.
    """
    site = catalog["site"]
    node = Node((path, job.env.get("PATH", ""), STANDARD_PATH), catalog)
    name, asked_by = settings.runtime, settings.origins.get("runtime", "")
    candidates = catalog["candidates"].get(image.kind, ())
    caches = None
    if name:
        candidates = named(name, asked_by, image, catalog)
        why = f"asked for by {asked_by}"
    passed_over = {}
    for number, (runtime, needed, through) in enumerate(candidates, 1):
        is_last = number == len(candidates)
        executables, missing = node.find_all(needed)
        if missing:
            if name:
                raise not_here(name, asked_by, missing, node)
            passed_over[runtime] = f"`{missing}` is not on this node"
            trace.append(("runtime", f"not {runtime}", passed_over[runtime]))
            continue
        way, first = Way(runtime, executables, node.places, bool(name) and is_last), ""
        if through is not None:
            from slurm_oci.cache import Caches  # few images have to be unpacked

            caches = caches or Caches(site, request, job, image)
            way, first = unpacked(way, image, through, caches, node)
            if not way.kind:
                if name and is_last:
                    raise problems.RuntimeMissing(
                        f"`{name}` (from {asked_by}) does not take images of kind {image.kind} as they are,"
                        f" and nothing on this node makes of `{image.name}` what it takes: it {first}",
                        "the site: install one of these programs, or fill a store (docs/images.md)",
                    )
                passed_over[runtime] = first
                trace.append(("runtime", f"not {runtime}", first))
                continue
        if not way.entry and would_pull(runtime, image, catalog):
            if name and is_last:
                break
            passed_over[runtime] = "would fetch it from a registry, which this site does not allow"
            trace.append(("runtime", f"not {runtime}", passed_over[runtime]))
            continue
        if not name:
            why = f"the first in the site's order that takes {image.kind}"
        trace.append(("runtime", runtime, f"{why}; {first}" if first else why))
        passed_over[runtime] = ""
        yield way
    if "" not in passed_over.values():
        from slurm_oci import advice

        if image.kind == "reference" and not site["pull"]:
            raise advice.pull_refused(image)
        raise advice.none_takes(image, job, catalog, passed_over)


def would_pull(name: str, image: Image, catalog: "Mapping[str, Any]") -> bool:
    """Whether the runtime, or we for it, would fetch the image, though the site does not allow that."""
    if image.kind != "reference" or catalog["site"]["pull"]:
        return False
    return bool(catalog["runtimes"][name].get("fetches", True))


def unpacked(way: Way, image: Image, through: "list[Any]", caches: "Caches", node: "Node") -> tuple[Way, str]:
    """`way` by an unpacked image that is there, or by the first importer on the node; and that in
    words. Neither: `way` as it was, and what it needs."""
    from slurm_oci import importers

    for kind in dict.fromkeys(kind for _, _, kind in through):
        entry = caches.find(kind)
        if entry:
            where = "the site's store" if entry[0].is_store else "the cache"
            return way.replace(entry=entry, kind=kind), f"as {kind} from {where}"
    lacking = []
    for name, needed, kind in through:
        importer = importers.by_name(name)
        if not importers.takes(importer, image):
            continue
        programs, missing = node.find_all(needed)
        if not missing:
            way = way.replace(kind=kind, importer=importer, programs=programs)
            return way, f"unpacked by {name} first, as {kind}"
        lacking.append(f"`{missing}`")
    return way, f"needs {' or '.join(dict.fromkeys(lacking))}" if lacking else "cannot fetch it"


def allowed(name: str, site: "Mapping[str, Any]") -> bool:
    """Whether site.toml lets jobs have the runtime."""
    return name not in site["refuse_runtimes"] and name in (site["allow_runtimes"] or (name,))


def named(name: str, asked_by: str, image: Image, catalog: "Mapping[str, Any]") -> "list[Any]":
    """The candidate that was asked for by name, or the two ways that it has: that one or none."""
    runtimes = catalog["runtimes"]
    if name not in runtimes:
        near = nearest(name, list(runtimes))
        meant = f"did you mean `{near}`? " if near else ""
        raise problems.RuntimeUnknown(
            f"no container runtime is called `{name}` (from {asked_by})",
            f"{meant}`slurm-oci-plugins list` shows what this node has",
        )
    if not allowed(name, catalog["site"]):
        others = ", ".join(other for other in runtimes if allowed(other, catalog["site"]))
        raise problems.RuntimeRefused(
            f"this site does not allow the runtime `{name}` (from {asked_by})",
            f"it allows: {others or 'none'}",
        )
    candidates = catalog["candidates"].get(image.kind, ())
    found = [candidate for candidate in candidates if candidate[0] == name]
    if found:
        return found
    raise problems.ImageRefused(
        f"`{name}` (from {asked_by}) does not take `{image.name}`, which is of kind {image.kind}:"
        f" it takes {', '.join(runtimes[name]['accepts'])}",
        f"runtimes that take it: {', '.join(dict.fromkeys(other for other, *_ in candidates)) or 'none'};"
        " where none is asked for, the site's order decides",
    )


def not_here(name: str, asked_by: str, missing: str, node: "Node") -> "problems.Problem":
    if missing.startswith("/"):
        program = next((program for program, path in node.configured.items() if path == missing), "")
        key = f"[executables] {program}" if program else f"[runtimes.{name}] run"
        return problems.RuntimeMissing(
            f"`{name}` (from {asked_by}) is started by `{missing}`, which is no program on this node",
            f"the site: install it, or name another in site.toml: {key}",
        )
    return problems.RuntimeMissing(
        f"`{name}` (from {asked_by}) needs `{missing}`, which is not on this node",
        "looked in " + ", ".join(folders(node.places)),
        f"a site names another place in site.toml: [executables] {missing} = '/path/to/{missing}'",
    )


class Node:
    """Where programs are on this node."""

    def __init__(self, places: tuple[str, ...], catalog: "Mapping[str, Any]") -> None:
        self.places = places  # each like $PATH
        self.configured = catalog["site"]["executables"]
        self.known = Known(catalog.get("folders", {}))

    def find_all(self, names: "list[str]") -> tuple[dict[str, str], str]:
        return find_all(names, self.configured, self.places, self.known)


class Known:
    """Which names are in which folder, so that not every program is looked for in every folder: as
    the catalog says where the folder has not changed, else listed once several were looked for."""

    def __init__(self, recorded: "Mapping[str, Any]") -> None:
        self.recorded = recorded
        self.names: dict[str, Collection[str] | None] = {}  # by folder; None: not known
        self.tried: dict[str, int] = {}

    def lacks(self, folder: str, name: str) -> bool:
        """Whether the program `name` is surely not in `folder`."""
        if folder not in self.names:
            then, names = self.recorded.get(folder, (None, None))
            # A time in whole seconds may be one that was set, as for reproducible images.
            holds = then and then[1] % 10**9 and signature(folder) == tuple(then)
            self.names[folder] = names if holds else None
        if self.names[folder] is None:
            self.tried[folder] = self.tried.get(folder, 0) + 1
            if self.tried[folder] == LIST_AT:
                self.names[folder] = listed(folder)
        found = self.names[folder]
        return found is not None and name not in found


LIST_AT = 2  # from here on a listing is cheaper than looking for each


def listed(folder: str) -> "Collection[str] | None":
    try:
        return frozenset(os.listdir(folder))
    except FileNotFoundError:
        return ()
    except OSError:
        return None


def find_all(
    names: "list[str]", configured: "Mapping[str, str]", places: tuple[str, ...], known: "Known | None" = None
) -> tuple[dict[str, str], str]:
    """The paths of the executables `names`, and the first that is missing (empty if none is): its path,
    where site.toml has one for it."""
    found: dict[str, str] = {}
    known = known or Known({})
    for name in names:
        path = find_executable(name, configured, places, known)
        if not path:
            return found, configured.get(name, name)
        found[name] = path
    return found, ""


def find_executable(
    name: str, configured: "Mapping[str, str]", places: tuple[str, ...], known: "Known | None" = None
) -> str:
    """Where the program `name` is: where site.toml says, else the first of `places` (each like
    $PATH) that has it; an absolute path is there or nowhere. Empty where it is not."""
    if name in configured or name[:1] == "/":
        path = configured.get(name, name)
        return path if is_program(path) else ""
    known = known or Known({})
    candidates = (f"{folder}/{name}" for folder in folders(places) if not known.lacks(folder, name))
    return next((path for path in candidates if is_program(path)), "")


def helper(name: str, container: "Container") -> str:
    """Where a program is that a runtime needs for this container alone; empty where it is not."""
    return find_executable(name, container.configured, container.places)


def folders(places: tuple[str, ...]) -> list[str]:
    """The directories in `places`, each once. Relative ones are left out: the job's working
    directory must not decide which runtime is started."""
    listed = (folder for place in places for folder in place.split(":"))
    return list(dict.fromkeys(folder for folder in listed if folder.startswith("/")))


def is_program(path: str) -> bool:
    return os.access(path, os.X_OK) and not os.path.isdir(path)
