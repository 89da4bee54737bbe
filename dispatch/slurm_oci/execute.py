"""Becoming the runtime or the user's hook, and telling the user what is wrong."""

import _signal as signals  # the C module: `signal` itself would import enum and what that needs
import os

from slurm_oci import problems
from slurm_oci.problems import Problem
from slurm_oci.values import TYPE_CHECKING, Plan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn


def become(plan: Plan) -> "NoReturn":
    """Replaces this process by the plan's program. Raises RuntimeMissing, RuntimeFailed."""
    plain_signals()
    fill(plan.descriptors)
    if plan.umask >= 0:
        os.umask(plan.umask)
    start(plan.argv, plan.env, plan.cwd)


def plain_signals() -> None:
    """Every signal as at the start of a program: Python ignores some, and exec hands that on."""
    for number in (signals.SIGPIPE, signals.SIGXFSZ, signals.SIGCHLD, signals.SIGINT):
        signals.signal(number, signals.SIG_DFL)
    signals.pthread_sigmask(signals.SIG_SETMASK, ())


def fill(count: int) -> None:
    """Opens what is closed among the `count` descriptors from 3 on, or would be closed by the exec:
    Slurm leaves gaps below the one that PMI2 speaks over, and runc keeps a row without any."""
    for number in range(3, 3 + count):
        try:
            if os.get_inheritable(number):
                continue
        except OSError:
            pass
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
        os.set_inheritable(number, True)


def start(argv: tuple[str, ...], env: "Mapping[str, str]", cwd: str) -> "NoReturn":
    try:
        if cwd:
            os.chdir(cwd)
        os.execve(argv[0], argv, env)
    except FileNotFoundError:
        raise problems.RuntimeMissing(
            f"cannot start `{argv[0]}`: it, or the interpreter in its first line, is not there",
            "`slurm-oci-plugins list` shows what this node has",
        ) from None
    except OSError as error:
        hint = "try it on this node: `ls -lL` of it tells whether you may, `file` what it is"
        if error.errno == 7:  # E2BIG
            hint = "the command and the environment together are too long for the kernel (execve(2))"
        raise problems.RuntimeFailed(f"cannot start `{argv[0]}`: {error.strerror}", hint) from None
    except ValueError as error:
        raise problems.RuntimeFailed(
            f"cannot start `{argv[0]}`: {error}",
            "a NUL, or a name with `=` in it, is in the command or the variables: leave it out",
        ) from None


def become_hook(plan: Plan) -> "NoReturn":
    """Replaces this process by the user's hook. Raises HookFailed."""
    try:
        become(plan)
    except (problems.RuntimeMissing, problems.RuntimeFailed) as problem:
        from slurm_oci import trust

        error = problem.__context__
        if isinstance(error, OSError):
            raise trust.not_started(plan.argv, error) from None
        raise problems.HookFailed(problem.message, *problem.hints) from None


def report(problem: Problem) -> None:
    """Prints a problem where the user sees it. The one place that prints errors."""
    tell("\n".join(problem.lines()))


def warn(note: str) -> None:
    from slurm_oci.problems import visible

    tell(f"slurm-oci: warning: {visible(note)}")


def tell(text: str) -> None:
    try:
        os.write(2, (text + "\n").encode(errors="surrogateescape"))
    except OSError:  # a closed or full stderr must not change the exit status
        pass
