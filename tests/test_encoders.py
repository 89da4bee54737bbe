"""What a runtime is told is what the user wrote: each plan, executed with a recording stand-in, and
read back as that runtime reads it.

How a runtime reads its own options was seen on the real ones (apptainer 1.4.5, ch-run 0.38 and 0.45,
crun 1.21 and 1.28, runc 1.1.15 and 1.3.6); `tests/real/test_arguments.py` compares with them.
"""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from conftest import container, job
from hypothesis import example, given
from hypothesis import strategies as st

from slurm_oci import Image, Mount, SettingRefused, Settings
from slurm_oci.container import build
from slurm_oci.problems import ArgumentRefused, ArgumentTooLong
from slurm_oci_plugins import apptainer, charliecloud, crun, runc, unshare

PLUGINS = {
    module.__name__.rpartition(".")[2]: module for module in (apptainer, charliecloud, crun, runc, unshare)
}
STAND_IN = "#!/bin/sh\n/bin/cat /proc/$$/cmdline /proc/$$/environ\nexit\n"

PIECES = st.sampled_from([*"',:;\"\\$`=-#% \t\n*~aé", "\udcff", "$HOME", "$(id)", "''", "' '", "--", "a,ro"])
TEXTS = st.lists(PIECES, max_size=6).map(lambda pieces: os.fsdecode(os.fsencode("".join(pieces))))
NAMES = TEXTS.map(lambda text: f"x{text}") | TEXTS.filter(lambda text: text)
VARIABLES = st.sampled_from(
    ["A", "HOME", "TMPDIR", "PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "IFS", "PS1", "LC_CTYPE", "a.b",
     "BASH_FUNC_x%%", "1X", "a b", "$x", "\udcff"]
)  # fmt: skip


@attrs.frozen
class Told:
    """What a container is to be, as the user wrote it, or as a runtime understood it."""

    command: list[str]
    env: dict[str, str]
    mounts: set[tuple[str, str]]
    workdir: str
    image: str


# How each runtime reads what it is told


def read_apptainer(argv: list[str], env: dict[str, str], files: dict[str, bytes]) -> Told:
    """Options up to the first word that is none; `--mount` is a record of CSV; variables with the
    prefix stand in double quotes in a script."""
    values, rest = options(argv[2:], ("--mount", "--cwd", "--home"))
    (workdir,) = values["--cwd"]
    mounts = set()
    for text in values.get("--mount", []):
        kind, source, target = next(
            csv.reader([text]) if "\n" not in text else csv.reader(text.splitlines(True))
        )
        assert kind == "type=bind"
        mounts.add((source.removeprefix("src="), target.removeprefix("dst=")))
    inside = {name: value for name, value in env.items() if not name.startswith("APPTAINERENV_")}
    del inside["PATH"]  # apptainer's own
    for name, value in env.items():
        if name.startswith("APPTAINERENV_"):
            inside[name.removeprefix("APPTAINERENV_")] = in_double_quotes(value.replace('"', '\\"'))
    inside["HOME"] = values.get("--home", ["/home/alice"])[0]
    assert ":" not in inside["HOME"]
    return Told(rest[1:], inside, mounts, workdir, rest[0])


def in_double_quotes(text: str) -> str:
    """POSIX.1-2017, Shell Command Language, 2.2.3; where something would be expanded there is none."""
    assert not re.search(r"(?<!\\)(\\\\)*[$`]", text)
    return re.sub(r'\\([$`"\\\n])', r"\1", text)


def read_charliecloud(argv: list[str], env: dict[str, str], files: dict[str, bytes]) -> Told:
    """ch-run splits binds at the colon, takes a pair of single quotes off a variable's value, and
    changes HOME, TMPDIR and PATH otherwise."""
    values, rest = options(argv, ("--bind", "--cd"))
    mounts = {tuple(text.split(":")) for text in values.get("--bind", [])}
    inside = dict(env)
    assert not {"HOME", "TMPDIR", "LD_PRELOAD", "LD_LIBRARY_PATH"} & set(env)
    if "/bin" not in inside["PATH"].split(":"):
        inside["PATH"] += ":/bin"
    for text in values.get("--set-env", []):
        name, _, value = text.partition("=")
        inside[name] = value[1:-1] if len(value) > 1 and value[0] == value[-1] == "'" else value
    assert len(values.get("--env-no-expand", [])) == len(values.get("--set-env", []))
    assert rest[1] == "--"
    return Told(rest[2:], inside, mounts, values["--cd"][0], rest[0])


def read_oci(argv: list[str], env: dict[str, str], files: dict[str, bytes]) -> Told:
    """All of it stands in config.json, which is UTF-8."""
    config = json.loads(files["bundle/config.json"].decode())
    process = config["process"]
    inside = dict(entry.split("=", 1) for entry in process["env"])
    mounts = {(mount["source"], mount["destination"]) for mount in config["mounts"]}
    ours = {pair for pair in mounts if pair[0].startswith("/private/")}
    image = config["root"]["path"]
    if image.startswith("/private/"):  # then the image is there entry by entry
        (image,) = {source.removesuffix(target) for source, target in mounts - ours if target == "/bin"}
    return Told(process["args"], inside, mounts - ours, process["cwd"], image)


