"""What a cgroup uses, read through descriptors that stay open: about 1 µs a file.

Notes
-----
Kernel: admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst, cgroup-v1/cpuacct.rst. Memory as Docker counts
it: usage without inactive file pages.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

from ..usage import SAMPLE_FIELDS
from .base import Cgroup
from .files import SIZE

__all__ = ["SAMPLE_FIELDS", "Sampler"]

Sample = tuple[float | int | None, ...]
_Fds = dict[str, int]

_FILES = {
    1: {
        "cpu": ("cpuacct", "cpuacct.usage"),
        "user": ("cpuacct", "cpuacct.usage_user"),
        "system": ("cpuacct", "cpuacct.usage_sys"),
        "throttling": ("cpu", "cpu.stat"),
        "memory": ("memory", "memory.usage_in_bytes"),
        "stat": ("memory", "memory.stat"),
        "pids": ("pids", "pids.current"),
        "io": ("blkio", "blkio.throttle.io_service_bytes_recursive"),
        "operations": ("blkio", "blkio.throttle.io_serviced_recursive"),
        "memory_hits": ("memory", "memory.failcnt"),
        "pids_hits": ("pids", "pids.events"),
    },
    2: {
        "cpu": ("", "cpu.stat"),  # exists without the controller, which only adds the throttling
        "memory": ("memory", "memory.current"),
        "stat": ("memory", "memory.stat"),
        "swap": ("memory", "memory.swap.current"),
        "pids": ("pids", "pids.current"),
        "io": ("io", "io.stat"),
        "cpu_pressure": ("", "cpu.pressure"),
        "memory_pressure": ("", "memory.pressure"),
        "io_pressure": ("", "io.pressure"),
        "memory_hits": ("memory", "memory.events"),
        "pids_hits": ("pids", "pids.events"),
    },
}
LOOPBACK_ONLY = -1
"""In place of a descriptor: nothing comes in or goes out."""
_PRESSURES = ("cpu_pressure", "memory_pressure", "io_pressure")


class Sampler:
    """Takes samples of one cgroup.

    Parameters
    ----------
    cgroup : Cgroup
        Must not be removed before the last sample.
    start_s : float, optional
        ``time.monotonic()`` at the container's start; now by default.

    Raises
    ------
    OSError
        ENOENT: the cgroup is gone. EMFILE: no descriptors are left.
    """

    __slots__ = ("_counters", "_fds", "_parts", "_start_s")

    def __init__(self, cgroup: Cgroup, start_s: float | None = None) -> None:
        self._start_s = time.monotonic() if start_s is None else start_s
        self._fds: _Fds = {}
        try:
            for role, (controller, name) in _FILES[cgroup.version].items():
                path = cgroup.file(controller, name) if controller else cgroup.core_file(name)
                if path:
                    self._fds[role] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise
        self._parts = _PARTS[cgroup.version]
        self._counters = tuple(_UNKNOWN.get(part, part) for part in self._parts)

    def watch_network(self, pid: int) -> None:
        """Count what the network namespace of a process receives and sends; its descriptor keeps that alive.

        Interfaces must be there by now: where there is only loopback, nothing is read any more.

        Raises
        ------
        OSError
            ENOENT: the process has ended.
        """
        fd = os.open(f"/proc/{pid}/net/dev", os.O_RDONLY | os.O_CLOEXEC)
        if _interfaces(os.read(fd, SIZE)):
            self._fds["network"] = fd
        else:
            os.close(fd)
            self._fds["network"] = LOOPBACK_ONLY

    def sample(self) -> Sample:
        """Return what is used now, in the order of `SAMPLE_FIELDS`; None: this host does not say.

        Raises
        ------
        OSError
            ENODEV: the cgroup was removed. EBADF: the sampler was closed.
        """
        return self._take(self._parts)

    def counters(self) -> Sample:
        """Return the same without `usage.GAUGES`: in a cgroup whose processes have ended, these amounts are nobody's.

        Raises
        ------
        OSError
            As `sample`.
        """
        return self._take(self._counters)

    def tasks(self) -> float | int | None:
        """Return how many tasks there are now, as in a `sample`."""
        return _pids(self._fds)[0]

    def _take(self, parts: tuple[Callable[[_Fds], Sample], ...]) -> Sample:
        fds = self._fds
        now_s = time.monotonic() - self._start_s
        return (now_s, *(value for part in parts for value in part(fds)))

    def close(self) -> None:
        """Close the descriptors."""
        while self._fds:
            fd = self._fds.popitem()[1]
            if fd != LOOPBACK_ONLY:
                os.close(fd)

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _cpu_v1(fds: _Fds) -> Sample:
    """Return CPU, user, system and throttled seconds, and throttled periods."""
    used: Sample = (None, None, None)
    if "cpu" in fds:
        used = (
            int(os.pread(fds["cpu"], 32, 0)) / 1e9,
            int(os.pread(fds["user"], 32, 0)) / 1e9,
            int(os.pread(fds["system"], 32, 0)) / 1e9,
        )
    if "throttling" not in fds:
        return (*used, None, None)
    data = os.pread(fds["throttling"], SIZE, 0)
    throttled_ns = _number(data, b"\nthrottled_time ")
    throttled_s = None if throttled_ns is None else throttled_ns / 1e9
    return (*used, throttled_s, _number(data, b"\nnr_throttled "))


def _cpu_v2(fds: _Fds) -> Sample:
    """Return CPU, user, system and throttled seconds, and throttled periods."""
    data = b"\n" + os.pread(fds["cpu"], SIZE, 0)
    times_us = (
        _number(data, b"\nusage_usec "),
        _number(data, b"\nuser_usec "),
        _number(data, b"\nsystem_usec "),
        _number(data, b"\nthrottled_usec "),
    )
    return (*(None if t is None else t / 1e6 for t in times_us), _number(data, b"\nnr_throttled "))


def _memory_v1(fds: _Fds) -> Sample:
    """Return memory, cache and swap, bytes."""
    if "memory" not in fds:
        return None, None, None
    data = os.pread(fds["stat"], SIZE, 0)
    usage = _without(int(os.pread(fds["memory"], 32, 0)), _number(data, b"\ntotal_inactive_file "))
    return usage, _number(data, b"\ntotal_cache "), _number(data, b"\ntotal_swap ")


def _memory_v2(fds: _Fds) -> Sample:
    """Return memory, cache and swap, bytes."""
    if "memory" not in fds:
        return None, None, None
    data = os.pread(fds["stat"], SIZE, 0)
    usage = _without(int(os.pread(fds["memory"], 32, 0)), _number(data, b"\ninactive_file "))
    swap = int(os.pread(fds["swap"], 32, 0)) if "swap" in fds else None
    return usage, _number(data, b"\nfile "), swap


def _without(usage_bytes: int, inactive_bytes: int | None) -> int:
    """Subtract inactive file pages as Docker does: only where that leaves something."""
    inactive_bytes = inactive_bytes or 0
    return usage_bytes - inactive_bytes if inactive_bytes < usage_bytes else usage_bytes


def _pids(fds: _Fds) -> Sample:
    """Return how many tasks there are."""
    return (int(os.pread(fds["pids"], 32, 0)) if "pids" in fds else None,)


def _io_v1(fds: _Fds) -> Sample:
    """Return bytes read and written, then operations, summed over the devices (``8:0 Read 4096``)."""
    if "io" not in fds or "operations" not in fds:
        return None, None, None, None
    data = os.pread(fds["io"], SIZE, 0)
    if data == b"Total 0\n":  # it has used no disk: two lines of the other file need not be read either
        return 0, 0, 0, 0
    return (*_read_write(data), *_read_write(os.pread(fds["operations"], SIZE, 0)))


def _read_write(data: bytes) -> Sample:
    sums = {b"Read": 0, b"Write": 0}
    for line in data.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in sums:
            sums[words[1]] += int(words[2])
    return tuple(sums.values())


def _io_v2(fds: _Fds) -> Sample:
    """Return bytes read and written, then operations, summed over the devices (``8:0 rbytes=4096 wbytes=0 …``)."""
    if "io" not in fds:
        return None, None, None, None
    sums = {b"rbytes": 0, b"wbytes": 0, b"rios": 0, b"wios": 0}
    for word in os.pread(fds["io"], SIZE, 0).split():
        name, _, value = word.partition(b"=")
        if name in sums:
            sums[name] += int(value)
    return tuple(sums.values())


def _network(fds: _Fds) -> Sample:
    """Return bytes received and sent by all interfaces but loopback: proc_pid_net(5), "dev"."""
    if "network" not in fds:
        return None, None
    if fds["network"] == LOOPBACK_ONLY:
        return 0, 0
    received = sent = 0
    for numbers in _interfaces(os.pread(fds["network"], SIZE, 0)):
        received, sent = received + int(numbers[0]), sent + int(numbers[8])
    return received, sent


def _interfaces(data: bytes) -> list[list[bytes]]:
    """Return the counters of all interfaces but loopback."""
    rows = (line.partition(b":") for line in data.splitlines()[2:])
    return [counters.split() for name, _, counters in rows if name.strip() != b"lo"]


def _no_pressure(_fds: _Fds) -> Sample:
    """Return three times None: version 1 tells the host's pressure only."""
    return None, None, None


