"""`slurm-oci-plugins compile`"""

import click


@click.command("compile")
@click.pass_obj
def command(prefix: str) -> None:
    """Ask all plugins once and write the catalog that the entry point reads.

    Needed after a change of site.toml, plugins.d or an installed plugin. Without it nothing
    breaks: each task asks the plugins itself, which takes longer.
    """
    from slurm_oci.compiled import write

    gathered = write(prefix)
    for aside in gathered.aside:
        click.echo(f"slurm-oci: warning: {aside.name} ({aside.source}): {aside.reason}", err=True)
    click.echo(f"{prefix}/catalog.json: {len(gathered.found)} runtimes")
