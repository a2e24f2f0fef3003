"""How figures, names and states are worded on every card, in HTML and in plain text."""

from __future__ import annotations

import html
import signal
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..container import Container, OOMLimit
from ..units import format_bit_rate, format_bytes

# Between 4.2:1 and 4.6:1 on white as well as on JupyterLab's #111, so that one frozen card suits both.
GREEN, RED, AMBER, BLUE, GREY = "#23893c", "#d8413c", "#b36b00", "#2f7ed1", "#7a7a7a"

MUTED = "opacity:.72"
"""Style of secondary text: keeps the theme's own colour, above 4.5:1 in both themes."""


def clean(text: object) -> str:
    r"""Write out control, formatting and undecodable characters, which a container could put in a name.

    Examples
    --------
    >>> clean("a\x1b[31m\u202eb\udcff")
    'a\\x1b[31m\\u202eb\\udcff'
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def escape(text: object) -> str:
    """Make text from a container safe as HTML text or as an attribute's value."""
    return html.escape(clean(text), quote=True)


def count(number: int, noun: str) -> str:
    """Word a number of things.

    Examples
    --------
    >>> count(1, "change"), count(2, "change")
    ('1 change', '2 changes')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


class State(NamedTuple):
    """A container's state: a sign that needs no colour, its colour, and words."""

    mark: str
    colour: str
    words: str


_ALIVE = {
    "created": State("○", GREY, "created"),
    "running": State("●", GREEN, "running"),
    "paused": State("◐", AMBER, "paused"),
}
_REASONS = {
    "oom": State("✗", RED, "out of memory"),
    "timeout": State("✗", RED, "time limit reached"),
    "killed": State("✗", RED, "killed"),
    "interrupted": State("■", AMBER, "interrupted"),
}


def state(container: Container) -> State:
    """Describe the state of a container: its status, or how it ended and with which exit code."""
    if container.status in _ALIVE:
        return _ALIVE[container.status]
    code = container.exit_code
    if container.reason not in _REASONS:
        ended = "finished" if code is None else f"exit code {code}{_signal_note(code)}"
        return State("✗", RED, ended) if code else State("✓", GREEN, ended)
    known = _REASONS[container.reason]
    whose = f" at the limit of {limit_owner(container.oom_limit)}" if container.oom_limit is not None else ""
    note = "" if code is None else f", exit code {code}{_signal_note(code)}"
    return known._replace(words=known.words + whose + note)


def limit_owner(limit: OOMLimit) -> str:
    """Word whose limit it is: a group's, by the option that put the container there, or another cgroup's.

    Examples
    --------
    >>> limit_owner(OOMLimit("lab", 1 << 20))
    '--cgroup-parent lab'
    """
    return f"the cgroup {clean(limit.name)}" if limit.name.startswith("/") else f"--cgroup-parent {clean(limit.name)}"


def _signal_note(code: int) -> str:
    if not 128 < code < 193:
        return ""
    try:
        return f" ({signal.Signals(code - 128).name})"
    except ValueError:
        return ""


_LIMIT_LABELS = {
    "memory_bytes": "memory",
    "memory_swap_bytes": "memory + swap",
    "memory_reservation_bytes": "memory reservation",
    "nano_cpus": "CPUs",
    "pids_limit": "PIDs",
    "cpu_quota_us": "CPU quota",
    "cpu_period_us": "CPU period",
    "cpu_shares": "CPU shares",
    "cpuset_cpus": "CPUs allowed",
    "cpuset_mems": "memory nodes allowed",
    "hugetlb": "huge pages",
    "blkio_weight": "block I/O weight",
    "blkio_weight_device": "weight of a disk",
    "device_read_bps": "bytes/s read",
    "device_write_bps": "bytes/s written",
    "device_read_iops": "reads/s",
    "device_write_iops": "writes/s",
    "net_rate_bps": "network rate",
    "net_delay_us": "network delay",
    "net_loss_percent": "network loss, %",
    "device_rules": "devices",
}


def limit_label(name: str) -> str:
    """Word a field of `jupyter_ns.spec.Limits`.

    Examples
    --------
    >>> limit_label("memory_bytes"), limit_label("oom_kill_disable")
    ('memory', 'oom kill disable')
    """
    return _LIMIT_LABELS.get(name, clean(name).replace("_", " "))


def limit_value(name: str, value: Any) -> str:
    """Word a requested or effective limit; a value that is not a plain number stays as the kernel wrote it.

    Examples
    --------
    >>> limit_value("memory_bytes", "134217728"), limit_value("nano_cpus", 500_000_000)
    ('128MiB', '0.5')
    >>> limit_value("nano_cpus", "50000 100000"), limit_value("memory_swap_bytes", -1)
    ('50000 100000', 'unlimited')
    >>> limit_value("memory_swap_bytes", None)
    'default'
    >>> limit_value("net_rate_bps", 1_250_000)
    '10mbit'
    """
    if value is None:
        return "default"
    text = clean(value)
    if text == "-1":
        return "unlimited"
    if not text.isdecimal():
        return text
    if name.endswith("_bytes"):
        return format_bytes(int(text))
    if name == "net_rate_bps":
        return format_bit_rate(int(text))
    if name.endswith("_us"):
        return f"{text}µs"
    if name == "nano_cpus" and isinstance(value, int):
        return f"{value / 1e9:g}"
    return text


def aligned(rows: Iterable[Iterable[str]], indent: str = "  ") -> list[str]:
    """Lay out rows of text in columns, left-aligned and two blanks apart.

    Examples
    --------
    >>> aligned([("a", "1"), ("long", "2")])
    ['  a     1', '  long  2']
    """
    table = [list(row) for row in rows]
    columns = max((len(row) for row in table), default=0)
    widths = [max(len(row[i]) for row in table if i < len(row)) for i in range(columns)]
    return [
        (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))).rstrip()
        for row in table
    ]
