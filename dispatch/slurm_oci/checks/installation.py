"""The installation that oci.conf calls: there, its owner's alone, and up to date."""

import errno
import os
import shlex
import socket
import stat
import subprocess
from collections.abc import Iterator

import slurm_oci
from slurm_oci import cache, catalog, cdi, installation, log, plugins, site
from slurm_oci.checks import NETWORK, Finding, Group, file_system
from slurm_oci.misfits import misfits
from slurm_oci.plugins import Gathered
from slurm_oci.problems import Problem

GROUP = Group("installation")
PARTS = ("run", "slurm-oci-run-default", "lib", "bin", "plugins.d", site.NAME, "oci.conf", catalog.TEXT)
TMPFILES = ("/etc/tmpfiles.d", "/run/tmpfiles.d", "/usr/local/lib/tmpfiles.d", "/usr/lib/tmpfiles.d")


def checks(prefix: str) -> Iterator[Finding]:
    """But for `entry_point` and `log_file`, which are tried as the user."""
    yield from shut(prefix)
    yield from tampered(prefix)
    try:
        gathered = plugins.gather(prefix)
    except Problem as problem:
        cure = "; ".join(problem.hints) or "mend the file"
        yield GROUP.failed("site", problem.message, f"{cure} (every container task fails until then)")
        return
    if not installation.is_source(prefix):
        yield from compiled(prefix)
    yield from gpus(prefix)
    for aside in gathered.aside:
        yield GROUP.warning(
            "plugin",
            f"{aside.name} ({aside.source}) is kept aside: {aside.reason}",
            "mend it or take it away, then `slurm-oci-plugins compile`; the other runtimes go on working",
        )
    yield from misfitting(gathered)
    yield from places(gathered.site)


def entry_point(prefix: str) -> Finding:
    """Calls it without words, which it must name as a mistake."""
    if installation.is_source(prefix):
        problem = installation.nowhere()
        return GROUP.failed("entry-point", problem.message, *problem.hints)
    run = os.path.join(prefix, "run")
    cure = f"`slurm-oci-plugins install --prefix {prefix}`, with a Python that this node has (--python PATH)"
    try:
        done = subprocess.run([run], capture_output=True, text=True, timeout=60, check=False, env={})
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else "it gives no answer"
        return GROUP.failed("entry-point", f"cannot start {run}: {reason}", cure)
    if done.returncode != 125 or "[request-malformed]" not in done.stderr:
        said = (done.stderr.strip().splitlines() or ["it printed nothing"])[0]
        return GROUP.failed("entry-point", f"{run} does not work: {said}", cure)
    return GROUP.ok("entry-point", f"{run} starts, version {slurm_oci.__version__}", slurm_oci.__version__)


def log_file(path: str) -> Finding:
    """Opens site.toml's `log` as a task does, which says nothing where it cannot."""
    word = shlex.quote(path)
    try:
        found = os.stat(path)  # what is not there is not to be made here, by one user for himself
        os.close(log.opened(path))
    except OSError as error:
        if error.errno == errno.ENOENT:
            cure = f"`install -D -m 622 /dev/null {word}`: no task makes it"
        elif error.errno == errno.EISDIR:
            cure = "`log` in site.toml names a file, or `syslog`"
        elif error.errno == errno.ELOOP:
            cure = f"`log` in site.toml names the file itself, no link: {os.path.realpath(path)}"
        elif error.errno == errno.ENXIO and stat.S_ISFIFO(found.st_mode):
            return GROUP.warning(
                "log", f"nobody reads the FIFO {path}: tasks' lines are lost", "start its reader"
            )
        elif shut_off := installation.closed(path):
            cure = f"`chmod a+x {shlex.quote(shut_off)}`, or let `log` in site.toml name another place"
        else:
            cure = f"`chmod a+w {word}`, in a directory that is root's alone to write"
        return GROUP.warning("log", f"{path}: {error.strerror}; tasks go on without their line in it", cure)
    return GROUP.ok("log", f"{path} can be written")


