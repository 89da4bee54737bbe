"""Which program makes a bundle of what, what is in it, and what is left when that fails."""

import json
import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from slurm_oci import bundling, importing
from slurm_oci.bundling import BundleRefused, BundlerMissing, chosen, config, make
from slurm_oci.cli import cli
from slurm_oci.problems import ImageMissing, ImageRefused, ImportFailed

ME = pwd.getpwuid(os.geteuid())


@pytest.fixture
def rootfs(tmp_path):
    """A root file system with a link, a mode and an odd name."""
    root = tmp_path / "it's a root"
    (root / "bin").mkdir(parents=True)
    (root / "bin/sh").write_text("#!")
    (root / "bin/sh").chmod(0o751)
    (root / "a\nb").symlink_to("/bin/sh")
    return root


def quiet(line):
    """Nobody is told."""


def test_a_directory_is_copied(rootfs, tmp_path):
    """With modes and links, under any name; a line tells of the program."""
    said = []
    make(chosen(str(rootfs)), str(tmp_path / "it's made"), ME, said.append)
    made = tmp_path / "it's made"
    assert said == ["cp --archive --reflink=auto source/. …"]
    assert sorted(os.listdir(made)) == ["config.json", "rootfs"]
    assert sorted(os.listdir(made / "rootfs")) == ["a\nb", "bin", "dev", "proc", "sys"]
    assert stat.S_IMODE((made / "rootfs/bin/sh").stat().st_mode) == 0o751
    assert os.readlink(made / "rootfs/a\nb") == "/bin/sh"
    assert sorted(os.listdir(tmp_path)) == ["it's a root", "it's made"]


