"""Starting and supervising: `slurm_oci.execute`, each time in a process of its own."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
from conftest import make_stand_in

from slurm_oci.execute import report
from slurm_oci.problems import RuntimeFailed
from slurm_oci.values import File, Plan

SUPERVISE = """
import os, sys
from slurm_oci import execute, supervise
from slurm_oci.problems import Problem
from slurm_oci.values import File, Plan
plan, private = eval(sys.argv[1]), sys.argv[2]
try:
    sys.exit(supervise.supervise(plan, private, "node1") if private else execute.become(plan))
except Problem as problem:
    execute.report(problem)
    sys.exit(problem.status)
"""
ENV = {"PATH": "/usr/bin:/bin"}


@attrs.frozen
class Supervisor:
    """Carries out plans of shell commands; `place/log` is what the commands write their steps to."""

    place: Path

    @property
    def private(self) -> Path:
        return self.place / "private"

    def start(self, plan: Plan, private: Path | str | None = None, **options) -> subprocess.Popen:
        where = str(self.private if private is None else private)
        return subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, repr(plan), where],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.place, **options,
        )  # fmt: skip

    def plan(
        self, command: str, prepare: tuple[str, ...] = (), cleanup: tuple[str, ...] = ("echo clean >>log",)
    ):
        """A plan of shell commands, which write into `log` what is to be seen later."""
        return Plan(
            shell(command), ENV, prepare=tuple(map(shell, prepare)), cleanup=tuple(map(shell, cleanup))
        )

    def run(self, command: str, **steps) -> tuple[int, list[str]]:
        """Exit status and log of a whole run."""
        process = self.start(self.plan(command, **steps))
        ended(process)
        return process.returncode, self.log()

    def log(self) -> list[str]:
        path = self.place / "log"
        return path.read_text().split() if path.exists() else []

    def wait_for(self, line: str) -> None:
        """Returns when the command has written `line`."""
        until(lambda: line in self.log())


def ended(process: subprocess.Popen) -> tuple[str, str]:
    """What the process wrote until its end; one that does not end is a failure."""
    try:
        return process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def shell(command: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", command)


def until(true, seconds: float = 30) -> None:
    """Waits for what must come to be; what never comes is a failure."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def supervisor(tmp_path):
    return Supervisor(tmp_path)


# To the end


def test_every_exit_status_is_the_command_s_own(supervisor):
    """0 to 255, as the command ended, and the cleanup each time."""
    for status in (*range(0, 256, 17), 1, 2, 125, 126, 127, 128, 129, 254):
        (supervisor.place / "log").write_text("")
        assert supervisor.run(f"exit {status}") == (status, ["clean"])


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "ABRT", "USR1", "HUP", "PIPE", "XCPU"])
def test_a_signal_s_death_is_told_as_a_shell_tells_it(supervisor, name):
    """128 and the signal's number, which is what Slurm shows."""
    number = getattr(signal, f"SIG{name}")
    assert supervisor.run(f"ulimit -c 0; kill -{name} $$") == (128 + number, ["clean"])


def test_the_steps_come_in_order(supervisor):
    """Preparing commands one after the other, the command, the cleanup, each once."""
    found = supervisor.run(
        "echo run >>log", prepare=("echo one >>log", "echo two >>log"), cleanup=("echo 3 >>log", "echo 4 >>log")
    )  # fmt: skip
    assert found == (0, ["one", "two", "run", "3", "4"])


@pytest.mark.parametrize(("command", "log"), [("true", ["clean"]), ("rm left", [])])
def test_cleanup_is_for_what_is_left(supervisor, command, log):
    """A runtime that has cleaned up itself is not called once more."""
    left = supervisor.place / "left"
    left.touch()
    process = supervisor.start(supervisor.plan(command).replace(leaves=str(left)))
    ended(process)
    assert (process.returncode, supervisor.log()) == (0, log)


def test_a_preparing_command_that_fails_ends_it(supervisor):
    """Nothing after it is started but the cleanup, and the error says which command it was."""
    plan = supervisor.plan("echo run >>log", prepare=("exit 7", "echo two >>log"))
    process = supervisor.start(plan)
    assert ended(process)[1].splitlines()[0] == (
        "slurm-oci: error: preparing failed: `/bin/sh -c exit 7` ended with 7 [runtime-failed]"
    )
    assert (process.returncode, supervisor.log()) == (RuntimeFailed.status, ["clean"])


