"""`slurm-oci-plugins`: the command of admins and of users who look before they submit."""

import importlib
import os
import sys
import sysconfig

import click
from click.shell_completion import CompletionItem

from slurm_oci import __version__, completion
from slurm_oci.problems import Problem

COMMANDS = {  # name -> what `--help` says; the module is imported when it is called
    "list": "The runtimes that this node knows, and whether each can be used.",
    "show": "One runtime: what it takes, what it can express, where it is.",
    "explain": "What would be done for an image and a command, and why.",
    "run": "Run a command in a container as Slurm would, without Slurm.",
    "prefetch": "Unpack an image before jobs need it, for yourself or into the site's store.",
    "template": "Starting points for your own ~/.slurm-oci-run, and whether yours will be run.",
    "site": "The effective site settings and where each comes from.",
    "bundle": "Make an OCI bundle of an image, a directory or a distribution.",
    "oci-conf": "Print an oci.conf, for all runtimes or for one.",
    "scrun": "Set up rootless Docker or Podman whose containers run as jobs.",
    "lint": "What is wrong with an oci.conf and the files beside it.",
    "doctor": "What is wrong on this node, or on all, and what to do about it.",
    "compile": "Ask all plugins once and write the catalog for the entry point.",
    "install": "Copy the program to where Slurm's oci.conf names it.",
    "completion": "Print what makes a shell complete this command's words.",
    "gc": "Remove what killed tasks have left on this node.",
    "uninstall": "Remove what `install` has put there.",
}

OF_THEIR_OWN = ("install", "uninstall")  # have a --prefix of their own and need no other


class Commands(click.Group):
    """Commands in modules of their own, each imported only when it is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module("slurm_oci.commands." + name.replace("-", "_"))
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands without importing their modules."""
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(n, help=text) for n, text in COMMANDS.items() if n.startswith(incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from slurm_oci.problems import nearest

        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = nearest(args[0], list(COMMANDS))
            meant = f" Did you mean '{near}'?" if near else ""
            raise click.UsageError(error.message + meant, ctx) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="slurm-oci")
@click.option(
    "--prefix",
    metavar="DIR",
    shell_complete=completion.folders,
    help="The installation that is meant.  [default: /opt/slurm-oci, if there]",
)
@click.pass_context
def cli(ctx: click.Context, prefix: str | None) -> None:
    """List, explain, generate, check and repair what runs `srun --container`."""
    if prefix is not None:
        if ctx.invoked_subcommand not in OF_THEIR_OWN and not os.path.isdir(prefix):
            raise click.BadParameter(f"there is no directory `{prefix}`", param_hint="--prefix")
        hand_over(os.path.abspath(prefix), ctx.invoked_subcommand or "")
    ctx.obj = os.path.abspath(prefix) if prefix else default_prefix()


def hand_over(prefix: str, command: str) -> None:
    """Goes on in the installation at `prefix`, whose plugins are those it was installed with."""
    other = os.path.join(prefix, "bin", "slurm-oci-plugins")
    is_this = os.path.realpath(other) == os.path.realpath(sys.argv[0])
    if command not in OF_THEIR_OWN and os.access(other, os.X_OK) and not is_this:
        os.execv(other, [other, *sys.argv[1:]])


def own_prefix() -> str:
    """The installation that this code lies in, or empty."""
    prefix = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    return prefix if os.path.islink(os.path.join(prefix, "lib")) else ""


def default_prefix() -> str:
    installed = "/opt/slurm-oci"
    return own_prefix() or (installed if os.path.exists(f"{installed}/run") else data_folder("opt"))


def data_folder(name: str) -> str:
    """The folder `opt` or `user_templates` that came with the package, or of the checkout."""
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    beside = os.path.join(checkout, {"opt": "opt-slurm-oci"}.get(name, name))
    packaged = os.path.join(sysconfig.get_path("data"), "share", "slurm-oci", name)
    return beside if os.path.isdir(beside) else packaged


def main() -> None:
    """Runs the command; a problem is printed here and nowhere else, exit status 1."""
    try:
        cli.main(complete_var=completion.VARIABLE)
    except Problem as problem:
        click.echo("\n".join(problem.lines()), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
