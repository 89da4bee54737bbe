"""What Slurm does to a running task reaches the container as it reaches a plain command.

The expectations are what a command without a container sees: the first `task` of each test. Of the
ways to run a container each kind is tried: become, supervised, prepared for, created and started.
SLURM_OCI_SIGNALS=full tries every runtime with every image, and waits for a time limit: two minutes
more a suite, most of them waiting.
"""

import os
import re
import signal

import pytest
from conftest import PAIRS
from ends import record
from images import IMAGES
from running import Task, none_left, until
from test_nvidia import STAND_IN

FULL = os.environ.get("SLURM_OCI_SIGNALS") == "full"
PODMAN, NVIDIA = ("podman", "rootfs"), ("nvidia-container-runtime", "oci-bundle")
BECOME, SUPERVISED, PREPARED = ("unshare", "rootfs"), ("crun", "oci-bundle"), ("charliecloud", "squashfs")
KINDS = [BECOME, SUPERVISED, PREPARED, ("apptainer", "sif"), NVIDIA, PODMAN]
WAYS = [(None, None), *(dict.fromkeys([*KINDS, *PAIRS]) if FULL else KINDS)]
ALICES = "/home/alice/signals-rootfs"  # podman takes a directory of the user's own


def named(way):
    return "-".join(way) if way[0] else "no container"


def of(*ways):
    """Only these ways, unless all are asked for."""
    return pytest.mark.parametrize("way", WAYS if FULL else ways, ids=named, indirect=True)


@pytest.fixture(scope="module")
def prepared(installed):
    """The image of alice's own, and the stand-in of NVIDIA's program (test_nvidia.py)."""
    script = f"cp -a {IMAGES['rootfs']} {ALICES} && chown -R alice: {ALICES}"
    installed.run(["sh", "-c", script], user="root", check=True)
    installed.write("/usr/local/bin/nvidia-container-runtime", STAND_IN, mode=0o755)
    yield
    installed.run(["rm", "-rf", ALICES, "/usr/local/bin/nvidia-container-runtime"], user="root")


@pytest.fixture(params=WAYS, ids=named)
def way(request, slurm, prepared):
    """A runtime's name and an image for it, or none of both; nothing is left of it afterwards."""
    runtime, kind = request.param
    if runtime == "apptainer" and not slurm.root.has("apptainer"):
        pytest.skip(f"{slurm.root.suite} has no package of apptainer")
    yield runtime, (ALICES if runtime == "podman" else IMAGES[kind]) if kind else None
    none_left(slurm)


def test_a_signal_arrives_once(slurm, way):
    """One that scancel names, each time that it is sent; the exit status stays the command's."""
    task = Task(slurm, *way)
    for number in range(3):
        task.cancel("-s", "USR1", f"{task.job}.0")
        task.wait_for("ready", *["USR1"] * (number + 1))
    task.cancel("-s", "USR2", f"{task.job}.0")
    task.wait_for("USR2")
    task.stop()
    assert (task.status(), task.log) == (5, ["ready", "USR1", "USR1", "USR1", "USR2"])


def test_scancel_lets_the_command_end_itself(slurm, way):
    """SIGCONT and SIGTERM, once each, and time until KillWait."""
    task = Task(slurm, *way)
    task.cancel(task.job)
    assert (task.status(), sorted(task.log)) == (3, ["CONT", "TERM", "ready"])
    none_left(slurm)
    if way[0]:
        record(slurm, "scancel", "each way to run", 3)


@of(SUPERVISED, PREPARED)
def test_a_command_that_takes_no_notice_of_sigterm_is_killed(slurm, way):
    """After KillWait, with all that belongs to it. What then stays is removed by `gc`."""
    task = Task(slurm, *way, on_term=":")
    task.cancel(task.job)
    assert (task.status(), sorted(task.log)) == (137, ["CONT", "TERM", "ready"])
    slurm.root.wait_idle()
    assert slurm("/opt/slurm-oci/bin/slurm-oci-plugins", "gc")[0] == 0


def test_interrupting_srun_twice_ends_the_command(slurm, way):
    """^C, and ^C again within a second: SIGINT and so soon SIGKILL that a command rarely sees more."""
    task = Task(slurm, *way)
    until(lambda: task.process.send_signal(signal.SIGINT) or task.process.poll() is not None)
    assert task.status() in (137, -signal.SIGINT)  # the last one may find srun without its handler
    assert task.log in (["ready"], ["ready", "INT"])
    slurm.root.wait_idle()
    assert slurm("/opt/slurm-oci/bin/slurm-oci-plugins", "gc")[0] == 0


