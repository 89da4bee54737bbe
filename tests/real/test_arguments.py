"""Every argument, byte for byte: through Slurm, and through each runtime's own ways of being told.

The runtimes get their tasks from the entry point directly, many in one call (`arrival.py`); Slurm
gets many steps of one allocation (`each.py`). What arrives for each class of arguments is compared
with the table in docs/arguments.md; SLURM_OCI_UPDATE=1 writes what was found instead, and then
`python docs/generate.py` makes the table from it.
"""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from argument_classes import CLASSES, compare, verdict
from conftest import GUIDES_LINE
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from images import IMAGES

from slurm_oci.pattern import Fields, ShellActs, Version, quotes_rightly, shell_line, shell_words
from slurm_oci.values import Request

HERE = Path(__file__).resolve().parent
EXAMPLES = int(os.environ.get("SLURM_OCI_RANDOM_ARGUMENTS", "150"))

# Signs that a list, a shell, CSV, JSON, an overlay's options or a reader of options could take for
# something else; each of these has broken a runtime's way once, here or elsewhere.
ODD = ["a b", "a,b", "a:b", "a;b", "a\tb", "a\nb", "a\n", "a'b", 'a"b', '"a"', "a\\b", "a\\", "$HOME"]
ODD += ["a\rb", "a\r", "a\vb", "$(id)", "*", "[a]{b}", "-a", "--bind", "#a", "%b", "a=b", "é", "\udcff"]
ODD += ["\x01", " a "]
NAMES = st.sampled_from(ODD) | st.text(" ,:;'\"\\$`\n\t\r\v#%-=aé\udcff", min_size=1, max_size=8)
TEXTS = st.sampled_from([*ODD, "", "'x'", "''", "a" * 100_000]) | st.binary(max_size=20).map(
    lambda text: os.fsdecode(text.replace(b"\0", b""))
)
VARIABLES = st.sampled_from(
    ["A", "BASH_FUNC_x%%", "a.b", "A-B", "1X", "a b", "LC_CTYPE", "IFS", "PS1", "TMPDIR", "LANG", "UID", "é"]
) | st.text("ABcd_%.- $'\"\\é\udcff", min_size=1, max_size=6)
WORDS = st.lists(TEXTS, max_size=6)

PODMANS = "/home/alice/of-podman"  # it takes no directory of somebody else's
RUNTIMES = ("unshare", "crun", "runc", "charliecloud", "apptainer")
KIND = {"crun": "oci-bundle", "runc": "oci-bundle"}
UTF8_ONLY = ("crun", "runc", "apptainer")


def latin(text):
    """The bytes of `text`, a character each, as JSON can hold them."""
    return os.fsencode(text).decode("latin-1")


def text(latin_text):
    return os.fsdecode(latin_text.encode("latin-1"))


