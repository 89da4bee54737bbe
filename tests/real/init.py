"""The first process of a root with a real Slurm in it: configures, starts, reaps.

Runs inside, as pid 1, under the root's own Python (`boot.py` starts it). One node: the Slurm
controller, the node's daemon and the user's commands share one set of namespaces, as on a
laptop. More nodes: pid 1's namespaces are the login node, called `head`, with the controller;
each node has namespaces of its own for network, host name, cgroups and mounts, on a bridge
with the others, with one shared root file system and places of its own for what is local to
a node.
"""

import contextlib
import json
import os
import pwd
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Python's -I leaves it out

import namespaces as ns

NETWORK = "10.75.0"  # a /24 that exists in these namespaces alone
PRIVATE = {
    "/tmp": "mode=1777",
    "/var/tmp": "mode=1777",
    "/dev/shm": "mode=1777",
    "/var/spool/slurmd": "mode=755",
}
FREEZER = "/run/slurm-cgroup/freezer"
LOGS = Path("/var/log/slurm")
DAEMON_ENVIRONMENT = {  # systemd's own (systemd.exec(5), Environment Variables in Spawned Processes)
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
}

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={head}
AuthType=auth/munge
SlurmUser=slurm
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd-%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
# More CPUs than the machine has, so that tests can start many tasks at once.
SlurmdParameters=config_overrides
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
LaunchParameters=use_interactive_step
KillWait=5
# Nothing here waits for load on a large cluster to settle.
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0
EpilogMsgTime=0
ProctrackType={proctrack}
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
{extra}
"""

# No PrologFlags=Contain, which a test that wants it can add: its extern step makes every job
# three times as slow, and a job that comes right after another is then "queued and waiting".
PROCTRACK = {"v1": "proctrack/cgroup", "v2": "proctrack/cgroup", "none": "proctrack/pgid"}
CGROUP_CONF = {
    "v1": "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/run/slurm-cgroup\n",
    "v2": "CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\n",
    "none": "CgroupPlugin=disabled\n",
}


class StartFailed(Exception):
    """Slurm did not come up; the text says what was waited for."""


def main() -> None:
    """Start what the JSON object in the last argument asks for, report it, and be pid 1."""
    request = json.loads(sys.argv[-1])
    ready, lifeline = request["ready"], request["lifeline"]
    for descriptor in (ready, lifeline):
        if descriptor is not None:
            os.set_inheritable(descriptor, False)
    os.umask(0o022)
    try:
        report = start(request)
    except (StartFailed, OSError, subprocess.CalledProcessError) as problem:
        report = {"error": str(problem)}
    os.write(ready, json.dumps(report).encode() + b"\n")
    os.close(ready)
    reap(lifeline)


def start(request: dict) -> dict:
    """Bring Slurm up; returns the pids, as this pid namespace counts, of every node."""
    count, extra, cgroup = request["nodes"], request["slurm_conf"], request["cgroup"]
    names = [f"node{number}" for number in range(1, count + 1)]
    head = "head" if count > 1 else names[0]
    ns.set_hostname(head)
    mount_cgroups(cgroup)
    write_configuration(head, names, extra, cgroup)
    make_homes()
    connect_head(count)
    if not request["slurm"]:
        return {"nodes": [1]}
    munged = daemon("munged", ["/usr/sbin/munged", "--foreground"], user="munge")
    wait_for("munge's socket", lambda: os.path.exists("/run/munge/munge.socket.2"), {"munged": munged})
    controller = daemon("slurmctld", ["/usr/sbin/slurmctld", "-D"], user="slurm")
    wait_for("slurmctld to listen", lambda: listens(head, 6817), {"slurmctld": controller})
    nodes = {}
    for number, name in enumerate(names, 1):
        if count == 1:
            nodes[f"slurmd-{name}"] = daemon(f"slurmd-{name}", slurmd(name), limits=True)
        else:
            nodes[f"slurmd-{name}"] = start_node(number, name, cgroup)
    wait_for("every node to be idle", lambda: node_states() == ["idle"] * count, nodes)
    return {"nodes": list(nodes.values())}


def mount_cgroups(cgroup: str) -> None:
    """Show this cgroup namespace: version 2 where runtimes look for it, Slurm's freezer apart."""
    try:
        ns.mount("cgroup2", "/sys/fs/cgroup", "cgroup2", ns.MS_NOSUID | ns.MS_NODEV | ns.MS_NOEXEC)
    except OSError:
        if cgroup == "v2":
            raise
    if cgroup == "v1":
        os.makedirs(FREEZER, exist_ok=True)
        ns.mount("cgroup", FREEZER, "cgroup", ns.MS_NOSUID | ns.MS_NODEV | ns.MS_NOEXEC, "freezer")
    elif cgroup == "v2":
        # A cgroup that hands controllers on to its children may hold no process itself
        # (cgroups(7), "no internal processes").
        leave_for("/sys/fs/cgroup/daemons")


