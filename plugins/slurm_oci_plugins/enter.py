"""Carries out the operations that `unshare.py` has planned, in new namespaces, and becomes the
command. A program of its own: python3 enter.py OPERATION WORD… start WORKDIR COMMAND…

    image MODE SOURCE    SOURCE as the root: read-only (`no`), under a layer in memory (`tmp`) or
                         as it is (`yes`)
    tmpfs TARGET         an empty directory in memory over what is there
    own PATH             what the image has at PATH, brought back into such a directory
    folder PATH          made there; likewise `file PATH`
    link TEXT PATH       a symbolic link made there
    bind SOURCE TARGET   the host's SOURCE, with all that is mounted below, at TARGET
    readonly TARGET      the mount at TARGET
    variable NAME VALUE  set for the command alone
    unset NAME           likewise

Targets are paths in the container without symbolic links. The user keeps his uid and gid; he has
the rights to mount only until the command starts (user_namespaces(7)).
"""

import _signal as signals
import ctypes
import os
import sys

NEW_USER, NEW_NAMESPACE = 0x10000000, 0x00020000  # sched.h
READONLY, REMOUNT, BIND, RECURSIVE, SLAVE = 1, 32, 4096, 16384, 1 << 19  # sys/mount.h
DETACH = 2
RELATIME, RELATIME_SEEN = 1 << 21, 4096  # the one flag that statvfs(3) and mount(2) write differently
KEPT = 2 | 4 | 8 | 1024 | 2048  # nosuid, nodev, noexec, noatime, nodiratime: locked, must be repeated
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "ppc64le": 203, "s390x": 217, "riscv64": 41}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

libc = ctypes.CDLL(None, use_errno=True)


def main(words: list[str]) -> None:
    # Mounted over, in this namespace alone: a directory that is surely there, and whose content
    # nobody needs any more.
    base = os.path.dirname(os.path.abspath(__file__))
    umask = os.umask(0o022)  # the job's may close what is made here even to its user
    separate()
    mount("tmpfs", base, "tmpfs", 0, "mode=0755")
    root, image = base + "/root", base + "/image"
    for folder in (root, image):
        os.mkdir(folder)
    env = dict(os.environ)
    while words[0] != "start":
        operation, words = words[0], words[1:]
        if operation in ("image", "link", "bind", "variable"):
            first, second, words = words[0], words[1], words[2:]
        else:
            first, words = words[0], words[1:]
        if operation == "image":
            lay(first, second, base)
            mount(image, root, "", BIND | RECURSIVE)
        elif operation == "tmpfs":
            mount("tmpfs", below(root, first), "tmpfs", 0, "mode=0755")
        elif operation == "own":
            make_place(root + first, os.path.isdir(image + first))
            mount(image + first, root + first, "", BIND | RECURSIVE)
        elif operation in ("folder", "file"):
            make_place(root + first, operation == "folder")
        elif operation == "link":
            os.symlink(first, root + second)
        elif operation == "bind":
            mount(first, below(root, second), "", BIND | RECURSIVE)
        elif operation == "readonly":
            freeze(below(root, first))
        elif operation == "variable":
            env[first] = second
        elif operation == "unset":
            env.pop(first, None)
        else:
            fail(125, f"unknown operation `{operation}`")
    enter(root)
    os.umask(umask)
    become(words[1], words[2:], env)


def separate() -> None:
    """New user and mount namespaces in which the user is himself and may mount."""
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(NEW_USER | NEW_NAMESPACE):
        fail(
            126,
            f"the kernel refuses a new user namespace: {os.strerror(ctypes.get_errno())}",
            "the site: see user.max_user_namespaces, kernel.unprivileged_userns_clone and"
            " kernel.apparmor_restrict_unprivileged_userns (sysctl)",
        )
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "wb", 0) as file:
            file.write(text.encode())
    mount("", "/", "", SLAVE | RECURSIVE)


