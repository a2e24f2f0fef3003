"""Values of Python's own types and of the standard library's.

Adding one of fixed parts is adding a row to `_RECORDS`.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import PosixPath, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from .wire import Decoder, Encoder, Malformed, Reader, Refused, Tag, Writer

_NONE = type(None)
_FRACTION_BITS = 1 << 19
"""Bound of either part: reducing a fraction takes quadratic time, and cannot be interrupted."""

ZONE_KEY = re.compile(r"(?!dateutil)[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,3}")
"""What a time zone's key looks like: no dots, no absolute path, no prefix that means a file."""

_FACTORIES: dict[str, Callable[[], Any] | None] = {
    "None": None,
    **{t.__name__: t for t in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)},
}


class _Record(NamedTuple):
    """A type of fixed parts: how to take it apart, which types the parts have, how to build it."""

    tag: Tag
    kind: type
    parts: Callable[[Any], tuple[Any, ...]]
    types: tuple[tuple[type, ...], ...]
    build: Callable[..., Any]


def _zone(key: str) -> ZoneInfo:
    if not ZONE_KEY.fullmatch(key):
        raise Malformed("time zone key")
    return ZoneInfo(key)


def _zone_key(zone: ZoneInfo) -> tuple[str]:
    if zone.key is None or not ZONE_KEY.fullmatch(zone.key):
        raise Refused("a time zone without a key cannot be brought out; use ZoneInfo('Area/City')")
    return (zone.key,)


def _fraction_parts(f: Fraction) -> tuple[int, int]:
    if max(f.numerator.bit_length(), f.denominator.bit_length()) > _FRACTION_BITS:
        raise Refused(f"a fraction of more than {_FRACTION_BITS:,} bits cannot be brought out")
    return f.numerator, f.denominator


def _fraction(numerator: int, denominator: int) -> Fraction:
    if max(numerator.bit_length(), denominator.bit_length()) > _FRACTION_BITS:
        raise Malformed("fraction size")
    return Fraction(numerator, denominator)


def _anything(x: slice) -> tuple[Any, Any, Any]:
    return x.start, x.stop, x.step


_INT, _STR, _FLOAT = (int,), (str,), (float,)
_TZ = (_NONE, dt.timezone, ZoneInfo)

_RECORDS: tuple[_Record, ...] = (
    _Record(Tag.COMPLEX, complex, lambda x: (x.real, x.imag), (_FLOAT,) * 2, complex),
    _Record(Tag.RANGE, range, lambda x: (x.start, x.stop, x.step), (_INT,) * 3, range),
    _Record(Tag.SLICE, slice, _anything, ((),) * 3, slice),
    _Record(Tag.ELLIPSIS, type(...), lambda x: (), (), lambda: ...),
    _Record(Tag.DATE, dt.date, lambda x: (x.year, x.month, x.day), (_INT,) * 3, dt.date),
    _Record(
        Tag.TIME,
        dt.time,
        lambda x: (x.hour, x.minute, x.second, x.microsecond, x.tzinfo, x.fold),
        (*(_INT,) * 4, _TZ, _INT),
        lambda *args: dt.time(*args[:-1], fold=args[-1]),
    ),
    _Record(
        Tag.DATETIME,
        dt.datetime,
        lambda x: (x.year, x.month, x.day, x.hour, x.minute, x.second, x.microsecond, x.tzinfo, x.fold),
        (*(_INT,) * 7, _TZ, _INT),
        lambda *args: dt.datetime(*args[:-1], fold=args[-1]),
    ),
    _Record(
        Tag.TIMEDELTA,
        dt.timedelta,
        lambda x: (x.days, x.seconds, x.microseconds),
        (_INT,) * 3,
        dt.timedelta,
    ),
    # Whether a fixed offset has a name of its own shows in its pickle support only.
    _Record(
        Tag.TIMEZONE,
        dt.timezone,
        lambda x: (x.utcoffset(None), (x.__getinitargs__()[1:] or (None,))[0]),
        ((dt.timedelta,), (str, _NONE)),
        lambda offset, name: dt.timezone(offset) if name is None else dt.timezone(offset, name),
    ),
    _Record(Tag.ZONE_INFO, ZoneInfo, _zone_key, (_STR,), _zone),
    _Record(Tag.DECIMAL, Decimal, lambda x: (str(x),), (_STR,), Decimal),
    _Record(Tag.FRACTION, Fraction, _fraction_parts, (_INT,) * 2, _fraction),
    _Record(Tag.UUID, UUID, lambda x: (x.bytes,), ((bytes,),), lambda data: UUID(bytes=data)),
    _Record(Tag.POSIX_PATH, PosixPath, lambda x: (str(x),), (_STR,), PosixPath),
    _Record(Tag.PURE_POSIX_PATH, PurePosixPath, lambda x: (str(x),), (_STR,), PurePosixPath),
    _Record(Tag.PURE_WINDOWS_PATH, PureWindowsPath, lambda x: (str(x),), (_STR,), PureWindowsPath),
)  # fmt: skip


def _record_encoder(record: _Record) -> Encoder:
    def encode(writer: Writer, obj: Any) -> None:
        writer.tag(record.tag)
        writer.enter(obj)
        writer.items(record.parts(obj), ", part {}")
        writer.leave(obj)

    return encode


