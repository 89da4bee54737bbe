"""One task, from Slurm's words to the running container: the installed `PREFIX/run` as a process."""

import fcntl
import os
import re
import signal
import subprocess

import pytest
from conftest import ORDINARY, OWN_UID, STANDARD_PATH, Slurm, tree

TOOL = """
[runtimes.tool]
run = ["tool", "--root", "%m", "%b", "%%", "%n %u", "--", "%@"]
accepts = ["rootfs", "oci-bundle"]
"""


@pytest.fixture
def image(place):
    """A directory that is an image by being one; no runtime here looks into it."""
    folder = place / "image"
    (folder / "bin").mkdir(parents=True)
    for name in ("echo", "sh", "true"):
        (folder / "bin" / name).write_text("")
    return folder


@pytest.fixture
def tool(slurm, stand_in):
    """The runtime that the site defines, first in its order, as a program that records its calls."""
    site(slurm, 'order = ["tool"]', TOOL)
    return stand_in("tool", "exit 7")


def site(slurm: Slurm, top: str, *tables: str) -> None:
    path = slurm.prefix / "site.toml"
    path.write_text("\n".join([top, path.read_text(), *tables]))


def plugin(slurm: Slurm, name: str, text: str) -> None:
    (slurm.prefix / "plugins.d" / name).write_text(text)


# The command's words and its end


def test_the_words_of_a_site_s_runtime_go_through_untouched(slurm, tool, image):
    """One word in, one word out: nothing is split, joined, quoted or taken for an option."""
    odd = os.fsdecode(b"\xff\xfe")
    command = ("/bin/echo", "", "a b", "it's", '"', "$(touch ran)", ";", "\n", "-x", "--", "%@", "*", odd)
    ended = slurm.run(image, *command)
    assert (ended.status, ended.out, ended.err) == (7, "", "")
    assert tool.words == [["--root", str(slurm.spool), str(image), "%", "node1 alice", "--", *command]]


@pytest.mark.parametrize("status", [0, 1, 124, 125, 126, 127, 128, 255])
def test_the_exit_status_is_the_command_s(slurm, stand_in, image, status):
    """Ours do not stand in the way of the same numbers of the command's."""
    site(slurm, 'order = ["tool"]', TOOL)
    stand_in("tool", f"exit {status}")
    assert slurm.run(image, "/bin/true").status == status


def test_nothing_of_us_is_left_between_slurm_and_the_runtime(slurm, stand_in, image):
    """Without anything to clean up, the process that Slurm started is the runtime."""
    site(slurm, 'order = ["tool"]', TOOL)
    tool = stand_in("tool", "exec sleep 60")
    process = slurm.start(*slurm.words(image, "/bin/true"))
    while not list(tool.record.glob("*/descriptors")):
        assert process.poll() is None, process.communicate()
    process.terminate()
    process.communicate(timeout=60)
    assert (tool.calls[0].status["Pid"], process.returncode) == (str(process.pid), -signal.SIGTERM)


def test_the_container_gets_the_job_s_variables_exactly(slurm, tool, image):
    """From the environment file, all bytes; of slurmd's own there is nothing."""
    odd = os.fsdecode(b"\xff\n")
    slurm.environ = {"SECRET_OF_SLURMD": "1", "SLURM_OCI_LINE": "x", "LC_ALL": "C"}
    slurm.job = {"A": "b=c\nd", "BASH_FUNC_x%%": "() { :\n}", odd: odd, "E": "", "LD_LIBRARY_PATH": "/host"}
    slurm.run(image, "/bin/true")
    expected = {name: value for name, value in slurm.variables().items() if name != "LD_LIBRARY_PATH"}
    assert tool.calls[0].env == expected


