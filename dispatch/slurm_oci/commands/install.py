"""`slurm-oci-plugins install`"""

import os

import click

from slurm_oci.completion import files, folders


@click.command("install")
@click.option("--prefix", metavar="DIR", shell_complete=folders, help="Where to.  [default: /opt/slurm-oci]")
@click.option(
    "--python",
    metavar="PATH",
    shell_complete=files,
    help="The nodes' Python, 3.11 or newer.  [default: as before, or this one]",
)
@click.pass_context
def command(ctx: click.Context, prefix: str | None, python: str | None) -> None:
    """Copy the program to where Slurm's oci.conf names it. Repeating it upgrades.

    The copy needs nothing on a node but a Python. Your site.toml, plugins.d and oci.conf stay.
    """
    from slurm_oci import installation
    from slurm_oci.cli import data_folder
    from slurm_oci.execute import warn
    from slurm_oci.misfits import misfits

    assert ctx.parent is not None
    prefix = os.path.abspath(prefix or ctx.parent.params["prefix"] or installation.DEFAULT)
    python = python or installation.python_of(prefix) or installation.default_python()
    gathered, notes = installation.install(prefix, python, data_folder("opt"), data_folder("user_templates"))
    click.echo(f"installed in {prefix}, run by {python}, {len(gathered.found)} runtimes")
    for aside in gathered.aside:
        warn(f"{aside.name} ({aside.source}): {aside.reason}")
    for misfit in misfits(gathered):
        warn(str(misfit))
    for note in notes:
        click.echo(f"note: {note}")
    click.echo(f"next: copy or link {prefix}/oci.conf beside slurm.conf on every node")
    click.echo(f"      ln -s {prefix}/bin/slurm-oci-plugins /usr/local/bin, which errors tell users to call")
