"""What rootless Docker or Podman need on this host to run containers as Slurm's jobs."""

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator

import attrs

from slurm_oci import accepted
from slurm_oci.checks import NETWORK, Finding, Group, file_system, last_line
from slurm_oci.checks.slurm import conf_of
from slurm_oci.scrun import Place, content, contributed, files

FEW = 64  # of podman's locks: each container, pod and volume takes one
SUBORDINATE = 65536  # ids, the usual range; images have files of any id below it
ON_THIS_HOST = ("tmpfs", "ramfs", "overlay", "squashfs")  # file systems that no other node sees
SECONDS = 60

found = Group("scrun")


def checks(tool: str, place: Place, in_job: bool = False) -> Iterator[Finding]:
    """All of them, in the order in which a fault would show."""
    yield from written(tool, place, in_job)
    yield from programs(tool)
    if place.user:
        yield from subordinate(place)
        yield from runtime_directory(place)
    if not in_job:
        yield from slurm(place)
        yield from storage(place)
    yield from of_podman(place, in_job) if tool == "podman" else of_docker(place)


def written(tool: str, place: Place, in_job: bool) -> Iterator[Finding]:
    """The files, against what would be written."""
    command = f"`slurm-oci-plugins scrun {tool} --write`"
    of_all = files(tool, attrs.evolve(place, user=None), in_job)
    is_for_all = all(content(file.path) == file.text for file in of_all)
    for file in of_all if is_for_all else files(tool, place, in_job):
        there = content(file.path)
        if there is None:
            yield found.failed("file", f"there is no `{file.path}`", command)
        elif there != file.text:
            yield found.warning(
                "file",
                f"`{file.path}` is not as it would be written",
                f"compare; {command} --force replaces it",
            )
        else:
            yield found.ok("file", f"`{file.path}`")


def programs(tool: str) -> Iterator[Finding]:
    needed = {"docker": ("docker", "dockerd", "rootlesskit"), "podman": ("podman", "conmon")}[tool]
    for name in ("newuidmap", *needed):
        where = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/libexec/podman")
        if where:
            yield found.ok("program", where)
        else:
            yield found.failed("program", f"`{name}` is not on this host", "install it, or add it to PATH")


def subordinate(place: Place) -> Iterator[Finding]:
    """The user's subordinate ids (subuid(5), subgid(5))."""
    assert place.user
    for path in ("/etc/subuid", "/etc/subgid"):
        rows = [line.split(":") for line in (content(path) or "").splitlines()]
        names = (place.user.pw_name, str(place.user.pw_uid))
        number = sum(int(row[2]) for row in rows if len(row) == 3 and row[0] in names and row[2].isdigit())
        if number >= SUBORDINATE:
            yield found.ok("subordinate-ids", f"{number} of {place.user.pw_name}'s in {path}")
        else:
            yield found.warning(
                "subordinate-ids",
                f"{path} has {number} ids of {place.user.pw_name}'s, and an image may need {SUBORDINATE}",
                "`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME`, a range each",
            )


def runtime_directory(place: Place) -> Iterator[Finding]:
    assert place.user
    path = f"/run/user/{place.user.pw_uid}"
    try:
        status = os.stat(path)
        is_fit = stat.S_ISDIR(status.st_mode) and status.st_uid == place.user.pw_uid
    except OSError:
        is_fit = False
    if is_fit:
        yield found.ok("runtime-directory", path)
    else:
        yield found.failed(
            "runtime-directory",
            f"`{path}` is not {place.user.pw_name}'s directory, and scrun keeps its sockets there",
            f"log in, or `loginctl enable-linger {place.user.pw_name}`",
        )


def slurm(place: Place) -> Iterator[Finding]:
    """What the guide asks of Slurm."""
    if os.access(place.scrun, os.X_OK):
        yield found.ok("scrun", place.scrun)
    else:
        yield found.failed("scrun", "`scrun` is not on this host", "install Slurm's commands, built with Lua")
    conf = conf_of(os.path.join(place.slurm, "slurm.conf"))
    if conf is None:
        yield found.failed("slurm-conf", f"no slurm.conf in `{place.slurm}`", "SLURM_CONF names another file")
    elif conf.value("AuthType", "auth/munge").lower() in ("auth/munge", "munge"):
        yield found.ok("auth-type", "AuthType=auth/munge")
    else:
        yield found.failed(
            "auth-type",
            f"AuthType={conf.value('AuthType')}, and scrun can only do with munge",
            "AuthType=auth/munge in slurm.conf",
        )
    path = os.path.join(place.slurm, "oci.conf")
    oci = conf_of(path, accepted.KEYS)
    line = oci.value("RunTimeRun") if oci else ""
    if oci is None:
        yield found.failed(
            "oci-conf", f"there is no `{path}`, here and on every node", "`slurm-oci-plugins oci-conf`"
        )
    elif accepted.ignores_config(oci) and "SLURM_OCI_LINE" in line:
        yield found.ok("oci-conf", f"`{path}` calls the entry point")
    else:
        yield found.failed(
            "oci-conf",
            f"`{path}` has not slurm-oci's line, and no other runs Docker's and Podman's bundles as they are",
            "`slurm-oci-plugins oci-conf`, here and on every node",
        )


def storage(place: Place) -> Iterator[Finding]:
    """Whether other nodes can see it, as far as this one can tell."""
    if not place.user:
        return
    path = place.path("").rstrip("/")
    kind = file_system(path)
    if kind in ON_THIS_HOST:
        yield found.failed(
            "storage", f"`{path}` is on {kind}, which no other host sees", "--storage on a shared file system"
        )
    elif kind in NETWORK:
        yield found.ok("storage", f"`{path}` is on {kind}")
    else:
        yield found.warning(
            "storage",
            f"`{path}` is on {kind or 'an unknown file system'}: jobs find it if every node sees it there",
            "--storage on a shared file system",
        )


