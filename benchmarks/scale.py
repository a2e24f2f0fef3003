"""What must not grow: with the kernel's heap, with time, with the number of containers."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from . import detached as lifecycle
from .kernels import Kernel, kernel
from .notebook import LIMITS, LOAD
from .processes import available_bytes, children, cpu_seconds
from .stats import BenchmarkError, Candidate, Series, interleave

HEAP_EMPTY, HEAP_FULL = "%%container sh, empty kernel", "%%container sh, kernel with a large heap"
LOAD_ROW = "%load_ext jupyter_ns, fresh kernels"
SAMPLING, WIDGET = "engine's CPU, one container sampled at 10 Hz", "kernel's CPU, live widget at 5 Hz"
LIVE_FIRST, LIVE_LAST = "start beside no other container", "start beside the live containers"
LIVE_MEMORY = "engine's memory per idle container"
LIVE_ENGINE_CPU, LIVE_CLIENT_CPU = "engine's CPU, all of them idle", "client's CPU, all of them idle"
CELL = f"%%container {LIMITS} sh\ntrue"
BYTES_PER_OBJECT = 88
"""CPython on 64 bits: bytes(40) takes 33 + 40, rounded up to 80, and 8 in the list."""
TIMED_LOAD = (
    "import time as _time\n_start = _time.perf_counter()\n"
    "get_ipython().run_line_magic('load_ext', 'jupyter_ns')\nprint(_time.perf_counter() - _start)\n"
    # IPython only prints that a module is no extension.
    "assert 'jupyter_ns' in get_ipython().extension_manager.loaded, 'the extension did not load'"
)
SETTLE_S = 2.0
WATCH_S = 8.0


def _missing(names: tuple[str, ...], reason: object) -> list[Series]:
    return [Series(name=name, missing=str(reason)) for name in names]


def heap(*, gib: float, rounds: int, gap_s: float) -> list[Series]:
    """Compare the same cell in an empty kernel and in one full of small objects.

    Parameters
    ----------
    gib : float
        Size of the heap, GiB.
    rounds : int
        Runs kept of each.
    gap_s : float
        Pause before each run, seconds.
    """
    names = (HEAP_EMPTY, HEAP_FULL)
    wanted = int(gib * 1024**3)
    if wanted * 1.5 > available_bytes():
        return _missing(names, f"not enough memory for a heap of {gib:g} GiB; see --heap-gib")
    try:
        with kernel() as empty, kernel() as full:
            for shell in (empty, full):
                shell.run(LOAD)
            full.run(f"heap = [bytes(40) for _ in range({wanted // BYTES_PER_OBJECT})]")
            rows = [
                Candidate(name=HEAP_EMPTY, run=empty.timed(CELL)),
                Candidate(name=HEAP_FULL, run=full.timed(CELL), note=f"{gib:g} GiB of small objects"),
            ]
            return interleave(rows, rounds=rounds, gap_s=gap_s)
    except BenchmarkError as error:
        return _missing(names, f"failed: {error}")


def load(*, kernels: int) -> list[Series]:
    """Time ``%load_ext jupyter_ns`` inside fresh kernels, one after another.

    Parameters
    ----------
    kernels : int
        How many; one more warms the file system's cache.
    """
    seconds = []
    try:
        for _ in range(kernels + 1):
            with kernel() as shell:
                seconds.append(float(shell.run(TIMED_LOAD).stdout))
    except BenchmarkError as error:
        return _missing((LOAD_ROW,), f"failed: {error}")
    return [Series(name=LOAD_ROW, values=tuple(s * 1e3 for s in seconds[1:]), note="the magic alone")]


TICKING = "end=$(($(date +%s) + {:.0f})); while [ $(date +%s) -lt $end ]; do sleep 0.05; done"
"""Does next to nothing, but between any two samples: one that sleeps is sampled less often."""


def _watch_ticking_cell(shell: Kernel) -> list[Series]:
    shell.run(LOAD)
    shell.run(CELL)
    engines = children(shell.pid)
    if not engines:
        raise BenchmarkError("the kernel has no child process that could be the engine")
    start = time.perf_counter()
    request = shell.submit(f"%%container {LIMITS} sh\n{TICKING.format(SETTLE_S + WATCH_S + 3)}")
    time.sleep(SETTLE_S)
    before = [sum(map(cpu_seconds, engines)), cpu_seconds(shell.pid)]
    watched = time.perf_counter()
    time.sleep(WATCH_S)
    after = [sum(map(cpu_seconds, engines)), cpu_seconds(shell.pid)]
    elapsed = time.perf_counter() - watched
    shell.wait(request, start=start)
    shares = [(b - a) / elapsed * 100 for a, b in zip(before, after, strict=True)]
    return [
        Series(name=SAMPLING, values=(shares[0],), unit="% of a core", note="the engine process"),
        Series(name=WIDGET, values=(shares[1],), unit="% of a core", note="the whole kernel process"),
    ]


def sampling() -> list[Series]:
    """Watch the CPU time of engine and kernel while one container ticks."""
    try:
        with kernel() as shell:
            return _watch_ticking_cell(shell)
    except BenchmarkError as error:
        return _missing((SAMPLING, WIDGET), f"failed: {error}")


def live(*, containers: int, rounds: int, gap_s: float) -> list[Series]:
    """Start containers beside many idle ones, in a process of its own (`benchmarks.live`).

    Parameters
    ----------
    containers : int
        Idle containers kept running.
    rounds : int
        Starts timed with none, and with all of them.
    gap_s : float
        Pause before each timed start, seconds.
    """
    names = (LIVE_FIRST, LIVE_LAST, LIVE_MEMORY, LIVE_ENGINE_CPU, LIVE_CLIENT_CPU)
    argv = [sys.executable, "-m", "benchmarks.live", str(containers), str(rounds), str(gap_s)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return _missing(names, f"failed: {said[-1] if said else f'exit code {done.returncode}'}")
    answer = json.loads(done.stdout)
    beside = f"beside {containers} idle containers"
    return [
        Series(name=LIVE_FIRST, values=tuple(s * 1e3 for s in answer["first_s"])),
        Series(name=LIVE_LAST, values=tuple(s * 1e3 for s in answer["last_s"]), note=beside),
        Series(
            name=LIVE_MEMORY,
            values=(answer["kib_per_container"] * 1.024,),
            unit="kB",
            note="growth of its PSS",
        ),
        Series(name=LIVE_ENGINE_CPU, values=(answer["engine_cpu_percent"],), unit="% of a core", note=beside),
        Series(
            name=LIVE_CLIENT_CPU,
            values=(answer["client_cpu_percent"],),
            unit="% of a core",
            note="one thread a container takes the samples",
        ),
    ]


def detached(*, containers: int, rounds: int, gap_s: float) -> list[Series]:
    """Time what is asked of detached containers, in a process of its own (`benchmarks.detached`)."""
    names = (lifecycle.EXEC, lifecycle.CELL, lifecycle.PS)
    argv = [sys.executable, "-m", "benchmarks.detached", str(containers), str(rounds), str(gap_s)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return _missing(names, f"failed: {said[-1] if said else f'exit code {done.returncode}'}")
    answer = json.loads(done.stdout)
    return [Series(name=name, values=tuple(s * 1e3 for s in answer[name])) for name in names]
