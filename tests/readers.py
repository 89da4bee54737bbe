"""Programs in a runtime's place, which read their command line as the real one is documented to, and
reject every other option; and images for them."""

import json
import os
from pathlib import Path

from conftest import ORDINARY

UNKNOWN = '-*) echo "unknown option $1" >&2; exit 99;; *) break;; esac; done\n'
TOLD = 'echo "$image"; for word; do printf "%s|" "$word"; done; exit 9\n'
ACTION = "case $1 in -s) shift;; esac\n[ $1 = exec ] || { [ $1 = run ] && [ $2 = --no-eval ]; } || exit 98; shift\n"
ACTION_OPTIONS = (
    "while :; do case $1 in --no-home|--no-eval|--writable-tmpfs|--writable|--nv|--rocm) shift;; "
)
READERS = {
    "singularity": ACTION
    + ACTION_OPTIONS
    + "--mount|--cwd|--home) shift 2;; "
    + UNKNOWN
    + "image=$1; shift\n"
    + TOLD,
    "apptainer": ACTION
    + ACTION_OPTIONS
    + "--sharens) shift;; --mount|--cwd|--home) shift 2;; "
    + UNKNOWN
    + "image=$1; shift\n"
    + TOLD,
    # As enroot does: the files, then the script with the words as its own.
    "enroot": "[ $1 = start ] || exit 98; shift\n"
    "while :; do case $1 in --conf) . $2; shift 2;; --rc) rc=$2; shift 2;; --) shift; break;; "
    + UNKNOWN
    + 'for folder in "$ENROOT_RUNTIME_PATH" "$ENROOT_DATA_PATH"; do [ -d "${folder:-/}" ] || exit 97; done\n'
    "ENROOT_ENVIRON=/dev/null; environ >/dev/null && mounts >/dev/null || exit 96\n"
    'echo "$1"; shift; echo "$1"; /bin/sh $rc "$@"; exit 9\n',
    "podman": "while :; do case $1 in --root|--runroot|--tmpdir) [ -d $2 ] || exit 97; shift 2;; "
    "--cgroup-manager=cgroupfs|--events-backend=none) shift;; " + UNKNOWN + "[ $1 = run ] || exit 0; shift\n"
    "while :; do case $1 in --rm|--quiet|--interactive|--no-hosts|--read-only|--init) shift;; "
    "--cgroups=disabled|--network=host|--uts=host|--userns=keep-id|--http-proxy=false) shift;; "
    "--security-opt=*|--sdnotify=*|--umask=*|--pull=*|--log-driver=*|--read-only-tmpfs=*) shift;; "
    "--env=*|--init-path=*|--entrypoint=|--device=*=*|--preserve-fd=*) shift;; --mount|--workdir) shift 2;; --rootfs) shift;; "
    + UNKNOWN
    + "image=$1; shift\n"
    + TOLD,
    # The container goes on when `create` has ended, and begins when `start` says so.
    "nvidia-container-runtime": "while :; do case $1 in --rootless=true) shift;; --log) shift 2;; --root) state=$2; shift 2;; "
    + UNKNOWN
    + "case $1 in create) shift; while :; do case $1 in --pid-file) pid=$2; shift 2;; "
    "--bundle) bundle=$2; shift 2;; " + UNKNOWN + "[ $1 = task ] || exit 97; /usr/bin/mkfifo $state/go\n"
    "{ read line <$state/go; /bin/cat $bundle/config.json; exit 9; } & echo $! >$pid; exit 0;;\n"
    "start) echo >$state/go; exit 0;; delete) exit 0;; *) exit 98;; esac\n",
    "shifter": "while :; do case $1 in --image=*) image=${1#*=}; shift;; --volume=*|--workdir=*|--env=?*=?*|--entrypoint) shift;; "
    + UNKNOWN
    + TOLD,
    "sarus": "[ $1 = run ] || exit 98; shift\n"
    'while :; do case $1 in --mount=*|--workdir=*|--env=*) shift;; --entrypoint) [ -z "$2" ] || exit 97; shift 2;; '
    + UNKNOWN
    + "image=$1; shift\n"
    + TOLD,
}


def make_bundle(place: Path) -> None:
    """A bundle with a root file system in it, of no more than its directories and a program."""
    for folder in ("bin", "dev", "proc", "sys", "etc", "opt", "tmp"):
        (place / "rootfs" / folder).mkdir(parents=True)
    (place / "rootfs/bin/echo").write_text("")
    config = {"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": {"args": ["sh"]}}
    (place / "config.json").write_text(json.dumps(config))


def make_image(kind: str, place: Path) -> str:
    """An image for `kind` in `place`, as the user names it; what the stand-in shall see of it."""
    if kind in ("name", "reference"):
        return "tools:1" if kind == "name" else "docker://tools"
    image = place / "image"
    if kind in ("squashfs", "sif"):
        image.write_bytes(
            b"hsqs" + bytes(100) if kind == "squashfs" else bytes(32) + b"SIF_MAGIC" + bytes(100)
        )
    else:
        make_bundle(image)
    if kind == "rootfs":
        image = image / "rootfs"
    os.chown(image, ORDINARY, -1)
    return str(image)
