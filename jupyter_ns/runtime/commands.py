"""What the kernel can ask about containers, and have done to them: a table from names to functions.

A function gets the registry, the request's ID and arguments; it returns the answer, or `LATER`
where that comes when something has happened.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from ..cgroups.facts import merge
from ..errors import UsageError
from ..spec import ContainerSpec, Limits
from ..units import format_bytes
from ..usage import MOVED, SAMPLE_FIELDS
from . import health
from .ending import changes_of
from .protocol import Kind
from .registry import ALIVE, Record, Registry
from .switchboard.commands import NETWORK_COMMANDS, endpoints_of, ports_of

LATER = object()
_PAGE = os.sysconf("SC_PAGE_SIZE")

Arguments = dict[str, Any]


def answer(registry: Registry, request: str, arguments: Arguments) -> None:
    """Carry out one request, and answer it now or later.

    Raises
    ------
    ContainerError, OSError
        As the command; the engine passes them on.
    """
    arguments = dict(arguments)
    command = COMMANDS[arguments.pop("do")]
    result = command(registry, request, **arguments)
    if result is not LATER:
        registry.engine.tell(Kind.REPLY, request, result)


def _row(record: Record) -> dict[str, Any]:
    process = record.process
    return {
        "id": record.id,
        "name": record.name,
        "image": record.life.image,
        "argv": list(record.spec.argv) if not record.spec.python else ["(a Python cell)"],
        "entrypoint": record.spec.entrypoint,
        "state": record.state,
        "exit_code": record.exit_code,
        "created_s": record.created_s,
        "started_s": record.started_s,
        "finished_s": record.finished_s,
        "labels": dict(record.spec.labels),
        "network": record.spec.network,
        "endpoints": endpoints_of(record),
        "ports": ports_of(record),
        "mounts": [m.source or m.destination for m in record.spec.mounts],
        "pid": process.pid if record.alive else 0,
        **health.describe(record),
    }


def _list(registry: Registry, _request: str, size: bool = False) -> list[dict[str, Any]]:
    rows = [_row(record) for record in reversed(registry.records.values())]
    if size:
        for row, record in zip(rows, reversed(registry.records.values()), strict=True):
            row["size_bytes"] = record.process.layer_bytes()
    return rows


def _inspect(registry: Registry, _request: str, of: str) -> dict[str, Any]:
    record = registry.find(of)
    process = record.process
    return _row(record) | {
        "spec": record.spec.to_dict(),
        "error": record.error,
        "oom_killed": record.oom_killed,
        "restart_count": record.restart_count,
        "remove": record.life.remove,
        "detached": record.life.detach,
        "namespaces": process.namespaces,
        "limits": [list(r) for r in process.limit_records],
        "cgroup": process.cgroup.paths if record.alive else {},
        "weakened": [*process.recipe.facts.weakened, *process.plan.weakened, *process.cgroup.notes],
        "shared": {
            kind: registry.records[of].name if of in registry.records else of[:12] for kind, of in record.spec.joins
        },
    }


def _logs(registry: Registry, request: str, of: str, follow: bool = False, history: bool = True) -> Any:
    record = registry.find(of)
    if not record.keeps_log:
        raise UsageError(f"logs {of}: its output went to its cell; a container that is detached, or kept, has logs")
    reply = {
        "entries": [list(entry) for entry in record.log.entries] if history else [],
        "dropped": record.log.dropped,
        "follows": follow and record.alive,
    }
    if reply["follows"]:
        record.followers.add(request)
    return reply


def _usage(registry: Registry, request: str, of: str) -> dict[str, Any]:
    """Return what the kernel's `Container` is brought up to date with."""
    record = registry.find(of)
    usage, process, ended = record.usage, record.process, record.summary
    return _inspect(registry, request, of) | {
        "rows": [list(row) for row in zip(*(usage.column(name) for name in SAMPLE_FIELDS), strict=True)],
        "events": [list(event) for event in usage.events],
        "now": process.relative_sample() if record.alive else None,
        "peak": list(process.cgroup.peak()) if record.alive else ended.get("peak", [None, ""]),
        "step_ns": process.step_ns,
        "reason": ended.get("reason", ""),
        "oom_limit": ended.get("oom_limit"),
        "wall_seconds": process.elapsed_s() if record.alive else ended.get("wall_seconds", 0.0),
    }