def test_what_the_plan_wants_is_there_and_gone_afterwards(supervisor):
    """Folders, links and files in the private directory, with their bytes and modes."""
    look = "cd private; stat -c '%a %n' . a a/b f a/g >>../log; readlink l >>../log; cat a/g >>../log"
    plan = Plan(
        shell(look), ENV, folders=("a", "a/b"), links=(("l", "no/where"),),
        files=(File("f", b"", 0o600), File("a/g", b"\xff\0\n", 0o700)),
    )  # fmt: skip
    process = supervisor.start(plan, umask=0o022)
    ended(process)
    expected = b"700 .\n755 a\n755 a/b\n600 f\n700 a/g\nno/where\n\xff\0\n"
    assert (process.returncode, (supervisor.place / "log").read_bytes()) == (0, expected)
    assert not supervisor.private.exists()


@pytest.mark.parametrize("umask", [0o177, 0o777])
def test_a_job_s_umask_is_the_command_s_alone(supervisor, umask):
    """What the plan wants is made as it says, and what prepares is not hindered; the command has the
    job's umask, or, where its runtime hands that on itself, the plan's."""
    wanted = {"folders": ("a", "a/b"), "files": (File("f", b"", 0o600), File("a/g", b"", 0o700))}
    look = "umask >>log; cd private; stat -c '%a %n' . a a/b f a/g >>../log"
    (supervisor.place / "log").touch()
    for own in (-1, 0o022):
        plan = Plan(shell(look), ENV, prepare=(shell("umask >>log"),), umask=own, **wanted)
        ended(supervisor.start(plan, umask=umask))
    modes = ["700", ".", "755", "a", "755", "a/b", "600", "f", "700", "a/g"]
    assert supervisor.log() == ["0022", f"0{umask:o}", *modes, "0022", "0022", *modes]
    assert not supervisor.private.exists()


def test_a_runtime_that_is_become_has_its_plan_s_umask(supervisor):
    """Else the job's."""
    for own in (-1, 0o027):
        ended(supervisor.start(Plan(shell("umask >>log"), ENV, umask=own), "", umask=0o077))
    assert supervisor.log() == ["0077", "0027"]


def test_what_the_container_left_in_the_private_directory_goes_with_it(supervisor):
    """Also what is closed to its owner; where links point to stays."""
    (supervisor.place / "kept").mkdir()
    (supervisor.place / "kept/file").write_text("")
    assert supervisor.run(
        "cd private; mkdir -p deep/er; touch deep/er/file; ln -s ../kept deep/link; chmod 0 deep/er deep"
    ) == (0, ["clean"])
    assert not supervisor.private.exists()
    assert (supervisor.place / "kept/file").exists()


def test_a_file_that_cannot_be_made_is_a_problem_with_cleanup(supervisor):
    """A plan that names a file twice is refused with 125, and nothing stays."""
    plan = supervisor.plan("echo run >>log").replace(files=(File("f", b""), File("f", b"")))
    process = supervisor.start(plan)
    assert "File exists [state-unavailable]" in ended(process)[1]
    assert (process.returncode, supervisor.log(), supervisor.private.exists()) == (125, ["clean"], False)


def test_cleanup_is_silent_and_cannot_change_the_end(supervisor):
    """Neither what it prints nor how it ends matters, and one that fails does not stop the next."""
    cleanup = ("echo out; echo err >&2; exit 3", "kill -KILL $$", "/no/such/program", "echo last >>log")
    process = supervisor.start(supervisor.plan("exit 5", cleanup=cleanup))
    assert ended(process) == ("", "")
    assert (process.returncode, supervisor.log()) == (5, ["last"])


def test_a_command_that_is_not_there_is_told_and_cleaned_up_after(supervisor):
    """127, with one error line."""
    plan = Plan(("/no/such/runtime",), ENV, cleanup=(shell("echo clean >>log"),))
    process = supervisor.start(plan)
    assert ended(process)[1].splitlines() == [
        "slurm-oci: error: cannot start `/no/such/runtime`: it, or the interpreter in its first line, is"
        " not there [runtime-missing]",
        "  `slurm-oci-plugins list` shows what this node has",
    ]
    assert (process.returncode, supervisor.log()) == (127, ["clean"])


def test_children_that_others_left_do_not_end_it(supervisor):
    """A process that the supervisor inherits and that ends says nothing about the command."""
    command = "(sleep 0.05; exit 9) & sleep 0.2; echo run >>log; exit 4"
    assert supervisor.run(command) == (4, ["run", "clean"])


