"""What an image is: `slurm_oci.image`."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import slurm_oci
from slurm_oci import image_problems
from slurm_oci.image import KINDS, as_transport, classify, tag
from slurm_oci.problems import ImageBroken, ImageMissing, ImageUnknown, ImageUnreadable, Problem
from slurm_oci.values import Image

OCI = ("blobs/sha256/0", "index.json", "oci-layout")
DOCKER = ("0.json", "0/layer.tar", "manifest.json", "repositories")
DOCKER_25 = ("blobs/sha256/0", "index.json", "manifest.json", "oci-layout")


class Other:
    """Somebody who is not root, and a directory of root's that he can reach."""

    uid = 54321

    def __init__(self, place: Path) -> None:
        self.place = place

    def __call__(self, function, *args, uid=uid, gid=uid):
        """What `function(*args)` returns in a process of that user's."""
        reader, writer = os.pipe()
        if not (child := os.fork()):
            try:
                os.setgroups([])
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
                outcome = function(*args)
            except BaseException as error:  # the parent raises it
                outcome = AssertionError(repr(error))
            with os.fdopen(writer, "wb") as out:
                pickle.dump(outcome, out)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            outcome = pickle.load(answer)
        os.waitpid(child, 0)
        if isinstance(outcome, AssertionError):
            raise outcome
        return outcome


@pytest.fixture
def as_other():
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    place = Path(tempfile.mkdtemp())  # tmp_path lies in a directory that is closed to others
    os.chmod(place, 0o755)
    yield Other(place)
    shutil.rmtree(place)


@pytest.fixture
def system_calls(tmp_path_factory):
    """The file-system calls that a line of Python makes after its imports, by name."""
    trace = tmp_path_factory.mktemp("strace") / "trace"
    strace = ["strace", "-qq", "-o", trace]
    if not shutil.which("strace") or subprocess.run([*strace, "true"], check=False).returncode:
        pytest.skip("strace is missing or may not trace")

    def count(imports: str, line: str) -> list[str]:
        source = str(Path(slurm_oci.__file__).parent.parent)
        code = f"import os, sys; sys.path.insert(0, sys.argv[1]); {imports}\n"
        # The interpreter asks the kernel once whether it knows O_CLOEXEC: before we count.
        code += f"os.close(os.open('/', 0)); os.chdir('/'); {line}; os.chdir('/')"
        subprocess.run([*strace, sys.executable, "-I", "-S", "-c", code, source], check=True)
        lines = trace.read_text().split("chdir(")[1].splitlines()[1:]
        return [name for line in lines if (name := plain_name(line))]

    return count


def plain_name(line: str) -> str:
    """The call in a line of strace's, by the name it has on every machine; nothing for memory's."""
    name = line.partition("(")[0]
    if name == "newfstatat":
        name = "lstat" if "AT_SYMLINK_NOFOLLOW" in line else "fstat" if ', "", ' in line else "stat"
    plain = {"openat": "open", "pread64": "pread", "faccessat": "access", "faccessat2": "access"}
    return "" if name in ("brk", "mmap", "munmap") else plain.get(name, name)


def kind(name, cwd="/"):
    return classify(str(name), str(cwd)).kind


def refused(name, cwd="/") -> Problem:
    with pytest.raises(Problem) as caught:
        classify(str(name), str(cwd))
    return caught.value


