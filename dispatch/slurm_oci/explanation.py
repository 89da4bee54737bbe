"""How `explain` looks to a person: the page for a terminal, or plain lines for a pipe.

A page takes the width that the terminal has, folds at blanks, and cuts a variable's value that is
longer; a pipe gets every line whole. NO_COLOR (no-color.org) and TERM=dumb are honoured.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from slurm_oci.image import KINDS
from slurm_oci.problems import visible

MARGIN = "  "
UNLIMITED = sys.maxsize


class Page:
    """Lines for `width` columns."""

    def __init__(self, width: int, coloured: bool) -> None:
        self.width = width
        self.coloured = coloured
        self.lines: list[str] = []

    @classmethod
    def of_stdout(cls) -> "Page":
        if not sys.stdout.isatty():
            return cls(UNLIMITED, False)
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return cls(max(shutil.get_terminal_size().columns, 40), not plain)

    def text(self) -> str:
        return "\n".join(self.lines)

    def styled(self, text: str, **style: Any) -> str:
        return click.style(text, **style) if self.coloured and style else text

    def head(self, title: str, beside: str = "") -> None:
        self.lines.append(self.styled(title, bold=True) + (f"  ({beside})" if beside else ""))

    def line(self, text: str, hanging: int = 4, **style: Any) -> None:
        """One line of the section, folded at blanks."""
        for line in self.folded(MARGIN + visible(text), hanging):
            self.lines.append(self.styled(line, **style))

    def step(self, label: str, result: str, why: str, colour: str = "") -> None:
        """`  label:       result  (why)`, the reason below where there is no room for it."""
        start = f"{MARGIN}{label + ':':13}"
        result, why = visible(result), f"({visible(why)})"
        shown = self.styled(result, fg=colour) if colour else result
        if len(start) + len(result) + 2 + len(why) <= self.width:
            self.lines.append(f"{start}{shown}  {self.styled(why, dim=True)}")
            return
        self.lines.append(start + shown)
        for line in self.folded(" " * len(start) + why, len(start) + 1):
            self.lines.append(self.styled(line, dim=True))

    def variable(self, label: str, name: str, value: str) -> None:
        text = f"{MARGIN}{label:6} {visible(name)}={visible(value)}"
        self.lines.append(text if len(text) <= self.width else text[: self.width - 1] + "…")

    def command(self, words: Iterable[str]) -> None:
        """Words that a shell reads as what they are, on as many lines as they need."""
        line = MARGIN
        for word in map(shell_word, words):
            if line != MARGIN and len(line) + len(word) + 3 > self.width:
                self.lines.append(line + " \\")
                line = MARGIN * 2 + word
            else:
                line += word if line == MARGIN else " " + word
        self.lines.append(line)

    def folded(self, text: str, hanging: int) -> list[str]:
        """`text` in lines of the width; a word that is longer stays whole, so that it can be copied."""
        indent = len(text) - len(text.lstrip(" "))
        lines, line = [], text[:indent]
        for number, word in enumerate(text[indent:].split(" ")):
            if number and len(line) + 1 + len(word) > self.width:
                lines.append(line.rstrip(" "))
                line = " " * hanging + word
            else:
                line += " " * (number > 0) + word
        return [*lines, line]


def shell_word(word: str) -> str:
    """`word` as bash, zsh and ksh read it: bytes that a terminal cannot show as `$'\\377'`."""
    if all(sign.isprintable() for sign in word):
        return shlex.quote(word)
    signs = (
        chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\{byte:03o}"
        for byte in os.fsencode(word)
    )
    return "$'" + "".join(signs) + "'"


def page(shown: Mapping[str, Any]) -> Page:
    """The page of `explain`'s data, in the order of the questions that one asks."""
    made = Page.of_stdout()
    if shown.get("image"):
        image = shown["image"]
        made.head("image")
        made.line(image["path"] or image["name"])
        if image["kind"]:
            made.line(f"{image['kind']}: {KINDS[image['kind']]}")
    decision(made, shown)
    if "error" in shown:
        first, *hints = shown["error"]["lines"]
        made.lines.append(made.styled(first, fg="red"))
        for hint in hints:
            made.line(hint.strip())
        return made
    if shown["import"]:
        importing(made, shown)
    else:
        work(made, shown)
        surroundings(made, shown)
    for hint in shown["hints"]:
        made.line(hint, dim=True)
    for note in shown["notes"]:
        made.lines += [made.styled(line, fg="yellow") for line in made.folded(f"warning: {visible(note)}", 4)]
    return made


