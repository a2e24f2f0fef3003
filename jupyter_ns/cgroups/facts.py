"""Frozen data that both versions share, and what a set of limits means.

Notes
-----
Docker's meaning of 0, -1 and of what is left out: docs.docker.com/engine/containers/resource_constraints.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from ..errors import UsageError
from ..spec import Limits

OPTIONS = {
    "memory_bytes": "--memory",
    "memory_swap_bytes": "--memory-swap",
    "memory_reservation_bytes": "--memory-reservation",
    "memory_swappiness": "--memory-swappiness",
    "oom_kill_disable": "--oom-kill-disable",
    "nano_cpus": "--cpus",
    "cpu_period_us": "--cpu-period",
    "cpu_quota_us": "--cpu-quota",
    "cpu_shares": "--cpu-shares",
    "cpuset_cpus": "--cpuset-cpus",
    "cpuset_mems": "--cpuset-mems",
    "pids_limit": "--pids-limit",
    "blkio_weight": "--blkio-weight",
    "hugetlb": "--hugetlb",
    "blkio_weight_device": "--blkio-weight-device",
    "device_read_bps": "--device-read-bps",
    "device_write_bps": "--device-write-bps",
    "device_read_iops": "--device-read-iops",
    "device_write_iops": "--device-write-iops",
    "net_rate_bps": "--net-rate",
    "net_delay_us": "--net-delay",
    "net_loss_percent": "--net-loss",
    "device_rules": "--device-cgroup-rule",
}
BANDWIDTH = frozenset({"nano_cpus", "cpu_quota_us", "cpu_period_us"})
"""Fields that together make one limit."""
RATES = ("device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops")
"""Fields of pairs of a disk's path and a rate."""