def _wait(registry: Registry, request: str, of: str, condition: str = "not-running") -> Any:
    record = registry.find(of)
    if condition == "not-running" and record.state not in (*ALIVE, "restarting"):
        return record.exit_code
    record.waiting.append((request, "removed" if condition == "removed" else "exit"))
    return LATER


def _running(registry: Registry, of: str, what: str) -> Record:
    record = registry.find(of)
    if not record.alive:
        raise UsageError(f"{what} {of}: container {record.id[:12]} is not running")
    return record


def _send(registry: Registry, record: Record, number: int) -> None:
    registry.event(record, "kill", signal=str(number))
    if number == signal.SIGKILL:
        record.process.kill("killed")
    else:
        record.process.send_signal(number)
    if record.state == "paused" and number in (signal.SIGKILL, signal_number(record.spec.stop_signal)):
        _thaw(registry, record)


def _kill(registry: Registry, _request: str, of: str, signal_name: str = "SIGKILL") -> Any:
    record = _running(registry, of, "kill")
    number = signal_number(signal_name)
    if number in (signal.SIGKILL, signal_number(record.spec.stop_signal)):
        record.stop_asked = True
    _send(registry, record, number)
    return True


def _stop(
    registry: Registry,
    request: str,
    of: str,
    timeout_s: float | None = None,
    signal_name: str = "",
    again: bool = False,
) -> Any:
    record = registry.find(of)
    if again:
        _check_startable(record)
    record.stop_asked = not again
    if not record.alive:
        if record.state == "restarting":
            record.state = "exited"
        return registry_start(registry, request, record) if again else record.exit_code
    record.start_again = again
    record.waiting.append((request, "start" if again else "exit"))
    _send(registry, record, signal_number(signal_name or record.spec.stop_signal))
    timeout_s = record.spec.stop_timeout_seconds if timeout_s is None else timeout_s
    if timeout_s >= 0:
        process = record.process
        registry.call_at(time.monotonic() + timeout_s, lambda: _stop_now(registry, record, process), process)
    registry.event(record, "restart" if again else "stop")
    return LATER


def _stop_now(registry: Registry, record: Record, process: Any) -> None:
    if record.process is process and record.alive:
        _send(registry, record, signal.SIGKILL)


def _check_startable(record: Record) -> None:
    if record.spec.python:
        raise UsageError(f"start {record.name}: a Python cell runs once; run the cell again")


def _start(registry: Registry, request: str, of: str) -> Any:
    record = registry.find(of)
    _check_startable(record)
    return True if record.alive else registry_start(registry, request, record)


def registry_start(registry: Registry, request: str, record: Record) -> Any:
    """Start a container that has ended; the request is answered once its program runs."""
    record.stop_asked, record.restart_count, record.restart_delay_s = False, 0, 0.0
    record.waiting.append((request, "start"))
    try:
        registry.engine.start_again(record)
    except BaseException:
        record.waiting.remove((request, "start"))
        raise
    return LATER


def _stdin(registry: Registry, _request: str, of: str, data: bytes) -> Any:
    """Give a detached container something to read; its standard input stays open."""
    process = _running(registry, of, "attach").process
    if not process.streams.takes_input:
        raise UsageError(f"attach {of}: its standard input is closed; `run -d -i` leaves it open")
    process.streams.feed_stdin(data)
    return True


def _rename(registry: Registry, _request: str, of: str, name: str) -> Any:
    registry.rename(registry.find(of), name)
    return True


def _remove(registry: Registry, request: str, of: str, force: bool = False) -> Any:
    record = registry.find(of)
    if not record.alive:
        registry.forget(record)
        return True
    if not force:
        raise UsageError(
            f"cannot remove container {record.name!r}: container is {record.state}: "
            "stop the container before removing, or force it with rm -f"
        )
    record.stop_asked = record.removing = True
    record.waiting.append((request, "removed"))
    _send(registry, record, signal.SIGKILL)
    return LATER


