"""Namespaces of the process's own, for trials in a process that ends afterwards."""

import ctypes
import os

NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000  # sched.h
PRIVATE = (1 << 14) | (1 << 18)  # MS_REC | MS_PRIVATE, sys/mount.h
DUMPABLE = 4  # PR_SET_DUMPABLE, linux/prctl.h


def be_dumpable() -> None:
    """For a process that was root a moment ago: else its own files in /proc stay root's, and it cannot
    map its own ids. Raises OSError."""
    called("prctl", DUMPABLE, 1, 0, 0, 0)


def enter() -> None:
    """Goes on in a user and a mount namespace of its own, as root of these. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    called("unshare", NEW_USER | NEW_MOUNTS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    mount("none", "/", "", PRIVATE)


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2). Raises OSError."""
    texts = [text.encode() or None for text in (source, target, kind, options)]
    called("mount", *texts[:3], ctypes.c_ulong(flags), texts[3])


def called(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
