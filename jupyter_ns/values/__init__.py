"""Bring a value out of a container without trusting what is inside: no pickle.

`encode` runs in the container, `decode` in the notebook's kernel. What crosses is a stream
of tokens (`jupyter_ns.values.wire`) and, beside it, buffers that are not copied. Whatever
bytes a container sends, `decode` builds values of the types listed here or raises
`TransferError`: it unpickles nothing, imports nothing but numpy and pandas (and the tables
of `zoneinfo`), and what it allocates is in proportion to what was sent.

Supported are Python's plain types, those of `datetime`, `decimal`, `fractions`, `uuid`,
`pathlib` and `collections`, numpy's arrays and scalars, and pandas' tables, columns, indexes
and scalars; of exactly these types, since a subclass could not be rebuilt. An object that
occurs in two places comes out as two; a cycle is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import TransferError
from . import arrays, builtin, frames, frames_decode
from .refusals import refusal
from .wire import Decoder, Encoder, Oversize, Reader, Refused, Tag, TooLarge, Writer

__all__ = ["TooLarge", "decode", "encode", "encode_named"]

_DECODERS: dict[int, Decoder] = {**builtin.DECODERS, **arrays.DECODERS, **frames_decode.DECODERS}


def _encoder_for(obj: Any) -> Encoder:
    encoder = builtin.ENCODERS.get(type(obj)) or frames.encoder_for(obj) or arrays.encoder_for(obj)
    if encoder is None:
        raise Refused(refusal(obj))
    return encoder


def encode(obj: object, max_bytes: int | None = None, *, name: str = "value") -> tuple[bytes, list[memoryview]]:
    """Turn a value into a stream of tokens and buffers.

    Parameters
    ----------
    obj : object
        The value.
    max_bytes : int, optional
        Bound of stream and buffers together, bytes; None is no bound.
    name : str
        What the user calls the value, for messages.

    Returns
    -------
    (bytes, list of memoryview)
        The buffers are windows on the value's own memory: send them before it changes.

    Raises
    ------
    TransferError
        If a part is of a kind that cannot be brought out; names the path to it.
    TooLarge
        If the value is larger than `max_bytes`; raised before large parts are copied.

    Examples
    --------
    >>> decode(*encode({"a": [1, 2.5, None]}))
    {'a': [1, 2.5, None]}
    """
    return _encode(lambda writer: writer.part(obj, name), name, max_bytes)


def encode_named(variables: Mapping[str, object], max_bytes: int | None = None) -> tuple[bytes, list[memoryview]]:
    """Like `encode`, of several variables at once; `decode` gives a dict of name to value.

    Raises
    ------
    TransferError
        As `encode` does; the path starts with the variable's name.

    Examples
    --------
    >>> decode(*encode_named({"r": 1, "s": [2]}))
    {'r': 1, 's': [2]}
    """

    def write(writer: Writer) -> None:
        writer.tag(Tag.DICT)
        writer.token(len(variables))
        for name, value in variables.items():
            writer.token(name)
            writer.part(value, name)

    return _encode(write, ", ".join(variables), max_bytes)


def _encode(write: Callable[[Writer], None], name: str, max_bytes: int | None) -> tuple[bytes, list[memoryview]]:
    writer = Writer(_encoder_for, max_bytes)
    try:
        write(writer)
        return writer.finish()
    except Refused as refused:
        raise TransferError(f"{''.join(refused.path)}: {refused.reason}") from None
    except Oversize as oversize:
        raise TooLarge(name, oversize.args[0], max_bytes or 0) from None
    except RecursionError:
        raise TransferError(f"{name}: nested too deeply; bring out a flatter form of it") from None
    except (ValueError, OverflowError) as error:
        raise TransferError(f"{name}: a part of it is too large for one message ({error})") from error


def decode(tree: bytes, buffers: Sequence[Any] = ()) -> Any:
    """Rebuild a value from what `encode` gave; safe on hostile input.

    Parameters
    ----------
    tree : bytes
        The stream of tokens.
    buffers : sequence of bytes-like
        In order. A writable one becomes an array's memory without a copy, so no other process
        may be able to write to it; a read-only one is copied. Arrays are writable either way.

    Raises
    ------
    TransferError
        If anything at all is not as `encode` writes it.
    """
    try:
        reader = Reader(tree, buffers, _DECODERS)
        value = reader.value()
        reader.finish()
    except Exception as error:
        # Hostile input can make numpy, pandas and msgpack raise nearly anything.
        reason = f"{type(error).__name__}: {error}"
        raise TransferError(f"the container sent a malformed value ({reason:.200})") from error
    return value
