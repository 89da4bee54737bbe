"""What containers without root need of the kernel, tried as the user."""

import os
import subprocess
from collections.abc import Iterator

from slurm_oci.checks import Finding, Group, command_status, last_line, programs, sysctl, tried
from slurm_oci.checks.namespace import enter, mount

GROUP = Group("kernel")

# What forbids user namespaces: the setting, the value that does, one that does not.
FORBIDDING = (
    ("user.max_user_namespaces", "0", "65536"),
    ("user.max_mnt_namespaces", "0", "65536"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ("kernel.apparmor_restrict_unprivileged_unconfined", "1", "0"),
)


def checks(place: str, image: str) -> Iterator[Finding]:
    """`place`: a directory of the user's own; `image`: a small root file system there."""
    namespaces = user_namespaces()
    yield namespaces
    if namespaces.state == "ok":
        yield overlay(place)
        yield fuse(place)
    yield squashfuse(place, image)
    yield control_groups()


def user_namespaces() -> Finding:
    found = {name: sysctl(name) for name, _, _ in FORBIDDING}
    shown = ", ".join(f"{name}={value}" for name, value in found.items() if value)
    against = [f"`sysctl -w {name}={good}`" for name, bad, good in FORBIDDING if found[name] == bad]
    status, said = tried(entered)
    if status:
        cure = "; ".join(against) or (
            "no setting of the kernel's forbids it: look for a seccomp filter, an SELinux rule, or the"
            " container that this node itself runs in"
        )
        message = f"user namespaces cannot be made: {last_line(said)} ({shown})"
        return GROUP.failed("user-namespaces", message, cure)
    if against:
        message = f"this process can make user namespaces, and others may not: {shown}"
        cure = "; ".join(against) + "; or an AppArmor profile for each runtime"
        return GROUP.warning("user-namespaces", message, cure)
    return GROUP.ok("user-namespaces", f"user and mount namespaces can be made ({shown})")


def entered() -> int:
    enter()
    return 0


def overlay(place: str) -> Finding:
    def mounted() -> int:
        enter()
        mount("tmpfs", place, "tmpfs")
        names = [os.path.join(place, name) for name in ("lower", "upper", "work", "top")]
        for name in names:
            os.mkdir(name)
        lower, upper, work, top = names
        mount("overlay", top, "overlay", 0, f"lowerdir={lower},upperdir={upper},workdir={work},userxattr")
        return 0

    status, said = tried(mounted)
    if status:
        return GROUP.warning(
            "overlay",
            f"no overlay file system can be mounted in a user namespace: {last_line(said)}",
            "Linux 5.11 or newer, and `modprobe overlay`; SLURM_OCI_WRITABLE=tmp, podman and enroot need it",
        )
    return GROUP.ok("overlay", "overlay file systems can be mounted in a user namespace")


def fuse(place: str) -> Finding:
    def mounted() -> int:
        enter()
        device = os.open("/dev/fuse", os.O_RDWR)  # in there, or the kernel refuses the mount
        mount("fuse", place, "fuse", 0, f"fd={device},rootmode=40000,user_id=0,group_id=0")
        return 0

    status, said = tried(mounted)
    if status:
        cure = "`modprobe fuse`, and mode 0666 for /dev/fuse; apptainer and charliecloud need it for files"
        return GROUP.warning("fuse", f"FUSE cannot be used: {last_line(said)}", cure)
    return GROUP.ok("fuse", "/dev/fuse can be opened, and mounted in a user namespace")


def squashfuse(place: str, image: str) -> Finding:
    """Mounts `image`, made a squashfs file, as the runtimes do it."""
    mount_it, unmount, make = programs("squashfuse", "fusermount3", "mksquashfs")
    lacking = [name for name, path in (("squashfuse", mount_it), ("fusermount3", unmount)) if not path]
    if lacking:
        return GROUP.warning(
            "squashfuse",
            f"there is no {' and no '.join(lacking)}: a squashfs file can hardly be mounted",
            "install squashfuse and fuse3; apptainer and charliecloud mount SIF and squashfs files by them",
        )
    if not make or not image:
        return GROUP.ok("squashfuse", "squashfuse and fusermount3 are there (not tried: no mksquashfs)")
    file, top = os.path.join(place, "image.sqsh"), os.path.join(place, "mounted")
    os.mkdir(top)
    status, said = tried(lambda: command_status(make, image, file, "-quiet", "-no-progress"))
    if not status:
        status, said = tried(lambda: command_status(mount_it, "-o", "ro", file, top))
        seen = os.path.isdir(os.path.join(top, "bin"))
        tried(lambda: command_status(unmount, "-u", "-z", top))
        status = status or not seen
    if status:
        cure = "fusermount3 must be setuid root (or /etc/fuse.conf forbids it); look at the message"
        return GROUP.warning("squashfuse", f"a squashfs file cannot be mounted: {last_line(said)}", cure)
    return GROUP.ok("squashfuse", "a squashfs file can be mounted by squashfuse and fusermount3")


def control_groups() -> Finding:
    """Which version, and whether slurmd may make groups below its own, as its cgroup/v2 plugin does."""
    with open("/proc/self/mounts", encoding="utf-8", errors="replace", newline="\n") as file:
        mounts = [line.split(" ") for line in file]
    kinds = {mount[2] for mount in mounts if mount[1].startswith("/sys/fs/cgroup")}
    version = "2" if kinds == {"cgroup2"} else "1 and 2" if "cgroup2" in kinds else "1" if kinds else ""
    if not version:
        return GROUP.warning(
            "cgroup",
            "no control groups are mounted in /sys/fs/cgroup",
            "mount them, or Slurm has only weak means to find and limit a container's processes",
        )
    told = delegated()
    if version == "2" and told == "no":
        return GROUP.warning(
            "cgroup",
            "control groups, version 2: slurmd.service has Delegate=no",
            "Delegate=yes in slurmd's unit, or systemd may take processes out of Slurm's groups",
            same=version,
        )
    said = {"yes": ", delegated to slurmd by systemd"}.get(told, "")
    return GROUP.ok("cgroup", f"control groups, version {version}{said}", same=version)


def delegated() -> str:
    """What systemd says of slurmd's unit: yes, no, or nothing where there is no such unit."""
    if not os.path.isdir("/run/systemd/system"):
        return ""
    asked = ("systemctl", "show", "slurmd.service", "--property=LoadState,Delegate")
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    told = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return told.get("Delegate", "") if told.get("LoadState") == "loaded" else ""
