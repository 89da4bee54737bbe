"""One value of slurm.conf(5), for tasks. `slurm_oci.conf` reads all of a file and needs more for it."""

import os

DEEPEST = 20  # of files that include files, as in `slurm_oci.conf`


def value(path: str, key: str, depth: int = 0) -> str:
    """The last value of `key` that Slurm sees in the file at `path` and what it includes; empty where
    there is none, or no such file."""
    found, wanted = "", os.fsencode(key.lower())
    try:
        with open(path, "rb", 0) as file:
            lines = file.read().splitlines()
    except OSError:
        return found
    for line in lines:
        start = line[:7].lower()
        if start == b"include" and line[7:8].isspace() and depth < DEEPEST:
            named = os.fsdecode(line[7:].split(None, 1)[0]) if line[7:].strip() else ""
            found = value(os.path.join(os.path.dirname(path), named), key, depth + 1) or found
        elif b"=" in line and wanted in line.lower():
            name, _, text = line.partition(b"#")[0].partition(b"=")
            if name.strip().lower() == wanted:
                found = os.fsdecode(text.strip().strip(b'"'))
    return found
