"""Which messages make an endpoint, in which namespace. Pure: the switchboard sends them, a plan prints them.

Indices of interfaces are only known once there are some, so each list takes what the one before has made.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..spec import Limits
from . import messages
from .data import Endpoint
from .messages import Message

BRIDGE_INDEX = 2
"""The first interface after loopback."""


def bridge_steps(endpoint: Endpoint) -> Iterator[Message]:
    """Make a network's bridge, in its namespace."""
    name = endpoint.bridge
    yield messages.link_up("lo", 1)
    yield messages.new_bridge(name)
    yield messages.no_ipv6_address(name, BRIDGE_INDEX)
    yield messages.new_address(name, BRIDGE_INDEX, endpoint.bridge_address)
    yield messages.link_up(name, BRIDGE_INDEX)


def pair_steps(endpoint: Endpoint, netns_fd: int) -> Iterator[Message]:
    """Make the pair, in the network's namespace; `netns_fd` is the container's."""
    yield messages.new_veth(endpoint.peer, endpoint.bridge, BRIDGE_INDEX, endpoint.interface, endpoint.mac, netns_fd)


def inner_steps(endpoint: Endpoint, index: int) -> Iterator[Message]:
    """Make the container's end ready, in its namespace."""
    yield messages.no_ipv6_address(endpoint.interface, index)
    yield messages.new_address(endpoint.interface, index, endpoint.address)
    yield messages.link_up(endpoint.interface, index)


def outer_steps(endpoint: Endpoint, index: int) -> Iterator[Message]:
    """Make the bridge's end ready, in the network's namespace; from here on both ends have a carrier."""
    yield messages.no_ipv6_address(endpoint.peer, index)
    yield messages.link_up(endpoint.peer, index)
    yield messages.neighbour(endpoint.peer, index, endpoint.mac)


def route_steps(endpoint: Endpoint) -> Iterator[Message]:
    """Make the container's default route, where it has one: that of a second network does not count."""
    if endpoint.gateway:
        yield messages.default_route(endpoint.gateway)


def queue_steps(name: str, index: int, limits: Limits, *, inner: bool) -> Iterator[Message]:
    """Have one end keep to the limits: both to the rate, delay and loss what the container sends."""
    delay_us, loss_percent = limits.net_delay_us or 0, limits.net_loss_percent or 0.0
    emulates = inner and bool(delay_us or loss_percent)
    if emulates:
        yield messages.emulate(name, index, delay_us, loss_percent)
    if limits.net_rate_bps:
        yield messages.token_bucket(name, index, limits.net_rate_bps, parent=0x10001 if emulates else messages.TC_ROOT)
    elif not emulates:
        yield messages.no_queue(name, index)


def has_limits(limits: Limits) -> bool:
    """Whether any of these limits is about a network."""
    return bool(limits.net_rate_bps or limits.net_delay_us or limits.net_loss_percent)


def describe(endpoint: Endpoint, limits: Limits) -> list[str]:
    """List everything that is done for an endpoint, as a plan prints it."""
    e = endpoint
    every = [("the network", m) for m in pair_steps(e, 0)]
    every += [("the container", m) for m in inner_steps(e, 0)]
    every += [("the network", m) for m in outer_steps(e, 0)]
    every += [("the container", m) for m in route_steps(e)]
    if has_limits(limits):
        every += [("the container", m) for m in queue_steps(e.interface, 0, limits, inner=True)]
        if limits.net_rate_bps:
            every += [("the network", m) for m in queue_steps(e.peer, 0, limits, inner=False)]
    return [f"in the namespace of {where}: {message.text}" for where, message in every]
