"""Values as people type and read them: sizes, CPUs, durations, CPU lists.

The grammars are those of Docker's client, whose parsers are go-units and Go's strconv
and math/big; where this module takes less than they do, the function says so.
Every parser raises ValueError with a message that says what is accepted.
"""

from __future__ import annotations

import re
from fractions import Fraction

_SIZE = re.compile(r"(?P<number>.*[0-9.]) ?(?P<unit>b|[kmgtp](?:i?b)?)?", re.IGNORECASE | re.ASCII)
_FLOAT = re.compile(r"[+-]?[0-9._]+(?:[eE][+-]?[0-9_]+)?", re.ASCII)
_RATIONAL = re.compile(r"[+-]?[0-9._]+(?:[eE][+-]?0*[0-9_]{1,4})?", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9][0-9a-zA-Z_]*", re.ASCII)
_OCTAL_PREFIX = re.compile(r"^([+-]?)0(?=[0-9_])")
_DURATION = re.compile(r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+", re.ASCII)
_DURATION_TERM = re.compile(r"([0-9.]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_INT64_MAX = 2**63 - 1
_CPU_MAX = 8192
"""Upper bound of a CPU number; CONFIG_NR_CPUS goes no higher."""


def parse_size(text: str) -> int:
    """Parse a size as ``--memory`` takes it.

    Parameters
    ----------
    text : str
        A decimal number, then at most one space, then ``b``, or one of ``k m g t p``
        with ``b`` or ``ib`` after it, in any case. Every unit is binary.

    Returns
    -------
    int
        Bytes, truncated.

    Raises
    ------
    ValueError
        If it is not such a number, is negative, or does not fit in 63 bits.

    Notes
    -----
    go-units, ``RAMInBytes``. Hexadecimal floats (``0x1p30``) and values over 63 bits,
    which go-units lets through, are refused.

    Examples
    --------
    >>> parse_size("128m"), parse_size("1.5 GiB")
    (134217728, 1610612736)
    """
    match = _SIZE.fullmatch(text)
    if match is None or not _FLOAT.fullmatch(match["number"]):
        raise ValueError("expected a size such as 512m or 1.5g (units b, k, m, g, t, p; binary)")
    unit = (match["unit"] or "b")[0].lower()
    try:
        size = float(match["number"]) * 1024 ** "bkmgtp".index(unit)
    except ValueError:
        raise ValueError("expected a size such as 512m or 1.5g (units b, k, m, g, t, p; binary)") from None
    if size < 0:
        raise ValueError("expected a size that is not negative")
    if size > _INT64_MAX:
        raise ValueError("expected a size below 8192p")
    return int(size)


def parse_integer(text: str) -> int:
    """Parse an integer as Docker's integer options take it.

    Parameters
    ----------
    text : str
        Decimal, or with a prefix ``0x``, ``0o``, ``0b``, or ``0`` for octal; ``_`` between digits.

    Returns
    -------
    int
        -2**63 to 2**63 - 1.

    Raises
    ------
    ValueError
        If it is no integer, or out of that range.

    Notes
    -----
    Go, ``strconv.ParseInt(text, 0, 64)``.

    Examples
    --------
    >>> parse_integer("100"), parse_integer("0x10"), parse_integer("010")
    (100, 16, 8)
    """
    value = _unbounded_integer(text)
    if not -_INT64_MAX - 1 <= value <= _INT64_MAX:
        raise ValueError("expected an integer of at most 64 bits")
    return value


def _unbounded_integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError("expected an integer")
    try:
        return int(_OCTAL_PREFIX.sub(r"\g<1>0o", text), 0)
    except ValueError:
        raise ValueError("expected an integer") from None


def parse_nano_cpus(text: str) -> int:
    """Parse a number of CPUs as ``--cpus`` takes it.

    Parameters
    ----------
    text : str
        A decimal number (``0.5``, ``5e-1``) or a quotient of integers (``1/2``).

    Returns
    -------
    int
        1e-9 CPU; negative values are returned as such.

    Raises
    ------
    ValueError
        If it is no such number, or finer than 1e-9 CPU.

    Notes
    -----
    Docker, ``opts.ParseCPUs``, on Go's ``big.Rat``. Hexadecimal fractions (``0x1p-1``) and
    exponents above 9999 are refused.

    Examples
    --------
    >>> parse_nano_cpus("0.5"), parse_nano_cpus("1/4")
    (500000000, 250000000)
    """
    accepted = "expected a number of CPUs such as 0.5 or 1/2"
    numerator, slash, denominator = text.partition("/")
    try:
        if slash and denominator[:1].isdecimal():
            cpus = Fraction(_unbounded_integer(numerator), _unbounded_integer(denominator))
        elif _RATIONAL.fullmatch(text):
            cpus = Fraction(text)
        else:
            cpus = Fraction(_unbounded_integer(text))
    except (ValueError, ZeroDivisionError):
        raise ValueError(accepted) from None
    nano = cpus * 1_000_000_000
    if nano.denominator != 1:
        raise ValueError(f"{accepted}, with at most 9 decimal places")
    return nano.numerator


def parse_boolean(text: str) -> bool:
    """Parse a boolean as Docker's options take it after ``=``.

    Raises
    ------
    ValueError
        If it is none of ``1 t T true TRUE True 0 f F false FALSE False``.

    Notes
    -----
    Go, ``strconv.ParseBool``.

    Examples
    --------
    >>> parse_boolean("true"), parse_boolean("0")
    (True, False)
    """
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError("expected true or false")


def parse_duration(text: str) -> float:
    """Parse a time span: plain seconds, or Go's duration grammar.

    Parameters
    ----------
    text : str
        ``90``, ``1.5``, ``500ms``, ``1h30m``; units ``ns us ms s m h``; a sign may come first.

    Returns
    -------
    float
        Seconds.

    Raises
    ------
    ValueError
        If it is neither, or does not fit a float.

    Notes
    -----
    Go, ``time.ParseDuration``; numbers without a unit are ours.

    Examples
    --------
    >>> parse_duration("90"), parse_duration("1m30s"), parse_duration("-500ms")
    (90.0, 90.0, -0.5)
    """
    try:
        if _FLOAT.fullmatch(text):
            seconds = float(text)
        elif _DURATION.fullmatch(text):
            terms = _DURATION_TERM.findall(text)
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in terms)
            seconds = -seconds if text[0] == "-" else seconds
        else:
            raise ValueError
    except ValueError:
        raise ValueError("expected seconds, or a duration such as 500ms or 1h30m") from None
    if seconds in (float("inf"), float("-inf")):
        raise ValueError("expected a duration that fits a float")
    return seconds


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Parse the kernel's list format of CPUs or memory nodes.

    Parameters
    ----------
    text : str
        Numbers and ascending ranges with commas between: ``0-1,3``.

    Returns
    -------
    tuple of int
        Ascending, without duplicates.

    Raises
    ------
    ValueError
        If it is no such list, is empty, or a number is 8192 or above.

    Notes
    -----
    cpuset(7), "List format".

    Examples
    --------
    >>> parse_cpu_list("0-1,3")
    (0, 1, 3)
    """
    numbers: set[int] = set()
    for item in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", item, re.ASCII)
        if match is None:
            raise ValueError("expected a list such as 0-1,3")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise ValueError("expected a list such as 0-1,3, its ranges ascending")
        if last >= _CPU_MAX:
            raise ValueError(f"expected a list of numbers below {_CPU_MAX}")
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def format_cpu_list(numbers: tuple[int, ...]) -> str:
    """Format ascending numbers in the kernel's list format.

    Examples
    --------
    >>> format_cpu_list((0, 1, 2, 5))
    '0-2,5'
    """
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def format_bytes(size: float) -> str:
    """Format a size in binary units, 4 significant digits, as ``docker stats`` prints memory.

    Parameters
    ----------
    size : float
        Bytes, >= 0.

    Notes
    -----
    go-units, ``BytesSize``.

    Examples
    --------
    >>> format_bytes(91435827), format_bytes(128 * 1024**2)
    ('87.2MiB', '128MiB')
    """
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = 0
    while size >= 1024 and power < len(units) - 1:
        size /= 1024
        power += 1
    return f"{size:.4g}{units[power]}"


def format_decimal_bytes(size: float) -> str:
    """Format a size in decimal units, 3 significant digits, as ``docker stats`` prints network and block I/O.

    Parameters
    ----------
    size : float
        Bytes, >= 0.

    Notes
    -----
    go-units, ``HumanSizeWithPrecision(size, 3)``, except that 999,900 is ``1MB`` where go-units
    prints ``1e+03kB``.

    Examples
    --------
    >>> format_decimal_bytes(1234), format_decimal_bytes(999_900)
    ('1.23kB', '1MB')
    """
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    power = 0
    while size >= 999.5 and power < len(units) - 1:
        size /= 1000
        power += 1
    return f"{size:.3g}{units[power]}"


def format_bit_rate(bytes_per_s: float) -> str:
    """Format a network's rate as tc(8) and ``--net-rate`` take it, 4 significant digits.

    Parameters
    ----------
    bytes_per_s : float
        Bytes per second, >= 0.

    Examples
    --------
    >>> format_bit_rate(1_250_000), format_bit_rate(1 << 20)
    ('10mbit', '8.389mbit')
    """
    bits, units = 8 * bytes_per_s, ("bit", "kbit", "mbit", "gbit", "tbit")
    power = 0
    while bits >= 1000 and power < len(units) - 1:
        bits /= 1000
        power += 1
    return f"{bits:.4g}{units[power]}"


def format_duration(seconds: float) -> str:
    """Format a time span for people, about 3 significant digits.

    Parameters
    ----------
    seconds : float
        Seconds, >= 0.

    Examples
    --------
    >>> format_duration(0.0123), format_duration(1.5), format_duration(125), format_duration(3725)
    ('12.3ms', '1.5s', '2m05s', '1h02m')
    """
    if not seconds:
        return "0s"
    for unit, scale in (("µs", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{seconds * scale:.3g}{unit}"
    if seconds < 59.95:
        return f"{seconds:.3g}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"
