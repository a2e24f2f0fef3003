"""What options contradict each other, as Docker's daemon checks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import units
from .errors import UsageError
from .option_types import Option, RunRequest
from .security import sysctls

Given = Mapping[str, tuple[Option, str]]
"""An option's name to its row and the flag that was typed; options set to their neutral value are absent."""


def check(request: RunRequest, given: Given) -> None:
    """Check options against each other.

    Parameters
    ----------
    request : RunRequest
        Every value was accepted by itself.
    given : mapping
        What was typed.

    Raises
    ------
    UsageError
        The first contradiction found, naming both options.
    """
    for rule in _RULES:
        rule(request, given)


def _memory(request: RunRequest, given: Given) -> None:
    limits = request.spec.limits
    memory, swap, reservation = limits.memory_bytes, limits.memory_swap_bytes, limits.memory_reservation_bytes
    if swap is not None and swap > 0:
        if memory is None:
            raise UsageError("--memory-swap: expected with --memory, as it is the sum of memory and swap")
        if swap < memory:
            raise UsageError(
                f"--memory-swap {units.format_bytes(swap)}: expected at least --memory, "
                f"{units.format_bytes(memory)}, as it is the sum of memory and swap"
            )
    if memory is not None and reservation is not None and reservation > memory:
        raise UsageError(
            f"--memory-reservation {units.format_bytes(reservation)}: "
            f"expected at most --memory, {units.format_bytes(memory)}"
        )


def _cpu(request: RunRequest, given: Given) -> None:
    limits = request.spec.limits
    for name, value in (("--cpu-period", limits.cpu_period_us), ("--cpu-quota", limits.cpu_quota_us)):
        if limits.nano_cpus is not None and value is not None:
            raise UsageError(f"--cpus conflicts with {name}: expected one or the other")


def _namespaces(request: RunRequest, given: Given) -> None:
    without = request.spec.without
    for option, flag in given.values():
        if option.needs in without:
            raise UsageError(f"{flag}: expected a {option.needs} namespace to act in, {_left_out(option.needs)}")
    for kind, name in request.spec.joins:
        joins = f"--{kind} container:{name}"
        if kind in without:
            raise UsageError(f"{joins}: conflicts with --without {kind}")
        if request.spec.userns == "private":
            raise UsageError(
                f"--userns private: conflicts with {joins}: a namespace belongs to the user namespace it was made in"
            )
        if kind == "pid" and request.state == "fork":
            raise UsageError(f"--state fork: conflicts with {joins}; expected --state copy")
        if kind == "pid" and request.spec.init:
            raise UsageError(f"--init: conflicts with {joins}, where it would not be PID 1")
        if kind == "ipc" and "--shm-size" in given:
            raise UsageError(f"--shm-size: conflicts with {joins}, whose /dev/shm it is")
    if "network" in without and "--network" in given and request.spec.network != "host":
        raise UsageError(f"--network {request.spec.network}: conflicts with --without network")
    if "user" in without and request.spec.userns == "private":
        raise UsageError("--userns private: conflicts with --without user")
    for name, _ in request.spec.sysctls:
        network_host = request.spec.network == "host" or "network" in without
        sysctls.validate(name, network_host=network_host, ipc_host="ipc" in without)


def _left_out(kind: str) -> str:
    host = {"pid": "--pid host", "ipc": "--ipc host", "uts": "--uts host"}.get(kind)
    return f"which --without {kind}{f' (or {host})' if host else ''} leaves out"


def _mounts(request: RunRequest, given: Given) -> None:
    seen: dict[str, str] = {}
    for mount in request.spec.mounts:
        if mount.destination in seen:
            raise UsageError(
                f"{mount.option}: {mount.destination} is already the destination of "
                f"{seen[mount.destination]!r}; expected another one"
            )
        seen[mount.destination] = mount.option


def _health(request: RunRequest, given: Given) -> None:
    for name, (_, flag) in given.items():
        if name.startswith("--health-") and request.spec.no_healthcheck:
            raise UsageError("--no-healthcheck conflicts with --health-* options: expected one or the other")
        if name.startswith("--health-") and "--health-cmd" not in given:
            raise UsageError(f"{flag}: expected with --health-cmd, the command that it is about")


def _lifetime(request: RunRequest, given: Given) -> None:
    conflicts = (("--rm", "--keep"), ("--rm", "--restart"), ("--detach", "--keep"))
    for one, other in conflicts:
        if one in given and other in given and (other != "--restart" or request.spec.restart != "no"):
            raise UsageError(f"{one} conflicts with {other}: expected one or the other")
    if request.detach and request.spec.python:
        if request.state == "fork":
            raise UsageError("-d: conflicts with --state fork, whose cell the notebook's kernel waits for")
        if request.spec.restart != "no":
            raise UsageError(f"--restart {request.spec.restart}: only for a program; a Python cell runs once")


def _guest(request: RunRequest, given: Given) -> None:
    if request.on != "guest":
        return
    if request.state == "fork":
        raise UsageError("--state fork: conflicts with --on guest, as a process cannot move to another kernel")
    if request.spec.network == "host":
        raise UsageError("--network host: conflicts with --on guest, which has no network but its loopback")
    if request.spec.ports or request.spec.publish_all:
        raise UsageError("--publish: conflicts with --on guest, whose ports are not this machine's")


def _program(request: RunRequest, given: Given) -> None:
    if request.spec.python:
        if request.spec.tty:
            raise UsageError("--tty: only for a program; a Python cell shows its output in the notebook")
        return
    for name in ("--state", "--in", "--out"):
        if name in given:
            program = request.spec.argv[0] if request.spec.argv else request.spec.entrypoint
            raise UsageError(f"{name}: only for a Python cell; {program!r} is a program and has no notebook variables")


_RULES: tuple[Callable[[RunRequest, Given], None], ...] = (
    _memory,
    _cpu,
    _namespaces,
    _mounts,
    _lifetime,
    _health,
    _guest,
    _program,
)
