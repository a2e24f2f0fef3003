"""Published ports: what the relay does when places, descriptors or readers run out."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
from collections.abc import Iterator

import msgpack
import pytest

from jupyter_ns.runtime.switchboard import relay
from jupyter_ns.runtime.switchboard.process import fork
from jupyter_ns.runtime.switchboard.relay import READ, Loop, Relay


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def target() -> Iterator[socket.socket]:
    """A server in a container that accepts, and reads only what a test reads."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(5)
        yield sock


@contextlib.contextmanager
def relayed(loop: Loop, target: socket.socket) -> Iterator[tuple[Relay, tuple[str, int]]]:
    listener = socket.create_server(("127.0.0.1", 0))
    made = Relay(loop, listener, target.getsockname(), lambda kind: socket.socket(socket.AF_INET, kind))
    try:
        yield made, listener.getsockname()
    finally:
        made.close()


def turn(loop: Loop, times: int = 20) -> None:
    for _ in range(times):
        loop.turn(0.02)


def ready(loop: Loop) -> int:
    return len(loop._selector.select(0))


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_who_finds_no_descriptor_is_turned_away(loop: Loop, target: socket.socket) -> None:
    with relayed(loop, target) as (_, address), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(3)]
        with no_descriptors_left():
            turn(loop, 3)
            assert not ready(loop)  # else the loop would go round and round
        for client in clients:
            client.settimeout(5)
            assert client.recv(1) == b""
        with socket.create_connection(address) as client:
            turn(loop)
            served, _ = target.accept()
            with served:
                client.sendall(b"hello")
                turn(loop)
                assert served.recv(10) == b"hello"


def filled(client: socket.socket, loop: Loop) -> None:
    """Send until nobody takes any more, neither the relay nor the kernel's buffers."""
    client.setblocking(False)
    for _ in range(200):
        with contextlib.suppress(BlockingIOError):
            while True:
                client.send(bytes(1 << 16))
        before = client
        turn(loop, 1)
        try:
            before.send(b"x")
        except BlockingIOError:
            turn(loop, 3)
            with contextlib.suppress(BlockingIOError):
                client.send(b"x")
                continue
            return


def test_who_does_not_read_loses_its_place_to_others(
    loop: Loop, target: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOST_CONNECTIONS", 1)
    monkeypatch.setattr(relay, "STALLED_S", 0.0)
    with relayed(loop, target) as (made, address):
        with socket.create_connection(address) as stuck:
            turn(loop, 3)
            first, _ = target.accept()
            filled(stuck, loop)
        turn(loop)
        assert len(made.connections) == 1  # what was sent may still be wanted
        with first, socket.create_connection(address) as client:
            turn(loop)
            second, _ = target.accept()
            with second:
                client.sendall(b"hello")
                turn(loop)
                assert second.recv(10) == b"hello" and len(made.connections) == 1


def test_who_is_slow_keeps_its_place(loop: Loop, target: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MOST_CONNECTIONS", 1)
    with relayed(loop, target) as (_, address), socket.create_connection(address) as slow:
        turn(loop, 3)
        served, _ = target.accept()
        with served, socket.create_connection(address) as other:
            turn(loop)
            other.settimeout(5)
            assert other.recv(1) == b""
            slow.sendall(b"hello")
            turn(loop)
            assert served.recv(10) == b"hello"


def test_a_defect_of_one_socket_ends_no_other(loop: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    pairs = [socket.socketpair() for _ in range(2)]
    try:
        loop.watch(pairs[0][0], READ, lambda _: 1 // 0)  # type: ignore[arg-type, return-value]
        loop.watch(pairs[1][0], READ, lambda _: heard.append(pairs[1][0].recv(1).decode()))
        for _, theirs in pairs:
            theirs.send(b"x")
        turn(loop, 3)
        assert heard == ["x"] and not ready(loop)
        assert capsys.readouterr().err.count("ZeroDivisionError") == 1
    finally:
        for pair in pairs:
            for sock in pair:
                sock.close()


# ---- the switchboard's requests ----


def test_a_request_that_fails_ends_no_network() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(10)
    pid = fork(theirs)
    theirs.close()
    with ours:

        def ask(**request: object) -> dict[str, object]:
            ours.send(msgpack.packb(request))
            reply: dict[str, object] = msgpack.unpackb(ours.recv(1 << 20))
            return reply

        for number, request in enumerate(({"do": "nothing"}, {"do": "detach", "endpoint": {"no": "such field"}}, {})):
            reply = ask(number=number, **request)
            assert (reply["number"], reply["errno"]) == (number, errno.EIO) and "a defect" in str(reply["text"])
        assert ask(number=9, do="unpublish", endpoint="none") == {"number": 9, "result": None}
    assert os.waitpid(pid, 0)[1] == 0
