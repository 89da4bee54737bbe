#!/usr/bin/env python3
"""What a task costs before its runtime starts, side by side on this machine.

    python3 benchmarks/run.py [--quick] [--out DIR] [--slurm]

Prints the tables of docs/speed.md and writes them to DIR as figures.json and figures.svg. Needs
the project installed in the Python that runs this (`pip install -e .`), strace for the counts, and
Debian's lmod for the pair with modules. Changes nothing on the machine: all that is measured lies in
a temporary directory, and what else is written or differs between machines (/run, /etc/passwd,
/etc/profile, …) is covered in a mount namespace of this process's own.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import report
from node import Node

MARK = "SLURM_OCI_BENCHMARK"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few starts of each, for a first look")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where figures.json and figures.svg go")
    parser.add_argument(
        "--slurm", action="store_true", help="also through a real Slurm (tests/real, as root)"
    )
    options = parser.parse_args()
    in_own_namespace()
    through_slurm, unpacking = [], None
    if options.slurm:
        import slurm
        import unpack

        through_slurm = slurm.everything(options.quick)
        unpacking = unpack.everything(options.quick)
    with tempfile.TemporaryDirectory(prefix="slurm-oci-benchmark-") as folder:
        os.chmod(folder, 0o755)
        figures = everything(Node.made(Path(folder)), options.quick)
    figures |= {"slurm": through_slurm, "unpacking": unpacking}
    print(report.text(figures))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
        (options.out / "figures.svg").write_text(report.svg(figures["alone"]))
    return 0


def in_own_namespace() -> None:
    """Starts this program again in a mount namespace of its own, where the kernel lets it."""
    if MARK not in os.environ:
        as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
        words = ["unshare", "--mount", *as_root, "--propagation", "private", sys.executable, *sys.argv]
        os.execvpe("unshare", words, {**os.environ, MARK: "1"})


def everything(node: Node, quick: bool) -> dict[str, Any]:
    rounds, starts = (3, 5) if quick else (15, 10)
    cases = node.cases()
    growth = node.growth()
    few = [case for case in cases if case.name in ("bare", "pair", "ours", "uncompiled")]
    return {
        "machine": machine(),
        "python": node.python,
        "rounds": rounds,
        "starts": starts,
        "alone": measure.alone(cases, rounds, starts),
        "growth": measure.alone([*cases[:2], *growth], rounds, starts),
        "commands": measure.alone(node.commands(), rounds, starts),
        "at once": measure.at_once(few, (1, 8, 64, 256), 1 if quick else 3),
    }


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text()
    model = next(
        (line.partition(": ")[2] for line in info.splitlines() if line.startswith("model name")), "?"
    )
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release()}


if __name__ == "__main__":
    sys.exit(main())
