"""Ask systemd for a cgroup of the engine's own: a transient scope with ``Delegate=yes``, over the user's D-Bus.

Should: leave everything as it is where there is no bus, no systemd behind it, or a refusal; and say which.
Mustn't: be called from inside a user namespace, where the bus would not know this process's user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jeepney import Message
    from jeepney.io.blocking import DBusConnection

TIMEOUT_S = 5.0
_MANAGER = {
    "object_path": "/org/freedesktop/systemd1",
    "bus_name": "org.freedesktop.systemd1",
    "interface": "org.freedesktop.systemd1.Manager",
}


def bus_address(environ: Mapping[str, str], uid: int) -> str:
    """Return the address of a user's bus: as the environment says, else where systemd has it.

    Examples
    --------
    >>> bus_address({}, 1000)
    'unix:path=/run/user/1000/bus'
    """
    given = environ.get("DBUS_SESSION_BUS_ADDRESS")
    return given or f"unix:path={environ.get('XDG_RUNTIME_DIR') or f'/run/user/{uid}'}/bus"


def enter_scope(address: str, pid: int) -> str:
    """Have a process moved into a new scope that is delegated to its user.

    Parameters
    ----------
    address : str
        Of the user's bus.
    pid : int
        The engine; the scope goes when it has ended.

    Returns
    -------
    str
        Why it is not there now; empty if it is.

    Notes
    -----
    org.freedesktop.systemd1(5), StartTransientUnit and JobRemoved; systemd's "Control Group APIs and Delegation".
    """
    try:
        from jeepney.bus import get_bus
        from jeepney.io.blocking import DBusConnection, prep_socket
    except ImportError:
        return "jeepney, which speaks with systemd, is not installed"

    class Connection(DBusConnection):  # type: ignore[misc]
        """Waits for no reply for ever, as `open_dbus_connection` does for the first."""

        def send_and_get_reply(self, message: Message, *, timeout: float | None = None) -> Message:
            return super().send_and_get_reply(message, timeout=TIMEOUT_S if timeout is None else timeout)

    try:
        with prep_socket(get_bus(address), timeout=TIMEOUT_S) as sock, Connection(sock) as bus:
            return _start(bus, f"jupyter_ns-{pid}.scope", pid)
    except TimeoutError:
        return f"systemd did not answer in {TIMEOUT_S:.0f} s at {address}"
    except (OSError, ValueError, KeyError, RuntimeError) as e:  # no socket; an address of another form; a refusal
        return f"no systemd to ask at {address}: {getattr(e, 'strerror', None) or e or type(e).__name__}"


def _start(bus: DBusConnection, unit: str, pid: int) -> str:
    from jeepney import DBusAddress, MatchRule, MessageType, message_bus, new_method_call

    manager = DBusAddress(**_MANAGER)
    properties = [
        ("PIDs", ("au", [pid])),
        ("Delegate", ("b", True)),
        ("Description", ("s", "Containers of a notebook (jupyter_ns)")),
        ("CollectMode", ("s", "inactive-or-failed")),
    ]
    ended = MatchRule(type="signal", interface=_MANAGER["interface"], member="JobRemoved")
    for request in (message_bus.AddMatch(ended), new_method_call(manager, "Subscribe")):
        bus.send_and_get_reply(request)
    with bus.filter(ended) as signals:
        body = unit, "fail", properties, list[Any]()
        request = new_method_call(manager, "StartTransientUnit", "ssa(sv)a(sa(sv))", body)
        reply = bus.send_and_get_reply(request)
        if reply.header.message_type is MessageType.error:
            return f"systemd refused a scope: {reply.body[0] if reply.body else 'without a reason'}"
        while True:
            _, job, _, result = bus.recv_until_filtered(signals, timeout=TIMEOUT_S).body
            if job == reply.body[0]:
                return "" if result == "done" else f"systemd's job for {unit} ended with {result!r}"
