"""`slurm-oci-plugins uninstall`"""

import os

import click

from slurm_oci.completion import folders


@click.command("uninstall")
@click.option(
    "--prefix", metavar="DIR", shell_complete=folders, help="Where from.  [default: /opt/slurm-oci]"
)
@click.pass_context
def command(ctx: click.Context, prefix: str | None) -> None:
    """Remove what `install` has put there; your own files stay."""
    from slurm_oci import installation

    assert ctx.parent is not None
    prefix = os.path.abspath(prefix or ctx.parent.params["prefix"] or installation.DEFAULT)
    left = installation.uninstall(prefix)
    click.echo(f"removed from {prefix}" + (f"; left there: {', '.join(left)}" if left else ""))
