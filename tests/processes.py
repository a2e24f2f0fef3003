"""Processes of this host, as tests look for them and wait for what they do."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path


def soon(true: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Wait until something is true; return whether it came to be."""
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


def children_of(pid: int) -> list[int]:
    """Return the child processes of a process, zombies too."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def switchboard(engine: int) -> int:
    """Return the PID of the engine's child that connects containers; 0 if there is none."""
    for pid in children_of(engine):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fork = Path(f"/proc/{pid}/cmdline").read_bytes() == Path(f"/proc/{engine}/cmdline").read_bytes()
            # Unlike a container's child that has not come to its program yet.
            outside = os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat(f"/proc/{engine}/ns/pid").st_ino
            if fork and outside and state_of(pid) != "Z":
                return pid
    return 0


def state_of(pid: int) -> str:
    """Return the state of a process: proc_pid_stat(5), field 3."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def sleepers(marker: str) -> list[str]:
    """Return the processes of this host that sleep for as long as the marker says."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[:2] == [b"sleep", marker.encode()]:
                found.append(path.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found
