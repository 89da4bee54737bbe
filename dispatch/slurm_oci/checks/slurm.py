"""Slurm's own configuration on this node, as far as containers depend on it."""

import hashlib
import os
import pwd
import socket
import stat
from collections.abc import Iterator

from slurm_oci import accepted, installation, installed_slurm
from slurm_oci.checks import Finding, Group
from slurm_oci.conf import Conf, OciConfInvalid, read
from slurm_oci.lint import lint
from slurm_oci.modules import content

GROUP = Group("slurm")


def oci_conf() -> str:
    """Where this node's oci.conf is, or should be."""
    return os.path.join(installed_slurm.folder(), "oci.conf")


def conf_of(path: str, known: tuple[str, ...] = ()) -> Conf | None:
    try:
        return read(path, known)
    except OSError:
        return None


def checks(prefix: str) -> Iterator[Finding]:
    version = installed_slurm.found()
    if version is None:
        yield GROUP.warning(
            "version",
            f"there is no slurmd here: taken for Slurm {installed_slurm.NEWEST}",
            "`doctor` is for the nodes that run jobs",
        )
    else:
        yield GROUP.ok("version", f"Slurm {version}", same=str(version))
    yield from configuration(prefix)
    slurm = conf_of(os.path.join(installed_slurm.folder(), "slurm.conf"))
    if slurm is None:
        yield GROUP.warning(
            "slurm-conf",
            f"there is no slurm.conf in {installed_slurm.folder()} that can be read",
            "SLURM_CONF=/path/to/slurm.conf names it",
        )
        return
    yield spool(slurm)
    yield tracking(slurm)


def configuration(prefix: str) -> Iterator[Finding]:
    """oci.conf: there, good, and calling this installation."""
    prefix = installation.DEFAULT if installation.is_source(prefix) else prefix
    path = oci_conf()
    try:
        digest = hashlib.sha256(content(path)).hexdigest()[:12]
        found = lint(path, installed_slurm.version())
    except (OSError, OciConfInvalid) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        yield GROUP.failed(
            "oci-conf",
            f"cannot read {path}: {reason}. Without it Slurm runs the command of a container step on"
            " the host, and says nothing",
            to_link(prefix, path),
            same="none",
        )
        return
    yield GROUP.ok("oci-conf", f"{path} is there, sha256 {digest}", same=digest)
    for finding in found:
        make = GROUP.warning if finding.severity == "warning" else GROUP.failed
        yield make(finding.code, f"{finding.file}:{finding.line}: {finding.message}", finding.cure)
    conf = conf_of(path, accepted.KEYS)
    line = conf.value("RunTimeRun") if conf else ""
    if f"{prefix}/run " not in line + " ":
        yield GROUP.warning(
            "entry-point",
            f"{path} does not call {prefix}/run: what follows about its installation and runtimes does"
            " not concern containers here",
            f"`slurm-oci-plugins --prefix {prefix} oci-conf` prints the file that does",
        )


def to_link(prefix: str, path: str) -> str:
    """What brings the installation's oci.conf to where Slurm reads it."""
    prefix = installation.DEFAULT if installation.is_source(prefix) else prefix
    return f"`ln -s {prefix}/oci.conf {path}`, on every node"


def spool(slurm: Conf) -> Finding:
    """Slurm's directory for steps, which tasks must be able to enter and must not be able to fill."""
    name = installed_slurm.this_node()
    host = socket.gethostname().partition(".")[0]
    path = slurm.value("SlurmdSpoolDir") or "/var/spool/slurmd"
    path = path.replace("%n", name).replace("%h", host)
    try:
        found = os.stat(path)
    except OSError as error:
        return GROUP.warning(
            "spool",
            f"SlurmdSpoolDir, {path}: {error.strerror}",
            f"slurmd makes it when it starts: is this a node that runs jobs, and called {name}?",
        )
    mode = stat.S_IMODE(found.st_mode)
    if not mode & stat.S_IXOTH:
        return GROUP.failed(
            "spool",
            f"{path} has mode {mode:04o}: no user can enter it, and each container task fails",
            f"`chmod 0755 {path}`",
        )
    if mode & 0o022 and not mode & stat.S_ISVTX:
        return GROUP.failed(
            "spool",
            f"{path} has mode {mode:04o}: users can put directories of their own where slurmd makes its",
            f"`chmod 0755 {path}`",
        )
    if found.st_uid not in trusted(slurm):
        cure = f"`chown root {path}`"
        return GROUP.failed("spool", f"{path} belongs to user {found.st_uid}, who can rename all in it", cure)
    return GROUP.ok("spool", f"{path}, mode {mode:04o}")


def trusted(slurm: Conf) -> set[int]:
    """Who may own Slurm's directories."""
    users = {0}
    for name in (slurm.value("SlurmdUser"), slurm.value("SlurmUser")):
        try:
            users.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue
    return users


def tracking(slurm: Conf) -> Finding:
    kind = slurm.value("ProctrackType", "proctrack/cgroup")
    if kind == "proctrack/cgroup":
        return GROUP.ok("proctrack", "ProctrackType=proctrack/cgroup finds every process of a container")
    return GROUP.warning(
        "proctrack",
        f"ProctrackType={kind} loses processes that leave their group or parent, as container runtimes' do",
        "ProctrackType=proctrack/cgroup",
    )