def test_descriptors_from_slurm_stay_open(slurm, tool, image):
    """PMI2 speaks over one of them."""
    descriptor = fcntl.fcntl(0, fcntl.F_DUPFD, 50)
    slurm.run(image, "/bin/true", pass_fds=[descriptor])
    os.close(descriptor)
    # 10 and 11 are the shell's own, of the script that it runs.
    assert set(tool.calls[0].descriptors) - {"10", "11"} == {"0", "1", "2", str(descriptor)}


def test_a_relative_image_starts_in_the_job_s_directory(slurm, tool, image, place):
    """Slurm has changed there already."""
    slurm.run("image", "/bin/true", cwd=place)
    assert tool.calls[0].argv[3] == str(image)
    assert tool.calls[0].cwd == str(place)


def test_a_job_s_directory_that_is_gone_is_no_failure(slurm, tool, image):
    """Somebody removed it while the step started: the trace says so, and the command starts in `/`."""
    slurm.job["SLURM_OCI_DEBUG"] = "1"
    slurm.write()
    path = f"PATH={slurm.place}/bin:/usr/bin:/bin"
    script = f'mkdir gone && cd gone && rmdir ../gone && {path} exec "$0" "$@"'
    command = ["/bin/sh", "-c", script, slurm.prefix / "run", *slurm.words(image, "/bin/true")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=slurm.home,
        **({} if OWN_UID else {"user": ORDINARY, "extra_groups": []}),
    )  # fmt: skip
    assert done.returncode == 7
    assert "slurm-oci: directory: / (the job's is gone: No such file or directory)\n" in done.stderr
    assert tool.calls[0].cwd == "/"


# Errors


@pytest.mark.parametrize(
    ("job", "image_name", "status", "code"),
    [
        ({}, "/no/where", 125, "image-missing"),
        ({"SLURM_OCI_RUNTIME": "tol"}, "", 127, "runtime-unknown"),
        ({"SLURM_OCI_RUNTIME": "absent"}, "", 127, "runtime-missing"),
        ({"SLURM_OCI_RUNTIME": "apptainer"}, "", 127, "runtime-missing"),
        ({"SLURM_OCI_RUNTIME": "crun"}, "", 125, "image-refused"),
        ({"SLURM_OCI_RUNTIME": "broken"}, "", 126, "runtime-failed"),
        ({"SLURM_OCI_RUNTIME": "nointerpreter"}, "", 127, "runtime-missing"),
        ({"SLURM_OCI_HOME": "perhaps"}, "", 125, "setting-invalid"),
        ({"SLURM_OCI_MOUNTS": "/a"}, "", 125, "setting-invalid"),
        ({"SLURM_OCI_WRITABLE": "yes"}, "", 125, "setting-refused"),
        ({}, "docker://alpine", 125, "pull-refused"),
        ({}, "alpine", 127, "runtime-none"),
    ],
)
def test_each_failure_has_its_status_and_its_cure(slurm, tool, image, place, job, image_name, status, code):
    """125 refused, 126 not startable, 127 not found; one line, then what to do; nothing was started."""
    for name, first in (("broken", b"\x7fELF rubbish"), ("nointerpreter", b"#!/no/such/shell\n")):
        (place / "bin" / name).write_bytes(first)
        (place / "bin" / name).chmod(0o755)
        site(slurm, "", f'[runtimes.{name}]\nrun = ["{name}"]\naccepts = ["rootfs"]')
    site(slurm, "", '[runtimes.absent]\nrun = ["absent"]\naccepts = ["rootfs"]')
    slurm.job = job
    ended = slurm.run(image_name or image, "/bin/true")
    assert (ended.status, ended.code, ended.out, tool.calls) == (status, code, "", [])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], "request-malformed"),
        (["/image"], "request-shifted"),
        (["/my", "image", "/spool", "alice", "1", "node1", "42", "0", "0", "true"], "request-shifted"),
        (["/image", "/spool", "alice", "0123", "node1", "42", "0", "0", "true"], "request-shifted"),
    ],
)
def test_words_out_of_place_are_refused(slurm, words, code):
    """As they come from an oci.conf that leaves the path to the shell."""
    ended = slurm.call(*words)
    assert (ended.status, ended.code) == (125, code)


