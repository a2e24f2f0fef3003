"""Interleaved measurement, and the figures that are printed."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


class BenchmarkError(Exception):
    """A candidate could not be run; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One row to be: something that can be run once and timed.

    Attributes
    ----------
    name : str
        The row's name, unique in the report.
    run : callable or None
        Runs once and returns seconds; raises `BenchmarkError` if it failed. None: not there.
    missing : str
        Why it is not there, such as ``"not installed"``.
    note : str
        What a reader must know to compare the row fairly.
    """

    name: str
    run: Callable[[], float] | None = None
    missing: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What was measured of one candidate.

    Attributes
    ----------
    name, note : str
        As the candidate's.
    values : tuple of float
        In `unit`; empty if it could not be measured, and `missing` says why.
    unit : str
        ``ms``, ``kB`` or ``% of a core``.
    """

    name: str
    values: tuple[float, ...] = ()
    unit: str = "ms"
    missing: str = ""
    note: str = ""

    @property
    def median(self) -> float:
        """Median, in `unit`."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile, in `unit`."""
        if len(self.values) < 2:
            return self.median, self.median
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, third


def interleave(candidates: Iterable[Candidate], *, rounds: int, gap_s: float, warmup: int = 2) -> list[Series]:
    """Run candidates in turn, each once a round, with a pause before each run.

    The order within a round is drawn anew each time (with a fixed seed): the kernel takes network
    namespaces and cgroups of the run before down in the background, and a fixed order would charge
    that always to the same row.

    Parameters
    ----------
    candidates : iterable of Candidate
        Rows; those with ``missing`` set are passed on as such.
    rounds : int
        Runs kept of each.
    gap_s : float
        Pause before each run, seconds. Notebook cells come alone: back to back, RCU state and
        caches stay warm and some runtimes look twice as fast.
    warmup : int
        Runs of each that are not kept.

    Returns
    -------
    list of Series
        In the candidates' order; one that failed has no values and says why.
    """
    rows = list(candidates)
    values: dict[str, list[float]] = {row.name: [] for row in rows}
    failed: dict[str, str] = {row.name: row.missing for row in rows if row.run is None}
    draw = random.Random(0)
    for index in range(warmup + rounds):
        for row in draw.sample(rows, len(rows)):
            if row.run is None or row.name in failed:
                continue
            time.sleep(gap_s)
            try:
                seconds = row.run()
            except BenchmarkError as error:
                failed[row.name] = f"failed: {error}"
                continue
            if index >= warmup:
                values[row.name].append(seconds * 1e3)
    return [
        Series(
            name=row.name,
            values=() if row.name in failed else tuple(values[row.name]),
            missing=failed.get(row.name, ""),
            note=row.note,
        )
        for row in rows
    ]
