"""An image with OpenMPI, made once by docs/mpi/make-image and then kept beside the roots.

It is a layer for a root: `images/mpi` is an OCI bundle, its `rootfs` a root file system, and
`images/mpi.sqsh` and, where the root has apptainer, `images/mpi.sif` the same as a file. All of it belongs to alice, as podman wants it.
"""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import debian_root
from debian_root import RootUnavailable, say, tail

RECIPE = Path(__file__).resolve().parent.parent.parent / "docs" / "mpi" / "make-image"
CONFIG = {"ociVersion": "1.0.2", "process": {"args": ["sh"], "cwd": "/"}, "root": {"path": "rootfs"}}
NOT_PACKED = ("-noI", "-noD", "-noF", "-noX")  # it is for speed here, not for size


def layer(suite: str) -> Path:
    """The directory with `images/`, for `SlurmRoot.start`. Raises RootUnavailable."""
    base = debian_root.ensure(suite)
    recipe = hashlib.sha256(RECIPE.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]
    place = base / f"mpi-{recipe}"
    with debian_root.locked(base / "mpi.lock"):
        if not place.exists():
            say(f"making an image with OpenMPI of {suite} (a minute)")
            partial = base / f"mpi.partial-{os.getpid()}"
            try:
                make(suite, base / "root", partial)
                partial.rename(place)
            finally:
                debian_root.remove(partial)
    return place


def make(suite: str, root: Path, place: Path) -> None:
    bundle = place / "images" / "mpi"
    bundle.mkdir(parents=True)
    (bundle / "config.json").write_text(json.dumps(CONFIG))
    source = f"deb [signed-by={debian_root.KEYRING}] {debian_root.mirror()} {suite} main"
    options = [f"--aptopt={line}" for line in debian_root.apt_options()]
    run(
        "sh", RECIPE, bundle / "rootfs", "--mode=root", "--quiet", "--dpkgopt=force-unsafe-io", *options,
        env={**os.environ, "SUITE": suite, "MIRROR": source},
    )  # fmt: skip
    run("chown", "-R", "1001:1001", bundle)
    # By the root's own programs, since this machine may have none; what is mounted there nobody sees.
    options = ["-all-root", "-quiet", "-no-progress", *NOT_PACKED]
    run_in(root, place, "mksquashfs", "/mnt/mpi/rootfs", "/mnt/mpi.sqsh", *options)
    if (root / "usr/bin/apptainer").exists():
        packed = f"--mksquashfs-args={' '.join(NOT_PACKED)}"
        run_in(root, place, "apptainer", "-s", "build", packed, "/mnt/mpi.sif", "/mnt/mpi/rootfs")


def run_in(root: Path, place: Path, *words: str) -> None:
    """Runs a program of the root's, which sees the images of `place` in /mnt."""
    script = """
        mount --bind "$1/images" "$2/mnt" && mount --bind /dev "$2/dev" && mount -t proc proc "$2/proc" &&
        mount -t tmpfs tmpfs "$2/tmp" && mount -t tmpfs tmpfs "$2/root" && exec chroot "$2" "${@:3}"
    """
    run("unshare", "--mount", "bash", "-c", script, "bash", place, root, *words)


def run(*words: "str | os.PathLike[str]", env: "dict[str, str] | None" = None) -> None:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env)
    if done.returncode:
        raise RootUnavailable(f"no image with OpenMPI: `{words[0]}`: {tail(done.stderr)}")
