"""`slurm-oci-plugins oci-conf`"""

import json
import os
from typing import TYPE_CHECKING

import click

from slurm_oci.ociconf import MODES

if TYPE_CHECKING:
    from slurm_oci.pattern import Version


@click.command("oci-conf")
@click.option(
    "--runtime", type=click.Choice(list(MODES)), default="multi", help="For one runtime.  [default: multi]"
)
@click.option(
    "--mode", type=click.Choice(["run", "create-start"]), help="How Slurm starts it, where there is a choice."
)
@click.option("--slurm-version", metavar="V", help="For this release.  [default: the one installed]")
@click.option("--as-in-guide", is_flag=True, help="The lines of Slurm's Containers Guide, faults and all.")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def command(
    prefix: str, runtime: str, mode: str | None, slurm_version: str | None, as_in_guide: bool, as_json: bool
) -> None:
    """Print an oci.conf: the one that sends every `--container` through the entry point, or the
    one of a single runtime that Slurm calls itself, after Slurm's Containers Guide.

    Where it differs from the guide, a comment says why.
    """
    from slurm_oci import guide, ociconf

    version = release(slurm_version)
    installed = os.path.exists(os.path.join(prefix, "lib"))
    mode = mode or MODES[runtime][0]
    text = ociconf.generate(runtime, mode, version, prefix if installed else "/opt/slurm-oci")
    if as_in_guide:
        text = guide.example(runtime, mode)
    if as_json:
        shown = {"runtime": runtime, "mode": mode, "slurm_version": str(version), "text": text}
        click.echo(json.dumps(shown, indent=2))
    else:
        click.echo(text, nl=False)


def release(text: str | None) -> "Version":
    """The release that `--slurm-version` names, or the installed one."""
    from slurm_oci import installed_slurm
    from slurm_oci.pattern import Version

    if text is None:
        return installed_slurm.version()
    try:
        return Version.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--slurm-version") from None