# Signals


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "CONT"])
def test_a_signal_reaches_the_command_once(supervisor, name):
    """What Slurm sends to the supervisor arrives in the container, one for one."""
    process = supervisor.start(
        supervisor.plan(f"trap 'echo got >>log' {name}; echo ready >>log; while [ ! -e stop ]; do sleep .01; done")
    )  # fmt: skip
    supervisor.wait_for("ready")
    process.send_signal(getattr(signal, f"SIG{name}"))
    supervisor.wait_for("got")
    (supervisor.place / "stop").touch()
    ended(process)
    assert (process.returncode, supervisor.log()) == (0, ["ready", "got", "clean"])


def test_a_real_time_signal_reaches_the_command(supervisor):
    """Batch systems use those above 32 too."""
    process = supervisor.start(supervisor.plan("echo ready >>log; exec sleep 60"))
    supervisor.wait_for("ready")
    process.send_signal(signal.SIGRTMIN + 5)
    ended(process)
    assert (process.returncode, supervisor.log()) == (128 + signal.SIGRTMIN + 5, ["ready", "clean"])


def test_a_command_killed_by_what_was_sent_ends_with_it(supervisor):
    """scancel's SIGTERM ends a command that does not care as it would end it alone."""
    process = supervisor.start(supervisor.plan("echo ready >>log; exec sleep 60"))
    supervisor.wait_for("ready")
    process.terminate()
    ended(process)
    assert (process.returncode, supervisor.log()) == (143, ["ready", "clean"])


def test_stop_and_continue_go_through_the_supervisor(supervisor):
    """SIGTSTP stops the command and then the supervisor; SIGCONT brings both back, once."""
    command = "trap 'echo back >>log' CONT; echo $$ >>log; while [ ! -e stop ]; do sleep .01; done; exit 6"
    # In a process group of its own, whose parent is in another of the session: in an orphaned one,
    # as a test run without a terminal may be, the kernel discards SIGTSTP (setpgid(2), NOTES).
    process = supervisor.start(supervisor.plan(command), process_group=0)
    until(supervisor.log)
    child = int(supervisor.log()[0])
    process.send_signal(signal.SIGTSTP)
    until(lambda: state_of(child) == "T" and state_of(process.pid) == "T")
    process.send_signal(signal.SIGCONT)
    supervisor.wait_for("back")
    (supervisor.place / "stop").touch()
    ended(process)
    assert (process.returncode, supervisor.log()) == (6, [str(child), "back", "clean"])


def test_a_command_that_others_stop_and_continue_does_not_stop_the_supervisor(supervisor):
    """A debugger in the container must not leave a task behind that nobody wakes."""
    process = supervisor.start(supervisor.plan("echo $$ >>log; kill -STOP $$; exit 8"))
    until(supervisor.log)
    child = int(supervisor.log()[0])
    until(lambda: state_of(child) == "T")
    os.kill(child, signal.SIGCONT)
    ended(process)
    assert (process.returncode, supervisor.log()) == (8, [str(child), "clean"])


