"""`slurm-oci-plugins run IMAGE -- COMMAND…`"""

import sys

import click

from slurm_oci.completion import files


class OfImage(click.Command):
    """`[OPTIONS] IMAGE [OPTIONS] [[--] COMMAND…]`: what begins with `-` is an option up to COMMAND."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first, rest = self.options(args)
        if rest[:1] == ["--"]:
            return super().parse_args(ctx, args)
        more, words = self.options(rest[1:])
        try:
            return super().parse_args(ctx, [*first, *more, *rest[:1], *words])
        except click.NoSuchOption as error:
            how = "Options stand before COMMAND, and a COMMAND that begins with '-' after '--'."
            raise click.UsageError(f"{error.format_message()} {how}", ctx) from None

    def options(self, words: list[str]) -> tuple[list[str], list[str]]:
        """The options that `words` begin with, with their values, and the rest."""
        valued = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and not parameter.is_flag
            for name in parameter.opts
        }
        end = 0
        while end < len(words) and words[end].startswith("-") and words[end] not in ("-", "--"):
            end += 2 if words[end] in valued else 1
        return words[:end], words[end:]


@click.command("run", cls=OfImage, context_settings={"allow_interspersed_args": False})
@click.argument("image", shell_complete=files)
@click.argument("words", metavar="[[--] COMMAND...]", nargs=-1, type=click.UNPROCESSED, shell_complete=files)
@click.pass_obj
def command(prefix: str, image: str, words: tuple[str, ...]) -> None:
    """Run COMMAND in a container of IMAGE as Slurm would start it here, without Slurm.

    Without a COMMAND it is the bundle's own. The exit status is the command's.
    """
    from slurm_oci import execute, state
    from slurm_oci.main import carry_out
    from slurm_oci.problems import Problem
    from slurm_oci.trial import decision_for

    trace: list[tuple[str, str, str]] = []
    try:
        sys.exit(
            carry_out(
                decision_for(prefix, image, without_dashes(words), trace, state.place, is_ready=True), trace
            )
        )
    except Problem as problem:
        execute.report(problem)
        sys.exit(problem.status)


def without_dashes(words: tuple[str, ...]) -> tuple[str, ...]:
    return words[1:] if words[:1] == ("--",) else words