def of_podman(place: Place, in_job: bool) -> Iterator[Finding]:
    """What podman itself says, where it can be asked as the user."""
    if not place.user or place.user.pw_uid != os.geteuid():
        return
    said = output("podman", "info", "--format", "json")
    try:
        info = json.loads(said)
        host, store = info["host"], info["store"]
    except (ValueError, KeyError, TypeError):
        yield found.failed(
            "podman", f"`podman info` fails: {last_line(said)}", "podman must work without Slurm"
        )
        return
    runtime, manager = host["ociRuntime"]["name"], host["cgroupManager"]
    locks = host.get("freeLocks")
    if not host["security"]["rootless"]:
        yield found.failed("podman", "podman is not rootless here", "call it as an ordinary user")
    if not in_job and runtime != "slurm":
        yield found.failed(
            "podman", f"podman's runtime is `{runtime}`", '`runtime = "slurm"`; see `file` above'
        )
    if not in_job and store["graphDriverName"] != "vfs":
        yield found.failed(
            "podman-storage",
            f"podman's images are there as `{store['graphDriverName']}`, which a job cannot take in place",
            '`podman system reset` removes them all; then `driver = "vfs"` in storage.conf counts',
        )
    if manager != "cgroupfs":
        yield found.failed(
            "podman",
            f"podman's cgroup manager is `{manager}`",
            '`cgroup_manager = "cgroupfs"` in containers.conf',
        )
    if locks is not None and locks < FEW:
        yield found.warning(
            "podman-locks",
            f"podman has {locks} locks left, and each container, pod and volume takes one",
            "`podman container prune`; `podman system renumber`; or more by `num_locks` in containers.conf",
        )
    elif locks is not None:
        yield found.ok("podman-locks", f"{locks} are free")
    if not os.access("/dev/shm", os.W_OK):
        yield found.failed(
            "podman-locks", "`/dev/shm` cannot be written, and the locks lie there", "mount it, mode 1777"
        )


def of_docker(place: Place) -> Iterator[Finding]:
    """What Docker's own check says, and the daemon where there is one."""
    tool = contributed("dockerd-rootless-setuptool.sh")
    mine = place.user is not None and place.user.pw_uid == os.geteuid()
    if not tool:
        yield found.warning(
            "docker-check", "there is no dockerd-rootless-setuptool.sh", "it is in docker-ce-rootless-extras"
        )
    elif mine and os.geteuid():
        path = os.environ.get("PATH", os.defpath) + ":" + os.path.dirname(tool) + ":/usr/sbin"
        status, said = asked(tool, "check", "--force", "--skip-iptables", env={**os.environ, "PATH": path})
        if status == 0:
            yield found.ok("docker-check", last_line(said))
        else:
            yield found.failed(
                "docker-check", last_line(said), f"`{tool} check --force --skip-iptables` says more"
            )
    for name, group, cure in (
        ("net/ipv4/ping_group_range", "docker-ping", "net.ipv4.ping_group_range = 0 2147483647"),
        ("net/ipv4/ip_unprivileged_port_start", "docker-ports", "net.ipv4.ip_unprivileged_port_start = 0"),
    ):
        value = " ".join((content("/proc/sys/" + name) or "").split())
        if value in ("1 0", "1024"):
            yield found.warning(group, f"{name.replace('/', '.')} is {value}", f"{cure}, in /etc/sysctl.d")
        else:
            yield found.ok(group, f"{name.replace('/', '.')} is {value or 'unknown here'}")
    if not mine:
        return
    assert place.user
    socket = f"unix:///run/user/{place.user.pw_uid}/docker.sock"
    host = os.environ.get("DOCKER_HOST", "")
    if os.path.normpath(host) == os.path.normpath(socket):
        yield found.ok("docker-host", socket)
    else:
        yield found.failed(
            "docker-host",
            f"DOCKER_HOST is `{host}`",
            "export DOCKER_HOST=unix://$XDG_RUNTIME_DIR/docker.sock",
        )
    status, said = asked("docker", "--host", socket, "info", "--format", "{{.DefaultRuntime}} {{.Driver}}")
    if status:
        yield found.warning("dockerd", "no rootless dockerd answers", "`systemctl --user start docker`")
    elif last_line(said) == "slurm vfs":
        yield found.ok("dockerd", "its runtime is `slurm`, its images are unpacked")
    else:
        yield found.failed(
            "dockerd",
            f"its runtime and storage driver are `{last_line(said)}`, not `slurm vfs`",
            "`systemctl --user daemon-reload`, `systemctl --user restart docker`; see `file` above",
        )
    yield from network()


def network() -> Iterator[Finding]:
    """Whether the running rootlesskit leaves dockerd in the host's network."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        words = (content(f"/proc/{pid}/cmdline") or "").split("\0")
        if os.path.basename(words[0]) in ("rootlesskit", "docker-rootlesskit") and is_mine(pid):
            if "--net=host" in words:
                yield found.ok("docker-network", "rootlesskit is in the host's network")
            else:
                yield found.failed(
                    "docker-network",
                    "rootlesskit is in a network of its own, and scrun does not reach Slurm from there",
                    "the systemd override, see `file` above; then restart docker",
                )
            return


def is_mine(pid: str) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        return False


def output(*argv: str) -> str:
    return asked(*argv)[1]


def asked(*argv: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """The exit status of a program, 127 where there is none, and what it printed."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env,
            timeout=SECONDS, text=True, errors="replace",
        )  # fmt: skip
    except OSError as error:
        return 127, f"{argv[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return 124, f"{argv[0]} did not end"
    return done.returncode, done.stdout
