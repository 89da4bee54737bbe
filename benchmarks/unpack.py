"""A step on an image that must be unpacked first, through a real Slurm (tests/real; as root).

Steps of 1, 8 and 32 tasks on an archive of a few thousand files: how often it is unpacked, how long
the step takes, and how long when it is unpacked already.
"""

import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "real"))

SUITE = os.environ.get("SLURM_OCI_SUITES", "trixie").split()[0]
TASKS = (1, 8, 32)
PLUGINS = "/opt/slurm-oci/bin/slurm-oci-plugins"
CACHE = "/var/cache/slurm-oci/1001"
# In the place of umoci: a line for each time that it unpacks.
COUNTING = '#!/bin/sh\necho "$2" >>/opt/count/log\nexec /usr/bin/umoci "$@"\n'
SITE = '[executables]\numoci = "/opt/count/umoci"\n'
# The busybox of the tests with Python's library: 2,000 files or so, 50 MB.
IMAGE = """
set -e
cp -r /images/oci /opt/layout
umoci unpack --image /opt/layout:latest /opt/bundle
cp -r /usr/lib/python3* /opt/bundle/rootfs/opt
umoci repack --image /opt/layout:latest /opt/bundle
skopeo copy -q oci:/opt/layout:latest oci-archive:/opt/image.tar:latest
find /opt/bundle/rootfs | wc -l
du -sm /opt/bundle/rootfs
"""


def everything(quick: bool) -> dict[str, Any]:
    from slurm_root import SlurmRoot

    with SlurmRoot.start(SUITE, name=f"unpack-{os.getpid()}") as root:
        root.install_project()
        root.run(["install", "-d", "-m", "1777", "/opt/count"], user="root", check=True)
        root.write("/opt/count/umoci", COUNTING, mode=0o755)
        root.write("/opt/slurm-oci/site.toml", SITE)
        root.run([PLUGINS, "compile"], user="root", check=True)
        made = root.run(["sh", "-c", IMAGE], user="root", check=True, timeout=300)
        files, megabytes = (int(line.split()[0]) for line in made.stdout.splitlines()[-2:])
        rows: dict[int, list[tuple[float, float, int]]] = {tasks: [] for tasks in TASKS}
        for _ in range(1 if quick else 5):
            for tasks, found in rows.items():
                found.append(measured(root, tasks))
    alone = statistics.median(first for first, _, _ in rows[TASKS[0]])
    return {
        "files": files,
        "megabytes": megabytes,
        "rows": [
            {
                "tasks": tasks,
                "unpackings": max(count for _, _, count in found),
                "s": round(statistics.median(first for first, _, _ in found), 2),
                "of one task": round(statistics.median(first for first, _, _ in found) / alone, 2),
                "unpacked already s": round(statistics.median(then for _, then, _ in found), 2),
            }
            for tasks, found in rows.items()
        ],
    }


def measured(root: Any, tasks: int) -> tuple[float, float, int]:
    """Seconds of a step with nothing unpacked yet, of the same again, and the number of unpackings."""
    root.run(["rm", "-rf", CACHE, "/opt/count/log"], user="root", check=True)
    first, then = step(root, tasks), step(root, tasks)
    return first, then, root.path("/opt/count/log").read_text().count("unpack")


def step(root: Any, tasks: int) -> float:
    began = time.perf_counter()
    words = ["srun", f"-n{tasks}", "-O", "--container=/opt/image.tar", "/bin/true"]
    done = root.run(words, timeout=300)
    if done.returncode:
        sys.exit(f"`{' '.join(words)}` failed:\n{done.stderr.decode(errors='replace')}")
    return time.perf_counter() - began
