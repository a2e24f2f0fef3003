"""Assertions about a run: ``%expect oom``, ``%expect cpu < 55%``, ``%expect peak_memory <= 128m``.

Notes
-----
Grammar: ``[not] EVENT``, or ``FIGURE OPERATOR VALUE``. Pure: reads a `Container`, prints nothing.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from .container import REFUSED, Container
from .errors import ExpectationError, UnsupportedError, UsageError
from .units import format_bytes, format_duration, parse_duration, parse_size

_COMPARISON = re.compile(r"\s*(\w+)\s*(<=|>=|==|!=|=|<|>)\s*(.+?)\s*")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}


class Figure(NamedTuple):
    """A measured figure: how to get it, how its values are read and written, and what it is."""

    get: Callable[[Container], float | int | None]
    parse: Callable[[str], float | int]
    format: Callable[[float], str]
    help: str


def _percent(text: str) -> float:
    return float(text.removesuffix("%"))


def _format_percent(value: float) -> str:
    return f"{value:.1f} %"


def _share(seconds: float, wall_seconds: float) -> float | None:
    return 100 * seconds / wall_seconds if wall_seconds > 0 else None


FIGURES: dict[str, Figure] = {
    "cpu": Figure(
        lambda c: _share(c.cpu_seconds, c.wall_seconds), _percent, _format_percent, "CPU time, percent of one CPU"
    ),
    "cpu_seconds": Figure(lambda c: c.cpu_seconds, parse_duration, format_duration, "CPU time"),
    "throttled": Figure(
        lambda c: _share(c.throttled_seconds, c.wall_seconds),
        _percent,
        _format_percent,
        "time stopped by the CPU quota, percent of the wall time",
    ),
    "wall": Figure(lambda c: c.wall_seconds, parse_duration, format_duration, "wall time"),
    "peak_memory": Figure(lambda c: c.peak_memory_bytes, parse_size, format_bytes, "highest memory use"),
    "pids": Figure(lambda c: c.usage.peak("pids"), int, "{:g}".format, "most tasks seen at once"),
    "exit_code": Figure(lambda c: c.exit_code, int, "{:g}".format, "exit code, as Docker's"),
    "changes": Figure(lambda c: len(c.changes), int, "{:g}".format, "files added, changed or deleted"),
}
EVENTS: dict[str, tuple[Callable[[Container], bool], str]] = {
    "ok": (lambda c: c.reason == "exited" and c.exit_code == 0, "ended by itself, with exit code 0"),
    "error": (lambda c: c.exit_code != 0, "ended with another exit code than 0"),
    "oom": (lambda c: c.reason == "oom", "was ended by its memory limit"),
    "timeout": (lambda c: c.reason == "timeout", "was ended by --timeout"),
    "killed": (lambda c: c.reason == "killed", "was killed by a signal"),
    "interrupted": (lambda c: c.reason == "interrupted", "was interrupted"),
    "throttled": (lambda c: c.throttled_seconds > 0, "was stopped by its CPU quota at times"),
}


def help_text() -> str:
    """List the events and figures, one a line."""
    rows = [(name, what) for name, (_, what) in EVENTS.items()]
    figures = [(name, figure.help) for name, figure in FIGURES.items()]
    lines = ["%expect [not] EVENT", *(f"  {name:<12} the container {what}" for name, what in rows)]
    lines += ["%expect FIGURE < | <= | == | != | >= | > VALUE", *(f"  {name:<12} {what}" for name, what in figures)]
    return "\n".join(lines)


def expect(container: Container, condition: str) -> str:
    """Check one condition on an ended run.

    Parameters
    ----------
    container : Container
        The run.
    condition : str
        Such as ``oom``, ``not timeout``, ``cpu < 55%`` or ``peak_memory <= 128m``.

    Returns
    -------
    str
        One line that says what held, with the figure.

    Raises
    ------
    UsageError
        If the condition is not of the grammar, or the run has not ended.
    ExpectationError
        If it does not hold, or the figure is not known on this host.
    UnsupportedError
        If nothing ran, as this machine cannot.

    Examples
    --------
    >>> from jupyter_ns.spec import ContainerSpec
    >>> ended = Container(id="0" * 64, spec=ContainerSpec(), status="exited", exit_code=0, reason="exited")
    >>> expect(ended, "exit_code == 0")
    '✓ exit_code == 0: it is 0'
    """
    if container.status != "exited":
        raise UsageError(f"the container {container.name} is {container.status}: expected one that has ended")
    if container.reason == REFUSED:
        raise UnsupportedError(f"%expect {condition.strip()}: not checked, as the run before was refused")
    text = condition.strip()
    words = text.split()
    negated = words[:1] == ["not"]
    name = " ".join(words[1:] if negated else words)
    if name in EVENTS:
        return _event(container, text, name, wanted=not negated)
    match = _COMPARISON.fullmatch(text)
    if match is None or match[1] not in FIGURES:
        raise UsageError(
            f"{text!r}: expected [not] one of {', '.join(EVENTS)}; or one of {', '.join(FIGURES)}, "
            "an operator (< <= == != >= >) and a value"
        )
    return _figure(container, text, *match.groups())


def _event(container: Container, text: str, name: str, *, wanted: bool) -> str:
    happened, what = EVENTS[name]
    if happened(container) is wanted:
        return f"✓ {text}: the container {what}" if wanted else f"✓ {text}: {_end(container)}"
    raise ExpectationError(f"expected {text}, but {_end(container)}")


def _end(container: Container) -> str:
    return f"it ended with exit code {container.exit_code}, reason {container.reason}"


def _figure(container: Container, text: str, name: str, sign: str, value: str) -> str:
    figure = FIGURES[name]
    try:
        bound = figure.parse(value)
    except ValueError as e:
        raise UsageError(f"{text!r}: {value!r} is no value of {name}: {e}") from None
    actual = figure.get(container)
    if actual is None:
        raise ExpectationError(f"expected {text}, but this host does not say: {figure.help}")
    if not _OPERATORS[sign](actual, bound):
        raise ExpectationError(f"expected {text}, but it is {figure.format(actual)}")
    return f"✓ {text}: it is {figure.format(actual)}"
