"""Values of numpy: arrays and scalars. Numpy is imported only by data that needs it.

A data type crosses as its type string (``'<f8'``) or as a map of fields, and is checked
against a pattern before numpy sees it: `numpy.dtype` itself accepts far more, objects
among it, and ``dtype.__setstate__`` trusts its input.
"""

from __future__ import annotations

import math
import re
import sys
from typing import Any

from .wire import Decoder, Encoder, Malformed, Reader, Refused, Tag, Writer

_TYPE_STRING = re.compile(r"[<>|](?:[biufcSUV]\d{1,10}|[mM]8(?:\[\d{0,9}[a-zA-Z]{1,7}\])?)")
_KINDS = "biufcmMSUV"
_EMPTY_ITEMS = 65_536
"""Bound of the elements of an array whose elements take no bytes, such as ``V0``."""


def encoder_for(obj: Any) -> Encoder | None:
    """Choose the function that writes `obj`, or None if it is nothing of numpy's.

    Raises
    ------
    Refused
        If it is an instance of a subclass of an array.
    """
    np = sys.modules.get("numpy")
    if np is None:
        return None
    if type(obj) is np.ndarray:
        return encode_array
    if isinstance(obj, np.generic) and type(obj) is not np.record and type(obj).__module__ == "numpy":
        return _encode_text if isinstance(obj, (np.str_, np.bytes_)) else _encode_scalar
    if isinstance(obj, np.record):
        raise Refused("a numpy record cannot be brought out; use x.item()")
    if isinstance(obj, np.ma.MaskedArray):
        raise Refused("a masked array cannot be brought out; use x.filled(), or (x.data, x.mask)")
    if isinstance(obj, np.ndarray):
        raise Refused(f"a {type(obj).__name__}, a subclass of numpy's array, cannot be brought out; use numpy.array(x)")
    return None


def encode_array(writer: Writer, array: Any) -> None:
    """Write an array: contiguous data is not copied."""
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    if array.dtype.kind == "O":
        _encode_objects(writer, array, "F" if fortran else "C")
        return
    layout = _dtype_parts(array.dtype)
    if array.dtype.itemsize == 0 and array.size > _EMPTY_ITEMS:
        raise Refused("an array of elements of no size cannot be brought out")
    writer.check(array.nbytes)
    writer.tag(Tag.ARRAY)
    writer.value(layout)
    writer.value(array.shape)
    writer.token(bool(fortran))
    if array.nbytes == 0:
        writer.blob(b"")
        return
    import numpy as np

    # Viewed as bytes because datetimes have no buffer interface.
    flat = np.ascontiguousarray((array.T if fortran else array).reshape(-1))
    writer.blob(memoryview(flat.view(np.uint8)))


def _encode_objects(writer: Writer, array: Any, order: str) -> None:
    writer.spend(array.size)
    writer.tag(Tag.OBJECT_ARRAY)
    writer.value(array.shape)
    writer.token(order == "F")
    writer.enter(array)
    writer.items(array.ravel(order=order).tolist(), ", element {}")
    writer.leave(array)


def _encode_scalar(writer: Writer, scalar: Any) -> None:
    import numpy as np

    writer.tag(Tag.NUMPY_SCALAR)
    encode_array(writer, np.asarray(scalar))


def _encode_text(writer: Writer, scalar: Any) -> None:
    # Not as an array of one, nor through its own `str`: both drop trailing NUL characters.
    writer.tag(Tag.NUMPY_TEXT)
    writer.value("".join(scalar) if isinstance(scalar, str) else bytes(scalar))


def _dtype_parts(dtype: Any) -> Any:
    """Take a data type apart into strings, numbers and tuples."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return (_dtype_parts(base), tuple(shape))
    if dtype.names is None:
        if dtype.kind not in _KINDS or not _TYPE_STRING.fullmatch(dtype.str):
            raise Refused(f"an array of dtype {dtype} cannot be brought out; use x.astype(object)")
        return dtype.str
    if dtype.hasobject:
        raise Refused("a structured array with object fields cannot be brought out; use x.tolist()")
    fields = [dtype.fields[name] for name in dtype.names]
    if any(len(field) > 2 for field in fields):
        raise Refused("a structured array with field titles cannot be brought out; use x.tolist()")
    formats = [_dtype_parts(field[0]) for field in fields]
    return {
        "names": list(dtype.names),
        "formats": formats,
        "offsets": [field[1] for field in fields],
        "itemsize": dtype.itemsize,
    }


def _dtype(parts: Any) -> Any:
    """Build a data type; the inverse of `_dtype_parts`, on hostile input."""
    import numpy as np

    if type(parts) is str and _TYPE_STRING.fullmatch(parts):
        return np.dtype(parts)
    if type(parts) is tuple and len(parts) == 2:
        return np.dtype((_dtype(parts[0]), _shape(parts[1])))
    if type(parts) is not dict or set(parts) != {"names", "formats", "offsets", "itemsize"}:
        raise Malformed("dtype")
    names, offsets, itemsize = parts["names"], parts["offsets"], parts["itemsize"]
    if not all(type(name) is str for name in names) or not all(type(n) is int for n in [*offsets, itemsize]):
        raise Malformed("dtype fields")
    formats = [_dtype(part) for part in parts["formats"]]
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize})


def _shape(value: Any) -> tuple[int, ...]:
    if type(value) is not tuple or not all(type(n) is int and 0 <= n < 2**62 for n in value):
        raise Malformed("shape")
    return value


def _decode_array(reader: Reader) -> Any:
    import numpy as np

    dtype, shape, fortran = _dtype(reader.expect(str, dict)), _shape(reader.value()), reader.expect(bool)
    data = reader.blob()
    count = math.prod(shape)
    if count * dtype.itemsize != data.nbytes or (dtype.itemsize == 0 and count > _EMPTY_ITEMS):
        raise Malformed("array size")
    if data.readonly:
        data = memoryview(bytearray(data))
    array = np.ndarray(shape, dtype, buffer=data if data.nbytes else None, order="F" if fortran else "C")
    # Numpy trusts a boolean to be 0 or 1.
    if dtype.kind == "b" and data.nbytes and np.frombuffer(data, np.uint8).max() > 1:
        raise Malformed("boolean array")
    return array


def _decode_objects(reader: Reader) -> Any:
    import numpy as np

    shape, fortran = _shape(reader.value()), reader.expect(bool)
    count = math.prod(shape)
    if count > reader.remaining:
        raise Malformed("array size")
    flat: Any = np.empty(count, dtype=object)
    for i in range(count):
        flat[i] = reader.value()
    return flat.reshape(shape, order="F" if fortran else "C")


def _decode_scalar(reader: Reader) -> Any:
    import numpy as np

    array = reader.expect(np.ndarray)
    if array.shape != ():
        raise Malformed("scalar")
    return array[()]


def _decode_text(reader: Reader) -> Any:
    import numpy as np

    text = reader.expect(str, bytes)
    return np.str_(text) if type(text) is str else np.bytes_(text)


DECODERS: dict[int, Decoder] = {
    Tag.ARRAY: _decode_array,
    Tag.OBJECT_ARRAY: _decode_objects,
    Tag.NUMPY_SCALAR: _decode_scalar,
    Tag.NUMPY_TEXT: _decode_text,
}