def _pause(registry: Registry, _request: str, of: str) -> Any:
    record = _running(registry, of, "pause")
    if record.state == "paused":
        raise UsageError(f"pause {of}: container {record.id[:12]} is already paused")
    record.process.cgroup.freeze()
    record.state = "paused"
    registry.event(record, "pause")
    return True


def _unpause(registry: Registry, _request: str, of: str) -> Any:
    record = registry.find(of)
    if record.state != "paused":
        raise UsageError(f"unpause {of}: container {record.id[:12]} is not paused")
    _thaw(registry, record)
    return True


def _thaw(registry: Registry, record: Record) -> None:
    record.process.cgroup.thaw()
    record.state = "running"
    registry.event(record, "unpause")


def _update(registry: Registry, _request: str, of: str, limits: dict[str, Any], restart: str = "") -> Any:
    """Move the limits of a container, also while it runs; return the notes of it."""
    record = registry.find(of)
    asked = ContainerSpec.from_dict({"limits": limits}).limits
    before = record.spec.limits
    if record.alive:
        registry.engine.networks.update(record.process.network, asked)
        record.process.cgroup.set(asked)
    merged = merge(before, asked)
    record.spec = replace(record.spec, limits=merged, restart=restart or record.spec.restart)
    registry.event(record, "update")
    if record.alive:
        for text in moved_words(before, merged):
            registry.mark(record, MOVED + text)
        record.process.sample_soon()
    return {
        "limits": [list(r) for r in record.process.limit_records],
        "notes": list(record.process.cgroup.notes),
    }


def moved_words(before: Limits, after: Limits) -> list[str]:
    """Word the limits that differ.

    Examples
    --------
    >>> moved_words(Limits(memory_bytes=64 << 20), Limits(memory_bytes=128 << 20))
    ['memory 64 MiB -> 128 MiB']
    """
    moved = ((name, getattr(before, name), value) for name, value in asdict(after).items())
    return [f"{label(name)} {worded(name, a)} -> {worded(name, b)}" for name, a, b in moved if a != b]


def label(name: str) -> str:
    """Name a limit without its unit."""
    return name.removesuffix("_bytes").removesuffix("_us").replace("nano_cpus", "cpus").replace("_", " ")


def worded(name: str, value: Any) -> str:
    """Word a limit's value with its unit; none is ``unlimited``."""
    if value is None or (isinstance(value, int) and value < 0):
        return "unlimited"
    if name == "net_rate_bps":
        return f"{value} B/s"
    if name.endswith("_bytes"):
        return re.sub(r"(?<=\d)(?=[A-Z])", " ", format_bytes(value))
    return f"{value / 1e9:g}" if name == "nano_cpus" else f"{value}µs" if name.endswith("_us") else str(value)


def _stats(registry: Registry, _request: str, of: list[str], everything: bool = False) -> list[dict[str, Any]]:
    """Return a raw sample of each container that runs, or was asked for, and of the system."""
    records = [registry.find(one) for one in of] or list(registry.records.values())
    return [_sample(record) for record in records if record.alive or of or everything]


def _sample(record: Record) -> dict[str, Any]:
    with open("/proc/stat") as f:
        line = f.readline()
    # The first seven fields of the cpu line, as Docker counts; clock ticks.
    ticks = sum(int(word) for word in line.split()[1:8])
    process = record.process
    return {
        "id": record.id,
        "name": record.name,
        "sample": process.relative_sample() if record.alive else None,
        "network": _network_bytes(process.pid) if record.alive else [0, 0],
        "memory_limit_bytes": record.spec.limits.memory_bytes,
        "system_s": ticks / os.sysconf("SC_CLK_TCK"),
        "cpus": os.cpu_count() or 1,
        "host_memory_bytes": os.sysconf("SC_PHYS_PAGES") * _PAGE,
    }


