"""As a program: exec beside cells, then ``ps`` with N detached containers; prints JSON.

Usage: ``python -m benchmarks.detached CONTAINERS ROUNDS GAP_SECONDS``. A process of its own, so that its end takes
the engine and all containers down whatever happened.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from .engine import run_once
from .program import answer
from .stats import BenchmarkError

IDLE_S = "3600"
EXEC, CELL, PS = "exec of sh in a running container", "sh in a fresh container", "ps with many containers"


def _timed(action: Callable[[], Any], gap_s: float) -> float:
    time.sleep(gap_s)
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(containers: int, rounds: int, gap_s: float) -> dict[str, list[float]]:
    """Time `EXEC`, `CELL` and `PS`, seconds, the first two interleaved.

    Raises
    ------
    BenchmarkError
        If a container does not start.
    """
    from jupyter_ns.frontend.commands import table
    from jupyter_ns.frontend.commands.console import Console

    first = run_once("sleep", IDLE_S, detach=True)
    seconds: dict[str, list[float]] = {EXEC: [], CELL: [], PS: []}
    for _ in range(rounds + 1):  # the first of each is not counted
        seconds[EXEC].append(_timed(lambda: first.exec("sh", "-c", "true"), gap_s))
        seconds[CELL].append(_timed(lambda: run_once("sh", "-c", "true"), gap_s))
    for _ in range(containers - 1):
        run_once("sleep", IDLE_S, detach=True)
    shown: list[dict[str, Any]] = []
    for _ in range(rounds + 1):
        seconds[PS].append(_timed(lambda: table.dispatch(Console(shown.append), ["ps"]), gap_s))
    if shown[-1]["text/plain"].count("\n") != containers:
        raise BenchmarkError(f"ps does not show {containers} containers")
    return {name: values[1:] for name, values in seconds.items()}


if __name__ == "__main__":
    sys.exit(answer(measure))
