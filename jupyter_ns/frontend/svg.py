"""The live plot: CPU, memory and PIDs over time in one small inline SVG, drawn without any library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..spec import Limits
from ..units import format_bytes, format_duration
from ..usage import Usage
from .words import AMBER, BLUE, RED, escape

WIDTH, HEIGHT = 720, 104
"""Pixels; scaled down with the page where that is narrower."""

_GAP, _TOP, _BOTTOM = 24, 36, 86
_PANEL = (WIDTH - 2 * _GAP) // 3
_POINTS, _OOM_MARKS, _MOVE_MARKS, _NARROW = 100, 3, 20, 3
# Bounds on what is drawn, so that the whole stays below 5 kB however long the run.


class Panel(NamedTuple):
    """One quantity over time.

    Attributes
    ----------
    title : str
        What is drawn.
    values : sequence of float or None
        One for each sample.
    figures : str
        The latest value and the limit, with their unit.
    line : float
        The limit, or the peak where there is no limit; what the axis is scaled to.
    line_label : str
        Says which of the two, with the unit.
    limited : bool
        Whether the line is a limit.
    peak_label : str
        The highest value sampled, with the unit.
    top : float
        Upper end of the axis; the lower one is 0.
    """

    title: str
    values: Sequence[float | None]
    figures: str
    line: float
    line_label: str
    limited: bool
    peak_label: str
    top: float


CPU_WINDOW_S = 0.5
"""What a point of the CPU curve looks back on: several periods of a quota."""


def panels(usage: Usage, limits: Limits) -> list[Panel]:
    """Arrange CPU, memory and PIDs for drawing, each with its limit or else its peak."""
    bandwidth = limits.cpu_bandwidth_us
    quota = 100.0 * bandwidth[0] / bandwidth[1] if bandwidth else None
    pids_limit = limits.pids_limit if limits.pids_limit and limits.pids_limit > 0 else None
    return [
        _panel("CPU", usage.cpu_percent_over(CPU_WINDOW_S), quota, 100.0, "{:.0f} %".format),
        _panel("Memory", usage.column("memory_bytes"), limits.memory_bytes, 2.0**20, format_bytes),
        _panel("PIDs", usage.column("pids"), pids_limit, 4.0, "{:.0f}".format),
    ]


def _panel(
    title: str,
    values: Sequence[float | None],
    limit: float | None,
    least: float,
    word: Callable[[float], str],
) -> Panel:
    known = [v for v in values if v is not None]
    peak = max(known, default=0.0)
    latest, highest = (word(known[-1]), word(peak)) if known else ("unknown", "unknown")
    if limit is None:
        return Panel(title, values, latest, peak, f"highest sample {highest}", False, highest, 1.25 * max(peak, least))
    # A quarter above the limit, so that a curve that runs along it is still told from the edge.
    top, label = max(1.25 * limit, 1.05 * peak), f"limit {word(limit)}"
    return Panel(title, values, f"{latest} of {word(limit)}", limit, label, True, highest, top)


def describe(usage: Usage, arranged: Sequence[Panel]) -> str:
    """Say in words what the plot shows now: figures, throttling, and out-of-memory events."""
    parts = [f"{panel.title} {panel.figures}" for panel in arranged]
    throttled = usage.last("throttled_s")
    if throttled:
        parts.append(f"throttled for {format_duration(throttled)}")
    parts += [f"{text} at {format_duration(when)}" for when, text in usage.moves[-_MOVE_MARKS:]]
    parts += [f"out of memory at {format_duration(when)}" for when in usage.oom_times[:_OOM_MARKS]]
    return "; ".join(parts)


def sparklines(usage: Usage, limits: Limits) -> str:
    """Draw CPU, memory and PIDs over time, each with its limit.

    Parameters
    ----------
    usage : Usage
        May grow meanwhile; what is drawn is a copy of it.
    limits : Limits
        Drawn as dashed lines where set.

    Returns
    -------
    str
        An ``<svg>`` element of at most 5 kB, in the page's own text colour, with its figures in
        ``aria-label``. Stretches in which the CPU quota stopped the container are shaded, the moment of an
        out-of-memory kill is a line with the word OOM.
    """
    usage = usage.copy()
    times = [float(t or 0.0) for t in usage.column("time_s")]
    end = max(times[-1] if times else 0.0, 1e-3)
    arranged = panels(usage, limits)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
        f' height="{HEIGHT}" style="max-width:100%;height:auto" role="img"'
        f' aria-label="{escape(describe(usage, arranged))}" fill="currentColor" font-size="12"'
        ' font-family="inherit">'
    ]
    columns = _columns(times, end)
    for index, panel in enumerate(arranged):
        left = index * (_PANEL + _GAP)
        parts.append(f'<g transform="translate({left})">')
        parts += _frame(panel, end)
        if panel.title == "CPU":
            parts += _throttling(usage, end)
        parts += [_move(when, end) for when, text in usage.moves[-_MOVE_MARKS:] if concerns(text, panel)]
        parts.append(_curve(panel, columns))
        if panel.title == "Memory":
            parts += [_oom(when, end) for when in usage.oom_times[:_OOM_MARKS]]
        parts.append("</g>")
    return "".join(parts) + "</svg>"


def _x(time: float, end: float) -> int:
    return round(_PANEL * min(time, end) / end)


def _y(value: float, top: float) -> int:
    return round(_BOTTOM - (_BOTTOM - _TOP) * value / top)


def _columns(times: Sequence[float], end: float) -> list[tuple[int, int, int]]:
    """Cut the samples into at most `_POINTS` slices of neighbours: first, one past the last, x in pixels."""
    number = len(times)
    slices = min(number, _POINTS)
    edges = [number * i // slices for i in range(slices + 1)] if slices else []
    return [(start, stop, _x(times[stop - 1], end)) for start, stop in pairwise(edges)]


def _frame(panel: Panel, end: float) -> list[str]:
    y = _y(panel.line, panel.top)
    dashes = "6 4" if panel.limited else "1 3"
    return [
        f'<text y="12"><tspan font-weight="600">{panel.title}</tspan> {panel.figures}</text>'
        f'<path d="M0 {_BOTTOM}H{_PANEL}" stroke="currentColor" opacity=".4"/>'
        f'<path d="M0 {y}H{_PANEL}" stroke="currentColor" stroke-dasharray="{dashes}" opacity=".7"/>'
        f'<g font-size="11" opacity=".75"><text y="{y - 4}">{panel.line_label}</text><text y="100">0 s</text>'
        f'<text x="{_PANEL}" y="100" text-anchor="end">{format_duration(end)}</text></g>'
    ]


def _throttling(usage: Usage, end: float) -> list[str]:
    bars: list[tuple[int, int]] = []
    for start, stop in usage.throttled_spans:
        left, right = _x(start, end), max(_x(stop, end), _x(start, end) + 1)
        if bars and left - bars[-1][1] <= _NARROW:
            left = bars.pop()[0]
        bars.append((left, right))
    if not bars:
        return []
    path = "".join(f"M{left} {_TOP}H{right}V{_BOTTOM}H{left}Z" for left, right in bars)
    total = usage.last("throttled_s")
    note = f"throttled {format_duration(total)}" if total else "throttled"
    return [
        f'<path d="{path}" fill="{AMBER}" opacity=".3"/>'
        f'<text x="{_PANEL}" y="28" font-size="11" text-anchor="end">'
        f'<tspan fill="{AMBER}">■</tspan> {note}</text>'
    ]


def _curve(panel: Panel, columns: Sequence[tuple[int, int, int]]) -> str:
    points: list[str] = []
    for start, stop, x in columns:
        known = [v for v in panel.values[start:stop] if v is not None]
        if known:
            points.append(f"{x} {_y(max(known), panel.top)}")
    if not points:
        return ""
    path = "L".join(points)
    return f'<path d="M{path}" fill="none" stroke="{BLUE}" stroke-width="1.5" stroke-linejoin="round"/>'


def concerns(text: str, panel: Panel) -> bool:
    """Whether a moved limit is one of this panel's."""
    return text.lower().startswith(panel.title.lower())


def _move(when: float, end: float) -> str:
    x = _x(when, end)
    return f'<path d="M{x} {_TOP}V{_BOTTOM}" stroke="{BLUE}" stroke-dasharray="2 2" opacity=".8"/>'


def _oom(when: float, end: float) -> str:
    x = _x(when, end)
    anchor = "end" if x > _PANEL / 2 else "start"
    return (
        f'<path d="M{x} {_TOP - 4}V{_BOTTOM}" stroke="{RED}" stroke-width="2"/>'
        f'<text x="{x}" y="28" font-size="11" font-weight="600" text-anchor="{anchor}" fill="{RED}">'
        "✗ OOM</text>"
    )
