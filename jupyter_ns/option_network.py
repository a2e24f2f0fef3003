"""Options about networks: which one, under which names and address, which ports, how fast."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from . import units
from .errors import UsageError
from .networks.data import BRIDGE, HOST, NETWORK_NAME, NONE
from .option_types import Option, boolean, plain
from .spec import ContainerSpec, Port

CONTAINER = "container:"
_NETWORKS = (
    (NONE, "loopback only"),
    (HOST, "the host's network namespace"),
    (BRIDGE, "the network that is always there"),
)
_HOST_NAME = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,252}[a-zA-Z0-9_])?", re.ASCII)
_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}", re.ASCII)
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_RATE_UNITS = {
    f"{prefix}{unit}": factor * scale
    for unit, scale in (("bit", 1 / 8), ("bps", 1.0))
    for power, letter in enumerate(("", "k", "m", "g"))
    for prefix, factor in ((letter, 1000**power), (f"{letter}i", 1024**power))
}
_RATE_TEXT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmg]?i?(?:bit|bps))", re.ASCII | re.IGNORECASE)
_KEYS = ("name", "alias", "ip", "mac-address")
LOOPBACK = "127.0.0.1"


def parse_address(text: str) -> str:
    """Check an IPv4 address.

    Raises
    ------
    ValueError
        If it is none.
    """
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise ValueError("expected an IPv4 address, such as 172.28.0.10") from None


def parse_mac(text: str) -> str:
    """Check a hardware address of one interface.

    Raises
    ------
    ValueError
        If it is none.
    """
    if not _MAC.fullmatch(text) or int(text[:2], 16) & 1:
        raise ValueError("expected the address of one interface, such as 02:42:ac:11:00:02")
    return text.lower().replace("-", ":")


def parse_alias(text: str) -> tuple[str, ...]:
    """Check a name for other containers to use.

    Raises
    ------
    ValueError
        If it is none.
    """
    if not _HOST_NAME.fullmatch(text):
        raise ValueError("expected a host name: letters, digits and _ . -")
    return (text,)


_VALUES: dict[str, Any] = {"alias": parse_alias, "ip": parse_address, "mac-address": parse_mac}


def _network(text: str) -> tuple[tuple[str, str, str, tuple[str, ...]], ...]:
    """Check ``NAME`` or ``name=NAME,alias=…,ip=…,mac-address=…``; `settle` takes it apart."""
    for key, value in _pairs(text):
        if key not in _KEYS:
            raise ValueError(f"expected a network, or name=NETWORK with any of alias=, ip=, mac-address=; not {key}=")
        named = NETWORK_NAME.fullmatch(value.removeprefix(CONTAINER))
        if key == "name" and value.startswith(CONTAINER) and not named:
            raise ValueError("invalid container format: expected container:NAME or container:ID")
        if key == "name" and not named:
            raise ValueError(
                "expected none, host, bridge, container:NAME, or the name of a network; `%docker network ls` lists them"
            )
        if key in _VALUES:
            _VALUES[key](value)
    if not any(key == "name" for key, _ in _pairs(text)):
        raise ValueError("expected name=NETWORK among the pairs")
    return ((text, "", "", ()),)


def _pairs(text: str) -> list[tuple[str, str]]:
    if "=" not in text:
        return [("name", text)]
    return [(key, value) for key, _, value in (part.partition("=") for part in text.split(","))]


def settle(spec: ContainerSpec, given: Collection[str]) -> ContainerSpec:
    """Take every ``--network name=…`` apart; what needs a network, and names none, is on Docker's default one.

    Parameters
    ----------
    spec : ContainerSpec
        As parsed.
    given : collection of str
        The options that were typed.

    Raises
    ------
    UsageError
        If what needs a network is to have none; if it is to be on several, and one of these is none to be on.

    Examples
    --------
    >>> settle(ContainerSpec(networks=(("name=lab,ip=172.28.0.9", "", "", ()),)), ["--network"]).ip
    '172.28.0.9'
    >>> settle(ContainerSpec(), ["--publish"]).network
    'bridge'
    """
    asked = [_taken_apart(text) for text, *_ in spec.networks]
    if asked:
        (name, ip, mac, aliases), *others = asked
        if len(asked) > 1:
            _check_several([name for name, *_ in asked])
        spec = replace(
            spec,
            network=name,
            ip=ip or spec.ip,
            mac_address=mac or spec.mac_address,
            network_aliases=(*spec.network_aliases, *aliases),
            networks=tuple(others),
        )
    if spec.network.startswith(CONTAINER):
        return _joining(spec, given)
    needing = [name for name in given if name in NEEDING]
    if needing and "--network" not in given and not spec.networked:
        if "network" in spec.without:
            raise UsageError(f"{needing[0]}: expected a network namespace, which --without network leaves out")
        return replace(spec, network=BRIDGE)
    if needing and not spec.networked:
        raise UsageError(f"{needing[0]}: expected a network; conflicts with --network {spec.network}")
    return spec


def _taken_apart(text: str) -> tuple[str, str, str, tuple[str, ...]]:
    pairs = _pairs(text)
    said = dict(pairs)
    checked = {key: _VALUES[key](said[key]) for key in ("ip", "mac-address") if key in said}
    aliases = tuple(value for key, value in pairs if key == "alias")
    return said["name"], checked.get("ip", ""), checked.get("mac-address", ""), aliases


def _check_several(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f'--network: network "{name}" is specified multiple times')
        if name in (NONE, HOST, BRIDGE) or name.startswith(CONTAINER):
            raise UsageError(
                f"--network {name}: conflicting options: cannot attach both user-defined and non-user-defined "
                "network-modes; expected networks of `docker network create` where there are several"
            )


def _joining(spec: ContainerSpec, given: Collection[str]) -> ContainerSpec:
    """Note whose network namespace is joined; what is about a network of its own conflicts, in Docker's words."""
    name = spec.network.removeprefix(CONTAINER)
    for option in given:
        if option in _SHARED or option in NEEDING:
            what = _SHARED.get(option, f"{option} and the container type network mode")
            raise UsageError(
                f"{option}: conflicting options: {what}; expected at the start of container {name}, whose network it is"
            )
    return replace(spec, joins=(*spec.joins, ("network", name)))


