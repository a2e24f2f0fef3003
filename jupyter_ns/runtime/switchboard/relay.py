"""Published ports: what comes to a socket of the host's goes on to a container, and back.

Should: hold no more than a buffer for each direction, and make whoever sends wait. Mustn't: connect to anything but the
container's own address, from within its network.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

CHUNK = 1 << 16
MOST_CONNECTIONS = 4096
UDP_IDLE_S = 60.0
STALLED_S = 60.0
"""How long somebody may not take what has been sent to them, where their place is wanted by another."""
REST_S = 0.05
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

Connect = Callable[[int], socket.socket]
"""From a kind of socket to a new one in the network's namespace."""


class Loop:
    """Descriptors and what to call when something can be done with them."""

    def __init__(self) -> None:
        self._selector = selectors.EpollSelector()
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def watch(self, sock: socket.socket, events: int, handler: Callable[[int], None]) -> None:
        """Call `handler` with the events that `sock` is ready for; none: forget it."""
        known = sock in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(sock)
        elif known:
            self._selector.modify(sock, events, handler)
        else:
            self._selector.register(sock, events, handler)

    def turn(self, timeout_s: float | None) -> None:
        """Wait once, and call who is ready."""
        for key, events in self._selector.select(timeout_s):
            if self._selector.get_map().get(key.fd) is not key:  # forgotten by a handler before
                continue
            try:
                key.data(events)
            except Exception:  # a defect: of this socket, and not of every network of the notebook
                with contextlib.suppress(Exception):  # nobody may listen to standard error any more
                    traceback.print_exc()
                if self._selector.get_map().get(key.fd) is key:
                    self._selector.unregister(key.fileobj)

    @contextlib.contextmanager
    def one_descriptor_more(self) -> Iterator[None]:
        """Have a descriptor free, for a moment, where the process may have no more."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the machine has none left
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close what it has of its own."""
        self._selector.close()
        if self._spare >= 0:
            os.close(self._spare)


