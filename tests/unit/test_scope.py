"""A delegated scope from systemd, asked for on a bus that this test speaks for."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jeepney import DBusAddress, HeaderFields, Message, MessageType, new_error, new_method_return, new_signal
from jeepney.low_level import Parser

from jupyter_ns.runtime import scope
from jupyter_ns.runtime.scope import bus_address, enter_scope

JOB = "/org/freedesktop/systemd1/job/7"
SYSTEMD = DBusAddress("/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager")


class Bus(threading.Thread):
    """A message bus with systemd behind it, for one client."""

    def __init__(self, path: Path, result: str, refusal: str = "") -> None:
        super().__init__(daemon=True)
        self.address, self.result, self.refusal = f"unix:path={path}", result, refusal
        self.silent = False
        self.units: list[tuple[Any, ...]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def run(self) -> None:
        connection, _ = self._listener.accept()
        with self._listener, connection:
            self._authenticate(connection)
            parser = Parser()
            while data := connection.recv(1 << 16):
                for message in parser.feed(data):
                    for serial, answer in enumerate(self.answers(message), start=100):
                        connection.sendall(answer.serialise(serial=serial))

    @staticmethod
    def _authenticate(connection: socket.socket) -> None:
        heard = b""
        while not heard.endswith(b"BEGIN\r\n"):
            heard += connection.recv(1)  # not a byte of the messages that follow
            if heard.endswith(b"\r\n") and b"AUTH EXTERNAL" in heard.splitlines()[-1]:
                connection.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n")
            elif heard.endswith(b"NEGOTIATE_UNIX_FD\r\n"):
                connection.sendall(b"ERROR\r\n")

    def answers(self, message: Message) -> list[Message]:
        member = message.header.fields[HeaderFields.member]
        assert message.header.message_type is MessageType.method_call
        if self.silent:
            return []
        if member == "Hello":
            return [new_method_return(message, "s", (":1.1",))]
        if member != "StartTransientUnit":
            return [new_method_return(message)]
        self.units.append(message.body)
        if self.refusal:
            return [new_error(message, "org.freedesktop.DBus.Error.AccessDenied", "s", (self.refusal,))]
        other = new_signal(SYSTEMD, "JobRemoved", "uoss", (6, JOB + "6", "other.scope", "done"))
        ours = new_signal(SYSTEMD, "JobRemoved", "uoss", (7, JOB, message.body[0], self.result))
        return [new_method_return(message, "o", (JOB,)), other, ours]


@pytest.fixture
def socket_path(tmp_path: Path) -> Iterator[Path]:
    return tmp_path / "bus"


def test_a_scope_is_asked_for_and_waited_for(socket_path: Path) -> None:
    bus = Bus(socket_path, "done")
    bus.start()
    assert enter_scope(bus.address, 4321) == ""
    ((name, mode, properties, _),) = bus.units
    assert (name, mode) == ("jupyter_ns-4321.scope", "fail")
    assert dict(properties)["PIDs"] == ("au", [4321])
    assert dict(properties)["Delegate"] == ("b", True)


@pytest.mark.parametrize(
    ("result", "refusal", "reason"),
    [("failed", "", "ended with 'failed'"), ("", "Permission denied", "systemd refused a scope: Permission denied")],
)
def test_a_refusal_is_the_reason(socket_path: Path, result: str, refusal: str, reason: str) -> None:
    bus = Bus(socket_path, result, refusal)
    bus.start()
    assert reason in enter_scope(bus.address, 1)


def test_a_bus_that_falls_silent_is_not_waited_for_for_ever(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "TIMEOUT_S", 0.3)
    bus = Bus(socket_path, "done")
    bus.silent = True
    bus.start()
    assert "systemd did not answer in" in enter_scope(bus.address, 1)
    bus.join(5)  # the connection has been closed
    assert not bus.is_alive()


@pytest.mark.parametrize("address", ["unix:path=/nonexistent/bus", "tcp:host=nowhere", "nonsense"])
def test_without_a_bus_the_reason_names_the_address(address: str) -> None:
    assert f"no systemd to ask at {address}" in enter_scope(address, 1)


def test_the_environment_says_where_the_bus_is() -> None:
    assert bus_address({"DBUS_SESSION_BUS_ADDRESS": "unix:path=/a"}, 1) == "unix:path=/a"
    assert bus_address({"XDG_RUNTIME_DIR": "/r"}, 1) == "unix:path=/r/bus"
