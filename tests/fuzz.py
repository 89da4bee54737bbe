#!/usr/bin/env python3
"""The longer run of every law that Hypothesis tests, for nights and before a release.

    python tests/fuzz.py                            # a quarter of an hour, at least 100,000 examples
    python tests/fuzz.py --minutes 60
    python tests/fuzz.py --seed 1234 --rounds 1     # the round that failed, once more

It goes round after round over all the tests that have a law, as many at a time as there are processors,
each round with a seed of its own, which is printed. A round that fails ends the run, and so does the
time: what is under way then is stopped after the example at hand, but where one has failed, Hypothesis
first finds the smallest that does. No Slurm and no root are needed.
"""

import argparse
import collections
import functools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENOUGH = 100_000
# What an example may end with that is no failure of the law: Hypothesis's own, pytest's, ^C.
NO_FAILURES = ("UnsatisfiedAssumption", "StopTest", "Frozen", "Skipped", "KeyboardInterrupt")


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--rounds", type=int, help="at most so many")
    parser.add_argument("--seed", type=int, help="of the first round; the next ones count up")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="rounds at a time")
    parser.add_argument("--count-in", metavar="FILE", help=argparse.SUPPRESS)  # a round of our own
    asked = parser.parse_args(words)
    if asked.count_in:
        return one_round(asked.seed, asked.minutes, Path(asked.count_in))
    return run(asked)


def run(asked: argparse.Namespace) -> int:
    """Keeps `asked.jobs` rounds going until the time is up or one has failed; the exit status."""
    first = seed = random.randrange(1 << 32) if asked.seed is None else asked.seed
    end = time.monotonic() + 60 * asked.minutes
    last = sys.maxsize if asked.rounds is None else first + asked.rounds
    going: dict[int, Round] = {}
    ended: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        while going or (seed < last and time.monotonic() < end):
            while len(going) < asked.jobs and seed < last and time.monotonic() < end:
                print(f"round {seed - first + 1}: seed {seed}", flush=True)
                going[seed] = Round(seed, end, Path(folder))
                seed += 1
            for number in [number for number, one in going.items() if one.process.poll() is not None]:
                ended.append(going.pop(number))
            if any(one.process.returncode for one in ended):
                break
            time.sleep(0.2)
        for one in going.values():
            one.process.terminate()
            one.process.wait()
        return report(ended, first, asked.rounds is None)


class Round:
    """One round in a process of its own."""

    def __init__(self, seed: int, end: float, folder: Path) -> None:
        self.seed = seed
        self.counts, self.output = folder / f"{seed}.json", folder / f"{seed}.txt"
        left = str((end - time.monotonic()) / 60)
        words = ["--seed", str(seed), "--minutes", left, "--count-in", str(self.counts)]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, __file__, *words], stdout=output, stderr=subprocess.STDOUT
            )


def report(rounds: list[Round], first: int, must_be_enough: bool) -> int:
    """Prints what failed, or how much was tried; the exit status."""
    failed = [one for one in rounds if one.process.returncode]
    for one in failed:
        print(one.output.read_text(errors="replace"))
        print(f"failed: python tests/fuzz.py --seed {one.seed} --rounds 1")
    if failed:
        return 1
    examples: collections.Counter[str] = collections.Counter()
    seconds = 0.0
    for one in rounds:
        told = json.loads(one.counts.read_text())
        examples.update(told["examples"])
        seconds += told["seconds"]
    for name, number in sorted(examples.items()):
        print(f"{number:9,}  {name}")
    total = examples.total()
    print(
        f"{total:9,}  examples of {len(examples)} laws in {len(rounds)} rounds, first seed {first};"
        f" {total / seconds:.0f} for each second of a processor"
    )
    if must_be_enough and total < ENOUGH:
        print(f"fewer than {ENOUGH:,}: the processors had {seconds:.0f} seconds for it")
        return 1
    return 0


def one_round(seed: int, minutes: float, counts: Path) -> int:
    """All laws once; their numbers of examples and the seconds of processor time go into `counts`."""
    import pytest

    laws = Laws(seed, time.monotonic() + 60 * minutes)
    options = [f"--hypothesis-seed={seed}", "--hypothesis-profile=long", "-q", "--no-header", "-x"]
    options += ["-p", "no:cacheprovider", "--disable-warnings", f"--rootdir={HERE.parent}"]
    status = pytest.main([*options, f"--ignore={HERE / 'real'}", str(HERE)], plugins=[laws])
    counts.write_text(json.dumps({"examples": laws.examples, "seconds": sum(os.times()[:4])}))
    return 0 if laws.time_is_up else int(status)


class Laws:
    """A pytest plugin: leaves nothing but the tests with a law, counts their examples, and stops where
    the time is up."""

    def __init__(self, seed: int, end: float) -> None:
        self.seed = seed
        self.end = end
        self.time_is_up = False
        self.failing = False  # an example has, and Hypothesis looks for a smaller one
        self.examples: dict[str, int] = {}

    def pytest_collection_modifyitems(self, config, items) -> None:
        import hypothesis

        laws = [item for item in items if hypothesis.is_hypothesis_test(getattr(item, "obj", None))]
        config.hook.pytest_deselected(items=[item for item in items if item not in laws])
        random.Random(self.seed).shuffle(laws)  # so that the end of the time falls on each alike
        items[:] = laws
        for item in laws:
            handle = item.obj.hypothesis
            if not hasattr(handle.inner_test, "counted"):
                handle.inner_test = self.counting(item.nodeid.partition("[")[0], handle.inner_test)

    def counting(self, name: str, test):
        @functools.wraps(test)
        def counted(*args, **named):
            if time.monotonic() > self.end and not self.failing:
                self.time_is_up = True
                raise KeyboardInterrupt  # which Hypothesis takes for no example that fails
            self.examples[name] = self.examples.get(name, 0) + 1
            try:
                return test(*args, **named)
            except BaseException as error:
                self.failing |= type(error).__name__ not in NO_FAILURES
                raise

        counted.counted = True
        return counted


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
