"""The switchboard's process: a fork of the engine that carries out its requests, and passes on published ports.

It is in the engine's user namespace, sees the host's files and processes as the engine does, and runs nothing but this.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import msgpack

from ...networks.data import Endpoint
from ...spec import Limits
from .relay import READ, Loop, Relay
from .switch import MessageError, Switch

MOST_BYTES = 1 << 20
MOST_FDS = 64
"""With one request."""


class Switchboard:
    """Serves one engine.

    Parameters
    ----------
    sock : socket.socket
        SOCK_SEQPACKET: a request is a map, with descriptors where it needs some.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._switch = Switch()
        self._loop = Loop()
        self._relays: dict[str, list[Relay]] = {}
        self._running = True
        self._table: dict[str, Callable[..., Any]] = {
            "probe": lambda _fds: self._switch.probe(),
            "attach": self._attach,
            "detach": lambda _fds, endpoint: self._switch.detach(Endpoint(**endpoint)),
            "leave": lambda _fds, endpoint: self._switch.leave(Endpoint(**endpoint)),
            "limit": self._limit,
            "publish": self._publish,
            "unpublish": self._unpublish,
            "forget": lambda _fds, network: self._switch.forget(network),
        }
        self._loop.watch(sock, READ, self._on_request)

    def run(self) -> None:
        """Serve until the engine closes the socket."""
        while self._running:
            self._loop.turn(self._switch.tidy())

    def _on_request(self, _events: int) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, MOST_BYTES, MOST_FDS)
        except ConnectionResetError:  # the engine ended without having read an answer
            data, fds = b"", []
        if not data:
            self._running = False
            return
        request = msgpack.unpackb(data)
        reply: dict[str, Any] = {"number": request.pop("number")}
        try:
            reply["result"] = self._table[request.pop("do")](fds, **request)
        except MessageError as e:
            reply |= {"errno": e.errno, "text": e.text}
        except OSError as e:
            reply |= {"errno": e.errno or errno.EIO, "text": str(e.filename or "network")}
        except Exception as e:  # a defect: of this request, and not of every network of the notebook
            with contextlib.suppress(Exception):  # nobody may listen to standard error any more
                traceback.print_exc()
            reply |= {"errno": errno.EIO, "text": f"a defect in jupyter_ns: {type(e).__name__}: {e}"}
        finally:
            for fd in fds:
                os.close(fd)
        self._sock.send(_packed(reply))

    def _attach(self, fds: list[int], endpoint: dict[str, Any], limits: dict[str, Any]) -> list[Any]:
        return [list(r) for r in self._switch.attach(Endpoint(**endpoint), Limits(**limits), fds[0])]

    def _limit(self, fds: list[int], endpoint: dict[str, Any], limits: dict[str, Any]) -> list[Any]:
        return [list(r) for r in self._switch.limit(Endpoint(**endpoint), Limits(**limits), fds[0])]

    def _unpublish(self, _fds: list[int], endpoint: str) -> None:
        for relay in self._relays.pop(endpoint, ()):
            relay.close()

    def _publish(self, fds: list[int], endpoint: dict[str, Any], ports: list[int]) -> None:
        """Pass on what comes to each descriptor to the endpoint's port of the same place in the list."""
        to = Endpoint(**endpoint)

        def connect(kind: int) -> socket.socket:
            self._switch.enter(to.network_id)
            return socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC)

        relays = self._relays.setdefault(to.id, [])
        for fd, port in zip(fds, ports, strict=True):
            relays.append(Relay(self._loop, socket.socket(fileno=os.dup(fd)), (to.ip, port), connect))


def _packed(reply: dict[str, Any]) -> bytes:
    try:
        return bytes(msgpack.packb(reply))
    except (TypeError, ValueError) as e:  # a result that no frame can hold
        return bytes(msgpack.packb({"number": reply["number"], "errno": errno.EIO, "text": f"a defect: {e}"}))


def fork(sock: socket.socket) -> int:
    """Fork the switchboard off this process, which has one thread; return its PID.

    Of the engine's descriptors it keeps only `sock` and standard error: a container's pipes and locks must end with
    the container.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        keep = sock.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
        Switchboard(sock).run()
        code = 0
    except BaseException:
        with contextlib.suppress(BaseException):
            sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)
