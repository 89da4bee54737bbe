"""The command, taken out of the text that Slurm gave to `/bin/sh -c`.

With the shipped oci.conf no shell reads what a user wrote: it stands behind a comment sign, and
the shell hands its own command line over in `SLURM_OCI_LINE` while it becomes the entry point:

    /bin/sh-cL=;while … exec /opt/slurm-oci/run - '…' … # 'echo' 'it'"'"'s'

(`/proc/PID/cmdline`, whose NULs the shell's `read` drops). Nothing is imported here but what the
entry point has loaded anyway.
"""

from slurm_oci import problems

MARK = " # "  # nothing before it in the shipped line is a user's text, so its first place counts
QUOTE = "'\"'\"'"  # how Slurm writes a single quote inside a word
QUOTE_TWICE = QUOTE + "'"  # before 26.05.4 or .5, which add the quote itself once more


def decode(line: str) -> tuple[str, ...]:
    """The command's words in `line`, which may hold any bytes (as os.fsdecode gives them).

    Each word stands in single quotes, with one blank between two, and a single quote inside is
    written in one of the two ways above. No text that holds such a quote can be read in both, so
    Slurm's version need not be known, and the whole text must fit one of them.

    Raises LineUndecodable.
    """
    _, mark, text = line.partition(MARK)
    if not mark:
        raise problems.LineUndecodable(
            f"the shell's line in SLURM_OCI_LINE has no `{MARK}`, behind which the command stands"
            f" (it begins with `{line[:60]}`)",
            "the site: take RunTimeRun in oci.conf unchanged from `slurm-oci-plugins oci-conf`,"
            " and see that /bin/sh is dash, bash, busybox or ksh",
        )
    for quote in (QUOTE, QUOTE_TWICE):
        words = unquote(text, quote)
        if words is not None:
            return words
    raise problems.LineUndecodable(
        f"the command in the shell's line is not quoted as Slurm quotes it: `{excerpt(text)}`",
        f"the site: RunTimeRun in oci.conf must end in `\\{MARK[1:]}%@`, as `slurm-oci-plugins"
        f" oci-conf` prints it, and nothing before that may hold `{MARK}`",
    )


def unquote(text: str, quote: str) -> "tuple[str, ...] | None":
    """The words of `text`, where `quote` stands for a single quote; None if it is not so formed."""
    if not text:
        return ()
    if text[0] != "'":
        return None
    words = []
    word = ""
    start, last = 1, len(text) - 1
    while (at := text.find("'", start)) >= 0:
        word += text[start:at]
        if text.startswith(quote, at):
            word += "'"
            start = at + len(quote)
        elif text.startswith("' '", at):
            words.append(word)
            word = ""
            start = at + 3
        elif at == last:
            return (*words, word)
        else:
            return None
    return None


def excerpt(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:40]} … {text[-37:]}"