@attrs.define
class AtTerminal:
    """A carried out plan that is the leader of a session and the terminal's foreground group, as Slurm
    starts a task with `srun --pty`."""

    pid: int
    terminal: int
    ended: int | None = None  # the exit status

    @classmethod
    def start(cls, supervisor: Supervisor, plan: Plan, private: str) -> "AtTerminal":
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(supervisor.place)
            os.execv(sys.executable, [sys.executable, "-c", SUPERVISE, repr(plan), private])
        return cls(pid, terminal)

    def has_ended(self) -> bool:
        if self.ended is None and (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.ended = os.waitstatus_to_exitcode(found[1])
        return self.ended is not None


@pytest.fixture
def at_terminal(supervisor):
    """Starts a plan at a terminal; what then still runs is killed."""
    started = []

    def start(command: str, mode: str = "supervise") -> AtTerminal:
        private = "" if mode == "become" else str(supervisor.private)
        started.append(AtTerminal.start(supervisor, supervisor.plan(command), private))
        supervisor.wait_for("ready")
        return started[-1]

    yield start
    (supervisor.place / "stop").touch()
    for one in started:
        if not one.has_ended():
            os.kill(one.pid, signal.SIGKILL)
            os.waitpid(one.pid, 0)


@pytest.mark.parametrize("mode", ["become", "supervise"])
def test_a_terminal_that_is_hung_up_is_told_to_the_command(supervisor, at_terminal, mode):
    """The kernel tells it to the session's leader alone, which with `srun --pty` the supervisor is."""
    command = "trap 'echo HUP >>log; exit 9' HUP; echo ready >>log"
    one = at_terminal(f"{command}; while [ ! -e stop ]; do sleep .01; done", mode)
    os.close(one.terminal)
    until(one.has_ended)
    assert (one.ended, supervisor.log()[:2]) == (9, ["ready", "HUP"])


@pytest.mark.parametrize(("name", "key"), [("INT", b"\3"), ("QUIT", b"\34")])
def test_what_the_terminal_sends_to_all_arrives_once(supervisor, at_terminal, name, key):
    """^C and ^\\: the command is in the foreground group and has it already."""
    command = f"trap 'echo {name} >>log' {name}; echo ready >>log; while [ ! -e stop ]; do sleep .01; done"
    one = at_terminal(command)
    os.write(one.terminal, key)
    supervisor.wait_for(name)
    time.sleep(0.1)  # in which a second one would have come
    (supervisor.place / "stop").touch()
    until(one.has_ended)
    os.close(one.terminal)
    assert supervisor.log() == ["ready", name, "clean"]


def test_a_signal_while_preparing_ends_the_task(supervisor):
    """The preparing command gets it, nothing is started after, and the cleanup runs."""
    plan = supervisor.plan("echo run >>log", prepare=("echo ready >>log; exec sleep 60", "echo two >>log"))
    process = supervisor.start(plan)
    supervisor.wait_for("ready")
    process.terminate()
    assert ended(process)[1] == ""
    assert (process.returncode, supervisor.log()) == (143, ["ready", "clean"])


def test_a_preparing_command_that_takes_no_notice_cannot_prevent_the_end(supervisor):
    """One that catches SIGTERM and then succeeds would else start a container for a cancelled job."""
    prepare = "trap : TERM; echo ready >>log; while [ ! -e stop ]; do sleep .01; done; exit 0"
    process = supervisor.start(supervisor.plan("echo run >>log", prepare=(prepare,)))
    supervisor.wait_for("ready")
    process.terminate()
    (supervisor.place / "stop").touch()
    ended(process)
    assert (process.returncode, supervisor.log()) == (143, ["ready", "clean"])


def test_a_signal_during_cleanup_does_not_cut_it_short(supervisor):
    """Slurm may send SIGTERM again; what was begun to be removed is removed."""
    cleanup = (
        "echo begun >>log; while [ ! -e stop ]; do sleep .01; done; echo done >>log",
        "echo next >>log",
    )
    process = supervisor.start(supervisor.plan("exit 3", cleanup=cleanup))
    supervisor.wait_for("begun")
    process.terminate()
    process.send_signal(signal.SIGINT)
    (supervisor.place / "stop").touch()
    ended(process)
    assert (process.returncode, supervisor.log()) == (3, ["begun", "done", "next"])


def test_the_command_starts_with_plain_signals_and_nothing_blocked(supervisor):
    """Python ignores SIGPIPE and SIGXFSZ, the supervisor blocks all: the command sees none of it."""
    tool = make_stand_in(supervisor.place / "tool")
    for private in (supervisor.private, ""):
        ignoring = lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # noqa: E731
        process = supervisor.start(Plan((str(tool.path),), ENV), private, preexec_fn=ignoring)
        ended(process)
        assert process.returncode == 0
    assert [(call.status["SigIgn"].strip("0"), call.status["SigBlk"].strip("0")) for call in tool.calls] == [
        ("", ""),
        ("", ""),
    ]


def test_what_the_supervisor_inherits_is_reaped(supervisor):
    """A shell that becomes the dispatcher may have had children, and as a container's first process or
    a subreaper it gets others': none stays a zombie while the task runs."""
    plan = supervisor.plan("echo ready >>log; while [ ! -e stop ]; do sleep .01; done; exit 6")
    inherited = '(while [ ! -e go ]; do sleep .01; done) & exec "$@"'
    words = [sys.executable, "-c", SUPERVISE, repr(plan), str(supervisor.private)]
    process = subprocess.Popen(["/bin/sh", "-c", inherited, "sh", *words], cwd=supervisor.place)
    supervisor.wait_for("ready")

    def children() -> list[str]:
        return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()

    try:
        assert len(children()) == 2
        (supervisor.place / "go").touch()
        until(lambda: len(children()) == 1, seconds=10)
        assert state_of(int(children()[0])) != "Z"
    finally:
        (supervisor.place / "stop").touch()
        process.wait(60)
    assert (process.returncode, supervisor.log()) == (6, ["ready", "clean"])


# Becoming


def test_becoming_keeps_the_process_its_descriptors_and_its_words(supervisor):
    """exec: the same process id, the environment and the words exactly, inherited descriptors open."""
    tool = make_stand_in(supervisor.place / "tool")
    read_end, write_end = os.pipe()
    odd = os.fsdecode(b"\xff\xfe")
    plan = Plan(
        (str(tool.path), "", "a b", "'", "\n", odd), {"BASH_FUNC_x%%": "() { :\n}", "E": "", odd: odd}
    )
    process = supervisor.start(plan, "", pass_fds=[write_end])
    ended(process)
    os.close(read_end)
    os.close(write_end)
    (call,) = tool.calls
    assert (call.argv, call.env) == (list(plan.argv), plan.env)
    assert (call.cwd, call.status["Pid"]) == (str(supervisor.place), str(process.pid))
    assert str(write_end) in call.descriptors


def test_a_plan_s_directory_is_where_it_starts(supervisor):
    """Supervised or not."""
    tool = make_stand_in(supervisor.place / "tool")
    for private in (supervisor.private, ""):
        ended(supervisor.start(Plan((str(tool.path),), ENV, cwd="/usr"), private))
    assert [call.cwd for call in tool.calls] == ["/usr", "/usr"]


@pytest.mark.parametrize(
    ("argv", "status", "error"),
    [
        (
            ("/no/such",),
            127,
            "cannot start `/no/such`: it, or the interpreter in its first line, is not there",
        ),
        (("/usr",), 126, "cannot start `/usr`: Permission denied"),
        (("/bin/true", "x" * 140_000), 126, "cannot start `/bin/true`: Argument list too long"),
        (("/bin/true", "a\0b"), 126, "cannot start `/bin/true`: embedded null byte"),
    ],
)
def test_what_cannot_be_started_is_a_problem(supervisor, tmp_path, argv, status, error):
    """127 for what is not there, 126 for what does not start, one line that says which."""
    code = SUPERVISE.replace("eval(sys.argv[1])", "eval(open(sys.argv[1]).read())")
    (tmp_path / "plan").write_text(repr(Plan(argv, ENV)))
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "plan", ""], capture_output=True, text=True)
    first, *hints = done.stderr.splitlines()
    assert (done.returncode, first.rpartition(" [")[0]) == (status, f"slurm-oci: error: {error}")
    assert hints


