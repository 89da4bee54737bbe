"""`slurm-oci-plugins run IMAGE -- COMMAND…`"""

import sys

import click

from slurm_oci.completion import files


@click.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("image", shell_complete=files)
@click.argument(
    "words", metavar="[--] COMMAND...", nargs=-1, type=click.UNPROCESSED, required=True, shell_complete=files
)
@click.pass_obj
def command(prefix: str, image: str, words: tuple[str, ...]) -> None:
    """Run COMMAND in a container of IMAGE as Slurm would start it here, without Slurm.

    The exit status is the command's.
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
