"""Creates a container, starts it and waits for it, as an OCI runtime's `run` does.
A program of its own: python3 foreground.py PID-FILE CREATE… then START…

For runtimes that do on `create` what they do not on `run`. Signals go on to the container; the
exit status is its own, 128 and the number for a signal.
"""

import _signal as signals
import ctypes
import os
import sys

SUBREAPER = 36  # linux/prctl.h: PR_SET_CHILD_SUBREAPER
ALL = signals.valid_signals()


def main(words: list[str]) -> int:
    at = words.index("then")
    pid_file, create, start = words[0], words[1:at], words[at + 1 :]
    # `create` leaves the container without its parent: it becomes a child of this process.
    ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1, 0, 0, 0)
    signals.pthread_sigmask(signals.SIG_BLOCK, ALL)
    status = run(create)
    if status:
        return status
    with open(pid_file, "rb", 0) as file:
        container = int(file.read())
    return run(start) or wait(container)


def run(argv: list[str]) -> int:
    child = os.fork()
    if child == 0:
        for number in (signals.SIGPIPE, signals.SIGXFSZ):  # Python ignores them, exec hands that on
            signals.signal(number, signals.SIG_DFL)
        signals.pthread_sigmask(signals.SIG_SETMASK, ())
        try:
            os.execv(argv[0], argv)
        except OSError as error:
            sys.stderr.write(f"slurm-oci: error: cannot start `{argv[0]}`: {error.strerror}\n")
        os._exit(126)
    return status_of(os.waitpid(child, 0)[1])


def wait(container: int) -> int:
    while True:
        got = signals.sigwaitinfo(ALL)
        if got.si_signo != signals.SIGCHLD:
            try:
                os.kill(container, got.si_signo)
            except ProcessLookupError:
                pass
            continue
        for pid, status in ended():
            if pid == container:
                return status_of(status)


def ended() -> "list[tuple[int, int]]":
    found = []
    try:
        while (child := os.waitpid(-1, os.WNOHANG))[0]:
            found.append(child)
    except ChildProcessError:
        pass
    return found


def status_of(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
