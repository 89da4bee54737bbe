"""What a runtime is told is what the user wrote: each plan, executed with a recording stand-in, and
read back as that runtime reads it.

How a runtime reads its own options was seen on the real ones (apptainer 1.4.5, ch-run 0.38 and 0.45,
crun 1.21 and 1.28, runc 1.1.15 and 1.3.6, podman 5.4 and 5.8); `tests/real/test_arguments.py` compares
with them. Those that no archive of Debian's has, were read in their own sources: SingularityCE 4
(process_linux.go, bind/mount.go), enroot 4 (runtime.sh, common.sh, compat.h), Shifter (shifter.c,
VolumeMap.c, ImageData.c) and Sarus 1.7 (CommandRun.hpp, string.cpp).
"""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from argument_classes import CLASSES, compare, verdict
from conftest import container, job, request
from hypothesis import example, given
from hypothesis import strategies as st

from slurm_oci import Image, Mount, SettingRefused, Settings
from slurm_oci.container import build
from slurm_oci.problems import ArgumentRefused, ArgumentTooLong, ImageRefused
from slurm_oci_plugins import (
    apptainer,
    carried,
    charliecloud,
    crun,
    enroot,
    nvidia,
    podman,
    runc,
    sarus,
    shifter,
    singularity,
    unshare,
)

MODULES = (apptainer, charliecloud, crun, enroot, nvidia, podman, runc, sarus, shifter, singularity, unshare)
PLUGINS = {module.__name__.rpartition(".")[2]: module for module in MODULES}
OCI = ("crun", "runc", "nvidia")  # which take bundles
BY_NAME = ("shifter", "sarus")  # which take images of their own by name
UTF8_ONLY = ("apptainer", "singularity", "podman", "enroot", "sarus", *OCI)
STAND_IN = "#!/bin/sh\n/bin/cat /proc/$$/cmdline /proc/$$/environ\nexit\n"

PIECES = st.sampled_from(
    [*"',:;\"\\$`=-#% \t\n\r\v\f*~.aé", "\udcff", "$HOME", "$(id)", "''", "' '", "--", "a,ro", "\r\n", "\\040"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=6).map(lambda pieces: os.fsdecode(os.fsencode("".join(pieces))))
NAMES = TEXTS.map(lambda text: f"x{text}") | TEXTS.filter(lambda text: text)
VARIABLES = st.sampled_from(
    ["A", "HOME", "TMPDIR", "PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "IFS", "PS1", "LC_CTYPE", "a.b",
     "BASH_FUNC_x%%", "1X", "a b", " a", "a*", "$x", "SHELL", "XDG_DATA_HOME", "ENROOT_A", "MALLOC_CHECK_",
     "\udcff"]
)  # fmt: skip


@attrs.define
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
    return read_singularity(argv, env, "APPTAINERENV_")


def read_singularity(argv: list[str], env: dict[str, str], prefix: str) -> Told:
    values, rest = options(argv[2:], ("--mount", "--cwd", "--home"))
    (workdir,) = values["--cwd"]
    mounts = set()
    for text in values.get("--mount", []):
        mounts.add(bind_of(text))
    inside = {name: value for name, value in env.items() if not name.startswith(prefix)}
    del inside["PATH"]  # apptainer's own
    for name, value in env.items():
        if name.startswith(prefix):
            inside[name.removeprefix(prefix)] = in_double_quotes(value.replace('"', '\\"'))
    inside["HOME"] = values.get("--home", ["/home/alice"])[0]
    assert ":" not in inside["HOME"]
    return Told(rest[1:], inside, mounts, workdir, rest[0])


def bind_of(text: str) -> tuple[str, str]:
    """Source and target of a `--mount`, as Go's encoding/csv reads it: of the text's end it drops a
    carriage return, and of any line's end it makes a newline."""
    text = text.removesuffix("\r").replace("\r\n", "\n")
    ((kind, source, target),) = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert kind == "type=bind"
    return source.removeprefix("src="), target.removeprefix("dst=")


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


def read_podman(argv: list[str], env: dict[str, str], files: dict[str, bytes]) -> Told:
    """`--env` takes blanks off the front of the name, and `NAME` alone is podman's own variable."""
    _, rest = options(argv, ("--root", "--runroot", "--tmpdir"))
    assert rest[0] == "run"
    values, rest = options(rest[1:], ("--mount", "--workdir"))
    inside = {}
    for text in values.get("--env", []):
        name, equals, value = text.partition("=")
        name = name.lstrip(" \t")
        assert equals or not name.endswith("*")
        inside[name] = value if equals else env[name]
    image, colon, overlay = rest[0].rpartition(":")
    assert (colon, overlay) == (":", "O")
    assert ":" not in image
    image = os.fsdecode(files["image"]) if image == "/private/image" else image
    mounts = {bind_of(text) for text in values.get("--mount", [])} - {("/dev/shm", "/dev/shm")}
    return Told(rest[1:], inside, mounts, values["--workdir"][0], image)


def read_enroot(argv: list[str], env: dict[str, str], files: dict[str, bytes]) -> Told:
    """Variables are lines that `sed` goes over twice, mounts are lines of fstab(5), and what runs the
    command is a shell of the image, in which SHELL is enroot's own."""
    assert argv[:6] == ["start", "--conf", "/private/conf", "--rc", "/private/rc", "--"]
    lines = os.fsdecode(files["environ"]).split("\n")[:-1]
    for _ in range(2):
        lines = [line.lstrip(" \t\n\v\f\r") for line in lines]
        lines = [line for line in lines if re.match(r"(?!ENROOT_)[A-Za-z_][A-Za-z0-9_]*=", line)]
        lines = [re.sub(r"""(?s)^([^=]*)=["'](.*)["'][ \t\n\v\f\r]*$""", r"\1=\2", line) for line in lines]
    inside = dict(line.split("=", 1) for line in lines)
    mounts = set()
    for line in os.fsdecode(files["fstab"]).split("\n")[:-1]:
        assert len(os.fsencode(line)) < 4095  # with the newline, what fgets(3) takes of it
        for blanks in (r"[ \t\n\v\f\r]+", r"[ \t]+"):  # musl's, and glibc's
            source, target, kind, flags = re.split(blanks, line)
            assert kind == "none"
            assert flags.endswith("rslave")
        mounts.add((unescaped(source), unescaped(target)))
    assert files["rc"].decode() == "unset SHELL\n" + carried.ENTER
    inside = {name: value for name, value in inside.items() if name != "SHELL"}
    workdir, command = by_enter(argv[7:], inside)
    return Told(command, inside, mounts, workdir, argv[6])


def unescaped(field: str) -> str:
    """As getmntent(3) of glibc and of musl both read it."""
    assert not re.search(r"\\(?!040|011|012|134)", field)
    return re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), field)


