"""What a network is, who is on it and under which address. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from ..errors import UsageError

BRIDGE, HOST, NONE = "bridge", "host", "none"
PREDEFINED = (BRIDGE, HOST, NONE)
NETWORK_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", re.ASCII)
DEFAULT_SUBNET = IPv4Network("172.17.0.0/16")
_POOLS = (
    *(IPv4Network(f"172.{second}.0.0/16") for second in range(17, 32)),
    *IPv4Network("192.168.0.0/16").subnets(new_prefix=20),
)
"""Docker's, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network as it was asked for.

    Attributes
    ----------
    name, id : str
        The ID has 64 hexadecimal digits.
    subnet : IPv4Network
        Its addresses.
    gateway : IPv4Address
        The bridge's own.
    internal : bool
        Whether containers get no default route.
    chosen : bool
        Whether the user chose the subnet; only then may they choose addresses in it.
    created_s : float
        When, seconds since 1970.
    """

    name: str
    id: str
    subnet: IPv4Network
    gateway: IPv4Address
    internal: bool = False
    chosen: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    created_s: float = 0.0

    @property
    def bridge(self) -> str:
        """The name of the bridge, which is in a namespace of its own: Docker's."""
        return "docker0" if self.name == BRIDGE else f"br-{self.id[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A container's end of a network: what a process of either side needs to know to make it.

    Attributes
    ----------
    network, network_id, bridge : str
        Of the network.
    bridge_address : str
        ``172.18.0.1/16``.
    interface : str
        Its name inside, ``eth0``.
    peer : str
        The name of the end on the bridge.
    address : str
        ``172.18.0.2/16``.
    gateway : str
        Where its default route goes; empty for none.
    mac : str
        ``02:42:ac:12:00:02``.
    id : str
        The endpoint's own, 64 hexadecimal digits.
    aliases : tuple of str
        What the others call it, beside its name.
    """

    network: str
    network_id: str
    bridge: str
    bridge_address: str
    interface: str
    peer: str
    address: str
    gateway: str
    mac: str
    id: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def ip(self) -> str:
        """The address without the length of its prefix."""
        return self.address.partition("/")[0]


@dataclass(slots=True)
class Addresses:
    """Which addresses of a network are taken, and by whom."""

    network: Network
    taken: dict[IPv4Address, str] = field(default_factory=dict)

    def take(self, holder: str, wanted: str = "") -> IPv4Address:
        """Give `holder` an address: the one it wants, or the lowest that is free.

        Raises
        ------
        UsageError
            If that is not one of the network's, or taken; or if all are.
        """
        net = self.network
        if wanted:
            address = IPv4Address(wanted)
            if address not in net.subnet or address in (net.subnet.network_address, net.subnet.broadcast_address):
                raise UsageError(f"--ip {wanted}: expected an address of network {net.name}, {net.subnet}")
            if address == net.gateway or address in self.taken:
                raise UsageError(f"--ip {wanted}: Address already in use on network {net.name}")
        else:
            free = (a for a in net.subnet.hosts() if a != net.gateway and a not in self.taken)
            found = next(free, None)
            if found is None:
                raise UsageError(f"network {net.name}: no available IPv4 addresses on {net.subnet}")
            address = found
        self.taken[address] = holder
        return address

    def give_back(self, address: str) -> None:
        """Let an address be taken again."""
        self.taken.pop(IPv4Address(address), None)


def free_subnet(taken: Collection[IPv4Network]) -> IPv4Network:
    """Return the first of Docker's pools that overlaps with none.

    Raises
    ------
    UsageError
        If there is none.

    Examples
    --------
    >>> free_subnet([DEFAULT_SUBNET])
    IPv4Network('172.18.0.0/16')
    """
    for pool in _POOLS:
        if not any(pool.overlaps(other) for other in taken):
            return pool
    raise UsageError("all predefined address pools have been fully subnetted; name a --subnet that is free")


def parse_subnet(text: str) -> IPv4Network:
    """Parse ``172.28.0.0/16``.

    Raises
    ------
    ValueError
        If it is no IPv4 network that has room for a gateway and a container.

    Examples
    --------
    >>> parse_subnet("10.9.0.0/24").num_addresses
    256
    """
    accepted = "expected an IPv4 network with room for two hosts, such as 172.28.0.0/16"
    try:
        subnet = IPv4Network(text)
    except ValueError as error:
        raise ValueError(f"{accepted} ({error})") from None
    if "/" not in text or not 8 <= subnet.prefixlen <= 30:
        raise ValueError(accepted)
    return subnet


def mac_of(address: IPv4Address) -> str:
    """Return the hardware address that goes with an address, as Docker makes it.

    Examples
    --------
    >>> mac_of(IPv4Address("172.17.0.2"))
    '02:42:ac:11:00:02'
    """
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + address.packed)


Named = tuple[str, Sequence[str]]
"""An address and its names."""


def hosts_text(own: Sequence[Named], hostname: str, others: Iterable[Named], extra: Iterable[Named] = ()) -> str:
    """Write hosts(5) for a container.

    Parameters
    ----------
    own : sequence of (str, sequence of str)
        The container's addresses, and what it is called there.
    hostname : str
        Its host name.
    others : iterable of (str, sequence of str)
        Whoever it may call by name.
    extra : iterable of (str, sequence of str)
        From ``--add-host``.

    Examples
    --------
    >>> text = hosts_text([("172.18.0.2", ["web"])], "box", [("172.18.0.3", ["db"])])
    >>> text.splitlines()[2:]
    ['172.18.0.2\\tbox web', '172.18.0.3\\tdb']
    """
    local = ("127.0.0.1", ["localhost"] if own else ["localhost", hostname])
    rows = [local, ("::1", ["localhost", "ip6-localhost", "ip6-loopback"]), *extra]
    rows += [(address, list(dict.fromkeys([hostname, *names]))) for address, names in own]
    return "".join(f"{address}\t{' '.join(names)}\n" for address, names in [*rows, *others] if names)


def resolv_text(servers: Iterable[str], search: Iterable[str] = (), options: Iterable[str] = ()) -> str:
    """Write resolv.conf(5).

    Examples
    --------
    >>> print(resolv_text(["10.0.0.53"], ["example.org"]), end="")
    nameserver 10.0.0.53
    search example.org
    """
    lines = [f"nameserver {server}" for server in servers]
    lines += [f"{word} {' '.join(values)}" for word, values in (("search", search), ("options", options)) if values]
    return "".join(f"{line}\n" for line in lines)
