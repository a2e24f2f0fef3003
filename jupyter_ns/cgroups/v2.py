"""cgroup version 2: one directory for all, one function a controller.

Notes
-----
Kernel: admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import math
import os
import select
import time

from .. import core
from ..errors import UnsupportedError, UsageError
from ..spec import Limits
from . import devices, files, processes
from .alike import cpuset, hugetlb, hugetlb_need, pids
from .base import Cgroup
from .devices import Rule
from .disks import disk_settings, weight_note
from .facts import BANDWIDTH, OPTIONS, RATES, Need, Setting, UsualDevices, positive, swap_total_bytes

CONTROLLERS = ("memory", "cpu", "pids", "cpuset", "io", "hugetlb")

_WEIGHTS = ("io.bfq.weight", "io.weight")
_RATE_KEYS = dict(zip(RATES, ("rbps", "wbps", "riops", "wiops"), strict=True))
NEEDS = {
    "memory_bytes": Need("memory", ("memory.max",)),
    "memory_swap_bytes": Need(
        "memory", ("memory.swap.max",), "swap accounting is off (no CONFIG_SWAP, or swapaccount=0)"
    ),
    "memory_reservation_bytes": Need("memory", ("memory.low",)),
    "memory_swappiness": Need("memory", (), "version 2 has no swappiness of one cgroup"),
    "oom_kill_disable": Need("memory", (), "version 2 cannot switch the OOM killer off"),
    "nano_cpus": Need("cpu", ("cpu.max",)),
    "cpu_period_us": Need("cpu", ("cpu.max",)),
    "cpu_quota_us": Need("cpu", ("cpu.max",)),
    "cpu_shares": Need("cpu", ("cpu.weight",)),
    "cpuset_cpus": Need("cpuset", ("cpuset.cpus",)),
    "cpuset_mems": Need("cpuset", ("cpuset.mems",)),
    "pids_limit": Need("pids", ("pids.max",)),
    "hugetlb": hugetlb_need("max"),
    "blkio_weight": Need("io", _WEIGHTS, "the kernel has no weight here (it needs BFQ or iocost)"),
    "blkio_weight_device": Need("io", _WEIGHTS, "the kernel has no weight here (it needs BFQ or iocost)"),
} | {name: Need("io", ("io.max",)) for name in RATES}


def cpu_weight(shares: int) -> int:
    """Convert version 1 CPU shares (2 to 262144) to a weight (1 to 10000).

    Notes
    -----
    As runc 1.3.2 and later: 1024 is 100, both defaults, and the ends meet.

    Examples
    --------
    >>> [cpu_weight(n) for n in (2, 512, 1024, 262144)]
    [1, 59, 100, 10000]
    """
    if shares <= 2:
        return 1
    if shares >= 262_144:
        return 10_000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def io_weight(weight: int) -> int:
    """Convert a version 1 block I/O weight (10 to 1000) to an ``io.weight`` (1 to 10000).

    Examples
    --------
    >>> io_weight(10), io_weight(1000)
    (1, 10000)
    """
    return 1 + (weight - 10) * 9999 // 990


def memory(new: Limits, old: Limits, fields: frozenset[str], names: frozenset[str]) -> list[Setting]:
    """Return the writes of the memory controller; swap is counted apart from memory here."""
    found: list[Setting] = []
    total = swap_total_bytes(new)
    if "memory_bytes" in fields:
        value = positive(new.memory_bytes, "max")
        found.append(Setting("memory_bytes", new.memory_bytes, "memory", "memory.max", value))
    same = total == swap_total_bytes(old) and "memory_bytes" not in fields
    if not same and "memory.swap.max" in names:
        value = "max" if total is None or total < 0 else str(total - (new.memory_bytes or 0))
        found.append(Setting("memory_swap_bytes", new.memory_swap_bytes, "memory", "memory.swap.max", value))
    if "memory_reservation_bytes" in fields:
        asked = new.memory_reservation_bytes
        found.append(Setting("memory_reservation_bytes", asked, "memory", "memory.low", positive(asked, "0")))
    return found


def cpu(new: Limits, fields: frozenset[str]) -> list[Setting]:
    """Return the writes of the cpu controller."""
    found = []
    if fields & BANDWIDTH:
        asked = ("nano_cpus", "cpu_quota_us", "cpu_period_us")
        name = next((n for n in asked if getattr(new, n)), "nano_cpus")
        quota_us, period_us = new.cpu_bandwidth_us or ("max", new.cpu_period_us or 100_000)
        found.append(Setting(name, getattr(new, name), "cpu", "cpu.max", f"{quota_us} {period_us}"))
    if "cpu_shares" in fields:
        weight = cpu_weight(new.cpu_shares) if new.cpu_shares else 100
        found.append(Setting("cpu_shares", new.cpu_shares, "cpu", "cpu.weight", str(weight)))
    return found


def weight_file(names: frozenset[str]) -> str:
    """Return the file that weights go to: that of BFQ, or that of iocost."""
    return next((w for w in _WEIGHTS if w in names), _WEIGHTS[1])


def io(new: Limits, old: Limits, fields: frozenset[str], names: frozenset[str]) -> list[Setting]:
    """Return the writes of the io controller; BFQ's weight has the scale of version 1."""
    file = weight_file(names)
    scale = io_weight if file == _WEIGHTS[1] else int
    found: list[Setting] = []
    if "blkio_weight" in fields:
        weight = scale(new.blkio_weight) if new.blkio_weight else 100
        found.append(Setting("blkio_weight", new.blkio_weight, "io", file, str(weight)))
    if "blkio_weight_device" in fields:
        found += disk_settings("blkio_weight_device", new, old, "io", file, "{}", "default", scale)
    for name in RATES:
        if name in fields:
            found += disk_settings(name, new, old, "io", "io.max", f"{_RATE_KEYS[name]}={{}}", "max")
    return found


