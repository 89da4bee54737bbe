#!/usr/bin/env python3
"""The longer run of every law that Hypothesis tests, for nights and before a release.

    python tests/fuzz.py                            # a quarter of an hour, at least 100,000 examples
    python tests/fuzz.py --minutes 60
    python tests/fuzz.py --seed 1234 --rounds 1     # the round that failed, once more

It goes round after round over all the tests that have a law, each round with a seed of its own, which
is printed; a round that fails ends the run. No Slurm and no root are needed.
"""

import argparse
import functools
import random
import sys
import time
from pathlib import Path

import hypothesis
import pytest

HERE = Path(__file__).resolve().parent
ENOUGH = 100_000


class Laws:
    """A pytest plugin: leaves nothing but the tests with a law, and counts their examples."""

    def __init__(self) -> None:
        self.examples: dict[str, int] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        laws = [item for item in items if hypothesis.is_hypothesis_test(getattr(item, "obj", None))]
        config.hook.pytest_deselected(items=[item for item in items if item not in laws])
        items[:] = laws
        for item in laws:
            handle = item.obj.hypothesis  # type: ignore[attr-defined]
            if not hasattr(handle.inner_test, "counted"):
                handle.inner_test = self.counting(item.nodeid.partition("[")[0], handle.inner_test)

    def counting(self, name: str, test):
        @functools.wraps(test)
        def counted(*args, **named):
            self.examples[name] = self.examples.get(name, 0) + 1
            return test(*args, **named)

        counted.counted = True
        return counted


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--rounds", type=int, help="at most so many")
    parser.add_argument("--seed", type=int, help="of the first round; the next ones count up")
    asked = parser.parse_args(words)
    seed = random.randrange(1 << 32) if asked.seed is None else asked.seed
    laws = Laws()
    end = time.monotonic() + 60 * asked.minutes
    rounds = 0
    while time.monotonic() < end and rounds != asked.rounds:
        print(f"round {rounds + 1}: seed {seed + rounds}", flush=True)
        options = [f"--hypothesis-seed={seed + rounds}", "--hypothesis-profile=long", "-q", "--no-header"]
        options += [
            "-x",
            "-p",
            "no:cacheprovider",
            "--disable-warnings",
            f"--ignore={HERE / 'real'}",
            f"--rootdir={HERE.parent}",
        ]
        status = pytest.main([*options, str(HERE)], plugins=[laws])
        if status:
            print(f"failed: python tests/fuzz.py --seed {seed + rounds} --rounds 1")
            return 1
        rounds += 1
    for name, number in sorted(laws.examples.items()):
        print(f"{number:9,}  {name}")
    total = sum(laws.examples.values())
    print(f"{total:9,}  examples of {len(laws.examples)} laws in {rounds} rounds, first seed {seed}")
    return 1 if asked.rounds is None and total < ENOUGH else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
