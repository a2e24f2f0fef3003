"""The wire form of a value: a flat stream of msgpack tokens, and buffers beside it.

Each token is nil, a boolean, an integer, a float, a string, bytes or an empty extension
whose code is a `Tag`; a tag is followed by the tokens of its parts. The stream is flat, and
msgpack's own arrays and maps are refused, because a msgpack reader allocates an array
before it has seen its items: nested array headers would let a few bytes claim gigabytes.

`Writer` runs in the container. `Reader` runs in the notebook's kernel on hostile data. It
should bound depth, counts and sizes by what was really sent. It mustn't import, call or
construct anything but what the decoders it was given name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum, auto, unique
from typing import Any

import msgpack

from ..errors import TransferError

MAX_DEPTH = 200
"""Levels of nesting; a level takes two or three Python frames, of 1,000 by default."""

INLINE_BYTES = 4096
"""Up to this size a blob stands in the stream; a larger one becomes a buffer."""


@unique
class Tag(IntEnum):
    """What follows a tag in the stream; the numbers need only agree within one version."""

    INT = 1
    BYTES = auto()
    BYTEARRAY = auto()
    LIST = auto()
    TUPLE = auto()
    SET = auto()
    FROZENSET = auto()
    DICT = auto()
    ORDERED_DICT = auto()
    COUNTER = auto()
    DEFAULT_DICT = auto()
    DEQUE = auto()
    COMPLEX = auto()
    RANGE = auto()
    SLICE = auto()
    ELLIPSIS = auto()
    DATE = auto()
    TIME = auto()
    DATETIME = auto()
    TIMEDELTA = auto()
    TIMEZONE = auto()
    ZONE_INFO = auto()
    DECIMAL = auto()
    FRACTION = auto()
    UUID = auto()
    POSIX_PATH = auto()
    PURE_POSIX_PATH = auto()
    PURE_WINDOWS_PATH = auto()
    ARRAY = auto()
    OBJECT_ARRAY = auto()
    NUMPY_SCALAR = auto()
    NUMPY_TEXT = auto()
    PD_CATEGORICAL = auto()
    PD_DATETIME_ARRAY = auto()
    PD_DATETIMETZ_ARRAY = auto()
    PD_PERIOD_ARRAY = auto()
    PD_INTERVAL_ARRAY = auto()
    PD_MASKED_ARRAY = auto()
    PD_STRING_ARRAY = auto()
    PD_INDEX = auto()
    PD_RANGE_INDEX = auto()
    PD_MULTI_INDEX = auto()
    PD_SERIES = auto()
    PD_FRAME = auto()
    PD_TABLE = auto()
    PD_TIMESTAMP = auto()
    PD_TIMEDELTA = auto()
    PD_PERIOD = auto()
    PD_INTERVAL = auto()
    PD_NAT = auto()
    PD_NA = auto()


class TooLarge(TransferError):
    """A value is larger than may be brought out.

    Parameters
    ----------
    name : str
        The value, as the user calls it.
    size_bytes : int
        A lower bound of its size; the whole need not have been looked at.
    max_bytes : int
        What is allowed.
    """

    def __init__(self, name: str, size_bytes: int, max_bytes: int) -> None:
        self.name, self.size_bytes, self.max_bytes = name, size_bytes, max_bytes
        super().__init__(f"{name} takes at least {size_bytes:,} bytes; {max_bytes:,} may be brought out")


class Refused(Exception):
    """A part of a value cannot be sent; collects the path to it on the way up."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []


class Malformed(Exception):
    """The stream is not what a `Writer` writes."""


class Oversize(Exception):
    """The value is larger than `Writer` was allowed; the argument is the size in bytes."""


Encoder = Callable[["Writer", Any], None]
Decoder = Callable[["Reader"], Any]


