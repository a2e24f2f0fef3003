"""Messages of rtnetlink(7): made, described, and their answers read. Pure.

Notes
-----
pyroute2 knows all of netlink; of that, this needs ten messages. Importing it takes longer than ten containers take to
start, and its sockets come with an event loop, and with threads, in a process that forks. So these are written out:
each is one system call's argument, and is described as one in a plan.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

# linux/netlink.h, linux/rtnetlink.h
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACK, REPLACE, EXCL, CREATE, DUMP = 0x1, 0x4, 0x100, 0x200, 0x400, 0x300
NEWLINK, DELLINK, GETLINK, NEWADDR, NEWROUTE, NEWQDISC, DELQDISC, GETQDISC = 16, 17, 18, 20, 24, 36, 37, 38
IFF_UP = 1
TC_ROOT = 0xFFFFFFFF
NEWNEIGH, AF_BRIDGE, NDA_LLADDR = 28, 7, 2
HEADER = struct.Struct("=IHHII")
_LINK, _ADDRESS, _ROUTE, _TC = (struct.Struct(form) for form in ("=BxHiII", "=BBBBI", "=BBBBBBBBI", "=BxxxiIII"))
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_NETEM = struct.Struct("=IIIIII")
_RATE = struct.Struct("=BBHhHI")
# linux/if_link.h
IFLA_ADDRESS, IFLA_IFNAME, IFLA_QDISC, IFLA_MASTER, IFLA_OPERSTATE, IFLA_LINKINFO = 1, 3, 6, 10, 16, 18
IFLA_AF_SPEC, IFLA_NET_NS_FD = 26, 28
INFO_KIND, INFO_DATA, VETH_INFO_PEER = 1, 2, 1
INET6_ADDR_GEN_MODE, GEN_MODE_NONE = 8, 1
# linux/pkt_sched.h
TCA_KIND, TCA_OPTIONS = 1, 2
TBF_PARMS, TBF_RATE64, TBF_BURST = 1, 4, 6
NETEM_LATENCY64 = 10
LINKLAYER_ETHERNET = 1
NS_PER_TICK = 64


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes
    ----------
    type, flags : int
        Of its header.
    body : bytes
        What follows the header.
    text : str
        The same for people.
    tolerate : int
        An errno that counts as success; 0 is none.
    """

    type: int
    flags: int
    body: bytes
    text: str
    tolerate: int = 0

    def pack(self, sequence: int) -> bytes:
        """Return the bytes to send."""
        length = HEADER.size + len(self.body)
        return HEADER.pack(length, self.type, self.flags | REQUEST | ACK, sequence, 0) + self.body


def attribute(kind: int, data: bytes) -> bytes:
    """Return one attribute, padded.

    Examples
    --------
    >>> attribute(3, b"lo\\0").hex()
    '070003006c6f0000'
    """
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _text(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _u32(kind: int, number: int) -> bytes:
    return attribute(kind, struct.pack("=I", number))


def mac_bytes(mac: str) -> bytes:
    """Return a hardware address as the kernel takes it."""
    return bytes.fromhex(mac.replace(":", ""))


def new_bridge(name: str) -> Message:
    """Make a bridge."""
    info = attribute(IFLA_LINKINFO, _text(INFO_KIND, "bridge"))
    body = _LINK.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, name) + info
    return Message(NEWLINK, CREATE | EXCL, body, f'RTM_NEWLINK("{name}", type bridge)')


def new_veth(name: str, bridge: str, bridge_index: int, peer: str, mac: str, netns_fd: int) -> Message:
    """Make a pair of interfaces: one end on a bridge, the other, with a given address, in another namespace."""
    inner = _LINK.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, peer) + attribute(IFLA_ADDRESS, mac_bytes(mac))
    inner += _u32(IFLA_NET_NS_FD, netns_fd)
    info = _text(INFO_KIND, "veth") + attribute(INFO_DATA, attribute(VETH_INFO_PEER, inner))
    body = _LINK.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, name) + _u32(IFLA_MASTER, bridge_index)
    body += attribute(IFLA_LINKINFO, info)
    text = f'RTM_NEWLINK("{name}", type veth, master "{bridge}", peer "{peer}" {mac} in its namespace)'
    return Message(NEWLINK, CREATE | EXCL, body, text)