_BANDWIDTH = "a quota of 1000 µs or more, a period of 1000 to 1000000 µs, together no more than the parent's"
ACCEPTED = {
    "memory_bytes": "at least what the container holds and cannot give back",
    "memory_swap_bytes": "at least --memory and what the container holds, or -1",
    "memory_swappiness": "0 to 100",
    "nano_cpus": _BANDWIDTH,
    "cpu_period_us": _BANDWIDTH,
    "cpu_quota_us": _BANDWIDTH,
    "cpuset_cpus": "CPUs that the parent cgroup has",
    "cpuset_mems": "memory nodes that the parent cgroup has",
    "hugetlb": "a size of pages that this host has, and a number of bytes",
    "blkio_weight": "10 to 1000",
    "blkio_weight_device": "a whole disk that the BFQ scheduler serves, and 10 to 1000",
    "device_rules": "devices that the cgroups above may use",
} | dict.fromkeys(RATES, "a whole disk, and a rate that is not 0 and fits 63 bits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A cgroup below which this process may work.

    Attributes
    ----------
    controllers : tuple of str
        What can be limited here.
    directory : str
        Its directory; ``jupyter_ns`` is made in it.
    path : str
        The same as ``/proc/PID/cgroup`` has it.
    """

    controllers: tuple[str, ...]
    directory: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupFacts:
    """What `jupyter_ns.cgroups.probe` found by trying.

    Attributes
    ----------
    version : int
        1, 2, or 0: no controller can be used here.
    kind : str
        ``unified``, ``hybrid``, ``legacy`` or ``none``.
    bases : tuple of Base
        One a hierarchy.
    unavailable : dict of str to str
        Controller to the reason why it cannot be used.
    files : frozenset of str
        Names of the kernel files that a new cgroup has here.
    moves_engine : bool
        Version 2: the engine must stand in a leaf ``engine`` of the base, because a cgroup that
        holds processes cannot pass its controllers on.
    devices_error : str
        Why the use of devices cannot be restricted; empty if it can.
    notes : tuple of str
        What the user should know, such as ambient limits that do not bind.
    """

    version: int
    kind: str
    bases: tuple[Base, ...] = ()
    unavailable: dict[str, str]
    files: frozenset[str] = frozenset()
    moves_engine: bool = False
    devices_error: str = ""
    notes: tuple[str, ...] = ()

    def base(self, controller: str) -> Base | None:
        """Return the base that has `controller`."""
        return next((b for b in self.bases if controller in b.controllers), None)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CgroupFacts:
        """Build the facts that `to_dict` described.

        Raises
        ------
        TypeError
            If a field is missing or unknown.
        """
        bases = tuple(Base(**b | {"controllers": tuple(b["controllers"])}) for b in data.get("bases", ()))
        sets = {
            "bases": bases,
            "files": frozenset(data.get("files", ())),
            "notes": tuple(data.get("notes", ())),
        }
        return cls(**data | sets)

    def to_dict(self) -> dict[str, Any]:
        """Return a map that JSON can hold."""
        return {
            "version": self.version,
            "kind": self.kind,
            "bases": [{f.name: getattr(b, f.name) for f in fields(b)} for b in self.bases],
            "unavailable": dict(self.unavailable),
            "files": sorted(self.files),
            "moves_engine": self.moves_engine,
            "devices_error": self.devices_error,
            "notes": list(self.notes),
        }


class Need(NamedTuple):
    """What a limit needs of the host: a controller, one of these kernel files, else a reason."""

    controller: str
    files: tuple[str, ...]
    reason: str = ""


class Setting(NamedTuple):
    """One write: the field of `Limits` and its value, the kernel file and the text for it."""

    field: str
    requested: Any
    controller: str
    file: str
    value: str
    effective_file: str = ""
    """Where the kernel tells the effective value, if not in `file`; it must equal the request."""
    line: str = ""
    """What the line of `file` begins with that tells it, where there is a line for each device."""


class Place(NamedTuple):
    """A container's directory in one hierarchy."""

    controllers: tuple[str, ...]
    directory: str
    path: str


class UsualDevices(NamedTuple):
    """The rules for containers that want no devices of their own, made once.

    Version 1: the directory of a cgroup that has them, which all join. Version 2: a BPF program, to be attached.
    """

    directory: str = ""
    program_fd: int = -1


def is_limit(field: str, value: Any) -> bool:
    """Return whether a value limits anything, in Docker's reading of 0, -1 and the empty string."""
    if isinstance(value, int):
        return value > 0 or (value == 0 and field == "memory_swappiness" and value is not False)
    return bool(value)


def changed(new: Limits, old: Limits) -> frozenset[str]:
    """Return the fields that have to be written to get from `old` to `new`."""
    pairs = ((n, getattr(new, n), getattr(old, n)) for n in OPTIONS)
    return frozenset(n for n, a, b in pairs if a != b and (is_limit(n, a) or is_limit(n, b)))


def merge(old: Limits, new: Limits) -> Limits:
    """Return `old` with what `new` asks for; ``--cpus`` and quota or period replace each other."""
    values = ((n, getattr(new, n)) for n in OPTIONS)
    asked = {n: v for n, v in values if v is not None and v is not False and v not in ("", ())}
    if "nano_cpus" in asked:
        asked = {"cpu_period_us": None, "cpu_quota_us": None} | asked
    elif "cpu_quota_us" in asked or "cpu_period_us" in asked:
        asked["nano_cpus"] = None
    return replace(old, **asked)


def swap_total_bytes(limits: Limits) -> int | None:
    """Return the limit of memory plus swap, bytes; -1 is unlimited, None: none is wanted.

    Raises
    ------
    UsageError
        If it is below the memory limit, or there is no memory limit.

    Notes
    -----
    Docker: unset or 0 means twice the memory.

    Examples
    --------
    >>> swap_total_bytes(Limits(memory_bytes=100)), swap_total_bytes(Limits())
    (200, None)
    """
    memory, swap = limits.memory_bytes or 0, limits.memory_swap_bytes or 0
    if memory <= 0:
        if swap > 0:
            raise UsageError(f"--memory-swap {swap}: needs --memory too; accepted: both, or -1")
        return None
    if swap < 0:
        return -1
    if 0 < swap < memory:
        raise UsageError(f"--memory-swap {swap}: is memory plus swap; accepted: --memory ({memory}) or more, or -1")
    return swap or 2 * memory


def missing(limits: Limits, facts: CgroupFacts, needs: dict[str, Need]) -> dict[str, str]:
    """Return the fields that cannot be honoured here, and why."""
    found = {}
    if limits.device_rules and facts.devices_error:
        found["device_rules"] = facts.devices_error
    for name, (controller, names, reason) in needs.items():
        value = getattr(limits, name)
        if value is None or not is_limit(name, value):
            continue
        if facts.base(controller) is None:
            found[name] = f"cgroup controller {controller}: {facts.unavailable.get(controller, 'unknown')}"
        elif not any(n in facts.files for n in names):
            found[name] = f"cgroup controller {controller}: {reason or f'the kernel has no {names[0]}'}"
    return found


def as_typed(limits: Limits, field: str) -> str:
    """Return an option with its value; without, where the value is not as it was typed.

    Examples
    --------
    >>> as_typed(Limits(blkio_weight=300), "blkio_weight"), as_typed(Limits(oom_kill_disable=True), "oom_kill_disable")
    ('--blkio-weight 300', '--oom-kill-disable')
    """
    value = getattr(limits, field)
    return OPTIONS[field] if value is True or isinstance(value, tuple) else f"{OPTIONS[field]} {value}"


def positive(value: int | None, otherwise: str) -> str:
    """Return a limit as text, or `otherwise` where the value means unlimited."""
    return str(value) if value is not None and value > 0 else otherwise


def id_set(text: str) -> frozenset[int]:
    """Parse the kernel's list format.

    Examples
    --------
    >>> sorted(id_set("0-2,5"))
    [0, 1, 2, 5]
    """
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
