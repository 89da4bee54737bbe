"""Debian root file systems with Slurm and container runtimes, built once and kept.

`ensure("trixie")` gives the directory of a complete one: `root/`, and `about.json` that says
what is in it. Below the cache they are only ever read; `slurm_root.py` puts a layer of its own
on top for every start.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SUITES = ("trixie", "sid")
RECIPE = 1  # raise it when anything but the package lists changes what a root contains

DPKG_OPTIONS = ["force-unsafe-io", "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/locale/*"]

# Without these there is no Slurm to test with.
NEEDED = [
    *("slurm-wlm", "slurmd", "slurmctld", "slurm-client", "munge"),
    *("bash", "ca-certificates", "dash", "iproute2", "passwd", "procps", "uidmap", "util-linux"),
    *("busybox-static", "python3", "python3-venv"),
]
# Any of these may be missing from a suite, or from sid on a bad day.
WANTED = [
    *("crun", "runc", "podman", "catatonit", "charliecloud", "apptainer", "umoci", "skopeo"),
    *("docker-registry", "mmdebstrap", "slirp4netns", "passt"),
    *("squashfs-tools", "squashfuse", "fuse3", "fuse-overlayfs"),
    *("python3-attr", "python3-click", "python3-pluggy", "python3-shellingham"),
    *("file", "strace", "bash-completion", "fish", "tcsh", "zsh"),
]
# MPI programs: only where Debian's Slurm has a PMIx plugin, which sid's has not.
EXTRA = {"trixie": ["openmpi-bin", "libopenmpi-dev", "gcc", "libc6-dev"], "sid": []}

# What a suite lacks and another one has, for whose package it has all that it needs.
BORROWED = {"trixie": {"apptainer": "sid"}, "sid": {}}

USERS = {"alice": 1001, "bob": 1002}
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR_VARIABLE = "SLURM_OCI_DEBIAN_MIRROR"


class RootUnavailable(Exception):
    """No root file system of this suite can be made here and now; the text says why, and the cure."""


def cache_directory() -> Path:
    """Where built roots are kept, over all versions of this project."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "slurm-oci", "roots")


def location(suite: str) -> Path:
    """Where the root of this suite and these package lists lies, or will lie."""
    if suite not in SUITES:
        raise RootUnavailable(f"no suite `{suite}`; there are {', '.join(SUITES)}")
    borrowed = [BORROWED[suite]] if BORROWED[suite] else []
    recipe = json.dumps([RECIPE, suite, NEEDED, WANTED, EXTRA[suite], USERS, *borrowed])
    return cache_directory() / f"{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def ensure(suite: str, *, force: bool = False) -> Path:
    """The directory with `root/` and `about.json` of a complete root; built if need be.

    Raises RootUnavailable. Two callers at once build it once: the second waits.
    """
    place = location(suite)
    if place.exists() and not force:
        return place
    check_machine()
    place.parent.mkdir(parents=True, exist_ok=True)
    with locked(place.with_suffix(".lock")):
        if place.exists() and not force:
            return place
        for leftover in place.parent.glob(f"{place.name}.partial-*"):
            remove(leftover)
        partial = place.with_name(f"{place.name}.partial-{os.getpid()}")
        try:
            build(suite, partial)
            if place.exists():
                # A running root may still have the old one as its lower layer: the rename
                # leaves that intact until it is removed.
                old = place.with_name(f"{place.name}.partial-old-{os.getpid()}")
                place.rename(old)
                partial.rename(place)
                remove(old)
            else:
                partial.rename(place)
        finally:
            remove(partial)
    return place