def file(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def sif(path: Path) -> Path:
    return file(path, b"#!/usr/bin/env run-singularity\n".ljust(32, b"\0") + b"SIF_MAGIC\0" + bytes(900))


def tar(path: Path, names, mode="w:", prefix="") -> Path:
    with tarfile.open(path, mode) as archive:
        for name in names:
            member = tarfile.TarInfo(prefix + name)
            member.size = 5
            archive.addfile(member, io.BytesIO(b"{...}"))
    return path


# Directories


def test_a_directory_with_config_json_is_a_bundle(tmp_path):
    """A directory with config.json is an oci-bundle, whatever else is in it."""
    file(tmp_path / "b/config.json", b"{}")
    file(tmp_path / "b/oci-layout")
    file(tmp_path / "b/index.json")
    assert classify(f"{tmp_path}/b", "/") == Image(f"{tmp_path}/b", "oci-bundle", f"{tmp_path}/b")


def test_a_config_json_that_is_a_link_to_nothing_still_makes_a_bundle(tmp_path):
    """A broken bundle is not mistaken for a root file system."""
    (tmp_path / "config.json").symlink_to("/no/such/file")
    assert kind(tmp_path) == "oci-bundle"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_config_json_that_is_no_file_is_named(tmp_path, make):
    """A config.json that nobody could read, or that would hang the reader, is refused."""
    make(tmp_path / "config.json")
    problem = refused(tmp_path)
    assert type(problem) is ImageBroken
    assert f"`{tmp_path}/config.json` is a " in problem.message


def test_a_directory_with_both_files_of_a_layout_is_one(tmp_path):
    """A directory with oci-layout and index.json is an oci-layout."""
    file(tmp_path / "oci-layout")
    file(tmp_path / "index.json")
    assert kind(tmp_path) == "oci-layout"


@pytest.mark.parametrize("only", ["oci-layout", "index.json", "bin/sh", "nothing/"])
def test_any_other_directory_is_a_root_file_system(tmp_path, only):
    """A directory with half a layout, a system, or nothing in it is a rootfs."""
    file(tmp_path / only) if only[-1] != "/" else None
    assert kind(tmp_path) == "rootfs"


def test_a_directory_that_cannot_be_listed_but_passed_is_fine(tmp_path, as_other):
    """Mode 0711 is enough, since classifying looks for known names only."""
    os.chmod(as_other.place, 0o711)
    assert as_other(kind, as_other.place) == "rootfs"


# Files


def test_a_sif_is_known_by_its_magic_at_32(tmp_path):
    """Any file with SIF_MAGIC at offset 32 is a sif, even one called .toml."""
    assert kind(sif(tmp_path / "image.toml")) == "sif"
    assert type(refused(file(tmp_path / "x.sif", b"SIF_MAGIC" * 100))) is ImageUnknown


def test_a_squashfs_is_known_by_its_magic(tmp_path):
    """Any file that begins with hsqs is a squashfs."""
    assert kind(file(tmp_path / "image", b"hsqs" + bytes(200))) == "squashfs"


@pytest.mark.skipif(not shutil.which("mksquashfs"), reason="mksquashfs is not installed")
def test_a_real_squashfs_is_one(tmp_path):
    """What mksquashfs writes is a squashfs."""
    file(tmp_path / "root/bin/sh", b"x" * 5000)
    made = tmp_path / "image.sqsh"
    command = ["mksquashfs", tmp_path / "root", made]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert kind(made) == "squashfs"


@pytest.mark.parametrize("content", [b"", b'image = "docker://alpine"\n'])
def test_a_toml_file_is_an_environment(tmp_path, content):
    """A file called .toml that is no image is an environment definition."""
    assert kind(file(tmp_path / "env.toml", content)) == "environment"


# Archives


@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
@pytest.mark.parametrize(
    ("members", "expected"),
    [(OCI, "oci-archive"), (DOCKER, "docker-archive"), (DOCKER_25, "docker-archive")],
)
def test_archives_are_told_apart_by_their_members(tmp_path, members, expected, compression, prefix):
    """manifest.json makes a docker-archive, oci-layout and index.json an oci-archive."""
    made = tar(tmp_path / "image", members, f"w:{compression}", prefix)
    assert kind(made) == expected


@pytest.mark.parametrize("members", [DOCKER_25, (*OCI, "manifest.json")])
def test_an_archive_of_both_kinds_is_what_the_user_says(tmp_path, members):
    """Docker 25 and later save an archive that is an OCI layout as well: both names are right."""
    made = tar(tmp_path / "image.tar", members)
    kinds = {said: kind(f"{said}:{made}") for said in ("oci-archive", "docker-archive")}
    assert kinds == {"oci-archive": "oci-archive", "docker-archive": "docker-archive"}


@pytest.mark.parametrize(("said", "members"), [("oci-archive", DOCKER), ("docker-archive", OCI)])
def test_an_archive_that_is_not_what_the_user_says_is_refused(tmp_path, said, members):
    """The kind that a transport promises is checked against the content."""
    made = tar(tmp_path / "image.tar", members)
    problem = refused(f"{said}:{made}")
    assert type(problem) is ImageBroken
    assert f"should be of kind {said}, but is of kind " in problem.message
    assert f"--container={made}`" in problem.hints[0]


def test_the_rest_of_an_archive_is_not_read_once_its_kind_is_known(tmp_path):
    """What follows the telling member is never read, be it huge or rubbish."""
    made = tar(tmp_path / "image.tar", OCI)
    content = made.read_bytes()[: 6 * 512] + b"rubbish" * 1000
    assert kind(file(tmp_path / "cut.tar", content)) == "oci-archive"


def test_big_members_of_a_plain_archive_are_passed_over(tmp_path):
    """Without compression only headers are read: a sparse terabyte before the manifest is quick."""
    first = tarfile.TarInfo("layer.tar")
    first.size = 1 << 40
    with open(tmp_path / "image.tar", "wb") as out:
        try:
            out.write(first.tobuf(tarfile.GNU_FORMAT))
            out.seek(first.size, os.SEEK_CUR)
            out.write(tar(tmp_path / "end.tar", ["manifest.json"]).read_bytes())
        except OSError as error:
            pytest.skip(f"no sparse file of that size here: {error}")
    assert kind(tmp_path / "image.tar") == "docker-archive"


@pytest.mark.parametrize("compression", ["", "gz"])
def test_an_archive_of_something_else_says_how_it_begins(tmp_path, compression):
    """A packed root file system is no image, and the cure is named."""
    made = tar(tmp_path / "root.tar", ["bin/sh", "etc/passwd"], f"w:{compression}")
    problem = refused(made)
    assert type(problem) is ImageUnknown
    assert "it begins with `bin/sh`" in problem.message
    assert f"tar -C rootfs -xf {made}" in problem.hints[0]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_data_without_a_tar_in_it_is_unknown(tmp_path, compress):
    """Compression alone makes no archive."""
    problem = refused(file(tmp_path / "data", compress(b"no tar" * 1000)))
    assert type(problem) is ImageUnknown
    assert "data with no tar file in it" in problem.message


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
def test_an_archive_cut_short_is_broken(tmp_path, compression):
    """A copy that stopped half-way is named as such."""
    whole = tmp_path / "whole"
    with tarfile.open(whole, f"w:{compression}") as archive:
        for name in ("first", "second", "manifest.json"):
            member = tarfile.TarInfo(name)
            member.size = 1 << 20
            archive.addfile(member, io.BytesIO(os.urandom(1 << 20)))
    content = whole.read_bytes()
    problem = refused(file(tmp_path / "cut", content[: len(content) // 2]))
    assert type(problem) is ImageBroken
    assert "cannot be read to its end" in problem.message


@pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not installed")
def test_zstd_is_read_where_python_can_and_said_to_be_unreadable_where_not(tmp_path):
    """Python reads zstd from 3.14 on; before, the user says what the archive is."""
    made = tar(tmp_path / "image.tar", OCI)
    subprocess.run(["zstd", "-q", made], check=True)
    packed = f"{made}.zst"
    assert kind(f"oci-archive:{packed}") == "oci-archive"
    try:
        import compression.zstd  # noqa: F401
    except ImportError:
        problem = refused(packed)
        assert type(problem) is ImageUnreadable
        assert f"`oci-archive:{packed}`" in problem.hints[0]
    else:
        assert kind(packed) == "oci-archive"


# References, transports and names


@pytest.mark.parametrize(
    "name",
    [
        "docker://alpine",
        "docker://user@reg:5000#img",
        "oras://ghcr.io/x/y:1",
        "library://alpine:3",
        "shub://a/b",
        "https://example.org/x.sif",
        "oci://registry.example/x",
        "a+b-c.d://x",
    ],
)
def test_a_scheme_makes_a_reference(name, tmp_path):
    """What has a scheme is a reference and has no path."""
    assert classify(name, str(tmp_path)) == Image(name, "reference", "")


@pytest.mark.parametrize(
    ("name", "path", "its_tag"),
    [
        ("oci:layout", "layout", ""),
        ("oci:layout:3.20", "layout", "3.20"),
        ("oci:./layout:@0", "layout", "@0"),
        ("oci:///{cwd}/layout:a", "layout", "a"),
        ("oci-archive:oci.tar:x", "oci.tar", "x"),
        ("oci-archive://oci.tar:x", "oci.tar", "x"),
        ("docker-archive:{cwd}/docker.tar:alpine:3.20", "docker.tar", "alpine:3.20"),
        ("file://{cwd}/oci.tar", "oci.tar", ""),
        ("file:{cwd}/oci.tar", "oci.tar", ""),
        ("layout", "layout", ""),
    ],
)
def test_a_transport_names_a_path_and_perhaps_a_tag(tmp_path, name, path, its_tag):
    """oci:, oci-archive:, docker-archive: and file: are the kind of the path they name."""
    file(tmp_path / "layout/oci-layout")
    file(tmp_path / "layout/index.json")
    tar(tmp_path / "oci.tar", OCI)
    tar(tmp_path / "docker.tar", DOCKER)
    name = name.format(cwd=tmp_path)
    image = classify(name, str(tmp_path))
    expected = {"layout": "oci-layout", "oci.tar": "oci-archive", "docker.tar": "docker-archive"}
    assert image == Image(name, expected[path], f"{tmp_path}/{path}")
    assert tag(image) == its_tag


@pytest.mark.parametrize("name", ["docker://", "oci:", "oci-archive:", "docker-archive::tag", "file://x"])
def test_a_scheme_or_transport_before_nothing_is_refused(name):
    """Something must follow the colon."""
    assert type(refused(name)) is ImageMissing


@pytest.mark.parametrize(
    "name",
    [
        *("alpine", "alpine:3.20", "ubuntu-22.04", "my_image:v1.2-rc.1", "Alpine", "docker:dind"),
        *("alpine@sha256:" + 64 * "0", "oci", "docker-archive"),
    ],
)
def test_a_bare_word_that_is_no_file_is_a_name(tmp_path, name):
    """A word, with or without a tag, is a name in a runtime's own store."""
    assert classify(name, str(tmp_path)) == Image(name, "name", "")


@pytest.mark.parametrize("name", ["alpine", "alpine:3.20"])
def test_a_file_comes_before_a_name(tmp_path, name):
    """A word that is there as a path is that path."""
    (tmp_path / name).mkdir()
    assert classify(name, str(tmp_path)) == Image(name, "rootfs", f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    "name",
    [
        *("alpine.sif", "image.sqsh", "x.tar.gz", "env.toml", "./alpine", "../alpine", "alpine/"),
        *(".alpine", "-alpine", "a:b:c", "alpine:", ":tag", "al pine", "a;b", "älpine", "a@b"),
        *("\udcff", "a\nb", "docker-daemon:alpine:latest"),
    ],
)
def test_a_word_that_can_only_be_a_file_is_missing(tmp_path, name):
    """What no store would know is called missing, not taken for a name."""
    assert type(refused(name, tmp_path)) is ImageMissing


# Paths


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("rootfs", "rootfs"),
        ("./rootfs", "rootfs"),
        ("rootfs/.", "rootfs"),
        ("rootfs//", "rootfs"),
        ("../{here}/rootfs", "../{here}/rootfs"),
    ],
)
def test_a_relative_path_starts_at_the_job_s_directory(tmp_path, name, path):
    """A relative path becomes an absolute one, in which `..` stays for the kernel to follow."""
    (tmp_path / "rootfs").mkdir()
    name, path = name.format(here=tmp_path.name), path.format(here=tmp_path.name)
    assert classify(name, str(tmp_path)) == Image(name, "rootfs", f"{tmp_path}/{path}")


@given(st.text(max_size=30) | st.binary(max_size=30).map(os.fsdecode))
@example("\ud800")
@example("a\0b")
def test_any_name_is_an_image_or_one_clear_problem(tmp_path_factory, name):
    """No text that a user or a file can hold gives anything but a kind or a Problem with a hint."""
    outcome = image_or_problem(name, str(tmp_path_factory.getbasetemp()))
    if isinstance(outcome, Image):
        assert outcome.name == name
        assert outcome.kind in KINDS
        assert bool(outcome.path) == (outcome.kind not in ("reference", "name"))
    else:
        assert outcome.hints
        assert all(line.isprintable() for line in outcome.lines())


@given(st.binary(max_size=600))
def test_any_content_is_an_image_or_one_clear_problem(tmp_path_factory, content):
    """No file's content gives anything but a kind or a Problem, whatever it begins with."""
    path = tmp_path_factory.getbasetemp() / "any-content"
    for magic in (b"", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", bytes(257) + b"ustar"):
        path.write_bytes(magic + content)
        outcome = image_or_problem(str(path), "/")
        assert isinstance(outcome, Image) or str(path) in outcome.message


def image_or_problem(name: str, cwd: str) -> Image | Problem:
    try:
        return classify(name, cwd)
    except Problem as problem:
        return problem


@given(st.text("abc:/@", max_size=12))
def test_a_tag_is_what_follows_the_path(rest):
    """transport:PATH:TAG is split at the first colon after PATH, as containers-transports(5) says."""
    kind, path = as_transport("oci-archive:" + rest)
    its_tag = tag(Image("oci-archive:" + rest, kind, "/somewhere"))
    assert rest.removeprefix("//") == path + (":" + its_tag if ":" in rest else "")


# What is wrong


def test_an_empty_name_asks_for_the_variable():
    """The usual cause of an empty --container is a variable that is not set."""
    assert "variable" in refused("").hints[0]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rootfz/", "did you mean `{cwd}/rootfs`?"),
        ("image/", "did you mean `{cwd}/image.sif`, or `{cwd}/images`?"),
        ("images/no/such", "`{cwd}/images` is there, and is empty"),
        ("./zzz", "`{cwd}` is there, and holds `dangling`, `image.sif`, `images`, `rootfs`"),
        ("dangling", "`{cwd}/dangling` is a symbolic link to `/no/where`, which is not there"),
        ("dangling/x", "`{cwd}/dangling` is a symbolic link to `/no/where`, which is not there"),
        ("image.sif/x", "`{cwd}/image.sif` is there, and is no directory"),
        ("~/image.sif", "the shell leaves `~` as it is after `=` and in quotes: write `$HOME/…`"),
        (
            "$HOME/x",
            "nothing replaces variables in `#SBATCH` lines and single quotes: write it in full",
        ),
        ("library/alpine", "an image in a registry is written `docker://library/alpine`"),
        ("ghcr.io/x/y:1", "an image in a registry is written `docker://ghcr.io/x/y:1`"),
        ("localhost:5000/x", "an image in a registry is written `docker://localhost:5000/x`"),
        ("docker:/alpine", "an image in a registry is written `docker://alpine`"),
    ],
)
def test_what_is_missing_is_said_with_what_is_nearby(tmp_path, name, hint):
    """The first hint on a missing path is the likeliest cure."""
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "images").mkdir()
    sif(tmp_path / "image.sif")
    (tmp_path / "dangling").symlink_to("/no/where")
    if name == "dangling":
        name = "./dangling"
    problem = refused(name, tmp_path)
    assert type(problem) is ImageMissing
    assert problem.hints[0] == hint.format(cwd=tmp_path)


