"""What the shell did to a user's text on its way: the Containers Guide's line leaves it to read.

Imported where something is wrong already, or looks as if it were.
"""

import os
from itertools import zip_longest

from slurm_oci import problems
from slurm_oci.bundle import is_slurms
from slurm_oci.job import WITHOUT_HOOK, content
from slurm_oci.line import QUOTE_TWICE, unquote
from slurm_oci.pattern import QUOTES_SINCE, is_plain
from slurm_oci.problems import Problem
from slurm_oci.request import FIELDS
from slurm_oci.values import TYPE_CHECKING, Job, Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CURE = "the site: install the oci.conf that `slurm-oci-plugins oci-conf` prints; you: use a path without them"
BY_HAND = "to try a container without Slurm: slurm-oci-plugins run BUNDLE -- COMMAND"


HANDED_BACK = (
    "let it hand on the eight words that it got, then the command, as in"
    ' `exec /opt/slurm-oci/slurm-oci-run-default "$@"`'
)


def is_hook_s(environ: "Mapping[str, str]") -> bool:
    """Whether the words are from the user's own script. It had the right ones, or had not been called."""
    return environ.get("SLURM_OCI_HOOK", WITHOUT_HOOK) != WITHOUT_HOOK


def few(words: "Sequence[str]", environ: "Mapping[str, str]") -> Problem:
    """For fewer words than there are fields."""
    expected = f"{len(FIELDS)} words ({' '.join(FIELDS)}) and a command"
    if is_hook_s(environ):
        return problems.RequestMalformed(
            f"`~/.slurm-oci-run` has handed on {len(words)} words; expected {expected}", HANDED_BACK
        )
    if not words:
        return problems.RequestMalformed(
            f"expected {expected}, got 0",
            'Slurm starts this program through oci.conf: RunTimeRun="exec /opt/slurm-oci/run'
            ' %b %m %u %U %n %j %s %t %@"; `slurm-oci-plugins oci-conf` prints a better line',
            BY_HAND,
        )
    came = "1 word" if len(words) == 1 else f"{len(words)} words"
    return problems.RequestShifted(
        f"only {came} of oci.conf's line came: {in_ticks(words)}; expected {expected}",
        "a `;`, `&`, `|`, `#` or line break in the image's path ended the line there, where oci.conf has"
        " %b without quotes, as in the Containers Guide",
        CURE,
        BY_HAND,
    )


def shifted(what: str, words: "Sequence[str]", environ: "Mapping[str, str]") -> Problem:
    """For words that are not what stands in their place."""
    if is_hook_s(environ):
        return problems.RequestMalformed(
            f"the words that `~/.slurm-oci-run` has handed on are out of place: {what} (the first words:"
            f" {in_ticks(words[:9])})",
            HANDED_BACK,
        )
    return problems.RequestShifted(
        f"the words from oci.conf are out of place: {what} (the first words: {in_ticks(words[:9])})",
        "white space, a quote or a special character of the shell in the image's path does this where"
        " oci.conf has %b without quotes, as in the Containers Guide",
        CURE,
    )


def in_ticks(words: "Sequence[str]") -> str:
    return " ".join(f"`{word}`" for word in words)


def refuse_other_image(asked: Request, told: Job) -> None:
    """Sees that the image is the one that --container names, where the job's environment tells.

    Raises RequestShifted.
    """
    named = told.env.get("SLURM_CONTAINER", "")
    if named in asked.bundle or is_plain(named):  # else the site's own line makes something of it
        return
    if os.path.basename(told.env_from) != "environment" or is_slurms(asked.bundle, asked.spool):
        return
    raise problems.RequestShifted(
        f"oci.conf passed `{asked.bundle}` for the image, but --container was `{named}`: the shell has"
        " read the path, which oci.conf leaves to it",
        "quotes, `$`, back-ticks, `*`, `?`, `[`, `>` and other special characters of the shell do this"
        " where oci.conf has %b without quotes, as in the Containers Guide",
        CURE,
    )


def refuse_other_command(asked: Request) -> None:
    """Sees that the command is the one that Slurm wrote for the shell, where that can be seen: a
    shell that waits for us as its child has the line in its own command line.

    Raises RequestShifted.
    """
    sent = unquote(behind_the_fields(asked, of_parent()), QUOTE_TWICE)
    if not sent or sent == asked.command:
        return
    pairs = enumerate(zip_longest(sent, asked.command))
    number, (word, other) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
    raise problems.RequestShifted(
        f"word {number} of the command was `{word}`, and the shell made "
        + ("nothing" if other is None else f"`{other}`")
        + " of what Slurm wrote for it",
        f"a single quote does this: Slurm writes it rightly since {QUOTES_SINCE}",
        "the site: install the oci.conf that `slurm-oci-plugins oci-conf` prints, which undoes it;"
        " you: put the command into a script",
    )


def of_parent() -> str:
    """The text that our parent got for `-c`; empty where it is none that got one, or is another's."""
    try:
        words = content(f"/proc/{os.getppid()}/cmdline").split(b"\0")
    except OSError:
        return ""
    return os.fsdecode(words[2]) if len(words) == 4 and words[1] == b"-c" else ""


def behind_the_fields(asked: Request, line: str) -> str:
    """What `line` has behind the eight fields, as the guide's line writes them."""
    numbers = f" {asked.job} {asked.step} {asked.task} "
    return line.partition(asked.spool)[2].partition(numbers)[2]
