"""How Docker words times and lays out columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from .templates import compile_template, to_json

MIN_WIDTH, PADDING = 10, 3
TOP_WIDTH = 20
"""The least width that ``docker top`` has."""


def tabulate(lines: Sequence[str], min_width: int = MIN_WIDTH) -> str:
    """Align columns, which tabs separate, as Docker's tables are.

    Notes
    -----
    Go, text/tabwriter with minwidth 10 and padding 3.

    Examples
    --------
    >>> tabulate(["A\\tB", "long content here\\tb"])
    'A                   B\\nlong content here   b\\n'
    """
    rows = [line.split("\t") for line in lines]
    count = max((len(row) for row in rows), default=1) - 1
    widths = [max([min_width, *(len(row[i]) + PADDING for row in rows if i < len(row) - 1)]) for i in range(count)]
    return "".join(
        "".join(cell.ljust(widths[i]) if i < len(row) - 1 else cell for i, cell in enumerate(row)) + "\n"
        for row in rows
    )


def formatted(form: str, rows: Sequence[Mapping[str, Any]], heads: Mapping[str, str], default: str) -> str:
    """Print rows by ``--format``: ``table [TEMPLATE]``, ``json`` or a template.

    Parameters
    ----------
    form : str
        As the user gave it; empty for ``table``.
    rows : sequence of mapping
        Fields by their names in templates.
    heads : mapping
        Field to column head.
    default : str
        The table's own template.
    """
    if form == "json":
        return "".join(to_json(dict(row)) + "\n" for row in rows)
    if form in ("", "table") or form.startswith("table "):
        template = form.removeprefix("table").strip() or default
        fill = compile_template(template)
        return tabulate([fill(heads), *map(fill, rows)])
    return _lines(compile_template(form), rows)


def _lines(fill: Callable[[Any], str], rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(fill(row) + "\n" for row in rows)


def at(ip: str, port: int) -> str:
    """Write an address and a port.

    Examples
    --------
    >>> at("127.0.0.1", 80), at("::1", 80)
    ('127.0.0.1:80', '[::1]:80')
    """
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def human_duration(seconds: float) -> str:
    """Word a span of time.

    Notes
    -----
    go-units, ``HumanDuration``.

    Examples
    --------
    >>> human_duration(0.5), human_duration(5), human_duration(90), human_duration(7200)
    ('Less than a second', '5 seconds', 'About a minute', '2 hours')
    """
    whole, minutes, hours = int(seconds), int(seconds / 60), int(seconds / 3600 + 0.5)
    table: tuple[tuple[bool, str], ...] = (
        (whole < 1, "Less than a second"),
        (whole == 1, "1 second"),
        (whole < 60, f"{whole} seconds"),
        (minutes == 1, "About a minute"),
        (minutes < 60, f"{minutes} minutes"),
        (hours == 1, "About an hour"),
        (hours < 48, f"{hours} hours"),
        (hours < 24 * 7 * 2, f"{hours // 24} days"),
        (hours < 24 * 30 * 2, f"{hours // 24 // 7} weeks"),
        (hours < 24 * 365 * 2, f"{hours // 24 // 30} months"),
    )
    return next((words for fits, words in table if fits), f"{int(seconds / 3600) // 24 // 365} years")


def rfc3339(seconds: float) -> str:
    """Format a time as Docker's JSON has it, UTC with nanoseconds; 0 is Go's zero time.

    Examples
    --------
    >>> rfc3339(1.5), rfc3339(0)
    ('1970-01-01T00:00:01.500000000Z', '0001-01-01T00:00:00Z')
    """
    if not seconds:
        return "0001-01-01T00:00:00Z"
    whole = int(seconds)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{int((seconds - whole) * 1e9):09d}Z"