def parse_rate(text: str) -> int | None:
    """Parse a rate: ``10mbit`` (bits), or a size (``1mb``, bytes) as the rates of disks.

    Returns
    -------
    int or None
        Bytes per second; None for 0.

    Raises
    ------
    ValueError
        If it is none, or below 1 kbit/s.

    Notes
    -----
    tc(8), "RATES": ``bit`` and ``bps`` (bytes) with ``k``, ``m``, ``g`` (decimal) or ``ki``, ``mi``, ``gi`` (binary).

    Examples
    --------
    >>> parse_rate("10mbit"), parse_rate("1mb"), parse_rate("1mbps")
    (1250000, 1048576, 1000000)
    """
    match = _RATE_TEXT.fullmatch(text)
    if match is not None and match[2].lower() in _RATE_UNITS:
        rate = float(match[1]) * _RATE_UNITS[match[2].lower()]
    else:
        try:
            rate = units.parse_size(text)
        except ValueError:
            raise ValueError("expected bits a second, such as 10mbit, or bytes a second, such as 1mb") from None
    if 0 < rate < 125:
        raise ValueError("expected at least 1kbit")
    return int(rate) or None


def _delay(text: str) -> int | None:
    seconds = units.parse_duration(text)
    if not 0 <= seconds <= 3600:
        raise ValueError("expected 0 to 1h, such as 50ms")
    return round(seconds * 1e6) or None


def _loss(text: str) -> float | None:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise ValueError("expected 0% to 100%, such as 1.5%")
    return percent or None


def _range(text: str) -> tuple[int, int]:
    match = _PORTS.fullmatch(text)
    first = int(match[1]) if match else 0
    last = int(match[2] or first) if match else 0
    if not 1 <= first <= last <= 65535:
        raise ValueError("expected [IP:][HOST_PORT:]PORT[/tcp|udp], ports or ranges of ports from 1 to 65535")
    return first, last