def test_nothing_in_a_bundle_gives_anybody_its_maker_s_rights(rootfs, tmp_path):
    """Everybody can start what is in it, outside of any container."""
    program = rootfs / "bin/sh"
    if not os.geteuid():
        os.setxattr(program, "security.capability", bytes.fromhex("0100000280000000" + "00" * 12))
    program.chmod(0o6755)
    (rootfs / "bin").chmod(0o2777)
    (rootfs / "closed").mkdir()
    shutil.copy2(program, rootfs / "closed")
    (rootfs / "closed").chmod(0o005)
    make(chosen(str(rootfs)), str(tmp_path / "made"), ME, quiet)
    made = tmp_path / "made/rootfs"
    for path in (made / "bin/sh", made / "closed/sh", made / "bin"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
        assert "security.capability" not in os.listxattr(path)


def test_a_bundle_keeps_what_its_process_was(rootfs, tmp_path):
    """Words, variables and directory; not its mappings, which were its maker's."""
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    make(chosen(str(rootfs)), first, ME, quiet)
    path = Path(first, "config.json")
    told = json.loads(path.read_text())
    told["process"] |= {"args": ["/bin/x"], "env": ["A=1", "PATH=/x"], "cwd": "/y"}
    told["hooks"] = {"prestart": [{"path": "/nowhere"}]}
    path.write_text(json.dumps(told))
    make(chosen(first), second, ME, quiet)
    kept = {"args": ["/bin/x"], "env": ["A=1", "PATH=/x"], "cwd": "/y"}
    defaults = {"args": ["/bin/sh"], "env": [], "cwd": "/"}
    assert json.loads(Path(second, "config.json").read_text()) == config({**defaults, **kept}, ME)


def test_the_mappings_are_those_of_who_runs_it():
    """Slurm's own runc and crun lines take them as they are."""
    nobody = pwd.getpwnam("nobody")
    linux = config({"args": ["x"]}, nobody)["linux"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": nobody.pw_uid, "size": 1}]
    assert linux["gidMappings"] == [{"containerID": 0, "hostID": nobody.pw_gid, "size": 1}]
    assert linux["namespaces"] == [{"type": "user"}, {"type": "mount"}]


def test_what_a_sif_keeps_of_its_image_is_found(tmp_path):
    """Variables and command, as apptainer 1.4 writes them; nothing that a shell would have to work out."""
    folder = tmp_path / ".singularity.d"
    (folder / "env").mkdir(parents=True)
    (folder / "env/10-docker2singularity.sh").write_text(
        '#!/bin/sh\nexport PATH="/bin"\nexport IMAGE="${IMAGE:-"busy box"}"\nexport X="${X:-"$(id)"}"\n'
    )
    (folder / "runscript").write_text(
        '#!/bin/sh\nOCI_ENTRYPOINT=\'"/bin/tini" "--"\'\nOCI_CMD=\'"a b"\'\n\n# x\n'
    )
    found = {"args": ["/bin/tini", "--", "a b"], "env": ["PATH=/bin", "IMAGE=busy box"]}
    assert bundling.of_sif(str(tmp_path)) == found
    (folder / "runscript").unlink()
    (folder / "runscript").symlink_to("/../../../../../../etc/passwd")
    assert bundling.of_sif(str(tmp_path)) == {**found, "args": []}
    assert bundling.of_sif(str(tmp_path / "nothing")) == {"args": [], "env": []}


@pytest.mark.skipif(not shutil.which("mksquashfs"), reason="needs squashfs-tools")
def test_a_squashfs_file_is_unpacked(rootfs, tmp_path):
    """By the real program."""
    image = tmp_path / "an image"
    subprocess.run(["mksquashfs", rootfs, image, "-quiet", "-no-progress"], check=True, capture_output=True)
    make(chosen(str(image)), str(tmp_path / "made"), ME, quiet)
    assert sorted(os.listdir(tmp_path / "made/rootfs")) == ["a\nb", "bin", "dev", "proc", "sys"]


def test_nothing_is_made_where_something_is(rootfs, tmp_path):
    """Also a link that leads nowhere; nor in a directory that is not there."""
    (tmp_path / "there").symlink_to("/nowhere")
    with pytest.raises(BundleRefused, match="is there already"):
        make(chosen(str(rootfs)), str(tmp_path / "there"), ME, quiet)
    with pytest.raises(BundleRefused, match="nothing can be made in"):
        make(chosen(str(rootfs)), str(tmp_path / "no/dest"), ME, quiet)
    assert sorted(os.listdir(tmp_path)) == ["it's a root", "there"]


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A stand-in called like a real program, in the only place that is looked at."""

    def put(name, text):
        folder = tmp_path / "programs"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
        for needed in ("env", "tar", "mkdir", "cp"):
            if not (folder / needed).exists():
                (folder / needed).symlink_to(shutil.which(needed))
        monkeypatch.setattr(bundling, "STANDARD_PATH", str(folder))

    return put


def test_a_program_that_fails_leaves_nothing(program, tmp_path):
    """And its last words are the hints."""
    program("mmdebstrap", "mkdir -p result/rootfs/x; chmod 0 result/rootfs/x; echo no such suite >&2; exit 3")
    with pytest.raises(ImportFailed) as caught:
        make(chosen("nonesuch", "mmdebstrap"), str(tmp_path / "made"), ME, quiet)
    assert caught.value.message == "no bundle can be made of `nonesuch`: mmdebstrap ended with 3"
    assert caught.value.hints == ("no such suite",)
    assert os.listdir(tmp_path) == ["programs"]


def test_a_distribution_is_given_its_words(program, tmp_path):
    """The release and the mirror; and dnf the packages, which the guide forgets."""
    program("mmdebstrap", 'echo "$@" > words; tar cf rootfs.tar words')
    make(chosen("trixie http://mirror/debian", "mmdebstrap"), str(tmp_path / "made"), ME, quiet)
    words = "--variant=minbase --skip=output/dev trixie rootfs.tar http://mirror/debian\n"
    assert (tmp_path / "made/rootfs/words").read_text() == words


@pytest.mark.skipif(os.geteuid() != 0, reason="dnf and debootstrap are root's")
def test_dnf_and_debootstrap_are_given_theirs(program, tmp_path):
    """As root; dnf's install root is an absolute path."""
    program("dnf", 'root=${1#--installroot=}; mkdir -p "$root"; shift; echo "$@" > "$root/words"')
    make(chosen("9", "dnf"), str(tmp_path / "dnf"), ME, quiet)
    words = "--assumeyes --releasever=9 --setopt=install_weak_deps=False install bash coreutils glibc-minimal-langpack\n"
    assert (tmp_path / "dnf/rootfs/words").read_text() == words
    program("debootstrap", 'mkdir -p "$3"; echo "$@" > "$3/words"')
    make(chosen("trixie", "debootstrap"), str(tmp_path / "deb"), ME, quiet)
    assert (tmp_path / "deb/rootfs/words").read_text() == "--variant=minbase trixie result/rootfs\n"


def test_what_is_missing_is_named(program, tmp_path):
    """Every program that could do it; and a source that is none."""
    program("true", "")
    with pytest.raises(BundlerMissing) as caught:
        chosen("docker://alpine")
    assert caught.value.hints == ("install one of: skopeo and umoci; podman; apptainer; singularity",)
    with pytest.raises(BundlerMissing):
        chosen("trixie", "mmdebstrap")
    with pytest.raises(BundleRefused, match="a word for an image"):
        chosen("alpine")
    with pytest.raises(BundleRefused, match="nothing that podman"):
        chosen("--privileged", "podman")
    with pytest.raises(ImageMissing):
        chosen("/no/such/path")
    with pytest.raises(ImageRefused, match="is of kind rootfs, not sif"):
        chosen(str(tmp_path), "sif")


def test_a_signal_that_comes_between_two_programs_ends_it(program, tmp_path):
    """With nothing left."""
    program("mmdebstrap", "tar cf rootfs.tar /dev/null 2>/dev/null")

    def interrupt(line):
        if line.startswith("tar"):
            os.kill(os.getpid(), 15)

    with pytest.raises(importing.Interrupted):
        make(chosen("trixie", "mmdebstrap"), str(tmp_path / "made"), ME, interrupt)
    assert os.listdir(tmp_path) == ["programs"]


def test_the_command_says_what_it_made(rootfs, tmp_path):
    """And what `--from` knows, where it is misspelt."""
    done = CliRunner().invoke(cli, ["bundle", str(rootfs), str(tmp_path / "made")])
    assert (done.exit_code, done.stdout) == (0, f"made: {tmp_path}/made\n")
    done = CliRunner().invoke(cli, ["bundle", "--from", "mmdebstrp", "trixie", str(tmp_path / "other")])
    assert done.exit_code == 2
    assert "Did you mean `mmdebstrap`?" in done.stderr
