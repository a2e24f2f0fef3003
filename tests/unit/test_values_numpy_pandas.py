"""Numpy's and pandas' values come back with their dtypes, orders, names and units."""

from __future__ import annotations

import datetime as dt
import sys
import zoneinfo
from typing import Any

import pytest

from jupyter_ns.errors import TransferError
from jupyter_ns.values import TooLarge, decode, encode

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")


def travel(obj: object, *, readonly: bool = False) -> Any:
    tree, buffers = encode(obj)
    return decode(tree, [bytes(b) if readonly else bytearray(b) for b in buffers])


ARRAYS = {
    "float": np.linspace(0, 1, 5),
    "large": np.arange(10_000, dtype=">i4").reshape(100, 100),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(20)[::3],
    "negative stride": np.arange(5)[::-1],
    "broadcast": np.broadcast_to(np.float32(2), (3, 4)),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j], dtype="c8"),
    "half": np.array([1.5], dtype="f2"),
    "long double": np.array([1.5], dtype=np.longdouble),
    "datetime": np.array(["2020-01-01", "NaT"], dtype="M8[us]"),
    "25 seconds": np.array([1, 2], dtype="m8[25s]"),
    "generic delta": np.array([1], dtype="i8").view("m8"),
    "bytes": np.array([b"ab", b"c"]),
    "text": np.array(["ab", "ü"]),
    "void": np.array([b"abc"], dtype="V3"),
    "structured": np.array([(1, 2.5, [1, 2])], dtype=[("a", "i4"), ("b", ">f8"), ("c", "u1", (2,))]),
    "aligned": np.array([(1, 2.5)], dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "nested": np.array([((1,), "x")], dtype=[("a", [("b", "i2")]), ("c", "U3")]),
    "no dimension": np.array(5),
    "empty": np.empty((0, 3)),
    "empty text": np.array([], dtype="U0"),
    "objects": np.array([1, "a", None, [1]], dtype=object),
    "objects F": np.asfortranarray(np.array([[1, "a"], [None, 2.5]], dtype=object)),
}


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_an_array_comes_back_writable_and_equal(array: Any, readonly: bool) -> None:
    back = travel(array, readonly=readonly)
    assert type(back) is np.ndarray
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.flags.writeable
    np.testing.assert_array_equal(back, array)
    if array.flags.f_contiguous and array.ndim > 1 and array.size:
        assert back.flags.f_contiguous == array.flags.f_contiguous


def test_a_large_array_crosses_without_a_copy() -> None:
    array = np.zeros(100_000)
    tree, (buffer,) = encode(array)
    array[3] = 1.0
    memory = bytearray(buffer)
    back = decode(tree, [memory])
    assert back[3] == 1.0
    back[4] = 1.0
    assert memory[4 * 8 : 5 * 8] != bytes(8)


def test_too_large_is_raised_before_a_copy() -> None:
    huge = np.broadcast_to(np.uint8(0), (10**6, 10**6))
    with pytest.raises(TooLarge, match="1,000,000,0"):
        encode([huge], max_bytes=10**6)
    with pytest.raises(TooLarge):
        encode(pd.DataFrame(np.zeros((1000, 200))), max_bytes=10**6)


SCALARS = [
    np.float64(1.5),
    np.float16(2),
    np.int8(-3),
    np.uint64(2**64 - 1),
    np.bool_(True),
    np.complex64(1j),
    np.longdouble(1.5),
    np.datetime64("2020-01-01T00", "h"),
    np.datetime64("NaT", "s"),
    np.timedelta64(5, "ms"),
    np.str_("a\0"),
    np.bytes_(b"a\0"),
    np.void(b"ab"),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])[0],
]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda s: type(s).__name__)
def test_a_numpy_scalar_comes_back(scalar: Any) -> None:
    back = travel(scalar)
    assert type(back) is type(scalar)
    assert repr(back) == repr(scalar)
    assert getattr(back, "dtype", None) == scalar.dtype


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.ma.masked_array([1, 2], mask=[0, 1]), "filled"),
        (np.array([(1,)], dtype=[("a", "i4")]).view(np.recarray), "numpy.array"),
        (np.array([(1,)], dtype=[("a", object)]), "object fields"),
        (np.array([print], dtype=object), "element 0: a function"),
        (pd.Series([1, 0], dtype="Sparse[int]"), "to_dense"),
        (type("Sub", (pd.DataFrame,), {})(), "subclass|pandas.DataFrame"),
    ],
)
def test_what_numpy_or_pandas_could_not_rebuild_is_refused(value: object, reason: str) -> None:
    with pytest.raises(TransferError, match=reason):
        encode(value)


