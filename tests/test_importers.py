"""Which programs make what of an image, and how they are called."""

import json
import os

import pytest
from conftest import job, make_stand_in

from slurm_oci import image, importers, importing
from slurm_oci.problems import ImageBroken, ImportFailed
from slurm_oci.values import Image

PROGRAMS = {name: f"/usr/bin/{name}" for name in ("umoci", "skopeo", "apptainer", "singularity", "enroot")}
UNPACK = [
    "/usr/bin/umoci raw unpack --rootless --image layout:image result/rootfs",
    "/usr/bin/umoci raw runtime-config --rootless --image layout:image --rootfs result/rootfs"
    " result/config.json",
]
COPY = "/usr/bin/skopeo copy --retry-times 2"


def commands(name: str, picture: Image) -> list[str]:
    return [" ".join(argv) for argv in importers.by_name(name).commands(picture, PROGRAMS)]


def archive(name: str, kind: str) -> Image:
    return Image(name, kind, "/images/a.tar")


def test_a_layout_is_unpacked_by_umoci():
    assert commands("umoci", Image("oci:/images/oci:1.0", "oci-layout", "/images/oci")) == UNPACK


@pytest.mark.parametrize(
    ("picture", "source"),
    [
        (Image("docker://alpine:3.20", "reference"), "docker://alpine:3.20"),
        (archive("/images/a.tar", "docker-archive"), "docker-archive:source"),
        (archive("docker-archive:/images/a.tar:x:1", "docker-archive"), "docker-archive:source:x:1"),
        (archive("oci-archive:/images/a.tar:x", "oci-archive"), "oci-archive:source:x"),
    ],
)
def test_what_is_no_layout_becomes_one_first(picture, source):
    """The path is a link's name: a colon in it would begin a tag."""
    assert commands("skopeo+umoci", picture) == [f"{COPY} {source} oci:layout:image", *UNPACK]


@pytest.mark.parametrize("program", ["apptainer", "singularity"])
def test_apptainer_builds_a_sif(program):
    """Of a layout without its tag, which it does not know; there is but one image in it then."""
    layout = Image("oci:/images/oci:1.0", "oci-layout", "/images/oci")
    assert commands(program, layout) == [f"/usr/bin/{program} build result oci:layout"]
    assert commands(program, Image("oras://x/y", "reference")) == [
        f"/usr/bin/{program} build result oras://x/y"
    ]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("docker://alpine", "docker://alpine"),
        ("docker://library/alpine:3", "docker://library/alpine:3"),
        ("docker://ghcr.io/x/y:1", "docker://ghcr.io#x/y:1"),
        ("docker://localhost:5000/x", "docker://localhost:5000#x"),
        ("docker://localhost/x", "docker://localhost#x"),
        ("docker://user@ghcr.io/x", "docker://user@ghcr.io#x"),
        ("docker://me:pw@reg/x", "docker://me:pw@reg/x"),
        ("docker://me@reg:5000#img", "docker://me@reg:5000#img"),
        ("podman://mine", "podman://mine"),
        ("docker://ghcr.io#x/y", "docker://ghcr.io#x/y"),
        ("dockerd://a.b/c", "dockerd://a.b/c"),
    ],
)
def test_enroot_wants_a_sign_after_the_registry(written, told):
    assert commands("enroot", Image(written, "reference")) == [
        f"/usr/bin/enroot import --output result {told}"
    ]


@pytest.mark.parametrize(
    ("name", "takers"),
    [
        ("docker://alpine", ["skopeo+umoci", "apptainer", "singularity", "enroot"]),
        ("oras://x/y", ["apptainer", "singularity"]),
        ("dockerd://x", ["enroot"]),
        ("s3://x", []),
    ],
)
def test_a_reference_is_taken_by_its_scheme(name, takers):
    picture = Image(name, "reference")
    assert [one.name for one in importers.TABLE if importers.takes(one, picture)] == takers


def test_every_importer_makes_a_kind_from_others():
    """And has a name of its own, by which the catalog knows it."""
    names = [one.name for one in importers.TABLE]
    assert len(names) == len(set(names))
    for one in importers.TABLE:
        assert one.gives in image.KINDS
        assert set(one.takes) <= set(image.KINDS) - {one.gives}
        assert bool(one.schemes) == ("reference" in one.takes)


