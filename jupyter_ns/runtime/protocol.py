"""Frames on the byte stream between a notebook's kernel and its engine.

A frame is four bytes of length (big-endian), then that many bytes of msgpack:
``[type, container id, payload]``. No descriptors cross, so that the same engine can run
beside the kernel or in a guest. The payload's own channel (see `.channel`) is relayed as
opaque bytes: the engine does not parse what a container sends.
"""

from __future__ import annotations

import struct
from collections import deque
from enum import IntEnum
from typing import Any, Protocol

import msgpack

from ..errors import EngineError

VERSION = 1
MAX_FRAME = 4 * 1024 * 1024
CHUNK = 64 * 1024
"""Bytes that are read at once, and go into one frame of a stream: what a pipe holds.

A buffer twice as large would be mapped and unmapped anew for each read, 80 µs.
"""
HIGH_WATER = 16 * CHUNK
"""Bytes that may wait for a reader that is slow."""

_LENGTH = struct.Struct(">I")
_NAMES = "surrogateescape"
"""How text is en- and decoded: a file's name may be any bytes, os.fsdecode."""


class Kind(IntEnum):
    """What a frame is about; up to 31 from kernel to engine, above from engine to kernel."""

    HELLO = 0
    RUN = 1
    STDIN = 2
    CHANNEL_IN = 3
    SIGNAL = 4
    KILL = 5
    PRELOAD = 7
    FORKED = 9
    SYNC = 10
    ASK = 11
    CGROUP = 20
    READY = 32
    STARTED = 33
    STREAM = 34
    CHANNEL_OUT = 35
    SAMPLE = 36
    EXIT = 37
    ERROR = 38
    REPLY = 39
    EVENT = 40


KINDS: dict[int, Kind] = {int(kind): kind for kind in Kind}
"""By number: looking up a member by calling `Kind` takes ten times as long."""
Frame = tuple[int, str, Any]


def pack(value: Any) -> bytes:
    """Return plain data as bytes."""
    packed: bytes = msgpack.packb(value, unicode_errors=_NAMES)
    return packed


def unpack(packed: bytes) -> Any:
    """Return what was packed, lists for tuples."""
    return msgpack.unpackb(packed, unicode_errors=_NAMES)


def encode(kind: Kind, container: str = "", payload: Any = None) -> bytes:
    """Encode one frame.

    Raises
    ------
    EngineError
        If it is longer than `MAX_FRAME`.
    """
    body = pack([int(kind), container, payload])
    if len(body) > MAX_FRAME:
        raise EngineError(f"a frame of {len(body)} bytes; at most {MAX_FRAME} are allowed")
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Cuts a byte stream into frames, within bounds."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes, return the frames that are complete.

        Raises
        ------
        EngineError
            If the stream is not frames of ours.
        """
        self._data += data
        frames: list[Frame] = []
        at = 0
        while len(self._data) - at >= 4:
            (length,) = _LENGTH.unpack_from(self._data, at)
            if length > MAX_FRAME:
                raise EngineError(f"a frame of {length} bytes was announced; at most {MAX_FRAME} are allowed")
            if len(self._data) - at - 4 < length:
                break
            frames.append(self._decode(bytes(self._data[at + 4 : at + 4 + length])))
            at += 4 + length
        del self._data[:at]
        return frames

    @staticmethod
    def _decode(body: bytes) -> Frame:
        try:
            kind, container, payload = unpack(body)
            return int(kind), str(container), payload
        except (ValueError, TypeError, msgpack.UnpackException) as e:
            raise EngineError(f"a malformed frame: {e}") from e


class Stream(Protocol):
    """What frames are sent over: a socket, or in a guest its serial line."""

    def fileno(self) -> int: ...
    def setblocking(self, flag: bool, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...
    def send(self, data: bytes | memoryview, /) -> int: ...


class Outgoing:
    """A queue of bytes towards a non-blocking descriptor."""

    def __init__(self) -> None:
        self._queue: deque[memoryview] = deque()
        self.size = 0

    def put(self, data: bytes) -> None:
        """Append bytes."""
        if data:
            self._queue.append(memoryview(data))
            self.size += len(data)

    def head(self) -> memoryview:
        """Return the first piece."""
        return self._queue[0]

    def advance(self, sent: int) -> None:
        """Drop `sent` bytes of the first piece."""
        self.size -= sent
        head = self._queue[0]
        if sent == len(head):
            self._queue.popleft()
        else:
            self._queue[0] = head[sent:]

    def flush(self, sock: Stream) -> bool:
        """Send what the other side takes; return whether the queue is empty.

        Raises
        ------
        OSError
            EPIPE or ECONNRESET: nobody is there any more.
        """
        if len(self._queue) > 1 and self.size <= CHUNK:  # at once, so that the other side wakes up once
            self._queue = deque([memoryview(b"".join(self._queue))])
        while self._queue:
            try:
                self.advance(sock.send(self._queue[0]))
            except BlockingIOError:
                return False
        return True
