"""What the user needs on this node to have containers without root."""

import os
import pwd
import shlex
import signal
import stat
from collections.abc import Iterator

from slurm_oci import accepted, hook, trust
from slurm_oci.checks import Finding, Group, last_line, programs, tried
from slurm_oci.checks.namespace import NEW_USER, called
from slurm_oci.conf import Conf

GROUP = Group("user")
ENOUGH = 65536  # subordinate ids: an image may use all that 16 bits can name
LINGER = "/var/lib/systemd/linger"


def checks(conf: Conf | None) -> Iterator[Finding]:
    """Of the effective user. `conf`: the node's oci.conf, where it has one."""
    uid = os.geteuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        yield GROUP.failed(
            "passwd",
            f"user {uid} has no passwd entry on this node",
            "look at the directory service: `getent passwd` must know every user who has jobs here",
        )
        return
    if uid == 0:
        yield GROUP.warning(
            "who",
            "tried as root, who may do what users may not",
            "`doctor --user NAME` tries everything as that user",
        )
    else:
        yield GROUP.ok("who", f"tried as {entry.pw_name}, user {uid}")
        yield from subordinate_ids(entry)
    yield from own_hook(entry)
    yield run_user(entry, conf)
    yield primary_group(entry, conf)


def own_hook(entry: pwd.struct_passwd) -> Iterator[Finding]:
    judgement = hook.judge(entry.pw_dir, entry.pw_uid)
    if judgement.warning:
        yield GROUP.warning("home", judgement.warning, "make the home reachable on this node")
    for finding in judgement.findings:
        yield GROUP.failed("hook", finding.message, "; ".join(finding.hints))
    if judgement.hook:
        yield GROUP.ok("hook", f"`{judgement.hook.path}` is safe, and takes over all containers of the user")


def subordinate_ids(entry: pwd.struct_passwd) -> Iterator[Finding]:
    """Whether the user has ranges of them, and newuidmap and newgidmap give them to him."""
    helpers = dict(zip(("newuidmap", "newgidmap"), programs("newuidmap", "newgidmap")))
    for kind in ("uid", "gid"):
        check, file, helper = f"sub{kind}", f"/etc/sub{kind}", f"new{kind}map"
        start, count = subordinate(file, entry)
        if count < ENOUGH:
            has = f"has only {count} ids" if count else "has no entry"
            name = shlex.quote(entry.pw_name)
            yield GROUP.warning(
                check,
                f"{entry.pw_name} {has} in {file}: images with files of several owners cannot be used"
                " (podman, `apptainer --fakeroot`)",
                f"`usermod --add-sub{kind}s FIRST-LAST {name}`, {ENOUGH} ids that nobody else has",
            )
        elif not helpers[helper]:
            yield GROUP.warning(check, f"there is no {helper}", "install the package uidmap (shadow-utils)")
        else:
            yield given(kind, helpers[helper], start, count)


def subordinate(file: str, entry: pwd.struct_passwd) -> tuple[int, int]:
    """The first of the user's ranges in the file (subuid(5)): where it starts, and how long it is."""
    try:
        with open(file, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, numbers = line.strip().partition(":")
                start, _, count = numbers.partition(":")
                if name in (entry.pw_name, str(entry.pw_uid)) and start.isdecimal() and count.isdecimal():
                    return int(start), int(count)
    except OSError:
        pass
    return 0, 0


def given(kind: str, helper: str, start: int, count: int) -> Finding:
    """Has `helper` map the range into a user namespace, as podman does."""
    own = os.geteuid() if kind == "uid" else os.getegid()

    def waiting() -> int:
        called("unshare", NEW_USER)
        os.kill(os.getpid(), signal.SIGSTOP)
        return 0

    def mapped() -> int:
        child = os.fork()
        if child == 0:
            os._exit(waiting())
        stopped = os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
        words = map(str, (helper, child, 0, own, 1, 1, start, count))
        status = os.spawnv(os.P_WAIT, helper, list(words)) if stopped else 1
        if stopped:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        return status

    status, said = tried(mapped)
    if status:
        cure = f"`{helper}` must be setuid root, or have the capability cap_set{kind}"
        return GROUP.failed(f"sub{kind}", f"`{helper}` fails: {last_line(said)}", cure)
    return GROUP.ok(f"sub{kind}", f"new{kind}map gives the {count} subordinate {kind}s from {start} on")


def run_user(entry: pwd.struct_passwd, conf: Conf | None) -> Finding:
    place = f"/run/user/{entry.pw_uid}"
    needed = conf is not None and any("/run/user/" in found.value for found in conf.entries)
    lingers = os.path.exists(f"{LINGER}/{entry.pw_name}")
    try:
        found = os.stat(place)
        private = found.st_uid == entry.pw_uid and not stat.S_IMODE(found.st_mode) & 0o077
    except OSError:
        if needed:
            message = f"oci.conf needs {place}, which is not there: the user is not logged in"
            return GROUP.failed("run-user", message, f"`loginctl enable-linger {entry.pw_name}`")
        return GROUP.ok("run-user", f"no {place}, and oci.conf needs none")
    if not private:
        message = f"{place} is not the user's alone"
        return GROUP.failed("run-user", message, f"`chown {entry.pw_uid} {place} && chmod 700 {place}`")
    if needed and not lingers:
        message = f"{place} goes with the user's last login, and oci.conf needs it"
        return GROUP.warning("run-user", message, f"`loginctl enable-linger {entry.pw_name}`")
    return GROUP.ok("run-user", f"{place} is there" + (", and lingers" if lingers else ""))


def primary_group(entry: pwd.struct_passwd, conf: Conf | None) -> Finding:
    """Slurm writes the job's environment into a file of mode 0750 with the user's primary group: its
    own environment file, and config.json where the bundle's is not ignored."""
    written = conf is not None and (
        accepted.env_file(conf) != "disabled" or not accepted.ignores_config(conf)
    )
    if trust.is_private(entry.pw_gid, entry.pw_uid) or not written:
        return GROUP.ok("primary-group", "no other user can read the environment files that Slurm writes")
    return GROUP.warning(
        "primary-group",
        f"group {entry.pw_gid} is the primary one of others too: its members can read the environment of"
        " this user's tasks, with every token in it, in Slurm's spool directory while they run",
        "give each user their own primary group (USERGROUPS_ENAB in login.defs); until then keep"
        " secrets out of jobs' environments, in files of mode 0600",
    )
