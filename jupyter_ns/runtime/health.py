"""Health checks: a command is run inside a container again and again, and its exit codes are judged.

Notes
-----
As Docker's: the first check comes one interval after the start; failures in the start period do not count;
so many in a row make it unhealthy, one success makes it healthy.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ContainerError
from ..spec import ContainerSpec
from .ending import exit_code_of
from .entering import enter

if TYPE_CHECKING:
    from .entered import Entered
    from .registry import Record, Registry

MAX_RESULTS, MAX_OUTPUT_BYTES = 5, 4096
_DEFAULTS = {"interval": 30.0, "timeout": 30.0, "start_period": 0.0, "start_interval": 5.0}
_TIMED_OUT = -1


@dataclass(slots=True)
class Health:
    """What is known of one container's health.

    Attributes
    ----------
    status : str
        ``starting``, ``healthy`` or ``unhealthy``.
    streak : int
        Failures in a row.
    results : deque of (float, float, int, bytes)
        The latest checks: start and end (seconds since the epoch), exit code, output.
    """

    status: str = "starting"
    streak: int = 0
    results: deque[tuple[float, float, int, bytes]] = field(default_factory=lambda: deque(maxlen=MAX_RESULTS))


def seconds(spec: ContainerSpec, what: str) -> float:
    """Return one of the spans of time; 0 asks for the default."""
    return float(getattr(spec, f"health_{what}_seconds")) or _DEFAULTS[what]


def judge(health: Health, code: int, retries: int, *, starting: bool) -> str:
    """Take one check's exit code into account; return the new status where it has changed, else nothing.

    Examples
    --------
    >>> health = Health()
    >>> [judge(health, code, 2, starting=False) for code in (1, 1, 1, 0)]
    ['', 'unhealthy', '', 'healthy']
    """
    before = health.status
    if code == 0:
        health.streak, health.status = 0, "healthy"
    elif not (starting and before == "starting"):
        health.streak += 1
        if health.streak >= (retries or 3):
            health.status = "unhealthy"
    return health.status if health.status != before else ""


def begin(registry: Registry, record: Record) -> None:
    """Start checking a container that has just been started."""
    record.health = Health() if record.spec.health_cmd else None
    if record.health is not None:
        _next(registry, record)


def _starting(record: Record) -> bool:
    return time.time() - record.started_s < seconds(record.spec, "start_period")


def _next(registry: Registry, record: Record) -> None:
    health, process = record.health, record.process
    early = health is not None and health.status == "starting" and _starting(record)
    wait_s = seconds(record.spec, "start_interval" if early else "interval")
    registry.call_at(time.monotonic() + wait_s, lambda: _check(registry, record, process), process)


def _check(registry: Registry, record: Record, process: Any) -> None:
    if record.process is not process or not record.alive:
        return
    if record.state == "paused":
        _next(registry, record)
        return
    began = time.time()
    argv = ["/bin/sh", "-c", record.spec.health_cmd]
    try:
        made = enter(registry.engine, f"health-{record.id}", record, {"argv": argv, "python": False})
    except (ContainerError, OSError) as e:
        _finish(registry, record, (began, time.time(), 127, str(e).encode()))
        return
    made.attached, made.collected = False, bytearray()
    limit_s = seconds(record.spec, "timeout")

    def give_up() -> None:
        if made.state != "ended":
            made.reason = "timeout"
            made.kill("timeout")

    def ended(_: Entered) -> None:
        if record.process is not process or not record.alive:
            return
        text = bytes(made.collected or b"")[:MAX_OUTPUT_BYTES]
        code = exit_code_of(made)
        if made.reason == "timeout":
            code, text = _TIMED_OUT, f"Health check exceeded timeout ({limit_s:g}s)".encode()
        _finish(registry, record, (began, time.time(), code, text))

    made.on_end = ended
    registry.call_at(time.monotonic() + limit_s, give_up, made)


def _finish(registry: Registry, record: Record, result: tuple[float, float, int, bytes]) -> None:
    health = record.health
    if health is None:
        return
    health.results.append(result)
    changed = judge(health, result[2], record.spec.health_retries, starting=_starting(record))
    if changed:
        registry.event(record, f"health_status: {changed}")
    _next(registry, record)


def describe(record: Record) -> dict[str, Any]:
    """Return what the kernel is told of a container's health."""
    health = record.health
    if health is None:
        return {}
    return {
        "health": health.status,
        "failing_streak": health.streak,
        "health_log": [[a, b, code, text.decode(errors="replace")] for a, b, code, text in health.results],
    }
