"""What goes into a payload and comes out of it: its standard streams, and a cell's channel."""

from __future__ import annotations

import errno
import os
import select
import socket
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .protocol import CHUNK, Kind, Outgoing
from .terminal import END_OF_TRANSMISSION, LATER

if TYPE_CHECKING:
    from .engine import Engine
    from .supervised import Supervised

PIECES = 8
"""Reads of a channel whose writer is gone: all that a socket may hold."""


@dataclass(slots=True)
class Ends:
    """The engine's ends of a container's pipes; -1 where closed."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    report: int = -1
    go: int = -1
    channel: socket.socket | None = None

    def close(self) -> None:
        """Close whatever is still open."""
        for name in ("stdin", "stdout", "stderr", "report", "go"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)
        if self.channel is not None:
            self.channel.close()
            self.channel = None


def make_pipes(python: bool, uid: int, terminal: tuple[int, int] | None = None) -> tuple[Ends, dict[str, int]]:
    """Make a container's pipes; return the engine's ends and the child's, by the plan's names.

    The streams belong to user `uid`, so that the payload may open them again as /dev/stdout. With a `terminal`, our end
    and the child's, they are that: it has one output.
    """
    if terminal is not None:
        from_stdout, stdin = terminal
        to_stdin, from_stderr = (LATER if from_stdout == LATER else os.dup(from_stdout)), -1
        stdout, stderr = os.dup(stdin), os.dup(stdin)
    else:
        stdin, to_stdin = os.pipe2(os.O_CLOEXEC)
        from_stdout, stdout = os.pipe2(os.O_CLOEXEC)
        from_stderr, stderr = os.pipe2(os.O_CLOEXEC)
    from_report, report = os.pipe2(os.O_CLOEXEC)
    go, to_go = os.pipe2(os.O_CLOEXEC)
    ends = Ends(to_stdin, from_stdout, from_stderr, from_report, to_go)
    child = {"stdin": stdin, "stdout": stdout, "stderr": stderr, "report": report, "go": go}
    if python:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        ends.channel = ours
        child["channel"] = theirs.detach()
    for fd in (to_stdin, from_stdout, from_stderr):
        if fd >= 0:
            os.set_blocking(fd, False)
        if fd >= 0 and uid and terminal is None:
            os.fchown(fd, uid, -1)
    return ends, child


class Streams:
    """The streams of one container: read as they come, written as they are taken.

    Parameters
    ----------
    engine : Engine
        Whose loop waits for them.
    ends : Ends
        Our ends.
    owner : Supervised
        Who takes what comes out.
    """

    def __init__(self, engine: Engine, ends: Ends, owner: Supervised) -> None:
        # Weak: the engine collects no cycles.
        self._engine, self._ends, self._owner = engine, ends, weakref.proxy(owner)
        self._to_stdin, self._to_channel = Outgoing(), Outgoing()
        self._stdin_ends = False

    @property
    def takes_input(self) -> bool:
        """Whether standard input is open, and its end has not been asked for."""
        return self._ends.stdin != -1 and not self._stdin_ends

    @property
    def at_end(self) -> bool:
        """Whether everything that came out has been read."""
        return self._ends.stdout < 0 and self._ends.stderr < 0 and self._ends.channel is None

    def watch(self) -> None:
        """Read from now on."""
        self._engine.watch(self._ends.stdout, lambda: self._read("stdout", 1), self._owner)
        if self._ends.stderr >= 0:  # a terminal has one output
            self._engine.watch(self._ends.stderr, lambda: self._read("stderr", 2), self._owner)
        if self._ends.channel is not None:
            self._engine.watch(self._ends.channel.fileno(), self._read_channel, self._owner)

    def read_out(self) -> bool:
        """Read what is in the standard streams, as far as a pipe usually holds; return whether that is all."""
        for name, number in (("stdout", 1), ("stderr", 2)):
            self._read(name, number)
        return not any(fd >= 0 and is_readable(fd) for fd in (self._ends.stdout, self._ends.stderr))

    def drain(self) -> None:
        """Read what is there, and no more: nobody writes any longer."""
        for _ in range(PIECES):
            if self._ends.channel is None or not is_readable(self._ends.channel):
                break
            self._read_channel()
        for name in ("stdout", "stderr"):
            self.close_one(name)
        self._close_channel()

    def _read(self, name: str, number: int) -> None:
        fd, owner = getattr(self._ends, name), self._owner
        if fd < 0 or (owner.followed and self._engine.hold_back(fd, lambda: self._read(name, number), owner)):
            return
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        except OSError as e:
            if e.errno != errno.EIO or not self._owner.spec.tty:
                raise
            data = b""  # nobody has the terminal open any more
        if not data:
            self.close_one(name)
            return
        self._owner.pass_on(number, data)

    def _read_channel(self) -> None:
        # What was written to the streams before this message must be shown before it.
        for name, number in (("stdout", 1), ("stderr", 2)):
            self._read(name, number)
        channel = self._ends.channel
        if channel is None or self._engine.hold_back(channel.fileno(), self._read_channel, self._owner):
            return
        try:
            data = channel.recv(CHUNK)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if data:
            self._engine.tell(Kind.CHANNEL_OUT, self._owner.id, data)
        else:
            self._close_channel()

    def feed_stdin(self, data: bytes | None) -> None:
        """Queue bytes for standard input; None is its end."""
        if data is None:
            self._stdin_ends = True
        elif self._ends.stdin != -1:
            self._to_stdin.put(data)
        self._flush_stdin()

    def feed_all(self, data: bytes) -> None:
        """Queue bytes for standard input, and its end."""
        self._to_stdin.put(data)
        self.feed_stdin(None)

    def take_terminal(self, master: int) -> None:
        """Have our end of the terminal, which is there now, be that of the streams."""
        self._ends.stdin, self._ends.stdout = os.dup(master), master
        self._flush_stdin()

    def _flush_stdin(self) -> None:
        """Write what the pipe takes."""
        fd = self._ends.stdin
        if fd < 0:
            return
        try:
            while self._to_stdin.size:
                self._to_stdin.advance(os.write(fd, self._to_stdin.head()))
        except BlockingIOError:
            pass
        except BrokenPipeError:  # the program does not read it (any more)
            self._to_stdin, self._stdin_ends = Outgoing(), True
        if self._to_stdin.size:
            self._engine.want_write(fd, self._flush_stdin, True, self._owner)
        elif self._stdin_ends and self._owner.spec.tty:
            self._to_stdin.put(END_OF_TRANSMISSION)  # closing would hang up the terminal
            self._stdin_ends = False
            self._flush_stdin()
        elif self._stdin_ends:
            self.close_one("stdin")
        else:
            self._engine.want_write(fd, self._flush_stdin, False)

    def feed_channel(self, data: bytes) -> None:
        """Queue bytes for the cell."""
        self._to_channel.put(data)
        self._flush_channel()

    def _flush_channel(self) -> None:
        """Send what the cell's socket takes."""
        channel = self._ends.channel
        if channel is None:
            return
        try:
            empty = self._to_channel.flush(channel)
        except (BrokenPipeError, ConnectionResetError):
            self._to_channel, empty = Outgoing(), True
        self._engine.want_write(channel.fileno(), self._flush_channel, not empty, self._owner)

    def close_one(self, name: str) -> None:
        """Close one of our ends."""
        fd = getattr(self._ends, name)
        if fd >= 0:
            self._engine.unwatch(fd)
            os.close(fd)
        setattr(self._ends, name, -1)

    def _close_channel(self) -> None:
        """Close the cell's socket."""
        if self._ends.channel is not None:
            self._engine.unwatch(self._ends.channel.fileno())
            self._ends.channel.close()
            self._ends.channel = None

    def close(self) -> None:
        """Close all."""
        for name in ("stdin", "stdout", "stderr", "report", "go"):
            self.close_one(name)
        self._close_channel()


def is_readable(fd: int | socket.socket) -> bool:
    """Whether reading a descriptor would not block."""
    poll = select.poll()  # select(2) does without descriptors above 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