def test_a_command_that_the_image_lacks_is_named(slurm, tool, image):
    """srun has looked it up on the submit host; the image's own is offered, or taken if asked for."""
    ended = slurm.run(image, "/usr/local/bin/echo", "x")
    assert (ended.status, ended.code) == (127, "command-missing")
    assert "the image has `/bin/echo`" in ended.err
    slurm.job["SLURM_OCI_COMMAND"] = "in-image"
    slurm.run(image, "/usr/local/bin/echo", "x")
    assert tool.words[0][-2:] == ["/bin/echo", "x"]


def test_an_environment_file_that_is_a_directory_is_refused(slurm, tool, image):
    """Without the job's variables another job would run than the user's."""
    slurm.set_up()
    (slurm.spool / "environment").mkdir()
    process = slurm.start(*slurm.words(image, "/bin/true"))
    process.communicate(timeout=60)  # this one had its file in the task's own directory
    assert process.returncode == 7
    (slurm.spool / "task-0/environment").unlink()
    words = slurm.words(image, "/bin/true")
    done = subprocess.run(
        [slurm.prefix / "run", *words], capture_output=True, text=True,
        **({} if OWN_UID else {"user": ORDINARY, "extra_groups": []}),
    )  # fmt: skip
    assert (done.returncode, "[environment-unreadable]" in done.stderr) == (125, True)


# Where Slurm puts the job's environment


@pytest.mark.parametrize("separator", ["\0", "\n"])
@pytest.mark.parametrize("where", ["task-0/environment", "environment"])
def test_the_environment_is_read_wherever_slurm_puts_it(slurm, tool, image, separator, where):
    """25.05 on in the task's directory, before in the step's own; NUL or newline between."""
    pairs = [f"{name}={value}" for name, value in {**slurm.variables(), "A": "b c"}.items()]
    slurm.file = (separator.join(pairs) + separator).encode()
    if where == "environment":
        slurm.set_up()
        (slurm.spool / where).write_bytes(slurm.file)
        words = slurm.words(image, "/bin/true")
        words[7] = "1"  # the file that the tests write is that of task 0
        slurm.call(*words)
    else:
        slurm.run(image, "/bin/true")
    assert tool.calls[0].env == {**slurm.variables(), "A": "b c"}


# What must not matter

RUBBISH = {
    "PYTHONHOME": "/no/where",
    "PYTHONPATH": ".",
    "PYTHONSTARTUP": "os.py",
    "PYTHONINSPECT": "1",
    "PYTHONVERBOSE": "1",
    "PYTHONIOENCODING": "rot13",
    "PYTHONWARNINGS": "error",
    "PYTHONUSERBASE": ".",
    "PYTHONPLATLIBDIR": ".",
    "BASH_ENV": "os.py",
    "ENV": "os.py",
    "LD_LIBRARY_PATH": ".",
    "HOME": ".",
    "LC_ALL": "xx_XX.rubbish",
    "TMPDIR": "/no/where",
}


@pytest.mark.parametrize("where", ["slurmd's", "the job's"])
def test_no_environment_and_no_directory_changes_what_we_do(slurm, tool, image, place, where):
    """Variables and modules that lie in wait are neither read nor run: the outcome is the same."""
    trap = place / "trap"
    trap.mkdir()
    text = "import sys; sys.stderr.write('caught\\n'); sys.exit(99)\n"
    for name in ("os", "sitecustomize", "usercustomize", "json", "slurm_oci", "marshal", "stat", "tomllib"):
        (trap / f"{name}.py").write_text(text)
    slurm.run(image, "/bin/true", cwd=trap)
    (slurm.environ if where == "slurmd's" else slurm.job).update(RUBBISH)
    before = tree(trap)
    ended = slurm.run(image, "/bin/true", cwd=trap)
    plain, found = tool.calls
    assert (ended.status, ended.err, found.argv) == (7, "", plain.argv)
    kept = {} if where == "slurmd's" else {n: v for n, v in RUBBISH.items() if n != "LD_LIBRARY_PATH"}
    assert found.env == {**plain.env, **kept}
    assert tree(trap) == before


