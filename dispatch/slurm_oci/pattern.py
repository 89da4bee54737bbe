"""oci.conf's substitution language: `%b`, `%@` and the other letters.

The same letters have two renderings: as words, for runtimes that a site defines in `site.toml`,
and as the text that a given Slurm version hands to `/bin/sh -c`, its faults included. In words
nothing is ever split, joined, dropped or read again; in Slurm's text nothing but `%@` is quoted.

Source: oci.conf(5), OCI Pattern; Slurm's behaviour by version from its release tags (23.02.0 to
26.05.3), its development branch of August 2026, and from running 24.11.5 and 26.05.5.
"""

from slurm_oci import problems
from slurm_oci.line import QUOTE, QUOTE_TWICE
from slurm_oci.problems import nearest
from slurm_oci.values import TYPE_CHECKING, Request, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self


class Version(tuple[int, int, int]):
    """A Slurm release, `(major, minor, patch)`, which compares as a tuple does.

    What comes before a series' first release, as `26.11.0-0rc1` does, has the patch -1.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "Self":
        """The version in `text`: `24.11.5`, `26.05`, `slurm 25.05.3-1`, `26.11.0-0rc1`.

        Without a patch number it is the first release of that series. Raises ValueError.
        """
        for word in text.split():
            major, dot, rest = word.partition(".")
            minor, _, patch = rest.partition(".")
            numbers = (major, leading_digits(minor), leading_digits(patch) or "0")
            if dot and all(number.isascii() and number.isdigit() for number in numbers):
                made = cls(int(number) for number in numbers)
                is_early = made[2] == 0 and ("rc" in patch or "pre" in patch)
                return cls((*made[:2], -1)) if is_early else made
        raise ValueError(f"`{text}` is no Slurm version: expected one like `24.11.5`")

    def __str__(self) -> str:
        major, minor, patch = self
        return f"{major}.{minor:02}." + (f"{patch}" if patch >= 0 else "0-0rc")


def leading_digits(text: str) -> str:
    return text[: len(text) - len(text.lstrip("0123456789"))]


FIRST = Version((22, 5, 0))  # the first release described here; no oci.conf for us before 23.02
RUN_WITHOUT_CONFIG = Version((23, 2, 0))  # IgnoreFileConfigJson, which the entry point needs
PLAIN_NUMBERS_IN_SPOOL = Version((23, 2, 2))  # `oci-job00042-00000/task-00000` before
SPOOL_OF_STEP = Version((25, 5, 0))  # before, %m is the task's directory and ends in a slash
QUOTES_RIGHT = Version((26, 5, 5))  # the first that was seen to be; 26.05.3 is wrong
QUOTES_UNSEEN = Version((26, 5, 4))  # nobody has looked: taken for wrong
QUOTES_WRONG_AGAIN = Version((26, 11, -1))  # the development branch of August 2026
QUOTES_SINCE = "26.05.4 or .5"


def quotes_rightly(version: Version) -> bool:
    """Whether `version` writes single quotes in `%@` so that a shell takes them for what they are."""
    return version >= QUOTES_RIGHT and version != QUOTES_WRONG_AGAIN


def writes(version: Version) -> str:
    """The verb for what `version` does to a single quote, if it is wrong."""
    return "may write" if version == QUOTES_UNSEEN else "writes"


NO_PID = 4294967295  # what Slurm writes for %p as long as no process is known


class Letter(Value):
    """One letter of the language."""

    letter: str
    field: str  # of Fields; empty for %%
    meaning: str
    since: Version = FIRST
    from_user: bool = False  # a user chooses its value, so it must not reach root's shell


LETTERS = {
    letter.letter: letter
    for letter in (
        Letter("%", "", "a percent sign"),
        Letter("@", "command", "the command and its arguments", FIRST, True),
        Letter("b", "bundle", "the image, as given to --container", FIRST, True),
        Letter("e", "env_file", "the file with the job's environment"),
        Letter("j", "job", "the job's number"),
        Letter("m", "spool", "Slurm's directory for the step or task", RUN_WITHOUT_CONFIG),
        Letter("n", "node", "the node's name"),
        Letter("p", "pid", "the task's process id", RUN_WITHOUT_CONFIG),
        Letter("r", "rootfs", "the root file system's path", FIRST, True),
        Letter("s", "step", "the step's number"),
        Letter("t", "task", "the task's number on this node"),
        Letter("u", "user", "the user's name"),
        Letter("U", "uid", "the user's number", RUN_WITHOUT_CONFIG),
        Letter("Z", "cwd", "the job's working directory", Version((26, 5, 0)), True),
    )
}


class Fields(Value):
    """What the letters stand for in one task."""

    bundle: str
    spool: str
    env_file: str
    rootfs: str
    cwd: str
    user: str
    uid: int
    node: str
    job: int
    step: int
    task: int
    command: tuple[str, ...] = ()
    pid: int = NO_PID

    @classmethod
    def of(cls, request: Request, *, cwd: str, env_file: str = "", rootfs: str = "") -> "Self":
        """The fields of a task that is to be started now.

        Without a `rootfs`, it is the bundle, as in Slurm where no config.json names one. An
        `env_file` that does not exist is the empty text.
        """
        return cls(**request.as_dict(), cwd=cwd, env_file=env_file, rootfs=rootfs or request.bundle)

    @classmethod
    def in_slurm(
        cls, version: Version, request: Request, *, cwd: str, spool: str = "/var/spool/slurmd"
    ) -> "Self":
        """The fields of `request` as `version` fills them in for RunTimeRun, with the directory
        `spool` (SlurmdSpoolDir, or ContainerPath from 25.05 on) and IgnoreFileConfigJson=true.

        The request's own `spool` is not looked at: where it lies is a matter of the version.
        """
        of_step, of_task = spool_folders(version, spool, request)
        seen = of_step if version >= SPOOL_OF_STEP else of_task
        return cls.of(request.replace(spool=seen), cwd=cwd, env_file=of_task + "/environment")

    def value(self, letter: str) -> str:
        """What the letter stands for, any but `%@`, which is a list of words."""
        return str(getattr(self, LETTERS[letter].field)) if letter != "%" else "%"


def spool_folders(version: Version, spool: str, request: Request) -> tuple[str, str]:
    """Slurm's directories for the step and for the task, as `version` writes them."""
    named = {"batch", "interactive"}
    if version >= SPOOL_OF_STEP:
        named.add("extern")
    width = 1 if version >= PLAIN_NUMBERS_IN_SPOOL else 5
    kind = request.step_kind
    step = kind if kind in named else f"{request.step:0{width}}"
    of_step = f"{spool}/oci-job{request.job:0{width}}-{step}"
    slash = "" if version >= SPOOL_OF_STEP else "/"
    return of_step, f"{of_step}/task-{request.task:0{width}}{slash}"


