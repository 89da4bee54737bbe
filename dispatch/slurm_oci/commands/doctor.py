"""`slurm-oci-plugins doctor`"""

import json
import sys
import textwrap
from typing import TYPE_CHECKING

import attrs
import click

if TYPE_CHECKING:
    from slurm_oci.across import Nodes
    from slurm_oci.checks import Finding
    from slurm_oci.doctor import Report

WIDTH = 79
COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}
TITLES = {
    "kernel": "the kernel",
    "user": "the user",
    "slurm": "Slurm",
    "installation": "the installation",
    "runtimes": "the runtimes",
}


@click.command("doctor", context_settings={"allow_interspersed_args": False})
@click.option("--user", metavar="NAME", help="As root: try as this user.  [default: whoever asks]")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.option("--lines", is_flag=True, help="Print the object for another doctor's --across.")
@click.option("--across", is_flag=True, help="Ask all nodes on which COMMAND starts a program.")
@click.argument("words", metavar="[COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def command(
    prefix: str, user: str | None, as_json: bool, lines: bool, across: bool, words: tuple[str, ...]
) -> None:
    """What is wrong on this node, tried rather than read where it can be. Exit status 1 if anything is.

    Warnings do not count. Each runtime on the node runs a small program in a small image, as Slurm
    would have it run.

    With --across it is asked on other nodes and compared, a line for each:
    `doctor --across srun -N 4`, `doctor --across pdsh -w node[1-9]`.
    """
    from slurm_oci import across as nodes
    from slurm_oci import doctor

    if across != bool(words):
        raise click.UsageError("--across goes with a command, as in: doctor --across srun -N 4")
    if across:
        sys.exit(show_nodes(nodes.ask(words, prefix, user or ""), as_json))
    report = doctor.examine(prefix, user or "")
    if lines:
        click.echo("\n".join(nodes.lines(report)))
    elif as_json:
        click.echo(json.dumps(as_data(report), indent=2))
    else:
        click.echo("\n".join(as_text(report)))
    sys.exit(1 if report.state == "failed" else 0)


def as_data(report: "Report") -> dict[str, object]:
    """The documented JSON form."""
    return {**attrs.asdict(report), "state": report.state}


def as_text(report: "Report") -> list[str]:
    from slurm_oci.problems import visible

    lines = []
    for group, title in TITLES.items():
        found = [finding for finding in report.findings if finding.group == group]
        lines += [click.style(title, bold=True)] if found else []
        for finding in found:
            lines += shown(finding)
    counts = {state: sum(f.state == state for f in report.findings) for state in COLOURS}
    failed, warnings = counts["failed"], counts["warning"]
    return [
        *lines,
        f"{visible(report.node)}, as {visible(report.user)}: {failed} failed,"
        f" {warnings} warning{'s' * (warnings != 1)}, {counts['ok']} ok",
    ]


def shown(finding: "Finding") -> list[str]:
    """One line, or as many as 80 columns need, and the cure below it."""
    from slurm_oci.problems import visible

    word = finding.state.upper() if finding.state == "failed" else finding.state
    text = f"{finding.check}: {visible(finding.message)}"
    mark = click.style(f"{word:7}", fg=COLOURS[finding.state])
    lines = wrapped(text, " " * 11, WIDTH)
    lines[0] = f"  {mark}  {lines[0].strip()}"
    return [*lines, *(wrapped(visible(finding.cure), " " * 15, WIDTH) if finding.cure else [])]


def wrapped(text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def show_nodes(found: "Nodes", as_json: bool) -> int:
    """Prints a line a node, then what is wrong, each once with its nodes, and what differs; the exit
    status."""
    from slurm_oci.across import deviating, wrong
    from slurm_oci.problems import visible

    if as_json:
        listed = [{**as_data(report), "differs": deviating(found, report.node)} for report in found.reports]
        answer = {"nodes": listed, "differences": found.differences, "incomplete": list(found.incomplete)}
        click.echo(json.dumps(answer, indent=2))
        return 0 if found.is_fine else 1
    names = [*(report.node for report in found.reports), *found.incomplete]
    width = max(map(len, names))
    for report in found.reports:
        word = report.state.upper() if report.state == "failed" else report.state
        checks = dict.fromkeys(f.check for f in report.worst)
        differs = deviating(found, report.node)
        told = [", ".join(checks), f"differs in {', '.join(differs)}" if differs else ""]
        mark = click.style(word, fg=COLOURS[report.state]) + " " * (7 - len(word))
        text = "; ".join(filter(None, told))
        click.echo(f"{visible(report.node):{width}}  {mark}  {text}".rstrip())
    for node in found.incomplete:
        click.echo(f"{visible(node):{width}}  {click.style('FAILED ', fg='red')}  its answer is incomplete")
    for where, findings in wrong(found).items():
        click.echo(click.style(f"on {visible(', '.join(where))}", bold=True))
        for finding in findings:
            click.echo("\n".join(shown(finding)))
    for check, values in found.differences.items():
        click.echo(click.style(f"{check} is not the same on all nodes", bold=True))
        for value, nodes in values.items():
            click.echo("\n".join(wrapped(f"{visible(value)}: {visible(', '.join(nodes))}", "  ", WIDTH)))
    return 0 if found.is_fine else 1