def read_unshare(argv: list[str], env: dict[str, str], files: dict[str, bytes]) -> Told:
    """A list of operations (`enter.py`)."""
    inside, mounts, image = dict(env), set(), ""
    if inside.get("LC_CTYPE") == "C":
        inside["LC_CTYPE"] = "C.UTF-8"  # as that Python has it (PEP 538)
    rest = argv[2:]
    while rest[0] != "start":
        operation, rest = rest[0], rest[1:]
        if operation == "variable":
            inside[rest[0]] = rest[1]
        elif operation == "bind":
            mounts.add((rest[0], rest[1]))
        elif operation == "image":
            image = rest[1]
        rest = rest[2 if operation in ("image", "link", "bind", "variable") else 1 :]
    return Told(rest[2:], inside, mounts, rest[1], image)


def options(words: list[str], with_value: tuple[str, ...]) -> tuple[dict[str, list[str]], list[str]]:
    """The options' values by name, and the words from the first one that is no option."""
    values: dict[str, list[str]] = {}
    while words[0].startswith("-"):
        name, equals, value = words[0].partition("=")
        if not equals and name in with_value:
            value, words = words[1], words[1:]
        values.setdefault(name, []).append(value)
        words = words[1:]
    return values, words


READERS = {
    "apptainer": read_apptainer,
    "charliecloud": read_charliecloud,
    "crun": read_oci,
    "runc": read_oci,
    "unshare": read_unshare,
}


# Through a process


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """Stands for every runtime: prints its words and its variables."""
    path = tmp_path_factory.mktemp("stand-in") / "runtime"
    path.write_text(STAND_IN)
    path.chmod(0o755)
    return path


def read_back(runtime: str, box, stand_in: Path) -> Told:
    """What `runtime` understands of a plan that was really executed, as bytes through the kernel."""
    made = PLUGINS[runtime].slurm_oci_runtimes()[0].plan(box)
    out = subprocess.run([stand_in, *made.argv[1:]], env=made.env, stdout=subprocess.PIPE, check=True).stdout
    texts = os.fsdecode(out).split("\0")[:-1]
    end = len(made.argv) + 1  # of the words, of which the first is the shell's
    env = dict(text.split("=", 1) for text in texts[end:])
    return READERS[runtime](texts[2:end], env, {file.name: file.content for file in made.files})


def must_be_refused(runtime: str, sent: Told) -> bool:
    """Whether the runtime has no way to be told this."""
    paths = [path for pair in sent.mounts for path in pair]
    words = [*sent.command, *sent.env, *sent.env.values(), *paths, sent.workdir, sent.image]
    home = sent.env.get("HOME", "/home/alice")
    if runtime == "charliecloud":
        no_overlay = bool(sent.mounts) and bool(set(sent.image) & set(",:\\"))
        return no_overlay or any(":" in path for path in paths)
    if runtime == "unshare":
        return False
    odd_home = {"apptainer": not home or ":" in home, "runc": not home, "crun": False}[runtime]
    return odd_home or any("\udc80" <= sign <= "\udcff" for word in words for sign in word)


