"""Starts many tasks through the entry point, as slurmstepd starts them, and tells what arrived.

Run inside a root, as the job's user, by `test_arguments.py`. It reads a JSON list of cases on stdin
and writes the list of outcomes on stdout; texts are Latin-1, so that each character is a byte.

A case: `image`, `command` (the words after the program that tells), `env` (the job's variables),
`cwd`; with `look`, a path in the container, that file is read instead. An outcome: `status`, `error`
(stderr), and where the command ran, `argv`, `env`, `cwd` as the process in the container has them,
or `file`.
"""

import json
import os
import subprocess
import sys
import tempfile

MARK = "\\0005e0f3c1a9d7b24680\\000"
# Of the shell that is started: what the kernel gave it (proc(5)), not what it makes of that.
TELL = f"""
/bin/cat /proc/$$/cmdline; printf '{MARK}'
/bin/cat /proc/$$/environ; printf '{MARK}'
/bin/readlink -n /proc/$$/cwd
"""
LOOK = '/bin/cat "$1"'


def main() -> None:
    cases = json.load(sys.stdin)
    with tempfile.TemporaryDirectory(prefix="arrival") as spool:
        os.mkdir(f"{spool}/task-0")
        json.dump([outcome(case, spool) for case in cases], sys.stdout)


def outcome(case: dict, spool: str) -> dict:
    env = {"HOME": "/home/alice", "USER": "alice", "PATH": "/usr/bin:/bin", **case.get("env", {})}
    with open(f"{spool}/task-0/environment", "wb") as file:
        file.write(b"".join(f"{name}={value}\0".encode("latin-1") for name, value in env.items()))
    words = [case["image"], spool, "alice", str(os.getuid()), "node1", "42", "0", "0"]
    words += ["/bin/sh", "-c", LOOK, "sh", case["look"]] if "look" in case else ["/bin/sh", "-c", TELL, "sh"]
    words += case.get("command", ())
    done = subprocess.run(
        [word.encode("latin-1") for word in ["/opt/slurm-oci/run", *words]],
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        cwd=case.get("cwd", "/").encode("latin-1"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    out = done.stdout.decode("latin-1")
    told = {"status": done.returncode, "error": done.stderr.decode("latin-1")}
    if "look" in case:
        return told | {"file": out}
    parts = out.split(MARK.replace("\\000", "\0"))
    if len(parts) != 3:
        return told
    environ = (entry.partition("=") for entry in parts[1].split("\0") if entry)
    return told | {
        "argv": parts[0].split("\0")[4:-1],
        "env": {name: value for name, _, value in environ},
        "cwd": parts[2],
    }


if __name__ == "__main__":
    main()
