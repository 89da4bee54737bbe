"""Writing the catalog: the readable text and the compiled twin, each replaced as a whole."""

import json
import marshal
import os
import tempfile

from slurm_oci import catalog
from slurm_oci.node import probe_all
from slurm_oci.plugins import Gathered, gather
from slurm_oci.problems import Problem


class CatalogUnwritable(Problem):
    """The catalog cannot be written into the installation."""

    area = "site"


def write(prefix: str) -> Gathered:
    """Asks the plugins and writes the catalog of the installation in `prefix`.

    Raises SiteInvalid, CatalogUnwritable.
    """
    gathered = gather(prefix)
    content = gathered.catalog(probe_all(gathered))
    try:
        replace(catalog.twin(prefix), marshal.dumps(content))
        replace(os.path.join(prefix, catalog.TEXT), json.dumps(content, indent=2).encode() + b"\n")
    except OSError as error:
        raise CatalogUnwritable(
            f"cannot write the catalog into `{prefix}`: {error.strerror}",
            "run it as the owner of the installation; `--prefix` says which one is meant",
        ) from None
    return gathered


def replace(path: str, content: bytes) -> None:
    """Writes a file as a whole or not at all. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=os.path.dirname(path), prefix=os.path.basename(path) + ".")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
