"""The user's own script `~/.slurm-oci-run`: whether there is one, and whether it may be run.

Looked for by every task: two file-system calls where there is none, six where there is one.
"""

import _stat as stat  # the C module, of which `stat` itself makes more than is needed
import errno
import os

from slurm_oci import problems
from slurm_oci.problems import Problem
from slurm_oci.values import Request, Value

NAME = ".slurm-oci-run"
BASH = "/bin/bash"

# Errors that tell about this process and nothing about the home.
OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Hook(Value):
    """A script that is run in place of everything else."""

    path: str  # in the home, links not resolved, so that `$0` is what its author expects
    interpreter: tuple[str, ...] = ()  # bash, for a script that does not name one itself

    def argv(self, request: Request) -> tuple[str, ...]:
        """The command that calls it; `argv[0]` is what to execute."""
        return (*self.interpreter, self.path, *request.words())


class Judgement(Value):
    """What `~/.slurm-oci-run` is. Without a hook and without findings, there is none."""

    hook: Hook | None = None
    findings: tuple[Problem, ...] = ()  # why it must not be run, each with its cure
    warning: str = ""  # why the home could not be looked into: dispatch goes on without a hook


def find(home: str, uid: int) -> Judgement:
    """The hook in `home` (the passwd entry's) for `uid`, the process's own effective user.

    Raises HookUnsafe with the first of the findings and the cures of all.
    """
    judgement = judge(home, uid)
    if judgement.findings:
        cures = [hint for finding in judgement.findings for hint in finding.hints]
        without = "to go without it, set `SLURM_OCI_USER_HOOK=no` in the job's environment"
        raise problems.HookUnsafe(judgement.findings[0].message, *dict.fromkeys(cures), without)
    return judgement


def judge(home: str, uid: int) -> Judgement:
    """Like `find`, but gives what is wrong as findings and raises nothing.

    Safe is a regular executable file of the user's or root's, where neither it nor its directory
    can be written by anybody else; of a symbolic link, each link's directory is judged too.
    """
    if not home.startswith("/"):
        return Judgement(warning=f"going on without ~/{NAME}: the home `{home}` is no absolute path")
    path = f"{home.rstrip('/')}/{NAME}"
    steps = [path]
    try:
        descriptor = follow(steps)
    except OSError as error:
        return not_opened(home, steps, error)
    try:
        status = os.fstat(descriptor)
        head = first_bytes(descriptor, status)
    finally:
        os.close(descriptor)
    from slurm_oci import trust  # few users have a hook

    findings = (*trust.judge_file(steps, status, head, uid), *trust.judge_directories(steps, uid))
    if findings:
        return Judgement(findings=findings)
    return Judgement(Hook(path, (BASH,) if is_for_bash(head) else ()))


def follow(steps: list[str]) -> int:
    """Open the last of `steps`; while that is a symbolic link, append where it leads."""
    while True:
        try:
            return opened(steps[-1])
        except OSError as error:
            if error.errno != errno.ELOOP or len(steps) > 40:  # as many links as Linux follows
                raise
        here = steps[-1]
        steps.append(os.path.join(os.path.dirname(here), os.readlink(here)))


def opened(path: str) -> int:
    try:  # without blocking, since a FIFO would keep us until somebody writes to it
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            raise
    # A program may be executable without being readable; a socket cannot be opened otherwise.
    return os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)


def first_bytes(descriptor: int, status: os.stat_result) -> bytes | None:
    """The beginning of a file; None where it cannot be read."""
    if not stat.S_ISREG(status.st_mode):
        return None
    try:
        return os.pread(descriptor, 128, 0)
    except OSError:
        return None


def is_for_bash(head: bytes | None) -> bool:
    """True for text without `#!`, which the kernel refuses and bash takes for a bash script.

    A zero byte in the first line makes it a program: bash's own rule (check_binary_file).
    """
    return head is not None and head[:2] != b"#!" and b"\0" not in head.partition(b"\n")[0]


def not_opened(home: str, steps: list[str], error: OSError) -> Judgement:
    path, last = steps[0], steps[-1]
    if error.errno in OURS:
        return Judgement(
            findings=(
                problems.HookUnsafe(
                    f"`{path}` cannot be judged: {error.strerror}",
                    "try `ls -l` of it on this node; without it for one job: SLURM_OCI_USER_HOOK=no",
                ),
            )
        )
    if len(steps) > 1:
        from slurm_oci.trust import quoted

        finding = problems.HookUnsafe(
            f"`{path}` is a symbolic link to `{last}`, which cannot be opened: {error.strerror}",
            f"`rm {quoted(path)}`, or let it point to a script that this node can reach",
        )
        return Judgement(findings=(finding,))
    if error.errno == errno.ENOENT:
        try:
            os.stat(home)
            return Judgement()
        except OSError as no_home:
            error = no_home
    return Judgement(
        warning=f"going on without ~/{NAME}: the home `{home}` cannot be entered: {error.strerror}"
    )
