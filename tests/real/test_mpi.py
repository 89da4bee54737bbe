"""MPI on two nodes of a real Slurm: every rank knows its number, whatever runs its container.

OpenMPI by PMIx where Slurm has it, a program of few lines by PMI2, two and four ranks, on one node and
across two. What comes of it is compared with the table in docs/mpi.md; SLURM_OCI_UPDATE=1 writes what was
found instead, and then `python docs/generate.py` makes the table from it.
"""

import json
import os
import re
from pathlib import Path

import mpi_image
import pytest
from conftest import SUITES, Slurm
from images import IMAGES
from slurm_root import SlurmRoot

PROJECT = Path(__file__).resolve().parent.parent.parent
TABLE = PROJECT / "docs" / "mpi.json"
UPDATE = os.environ.get("SLURM_OCI_UPDATE") == "1"
SIZES = {"2 on 1": (1, 2), "4 on 1": (1, 4), "2 on 2": (2, 1), "4 on 2": (2, 2)}  # ranks: nodes, on each
RANK = re.compile(r"rank (\d+) of (\d+) on (\w+), (0 wrong|beside node[12])")

# By suite: the image of every kind, the shell in it that knows descriptors such as PMI2's, and the ways.
MPI = {
    "rootfs": "/images/mpi/rootfs",
    "oci-bundle": "/images/mpi",
    "squashfs": "/images/mpi.sqsh",
    "sif": "/images/mpi.sif",
}
WAYS = {
    "trixie": (MPI, "/bin/bash"),
    "sid": (IMAGES, "/bin/sh"),
}
PAIRS = [
    ("unshare", "rootfs"),
    ("crun", "oci-bundle"),
    ("runc", "oci-bundle"),
    ("charliecloud", "rootfs"),
    ("charliecloud", "oci-bundle"),
    ("charliecloud", "squashfs"),
    ("podman", "rootfs"),
    ("apptainer", "rootfs"),
    ("apptainer", "squashfs"),
    ("apptainer", "sif"),
]


@pytest.fixture(scope="module", params=SUITES)
def nodes(request):
    """Two nodes with this checkout, and the programs in alice's home."""
    suite = request.param
    layers = [mpi_image.layer(suite)] if suite == "trixie" else []
    with SlurmRoot.start(suite, 2, name=f"mpi-{suite}-{os.getpid()}", layers=layers) as root:
        root.install_project()
        for file in ("docs/mpi/ring.c", "tests/real/pmi2.sh"):
            root.write(f"/home/alice/{Path(file).name}", (PROJECT / file).read_bytes(), user="alice")
        slurm = Slurm(root)
        if layers:
            assert slurm("mpicc", "-o", "ring", "ring.c")[0] == 0
        else:
            assert slurm("cp", "-r", IMAGES["rootfs"], "/home/alice/rootfs")[0] == 0
        yield slurm


@pytest.fixture
def slurm(nodes):
    yield nodes
    nodes.root.cancel_jobs()


def step(slurm, image, size, way, *command, **settings):
    """One step of `size` ranks; (exit status, stdout, stderr). One that hangs ends with 124."""
    count, each = SIZES[size]
    options = (f"-N{count}", f"--ntasks-per-node={each}", f"--mpi={way}")
    words = ("timeout", "-k", "5", "60", "srun", *options, f"--container={image}", *command)
    return slurm(*words, env=settings, timeout=120)


def image_for(slurm, runtime, kind):
    if runtime == "podman" and slurm.root.suite == "sid":
        return "/home/alice/rootfs"  # it must be the user's own
    return WAYS[slurm.root.suite][0][kind]