@pytest.mark.parametrize("runtime", PLUGINS)
@given(
    command=st.lists(TEXTS, max_size=4),
    env=st.dictionaries(VARIABLES, TEXTS, max_size=5),
    mounts=st.lists(st.tuples(NAMES, NAMES), max_size=2, unique_by=lambda pair: pair[1]),
    image=NAMES,
)
@example(command=["-n", "", "it's"], env={"TMPDIR": "/no/such"}, mounts=[], image="-a")
@example(command=[], env={"HOME": "'/quoted'", "PATH": "/odd"}, mounts=[], image="a b")
@example(command=[], env={"HOME": "", "IFS": "x", "PS1": "$x"}, mounts=[], image="i")
@example(command=[], env={"HOME": "/a:b", "LC_CTYPE": "C"}, mounts=[], image="i")
@example(command=[], env={"LD_LIBRARY_PATH": '$(id)`id`"\\'}, mounts=[], image="i")
@example(command=[], env={"A": "\udcff"}, mounts=[], image="i")
@example(command=[], env={"\udcff": "A"}, mounts=[], image="i")
@example(command=["\udcff"], env={}, mounts=[], image="i")
@example(command=[], env={}, mounts=[("\udcff", "t")], image="i")
@example(command=[], env={}, mounts=[('a,"b"', "a,ro"), ("a\n", "b\\")], image="i")
@example(command=[], env={}, mounts=[("s", "a:b")], image="i")
@example(command=[], env={}, mounts=[("s", "t")], image="a,b:c\\")
@example(command=[], env={}, mounts=[], image="a,b:c\\\udcff")
def test_a_runtime_is_told_exactly_what_was_written(
    runtime, stand_in, tmp_path_factory, command, env, mounts, image
):
    """Command, variables, mounts, working directory and image: carried exactly, or refused."""
    place = tmp_path_factory.getbasetemp() / "encoders"
    root = place / f"{image}.image"
    for folder in ("bin", "dev", "proc", "sys"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    pairs = [(str(place / f"{source}.source"), f"/{target}.target") for source, target in mounts]
    for source, _ in pairs:
        Path(source).mkdir(exist_ok=True)
    sent = Told(["run", *command], env, set(pairs), pairs[0][1] if pairs else "/", str(root))
    config = {"root": {"path": "x"}, "process": {}} if runtime in ("crun", "runc") else {}
    box = container(
        image=Image(str(root), "oci-bundle" if config else "rootfs", str(root), str(root), config),
        command=tuple(sent.command),
        env=env,
        mounts=tuple(Mount(*pair, False, True, "SLURM_OCI_MOUNTS") for pair in pairs),
        workdir=sent.workdir,
        settings=Settings(origins={"workdir": "SLURM_OCI_WORKDIR"}),
        executables={"ch-run": "/ch-run", "apptainer": "/apptainer", "crun": "/crun", "runc": "/runc"},
        probed={"write-fake": True},
        private="/private",
    )
    if must_be_refused(runtime, sent):
        with pytest.raises((ArgumentRefused, SettingRefused)):
            read_back(runtime, box, stand_in)
        return
    got = read_back(runtime, box, stand_in)
    assert (got.command, got.workdir, got.image) == (sent.command, sent.workdir, sent.image)
    assert {name: got.env.get(name) for name in env} == env
    assert {pair for pair in got.mounts if pair[1].endswith(".target")} == sent.mounts


# What is refused, and how


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"command": ("echo", "\udcff")}, r"word 1 of the command, '\udcff',"),
        ({"env": {"TOKEN": "\udcff"}}, "the value of the variable `TOKEN`"),
        ({"env": {"\udcff": "1"}}, r"the name of the variable '\udcff'"),
        (
            {"mounts": (Mount("/\udcff", "/a", why="SLURM_OCI_MOUNTS"),)},
            r"the source of a mount (SLURM_OCI_MOUNTS), '/\udcff',",
        ),
        ({"mounts": (Mount("/a", "/\udcff", why="home"),)}, r"the target of a mount (home), '/\udcff',"),
        ({"workdir": "/\udcff"}, r"the working directory, '/\udcff',"),
        ({"image": Image("i", "rootfs", "/\udcff", "/\udcff")}, r"the image's path, '/\udcff',"),
    ],
)
@pytest.mark.parametrize("runtime", ["apptainer", "crun", "runc"])
def test_what_is_no_utf8_is_refused_by_name(runtime, changes, what):
    """With what it is and where it stands; of a variable its name alone, as it may be a secret."""
    with pytest.raises(ArgumentRefused) as caught:
        PLUGINS[runtime].plan(container(**changes))
    assert caught.value.message == f"{what} is not UTF-8, and `{runtime}` would change it"
    assert caught.value.hints == ("charliecloud and unshare carry any bytes: SLURM_OCI_RUNTIME=unshare",)


@pytest.mark.parametrize("long", ["word", "variable"])
def test_what_the_kernel_passes_to_no_program_is_refused_before_the_runtime_meets_it(long, tmp_path):
    """One byte less is fine."""
    most = 32 * os.sysconf("SC_PAGE_SIZE") - 1
    image = Image(str(tmp_path), "rootfs", str(tmp_path), str(tmp_path))

    def made(length):
        word = "x" * length if long == "word" else "sh"
        env = {"A": "é" + "x" * (length - 4)} if long == "variable" else {}
        box = container()
        return build(box.request.replace(command=("echo", word)), job(env), image, Settings())

    assert made(most)
    with pytest.raises(ArgumentTooLong) as caught:
        made(most + 1)
    what = "word 1 of the command" if long == "word" else "the variable `A`"
    assert caught.value.message == f"{what} is {most + 1} bytes long: the kernel passes {most} at most"


def test_the_limit_is_the_kernel_s():
    """A program does start with a word of that length, and with none longer."""
    most = 32 * os.sysconf("SC_PAGE_SIZE") - 1
    assert subprocess.run([sys.executable, "-c", "", "x" * most]).returncode == 0
    with pytest.raises(OSError, match="too long"):
        subprocess.run([sys.executable, "-c", "", "x" * (most + 1)])


def test_a_default_mount_that_charliecloud_cannot_do_is_left_out(tmp_path):
    """A home with a colon in its path is no reason to refuse the job."""
    folder = tmp_path / "a:b"
    folder.mkdir()
    default = Mount(str(folder), "/data", wish=False, why="home")
    image = Image(str(tmp_path), "rootfs", str(tmp_path), str(tmp_path))
    made = charliecloud.plan(
        container(
            image=image, mounts=(default,), executables={"ch-run": "/ch-run"}, probed={"write-fake": True}
        )
    )
    assert "--bind" not in made.argv
