"""Which runtime runs an image: `slurm_oci.choose`."""

import os

import pytest
from conftest import job, make_stand_in, request

from slurm_oci.choose import STANDARD_PATH, find_executable, folders, ways
from slurm_oci.problems import ImageRefused, PullRefused, RuntimeMissing, RuntimeNone, RuntimeUnknown
from slurm_oci.values import Image, Settings

ROOTFS = Image("/image", "rootfs", "/image", "/image")
SIF = Image("/image.sif", "sif", "/image.sif")


class Node:
    """A node with programs in one directory, and runtimes in an order."""

    def __init__(self, folder):
        self.folder = folder
        self.runtimes = {}
        self.site = {
            "executables": {},
            "allow_runtimes": [],
            "refuse_runtimes": [],
            "pull": False,
        }
        self.trace = []

    def runtime(self, name, *accepts, needs=(), there=True, fetches=True):
        self.runtimes[name] = {"accepts": list(accepts), "executables": list(needs), "fetches": fetches}
        for program in needs if there else ():
            make_stand_in(self.folder / program)

    def choose(self, image=ROOTFS, env=None, cwd="/", **wished):
        origins = {name: f"SLURM_OCI_{name.upper()}" for name in wished}
        candidates = [
            (name, entry["executables"], None)
            for name, entry in self.runtimes.items()
            if image.kind in entry["accepts"]
        ]
        catalog = {
            "runtimes": self.runtimes,
            "order": list(self.runtimes),
            "candidates": {image.kind: candidates},
            "site": self.site,
        }
        wanted = Settings(**wished, origins=origins)
        told = job({"PATH": "/nowhere", **(env or {})}, cwd=cwd)
        self.trace.clear()
        way = next(ways(request(), told, image, wanted, catalog, self.trace, str(self.folder)))
        return way.runtime, way.executables


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def test_the_first_that_takes_the_image_and_is_there_runs_it(node):
    """The order is gone through; each runtime passed over for its programs leaves a line."""
    node.runtime("sifs", "sif", needs=["sifs"])
    node.runtime("absent", "rootfs", needs=["helper", "absent"], there=False)
    node.runtime("good", "oci-bundle", "rootfs", needs=["good", "good-helper"])
    node.runtime("later", "rootfs")
    programs = {"good": f"{node.folder}/good", "good-helper": f"{node.folder}/good-helper"}
    assert node.choose() == ("good", programs)
    assert node.trace == [
        ("runtime", "not absent", "`helper` is not on this node"),
        ("runtime", "good", "the first in the site's order that takes rootfs"),
    ]


def test_where_none_fits_each_is_listed_with_its_reason(node):
    """The user sees every runtime and why it was passed over."""
    node.runtime("dirs", "rootfs")
    node.runtime("sifs", "sif", needs=["sifs"], there=False)
    with pytest.raises(RuntimeNone) as caught:
        node.choose(SIF)
    assert (caught.value.status, caught.value.lines()) == (
        127,
        [
            "slurm-oci: error: no container runtime on this node takes `/image.sif`, of kind sif [runtime-none]",
            "  unpacked, as a directory or a bundle, it runs anywhere; or ask the site for a runtime that takes it",
            "  sifs: `sifs` is not on this node",
            "  dirs: no images of kind sif",
        ],
    )


def test_a_runtime_asked_for_by_name_is_used_whatever_the_order(node):
    """Named means named: the trace says who asked."""
    node.runtime("first", "rootfs")
    node.runtime("second", "rootfs")
    assert node.choose(runtime="second") == ("second", {})
    assert node.trace == [("runtime", "second", "asked for by SLURM_OCI_RUNTIME")]


def test_a_runtime_asked_for_and_not_known_is_refused(node):
    """Never replaced by another one; the nearest name is offered."""
    node.runtime("apptainer", "rootfs")
    with pytest.raises(RuntimeUnknown) as caught:
        node.choose(runtime="aptainer")
    assert (caught.value.status, caught.value.lines()) == (
        127,
        [
            "slurm-oci: error: no container runtime is called `aptainer` (from SLURM_OCI_RUNTIME)"
            " [runtime-unknown]",
            "  did you mean `apptainer`? `slurm-oci-plugins list` shows what this node has",
        ],
    )