def no_ipv6_address(name: str, index: int) -> Message:
    """Have the kernel give an interface no link-local address: networks are IPv4."""
    spec = attribute(socket.AF_INET6, attribute(INET6_ADDR_GEN_MODE, bytes([GEN_MODE_NONE])))
    body = _LINK.pack(0, 0, index, 0, 0) + attribute(IFLA_AF_SPEC, spec)
    # EAFNOSUPPORT: a kernel without IPv6; then there is none to be kept away.
    return Message(NEWLINK, 0, body, f'RTM_NEWLINK("{name}", IPv6 addr_gen_mode none)', errno.EAFNOSUPPORT)


def link_up(name: str, index: int) -> Message:
    """Bring an interface up."""
    return Message(NEWLINK, 0, _LINK.pack(0, 0, index, IFF_UP, IFF_UP), f'RTM_NEWLINK("{name}", up)')


def delete_link(name: str, index: int) -> Message:
    """Delete an interface; of a pair, both ends go."""
    return Message(DELLINK, 0, _LINK.pack(0, 0, index, 0, 0), f'RTM_DELLINK("{name}")', errno.ENODEV)


def get_link(index: int) -> Message:
    """Ask for an interface's state."""
    return Message(GETLINK, 0, _LINK.pack(0, 0, index, 0, 0), f"RTM_GETLINK({index})")


def new_address(name: str, index: int, address: str) -> Message:
    """Give an interface an address, ``172.18.0.2/16``."""
    ip, _, prefix = address.partition("/")
    raw = IPv4Address(ip)
    broadcast = IPv4Address(int(raw) | (1 << (32 - int(prefix))) - 1)
    body = _ADDRESS.pack(socket.AF_INET, int(prefix), 0, 0, index)
    body += b"".join(attribute(kind, a.packed) for kind, a in ((1, raw), (2, raw), (4, broadcast)))
    return Message(NEWADDR, CREATE | EXCL, body, f'RTM_NEWADDR({address}, "{name}")')


def default_route(gateway: str) -> Message:
    """Make a default route."""
    universe, boot, main, unicast = 0, 3, 254, 1
    body = _ROUTE.pack(socket.AF_INET, 0, 0, 0, main, boot, universe, unicast, 0)
    body += attribute(5, IPv4Address(gateway).packed)
    return Message(NEWROUTE, CREATE | EXCL, body, f"RTM_NEWROUTE(default via {gateway})")


