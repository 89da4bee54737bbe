"""`slurm-oci-plugins oci-conf`"""

import os

import click


@click.command("oci-conf")
@click.pass_obj
def command(prefix: str) -> None:
    """Print the oci.conf that sends every `--container` through the entry point."""
    from slurm_oci.ociconf import multi

    installed = os.path.exists(os.path.join(prefix, "lib"))
    try:
        click.echo(multi(prefix if installed else "/opt/slurm-oci"), nl=False)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
