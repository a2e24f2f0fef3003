"""Right-sizing: which limits a run would have done with, from what it used. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from .container import Container
from .units import format_bytes
from .usage import Usage

MARGIN = 1.1
"""What is suggested is this much above what was used."""
MIB = 1 << 20
SMALLEST_BYTES = 6 * MIB
"""Docker's and our least ``--memory``."""
SHORT_S = 0.5
"""A shorter run says too little about its use of CPU."""
SELDOM = 0.01
"""Throttled for less than this share of the time is as good as never."""


class Sizing(NamedTuple):
    """What a run used of its limits, and which would have done; each an empty string where nothing can be said.

    Attributes
    ----------
    used : str
        In words, such as ``peak 87MiB of 128MiB, 0.5 CPU throttled 62 % of the time``.
    options : str
        Such as ``--mem 96m --cpus 1``.
    unknown : str
        What the run cannot tell.
    """

    used: str = ""
    options: str = ""
    unknown: str = ""

    def __str__(self) -> str:
        would = f"{self.options} would have done" if self.options else ""
        return "; ".join(part for part in (self.used, would, self.unknown) if part)


STOPPED = frozenset(("interrupted", "killed", "timeout"))
"""Reasons of an end that came from outside."""


def right_size(container: Container, host_cpus: int) -> Sizing:
    """Say which limits a run would have done with.

    Parameters
    ----------
    container : Container
        An ended run.
    host_cpus : int
        CPUs that the host has, above which no limit makes sense.

    Returns
    -------
    Sizing
        It speaks of this run only: another input may need more.

    Notes
    -----
    Memory comes from the kernel's own high-water mark, which counts file pages too, and those it would have
    given back. Time that a quota took away is not demand: how fast the run would have been is known only
    where the quota stopped it for a part of the time.
    """
    parts = (_memory(container), _cpu(container, host_cpus))
    used = ", ".join(part.used for part in parts if part.used)
    if container.reason in STOPPED:
        return Sizing(used=used, options="", unknown="it was stopped, so what it would have needed is not known")
    return Sizing(
        used=used,
        options=" ".join(part.options for part in parts if part.options),
        unknown="; ".join(part.unknown for part in parts if part.unknown),
    )


def _memory(container: Container) -> Sizing:
    peak, limit = container.peak_memory_bytes, container.spec.limits.memory_bytes
    if not peak:
        return Sizing()
    used = f"peak {format_bytes(peak)}" + (f" of {format_bytes(limit)}" if limit else "")
    if container.reason == "oom":
        return Sizing(used, unknown="how much memory it would have taken is not known, for the limit ended it")
    cache = container.usage.peak("cache_bytes") or 0
    unknown = ""
    if limit and peak > 0.95 * limit:
        unknown = "it filled its memory: what it would have used of more is not known"
    elif cache > peak / 4:
        unknown = f"up to {format_bytes(cache)} of that held files, some of which it could have done without"
    suggested = memory_step(max(SMALLEST_BYTES, round(peak * MARGIN)))
    if limit and suggested >= limit:
        suggested = limit
    return Sizing(used, f"--mem {suggested // MIB}m", unknown)


def memory_step(size_bytes: int) -> int:
    """Round up to a figure that people write: eighths of a power of two, whole MiB.

    Examples
    --------
    >>> [memory_step(n * MIB) // MIB for n in (6, 87, 96, 97, 700)]
    [6, 88, 96, 104, 704]
    """
    mib = -(-size_bytes // MIB)
    step = 1 << max(0, mib.bit_length() - 4)
    return -(-mib // step) * step * MIB


def _cpu(container: Container, host_cpus: int) -> Sizing:
    wall_s, cpu_s, stopped_s = container.wall_seconds, container.cpu_seconds, container.throttled_seconds
    bandwidth = container.spec.limits.cpu_bandwidth_us
    if wall_s < SHORT_S:
        return Sizing()
    limit = bandwidth[0] / bandwidth[1] if bandwidth else None
    if limit is None or stopped_s < SELDOM * wall_s:
        peak = max(_fastest(container.usage), cpu_s / wall_s)
        used = f"at most {peak:.2g} CPU at a time" + (f" of {limit:g}" if limit else "")
        suggested = min(cpu_step(peak * MARGIN), limit or math.inf, host_cpus)
        return Sizing(used, f"--cpus {suggested:g}")
    share = min(1.0, stopped_s / wall_s)
    used = f"{limit:g} CPU throttled {100 * share:.0f} % of the time"
    wanted = cpu_s / (wall_s - stopped_s) if stopped_s < 0.95 * wall_s else math.inf
    if wanted > host_cpus:
        # Several threads were stopped at once, and the kernel adds up their time.
        return Sizing(used, unknown="how much CPU it would have taken is not known, except that it is more")
    return Sizing(used, f"--cpus {min(cpu_step(wanted), host_cpus):g}")


def _fastest(usage: Usage) -> float:
    """Return the most CPU used over any stretch of `SHORT_S`; single samples are too short to tell."""
    rates = zip(usage.column("time_s"), usage.cpu_percent_over(SHORT_S), strict=True)
    return max(
        (rate / 100 for time, rate in rates if rate is not None and time is not None and time >= SHORT_S), default=0
    )


def cpu_step(cpus: float) -> float:
    """Round up to tenths of a CPU.

    Examples
    --------
    >>> cpu_step(0.97), cpu_step(0.02)
    (1.0, 0.1)
    """
    return max(0.1, math.ceil(round(cpus * 10, 3)) / 10)