def syslog(path: str = "/dev/log") -> Finding:
    """Whether a daemon takes what tasks send to syslog(3), which says nothing where there is none."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):  # as the C library tries them
        with socket.socket(socket.AF_UNIX, kind) as daemon:
            try:
                daemon.connect(path)
            except OSError as error:
                reason = error.strerror
            else:
                return GROUP.ok("log", f"a syslog daemon listens at {path}")
    message = f"no syslog daemon listens at {path}: {reason}; tasks go on without their line in the log"
    return GROUP.warning("log", message, "start one, or let `log` in site.toml name a file")


def shut(prefix: str) -> Iterator[Finding]:
    """What only those do not see who may enter everything."""
    try:
        python = installation.interpreter(prefix)
    except (OSError, UnicodeDecodeError):
        return  # which `entry_point` finds
    for message, cure in installation.shut(python, prefix):
        yield GROUP.warning("reach", message, cure)


def tampered(prefix: str) -> Iterator[Finding]:
    """What in the installation somebody else could have changed, or could change."""
    try:
        owner = os.stat(prefix).st_uid
    except OSError as error:
        yield GROUP.failed(
            "prefix", f"{prefix}: {error.strerror}", f"`slurm-oci-plugins install --prefix {prefix}`"
        )
        return
    paths = (prefix, *(os.path.join(prefix, name) for name in PARTS), *everything(prefix))
    open_ones = [(path, what) for path in dict.fromkeys(paths) if (what := open_to_others(path, owner))]
    if open_ones:
        path, what = open_ones[0]
        rest = f" (and {len(open_ones) - 1} more)" if len(open_ones) > 1 else ""
        yield GROUP.failed(
            "modes",
            f"{path} {what}{rest}: others than the installation's owner can change what tasks start",
            f"look at what it holds, then `chown -R {owner} {prefix} && chmod -R go-w {prefix}`",
        )


def open_to_others(path: str, owner: int) -> str:
    """Who but root and the installation's owner can change what is at `path`, or nothing."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    if found.st_uid not in (0, owner):
        return f"belongs to user {found.st_uid}"
    return f"has mode {stat.S_IMODE(found.st_mode):04o}" if found.st_mode & 0o022 else ""


def everything(prefix: str) -> Iterator[str]:
    """The files that tasks read: the code and the drop-in plugins."""
    for top in (os.path.join(prefix, "lib"), os.path.join(prefix, "plugins.d")):
        for parent, folders, files in os.walk(top):
            yield from (os.path.join(parent, name) for name in (*folders, *files))


def compiled(prefix: str) -> Iterator[Finding]:
    said: list[tuple[str, str, str]] = []
    warned: list[str] = []
    found = catalog.read(prefix, said, warned.append)
    if found:
        digest = f"{len(found['order'])} runtimes"
        yield GROUP.ok("catalog", f"the catalog is up to date: {digest}", same=digest)
    elif warned:
        yield GROUP.failed("catalog", warned[0], "then `slurm-oci-plugins compile`")
    else:
        yield GROUP.warning(
            "catalog",
            f"the catalog is not used: {said[0][2].removesuffix(': the plugins are asked')}; every task"
            " asks all plugins, which takes several times the time",
            f"`slurm-oci-plugins --prefix {prefix} compile`",
            same="none",
        )


def gpus(prefix: str) -> Iterator[Finding]:
    """The CDI files from which tasks would get nothing."""
    try:
        unknown = cdi.specs(prefix)[1]
    except Problem as problem:
        yield GROUP.warning("cdi", problem.message, f"write it anew, for NVIDIA: {cdi.AS_JSON}")
        return
    for path in unknown:
        yield GROUP.warning("cdi", cdi.not_kept(path), cdi.KEEP)


def misfitting(gathered: Gathered) -> Iterator[Finding]:
    for misfit in misfits(gathered):
        finding = GROUP.failed if misfit.is_fatal else GROUP.warning
        yield finding("site", f"{misfit.file}:{misfit.line}: {misfit.message}", misfit.cure)


def places(wanted: site.Site) -> Iterator[Finding]:
    """Where tasks keep what they need on this node, and whether the next boot makes it again."""
    yield place("state", wanted.state, "tasks take a fresh directory in /tmp instead")
    kind = file_system(wanted.state)
    if kind in NETWORK:
        yield GROUP.failed(
            "state-shared",
            f"{wanted.state} lies in a shared file system ({kind}), and holds what belongs to one node",
            "`state` in site.toml names a directory that is local to each node",
        )
    elif kind == "tmpfs" and os.path.isdir(wanted.state) and not made_at_boot(wanted.state):
        yield GROUP.warning(
            "state-boot", f"{wanted.state} is gone after the next boot", f"{line_for(wanted.state)}"
        )
    yield place(
        "images", wanted.images.cache or cache.BASE, "unpacked images are kept in users' homes instead"
    )


def place(check: str, base: str, instead: str) -> Finding:
    """A directory in which each user has one of his own."""
    try:
        found = os.lstat(base)
    except OSError as error:
        cure = f"`mkdir -p {base} && chmod 1777 {base}`, and {line_for(base)}"
        return GROUP.warning(check, f"{base}: {error.strerror}; {instead}", cure)
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        return GROUP.failed(
            check, f"{base} is no directory", f"put it out of the way: `mv {base} {base}.old`"
        )
    if found.st_uid != 0 or mode != 0o1777:
        return GROUP.failed(
            check,
            f"{base} is user {found.st_uid}'s, mode {mode:04o}: it must be root's and sticky, so that nobody"
            " takes another user's place in it",
            f"`chown root {base} && chmod 1777 {base}`",
        )
    return GROUP.ok(check, f"{base}, mode 1777")


def line_for(base: str) -> str:
    return f"for the next boot `d {base} 1777 root root -` in /etc/tmpfiles.d/slurm-oci.conf"


def made_at_boot(base: str) -> bool:
    """Whether a line for tmpfiles.d names it."""
    for folder in TMPFILES:
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            try:
                with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
                    if any(line.split()[1:2] == [base] for line in file):
                        return True
            except OSError:
                continue
    return False
