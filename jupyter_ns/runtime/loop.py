"""The engine's event loop: epoll(7), and whose descriptors are whose."""

from __future__ import annotations

import select
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

OnReady = Callable[[], None]


class Owner(Protocol):
    """Who is told what went wrong with a descriptor of its own."""

    def fail(self, error: Exception) -> None: ...


@dataclass(slots=True)
class _Handlers:
    """What is called for one descriptor, and whose it is."""

    owner: Owner | None
    on_readable: OnReady | None = None
    on_writable: OnReady | None = None
    registered: bool = False


class Loop:
    """Descriptors, and what is called when something can be done with them."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, _Handlers] = {}
        self._paused: dict[int, tuple[OnReady, Owner]] = {}

    def watch(self, fd: int, on_readable: OnReady, owner: Owner | None = None) -> None:
        """Call `on_readable` whenever `fd` is readable or hung up; what goes wrong then is its `owner`'s end."""
        handlers = self._handlers.setdefault(fd, _Handlers(owner))
        handlers.on_readable = on_readable
        self._register(fd)

    def want_write(self, fd: int, on_writable: OnReady, wanted: bool, owner: Owner | None = None) -> None:
        """Call `on_writable` whenever `fd` takes bytes, or stop doing so."""
        if not wanted and fd not in self._handlers:
            return
        handlers = self._handlers.setdefault(fd, _Handlers(owner))
        if (handlers.on_writable is not None) != wanted:
            handlers.on_writable = on_writable if wanted else None
            self._register(fd)

    def _register(self, fd: int) -> None:
        handlers = self._handlers[fd]
        events = (select.EPOLLIN if handlers.on_readable else 0) | (select.EPOLLOUT if handlers.on_writable else 0)
        if not events:
            del self._handlers[fd]
            if handlers.registered:
                self._epoll.unregister(fd)
        elif handlers.registered:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
            handlers.registered = True

    def unwatch(self, fd: int) -> None:
        """Forget `fd`, which may never have been watched."""
        handlers = self._handlers.pop(fd, None)
        if handlers is not None and handlers.registered:
            self._epoll.unregister(fd)
        self._paused.pop(fd, None)

    def pause(self, fd: int, on_readable: OnReady, owner: Owner) -> None:
        """Do not read `fd` until `resume`; what is to be written goes on."""
        if fd not in self._paused:
            self._paused[fd] = on_readable, owner
            if fd in self._handlers:
                self._handlers[fd].on_readable = None
                self._register(fd)

    def resume(self) -> None:
        """Read again what has been paused."""
        if self._paused:
            paused, self._paused = self._paused, {}
            for fd, (on_readable, owner) in paused.items():
                self.watch(fd, on_readable, owner)

    def turn(self, timeout_s: float | None) -> bool:
        """Wait until something can be done, and do it; return whether anything could."""
        ready = self._epoll.poll(timeout_s)
        for fd, mask in ready:
            self._dispatch(fd, mask)
        return bool(ready)

    def _dispatch(self, fd: int, mask: int) -> None:
        # What is hung up or in error is both: reading and writing say which.
        for other, name in ((select.EPOLLOUT, "on_readable"), (select.EPOLLIN, "on_writable")):
            handlers = self._handlers.get(fd)
            handler = getattr(handlers, name, None)
            if not mask & ~other or handler is None:
                continue
            try:
                handler()
            except Exception as e:
                if handlers is None or handlers.owner is None:
                    raise
                self.unwatch(fd)  # it would be called again at once
                handlers.owner.fail(e)
