"""Messages between the notebook's kernel and the cell in the container.

A message is a header and raw buffers: ``u32 length, msgpack [kind, body, [buffer sizes]]``,
then the buffers. What comes out of a container is hostile until proven otherwise: sizes are
bounded and bodies are parsed as data (maps, lists, strings, numbers), never unpickled here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgpack

from ..errors import EngineError

MAX_HEADER = 64 * 1024 * 1024
MAX_BUFFERS = 65_536
LOST = 125
"""The exit code of a cell that had something to send, and no channel any more."""
_LENGTH = struct.Struct(">I")

Message = tuple[str, Any, list[bytearray]]


def encode(kind: str, body: Any = None, buffers: Sequence[memoryview | bytes] = ()) -> list[bytes | memoryview]:
    """Encode a message as pieces to be sent one after another (buffers are not copied)."""
    views = [memoryview(b).cast("B") for b in buffers]
    header = msgpack.packb([kind, body, [v.nbytes for v in views]])
    if len(header) > MAX_HEADER:
        raise EngineError(f"a message of {len(header)} bytes; at most {MAX_HEADER} are allowed")
    return [_LENGTH.pack(len(header)) + header, *views]


class ChannelDecoder:
    """Cuts a byte stream into messages.

    Parameters
    ----------
    max_total : int
        Bytes of buffers that one message may carry; more is an error.
    """

    def __init__(self, max_total: int) -> None:
        self._max_total = max_total
        self._data = bytearray()
        self._message: tuple[str, Any] | None = None
        self._buffers: list[bytearray] = []
        self._filled = 0
        self._at = 0

    def feed(self, data: bytes | memoryview) -> list[Message]:
        """Take bytes; return the messages that are complete.

        Raises
        ------
        EngineError
            If the stream is malformed or a bound is passed.
        """
        messages: list[Message] = []
        view = memoryview(data)
        while True:
            if self._message is None:
                self._data += view
                view = view[:0]
                if not self._header():
                    return messages
                rest, self._data = self._data, bytearray()
                view = memoryview(rest)
            view = self._fill(view)
            if self._at < len(self._buffers):
                return messages
            assert self._message is not None
            messages.append((*self._message, self._buffers))
            self._message = None

    def _header(self) -> bool:
        if len(self._data) < 4:
            return False
        (length,) = _LENGTH.unpack_from(self._data)
        if length > MAX_HEADER:
            raise EngineError(f"a message of {length} bytes was announced; at most {MAX_HEADER} are allowed")
        if len(self._data) < 4 + length:
            return False
        try:
            kind, body, sizes = msgpack.unpackb(self._data[4 : 4 + length], strict_map_key=False)
            sizes = [int(s) for s in sizes]
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as e:
            raise EngineError(f"a malformed message: {e}") from e
        if not isinstance(kind, str) or len(sizes) > MAX_BUFFERS or any(s < 0 for s in sizes):
            raise EngineError("a malformed message")
        if sum(sizes) > self._max_total:
            raise EngineError(f"a message of {sum(sizes)} bytes was announced; at most {self._max_total} are allowed")
        del self._data[: 4 + length]
        self._message, self._buffers, self._at, self._filled = (kind, body), [bytearray(s) for s in sizes], 0, 0
        return True

    def _fill(self, view: memoryview) -> memoryview:
        while self._at < len(self._buffers):
            buffer = self._buffers[self._at]
            take = min(len(buffer) - self._filled, len(view))
            buffer[self._filled : self._filled + take] = view[:take]
            self._filled += take
            view = view[take:]
            if self._filled < len(buffer):
                break
            self._at, self._filled = self._at + 1, 0
        return view
