"""`slurm-oci-plugins site`"""

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from slurm_oci.positions import Positions


@click.command("site")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def command(prefix: str, as_json: bool) -> None:
    """The effective site settings and where each comes from.

    Below them, what a job gets that asks for nothing. Exit status 1 if site.toml names a runtime that
    is none, or asks one for what it cannot.
    """
    import attrs

    from slurm_oci import cache, plugins, site
    from slurm_oci.execute import warn
    from slurm_oci.misfits import misfits

    gathered = plugins.gather(prefix)
    path, places = os.path.join(prefix, site.NAME), site.positions(os.path.join(prefix, site.NAME))
    values, built_in = gathered.site.plain(), site.Site().plain()
    found = list(misfits(gathered))
    shown: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        is_set = value != built_in[key] or (key,) in places.found
        shown[key] = {"value": value, "from": path if is_set else "built-in"}
        shown[key]["line"] = places[(key,)] if is_set else None
    # Part of it, or nothing, is what is built in.
    shown["order"]["value"] = gathered.order()
    shown["images"]["value"] = values["images"] | {"cache": values["images"]["cache"] or cache.BASE}
    settings = for_jobs(values, path, places)
    if as_json:
        findings = [attrs.asdict(misfit) for misfit in found]
        click.echo(json.dumps({**shown, "settings": settings, "findings": findings}, indent=2))
    else:
        click.echo("\n".join([*lines(shown), click.style("what jobs get", bold=True), *lines(settings)]))
        for misfit in found:
            warn(str(misfit))
    sys.exit(1 if found else 0)


def for_jobs(values: dict[str, Any], path: str, places: "Positions") -> dict[str, dict[str, Any]]:
    """Each per-job setting for a job that asks for nothing, which layer it comes from, and the rules
    that have something else for some jobs."""
    from slurm_oci.settings import NAMES
    from slurm_oci.values import Settings

    found: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        built_in: Any = getattr(Settings, name)
        found[name] = {"value": list(built_in) if name == "mounts" else built_in, "from": "built-in"}
        found[name] |= {"line": None, "forced": name in values["forced"]}
        for table in ("defaults", "forced"):
            if name in values[table]:
                added = found[name]["value"] if name == "mounts" else None
                value = values[table][name]
                found[name] |= {"value": [*added, *value] if added else value, "from": path}
                found[name] |= {"line": places[(table, name)]}
        found[name]["rules"] = [
            {"rule": number + 1, "value": rule["settings"][name], "line": places[("rules", number, name)]}
            for number, rule in enumerate(values["rules"])
            if name in rule["settings"]
        ]
    if not values["user_hook"]:
        found["user_hook"] |= {"value": "no", "from": path, "line": places[("user_hook",)], "forced": True}
    return found


def lines(shown: dict[str, dict[str, Any]]) -> list[str]:
    from slurm_oci.explanation import Page

    page, width = Page.of_stdout(), max(map(len, shown)) + 2
    return [
        line
        for name, found in shown.items()
        for line in page.folded(f"{name + ':':{width}}{json.dumps(found['value'])}  ({origin(found)})", width)
    ]


def origin(found: dict[str, Any]) -> str:
    """Where a value comes from, and which rules of site.toml have what instead of it or, of mounts,
    beside it."""
    where = f"{found['from']}:{found['line']}" if found["line"] else str(found["from"])
    where += ", forced on every job" if found.get("forced") else ""
    ruled = [
        f"{json.dumps(rule['value'])} by rule {rule['rule']} in line {rule['line']}"
        for rule in found.get("rules", ())
    ]
    return "; ".join([where, *ruled])