def drawn(strategy, number):
    """`number` random values. Hypothesis finds them; a failure prints the value."""
    found = []

    @settings(
        max_examples=number, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def draw(value):
        found.append(value)

    draw()
    return found


@pytest.fixture(params=RUNTIMES)
def runtime(request, slurm):
    if request.param == "apptainer" and not slurm.root.has("apptainer"):
        pytest.skip(f"{slurm.root.suite} has no package of apptainer")
    return request.param


@pytest.fixture
def arrive(slurm):
    """Starts tasks through the entry point; what arrived of each."""
    slurm.root.write("/tmp/arrival.py", (HERE / "arrival.py").read_text())

    def ask(cases):
        status, out, error = slurm("python3", "/tmp/arrival.py", input=json.dumps(cases), timeout=300)
        assert (status, error) == (0, b"")
        return json.loads(out)

    return ask


def case(runtime, command=(), env=None, image=None, **more):
    env = {"SLURM_OCI_RUNTIME": runtime, **(env or {})}
    return {
        "image": latin(image or IMAGES[KIND.get(runtime, "rootfs")]),
        "command": [latin(word) for word in command],
        "env": {latin(name): latin(value) for name, value in env.items()},
        **more,
    }


# The table


def test_each_class_of_arguments_arrives_or_is_refused_by_a_runtime(slurm, runtime, arrive):
    """As docs/arguments.md says."""
    found = {}
    for name, lists in CLASSES.items():
        told = arrive([case(runtime, command) for command in lists])
        found[name] = verdict([verdict_of_runtime(*pair) for pair in zip(lists, told)])
    compare(slurm.root.suite, str(version_of(slurm)), runtime, found)


def test_podman_is_told_each_class_of_arguments_and_each_odd_path(slurm, arrive, odd_places):
    """As docs/arguments.md says. A container of podman's takes a second: the lists of a class go
    together, and mounts, variables, directory and image into a few."""
    assert slurm("cp", "-r", IMAGES["rootfs"], PODMANS) == (0, b"", b"")
    lists = {name: [word for words in several for word in words] for name, several in CLASSES.items()}
    ended = arrive([case("podman", command, image=PODMANS) for command in lists.values()])
    pairs = zip(lists.items(), ended)
    found = {name: verdict_of_runtime(command, told) for (name, command), told in pairs}
    compare(slurm.root.suite, str(version_of(slurm)), "podman", found)

    names = sorted({*ODD, *drawn(NAMES, EXAMPLES // 10)})
    names = [name for name in names if is_utf8(name) and "\r\n" not in name]
    sources = odd_places(names)
    mounts = ",".join(f"{escaped(place)}:{escaped('/to/' + name)}" for name, place in zip(names, sources))
    env = {**ONCE_BROKEN, "HOME": "/a $HOME:b", "A-B": "1", "a b": "2", "a*": "3", "XDG_X": "4"}
    images = [f"{PODMANS}/{name}" for name in ("a:b", "a b", "a'b", "é")]
    for image in images:
        slurm("cp", "-r", IMAGES["rootfs"], image)
    told, *others = arrive([
        case("podman", env={**env, "SLURM_OCI_MOUNTS": mounts, "SLURM_OCI_WORKDIR": place}, image=PODMANS,
             look=[latin(f"/to/{name}/mark") for name in names])
        for place in ("/to/a:b", "/to/ a ")
    ] + [case("podman", image=image) for image in images])  # fmt: skip
    slurm("rm", "-rf", PODMANS)
    assert (told["status"], told["error"], told["cwd"]) == (0, "", "/to/a:b")
    assert told["files"] == "".join(f"<{number}>" for number in range(len(names)))
    assert {name: told["env"].get(latin(name)) for name in env} == env
    assert (others[0]["status"], others[0]["cwd"]) == (0, "/to/ a ")
    assert [(one["status"], one["error"]) for one in others[1:]] == [(0, "")] * len(images)


def verdict_of_runtime(command, told):
    if "argv" in told:
        return "arrives" if [text(word) for word in told["argv"]] == command else "is changed"
    first = told["error"].splitlines()[0]
    return "refused: " + first.rpartition("[")[2].rstrip("]") if told["status"] == 125 else first


@pytest.mark.parametrize("line", ["shipped", "guide's"])
def test_each_class_of_arguments_arrives_through_slurm_or_is_broken_by_it(slurm, line):
    """As docs/arguments.md says; the image's runtime is one that carries everything."""
    if line == "guide's":
        slurm.oci_conf("IgnoreFileConfigJson=true", "CreateEnvFile=null", f'RunTimeRun="{GUIDES_LINE}"')
    lists = [(name, command) for name, several in CLASSES.items() for command in several]
    ended = steps(slurm, [(IMAGES["rootfs"], ["/bin/sh", "-c", PRINT, "sh", *words]) for _, words in lists])
    verdicts = {}
    for (name, command), (status, out, error) in zip(lists, ended):
        verdicts.setdefault(name, []).append(verdict_of_slurm(command, status, out, error))
    found = {name: verdict(each) for name, each in verdicts.items()}
    compare(slurm.root.suite, str(version_of(slurm)), f"the {line} line", found)


def verdict_of_slurm(command, status, out, error):
    if status == 0:
        return "arrives" if [text(word) for word in out.split("\0")[4:-1]] == command else "is changed"
    if status == 125:
        return "refused: " + error.partition("\n  ")[0].rpartition("[")[2].rstrip("]")
    return "does not start: sh finds no end of a quote" if "nterminated quoted" in error else error


# What the shell reads under the guide's line, and what is said of it

SHIFTED = "slurm-oci: error: oci.conf passed `{}` for the image, but --container was `{}`: the shell has read"
ONLY = "slurm-oci: error: only {} of oci.conf's line came: {}; expected 8 words"
UNTERMINATED = "sh: 1: Syntax error: Unterminated quoted string"
# --container, the status of the task, and what stands in its standard error.
PATHS = [
    ("/tmp/al'p'ine", 125, SHIFTED.format("/tmp/alpine", "/tmp/al'p'ine")),
    ('/tmp/al"p"ine', 125, SHIFTED.format("/tmp/alpine", '/tmp/al"p"ine')),
    ("/tmp/alpin*", 125, SHIFTED.format("/tmp/alpine", "/tmp/alpin*")),
    ("/tmp/al$X", 125, SHIFTED.format("/tmp/al", "/tmp/al$X")),
    ("/tmp/al$(touch /tmp/x)", 125, SHIFTED.format("/tmp/al", "/tmp/al$(touch /tmp/x)")),
    ("/tmp/alpine>/tmp/x", 125, SHIFTED.format("/tmp/alpine", "/tmp/alpine>/tmp/x")),
    ("/tmp/alpine;false x", 1, ONLY.format("1 word", "`/tmp/alpine`")),
    ("/tmp/alpine #x", 125, ONLY.format("1 word", "`/tmp/alpine`")),
    ("/tmp/alpine\nx", 127, ONLY.format("1 word", "`/tmp/alpine`")),
    ("/tmp/alpine|x", 127, ONLY.format("1 word", "`/tmp/alpine`")),
    ("/tmp/alpine&x", 127, "sh: 1: x: not found"),  # Slurm kills us then, often before a word is said
    ("/tmp/al pine;x", 127, ONLY.format("2 words", "`/tmp/al` `pine`")),
    ("/tmp/al pine", 125, "slurm-oci: error: the words from oci.conf are out of place: UID is `alice`, JOB"),
    ("/tmp/al'pine", 2, UNTERMINATED),
    ('/tmp/al"pine', 2, UNTERMINATED),
    ("/tmp/al(p)ine", 2, 'sh: 1: Syntax error: "(" unexpected'),
]
PAIRED = (
    "slurm-oci: error: word 4 of the command was `'\"'`, and the shell made `''\"` of what Slurm wrote for it"
)
WORDS_BEFORE_26_05_5 = [("'\"'", 125, PAIRED), ("it's", 2, UNTERMINATED)]


def test_what_the_shell_makes_of_the_guides_line_is_told(slurm):
    """As docs/arguments.md says; nothing goes on with another image or another word."""
    slurm.oci_conf("IgnoreFileConfigJson=true", "CreateEnvFile=null", f'RunTimeRun="{GUIDES_LINE}"')
    for image in ("/tmp/alpine", "/tmp/al", "/tmp/al'p'ine", "/tmp/al$X"):
        assert slurm("cp", "-a", IMAGES["rootfs"], image, user="root")[0] == 0
    is_right = quotes_rightly(version_of(slurm))
    words = [(word, 0, "") for word, *_ in WORDS_BEFORE_26_05_5] if is_right else WORDS_BEFORE_26_05_5
    tasks = [(path, ["/bin/true"]) for path, *_ in PATHS]
    tasks += [("/tmp/alpine", ["/bin/sh", "-c", PRINT, "sh", word]) for word, *_ in words]
    found = []
    for (subject, _, begins), (status, _, error) in zip([*PATHS, *words], steps(slurm, tasks)):
        lines = [line for line in error.splitlines() if begins and begins in line]
        found.append((subject, status, begins if lines or (not begins and not error) else error))
    slurm("sh", "-c", "rm -rf /tmp/al* /tmp/x", user="root")
    wrong = [pair for pair in zip(found, [*PATHS, *words]) if pair[0] != pair[1]]
    assert wrong == []


# Random ones, for each runtime


def test_any_command_and_variables_arrive_or_are_refused_by_name(runtime, arrive):
    """Hundreds of values in a few dozen containers: nothing is changed on its way."""
    wanted = drawn(st.tuples(WORDS, st.dictionaries(VARIABLES, TEXTS, max_size=8)), EXAMPLES // 5)
    for (command, env), told in zip(wanted, arrive([case(runtime, *pair) for pair in wanted])):
        if runtime in UTF8_ONLY and not all(map(is_utf8, [*command, *env, *env.values()])):
            assert_refused(told, "argument-refused")
            continue
        assert (told["status"], told["error"]) == (0, ""), (command, env)
        assert [text(word) for word in told["argv"]] == command
        got = {text(name): text(value) for name, value in told["env"].items()}
        assert {name: got.get(name) for name in env} == env


def test_podman_is_told_any_words_and_variables(slurm, arrive):
    """As many as make five containers, of a second each: what is UTF-8 arrives."""
    assert slurm("cp", "-r", IMAGES["rootfs"], PODMANS) == (0, b"", b"")
    words = [word for word in drawn(TEXTS, EXAMPLES) if is_utf8(word)]
    pairs = drawn(st.tuples(VARIABLES, TEXTS), EXAMPLES)
    # A name that begins with a blank is left out, which is said: test_encoders.py.
    variables = [pair for pair in pairs if is_utf8("".join(pair)) and pair[0].strip() == pair[0]]
    wanted = [(words[start::5], dict(variables[start::5])) for start in range(5)]
    ended = arrive([case("podman", *each, image=PODMANS) for each in wanted])
    slurm("rm", "-rf", PODMANS)
    for (command, env), told in zip(wanted, ended):
        assert (told["status"], told["error"]) == (0, ""), (command, env)
        assert [text(word) for word in told["argv"]] == command
        got = {text(name): text(value) for name, value in told["env"].items()}
        assert {name: got.get(name) for name in env} == env


# Each of these was changed, or kept the container from starting, by one of the runtimes.
ONCE_BROKEN = {
    "LC_CTYPE": "C",
    "TMPDIR": "/no/such/place",
    "IFS": "x",
    "PS1": "$x",
    "BASH_FUNC_x%%": "() { :\n}",
    "EMPTY": "",
    "QUOTED": "'x'",
    "EXPANDED": "$HOME:`id`:$(id)",
    "LINES": "a\nb\n",
    "LONG": "x" * 100_000,
}


def test_variables_that_were_once_changed_arrive(runtime, arrive):
    """The catalogue of failures."""
    (told,) = arrive([case(runtime, env=ONCE_BROKEN)])
    assert (told["status"], told["error"]) == (0, "")
    assert {name: told["env"].get(name) for name in ONCE_BROKEN} == ONCE_BROKEN


@pytest.mark.parametrize("home", ["/home/alice", "/else/where", "/a $HOME", "'/quoted'", "relative", "/a\nb"])
def test_home_is_the_jobs(runtime, arrive, home):
    """Though some runtimes have ideas of their own about it."""
    (told,) = arrive([case(runtime, env={"HOME": home})])
    assert (told["status"], told["error"], told["env"]["HOME"]) == (0, "", home)


@pytest.mark.parametrize(
    ("home", "refusing"), [("", ("apptainer", "runc")), ("/a:b", ("apptainer",))], ids=["empty", "colon"]
)
def test_a_home_that_a_runtime_cannot_pass_on_is_refused(runtime, arrive, home, refusing):
    """By those alone that would set another."""
    (told,) = arrive([case(runtime, env={"HOME": home})])
    if runtime in refusing:
        assert_refused(told, "argument-refused")
    else:
        assert (told["status"], told["env"]["HOME"]) == (0, home)


def test_all_variables_are_those_of_the_job_where_it_asks_for_that(runtime, arrive):
    """SLURM_OCI_ENV=all: also those that programs of the image would rather have from the image."""
    env = {
        "PATH": "/odd:$x:'q':`id`",
        "LD_LIBRARY_PATH": "/a$X:'b':\"c\"\\",
        "LD_PRELOAD": "",
        "LD_AUDIT": "",
    }
    (told,) = arrive([case(runtime, env={**env, "SLURM_OCI_ENV": "all"})])
    got = {name: told["env"].get(name) for name in env}
    if runtime == "apptainer":  # which has a directory of the host's libraries for GPUs
        env["LD_LIBRARY_PATH"] += ":/.singularity.d/libs"
    assert (told["status"], got) == (0, env)


def test_what_no_program_can_be_given_is_told_by_name(runtime, arrive):
    """A variable of 128 KiB or more can be in a job's environment file; no kernel passes it on. (A word
    of the command cannot: it would not have come as far as the entry point.)"""
    (told,) = arrive([case(runtime, env={"LONG": "x" * 32 * os.sysconf("SC_PAGE_SIZE")})])
    assert_refused(told, "argument-too-long")
    assert told["error"].startswith("slurm-oci: error: the variable `LONG` is ")


@pytest.fixture
def odd_places(slurm):
    """Makes directories in alice's home, each with a file that names it; their paths."""
    home = os.fsencode(slurm.root.path("/home/alice"))

    def make(names):
        for number, name in enumerate(names):
            folder = home + b"/odd/" + os.fsencode(name)
            os.makedirs(folder, exist_ok=True)
            with open(folder + b"/mark", "w") as file:
                file.write(f"<{number}>")
        return ["/home/alice/odd/" + name for name in names]

    yield make
    slurm("rm", "-rf", "/home/alice/odd", user="root")


def test_any_bind_mount_arrives_or_is_refused_by_name(runtime, arrive, odd_places):
    """Its source and its target, whatever signs their names hold."""
    names = sorted({*ODD, "a\r\nb", *drawn(NAMES, EXAMPLES // 5)})
    sources = odd_places(names)
    cases = [
        case(
            runtime,
            env={
                "SLURM_OCI_MOUNTS": f"{escaped(source)}:/mnt/{number},{escaped(source)}:{escaped('/to/' + name)}"
            },
            look=[latin(f"/mnt/{number}/mark"), latin(f"/to/{name}/mark")],
        )
        for number, (name, source) in enumerate(zip(names, sources))
    ]
    for number, (name, told) in enumerate(zip(names, arrive(cases))):
        if runtime in UTF8_ONLY and not is_utf8(name):
            assert_refused(told, "argument-refused")
        elif (runtime == "charliecloud" and ":" in name) or (runtime == "apptainer" and "\r\n" in name):
            assert_refused(told, "setting-refused")
        else:
            assert (told["status"], told["error"], told["files"]) == (0, "", f"<{number}>" * 2), name


def escaped(path):
    return "".join("\\" + sign if sign in "\\,:\n" else sign for sign in path)


def test_any_working_directory_arrives_or_is_refused_by_name(runtime, arrive, odd_places):
    """The job's own as well as one asked for."""
    names = sorted({*ODD, *drawn(NAMES, EXAMPLES // 10)})
    places = odd_places(names)
    cases = [case(runtime, cwd=latin(place)) for place in places]
    cases += [case(runtime, env={"SLURM_OCI_WORKDIR": place}) for place in places]
    for place, told in zip([*places, *places], arrive(cases)):
        if runtime in UTF8_ONLY and not is_utf8(place):
            assert_refused(told, "argument-refused")
        else:
            assert (told["status"], told["error"], told["cwd"]) == (0, "", latin(place)), place


def test_any_path_of_an_image_arrives_or_is_refused_by_name(slurm, runtime, arrive):
    """Also a relative one that begins with a dash."""
    copies = "\n".join(f"cp -al first/ ./{shlex.quote(name)}" for name in ODD)
    script = f"mkdir /home/alice/images && cd /home/alice/images && cp -a {IMAGES[KIND.get(runtime, 'rootfs')]} first\n"
    assert slurm("sh", "-ec", script + copies, user="root") == (0, b"", b"")
    cases = [case(runtime, image="/home/alice/images/" + name) for name in ODD]
    cases += [case(runtime, image=name, cwd="/home/alice/images") for name in ODD]
    try:
        ended = arrive(cases)
    finally:
        slurm("rm", "-rf", "/home/alice/images", user="root")
    for name, told in zip([*ODD, *ODD], ended):
        if runtime in UTF8_ONLY and not is_utf8(name):
            assert_refused(told, "argument-refused")
        else:
            assert (told["status"], "argv" in told) == (0, True), (name, told["error"])


def is_utf8(value):
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def assert_refused(told, code):
    assert told["status"] == 125, told
    assert told["error"].splitlines()[0].endswith(f"[{code}]")


# Random ones, through Slurm

PRINT = "/bin/cat /proc/$$/cmdline; exit"  # which keeps the shell from becoming cat
RECORDER = "#!/bin/sh\nprintf '%s\\0' \"$@\"\n"
QUIET = st.text(" \t'\"#%b-/:,=aé\udcff", max_size=6).filter(
    lambda word: word != ":"
)  # srun(1), heterogeneous
BLANK = st.text(" \t%b-/:,=aé\udcff", max_size=6)
HARSH = st.text(" \t\n'\"\\$`();&|<>*?[]{}~!#%-aé\udcff", max_size=6) | st.sampled_from(
    ["'; touch ran; echo '", "$(touch ran)", "`touch ran`", "\ntouch ran\n", "' '", "'\"'", "'\"'\"'", " # "]
)


def steps(slurm, tasks):
    """Runs `srun --container=IMAGE COMMAND…` for each of `tasks` as the steps of one job; how each
    one ended."""
    slurm.root.write("/tmp/each.py", (HERE / "each.py").read_text())
    words = [
        ["srun", "-Q", "--overlap", "-n1", f"--container={latin(image)}", *map(latin, command)]
        for image, command in tasks
    ]
    status, out, error = slurm(
        "salloc", "-Q", "-n1", "python3", "/tmp/each.py", input=json.dumps(words), timeout=300,
        env={"SLURM_OCI_RUNTIME": "unshare"},
    )  # fmt: skip
    assert status == 0, error
    return json.loads(out)


def version_of(slurm):
    status, out, _ = slurm("sinfo", "--version")
    assert status == 0
    return Version.parse(out.decode())


def test_any_command_arrives_with_the_shipped_file(slurm):
    """In every version of Slurm, whatever it makes of quotes; and nothing of it is executed."""
    commands = drawn(st.lists(HARSH, max_size=8), EXAMPLES)
    ended = steps(slurm, [(IMAGES["rootfs"], ["/bin/sh", "-c", PRINT, "sh", *words]) for words in commands])
    for command, (status, out, error) in zip(commands, ended):
        assert (status, error) == (0, ""), command
        assert [text(word) for word in out.split("\0")[4:-1]] == command
    assert not slurm.root.path("/home/alice/ran").exists()


def test_the_guides_line_does_what_the_model_of_this_version_says(slurm):
    """Right or wrong: the words that `shell_words` predicts arrive, and where it predicts a quote
    without its partner, nothing is started."""
    slurm.root.write("/usr/local/bin/recorder", RECORDER, mode=0o755)
    line = GUIDES_LINE.replace("/opt/slurm-oci/run", "/usr/local/bin/recorder")
    slurm.oci_conf("IgnoreFileConfigJson=true", f'RunTimeRun="{line}"')
    version = version_of(slurm)
    wanted = st.tuples(QUIET, st.lists(QUIET, max_size=5))
    if quotes_rightly(version):  # any command can be predicted behind a path that leaves its quotes alone
        wanted |= st.tuples(BLANK, st.lists(HARSH, max_size=5))
    tasks = [("/tmp/" + bundle, ["/bin/true", *words]) for bundle, words in drawn(wanted, EXAMPLES)]
    broken = 0
    for step, (task, (status, out, error)) in enumerate(zip(tasks, steps(slurm, tasks))):
        try:
            expected = predicted(line, version, task, step, out)
        except ShellActs as reason:
            assert "without its partner" in str(reason)
            assert (status, out) == (2, ""), (task, error)
            broken += 1
        else:
            assert (status, [text(word) for word in out.split("\0")[:-1]]) == (0, expected), task
    assert 0 < broken < len(tasks)
    assert not slurm.root.path("/home/alice/ran").exists()


def predicted(line, version, task, step, out):
    """The entry point's words for step number `step` of the job whose number stands in `out`."""
    bundle, command = task
    job = int((re.findall(r"/oci-job(\d+)-", out) or ["0"])[0])
    request = Request(bundle, "", "alice", 1001, "node1", job, step, 0, tuple(command))
    fields = Fields.in_slurm(version, request, cwd="/home/alice")
    return list(shell_words(shell_line(line, fields, version))[1:])
