"""What a container is asked to be: frozen data, no behaviour, no I/O.

A `ContainerSpec` comes from the option table (`jupyter_ns.options`), crosses the byte
stream as a map (`to_dict`, `from_dict`), and is compiled to a plan (`jupyter_ns.plan`).
"""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, NamedTuple

CGROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
"""What a cgroup of ours may be called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Resource limits; None means: not asked for.

    The option that sets a field, its OCI path, unit and kernel files stand in
    `jupyter_ns.options.OPTIONS`; the cgroup back ends write them.
    """

    memory_bytes: int | None = None
    memory_swap_bytes: int | None = None
    """Memory plus swap, as Docker counts; -1 is unlimited."""
    memory_reservation_bytes: int | None = None
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    nano_cpus: int | None = None
    """CPUs' worth of time in 1e-9 CPU, as Docker's API has it."""
    cpu_period_us: int | None = None
    cpu_quota_us: int | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    pids_limit: int | None = None
    """Tasks; None or <= 0 is unlimited."""
    hugetlb: tuple[tuple[str, int], ...] = ()
    """Pairs of a size of huge pages as the kernel writes it, such as ``2MB``, and bytes of them."""
    blkio_weight: int | None = None
    blkio_weight_device: tuple[tuple[str, int], ...] = ()
    """Pairs of a block device's path and its weight, as all four below have rates."""
    device_read_bps: tuple[tuple[str, int], ...] = ()
    device_write_bps: tuple[tuple[str, int], ...] = ()
    device_read_iops: tuple[tuple[str, int], ...] = ()
    device_write_iops: tuple[tuple[str, int], ...] = ()
    net_rate_bps: int | None = None
    """Bytes per second that each of its interfaces sends, and receives."""
    net_delay_us: int | None = None
    """How late what it sends is."""
    net_loss_percent: float | None = None
    """How much of what it sends gets lost."""
    device_rules: tuple[str, ...] = ()
    """Devices that may be used beside the usual ones: ``c 10:229 rwm``, as devices.allow has it."""

    @property
    def cpu_bandwidth_us(self) -> tuple[int, int] | None:
        """Quota and period, microseconds, from whichever option gave them; None if unlimited."""
        if self.nano_cpus:
            return self.nano_cpus * 100_000 // 1_000_000_000, 100_000
        if self.cpu_quota_us is not None and self.cpu_quota_us > 0:
            return self.cpu_quota_us, self.cpu_period_us or 100_000
        return None


