"""Slurm's configuration files, read as Slurm reads them.

One `key=value` stands in a line. The key's case does not matter, the value is one word or stands
in double quotes, which nothing can escape; `#` begins a comment anywhere, `\\#` is a plain one, a
backslash at the end continues the line, any other backslash is dropped. All releases from 23.02 to
26.11 do the same.

Source: Slurm's src/common/parse_config.c (`_get_next_line`, `_parse_next_key`,
`_parse_include_directive`), and its library asked about random files.
"""

import os
import re
from collections.abc import Collection, Iterator

import attrs

from slurm_oci.modules import content
from slurm_oci.problems import Problem

BLANK = " \t\n\v\f\r"
PAIR = re.compile(r'\s*([A-Za-z0-9_.]+)\s*[-*+/]?=\s*(?:"([^"]*)"(?=\s|\Z)|(\S+))', re.ASCII)
DEEPEST = 20  # of files that include files; Slurm has no limit and dies of a circle


class OciConfInvalid(Problem):
    """An `oci.conf` cannot be read, or Slurm would not take it."""

    area = "site"


@attrs.frozen
class Entry:
    """A key and its value, and where they stand."""

    key: str  # as the file has it
    value: str  # without its quotes
    file: str
    line: int


@attrs.frozen
class Fault:
    """Why Slurm does not accept a line."""

    kind: str  # syntax, unknown-key, include, include-end; others in `accepted`
    message: str
    cure: str
    file: str
    line: int


@attrs.frozen
class Conf:
    """What is in a file and those it includes, in the order in which Slurm sees it."""

    entries: tuple[Entry, ...]
    faults: tuple[Fault, ...]

    def all(self, key: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.key.lower() == key.lower()]

    def last(self, key: str) -> Entry | None:
        """The entry that counts: of several, Slurm takes the last."""
        return next(reversed(self.all(key)), None)

    def value(self, key: str, default: str = "") -> str:
        entry = self.last(key)
        return entry.value if entry else default


def read(path: str, known: Collection[str] = (), depth: int = 0) -> Conf:
    """The configuration file at `path`. Raises OSError, also for what is no file.

    With `known` keys each line holds one of them. Without, every pair in every line is taken and
    nothing is a fault but an Include: that is for slurm.conf, whose lines describe nodes as well.
    """
    data = content(path)
    names = {key.lower(): key for key in known}
    entries: list[Entry] = []
    faults: list[Fault] = []
    for number, text in lines(data):
        if is_include(text):
            inner = included(text, path, number, known, depth)
            entries += inner.entries
            faults += inner.faults
            continue
        pairs, rest = (one_pair if names else all_pairs)(text)
        entries += [Entry(key, value, path, number) for key, value in pairs]
        if names:
            faults += line_faults(pairs, rest, names, path, number)
    return Conf(tuple(entries), tuple(faults))


def lines(data: bytes) -> Iterator[tuple[int, str]]:
    """Each line that has something in it, continued ones joined, and the number of its first part."""
    joined = ""
    first = 1
    for number, raw in enumerate(re.findall(rb"[^\n]*\n|[^\n]+\Z", data), 1):
        part = without_comment(os.fsdecode(raw.partition(b"\0")[0]))
        continued = without_continuation(part)
        if continued is not None:
            joined += continued
            continue
        if joined + part:
            yield first, re.sub(r"\\(.?)", r"\1", joined + part, flags=re.DOTALL)
        joined, first = "", number + 1
    if joined:
        yield first, re.sub(r"\\(.?)", r"\1", joined, flags=re.DOTALL)


def without_comment(part: str) -> str:
    found = re.match(r"(?:\\.|[^\\#])*", part, re.DOTALL)
    end = found.end() if found else 0
    return part[:end] if part[end : end + 1] == "#" else part


def without_continuation(part: str) -> str | None:
    """The part before the backslash that ends it; None if nothing continues it."""
    bare = part.rstrip(BLANK)
    backslashes = len(bare) - len(bare.rstrip("\\"))
    return bare[:-1] if backslashes % 2 else None


def one_pair(text: str) -> tuple[list[tuple[str, str]], str]:
    """The pair that begins the line, and what is left of it."""
    found = PAIR.match(text)
    return ([(found[1], value_of(found))], text[found.end() :]) if found else ([], text)


def all_pairs(text: str) -> tuple[list[tuple[str, str]], str]:
    return [(found[1], value_of(found)) for found in PAIR.finditer(text)], ""


def value_of(found: re.Match[str]) -> str:
    return found[3] if found[2] is None else found[2]


def line_faults(
    pairs: list[tuple[str, str]], rest: str, names: dict[str, str], path: str, number: int
) -> list[Fault]:
    from slurm_oci.problems import nearest

    for key, _ in pairs:
        if key.lower() not in names:
            near = names.get(nearest(key.lower(), list(names)), "")
            cure = f"did you mean `{near}`?" if near else "the keys are in oci.conf(5)"
            return [Fault("unknown-key", f"Slurm knows no key `{key}` here", cure, path, number)]
    left = rest.strip(BLANK)
    if not left:
        return []
    if not pairs:
        message = f"this is no `Key=value`: `{excerpt(left)}`"
    else:
        message = f"`{excerpt(left)}` is left over after the value of `{pairs[0][0]}`"
        if pairs[-1][1].startswith('"'):
            message += ", whose closing double quote is missing"
    cure = (
        "put a value with blanks into double quotes and each key into a line of its own; a double quote "
        'inside a value cannot be written, not even as `\\"`'
    )
    return [Fault("syntax", message, cure, path, number)]


def excerpt(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def is_include(text: str) -> bool:
    """`Include` counts only at the very beginning of a line."""
    return text[:7].lower() == "include" and text[7:8] in tuple(BLANK)


def included(text: str, path: str, number: int, known: Collection[str], depth: int) -> Conf:
    """What the file has that an Include line names, or why there is none."""

    def failed(message: str, cure: str, kind: str = "include") -> Conf:
        return Conf((), (Fault(kind, message, cure, path, number),))

    rest = text[7:].lstrip(BLANK)
    name = re.split(r"\s", rest, maxsplit=1, flags=re.ASCII)[0]
    left = rest[len(name) :]
    if not name or not left:
        return failed(
            "Slurm looks for the end of the file's name beyond the end of this line",
            "name a file, with a blank or a line break behind it and no comment that touches it",
            "include-end",
        )
    if "%c" in name:
        return failed("Slurm cannot fill in `%c` (ClusterName) here", "name the file without it")
    if "*" in name:
        return failed("Slurm includes no patterns of file names", "an Include line for each file")
    if left.strip(BLANK):
        return failed(f"`{excerpt(left.strip(BLANK))}` is left over after the file's name", "remove it")
    if depth >= DEEPEST:
        return failed("the files include each other in a circle", "remove this Include")
    inner = os.path.join(os.path.dirname(path), name)
    try:
        return read(inner, known, depth + 1)
    except OSError as error:
        return failed(
            f"cannot read `{inner}`: {error.strerror}; Slurm tries for a minute and then gives up",
            "a relative name is looked up beside slurm.conf",
        )
