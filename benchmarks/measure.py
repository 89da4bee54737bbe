"""Starting tasks, and what that takes: time, processor time, file-system calls."""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from node import Case

CALLS = re.compile(
    r"^\d+ +(open|openat|openat2|stat|lstat|fstat|newfstatat|statx|access|faccessat2?|readlink|readlinkat)\("
)
WHOLE = ("bare", "runtime")  # the cases in which no runtime is started
STRACE = shutil.which("strace")


def alone(cases: list[Case], rounds: int, starts: int) -> list[dict[str, Any]]:
    """Each case one task at a time, the cases in turn, so that the machine's moods hit all alike; the
    first one is what the others are compared with."""
    times: dict[str, list[float]] = {case.name: [] for case in cases}
    calls: dict[str, int | None] = {}
    for number in range(rounds + 1):
        for case in cases:
            case.before()
            calls.setdefault(case.name, calls_of(case))
            found = [wait(*start(case))[0] for _ in range(starts)]
            if number:  # the first round fills the caches
                times[case.name] += found
            case.after()
    bare = statistics.median(times[cases[0].name])
    runtime = statistics.median(times.get("runtime", [0]))
    return [
        {
            "name": case.name,
            "what": case.what,
            "ms": round(statistics.median(times[case.name]), 2),
            "quartiles": [round(q, 2) for q in statistics.quantiles(times[case.name], n=4)[::2]],
            "of bare": round(statistics.median(times[case.name]) / bare, 2),
            "without the runtime": None
            if case.name in WHOLE or not runtime
            else round((statistics.median(times[case.name]) - runtime) / bare, 2),
            "calls": calls[case.name],
        }
        for case in cases
    ]


def at_once(cases: list[Case], numbers: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    """Many tasks started together: what one of them takes of the machine."""
    found = []
    for number in numbers:
        for case in cases:
            samples = []
            for _ in range(repeats):
                began = time.perf_counter()
                running = [start(case) for _ in range(number)]
                cpu = sum(wait(*task)[1] for task in running)
                samples.append((time.perf_counter() - began, cpu))
            wall, cpu = (statistics.median(column) for column in zip(*samples, strict=True))
            found.append(
                {
                    "name": case.name,
                    "tasks": number,
                    "until all ended ms": round(wall * 1e3, 1),
                    "cpu ms a task": round(cpu * 1e3 / number, 2),
                    "calls a task": calls_of(case),
                }
            )
    return found


def start(case: Case) -> tuple[int, float]:
    """Starts the case; its process and when."""
    null = [(os.POSIX_SPAWN_OPEN, n, "/dev/null", os.O_RDWR, 0) for n in (0, 1)]
    began = time.perf_counter()
    return os.posix_spawn(case.argv[0], case.argv, case.env, file_actions=null), began


def wait(process: int, began: float) -> tuple[float, float]:
    """Milliseconds since `began`, and the processor seconds of the process and its children."""
    _, status, usage = os.wait4(process, 0)
    took = (time.perf_counter() - began) * 1e3
    if status:
        sys.exit(f"a task that was to be measured failed (wait status {status})")
    return took, usage.ru_utime + usage.ru_stime


def calls_of(case: Case) -> int | None:
    """The file-system calls of the case and all it starts, the runtime's own left out."""
    if not STRACE:
        return None
    total = count(case.argv, case.env)
    return total if case.name in WHOLE else total - count(["/bin/true"], case.env)


def count(argv: list[str], env: dict[str, str]) -> int:
    with tempfile.NamedTemporaryFile() as record:
        words = [
            str(STRACE),
            "-f",
            "-qq",
            "-e",
            "trace=%file,%desc",
            "-e",
            "signal=none",
            "-o",
            record.name,
            *argv,
        ]
        subprocess.run(words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        return sum(
            bool(CALLS.match(line)) for line in record.file.read().decode(errors="replace").splitlines()
        )
