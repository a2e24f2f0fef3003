"""Turn the end of a run into what the user sees: an exception, or nothing."""

from __future__ import annotations

import builtins
from typing import Any

from ..container import Container
from ..errors import (
    ContainerError,
    ContainerExitError,
    ContainerKilledError,
    ContainerOOMError,
    ContainerTimeoutError,
)
from ..runtime.channel import LOST
from ..units import format_bytes
from .words import limit_owner

SHOWN_OTHERWISE = (SystemExit, SyntaxError)
"""What IPython shows in a way of its own, whatever it renders itself as."""


class Interrupted(ContainerError, KeyboardInterrupt):
    """The stop button, or SIGINT, ended the container."""

    def __init__(self, message: str, container: Container) -> None:
        super().__init__(message)
        self.container = container


class CellError(ContainerError):
    """An exception that a Python cell raised in its container; shown as it was rendered there."""

    traceback: list[str]

    def _render_traceback_(self) -> list[str]:
        return self.traceback


def cell_error(body: dict[str, Any]) -> BaseException:
    """Build the exception for what the cell's shell reported: its type's name, message and traceback.

    If it names a built-in exception, ``except`` with that type catches it, but for those `SHOWN_OTHERWISE`.
    """
    name, message = str(body["ename"]), str(body["evalue"])
    lines = [str(line) for line in body["traceback"]]
    base = getattr(builtins, name, None)
    bases: tuple[type, ...] = (CellError,)
    if isinstance(base, type) and issubclass(base, BaseException) and not issubclass(base, SHOWN_OTHERWISE):
        bases = (CellError, base)
    try:
        error = type(name, bases, {"__module__": "builtins"})(message)
    except TypeError:  # such as UnicodeDecodeError, which wants five arguments
        error = type(name, (CellError,), {"__module__": "builtins"})(message)
    error.traceback = lines
    return error  # type: ignore[no-any-return]


def sparkline(values: list[Any], width: int = 40) -> str:
    """Draw a series in one line of text.

    Examples
    --------
    >>> sparkline([0, 1, 2, 4])
    '▁▃▅█'
    """
    numbers = [v for v in values if v is not None]
    if not numbers:
        return ""
    step = max(1, -(-len(numbers) // width))
    columns = [max(numbers[i : i + step]) for i in range(0, len(numbers), step)]
    top = max(columns) or 1
    return "".join("▁▂▃▄▅▆▇█"[round(7 * max(0, v) / top)] for v in columns)


def oom_message(c: Container) -> str:
    """Say what ran out, how it got there, and how to raise the limit."""
    limit = c.spec.limits.memory_bytes
    peak = format_bytes(c.peak_memory_bytes) if c.peak_memory_bytes is not None else "unknown"
    of = f" of {format_bytes(limit)} (--memory)" if limit else ""
    if c.oom_limit is not None:
        return _oom_above(c, peak)
    again = f"--memory {max(1, 2 * limit // (1 << 20))}m" if limit else "--memory"
    return (
        f"the container ran out of memory and was killed: peak {peak}{of} after {c.wall_seconds:.2f} s\n"
        f"{_memory_curve(c)}"
        "The notebook's kernel and its variables are untouched. "
        "What the container writes to files (outside -v) counts as memory too.\n"
        f"To allow more: {again}"
    )


def _memory_curve(c: Container) -> str:
    """Return a line with the curve; nothing where it was over before the first sample."""
    seen = [value for value in c.usage.column("memory_bytes") if value is not None]
    return f"memory {sparkline([*seen, c.peak_memory_bytes])}\n" if seen else ""


def _oom_above(c: Container, peak: str) -> str:
    """Say whose limit it was, where it was not the container's own."""
    assert c.oom_limit is not None
    own = c.spec.limits.memory_bytes
    own_text = f"its own limit is {format_bytes(own)} (--memory)" if own else "it has no limit of its own"
    return (
        "the container ran out of memory and was killed: "
        f"the limit of {limit_owner(c.oom_limit)}, {format_bytes(c.oom_limit.limit_bytes)}, was hit; "
        f"{own_text}. Peak {peak} after {c.wall_seconds:.2f} s\n"
        f"{_memory_curve(c)}"
        "The notebook's kernel and its variables are untouched.\n"
        "To allow more: give that cgroup more (`%cgroup` shows whose limit binds)"
    )


def _ended_by(c: Container) -> str:
    """Say how a cell ended that has told of no exception."""
    code = c.exit_code or 0
    what = f"signal {code - 128}" if c.reason == "killed" else f"exit code {code}"
    if code == LOST:
        what += (
            ", as does one that has closed descriptor 3 (os.close, os.closerange), on which what it shows and returns "
            "goes to the notebook"
        )
    return f"the cell's process ended by {what}; the notebook's kernel lives on"


def error_of(c: Container, *, raise_error: bool) -> BaseException | None:
    """Return the exception that a run's end calls for, or None.

    Parameters
    ----------
    c : Container
        As the run left it.
    raise_error : bool
        Whether a program's non-zero exit is one.
    """
    if c.reason == "oom":
        return ContainerOOMError(oom_message(c), c)
    if c.reason == "timeout":
        limit = c.spec.timeout_seconds
        return ContainerTimeoutError(f"the container was killed after --timeout {limit:g} s", c)
    if c.reason == "interrupted":
        return Interrupted("the container was interrupted", c)
    if c.spec.python:
        return ContainerKilledError(_ended_by(c), c) if c.exit_code else None
    if c.exit_code and raise_error:
        return ContainerExitError(c.exit_code, list(c.spec.command), c)
    return None
