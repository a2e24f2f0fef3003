"""What is to be reached, as a table, and whether it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import commands, detached, engine, images, notebook, resident, scale
from .stats import Series


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One figure to reach.

    Attributes
    ----------
    text : str
        What is asked.
    row : str
        Name of the series that is judged, by its median.
    baseline : str
        Name of the series it is divided by; empty: the median itself is judged.
    at_most : float
        Largest acceptable ratio, or largest acceptable value in the row's unit.
    """

    text: str
    row: str
    baseline: str = ""
    at_most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A target with what was reached: None if it could not be measured, and `why_not` says why."""

    target: Target
    reached: float | None = None
    unit: str = ""
    why_not: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it was reached; None if not measured."""
        return None if self.reached is None else self.reached <= self.target.at_most


TARGETS: tuple[Target, ...] = (
    Target(
        text="shell cell with limits ÷ `%%bash true`",
        row=notebook.CONTAINER_LIMITS,
        baseline=notebook.BASH,
        at_most=1.0,
    ),
    Target(
        text="shell cell with limits ÷ `!docker run` (25× faster)",
        row=notebook.CONTAINER_LIMITS,
        baseline=notebook.DOCKER,
        at_most=1 / 25,
    ),
    Target(
        text="Python cell, numpy and pandas imported ÷ `%%bash true`",
        row=notebook.CONTAINER_PYTHON,
        baseline=notebook.BASH,
        at_most=1.2,
    ),
    Target(
        text="Python cell ÷ `!docker run … import pandas` (50× faster)",
        row=notebook.CONTAINER_PYTHON,
        baseline=notebook.DOCKER_PANDAS,
        at_most=1 / 50,
    ),
    Target(text="engine, request to result ÷ bwrap", row=engine.ON_DEMAND, baseline=commands.BWRAP, at_most=0.8),
    Target(text="engine ÷ crun", row=engine.ON_DEMAND, baseline=commands.CRUN, at_most=0.25),
    Target(text="engine ÷ C floor", row=engine.ON_DEMAND, baseline=resident.FLOOR_REAPED, at_most=1.5),
    Target(text="engine alone, parked, to reaped ÷ bwrap", row=engine.REAPED, baseline=commands.BWRAP, at_most=0.3),
    Target(text="engine alone, parked, to end heard ÷ bwrap", row=engine.HEARD, baseline=commands.BWRAP, at_most=0.3),
    Target(text="`run()`, parked ÷ bwrap", row=engine.PARKED, baseline=commands.BWRAP, at_most=0.3),
    Target(
        text="shell cell: kernel with a large heap ÷ empty kernel",
        row=scale.HEAP_FULL,
        baseline=scale.HEAP_EMPTY,
        at_most=1.1,
    ),
    Target(text="`%load_ext jupyter_ns`, ms", row=scale.LOAD_ROW, at_most=60.0),
    Target(text="sampling one container at 10 Hz, % of a core", row=scale.SAMPLING, at_most=0.5),
    Target(text="live widget at 5 Hz, % of a core", row=scale.WIDGET, at_most=2.0),
    Target(
        text="start beside many live containers ÷ first",
        row=scale.LIVE_LAST,
        baseline=scale.LIVE_FIRST,
        at_most=1.5,
    ),
    Target(text="engine memory per idle container, kB", row=scale.LIVE_MEMORY, at_most=200.0),
    Target(text="exec, as a cell ÷ `%%container sh`", row=notebook.EXEC, baseline=notebook.CONTAINER, at_most=1.2),
    Target(text="ps with many containers, ms", row=detached.PS, at_most=50.0),
    Target(text="load ÷ podman load", row=images.LOAD, baseline=images.PODMAN, at_most=1.0),
    Target(text="load ÷ skopeo copy", row=images.LOAD, baseline=images.SKOPEO, at_most=1.0),
    Target(text="last of many containers of an image ÷ first", row=images.LAST, baseline=images.FIRST, at_most=1.2),
)


def _median(rows: Mapping[str, Series], name: str) -> tuple[Series | None, str]:
    series = rows.get(name)
    if series is None:
        return None, f"{name}: not part of this run"
    if not series.values:
        return None, f"{name}: {series.missing}"
    return series, ""


def judge(rows: Mapping[str, Series]) -> list[Verdict]:
    """Compare what was measured with every target.

    Parameters
    ----------
    rows : mapping of str to Series
        By name.

    Returns
    -------
    list of Verdict
        One a target, in the table's order.
    """
    verdicts = []
    for target in TARGETS:
        series, why_not = _median(rows, target.row)
        baseline, no_baseline = _median(rows, target.baseline) if target.baseline else (None, "")
        if series is None or no_baseline:
            verdicts.append(Verdict(target=target, why_not=why_not or no_baseline))
        elif baseline is None:
            verdicts.append(Verdict(target=target, reached=series.median, unit=series.unit))
        else:
            verdicts.append(Verdict(target=target, reached=series.median / baseline.median, unit="×"))
    return verdicts