def _record_decoder(record: _Record) -> Decoder:
    def decode(reader: Reader) -> Any:
        return record.build(*[reader.expect(*t) if t else reader.value() for t in record.types])

    return decode


def _encode_plain(writer: Writer, obj: object) -> None:
    writer.token(obj)


def _encode_int(writer: Writer, obj: int) -> None:
    if -(2**63) <= obj < 2**64:
        writer.token(obj)
        return
    writer.tag(Tag.INT)
    writer.blob(obj.to_bytes(obj.bit_length() // 8 + 1, "little", signed=True))


def _encode_str(writer: Writer, obj: str) -> None:
    writer.spend(len(obj))
    writer.token(obj)


def _encode_bytes(writer: Writer, obj: bytes) -> None:
    writer.tag(Tag.BYTES)
    writer.blob(obj)


def _encode_bytearray(writer: Writer, obj: bytearray) -> None:
    writer.tag(Tag.BYTEARRAY)
    writer.blob(memoryview(obj))


def _sequence_encoder(tag: Tag, label: str) -> Encoder:
    def encode(writer: Writer, obj: Any) -> None:
        writer.spend(len(obj))
        writer.tag(tag)
        writer.token(len(obj))
        writer.enter(obj)
        writer.items(obj, label)
        writer.leave(obj)

    return encode


def _encode_deque(writer: Writer, obj: deque[Any]) -> None:
    _sequence_encoder(Tag.DEQUE, "[{}]")(writer, obj)
    writer.token(obj.maxlen)


def _mapping_encoder(tag: Tag) -> Encoder:
    def encode(writer: Writer, obj: dict[Any, Any]) -> None:
        writer.spend(2 * len(obj))
        writer.tag(tag)
        writer.token(len(obj))
        writer.enter(obj)
        for key, item in obj.items():
            writer.part(key, ", a key of it")
            try:
                writer.value(item)
            except Refused as refused:
                refused.path.insert(0, f"[{short(key)}]")
                raise
        writer.leave(obj)

    return encode


def short(key: object) -> str:
    """Show a key or label in at most 60 characters."""
    text = repr(key) if type(key) in (str, int, float, bool, bytes, _NONE, tuple) else f"<{type(key).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."


def _encode_defaultdict(writer: Writer, obj: defaultdict[Any, Any]) -> None:
    # By identity: a factory need not be hashable.
    name = next((n for n, factory in _FACTORIES.items() if factory is obj.default_factory), None)
    if name is None:
        raise Refused(
            "a defaultdict with a factory of its own cannot be brought out; use dict(x)"
            f" (these factories can: {', '.join(_FACTORIES)})"
        )
    _mapping_encoder(Tag.DEFAULT_DICT)(writer, obj)
    writer.token(name)


def _decode_pairs(reader: Reader) -> dict[Any, Any]:
    value = reader.value
    return {value(): value() for _ in range(reader.count())}


def _decode_defaultdict(reader: Reader) -> defaultdict[Any, Any]:
    pairs = _decode_pairs(reader)
    return defaultdict(_FACTORIES[reader.expect(str)], pairs)


def _decode_ordered_dict(reader: Reader) -> OrderedDict[Any, Any]:
    return OrderedDict(_decode_pairs(reader))


def _decode_deque(reader: Reader) -> deque[Any]:
    items = reader.items()
    return deque(items, reader.expect(int, _NONE))


def _decode_int(reader: Reader) -> int:
    return int.from_bytes(reader.blob(), "little", signed=True)


ENCODERS: dict[type, Encoder] = {
    **dict.fromkeys((_NONE, bool, float), _encode_plain),
    int: _encode_int,
    str: _encode_str,
    bytes: _encode_bytes,
    bytearray: _encode_bytearray,
    list: _sequence_encoder(Tag.LIST, "[{}]"),
    tuple: _sequence_encoder(Tag.TUPLE, "[{}]"),
    set: _sequence_encoder(Tag.SET, ", an element of it"),
    frozenset: _sequence_encoder(Tag.FROZENSET, ", an element of it"),
    deque: _encode_deque,
    dict: _mapping_encoder(Tag.DICT),
    OrderedDict: _mapping_encoder(Tag.ORDERED_DICT),
    Counter: _mapping_encoder(Tag.COUNTER),
    defaultdict: _encode_defaultdict,
    **{record.kind: _record_encoder(record) for record in _RECORDS},
}

DECODERS: dict[int, Decoder] = {
    Tag.INT: _decode_int,
    Tag.BYTES: lambda reader: bytes(reader.blob()),
    Tag.BYTEARRAY: lambda reader: bytearray(reader.blob()),
    Tag.LIST: Reader.items,
    Tag.TUPLE: lambda reader: tuple(reader.items()),
    Tag.SET: lambda reader: set(reader.items()),
    Tag.FROZENSET: lambda reader: frozenset(reader.items()),
    Tag.DEQUE: _decode_deque,
    Tag.DICT: _decode_pairs,
    Tag.ORDERED_DICT: _decode_ordered_dict,
    Tag.COUNTER: lambda reader: Counter(_decode_pairs(reader)),
    Tag.DEFAULT_DICT: _decode_defaultdict,
    **{record.tag: _record_decoder(record) for record in _RECORDS},
}