class V2Cgroup(Cgroup):
    """A container's cgroup on version 2."""

    NEEDS = NEEDS
    __slots__ = ()

    @property
    def _directory(self) -> str:
        return self._places[0].directory

    def _settings(self, wanted: Limits, fields: frozenset[str]) -> list[Setting]:
        names = self._facts.files
        self.notes = []
        if swap_total_bytes(wanted) not in (None, -1) and "memory.swap.max" not in names:
            self.notes.append(f"swap not limited: {NEEDS['memory_swap_bytes'].reason}")
        self.notes += weight_note(wanted, weight_file(names))
        return [
            *memory(wanted, self.limits, fields, names),
            *cpu(wanted, fields),
            *cpuset(wanted, fields, told=".effective"),
            *pids(wanted, fields),
            *io(wanted, self.limits, fields, names),
            *hugetlb(wanted, self.limits, fields, names, "max"),
        ]

    def _check(self, wanted: Limits, fields: frozenset[str]) -> None:
        """Refuse a memory limit that the kernel could only reach by an OOM kill; version 1 says EBUSY."""
        limit, current = wanted.memory_bytes or 0, self.file("memory", "memory.current")
        if "memory_bytes" not in fields or limit <= 0 or not current or int(files.read(current)) <= limit:
            return
        stat = files.keyed(files.read(f"{self._directory}/memory.stat"))
        held = int(files.read(current)) - stat["inactive_file"] - stat["active_file"]
        if held > limit:
            raise UsageError(
                f"{OPTIONS['memory_bytes']} {limit}: the container holds {held} bytes that cannot be "
                f"given back without an OOM kill; accepted: more than that"
            )

    def use_usual_devices(self, usual: UsualDevices) -> None:
        """Attach the program for these; see `Cgroup.use_usual_devices`."""
        self._attach(usual.program_fd)

    def restrict_devices(self, rules: tuple[Rule, ...]) -> tuple[list[str], str]:
        """Let these devices be used and no other; see `Cgroup.restrict_devices`."""
        fd = core.load_device_program(devices.program(rules))
        try:
            self._attach(fd)
        finally:
            os.close(fd)
        return [rule.text for rule in rules], "BPF_CGROUP_DEVICE"

    def _attach(self, program_fd: int) -> None:
        directory_fd = self.into_fd()
        assert directory_fd is not None
        core.attach_device_program(directory_fd, program_fd)

    @property
    def self_join_files(self) -> tuple[str, ...]:
        """``cgroup.procs``, where ``CLONE_INTO_CGROUP`` (`into_fd`) cannot be used."""
        return (f"{self._directory}/cgroup.procs",)

    def add(self, pid: int) -> None:
        """Put another process in; see `Cgroup.add`."""
        files.write(f"{self._directory}/cgroup.procs", str(pid))

    def into_fd(self) -> int | None:
        """Return a directory descriptor for ``CLONE_INTO_CGROUP`` (clone(2), Linux 5.7); we close it."""
        if "into" not in self._fds:
            self._fds["into"] = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._fds["into"]

    def oom_fd(self) -> int | None:
        """Return a descriptor that is readable after an OOM; None without ``memory``.

        A kernel file is always readable and tells of changes by POLLPRI: so it is wrapped in an epoll,
        which is readable exactly then.
        """
        path = self.file("memory", "memory.events")
        if "oom" not in self._fds and path:
            events = self._fds["events"] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.pread(events, files.SIZE, 0)
            epoll = select.epoll()
            epoll.register(events, select.EPOLLPRI)
            self._fds["oom"] = os.dup(epoll.fileno())
            epoll.close()
        return self._fds.get("oom")

    def oom_ack(self) -> None:
        """Take the event from `oom_fd`: reading the file rearms it."""
        os.pread(self._fds["events"], files.SIZE, 0)

    def oom_kills(self) -> int:
        """Return how many processes the OOM killer has ended; 0 without ``memory``.

        The kernel counts the first one again when it ends the rest of the group.
        """
        path = self.file("memory", "memory.events")
        return files.keyed(self._read_kept(path)).get("oom_kill", 0) if path else 0

    def peak(self) -> tuple[int | None, str]:
        """Return the highest memory use, bytes, and the file that says so; None before Linux 5.19."""
        path = self.file("memory", "memory.peak")
        return (int(self._read_kept(path)), os.path.basename(path)) if path else (None, "")

    def freeze(self, timeout_s: float = 5.0) -> None:
        """Stop every process, also in cgroups below; see `Cgroup.freeze`."""
        if "cgroup.freeze" not in self._facts.files:
            raise UnsupportedError("pause: the kernel has no cgroup.freeze (Linux 5.2)")
        files.write(f"{self._directory}/cgroup.freeze", "1")
        if not files.wait_keyed(f"{self._directory}/cgroup.events", "frozen", 1, timeout_s):
            self.thaw()
            raise TimeoutError(f"processes did not freeze within {timeout_s} s: {self.pids()}")

    def thaw(self) -> None:
        """Undo `freeze`."""
        files.write(f"{self._directory}/cgroup.freeze", "0")

    def populated(self) -> bool:
        """Return whether any process is inside, also in cgroups below."""
        return files.keyed(files.read(f"{self._directory}/cgroup.events"))["populated"] == 1

    def kill(self, timeout_s: float = 10.0) -> None:
        """SIGKILL every process, also in cgroups below; see `Cgroup.kill`."""
        directory = self._directory
        end = time.monotonic() + timeout_s
        try:
            while self.populated():
                if "cgroup.kill" in self._facts.files:
                    files.write(f"{directory}/cgroup.kill", "1")
                else:
                    files.write(f"{directory}/cgroup.freeze", "1")  # nothing forks while it is being listed
                    killed = processes.kill_listed(self.pids)
                    files.write(f"{directory}/cgroup.freeze", "0")
                    processes.wait_ended(killed, min(processes.LOOK_S, max(0.0, end - time.monotonic())))
                if files.wait_keyed(f"{directory}/cgroup.events", "populated", 0, end - time.monotonic()):
                    return
                if time.monotonic() >= end:
                    raise TimeoutError(f"processes outlived SIGKILL by {timeout_s} s: {self.pids()}")
        except OSError as e:
            if not files.is_gone(e):
                raise
            # else another collector was faster
