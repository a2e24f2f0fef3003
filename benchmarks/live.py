"""As a program: keep N idle containers, time starts before and beside them, print JSON.

Usage: ``python -m benchmarks.live CONTAINERS ROUNDS GAP_SECONDS``. A process of its own, so that
its end takes the engine and all containers down whatever happened.
"""

from __future__ import annotations

import os
import threading
import time

from .engine import LIMITS, run_once
from .processes import children, cpu_seconds, pss_kib
from .program import answer
from .stats import BenchmarkError

IDLE_S = 3600
START_TIMEOUT_S = 120.0
WATCH_S = 3.0


def _timed_starts(rounds: int, gap_s: float) -> list[float]:
    seconds = []
    for _ in range(rounds):
        time.sleep(gap_s)
        start = time.perf_counter()
        run_once("true", **LIMITS)
        seconds.append(time.perf_counter() - start)
    return seconds


def _sleeper(failures: list[str]) -> None:
    try:
        run_once("sleep", str(IDLE_S), **LIMITS)
    except BenchmarkError as error:
        failures.append(str(error))


def _idle_containers(engine: int) -> int:
    """Count the engine's children that run ``sleep``."""
    count = 0
    for pid in children(engine):
        try:
            with open(f"/proc/{pid}/comm") as f:
                count += f.read() == "sleep\n"
        except FileNotFoundError:
            continue
    return count


def _fill(engine: int, containers: int) -> None:
    failures: list[str] = []
    for number in range(containers):
        threading.Thread(target=_sleeper, args=(failures,), daemon=True).start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while _idle_containers(engine) <= number:
            if failures:
                raise BenchmarkError(f"container {number + 1}: {failures[0]}")
            if time.monotonic() > deadline:
                raise BenchmarkError(f"container {number + 1} did not start within {START_TIMEOUT_S:g} s")
            time.sleep(0.005)


def _cpu_percent(*pids: int) -> list[float]:
    """Return the CPU use of processes over `WATCH_S`, in percent of a core."""
    before = [(cpu_seconds(pid), time.perf_counter()) for pid in pids]
    time.sleep(WATCH_S)
    after = [(cpu_seconds(pid), time.perf_counter()) for pid in pids]
    return [(b - a) / (end - start) * 100 for (a, start), (b, end) in zip(before, after, strict=True)]


def measure(containers: int, rounds: int, gap_s: float) -> dict[str, object]:
    """Time starts beside no and beside `containers` idle ones; read the engine's memory.

    Raises
    ------
    BenchmarkError
        If the engine, or a container, does not start.
    """
    run_once("true", **LIMITS)
    engines = children(os.getpid())
    if len(engines) != 1:
        raise BenchmarkError(f"{len(engines)} child processes instead of one engine")
    engine = engines[0]
    first = _timed_starts(rounds, gap_s)
    before_kib = pss_kib(engine)
    _fill(engine, containers)
    last = _timed_starts(rounds, gap_s)
    grown_kib = pss_kib(engine) - before_kib
    engine_percent, client_percent = _cpu_percent(engine, os.getpid())
    return {
        "first_s": first,
        "last_s": last,
        "engine_cpu_percent": engine_percent,
        "client_cpu_percent": client_percent,
        "kib_per_container": grown_kib / containers,
    }


if __name__ == "__main__":
    code = answer(measure)
    # The sleepers' threads never return; the engine ends with this process.
    os._exit(code)