def has_cgroup2() -> bool:
    return os.path.exists("/sys/fs/cgroup/cgroup.procs")


def leave_for(directory: str) -> None:
    """Move this process into the cgroup `directory`, made if need be."""
    os.makedirs(directory, exist_ok=True)
    Path(directory, "cgroup.procs").write_text("0")


def write_configuration(head: str, names: list[str], extra: str, cgroup: str) -> None:
    """The files below /etc that Slurm, munge and the resolver read."""
    address = {name: f"{NETWORK}.{10 + number}" for number, name in enumerate(names, 1)}
    address.setdefault(head, f"{NETWORK}.1")
    lines = ["127.0.0.1 localhost", *(f"{where} {name}" for name, where in address.items())]
    Path("/etc/hosts").write_text("\n".join(lines) + "\n")
    Path("/etc/hostname").write_text(head + "\n")
    nodes = "\n".join(
        f"NodeName={name} NodeAddr={address[name]} CPUs=16 Sockets=1 CoresPerSocket=16 ThreadsPerCore=1 "
        "RealMemory=4000 State=UNKNOWN"
        for name in names
    )
    etc = Path("/etc/slurm")
    etc.mkdir(exist_ok=True)
    (etc / "slurm.conf").write_text(
        SLURM_CONF.format(head=head, nodes=nodes, proctrack=PROCTRACK[cgroup], extra=extra)
    )
    (etc / "cgroup.conf").write_text(CGROUP_CONF[cgroup])
    for directory in ("/run/slurm", "/var/lib/slurm/slurmctld", "/var/log/slurm"):
        own_directory(directory, "slurm", 0o755)
    for directory, mode in {
        "/run/munge": 0o755,
        "/var/lib/munge": 0o700,
        "/var/log/munge": 0o700,
        "/etc/munge": 0o700,
    }.items():
        own_directory(directory, "munge", mode)
    key = Path("/etc/munge/munge.key")
    key.unlink(missing_ok=True)
    key.touch(0o400)
    key.write_bytes(os.urandom(128))
    shutil.chown(key, "munge", "munge")
    own_directory("/var/spool/slurmd", "root", 0o755)


def own_directory(path: str, owner: str, mode: int) -> None:
    os.makedirs(path, exist_ok=True)
    shutil.chown(path, owner, owner)
    os.chmod(path, mode)


def make_homes() -> None:
    """/home lies on a file system of its own, empty at the start."""
    for entry in pwd.getpwall():
        if 1000 <= entry.pw_uid < 60000:
            home = Path(entry.pw_dir)
            shutil.copytree("/etc/skel", home)
            for path in (home, *home.iterdir()):
                os.chown(path, entry.pw_uid, entry.pw_gid)
            home.chmod(0o700)


def connect_head(count: int) -> None:
    run("ip", "link", "set", "lo", "up")
    if count == 1:
        # slurmd cannot listen where the only address is 127.0.0.1 (getaddrinfo(3), AI_ADDRCONFIG).
        run("ip", "address", "add", f"{NETWORK}.11/24", "dev", "lo")
        return
    run("ip", "link", "add", "nodes", "type", "bridge")
    run("ip", "address", "add", f"{NETWORK}.1/24", "dev", "nodes")
    run("ip", "link", "set", "nodes", "up")


def slurmd(name: str) -> list[str]:
    return ["/usr/sbin/slurmd", "-D", "-N", name]


