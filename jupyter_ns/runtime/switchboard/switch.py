"""The namespaces of networks, and rtnetlink sockets in them: what the switchboard does to interfaces.

Should: be root of the user namespace that owns all of them. Mustn't: do anything in a namespace of the host's.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

from ... import core
from ...namespaces import BY_NAME
from ...networks import messages, wiring
from ...networks.data import Endpoint
from ...networks.messages import Message
from ...spec import LimitRecord, Limits

CLONE_NEWNET = BY_NAME["network"].flag
NETLINK_ROUTE = 0
CARRIER_S = 1.0
LINGER_S = 30.0
LIMITS = ("net_rate_bps", "net_delay_us", "net_loss_percent")
_MODULES = {
    "veth": "CONFIG_VETH",
    "bridge": "CONFIG_BRIDGE",
    "tbf": "CONFIG_NET_SCH_TBF",
    "netem": "CONFIG_NET_SCH_NETEM",
}


class MessageError(OSError):
    """A message that the kernel refused: `text` says which."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(number, os.strerror(number))
        self.text = text


class Link:
    """A socket for rtnetlink(7) in the namespace that this process is in when it is made; the socket stays there."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._sock.bind((0, 0))
        self._sequence = 0

    def send(self, message: Message) -> list[bytes]:
        """Send a message; return the bodies of what comes before the acknowledgement.

        Raises
        ------
        MessageError
            With the errno of the answer.
        """
        self._sequence += 1
        self._sock.send(message.pack(self._sequence))
        bodies: list[bytes] = []
        while True:
            for kind, sequence, body in messages.split(self._sock.recv(1 << 17)):
                if sequence != self._sequence:
                    continue
                if kind in (messages.NLMSG_ERROR, messages.NLMSG_DONE):
                    number = messages.error_of(body) if kind == messages.NLMSG_ERROR else 0
                    if number and number != message.tolerate:
                        raise MessageError(number, message.text)
                    return bodies
                bodies.append(body)

    def send_all(self, every: Iterable[Message]) -> None:
        """Send messages one after another, up to the first that is refused."""
        for message in every:
            self.send(message)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


class Switch:
    """Every network that is in use, by its ID."""

    def __init__(self) -> None:
        self._networks: dict[str, tuple[int, Link]] = {}
        self._leaving: dict[tuple[str, ...], tuple[Endpoint, float]] = {}

    # ---- networks ----

    def enter(self, network_id: str) -> None:
        """Be in a network's namespace, to make sockets there."""
        core.setns(self._networks[network_id][0], CLONE_NEWNET)

    def ensure(self, endpoint: Endpoint) -> Link:
        """Return the socket of an endpoint's network; its namespace and bridge are made on first use."""
        if endpoint.network_id not in self._networks:
            core.unshare(CLONE_NEWNET)
            link = Link()
            try:
                link.send_all(wiring.bridge_steps(endpoint))
                # Nothing is routed: there is no other network here. But who asks for one gets an answer, and need
                # not wait for a time-out.
                with open("/proc/sys/net/ipv4/ip_forward", "w") as f:
                    f.write("1")
                fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            except BaseException:
                link.close()
                raise
            self._networks[endpoint.network_id] = fd, link
        return self._networks[endpoint.network_id][1]

    def forget(self, network_id: str) -> None:
        """Let a network's namespace go, and its bridge with it."""
        self._leaving = {key: left for key, left in self._leaving.items() if key[0] != network_id}
        fd, link = self._networks.pop(network_id, (-1, None))
        if link is not None:
            link.close()
            core.unshare(CLONE_NEWNET)  # this process must not be what keeps it
            os.close(fd)

    # ---- endpoints ----

    def attach(self, endpoint: Endpoint, limits: Limits, netns_fd: int) -> list[LimitRecord]:
        """Connect a container; return where its limits went.

        Raises
        ------
        MessageError
            Nothing is left.
        """
        outside = self.ensure(endpoint)
        key = endpoint.network_id, endpoint.ip
        if key in self._leaving:  # its time is up, but after this: that takes ten times as long
            before, _ = self._leaving.pop(key)
            self._leaving = {(*key, before.peer): (before, 0.0)} | self._leaving
        with self._inside(netns_fd, endpoint.network_id) as inside:
            outside.send_all(wiring.pair_steps(endpoint, netns_fd))
            try:
                index = socket.if_nametoindex(endpoint.interface)
                inside.send_all(wiring.inner_steps(endpoint, index))
                self.enter(endpoint.network_id)
                peer = socket.if_nametoindex(endpoint.peer)
                outside.send_all(wiring.outer_steps(endpoint, peer))
                _await_carrier(inside, index)
                _await_carrier(outside, peer)
                inside.send_all(wiring.route_steps(endpoint))
                return self._limit(endpoint, limits, (inside, index), (outside, peer))
            except BaseException:
                self.detach(endpoint)
                raise

    def detach(self, endpoint: Endpoint) -> None:
        """Take a container's interface away, with all that belongs to it; none: its namespace has gone with it."""
        if endpoint.network_id not in self._networks:
            return
        self.enter(endpoint.network_id)
        with contextlib.suppress(OSError):  # ENODEV
            index = socket.if_nametoindex(endpoint.peer)
            self._networks[endpoint.network_id][1].send(messages.delete_link(endpoint.peer, index))

    def leave(self, endpoint: Endpoint) -> None:
        """The container has ended: its interface goes with its namespace, or when its address is taken, or in time.

        What was sent and has not arrived is still on its way, for long where the rate is low; the kernel keeps the
        namespace for as long as a socket of it has something to send.
        """
        self._leaving.pop((endpoint.network_id, endpoint.ip), None)
        self._leaving[endpoint.network_id, endpoint.ip] = endpoint, time.monotonic() + LINGER_S

    def tidy(self) -> float | None:
        """Take away the interfaces whose time is up; return the seconds until the next, None if there is none."""
        now = time.monotonic()
        for key, (endpoint, until) in list(self._leaving.items()):
            if until > now:
                return until - now  # they are in the order of time
            del self._leaving[key]
            self.detach(endpoint)
        return None

    def limit(self, endpoint: Endpoint, limits: Limits, netns_fd: int) -> list[LimitRecord]:
        """Move the limits of an endpoint; return where they went."""
        outside = self.ensure(endpoint)
        with self._inside(netns_fd, endpoint.network_id) as inside:
            index = socket.if_nametoindex(endpoint.interface)
            self.enter(endpoint.network_id)
            peer = socket.if_nametoindex(endpoint.peer)
            return self._limit(endpoint, limits, (inside, index), (outside, peer))

    def _limit(
        self, endpoint: Endpoint, limits: Limits, inner: tuple[Link, int], outer: tuple[Link, int]
    ) -> list[LimitRecord]:
        records: list[LimitRecord] = []
        for (link, index), name, inside in ((inner, endpoint.interface, True), (outer, endpoint.peer, False)):
            link.send_all(wiring.queue_steps(name, index, limits, inner=inside))
            told: dict[str, tuple[float, str]] = {}
            for body in link.send(messages.get_queues(index)):
                found = messages.queue(body, index)
                if found is not None:
                    told.update({f"net_{key}": (value, found[0]) for key, value in found[1].items()})
            where = "inside" if inside else "on the bridge"
            for field in LIMITS:
                requested = getattr(limits, field)
                if requested and field in told:
                    value, kind = told[field]
                    effective = f"{value:g}" if isinstance(value, float) else str(value)
                    records.append(LimitRecord(field, requested, effective, f"qdisc {kind} of {name} {where}"))
        return records

    @contextlib.contextmanager
    def _inside(self, netns_fd: int, network_id: str) -> Iterator[Link]:
        """Be in a container's namespace, with a socket there; afterwards in the network's, to keep none but that."""
        core.setns(netns_fd, CLONE_NEWNET)
        link = Link()
        try:
            yield link
        finally:
            link.close()
            self.enter(network_id)

    # ---- what this kernel has ----

    def probe(self) -> dict[str, str]:
        """Try each part in a namespace of its own; return the reasons of those that are not to be had."""
        reasons: dict[str, str] = {}
        try:
            core.unshare(CLONE_NEWNET)
        except OSError as e:
            return dict.fromkeys(_MODULES, f"a network namespace cannot be made here: {e.strerror}")
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        link = Link()
        try:
            tries: dict[str, Any] = {
                "bridge": lambda: messages.new_bridge("b"),
                "veth": lambda: messages.new_veth("v", "", 0, "w", "02:42:00:00:00:01", here),
                "tbf": lambda: messages.token_bucket("v", socket.if_nametoindex("v"), 1 << 20),
                "netem": lambda: messages.emulate("w", socket.if_nametoindex("w"), 1000, 0.0),
            }
            for name, make in tries.items():
                try:
                    link.send(make())
                except OSError as e:
                    reasons[name] = f"{getattr(e, 'text', name)}: {e.strerror or e} ({_MODULES[name]})"
        finally:
            link.close()
            os.close(here)
        return reasons


def _await_carrier(link: Link, index: int) -> None:
    """Wait until an interface sends what it is given: what comes to it before is lost, and TCP tries again late.

    The kernel notices a carrier in a work queue, most often before this looks for the first time.
    """
    until = time.monotonic() + CARRIER_S
    while time.monotonic() < until:
        queue, state = messages.link_state(link.send(messages.get_link(index))[0])
        if queue != "noop" and state == 6:
            return
        time.sleep(0.0002)
