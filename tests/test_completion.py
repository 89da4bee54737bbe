"""Completion of `slurm-oci-plugins`, by the real shells and as they ask for it."""

import os
import pty
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from slurm_oci.cli import COMMANDS, cli

SCRIPTS = Path(sys.executable).parent  # where slurm-oci-plugins lies
# How each shell is started without its user's files, and told what `completion` prints.
SHELLS = {
    "bash": (["bash", "--norc", "-i"], 'eval "$(slurm-oci-plugins completion bash)"'),
    "zsh": (
        ["zsh", "-f", "-i"],
        'autoload -U compinit; compinit -u; eval "$(slurm-oci-plugins completion zsh)"',
    ),
    "fish": (["fish", "--no-config"], "slurm-oci-plugins completion fish | source"),
}
# What is typed before the tab, and what stands there afterwards.
TYPED = [
    ("slurm-oci-plugins tem", "slurm-oci-plugins template"),
    ("slurm-oci-plugins show charl", "slurm-oci-plugins show charliecloud"),
    ("slurm-oci-plugins template modu", "slurm-oci-plugins template modules"),
    ("slurm-oci-plugins oci-conf --runtime nvi", "slurm-oci-plugins oci-conf --runtime nvidia-container-runtime"),
    ("slurm-oci-plugins explain ./im", "slurm-oci-plugins explain ./image.sqsh"),
    ("slurm-oci-plugins run ./im", "slurm-oci-plugins run ./image.sqsh"),
    ("slurm-oci-plugins --pref", "slurm-oci-plugins --prefix"),
]  # fmt: skip


def surroundings(tmp_path):
    (tmp_path / "image.sqsh").touch()
    return {"PATH": f"{SCRIPTS}:/usr/bin:/bin", "HOME": str(tmp_path), "TERM": "dumb", "LANG": "C.UTF-8"}


@pytest.mark.parametrize(("typed", "expected"), TYPED)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_tab_completes_the_word(shell, typed, expected, tmp_path):
    """At a terminal: the line is then echoed by the shell itself, in place of being run."""
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    argv, set_up = SHELLS[shell]
    master, slave = pty.openpty()
    with subprocess.Popen(
        argv, cwd=tmp_path, env=surroundings(tmp_path), stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True,
    ) as process:  # fmt: skip
        os.close(slave)
        os.write(master, f"{set_up}; echo RE''ADY\n".encode())
        shown = read_until(master, b"READY")
        # ^A goes to the beginning of the line.
        os.write(master, f"{typed}\t\x01printf '<%s>' \nexit\n".encode())
        shown += read_until(master, None)
    os.close(master)
    assert process.returncode == 0
    words = "".join(f"<{word}>" for word in expected.split())
    assert words in shown.decode(), shown.decode()


def read_until(terminal, mark):
    """What is shown, up to `mark` or the end."""
    shown = b""
    while mark is None or mark not in shown:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the shell has ended
            break
    return shown


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
@pytest.mark.parametrize(("typed", "expected"), TYPED)
def test_fish_completes_the_word(typed, expected, tmp_path):
    """By its own command that says what a tab would offer."""
    ask = f"{SHELLS['fish'][1]}; complete --do-complete {shlex.quote(typed)}"
    done = subprocess.run(
        [*SHELLS["fish"][0], "-c", ask], cwd=tmp_path, env=surroundings(tmp_path), capture_output=True, text=True
    )  # fmt: skip
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [expected.split()[-1]]


def offered(*words, cwd):
    """What is offered for the last of `words`, as bash asks."""
    done = subprocess.run(
        [SCRIPTS / "slurm-oci-plugins"], cwd=cwd, capture_output=True, text=True,
        env={
            "PATH": "/usr/bin:/bin",
            "_SLURM_OCI_PLUGINS_COMPLETE": "bash_complete",
            "COMP_WORDS": shlex.join(["slurm-oci-plugins", *words[:-1]]) + " " + words[-1],
            "COMP_CWORD": str(len(words)),
        },
    )  # fmt: skip
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_every_command_is_offered(tmp_path):
    """In the order of use."""
    assert offered("", cwd=tmp_path) == list(COMMANDS)


def test_runtimes_are_those_of_the_installation_that_is_named(slurm, place):
    """Its catalog's; one that site.toml has added since, too."""
    (slurm.prefix / "site.toml").write_text('[runtimes.tool]\nrun = ["tool", "%@"]\naccepts = ["rootfs"]\n')
    assert "tool" in offered("--prefix", str(slurm.prefix), "show", "", cwd=place)


def test_a_site_toml_that_is_wrong_offers_nothing(slurm, place):
    """And says nothing: the user is in the middle of a line."""
    (slurm.prefix / "site.toml").write_text("oder = []\n")
    assert offered("--prefix", str(slurm.prefix), "show", "", cwd=place) == []


PATHS = {"DIR", "FILE", "PATH", "IMAGE", "SOURCE", "DEST"}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_a_path_is_completed_as_one(name):
    """Each option and argument whose name in the help says so."""
    command = cli.get_command(click.Context(cli), name)
    context = click.Context(command, parent=click.Context(cli, info_name="slurm-oci-plugins"))
    for parameter in command.params:
        if (parameter.metavar or parameter.name.upper()) in PATHS:
            (item,) = parameter.shell_complete(context, "./i")
            assert (item.type, item.value) in [("file", "./i"), ("dir", "./i")], parameter
