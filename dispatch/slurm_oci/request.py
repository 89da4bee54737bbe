"""From the words that Slurm passed to a `Request`."""

import os

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
        from slurm_oci import breakage

        raise breakage.few(words, environ)
    bundle, spool, user, uid, node, job, step, task = words[:8]
    command = tuple(words[8:])
    numbers = {"UID": uid, "JOB": job, "STEP": step, "TASK": task}
    wrong = [name for name, word in numbers.items() if not is_number(word)]
    if wrong:
        found = ", ".join(f"{name} is `{numbers[name]}`" for name in wrong)
        raise shifted(f"{found}: expected a number", words, environ)
    if int(uid) != os.geteuid():
        raise shifted(f"UID is `{uid}`, but this process runs as {os.geteuid()}", words, environ)
    if bundle == FROM_LINE and "SLURM_OCI_LINE" in environ:
        from slurm_oci.line import decode

        command = decode(environ["SLURM_OCI_LINE"])
    return Request(bundle, spool, user, int(uid), node, int(job), int(step), int(task), command)


def is_number(word: str) -> bool:
    """Whether `word` is a number as Slurm prints one: decimal, no sign, at most 64 bits."""
    return 0 < len(word) <= 20 and word.isascii() and word.isdecimal() and str(int(word)) == word


def shifted(what: str, words: "Sequence[str]", environ: "Mapping[str, str]") -> Problem:
    from slurm_oci import breakage

    return breakage.shifted(what, words, environ)