@of((None, None), BECOME, SUPERVISED, PREPARED)
@pytest.mark.parametrize("by", ["scancel", "scontrol"])
def test_a_stopped_task_stops_and_goes_on(slurm, way, by):
    """`scancel -s STOP`, or `scontrol suspend` as root: Slurm freezes every process of the step."""
    task = Task(slurm, *way, tick="echo tick >>/home/alice/ticks")
    ticks = task.home / "ticks"
    until(ticks.exists)

    def stands_still():
        before = ticks.stat().st_size
        slurm.root.run(["sleep", "0.6"])
        return ticks.stat().st_size == before

    if by == "scancel":
        task.cancel("-s", "STOP", f"{task.job}.0")
    else:
        assert slurm("scontrol", "suspend", task.job, user="root")[0] == 0
    until(stands_still)
    before = ticks.stat().st_size
    if by == "scancel":
        task.cancel("-s", "CONT", f"{task.job}.0")
    else:
        assert slurm("scontrol", "resume", task.job, user="root")[0] == 0
    until(lambda: ticks.stat().st_size > before)
    task.wait_for("CONT")
    task.stop()
    assert task.status() == 5
    assert set(task.log) == {"ready", "CONT"}


def test_a_batch_script_gets_the_signal_that_is_for_it(slurm, way):
    """`scancel -b`: the script itself, once."""
    runtime, image = way
    script = b"""#!/bin/sh
trap 'echo USR2' USR2
echo ready >/home/alice/log
while [ ! -e /home/alice/stop ]; do sleep 0.05; done
exit 5
"""
    home = slurm.root.path("/home/alice")
    for name in ("log", "stop"):
        (home / name).unlink(missing_ok=True)
    container = [f"--container={image}"] if image else []
    env = {"SLURM_OCI_RUNTIME": runtime} if runtime else {}
    out = slurm("sbatch", "--parsable", "-o", "/home/alice/out", *container, input=script, env=env)[1]
    job = out.decode().strip()
    until((home / "log").exists)
    assert slurm("scancel", "-b", "-s", "USR2", job)[0] == 0
    until(lambda: "USR2" in (home / "out").read_text())
    (home / "stop").touch()
    slurm.root.wait_idle()
    assert (home / "out").read_text() == "USR2\n"
    ended = slurm("scontrol", "show", "job", job)[1].decode()
    assert "ExitCode=5:0" in ended


@of((None, None), BECOME, SUPERVISED, ("runc", "oci-bundle"), PREPARED)
def test_what_slurm_has_set_for_the_task_holds_inside(slurm, way):
    """umask, limits, and a descriptor that Slurm has opened for it: PMI2 speaks over one."""
    runtime, image = way
    script = 'umask; ulimit -Sn; ulimit -Sc; test -S "/proc/self/fd/$PMI_FD" && echo "a socket"'
    # The process group is the one of the task's first process, which is the command or above it.
    script += (
        "; p=$$; read -r _ _ _ _ g _ </proc/$p/stat;"
        " while [ $p != $g ] && [ $p -gt 1 ]; do read -r _ _ _ p _ </proc/$p/stat; done; test $p = $g; echo $?; exit 4"
    )
    container = [f"--container={image}"] if image else []
    env = {"SLURM_OCI_RUNTIME": runtime} if runtime else {}
    limits = "umask 027; ulimit -Sn 333; ulimit -Sc 0"
    argv = ["srun", "--mpi=pmi2", "--propagate=NOFILE,CORE", *container, "/bin/sh", "-c", script]
    status, out, _ = slurm("sh", "-c", f'{limits}; exec "$@"', "sh", *argv, env=env)
    assert (status, out) == (4, b"0027\n333\n0\na socket\n0\n")


