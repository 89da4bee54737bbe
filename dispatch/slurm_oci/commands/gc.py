"""`slurm-oci-plugins gc`"""

import json
import os
import shlex
import sys

import attrs
import click


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--job", type=int, metavar="ID", help="Only what tasks of this job have left.")
@click.option("--node", metavar="NAME", help="Slurm's name of this node.  [default: the host's name]")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.pass_obj
def command(prefix: str, dry_run: bool, job: int | None, node: str | None, as_json: bool) -> None:
    """Remove what killed tasks have left on this node, and unpacked images that are too much.

    Your own tasks' leavings; as root those of all users, each removed as that user. What belongs to
    a task that still runs, or to another node, is never touched. Exit status 1 where something
    could not be removed.
    """
    from slurm_oci import gc, installed_slurm, site
    from slurm_oci.execute import warn
    from slurm_oci.problems import visible

    settings = site.read(os.path.join(prefix, site.NAME))
    kept = settings.images
    wanted = gc.Wanted(
        node or installed_slurm.this_node(), settings.state, job, dry_run, kept.cache, kept.limit
    )
    found = gc.collect(wanted)
    if as_json:
        click.echo(json.dumps([attrs.asdict(left) for left in found.left], indent=2))
    else:
        for left in found.left:
            what = "would remove" if dry_run else "removed" if left.removed else "cannot remove"
            click.echo(f"{what} {visible(left.path)}")
        if not found.left:
            click.echo(f"nothing is left over on {visible(wanted.node)}")
    for name in found.nodes:
        words = f"slurm-oci-plugins gc --node {shlex.quote(name)}"
        told = f"something is left over on this machine of node {name}: `{words}`"
        click.echo(f"slurm-oci: {visible(told)}", err=True)
    for line in found.wrong:
        warn(line)
    sys.exit(1 if found.wrong or not (dry_run or all(left.removed for left in found.left)) else 0)
