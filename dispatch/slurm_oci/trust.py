"""Whether a script that is there may be run: who but its user could have written it.

And why one that may be run is not started after all.
"""

import errno
import os
import stat

from slurm_oci import job, problems
from slurm_oci.hook import NAME
from slurm_oci.problems import Problem
from slurm_oci.values import Request


def judge_file(steps: list[str], status: os.stat_result, head: bytes | None, uid: int) -> list[Problem]:
    path, real = steps[0], steps[-1]
    it = f"`{path}`" if real == path else f"`{real}`, to which `{path}` leads,"
    if not stat.S_ISREG(status.st_mode):
        from slurm_oci.image_problems import type_name

        what = type_name(status.st_mode)
        aside = f"`mv {quoted(path)} {quoted(path + '.old')}`"
        return [problems.HookUnsafe(f"{it} is {what}, not a program", f"{aside} puts it out of the way")]
    findings = []
    if reason := open_to_others(real, status, uid):
        cure = f"`{mended('go-w', path, real, status, uid)}`, when you have read what it does"
        findings.append(problems.HookUnsafe(f"{it} {reason}", cure))
    if status.st_size == 0:
        cure = f"`rm {quoted(path)}`, or write a script into it"
        findings.append(problems.HookUnsafe(f"{it} is empty", cure))
    elif head and head[:2] == b"#!" and head.partition(b"\n")[0].endswith(b"\r"):
        cure = f"`sed -i 's/\\r$//' {quoted(real)}` makes them this system's"
        findings.append(problems.HookUnsafe(f"{it} has the line ends of Windows, so its `#!` fails", cure))
    if not os.access(real, os.X_OK, effective_ids=True):
        if lies_in_noexec(real):
            reason = "lies in a file system where nothing may be executed (noexec)"
            cure = f"put it elsewhere, then `ln -sf /there/script {quoted(path)}`"
        else:
            reason = f"is not executable (mode {stat.S_IMODE(status.st_mode):04o})"
            cure = f"`{mended('u+x', path, real, status, uid)}`"
        findings.append(problems.HookUnsafe(f"{it} {reason}", cure))
    return findings


def judge_directories(steps: list[str], uid: int) -> list[Problem]:
    findings = []
    for directory in dict.fromkeys(os.path.dirname(step) for step in steps):
        try:
            status = os.stat(directory)
            mine, reason = status.st_uid == uid, open_to_others(directory, status, uid)
        except OSError as error:
            mine, reason = False, f"cannot be judged: {error.strerror}"
        if reason:
            findings.append(unsafe_directory(directory, reason, steps, mine, uid))
    return findings


def unsafe_directory(directory: str, reason: str, steps: list[str], mine: bool, uid: int) -> Problem:
    path, where = steps[0], quoted(directory)
    is_home = directory == os.path.dirname(path)
    it = f"`{directory}` of `{path}`" if is_home else f"`{directory}`, to which `{path}` leads,"
    if mine:
        cure = f"`chmod go-w {where}`"
    elif is_home:
        cure = f"`chown {uid} {where} && chmod go-w {where}` by the administrator"
    else:
        cure = f"`{own_copy(path, steps[-1])}`, when you have read what it does"
    return problems.HookUnsafe(f"the directory {it} {reason}", cure)


def open_to_others(path: str, status: os.stat_result, uid: int) -> str:
    """Who but `uid` and root can write `path`, or nothing."""
    if status.st_uid not in (uid, 0):
        return f"belongs to user {status.st_uid}, neither to you (user {uid}) nor to root"
    mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
    if status.st_mode & stat.S_IWOTH:
        return f"can be written by everybody ({mode})"
    if status.st_mode & stat.S_IWGRP and not (is_private(status.st_gid, uid) and not has_acl(path)):
        return f"can be written by group {status.st_gid} ({mode})"
    return ""


def is_private(gid: int, uid: int) -> bool:
    """True for the user's primary group with the user's name and no other member.

    Sites with umask 002 rely on such groups. Asked only where a group can write.
    """
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    named = user.pw_gid == gid and user.pw_name == group.gr_name
    return named and set(group.gr_mem) <= {user.pw_name}


def has_acl(path: str) -> bool:
    """True where the group's write bit may stand for somebody else's entry (acl(5))."""
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except OSError:
        return False


def lies_in_noexec(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_NOEXEC)
    except OSError:
        return False


def mended(mode: str, path: str, real: str, status: os.stat_result, uid: int) -> str:
    """The command that changes the file's mode, or copies a file that the user cannot change."""
    return f"chmod {mode} {quoted(real)}" if status.st_uid == uid else own_copy(path, real)


def own_copy(path: str, real: str) -> str:
    """The command that makes the hook a file of the user's own."""
    if real != path:
        made = f"cp --remove-destination {quoted(real)} {quoted(path)}"
    else:
        new = quoted(path + ".new")
        made = f"cp {quoted(path)} {new} && mv -f {new} {quoted(path)}"
    return f"{made} && chmod 700 {quoted(path)}"


def refuse_itself(path: str, request: Request) -> None:
    """Raises HookFailed where it is this very hook that calls, and has lost the mark that it was given:
    it would be called again and again."""
    entry = os.fsencode(f"SLURM_OCI_HOOK={job.mark(request)}")
    pid = os.getppid()
    try:
        while pid > 1:
            with open(f"/proc/{pid}/environ", "rb", 0) as file:
                if entry in file.read().split(b"\0"):
                    break
            with open(f"/proc/{pid}/stat", "rb", 0) as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        else:
            return
    except OSError:  # another user's, who is Slurm
        return
    raise problems.HookFailed(
        f"`{path}` calls slurm-oci without SLURM_OCI_HOOK, by which it would be known as the one that calls",
        "let it keep that variable, which `env -i` takes away, or call `slurm-oci-run-default` instead",
    )


def not_started(argv: tuple[str, ...], error: OSError) -> Problem:
    """Why executing a hook's command gave `error`. The status is 127 if the hook has vanished, else 126."""
    path = next(word for word in argv if word.endswith("/" + NAME))
    what = f"`{path}` could not be started"
    if error.errno == errno.ENOENT and not os.path.exists(path):
        problem = problems.HookFailed(f"{what}: it was there a moment ago and is gone", "submit again")
        problem.status = 127
        return problem
    program = interpreter_of(path) if path == argv[0] else argv[0]
    if error.errno == errno.ENOENT and (without := without_interpreter(path, program)):
        return without
    if error.errno == errno.ENOEXEC:
        cure = "let its first line name its interpreter, as `#!/bin/bash` does"
        return problems.HookFailed(f"{what}: it is no program of this node's kind", cure)
    if error.errno == errno.E2BIG:
        cure = "shorten the command or the job's environment"
        return problems.HookFailed(f"{what}: the command and the environment are too long", cure)
    return problems.HookFailed(f"{what}: {error.strerror}", f"try `{quoted(path)}` on this node")


def without_interpreter(path: str, program: str) -> Problem | None:
    """What is wrong if `program`, which is to read the hook, is not there."""
    if not program or os.path.exists(program):
        return None
    return problems.HookFailed(
        f"`{path}` could not be started: its interpreter `{program}` is not on this node",
        "let its first line, `#!…`, name a program that this node has",
    )


def interpreter_of(path: str) -> str:
    try:
        with open(path, "rb") as file:
            line = file.readline(256)
    except OSError:
        return ""
    words = line[2:].split() if line[:2] == b"#!" else []
    return os.fsdecode(words[0]) if words else ""


def quoted(path: str) -> str:
    from shlex import quote

    return quote(path)
