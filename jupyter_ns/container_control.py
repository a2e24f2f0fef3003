"""What can be done to a container from Python: the methods of `Container`, on the engine's requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .lifecycle import ask, client_of
from .namespaces import NamespaceID
from .namespaces import read as read_namespaces
from .spec import LimitRecord, Limits
from .usage import Usage

if TYPE_CHECKING:
    from .container import Change, Container


def reload(c: Container) -> None:
    """Bring a container's attributes up to date.

    Raises
    ------
    UsageError
        If it has been removed.
    """
    from .container import OOMLimit

    data = ask("usage", of=c.id)
    c.name, c.pid, c.status = data["name"], data["pid"] or c.pid, data["state"]
    c.exit_code = data["exit_code"] if data["state"] == "exited" else None
    c.reason = data["reason"] if data["state"] == "exited" else ""
    c.oom_limit = OOMLimit(*data["oom_limit"]) if c.reason and data["oom_limit"] else None
    c.limits = [LimitRecord(*r) for r in data["limits"]] or c.limits
    c.weakened, c.step_ns = list(data["weakened"]), data["step_ns"]
    c.wall_seconds = data["wall_seconds"]
    c.namespaces = {
        kind: NamespaceID(own, data["namespaces"].get(kind, own)) for kind, own in read_namespaces().items()
    }
    c.shared = dict(data["shared"])
    if data["detached"]:
        c.usage = _usage(data)
    c.note_peak(*data["peak"])
    c.cpu_seconds = float(c.usage.last("cpu_s") or 0.0)
    c.throttled_seconds = float(c.usage.last("throttled_s") or 0.0)
    if data["detached"] or not data["remove"]:
        texts = output(c)
        c.stdout, c.stderr = texts[1], texts[2]


def _usage(data: Mapping[str, Any]) -> Usage:
    usage = Usage()
    usage.extend(data["rows"])
    if data["now"] is not None:
        usage.append(data["now"])
    usage.events = [(time_s, text) for time_s, text in data["events"]]
    return usage


def output(c: Container) -> dict[int, str]:
    """Return what a container wrote, by stream; says what is no longer kept."""
    past = ask("logs", of=c.id)
    note = f"[{past['dropped']:,} earlier bytes are no longer kept]\n" if past["dropped"] else ""
    return {
        stream: note + b"".join(data for _, s, data in past["entries"] if s == stream).decode(errors="replace")
        for stream in (1, 2)
    }


def changes(c: Container) -> list[Change]:
    """Return what a container has written to its file system."""
    from .container import Change

    found = ask("diff", of=c.id)
    c.changes, c.changes_truncated = [Change(*change) for change in found["changes"]], found["truncated"]
    return c.changes


def execute(c: Container, program: str, *arguments: str, input: str | bytes = b"", **changes: Any) -> Container:
    """Run a program inside, and wait for it; see `Container.exec`."""
    from .runner import Run, Sink
    from .spec import ContainerSpec

    argv = (program, *arguments)
    environment = list(dict(changes.pop("environment", {})).items())
    run = Run(client_of(c.id), ContainerSpec(argv=argv), Sink())
    run.enters(c.id, argv=list(argv), environment=environment, **changes)
    return run.execute(stdin=input.encode() if isinstance(input, str) else input)


def update(c: Container, keywords: Mapping[str, Any]) -> None:
    """Move limits; see `Container.update`."""
    from dataclasses import asdict, replace

    from .api import parse_words, to_flags
    from .cgroups.facts import merge

    flags = to_flags(dict(keywords))
    request = parse_words([*flags, "--", "true"])
    asked = {k: v for k, v in asdict(request.spec.limits).items() if v != getattr(Limits(), k)}
    policy = request.spec.restart if any(flag.startswith("--restart=") for flag in flags) else ""
    answer = ask("update", of=c.id, limits=asked, restart=policy)
    c.spec = replace(c.spec, limits=merge(c.spec.limits, request.spec.limits))
    c.limits = [LimitRecord(*r) for r in answer["limits"]]