def test_an_object_array_that_contains_itself_is_refused() -> None:
    array = np.empty(1, dtype=object)
    array[0] = array
    with pytest.raises(TransferError, match="contains itself"):
        encode(array)


DAYS = pd.date_range("2026-03-28", periods=3, freq="D", tz="Europe/Berlin", name="day")
INDEXES = {
    "range": pd.RangeIndex(2, 20, 3, name="n"),
    "int": pd.Index([3, 1, 2]),
    "text": pd.Index(["a", "b", None]),
    "object": pd.Index([1, "b", None, (1, 2)], dtype=object, name=("x", 1)),
    "bool": pd.Index([True, False]),
    "tz": DAYS,
    "fixed offset": pd.DatetimeIndex(["2020-01-01"], tz=dt.timezone(dt.timedelta(hours=2))),
    "zone": pd.DatetimeIndex(["2020-01-01"], tz=zoneinfo.ZoneInfo("Asia/Tokyo")),
    "seconds": pd.DatetimeIndex(np.array(["2020-01-01", "NaT"], dtype="M8[s]")),
    "month ends": pd.date_range("2026-01-31", periods=3, freq="ME"),
    "deltas": pd.timedelta_range("1h", periods=3, freq="90min"),
    "periods": pd.period_range("2026-01", periods=3, freq="M", name="p"),
    "quarters": pd.PeriodIndex(["2026Q1", "NaT"], freq="Q-NOV"),
    "categories": pd.CategoricalIndex(["b", "a", None], categories=["b", "a", "c"], ordered=True),
    "intervals": pd.interval_range(0, 3, closed="left", name="i"),
    "multi": pd.MultiIndex.from_product([["a", "b"], DAYS], names=["x", None]),
    "nullable": pd.Index(pd.array([1, None], dtype="Int8")),
    "empty": pd.Index([], dtype="float64"),
}


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES.keys())
def test_an_index_comes_back_identical(index: Any) -> None:
    back = travel(index)
    pd.testing.assert_index_equal(back, index, exact=True)
    assert getattr(back, "freq", None) == getattr(index, "freq", None)
    assert back.names == index.names
    series = pd.Series(range(len(index)), index=index)
    pd.testing.assert_series_equal(travel(series), series, check_index_type=True)


COLUMNS = {
    "int8": pd.array([1, None], dtype="Int8"),
    "uint64": pd.array([2**64 - 1, None], dtype="UInt64"),
    "float": pd.array([1.5, None], dtype="Float32"),
    "boolean": pd.array([True, None], dtype="boolean"),
    "string": pd.array(["a", None], dtype="string"),
    "python string": pd.array(["ü", None], dtype="string[python]"),
    "default text": pd.Series(["a", None]).array,
    "categorical": pd.Categorical([1.5, None, 1.5]),
    "cut": pd.cut([1, 5, 9], 3),
    "dates": pd.array(np.array(["2020-01-01", "NaT"], dtype="M8[ms]")),
    "deltas": pd.array(np.array([1, 2], dtype="m8[ns]")),
    "dates with zone": pd.array(DAYS),
    "periods": pd.array(pd.period_range("2020", periods=2, freq="Y")),
    "intervals": pd.arrays.IntervalArray.from_breaks(pd.DatetimeIndex(["2020", "2021", "2022"])),
}


@pytest.mark.parametrize("array", COLUMNS.values(), ids=COLUMNS.keys())
def test_a_pandas_array_comes_back_alone_and_as_a_column(array: Any) -> None:
    series = pd.Series(array, name="s")
    pd.testing.assert_series_equal(travel(series), series)
    if isinstance(array, pd.api.extensions.ExtensionArray) and not isinstance(series.dtype, np.dtype):
        pd.testing.assert_extension_array_equal(travel(array), array)
    frame = pd.DataFrame({"x": array, "y": 1.0})
    pd.testing.assert_frame_equal(travel(frame), frame)