def test_the_installation_is_where_run_really_lies(slurm, tool, image, place):
    """A symbolic link to `run` may lie anywhere; $0's directory is not asked."""
    (place / "elsewhere").mkdir()
    (place / "elsewhere/run").symlink_to(slurm.prefix / "run")
    slurm.prefix = place / "elsewhere"
    assert slurm.run(image, "/bin/true").status == 7


# The user's own script


def test_the_hook_takes_over(slurm, tool, image):
    """With the eight fields and the command, the job's variables, and $0 as its author expects."""
    path = slurm.hook('#!/bin/sh\nprintf "<%s>" "$0" "$@" "$A"; exit 42\n')
    slurm.job["A"] = "a b"
    ended = slurm.run(image, "echo", "", "it's")
    words = [path, *slurm.words(image, "echo", "", "it's"), "a b"]
    assert (ended.status, ended.err, tool.calls) == (42, "", [])
    assert ended.out == "".join(f"<{word}>" for word in words)


def test_the_hook_needs_no_image_that_we_know(slurm, tool):
    """What the name means is its own affair."""
    slurm.hook("#!/bin/sh\necho $1\n")
    assert slurm.run("my:own/thing", "x").out == "my:own/thing\n"


def test_a_hook_without_an_interpreter_is_bash_s(slurm, tool, image):
    """As the guide's own pair of scripts would run it."""
    slurm.hook('[[ -n $BASH_VERSION ]] && echo bash "${@:9}"\n')
    assert slurm.run(image, "echo", "x").out == "bash echo x\n"


def test_the_hook_hands_back_with_the_environment_it_leaves(slurm, tool, image):
    """What it sets, changes and unsets counts, what its shell cannot hold is kept; it does not loop. The
    runtime is on slurmd's PATH alone, which is still known."""
    slurm.job |= {"A": "job", "GONE": "1", "BASH_FUNC_x%%": "() { :\n}"}
    slurm.hook(
        "#!/bin/sh\necho called >>calls\nunset GONE; export A=hook NEW='a b'\n"
        f'exec {slurm.prefix}/slurm-oci-run-default "$@"\n'
    )
    ended = slurm.run(image, "/bin/echo", "it's")
    assert (ended.status, ended.err) == (7, "")
    assert (slurm.home / "calls").read_text() == "called\n"
    (call,) = tool.calls
    assert call.argv[-2:] == ["/bin/echo", "it's"]
    changed = {**slurm.variables(), "A": "hook", "NEW": "a b"}
    del changed["GONE"]
    own = {"PWD": str(slurm.home)}  # every shell's own addition
    assert call.env == {**changed, **own}


def test_a_copy_of_the_default_script_works_as_a_hook(slurm, tool, image):
    """The guide tells users to model their script after it."""
    slurm.hook((slurm.prefix / "slurm-oci-run-default").read_text())
    assert slurm.run(image, "/bin/true").status == 7
    assert len(tool.calls) == 1


def test_a_hook_that_calls_run_itself_does_not_loop(slurm, tool, image):
    """The mark of this very task is enough."""
    slurm.hook(f'#!/bin/sh\necho called >>calls\nexec {slurm.prefix}/run "$@"\n')
    assert slurm.run(image, "/bin/true").status == 7
    assert (slurm.home / "calls").read_text() == "called\n"


