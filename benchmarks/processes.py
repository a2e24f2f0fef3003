"""What /proc says about the engine's processes."""

from __future__ import annotations

import os
import re
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the direct children of a process, of all its threads.

    Notes
    -----
    proc_tid_children(5): ``/proc/PID/task/TID/children``.
    """
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process, seconds, with nanosecond resolution.

    Notes
    -----
    Kernel: scheduler/sched-stats.rst, ``/proc/PID/schedstat``: the first field is time on the CPU.
    """
    total_ns = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        total_ns += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
    return total_ns / 1e9


def pss_kib(pid: int) -> int:
    """Return the proportional set size of a process, KiB.

    Notes
    -----
    proc_pid_smaps(5), ``smaps_rollup``.
    """
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    if not found:
        raise OSError(f"/proc/{pid}/smaps_rollup has no Pss line")
    return int(found[1])


def available_bytes() -> int:
    """Return ``MemAvailable``, bytes (proc_meminfo(5))."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if not found:
        raise OSError("/proc/meminfo has no MemAvailable line")
    return int(found[1]) * 1024
