"""`slurm-oci-plugins site`"""

import json
import os
from typing import Any

import click


@click.command("site")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def command(prefix: str, as_json: bool) -> None:
    """The effective site settings and where each comes from.

    Below them, what a job gets that asks for nothing.
    """
    from slurm_oci import cache, site
    from slurm_oci.choose import ORDER
    from slurm_oci.positions import Positions

    path = os.path.join(prefix, site.NAME)
    values, built_in = site.read(path).plain(), site.Site().plain()
    places = Positions(text_of(path))
    shown: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        is_set = value != built_in[key] or (key,) in places.found
        shown[key] = {"value": value, "from": path if is_set else "built-in"}
        shown[key]["line"] = places[(key,)] if is_set else None
    # Empty means what is built in.
    shown["order"]["value"] = values["order"] or list(ORDER)
    shown["images"]["value"] = values["images"] | {"cache": values["images"]["cache"] or cache.BASE}
    settings = for_jobs(values, path, places)
    if as_json:
        click.echo(json.dumps({**shown, "settings": settings}, indent=2))
        return
    click.echo("\n".join([*lines(shown), click.style("what jobs get", bold=True), *lines(settings)]))


def text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def for_jobs(values: dict[str, Any], path: str, places: Any) -> dict[str, dict[str, Any]]:
    """Each per-job setting for a job that asks for nothing, and which layer it comes from."""
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
    where = f"{found['from']}:{found['line']}" if found["line"] else str(found["from"])
    return where + (", forced on every job" if found.get("forced") else "")
