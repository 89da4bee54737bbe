"""A short form of `soak.py`: tasks that start and are cancelled at random leave nothing."""

import os

from soak import soak


def test_tasks_that_are_cancelled_at_random_leave_nothing(slurm):
    """No process, mount, file or lock, after what was killed has been collected by `gc`."""
    seed = int.from_bytes(os.urandom(3))
    print("seed", seed)
    found = soak(slurm, seconds=8, tasks=40, seed=seed)
    print(found)
    assert found["tasks"] > 0