def by_enter(words: list[str], inside: dict[str, str]) -> tuple[str, list[str]]:
    """The directory and the command of our own script for a shell, which sets IFS and PS1 to what it
    likes, and then takes variables from the words."""
    for name in ("IFS", "PS1"):
        if name in inside:
            inside[name] = "the shell's own"
    end = words.index("", 1)
    inside |= dict(word.split("=", 1) for word in words[1:end])
    return words[0], words[end + 1 :]


def read_shifter(argv: list[str], env: dict[str, str], files: dict[str, bytes]) -> Told:
    """A setuid program, to which the C library leaves some variables out. Paths and names lose most
    signs, volumes are cut at semicolons and colons, an empty value is an error."""
    values, rest = options(argv, ())
    inside = {name: value for name, value in env.items() if not taken_away(name)}
    for text in values.get("--env", []):
        name, value = text.split("=", 1)
        assert value
        inside[name] = value
    mounts = set()
    for text in values.get("--volume", []):
        (pair,) = text.split(";")
        source, target = (re.sub(r"[^A-Za-z0-9_.+/-]", "", path) for path in pair.split(":"))
        assert ".." not in source + target
        assert target == "/var/tmp" or not re.match("/etc|/var|/opt/udiImage|/opt$", target)
        mounts.add((source, target))
    kind, name = values["--image"][0].split(":", 1)
    assert kind == "docker"
    image = re.sub(r"[^A-Za-z0-9_:.+@/-]", "", name)
    if "--workdir" in values:
        return Told(rest, inside, mounts, values["--workdir"][0], image)
    assert rest[:4] == ["/bin/sh", "-c", carried.ENTER, "sh"]
    workdir, command = by_enter(rest[4:], inside)
    return Told(command, inside, mounts, workdir, image)


