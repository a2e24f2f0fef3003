"""Values cross without pickle: what is supported comes back equal, all else is refused by name."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import math
import pathlib
import subprocess
import sys
import threading
import uuid
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jupyter_ns.errors import TransferError
from jupyter_ns.values import TooLarge, decode, encode, encode_named
from jupyter_ns.values.wire import INLINE_BYTES, MAX_DEPTH, Tag


def travel(obj: object) -> Any:
    """Encode and decode, with the buffers copied as a transport would."""
    tree, buffers = encode(obj)
    return decode(tree, [bytearray(b) for b in buffers])


Point = namedtuple("Point", "x y")


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Record:
    x: int


class MyDict(dict[str, int]):
    pass


PLAIN = [
    None,
    True,
    0,
    -1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63),
    -(2**63) - 1,
    10**5000,
    -(10**5000),
    1.5,
    math.inf,
    -0.0,
    complex(-0.0, math.inf),
    "",
    "ß\0\ud800",
    b"",
    b"x" * (INLINE_BYTES + 1),
    bytearray(b"abc"),
    bytearray(b"y" * 100_000),
    [],
    [1, [2, [3]]],
    (1, "a", None),
    {1, 2},
    frozenset({(1, 2), frozenset()}),
    {"a": 1, 2: "b", None: [], (1, (2,)): {}},
    range(0, 10**30, 7),
    slice(1, None, "x"),
    ...,
    dt.date(2026, 1, 31),
    dt.time(1, 2, 3, 4, dt.UTC, fold=1),
    dt.datetime(2026, 10, 25, 2, 30, 0, 5, zoneinfo.ZoneInfo("Europe/Berlin"), fold=1),
    dt.datetime(1, 1, 1),
    dt.timedelta(-3, 5, 7),
    dt.timezone(dt.timedelta(hours=1), "X"),
    dt.timezone(dt.timedelta(seconds=-17)),
    zoneinfo.ZoneInfo("America/Argentina/Buenos_Aires"),
    decimal.Decimal("-0.10"),
    decimal.Decimal("Infinity"),
    fractions.Fraction(-3, 7),
    uuid.UUID(int=5),
    pathlib.Path("/a b/ü"),
    pathlib.PurePosixPath("x"),
    pathlib.PureWindowsPath("C:\\x"),
    OrderedDict(b=1, a=2),
    Counter("hello"),
    deque([1, 2], maxlen=3),
    deque([1]),
    defaultdict(list, a=[1]),
    defaultdict(None, a=1),
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda v: f"{type(v).__name__}")
def test_plain_value_comes_back_equal_and_of_the_same_type(value: object) -> None:
    back = travel(value)
    assert type(back) is type(value)
    assert back == value
    if not isinstance(value, int):
        assert repr(back) == repr(value)


def test_details_that_equality_does_not_show() -> None:
    assert math.isnan(travel(math.nan))
    assert str(travel(decimal.Decimal("sNaN123"))) == "sNaN123"
    assert travel(dt.UTC) is dt.UTC
    assert travel(deque([1], maxlen=2)).maxlen == 2
    assert travel(defaultdict(list)).default_factory is list
    assert list(travel({"b": 1, "a": 2})) == ["b", "a"]
    moment = travel(dt.datetime(2026, 10, 25, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1))
    assert moment.utcoffset() == dt.timedelta(hours=1)


def _loop() -> list[Any]:
    loop: list[Any] = []
    loop.append({"x": loop})
    return loop


def _deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"a": [1, 2, 3, len]}, r"r\['a'\]\[3\]", "a function cannot be brought out"),
        ({"f": {print: 1}}, r"r\['f'\], a key of it", "a function"),
        (Point(1, 2), "r", r"named tuple .*x\._asdict\(\)"),
        (Record(1), "r", r"dataclass .*dataclasses\.asdict"),
        (Colour.RED, "r", r"enum member .*x\.value"),
        ([Level.HIGH], r"r\[0\]", "enum member"),
        (MyDict(a=1), "r", r"MyDict, a subclass of dict, .*dict\(x\)"),
        (ValueError("no"), "r", r"an exception .*str\(x\)"),
        ((x for x in ()), "r", r"a generator .*list\(x\)"),
        (threading.Lock(), "r", "a lock"),
        (object, "r", "a class"),
        (sys, "r", "a module"),
        (defaultdict(lambda: 1), "r", r"defaultdict .*dict\(x\)"),
        (dt.datetime(2000, 1, 1, tzinfo=type("Z", (dt.tzinfo,), {})()), "r", "ZoneInfo"),
        (_loop(), r"r\[0\]\['x'\]", "it contains itself"),
        (_deep(MAX_DEPTH + 1), "r", "levels deep"),
        (fractions.Fraction(1, 2**600_000), "r", "bits"),
    ],
)
def test_what_cannot_come_out_is_named_with_its_path_and_the_reason(value: object, path: str, reason: str) -> None:
    with pytest.raises(TransferError, match=f"(?s)^{path}.*{reason}"):
        encode(value, name="r")


def test_the_way_round_names_trust() -> None:
    with pytest.raises(TransferError, match="--trust"):
        encode([object()])


def test_the_deepest_allowed_value_travels() -> None:
    assert travel(_deep(MAX_DEPTH)) == _deep(MAX_DEPTH)


def test_an_object_in_two_places_is_no_cycle() -> None:
    shared = [1]
    assert travel([shared, (shared, shared)]) == [[1], ([1], [1])]


@pytest.mark.parametrize("value", [b"x" * 1001, "x" * 1001, [0] * 1001, {i: i for i in range(501)}, 2**9000])
def test_too_large(value: object) -> None:
    with pytest.raises(TooLarge, match=r"^r takes at least .* 1,000 may") as caught:
        encode(value, max_bytes=1000, name="r")
    assert caught.value.size_bytes > caught.value.max_bytes == 1000


def test_max_bytes_is_exact_about_what_is_sent() -> None:
    value = ["é" * 10, b"x" * 5000, 1.5]
    tree, buffers = encode(value)
    size = len(tree) + sum(b.nbytes for b in buffers)
    assert encode(value, max_bytes=size)[0] == tree
    with pytest.raises(TooLarge):
        encode(value, max_bytes=size - 1)


def test_several_variables_at_once_are_named_in_errors() -> None:
    assert decode(*encode_named({"r": 1, "s": {"a": [2]}})) == {"r": 1, "s": {"a": [2]}}
    assert decode(*encode_named({})) == {}
    with pytest.raises(TransferError, match=r"^s\['a'\]\[0\]: a function"):
        encode_named({"r": 1, "s": {"a": [len]}})
    with pytest.raises(TooLarge, match=r"^r, s takes"):
        encode_named({"r": b"x" * 600, "s": b"x" * 600}, 1000)


def test_large_bytes_are_not_copied() -> None:
    data = bytearray(1_000_000)
    tree, buffers = encode([data])
    data[5] = 7
    assert len(tree) < 100
    assert buffers[0][5] == 7


# What follows is the hostile side.


def ext(tag: int, data: bytes = b"") -> bytes:
    return msgpack.Packer().pack(msgpack.ExtType(tag, data))


def pack(*items: object) -> bytes:
    return b"".join(ext(item) if isinstance(item, Tag) else msgpack.packb(item) for item in items)


@pytest.mark.parametrize(
    "tree",
    [
        b"",
        pack(1, 2),
        pack([]),
        pack([1]),
        pack({}),
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        msgpack.packb(msgpack.Timestamp(1)),
        ext(127),
        ext(int(Tag.ELLIPSIS), b"x"),
        pack(Tag.LIST, 2, 1),
        pack(Tag.LIST, -1),
        pack(Tag.LIST, True, 1),
        pack(Tag.LIST, 2**40),
        pack(Tag.DICT, 1, Tag.LIST, 0, 1),
        pack(Tag.SET, 1, Tag.LIST, 0),
        pack(Tag.DEFAULT_DICT, 0, "eval"),
        pack(Tag.ZONE_INFO, "../../etc/passwd"),
        pack(Tag.ZONE_INFO, "/etc/passwd"),
        pack(Tag.ZONE_INFO, "No/Such"),
        pack(Tag.DECIMAL, "one"),
        pack(Tag.FRACTION, 1, 0),
        pack(Tag.RANGE, 1, 2, 0),
        pack(Tag.RANGE, 1, 2, 1.0),
        pack(Tag.DATE, 2026, 2, 30),
        pack(Tag.DATETIME, 1, 1, 1, 0, 0, 0, 0, "UTC", 0),
        pack(Tag.UUID, b"short"),
        pack(Tag.BYTES, None),
        pack(*[Tag.LIST, 1] * 5000, 0),
        pack(Tag.ARRAY, "|O8", Tag.TUPLE, 1, 1, False, b"\0" * 8),
        pack(Tag.ARRAY, "<f8", Tag.TUPLE, 1, 2, False, b"\0" * 8),
        pack(Tag.ARRAY, "<f8,|O8", Tag.TUPLE, 1, 1, False, b"\0" * 16),
        pack(Tag.ARRAY, "<f8", Tag.TUPLE, 1, -1, False, b"\0" * 8),
        pack(Tag.ARRAY, "|V0", Tag.TUPLE, 1, 10**12, False, b""),
        pack(Tag.ARRAY, "|b1", Tag.TUPLE, 1, 1, False, b"\x02"),
        pack(Tag.OBJECT_ARRAY, Tag.TUPLE, 1, 10**12, False, 1),
        pack(Tag.NUMPY_SCALAR, Tag.ARRAY, "|u1", Tag.TUPLE, 1, 1, False, b"\0"),
        pack(Tag.PD_CATEGORICAL, Tag.ARRAY, "|i1", Tag.TUPLE, 1, 1, False, b"\5")
        + pack(Tag.PD_RANGE_INDEX, 0, 3, 1, None, False),
        pack(Tag.PD_CATEGORICAL, Tag.ARRAY, "|i1", Tag.TUPLE, 1, 1, False, b"\0")
        + pack(Tag.PD_RANGE_INDEX, 0, 10**11, 1, None, False),
        pack(Tag.PD_TABLE, Tag.PD_RANGE_INDEX, 0, 10**11, 1, None, Tag.PD_RANGE_INDEX, 0, 0, 1, None)
        + pack(Tag.DICT, 0, Tag.ARRAY, "<f8", Tag.TUPLE, 2, 0, 10**11, False, b""),
        pack(Tag.PD_FRAME, Tag.PD_RANGE_INDEX, 0, 10**11, 1, None, Tag.PD_RANGE_INDEX, 0, 0, 1, None)
        + pack(Tag.DICT, 0),
        pack(Tag.PD_TIMESTAMP, 0, "ns", "dateutil//etc/passwd"),
    ],
)
def test_a_malformed_message_is_a_transfer_error(tree: bytes) -> None:
    with pytest.raises(TransferError, match="malformed"):
        decode(tree)


def test_a_buffer_is_used_exactly_once() -> None:
    tree, buffers = encode(b"x" * 10_000)
    for wrong in ([], [*buffers, b""]):
        with pytest.raises(TransferError):
            decode(tree, wrong)
    twice = pack(Tag.LIST, 2, Tag.BYTES, None, Tag.BYTES, None)
    with pytest.raises(TransferError):
        decode(twice, buffers)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200), st.lists(st.binary(max_size=20), max_size=2))
def test_arbitrary_bytes_give_a_value_or_a_transfer_error(tree: bytes, buffers: list[bytes]) -> None:
    try:
        decode(tree, buffers)
    except TransferError:
        pass


_TOKENS = st.one_of(
    st.sampled_from(list(Tag)),
    st.sampled_from(["<f8", "<M8[ns]", "|b1", "|O8", "<U1", "UTC", "D", "ns", "python", "right", "list", "M", "a"]),
    st.integers(-3, 4),
    st.integers(-(2**63), 2**64 - 1),
    st.binary(max_size=17),
    st.booleans(),
    st.none(),
    st.floats(),
)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_TOKENS, max_size=30))
def test_arbitrary_tokens_give_a_value_or_a_transfer_error(tokens: list[Any]) -> None:
    try:
        repr(decode(pack(*tokens), [b"\0" * 8]))
    except TransferError:
        pass


_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(st.characters()),
        st.binary(),
        st.complex_numbers(allow_nan=False),
        st.decimals(allow_nan=False),
        st.fractions(),
        st.datetimes(timezones=st.none() | st.timezones()),
        st.timedeltas(),
        st.times(),
        st.uuids(),
    ),
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.dictionaries(st.text() | st.integers(), inner),
        st.sets(st.integers()),
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(_VALUES)
def test_any_plain_value_travels(value: object) -> None:
    assert travel(value) == value


_SAMPLE = [
    None,
    2**70,
    {"a": (1, 2.5)},
    dt.datetime(2000, 1, 1, tzinfo=dt.UTC),
    decimal.Decimal(1),
    b"x" * 5000,
]


@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_a_mutated_message_gives_a_value_or_a_transfer_error(data: st.DataObject) -> None:
    tree, buffers = encode(_SAMPLE)
    mutated = bytearray(tree)
    for _ in range(data.draw(st.integers(1, 5))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(mutated), buffers)
    except TransferError:
        pass


_AUDIT = r"""
import random, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, pandas as pd
from jupyter_ns.values import decode, encode
from jupyter_ns.errors import TransferError
frame = pd.DataFrame({"a": [1, 2], "b": pd.Categorical(["x", "y"]), "c": pd.to_datetime(["2020-01-01"] * 2)})
samples = [encode(v) for v in ([1, {"a": 2**80}], np.arange(3), frame, frame.set_index(["a", "b"]))]
for tree, buffers in samples:
    decode(tree, buffers)
seen = set()
armed = True
def hook(event, args):
    if armed and event in ("exec", "compile", "pickle.find_class", "os.system", "subprocess.Popen",
                           "socket.connect", "ctypes.dlopen", "marshal.loads"):
        seen.add((event, str(args)[:80]))
sys.addaudithook(hook)
rng = random.Random(0)
loaded = set(sys.modules)
for n in range(4000):
    tree, buffers = samples[n % len(samples)]
    tree = bytearray(tree)
    for _ in range(rng.randint(1, 4)):
        tree[rng.randrange(len(tree))] = rng.randrange(256)
    try:
        decode(bytes(tree), buffers)
    except TransferError:
        pass
armed = False
new = sorted(m for m in set(sys.modules) - loaded if m.split(".")[0] not in ("numpy", "pandas", "tzdata"))
print(sorted(seen), new)
"""


def test_mutated_messages_make_decode_execute_nothing() -> None:
    pytest.importorskip("pandas")
    done = subprocess.run([sys.executable, "-c", _AUDIT], capture_output=True, text=True, check=True)
    events, modules = done.stdout.strip().split("] [")
    assert events == "["
    assert all(m.split(".")[0] in sys.stdlib_module_names for m in eval("[" + modules))
