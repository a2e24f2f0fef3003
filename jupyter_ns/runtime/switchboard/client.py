"""The engine's side of the switchboard: starts it, asks it, hears its answers."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgpack

from ...errors import EngineError
from .process import MOST_BYTES, fork

Answer = Callable[[Any, OSError | None], None]
"""Called with the result, or with an error whose `filename` is the message that was refused."""
CALL_S = 20.0


class Watcher(Protocol):
    """What the engine's loop is asked for."""

    def watch(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call whenever `fd` is readable."""

    def unwatch(self, fd: int) -> None:
        """Forget `fd`."""


class SwitchboardClient:
    """One switchboard process.

    Parameters
    ----------
    engine : Watcher
        Whose loop hears the answers.
    """

    def __init__(self, engine: Watcher) -> None:
        self._engine = engine
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.pid = fork(theirs)
        finally:
            theirs.close()
        self._number = 0
        self._waiting: dict[int, Answer] = {}
        self.alive = True
        engine.watch(self._sock.fileno(), self._on_answer)

    def request(self, do: str, answer: Answer, *, fds: Sequence[int] = (), **arguments: Any) -> None:
        """Ask for something; `answer` is called from the engine's loop.

        Raises
        ------
        EngineError
            The process is gone.
        """
        self._number += 1
        data = msgpack.packb({"number": self._number, "do": do, **arguments})
        number = self._number
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        while self.alive:
            try:
                # socket.send_fds() leaves its flags out.
                self._sock.sendmsg([data], rights, socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._on_answer()  # it waits until we take its answers: neither may wait for the other
            except (BrokenPipeError, ConnectionResetError):
                break
            else:
                self._waiting[number] = answer
                return
        raise EngineError("the switchboard, which connects containers, is gone; try again")

    def call(self, do: str, *, fds: Sequence[int] = (), **arguments: Any) -> Any:
        """Ask, and wait: for what takes a moment only, and is asked rarely.

        Raises
        ------
        OSError
            As the kernel said; `filename` is the message.
        EngineError
            The process is gone, or does not answer.
        """
        told: list[tuple[Any, OSError | None]] = []
        self.request(do, lambda result, error: told.append((result, error)), fds=fds, **arguments)
        self._sock.settimeout(CALL_S)
        try:
            while not told:
                self._on_answer()
        except TimeoutError:
            raise EngineError("the switchboard, which connects containers, does not answer") from None
        finally:
            if self.alive:
                self._sock.settimeout(None)
        result, error = told[0]
        if error is not None:
            raise error
        return result

    def _on_answer(self) -> None:
        try:
            data = self._sock.recv(MOST_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            self.close()
            return
        reply = msgpack.unpackb(data)
        answer = self._waiting.pop(reply["number"])
        number = reply.get("errno")
        answer(reply.get("result"), OSError(number, os.strerror(number), reply["text"]) if number else None)

    def close(self) -> None:
        """End the process; whoever still waits is told so."""
        if not self.alive:
            return
        self.alive = False
        self._engine.unwatch(self._sock.fileno())
        self._sock.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)  # our own child, which nobody else has waited for
        os.waitpid(self.pid, 0)
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer(None, OSError(errno.EPIPE, "the switchboard is gone", "network"))
