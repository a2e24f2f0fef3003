"""``stats``: Docker's columns and formulae, once or live with a small curve each."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ...lifecycle import ask, ask_all, check_interrupt, client_of, interruptible, wait_until
from ...units import format_bytes, format_decimal_bytes
from ...usage import SAMPLE_FIELDS
from ..outcome import sparkline
from .console import Console
from .grammar import Command, Flag, Parsed
from .html import html_table
from .text import formatted

INTERVAL_S = 1.0
CURVE = 40
HEADS = {
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
    "Container": "CONTAINER",
}
COLUMNS = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")
_CPU, _MEMORY, _PIDS, _READ, _WRITE = (
    SAMPLE_FIELDS.index(name) for name in ("cpu_s", "memory_bytes", "pids", "read_bytes", "write_bytes")
)


def cpu_percent(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    """Return CPU use between two samples as Docker counts: 100 is one CPU.

    Parameters
    ----------
    before, after : mapping
        Each with ``sample``, ``system_s`` (CPU time of the whole machine) and ``cpus``.

    Examples
    --------
    >>> one = {"sample": [0, 1.0], "system_s": 10.0, "cpus": 2}
    >>> cpu_percent(one, {"sample": [1, 1.5], "system_s": 12.0, "cpus": 2})
    50.0
    """
    used = (after["sample"][_CPU] or 0.0) - (before["sample"][_CPU] or 0.0)
    system = after["system_s"] - before["system_s"]
    return float(used / system * after["cpus"] * 100.0) if used > 0 and system > 0 else 0.0


def fields(before: Mapping[str, Any] | None, after: Mapping[str, Any], *, truncate: bool) -> dict[str, Any]:
    """Return a row as templates name its fields; without two samples of a running container, Docker's dashes."""
    base = {
        "ID": after["id"][:12] if truncate else after["id"],
        "Name": after["name"],
        "Container": after["name"],
    }
    if after["sample"] is None or before is None or before["sample"] is None:
        blank = {"CPUPerc": "0.00%", "MemUsage": "0B / 0B", "MemPerc": "0.00%", "PIDs": "0"}
        return base | blank | {"NetIO": "0B / 0B", "BlockIO": "0B / 0B"}
    sample = after["sample"]
    memory = sample[_MEMORY] or 0
    limit = min(after["memory_limit_bytes"] or after["host_memory_bytes"], after["host_memory_bytes"])
    received, sent = after["network"]
    return base | {
        "CPUPerc": f"{cpu_percent(before, after):.2f}%",
        "MemUsage": f"{format_bytes(memory)} / {format_bytes(limit)}",
        "MemPerc": f"{memory / limit * 100:.2f}%",
        "NetIO": f"{format_decimal_bytes(received)} / {format_decimal_bytes(sent)}",
        "BlockIO": f"{format_decimal_bytes(sample[_READ] or 0)} / {format_decimal_bytes(sample[_WRITE] or 0)}",
        "PIDs": str(sample[_PIDS] if sample[_PIDS] is not None else "--"),
    }


class _Curves:
    """The latest values of each container."""

    def __init__(self) -> None:
        self._cpu: dict[str, deque[float]] = {}
        self._memory: dict[str, deque[float]] = {}

    def take(self, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> tuple[str, str]:
        """Add what is new; return the curves of CPU and memory."""
        cpu = self._cpu.setdefault(after["id"], deque(maxlen=CURVE))
        memory = self._memory.setdefault(after["id"], deque(maxlen=CURVE))
        if before is not None and before["sample"] is not None and after["sample"] is not None:
            cpu.append(cpu_percent(before, after))
            memory.append(float(after["sample"][_MEMORY] or 0))
        return sparkline(list(cpu)), sparkline(list(memory))


def _sample(given: Parsed) -> list[dict[str, Any]]:
    if not given.arguments:
        return ask_all("stats", of=[], everything=bool(given.get("all")))
    return [row for of in given.arguments for row in ask("stats", client=client_of(of), of=[of], everything=True)]


def run_stats(console: Console, given: Parsed) -> None:
    """Show what containers use: once with --no-stream, else until an interrupt."""
    truncate = not given.get("no_trunc")
    before = {one["id"]: one for one in _sample(given)}
    if given.get("no_stream"):
        _pause(INTERVAL_S)
        rows = [fields(before.get(one["id"]), one, truncate=truncate) for one in _sample(given)]
        _print(console, given, rows)
        return
    curves = _Curves()
    handle: Any = None
    try:
        while True:
            _pause(INTERVAL_S)
            after = _sample(given)
            rows = [fields(before.get(one["id"]), one, truncate=truncate) for one in after]
            lines = [curves.take(before.get(one["id"]), one) for one in after]
            before = {one["id"]: one for one in after}
            if console.rich and not given.get("format"):
                handle = console.update(handle, _table_text(rows), _live_html(rows, lines))
            else:
                _print(console, given, rows)
            if given.arguments and all(one["sample"] is None for one in after):
                return
    except KeyboardInterrupt:
        return  # the usual way to end it


def _pause(seconds: float) -> None:
    until = time.monotonic() + seconds
    with interruptible() as wake:
        wait_until(until, wake)
        check_interrupt(wake)


def _table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    return formatted("", rows, HEADS, "\t".join(f"{{{{.{c}}}}}" for c in COLUMNS))


def _print(console: Console, given: Parsed, rows: Sequence[Mapping[str, Any]]) -> None:
    form = given.get("format", "")
    if form in ("", "table"):
        html = html_table([HEADS[c] for c in COLUMNS], [[row[c] for c in COLUMNS] for row in rows])
        console.table(_table_text(rows), html)
    else:
        console.write(formatted(form, rows, HEADS, ""))


def _live_html(rows: Sequence[Mapping[str, Any]], curves: Sequence[tuple[str, str]]) -> str:
    heads = [HEADS[c] for c in COLUMNS]
    cells = [[*(row[c] for c in COLUMNS), *lines] for row, lines in zip(rows, curves, strict=True)]
    return html_table([*heads, "CPU", "MEMORY"], cells)


STATS = Command(
    name="stats",
    usage="[OPTIONS] [CONTAINER…]",
    help="Show what containers use, live",
    run=run_stats,
    flags=(
        Flag(flags=("-a", "--all"), help="Show all containers, not just running ones"),
        Flag(flags=("--format",), help="table, table TEMPLATE, json or a Go template", metavar="FORMAT"),
        Flag(flags=("--no-stream",), help="Show it once"),
        Flag(flags=("--no-trunc",), help="Do not cut IDs"),
    ),
)
