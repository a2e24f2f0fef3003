"""Processes of this host, as tests look for them."""

from __future__ import annotations

from pathlib import Path


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