def test_a_name_in_capitals_is_near_to_itself(node):
    """As `Crun` is to `crun`, and not to `runc`."""
    node.runtime("runc", "oci-bundle")
    node.runtime("crun", "oci-bundle")
    with pytest.raises(RuntimeUnknown) as caught:
        node.choose(runtime="Crun")
    assert caught.value.hints[0].startswith("did you mean `crun`?")


def test_a_runtime_asked_for_that_does_not_take_the_image_is_refused(node):
    """The runtimes that would are named."""
    node.runtime("dirs", "rootfs", "oci-bundle")
    node.runtime("sifs", "sif")
    with pytest.raises(ImageRefused) as caught:
        node.choose(SIF, runtime="dirs")
    assert (caught.value.status, caught.value.lines()) == (
        125,
        [
            "slurm-oci: error: `dirs` (from SLURM_OCI_RUNTIME) does not take `/image.sif`, which is of kind"
            " sif: it takes rootfs, oci-bundle [image-refused]",
            "  runtimes that take it: sifs; where none is asked for, the site's order decides",
        ],
    )


def test_a_runtime_asked_for_that_is_not_on_the_node_is_refused(node):
    """The error says where its program was looked for, each place once."""
    node.runtime("dirs", "rootfs", needs=["dirs"], there=False)
    node.runtime("other", "rootfs")
    with pytest.raises(RuntimeMissing) as caught:
        node.choose(runtime="dirs", env={"PATH": f"/job/bin:relative:{node.folder}"})
    assert (caught.value.status, caught.value.lines()) == (
        127,
        [
            "slurm-oci: error: `dirs` (from SLURM_OCI_RUNTIME) needs `dirs`, which is not on this node"
            " [runtime-missing]",
            f"  looked in {node.folder}, /job/bin, {', '.join(STANDARD_PATH.split(':'))}",
            "  a site names another place in site.toml: [executables] dirs = '/path/to/dirs'",
        ],
    )


def test_a_runtime_that_is_not_where_site_toml_has_it_is_refused_by_that_path(node):
    """It was not looked for elsewhere; what is to be changed is the site's own line."""
    node.runtime("dirs", "rootfs", needs=["dirs"])
    node.site["executables"] = {"dirs": "/no/where/dirs"}
    with pytest.raises(RuntimeMissing) as caught:
        node.choose(runtime="dirs")
    assert caught.value.lines() == [
        "slurm-oci: error: `dirs` (from SLURM_OCI_RUNTIME) is started by `/no/where/dirs`, which is no"
        " program on this node [runtime-missing]",
        "  the site: install it, or name another in site.toml: [executables] dirs",
    ]
    node.runtime("other", "rootfs")
    assert node.choose() == ("other", {})
    assert node.trace[0] == ("runtime", "not dirs", "`/no/where/dirs` is not on this node")


def test_a_program_is_where_the_site_says_and_nowhere_else(tmp_path):
    """[executables] in site.toml is not a hint: what is not there is not looked for elsewhere."""
    make_stand_in(tmp_path / "tool")
    places = (str(tmp_path),)
    assert find_executable("tool", {}, places) == f"{tmp_path}/tool"
    assert find_executable("tool", {"tool": "/bin/sh"}, places) == "/bin/sh"
    assert find_executable("tool", {"tool": "/no/where/tool"}, places) == ""


