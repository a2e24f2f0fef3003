"""Whose limit it is: a container's cgroup and all above it, each with its limit, use and hits.

Notes
-----
Kernel: admin-guide/cgroup-v1/memory.rst (``memory.failcnt`` and ``memory.memsw.failcnt`` count where the limit was met,
and nowhere else);
admin-guide/cgroup-v2.rst, ``memory.events.local``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from . import files

UNLIMITED = 1 << 62
"""Version 1 writes no limit as the largest number of whole pages."""

RESOURCES = ("memory", "cpu", "pids")


class Level(NamedTuple):
    """One cgroup on the way up, for one resource.

    Attributes
    ----------
    path : str
        As ``/proc/PID/cgroup`` has it; ``/`` is the root.
    limit : float or None
        Bytes, CPUs or tasks; None: none.
    usage : float or None
        Bytes or tasks now; CPUs are not told.
    hits : int
        How often the limit was hit here: allocations, periods or forks.
    """

    path: str
    limit: float | None
    usage: float | None
    hits: int


def binding(levels: Sequence[Level]) -> Level | None:
    """Return the level whose limit will be met first: the one with the least room; None without limits.

    Parameters
    ----------
    levels : sequence of Level
        From the container's own outwards; of equals, the inner one binds.

    Examples
    --------
    >>> own, lab = Level("/lab/c", 512.0, 10.0, 0), Level("/lab", 256.0, 20.0, 0)
    >>> binding([own, lab]).path
    '/lab'
    """
    limited = [level for level in levels if level.limit is not None]
    return min(limited, key=lambda level: (level.limit or 0) - (level.usage or 0), default=None)


def met(before: Sequence[Level], after: Sequence[Level]) -> Level | None:
    """Return the level whose limit was hit between two readings; None if that was nobody's.

    Where several were, it is the one with the lowest limit: that one stays hit.

    Examples
    --------
    >>> before = [Level("/lab/c", 512.0, 0.0, 0), Level("/lab", 256.0, 0.0, 7)]
    >>> after = [Level("/lab/c", 512.0, 0.0, 0), Level("/lab", 256.0, 0.0, 9)]
    >>> met(before, after).path
    '/lab'
    """
    counts = {level.path: level.hits for level in before}
    hit = [level for level in after if level.limit is not None and level.hits > counts.get(level.path, 0)]
    return min(hit, key=lambda level: level.limit or 0, default=None)


def forget_peaks(directory: str) -> None:
    """Have the peaks of memory and swap, by which `_memory_v1` tells a hit, begin anew: in cgroups of ours only."""
    while "/jupyter_ns/" in directory:
        with contextlib.suppress(OSError):  # version 2; no accounting of swap; gone
            files.write(f"{directory}/memory.memsw.max_usage_in_bytes", "0")
        directory = os.path.dirname(directory)


def read_levels(resource: str, directory: str, path: str, version: int) -> list[Level]:
    """Read a cgroup and every one above it, as far as they are mounted here.

    Parameters
    ----------
    resource : str
        One of `RESOURCES`.
    directory : str
        Of the innermost cgroup, in the hierarchy that has the resource.
    path : str
        The same, as ``/proc/PID/cgroup`` has it.
    version : int
        1 or 2.

    Returns
    -------
    list of Level
        From the innermost outwards. One that is removed meanwhile is left out.
    """
    read = _READERS[resource, version]
    levels = []
    while os.path.exists(f"{directory}/cgroup.procs"):
        try:
            levels.append(Level(path, *read(directory)))
        except FileNotFoundError:
            pass  # gone, or version 2's root, which has no limits
        directory, path = os.path.dirname(directory), os.path.dirname(path)
    return levels


Reading = tuple[float | None, float | None, int]


def _memory_v1(directory: str) -> Reading:
    limit = int(files.read(f"{directory}/memory.limit_in_bytes"))
    usage = int(files.read(f"{directory}/memory.usage_in_bytes"))
    hits = int(files.read(f"{directory}/memory.failcnt"))
    swap = f"{directory}/memory.memsw."
    if limit < UNLIMITED and os.path.exists(f"{swap}failcnt"):
        # Memory and swap is charged first: where it has the same limit, memory's counter stays; and its own does not
        # move on all kernels (6.18 does not count it), but its peak reaches the limit.
        peak, most = (int(files.read(swap + name)) for name in ("max_usage_in_bytes", "limit_in_bytes"))
        hits += int(files.read(f"{swap}failcnt")) + (peak >= most)
    return (limit if limit < UNLIMITED else None), usage, hits


def _memory_v2(directory: str) -> Reading:
    limit = _number(files.read(f"{directory}/memory.max"))
    events = files.keyed(files.read(f"{directory}/memory.events.local"))
    return limit, int(files.read(f"{directory}/memory.current")), events["max"]


def _cpu_v1(directory: str) -> Reading:
    quota = int(files.read(f"{directory}/cpu.cfs_quota_us"))
    period = int(files.read(f"{directory}/cpu.cfs_period_us"))
    stat = files.keyed(files.read(f"{directory}/cpu.stat"))
    return (quota / period if quota > 0 else None), None, stat.get("nr_throttled", 0)


def _cpu_v2(directory: str) -> Reading:
    quota, period = files.read(f"{directory}/cpu.max").split()
    stat = files.keyed(files.read(f"{directory}/cpu.stat"))
    return (None if quota == "max" else int(quota) / int(period)), None, stat.get("nr_throttled", 0)


def _pids(directory: str) -> Reading:
    limit = _number(files.read(f"{directory}/pids.max"))
    events = files.keyed(files.read(f"{directory}/pids.events"))
    return limit, int(files.read(f"{directory}/pids.current")), events.get("max", 0)


def _number(text: str) -> int | None:
    return None if text.strip() == "max" else int(text)


_READERS: dict[tuple[str, int], Callable[[str], Reading]] = {
    ("memory", 1): _memory_v1,
    ("memory", 2): _memory_v2,
    ("cpu", 1): _cpu_v1,
    ("cpu", 2): _cpu_v2,
    ("pids", 1): _pids,
    ("pids", 2): _pids,
}