def build(suite: str, place: Path) -> None:
    """Make the root of `suite` in the new directory `place`."""
    started = time.monotonic()
    place.mkdir()
    files, not_borrowed = borrow(suite, place)
    packages, left_out = choose_packages(suite, source_of(suite), files)
    left_out |= not_borrowed
    files = {name: file for name, file in files.items() if name in packages}
    for name, reason in left_out.items():
        say(f"!!! {suite}: LEFT OUT {name}: {reason}")
    say(f"building Debian {suite} with {len(packages)} packages and what they need (a minute or two)")
    log = place / "mmdebstrap.log"
    command = ["mmdebstrap", "--mode=root", "--variant=apt", "--format=directory"]
    command += [f"--aptopt={line}" for line in apt_options()]
    command += [f"--dpkgopt={line}" for line in DPKG_OPTIONS]
    command += [f"--include={','.join(name for name in packages if name not in files)}"]
    for file in files.values():
        inside = f"/tmp/{file.name}"
        command += [f"--customize-hook=copy-in {shlex.quote(str(file))} /tmp"]
        command += [f'--customize-hook=chroot "$1" apt-get -q -y install {inside} && rm "$1{inside}"']
    command += [suite, str(place / "root"), source_of(suite)]
    with log.open("wb") as output:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    if done.returncode:
        raise RootUnavailable(f"mmdebstrap failed for {suite}: {tail(log.read_text(errors='replace'))}")
    for file in files.values():
        file.unlink()
    root = place / "root"
    add_users(root)
    version = subprocess.run(["chroot", root, "slurmd", "-V"], capture_output=True, text=True, check=True)
    about = {
        "suite": suite,
        "built": time.strftime("%Y-%m-%d"),
        "slurm": version.stdout.split()[-1],
        "left out": left_out,
        "packages": installed(root, packages),
        "seconds": round(time.monotonic() - started, 1),
    }
    (place / "about.json").write_text(json.dumps(about, indent=2) + "\n")
    say(f"built Debian {suite} with Slurm {about['slurm']} in {about['seconds']:.0f} s")


