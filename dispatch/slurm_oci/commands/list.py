"""`slurm-oci-plugins list`"""

import json

import attrs
import click


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.pass_obj
def command(prefix: str, as_json: bool) -> None:
    """The runtimes that this node knows, in the order in which they are tried."""
    from slurm_oci.explanation import Page
    from slurm_oci.node import states
    from slurm_oci.plugins import gather

    found = states(gather(prefix))
    if as_json:
        click.echo(json.dumps([attrs.asdict(state) for state in found], indent=2))
        return
    page, width = Page.of_stdout(), max(len(state.name) for state in found)
    margin = 5 + width + 2
    for state in found:
        mark = click.style("yes", fg="green") if state.usable else click.style("no ", fg="red")
        what = f"{state.executable or 'built in'}  {state.version or ''}" if state.usable else state.reason
        takes = f"{', '.join(state.accepts) or '-'}  (from {state.source})"
        first, *more = page.folded(f"     {state.name:{width}}  {what}".rstrip(), margin)
        click.echo("\n".join([mark + first[3:], *more, *page.folded(" " * margin + takes, margin)]))
