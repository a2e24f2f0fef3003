"""Values of pandas, taken apart: tables, columns, indexes, arrays and scalars.

Everything is reduced to numpy arrays and plain values, through pandas' public interface;
`jupyter_ns.values.frames_decode` puts it together again.
"""

from __future__ import annotations

import datetime as dt
import sys
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from . import arrays
from .builtin import ZONE_KEY, short
from .frames_decode import FREQ, RANGE_ITEMS
from .wire import Encoder, Refused, Tag, Writer

_ADVICE = {
    "SparseDtype": "use x.sparse.to_dense()",
    "ArrowDtype": "use x.convert_dtypes(dtype_backend='numpy_nullable')",
}


def encoder_for(obj: Any) -> Encoder | None:
    """Choose the function that writes `obj`, or None if it is nothing of pandas'."""
    if "pandas" not in sys.modules:
        return None
    import pandas as pd

    exact = _encoders().get(type(obj))
    if exact is None and isinstance(obj, pd.api.extensions.ExtensionArray):
        return _encode_extension
    return exact


@lru_cache(maxsize=1)
def _encoders() -> dict[type, Encoder]:
    import pandas as pd

    return {
        pd.DataFrame: _encode_frame,
        pd.Series: _encode_series,
        pd.RangeIndex: _encode_range_index,
        pd.MultiIndex: _encode_multi_index,
        pd.Index: _encode_index,
        pd.DatetimeIndex: _encode_index,
        pd.TimedeltaIndex: _encode_index,
        pd.PeriodIndex: _encode_index,
        pd.CategoricalIndex: _encode_index,
        pd.IntervalIndex: _encode_index,
        pd.Timestamp: _encode_timestamp,
        pd.Timedelta: _encode_timedelta,
        pd.Period: _encode_period,
        pd.Interval: _encode_interval,
        type(pd.NaT): lambda writer, obj: writer.tag(Tag.PD_NAT),
        type(pd.NA): lambda writer, obj: writer.tag(Tag.PD_NA),
    }


@lru_cache(maxsize=1)
def _dtype_encoders() -> tuple[tuple[type, Encoder], ...]:
    import pandas as pd

    return (
        (pd.CategoricalDtype, _encode_categorical),
        (pd.DatetimeTZDtype, _encode_datetimetz),
        (pd.PeriodDtype, _encode_periods),
        (pd.IntervalDtype, _encode_intervals),
        (pd.StringDtype, _encode_strings),
        # Int8Dtype to UInt64Dtype, Float32Dtype and Float64Dtype share a base without a public name.
        (pd.Int64Dtype.__mro__[1], _encode_masked),
        (pd.Float64Dtype.__mro__[1], _encode_masked),
        (pd.BooleanDtype, _encode_masked),
    )


def _is_numpy(dtype: Any) -> bool:
    import numpy as np

    return isinstance(dtype, np.dtype)


def _encode_array(writer: Writer, holder: Any) -> None:
    """Write the values of a Series, Index or pandas array: numpy's if they are, else pandas'."""
    if _is_numpy(holder.dtype):
        arrays.encode_array(writer, holder.to_numpy())
    else:
        _encode_extension(writer, getattr(holder, "array", holder))


def _encode_extension(writer: Writer, array: Any) -> None:
    if _is_numpy(array.dtype) and array.dtype.kind in "mM":
        writer.tag(Tag.PD_DATETIME_ARRAY)
        arrays.encode_array(writer, array.to_numpy())
        return
    for kind, encode in _dtype_encoders():
        if isinstance(array.dtype, kind):
            encode(writer, array)
            return
    advice = _ADVICE.get(type(array.dtype).__name__, "use x.to_numpy()")
    raise Refused(f"pandas data of dtype {array.dtype} cannot be brought out; {advice}")


def _encode_categorical(writer: Writer, array: Any) -> None:
    writer.tag(Tag.PD_CATEGORICAL)
    writer.value(array.codes)
    writer.part(_short_range(array.categories), ", its categories")
    writer.token(bool(array.ordered))


def _encode_datetimetz(writer: Writer, array: Any) -> None:
    writer.tag(Tag.PD_DATETIMETZ_ARRAY)
    arrays.encode_array(writer, array.tz_convert(None).to_numpy())
    _encode_tz(writer, array.tz)


def _encode_tz(writer: Writer, tz: Any) -> None:
    # Pandas 2 makes pytz zones of keys; as a string, pandas makes again what it would have made.
    key = getattr(tz, "zone", None) if type(tz).__module__.split(".")[0] == "pytz" else None
    if key is not None and ZONE_KEY.fullmatch(key):
        writer.token(key)
    elif tz is None or type(tz) in (dt.timezone, ZoneInfo):
        writer.value(tz)
    else:
        raise Refused(f"the time zone {short(str(tz))} cannot be brought out; use x.tz_convert('Area/City')")


def _encode_periods(writer: Writer, array: Any) -> None:
    writer.tag(Tag.PD_PERIOD_ARRAY)
    arrays.encode_array(writer, array.asi8)
    writer.token(array.freqstr)