def test_a_misspelt_path_below_a_folder_is_no_registry_name(tmp_path):
    """Where the first part exists, a registry is not what was meant."""
    (tmp_path / "images/alpine").mkdir(parents=True)
    assert refused("images/alpin", tmp_path).hints == (f"did you mean `{tmp_path}/images/alpine`?",)


@pytest.mark.parametrize("name", ["/tmp/" + 300 * "x", "/" + 2100 * "x/", 4096 * "y"])
def test_a_path_too_long_says_how_long_it_is(name):
    """A name of 4 kB is refused with its length, in a line that can be read."""
    problem = refused(name)
    assert type(problem) is ImageMissing
    assert "too long" in problem.message
    assert len(problem.message) < 300


def test_a_nul_from_a_definition_is_refused():
    """TOML can write a NUL, which no path can have."""
    assert "'a\\x00b'" in refused("a\0b").message


def test_links_in_a_circle_are_unreadable(tmp_path):
    """A path without an end is refused by the system's own words."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    problem = refused("./a", tmp_path)
    assert type(problem) is ImageUnreadable
    assert os.strerror(40) in problem.message


def test_a_fifo_or_socket_is_no_image_and_hangs_nobody(tmp_path):
    """What is neither file nor directory is named, and never opened."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path may not be long
        server.bind("socket")
        os.chdir(here)
    said = [refused(f"{tmp_path}/{name}") for name in ("fifo", "socket")] + [refused("/dev/null")]
    assert {type(problem) for problem in said} == {ImageUnknown}
    assert [problem.message.partition("` is ")[2] for problem in said] == [
        "a FIFO (named pipe)",
        "a socket",
        "a character device",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (bytes(5000), "zeros"),
        (Path("/bin/true").read_bytes(), "an ELF program"),
        (b"#!/bin/sh\necho\n", "a script (`#!/bin/sh`)"),
        (b"FROM alpine\nRUN true\n", "text (`FROM alpine`)"),
        (b"PK\x03\x04....", "a zip archive"),
        (bytes(1080) + b"\x53\xef" + bytes(100), "an ext2, ext3 or ext4 file system"),
        (
            b"\x01\x02\x03\x04\x05\x06\x07\x08\x09",
            "data that begins with the bytes 01 02 03 04 05 06 07 08",
        ),
    ],
)
def test_a_file_of_no_known_kind_says_what_it_looks_like(tmp_path, content, said):
    """The message helps to see which file was named by mistake."""
    path = file(tmp_path / "thing", content)
    assert refused(path).message == f"`{path}` is of no known kind: it is {said}"


