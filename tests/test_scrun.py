"""The set-up of Docker and Podman for scrun: what is written, where, and as whom."""

import json
import os
import pwd
import shutil
import tempfile
import tomllib
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner

from slurm_oci import scrun, scrun_checks
from slurm_oci.cli import cli
from slurm_oci.scrun import File, Place, SetupNotWritten, SetupRefused, Written, files, write

ALICE = pwd.struct_passwd(("alice", "x", 4321, 4321, "", "/home/alice", "/bin/sh"))
ONE, ALL = Place(ALICE), Place(None)


def by_path(tool, place, in_job=False):
    return {file.path: file.text for file in files(tool, place, in_job)}


def test_the_files_of_one_user_lie_in_the_home():
    """But for scrun.lua, of which a site has one."""
    home = "/home/alice/.config"
    assert list(by_path("podman", ONE)) == [
        f"{home}/containers/containers.conf",
        f"{home}/containers/storage.conf",
        "/etc/slurm/scrun.lua",
    ]
    assert list(by_path("docker", ONE)) == [
        f"{home}/docker/daemon.json",
        f"{home}/systemd/user/docker.service.d/override.conf",
        "/etc/slurm/scrun.lua",
    ]
    assert list(by_path("podman", ONE, in_job=True)) == [f"{home}/containers/containers.conf"]


def test_those_of_all_lie_in_etc():
    """Docker's not as daemon.json, which the system's dockerd would read."""
    assert list(by_path("podman", ALL))[:2] == [
        "/etc/containers/containers.conf",
        "/etc/containers/storage.conf",
    ]
    assert list(by_path("docker", ALL))[:2] == [
        "/etc/docker/daemon-scrun.json",
        "/etc/systemd/user/docker.service.d/override.conf",
    ]


@pytest.mark.parametrize("storage", ["%h/containers", "/scratch/%u/x", "/nfs/%U"])
def test_every_file_names_the_same_storage(storage):
    """For one user with the letters filled in, for all in the words of each program."""
    filled = storage.replace("%h", "/home/alice").replace("%u", "alice").replace("%U", "4321")
    one, each = attrs.evolve(ONE, storage=storage), attrs.evolve(ALL, storage=storage)
    (_, conf), (_, own), (_, lua) = by_path("podman", one).items()
    assert tomllib.loads(conf)["engine"]["runtimes"] == {"slurm": ["/usr/bin/scrun"]}
    assert tomllib.loads(own)["storage"]["graphroot"] == f"{filled}/podman"
    assert json.loads(next(iter(by_path("docker", one).values())))["data-root"] == f"{filled}/docker"
    assert f'local STORAGE = "{storage}"' in lua
    of_all = tomllib.loads(list(by_path("podman", each).values())[1])["storage"]["rootless_storage_path"]
    words = {"HOME": "/home/alice", "USER": "alice", "UID": "4321"}
    for name, value in words.items():
        of_all = of_all.replace(f"${name}", value)
    assert of_all == f"{filled}/podman"
    assert f"--data-root={storage}/docker" in list(by_path("docker", each).values())[1]


@pytest.mark.parametrize(
    "storage", ["containers", "$HOME/x", '/a"b', "/a'b", "/a\\b", "~/x", "/a\nb", "/a`b"]
)
def test_a_storage_that_a_file_could_not_hold_is_refused(storage):
    """Each of the files has signs of its own."""
    with pytest.raises(SetupRefused, match="cannot be kept"):
        scrun.place_for(None, storage)


def test_root_and_the_unknown_are_refused():
    """scrun is for rootless containers."""
    with pytest.raises(SetupRefused, match="root's"):
        scrun.place_for("root", scrun.STORAGE)
    with pytest.raises(SetupRefused, match="no user"):
        scrun.place_for("no-such-user", scrun.STORAGE)


def test_nothing_is_written_where_one_file_is_there_already(tmp_path):
    """And what the same words stand in counts as written."""
    new, other, same = (tmp_path / "a/b/new", tmp_path / "other", tmp_path / "same")
    other.write_text("mine")
    same.write_text("text")
    chosen = [File(str(path), "text") for path in (new, other, same)]
    with pytest.raises(SetupNotWritten, match="is there already"):
        write(chosen, None, force=False)
    assert (new.exists(), other.read_text()) == (False, "mine")
    assert write(chosen, None, force=True) == [
        Written(str(same), "same"),
        Written(str(new), "written"),
        Written(str(other), "replaced", f"{other}.1"),
    ]
    assert (new.read_text(), other.read_text(), Path(f"{other}.1").read_text()) == ("text", "text", "mine")


def test_a_fault_on_the_way_undoes_what_was_done(tmp_path):
    """A directory is in the way of the second file."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("mine")
    second.mkdir()
    with pytest.raises(SetupNotWritten, match="cannot write"):
        write([File(str(first), "new"), File(str(second), "new")], None, force=True)
    assert first.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) in (
        ["first", "second"],
        ["first", "first.1", "second"],
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as another user")
def test_root_writes_into_a_home_as_its_user():
    """So that a link there leads no further than the user could go."""
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # pytest's cannot be entered by others
        os.chmod(place, 0o755)
        home, secret = Path(place, "home"), Path(place, "secret")
        home.mkdir()
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        secret.mkdir(mode=0o700)
        assert write([File(str(home / "x/file"), "text")], nobody, force=False)[0].state == "written"
        assert (home / "x/file").stat().st_uid == nobody.pw_uid
        (home / "link").symlink_to(secret)
        with pytest.raises(SetupNotWritten, match="Permission denied"):
            write([File(str(home / "link/file"), "text")], nobody, force=False)
        assert (os.geteuid(), list(secret.iterdir())) == (0, [])


def test_the_command_asks_root_for_whom():
    """And refuses options that do not go together."""
    for words in (["podman", "--force"], ["docker", "--in-job"], ["podman", "--user", "x", "--all-users"]):
        assert CliRunner().invoke(cli, ["scrun", *words]).exit_code == 2
    done = CliRunner().invoke(cli, ["scrun", "docker", "--all-users"])
    assert done.exit_code == 0
    assert done.stdout.startswith("# ==> /etc/docker/daemon-scrun.json\n#   ")


def test_the_check_names_what_is_missing(tmp_path):
    """With a cure for each."""
    place = attrs.evolve(ONE, slurm=str(tmp_path), scrun="/nowhere/scrun")
    (tmp_path / "slurm.conf").write_text("AuthType=auth/slurm\n")
    (tmp_path / "oci.conf").write_text('RunTimeRun="crun run --bundle %b x"\n')
    found = {finding.check: finding for finding in scrun_checks.slurm(place)}
    assert {name: finding.state for name, finding in found.items()} == dict.fromkeys(
        ("scrun", "auth-type", "oci-conf"), "failed"
    )
    assert all(finding.cure for finding in found.values())
    shutil.copy(Path(__file__).parents[1] / "opt-slurm-oci/oci.conf", tmp_path / "oci.conf")
    (tmp_path / "slurm.conf").write_text("ClusterName=x\n")
    states = {finding.check: finding.state for finding in scrun_checks.slurm(place)}
    assert states == {"scrun": "failed", "auth-type": "ok", "oci-conf": "ok"}
