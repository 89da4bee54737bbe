"""Every setting with each of its values, on the runtimes and kinds of image that no test on a real Slurm
goes through: each told to a program in the runtime's place, which knows the real one's options and no
others. docs/matrix.json holds what was seen; the real ones' part is `tests/real/test_settings.py`'s."""

import importlib
import json
import pkgutil
from pathlib import Path

import pytest
import table
from cells import CELLS, DEFAULTS, refusal
from conftest import Slurm
from readers import READERS, make_image

import slurm_oci_plugins

REAL = json.loads((table.DOCS / "matrix.json").read_text())
MODULES = [
    importlib.import_module(f"slurm_oci_plugins.{found.name}")
    for found in pkgutil.iter_modules(slurm_oci_plugins.__path__)
]
RUNTIMES = {
    runtime.name: runtime
    for module in MODULES
    if hasattr(module, "slurm_oci_runtimes")
    for runtime in module.slurm_oci_runtimes()
}
# Where a runtime has no test on a real Slurm, or none for a kind of image.
PAIRS = [
    (name, kind)
    for name, runtime in RUNTIMES.items()
    for kind in runtime.accepts
    if not any(kind in suite["cells"].get(name, {}) for key, suite in REAL.items() if key != "stand-in")
]
WORKS = 9  # what the programs end with when they have been told nothing that they do not know


# What a node with GPUs has, in a directory of the test's: before the entry point's last lines.
WITH_GPUS = """from slurm_oci import cdi
from slurm_oci_plugins import apptainer
cdi.FOLDERS = ({place!r} + "/cdi",)
apptainer.VENDORS = {{vendor: (option, "/dev/null") for vendor, (option, _) in apptainer.VENDORS.items()}}
"""
LAST = "from slurm_oci.main import run"


def wish(cell: str, place: Path) -> dict[str, str]:
    """The job's variables that ask for it."""
    name, _, value = cell.partition("=")
    granted = {"CUDA_VISIBLE_DEVICES": "0"} if cell in ("gpu=auto", "gpu=none") else {}
    asked = {
        "mounts": f"{place}:/mnt",
        "mounts :ro": f"{place}:/mnt:ro",
        "workdir": "/opt",
        "variables": "",
    }
    setting = f"SLURM_OCI_{name.split()[0].upper()}"
    return {setting: asked.get(cell, value), **granted}


@pytest.mark.parametrize(("name", "kind"), PAIRS, ids=map("-".join, PAIRS))
def test_each_value_of_each_setting_is_told_or_refused_by_name(
    slurm: Slurm, stand_in, prefix, place, name, kind
):
    """As docs/matrix.md says."""
    (program, *_) = RUNTIMES[name].executables
    body = (
        READERS[name]
        if kind != "reference"
        else '[ "$1" = import ] && { : >"$3"; exit 0; }\n' + READERS[name]
    )
    stand_in(program, body, answers="--cwd --mount --no-eval --sharens --preserve-fd ")
    for helper in ("mksquashfs", "nvidia-container-cli", "fuse-overlayfs", "fusermount3"):
        stand_in(helper)
    with (prefix / "site.toml").open("a") as site:
        site.write("pull = true\n")
    run = prefix / "run"
    run.write_text(run.read_text().replace(LAST, WITH_GPUS.format(place=str(place)) + LAST))
    (place / "cdi").mkdir()
    for vendor in ("nvidia", "amd"):
        spec = {"kind": f"{vendor}.com/gpu", "devices": [{"name": "all"}]}
        (place / "cdi" / f"{vendor}.json").write_text(json.dumps(spec))
    image, definition = make_image(kind, place), place / "env.toml"
    definition.write_text(f'image = "{image}"\n[env]\nMINE = "it\'s, mine"\n')
    for path in ("data/x", "slurm/slurm.conf", "munge/socket"):
        (place / path).parent.mkdir()
        (place / path).write_text(f"AuthInfo=socket={place}/munge/socket\n")

    found = {}
    for asked in (DEFAULTS, *((cell,) for cell in CELLS if cell not in DEFAULTS)):
        slurm.job = {"SLURM_OCI_RUNTIME": name, "PATH": f"{place}/bin:/usr/bin:/bin"}
        slurm.job["SLURM_CONF"] = f"{place}/slurm/slurm.conf"
        for cell in asked:
            slurm.job |= wish(cell, place / "data")
        ended = slurm.run(definition if "variables" in asked else image, "/bin/echo", cwd=Path("/"))
        assert ended.status in (WORKS, 125), (asked, ended.out, ended.err)
        told = "stand-in" if ended.status == WORKS else refusal(ended.err, image)
        found |= dict.fromkeys(asked, told)
    found = {cell: found[cell] for cell in CELLS}  # in the order of the matrix
    table.compare("matrix", ("stand-in", "cells", name, kind), found)


def test_every_runtime_has_a_program_in_its_place_or_is_tried_for_real():
    """None is forgotten."""
    assert {name for name, _ in PAIRS} <= set(READERS)
