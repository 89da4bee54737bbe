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
    from slurm_oci.checks.slurm import oci_conf
    from slurm_oci.execute import warn

    assert ctx.parent is not None
    prefix = os.path.abspath(prefix or ctx.parent.params["prefix"] or installation.DEFAULT)
    conf = oci_conf()
    is_linked = os.path.realpath(conf) == os.path.realpath(f"{prefix}/oci.conf")
    is_called = installation.is_called_by(conf, prefix)
    left = installation.uninstall(prefix)
    click.echo(f"removed from {prefix}" + (f"; left there: {', '.join(left)}" if left else ""))
    if is_linked and not os.path.exists(conf):
        says = f"`{conf}` leads nowhere now: Slurm runs on the host what jobs start with --container"
        warn(f"{says}; put another there, or tell your users")
    elif is_called:
        says = f"`{conf}` still calls `{prefix}/run`: every task with --container fails"
        warn(f"{says}; take the file away, on every node")
