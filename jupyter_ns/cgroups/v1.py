"""cgroup version 1: one directory a hierarchy, one function a controller.

Notes
-----
Kernel: admin-guide/cgroup-v1/{memory,freezer-subsystem,cpusets,blkio-controller}.rst;
scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable

from ..errors import UnsupportedError
from ..spec import Limits
from . import files, processes
from .alike import cpuset, hugetlb, hugetlb_need, pids
from .base import Cgroup
from .devices import Rule
from .disks import disk_settings, weight_note
from .facts import (
    BANDWIDTH,
    OPTIONS,
    RATES,
    CgroupFacts,
    Need,
    Place,
    Setting,
    UsualDevices,
    positive,
    swap_total_bytes,
)

DEFAULT = ("memory", "cpu", "cpuacct", "pids", "freezer", "blkio")
CONTROLLERS = (*DEFAULT, "cpuset", "devices", "hugetlb")

_WEIGHTS = ("blkio.weight", "blkio.bfq.weight")
_RATE_FILES = {name: f"blkio.throttle.{name.removeprefix('device_')}_device" for name in RATES}
NEEDS = {
    "memory_bytes": Need("memory", ("memory.limit_in_bytes",)),
    "memory_swap_bytes": Need(
        "memory",
        ("memory.memsw.limit_in_bytes",),
        "swap accounting is off (boot the kernel with swapaccount=1)",
    ),
    "memory_reservation_bytes": Need("memory", ("memory.soft_limit_in_bytes",)),
    "memory_swappiness": Need("memory", ("memory.swappiness",)),
    "oom_kill_disable": Need("memory", ("memory.oom_control",)),
    "nano_cpus": Need("cpu", ("cpu.cfs_quota_us",)),
    "cpu_period_us": Need("cpu", ("cpu.cfs_period_us",)),
    "cpu_quota_us": Need("cpu", ("cpu.cfs_quota_us",)),
    "cpu_shares": Need("cpu", ("cpu.shares",)),
    "cpuset_cpus": Need("cpuset", ("cpuset.cpus",)),
    "cpuset_mems": Need("cpuset", ("cpuset.mems",)),
    "pids_limit": Need("pids", ("pids.max",)),
    "hugetlb": hugetlb_need("limit_in_bytes"),
    "blkio_weight": Need("blkio", _WEIGHTS, "the kernel has no weight here (it needs the BFQ scheduler)"),
    "blkio_weight_device": Need(
        "blkio", tuple(f"{w}_device" for w in _WEIGHTS), "the kernel has no weight here (it needs the BFQ scheduler)"
    ),
} | {name: Need("blkio", (file,)) for name, file in _RATE_FILES.items()}


def memory(new: Limits, old: Limits, fields: frozenset[str], names: frozenset[str]) -> list[Setting]:
    """Return the writes of the memory controller; memory never exceeds memory+swap in between."""
    found: list[Setting] = []
    total, before = swap_total_bytes(new), swap_total_bytes(old)
    if "memory_bytes" in fields:
        value = positive(new.memory_bytes, "-1")
        found.append(Setting("memory_bytes", new.memory_bytes, "memory", "memory.limit_in_bytes", value))
    if total != before and "memory.memsw.limit_in_bytes" in names:
        value = "-1" if total is None else str(total)
        swap = Setting("memory_swap_bytes", new.memory_swap_bytes, "memory", "memory.memsw.limit_in_bytes", value)
        raises = _infinite(total) > _infinite(before)
        found.insert(0 if raises else len(found), swap)
    if "memory_reservation_bytes" in fields:
        asked = new.memory_reservation_bytes
        value = positive(asked, "-1")
        found.append(Setting("memory_reservation_bytes", asked, "memory", "memory.soft_limit_in_bytes", value))
    if "memory_swappiness" in fields:
        asked = new.memory_swappiness
        found.append(Setting("memory_swappiness", asked, "memory", "memory.swappiness", str(asked)))
    if "oom_kill_disable" in fields:
        found.append(Setting("oom_kill_disable", True, "memory", "memory.oom_control", "1"))
    return found


def _infinite(total: int | None) -> float:
    return math.inf if total is None or total < 0 else total


def cpu(new: Limits, old: Limits, fields: frozenset[str]) -> list[Setting]:
    """Return the writes of the cpu controller.

    Period and quota are two writes, and the kernel refuses (EINVAL) a share of time above the
    parent's even in between: so the one that lowers the share comes first.
    """
    found: list[Setting] = []
    if fields & BANDWIDTH:
        name, period_name = ("nano_cpus",) * 2 if new.nano_cpus else ("cpu_quota_us", "cpu_period_us")
        quota_us, period_us = new.cpu_bandwidth_us or (-1, new.cpu_period_us or 100_000)
        old_quota_us, old_period_us = old.cpu_bandwidth_us or (-1, old.cpu_period_us or 100_000)
        quota = Setting(name, getattr(new, name), "cpu", "cpu.cfs_quota_us", str(quota_us))
        period = Setting(period_name, getattr(new, period_name), "cpu", "cpu.cfs_period_us", str(period_us))
        found = [period, quota] if old_quota_us < 0 or period_us > old_period_us else [quota, period]
        if quota_us < 0 and old_quota_us < 0:
            found.remove(quota)
    if "cpu_shares" in fields:
        value = positive(new.cpu_shares, "1024")
        found.append(Setting("cpu_shares", new.cpu_shares, "cpu", "cpu.shares", value))
    return found


def weight_file(names: frozenset[str]) -> str:
    """Return the file that weights go to; that of CFQ was there before Linux 5.0."""
    return next((w for w in _WEIGHTS if w in names), _WEIGHTS[0])


def blkio(new: Limits, old: Limits, fields: frozenset[str], names: frozenset[str]) -> list[Setting]:
    """Return the writes of the blkio controller."""
    file = weight_file(names)
    found: list[Setting] = []
    if "blkio_weight" in fields:
        # 100 is BFQ's own default; 0 asks for the default.
        found.append(Setting("blkio_weight", new.blkio_weight, "blkio", file, str(new.blkio_weight or 100)))
    if "blkio_weight_device" in fields:
        found += disk_settings("blkio_weight_device", new, old, "blkio", f"{file}_device", "{}", "default")
    for name in RATES:
        if name in fields:  # 0 takes a limit away
            found += disk_settings(name, new, old, "blkio", _RATE_FILES[name], "{}", "0")
    return found


def fill_cpuset(directory: str) -> None:
    """Give a new cpuset its parent's CPUs and memory nodes: without them no process can join (ENOSPC).

    Raises
    ------
    OSError
        As open(2) and write(2) give it.
    """
    parent = os.path.dirname(directory)
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not files.read(f"{directory}/{name}").strip():
            files.write(f"{directory}/{name}", files.read(f"{parent}/{name}").strip())


def write_rules(directory: str, rules: tuple[Rule, ...]) -> None:
    """Let these devices be used in a cgroup and no other, as far as the cgroups above have them to give.

    Raises
    ------
    OSError
        As open(2) and write(2), but EPERM: what is listed afterwards tells.
    """
    files.write(f"{directory}/devices.deny", "a")
    allow = os.open(f"{directory}/devices.allow", os.O_WRONLY | os.O_CLOEXEC)
    try:
        for rule in rules:
            with contextlib.suppress(PermissionError):
                os.write(allow, rule.text.encode())
    finally:
        os.close(allow)


class V1Cgroup(Cgroup):
    """A container's cgroup on version 1."""

    NEEDS = NEEDS
    __slots__ = ("_shared",)
    _shared: str

    def __init__(self, facts: CgroupFacts, name: str, places: list[Place], open_place: Callable[[str], Place]) -> None:
        super().__init__(facts, name, places, open_place)
        self._shared = ""

    def _settings(self, wanted: Limits, fields: frozenset[str]) -> list[Setting]:
        names = self._facts.files
        self.notes = []
        if swap_total_bytes(wanted) not in (None, -1) and "memory.memsw.limit_in_bytes" not in names:
            self.notes.append(f"swap not limited: {NEEDS['memory_swap_bytes'].reason}")
        self.notes += [
            f"{OPTIONS[name]}: buffered writes escape it on cgroup v1, where the kernel's own threads write them back; "
            "direct I/O does not (oflag=direct)"
            for name in ("device_write_bps", "device_write_iops")
            if getattr(wanted, name)
        ]
        self.notes += weight_note(wanted, weight_file(names))
        return [
            *memory(wanted, self.limits, fields, names),
            *cpu(wanted, self.limits, fields),
            *cpuset(wanted, fields),
            *pids(wanted, fields),
            *blkio(wanted, self.limits, fields, names),
            *hugetlb(wanted, self.limits, fields, names, "limit_in_bytes"),
        ]

    def use_usual_devices(self, usual: UsualDevices) -> None:
        """Have its processes join the cgroup that has these rules; see `Cgroup.use_usual_devices`."""
        self._shared = f"{usual.directory}/tasks"

    def restrict_devices(self, rules: tuple[Rule, ...]) -> tuple[list[str], str]:
        """Let these devices be used and no other; see `Cgroup.restrict_devices`."""
        directory = self.place("devices").directory
        write_rules(directory, rules)
        return files.read(f"{directory}/devices.list").splitlines(), "devices.allow"

    @property
    def self_join_files(self) -> tuple[str, ...]:
        """The ``tasks`` files: 10 µs each for a process that writes ``0``; see `Cgroup.add`."""
        own = tuple(f"{place.directory}/tasks" for place in self._places)
        return (*own, self._shared) if self._shared else own

    def add(self, pid: int) -> None:
        """Put another process, with one thread, in; see `Cgroup.add`."""
        for path in self.self_join_files:
            files.write(path, str(pid))

    def into_fd(self) -> int | None:
        """Return None: ``CLONE_INTO_CGROUP`` needs version 2."""
        return None

    def oom_fd(self) -> int | None:
        """Return an eventfd that is readable after an OOM; None without ``memory``."""
        control = self.file("memory", "memory.oom_control")
        events = self.file("memory", "cgroup.event_control")
        if "oom" not in self._fds and control and events:
            eventfd = self._fds["oom"] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            fd = os.open(control, os.O_RDONLY | os.O_CLOEXEC)
            try:
                files.write(events, f"{eventfd} {fd}")
            finally:
                os.close(fd)
        return self._fds.get("oom")

    def oom_ack(self) -> None:
        """Take the event from `oom_fd`."""
        try:
            os.eventfd_read(self._fds["oom"])
        except BlockingIOError:
            return  # nothing had happened

    def oom_kills(self) -> int:
        """Return how many processes the OOM killer has ended; 0 without ``memory`` or before Linux 4.13."""
        control = self.file("memory", "memory.oom_control")
        return files.keyed(self._read_kept(control)).get("oom_kill", 0) if control else 0

    def peak(self) -> tuple[int | None, str]:
        """Return the highest memory use, bytes, and the kernel file that says so."""
        path = self.file("memory", "memory.max_usage_in_bytes")
        return (int(self._read_kept(path)), os.path.basename(path)) if path else (None, "")

    def freeze(self, timeout_s: float = 5.0) -> None:
        """Stop every process, also in cgroups below; see `Cgroup.freeze`."""
        state = self.file("freezer", "freezer.state")
        if not state:
            reason = self._facts.unavailable.get("freezer", "not mounted")
            raise UnsupportedError(f"pause: cgroup controller freezer: {reason}")
        for _ in files.pauses(timeout_s):
            # Written again each time: a process that forks meanwhile can keep it in FREEZING.
            if files.write_back(state, "FROZEN") == "FROZEN":
                return
        self.thaw()
        raise TimeoutError(f"processes did not freeze within {timeout_s} s: {self.pids()}")

    def thaw(self) -> None:
        """Undo `freeze`."""
        state = self.file("freezer", "freezer.state")
        if state:
            files.write(state, "THAWED")

    def kill(self, timeout_s: float = 10.0) -> None:
        """SIGKILL every process, also in cgroups below; see `Cgroup.kill`."""
        end = time.monotonic() + timeout_s
        state = self.file("freezer", "freezer.state")
        for _ in files.pauses(timeout_s):
            if not self.pids():
                return
            try:
                if state:
                    files.write(state, "FROZEN")  # nothing forks or exits while it is being listed
                killed = processes.kill_listed(self.pids)
                if state:
                    files.write(state, "THAWED")
            except OSError as e:
                if files.is_gone(e):
                    return  # another collector was faster
                raise
            processes.wait_ended(killed, min(processes.LOOK_S, max(0.0, end - time.monotonic())))
        left = self.pids()
        if left:
            raise TimeoutError(f"processes outlived SIGKILL by {timeout_s} s: {left}")
