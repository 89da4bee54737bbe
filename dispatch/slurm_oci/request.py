"""From the words that Slurm passed to a `Request`."""

import os

from slurm_oci import problems
from slurm_oci.problems import Problem
from slurm_oci.values import TYPE_CHECKING, Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FIELDS = ("BUNDLE", "SPOOL", "USER", "UID", "NODE", "JOB", "STEP", "TASK")
FROM_LINE = "-"  # for BUNDLE: take bundle and command from where no shell has read them


def read(words: "Sequence[str]", environ: "Mapping[str, str]") -> Request:
    """The request that `words` (the entry point's, without its own name) make.

    With `-` for the bundle and the shell's line in `SLURM_OCI_LINE` (the shipped oci.conf) the
    command comes from that line, and the bundle stays `-` until the job's environment is read.

    Raises RequestMalformed, RequestShifted, LineUndecodable.
    """
    if len(words) < len(FIELDS):
        raise problems.RequestMalformed(
            f"expected {len(FIELDS)} words ({' '.join(FIELDS)}) and a command, got {len(words)}",
            'Slurm starts this program through oci.conf: RunTimeRun="exec /opt/slurm-oci/run'
            ' %b %m %u %U %n %j %s %t %@"; `slurm-oci-plugins oci-conf` prints a better line',
            "to try a container without Slurm: slurm-oci-plugins run BUNDLE -- COMMAND",
        )
    bundle, spool, user, uid, node, job, step, task = words[:8]
    command = tuple(words[8:])
    numbers = {"UID": uid, "JOB": job, "STEP": step, "TASK": task}
    wrong = [name for name, word in numbers.items() if not is_number(word)]
    if wrong:
        found = ", ".join(f"{name} is `{numbers[name]}`" for name in wrong)
        raise shifted(f"{found}: expected a number", words)
    if int(uid) != os.geteuid():
        raise shifted(f"UID is `{uid}`, but this process runs as {os.geteuid()}", words)
    if bundle == FROM_LINE and "SLURM_OCI_LINE" in environ:
        from slurm_oci.line import decode

        command = decode(environ["SLURM_OCI_LINE"])
    return Request(bundle, spool, user, int(uid), node, int(job), int(step), int(task), command)


def is_number(word: str) -> bool:
    """Whether `word` is a number as Slurm prints one: decimal, no sign, at most 64 bits."""
    return 0 < len(word) <= 20 and word.isascii() and word.isdecimal() and str(int(word)) == word


def shifted(what: str, words: "Sequence[str]") -> Problem:
    return problems.RequestShifted(
        f"the words from oci.conf are out of place: {what} (the first words: "
        + " ".join(f"`{word}`" for word in words[:9])
        + ")",
        "white space, a quote or a sign of the shell in the image's path does this where oci.conf"
        " has %b without quotes, as in the Containers Guide",
        "the site: install the oci.conf that `slurm-oci-plugins oci-conf` prints;"
        " you: use a path without them",
    )
