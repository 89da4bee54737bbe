"""Staying as the parent of what a task runs: signals reach it, and what it leaves is removed."""

import _signal as signals  # the C module: `signal` itself would import enum and what that needs
import os

from slurm_oci import problems, state
from slurm_oci.execute import fill, plain_signals, start
from slurm_oci.problems import Problem
from slurm_oci.values import TYPE_CHECKING, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from signal import struct_siginfo
    from typing import NoReturn

ALL = signals.valid_signals()
ENDING = (signals.SIGHUP, signals.SIGINT, signals.SIGQUIT, signals.SIGTERM)
FROM_TERMINAL = 0x80  # SI_KERNEL: the whole foreground process group has got it, the child too
# But of a terminal that is hung up these two are for the session's leader alone, as with `srun --pty`
# the dispatcher is (tty_ioctl(4), vhangup(2); the kernel's tty_signal_session_leader).
OF_HANGING_UP = (signals.SIGHUP, signals.SIGCONT)


def supervise(plan: Plan, private: str, node: str) -> int:
    """Carries out the plan in the private directory, waits, cleans up. The exit status.

    Signals sent to this process reach the container; those that the terminal sends to the whole
    foreground group are not sent twice. One that asks for the end while the container is still
    being prepared ends the task: whatever the preparing command makes of it, nothing is started.
    """
    signals.signal(signals.SIGCHLD, signals.SIG_DFL)  # ignored, it would never tell of an end
    signals.pthread_sigmask(signals.SIG_BLOCK, ALL)
    held = state.make(private, node)
    try:
        write(plan, private)
        for argv in plan.prepare:
            got: list[int] = []
            with state.usual_umask():
                status = run(argv, plan.env, plan.cwd, got)
            ending = [number for number in got if number in ENDING]
            if ending:
                return 128 + ending[0]
            if status:
                raise problems.RuntimeFailed(
                    f"preparing failed: `{' '.join(argv)}` ended with {status}",
                    "the lines above are that program's own; `explain` shows its command, to try by hand",
                )
        for required in plan.required:
            if not required.is_there():
                raise required.problem
        if plan.umask >= 0:
            os.umask(plan.umask)
        return run(plan.argv, plan.env, plan.cwd, [], descriptors=plan.descriptors)
    finally:
        if not plan.leaves or os.path.lexists(plan.leaves):
            for argv in plan.cleanup:
                clean(argv, plan)
        state.remove(private)
        state.close(held)


def clean(argv: tuple[str, ...], plan: Plan) -> None:
    """Runs a cleanup command, silent and not to be disturbed. Where no process can be made, those of
    the container may just be ending: it waits for up to two seconds, and leaves the rest to
    `state.remove` and `gc`."""
    for _ in range(20):
        try:
            child, _ = spawn(argv, plan.env, plan.cwd, quiet=True)
        except OSError:
            signals.sigtimedwait((), 0.1)
        else:
            wait(child, None)
            return


def write(plan: Plan, private: str) -> None:
    """Makes the plan's folders, links and files. Raises StateUnavailable."""
    try:
        with state.usual_umask():
            make_all(plan, private)
    except OSError as error:
        raise problems.StateUnavailable(
            f"cannot write into `{private}`: {error.strerror}",
            "is the file system full, or its quota? `df -h` and `quota` on this node tell",
        ) from None


def make_all(plan: Plan, private: str) -> None:
    for folder in plan.folders:
        os.mkdir(os.path.join(private, folder), 0o755)
    for name, target in plan.links:
        os.symlink(target, os.path.join(private, name))
    for file in plan.files:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        descriptor = os.open(os.path.join(private, file.name), flags, file.mode)
        with open(descriptor, "wb") as out:  # which writes all of it, or says that it could not
            out.write(file.content)


