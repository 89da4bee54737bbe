"""`slurm-oci-plugins bundle SOURCE DEST`"""

import os
import pwd
import sys

import click

from slurm_oci.completion import bundled, files


@click.command("bundle")
@click.option(
    "--from",
    "kind",
    metavar="KIND",
    shell_complete=bundled,
    help="What SOURCE is, where it cannot be found out.",
)
@click.option("--user", metavar="NAME", help="Who runs it by Slurm's own runc or crun lines.  [default: you]")
@click.argument("source", shell_complete=files)
@click.argument("dest", shell_complete=files)
@click.pass_obj
def command(prefix: str, kind: str | None, user: str | None, source: str, dest: str) -> None:
    """Make an OCI bundle at DEST of SOURCE, by the programs that are on this host.

    SOURCE is a reference (docker://alpine), an OCI layout or archive, a docker archive, a SIF or
    squashfs file, a directory with a root file system, or another bundle. With --from mmdebstrap,
    debootstrap, dnf or yum it is a release of a distribution; with --from podman or docker an image in
    that program's store. DEST must not be there yet; it is there once all of it
    is made.
    """
    from slurm_oci import bundling, importing
    from slurm_oci.problems import nearest, visible

    if kind and kind not in bundling.FROM:
        near = nearest(kind, list(bundling.FROM))
        meant = f" Did you mean `{near}`?" if near else ""
        raise click.BadParameter(f"there is {', '.join(bundling.FROM)}.{meant}", param_hint="--from")
    owner = entry_of(user)
    way = bundling.chosen(source, kind or "")
    try:
        bundling.make(way, dest, owner, lambda line: click.echo(visible(line), err=True))
    except importing.Interrupted as signal:
        click.echo("ended by a signal; nothing is left", err=True)
        sys.exit(128 + signal.number)
    click.echo(f"made: {visible(dest)}")


def entry_of(user: str | None) -> pwd.struct_passwd:
    """Of the named user; of who calls sudo, where it is root who asks."""
    name = user or (os.environ.get("SUDO_USER") if os.geteuid() == 0 else None)
    try:
        return pwd.getpwnam(name) if name else pwd.getpwuid(os.geteuid())
    except KeyError:
        raise click.BadParameter("this host knows no such user", param_hint="--user") from None