class Writer:
    """Writes one value as tokens and buffers.

    Parameters
    ----------
    encoder_for : callable
        From a type to the function that writes objects of exactly that type; raises `Refused`.
    max_bytes : int or None
        Bound of the stream and the buffers together; checked before anything large is copied.
    """

    def __init__(self, encoder_for: Callable[[Any], Encoder], max_bytes: int | None) -> None:
        self._packer = msgpack.Packer(autoreset=False, unicode_errors="surrogatepass")
        self._pack_ext = self._packer.pack_ext_type
        self._encoder_for = encoder_for
        self._encoders: dict[type, Encoder] = {}
        self._active: set[int] = set()
        self._max_bytes = max_bytes
        self._spent_bytes = 0
        self.token: Callable[[Any], object] = self._packer.pack
        self.buffers: list[memoryview] = []

    def tag(self, tag: Tag) -> None:
        """Write a tag; the caller writes its parts next."""
        self._pack_ext(tag, b"")

    def check(self, size_bytes: int) -> None:
        """Raise `Oversize` if that many bytes more would be too many."""
        if self._max_bytes is not None and self._spent_bytes + size_bytes > self._max_bytes:
            raise Oversize(self._spent_bytes + size_bytes)

    def spend(self, size_bytes: int) -> None:
        """Count bytes about to be written; raises `Oversize`."""
        self.check(size_bytes)
        self._spent_bytes += size_bytes

    def value(self, obj: object) -> None:
        """Write any supported object."""
        encoder = self._encoders.get(type(obj))
        if encoder is None:
            encoder = self._encoders[type(obj)] = self._encoder_for(obj)
        encoder(self, obj)

    def part(self, obj: object, where: str) -> None:
        """Write a part of the current object; `where` completes the path, as in ``.name``."""
        try:
            self.value(obj)
        except Refused as refused:
            refused.path.insert(0, where)
            raise

    def items(self, items: Iterable[object], label: str = "[{}]") -> None:
        """Write one item after the other; `label` is how the path shows an item's number."""
        i, value = 0, self.value
        try:
            for i, item in enumerate(items):  # noqa: B007 (the handler reads it)
                value(item)
        except Refused as refused:
            refused.path.insert(0, label.format(i))
            raise

    def enter(self, obj: object) -> None:
        """Mark `obj` as being written, to notice cycles and bound the depth."""
        if id(obj) in self._active:
            raise Refused("it contains itself; bring out a copy without the cycle")
        if len(self._active) >= MAX_DEPTH:
            raise Refused(f"nested more than {MAX_DEPTH} levels deep; bring out a flatter form of it")
        self._active.add(id(obj))

    def leave(self, obj: object) -> None:
        """Mark `obj` as written. Not needed when an exception ends the writing."""
        self._active.discard(id(obj))

    def blob(self, data: bytes | memoryview) -> None:
        """Write bytes, in the stream if short, else out of band (not copied)."""
        view = memoryview(data)
        self.spend(view.nbytes)
        if view.nbytes <= INLINE_BYTES:
            self.token(view.tobytes())
        else:
            self.token(None)
            self.buffers.append(view)

    def finish(self) -> tuple[bytes, list[memoryview]]:
        """Return the stream and the buffers; raises `Oversize`."""
        tree: bytes = self._packer.bytes()
        total_bytes = len(tree) + sum(b.nbytes for b in self.buffers)
        if self._max_bytes is not None and total_bytes > self._max_bytes:
            raise Oversize(total_bytes)
        return tree, self.buffers


class Reader:
    """Reads one value from a hostile stream; every method may raise any `Exception`.

    Parameters
    ----------
    tree : bytes
        The stream.
    buffers : sequence of bytes-like
        Used in order, each exactly once: a stream that used one twice could multiply its size.
    decoders : mapping of int to callable
        What may be built.
    """

    def __init__(self, tree: bytes, buffers: Sequence[Any], decoders: dict[int, Decoder]) -> None:
        self._unpacker = msgpack.Unpacker(
            max_buffer_size=max(len(tree), 1), max_array_len=0, max_map_len=0, unicode_errors="surrogatepass"
        )
        self._unpacker.feed(tree)
        self._next: Callable[[], Any] = self._unpacker.unpack
        self._length = len(tree)
        self._buffers = [memoryview(b).cast("B") for b in buffers]
        self._used = 0
        self._depth = 0
        self._decoders = decoders

    def value(self) -> Any:
        """Read one value of any kind."""
        token = self._next()
        kind = type(token)
        if kind is msgpack.ExtType:
            return self._tagged(token)
        if kind not in _PLAIN:
            raise Malformed(f"a msgpack {kind.__name__}")
        return token

    def _tagged(self, token: Any) -> Any:
        decoder = self._decoders.get(token.code)
        if decoder is None or token.data:
            raise Malformed(f"unknown tag {token.code}")
        if self._depth >= MAX_DEPTH:
            raise Malformed(f"nested more than {MAX_DEPTH} levels deep")
        self._depth += 1
        result = decoder(self)
        self._depth -= 1
        return result

    def expect(self, *kinds: type) -> Any:
        """Read a value whose type is exactly one of `kinds`."""
        value = self.value()
        if type(value) not in kinds:
            raise Malformed(f"{type(value).__name__} where {kinds[0].__name__} belongs")
        return value

    def count(self) -> int:
        """Read a number of values to come; no more than the rest of the stream could hold."""
        count: int = self.expect(int)
        if not 0 <= count <= self.remaining:
            raise Malformed(f"count {count}")
        return count

    @property
    def remaining(self) -> int:
        """Bytes of the stream not yet read; each value to come takes at least one."""
        rest: int = self._length - self._unpacker.tell()
        return rest

    def items(self) -> list[Any]:
        """Read a count and that many values."""
        value = self.value
        return [value() for _ in range(self.count())]

    def blob(self) -> memoryview:
        """Read bytes written by `Writer.blob`; a buffer of the caller's is handed on, not copied."""
        data = self.expect(bytes, type(None))
        if data is not None:
            return memoryview(data)
        if self._used == len(self._buffers):
            raise Malformed("too few buffers")
        self._used += 1
        return self._buffers[self._used - 1]

    def finish(self) -> None:
        """Check that nothing is left over."""
        if self._unpacker.tell() != self._length or self._used != len(self._buffers):
            raise Malformed("something is left over")


_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
