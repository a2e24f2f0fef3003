"""Sliders on the live card that move a container's limits while it runs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from ..container import Container
from ..errors import ContainerError
from ..spec import Limits
from .words import RED, escape

MIB = 1 << 20
SMALLEST_MIB = 6
"""Docker's and our least ``--memory``."""


class Range(NamedTuple):
    """A limit that a slider moves: its keyword in `Container.update`, its words, how its values are shown and told."""

    keyword: str
    words: str
    value: Callable[[Limits], float | None]
    bounds: Callable[[float], tuple[float, float]]
    step: float
    readout: str
    told: Callable[[float], Any]
    exponential: bool = False
    """Whether the slider moves by factors of two, and `step` is one of their exponents."""


def _memory_mib(limits: Limits) -> float | None:
    return limits.memory_bytes / MIB if limits.memory_bytes else None


def _cpus(limits: Limits) -> float | None:
    bandwidth = limits.cpu_bandwidth_us
    return bandwidth[0] / bandwidth[1] if bandwidth else None


def _pids(limits: Limits) -> float | None:
    return limits.pids_limit if limits.pids_limit and limits.pids_limit > 0 else None


RANGES = (
    Range(
        keyword="memory",
        words="memory, MiB",
        value=_memory_mib,
        bounds=lambda mib: (max(SMALLEST_MIB, mib / 8), 8 * mib),
        step=0.25,
        readout=".0f",
        told=lambda mib: f"{round(mib)}m",
        exponential=True,
    ),
    Range(
        keyword="cpus",
        words="CPUs",
        value=_cpus,
        bounds=lambda cpus: (min(0.05, cpus), float(os.cpu_count() or 1)),
        step=0.05,
        readout=".2f",
        told=lambda cpus: round(cpus, 2),
    ),
    Range(
        keyword="pids_limit",
        words="PIDs",
        value=_pids,
        bounds=lambda pids: (1, 4 * pids),
        step=1,
        readout=".0f",
        told=round,
    ),
)


def sliders(container: Container) -> list[Any]:
    """Make a slider for each limit of memory, CPU and PIDs that was asked for, and a line for what goes wrong.

    Parameters
    ----------
    container : Container
        One that runs; a slider that is let go calls its `update`.

    Returns
    -------
    list of ipywidgets.Widget
        Empty if there is no such limit.
    """
    import ipywidgets

    said = ipywidgets.HTML()
    made = [_slider(container, limit, said) for limit in RANGES if limit.value(container.spec.limits) is not None]
    return [*made, said] if made else []


def _slider(container: Container, limit: Range, said: Any) -> Any:
    import ipywidgets

    now = limit.value(container.spec.limits)
    assert now is not None
    low, high = limit.bounds(now)
    common = {
        "value": now, "description": limit.words, "step": limit.step, "continuous_update": False,
        "readout_format": limit.readout, "style": {"description_width": "7em"},
    }  # fmt: skip
    if limit.exponential:
        slider = ipywidgets.FloatLogSlider(base=2, min=math.log2(low), max=math.log2(high), **common)
    else:
        slider = ipywidgets.FloatSlider(min=low, max=high, **common)

    def move(change: dict[str, Any]) -> None:
        try:
            container.update(**{limit.keyword: limit.told(change["new"])})
        except ContainerError as e:  # such as less memory than it holds: the limit stays where it was
            said.value = f'<span style="color:{RED}">{escape(str(e))}</span>'
        else:
            said.value = ""

    slider.observe(move, names="value")
    return slider


def words(container: Container) -> str:
    """Say how limits are moved where no slider can be driven; empty if none was asked for."""
    if all(limit.value(container.spec.limits) is None for limit in RANGES):
        return ""
    return "limits cannot be moved from this card: that takes ipykernel 7.1 or later"