@pytest.mark.parametrize("between", ["", "sh -c '\"$@\"; exit $?' sh"])
def test_a_hook_that_calls_run_without_its_mark_is_refused(slurm, tool, image, between):
    """It would go on for ever, whatever is between the two."""
    slurm.hook(
        "#!/bin/sh\necho called >>calls\n[ $(wc -l <calls) -lt 5 ] || exit 99\n"
        f'{between} env -i {slurm.prefix}/run "$@"\nexit $?\n'
    )
    ended = slurm.run(image, "/bin/true")
    assert (ended.status, ended.code, tool.calls) == (126, "hook-failed", [])
    assert "let it keep that variable" in ended.err
    assert (slurm.home / "calls").read_text() == "called\n"


def test_a_hook_that_asks_for_no_hook_needs_no_mark(slurm, tool, image):
    """Also in an emptied environment."""
    slurm.hook(
        f'#!/bin/sh\nenv -i PATH={slurm.place}/bin:$PATH {slurm.prefix}/slurm-oci-run-default "$@"\nexit $?\n'
    )
    ended = slurm.run(image, "/bin/true")
    assert (ended.status, len(tool.calls)) == (7, 1), ended.err


def test_the_hook_can_name_a_runtime(slurm, tool, image, stand_in):
    """What it exports is the job's wish."""
    site(slurm, "", TOOL.replace("tool", "second"))
    second = stand_in("second", "exit 8")
    slurm.hook(
        f'#!/bin/sh\nexport SLURM_OCI_RUNTIME=second\nexec {slurm.prefix}/slurm-oci-run-default "$@"\n'
    )
    assert (slurm.run(image, "/bin/true").status, tool.calls, len(second.calls)) == (8, [], 1)


@pytest.mark.parametrize("how", ["the job says no", "the site says no", "called as the default"])
def test_the_hook_is_left_out_where_it_is_to_be(slurm, tool, image, how):
    """SLURM_OCI_USER_HOOK=no, user_hook = false, or slurm-oci-run-default in place of run."""
    slurm.hook("#!/bin/sh\necho hook\n")
    if how == "the job says no":
        slurm.job["SLURM_OCI_USER_HOOK"] = "no"
    if how == "the site says no":
        site(slurm, "user_hook = false")
    program = "slurm-oci-run-default" if how == "called as the default" else "run"
    ended = slurm.call(*slurm.words(image, "/bin/true"), program=program)
    assert (ended.status, ended.out) == (7, "")


@pytest.mark.parametrize(
    ("text", "mode", "status", "code"),
    [
        ("#!/bin/sh\n", 0o600, 125, "hook-unsafe"),
        ("#!/bin/sh\n", 0o777, 125, "hook-unsafe"),
        ("#!/no/such/shell\n", 0o700, 126, "hook-failed"),
        ("\x7fELF\0rubbish", 0o700, 126, "hook-failed"),
    ],
)
def test_a_hook_that_cannot_be_run_is_never_passed_over(slurm, tool, image, text, mode, status, code):
    """Refused or failed with its cure: the user meant it."""
    slurm.hook(text, mode)
    ended = slurm.run(image, "/bin/true")
    assert (ended.status, ended.code, tool.calls) == (status, code, [])


# The shipped oci.conf's line


def quoted(words: tuple[str, ...]) -> str:
    return " ".join("'" + word.replace("'", "'\"'\"'") + "'" for word in words)