def borrow(suite: str, directory: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The packages of other suites as files in `directory`, by name, and why one cannot be had."""
    files, left_out = {}, {}
    for name, other in BORROWED[suite].items():
        with private(source_of(other)) as apt:
            done = apt("apt-get", "update")
            if not done.returncode:
                done = apt("apt-get", "download", name, cwd=directory)
            found = list(directory.glob(f"{name}_*.deb"))
            if done.returncode or not found:
                left_out[name] = f"not in this suite, and cannot be had from {other}: {tail(done.stderr, 2)}"
            else:
                files[name] = found[0]
    return files, left_out


def source_of(suite: str) -> str:
    return f"deb [signed-by={KEYRING}] {mirror()} {suite} main"


@contextlib.contextmanager
def private(source: str) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """What starts apt's programs with the packages of `source` alone."""
    with tempfile.TemporaryDirectory(prefix="slurm-oci-apt-") as directory:
        environment = {**os.environ, "APT_CONFIG": str(private_apt(Path(directory), source))}

        def apt(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
            return subprocess.run(words, capture_output=True, text=True, env=environment, cwd=cwd)

        yield apt


def choose_packages(suite: str, source: str, files: dict[str, Path]) -> tuple[list[str], dict[str, str]]:
    """What of the lists and `files` can be installed together today, and what is left out for which
    reason."""
    with private(source) as apt:
        done = apt("apt-get", "update")
        if done.returncode:
            raise RootUnavailable(
                f"no package lists of Debian {suite}: {tail(done.stderr, 2)}; "
                f"is the network there? {MIRROR_VARIABLE} can name another archive"
            )
        existing = {*apt("apt-cache", "pkgnames").stdout.split(), *files}
        missing = [name for name in NEEDED if name not in existing]
        if missing:
            raise RootUnavailable(f"Debian {suite} has no {', '.join(missing)}")

        def refusal(packages: list[str]) -> str:
            words = [str(files.get(name, name)) for name in packages]
            done = apt("apt-get", "--simulate", "install", *words)
            return tail(done.stderr or done.stdout) if done.returncode else ""

        optional = WANTED + EXTRA[suite]
        left_out = {name: "not in this suite" for name in optional if name not in existing}
        optional = [name for name in optional if name in existing]
        if not refusal(NEEDED + optional):
            return NEEDED + optional, left_out
        reason = refusal(NEEDED)
        if reason:
            raise RootUnavailable(f"Debian {suite} cannot be installed today: {reason}")
        packages = list(NEEDED)
        for name in optional:
            reason = refusal([*packages, name])
            if reason:
                left_out[name] = f"cannot be installed today: {reason}"
            else:
                packages.append(name)
        return packages, left_out


def private_apt(directory: Path, source: str) -> Path:
    """A configuration of apt that knows only `source`, has nothing installed, and keeps to `directory`."""
    for name in ("lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True)
    (directory / "status").touch()
    (directory / "sources.list").write_text(source + "\n")
    values = {
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::sourcelist": directory / "sources.list",
        "Dir::State::lists": directory / "lists",
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory / "cache",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
    }
    file = directory / "apt.conf"
    file.write_text("\n".join([*apt_options(), *(f'{name} "{value}";' for name, value in values.items())]))
    return file


def mirror() -> str:
    """The Debian archive that this machine's apt uses, or the one MIRROR_VARIABLE names."""
    named = os.environ.get(MIRROR_VARIABLE)
    if named:
        return named
    command = [
        "apt-get",
        "indextargets",
        "--format",
        "$(ORIGIN)|$(LABEL)|$(REPO_URI)",
        "Created-By: Packages",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        origin, label, address = line.split("|", 2)
        if (origin, label) == ("Debian", "Debian"):
            return address
    raise RootUnavailable(
        "this machine's apt knows no Debian archive; run `apt-get update` if it should, "
        f"or name one: {MIRROR_VARIABLE}=http://…/debian"
    )


def apt_options() -> list[str]:
    """This machine's proxy and transport settings, and what a test root needs, as lines of apt.conf."""
    ours = ("Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check-Date")
    command = ["apt-config", "dump", "--no-empty", "--format", '%F "%v";%n', *ours]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    # sid's lists are valid for a week; an archive that lags shall not stop the tests.
    return [
        *lines,
        'Acquire::Check-Valid-Until "false";',
        'Acquire::Languages "none";',
        'APT::Install-Recommends "false";',
    ]


def add_users(root: Path) -> None:
    """The ordinary users: private groups, bash, no password, 65536 subordinate ids each."""
    for number, (name, uid) in enumerate(USERS.items()):
        for file, line in {
            "passwd": f"{name}:x:{uid}:{uid}:{name.title()}:/home/{name}:/bin/bash",
            "group": f"{name}:x:{uid}:",
            "shadow": f"{name}:*:20000:0:99999:7:::",
            "gshadow": f"{name}:*::",
            "subuid": f"{name}:{100000 + number * 65536}:65536",
            "subgid": f"{name}:{100000 + number * 65536}:65536",
        }.items():
            with open(root / "etc" / file, "a") as handle:
                handle.write(line + "\n")


def installed(root: Path, packages: list[str]) -> dict[str, str]:
    """The versions of `packages` in `root`."""
    command = ["chroot", root, "dpkg-query", "--show", "--showformat", "${Package} ${Version}\\n", *packages]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(line.split() for line in lines)


def check_machine() -> None:
    """Root, mmdebstrap (installed if it is missing) and Debian's keys, or RootUnavailable."""
    if os.geteuid():
        raise RootUnavailable(f"building a root needs root: sudo {shlex.join([sys.executable, *sys.argv])}")
    if not shutil.which("apt-get"):
        raise RootUnavailable("no apt-get here: a Debian or Ubuntu machine is needed")
    there = {"mmdebstrap": shutil.which("mmdebstrap"), "debian-archive-keyring": os.path.exists(KEYRING)}
    missing = [package for package, found in there.items() if not found]
    if not missing:
        return
    say(f"installing {' and '.join(missing)} on this machine with apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "-q", "-y", "--no-install-recommends", "install", *missing]
    for command in (install, ["apt-get", "-q", "update"], install):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if command is install and done.returncode == 0:
            return
    raise RootUnavailable(f"`{shlex.join(install)}` failed: {tail(done.stderr)}")


@contextlib.contextmanager
def locked(path: Path, *, silent: bool = False) -> Iterator[None]:
    """Hold the lock file `path`; others wait, and a holder that dies lets go of it."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not silent:
                say(f"waiting for another process that holds {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove(directory: Path) -> None:
    """Remove a tree; one that is not there is fine."""
    if directory.exists():
        shutil.rmtree(directory)


def tail(text: str, lines: int = 6) -> str:
    return " / ".join(line.strip() for line in text.strip().splitlines()[-lines:])


def say(text: str) -> None:
    print(f"slurm_root: {text}", file=sys.stderr, flush=True)