@of((None, None), BECOME, SUPERVISED, ("runc", "oci-bundle"), PREPARED, PODMAN)
@pytest.mark.parametrize("umask", ["0177", "0777"])
def test_a_umask_that_closes_files_to_their_owner_hinders_no_task(slurm, way, umask):
    """Slurm passes on what `srun` had. It is the command's alone; the next task finds nothing closed."""
    runtime, image = way
    for writable in ("no", "tmp"):
        container = [f"--container={image}"] if image else []
        env = {"SLURM_OCI_RUNTIME": runtime, "SLURM_OCI_WRITABLE": writable} if runtime else {}
        argv = ["srun", *container, "/bin/sh", "-c", "umask; exit 4"]
        status, out, err = slurm("sh", "-c", f'umask {umask}; exec "$@"', "sh", *argv, env=env)
        assert (status, out) == (4, f"{umask}\n".encode()), err
    root = slurm.root.path("/run/slurm-oci/1001")
    assert not root.exists() or root.stat().st_mode & 0o7777 == 0o700


@pytest.mark.skipif(not FULL, reason="Slurm looks at time limits twice a minute; SLURM_OCI_SIGNALS=full")
def test_the_time_limit_ends_every_task_as_scancel_does(slurm):
    """SIGTERM and SIGCONT, and time to end: all ways at once, for Slurm looks twice a minute.

    Slurm sends SIGTERM before and after SIGCONT. A shell that waits for `sleep` sees one or two of them.
    """
    script = (
        "trap 'echo TERM; term=1' TERM; trap 'echo CONT; cont=1' CONT; echo ready;"
        ' until [ "$term$cont" = 11 ]; do sleep 0.1; done; exit 3'
    )
    started = {}
    for runtime, kind in [(None, None), *PAIRS]:
        if runtime != "apptainer" or slurm.root.has("apptainer"):
            container = [f"--container={IMAGES[kind]}"] if kind else []
            env = {"SLURM_OCI_RUNTIME": runtime} if runtime else {}
            argv = ["srun", "--time=1", *container, "/bin/sh", "-c", script]
            started[runtime, kind] = slurm.root.popen(argv, env=env, stdout=-1, stderr=-1)
    ended = {
        way: (set(process.communicate()[0].split()), process.returncode) for way, process in started.items()
    }
    assert ended == {way: ({b"CONT", b"TERM", b"ready"}, 3) for way in started}
    none_left(slurm)
    record(slurm, "the time limit", "each way to run", 3)


@pytest.mark.parametrize("runtime", ["unshare", "crun"])
def test_every_exit_status_and_every_signal_is_exact(slurm, runtime):
    """Of 256 tasks that end with their own number, and of one for each signal that ends a process;
    srun tells how each has ended."""
    image = IMAGES["rootfs" if runtime == "unshare" else "oci-bundle"]
    found = {}
    for first in range(0, 256, 64):
        command = f"exit $((SLURM_PROCID + {first}))"
        for task, end in ends(slurm, runtime, image, 64, command).items():
            found[task + first] = end
    assert found == {number: f"Exited with exit code {number}" for number in range(1, 256)}
    numbers = sorted(ENDING)
    command = f"set -- {' '.join(map(str, numbers))}; shift $SLURM_PROCID; ulimit -c 0; kill -$1 $$"
    found = ends(slurm, runtime, image, len(numbers), command)
    assert {numbers[task]: number_in(text) for task, text in found.items()} == {n: n for n in numbers}


# Signals whose default is to end a process (signal(7)), but for SIGQUIT, which busybox's sh ignores.
ENDING = {1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 24, 25, 26, 27, 29, 30, 31, 34, 50, 64}


def ends(slurm, runtime, image, count, command):
    """By the task's number, what srun says of how it ended, if that was not with 0."""
    argv = ["srun", "-Q", "--overcommit", f"-n{count}", "-N1", "--kill-on-bad-exit=0"]
    argv += [f"--container={image}", "/bin/sh", "-c", command]
    error = slurm(*argv, env={"SLURM_OCI_RUNTIME": runtime}, timeout=120)[2].decode()
    found = {}
    for numbers, how in re.findall(r"^srun: error: node1: tasks? ([\d,-]+): (.*)$", error, re.M):
        for part in numbers.split(","):
            first, _, last = part.partition("-")
            found |= dict.fromkeys(range(int(first), int(last or first) + 1), how)
    return found


def number_in(text):
    """The signal, by number as a shell tells it or by its name."""
    if text.startswith("Exited with exit code "):
        return int(text.split()[-1]) - 128
    names = {signal.strsignal(number): number for number in signal.valid_signals()}
    return names.get(text.removesuffix(" (core dumped)"))
