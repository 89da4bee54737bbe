"""Starts many tasks through the entry point, as slurmstepd starts them, and tells what arrived.

Run inside a root, as the job's user, by `test_arguments.py`. It reads a JSON list of cases on stdin
and writes the list of outcomes on stdout; texts are Latin-1, so that each character is a byte.

A case: `image`, `command` (words after the program that tells), `env` (the job's variables), `cwd`.
An outcome: `status`, `error` (stderr), and where the command ran, `argv`, `env`, `cwd` as the
process in the container has them, and `files` (below the places named in `look`).
"""

import json
import os
import subprocess
import sys
import tempfile

END = b"\0--\0"
# Of the shell that is started: what the kernel gave it (proc(5)), not what it makes of that.
TELL = """
cat /proc/$$/cmdline; printf '\\000--\\000'
cat /proc/$$/environ; printf '\\000--\\000'
readlink -n /proc/$$/cwd; printf '\\000--\\000'
for place in "$@"; do cat "$place" 2>/dev/null; done
"""


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
    words += ["/bin/sh", "-c", TELL, "sh", *case.get("command", ())]
    done = subprocess.run(
        [word.encode("latin-1") for word in ["/opt/slurm-oci/run", *words]],
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        cwd=case.get("cwd", "/").encode("latin-1"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    told = {"status": done.returncode, "error": done.stderr.decode("latin-1")}
    argv, *rest = done.stdout.split(END)
    if len(rest) != 3:
        return told | {"out": done.stdout.decode("latin-1")}
    environ = (entry.partition("=") for entry in rest[0].decode("latin-1").split("\0") if entry)
    return told | {
        "argv": argv.decode("latin-1").split("\0")[4:],
        "env": {name: value for name, _, value in environ},
        "cwd": rest[1].decode("latin-1"),
        "files": rest[2].decode("latin-1"),
    }


if __name__ == "__main__":
    main()