class _Direction:
    """Bytes on their way from one socket to another."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.data = b""
        self.ended = False
        self.moved = time.monotonic()

    def wants(self, sock: socket.socket) -> int:
        """Return what to wait for on a socket."""
        if sock is self.source and not self.data and not self.ended:
            return READ
        return WRITE if sock is self.target and self.data else 0

    def move(self) -> None:
        """Move what can be moved.

        Raises
        ------
        OSError
            One side is gone.
        """
        with contextlib.suppress(BlockingIOError):
            if not self.data and not self.ended:
                self.data = self.source.recv(CHUNK)
                self.moved = time.monotonic()
                if not self.data:
                    self.ended = True
                    self.target.shutdown(socket.SHUT_WR)
            while self.data:
                self.data = self.data[self.target.send(self.data) :]
                self.moved = time.monotonic()

    def stalled_s(self, now: float) -> float:
        """Return for how long nobody has taken what waits here."""
        return now - self.moved if self.data else 0.0


class _Connection:
    """One TCP connection, half of it on the host and half in the network."""

    def __init__(self, relay: Relay, client: socket.socket, server: socket.socket) -> None:
        self._relay, self._sockets = relay, (client, server)
        self._there, self._back = _Direction(client, server), _Direction(server, client)
        relay.loop.watch(server, WRITE, self._on_connected)

    def _on_connected(self, _events: int) -> None:
        if self._sockets[1].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.close()  # nobody listens there: the client sees its connection end
        else:
            self._move(0)

    def _move(self, _events: int) -> None:
        try:
            self._there.move()
            self._back.move()
        except OSError:
            self.close()
            return
        if self._there.ended and self._back.ended:
            self.close()
            return
        for sock in self._sockets:
            self._relay.loop.watch(sock, self._there.wants(sock) | self._back.wants(sock), self._move)

    def stalled_s(self, now: float) -> float:
        """Return for how long one side has not taken what the other has sent."""
        return max(self._there.stalled_s(now), self._back.stalled_s(now))

    def close(self) -> None:
        """End both halves."""
        for sock in self._sockets:
            self._relay.loop.watch(sock, 0, self._move)
            sock.close()
        self._relay.connections.discard(self)


class Relay:
    """One published port.

    Parameters
    ----------
    loop : Loop
        Who waits.
    listener : socket.socket
        On the host; bound, and for TCP listening.
    target : (str, int)
        The container's address and port.
    connect : callable
        Makes sockets in the network.
    """

    def __init__(self, loop: Loop, listener: socket.socket, target: tuple[str, int], connect: Connect) -> None:
        self.loop, self._listener, self._target, self._connect = loop, listener, target, connect
        self.connections: set[Any] = set()
        self._clients: dict[Any, tuple[socket.socket, float]] = {}
        listener.setblocking(False)
        udp = listener.type & socket.SOCK_DGRAM == socket.SOCK_DGRAM
        loop.watch(listener, READ, self._on_datagram if udp else self._on_connection)

    def _on_connection(self, _events: int) -> None:
        if len(self.connections) >= MOST_CONNECTIONS:
            self._make_room()
        try:
            client, _ = self._listener.accept()
        except OSError as e:
            if e.errno in (errno.EMFILE, errno.ENFILE):  # else it has gone again
                self._turn_away()
            return
        try:
            if len(self.connections) >= MOST_CONNECTIONS:
                raise ConnectionRefusedError
            client.setblocking(False)
            server = self._connect(socket.SOCK_STREAM)
        except OSError:
            client.close()
            return
        server.setblocking(False)
        server.connect_ex(self._target)  # EINPROGRESS; how it went is seen when it is writable
        self.connections.add(_Connection(self, client, server))

    def _make_room(self) -> bool:
        """End the connection that has been stuck for longest, if one is; return whether there was one.

        A container that never reads would else keep the places of all who have called it, long after they have gone.
        """
        now = time.monotonic()
        stuck = max(self.connections, key=lambda one: one.stalled_s(now), default=None)
        if stuck is None or stuck.stalled_s(now) < STALLED_S:
            return False
        stuck.close()
        return True

    def _turn_away(self) -> None:
        """End a connection that there is no descriptor for: for as long as it waits, the listener is ready."""
        if self._make_room():
            return
        try:
            with self.loop.one_descriptor_more():
                self._listener.accept()[0].close()
        except OSError as e:
            if e.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(REST_S)  # the machine has none either: let others go on

    def _on_datagram(self, _events: int) -> None:
        with contextlib.suppress(OSError):
            data, client = self._listener.recvfrom(CHUNK)
            if client not in self._clients:
                self._forget_idle()
                server = self._connect(socket.SOCK_DGRAM)
                server.setblocking(False)
                server.connect(self._target)
                self.loop.watch(server, READ, lambda _: self._on_answer(server, client))
                self._clients[client] = server, 0.0
            server = self._clients[client][0]
            self._clients[client] = server, time.monotonic()
            server.send(data)

    def _on_answer(self, server: socket.socket, client: Any) -> None:
        with contextlib.suppress(OSError):
            self._listener.sendto(server.recv(CHUNK), client)

    def _forget_idle(self) -> None:
        since = time.monotonic() - UDP_IDLE_S
        full = len(self._clients) >= MOST_CONNECTIONS
        for client, (server, last) in list(self._clients.items()):
            if last < since or full:
                self.loop.watch(server, 0, lambda _: None)
                server.close()
                del self._clients[client]

    def close(self) -> None:
        """Stop listening, and end every connection."""
        self.loop.watch(self._listener, 0, lambda _: None)
        self._listener.close()
        for connection in list(self.connections):
            connection.close()
        for server, _ in self._clients.values():
            self.loop.watch(server, 0, lambda _: None)
            server.close()
        self._clients.clear()