def test_the_shipped_line_gives_bundle_and_command_past_the_shell(slurm, tool, place):
    """The whole RunTimeRun of the installed oci.conf, run by /bin/sh as Slurm runs it: any bytes in
    the image's path and the command arrive, and nothing of them is executed."""
    image = place / os.fsdecode(b"my 'image'; $(touch ran) # \xff\n")
    (image / "bin").mkdir(parents=True)
    (image / "bin/echo").write_text("")
    slurm.job["SLURM_CONTAINER"] = str(image)
    command = ("/bin/echo", "it's", "", "$(touch ran)", "a\nb", " # ", os.fsdecode(b"\xff"))
    config = (slurm.prefix / "oci.conf").read_text()
    line = re.search(r'^RunTimeRun="(.*)"$', config, re.M)[1].replace("\\#", "#")
    values = {"m": slurm.spool, "u": "alice", "U": ORDINARY, "n": "node1", "j": 42, "s": 0, "t": 0}
    for letter, value in values.items():
        line = line.replace(f"%{letter}", str(value))
    slurm.write()
    ended = shell(slurm, line.replace("%@", quoted(command)))
    assert (ended.returncode, ended.stderr) == (7, b"")
    assert tool.words == [["--root", str(slurm.spool), str(image), "%", "node1 alice", "--", *command]]
    assert "SLURM_OCI_LINE" not in tool.calls[0].env
    assert not list(slurm.home.glob("ran*"))


def shell(slurm, line):
    argv = [os.fsencode(word) for word in ("/bin/sh", "-c", line)]
    env = {"PATH": f"{slurm.place}/bin:{STANDARD_PATH}"}
    return subprocess.run(
        argv, capture_output=True, cwd=slurm.home, env=env, stdin=subprocess.DEVNULL, preexec_fn=slurm.at_home
    )


def test_a_line_without_the_image_s_name_is_refused(slurm, tool):
    """The `-` form needs SLURM_CONTAINER, and says what switches it on."""
    slurm.environ["SLURM_OCI_LINE"] = "x # 'true'"
    ended = slurm.run("-")
    assert (ended.status, ended.code) == (125, "request-malformed")
    assert "CreateEnvFile=null" in ended.err


def test_a_line_that_cannot_be_read_is_refused(slurm, tool):
    """Never a guess."""
    slurm.environ["SLURM_OCI_LINE"] = "x # 'true"
    ended = slurm.run("-")
    assert (ended.status, ended.code) == (125, "line-undecodable")


# Plugins

GOOD = """
from slurm_oci import Container, Plan, Runtime
def slurm_oci_runtimes():
    return [Runtime("mine", "mine", ("rootfs",), plan, executables=("mine",))]
def plan(container: Container) -> Plan:
    return Plan((container.executables["mine"], "first", *container.command), container.env)
"""