@pytest.mark.parametrize("name", ["config.json", "index.json"])
def test_the_file_inside_a_directory_image_leads_to_the_directory(tmp_path, name):
    """Naming config.json in place of its bundle is answered with the bundle."""
    path = file(tmp_path / name, b"{}")
    assert refused(path).hints[0] == f"name the directory it is in: `--container={tmp_path}`"


def test_a_definition_with_another_ending_is_told_its_name(tmp_path):
    """What reads like an environment definition must be called .toml."""
    path = file(tmp_path / "env.edf", b'image = "docker://alpine"\n')
    assert "must end in `.toml`" in refused(path).hints[0]


def test_a_directory_on_the_way_that_cannot_be_entered_is_named(as_other):
    """As on NFS with root squash: the component that stops the user is named, with its mode."""
    closed = as_other.place / "closed"
    sif(closed / "deep/image.sif")
    os.chmod(closed, 0o700)
    code, message, hints = as_other(said, closed / "deep/image.sif")
    assert code == "image-unreadable"
    assert f"`{closed}` may not be entered by user {as_other.uid} (owner 0, mode 0700)" in message
    assert hints == (f"`chmod o+x {closed}` by its owner lets others pass through",)


@pytest.mark.parametrize("bit", ["r", "x"])
def test_the_owner_opens_what_is_his(tmp_path, monkeypatch, bit):
    """By a mode for himself."""
    closed = tmp_path / "closed"
    closed.mkdir()
    assert image_problems.opened(bit, str(closed), "x") == f"`chmod u+{bit} {closed}`: it is yours"
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(closed).st_uid + 1)
    assert image_problems.opened(bit, str(closed), "x").startswith(f"`chmod o+{bit} {closed}` by its owner")