def _protocol(text: str) -> tuple[str, str]:
    ports, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in ("tcp", "udp"):
        raise ValueError("expected tcp or udp after the port")
    return ports, protocol


def publish(text: str) -> tuple[Port, ...]:
    """Parse ``[IP:][HOST_PORT:]PORT[/PROTOCOL]``, ports or ranges.

    Raises
    ------
    ValueError
        If it is nothing of the kind, or two ranges are not of one length.

    Examples
    --------
    >>> [(p.ip, p.host, p.container) for p in publish("8080-8081:80-81")]
    [('127.0.0.1', 8080, 80), ('127.0.0.1', 8081, 81)]
    """
    head, _, inner = text.rpartition(":")
    inner, protocol = _protocol(inner)
    first, last = _range(inner)
    ip, _, outer = head.rpartition(":")
    if head.startswith("[") and head.endswith("]"):
        ip, outer = head, ""
    elif "." in outer:  # 127.0.0.1::80 has an empty port, 127.0.0.1:80 none at all
        raise ValueError("expected IP:HOST_PORT:PORT or IP::PORT where an address is given")
    ip = ip.removeprefix("[").removesuffix("]") or LOOPBACK
    try:
        ip = str(ipaddress.ip_address(ip))
    except ValueError:
        raise ValueError("expected an address of the host's before the ports") from None
    option = f"-p {text}"
    if not outer:
        return tuple(Port(container=p, protocol=protocol, ip=ip, option=option) for p in range(first, last + 1))
    low, high = _range(outer)
    if first == last:
        end = high if high > low else 0
        return (Port(container=first, protocol=protocol, ip=ip, host=low, last=end, option=option),)
    if high - low != last - first:
        raise ValueError("expected ranges of the same length")
    return tuple(
        Port(container=first + i, protocol=protocol, ip=ip, host=low + i, option=option)
        for i in range(last - first + 1)
    )


def expose(text: str) -> tuple[tuple[int, str], ...]:
    """Parse ``PORT[-PORT][/PROTOCOL]``.

    Raises
    ------
    ValueError
        If it is nothing of the kind.
    """
    ports, protocol = _protocol(text)
    first, last = _range(ports)
    return tuple((port, protocol) for port in range(first, last + 1))


def _server(text: str) -> tuple[str, ...]:
    try:
        return (str(ipaddress.ip_address(text)),)
    except ValueError:
        raise ValueError("expected the address of a name server") from None


def _word(text: str) -> tuple[str, ...]:
    if not text or re.search(r"\s", text):
        raise ValueError("expected one word")
    return (text,)


