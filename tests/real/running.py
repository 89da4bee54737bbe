"""A task that runs while the test does things to it, and what must be gone afterwards."""

import subprocess
import time

import machine

# Writes a line for each signal that it gets, until there is a file `stop`; on SIGTERM it ends with 3.
SCRIPT = """
say() { echo "$1" >>/home/alice/log; }
for name in INT USR1 USR2 CONT HUP WINCH; do trap "say $name" $name; done
status=5
trap "say TERM; ON_TERM" TERM
say ready
while [ ! -e /home/alice/stop ]; do sleep 0.05; TICK; done
exit $status
"""


class Task:
    """One task in a container, or without one, that writes down what happens to it."""

    def __init__(
        self,
        slurm,
        runtime,
        image,
        *options,
        on_term="status=3; : >/home/alice/stop",
        tick=":",
        program="srun",
        **popen,
    ):
        self.slurm = slurm
        self.home = slurm.root.path("/home/alice")
        for name in ("log", "stop", "ticks"):
            (self.home / name).unlink(missing_ok=True)
        script = SCRIPT.replace("ON_TERM", on_term).replace("TICK", tick)
        container = [f"--container={image}"] if image else []
        env = {"SLURM_OCI_RUNTIME": runtime} if runtime else {}
        self.process = slurm.root.popen(
            [program, *options, *container, "/bin/sh", "-c", script], env=env,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **popen,
        )  # fmt: skip
        self.wait_for("ready")
        listed = slurm("squeue", "--noheader", "--format=%A")[1].split()
        self.job = listed[-1].decode()

    @property
    def log(self):
        path = self.home / "log"
        return path.read_text().split() if path.exists() else []

    def wait_for(self, *lines):
        """Returns when the last lines of the log are these."""
        until(lambda: self.log[-len(lines) :] == list(lines), lambda: (lines, self.log, self.process.poll()))

    def cancel(self, *options):
        assert self.slurm("scancel", *options)[0] == 0

    def stop(self):
        """Has the command end by itself, with 5."""
        (self.home / "stop").touch()

    def status(self):
        """What srun ends with."""
        try:
            self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode


# What srun 24.11 and 26.05 say when a signal comes while they wait for the step's own connection that
# carries the terminal's size (accept(2), EINTR): the step runs on and never knows it.
SRUNS_OWN_FAULT = b"srun: error: pty: accept failure: Interrupted system call"


def at_a_terminal(slurm, words, talk, tries=5, **options):
    """What `talk` gives, which is told the terminal that the command has; the command is begun again
    where srun itself has failed."""
    for _ in range(tries):
        terminal = slurm.root.terminal(words, **options)
        try:
            result = talk(terminal)
        except (TimeoutError, EOFError, OSError):
            if SRUNS_OWN_FAULT not in terminal.all:
                raise
        else:
            if SRUNS_OWN_FAULT not in terminal.all:
                return result
        finally:
            terminal.close()
        slurm.root.cancel_jobs()
    raise AssertionError(f"srun failed {tries} times: {SRUNS_OWN_FAULT.decode()}")


def until(true, shown=lambda: "", seconds=40):
    """Waits for what must come to be; what never comes is a failure."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"it did not happen: {shown()}"
        time.sleep(0.02)


def left(slurm):
    """What jobs have left on the node: in Slurm's spool, as mounts, processes and state."""
    slurm.root.wait_idle()
    state = slurm.root.path("/run/slurm-oci/1001")
    mounts = machine.mounts(slurm.root.run(["cat", "/proc/self/mounts"], user="root").stdout)
    found = {
        "spool": sorted(path.name for path in slurm.root.path("/var/spool/slurmd").glob("oci-job*")),
        "state": sorted(path.name for path in state.iterdir()) if state.exists() else [],
        "mounts": [line for line in mounts if line[2].startswith("fuse")],
        "processes": processes(slurm),
    }
    return {where: what for where, what in found.items() if what}


def processes(slurm):
    """alice's, by their command lines."""
    listed = slurm.root.run(["ps", "-u", "alice", "-o", "args="], user="root").stdout.decode()
    return listed.splitlines()


def none_left(slurm):
    """Fails if something stays; what ends a moment after the job may take that moment."""
    until(lambda: not left(slurm), lambda: left(slurm), seconds=10)
