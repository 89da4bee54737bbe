"""Runs many commands, one after the other: a JSON list of lists of words on stdin, the list of
(exit status, stdout, stderr) on stdout. Texts are Latin-1, so that each character is a byte.

Run inside an allocation by `test_arguments.py`: each `srun` is then a step, and a step costs little.
"""

import json
import subprocess
import sys


def run(words: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(
        [word.encode("latin-1") for word in words], stdin=subprocess.DEVNULL, capture_output=True
    )
    return done.returncode, done.stdout.decode("latin-1"), done.stderr.decode("latin-1")


if __name__ == "__main__":
    json.dump([run(words) for words in json.load(sys.stdin)], sys.stdout)