def test_a_directory_image_that_cannot_be_entered_is_named(as_other):
    """A rootfs that the user may not enter is unreadable, not missing."""
    closed = as_other.place / "rootfs"
    closed.mkdir(mode=0o700)
    assert f"`{closed}` may not be entered" in as_other(said, closed)[1]


def test_a_link_into_a_closed_directory_shows_where_it_leads(as_other):
    """The component named is the one whose permission counts."""
    closed = as_other.place / "closed"
    (closed / "rootfs").mkdir(parents=True)
    os.chmod(closed, 0o700)
    (as_other.place / "link").symlink_to(closed / "rootfs")
    link = as_other.place / "link"
    assert f"`{link}` (that is `{closed}/rootfs`)" in as_other(said, link)[1]


def test_a_file_that_cannot_be_read_is_named(as_other):
    """A SIF of another user with mode 0600 is unreadable, with the cure."""
    path = sif(as_other.place / "image.sif")
    os.chmod(path, 0o600)
    code, message, hints = as_other(said, path)
    assert code == "image-unreadable"
    assert message.endswith(f"may not be read by user {as_other.uid} (owner 0, mode 0600)")
    assert hints == (f"`chmod o+r {path}` by its owner lets others read it",)


def test_a_folder_that_cannot_be_listed_says_so(as_other):
    """Without permission to list a folder nothing near is shown, and nothing breaks."""
    os.chmod(as_other.place, 0o711)
    code, _, hints = as_other(said, as_other.place / "x")
    assert code == "image-missing"
    assert hints == (f"`{as_other.place}` is there, and may not be listed (Permission denied)",)


