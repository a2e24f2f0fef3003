"""Ask the engine about containers, and have things done to them: the kernel's side of `runtime.commands`.

Nothing here prints. Whoever waits can be interrupted: the engine is then told that nobody waits any more.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from .client import EngineClient, get_client, running_clients
from .errors import ContainerError, from_dict
from .runtime.protocol import Kind

_numbers = itertools.count(1)


class Request:
    """One question to the engine, and what it answers.

    Parameters
    ----------
    do : str
        A name of `jupyter_ns.runtime.commands.COMMANDS`.
    client : EngineClient, optional
        Whom to ask; by default who has the container ``of``.
    on_stream : callable, optional
        Called with whatever comes before the end, for requests that follow something.
    **arguments
        The command's own.
    """

    def __init__(
        self,
        do: str,
        *,
        client: EngineClient | None = None,
        on_stream: Callable[[Any], None] | None = None,
        **arguments: Any,
    ) -> None:
        self._client = client or client_of(arguments.get("of"))
        self._id = f"ask-{os.getpid()}-{next(_numbers)}"
        self._on_stream = on_stream
        self.answers: list[Any] = []
        self._error: ContainerError | None = None
        self._client.subscribe(self._id, self._on_frame)
        try:
            self._client.send(Kind.ASK, self._id, {"do": do, **arguments})
        except BaseException:
            self._client.unsubscribe(self._id)
            raise

    def _on_frame(self, kind: Kind, payload: Any) -> None:
        if kind is Kind.STREAM and self._on_stream is not None:
            self._on_stream(payload)
        elif kind is Kind.REPLY:
            self.answers.append(payload)
        elif kind is Kind.ERROR:
            self._error = from_dict(payload)

    def wait(self, answers: int = 1, *, until: float | None = None) -> Any:
        """Wait for the answer.

        Parameters
        ----------
        answers : int
            A request that follows gets a second answer at the end.
        until : float, optional
            `time.monotonic()` at which to give up, and return None.

        Raises
        ------
        ContainerError
            What the engine says.
        KeyboardInterrupt
            The request is taken back then.
        """
        try:
            with interruptible() as wake:
                self._client.wait(
                    lambda: len(self.answers) >= answers or self._error is not None,
                    until=until,
                    wake_fds=[wake] if wake >= 0 else [],
                )
                check_interrupt(wake)
        except KeyboardInterrupt:
            self.cancel()
            raise
        if self._error is not None:
            self.close()
            raise self._error
        return self.answers[answers - 1] if len(self.answers) >= answers else None

    def close(self) -> None:
        """Listen no longer."""
        self._client.unsubscribe(self._id)

    def cancel(self) -> None:
        """Take the request back."""
        self.close()
        self._client.send(Kind.ASK, f"{self._id}-cancel", {"do": "cancel", "request": self._id})


def clients() -> list[EngineClient]:
    """Return the client of the default place, and then those of other places that are running."""
    default = get_client()
    return [default, *(client for client in running_clients() if client is not default and client.alive)]


def client_of(container: str | None) -> EngineClient:
    """Return the client of the engine that has a container, by name or ID; that of the default place if none has."""
    default, *others = clients()
    if not container or not others:
        return default
    for client in (default, *others):
        rows = ask("list", client=client)
        if any(container == row["name"] or row["id"].startswith(container) for row in rows):
            return client
    return default


def ask_all(do: str, **arguments: Any) -> list[Any]:
    """Ask the engines of all places, and return their answers one after another."""
    return [row for client in clients() for row in ask(do, client=client, **arguments)]


def ask(do: str, **arguments: Any) -> Any:
    """Ask the engine, as a `Request`, and return its answer.

    Raises
    ------
    ContainerError
        What the engine says.
    """
    request = Request(do, **arguments)
    try:
        return request.wait()
    finally:
        request.close()


def wait_until(until: float, wake: int) -> None:
    """Let time pass, up to `until` (`time.monotonic`) or an interrupt; see `interruptible`."""
    get_client().wait(lambda: False, until=until, wake_fds=[wake] if wake >= 0 else [])


@contextlib.contextmanager
def interruptible() -> Iterator[int]:
    """Turn SIGINT into a wake-up, so that it cannot tear a frame apart; -1 outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield -1
        return
    wake, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    previous = signal.signal(signal.SIGINT, lambda *_: os.write(write, b"i"))
    try:
        yield wake
    finally:
        signal.signal(signal.SIGINT, previous)
        os.close(wake)
        os.close(write)


def check_interrupt(wake: int) -> None:
    """Raise if SIGINT came.

    Raises
    ------
    KeyboardInterrupt
        It came.
    """
    if wake >= 0:
        with contextlib.suppress(BlockingIOError):
            if os.read(wake, 64):
                raise KeyboardInterrupt
