"""Values of pandas, put together again: what reads the parts `jupyter_ns.values.frames` wrote.

Pandas' public constructors check most of it. Where they would allocate by a number alone (a
range made real, columns counted by a shape), the number is bounded first.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any
from zoneinfo import ZoneInfo

from .builtin import ZONE_KEY
from .wire import Decoder, Malformed, Reader, Tag

FREQ = re.compile(r"[A-Za-z0-9@+.:-]{1,40}")
"""What the name of a frequency looks like."""

RANGE_ITEMS = 1 << 24
"""Bound of a `RangeIndex` used as levels or categories, which pandas may make real."""

_NONE = type(None)
_UNITS = ("s", "ms", "us", "ns")


def _array(reader: Reader, kinds: str = "") -> Any:
    """Read a one-dimensional numpy array, of a dtype whose kind is one of `kinds`."""
    import numpy as np

    array = reader.expect(np.ndarray)
    if array.ndim != 1 or (kinds and array.dtype.kind not in kinds):
        raise Malformed("array")
    return array


def _column(reader: Reader) -> Any:
    """Read the values of a Series, an Index or an interval's side."""
    import numpy as np
    import pandas as pd

    array = reader.value()
    if not isinstance(array, (np.ndarray, pd.api.extensions.ExtensionArray)) or array.ndim != 1:
        raise Malformed("column")
    return array


def _index(reader: Reader, *, short: bool = False) -> Any:
    """Read an index; `short` refuses a range that is long without having been sent."""
    import pandas as pd

    index = reader.value()
    if not isinstance(index, pd.Index):
        raise Malformed("index")
    if short and isinstance(index, pd.RangeIndex) and len(index) > RANGE_ITEMS:
        raise Malformed("range too long")
    return index


def _unit(reader: Reader) -> Any:
    unit = reader.expect(str)
    if unit not in _UNITS:
        raise Malformed("unit")
    return unit


def _freq(reader: Reader) -> str | None:
    freq: str | None = reader.expect(str, _NONE)
    if freq is not None and not FREQ.fullmatch(freq):
        raise Malformed("frequency")
    return freq


def _tz(reader: Reader) -> Any:
    tz = reader.expect(_NONE, str, dt.timezone, ZoneInfo)
    if type(tz) is str and not ZONE_KEY.fullmatch(tz):
        raise Malformed("time zone key")
    return tz


def _decode_categorical(reader: Reader) -> Any:
    import pandas as pd

    codes, categories, ordered = _array(reader, "i"), _index(reader, short=True), reader.expect(bool)
    return pd.Categorical.from_codes(codes, categories, ordered=ordered)


def _decode_datetime_array(reader: Reader) -> Any:
    import pandas as pd

    array = _array(reader, "mM")
    return (pd.DatetimeIndex if array.dtype.kind == "M" else pd.TimedeltaIndex)(array).array


def _decode_datetimetz(reader: Reader) -> Any:
    import pandas as pd

    utc = pd.DatetimeIndex(_array(reader, "M")).tz_localize("UTC")
    return utc.tz_convert(_tz(reader)).array


def _decode_periods(reader: Reader) -> Any:
    import numpy as np
    import pandas as pd

    ordinals, freq = _array(reader, "i"), _freq(reader)
    if ordinals.dtype != np.int64:
        raise Malformed("ordinals")
    return pd.PeriodIndex.from_ordinals(ordinals, freq=freq).array


def _decode_intervals(reader: Reader) -> Any:
    import pandas as pd

    left, right, closed = _column(reader), _column(reader), reader.expect(str)
    return pd.arrays.IntervalArray.from_arrays(left, right, closed=closed)


def _decode_strings(reader: Reader) -> Any:
    import pandas as pd

    storage, uses_na, items = reader.expect(str), reader.expect(bool), reader.items()
    if not all(type(item) in (str, _NONE) for item in items):
        raise Malformed("string array")
    return pd.array(items, dtype=_string_dtype(storage, uses_na=uses_na))


def _string_dtype(storage: str, *, uses_na: bool) -> Any:
    import pandas as pd

    if uses_na:
        return pd.StringDtype(storage)
    try:
        return pd.StringDtype(storage, na_value=float("nan"))
    except TypeError:  # pandas 2.2 has no na_value: one storage stands for NaN.
        return pd.StringDtype("pyarrow_numpy")


def _decode_masked(reader: Reader) -> Any:
    import pandas as pd

    values, mask = _array(reader, "iufb"), _array(reader, "b")
    kinds = {"f": pd.arrays.FloatingArray, "b": pd.arrays.BooleanArray}
    return kinds.get(values.dtype.kind, pd.arrays.IntegerArray)(values, mask)


