"""From `srun` to the first line of output, through a real Slurm (tests/real; as root).

For every runtime that the root file system has: Slurm's own oci.conf for it, the pair of scripts
of the Containers Guide with it, and the entry point. All inside one allocation each, in turn.
"""

import os
import statistics
import sys
from pathlib import Path
from typing import Any

from slurm_oci import guide

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "real"))

SUITE = os.environ.get("SLURM_OCI_SUITES", "trixie").split()[0]

# runtime -> (its program, an image, Slurm's own line for it (empty: what `oci-conf --runtime` prints),
# the last line of the guide's default)
RUNTIMES = {
    "crun": (
        "crun",
        "/home/alice/bundle",  # alice's own: natively only what was made for the user runs
        "",
        None,  # the pair has no way to a bundle's config.json
    ),
    "runc": ("runc", "/home/alice/bundle", "", None),
    "charliecloud": (
        "ch-run",
        "/images/rootfs",
        "env -i PATH=/usr/bin:/bin HOME=/tmp USER=%u ch-run %r -- %@",
        'HOME=/tmp USER="$USER_NAME" ch-run "$CONTAINER" -- "$@"',
    ),
    "apptainer": (
        "apptainer",
        "/images/rootfs",
        "apptainer -s exec --userns %r %@",
        'apptainer -s exec "$CONTAINER" "$@"',
    ),
    "podman": (
        "podman",
        "/home/alice/bundle/rootfs",
        None,  # Slurm runs such lines without what podman needs; the guide has none
        'XDG_RUNTIME_DIR=/tmp podman run --rm --cgroups=disabled --network=host --rootfs "$CONTAINER" "$@"',
    ),
    "unshare": ("python3", "/images/rootfs", None, None),
}
NATIVE, OURS = "Slurm's own line", "the entry point"
BARE = ["python3", "-I", "-S", "-c", "print('hello')"]
ENVIRONMENT = "IgnoreFileConfigJson=true\nCreateEnvFile=null\n"
BUNDLE = """
mkdir bundle && cd bundle && cp -r /images/rootfs . && runc spec --rootless
sed -i 's#"terminal": true#"terminal": false#' config.json
"""
# Run as alice in an allocation: prints the milliseconds of each start.
SCRIPT = """
import subprocess, sys, time
for _ in range(int(sys.argv[1])):
    began = time.perf_counter()
    with subprocess.Popen(sys.argv[2:], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"hello\\n"
        print((time.perf_counter() - began) * 1e3)
    assert process.returncode == 0
"""


def everything(quick: bool) -> list[dict[str, Any]]:
    from slurm_root import SlurmRoot

    rounds, starts = (2, 3) if quick else (8, 6)
    times: dict[str, list[float]] = {}
    with SlurmRoot.start(SUITE, name=f"benchmark-{os.getpid()}") as root:
        root.install_project()
        shipped = root.path("/etc/slurm/oci.conf").read_text()
        root.write("/opt/measure.py", SCRIPT)
        root.run(["sh", "-c", BUNDLE])
        ways: dict[str, tuple[str, list[str] | None, dict[str, str]]] = {
            "bare interpreter, without srun": (shipped, None, {}),
            "plain srun": (shipped, [], {}),
        }
        for name, (program, image, native, last) in RUNTIMES.items():
            if not root.has(program):
                continue
            option = [f"--container={image}"]
            if native is not None:
                config = f'{ENVIRONMENT}RunTimeRun="{native}"\n' if native else generated(root, name)
                ways[f"{name}: {NATIVE}"] = (config, option, {})
            if last:
                folder = f"/opt/pair-{name}"
                write_pair(root, folder, last)
                line = f'{ENVIRONMENT}RunTimeRun="{folder}/run %b %m %u %U %n %j %s %t %@"\n'
                ways[f"{name}: the guide's pair"] = (line, option, {})
            ways[f"{name}: {OURS}"] = (shipped, option, {"SLURM_OCI_RUNTIME": name})
        for number in range(rounds + 1):
            for what, (config, option, env) in ways.items():
                root.set_oci_conf(config)
                words = BARE if option is None else ["srun", *option, "/bin/echo", "hello"]
                done = root.run(
                    ["salloc", "-Q", "-n1", "python3", "/opt/measure.py", str(starts), *words], env=env
                )
                if done.returncode:
                    sys.exit(
                        f"{what} failed:\n{done.stderr.decode(errors='replace')}{root.log('slurmd')[-2000:]}"
                    )
                if number:
                    times.setdefault(what, []).extend(map(float, done.stdout.split()))
    medians = {what: statistics.median(found) for what, found in times.items()}
    bare = next(iter(medians.values()))

    def beyond_native(what: str) -> float | None:
        """What the entry point takes longer than Slurm's own line, in starts of the bare interpreter."""
        name, _, way = what.partition(": ")
        native = medians.get(f"{name}: {NATIVE}")
        return round((medians[what] - native) / bare, 2) if way == OURS and native else None

    return [
        {
            "what": what,
            "ms": round(medians[what], 1),
            "quartiles": [round(q, 1) for q in statistics.quantiles(found, n=4)[::2]],
            "bare starts more": beyond_native(what),
        }
        for what, found in times.items()
    ]


def generated(root: Any, runtime: str) -> str:
    command = ["/opt/slurm-oci/bin/slurm-oci-plugins", "oci-conf", "--runtime", runtime]
    return root.run(command, user="root", check=True).stdout.decode()


def write_pair(root: Any, folder: str, last: str) -> None:
    *head, _ = guide.RUN_DEFAULT.splitlines()
    root.run(["mkdir", "-p", folder], user="root", check=True)
    root.write(f"{folder}/run", guide.RUN.replace("/opt/slurm-oci", folder), mode=0o755)
    root.write(f"{folder}/slurm-oci-run-default", "\n".join([*head, last]) + "\n", mode=0o755)