def token_bucket(name: str, index: int, rate_bps: int, *, parent: int = TC_ROOT) -> Message:
    """Let an interface send no faster than a rate, bytes per second: tc-tbf(8).

    The bucket holds 20 ms, and at least two packets: small against seconds, so that the mean is right from the
    beginning; large against a tick of the clock. The queue holds 100 ms, and at least what TCP needs to go on.
    """
    burst = max(rate_bps // 50, 2 * 1514)
    limit = burst + max(rate_bps // 10, 32 * 1514)
    rate = _RATE.pack(0, LINKLAYER_ETHERNET, 0, 0, 0, min(rate_bps, 2**32 - 1))
    parms = rate + bytes(_RATE.size) + struct.pack("=III", min(limit, 2**32 - 1), 0, 0)
    options = attribute(TBF_PARMS, parms) + _u32(TBF_BURST, min(burst, 2**32 - 1))
    if rate_bps >= 2**32:
        options += attribute(TBF_RATE64, struct.pack("=Q", rate_bps))
    body = _qdisc(index, parent, 0x20000 if parent == TC_ROOT else 0x30000, "tbf", options)
    text = f'RTM_NEWQDISC("{name}", tbf rate {8 * rate_bps}bit burst {burst}b limit {limit}b)'
    return Message(NEWQDISC, CREATE | REPLACE, body, text)


def emulate(name: str, index: int, delay_us: int, loss_percent: float) -> Message:
    """Let what an interface sends be late, or get lost: tc-netem(8)."""
    lost = min(round(loss_percent / 100 * 2**32), 2**32 - 1)
    options = _NETEM.pack(min(delay_us * 1000 // NS_PER_TICK, 2**32 - 1), 10_000, lost, 0, 0, 0)
    options += attribute(NETEM_LATENCY64, struct.pack("=q", delay_us * 1000))
    what = " ".join([*([f"delay {delay_us}us"] if delay_us else []), *([f"loss {loss_percent:g}%"] if lost else [])])
    body = _qdisc(index, TC_ROOT, 0x10000, "netem", options)
    return Message(NEWQDISC, CREATE | REPLACE, body, f'RTM_NEWQDISC("{name}", netem {what})')


def neighbour(name: str, index: int, mac: str) -> Message:
    """Tell a bridge at which of its ports a hardware address is, before anything was sent from there."""
    noarp, master = 0x40, 0x04
    body = _NEIGHBOUR.pack(AF_BRIDGE, index, noarp, master, 0) + attribute(NDA_LLADDR, mac_bytes(mac))
    return Message(NEWNEIGH, CREATE | REPLACE, body, f'RTM_NEWNEIGH({mac} at "{name}")')


def no_queue(name: str, index: int) -> Message:
    """Take an interface's queueing discipline away."""
    body = _TC.pack(0, index, 0, TC_ROOT, 0)
    return Message(DELQDISC, 0, body, f'RTM_DELQDISC("{name}")', errno.ENOENT)


def get_queues(index: int) -> Message:
    """Ask for the queueing disciplines of an interface (and, of older kernels, of all)."""
    return Message(GETQDISC, DUMP, _TC.pack(0, index, 0, 0, 0), f"RTM_GETQDISC({index})")


def _qdisc(index: int, parent: int, handle: int, kind: str, options: bytes) -> bytes:
    return _TC.pack(0, index, handle, parent, 0) + _text(TCA_KIND, kind) + attribute(TCA_OPTIONS, options)


# ---- answers ----


def split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Split what was received into messages: type, sequence number, body."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, _, sequence, _ = HEADER.unpack_from(data, at)
        yield kind, sequence, data[at + HEADER.size : at + length]
        at += (length + 3) & ~3


def error_of(body: bytes) -> int:
    """Return the errno of an NLMSG_ERROR; 0 is an acknowledgement."""
    return -int(struct.unpack_from("=i", body)[0])


def attributes(data: bytes) -> dict[int, bytes]:
    """Return attributes by their kind."""
    found, at = {}, 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def link_state(body: bytes) -> tuple[str, int]:
    """Return an interface's queueing discipline and operational state (6: up) from an RTM_NEWLINK."""
    found = attributes(body[_LINK.size :])
    return found.get(IFLA_QDISC, b"").rstrip(b"\0").decode(), found.get(IFLA_OPERSTATE, b"\0")[0]


def queue(body: bytes, index: int) -> tuple[str, dict[str, float]] | None:
    """Read an RTM_NEWQDISC: its kind, and ``rate_bps``, ``delay_us``, ``loss_percent``; None: another interface's."""
    if _TC.unpack_from(body)[1] != index:
        return None
    found = attributes(body[_TC.size :])
    kind, options = found[TCA_KIND].rstrip(b"\0").decode(), found.get(TCA_OPTIONS, b"")
    if kind == "tbf":
        inner = attributes(options)
        rate = _RATE.unpack_from(inner[TBF_PARMS])[-1]
        if TBF_RATE64 in inner:
            (rate,) = struct.unpack("=Q", inner[TBF_RATE64])
        return kind, {"rate_bps": rate}
    if kind == "netem":
        ticks, _, lost, *_ = _NETEM.unpack_from(options)
        latency = attributes(options[_NETEM.size :]).get(NETEM_LATENCY64)
        ns = struct.unpack("=q", latency)[0] if latency else ticks * NS_PER_TICK
        return kind, {"delay_us": ns // 1000, "loss_percent": lost / 2**32 * 100}
    return kind, {}