def importing(made: Page, shown: Mapping[str, Any]) -> None:
    """What is done before anything else can be known."""
    first = shown["import"]
    made.head("first, once for all tasks", f"{first['makes']}, kept below {visible(first['cache'])}")
    for argv in first["commands"]:
        made.command(argv)
    made.head("command")
    made.line(f"`{shown['runtime']}` runs it")


def decision(made: Page, shown: Mapping[str, Any]) -> None:
    made.head("decision")
    for step in shown["trace"]:
        colour = ""
        if step["step"] == "runtime":
            colour = "yellow" if step["result"].startswith("not ") else "green"
        made.step(step["step"], step["result"], step["why"], colour)
    unfit = [one["name"] for one in shown.get("considered", ()) if one["why"] == UNFIT]
    if unfit:
        made.step("passed over", ", ".join(unfit), f"no {shown['image']['kind']} for them", "yellow")


UNFIT = "does not take images of this kind"


def work(made: Page, shown: Mapping[str, Any]) -> None:
    """What is done before, instead and afterwards."""
    if shown["prepare"] or shown["files"]:
        made.head("before")
        for argv in shown["prepare"]:
            made.command(argv)
        if shown["files"]:
            made.line(f"written into the task's private directory: {', '.join(shown['files'])}")
    made.head("command", shown["mode"])
    if shown["mode"] == "supervise":
        what = "what `before` makes" if shown["prepare"] or shown["files"] else "the task's private directory"
        made.line(f"needs {what}: `slurm-oci-plugins run …` does all of it", dim=True)
    made.command(shown["argv"])
    if shown["cleanup"]:
        made.head("afterwards")
        for argv in shown["cleanup"]:
            made.command(argv)


def surroundings(made: Page, shown: Mapping[str, Any]) -> None:
    """Settings, mounts and variables."""
    asked = {name: value for name, value in shown["settings"].items() if value["from"] != "built-in"}
    if asked:
        made.head("settings")
    for name, value in asked.items():
        if name != "variables":
            over = [f"over {lost['value']} of {lost['from']}" for lost in value.get("over", ())]
            made.line(f"{name}={value['value']}  ({', '.join([value['from'], *over])})")
    for name, text in asked.get("variables", {"value": {}})["value"].items():
        made.variable("env", name, text)
    made.head("mounts")
    for mount in shown["mounts"]:
        what = visible(mount["source"])
        if mount["target"] != mount["source"]:
            what += f" -> {visible(mount['target'])}"
        how = "read-only, " if mount["readonly"] else ""
        must = "" if mount["wish"] else ", if possible"
        made.line(f"{what}  ({how}{mount['why']}{must})")
    made.line(f"working directory: {shown['workdir']}")
    inside = shown["container_env"]
    if inside["set"] or inside["unset"] or inside["image"]:
        made.head("variables in the container", "where they are not the job's")
        variables(made, inside)
        if "PATH" in inside["image"]:
            made.line("from the image, or standard: PATH")
        if others := [name for name in inside["image"] if name != "PATH"]:
            made.line(f"from the image, where it has them: {', '.join(others)}")
    made.head("environment of the runtime", "where it is not the job's")
    above = {*inside["unset"], *inside["image"]}
    variables(made, {**shown["env"], "unset": [name for name in shown["env"]["unset"] if name not in above]})
    for name, value in shown["own"].items():
        made.variable("kept", name, value)


def variables(made: Page, differences: Mapping[str, Any]) -> None:
    for name, value in differences["set"].items():
        made.variable("set", name, value)
    if differences["unset"]:
        made.line(f"unset  {', '.join(differences['unset'])}", hanging=9)
