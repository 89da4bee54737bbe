"""Starts many tasks through the entry point, as slurmstepd starts them, and tells what arrived.

Run inside a root, as the job's user, by `test_arguments.py`. It reads a JSON list of cases on stdin
and writes the list of outcomes on stdout; texts are Latin-1, so that each character is a byte.

A case: `image`, `command` (the words after the program that tells), `env` (the job's variables),
`cwd`, and `look`, files in the container to read. An outcome: `status`, `error` (stderr), and where
the command ran, `argv`, `env` and `cwd` as the process in the container has them, and the `files`.
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
/bin/readlink -n /proc/$$/cwd; printf '{MARK}'
n=$1; shift
while [ $n -gt 0 ]; do /bin/cat "$1"; shift; n=$((n - 1)); done
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
    places = case.get("look", [])
    words += ["/bin/sh", "-c", TELL, "sh", str(len(places)), *places, *case.get("command", ())]
    done = subprocess.run(
        [word.encode("latin-1") for word in ["/opt/slurm-oci/run", *words]],
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        cwd=case.get("cwd", "/").encode("latin-1"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    out = done.stdout.decode("latin-1")
    told = {"status": done.returncode, "error": done.stderr.decode("latin-1")}
    parts = out.split(MARK.replace("\\000", "\0"))
    if len(parts) != 4:
        return told
    environ = (entry.partition("=") for entry in parts[1].split("\0") if entry)
    return told | {
        "argv": parts[0].split("\0")[5 + len(places) : -1],
        "env": {name: value for name, _, value in environ},
        "cwd": parts[2],
        "files": parts[3],
    }


if __name__ == "__main__":
    main()