# Telling


def test_an_error_is_one_line_whatever_the_names_in_it(capfd):
    """A newline or an escape sequence in a path can neither break the line nor reach the terminal."""
    report(RuntimeFailed("cannot start `/a\nb\x1b[31m\udcff`", "look at `\r`"))
    assert capfd.readouterr().err == (
        "slurm-oci: error: cannot start `/a\\nb\\x1b[31m\\xff` [runtime-failed]\n  look at `\\r`\n"
    )


def test_a_closed_stderr_does_not_change_how_it_ends():
    """Nobody reads it: the exit status must still be right."""
    code = "import os, sys; from slurm_oci.execute import tell; os.close(2); tell('x'); os._exit(42)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 42


@pytest.mark.parametrize("mode", ["become", "supervise"])
def test_the_descriptors_that_a_plan_names_are_all_open(supervisor, mode):
    """Slurm leaves gaps below PMI2's, and runc would end over the first; the open one stays what it is."""
    with open(supervisor.place / "given", "w") as file:
        given = fcntl.fcntl(file.fileno(), fcntl.F_DUPFD, file.fileno() + 4)
        names = f"for n in $(seq 3 {given + 1}); do readlink /proc/$$/fd/$n; done; true"
        cleanup = (shell("true"),) if mode == "supervise" else ()
        plan = Plan(shell(names), ENV, descriptors=given - 2, cleanup=cleanup)
        process = supervisor.start(plan, "" if mode == "become" else None, pass_fds=[given])
        os.close(given)
    out, error = process.communicate()
    assert (process.returncode, error) == (0, "")
    assert out.split() == [os.devnull] * (given - 3) + [file.name]
