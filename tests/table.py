"""What tests have seen, kept in a file of docs/ from which `docs/generate.py` makes a table.

SLURM_OCI_UPDATE=1 writes what was found; else it must be what stands there.
"""

import json
import os
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
UPDATE = os.environ.get("SLURM_OCI_UPDATE") == "1"


def compare(name, part, found, **facts):
    """`found`, a dictionary, with what docs/NAME.json says under the names in `part`.

    `facts` are written, and not compared: they stand beside the first name's entries.
    """
    path = DOCS / f"{name}.json"
    table = json.loads(path.read_text()) if path.exists() else {}
    place = table
    for key in part[:-1]:
        place = place.setdefault(key, {})
    if UPDATE:
        table[part[0]] |= facts
        place[part[-1]] = found
        path.write_text(json.dumps(table, indent=1) + "\n")
    assert found == place.get(part[-1]), f"SLURM_OCI_UPDATE=1 writes docs/{name}.json anew"