def _added_host(text: str) -> tuple[tuple[str, str], ...]:
    name, separator, address = text.partition("=") if "=" in text else text.partition(":")
    if address == "host-gateway":
        raise ValueError("host-gateway is not supported: the host is out of reach from a network")
    try:
        parsed = str(ipaddress.ip_address(address.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise ValueError("expected NAME:ADDRESS, such as db:172.28.0.9") from None
    if not separator or not _HOST_NAME.fullmatch(name):
        raise ValueError("expected NAME:ADDRESS, such as db:172.28.0.9")
    return ((name, parsed),)


RATES: tuple[Option, ...] = (
    Option(
        flags=("--net-rate",),
        help="Rate at which each of its interfaces sends, and receives: 10mbit, or bytes as for disks: 1mb",
        group="Network",
        sets="limits.net_rate_bps",
        parse=plain(parse_rate),
        metavar="RATE",
        unit="bytes per second",
        documentation="tc-tbf(8)",
    ),
    Option(
        flags=("--net-delay",),
        help="How late what it sends is: 50ms",
        group="Network",
        sets="limits.net_delay_us",
        parse=plain(_delay),
        metavar="TIME",
        unit="seconds",
        documentation="tc-netem(8)",
    ),
    Option(
        flags=("--net-loss",),
        help="How much of what it sends gets lost: 1%",
        group="Network",
        sets="limits.net_loss_percent",
        parse=plain(_loss),
        metavar="PERCENT",
        unit="percent",
        documentation="tc-netem(8)",
    ),
)
NETWORK: tuple[Option, ...] = (
    Option(
        flags=("--network", "--net"),
        help="none: loopback only; host; bridge, or one of `%docker network create`; container:NAME: another's",
        group="Network",
        sets="spec.networks",
        parse=plain(_network),
        metavar="NETWORK",
        repeatable=True,
        default="none (Docker's is bridge)",
        oci="linux.namespaces",
        documentation="network_namespaces(7)",
        choices=_NETWORKS,
    ),
    Option(
        flags=("--network-alias", "--net-alias"),
        help="One more name by which others on its network find it",
        group="Network",
        sets="spec.network_aliases",
        parse=plain(parse_alias),
        metavar="NAME",
        documentation="hosts(5)",
        repeatable=True,
    ),
    Option(
        flags=("--ip",),
        help="Its address, on a network that was made with --subnet",
        group="Network",
        sets="spec.ip",
        parse=plain(parse_address),
        metavar="ADDRESS",
        documentation="ip(7)",
    ),
    Option(
        flags=("--mac-address",),
        help="Hardware address of its interface",
        group="Network",
        sets="spec.mac_address",
        parse=plain(parse_mac),
        metavar="ADDRESS",
        documentation="packet(7)",
    ),
    Option(
        flags=("-p", "--publish"),
        help="Pass what comes to a port of the host's on to one of its own; on 127.0.0.1 unless an address is given",
        group="Network",
        sets="spec.ports",
        parse=plain(publish),
        metavar="[IP:][HOST_PORT:]PORT[/PROTOCOL]",
        documentation="tcp(7)",
        repeatable=True,
    ),
    Option(
        flags=("-P", "--publish-all"),
        help="Publish every exposed port, each on one of the host's that is free",
        group="Network",
        sets="spec.publish_all",
        parse=boolean,
        documentation="tcp(7)",
    ),
    Option(
        flags=("--expose",),
        help="Name a port of its own, for -P",
        group="Network",
        sets="spec.exposed_ports",
        parse=plain(expose),
        metavar="PORT[/PROTOCOL]",
        documentation="tcp(7)",
        repeatable=True,
    ),
    Option(
        flags=("--add-host",),
        help="Add a line to /etc/hosts: db:172.28.0.9",
        group="Network",
        sets="spec.add_hosts",
        parse=plain(_added_host),
        metavar="NAME:ADDRESS",
        documentation="hosts(5)",
        repeatable=True,
        needs="mount",
    ),
    Option(
        flags=("--dns",),
        help="Name server, which must be within reach",
        group="Network",
        sets="spec.dns",
        parse=plain(_server),
        metavar="ADDRESS",
        documentation="resolv.conf(5)",
        repeatable=True,
        needs="mount",
    ),
    Option(
        flags=("--dns-search",),
        help="Domain in which short names are looked up",
        group="Network",
        sets="spec.dns_search",
        parse=plain(_word),
        metavar="DOMAIN",
        documentation="resolv.conf(5)",
        repeatable=True,
        needs="mount",
    ),
    Option(
        flags=("--dns-option", "--dns-opt"),
        help="An option of resolv.conf: timeout:1",
        group="Network",
        sets="spec.dns_options",
        parse=plain(_word),
        metavar="OPTION",
        documentation="resolv.conf(5)",
        repeatable=True,
        needs="mount",
    ),
    *RATES,
)
_SHARED = {
    "--hostname": "hostname and the network mode",
    "--domainname": "domainname and the network mode",
    "--dns": "dns and the network mode",
    "--dns-search": "dns and the network mode",
    "--dns-option": "dns and the network mode",
    "--add-host": "custom host-to-IP mapping and the network mode",
    "--mac-address": "mac-address and the network mode",
    "--publish": "port publishing and the container type network mode",
    "--publish-all": "port publishing and the container type network mode",
    "--expose": "port exposing and the container type network mode",
}
"""What Docker's daemon says of each beside ``--network container:NAME``."""
NEEDING = frozenset(("--network-alias", "--ip", "--mac-address", "--publish", "--publish-all",
                     *(option.name for option in RATES)))  # fmt: skip
"""Options that are about a network of the container's own."""
