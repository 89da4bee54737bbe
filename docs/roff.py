"""The parts of the manual pages in `man/`, in the language of man(7), made from what is said already:
by the commands' own help, by the classes of problems, and by the tables of the Markdown pages."""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from slurm_oci.cli import COMMANDS, cli
from slurm_oci.image import KINDS
from slurm_oci.problems import Problem
from slurm_oci.settings import PREFIX

DOCS = Path(__file__).resolve().parent
MANUALS = {"settings.md": "slurm-oci-run(8)", "site.md": "slurm-oci-site.toml(5)"}
BAR = "|"  # between the values of an option; a line may end behind it
AS_IT_IS = "\b"  # what click begins a paragraph with whose lines stay lines
MARKUP = re.compile(r"`` (.+?) ``|`([^`]+)`|\*\*(.+?)\*\*|\[([^]]+)\]\([^)]+\)")


def commands() -> str:
    """Every command with its options, as its `--help` has them."""
    group = click.Context(cli, info_name="slurm-oci-plugins")
    lines = []
    for name in COMMANDS:
        command = cli.get_command(group, name)
        assert command is not None
        lines += [f".SS {name} {' '.join(bold(word) for word in synopsis(command))}".rstrip()]
        lines += paragraphs(command.help or "")
        lines += [line for option in command.params for line in option_entry(option)]
    return "\n".join(lines)


def global_options() -> str:
    return "\n".join(line for option in cli.params for line in option_entry(option))


def synopsis(command: click.Command) -> Iterator[str]:
    if any(isinstance(parameter, click.Option) for parameter in command.params):
        yield "[OPTION...]"
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            name = parameter.metavar or (parameter.name or "").upper()
            yield name if parameter.required or "[" in name else f"[{name}]"


def option_entry(option: click.Parameter) -> Iterator[str]:
    """The paragraph of one option; nothing for an argument."""
    if isinstance(option, click.Option):
        value = option.metavar or (option.type.name.upper() if option.type.name != "boolean" else "")
        if isinstance(option.type, click.Choice):
            value = BAR.join(map(str, option.type.choices))
        yield ".TP"
        names = ", ".join(bold(name) for name in (*option.opts, *option.secondary_opts))
        yield names if option.is_flag or option.count else f"{names} {italic(value)}"
        yield inline(option.help or "")


def problems(classes: list[type[Problem]]) -> str:
    """The stable code of every problem and what it means."""
    lines = []
    for problem in sorted(classes, key=lambda problem: problem.__name__):
        status = "" if problem.status == 125 else f" Exit status {problem.status}."
        lines += [".TP", bold(problem("").code), inline(" ".join((problem.__doc__ or "").split()) + status)]
    return "\n".join(lines)


def table(page: str, heading: str, tag: Callable[[str], str] = str) -> str:
    """An entry a row of the table on `page` whose first line begins with `heading`; `tag` makes the
    entry's name from what is in the first column, and the columns between go beside it."""
    text = (DOCS / page).read_text(encoding="utf-8")
    body = text[text.index(f"\n| {heading} |") :].strip().partition("\n\n")[0]
    lines = []
    for line in body.splitlines()[2:]:
        first, *values, meaning = [cell.strip() for cell in re.split(r" \|(?: |$)", line[2:-2])]
        tags = ", ".join(bold(tag(name)) for name in names(first))
        lines += [".TP", " ".join([tags, *(f"({inline(value)})" for value in values)])]
        lines += [inline(sentence(meaning))]
    return "\n".join(lines)


def settings() -> str:
    """docs/settings.md's table, by the names that a job's environment has."""
    return table("settings.md", "setting", lambda name: PREFIX + name.upper())


def kinds() -> str:
    """The kinds of images."""
    entries = [(".TP", bold(name), inline(sentence(meaning))) for name, meaning in KINDS.items()]
    return "\n".join(line for entry in entries for line in entry)


def site_example() -> str:
    """The file in docs/site.md that uses every key."""
    text = (DOCS / "site.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- site.toml -->\n```toml\n(.*?)```", text, re.DOTALL)
    assert block
    return "\n".join(escaped(line) for line in block[1].splitlines())


def names(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(text))):
        if number:
            yield ".PP"
        if paragraph.startswith(AS_IT_IS):
            yield from (".in +4n", ".EX", *map(escaped, paragraph.splitlines()[1:]), ".EE", ".in")
        else:
            yield inline(" ".join(paragraph.split()))


def inline(text: str) -> str:
    """A line of Markdown; the words in back-ticks bold."""
    made, end = "", 0
    for found in MARKUP.finditer(text):
        double, single, strong, link = found.groups()
        made += escaped(text[end : found.start()])
        made += escaped(MANUALS.get(link, link)) if link else bold(double or single or strong)
        end = found.end()
    made += escaped(text[end:])
    return "\\&" + made if made.startswith((".", "'")) else made


def bold(text: str) -> str:
    return f"\\fB{escaped(text)}\\fP" if text else ""


def italic(text: str) -> str:
    return f"\\fI{escaped(text)}\\fP".replace(BAR, BAR + "\\:")


def escaped(text: str) -> str:
    """`text` as it is to be read, whatever roff takes some of its signs for."""
    text = text.replace("\\", "\\e").replace("…", "...").replace("~", "\\(ti").replace("^", "\\(ha")
    return text.replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
