"""The grammars of sizes, CPUs, durations and lists, against Docker's own verdicts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_ns import units

MIB = 1024**2


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("-0", 0),
        ("1", 1),
        ("6291456", 6 * MIB),
        ("128m", 128 * MIB),
        ("128M", 128 * MIB),
        ("128mb", 128 * MIB),
        ("128MiB", 128 * MIB),
        ("64 m", 64 * MIB),
        ("64 ", 64),
        ("64b", 64),
        ("1k", 1024),
        ("1.5g", 1536 * MIB),
        (".5g", 512 * MIB),
        ("5.g", 5 * 1024 * MIB),
        ("1e3", 1000),
        ("1e2m", 100 * MIB),
        ("1_000", 1000),
        ("+64m", 64 * MIB),
        ("1t", 1024**4),
        ("1p", 1024**5),
        ("0.9", 0),
        ("1.9999k", 2047),
    ],
)
def test_size(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12x",
        "1gig",
        "-1",
        "-1m",
        "64  m",
        " 64m",
        "64m ",
        "0x10",
        "inf",
        "nan",
        "inf ",
        "64bb",
        "64ib",
        "64i",
        "1e",
        "1.5.5g",
        "1,5g",
        "m",
        ".",
        "1e400",
        "9999999999p",
        "٦٤m",
        "64m b",
        "1__0",
        "_1",
        "--1",
        "64\n",
        "1\nm",
    ],
)
def test_size_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-5", -5),
        ("+5", 5),
        ("0x10", 16),
        ("010", 8),
        ("0_10", 8),
        ("0o17", 15),
        ("0b11", 3),
        ("1_0", 10),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("00", 0),
    ],
)
def test_integer(text: str, value: int) -> None:
    assert units.parse_integer(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "abc", " 5", "5 ", "1.0", "1e3", "08", "0x", "1__0", "1_", "9223372036854775808", "5\n", "-", "٣"],
)
def test_integer_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected an integer"):
        units.parse_integer(text)


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0.5", 500_000_000),
        (".5", 500_000_000),
        ("5.", 5_000_000_000),
        ("1/2", 500_000_000),
        ("+1", 1_000_000_000),
        ("1_0", 10_000_000_000),
        ("5e-1", 500_000_000),
        ("1e-9", 1),
        ("0x1", 1_000_000_000),
        ("-1", -1_000_000_000),
        ("0", 0),
    ],
)
def test_nano_cpus(text: str, nano: int) -> None:
    assert units.parse_nano_cpus(text) == nano


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "1e-10",
        "1/3",
        "0.0000000001",
        "1/0",
        " 1",
        "1 /2",
        "1/-2",
        "0.5/2",
        "1.5e0/2",
        "inf",
        "1e999999999",
    ],
)
def test_nano_cpus_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number of CPUs"):
        units.parse_nano_cpus(text)


@given(st.integers(0, 10**13))
def test_nano_cpus_are_exact(nano: int) -> None:
    assert units.parse_nano_cpus(f"{nano // 10**9}.{nano % 10**9:09}") == nano


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("-2", -2),
        ("500ms", 0.5),
        ("1h30m", 5400),
        ("1m0.5s", 60.5),
        ("-24h", -86400),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "1d", "1 s", "nan", "inf", "1e999", "h1", "1.2.3s", "1m30", "--1s"])
def test_duration_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        units.parse_duration(text)


@pytest.mark.parametrize("text", ["yes", "", "TrUe", "2", " true"])
def test_boolean_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected true or false"):
        units.parse_boolean(text)


@pytest.mark.parametrize("text", ["", ",", "0,", "a", "-1", "1-0", "0--1", " 0", "0-1-2", "8192", "0-999999"])
def test_cpu_list_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a list"):
        units.parse_cpu_list(text)


@given(st.sets(st.integers(0, 8191), min_size=1, max_size=60))
def test_cpu_list_round_trip(numbers: set[int]) -> None:
    ordered = tuple(sorted(numbers))
    assert units.parse_cpu_list(units.format_cpu_list(ordered)) == ordered


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1, "1B"),
        (1023, "1023B"),
        (1024, "1KiB"),
        (91435827, "87.2MiB"),
        (1.5 * 1024**3, "1.5GiB"),
        (1023.99 * 1024, "1024KiB"),
        (2**60, "1024PiB"),
    ],
)
def test_format_bytes(size: float, text: str) -> None:
    assert units.format_bytes(size) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (999.9, "1kB"), (1000, "1kB"), (1234, "1.23kB"), (45_600_000, "45.6MB")],
)
def test_format_decimal_bytes(size: float, text: str) -> None:
    assert units.format_decimal_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0000123, "12.3µs"),
        (0.9999, "1s"),
        (1.234, "1.23s"),
        (59.96, "1m00s"),
        (3599.6, "1h00m"),
    ],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text
