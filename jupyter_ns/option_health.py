"""Options about health checks: a command that is run inside again and again."""

from __future__ import annotations

from . import units
from .option_types import Option, boolean, integer, plain


def _span(text: str) -> float:
    """Parse a span of time as ``--health-interval`` takes it: 0 is the default, else at least a millisecond."""
    seconds = units.parse_duration(text)
    if seconds < 0 or 0 < seconds < 0.001:
        raise ValueError("expected 0, or 1ms and more")
    return seconds


def _option(name: str, help: str, default: str) -> Option:
    return Option(
        flags=(f"--health-{name}",),
        help=help,
        group="Health",
        sets=f"spec.health_{name.replace('-', '_')}_seconds",
        parse=plain(_span),
        metavar="DURATION",
        unit="seconds",
        default=default,
    )


HEALTH: tuple[Option, ...] = (
    Option(
        flags=("--health-cmd",),
        help="Command that a shell inside runs to see whether it is healthy: exit code 0",
        group="Health",
        sets="spec.health_cmd",
        metavar="COMMAND",
    ),
    _option("interval", "Time between two checks", "30s"),
    _option("timeout", "Time after which a check has failed", "30s"),
    Option(
        flags=("--health-retries",),
        help="Failures in a row that make it unhealthy",
        group="Health",
        sets="spec.health_retries",
        parse=integer(0, 2**31 - 1),
        metavar="NUMBER",
        default="3",
    ),
    _option("start-period", "Time to start, in which a failure does not count", "0s"),
    _option("start-interval", "Time between two checks while it starts", "5s"),
    Option(
        flags=("--no-healthcheck",),
        help="No health check, not the image's either",
        group="Health",
        sets="spec.no_healthcheck",
        parse=boolean,
    ),
)