def _pressure(fds: _Fds) -> Sample:
    """Return the seconds that some task waited for CPU, memory and I/O: accounting/psi.rst, ``some … total=``."""
    return tuple(_total_s(fds[role]) if role in fds else None for role in _PRESSURES)


def _total_s(fd: int) -> float | None:
    try:
        data = os.pread(fd, 256, 0)
    except OSError as e:
        if e.errno != errno.EOPNOTSUPP:  # PSI is built in and switched off (psi=0)
            raise
        return None
    start = data.index(b"total=") + 6
    return int(data[start : data.index(b"\n", start)]) / 1e6


def _events_v1(fds: _Fds) -> Sample:
    """Return hits of the memory limit and of the task limit."""
    return int(os.pread(fds["memory_hits"], 32, 0)) if "memory_hits" in fds else None, _pids_hits(fds)


def _events_v2(fds: _Fds) -> Sample:
    """Return hits of the memory limit and of the task limit."""
    hits = _number(b"\n" + os.pread(fds["memory_hits"], 512, 0), b"\nmax ") if "memory_hits" in fds else None
    return hits, _pids_hits(fds)


def _pids_hits(fds: _Fds) -> int | None:
    return _number(b"\n" + os.pread(fds["pids_hits"], 256, 0), b"\nmax ") if "pids_hits" in fds else None


# In the order of `SAMPLE_FIELDS`, after the time.
_PARTS: dict[int, tuple[Callable[[_Fds], Sample], ...]] = {
    1: (_cpu_v1, _memory_v1, _pids, _io_v1, _network, _no_pressure, _events_v1),
    2: (_cpu_v2, _memory_v2, _pids, _io_v2, _network, _pressure, _events_v2),
}


_UNKNOWN: dict[Callable[[_Fds], Sample], Callable[[_Fds], Sample]] = {
    _memory_v1: lambda _: (None, None, None),
    _memory_v2: lambda _: (None, None, None),
    _pids: lambda _: (None,),
}
"""In place of those that return amounts."""


def _number(data: bytes, name: bytes) -> int | None:
    """Return the value behind ``\\nNAME `` in a keyed file; a dict of all lines would cost 10 µs."""
    start = data.find(name)
    if start < 0:
        return None
    start += len(name)
    return int(data[start : data.index(b"\n", start)])
