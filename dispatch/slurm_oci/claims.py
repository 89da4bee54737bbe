"""Who does the work that is to be done once: the tries, one after the other, each by one task.

`claims/NAME/N` is a link to the name of the task that makes the N-th try. A link of one name can be
made once, on every file system; so when N is over, one task alone makes N+1. The N-th try is over when
`N.failed` says why, or its task is gone: on this node that can be seen, of another node's it is
believed when `work/TASK/beat` has not changed for SILENT seconds.
"""

import json
import os
import time

from slurm_oci import state
from slurm_oci.problems import ImportFailed, Problem
from slurm_oci.values import TYPE_CHECKING, Request

if TYPE_CHECKING:
    from typing import Any

BEAT = 5.0  # seconds between two signs of life
SILENT = 60.0  # seconds without one, after which a task on another node is believed to be gone
KEPT = 86400.0  # seconds that a failure is remembered for; the step that it belongs to is over by then


class Claim:
    """A task's part in the work called `name`."""

    def __init__(self, root: str, name: str, request: Request) -> None:
        self.root = root
        self.folder = os.path.join(root, "claims", name)
        self.node = request.node
        self.task = state.name(request, os.getpid())
        self.step = f"{request.job}.{request.step}" if request.job else self.task
        self.number = 0  # of the try that is this task's own
        self.seen = 0  # of the one that it waits for
        self.holder = ""
        self.beats = 0
        self.beaten = 0.0
        self.sign: tuple[bytes, float] = (b"", 0.0)  # the holder's last one, and when it was new

    def take(self) -> bool:
        """Whether the work is this task's now; else it is being done. Raises ImportFailed where the
        try that this task has waited for, or one of its own step, has failed; and OSError."""
        number = latest(self.folder)
        if number:
            try:
                holder = os.readlink(os.path.join(self.folder, str(number)))
            except FileNotFoundError:
                return False  # it is over this moment
            failure = read_failure(self.folder, number)
            if failure and (number == self.seen or failure["step"] == self.step):
                raise ImportFailed(failure["message"], *failure["hints"])
            if not failure and not self.is_gone(holder):
                self.seen, self.holder = number, holder
                return False
        return self.make(number + 1)

    def make(self, number: int) -> bool:
        path = os.path.join(self.folder, str(number))
        try:
            os.makedirs(self.folder, 0o700, exist_ok=True)
            os.symlink(self.task, path)
        except FileNotFoundError:
            return False  # the work was done this moment, and the folder is gone
        except FileExistsError:
            try:
                if os.readlink(path) != self.task:  # else the file server was asked twice
                    return False
            except FileNotFoundError:
                return False  # it is over this moment
        self.number = number
        return True

    def is_gone(self, holder: str) -> bool:
        task = state.task_of(holder, self.node)
        place = os.path.join(self.root, "work", holder)
        if task:
            return not state.is_alive(task[0], task[4]) and not state.is_held(place)
        sign, now = read(os.path.join(place, "beat")), time.monotonic()
        if holder != self.holder or sign != self.sign[0]:
            self.holder, self.sign = holder, (sign, now)
        return now - self.sign[1] > SILENT

    def who(self) -> str:
        """The task that is at work, for people."""
        node, _, job, step, task, _ = self.holder.rsplit(".", 5)
        return f"task {task} of step {job}.{step} on {node}"

    def beat(self) -> None:
        """Gives a sign of life, where the last one is a while ago."""
        if not self.beats or time.monotonic() - self.beaten > BEAT:
            self.beats, self.beaten = self.beats + 1, time.monotonic()
            with open(os.path.join(self.root, "work", self.task, "beat"), "wb", 0) as file:
                file.write(b"%d" % self.beats)

    def is_latest(self) -> bool:
        """Whether nobody has taken this task for dead and made another try."""
        return latest(self.folder) == self.number

    def done(self) -> None:
        """The work is done: nothing of the tries is needed any more."""
        sweep(self.folder)

    def release(self) -> None:
        """Lets another task try, at once."""
        remove(os.path.join(self.folder, str(self.number)))
        try:
            os.rmdir(self.folder)
        except OSError:  # of earlier tries something is told there
            pass

    def fail(self, problem: Problem) -> None:
        """Tells those who wait, and later tasks of this step, why there is no use in another try."""
        told = {"step": self.step, "message": problem.message, "hints": problem.hints}
        path = os.path.join(self.folder, f"{self.number}.failed")
        try:
            with open(path + ".new", "w") as file:
                json.dump(told, file)
            os.rename(path + ".new", path)
        except OSError:
            self.release()


def latest(folder: str) -> int:
    """The number of the last try; 0 before the first one."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 0
    return max((int(name) for name in names if name.isdecimal()), default=0)


def read_failure(folder: str, number: int) -> "dict[str, Any] | None":
    text = read(os.path.join(folder, f"{number}.failed"))
    found: dict[str, Any] | None = json.loads(text) if text else None
    return found


def read(path: str) -> bytes:
    """What the file holds; nothing where it is not. Opened anew each time: so a network file system
    asks its server (close-to-open consistency, nfs(5))."""
    try:
        with open(path, "rb", 0) as file:
            return file.read()
    except OSError:
        return b""


def tidy(root: str, node: str) -> None:
    """Removes the tries of works that nobody is at any more."""
    for name in state.listed(os.path.join(root, "claims")):
        folder = os.path.join(root, "claims", name)
        try:
            old = time.time() - os.stat(folder).st_mtime > KEPT
            task = state.task_of(os.readlink(os.path.join(folder, str(latest(folder)))), node)
        except OSError:
            continue
        if old and (task is None or not state.is_alive(task[0], task[4])):
            sweep(folder)


def sweep(folder: str) -> None:
    for name in sorted(state.listed(folder)):
        remove(os.path.join(folder, name))
    try:
        os.rmdir(folder)
    except OSError:
        pass


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
