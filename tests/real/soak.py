#!/usr/bin/env python3
"""Tasks that start and are cancelled at random on one node of a real Slurm, and what is left of them.

    python tests/real/soak.py [--suite trixie] [--seconds 120] [--tasks 200] [--seed N]

Steps of some tasks each of every runtime that leaves something when it is killed, and of some that
do not, start until there are that many tasks, and are cancelled with SIGTERM, SIGKILL, or not at all.
Then the time is up, everything is cancelled and `gc` is run: no process, mount, file or lock of theirs
may be left on the node. The seed that is printed makes the same choices again.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter

from images import IMAGES
from running import left, processes
from slurm_root import SlurmRoot

WAYS = [("crun", "oci-bundle"), ("runc", "oci-bundle"), ("charliecloud", "squashfs")]
WAYS += [("unshare", "rootfs"), ("charliecloud", "rootfs")]
GC = ["/opt/slurm-oci/bin/slurm-oci-plugins", "gc", "--json"]


def soak(slurm, seconds: float, tasks: int, seed: int) -> dict:
    """Runs for so long; the figures. Raises AssertionError where something is left."""
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    count: Counter[str] = Counter()
    running: list[tuple[subprocess.Popen, int, str]] = []
    number = 0
    while time.monotonic() < end:
        for process, size, _ in [one for one in running if one[0].poll() is not None]:
            count[f"ended with {process.returncode}"] += size
        running = [one for one in running if one[0].poll() is None]
        at_once = sum(size for _, size, _ in running)
        count["most at once"] = max(count["most at once"], at_once)
        if at_once < tasks and len(running) < 40:
            number += 1
            size = min(chance.randint(1, max(1, tasks // 10)), tasks - at_once)
            running.append((start(slurm, chance, size, f"soak{number}"), size, f"soak{number}"))
            count["steps"] += 1
            count["tasks"] += size
        if running and chance.random() < 0.6:
            _, size, name = chance.choice(running)
            how = chance.choice(["", "", "KILL", "KILL", "USR1"])
            cancel(slurm, how, "-n", name)
            count[f"scancel {how}".strip()] += 1
        time.sleep(chance.random() * 0.1)
    cancel(slurm, "KILL", "-u", "alice")
    cancel(slurm, "", "-u", "alice")
    for process, _, _ in running:
        process.wait(timeout=120)
    return dict(count) | settle(slurm)


def cancel(slurm, how: str, *which: str) -> None:
    """Cancels these jobs, or sends a signal to their first steps: a job that is sent SIGKILL is only
    cancelled, a step that is sent it dies."""
    if not how:
        slurm("scancel", *which)
        return
    jobs = slurm("squeue", "-h", "-t", "R", "-o", "%A", *which)[1].decode().split()
    if jobs:
        slurm("scancel", f"--signal={how}", *(f"{job}.0" for job in jobs))


def start(slurm, chance: random.Random, size: int, name: str) -> subprocess.Popen:
    ways = [way for way in WAYS if slurm.has(way[1])]
    runtime, kind = chance.choice(ways)
    seconds = f"{chance.random() * 4:.2f}"
    command = ["srun", "-Q", "-J", name, "--overcommit", f"-n{size}", "-N1"]
    command += [f"--container={IMAGES[kind]}", "/bin/sh", "-c", f"trap : USR1; sleep {seconds}"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return slurm.root.popen(command, env={"SLURM_OCI_RUNTIME": runtime}, **quiet)


def settle(slurm) -> dict:
    """What there was before and after `gc`; raises AssertionError if anything is left then."""
    slurm.root.wait_idle(timeout=120)
    before = left(slurm)
    status, out, _ = slurm(*GC)
    removed = json.loads(out)
    after = left(slurm)
    locks = [line for line in slurm("cat", "/proc/locks", user="root")[1].splitlines() if b"FLOCK" in line]
    held = [line for line in locks if of_alice(slurm, line.split()[4].decode())]
    assert (status, after, held, processes(slurm)) == (0, {}, [], []), (before, after, held)
    return {"left before gc": {k: len(v) for k, v in before.items()}, "removed by gc": len(removed)}


def of_alice(slurm, pid: str) -> bool:
    return slurm("ps", "-o", "user=", "-p", pid, user="root")[1].strip() == b"alice"


def main() -> None:
    from conftest import Slurm

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default="trixie", choices=["trixie", "sid"])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)))
    parser.add_argument("--name", default=f"soak-{os.getpid()}", help="what the root is called")
    options = parser.parse_args()
    print("seed", options.seed, flush=True)
    with SlurmRoot.start(options.suite, name=options.name) as root:
        root.install_project()
        found = soak(Slurm(root), options.seconds, options.tasks, options.seed)
    json.dump(found, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
