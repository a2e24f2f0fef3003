"""What a container wrote, with times: bounded, the oldest dropped first."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

LOG_BYTES = 2 * 1024 * 1024
"""Bytes of output kept of one container; a frame must hold them all."""
_ENTRY_BYTES = 128
"""What an entry costs beside its text: many short ones must not outgrow the bound."""


class Entry(NamedTuple):
    """One piece of output as it was read: when (seconds since the epoch), which stream (1 or 2), bytes."""

    time_s: float
    stream: int
    data: bytes


class Log:
    """The output of one container.

    Parameters
    ----------
    capacity : int
        Bytes kept, at most.

    Attributes
    ----------
    dropped : int
        Bytes of output that were there and are no longer.

    Examples
    --------
    >>> log = Log(capacity=600)
    >>> for letter in (b"a", b"b", b"c"):
    ...     log.append(0.0, 1, letter * 100)
    >>> [entry.data[:1] for entry in log.entries], log.dropped
    ([b'b', b'c'], 100)
    """

    def __init__(self, capacity: int = LOG_BYTES) -> None:
        self.capacity = capacity
        self.entries: deque[Entry] = deque()
        self.dropped = 0
        self._size = 0

    def append(self, time_s: float, stream: int, data: bytes) -> None:
        """Add output; drop the oldest while there is more than `capacity`."""
        self.entries.append(Entry(time_s, stream, data))
        self._size += len(data) + _ENTRY_BYTES
        while self._size > self.capacity and len(self.entries) > 1:
            oldest = self.entries.popleft()
            self._size -= len(oldest.data) + _ENTRY_BYTES
            self.dropped += len(oldest.data)
