"""The Debian package and the RPM: built by packaging/build.sh, installed, used, upgraded, removed."""

import os
import shutil
import subprocess

import pytest
from checkout import PROJECT
from conftest import SUITES, Slurm
from images import IMAGES
from slurm_root import SlurmRoot

OURS = "/opt/slurm-oci"
BASES = ("/run/slurm-oci", "/var/cache/slurm-oci")
ADMINS = {
    "site.toml": 'order = ["unshare"]\n',
    "plugins.d/own.py": "def slurm_oci_runtimes():\n    return []\n",
}
TASK = (IMAGES["rootfs"], "/bin/sh", "-c", "head -n1 /etc/os-release; id -u")
DONE = (0, b"ID=busybox\n1001\n")


def built(kind, program, folder):
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        ["bash", PROJECT / "packaging/build.sh", kind, folder], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def deb(tmp_path_factory):
    """The package's path."""
    return built("deb", "dh", tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="module")
def rpm(tmp_path_factory):
    """The package's path."""
    return built("rpm", "rpmbuild", tmp_path_factory.mktemp("rpm"))


@pytest.fixture(scope="module")
def older_deb(deb, tmp_path_factory):
    """The same as of a version before."""
    tree = tmp_path_factory.mktemp("older") / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    control = tree / "DEBIAN/control"
    lines = [
        f"Version: {OLD}" if line.startswith("Version:") else line
        for line in control.read_text().splitlines()
    ]
    control.write_text("\n".join([*lines, ""]))
    init = tree / "usr/lib/slurm-oci/lib/slurm_oci/__init__.py"
    init.write_text(init.read_text().replace("__version__ = ", f'__version__ = "{OLD}"  # '))
    package = tree.with_name("older.deb")
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", tree, package], check=True, stdout=subprocess.PIPE
    )
    return package


OLD = "0.0.9"


@pytest.fixture(scope="module", params=SUITES)
def bare(request):
    """A Slurm on which nothing of ours is installed."""
    with SlurmRoot.start(request.param, name=f"package-{request.param}-{os.getpid()}") as root:
        yield Slurm(root)


def as_root(slurm, *argv, **options):
    status, out, err = slurm(*argv, user="root", env={"DEBIAN_FRONTEND": "noninteractive"}, **options)
    assert status == 0, out + err
    return out.decode()


def shipped_conf(slurm):
    """What the admin does once: the file beside slurm.conf."""
    as_root(slurm, "ln", "-sf", f"{OURS}/oci.conf", "/etc/slurm/oci.conf")


def left(slurm):
    """Every file whose path has our name, but for what the test has put there, Slurm's and packages' records."""
    prune = [
        "/proc",
        "/sys",
        "/dev",
        "/run",
        "/images",
        "/tmp",
        "/opt/slurm-root",
        "/var/lib/dpkg",
        "/var/cache",
    ]
    ignored = [word for place in prune for word in ("-path", place, "-prune", "-o")]
    return as_root(slurm, "find", "/", *ignored, "-path", "*slurm-oci*", "-print").splitlines()


def test_the_debian_package_is_used_upgraded_and_removed(bare, deb, older_deb):
    """And what is the admin's stays, through the upgrade, the removal and the purge."""
    for path in (deb, older_deb):
        shutil.copy(path, bare.root.path("/tmp"))
    new, old = f"/tmp/{os.path.basename(deb)}", f"/tmp/{older_deb.name}"

    as_root(bare, "dpkg", "-i", old)
    shipped_conf(bare)
    assert bare("slurm-oci-plugins", "--version")[1] == f"slurm-oci, version {OLD}\n".encode()
    assert bare.srun(*TASK)[:2] == DONE
    for name, text in ADMINS.items():
        bare.root.write(f"{OURS}/{name}", text)

    # Tasks go on while it is upgraded.
    loop = 'until [ -e /tmp/upgraded ]; do "$@" || echo failed; echo task; done'
    task = [
        "/opt/slurm-oci/run",
        IMAGES["rootfs"],
        "/tmp",
        "alice",
        "1001",
        "node1",
        "1",
        "0",
        "0",
        "/bin/true",
    ]
    with bare.root.popen(["sh", "-c", loop, "sh", *task], stdout=subprocess.PIPE) as tasks:
        as_root(bare, "apt-get", "install", "--yes", new)
        bare.root.write("/tmp/upgraded", "")
        out, _ = tasks.communicate(timeout=60)
    assert set(out.split()) == {b"task"}
    version = as_root(bare, "dpkg-query", "-Wf", "${Version}", "slurm-oci")
    assert bare("slurm-oci-plugins", "--version")[1] == f"slurm-oci, version {version}\n".encode()
    assert bare.srun(*TASK)[:2] == DONE
    assert '"unshare"' in bare("slurm-oci-plugins", "site")[1].decode().partition("order:")[2].splitlines()[0]

    as_root(bare, "apt-get", "remove", "--yes", "slurm-oci")
    admins = sorted([OURS, f"{OURS}/plugins.d", *(f"{OURS}/{name}" for name in ADMINS)])
    assert sorted(left(bare)) == admins
    as_root(bare, "dpkg", "--purge", "slurm-oci")
    assert [base for base in BASES if bare.root.path(base).exists()] == []
    assert sorted(left(bare)) == admins
    assert bare.root.path(f"{OURS}/site.toml").read_text() == ADMINS["site.toml"]
    as_root(bare, "rm", "-r", OURS)


