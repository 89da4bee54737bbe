#!/usr/bin/env python3
"""The same small busybox as an image of every kind.

Run inside a root by `slurm_root.py`, once, with the directory to fill: `/images`. A kind whose
tool the root lacks is left out with a line that says so. `make_rootfs` is of use anywhere, and
needs neither root nor anything but a static busybox.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# kind of image, as `slurm-oci-plugins explain` calls it: where it is in a root
IMAGES = {
    "rootfs": "/images/rootfs",
    "oci-bundle": "/images/bundle",
    "squashfs": "/images/busybox.sqsh",
    "sif": "/images/busybox.sif",
    "oci-layout": "/images/oci",
    "oci-archive": "/images/oci.tar",
    "docker-archive": "/images/docker.tar",
}

# No /usr/bin: a command that srun has looked up on the submit host is not found at that path
# in here, as in many a real image. No /home/alice: a home has to be made, or done without.
DIRECTORIES = ["bin", "dev", "etc", "home", "opt", "proc", "root", "run", "sys", "tmp", "var/tmp"]
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnobody:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/resolv.conf": "",
    "etc/os-release": 'ID=busybox\nPRETTY_NAME="busybox for tests"\n',
}


class NotMade(Exception):
    """An image could not be made for want of a tool."""


def make_rootfs(dest: str | os.PathLike, busybox_path: str | os.PathLike = "/bin/busybox") -> Path:
    """Make the new directory `dest` a root file system around a static busybox.

    Its files belong to the caller and can be read by all.
    """
    root = Path(dest)
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    for name, text in FILES.items():
        (root / name).write_text(text)
    busybox = root / "bin/busybox"
    shutil.copyfile(busybox_path, busybox)
    busybox.chmod(0o755)
    for applet in subprocess.run(
        [busybox, "--list"], capture_output=True, text=True, check=True
    ).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    return root


def make_bundle(place: Path, rootfs: Path) -> None:
    """What `runc spec --rootless` writes, unchanged: its id mappings are those of its maker."""
    runtime = need("runc", "crun")
    place.mkdir()
    run("cp", "-a", rootfs, place / "rootfs")
    run(runtime, "spec", "--rootless", cwd=place)
    (place / "config.json").chmod(0o644)


def make_squashfs(place: Path, rootfs: Path) -> None:
    run(need("mksquashfs"), rootfs, place, "-quiet", "-no-progress", "-all-root")


def make_sif(place: Path, rootfs: Path) -> None:
    run(need("apptainer"), "-s", "build", place, rootfs)


def make_layout(place: Path, rootfs: Path) -> None:
    """One image, `latest`, of one layer, whose command is /bin/sh."""
    umoci = need("umoci")
    image, work = f"{place}:latest", place.with_name("oci.unpacked")
    run(umoci, "init", "--layout", place)
    run(umoci, "new", "--image", image)
    run(umoci, "unpack", "--image", image, work)
    run("cp", "-a", f"{rootfs}/.", work / "rootfs")
    run(umoci, "repack", "--image", image, work)
    shutil.rmtree(work)
    run(
        umoci,
        "config",
        "--image",
        image,
        "--config.cmd",
        "/bin/sh",
        "--config.env",
        "PATH=/bin",
        "--config.env",
        "IMAGE=busybox",
    )
    run(umoci, "gc", "--layout", place)


def make_oci_archive(place: Path, rootfs: Path) -> None:
    copy_layout(rootfs, f"oci-archive:{place}:latest")


def make_docker_archive(place: Path, rootfs: Path) -> None:
    copy_layout(rootfs, f"docker-archive:{place}:busybox:latest")


def copy_layout(rootfs: Path, target: str) -> None:
    skopeo = need("skopeo")
    layout = rootfs.with_name("oci")
    if not layout.exists():
        raise NotMade("no OCI layout to make it from")
    run(skopeo, "--insecure-policy", "copy", "--quiet", f"oci:{layout}:latest", target)


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "oci-bundle": make_bundle,
    "squashfs": make_squashfs,
    "sif": make_sif,
    "oci-layout": make_layout,
    "oci-archive": make_oci_archive,
    "docker-archive": make_docker_archive,
}


def make_all(directory: Path) -> dict[str, str]:
    """Fill `directory`; returns the kinds left out, with the reason for each."""
    directory.mkdir(parents=True)
    rootfs = make_rootfs(directory / "rootfs")
    left_out = {}
    for kind, make in MAKERS.items():
        try:
            make(directory / Path(IMAGES[kind]).name, rootfs)
        except NotMade as reason:
            left_out[kind] = str(reason)
    run("chmod", "-R", "a+rX", directory)
    return left_out


def need(*programs: str) -> str:
    """The first of `programs` that is installed, or NotMade."""
    for program in programs:
        found = shutil.which(program)
        if found:
            return found
    raise NotMade(f"no {' or '.join(programs)} here")


def run(*words: str | os.PathLike, cwd: Path | None = None) -> None:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        sys.exit(f"`{' '.join(map(os.fspath, words))}` failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    print(json.dumps(make_all(Path(sys.argv[1]))))
