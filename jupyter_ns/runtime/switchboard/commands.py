"""What the kernel can ask about networks, and have done to them: rows of `jupyter_ns.runtime.commands`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ...networks.data import BRIDGE, HOST, NONE, Network
from ...spec import ContainerSpec
from .attachment import Wanted

if TYPE_CHECKING:
    from ..registry import Record, Registry
    from .manager import Networks


_SHARED_NETWORK = "container sharing network namespace with another container or host"


def endpoints_of(record: Record) -> list[dict[str, Any]]:
    """Return a container's endpoints, with what others call it there; those of one that has ended have no address."""
    network = record.process.network
    if network is None and "network" in record.spec.joined:
        return []  # as Docker's: they are the other container's
    if network is None:
        return [{"network": record.spec.network, "address": ""}]
    if not network.endpoints:
        return [{"network": wanted.network, "address": ""} for wanted in network.wanted]
    return [asdict(e) | {"names": network.names_on(e)} for e in network.endpoints]


def ports_of(record: Record) -> list[list[Any]]:
    """Return a container's ports: number, protocol, and where each is published on the host, if it is."""
    network = record.process.network
    published = network.ports if network is not None and network.endpoints else []
    rows: list[list[Any]] = [[p.port, p.protocol, p.ip, p.host] for p in published]
    there = {(port, protocol) for port, protocol, *_ in rows}
    return rows + [[port, protocol, "", 0] for port, protocol in record.spec.exposed_ports
                   if (port, protocol) not in there]  # fmt: skip


def _networks(registry: Registry) -> Networks:
    return registry.engine.networks


def _describe(registry: Registry, network: Network) -> dict[str, Any]:
    on = {
        a.id: {"name": a.name, **asdict(e)}
        for a in _networks(registry).on(network.name)
        for e in a.endpoints
        if e.network == network.name
    }
    return {
        "name": network.name,
        "id": network.id,
        "driver": "bridge",
        "created_s": network.created_s,
        "subnet": str(network.subnet),
        "gateway": str(network.gateway),
        "internal": network.internal,
        "labels": dict(network.labels),
        "containers": on,
    }


def _list(registry: Registry, _request: str) -> list[dict[str, Any]]:
    """Describe every network, also Docker's two that are none."""
    networks = _networks(registry)
    found = [_describe(registry, network) for network in networks.networks.values()]
    for name, driver in ((HOST, "host"), (NONE, "null")):
        on = {
            r.id: {"name": r.name, "id": "", "mac": "", "address": ""}
            for r in registry.records.values()
            if r.alive and r.spec.network == name
        }
        found.append(
            {
                "name": name,
                "id": networks.ids[name],
                "driver": driver,
                "created_s": networks.born_s,
                "subnet": "",
                "gateway": "",
                "internal": False,
                "labels": {},
                "containers": on,
            }
        )
    return sorted(found, key=lambda network: str(network["name"]))


def _create(registry: Registry, _request: str, name: str, **options: Any) -> str:
    network = _networks(registry).create(name, **options)
    return network.id


def _remove(registry: Registry, _request: str, of: str) -> str:
    return _networks(registry).remove(of)


def _prune(registry: Registry, _request: str) -> list[str]:
    networks = _networks(registry)
    unused = [name for name in networks.networks if name != BRIDGE and not networks.on(name)]
    return [networks.remove(name) for name in unused]


def _connect(registry: Registry, _request: str, of: str, container: str, **wanted: Any) -> bool:
    record = _running(registry, container, "connect")
    aliases = tuple(wanted.pop("aliases", ()))
    _networks(registry).connect(record.process.network, Wanted(of, aliases=aliases, **wanted))
    return True


def _disconnect(registry: Registry, _request: str, of: str, container: str, force: bool = False) -> bool:
    record = _running(registry, container, "disconnect")
    _networks(registry).disconnect(record.process.network, of)
    return True


def _running(registry: Registry, container: str, what: str) -> Any:
    record = registry.find(container)
    if not record.alive:
        raise UsageError(f"network {what}: container {record.name} is {record.state}; expected one that runs")
    if record.process.network is None:
        raise UsageError(f"network {what}: {_not_on_one(record, what)}")
    return record


def _not_on_one(record: Record, what: str) -> str:
    """Say why a container is on no network, in Docker's words, and what to do."""
    mode = record.spec.network
    if "network" in record.spec.joined or mode == HOST or "network" in record.spec.without:
        return f"{_SHARED_NETWORK} cannot be connected to any other network"
    if what == "disconnect":
        return f"container {record.name} is not connected to a network"
    return (
        "container cannot be connected to multiple networks with one of the networks in private (none) mode: "
        f"{record.name} has --network none (here the default; Docker's is bridge); start it with --network"
    )


def _preview(registry: Registry, _request: str, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the endpoints that a container would get now."""
    asked = replace(ContainerSpec.from_dict(spec), ports=(), publish_all=False)
    with _networks(registry).reserved(asked, asked.name) as network:
        if network is None:
            return []
        found = [asdict(e) for e in network.endpoints]
        network.close()
        return found


NETWORK_COMMANDS: dict[str, Callable[..., Any]] = {
    "networks": _list,
    "network_create": _create,
    "network_remove": _remove,
    "network_prune": _prune,
    "network_connect": _connect,
    "network_disconnect": _disconnect,
    "network_preview": _preview,
}