def read_sarus(argv: list[str], env: dict[str, str], files: dict[str, bytes]) -> Told:
    """A setuid program too. A mount is cut at commas, and each part at its one equals sign; variables
    that no option names may lose against the image's."""
    assert argv[0] == "run"
    values, rest = options(argv[1:], ("--entrypoint",))
    assert values["--entrypoint"] == [""]
    own = {name: value for name, value in env.items() if not taken_away(name)}
    inside = {}
    for text in values.get("--env", []):
        name, equals, value = text.partition("=")
        if equals or name in own:
            inside[name] = value if equals else own[name]
    mounts = set()
    for text in values.get("--mount", []):
        fields = dict(part.split("=") for part in text.split(","))
        assert list(fields) == ["type", "source", "destination"]
        mounts.add((fields["source"], fields["destination"]))
    return Told(rest[1:], inside, mounts, values["--workdir"][0], rest[0])


def taken_away(name: str) -> bool:
    """Some of what glibc's unsecvars.h lists, and LD_LIBRARY_PATH's like (ld.so(8))."""
    return name.startswith("LD_") or name in ("TMPDIR", "MALLOC_CHECK_", "LOCPATH", "TZDIR")


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
    "enroot": read_enroot,
    "nvidia": read_oci,
    "podman": read_podman,
    "runc": read_oci,
    "sarus": read_sarus,
    "shifter": read_shifter,
    "singularity": lambda argv, env, files: read_singularity(argv, env, "SINGULARITYENV_"),
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


def read_back(runtime: str, box, stand_in: Path) -> tuple[Told, tuple[str, ...]]:
    """What `runtime` understands of a plan that was really executed, as bytes through the kernel, and
    the plan's notes."""
    made = PLUGINS[runtime].slurm_oci_runtimes()[0].plan(box)
    out = subprocess.run([stand_in, *made.argv[1:]], env=made.env, stdout=subprocess.PIPE, check=True).stdout
    texts = os.fsdecode(out).split("\0")[:-1]
    end = len(made.argv) + 1  # of the words, of which the first is the shell's
    env = dict(text.split("=", 1) for text in texts[end:])
    files = {file.name: file.content for file in made.files}
    files |= {name: os.fsencode(target) for name, target in made.links}
    return READERS[runtime](texts[2:end], env, files), made.notes


def must_be_refused(runtime: str, sent: Told) -> bool:
    """Whether the runtime has no way to be told this."""
    paths = [path for pair in sent.mounts for path in pair]
    words = [*sent.command, *sent.env, *sent.env.values(), *paths, sent.workdir, sent.image]
    home = sent.env.get("HOME", "/home/alice")
    if runtime == "charliecloud":
        no_overlay = bool(sent.mounts) and bool(set(sent.image) & set(",:\\"))
        return no_overlay or any(":" in path for path in paths)
    refused = {
        "apptainer": not home or ":" in home or any("\r\n" in path for path in paths),
        "singularity": not home or ":" in home or any("\r\n" in path for path in paths),
        "podman": any("\r\n" in path for path in paths),
        "enroot": any(set(path) & set("\v\f\r") for path in paths) or "'" in sent.image,
        "shifter": any(re.search(r"[^A-Za-z0-9_.+/-]|\.\.", path) for path in paths)
        or bool(re.search(r"[^A-Za-z0-9_:.+@/-]", sent.image)),
        "sarus": any(set(path) & set(",=") for path in paths) or sent.image.startswith("-"),
        "runc": not home,
        "nvidia": not home,
    }.get(runtime, False)
    is_odd = any("\udc80" <= sign <= "\udcff" for word in words for sign in word)
    return refused or (runtime in UTF8_ONLY and is_odd)


def must_be_left_out(runtime: str, name: str, value: str) -> bool:
    """Whether the runtime has no way to be told this variable; there is a line of warning then."""
    if runtime == "enroot":
        return not re.fullmatch(r"(?!ENROOT_)[A-Za-z_][A-Za-z0-9_]*", name) or "\n" in value
    if runtime == "shifter":
        return not value and (taken_away(name) or name == "PATH")
    return runtime == "podman" and name.startswith(" ")