def run(
    argv: tuple[str, ...],
    env: "Mapping[str, str]",
    cwd: str,
    got_signals: list[int],
    output: "int | None" = None,
    tick: "Callable[[], None] | None" = None,
    descriptors: int = 0,
) -> int:
    """Runs one command to its end; its exit status. Signals to this process go on to it, and their
    numbers into `got_signals`. With `output`, a descriptor, it gets that and no input; `tick` is
    called every second meanwhile, and what it raises ends the command. Raises RuntimeMissing,
    RuntimeFailed.
    """
    try:
        child, problem = spawn(argv, env, cwd, False, output, descriptors)
    except OSError as error:
        raise problems.RuntimeFailed(
            f"cannot start `{argv[0]}`: no process can be made: {error.strerror}",
            "how many there may be is limited for a user (`ulimit -u`), for the job and for the node",
        ) from None
    try:
        status = wait(child, got_signals, tick)
    except BaseException:  # of `tick`
        pass_on(signals.SIGKILL, child)
        os.waitpid(child, 0)
        raise
    if problem:
        raise problem
    return status


def spawn(
    argv: tuple[str, ...],
    env: "Mapping[str, str]",
    cwd: str,
    quiet: bool,
    output: "int | None" = None,
    descriptors: int = 0,
) -> "tuple[int, Problem | None]":
    """Starts the command: its process, and why that could not become it. Raises OSError."""
    told, end = os.pipe()
    try:
        child = os.fork()
    except OSError:
        state.close(told)
        state.close(end)
        raise
    if child == 0:
        run_child(argv, env, cwd, quiet, output, descriptors, end)
    state.close(end)  # now the child alone has it, until it is another program
    try:
        kind, *said = os.read(told, 1 << 16).decode(errors="surrogateescape").split("\0")
    except OSError:  # then its exit status must do
        kind, said = "", []
    state.close(told)
    kinds = {"missing": problems.RuntimeMissing, "failed": problems.RuntimeFailed} if kind else {}
    return child, kinds[kind](*said) if kind else None


def wait(child: int, got_signals: "list[int] | None", tick: "Callable[[], None] | None" = None) -> int:
    """The exit status of `child`. Signals to this process go on to it, unless they are None."""
    while True:
        got = signals.sigtimedwait(ALL, 1) if tick else signals.sigwaitinfo(ALL)
        if tick:
            tick()
        if got is None:
            continue
        if got.si_signo == signals.SIGCHLD:
            status = reap(child)
            if status is not None:
                return status
        elif got_signals is not None:
            got_signals.append(got.si_signo)
            if not has_got(got):
                pass_on(got.si_signo, child)


def has_got(signal: "struct_siginfo") -> bool:
    """Whether the kernel has sent it to the child as well."""
    of_leader = signal.si_signo in OF_HANGING_UP and os.getsid(0) == os.getpid()
    return signal.si_code == FROM_TERMINAL and not of_leader


def pass_on(number: int, child: int) -> None:
    try:
        os.kill(child, number)
    except OSError:  # it has ended, or become somebody else's by a set-user-id program
        pass


def run_child(
    argv: tuple[str, ...],
    env: "Mapping[str, str]",
    cwd: str,
    quiet: bool,
    output: "int | None",
    descriptors: int,
    end: int,
) -> "NoReturn":
    try:
        if quiet or output is not None:
            null = os.open(os.devnull, os.O_RDWR)
            out = null if output is None else output
            for descriptor, there in ((0, null), (1, out), (2, out)):
                os.dup2(there, descriptor)
        if output is not None:
            end_with_parent()
        plain_signals()
        if descriptors:  # above those that are to be filled
            import fcntl

            end = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3 + descriptors)
            fill(descriptors)
        start(argv, env, cwd)
    except Problem as problem:
        kind = "missing" if isinstance(problem, problems.RuntimeMissing) else "failed"
        os.write(end, "\0".join([kind, problem.message, *problem.hints]).encode(errors="surrogateescape"))
        os._exit(problem.status)
    except BaseException:
        os._exit(125)


def end_with_parent() -> None:
    """Has the kernel kill this process when its parent ends, however that ends (prctl(2))."""
    import ctypes  # for the few programs whose result nobody else could use

    ctypes.CDLL(None).prctl(1, signals.SIGKILL)  # PR_SET_PDEATHSIG


def reap(child: int) -> "int | None":
    """Collects every child that has ended; the exit status if `child` is among them.

    If it was stopped as a terminal does it, this process stops as well, so that a shell above sees
    it. The SIGCONT that ends this is passed on like any signal.
    """
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if os.WIFSTOPPED(status):
            if pid == child and os.WSTOPSIG(status) != signals.SIGSTOP:
                os.kill(os.getpid(), signals.SIGSTOP)
        elif pid == child:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
