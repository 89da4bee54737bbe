"""`slurm-oci-plugins scrun docker|podman`"""

import json
import os
import pwd
import sys

import attrs
import click

from slurm_oci.completion import folders


@click.command("scrun")
@click.option("--user", metavar="NAME", help="For this user.  [default: whoever asks]")
@click.option("--all-users", is_flag=True, help="For all users of this host.")
@click.option(
    "--storage",
    metavar="DIR",
    shell_complete=folders,
    default="%h/containers",
    show_default=True,
    help="Where images are kept. Every node must see it; %h is the home, %u the name, %U the number.",
)
@click.option(
    "--in-job", is_flag=True, help="podman: instead, what keeps a `podman` called in a job in its cgroup."
)
@click.option("--check", "check_it", is_flag=True, help="Judge the set-up that is there.")
@click.option("--write", "write_it", is_flag=True, help="Write the files to their places.")
@click.option("--force", is_flag=True, help="With --write: also over other files, which are kept beside.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.argument("tool", type=click.Choice(["docker", "podman"]))
@click.pass_obj
def command(
    prefix: str,
    user: str | None,
    all_users: bool,
    storage: str,
    in_job: bool,
    check_it: bool,
    write_it: bool,
    force: bool,
    as_json: bool,
    tool: str,
) -> None:
    """Set up rootless Docker or Podman so that `docker run` and `podman run` submit jobs, in which
    the containers run: their runtime is Slurm's scrun.

    Prints the files to review, each under its path, or writes all of them or none. --check says what
    is missing on this host; exit status 1 where something would fail.
    """
    from slurm_oci import scrun

    if (user and all_users) or (in_job and tool != "podman") or (force and not write_it):
        raise click.UsageError("expected --user or --all-users, podman --in-job, --write [--force]")
    if check_it and write_it:
        raise click.UsageError("expected --check or --write")
    name = None if all_users else user or whoever_asks()
    place = scrun.place_for(name, storage)
    if check_it:
        check(tool, place, prefix, in_job, as_json)
    chosen = scrun.files(tool, place, in_job)
    if write_it:
        done = scrun.write(chosen, place.user, force)
        if as_json:
            click.echo(json.dumps([attrs.asdict(one) for one in done], indent=2))
            return
        for one in done:
            left = "left to the admin: root writes it" if one.state == "left" else one.state
            click.echo(
                f"{left}: {one.path}" + (f"; what was there is now {one.backup}" if one.backup else "")
            )
        click.echo(f"next: `slurm-oci-plugins scrun {tool} --check`; docs/scrun.md has the rest")
    elif as_json:
        click.echo(json.dumps([attrs.asdict(file) for file in chosen], indent=2))
    else:
        click.echo("\n".join(map(scrun.shown, chosen)), nl=False)


def whoever_asks() -> str:
    if os.geteuid() == 0:
        raise click.UsageError("expected --user NAME or --all-users: scrun is not for root's own containers")
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise click.UsageError("expected --user NAME: you have no passwd entry here") from None


def check(tool: str, place: object, prefix: str, in_job: bool, as_json: bool) -> None:
    """Prints the findings, and ends with 1 where one is a failure."""
    from slurm_oci import scrun, scrun_checks
    from slurm_oci.problems import visible

    assert isinstance(place, scrun.Place)
    found = list(scrun_checks.checks(tool, place, in_job))
    if as_json:
        click.echo(json.dumps([attrs.asdict(finding) for finding in found], indent=2))
    else:
        width = max(len(finding.check) for finding in found)
        for finding in found:
            click.echo(visible(f"{finding.state:8}{finding.check:{width}}  {finding.message}"))
            if finding.cure:
                click.echo(visible(f"{'':8}{'':{width}}    {finding.cure}"))
    sys.exit(1 if any(finding.state == "failed" for finding in found) else 0)
