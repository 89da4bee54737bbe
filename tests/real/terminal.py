"""A command in a root as seen from outside: a process like any other, or one at a terminal."""

import errno
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
import tty
from pathlib import Path

# ioctl_tty(2); termios has them from Python 3.13 on
TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431


class Command(subprocess.Popen):
    """A command in a root: signals, exit code and pipes are as if it were a child of this process."""

    def send_signal(self, number: int) -> None:
        """Send the command a signal.

        What is our child stands for the command, and passes on all signals but the two that none
        can catch: those go to the command directly.
        """
        if number in (signal.SIGKILL, signal.SIGSTOP) and self.poll() is None:
            for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
                os.kill(int(child), number)
        else:
            super().send_signal(number)


class Terminal:
    """A command at a terminal: what it writes is read here, and what it reads is typed here."""

    def __init__(self, process: Command, master: int) -> None:
        self.process = process
        self.seen = b""
        self.all = b""  # what it wrote from the start on, as far as it was read
        self._master = master

    def send(self, data: bytes) -> None:
        """Type `data`; b"\\x03" is ^C."""
        os.write(self._master, data)

    def expect(self, text: bytes, timeout: float = 20) -> bytes:
        """Read until `text` has appeared; returns what came up to its end.

        Raises TimeoutError after `timeout` seconds, EOFError at the end of the command.
        """
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            data = self._read(deadline)
            if not data:
                raise EOFError(f"no {text!r} to the end, but {self.seen!r}")
            self.seen += data
        before, found, self.seen = self.seen.partition(text)
        return before + found

    def finish(self, timeout: float = 20) -> tuple[int, bytes]:
        """Wait for the command's end; returns its exit code and what it wrote since `expect`.

        After `timeout` seconds it is killed, and TimeoutError raised.
        """
        deadline = time.monotonic() + timeout
        try:
            while data := self._read(deadline):
                self.seen += data
            return self.process.wait(timeout), self.seen
        finally:
            self.close()

    def resize(self, rows: int, columns: int) -> None:
        """Tell the command that its terminal has another size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def interact(self) -> int:
        """Connect the caller's own terminal to this one until the command ends; returns its exit code."""
        saved = termios.tcgetattr(0)

        def follow(*_: object) -> None:
            columns, rows = os.get_terminal_size(0)
            self.resize(rows, columns)

        signal.signal(signal.SIGWINCH, follow)
        follow()
        try:
            tty.setraw(0)
            while True:
                ready = select.select([0, self._master], [], [])[0]
                if 0 in ready:
                    os.write(self._master, os.read(0, 4096))
                if self._master in ready:
                    data = self._read_now()
                    if not data:
                        break
                    os.write(1, data)
        finally:
            termios.tcsetattr(0, termios.TCSAFLUSH, saved)
        return self.process.wait()

    def _read(self, deadline: float) -> bytes:
        if not select.select([self._master], [], [], max(0, deadline - time.monotonic()))[0]:
            raise TimeoutError(f"nothing more came, after {self.seen!r}")
        return self._read_now()

    def _read_now(self) -> bytes:
        try:
            data = os.read(self._master, 65536)
        except OSError as problem:
            if problem.errno == errno.EIO:  # nobody has the terminal open any more
                return b""
            raise
        self.all += data
        return data

    def close(self) -> None:
        """End the command if it still runs, and leave its terminal; once more does nothing."""
        if self._master < 0:
            return
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        self._master = -1


def open_terminal(devpts: Path, owner: int) -> tuple[int, int]:
    """A new terminal of the devpts mounted at `devpts`: both its ends, ours first.

    Its device belongs to the user `owner`.
    """
    master = os.open(devpts / "ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    (number,) = struct.unpack("i", fcntl.ioctl(master, TIOCGPTN, bytes(4)))
    fcntl.ioctl(master, TIOCSPTLCK, bytes(4))
    path = devpts / str(number)
    os.chown(path, owner, -1)
    return master, os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