def _decode_index(reader: Reader) -> Any:
    import numpy as np
    import pandas as pd

    array, name, freq = _column(reader), reader.value(), _freq(reader)
    if freq is not None:
        kind = {"M": pd.DatetimeIndex, "m": pd.TimedeltaIndex}[array.dtype.kind]
        return kind(array, freq=freq, name=name)
    # The dtype is given lest pandas infer another from objects.
    dtype = array.dtype if isinstance(array, np.ndarray) and array.dtype.kind not in "mM" else None
    return pd.Index(array, dtype=dtype, name=name)


def _decode_range_index(reader: Reader) -> Any:
    import pandas as pd

    start, stop, step, name = *(reader.expect(int) for _ in range(3)), reader.value()
    if not all(-(2**63) <= n < 2**63 for n in (start, stop, step)):
        raise Malformed("range")
    return pd.RangeIndex(start, stop, step, name=name)


def _decode_multi_index(reader: Reader) -> Any:
    import pandas as pd

    rows = [(_index(reader, short=True), _array(reader, "i"), reader.value()) for _ in range(reader.count())]
    levels, codes, names = zip(*rows, strict=True)
    return pd.MultiIndex(levels=levels, codes=codes, names=names)


def _series(array: Any, index: Any, name: Any = None) -> Any:
    import pandas as pd

    return pd.Series(array, index=index, dtype=array.dtype, name=name, copy=False)


def _decode_series(reader: Reader) -> Any:
    series = _series(_column(reader), _index(reader), reader.value())
    series.attrs = reader.expect(dict)
    return series


def _decode_frame(reader: Reader) -> Any:
    import pandas as pd

    columns, index, attrs = _index(reader), _index(reader), reader.expect(dict)
    # By number first: labels may repeat.
    data = {i: _series(_column(reader), index) for i in range(len(columns))}
    frame = pd.DataFrame(data, index=index, copy=False)
    frame.columns = columns
    frame.attrs = attrs
    return frame


def _decode_table(reader: Reader) -> Any:
    import numpy as np
    import pandas as pd

    columns, index, attrs = _index(reader), _index(reader), reader.expect(dict)
    array = reader.expect(np.ndarray)
    if array.dtype.kind not in "biufcmM" or not array.size or array.shape != (len(index), len(columns)):
        raise Malformed("table")
    frame = pd.DataFrame(array, index=index, columns=columns, copy=False)
    frame.attrs = attrs
    return frame


def _decode_timestamp(reader: Reader) -> Any:
    import numpy as np
    import pandas as pd

    stamp = pd.Timestamp(np.datetime64(reader.expect(int), _unit(reader)))
    tz = _tz(reader)
    return stamp if tz is None else stamp.tz_localize("UTC").tz_convert(tz)


def _decode_timedelta(reader: Reader) -> Any:
    import numpy as np
    import pandas as pd

    return pd.Timedelta(np.timedelta64(reader.expect(int), _unit(reader)))


def _decode_period(reader: Reader) -> Any:
    import pandas as pd

    return pd.Period(ordinal=reader.expect(int), freq=_freq(reader))


def _decode_interval(reader: Reader) -> Any:
    import pandas as pd

    return pd.Interval(reader.value(), reader.value(), reader.expect(str))


def _decode_nat(reader: Reader) -> Any:
    import pandas as pd

    return pd.NaT


def _decode_na(reader: Reader) -> Any:
    import pandas as pd

    return pd.NA


DECODERS: dict[int, Decoder] = {
    Tag.PD_CATEGORICAL: _decode_categorical,
    Tag.PD_DATETIME_ARRAY: _decode_datetime_array,
    Tag.PD_DATETIMETZ_ARRAY: _decode_datetimetz,
    Tag.PD_PERIOD_ARRAY: _decode_periods,
    Tag.PD_INTERVAL_ARRAY: _decode_intervals,
    Tag.PD_MASKED_ARRAY: _decode_masked,
    Tag.PD_STRING_ARRAY: _decode_strings,
    Tag.PD_INDEX: _decode_index,
    Tag.PD_RANGE_INDEX: _decode_range_index,
    Tag.PD_MULTI_INDEX: _decode_multi_index,
    Tag.PD_SERIES: _decode_series,
    Tag.PD_FRAME: _decode_frame,
    Tag.PD_TABLE: _decode_table,
    Tag.PD_TIMESTAMP: _decode_timestamp,
    Tag.PD_TIMEDELTA: _decode_timedelta,
    Tag.PD_PERIOD: _decode_period,
    Tag.PD_INTERVAL: _decode_interval,
    Tag.PD_NAT: _decode_nat,
    Tag.PD_NA: _decode_na,
}
