"""Which runtime runs this image: what the job says, what the site says, what the node has."""

import os

from slurm_oci import problems
from slurm_oci.job import STANDARD_PATH
from slurm_oci.modules import signature
from slurm_oci.problems import nearest
from slurm_oci.values import TYPE_CHECKING, Image, Job, Request, Settings

if TYPE_CHECKING:
    from collections.abc import Container, Mapping
    from typing import Any

    from slurm_oci.values import Step

# The default order, best first: what needs no help from outside and leaves nothing, then the rest.
ORDER = (
    *("crun", "runc", "apptainer", "singularity", "charliecloud", "enroot", "podman"),
    *("nvidia-container-runtime", "shifter", "sarus", "unshare"),
)


def choose(
    request: Request,
    job: Job,
    image: Image,
    settings: Settings,
    catalog: "Mapping[str, Any]",
    trace: "list[Step]",
    path: str,
) -> tuple[str, dict[str, str]]:
    """The name of the runtime for `image`, and its executables on this node by name.

    `path`: slurmd's PATH. Raises RuntimeUnknown, RuntimeMissing, ImageRefused, RuntimeNone.
    """
    runtimes, site = catalog["runtimes"], catalog["site"]
    places = (path, job.env.get("PATH", ""), STANDARD_PATH)
    known = Known(catalog.get("folders", {}))
    name, asked_by = settings.runtime, settings.origins.get("runtime", "")
    if not name:
        name, asked_by = by_rule(request, job, image, site["rules"], trace)
    if name:
        return name, named(name, asked_by, image, runtimes, site, places, trace)
    passed_over = {}
    for name, needed in catalog["candidates"].get(image.kind, ()):
        executables, missing = find_all(needed, site["executables"], places, known)
        if missing:
            passed_over[name] = f"`{missing}` is not on this node"
            trace.append(("runtime", f"not {name}", f"`{missing}` is not on this node"))
            continue
        trace.append(("runtime", name, f"the first in the site's order that takes {image.kind}"))
        return name, executables
    raise problems.RuntimeNone(
        f"no container runtime on this node takes `{image.name}`, of kind {image.kind}",
        *(
            f"{name}: {passed_over.get(name) or f'does not take images of kind {image.kind}'}"
            for name in catalog["order"]
        ),
    )


def by_rule(
    request: Request, job: Job, image: Image, rules: "list[dict[str, Any]]", trace: "list[Step]"
) -> tuple[str, str]:
    """The runtime of the first of the site's rules that fits, and the rule's name."""
    facts = {
        "partition": job.env.get("SLURM_JOB_PARTITION", ""),
        "account": job.env.get("SLURM_JOB_ACCOUNT", ""),
        "qos": job.env.get("SLURM_JOB_QOS", ""),
        "user": job.user,
        "kind": image.kind,
        "step": request.step_kind,
    }
    for number, rule in enumerate(rules, 1):
        if all(facts[key] in wanted for key, wanted in rule["when"].items()):
            return rule["runtime"], f"rule {number} of site.toml"
    if rules:
        trace.append(("rules", "none fits", f"{len(rules)} in site.toml"))
    return "", ""


def named(
    name: str,
    asked_by: str,
    image: Image,
    runtimes: "Mapping[str, Any]",
    site: "Mapping[str, Any]",
    places: tuple[str, ...],
    trace: "list[Step]",
) -> dict[str, str]:
    """The executables of the runtime that was asked for by name: that one or none."""
    if name not in runtimes:
        near = nearest(name, list(runtimes))
        meant = f"did you mean `{near}`? " if near else ""
        raise problems.RuntimeUnknown(
            f"no container runtime is called `{name}` (from {asked_by})",
            f"{meant}`slurm-oci-plugins list` shows what this node has",
        )
    runtime = runtimes[name]
    if image.kind not in runtime["accepts"]:
        takes = ", ".join(other for other in runtimes if image.kind in runtimes[other]["accepts"])
        raise problems.ImageRefused(
            f"`{name}` (from {asked_by}) does not take `{image.name}`, which is of kind {image.kind}:"
            f" it takes {', '.join(runtime['accepts'])}",
            f"runtimes that take it: {takes or 'none'}",
        )
    executables, missing = find_all(runtime["executables"], site["executables"], places)
    if missing:
        raise problems.RuntimeMissing(
            f"`{name}` (from {asked_by}) needs `{missing}`, which is not on this node",
            "looked in " + ", ".join(folders(places)),
            f"a site names another place in site.toml: [executables] {missing} = '/path/to/{missing}'",
        )
    trace.append(("runtime", name, f"asked for by {asked_by}"))
    return executables


class Known:
    """Which names are in which folder, so that not every program is looked for in every folder: as
    the catalog says where the folder has not changed, else listed once several were looked for."""

    def __init__(self, recorded: "Mapping[str, Any]") -> None:
        self.recorded = recorded
        self.names: dict[str, Container[str] | None] = {}  # by folder; None: not known
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


def listed(folder: str) -> "Container[str] | None":
    try:
        return frozenset(os.listdir(folder))
    except FileNotFoundError:
        return ()
    except OSError:
        return None


def find_all(
    names: "list[str]", configured: "Mapping[str, str]", places: tuple[str, ...], known: "Known | None" = None
) -> tuple[dict[str, str], str]:
    """The paths of the executables `names`, and the first that is missing (empty if none is)."""
    found: dict[str, str] = {}
    known = known or Known({})
    for name in names:
        path = find_executable(name, configured, places, known)
        if not path:
            return found, name
        found[name] = path
    return found, ""


def find_executable(
    name: str, configured: "Mapping[str, str]", places: tuple[str, ...], known: "Known | None" = None
) -> str:
    """Where the program `name` is: where site.toml says, else the first of `places` (each like
    $PATH) that has it. Empty where it is not."""
    if name in configured:
        return configured[name] if is_program(configured[name]) else ""
    known = known or Known({})
    candidates = (f"{folder}/{name}" for folder in folders(places) if not known.lacks(folder, name))
    return next((path for path in candidates if is_program(path)), "")


def folders(places: tuple[str, ...]) -> list[str]:
    """The directories in `places`, each once. Relative ones are left out: the job's working
    directory must not decide which runtime is started."""
    listed = (folder for place in places for folder in place.split(":"))
    return list(dict.fromkeys(folder for folder in listed if folder.startswith("/")))


def is_program(path: str) -> bool:
    return os.access(path, os.X_OK) and not os.path.isdir(path)
