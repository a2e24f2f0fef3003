"""Docker's subcommands about networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from ...errors import ContainerError, UsageError
from ...lifecycle import ask
from ...networks.data import PREDEFINED
from ...option_network import parse_address, parse_alias, parse_mac
from .console import Console
from .grammar import Command, Flag, Parsed, filter_pair
from .images import print_json, show
from .text import rfc3339

NO_WAY_OUT = "internal: containers of this network reach each other, and nothing outside of it"
_HEADS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
    "CreatedAt": "CREATED AT",
}


def _fields(network: Mapping[str, Any], *, truncate: bool) -> dict[str, Any]:
    return {
        "ID": network["id"][:12] if truncate else network["id"],
        "Name": network["name"],
        "Driver": network["driver"],
        "Scope": "local",
        "IPv4": "true",
        "IPv6": "false",
        "Internal": str(network["driver"] == "bridge").lower(),
        "Labels": ",".join(f"{k}={v}" for k, v in network["labels"].items()),
        "CreatedAt": f"{datetime.fromtimestamp(network['created_s']).astimezone():%Y-%m-%d %H:%M:%S %z %Z}",
    }


def _label(network: Mapping[str, Any], value: str) -> bool:
    key, equals, wanted = value.partition("=")
    return key in network["labels"] and (not equals or network["labels"][key] == wanted)


_FILTERS: dict[str, Callable[[Mapping[str, Any], str], bool]] = {
    "dangling": lambda n, value: (n["name"] not in PREDEFINED and not n["containers"]) == (value in ("true", "1")),
    "driver": lambda n, value: bool(n["driver"] == value),
    "id": lambda n, value: str(n["id"]).startswith(value),
    "label": _label,
    "name": lambda n, value: value in n["name"],
    "scope": lambda _, value: value == "local",
    "type": lambda n, value: (n["name"] in PREDEFINED) == (value == "builtin"),
}


def run_list(console: Console, given: Parsed) -> None:
    """List networks."""
    networks = ask("networks")
    for key, value in given.get("filter", []):
        if key not in _FILTERS:
            raise UsageError(f"--filter {key}: invalid filter; there are: {', '.join(_FILTERS)}")
        networks = [network for network in networks if _FILTERS[key](network, value)]
    rows = [_fields(network, truncate=not given.get("no_trunc")) for network in networks]
    if given.get("quiet"):
        console.write("".join(f"{row['ID']}\n" for row in rows))
        return
    show(console, given.get("format", ""), rows, _HEADS, ("ID", "Name", "Driver", "Scope"))


def network_json(network: Mapping[str, Any]) -> dict[str, Any]:
    """Shape a network as ``docker network inspect`` does."""
    bridge = network["driver"] == "bridge"
    config = [{"Subnet": network["subnet"], "Gateway": network["gateway"]}] if bridge else None
    options = {"com.docker.network.bridge.default_bridge": "true", "com.docker.network.bridge.name": "docker0"}
    return {
        "Name": network["name"],
        "Id": network["id"],
        "Created": rfc3339(network["created_s"]),
        "Scope": "local",
        "Driver": network["driver"],
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": config},
        "Internal": bridge,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            container: {
                "Name": one["name"],
                "EndpointID": one["id"],
                "MacAddress": one["mac"],
                "IPv4Address": one["address"],
                "IPv6Address": "",
            }
            for container, one in network["containers"].items()
        },
        "Options": options if network["name"] == "bridge" else {},
        "Labels": network["labels"],
        **({"Note": NO_WAY_OUT} if bridge else {}),
    }


def run_inspect(console: Console, given: Parsed) -> None:
    """Print everything about networks as JSON."""
    networks = ask("networks")
    print_json(console, given.get("format", ""), [network_json(_find(networks, of)) for of in given.arguments])


def _find(networks: list[dict[str, Any]], of: str) -> dict[str, Any]:
    found = [n for n in networks if n["name"] == of] or [n for n in networks if n["id"].startswith(of)]
    if len(found) != 1:
        raise UsageError(f"network {of} not found; there are: {', '.join(n['name'] for n in networks)}")
    return found[0]


def run_create(console: Console, given: Parsed) -> None:
    """Make a network."""
    driver = given.get("driver", "bridge")
    if driver != "bridge":
        raise UsageError(f"network create --driver {driver}: expected bridge, the only driver there is")
    labels = [list(text.partition("=")[::2]) for text in given.get("label", [])]
    options = {key: given.get(key) for key in ("subnet", "gateway", "internal") if given.get(key)}
    console.line(ask("network_create", name=given.arguments[0], labels=labels, **options))


def run_remove(console: Console, given: Parsed) -> None:
    """Remove networks."""
    failures: list[ContainerError] = []
    for of in given.arguments:
        try:
            console.line(ask("network_remove", of=of))
        except ContainerError as error:
            if not (given.get("force") and "not found" in str(error)):
                failures.append(error)
    if failures:
        raise UsageError("\n".join(map(str, failures)))


def run_prune(console: Console, _given: Parsed) -> None:
    """Remove networks that no container is on."""
    names = ask("network_prune")
    if names:
        console.write("Deleted Networks:\n" + "".join(f"{name}\n" for name in names) + "\n")


def run_connect(_console: Console, given: Parsed) -> None:
    """Put a running container on one more network."""
    network, container = given.arguments
    aliases = [name for names in given.get("alias", []) for name in names]
    ask(
        "network_connect",
        of=network,
        container=container,
        ip=given.get("ip", ""),
        mac=given.get("mac_address", ""),
        aliases=aliases,
    )


def run_disconnect(_console: Console, given: Parsed) -> None:
    """Take a running container off a network."""
    network, container = given.arguments
    ask("network_disconnect", of=network, container=container)


_FORMAT = Flag(flags=("--format",), help="table, json or a Go template", metavar="FORMAT")
_NO_SUCH = "networks are IPv4 bridges of this engine's"

NETWORKS: tuple[Command, ...] = (
    Command(
        name="network create",
        usage="[OPTIONS] NETWORK",
        help="Make a network; its containers reach each other by name, and nothing else",
        run=run_create,
        least=1,
        most=1,
        flags=(
            Flag(flags=("-d", "--driver"), help="bridge", metavar="DRIVER"),
            Flag(flags=("--subnet",), help="Its addresses: 172.28.0.0/16", metavar="SUBNET"),
            Flag(flags=("--gateway",), help="The bridge's own; by default the first", metavar="ADDRESS"),
            Flag(flags=("--internal",), help="Give containers no default route; none leads outside anyhow"),
            Flag(flags=("--label",), help="Attach a label", metavar="KEY=VALUE", repeatable=True),
            Flag(flags=("--ip-range",), metavar="RANGE", refuse="every address of the subnet is given out"),
            Flag(flags=("--ipv6",), refuse=_NO_SUCH),
            Flag(flags=("--attachable",), refuse=_NO_SUCH),
            Flag(flags=("-o", "--opt"), metavar="OPTION", refuse=_NO_SUCH),
        ),
    ),
    Command(
        name="network ls",
        usage="[OPTIONS]",
        help="List networks",
        run=run_list,
        most=0,
        flags=(
            Flag(
                flags=("-f", "--filter"),
                help="Filter by KEY=VALUE: " + ", ".join(_FILTERS),
                metavar="FILTER",
                parse=filter_pair,
                repeatable=True,
            ),
            _FORMAT,
            Flag(flags=("--no-trunc",), help="Do not cut what is long"),
            Flag(flags=("-q", "--quiet"), help="Only IDs"),
        ),
    ),
    Command(
        name="network inspect",
        usage="[OPTIONS] NETWORK…",
        help="Print everything about networks as JSON",
        run=run_inspect,
        least=1,
        flags=(
            Flag(flags=("-f", "--format"), help="json or a Go template", metavar="FORMAT"),
            Flag(flags=("-v", "--verbose"), help="The same"),
        ),
    ),
    Command(
        name="network rm",
        usage="NETWORK…",
        help="Remove networks that no container is on",
        run=run_remove,
        least=1,
        flags=(Flag(flags=("-f", "--force"), help="Also where there is none"),),
    ),
    Command(
        name="network prune",
        usage="[OPTIONS]",
        help="Remove all networks that no container is on",
        run=run_prune,
        most=0,
        flags=(Flag(flags=("-f", "--force"), help="Do not ask: it never does"),),
    ),
    Command(
        name="network connect",
        usage="[OPTIONS] NETWORK CONTAINER",
        help="Put a running container on one more network",
        run=run_connect,
        least=2,
        most=2,
        flags=(
            Flag(flags=("--alias",), help="A name for others", metavar="NAME", parse=parse_alias, repeatable=True),
            Flag(flags=("--ip",), help="Its address there", metavar="ADDRESS", parse=parse_address),
            Flag(flags=("--mac-address",), help="Its hardware address", metavar="ADDRESS", parse=parse_mac),
            Flag(flags=("--link",), metavar="CONTAINER", refuse="containers find each other by name"),
        ),
    ),
    Command(
        name="network disconnect",
        usage="[OPTIONS] NETWORK CONTAINER",
        help="Take a running container off a network",
        run=run_disconnect,
        least=2,
        most=2,
        flags=(Flag(flags=("-f", "--force"), help="The same"),),
    ),
)
