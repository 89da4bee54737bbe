"""A node to measure on: installations, programs, images and homes in one directory."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slurm_oci import guide

STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LMOD = Path("/etc/profile.d/lmod.sh")


def nothing() -> None:
    pass


@dataclass
class Case:
    """One way to start a task; `before` and `after` make and remove what only it needs."""

    name: str
    what: str
    argv: list[str]
    env: dict[str, str]
    before: Callable[[], object] = nothing
    after: Callable[[], object] = nothing


@dataclass
class Node:
    place: Path
    python: str

    @classmethod
    def made(cls, place: Path) -> "Node":
        node = cls(place, os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable))
        for folder in ("bin", "home", "image/bin", "image/tmp"):
            (place / folder).mkdir(parents=True)
        for program in (place / "bin" / "apptainer", place / "bin" / "mine", place / "image/bin/true"):
            shutil.copy(os.path.realpath("/bin/true"), program)  # every runtime here ends at once
        node.cover("/etc/passwd", f"root:x:{os.geteuid()}:0::{place}/home:/bin/sh\n")
        node.cover("/etc/profile", "")
        for folder in ("/etc/tmpfiles.d", "/run"):  # where `install` writes if it is root's
            own = place / folder.replace("/", "-")
            own.mkdir()
            if os.path.isdir(folder):
                subprocess.run(["mount", "--bind", own, folder], check=True)
        node.install()
        return node

    def cover(self, path: str, text: str) -> None:
        """Lays a file of the node's over `path`, in this mount namespace alone."""
        own = self.place / path.replace("/", "-")
        own.write_text(text)
        subprocess.run(["mount", "--bind", own, path], check=True)

    @property
    def path(self) -> str:
        return f"{self.place}/bin:{STANDARD_PATH}"

    def install(self) -> None:
        words = ["install", "--prefix", str(self.place / "ours"), "--python", self.python]
        quietly([sys.executable, "-m", "slurm_oci.cli", *words], self.path)

    def installation(self, name: str, site: str = "", compiled: bool = True) -> Path:
        """A copy of the installation with another site.toml."""
        prefix = self.place / name
        shutil.copytree(self.place / "ours", prefix, symlinks=True)
        (prefix / "site.toml").write_text(site)
        quietly([str(prefix / "bin" / "slurm-oci-plugins"), "--prefix", str(prefix), "compile"], self.path)
        if not compiled:
            for path in [*prefix.glob("catalog.*"), *prefix.rglob("one-file.*")]:
                path.unlink()
        return prefix

    def task(self, prefix: Path, image: Path | None = None, job: dict[str, str] | None = None) -> list[str]:
        """The entry point of `prefix` and its words for a task whose environment is `job`'s."""
        spool = self.place / f"spool-{len(list(self.place.glob('spool-*')))}"
        (spool / "task-0").mkdir(parents=True)
        env = {"SLURM_JOB_ID": "42", "PATH": "/usr/bin:/bin", "HOME": f"{self.place}/home", **(job or {})}
        (spool / "task-0" / "environment").write_text("".join(f"{k}={v}\0" for k, v in env.items()))
        words = [image or self.place / "image", spool, "root", os.geteuid(), "node1", 42, 0, 0, "/bin/true"]
        return [str(prefix / "run"), *map(str, words)]

    def case(self, name: str, what: str, argv: list[str], **steps: Callable[[], object]) -> Case:
        return Case(name, what, argv, {"PATH": self.path, "HOME": f"{self.place}/home"}, **steps)

    def pair(self) -> Path:
        prefix = self.place / "pair"
        prefix.mkdir()
        for path, text in guide.SCRIPTS["multi"].items():
            script = prefix / os.path.basename(path)
            script.write_text(text.replace("/opt/slurm-oci", str(prefix)))
            script.chmod(0o755)
        return prefix

    def cases(self) -> list[Case]:
        ours, pair = self.installation("compiled"), self.pair()
        mine = '[runtimes.mine]\nrun = ["mine", "%b", "--", "%@"]\naccepts = ["rootfs"]\n'
        definition = self.place / "env.toml"
        definition.write_text(f'image = "{self.place}/image"\n')
        hook, profile = self.place / "home" / ".slurm-oci-run", self.place / "-etc-profile"

        def write_hook() -> None:
            hook.write_text("#!/bin/sh\nexec true\n")
            hook.chmod(0o700)

        found = [
            self.case("bare", "python3 -I -S -c pass", [self.python, "-I", "-S", "-c", "pass"]),
            self.case("runtime", "the runtime's stand-in alone", [str(self.place / "bin" / "apptainer")]),
            self.case("pair", "the guide's pair, login profile empty", self.task(pair)),
            self.case("ours", "the entry point with its catalog", self.task(ours)),
            self.case(
                "uncompiled", "without the catalog", self.task(self.installation("uncompiled", "", False))
            ),
            self.case(
                "hook", "with a user's hook (sh)", self.task(ours), before=write_hook, after=hook.unlink
            ),
            self.case(
                "defined",
                "with a runtime from site.toml",
                self.task(self.installation("defined", mine), job={"SLURM_OCI_RUNTIME": "mine"}),
            ),
            self.case("definition", "with an environment definition (.toml)", self.task(ours, definition)),
        ]
        if LMOD.exists():
            use = f". {LMOD}\n"
            found.insert(3, self.case(
                "modules", "the guide's pair, login profile with lmod", self.task(pair),
                before=lambda: profile.write_text(use), after=lambda: profile.write_text(""),
            ))  # fmt: skip
        return found

    def commands(self) -> list[Case]:
        """The command that people call, beside importing the library that its words are read with."""
        prefix = self.place / "compiled"
        command = str(prefix / "bin" / "slurm-oci-plugins")
        library = f"import sys; sys.path.append('{prefix}/lib'); import click"
        return [
            self.case("click", "import click", [self.python, "-I", "-S", "-c", library]),
            self.case("help", "slurm-oci-plugins --help", [command, "--help"]),
            self.case("list", "slurm-oci-plugins list", [command, "list"]),
            self.case(
                "explain",
                "slurm-oci-plugins explain",
                [command, "explain", str(self.place / "image"), "true"],
            ),
        ]

    def growth(self) -> list[Case]:
        """The same task where a site defines many runtimes, none of them there, or a job many variables."""
        table = '[runtimes.r{0}]\nrun = ["no-tool-{0}", "%b"]\naccepts = ["rootfs"]\n'
        found = []
        for number in (10, 100, 1000):
            site = "".join(table.format(n) for n in range(number))
            prefix = self.installation(f"with-{number}", f'order = ["apptainer"]\n{site}')
            found.append(self.case(f"{number} runtimes", f"{number} runtimes defined", self.task(prefix)))
        job = {f"VARIABLE_{n}": "value" * 5 for n in range(1000)}
        many = self.task(self.place / "compiled", job=job)
        return [*found, self.case("1000 variables", "1,000 variables in the job", many)]


def quietly(words: list[str], path: str) -> None:
    done = subprocess.run(words, env={"PATH": path}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"`{' '.join(words)}` failed:\n{done.stdout}{done.stderr}")
