"""What a container used over time: a bounded series of samples, and the events among them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

SAMPLE_FIELDS = (
    "time_s",
    "cpu_s",
    "user_s",
    "system_s",
    "throttled_s",
    "throttled_periods",
    "memory_bytes",
    "cache_bytes",
    "swap_bytes",
    "pids",
    "read_bytes",
    "write_bytes",
    "read_operations",
    "write_operations",
    "received_bytes",
    "sent_bytes",
    "cpu_pressure_s",
    "memory_pressure_s",
    "io_pressure_s",
    "memory_limit_hits",
    "pids_limit_hits",
)
"""Fields of a sample, in order; the suffix is the unit.

``time_s`` counts from the container's start. Memory, cache, swap and pids are the amounts at that
moment; all others are counters that only grow. Received and sent are those of its own network, pressure is
the time that some task waited for the resource (PSI), a limit is hit when the kernel has to make room in
memory or refuse a fork. None: this host does not say.
"""

GAUGES = frozenset({"memory_bytes", "cache_bytes", "swap_bytes", "pids"})
"""Fields that are amounts and not counters."""

MOVED = "limit moved: "
"""How the event of a moved limit begins."""

Value = float | int | None
Sample = Mapping[str, Value] | Sequence[Value]

_TIME = SAMPLE_FIELDS.index("time_s")
_CPU = SAMPLE_FIELDS.index("cpu_s")
_THROTTLED = SAMPLE_FIELDS.index("throttled_s")
CUMULATIVE = tuple(i for i, name in enumerate(SAMPLE_FIELDS) if name not in GAUGES and name != "time_s")
"""Where in a sample counters stand."""

_LIMITS = {
    "throttled_periods": "throttle",
    "memory_limit_hits": "memory limit hit",
    "pids_limit_hits": "task limit hit",
}
_IS_GAUGE = tuple(name in GAUGES for name in SAMPLE_FIELDS)


class Usage:
    """A time series of samples that never holds more than `capacity` of them.

    When it is full, each two neighbours become one: of a counter the later value stays, of an
    amount the larger, so that peaks survive. Later samples are merged to the same, now halved,
    resolution. The first and the latest sample are always there.

    Parameters
    ----------
    capacity : int
        Most rows kept; even, at least 4.

    Attributes
    ----------
    events : list of (float, str)
        Seconds since the start and what happened, such as ``(2.4, "oom")``, ``(0.3, "throttle")``
        or ``(1.0, "limit moved: memory 64 MiB -> 128 MiB")``.

    Raises
    ------
    ValueError
        If the capacity is odd or too small.

    Examples
    --------
    >>> usage = Usage()
    >>> usage.append({"time_s": 0.0, "cpu_s": 0.0, "memory_bytes": 4096})
    >>> usage.append({"time_s": 0.5, "cpu_s": 0.25, "memory_bytes": 8192})
    >>> usage.cpu_percent
    [None, 50.0]
    >>> usage.peak("memory_bytes")
    8192
    """

    __slots__ = ("_filled", "_rows", "_stride", "capacity", "events")

    def __init__(self, capacity: int = 600) -> None:
        if capacity < 4 or capacity % 2:
            raise ValueError(f"capacity={capacity}: an even number, at least 4")
        self.capacity = capacity
        self.events: list[tuple[float, str]] = []
        self._rows: list[tuple[Value, ...]] = []
        self._stride = 1
        self._filled = 1  # samples in the last row; the first row is never merged, hence full

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        last = self.last("time_s")
        span = f", {last:.1f} s" if last is not None else ""
        return f"<Usage: {len(self)} samples{span}, {len(self.events)} events>"

    def append(self, sample: Sample) -> None:
        """Add a sample.

        Parameters
        ----------
        sample : mapping or sequence
            By field name (absent ones are None), or the values in the order of `SAMPLE_FIELDS`.

        Raises
        ------
        ValueError
            If ``time_s`` is missing, a field is unknown, or a sequence has the wrong length.
        """
        row = _row(sample)
        if len(self._rows) > 1 and self._filled < self._stride:
            self._rows[-1] = _merge(self._rows[-1], row)
            self._filled += 1
            return
        self._rows.append(row)
        self._filled = 1
        if len(self._rows) > self.capacity:
            self._thin()

    def extend(self, samples: Iterable[Sample]) -> None:
        """Add samples, oldest first."""
        for sample in samples:
            self.append(sample)

    def _thin(self) -> None:
        first, rest = self._rows[0], self._rows[1:]
        self._rows = [first, *(_merge(a, b) for a, b in zip(rest[::2], rest[1::2], strict=True))]
        self._filled += self._stride
        self._stride *= 2

    def column(self, field: str) -> list[Value]:
        """Return one field's values, oldest first.

        Raises
        ------
        ValueError
            If there is no such field.
        """
        if field not in SAMPLE_FIELDS:
            raise ValueError(f"field={field!r}: one of {', '.join(SAMPLE_FIELDS)}")
        index = SAMPLE_FIELDS.index(field)
        return [row[index] for row in self._rows]

    def peak(self, field: str) -> Value:
        """Return a field's largest sampled value; None if it was never known."""
        return max((v for v in self.column(field) if v is not None), default=None)

    def last(self, field: str) -> Value:
        """Return a field's latest known value; None if it was never known."""
        return next((v for v in reversed(self.column(field)) if v is not None), None)

    def copy(self) -> Usage:
        """Return an independent copy, to be read while another thread appends to the original."""
        twin = Usage(self.capacity)
        twin._rows, twin.events = self._rows[:], self.events[:]
        twin._stride, twin._filled = self._stride, self._filled
        return twin

    @property
    def cpu_percent(self) -> list[float | None]:
        """CPU time used since the sample before, percent of one CPU; None for the first sample."""
        rows = self._rows[:]
        percents: list[float | None] = [None] if rows else []
        for before, after in pairwise(rows):
            t0, t1, c0, c1 = before[_TIME], after[_TIME], before[_CPU], after[_CPU]
            if t0 is None or t1 is None or c0 is None or c1 is None or t1 <= t0:
                percents.append(None)
            else:
                percents.append(max(0.0, 100.0 * (c1 - c0) / (t1 - t0)))
        return percents

    def cpu_percent_over(self, window_s: float) -> list[float | None]:
        """Return the CPU time used in the `window_s` seconds before each sample, percent of one CPU.

        Smoother than `cpu_percent`, which a quota's period of 100 ms makes a saw-tooth. Early samples
        look back to the start; a stretch between two samples that is longer than the window is taken whole.
        """
        percents: list[float | None] = []
        known: deque[tuple[float, float]] = deque()
        for row in self._rows[:]:
            time_s, cpu_s = row[_TIME], row[_CPU]
            if time_s is None or cpu_s is None:
                percents.append(None)
                continue
            # The oldest kept is the last one before the window begins, or the first of all.
            while len(known) > 1 and time_s - known[1][0] >= window_s:
                known.popleft()
            elapsed_s = time_s - known[0][0] if known else 0.0
            percents.append(max(0.0, 100.0 * (cpu_s - known[0][1]) / elapsed_s) if elapsed_s > 0 else None)
            known.append((time_s, cpu_s))
        return percents

    @property
    def throttled_spans(self) -> list[tuple[float, float]]:
        """Stretches, start and end in seconds, between whose samples the CPU quota stopped the container."""
        rows = self._rows[:]
        known = any(row[_THROTTLED] is not None for row in rows)
        counter = _THROTTLED if known else SAMPLE_FIELDS.index("throttled_periods")
        spans: list[tuple[float, float]] = []
        for before, after in pairwise(rows):
            n0, n1, start, end = before[counter], after[counter], before[_TIME], after[_TIME]
            if n0 is None or n1 is None or n1 <= n0 or start is None or end is None:
                continue
            if spans and spans[-1][1] == start:
                start = spans.pop()[0]
            spans.append((start, end))
        return spans

    def rises(self, field: str) -> list[tuple[float, Value]]:
        """Return when a counter rose, and by how much: seconds since the start, amount since the sample before.

        Raises
        ------
        ValueError
            If there is no such field.
        """
        found: list[tuple[float, Value]] = []
        last: Value = 0
        for time, value in zip(self.column("time_s"), self.column(field), strict=True):
            if value is not None and time is not None:
                if value > (last or 0):
                    found.append((time, value - (last or 0)))
                last = value
        return found

    def note_limits(self) -> None:
        """Add an event for each limit that was hit: when first, and how often."""
        for field, what in _LIMITS.items():
            if self.last(field):
                rises = self.rises(field)
                times = sum(amount or 0 for _, amount in rises)
                self.events.append((rises[0][0], f"{what} ({times}×)"))
        self.events.sort(key=lambda event: event[0])

    @property
    def oom_times(self) -> list[float]:
        """When the memory limit killed something, seconds since the start."""
        return [time for time, text in self.events if text.lower().startswith("oom")]

    @property
    def hits(self) -> list[tuple[float, str]]:
        """When the limits of memory and tasks were first hit, seconds since the start; which one and how often."""
        whats = tuple(what for field, what in _LIMITS.items() if field != "throttled_periods")
        return [(time, text) for time, text in self.events if text.startswith(whats)]

    @property
    def moves(self) -> list[tuple[float, str]]:
        """When a limit was moved while it ran, seconds since the start, and in words from where to where."""
        return [(time, text.removeprefix(MOVED)) for time, text in self.events if text.startswith(MOVED)]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the series as columns: each of `SAMPLE_FIELDS`, ``cpu_percent``, and ``events``."""
        columns: dict[str, list[Any]] = {name: list(self.column(name)) for name in SAMPLE_FIELDS}
        return columns | {"cpu_percent": list(self.cpu_percent), "events": [list(e) for e in self.events]}

    def to_frame(self) -> Any:
        """Return the series as a `pandas.DataFrame`, indexed by ``time_s``; events are in its ``attrs``.

        Raises
        ------
        ModuleNotFoundError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as e:
            raise ModuleNotFoundError(
                "to_frame() needs pandas: run '%pip install pandas', or use to_dict()", name="pandas"
            ) from e
        columns = self.to_dict()
        events = columns.pop("events")
        frame = pd.DataFrame(columns).set_index("time_s")
        frame.attrs["events"] = events
        return frame

    def plot(self, ax: Any = None) -> Any:
        """Draw CPU use (left axis) and memory (right axis) over time with matplotlib.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes with the CPU curve; those with the memory curve share its time axis.

        Raises
        ------
        ModuleNotFoundError
            If matplotlib is not installed.
        """
        if ax is None:
            from matplotlib import pyplot as plt

            ax = plt.subplots(figsize=(6.4, 2.8), layout="constrained")[1]
        times = self.column("time_s")
        nan = float("nan")
        cpu = [nan if v is None else v for v in self.cpu_percent_over(0.5)]
        memory = [nan if v is None else v / 2**20 for v in self.column("memory_bytes")]
        lines = ax.plot(times, cpu, color="tab:blue", label="CPU")
        for start, end in self.throttled_spans:
            ax.axvspan(start, end, color="tab:orange", alpha=0.2, linewidth=0)
        for when in self.oom_times:
            ax.axvline(when, color="tab:red", linestyle=":")
            ax.annotate("OOM", (when, 1), xycoords=("data", "axes fraction"), ha="right", va="top")
        ax.set(xlabel="time (s)", ylabel="CPU (% of one)", ylim=(0, None))
        right = ax.twinx()
        lines += right.plot(times, memory, color="tab:green", linestyle="--", label="memory")
        right.set(ylabel="memory (MiB)", ylim=(0, None))
        ax.legend(handles=lines, loc="upper left", frameon=False)
        return ax


def _row(sample: Sample) -> tuple[Value, ...]:
    if isinstance(sample, Mapping):
        unknown = sample.keys() - set(SAMPLE_FIELDS)
        if unknown:
            raise ValueError(f"sample: unknown field {sorted(unknown)[0]!r}; one of {', '.join(SAMPLE_FIELDS)}")
        row = tuple(sample.get(name) for name in SAMPLE_FIELDS)
    else:
        row = tuple(sample)
    if len(row) != len(SAMPLE_FIELDS):
        raise ValueError(f"sample: {len(row)} values for {len(SAMPLE_FIELDS)} fields")
    if row[_TIME] is None:
        raise ValueError("sample: time_s is missing")
    return row


def _merge(earlier: tuple[Value, ...], later: tuple[Value, ...]) -> tuple[Value, ...]:
    merged: list[Value] = []
    for a, b, gauge in zip(earlier, later, _IS_GAUGE, strict=True):
        if a is None or b is None:
            merged.append(a if b is None else b)
        else:
            merged.append(max(a, b) if gauge else b)
    return tuple(merged)
