"""One container on its networks: what the engine holds for it, from before it is built until it has ended."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ...cgroups.facts import merge
from ...errors import EngineError, SetupError
from ...networks.data import BRIDGE, Endpoint
from ...spec import ContainerSpec, LimitRecord, Limits
from .process import MOST_FDS
from .publish import Published

if TYPE_CHECKING:
    from ..supervised import Supervised
    from .manager import Networks

HOSTS = "etc-layer/etc/hosts"
"""Below the tmpfs that holds a container's layers; bound on its /etc/hosts by `plan.build`."""


class Wanted(NamedTuple):
    """A network that a container is to be on."""

    network: str
    ip: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class Attachment:
    """A container's endpoints and published ports.

    Its states follow each other: *reserved*, `begun` (the switchboard has been asked), `connected`.
    """

    networks: Networks
    spec: ContainerSpec
    name: str
    endpoints: list[Endpoint] = field(default_factory=list)
    wanted: list[Wanted] = field(default_factory=list)
    ports: list[Published] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    records: list[LimitRecord] = field(default_factory=list)
    container: Supervised | None = None
    guests: list[Supervised] = field(default_factory=list)
    """Containers that have joined its network namespace, and so its /etc/hosts."""
    begun: bool = False
    connected: bool = False
    _publisher: str = ""
    """The endpoint for which ports are published."""
    _unanswered: int = 0

    def __post_init__(self) -> None:
        self.limits = self.spec.limits

    @property
    def id(self) -> str:
        """The container's ID."""
        return self.container.container_id if self.container is not None else ""

    @property
    def hostname(self) -> str:
        """The host name inside."""
        return self.spec.hostname or self.id[:12]

    def names_on(self, endpoint: Endpoint) -> list[str]:
        """Return what others call it on a network: on Docker's default network, nothing."""
        if endpoint.network == BRIDGE:
            return []
        return list(dict.fromkeys([self.name, *endpoint.aliases, self.id[:12], self.hostname]))

    # ---- connecting ----

    def connect(self) -> bool:
        """Connect the container, whose network namespace is there; return whether it is connected by now.

        If not, `Supervised.on_connected` is called once it is.
        """
        if not self.begun:
            self.begun = True
            try:
                self._begin()
            except FileNotFoundError:
                pass  # it was killed while it was built: its end follows
            except (EngineError, OSError) as e:
                self._fail(e)
        return self.connected

    def _begin(self) -> None:
        self.networks.refresh([e.network for e in self.endpoints])
        with self._namespace() as fd:
            for endpoint in self.endpoints:
                self._ask("attach", endpoint, fds=[fd], limits=asdict(self.limits))
        if self.ports:
            self._publish()
        self.connected = not self._unanswered  # it has been taken off every network that it had

    def _fail(self, error: EngineError | OSError) -> None:
        container = self.container
        assert container is not None
        if isinstance(error, OSError):
            error = SetupError(
                step=len(container.plan.steps) - 1,
                steps=len(container.plan.steps),
                call=str(error.filename),
                errno=error.errno or 0,
                option=f"--network {self.spec.network}",
            )
        container.failure = container.failure or error
        container.kill("killed")

    def _publish(self) -> None:
        self._publisher = self.endpoints[0].id
        for first in range(0, len(self.ports), MOST_FDS):
            some = self.ports[first : first + MOST_FDS]
            fds = [p.sock.fileno() for p in some]
            self._ask("publish", self.endpoints[0], fds=fds, ports=[p.port for p in some])
        for published in self.ports:
            published.sock.close()

    @contextlib.contextmanager
    def _namespace(self) -> Any:
        assert self.container is not None
        fd = os.open(f"/proc/{self.container.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def _ask(self, do: str, endpoint: Endpoint, *, fds: list[int], **arguments: Any) -> None:
        self._unanswered += 1
        self.networks.client.request(do, self._on_answer, fds=fds, endpoint=asdict(endpoint), **arguments)

    def _on_answer(self, result: Any, error: OSError | None) -> None:
        self._unanswered -= 1
        container = self.container
        if container is None or container.state == "ended":
            return
        with container.contained():
            if error is not None:
                self._fail(error)
                return
            self.records += [LimitRecord(*r) for r in result or ()]
            if not self._unanswered:
                self.connected = True
                container.on_connected()

    # ---- while it runs ----

    def connect_now(self, endpoint: Endpoint) -> None:
        """Make one more endpoint.

        Raises
        ------
        OSError
            As the kernel said; `filename` is the message.
        """
        with self._namespace() as fd:
            arguments = {"endpoint": asdict(endpoint), "limits": asdict(self.limits)}
            result = self.networks.client.call("attach", fds=[fd], **arguments)
        self.records += [LimitRecord(*r) for r in result]

    def limit(self, limits: Limits) -> None:
        """Move the limits of every endpoint.

        Raises
        ------
        OSError
            As the kernel said.
        """
        self.limits = merge(self.limits, limits)
        records: list[LimitRecord] = []
        with self._namespace() as fd:
            for endpoint in self.endpoints:
                arguments = {"endpoint": asdict(endpoint), "limits": asdict(self.limits)}
                records += [LimitRecord(*r) for r in self.networks.client.call("limit", fds=[fd], **arguments)]
        self.records = records

    def write_hosts(self) -> None:
        """Write /etc/hosts of the container and of its guests, where it has changed and there is one of its own.

        While one is built, its plan writes that file: it comes here when it is ready.
        """
        text = self.networks.hosts_of(self)
        for container in (self.container, *self.guests):
            if container is None or container.state in ("blank", "building"):
                continue
            if container.layer_fd >= 0 and text != container.hosts:
                self._write_hosts(container, text)

    @staticmethod
    def _write_hosts(container: Supervised, text: str) -> None:
        with contextlib.suppress(OSError):  # ENOSPC, ENOMEM: its names stay as they were, and others are not held up
            fd = os.open(HOSTS, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=container.layer_fd)
            try:
                # In place, for it is bound as a file; first the text, so that a reader never sees it empty.
                os.truncate(fd, os.write(fd, text.encode()))
            finally:
                os.close(fd)
            container.hosts = text

    def disconnected(self, endpoint: Endpoint) -> None:
        """Give back an endpoint that has been taken away, and the ports that were published for it."""
        if endpoint.id == self._publisher:
            self._unpublish()
        self.networks.give_back(self, endpoint)
        self.wanted = [w for w in self.wanted if w.network != endpoint.network]

    def _unpublish(self) -> None:
        for published in self.ports:
            published.sock.close()
        self.ports = []
        if self._publisher:  # waited for: whoever comes next may want the same port
            publisher, self._publisher = self._publisher, ""
            self.networks.unpublish(publisher)

    def close(self) -> None:
        """Give everything back: addresses, ports, interfaces."""
        self._unpublish()
        if self not in self.networks.attachments:
            return
        names = [e.network for e in self.endpoints]
        for endpoint in list(self.endpoints):
            self.networks.leave(self, endpoint)
        self.container = None
        self.networks.left(self)
        self.networks.refresh(names)