def split(text: str) -> "tuple[list[tuple[str, str]], str]":
    """`text` as pairs of plain text and the letter behind it, and the plain text at the end.

    A `%` that ends the text has the empty letter. Letters are not checked.
    """
    pairs = []
    start = 0
    while (at := text.find("%", start)) >= 0:
        pairs.append((text[start:at], text[at + 1 : at + 2]))
        start = at + 2
    return pairs, text[start:]


def letters(text: str) -> list[str]:
    """The letters in `text`, in order, also unknown ones and the empty one (a `%` at the end)."""
    return [letter for _, letter in split(text)[0]]


def check(text: str, version: "Version | None" = None) -> None:
    """See that every letter in `text` is known (to Slurm's `version`, if one is given).

    Slurm ends the step at a letter it does not know. Raises SiteInvalid, which names the letter;
    whoever reads a file adds where it stands.
    """
    for letter in letters(text):
        if letter in LETTERS and (version is None or version >= LETTERS[letter].since):
            continue
        if not letter:
            raise problems.SiteInvalid(
                f"`{text}` ends in a `%` without a letter", "a percent sign is written `%%`"
            )
        if letter in LETTERS:
            known = LETTERS[letter]
            raise problems.SiteInvalid(
                f"Slurm {version} does not know `%{letter}` ({known.meaning}) in `{text}`",
                f"it came with Slurm {known.since}; Slurm ends every step that meets it before",
            )
        close = nearest(letter.swapcase(), list(LETTERS))
        raise problems.SiteInvalid(
            f"`%{letter}` in `{text}` stands for nothing",
            *([f"did you mean `%{close}`, {LETTERS[close].meaning}?"] if close else []),
            f"known are {' '.join('%' + known for known in LETTERS)}; a percent sign is `%%`",
        )


def check_word(word: str) -> None:
    """See that `word` can be one word of a site-defined command. Raises SiteInvalid.

    `%@` stands for a list of words, so it is a word of its own or nothing.
    """
    check(word)
    if word != "%@" and "@" in letters(word):
        raise problems.SiteInvalid(
            f"`%@` stands for several words and cannot be a part of the one word `{word}`",
            'write it as a word of its own: run = ["tool", "%b", "--", "%@"]',
        )
    if "\0" in word:
        raise problems.SiteInvalid(
            f"`{word}` holds a NUL, which no argument of a program can", "leave it out"
        )


