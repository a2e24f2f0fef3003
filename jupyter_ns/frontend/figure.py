"""The frozen plot: CPU, memory and PIDs over time as a PNG that suits light and dark pages."""

from __future__ import annotations

import io
import math
from typing import Any

from ..container import Container
from ..units import format_bytes
from ..usage import Usage
from .svg import Panel, concerns, describe, panels
from .words import AMBER, BLUE, GREY, RED, clean, state

_INCHES, _DPI = (9.0, 2.1), 100
_TITLES = {"CPU": "CPU (% of one)"}


def final_png(container: Container) -> tuple[bytes, str]:
    """Draw what a container used over its life.

    Parameters
    ----------
    container : Container
        Usually an ended one.

    Returns
    -------
    png : bytes
        Transparent, with mid-grey text; limits are dashed lines, throttled stretches are shaded,
        an out-of-memory kill is a line with the word OOM.
    alt_text : str
        The same in words.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is not installed.
    """
    # Not pyplot: it would take half a second to import, and the notebook's own figures are its business.
    from matplotlib.figure import Figure

    usage = container.usage.copy()
    arranged = panels(usage, container.spec.limits)
    figure = Figure(figsize=_INCHES, dpi=_DPI)
    figure.subplots_adjust(left=0.04, right=0.985, bottom=0.25, top=0.87, wspace=0.26)
    figure.patch.set_alpha(0.0)
    for axes, panel in zip(figure.subplots(1, len(arranged)), arranged, strict=True):
        _draw(axes, panel, usage)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    return buffer.getvalue(), _alt_text(container, usage, arranged)


def _alt_text(container: Container, usage: Usage, arranged: list[Panel]) -> str:
    name = clean(container.name or container.short_id)
    peaks = "; ".join(f"{panel.title}, highest sample {panel.peak_label}" for panel in arranged)
    return (
        f"CPU, memory and PIDs of container {name} over time ({state(container).words}). "
        f"{peaks}. At the end: {describe(usage, arranged)}."
    )


def _draw(axes: Any, panel: Panel, usage: Usage) -> None:
    nan = float("nan")
    times = usage.column("time_s")
    values = [nan if v is None else v for v in panel.values]
    axes.patch.set_alpha(0.0)
    axes.plot(times, values, color=BLUE, linewidth=1.5, marker="." if len(values) < 5 else "")
    axes.axhline(panel.line, color=GREY, linewidth=1, linestyle="--" if panel.limited else ":")
    axes.annotate(
        panel.line_label, (0.02, panel.line), (0, 5), xycoords=("axes fraction", "data"),
        textcoords="offset points", color=GREY, fontsize=9,
    )  # fmt: skip
    axes.set_ylim(0, panel.top)
    axes.set_xlim(0, usage.last("time_s") or 1.0)
    axes.set_title(_TITLES.get(panel.title, panel.title), loc="left", color=GREY, fontsize=11, fontweight="bold")
    axes.set_xlabel("time (s)", color=GREY, fontsize=10)
    axes.locator_params(axis="x", nbins=4)
    axes.locator_params(axis="y", nbins=4, integer=panel.title == "PIDs")
    axes.tick_params(colors=GREY, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)
    for when, text in usage.moves:
        if concerns(text, panel):
            axes.axvline(when, color=BLUE, linewidth=1, linestyle=":")
    if panel.title == "CPU":
        _throttling(axes, usage)
    if panel.title == "Memory":
        step = 2 ** math.ceil(math.log2(panel.top / 4))
        axes.set_yticks([i * step for i in range(1 + int(panel.top // step))])
        axes.yaxis.set_major_formatter(lambda amount, _position: format_bytes(amount))
        _out_of_memory(axes, usage)


def _throttling(axes: Any, usage: Usage) -> None:
    spans = usage.throttled_spans
    for start, end in spans:
        axes.axvspan(start, end, color=AMBER, alpha=0.25, linewidth=0)
    if spans:
        axes.set_title("▪ throttled", loc="right", color=AMBER, fontsize=10)


def _out_of_memory(axes: Any, usage: Usage) -> None:
    times = usage.oom_times
    for when in times:
        axes.axvline(when, color=RED, linewidth=2, clip_on=False)
    if times:
        axes.set_title("✗ OOM", loc="right", color=RED, fontsize=10, fontweight="bold")