def _network_bytes(pid: int) -> list[int]:
    """Return bytes received and sent over all interfaces but loopback: proc_pid_net(5)."""
    received = sent = 0
    try:
        with open(f"/proc/{pid}/net/dev") as f:
            for line in f.readlines()[2:]:
                name, _, fields = line.partition(":")
                numbers = fields.split()
                if name.strip() != "lo":
                    received, sent = received + int(numbers[0]), sent + int(numbers[8])
    except FileNotFoundError:
        pass  # it has ended meanwhile
    return [received, sent]


def _files(registry: Registry, _request: str, of: str) -> dict[str, Any]:
    """Return where a container's files are, and all that decided them."""
    record = registry.find(of)
    process = record.process
    recipe = process.recipe
    image = record.request.get("image", {})
    return {
        "id": record.id,
        "name": record.name,
        "state": record.state,
        "detached": record.life.detach,
        "spec": record.spec.to_dict(),
        "request": record.request,
        "image": image.get("id", ""),
        "base": image.get("base", ""),
        "lower": image.get("lower", []),
        "engine": os.getpid(),
        "uppers": {path: f"/proc/{os.getpid()}/fd/{process.layer_fd}/{name}" for name, path in process.recipe.layers},
        "first_ids": recipe.facts.private_ids[:2] if recipe.remapped else (0, 0),
    }


def _diff(registry: Registry, _request: str, of: str) -> dict[str, Any]:
    changes, truncated = changes_of(registry.find(of).process)
    return {"changes": changes, "truncated": truncated}


def _top(registry: Registry, _request: str, of: str) -> list[int]:
    return _running(registry, of, "top").process.cgroup.pids()


def _events(registry: Registry, request: str, follow: bool = False) -> list[dict[str, Any]]:
    if follow:
        registry.event_followers.add(request)
    return list(registry.events)


def _copy_out(registry: Registry, _request: str, of: str, path: str, follow: bool) -> dict[str, Any]:
    return registry.copies.read(registry.find(of), path, follow=follow)


def _copy_next(registry: Registry, _request: str, copy: int) -> list[Any]:
    return registry.copies.next(copy)


def _copy_in(
    registry: Registry, _request: str, of: str, path: str, source: list[Any], owners: bool, parents: bool = False
) -> dict[str, Any]:
    name, is_dir, contents_only = source
    about = (name, is_dir, contents_only)
    return registry.copies.write(registry.find(of), path, about, owners=owners, parents=parents)


def _copy_put(registry: Registry, _request: str, copy: int, entries: list[Any]) -> Any:
    registry.copies.put(copy, entries)
    return True


def _copy_close(registry: Registry, _request: str, copy: int) -> Any:
    registry.copies.close(copy)
    return True


def _cancel(registry: Registry, _request: str, request: str) -> Any:
    registry.cancel(request)
    return True


def signal_number(name: str) -> int:
    """Return the number of a signal that the option table has named.

    Examples
    --------
    >>> signal_number("SIGTERM"), signal_number("SIGRTMIN+1")
    (15, 35)
    """
    for base, sign in (("SIGRTMIN", 1), ("SIGRTMAX", -1)):
        if name.startswith(base):
            return int(signal.Signals[base]) + sign * int(name[len(base) + 1 :] or 0)
    return int(signal.Signals[name])


COMMANDS: dict[str, Callable[..., Any]] = {
    "list": _list,
    "inspect": _inspect,
    "logs": _logs,
    "usage": _usage,
    "wait": _wait,
    "kill": _kill,
    "stop": _stop,
    "start": _start,
    "rename": _rename,
    "stdin": _stdin,
    "remove": _remove,
    "pause": _pause,
    "unpause": _unpause,
    "update": _update,
    "stats": _stats,
    "diff": _diff,
    "files": _files,
    "top": _top,
    "events": _events,
    "copy_out": _copy_out,
    "copy_next": _copy_next,
    "copy_in": _copy_in,
    "copy_put": _copy_put,
    "copy_close": _copy_close,
    "cancel": _cancel,
    **NETWORK_COMMANDS,
}