def told_to(runtime, place, command=(), env=None, mounts=(), image="i"):
    """What a user writes, and the container that `runtime` shall make of it. Makes image and sources
    in `place`."""
    env = env or {}
    root = place / f"{image}.image"
    for folder in ("bin", "dev", "proc", "sys"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    pairs = [(str(place / f"{source}.source"), f"/{target}.target") for source, target in mounts]
    for source, _ in pairs:
        Path(source).mkdir(exist_ok=True)
    sent = Told(["run", *command], env, set(pairs), pairs[0][1] if pairs else "/", str(root))
    config = {"root": {"path": "x"}, "process": {}} if runtime in OCI else {}
    given = Image(str(root), "oci-bundle" if config else "rootfs", str(root), str(root), config)
    if runtime in BY_NAME:
        sent.image = image
        given = Image(f"docker://{image}", "reference")
    elif runtime == "enroot":
        given = Image(str(root), "squashfs", str(root))
    box = container(
        request=request(uid=os.geteuid()),
        image=given,
        command=tuple(sent.command),
        env=env,
        mounts=tuple(Mount(*pair, False, True, "SLURM_OCI_MOUNTS") for pair in pairs),
        workdir=sent.workdir,
        settings=Settings(origins={"workdir": "SLURM_OCI_WORKDIR"} if pairs else {}),
        executables={name: "/" + name for name in PLUGINS[runtime].slurm_oci_runtimes()[0].executables},
        probed={"write-fake": True},
        private="/private",
    )
    return sent, box


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
@example(command=[], env={}, mounts=[("a\r\nb", "t")], image="i")
@example(command=[], env={}, mounts=[("a\r", "b\r")], image="i")
@example(command=[], env={}, mounts=[("a\vb", "t")], image="i")
@example(command=[], env={}, mounts=[("a;b", "t..")], image="i")
@example(command=[], env={" a": "1", "a*": "2"}, mounts=[], image="i")
@example(command=[], env={"IFS": ",", "PS1": "#", "SHELL": "", "A": "\"x' "}, mounts=[("s", "t")], image="i")
@example(command=[], env={"MALLOC_CHECK_": "3", "TMPDIR": "", "A": "x\ny"}, mounts=[], image="i")
@example(command=[], env={}, mounts=[], image="it's;")
def test_a_runtime_is_told_exactly_what_was_written(
    runtime, stand_in, tmp_path_factory, command, env, mounts, image
):
    """Command, variables, mounts, working directory and image: carried exactly, or refused."""
    sent, box = told_to(runtime, tmp_path_factory.getbasetemp() / "encoders", command, env, mounts, image)
    if must_be_refused(runtime, sent):
        with pytest.raises((ArgumentRefused, ImageRefused, SettingRefused)):
            read_back(runtime, box, stand_in)
        return
    got, notes = read_back(runtime, box, stand_in)
    assert (got.command, got.workdir, got.image) == (sent.command, sent.workdir, sent.image)
    left_out = {name for name in env if must_be_left_out(runtime, name, env[name])}
    assert {name: got.env.get(name) for name in env if name not in left_out} == {
        name: value for name, value in env.items() if name not in left_out
    }
    assert all(any(name in note for note in notes) for name in left_out)
    assert {pair for pair in got.mounts if pair[1].endswith(".target")} == sent.mounts


NO_ARCHIVE_HAS = ("enroot", "nvidia", "sarus", "shifter", "singularity")


@pytest.mark.parametrize("runtime", NO_ARCHIVE_HAS)
def test_each_class_of_arguments_as_the_table_says(runtime, stand_in, tmp_path):
    """Of the runtimes that `tests/real/test_arguments.py` cannot try."""
    found = {}
    for name, lists in CLASSES.items():
        found[name] = verdict([verdict_of(runtime, stand_in, tmp_path, words) for words in lists])
    compare("stand-in", "", PLUGINS[runtime].slurm_oci_runtimes()[0].name, found)


def verdict_of(runtime, stand_in, place, words):
    sent, box = told_to(runtime, place, words)
    try:
        got, _ = read_back(runtime, box, stand_in)
    except ArgumentRefused as refused:
        return f"refused: {refused.code}"
    return "arrives" if got.command == sent.command else "is changed"


# What is refused, and how


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"command": ("echo", "\udcff")}, "word 1 of the command, `\udcff`,"),
        ({"env": {"TOKEN": "\udcff"}}, "the value of the variable `TOKEN`"),
        ({"env": {"\udcff": "1"}}, "the name of the variable `\udcff`"),
        (
            {"mounts": (Mount("/\udcff", "/a", why="SLURM_OCI_MOUNTS"),)},
            "the source of a mount (SLURM_OCI_MOUNTS), `/\udcff`,",
        ),
        ({"mounts": (Mount("/a", "/\udcff", why="home"),)}, "the target of a mount (home), `/\udcff`,"),
        ({"workdir": "/\udcff"}, "the working directory, `/\udcff`,"),
        ({"image": Image("i", "rootfs", "/\udcff", "/\udcff")}, "the image's path, `/\udcff`,"),
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
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/echo").touch()

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
