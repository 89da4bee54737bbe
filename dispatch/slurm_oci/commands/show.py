"""`slurm-oci-plugins show NAME`"""

import json

import attrs
import click

from slurm_oci.completion import runtimes
from slurm_oci.importers import TABLE
from slurm_oci.values import Runtime


@click.command("show")
@click.argument("name", shell_complete=runtimes)
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def command(prefix: str, name: str, as_json: bool) -> None:
    """One runtime: what it takes, what it can express, where it is."""
    from slurm_oci.explanation import Page
    from slurm_oci.node import state_of
    from slurm_oci.plugins import gather
    from slurm_oci.problems import RuntimeUnknown, nearest

    gathered = gather(prefix)
    by_name = {found.runtime.name: found for found in gathered.found}
    if name not in by_name:
        aside = [a for a in gathered.aside if a.name == name]
        near = nearest(name, list(by_name))
        hints = [f"{a.source} has one that cannot be used: {a.reason}" for a in aside]
        hints += [f"did you mean `{near}`?"] if near else []
        raise RuntimeUnknown(
            f"no container runtime is called `{name}`", *hints, "see `slurm-oci-plugins list`"
        )
    runtime = by_name[name].runtime
    state = attrs.asdict(state_of(by_name[name], gathered))
    state |= {
        "unpacked": unpacked(runtime),
        "executables": list(runtime.executables),
        "carries": list(runtime.carries),
        "variables": list(runtime.variables),
        "private": runtime.private,
    }
    if as_json:
        click.echo(json.dumps(state, indent=2))
        return
    page = Page.of_stdout()
    for key, value in state.items():
        text = ", ".join(value) if isinstance(value, list | tuple) else value
        text = {None: "-", True: "yes", False: "no", "": "-"}.get(text, text)
        click.echo("\n".join(page.folded(f"{key + ':':13}{text}", 13)))


def unpacked(runtime: Runtime) -> list[str]:
    """The kinds that it takes once they are unpacked (docs/images.md)."""
    ways = [one for one in TABLE if one.gives in runtime.accepts]
    return sorted({kind for one in ways for kind in one.takes} - set(runtime.accepts))
