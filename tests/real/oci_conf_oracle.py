#!/usr/bin/env python3
"""What Slurm's own parser says of oci.conf files. Runs inside a root, with nothing but Python.

    python3 oci_conf_oracle.py FOLDER...

Each FOLDER holds an oci.conf and what it includes. For each a line of JSON: the folder's name, the
`verdict` (`accepted`, `rejected`, or `silent` where Slurm said nothing in time) and what Slurm
printed. Every file is read in a process of its own, because Slurm ends the process at some.
"""

import ctypes
import glob
import json
import locale
import os
import signal
import sys
import tempfile

LIBRARIES = "/usr/lib/*/slurm*/libslurmfull.so"
PATIENCE = 5  # seconds: Slurm retries for a minute where an included file is missing


def main(folders: list[str]) -> None:
    # Without RTLD_DEEPBIND Slurm's error() would be libc's, which ends the process.
    library = ctypes.CDLL(glob.glob(LIBRARIES)[0], mode=os.RTLD_NOW | os.RTLD_DEEPBIND)
    for folder in folders:
        print(json.dumps({"folder": os.path.basename(folder), **ask(library, folder)}), flush=True)


def ask(library: ctypes.CDLL, folder: str) -> dict[str, str]:
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if not child:
            try:
                signal.alarm(PATIENCE)
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                locale.setlocale(locale.LC_ALL, "C")  # as in slurmd, which never sets one
                os.environ["SLURM_CONF"] = os.path.join(folder, "slurm.conf")
                found = ctypes.c_void_p()
                os._exit(3 if library.get_oci_conf(ctypes.byref(found)) else 0)
            finally:
                os._exit(4)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        verdict = {0: "accepted", -signal.SIGALRM: "silent"}.get(status, "rejected")
        return {"verdict": verdict, "said": said.read().decode(errors="replace")}


if __name__ == "__main__":
    main(sys.argv[1:])