def parse(template: "Iterable[str]") -> tuple[str, ...]:
    """`template`, the list of words in `site.toml`, checked once when the file is read.

    Raises SiteInvalid for no words at all, an unknown letter, a `%` at a word's end, and a `%@`
    in a longer word.
    """
    checked = tuple(template)
    if not checked:
        raise problems.SiteInvalid("a runtime's command has no words", 'write run = ["tool", "%b", "%@"]')
    for word in checked:
        check_word(word)
    return checked


def words(template: "Sequence[str]", fields: Fields) -> tuple[str, ...]:
    """The command that a checked `template` makes: one word for each, and for `%@` the command's.

    A value is put in as it is, whatever it holds: blanks, quotes, `%b`, bytes that are no text.
    """
    filled: list[str] = []
    for word in template:
        if word == "%@":
            filled.extend(fields.command)
        else:
            pairs, end = split(word)
            filled.append("".join(plain + fields.value(letter) for plain, letter in pairs) + end)
    return tuple(filled)


def shell_line(text: str, fields: Fields, version: Version) -> str:
    """What Slurm's `version` hands to `/bin/sh -c` for `text`, the value of RunTimeRun.

    `text` is the value as Slurm has read it from oci.conf: without its double quotes, `\\#` as
    `#`. Raises SiteInvalid for a letter that the version does not know.
    """
    check(text, version)
    pairs, end = split(text)
    quoted = quote_command(fields.command, version)
    line = ""
    for plain, letter in pairs:
        line += plain + (quoted if letter == "@" else fields.value(letter))
    return line + end


def quote_command(command: "Iterable[str]", version: Version) -> str:
    """The command as `version` writes it for `%@`, some with each quote written twice."""
    quote = QUOTE if quotes_rightly(version) else QUOTE_TWICE
    return " ".join("'" + word.replace("'", quote) + "'" for word in command)


class ShellActs(ValueError):
    """A line holds something that a shell does not simply take as a part of a word."""


class NeverEnds(ShellActs):
    """A line holds a quote without its partner, so that a shell starts nothing of it."""


def is_plain(text: str) -> bool:
    """Whether a shell makes one and the same word of it."""
    try:
        return shell_words(f"x {text}") == ("x", text)
    except ShellActs:
        return False


def shell_words(line: str) -> tuple[str, ...]:
    """The words that `/bin/sh` makes of `line`, a first `exec` included.

    It is a prediction for lines that begin with a program's path or `exec` and go on with plain
    words, quotes, blanks and a comment at the end. Raises ShellActs, saying what and where, at
    anything else: a quote without its partner, an expansion, a pattern for file names, an
    operator. (POSIX.1-2017, Shell Command Language, 2.2 and 2.3.)
    """
    found: list[str] = []
    word = ""
    inside = False  # a word has begun, be it empty
    at = 0
    while at < len(line):
        char = line[at]
        if char in " \t":
            if inside:
                found.append(word)
            word, inside = "", False
            at += 1
        elif char == "#" and not inside:
            break
        elif char in ACTING or (char == "=" and not found):
            raise ShellActs(f"{ACTING.get(char, 'an assignment')} at `{line[at : at + 40]}`")
        else:
            piece, at = shell_piece(line, at)
            word, inside = word + piece, True
    return (*found, word) if inside else tuple(found)


ACTING = {
    "\n": "the end of the command (a line break)",
    "\0": "the end of the text (a NUL)",
    **dict.fromkeys("|&;", "the end of the command"),
    **dict.fromkeys("()", "a subshell"),
    **dict.fromkeys("<>", "a redirection"),
    **dict.fromkeys("$`", "an expansion"),
    **dict.fromkeys("*?[", "a pattern for file names"),
    **dict.fromkeys("{}", "a group or a list in braces"),
    "~": "a home directory",
    "!": "a negation",
}


def shell_piece(line: str, at: int) -> tuple[str, int]:
    """The part of a word that begins at `at`, without its quotes, and where the next begins."""
    opening = line[at]
    if opening == "\\":
        following = line[at + 1 : at + 2]
        if not following or following == "\n":
            raise ShellActs("a backslash that joins lines")
        return following, at + 2
    if opening not in "'\"":
        return opening, at + 1
    end = line.find(opening, at + 1)
    if end < 0:
        raise NeverEnds(f"a quote without its partner at `{line[at : at + 40]}`")
    piece = line[at + 1 : end]
    if opening == '"' and any(char in piece for char in "$`\\"):
        raise ShellActs(f"an expansion or an escape in double quotes at `{line[at : at + 40]}`")
    return piece, end + 1