# Layouts


def layout(place, *manifests, **blobs):
    """An OCI layout whose index names `manifests`, with blobs by digest."""
    folder = place / "layout"
    (folder / "blobs/sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
    for digest, content in blobs.items():
        (folder / "blobs/sha256" / digest).write_text(json.dumps(content))
    return str(folder)


def manifest(digest, tag=None, **more):
    named = {"annotations": {"org.opencontainers.image.ref.name": tag}} if tag else {}
    kind = "application/vnd.oci.image.manifest.v1+json"
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": 2, **named, **more}


A, B = manifest("a", "1.0"), manifest("b", "latest")


@pytest.mark.parametrize(
    ("listed", "wanted", "found"),
    [
        ([A, B], "1.0", A),
        ([A, B], "", B),
        ([A], "", A),
        ([manifest("c")], "", manifest("c")),
        ([A, B], "@0", A),
        ([A, B], "@1", B),
    ],
)
def test_an_image_is_found_in_a_layout(tmp_path, listed, wanted, found):
    """By its tag, as the only one, as `latest`, or by its place."""
    assert importing.manifest_of(layout(tmp_path, *listed), wanted) == found


@pytest.mark.parametrize(
    ("listed", "wanted", "words"),
    [
        ([A, B], "2.0", "has no image `2.0`"),
        ([A, manifest("c", "x")], "", "has 2 images and none is called `latest`"),
        ([], "", "has 0 images"),
        ([A], "@1", "has no image `@1`"),
    ],
)
def test_an_image_that_is_not_in_a_layout_is_named(tmp_path, listed, wanted, words):
    with pytest.raises(ImageBroken, match=words):
        importing.manifest_of(layout(tmp_path, *listed), wanted)


@pytest.mark.parametrize(
    "listed",
    [None, "a", {"a": 1}, ["a"], [{"annotations": None}, "a"], [{"annotations": {importing.REF_NAME: 5}}, A]],
)
def test_an_index_that_lists_no_images_is_damaged(tmp_path, listed):
    """Whoever has made it: no mistake of this program's."""
    path = layout(tmp_path)
    (tmp_path / "layout/index.json").write_text(json.dumps({"manifests": listed}))
    with pytest.raises(ImageBroken, match=r"index\.json` has no list of images"):
        importing.manifest_of(path, "")


@pytest.mark.parametrize("digest", [None, 5, "../../../../tmp/x", "sha256:../x"])
def test_a_manifest_has_a_digest(tmp_path, digest):
    """Its name in the cache is made of it."""
    with pytest.raises(ImageBroken, match="names a blob by"):
        importing.manifest_of(layout(tmp_path, {**A, "digest": digest}), "")


def test_an_index_that_is_nested_too_deeply_is_damaged(tmp_path):
    path = layout(tmp_path)
    (tmp_path / "layout/index.json").write_text('{"manifests":' + "[" * 100_000)
    with pytest.raises(ImageBroken, match="is not valid JSON: maximum recursion depth"):
        importing.manifest_of(path, "")


def test_of_an_image_for_several_machines_this_ones_is_taken(tmp_path):
    """An index in the index, as docker buildx writes it."""
    machine = importing.MACHINES.get(os.uname().machine, os.uname().machine)
    right = manifest("right", platform={"os": "linux", "architecture": machine})
    other = manifest("other", platform={"os": "linux", "architecture": "vax"})
    many = {"mediaType": importing.INDEXES[0], "digest": "sha256:many", "size": 2}
    place = layout(tmp_path, many, many={"manifests": [other, right]})
    assert importing.manifest_of(place, "") == right
    (tmp_path / "layout/blobs/sha256/many").write_text(json.dumps({"manifests": [other]}))
    with pytest.raises(ImageBroken, match="has no image for"):
        importing.manifest_of(place, "")


@pytest.mark.parametrize("digest", ["sha256:../../etc", "nothing", "", None, ":", "sha256:"])
def test_a_digest_is_no_path(tmp_path, digest):
    with pytest.raises(ImageBroken, match="names a blob by"):
        importing.blob("/layout", {"digest": digest})


def test_the_view_of_a_layout_has_one_image(tmp_path):
    """With the blobs of the whole."""
    picture = Image(f"oci:{layout(tmp_path, A, B)}:1.0", "oci-layout", f"{tmp_path}/layout")
    importing.view(picture, f"{tmp_path}/view")
    view = tmp_path / "view"
    listed = json.loads((view / "index.json").read_text())["manifests"]
    assert listed == [{**A, "annotations": {"org.opencontainers.image.ref.name": "image"}}]
    assert (view / "blobs").readlink() == tmp_path / "layout/blobs"


# Running them


def umoci():
    return importers.Importer(
        "umoci",
        ("oci-archive",),
        "oci-bundle",
        ("umoci",),
        lambda image, programs: ((programs["umoci"], "x"),),
    )


@pytest.fixture
def made(tmp_path):
    """What an importer whose one program is `body`, in sh, does."""
    work = tmp_path / "work"
    work.mkdir()

    def run(body, **env):
        stand_in = make_stand_in(tmp_path / "umoci", body)
        picture = Image("/images/a:b.tar", "oci-archive", "/images/a:b.tar")
        try:
            return importing.made(umoci(), picture, str(work), {"umoci": str(stand_in.path)}, job(env))
        finally:
            run.calls = stand_in.calls

    return run


def test_programs_start_beside_the_image_and_their_output_is_kept(made, tmp_path, capfd):
    """Nothing of it is the task's own output."""
    assert made("echo out; echo err >&2; readlink source; ls -d result") == f"{tmp_path}/work/result"
    assert (tmp_path / "work/log").read_text() == "out\nerr\n/images/a:b.tar\nresult\n"
    assert capfd.readouterr() == ("", "")
    [call] = made.calls
    assert call.cwd == f"{tmp_path}/work"


def test_a_program_that_fails_is_quoted(made):
    """The last five lines that are none but blanks."""
    with pytest.raises(ImportFailed) as found:
        made("for n in 1 2 3 4 5 6 7; do echo line $n; echo; done; exit 3")
    assert found.value.message == "`/images/a:b.tar` cannot be unpacked: umoci ended with 3"
    assert found.value.hints == tuple(f"line {n}" for n in (3, 4, 5, 6, 7))


def test_programs_get_what_they_need_of_the_job_and_no_more(made, tmp_path):
    """Credentials and proxies; what would change the program itself stays out."""
    made("", REGISTRY_AUTH_FILE="/a", https_proxy="p", LD_PRELOAD="x.so", TMPDIR="/job", PATH="/job/bin")
    [call] = made.calls
    assert call.env["REGISTRY_AUTH_FILE"] == "/a"
    assert call.env["https_proxy"] == "p"
    assert call.env["TMPDIR"] == f"{tmp_path}/work"
    assert "/job" not in call.env["PATH"]
    assert "LD_PRELOAD" not in call.env
    assert call.env["HOME"] == "/home/alice"


def test_no_program_is_left_where_its_work_has_been_taken_away(tmp_path):
    """By a task on another node that has taken this one for dead."""
    program = make_stand_in(tmp_path / "umoci", f"echo $$ >{tmp_path}/pid; exec sleep 60")
    (tmp_path / "work").mkdir()

    def tick():
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise FileNotFoundError(2, "No such file or directory", "beat")

    picture = Image("/images/a.tar", "oci-archive", "/images/a.tar")
    with pytest.raises(FileNotFoundError):
        importing.made(umoci(), picture, f"{tmp_path}/work", {"umoci": str(program.path)}, job(), tick)
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}")


def test_a_signal_ends_the_program_and_is_told(made, tmp_path):
    """The program is waited for."""
    with pytest.raises(importing.Interrupted) as found:
        made("trap 'echo ended; exit 9' TERM; kill -TERM $PPID; while :; do sleep 0.05; done")
    assert found.value.number == 15
    assert (tmp_path / "work/log").read_text() == "ended\n"
