"""From the host into a root file system: cgroups, namespaces, mounts, and then its pid 1.

Started by `slurm_root.py` with one argument, a JSON object (see `main`). It prints the pid of
the new root's first process, as the host counts, and ends; that process goes on as `init.py`,
run by the root's own Python.
"""

import json
import os
import shutil
import stat
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Python's -I leaves it out

import namespaces as ns

# Where the root is put together: hidden behind a tmpfs in the new mount namespace alone, so a
# directory that holds none of the things needed from the host meanwhile. When the root's last
# process ends, all of it is gone.
STAGE = "/sys"
MODULES = ("init.py", "namespaces.py")  # what goes into the root, where it can be imported
INSIDE = "/opt/slurm-root"

# name: (major, minor, mode); null(4), random(4), tty(4), the kernel's devices.txt
DEVICES = {
    "null": (1, 3, 0o666),
    "zero": (1, 5, 0o666),
    "full": (1, 7, 0o666),
    "random": (1, 8, 0o666),
    "urandom": (1, 9, 0o666),
    "tty": (5, 0, 0o666),
    "fuse": (10, 229, 0o666),
    "net/tun": (10, 200, 0o666),
}


def main(request: dict) -> None:
    """Boot the root that `request` describes.

    layers: read-only directories, the lowest last; cgroups: the directories on the host to
    move into; cgroup: "v1", "v2" or "none"; lifeline: a descriptor at whose end the root
    dies, or null; ready: the descriptor that is told how the start went; and what `init.py`
    asks for.
    """
    for directory in request["cgroups"]:
        Path(directory, "cgroup.procs").write_text(str(os.getpid()))
    # The cgroup namespace's root is where the process is at this moment.
    ns.unshare(ns.CLONE_NEWPID | ns.NODE)
    child = os.fork()
    if child:
        print(child)
        return
    os.dup2(2, 1)  # whoever reads the pid from our output waits for its end
    try:
        enter(request)
        command = ["python3", "-I", f"{INSIDE}/init.py", json.dumps(request)]
        os.execve("/usr/bin/python3", command, {"LANG": "C.UTF-8"})
    except OSError as problem:
        os.write(request["ready"], json.dumps({"error": str(problem)}).encode() + b"\n")
        os._exit(1)


def enter(request: dict) -> None:
    """Make the root file system and make it `/`."""
    ns.mount("none", "/", flags=ns.MS_REC | ns.MS_PRIVATE)
    # Everything that is written in the root lies in this tmpfs, which no one else sees.
    ns.mount("slurm-root", STAGE, "tmpfs", data="mode=755,size=75%")
    upper, work, home, root = (f"{STAGE}/{name}" for name in ("upper", "work", "home", "root"))
    for directory in (upper, work, home, root):
        os.mkdir(directory)
        os.chmod(directory, 0o755)
    layers = ":".join(layer.replace("\\", "\\\\").replace(":", "\\:") for layer in request["layers"])
    ns.mount("slurm-root", root, "overlay", data=f"lowerdir={layers},upperdir={upper},workdir={work}")
    # Not on the overlay: podman's own overlay could not have it as its upper layer.
    ns.bind(home, f"{root}/home")
    modules = Path(root + INSIDE)
    modules.mkdir()
    for name in MODULES:
        shutil.copy(Path(__file__).with_name(name), modules / name)
    ns.mount("proc", f"{root}/proc", "proc", ns.MS_NOSUID | ns.MS_NODEV | ns.MS_NOEXEC)
    ns.mount("sysfs", f"{root}/sys", "sysfs", ns.MS_NOSUID | ns.MS_NODEV | ns.MS_NOEXEC)
    ns.mount("tmpfs", f"{root}/run", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755")
    devices(f"{root}/dev")
    ns.pivot_root(root)
    ns.mount("none", "/", flags=ns.MS_REC | ns.MS_SHARED)  # as systemd has it; podman warns otherwise


def devices(directory: str) -> None:
    """A /dev with what containers and terminals need."""
    ns.mount("tmpfs", directory, "tmpfs", ns.MS_NOSUID, "mode=755")
    for name, (major, minor, mode) in DEVICES.items():
        path = Path(directory, name)
        path.parent.mkdir(exist_ok=True)
        os.mknod(path, stat.S_IFCHR | mode, os.makedev(major, minor))
        path.chmod(mode)  # whatever the umask is
    for name, target in {
        "fd": "/proc/self/fd",
        "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1",
        "stderr": "/proc/self/fd/2",
        "ptmx": "pts/ptmx",
    }.items():
        os.symlink(target, f"{directory}/{name}")
    os.mkdir(f"{directory}/pts")
    os.mkdir(f"{directory}/shm")
    # gid 5 is tty in every Debian (base-passwd)
    options = "newinstance,ptmxmode=0666,mode=620,gid=5"
    ns.mount("devpts", f"{directory}/pts", "devpts", ns.MS_NOSUID | ns.MS_NOEXEC, options)
    ns.mount("tmpfs", f"{directory}/shm", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=1777")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