def _encode_intervals(writer: Writer, array: Any) -> None:
    writer.tag(Tag.PD_INTERVAL_ARRAY)
    _encode_array(writer, array.left)
    _encode_array(writer, array.right)
    writer.token(array.closed)


def _encode_strings(writer: Writer, array: Any) -> None:
    import pandas as pd

    writer.tag(Tag.PD_STRING_ARRAY)
    writer.token("pyarrow" if "pyarrow" in array.dtype.storage else "python")
    writer.token(array.dtype.na_value is pd.NA)
    items = array.to_numpy(dtype=object, na_value=None).tolist()
    writer.spend(len(items))
    writer.token(len(items))
    writer.items(items)


def _encode_masked(writer: Writer, array: Any) -> None:
    writer.tag(Tag.PD_MASKED_ARRAY)
    arrays.encode_array(writer, array.to_numpy(dtype=array.dtype.numpy_dtype, na_value=0))
    arrays.encode_array(writer, array.isna())


def _encode_index(writer: Writer, index: Any) -> None:
    writer.tag(Tag.PD_INDEX)
    writer.enter(index)
    _encode_array(writer, index)
    writer.part(index.name, ".name")
    writer.token(_freqstr(index))
    writer.leave(index)


def _freqstr(index: Any) -> str | None:
    """Name an index's frequency if the name is all there is to it (a custom calendar is more)."""
    import pandas as pd

    if not isinstance(index, (pd.DatetimeIndex, pd.TimedeltaIndex)) or index.freq is None:
        return None
    name: str = index.freqstr
    return name if FREQ.fullmatch(name) and pd.tseries.frequencies.to_offset(name) == index.freq else None


def _encode_range_index(writer: Writer, index: Any) -> None:
    writer.tag(Tag.PD_RANGE_INDEX)
    for n in (index.start, index.stop, index.step):
        writer.token(int(n))
    writer.part(index.name, ".name")


def _encode_multi_index(writer: Writer, index: Any) -> None:
    import numpy as np

    writer.tag(Tag.PD_MULTI_INDEX)
    writer.enter(index)
    writer.token(index.nlevels)
    for level, codes, name in zip(index.levels, index.codes, index.names, strict=True):
        # A level's own name is the index's, kept below.
        writer.part(_short_range(level.rename(None)), ".levels")
        arrays.encode_array(writer, np.asarray(codes))
        writer.part(name, ".names")
    writer.leave(index)


def _short_range(index: Any) -> Any:
    """Return the index, a long range made real: the reader takes no long range in this place."""
    import pandas as pd

    return pd.Index(index.to_numpy()) if type(index) is pd.RangeIndex and len(index) > RANGE_ITEMS else index


def _encode_series(writer: Writer, series: Any) -> None:
    writer.tag(Tag.PD_SERIES)
    writer.enter(series)
    _encode_array(writer, series)
    writer.part(series.index, ".index")
    writer.part(series.name, ".name")
    writer.part(dict(series.attrs), ".attrs")
    writer.leave(series)


def _encode_frame(writer: Writer, frame: Any) -> None:
    dtypes = set(frame.dtypes)
    dtype: Any = dtypes.pop() if len(dtypes) == 1 else None
    # One dtype of numpy's is most likely one block: one buffer, and no loop over columns.
    block = frame.size > 0 and _is_numpy(dtype) and dtype.kind != "O"
    writer.tag(Tag.PD_TABLE if block else Tag.PD_FRAME)
    writer.enter(frame)
    writer.part(frame.columns, ".columns")
    writer.part(frame.index, ".index")
    writer.part(dict(frame.attrs), ".attrs")
    if block:
        writer.check(frame.size * dtype.itemsize)
        arrays.encode_array(writer, frame.to_numpy())
    else:
        for label, column in frame.items():
            try:
                _encode_array(writer, column)
            except Refused as refused:
                refused.path.insert(0, f"[{short(label)}]")
                raise
    writer.leave(frame)


def _encode_timestamp(writer: Writer, stamp: Any) -> None:
    writer.tag(Tag.PD_TIMESTAMP)
    writer.token(int(stamp.asm8.view("i8")))
    writer.token(stamp.unit)
    _encode_tz(writer, stamp.tz)


def _encode_timedelta(writer: Writer, delta: Any) -> None:
    writer.tag(Tag.PD_TIMEDELTA)
    writer.token(int(delta.asm8.view("i8")))
    writer.token(delta.unit)


def _encode_period(writer: Writer, period: Any) -> None:
    writer.tag(Tag.PD_PERIOD)
    writer.token(int(period.ordinal))
    writer.token(period.freqstr)


def _encode_interval(writer: Writer, interval: Any) -> None:
    writer.tag(Tag.PD_INTERVAL)
    writer.enter(interval)
    writer.part(interval.left, ".left")
    writer.part(interval.right, ".right")
    writer.token(interval.closed)
    writer.leave(interval)