def below(root: str, target: str) -> str:
    return root if target == "/" else root + target


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    words = [os.fsencode(word) for word in (source, target, kind, data)]
    if libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]):
        error = os.strerror(ctypes.get_errno())
        fail(126, f"cannot mount `{source}` at `{target}`: {error}")


def freeze(target: str) -> None:
    """Makes the mount at `target` read-only, with the flags that the user may not take away."""
    flags = os.statvfs(target).f_flag
    kept = flags & KEPT | (RELATIME if flags & RELATIME_SEEN else 0)
    mount("", target, "", REMOUNT | BIND | READONLY | kept)


def lay(mode: str, source: str, base: str) -> None:
    """The image itself, at a place of its own: binds made from it later are as writable as it."""
    image = base + "/image"
    if mode != "tmp":
        mount(source, image, "", BIND | RECURSIVE)
        if mode == "no":
            freeze(image)
        return
    for folder in ("lower", "upper", "work"):
        os.mkdir(f"{base}/{folder}")
    # Bound to a name of ours first: the options of overlay have no place for `:` and `,`.
    mount(source, base + "/lower", "", BIND | RECURSIVE)
    os.chdir(base)
    mount("overlay", image, "overlay", 0, "userxattr,lowerdir=lower,upperdir=upper,workdir=work")


def make_place(path: str, is_folder: bool) -> None:
    if os.path.lexists(path):
        return
    if is_folder:
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))


def enter(root: str) -> None:
    """Makes `root` the root directory and lets go of the host's (pivot_root(2), NOTES)."""
    os.chdir(root)
    if libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b".") or libc.umount2(b".", DETACH):
        fail(126, f"cannot enter the image: {os.strerror(ctypes.get_errno())}")
    os.chdir("/")


def become(workdir: str, command: list[str], env: dict[str, str]) -> None:
    for number in (signals.SIGPIPE, signals.SIGXFSZ):  # Python ignores them, and exec hands that on
        signals.signal(number, signals.SIG_DFL)
    try:
        os.chdir(workdir)
    except OSError as error:
        fail(125, f"cannot start in `{workdir}` in the container: {error.strerror}")
    # Not os.execvpe: it imports a module, and this Python's own are no longer there.
    program = command[0]
    folders = [""] if "/" in program else env.get("PATH", "").split(":")
    found: OSError | None = None
    for folder in folders:
        try:
            os.execve(os.path.join(folder, program), command, env)
        except (FileNotFoundError, NotADirectoryError) as error:
            found = found or error
        except OSError as error:
            found = error if found is None or isinstance(found, FileNotFoundError) else found
    if found is None or isinstance(found, (FileNotFoundError, NotADirectoryError)):
        fail(
            127,
            f"the image has no `{program}`, or not the interpreter in its first line",
            f"a name is looked up in the container's PATH: {env.get('PATH', '')}",
        )
    fail(
        126,
        f"cannot start `{program}` in the image: {found.strerror}",
        "it must be executable, and a program for this node's kind of machine or a script with `#!`",
    )


def fail(status: int, message: str, *hints: str) -> "NoReturn":
    code = {125: "setting-refused", 126: "runtime-failed", 127: "command-missing"}[status]
    hints = hints or ("another runtime may: `slurm-oci-plugins list` shows what this node has",)
    shown = ("".join(c if c.isprintable() else escaped(c) for c in text) for text in (message, *hints))
    first, *rest = shown
    lines = "\n  ".join([f"slurm-oci: error: {first} [{code}]", *rest])
    sys.stderr.buffer.write(os.fsencode(lines) + b"\n")
    sys.exit(status)


def escaped(sign: str) -> str:
    """As `slurm_oci.problems` writes it, which cannot be reached from here."""
    return ascii(sign)[1:-1].replace("\\udc", "\\x")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as problem:
        fail(126, f"cannot prepare the image: {problem.strerror}: `{problem.filename}`")