def test_places_are_tried_in_order_and_need_a_program(tmp_path):
    """A directory or a file that is not executable is no program."""
    for name in ("folder", "plain", "good"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder/tool").mkdir()
    (tmp_path / "plain/tool").write_text("")
    make_stand_in(tmp_path / "good/tool")
    places = (f"{tmp_path}/folder:{tmp_path}/plain", f"{tmp_path}/good")
    assert find_executable("tool", {}, places) == f"{tmp_path}/good/tool"


def test_the_working_directory_never_decides_which_program_is_started(tmp_path, monkeypatch):
    """Relative and empty parts of a PATH are passed over, as a job can write there."""
    make_stand_in(tmp_path / "tool")
    monkeypatch.chdir(tmp_path)
    assert find_executable("tool", {}, ("", ".", ":", "bin:./")) == ""
    assert folders(("/a:b:/c", "", "/c:/d:" + os.curdir)) == ["/a", "/c", "/d"]


REFERENCE = Image("docker://alpine:3", "reference")


def test_without_leave_to_pull_only_a_runtime_that_has_the_image_is_taken(node):
    """Whether by the site's order or by name; the others would fetch it."""
    node.runtime("fetching", "reference")
    node.runtime("having", "reference", fetches=False)
    assert node.choose(REFERENCE)[0] == "having"
    assert (
        "runtime",
        "not fetching",
        "would fetch it from a registry, which this site does not allow",
    ) in node.trace
    assert node.choose(REFERENCE, runtime="having")[0] == "having"
    with pytest.raises(PullRefused) as caught:
        node.choose(REFERENCE, runtime="fetching")
    assert "`apptainer pull alpine.sif docker://alpine:3`" in caught.value.hints[0]


@pytest.mark.parametrize(
    ("name", "programs", "file"),
    [
        ("docker://nvcr.io/x/alpine:3", ["apptainer", "enroot", "skopeo"], "alpine.sif"),
        ("library://x/alpine", ["apptainer"], "alpine.sif"),
        ("dockerd://alpine", ["enroot"], "alpine.sqsh"),
    ],
)
def test_how_to_fetch_an_image_is_told_of_the_programs_that_can(node, name, programs, file):
    """A registry that a program does not know it cannot fetch from; enroot has a sign after the host."""
    node.runtime("fetching", "reference")
    with pytest.raises(PullRefused) as caught:
        node.choose(Image(name, "reference"))
    hint = caught.value.hints[0]
    assert [command.split()[0] for command in hint.split("`")[1:-2:2]] == programs
    assert hint.endswith(f"name that: `--container=$PWD/{file}`")
    assert ("docker://nvcr.io#x/alpine:3`" in hint) == (name == "docker://nvcr.io/x/alpine:3")


@pytest.mark.parametrize(
    ("name", "meant"), [("dokcer://ubuntu", "docker://ubuntu"), ("https://x.org/i.sif", "")]
)
def test_a_scheme_that_nothing_knows_is_told_the_nearest(node, name, meant):
    """And no command that would fail with it."""
    with pytest.raises(PullRefused) as caught:
        node.choose(Image(name, "reference"))
    *hints, known = caught.value.hints
    assert hints == ([f"did you mean `{meant}`?"] if meant else [])
    assert known.startswith("known are `docker://`, `oras://`, `library://`")


def test_a_directory_is_not_told_to_be_unpacked(node, tmp_path):
    """It is, where the site refuses what takes directories."""
    node.runtime("bundles", "oci-bundle")
    with pytest.raises(RuntimeNone) as caught:
        node.choose(Image(str(tmp_path), "rootfs", str(tmp_path)))
    assert "unpacked" not in caught.value.hints[0]


def test_a_word_that_no_store_is_for_is_told_how_a_registry_and_a_file_are_written(node, tmp_path):
    """`ubuntu:24.04` is what people try first; and a misspelt file looks like a word too."""
    node.runtime("dirs", "rootfs")
    (tmp_path / "tools.sqsh").write_text("")
    with pytest.raises(RuntimeNone) as caught:
        node.choose(Image("tool.sqs", "name"), cwd=str(tmp_path))
    assert caught.value.lines()[1:] == [
        "  an image in a registry is written `docker://tool.sqs`, a file or a directory by its path: `./tool.sqs`",
        f"  did you mean `{tmp_path}/tools.sqsh`?",
        "  dirs: no images of kind name",
    ]