class LimitRecord(NamedTuple):
    """Where one limit went.

    Attributes
    ----------
    name : str
        The field of `Limits`.
    requested : int or str
        As the spec had it.
    effective : str
        What the kernel read back.
    file : str
        The kernel file it was written to; ``"watched"`` where the engine looks and kills.
    """

    name: str
    requested: Any
    effective: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A mount asked for by the user.

    A bind mount (``type="bind"``), a tmpfs (``"tmpfs"``), or a volume (``"volume"``, its `source` a name, or
    empty for one that goes with the container), which becomes a bind mount before anything is built.
    """

    type: str
    destination: str
    source: str = ""
    readonly: bool = False
    propagation: str = "rprivate"
    options: str = ""
    """tmpfs: the data string of mount(2), such as ``size=64m,mode=1777``."""
    flags: tuple[str, ...] = ()
    """tmpfs: per-mount flags, such as ``("noexec", "nosuid", "nodev")``."""
    nocopy: bool = False
    """volume: leave it empty where the image has files."""
    option: str = ""
    """As the user wrote it, for error messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port of a container's that is published on the host.

    Attributes
    ----------
    container : int
        The port inside.
    protocol : str
        ``tcp`` or ``udp``.
    ip : str
        The host's address.
    host : int
        The host's port; 0 is any that is free.
    last : int
        Where a range of the host's was named for it, the last of it: the first that is free is used.
    option : str
        As the user wrote it, for error messages.
    """

    container: int
    protocol: str = "tcp"
    ip: str = "127.0.0.1"
    host: int = 0
    last: int = 0
    option: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device of the host's, or a directory of them, that a container may use."""

    source: str
    destination: str
    permissions: str = "rwm"
    """Of ``r`` (read), ``w`` (write) and ``m`` (mknod)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ulimit:
    """One setrlimit(2) pair; -1 is unlimited."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """Everything that decides how a container is built and what runs in it.

    Attributes
    ----------
    argv : tuple of str
        The program and its arguments; empty for a Python cell.
    python : bool
        Whether the payload is a notebook cell, run in a child of the zygote.
    without : tuple of str
        Namespace kinds left out (`jupyter_ns.namespaces.KINDS`).
    stdin_open : bool
        Whether the payload gets standard input (a shell cell's script, or ``-i``).
    timeout_seconds : float or None
        Wall time after which the container is killed.
    workdir : str
        Absolute path inside; the notebook's directory by default.
    environment : tuple of (str, str or None)
        In order, later wins; None removes the variable.
    user : str
        ``name|uid[:group|gid]``; empty for the caller's own (root inside).
    security_options : tuple of str
        ``--security-opt`` values, as written.
    """

    argv: tuple[str, ...] = ()
    python: bool = False
    image: str = ""
    """Name of an image; empty for the host's own files."""
    pull: str = "missing"
    """``always``, ``missing`` or ``never``."""
    platform: str = ""
    name: str = ""
    hostname: str = ""
    domainname: str = ""
    workdir: str = ""
    environment: tuple[tuple[str, str | None], ...] = ()
    user: str = ""
    groups: tuple[str, ...] = ()
    entrypoint: str | None = None
    init: bool = False
    stdin_open: bool = True
    tty: bool = False
    """Whether its standard streams are a terminal."""
    network: str = "none"
    """``none``, ``host``, ``bridge``, the name of a network that was made, or ``container:NAME``."""
    networks: tuple[tuple[str, str, str, tuple[str, ...]], ...] = ()
    """Further ones: name, address, hardware address, aliases; `network` and the three below are the first's."""
    network_aliases: tuple[str, ...] = ()
    ip: str = ""
    mac_address: str = ""
    ports: tuple[Port, ...] = ()
    exposed_ports: tuple[tuple[int, str], ...] = ()
    """Pairs of a port and ``tcp`` or ``udp``."""
    publish_all: bool = False
    """Whether all of `exposed_ports` are published, each on a port that is free."""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    add_hosts: tuple[tuple[str, str], ...] = ()
    """Pairs of a name and an address for /etc/hosts."""
    userns: str = ""
    without: tuple[str, ...] = ()
    """From ``--without`` and from ``--pid host``, ``--ipc host``, ``--uts host``, ``--cgroupns host``."""
    joins: tuple[tuple[str, str], ...] = ()
    """Pairs of a kind of namespace and the container whose it is: ``--network container:NAME`` and its like."""
    ipc_shareable: bool = False
    """Whether others may join its IPC namespace."""
    limits: Limits = field(default_factory=Limits)
    ulimits: tuple[Ulimit, ...] = ()
    devices: tuple[Device, ...] = ()
    cgroup_parent: str = ""
    """A cgroup that ``%cgroup create`` made; its limits bind this container too."""
    oom_score_adj: int = 0
    mounts: tuple[Mount, ...] = ()
    volumes_from: tuple[str, ...] = ()
    """Containers whose binds and volumes this one has too: ``NAME[:ro|rw]``; `mounts` holds them once resolved."""
    readonly: bool = False
    shm_size_bytes: int = 64 * 1024 * 1024
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    security_options: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    time_offset_seconds: float = 0.0
    """Added to CLOCK_MONOTONIC and CLOCK_BOOTTIME inside."""
    timeout_seconds: float | None = None
    stop_signal: str = "SIGTERM"
    stop_timeout_seconds: int = 10
    """From the stop signal to SIGKILL; negative: for ever."""
    restart: str = "no"
    """``no``, ``always``, ``unless-stopped`` or ``on-failure[:MOST]``."""
    keep: bool = False
    health_cmd: str = ""
    """What a shell inside runs to see whether it is healthy; the spans below: 0 is Docker's default."""
    health_interval_seconds: float = 0.0
    health_timeout_seconds: float = 0.0
    health_retries: int = 0
    health_start_period_seconds: float = 0.0
    health_start_interval_seconds: float = 0.0
    no_healthcheck: bool = False
    """Whether the image's own health check is left out."""

    @property
    def command(self) -> tuple[str, ...]:
        """The program and its arguments, the entry point first if there is one."""
        return ((self.entrypoint,) if self.entrypoint else ()) + self.argv

    @property
    def networked(self) -> bool:
        """Whether it is on a network with others."""
        return self.network not in ("none", "host") and "network" not in (*self.without, *self.joined)

    @property
    def joined(self) -> frozenset[str]:
        """The kinds of namespace that are another container's."""
        return frozenset(kind for kind, _ in self.joins)

    def to_dict(self) -> dict[str, Any]:
        """Return a map of the fields that differ from their defaults, for the wire."""
        return _changed(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ContainerSpec:
        """Build a spec from what `to_dict` gave (lists for tuples are accepted).

        Raises
        ------
        TypeError
            If a field is unknown.
        """
        d = {k: _tuples(v) for k, v in data.items()}
        if "limits" in d:
            d["limits"] = Limits(**{k: _tuples(v) for k, v in data["limits"].items()})
        if "mounts" in d:
            d["mounts"] = tuple(Mount(**{k: _tuples(v) for k, v in m.items()}) for m in data["mounts"])
        if "ulimits" in d:
            d["ulimits"] = tuple(Ulimit(**u) for u in data["ulimits"])
        if "ports" in d:
            d["ports"] = tuple(Port(**one) for one in data["ports"])
        if "devices" in d:
            d["devices"] = tuple(Device(**one) for one in data["devices"])
        return cls(**d)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    return _changed(value) if type(value) in _DEFAULTS else value


def _changed(instance: Any) -> dict[str, Any]:
    """Turn a dataclass into a map of the fields that differ from their defaults."""
    found = {}
    for name, default in _DEFAULTS[type(instance)]:
        value = getattr(instance, name)
        if value is not default and value != default:
            found[name] = _plain(value)
    return found


_DEFAULTS: dict[type, list[tuple[str, Any]]] = {
    kind: [(f.name, f.default_factory() if f.default_factory is not MISSING else f.default) for f in fields(kind)]
    for kind in (ContainerSpec, Limits, Mount, Device, Port, Ulimit)
}