def start_node(number: int, name: str, cgroup: str) -> int:
    """A slurmd in namespaces of its own; returns its pid."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        if cgroup == "v1":
            leave_for(f"{FREEZER}/{name}")
        if has_cgroup2():
            leave_for(f"/sys/fs/cgroup/{name}")
        ns.unshare(ns.NODE)
        ns.mount("none", "/", flags=ns.MS_REC | ns.MS_PRIVATE)
        ns.set_hostname(name)
        make_places_local(cgroup)
        ns.mount("none", "/", flags=ns.MS_REC | ns.MS_SHARED)
        connect_node(number)
        exec_daemon(f"slurmd-{name}", slurmd(name), limits=True)
    except BaseException as problem:
        give_up(f"slurmd-{name}", problem)


def make_places_local(cgroup: str) -> None:
    """Mount what only this node shall see."""
    for place, options in PRIVATE.items():
        ns.mount("tmpfs", place, "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, options)
    munge = os.open("/run/munge", os.O_PATH)  # the one munged serves all: a socket needs no network
    ns.mount("tmpfs", "/run", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755")
    own_directory("/run/slurm", "slurm", 0o755)
    os.mkdir("/run/munge")
    ns.bind(f"/proc/self/fd/{munge}", "/run/munge")
    os.close(munge)
    if has_cgroup2():
        ns.unmount("/sys/fs/cgroup")
    mount_cgroups(cgroup)


def connect_node(number: int) -> None:
    outside = ("nsenter", "--net=/proc/1/ns/net")
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", f"to-node{number}", "netns", "1")
    run(*outside, "ip", "link", "set", f"to-node{number}", "master", "nodes", "up")
    run("ip", "address", "add", f"{NETWORK}.{10 + number}/24", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")


def daemon(name: str, argv: list[str], user: str = "root", limits: bool = False) -> int:
    """Start a daemon that stays in the foreground, as systemd would."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            exec_daemon(name, argv, user, limits)
        except BaseException as problem:
            give_up(name, problem)
    return child


def give_up(name: str, problem: BaseException) -> NoReturn:
    """End a process that could not become the daemon `name`."""
    with (LOGS / f"{name}.out").open("a") as output:
        print(f"could not be started: {problem!r}", file=output)
    os._exit(127)


def exec_daemon(name: str, argv: list[str], user: str = "root", limits: bool = False) -> NoReturn:
    """Become the daemon: bare environment, default signals; both are passed on to every task."""
    output = os.open(LOGS / f"{name}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    if limits:
        raise_limits()
    if user != "root":
        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setresgid(*[entry.pw_gid] * 3)
        os.setresuid(*[entry.pw_uid] * 3)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python
        signal.signal(number, signal.SIG_DFL)
    os.chdir("/")
    os.execve(argv[0], argv, DAEMON_ENVIRONMENT)


def raise_limits() -> None:
    """Those of Debian's slurmd.service, as far as this machine lets its root go."""
    for limit, value in {
        resource.RLIMIT_NOFILE: 131072,
        resource.RLIMIT_MEMLOCK: resource.RLIM_INFINITY,
        resource.RLIMIT_STACK: resource.RLIM_INFINITY,
    }.items():
        with contextlib.suppress(ValueError):
            resource.setrlimit(limit, (value, value))


def wait_for(what: str, condition: Callable[[], bool], daemons: dict[str, int], seconds: float = 60) -> None:
    """Wait until `condition` holds; StartFailed if time runs out or one of `daemons` ends."""
    end = time.monotonic() + seconds
    while not condition():
        for name, pid in daemons.items():
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                raise StartFailed(f"{name} ended with {os.waitstatus_to_exitcode(status)}")
        if time.monotonic() > end:
            raise StartFailed(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.02)


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def node_states() -> list[str]:
    command = ["sinfo", "--noheader", "--Node", "--format=%T"]
    done = subprocess.run(command, capture_output=True, text=True, env=DAEMON_ENVIRONMENT)
    return done.stdout.split()


def run(*argv: str) -> None:
    done = subprocess.run(argv, env=DAEMON_ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise StartFailed(f"`{' '.join(argv)}`: {done.stderr.strip()}")


def reap(lifeline: int | None) -> None:
    """Bury every orphan, until `lifeline` ends; pid 1's own end then ends everything."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    if lifeline is not None:
        poll.register(lifeline, select.POLLIN)
    while True:
        bury()
        for descriptor, _ in poll.poll():
            if descriptor == lifeline:
                return
            os.read(reading, 512)


def bury() -> None:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return


if __name__ == "__main__":
    main()
