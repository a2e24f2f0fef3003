"""Naming, killing and awaiting processes by pidfd, so that a reused PID is never hit.

Notes
-----
pidfd_open(2), pidfd_send_signal(2): Linux 5.3 and 5.1.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

from . import files

ROUND = 256
"""Processes killed at once: a payload may have more than we may have descriptors."""
LOOK_S = 0.02
"""How long to wait for processes before looking whether their cgroup is empty, which is what counts: PID 1 of a
namespace leaves it, and does not end before whoever made a process that entered has waited for that."""


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, or None if there is none (any more).

    Notes
    -----
    proc_pid_stat(5), field 22. With the PID it identifies a process for one boot. A zombie has ended,
    though its parent has not looked yet.

    Examples
    --------
    >>> start_time(os.getpid()) > 0
    True
    """
    try:
        stat = files.read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # comm may hold spaces and parentheses
    return None if fields[0] in "ZX" else int(fields[19])


def engine_key(pid: int | None = None) -> str:
    """Return ``PID-STARTTIME`` of a process (the caller), which names an engine for one boot.

    Raises
    ------
    ProcessLookupError
        If there is no such process.
    """
    pid = os.getpid() if pid is None else pid
    started = start_time(pid)
    if started is None:
        raise ProcessLookupError(f"no process {pid}")
    return f"{pid}-{started}"


def kill_listed(list_pids: Callable[[], list[int]]) -> list[int]:
    """SIGKILL up to `ROUND` of the processes that `list_pids` names, never the caller.

    Returns
    -------
    list of int
        Their pidfds, for `wait_ended`.

    Raises
    ------
    OSError
        EPERM: not ours to kill. EMFILE: no descriptors left.
    """
    pidfds: dict[int, int] = {}
    killed: list[int] = []
    try:
        for pid in list_pids()[:ROUND]:
            if pid not in (0, os.getpid()):
                try:
                    pidfds[pid] = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue
        # Listed both before and after its pidfd was taken: that process, not a reused number.
        for pid in pidfds.keys() & set(list_pids()):
            try:
                signal.pidfd_send_signal(pidfds[pid], signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.append(pidfds.pop(pid))
    except OSError:
        wait_ended(killed, 0)
        raise
    finally:
        for fd in pidfds.values():
            os.close(fd)
    return killed


def wait_ended(pidfds: list[int], timeout_s: float) -> None:
    """Wait until all these processes have ended, or the time is over; close the pidfds."""
    waiting = set(pidfds)
    poll = select.poll()
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    end = time.monotonic() + timeout_s
    try:
        while waiting and (left_s := end - time.monotonic()) > 0:
            for fd, _ in poll.poll(left_s * 1000):
                poll.unregister(fd)
                waiting.discard(fd)
    finally:
        for fd in pidfds:
            os.close(fd)
