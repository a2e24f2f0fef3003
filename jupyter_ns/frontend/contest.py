"""What is shown of containers that ran together: their output by name, one table, one picture."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Sequence
from typing import Any

from .. import together
from ..client import get_client
from ..container import Container
from ..errors import UsageError
from ..runner import Run, Sink
from ..units import format_bytes, format_duration
from .card import Bundle
from .outcome import error_of
from .svg import CPU_WINDOW_S
from .tables import HEAD, NUMBER, TABLE
from .words import GREY, aligned, clean, escape, state

_INCHES, _DPI = (9.0, 2.6), 100
_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive")


class NamedSink(Sink):
    """Prints whole lines with the container's name before each."""

    def __init__(self, name: str, lock: threading.Lock) -> None:
        self._name, self._lock = name, lock
        self._rest = {"stdout": "", "stderr": ""}

    def on_text(self, stream: str, text: str) -> None:
        """Print the lines that are complete."""
        *lines, self._rest[stream] = (self._rest[stream] + text).split("\n")
        self._print(stream, lines)

    def finish(self) -> None:
        """Print what ended without a line's end."""
        for stream, rest in self._rest.items():
            self._print(stream, [rest] if rest else [])

    def _print(self, stream: str, lines: Sequence[str]) -> None:
        out = sys.stdout if stream == "stdout" else sys.stderr
        with self._lock:
            out.write("".join(f"{self._name} │ {line}\n" for line in lines))
            out.flush()


def run_cell(shell: Any, words: Sequence[str], cell: str) -> list[Container]:
    """Run a cell of ``%%container together …``; leave the containers in ``_containers``.

    Raises
    ------
    UsageError
        If a line is not of the grammar, or one of the containers is a Python cell.
    ContainerError
        If one could not be built, or ended badly.
    """
    from .magics import parse_words

    options, program = together.split(words)
    requests = [parse_words([*own, *program]) for own in options]
    places = {request.on for request in requests}
    if len(places) > 1:
        raise UsageError("--on: expected the same for all, as they run in one kernel at the same time")
    if any(request.spec.python for request in requests):
        raise UsageError(f"{together.GRAMMAR}: expected a program, not options only: Python cells run one at a time")
    names = [request.spec.name or f"{i}" for i, request in enumerate(requests, start=1)]
    lock = threading.Lock()
    sinks = [NamedSink(name, lock) for name in names]
    client = get_client(places.pop())
    runs = [Run(client, request.spec, sink) for request, sink in zip(requests, sinks, strict=True)]
    containers = [run.container for run in runs]
    shell.user_ns["_containers"], shell.user_ns["_container"] = containers, containers[-1]
    together.run_together(runs, cell.encode())
    for sink in sinks:
        sink.finish()
    _show(shell, names, containers)
    for request, container in zip(requests, containers, strict=True):
        error = error_of(container, raise_error=request.raise_error)
        if error is not None:
            raise error
    return containers


def _show(shell: Any, names: Sequence[str], containers: Sequence[Container]) -> None:
    data, metadata = table(names, containers)
    if not hasattr(shell, "kernel"):
        print(data["text/plain"])
        return
    shell.display_pub.publish(data, metadata)
    png, alt = picture(names, containers)
    shell.display_pub.publish({"image/png": png, "text/plain": alt}, {"image/png": {"alt": alt}})


def _rows(names: Sequence[str], containers: Sequence[Container]) -> list[tuple[str, ...]]:
    total_s = sum(c.cpu_seconds for c in containers)
    rows: list[tuple[str, ...]] = [
        ("container", "ended", "wall time", "CPU time", "share of all CPU time", "throttled", "peak memory")
    ]
    for name, c in zip(names, containers, strict=True):
        share = f"{100 * c.cpu_seconds / total_s:.1f} %" if total_s else "–"
        peak = "unknown" if c.peak_memory_bytes is None else format_bytes(c.peak_memory_bytes)
        times = map(format_duration, (c.wall_seconds, c.cpu_seconds))
        rows.append((clean(name), state(c).words, *times, share, format_duration(c.throttled_seconds), peak))
    return rows


def table(names: Sequence[str], containers: Sequence[Container]) -> Bundle:
    """Set out side by side what each of them used."""
    head, *rows = _rows(names, containers)
    heads = "".join(f"<th {HEAD}>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td {NUMBER}>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    html = f'<table style="{TABLE}"><tr>{heads}</tr>{body}</table>'
    return {"text/html": html, "text/plain": "\n".join(aligned([head, *rows]))}, {}


def picture(names: Sequence[str], containers: Sequence[Container]) -> tuple[bytes, str]:
    """Draw the CPU use of all in one plot, and their memory in another.

    Returns
    -------
    png : bytes
    alt_text : str
        The shares in words.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    figure.patch.set_alpha(0.0)
    cpu, memory = figure.subplots(1, 2)
    for i, (name, c) in enumerate(zip(names, containers, strict=True)):
        style: dict[str, Any] = {"color": _COLOURS[i % len(_COLOURS)], "label": clean(name), "linewidth": 1.5}
        times = c.usage.column("time_s")
        cpu.plot(times, _numbers(c.usage.cpu_percent_over(CPU_WINDOW_S)), **style)
        memory.plot(times, [v / 2**20 for v in _numbers(c.usage.column("memory_bytes"))], **style)
    for axes, title in ((cpu, "CPU (% of one)"), (memory, "Memory (MiB)")):
        axes.patch.set_alpha(0.0)
        axes.set_title(title, loc="left", color=GREY, fontsize=11, fontweight="bold")
        axes.set_xlabel("time (s)", color=GREY, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.tick_params(colors=GREY, labelsize=9)
        for spine in axes.spines.values():
            spine.set_color(GREY)
        axes.legend(frameon=False, labelcolor=GREY, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    shares = "; ".join(f"{row[0]} used {row[3]} of CPU time, {row[4]} of all" for row in _rows(names, containers)[1:])
    return buffer.getvalue(), f"CPU and memory of containers that ran together, over time. {shares}."


def _numbers(values: Sequence[Any]) -> list[float]:
    return [float("nan") if v is None else v for v in values]
