"""The engine's networks: their names and addresses, who is on them, and the files that say so inside.

Should: take an address and the host's ports before anything of a container is built, and give them back when it ends.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from ...errors import EngineError, UnsupportedError, UsageError
from ...networks.data import (
    BRIDGE,
    DEFAULT_SUBNET,
    NETWORK_NAME,
    PREDEFINED,
    Addresses,
    Endpoint,
    Network,
    free_subnet,
    hosts_text,
    mac_of,
    parse_subnet,
)
from ...networks.wiring import has_limits
from ...spec import ContainerSpec, Limits
from .attachment import Attachment, Wanted
from .client import SwitchboardClient
from .publish import open_ports

if TYPE_CHECKING:
    from ..engine import Engine
    from ..supervised import Supervised

KEEP_S = 30.0
"""How long the switchboard is kept once nobody is connected."""
_NEEDS = {"net_rate_bps": ("tbf", "--net-rate"), "net_delay_us": ("netem", "--net-delay"),
          "net_loss_percent": ("netem", "--net-loss")}  # fmt: skip


class Networks:
    """Every network of one engine, by name.

    Parameters
    ----------
    engine : Engine
        Whose containers are on them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._client: SwitchboardClient | None = None
        self._lacking: dict[str, str] | None = None
        self._idle_since = 0.0
        self.networks: dict[str, Network] = {}
        self.addresses: dict[str, Addresses] = {}
        self.attachments: list[Attachment] = []
        self.ids = {name: _new_id() for name in PREDEFINED}
        self.born_s = time.time()
        self._enter(
            Network(
                name=BRIDGE,
                id=self.ids[BRIDGE],
                subnet=DEFAULT_SUBNET,
                gateway=DEFAULT_SUBNET[1],
                created_s=self.born_s,
            )
        )

    # ---- networks ----

    def _enter(self, network: Network) -> None:
        self.networks[network.name] = network
        self.addresses[network.name] = Addresses(network)

    def create(
        self, name: str, subnet: str = "", gateway: str = "", internal: bool = False, labels: Iterable[Any] = ()
    ) -> Network:
        """Make a network; its bridge comes with the first container.

        Raises
        ------
        UsageError
            If the name or the addresses are no good, or taken.
        """
        if not NETWORK_NAME.fullmatch(name):
            raise UsageError(
                f"network create {name!r}: expected letters, digits and _ . -, the first a letter or digit"
            )
        if name in PREDEFINED or name in self.networks:
            raise UsageError(f"network with name {name} already exists")
        others = [n.subnet for n in self.networks.values()]
        try:
            chosen = parse_subnet(subnet) if subnet else free_subnet(others)
        except ValueError as error:
            raise UsageError(f"--subnet {subnet!r}: {error}") from None
        if any(chosen.overlaps(other) for other in others):
            raise UsageError(f"--subnet {subnet}: Pool overlaps with other one on this address space")
        try:
            own = IPv4Address(gateway) if gateway else chosen[1]
        except ValueError:
            raise UsageError(f"--gateway {gateway!r}: expected an IPv4 address") from None
        if own not in chosen or own in (chosen.network_address, chosen.broadcast_address):
            raise UsageError(f"--gateway {gateway}: expected an address of {chosen}")
        network = Network(
            name=name,
            id=_new_id(),
            subnet=chosen,
            gateway=own,
            internal=internal,
            chosen=bool(subnet),
            labels=tuple((key, value) for key, value in labels),
            created_s=time.time(),
        )
        self._enter(network)
        return network

    def find(self, reference: str) -> Network:
        """Find a network by its name, its ID, or the beginning of its ID.

        Raises
        ------
        UsageError
            If there is none.
        """
        if reference in self.networks:
            return self.networks[reference]
        found = [n for n in self.networks.values() if reference and n.id.startswith(reference)]
        if len(found) != 1:
            names = ", ".join([*self.networks, "host", "none"])
            raise UsageError(f"network {reference} not found; there are: {names}; `%docker network create` makes one")
        return found[0]

    def remove(self, reference: str) -> str:
        """Remove a network that nobody is on; return its name.

        Raises
        ------
        UsageError
            If somebody is, or it is Docker's own.
        """
        if reference in PREDEFINED or reference in self.ids.values():
            raise UsageError(f"{reference} is a pre-defined network and cannot be removed")
        network = self.find(reference)
        users = [a.name for a in self.on(network.name)]
        if users:
            raise UsageError(
                f"error while removing network: network {network.name} has active endpoints: {', '.join(users)}; "
                "stop these containers, or disconnect them"
            )
        del self.networks[network.name], self.addresses[network.name]
        self._tell("forget", network=network.id)
        return network.name

    def on(self, name: str) -> list[Attachment]:
        """Return those that are on a network."""
        return [a for a in self.attachments if any(e.network == name for e in a.endpoints)]

    # ---- the switchboard ----

    @property
    def client(self) -> SwitchboardClient:
        """The switchboard, started on first use."""
        if self._client is None or not self._client.alive:
            self._client = SwitchboardClient(self._engine)
        return self._client

    def _tell(self, do: str, **arguments: Any) -> None:
        """Ask the switchboard, if there is one, for something that nobody waits for."""
        if self._client is not None and self._client.alive:
            with contextlib.suppress(EngineError):  # it has just ended, and everything with it
                self._client.request(do, lambda _result, _error: None, **arguments)

    def drop_idle(self) -> None:
        """End the switchboard if nobody is connected."""
        if self._client is not None and not self.attachments:
            self._client.close()
            self._client = None

    def close(self) -> None:
        """End the switchboard, and everything with it."""
        for attachment in list(self.attachments):
            attachment.close()
        self.drop_idle()

    def check(self, limits: Limits) -> None:
        """Make sure that this kernel has what a network, and these limits of it, need.

        Raises
        ------
        UnsupportedError
            If it has not; names the option and the part.
        """
        if self._lacking is None:
            self._lacking = self.client.call("probe")
        for part in ("veth", "bridge"):
            if part in self._lacking:
                raise UnsupportedError(f"networks need {part}: {self._lacking[part]}")
        for field, (part, option) in _NEEDS.items():
            if getattr(limits, field) and part in self._lacking:
                raise UnsupportedError(f"{option} needs the queueing discipline {part}: {self._lacking[part]}")

    # ---- containers ----

    @contextlib.contextmanager
    def reserved(
        self, spec: ContainerSpec, name: str, wanted: Iterable[Wanted] | None = None
    ) -> Iterator[Attachment | None]:
        """Take addresses and ports for a container that is built within; None if it is on no network.

        Parameters
        ----------
        spec : ContainerSpec
            What was asked for.
        name : str
            Its name.
        wanted : iterable of Wanted, optional
            The networks that it had before, where it is started again.

        Raises
        ------
        UsageError, UnsupportedError
            Nothing is taken.
        """
        if not spec.networked:
            yield None
            return
        if wanted is None:
            first = Wanted(spec.network, spec.ip, spec.mac_address, spec.network_aliases)
            wanted = (first, *(Wanted(*one) for one in spec.networks))
        found = Attachment(self, spec, name)
        self.attachments.append(found)
        try:
            for one in wanted:
                self.join(found, one)
            self.check(spec.limits)
            found.ports = open_ports(spec) if found.endpoints else []
            yield found
        except BaseException:
            found.close()
            raise

    def join(self, attachment: Attachment, wanted: Wanted) -> Endpoint:
        """Take an address for a container on one more network.

        Raises
        ------
        UsageError
            If it cannot be had.
        """
        network = self.find(wanted.network)
        if any(e.network == network.name for e in attachment.endpoints):
            raise UsageError(f"endpoint with name {attachment.name} already exists in network {network.name}")
        if network.name == BRIDGE and (wanted.ip or wanted.aliases):
            option, what = ("--ip", "IP address") if wanted.ip else ("--network-alias", "alias")
            raise UsageError(f"{option}: user specified {what} is supported on user defined networks only")
        if wanted.ip and not network.chosen:
            raise UsageError(
                f"--ip {wanted.ip}: user specified IP address is supported only when connecting to networks with user "
                f"configured subnets; make {network.name} with --subnet"
            )
        address = self.addresses[network.name].take(attachment.name, wanted.ip)
        number = next(n for n in range(1 << 16) if not any(e.interface == f"eth{n}" for e in attachment.endpoints))
        endpoint = Endpoint(
            network=network.name,
            network_id=network.id,
            bridge=network.bridge,
            bridge_address=f"{network.gateway}/{network.subnet.prefixlen}",
            interface=f"eth{number}",
            peer=f"veth{uuid.uuid4().hex[:7]}",
            address=f"{address}/{network.subnet.prefixlen}",
            # The first network that has one gives the default route.
            gateway="" if network.internal or any(e.gateway for e in attachment.endpoints) else str(network.gateway),
            mac=wanted.mac or mac_of(address),
            id=_new_id(),
            aliases=tuple(wanted.aliases),
        )
        attachment.endpoints.append(endpoint)
        attachment.wanted.append(wanted._replace(network=network.name))
        return endpoint

    def give_back(self, attachment: Attachment, endpoint: Endpoint) -> None:
        """Give back an endpoint's address."""
        if endpoint.network in self.addresses:
            self.addresses[endpoint.network].give_back(endpoint.ip)
        attachment.endpoints.remove(endpoint)

    def leave(self, attachment: Attachment, endpoint: Endpoint) -> None:
        """Give back an endpoint of a container that has ended; its interface goes once what it sent has arrived."""
        self.give_back(attachment, endpoint)
        if attachment.begun:
            self._tell("leave", endpoint=asdict(endpoint))

    def unpublish(self, endpoint: str) -> None:
        """Give back the host's ports that are published for an endpoint."""
        if self._client is not None and self._client.alive:
            with contextlib.suppress(EngineError, OSError):  # it has just ended, and its sockets with it
                self._client.call("unpublish", endpoint=endpoint)

    def left(self, attachment: Attachment) -> None:
        """A container is on no network any more."""
        self.attachments.remove(attachment)
        if not self.attachments:
            self._idle_since = now = time.monotonic()
            self._engine.registry.call_at(now + KEEP_S, lambda: self._drop_if_idle_since(now))

    def _drop_if_idle_since(self, since: float) -> None:
        if self._idle_since == since:
            self.drop_idle()

    def share(self, made: Supervised) -> None:
        """Have a container that joins another one's network namespace called there what it is, and know its names."""
        for kind, name in made.spec.joins:
            network = self._engine.registry.find(name).process.network if kind == "network" else None
            if network is not None:
                made.host_of_network = network
                network.guests.append(made)

    # ---- names ----

    def refresh(self, networks: Iterable[str]) -> None:
        """Bring /etc/hosts up to date in every container that is on one of these networks."""
        names = set(networks)
        for attachment in self.attachments:
            if any(e.network in names for e in attachment.endpoints):
                attachment.write_hosts()

    def hosts_of(self, attachment: Attachment) -> str:
        """Write hosts(5) for a container: itself, and who is on a network with it that a user made."""
        own = [(e.ip, attachment.names_on(e)) for e in attachment.endpoints]
        shared = {e.network for e in attachment.endpoints} - {BRIDGE}
        others = [
            (e.ip, other.names_on(e))
            for other in self.attachments
            if other is not attachment
            for e in other.endpoints
            if e.network in shared
        ]
        extra = [(address, [name]) for name, address in attachment.spec.add_hosts]
        return hosts_text(own, attachment.hostname, others, extra)

    def rename(self, attachment: Attachment, name: str) -> None:
        """A container has another name."""
        attachment.name = name
        self.refresh(e.network for e in attachment.endpoints)

    # ---- while they run ----

    def connect(self, attachment: Attachment, wanted: Wanted) -> None:
        """Put a running container on one more network.

        Raises
        ------
        UsageError
            If it cannot have that one.
        """
        endpoint = self.join(attachment, wanted)
        try:
            attachment.connect_now(endpoint)
        except OSError as e:
            attachment.wanted.pop()
            self.give_back(attachment, endpoint)
            raise UnsupportedError(f"network connect: {e.filename}: {e.strerror}") from None
        self.refresh([endpoint.network])

    def disconnect(self, attachment: Attachment, reference: str) -> None:
        """Take a running container off a network; its ports go with the network that they were published for.

        Raises
        ------
        UsageError
            If it is not on it.
        """
        network = self.find(reference)
        for endpoint in attachment.endpoints:
            if endpoint.network == network.name:
                self.client.call("detach", endpoint=asdict(endpoint))  # waited for: who asks next, finds it done
                attachment.disconnected(endpoint)
                self.refresh([network.name])
                attachment.write_hosts()
                return
        raise UsageError(f"container {attachment.name} is not connected to network {network.name}")

    def update(self, attachment: Attachment | None, limits: Limits) -> None:
        """Move the limits of a running container's interfaces.

        Raises
        ------
        UsageError, UnsupportedError
            If it has none, or this kernel cannot.
        """
        if not has_limits(limits):
            return
        if attachment is None:
            raise UsageError("--net-rate, --net-delay and --net-loss: expected a container that is on a network")
        self.check(limits)
        attachment.limit(limits)


def _new_id() -> str:
    return uuid.uuid4().hex + uuid.uuid4().hex