def test_the_package_holds_what_people_look_for_elsewhere(deb):
    """Manual pages (which the root leaves out), completion, the pages, and each library's licence."""
    listed = subprocess.run(
        ["dpkg-deb", "--contents", deb], capture_output=True, text=True, check=True
    ).stdout
    held = {line.split()[5].removeprefix(".") for line in listed.splitlines()}
    expected = [f"/usr/share/man/man{page.suffix[1:]}/{page.name}.gz" for page in (PROJECT / "man").iterdir()]
    expected += ["/usr/share/bash-completion/completions/slurm-oci-plugins"]
    expected += ["/usr/share/zsh/vendor-completions/_slurm-oci-plugins"]
    expected += ["/usr/share/fish/vendor_completions.d/slurm-oci-plugins.fish"]
    expected += ["/usr/share/doc/slurm-oci/README.md", "/usr/share/doc/slurm-oci/CHANGELOG.md"]
    expected += ["/usr/share/doc/slurm-oci/docs/install.md"]
    assert [path for path in expected if path not in held] == []
    for library in ("attrs", "click", "pluggy", "pyyaml", "shellingham", "slurm_oci"):
        assert any(f"/lib/{library}-" in path and "LICENSE" in path for path in held), library


def test_the_shells_complete_the_command_of_the_package(bare, deb):
    """Each finds the file where it looks for such."""
    shutil.copy(deb, bare.root.path("/tmp/new.deb"))
    as_root(bare, "dpkg", "-i", "/tmp/new.deb")
    bash = ". /usr/share/bash-completion/bash_completion; __load_completion slurm-oci-plugins 2>/dev/null ||"
    bash += " _comp_load slurm-oci-plugins; complete -p slurm-oci-plugins"
    assert bare("bash", "-c", bash)[1] == (
        b"complete -o nosort -F _slurm_oci_plugins_completion slurm-oci-plugins\n"
    )
    zsh = "autoload -U compinit; compinit -u -D; print $_comps[slurm-oci-plugins]"
    assert bare("zsh", "-fc", zsh)[1] == b"_slurm-oci-plugins\n"
    fish = bare("fish", "-c", "complete --do-complete 'slurm-oci-plugins show charl'")[1]
    assert fish.split(b"\t")[0].strip() == b"charliecloud"
    as_root(bare, "dpkg", "--purge", "slurm-oci")
    assert left(bare) == []


def test_the_rpm_is_used_and_removed(bare, rpm):
    """Its files, its script after installing them, and that before removing them, on Debian: there is
    no other distribution here, and rpm itself cannot reach into the root."""
    with open(rpm, "rb") as package:
        files = subprocess.run(["rpm2archive", "-"], stdin=package, capture_output=True, check=True).stdout
    names = as_root(bare, "tar", "-xvzf", "-", "-C", "/", input=files).splitlines()
    post, preun = (
        subprocess.run(
            ["rpm", "-qp", "--qf", f"%{{{script}}}", rpm], capture_output=True, check=True
        ).stdout.decode()
        for script in ("POSTIN", "PREUN")
    )
    said = as_root(bare, "/bin/sh", "-c", post, "sh", "1")
    assert "installed in /opt/slurm-oci, run by /usr/bin/python3" in said
    shipped_conf(bare)
    assert bare.srun(*TASK)[:2] == DONE
    # As on RHEL 9: /usr/bin/python3 is too old, and the one that will do lies beside it.
    python = bare.root.path("/usr/bin") / "python3"
    newer = python.readlink()
    python.unlink()
    bare.root.write("/usr/bin/python3", "#!/bin/sh\nexit 1\n", mode=0o755)
    try:
        said = as_root(bare, "/bin/sh", "-c", post, "sh", "2")
        assert f"installed in /opt/slurm-oci, run by /usr/bin/{newer}, " in said
        assert bare.srun(*TASK)[:2] == DONE
    finally:
        python.unlink()
        python.symlink_to(newer)
    as_root(bare, "/bin/sh", "-c", preun, "sh", "0")
    ours = sorted((f"/{name}" for name in names if "slurm-oci" in name), reverse=True)
    as_root(bare, "rm", "-d", *ours)  # as rpm does: the files, then what is empty
    assert left(bare) == []


def test_a_read_only_copy_is_used(bare, deb):
    """As on nodes that mount /opt from elsewhere."""
    shutil.copy(deb, bare.root.path("/tmp/new.deb"))
    as_root(bare, "dpkg", "-i", "/tmp/new.deb")
    shipped_conf(bare)
    as_root(bare, "mount", "--bind", OURS, OURS)
    try:
        as_root(bare, "mount", "-o", "remount,bind,ro", OURS)
        assert bare("touch", f"{OURS}/x", user="root")[0] == 1
        assert bare.srun(*TASK)[:2] == DONE
        for kind in ("oci-bundle", "squashfs"):
            status, out, err = bare.srun(IMAGES[kind], *TASK[1:])
            assert (status, out.splitlines()[0]) == (0, b"ID=busybox"), err
    finally:
        as_root(bare, "umount", OURS)
    as_root(bare, "dpkg", "--purge", "slurm-oci")
