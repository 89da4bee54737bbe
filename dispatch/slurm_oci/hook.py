"""The user's own script `~/.slurm-oci-run`: whether there is one, and whether it may be run.

Looked for by every task: two file-system calls where there is none, six where there is one.
"""

import errno
import os
import stat

from slurm_oci import problems
from slurm_oci.problems import Problem
from slurm_oci.values import Request, Value

NAME = ".slurm-oci-run"
BASH = "/bin/bash"

# Errors that tell about this process and nothing about the home.
OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Hook(Value):
    """A script that is run in place of everything else."""

    path: str  # in the home, links not resolved, so that `$0` is what its author expects
    interpreter: tuple[str, ...] = ()  # bash, for a script that does not name one itself

    def argv(self, request: Request) -> tuple[str, ...]:
        """The command that calls it; `argv[0]` is what to execute."""
        return (*self.interpreter, self.path, *request.words())


class Judgement(Value):
    """What `~/.slurm-oci-run` is. Without a hook and without findings, there is none."""

    hook: Hook | None = None
    findings: tuple[Problem, ...] = ()  # why it must not be run, each with its cure
    warning: str = ""  # why the home could not be looked into: dispatch goes on without a hook


def find(home: str, uid: int) -> Judgement:
    """The hook in `home` (the passwd entry's) for `uid`, the process's own effective user.

    Raises HookUnsafe with the first of the findings and the cures of all.
    """
    judgement = judge(home, uid)
    if judgement.findings:
        cures = [hint for finding in judgement.findings for hint in finding.hints]
        without = "to go without it, set `SLURM_OCI_USER_HOOK=no` in the job's environment"
        raise problems.HookUnsafe(judgement.findings[0].message, *dict.fromkeys(cures), without)
    return judgement


def judge(home: str, uid: int) -> Judgement:
    """Like `find`, but gives what is wrong as findings and raises nothing.

    Safe is a regular executable file of the user's or root's, where neither it nor its directory
    can be written by anybody else; of a symbolic link, each link's directory is judged too.
    """
    if not home.startswith("/"):
        return Judgement(warning=f"going on without ~/{NAME}: the home `{home}` is no absolute path")
    path = f"{home.rstrip('/')}/{NAME}"
    steps = [path]
    try:
        descriptor = follow(steps)
    except OSError as error:
        return not_opened(home, steps, error)
    try:
        status = os.fstat(descriptor)
        head = first_bytes(descriptor, status)
    finally:
        os.close(descriptor)
    findings = (*judge_file(steps, status, head, uid), *judge_directories(steps, uid))
    if findings:
        return Judgement(findings=findings)
    return Judgement(Hook(path, (BASH,) if is_for_bash(head) else ()))


def follow(steps: list[str]) -> int:
    """Open the last of `steps`; while that is a symbolic link, append where it leads."""
    while True:
        try:
            return opened(steps[-1])
        except OSError as error:
            if error.errno != errno.ELOOP or len(steps) > 40:  # as many links as Linux follows
                raise
        here = steps[-1]
        steps.append(os.path.join(os.path.dirname(here), os.readlink(here)))


def opened(path: str) -> int:
    try:  # without blocking, since a FIFO would keep us until somebody writes to it
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            raise
    # A program may be executable without being readable; a socket cannot be opened otherwise.
    return os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)


def first_bytes(descriptor: int, status: os.stat_result) -> bytes | None:
    """The beginning of a file; None where it cannot be read."""
    if not stat.S_ISREG(status.st_mode):
        return None
    try:
        return os.pread(descriptor, 128, 0)
    except OSError:
        return None


def is_for_bash(head: bytes | None) -> bool:
    """True for text without `#!`, which the kernel refuses and bash takes for a bash script.

    A zero byte in the first line makes it a program: bash's own rule (check_binary_file).
    """
    return head is not None and head[:2] != b"#!" and b"\0" not in head.partition(b"\n")[0]


def not_opened(home: str, steps: list[str], error: OSError) -> Judgement:
    path, last = steps[0], steps[-1]
    if error.errno in OURS:
        return Judgement(
            findings=(
                problems.HookUnsafe(
                    f"`{path}` cannot be judged: {error.strerror}",
                    "try `ls -l` of it on this node; without it for one job: SLURM_OCI_USER_HOOK=no",
                ),
            )
        )
    if len(steps) > 1:
        finding = problems.HookUnsafe(
            f"`{path}` is a symbolic link to `{last}`, which cannot be opened: {error.strerror}",
            f"`rm {quoted(path)}`, or let it point to a script that this node can reach",
        )
        return Judgement(findings=(finding,))
    if error.errno == errno.ENOENT:
        try:
            os.stat(home)
            return Judgement()
        except OSError as no_home:
            error = no_home
    return Judgement(
        warning=f"going on without ~/{NAME}: the home `{home}` cannot be entered: {error.strerror}"
    )


def judge_file(steps: list[str], status: os.stat_result, head: bytes | None, uid: int) -> list[Problem]:
    path, real = steps[0], steps[-1]
    it = f"`{path}`" if real == path else f"`{real}`, to which `{path}` leads,"
    if not stat.S_ISREG(status.st_mode):
        from slurm_oci.image import type_name

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


def not_started(hook: Hook, error: OSError) -> Problem:
    """Why executing `hook` gave `error`. Its status is 127 where the hook has vanished, else 126."""
    what = f"`{hook.path}` could not be started"
    if error.errno == errno.ENOENT and not os.path.exists(hook.path):
        problem = problems.HookFailed(f"{what}: it was there a moment ago and is gone", "submit again")
        problem.status = 127
        return problem
    program = hook.interpreter[0] if hook.interpreter else interpreter_of(hook.path)
    if error.errno == errno.ENOENT and program and not os.path.exists(program):
        cure = "let its first line, `#!…`, name a program that this node has"
        return problems.HookFailed(f"{what}: its interpreter `{program}` is not on this node", cure)
    if error.errno == errno.ENOEXEC:
        cure = "let its first line name its interpreter, as `#!/bin/bash` does"
        return problems.HookFailed(f"{what}: it is no program of this node's kind", cure)
    if error.errno == errno.E2BIG:
        cure = "shorten the command or the job's environment"
        return problems.HookFailed(f"{what}: the command and the environment are too long", cure)
    return problems.HookFailed(f"{what}: {error.strerror}", f"try `{quoted(hook.path)}` on this node")


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