FRAMES = {
    "mixed": pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.5, np.nan], "d": [[1], {"k": 2}]}),
    "one block": pd.DataFrame(np.arange(6).reshape(2, 3), columns=list("abc")),
    "dates": pd.DataFrame({"a": pd.to_datetime(["2020-01-01"]), "b": pd.to_datetime(["2021-01-01"])}),
    "objects": pd.DataFrame({"a": ["x", 1], "b": [None, 2.5]}, dtype=object),
    "repeated labels": pd.DataFrame([[1, "a", 2.5]], columns=["x", "x", "y"]),
    "two levels": pd.DataFrame({("a", 1): [1], ("b", 2): ["x"]}),
    "grouped": pd.DataFrame({"k": ["a", "b", "a"], "v": [1, 2, 3]}).groupby("k").agg(["sum", "mean"]),
    "no columns": pd.DataFrame(index=pd.RangeIndex(1000)),
    "no rows": pd.DataFrame({"a": pd.Series([], dtype="int64"), "b": pd.Series([], dtype=object)}),
    "nothing": pd.DataFrame(),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_a_frame_comes_back_equal(frame: Any) -> None:
    pd.testing.assert_frame_equal(travel(frame), frame, check_column_type=True)


def test_attrs_names_and_writability_are_kept() -> None:
    frame = FRAMES["one block"].copy()
    frame.attrs = {"source": "x", "n": [1]}
    frame.columns.name, frame.index.name = "c", "i"
    back = travel(frame, readonly=True)
    assert back.attrs == frame.attrs
    assert (back.columns.name, back.index.name) == ("c", "i")
    back.iloc[0, 0] = 99
    assert back.iloc[0, 0] == 99
    series = pd.Series([1.0], name=("a", 1))
    series.attrs["u"] = "m"
    assert travel(series).attrs == {"u": "m"}
    assert travel(series).name == ("a", 1)


@pytest.mark.parametrize(
    "scalar",
    [
        pd.Timestamp("2026-10-25 01:30", tz="UTC").tz_convert("Europe/Berlin"),
        pd.Timestamp("2020-01-01T00:00:00.000000001"),
        pd.Timestamp("2020-01-01").as_unit("s"),
        pd.Timedelta("1 day 3ns"),
        pd.Timedelta(5, "s").as_unit("ms"),
        pd.Period("2020Q1", freq="Q"),
        pd.Interval(0, 1.5, closed="both"),
    ],
)
def test_a_pandas_scalar_comes_back(scalar: Any) -> None:
    back = travel({"k": scalar})["k"]
    assert type(back) is type(scalar)
    assert back == scalar
    assert getattr(back, "unit", None) == getattr(scalar, "unit", None)
    assert str(getattr(back, "tz", None)) == str(getattr(scalar, "tz", None))


def test_nat_and_na_are_the_same_objects() -> None:
    assert travel(pd.NaT) is pd.NaT
    assert travel([pd.NA])[0] is pd.NA


def test_the_path_into_a_frame_names_the_column_and_the_element() -> None:
    frame = pd.DataFrame({"a": [1, 2], "f": [1, print]})
    with pytest.raises(TransferError, match=r"^r\['t'\]\['f'\], element 1: a function"):
        encode({"t": frame}, name="r")


def test_mutated_frames_give_a_value_or_a_transfer_error() -> None:
    import random

    rng = random.Random(1)
    values = [
        *FRAMES.values(),
        *INDEXES.values(),
        *map(pd.Series, COLUMNS.values()),
        *ARRAYS.values(),
        *SCALARS,
    ]
    messages = [encode(value) for value in values]
    outcomes = set()
    for n in range(6000):
        tree, buffers = messages[n % len(messages)]
        mutated = bytearray(tree)
        for _ in range(rng.randint(1, 3)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        try:
            decode(bytes(mutated), buffers)
            outcomes.add("value")
        except TransferError:
            outcomes.add("error")
    assert outcomes == {"value", "error"}
    assert "pickle5" not in sys.modules
