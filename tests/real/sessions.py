#!/usr/bin/env python3
"""The sessions in the how-to pages: run on a real Slurm, and compared or written anew.

    python3 tests/real/sessions.py docs/howto-*.md      # needs root

A session is a block of Markdown that is marked `<!-- on slurm -->` or, for what starts on a machine
that has nothing of ours, `<!-- on a fresh machine -->`. A line after `$ ` is alice's, in her home; one
after `# ` is root's, in root's. Lines after `> ` continue it. Blocks of a page go on from one another.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import checkout
from slurm_root import SlurmRoot

DOCS = checkout.PROJECT / "docs"
SUITE = "trixie"  # the one whose output the pages show
BLOCK = re.compile(r"(<!-- (on slurm|on a fresh machine) -->\n```console\n)(.*?)(```\n)", re.DOTALL)
USERS = {"$": "alice", "#": "root"}
CHANGING = [
    (re.compile(r"(?<=/node1\.)[0-9a-f-]+\.\d+\.(\d+\.\d+)\.\d+-\d+"), r"BOOT.42.\1.PID-START"),
    (re.compile(r"(?<=Submitted batch job )\d+"), "42"),
    # Of waiting, when jobs and steps follow each other quickly.
    (re.compile(r"^srun: ([Jj]ob \d+ |Job step |Step created ).*\n", re.MULTILINE), ""),
]
MARK = "\x1d"  # ends what a command has written; then its exit status


def suites() -> list[str]:
    """Those that are tested here."""
    return os.environ.get("SLURM_OCI_SUITES", "trixie sid").split()


def pages() -> list[Path]:
    return [page for page in sorted(DOCS.glob("*.md")) if BLOCK.search(page.read_text(encoding="utf-8"))]


def is_fresh(page: Path) -> bool:
    return "<!-- on a fresh machine -->" in page.read_text(encoding="utf-8")


def rewritten(page: Path, root: SlurmRoot) -> str:
    """The page with what its commands print now."""
    text = page.read_text(encoding="utf-8")
    return BLOCK.sub(lambda block: block[1] + "".join(played(block[3], root)) + block[4], text)


def played(session: str, root: SlurmRoot) -> list[str]:
    """The session's lines, each command followed by what it has printed."""
    shown = []
    for prompt, lines in commands(session):
        words = "\n".join(lines)
        done = root.run(
            ["bash", "-c", f"exec 2>&1; {words}\nprintf '{MARK}%s' $?"], user=USERS[prompt], timeout=300
        )
        output, _, status = done.stdout.decode().rpartition(MARK)
        for pattern, replacement in CHANGING:
            output = pattern.sub(replacement, output)
        shown += [f"{prompt} {lines[0]}\n", *(f"> {line}".rstrip() + "\n" for line in lines[1:])]
        shown += [output if output.endswith("\n") or not output else output + "\n"]
        shown += [] if status == "0" else [f"[exit status {status}]\n"]
    return shown


def commands(session: str) -> list[tuple[str, list[str]]]:
    """Each command's prompt and lines."""
    found: list[tuple[str, list[str]]] = []
    for line in session.splitlines():
        if line[:2] in ("$ ", "# "):
            found.append((line[0], [line[2:]]))
        elif line.rstrip() == ">" or line[:2] == "> ":
            found[-1][1].append(line[2:])
    return found


def prepared(root: SlurmRoot, fresh: bool) -> None:
    """What the pages take for granted."""
    if not fresh:
        root.install_project()
        root.run(["ln", "-s", f"{checkout.PREFIX}/bin/slurm-oci-plugins", "/usr/local/bin"], user="root")
        root.run(["ln", "-s", checkout.VENV, "/root/slurm-oci"], user="root")  # where the pages have it
        return
    version = root.run(["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).stdout.decode()
    checkout.put_wheels(root, version.strip(), "hatchling")
    source = subprocess.run(["git", "ls-files", "-z"], cwd=checkout.PROJECT, capture_output=True, check=True)
    packed = ["tar", "--null", "--files-from=-", "--owner=0", "--group=0", "-c"]
    tree = subprocess.run(
        packed, cwd=checkout.PROJECT, input=source.stdout, stdout=subprocess.PIPE, check=True
    ).stdout
    unpack = "mkdir -p /usr/local/src/slurm-oci && tar -x -C /usr/local/src/slurm-oci"
    root.run(["sh", "-c", unpack], user="root", input=tree, check=True)
    root.write("/etc/pip.conf", f"[global]\nno-index = true\nfind-links = {checkout.WHEELS}\n")


def started(fresh: bool) -> SlurmRoot:
    """A Slurm for the sessions."""
    root = SlurmRoot.start(SUITE, name=f"sessions-{'fresh' if fresh else SUITE}-{os.getpid()}")
    prepared(root, fresh)
    return root


def main(words: list[str]) -> None:
    wanted = [Path(word).resolve() for word in words] or pages()
    for fresh in (False, True):
        mine = [page for page in wanted if is_fresh(page) == fresh]
        if mine:
            with started(fresh) as root:
                for page in mine:
                    page.write_text(rewritten(page, root), encoding="utf-8")
                    root.run(["sh", "-c", "rm -rf ~/.[!.]* ~/*"])


if __name__ == "__main__":
    main(sys.argv[1:])
