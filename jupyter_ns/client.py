"""The kernel's side of the engine: starts it, speaks with it, follows a run to its end."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import ContainerError, EngineError, from_dict
from .host import HostFacts
from .runtime import protocol
from .runtime.protocol import KINDS, Kind

Handler = Callable[[Kind, Any], None]


class _Turns:
    """Which of the threads that wait reads the stream, for all: one at a time, the others sleep."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: list[_Waiting] = []

    def take(self, waiting: _Waiting | None = None) -> bool:
        """Take the turn if it is free, else line up; return whether the caller has it."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return True
            if waiting is not None:
                self._waiting.append(waiting)
            return False

    def leave(self, waiting: _Waiting) -> bool:
        """Line up no more; return whether the caller was given the turn."""
        with self._lock:
            self._waiting.remove(waiting)
            return waiting.has_turn

    def wake(self) -> None:
        """Wake those whose wait is over."""
        with self._lock:
            for waiting in self._waiting:
                if waiting.done():
                    waiting.woken.set()

    def give(self) -> None:
        """Pass the turn on to one that goes on waiting, if any does."""
        self.wake()
        with self._lock:
            heir = next((waiting for waiting in self._waiting if not waiting.woken.is_set()), None)
            self._taken = heir is not None
            if heir is not None:
                heir.has_turn = True
                heir.woken.set()


@dataclass(eq=False, slots=True)
class _Waiting:
    done: Callable[[], bool]
    woken: threading.Event = field(default_factory=threading.Event)
    has_turn: bool = False


PLACES = {"host": "engine", "guest": "keeper"}
"""Where an engine can be, and which process of ours the byte stream leads to there."""
WAKE_FDS_S = 0.05
"""How often one that sleeps looks at its own descriptors."""


class EngineClient:
    """One engine process, and the byte stream to it.

    Any thread may call; whoever waits reads the stream for all. `wake_fds` is a pipe with which a signal handler wakes
    the main thread up.

    Parameters
    ----------
    on : str
        The place of the engine, a key of `PLACES`.
    """

    def __init__(self, on: str = "host") -> None:
        self.on = on
        self._decoder = protocol.Decoder()
        self._handlers: dict[str, Handler] = {}
        self._write_lock = threading.Lock()
        self._turns = _Turns()
        self._out = protocol.Outgoing()
        self._reader = 0
        self._facts: HostFacts | None = None
        self._failure: ContainerError | None = None
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        main = os.path.join(os.path.dirname(protocol.__file__), "main.py")
        environ = {**os.environ, "JUPYTER_NS_PATH": json.dumps(sys.path)}
        with theirs:
            # Without site (-S) and environment (-E): it starts in 30 ms; its path comes from us.
            # A session of its own: the notebook server interrupts the kernel's whole process group.
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-E", main, PLACES[self.on], str(theirs.fileno())],
                env=environ,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        ours.setblocking(False)
        self._sock = ours
        self.wake_fds = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._handlers[""] = self._on_engine
        hello = {
            "version": protocol.VERSION,
            "sys_path": sys.path,
            "executable": sys.executable,
            "environ": dict(os.environ),
            "cwd": os.getcwd(),
        }
        self.send(Kind.HELLO, "", hello)
        atexit.register(self.close)

    @property
    def alive(self) -> bool:
        """Whether the engine can still be spoken to."""
        return self._failure is None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The engine's process ID."""
        return self._process.pid

    @property
    def facts(self) -> HostFacts:
        """What this host can do; waits for the engine's probes."""
        self.wait(lambda: self._facts is not None)
        assert self._facts is not None
        return self._facts

    def close(self) -> None:
        """End the engine, and with it everything it made; waits until all of that is gone."""
        atexit.unregister(self.close)
        self._sock.close()
        wake_fds, self.wake_fds = self.wake_fds, (-1, -1)
        for fd in wake_fds:
            if fd >= 0:
                os.close(fd)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # ---- sending ----

    def send(self, kind: Kind, container: str = "", payload: Any = None, *, more: bool = False) -> None:
        """Send one frame; while the engine does not take it, read what it says.

        Parameters
        ----------
        kind, container, payload
            As `protocol.encode` takes them.
        more : bool
            Whether another frame follows at once, with which this one goes: the engine wakes up once for both.

        Raises
        ------
        EngineError
            If the engine is gone.
        """
        frame = protocol.encode(kind, container, payload)
        with self._write_lock:
            self._out.put(frame)
        if more:
            return
        # From a handler, queueing is enough: the loop that called it sends, and reading here
        # would hand out later frames before earlier ones.
        while not self._flush() and self._reader != threading.get_ident():
            readable, _, _ = select.select([self._sock], [self._sock], [])
            if readable and self._turns.take():
                try:
                    self._read()
                finally:
                    self._turns.give()

    def sync(self) -> None:
        """Wait until the engine has done all it was asked, and given back what it only held ready."""
        answers: list[Any] = []
        self.subscribe("sync", lambda kind, payload: answers.append(payload))
        try:
            self.send(Kind.SYNC, "sync")
            self.wait(lambda: bool(answers))
        finally:
            self.unsubscribe("sync")

    def ask(self, kind: Kind, payload: Any) -> Any:
        """Send a request and wait for its answer.

        Raises
        ------
        UsageError, UnsupportedError
            As the engine says.
        EngineError
            If the engine is gone.
        """
        answers: list[tuple[Kind, Any]] = []
        asker = uuid.uuid4().hex
        self.subscribe(asker, lambda kind, payload: answers.append((kind, payload)))
        try:
            self.send(kind, asker, payload)
            self.wait(lambda: bool(answers))
        finally:
            self.unsubscribe(asker)
        how, answer = answers[0]
        if how is Kind.ERROR:
            raise from_dict(answer)
        return answer

    def send_channel(self, container: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Send a message over a container's channel, in frames of bounded size."""
        for piece in pieces:
            view = memoryview(piece)
            for at in range(0, len(view), protocol.HIGH_WATER):
                self.send(Kind.CHANNEL_IN, container, bytes(view[at : at + protocol.HIGH_WATER]))

    def _flush(self) -> bool:
        with self._write_lock:
            try:
                return self._out.flush(self._sock)
            except OSError as e:
                raise self._gone() from e

    # ---- receiving ----

    def subscribe(self, container: str, handler: Handler) -> None:
        """Have `handler` called with each frame about `container`."""
        self._handlers[container] = handler

    def unsubscribe(self, container: str) -> None:
        """Stop that."""
        self._handlers.pop(container, None)

    def wait(self, done: Callable[[], bool], *, until: float | None = None, wake_fds: Sequence[int] = ()) -> bool:
        """Read and hand out frames until `done()`; return `done()`.

        Parameters
        ----------
        done : callable
            Looked at after every batch of frames.
        until : float, optional
            `time.monotonic()` at which to give up.
        wake_fds : sequence of int
            Descriptors whose readability ends the wait.

        Raises
        ------
        EngineError
            If the engine goes away meanwhile.
        """
        while not done():
            if self._failure is not None:
                raise self._failure
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                break
            if self._has_turn(done, left, wake_fds):
                try:
                    woken = self._read_until(done, until, wake_fds)
                finally:
                    self._turns.give()
            else:
                woken = bool(wake_fds) and bool(select.select(wake_fds, [], [], 0)[0])
            if woken:
                break
        return done()

    def _has_turn(self, done: Callable[[], bool], left: float | None, wake_fds: Sequence[int]) -> bool:
        """Get the turn to read, or sleep until there is something to look at; return whether we have it."""
        if self._turns.take():  # as nearly always: what follows is for several threads
            return True
        waiting = _Waiting(done)
        if self._turns.take(waiting):
            return True
        limits = [s for s in (left, WAKE_FDS_S if wake_fds else None) if s is not None]
        try:
            waiting.woken.wait(min(limits, default=None))
        except BaseException:
            if self._turns.leave(waiting):
                self._turns.give()
            raise
        return self._turns.leave(waiting)

    def _read_until(self, done: Callable[[], bool], until: float | None, wake_fds: Sequence[int]) -> bool:
        """Read for all until `done()` or the time has come; return whether a descriptor of ours woke us."""
        readers: list[Any] = [self._sock, *wake_fds]
        while not done():
            left = None if until is None else max(0.0, until - time.monotonic())
            writers = [] if self._flush() else [self._sock]
            ready, writable, _ = select.select(readers, writers, [], left)
            if self._sock in ready:
                self._read()
                self._turns.wake()
            if any(fd in ready for fd in wake_fds):
                return True
            if not ready and not writable:
                break  # it is time
        return False

    def _read(self) -> None:
        try:
            data = self._sock.recv(protocol.CHUNK)
        except BlockingIOError:
            return
        except OSError as e:
            raise self._gone() from e
        if not data:
            raise self._gone()
        self._reader = threading.get_ident()
        try:
            for kind, container, payload in self._decoder.feed(data):
                handler = self._handlers.get(container)
                if handler is not None:
                    handler(KINDS[kind], payload)
        finally:
            self._reader = 0

    def _on_engine(self, kind: Kind, payload: Any) -> None:
        if kind is Kind.READY:
            self._facts = HostFacts.from_dict(payload["facts"])
        elif kind is Kind.ERROR:
            error = from_dict(payload)
            # It will not serve, or has ended with its guest; the next to ask gets a new one, and hears why.
            if self._facts is None or isinstance(error, EngineError):
                self._failure = error
            raise error

    def _gone(self) -> EngineError:
        code = self._process.poll()
        how = "" if code is None else f" (signal {signal.Signals(-code).name})" if code < 0 else f" (exit code {code})"
        error = EngineError(
            f"the engine process {self._process.pid} is gone{how}, and with it every container of this notebook; "
            "run the cell again to start a new one"
        )
        self._failure = error
        return error


_clients: dict[str, EngineClient] = {}
_default = ["host"]
_lock = threading.Lock()


def default_place() -> str:
    """Return where containers run for which nothing else is said."""
    return _default[0]


def set_default_place(on: str) -> None:
    """Choose it; ``%config ContainerMagics.on`` does."""
    _default[0] = on


def get_client(on: str = "") -> EngineClient:
    """Return this process's client of the engine on a place of `PLACES`; starts one where none is alive."""
    on = on or default_place()
    with _lock:
        if on in _clients and not _clients[on].alive:
            _clients.pop(on).close()
        if on not in _clients:
            _clients[on] = EngineClient(on)
        return _clients[on]


def running_clients() -> list[EngineClient]:
    """Return the clients whose engines have been started."""
    with _lock:
        return list(_clients.values())


def close_client(on: str = "") -> None:
    """End this process's engine on a place, or all of them, if there are any."""
    with _lock:
        for place in [on] if on else list(_clients):
            if place in _clients:
                _clients.pop(place).close()


def _after_fork_in_child() -> None:
    # The stream belongs to the parent; a forked kernel must not speak on it.
    _clients.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
