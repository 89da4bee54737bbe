"""One JSON line a task, for a site that wants to know which runtimes its users use.

Imported only where site.toml says `log`. The user's own process writes it, so that the user can
write what he likes: it counts, it proves nothing.
"""

import os
import time

from slurm_oci import plainjson, state
from slurm_oci.secret import without_passwords
from slurm_oci.values import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from slurm_oci.main import Decision
    from slurm_oci.problems import Problem
    from slurm_oci.values import Request, Step

SYSLOG = "syslog"  # as `log`: the local syslog daemon, facility user, priority info


class Record:
    """The line of one task."""

    def __init__(self, target: str, asked: "Request", trace: "list[Step]") -> None:
        self.target = target  # `syslog` or a file's path
        self.trace = trace  # of the decision, as far as it has come
        self.fields: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "node": asked.node,
            "job": asked.job,
            "step": asked.step_name,
            "task": asked.task,
            "user": asked.user,
            "image": without_passwords(asked.bundle),
            "kind": None,
            "runtime": None,
            "why": None,
            "mode": None,
            "start_ms": None,
            "status": None,
            "error": None,
        }

    def decided(self, decision: "Decision") -> None:
        """Notes what is about to be started, and writes it down if nobody will be left to do so."""
        self.fields |= {
            "runtime": decision.runtime or "user hook",
            "why": next((why for step, _, why in reversed(self.trace) if step in ("runtime", "hook")), None),
            "mode": decision.plan.mode,
            "start_ms": milliseconds(),
        }
        if decision.plan.mode == "exec":
            self.write()

    def ended(self, status: "str | int | None") -> None:
        self.fields["status"] = status
        self.write()

    def failed(self, problem: "Problem") -> None:
        self.fields |= {"status": problem.status, "error": problem.code}
        self.write()

    def write(self) -> None:
        """Writes the line, whole or not at all. A log that cannot be written harms no task."""
        kind = next((result for step, result, _ in reversed(self.trace) if step == "image"), None)
        line = plainjson.dumps(self.fields | {"kind": kind}, ensure_ascii=True)
        if self.target == SYSLOG:
            import syslog

            syslog.openlog("slurm-oci", syslog.LOG_PID, syslog.LOG_USER)
            syslog.syslog(syslog.LOG_INFO, line)
            return
        try:
            descriptor = opened(self.target)
        except OSError:
            return
        try:
            put(descriptor, line.encode() + b"\n")
        except OSError:
            pass
        state.close(descriptor)


def opened(path: str) -> int:
    """The log's descriptor. Raises OSError."""
    # O_NONBLOCK: should it be a FIFO that nobody reads, no task waits for a reader. Not made, and no link
    # followed: in a directory where others may write it would be the user's own file, wherever they like.
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def put(descriptor: int, line: bytes) -> None:
    """Writes the line. Of one that the disk, a quota or a limit cuts short the beginning is taken back, or
    the next task's line would be lost behind it. Raises OSError, as for what is no file."""
    written = os.write(descriptor, line)
    if written < len(line):
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        if os.fstat(descriptor).st_size == end:  # else another's line is behind it already
            os.ftruncate(descriptor, end - written)


def milliseconds() -> "int | None":
    """Since this process started, to the kernel's clock tick (10 ms as a rule; proc(5), stat)."""
    try:
        started = int(state.start_time(os.getpid())) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
    return max(0, round((time.clock_gettime(time.CLOCK_BOOTTIME) - started) * 1000))