BAD = {
    "raises at import": "raise RuntimeError('no')",
    "ends the process": "import sys; sys.exit(3)",
    "is no Python": "def (",
    "lacks a module": "import no_such_module",
    "misspells the hook": "def slurm_oci_runtime(): return []",
    "misspells a second hook": "def slurm_oci_runtimes(): return []\ndef slurm_oci_runtmes(): return []",
    "returns nothing": "def slurm_oci_runtimes(): pass",
    "returns no runtimes": "def slurm_oci_runtimes(): return [1]",
    "takes another's name": GOOD.replace('"mine", "mine"', '"unshare", "mine"'),
    "accepts no such kind": GOOD.replace('"rootfs"', '"rootfz"'),
    "accepts a number": GOOD.replace('("rootfs",)', "1"),
    "accepts a text": GOOD.replace('("rootfs",)', '"rootfs"'),
    "has a plan that is none": GOOD.replace("plan, executables", "7, executables"),
    "has a name that is none": GOOD.replace('Runtime("mine"', "Runtime(None"),
    "has executables that are none": GOOD.replace('executables=("mine",)', "executables=7"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_plugin_harms_only_itself(slurm, tool, image, what):
    """The other runtimes go on working, and nothing is printed on a task's stderr."""
    plugin(slurm, "bad.py", BAD[what])
    ended = slurm.run(image, "/bin/true")
    assert (ended.status, ended.err) == (7, "")


def test_a_drop_in_is_a_runtime_like_any_other(slurm, stand_in, image):
    """Chosen by name, with its words untouched."""
    plugin(slurm, "mine.py", GOOD)
    mine = stand_in("mine", "exit 9")
    slurm.job["SLURM_OCI_RUNTIME"] = "mine"
    assert slurm.run(image, "/bin/echo", "it's").status == 9
    assert mine.words == [["first", "/bin/echo", "it's"]]


@pytest.mark.parametrize(
    "plan",
    [
        *("1 / 0", "None", "[]", "Plan((), {})", "Plan((1,), {})", "__import__('sys').exit(3)"),
        *("Plan((1,), dict(container.job.env))", "Plan(('/bin/true',), {**container.job.env, 'N': 4})"),
        *("Plan(('true',), {})", "Plan('/bin/true x', {})", "Plan(5, {})", "Plan({'/bin/true'}, {})"),
        *("Plan(('/bin/true',), {}, prepare=('/a', 'b'))", "Plan(('/bin/true',), {}, cleanup=7)"),
        *("Plan(('/bin/true',), None)", "Plan(('/bin/true',), {}, notes=(5,))"),
        "Plan(('/bin/true',), {}, prepare=(('/bin/true', 5),), folders=('a',))",
    ],
)
def test_a_plugin_whose_plan_fails_is_named(slurm, stand_in, image, plan):
    """Its mistake is told as such: 125, no traceback, nobody thinks it was the job, and nothing is shown
    of the job's variables."""
    text = GOOD[: GOOD.index("    return Plan")] + f"    return {plan}\n"
    plugin(slurm, "mine.py", text)
    stand_in("mine")
    slurm.job["SLURM_OCI_RUNTIME"] = "mine"
    slurm.job["API_TOKEN"] = "s3cr3t"
    ended = slurm.run(image, "/bin/echo")
    assert (ended.status, ended.code) == (125, "plugin-failed")
    assert "`mine`" in ended.err
    assert "s3cr3t" not in ended.err


def test_an_interrupt_while_deciding_ends_the_task_without_a_word(slurm, stand_in, image):
    """^C at srun: a death by the signal, and no traceback."""
    text = GOOD[: GOOD.index("    return Plan")] + "    import os\n    os.kill(os.getpid(), 2)\n"
    plugin(slurm, "mine.py", text)
    stand_in("mine")
    slurm.job["SLURM_OCI_RUNTIME"] = "mine"
    ended = slurm.run(image, "/bin/echo")
    assert (ended.returncode, ended.out, ended.err) == (-signal.SIGINT, "", "")


# Talking


def test_debug_prints_the_trace_and_nothing_else_changes(slurm, tool, image):
    """Each step of the decision, a line on stderr."""
    slurm.job["SLURM_OCI_DEBUG"] = "1"
    ended = slurm.run(image, "/bin/true")
    assert ended.status == 7
    lines = [line.partition(" (")[0] for line in ended.err.splitlines() if "catalog" not in line]
    assert lines == [
        f"slurm-oci: environment: {slurm.spool}/task-0/environment",
        "slurm-oci: hook: no",
        "slurm-oci: image: rootfs",
        "slurm-oci: runtime: tool",
    ]


def test_a_misspelt_setting_is_warned_about_and_stops_nothing(slurm, tool, image):
    """Another version may know it."""
    slurm.job["SLURM_OCI_MOUNT"] = "/a:/b"
    ended = slurm.run(image, "/bin/true")
    assert ended.status == 7
    assert ended.err == (
        "slurm-oci: warning: `SLURM_OCI_MOUNT` is no setting of this version; did you mean"
        " `SLURM_OCI_MOUNTS`?\n"
    )


@pytest.mark.parametrize("text", ["order = 1", "oder = []", "[[[", 'state = "relative"', "\xff"])
def test_a_site_s_mistake_is_named_with_file_and_line(slurm, image, text):
    """Refused, since nobody knows what the site meant."""
    (slurm.prefix / "site.toml").write_bytes(text.encode("latin-1"))
    ended = slurm.run(image, "/bin/true")
    assert (ended.status, ended.code) == (125, "site-invalid")
    assert f"{slurm.prefix}/site.toml" in ended.err