def verdict(size, status, out, err):
    """`works`, `refused: CODE`, or what went wrong in the words of whoever said so first."""
    count, each = SIZES[size]
    ranks = sorted((int(rank), int(of), node) for rank, of, node, _ in RANK.findall(out.decode()))
    nodes = sorted({node for _, _, node in ranks})  # one of them may still be busy with the step before
    expected = (
        [(n, count * each, nodes[n // each]) for n in range(count * each)] if len(nodes) == count else []
    )
    if (status, ranks) == (0, expected) and ranks:
        return "works"
    if status == 0 and {(rank, of) for rank, of, _ in ranks} == {(0, 1)}:
        return "itself alone"
    lines = sorted((err or out).decode().splitlines(), key=lambda line: "slurm-oci: error" not in line)
    first = next(iter(lines), f"ends with {status}")  # before what srun says of it, in any order
    return f"refused: {first.rpartition('[')[2].rstrip(']')}" if status == 125 else first


@pytest.mark.parametrize(("runtime", "kind"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_every_rank_knows_its_number(slurm, runtime, kind):
    """Or is refused, as docs/mpi.md says; nothing waits for ever, and nothing takes itself for all."""
    suite = slurm.root.suite
    if not slurm.root.has({"unshare": "sh", "charliecloud": "ch-run"}.get(runtime, runtime)):
        pytest.skip(f"{suite} has no package of {runtime}")
    image, shell = image_for(slurm, runtime, kind), WAYS[suite][1]
    ways = {"pmi2": (shell, "pmi2.sh")}
    if suite == "trixie":
        ways["pmix"] = ("./ring",)
    found = {}
    for way, command in ways.items():
        for size in SIZES:
            ended = step(slurm, image, size, way, *command, SLURM_OCI_RUNTIME=runtime)
            found[f"{way}, {size}"] = verdict(size, *ended)
    compare(suite, slurm, f"{runtime}, {kind}", found)


@pytest.mark.parametrize(
    ("runtime", "kind"),
    [("apptainer", "rootfs"), ("apptainer", "sif"), ("charliecloud", "rootfs"), ("charliecloud", "squashfs")],
)
def test_ranks_that_share_their_node_s_container_know_their_numbers(slurm, runtime, kind):
    """SLURM_OCI_SHARE=node, on two nodes, by what this Slurm has."""
    suite = slurm.root.suite
    if not slurm.root.has("ch-run" if runtime == "charliecloud" else runtime):
        pytest.skip(f"{suite} has no package of {runtime}")
    way, command = ("pmix", ("./ring",)) if suite == "trixie" else ("pmi2", (WAYS[suite][1], "pmi2.sh"))
    settings = {"SLURM_OCI_RUNTIME": runtime, "SLURM_OCI_SHARE": "node"}
    ended = step(slurm, image_for(slurm, runtime, kind), "4 on 2", way, *command, **settings)
    assert verdict("4 on 2", *ended) == "works"


def compare(suite, slurm, row, found):
    """`found` with what the docs say in this suite's `row`; or writes it there."""
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    known = table.setdefault(suite, {"slurm": "", "rows": {}})
    if UPDATE:
        known["slurm"] = slurm.root.slurm_version
        known["rows"][row] = found
        TABLE.write_text(json.dumps(table, indent=1) + "\n")
    assert found == known["rows"].get(row), "SLURM_OCI_UPDATE=1 writes docs/mpi.json anew"


@pytest.fixture
def pmix(slurm):
    if slurm.root.suite != "trixie":
        pytest.skip("its Slurm has no PMIx")
    return slurm


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_bundle_whose_command_is_root_gets_no_pmix(pmix, runtime):
    """The ranks would wait for ever: who asked for it is told so, with what to do."""
    image = IMAGES["oci-bundle"]  # as `runc spec --rootless` makes it
    status, out, err = step(pmix, image, "2 on 1", "pmix", "/bin/true", SLURM_OCI_RUNTIME=runtime)
    first, *hints = err.decode().splitlines()
    assert (status, out) == (125, b"")
    assert "it knows the ranks as user 1001:1001" in first
    assert any("srun --mpi=none" in hint for hint in hints)
    assert step(pmix, image, "2 on 1", "none", "/bin/echo", "x", SLURM_OCI_RUNTIME=runtime)[1] == b"x\nx\n"


@pytest.fixture
def offered_to_all(slurm):
    """A site with MpiDefault=pmix, or pmi2 where there is no PMIx, in a file that slurm.conf includes."""
    path, inner = "/etc/slurm/slurm.conf", "/etc/slurm/mpi.conf"
    before = slurm.root.path(path).read_text()
    default = "pmix" if slurm.root.suite == "trixie" else "pmi2"
    slurm.root.write(inner, f"MpiDefault={default}\n")
    slurm.root.write(path, f"{before}Include mpi.conf\n")
    yield
    slurm.root.write(path, before)
    slurm.root.path(inner).unlink()


@pytest.mark.parametrize("runtime", ["unshare", "crun", "runc", "charliecloud"])
def test_a_command_that_has_nothing_to_do_with_mpi_runs_where_mpi_is_offered_to_all(
    slurm, offered_to_all, runtime
):
    """`srun -n8 hostname`: what nobody asked for keeps nothing from running."""
    bundle = f"--container={IMAGES['oci-bundle']}"
    status, out, err = slurm("srun", "-n8", bundle, "/bin/hostname", env={"SLURM_OCI_RUNTIME": runtime})
    assert (status, len(out.splitlines())) == (0, 8)
    warned = slurm.root.suite == "trixie" and runtime in ("crun", "runc")  # once, by the first rank
    assert err.count(b"warning") == warned


@pytest.mark.parametrize("asked", [[], ["--mpi=pmix"]], ids=["MpiDefault", "and asked for"])
def test_an_mpi_program_that_cannot_have_pmix_ends_at_once(pmix, offered_to_all, asked):
    """In runc a user is root, whom PMIx does not know: a program of several ranks fails in MPI_Init, where
    it would wait for ever. A single one needs nobody."""
    ring = ("timeout", "60", "srun", *asked, f"--container={MPI['oci-bundle']}")
    runc = {"SLURM_OCI_RUNTIME": "runc"}
    status, out, err = pmix(*ring, "-N2", "-n4", "./ring", env=runc)
    assert (status not in (0, 124), out.count(b"rank")) == (True, 0)
    assert err.count(b"slurm-oci: warning: PMIx cannot be had: it knows the ranks as user 1001:1001") == 1
    assert b"MPI_Init" in err
    assert pmix(*ring, "-n1", "./ring", env=runc) == (0, b"rank 0 of 1 on node1, 0 wrong\n", b"")


def test_the_job_s_own_environment_profile_counts(pmix):
    """`slurm` is enough for MPI; with `none` each rank is alone, and the first one says so."""
    # OpenMPI does not start without a HOME, which neither profile lets through.
    ring = (pmix, MPI["rootfs"], "2 on 1", "pmix", "/usr/bin/env", "HOME=/tmp", "./ring")
    assert verdict("2 on 1", *step(*ring, SLURM_OCI_RUNTIME="unshare", SLURM_OCI_ENV="slurm")) == "works"
    ended = step(*ring, SLURM_OCI_RUNTIME="unshare", SLURM_OCI_ENV="none")
    assert verdict("2 on 1", *ended) == "itself alone"
    assert ended[2].count(b"SLURM_OCI_ENV is `none`: an MPI program finds no PMIx") == 1
