"""`slurm-oci-plugins lint [FILE]`"""

import json
import os
import sys

import attrs
import click

from slurm_oci.completion import files


@click.command("lint")
@click.option("--slurm-version", metavar="V", help="Judge as this release.  [default: the one installed]")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.argument("file", required=False, shell_complete=files)
@click.pass_obj
def command(prefix: str, slurm_version: str | None, as_json: bool, file: str | None) -> None:
    """What is wrong with an oci.conf and the files beside it. Exit status 1 if anything is.

    Without FILE it is the one beside slurm.conf. Each line is FILE:LINE: CODE SEVERITY and the
    reason, then what to do. `rejected`: Slurm would not take the file, or die of it at job time;
    `critical`: a user can get another's rights; `warning`: it does something else than it seems.
    """
    from slurm_oci import installed_slurm
    from slurm_oci.checks.slurm import to_link
    from slurm_oci.commands.oci_conf import release
    from slurm_oci.conf import OciConfInvalid
    from slurm_oci.lint import lint
    from slurm_oci.problems import visible

    path = file or os.path.join(installed_slurm.folder(), "oci.conf")
    if not file and not os.path.exists(path):
        message = f"there is no `{path}`: Slurm runs the commands of container steps on the host"
        raise OciConfInvalid(message, to_link(prefix, path), "or name a file: `lint FILE`")
    found = lint(path, release(slurm_version))
    if as_json:
        listed = [{**attrs.asdict(finding), "severity": finding.severity} for finding in found]
        click.echo(json.dumps(listed, indent=2))
    else:
        for finding in found:
            click.echo(visible(str(finding)))
    sys.exit(1 if found else 0)