def said(name):
    problem = refused(name)
    return problem.code, problem.message, problem.hints


# What it costs


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        ("bundle", ["stat", "lstat"]),
        ("rootfs", ["stat", "lstat", "lstat"]),
        ("layout", ["stat", "lstat", "lstat", "lstat"]),
        ("image.sif", ["stat", "open", "pread", "close"]),
        ("env.toml", ["stat", "open", "pread", "close"]),
        ("alpine", ["stat"]),
        ("docker://alpine", []),
    ],
)
def test_file_system_calls(tmp_path, system_calls, make, expected):
    """Each kind is found out with these calls and no others, and no module is imported for it."""
    file(tmp_path / "bundle/config.json")
    (tmp_path / "rootfs").mkdir()
    file(tmp_path / "layout/oci-layout")
    file(tmp_path / "layout/index.json")
    sif(tmp_path / "image.sif")
    file(tmp_path / "env.toml")
    line = f"classify({make!r}, {str(tmp_path)!r})"
    assert system_calls("from slurm_oci.image import classify", line) == expected


def test_importing_it_imports_nothing_else():
    """Only what is built into the interpreter and this package's own modules are loaded."""
    code = (
        "import sys, os; before = set(sys.modules); sys.path.insert(0, sys.argv[1])\n"
        "import slurm_oci.image, slurm_oci.hook\n"
        "new = set(sys.modules) - before - set(sys.builtin_module_names)\n"
        "print(*sorted(name for name in new if name.partition('.')[0] != 'slurm_oci'))"
    )
    source = str(Path(slurm_oci.__file__).parent.parent)
    command = [sys.executable, "-I", "-S", "-c", code, source]
    assert subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.split() == []
