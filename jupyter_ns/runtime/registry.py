"""What the engine remembers of containers beyond their processes: names, states, logs, who waits for what.

States are Docker's: *created* → *running* ⇄ *paused* → *exited*, and *restarting* between two
processes of one container. A container that stays after its end keeps its mount namespace, and
with it what it wrote; it goes when it is removed, or with the engine.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, to_dict
from ..spec import ContainerSpec
from ..usage import Usage
from . import health
from .copies import Copies
from .failing import told
from .log import Log
from .protocol import Kind

if TYPE_CHECKING:
    from .engine import Engine
    from .supervised import Supervised

MAX_EVENTS = 1000
FIRST_RESTART_S, LAST_RESTART_S, SETTLED_S = 0.1, 60.0, 10.0
"""Delays of restarts double from the first to the last; a container that ran this long begins anew."""

ALIVE = frozenset(("running", "paused"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """How long a container lives, as the kernel asks for it; no part of what it is.

    Attributes
    ----------
    name : str
        Its name; where it was `made_up`, another is taken if it is in use.
    detach : bool
        Whether it goes on without its cell.
    remove : bool
        Whether it is removed when it ends.
    image : str
        What the user called its root file system.
    """

    name: str = ""
    made_up: bool = True
    detach: bool = False
    remove: bool = True
    image: str = "host"


@dataclass(slots=True)
class Record:
    """One container, from its creation to its removal."""

    id: str
    life: Life
    name: str
    spec: ContainerSpec
    request: dict[str, Any]
    process: Supervised
    created_s: float
    state: str = "created"
    started_s: float = 0.0
    finished_s: float = 0.0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    restart_count: int = 0
    restart_delay_s: float = 0.0
    stop_asked: bool = False
    """Asked to end: no restart policy applies."""
    removing: bool = False
    start_again: bool = False
    health: health.Health | None = None
    log: Log = field(default_factory=Log)
    usage: Usage = field(default_factory=Usage)
    summary: dict[str, Any] = field(default_factory=dict)
    """How it ended last."""
    followers: set[str] = field(default_factory=set)
    """Requests that are told of its output until it ends."""
    waiting: list[tuple[str, str]] = field(default_factory=list)
    """Requests to be answered at its next ``exit`` or once it is ``removed``."""

    @property
    def keeps_log(self) -> bool:
        """Whether its output can be asked for later."""
        return self.life.detach or not self.life.remove

    @property
    def alive(self) -> bool:
        """Whether it has processes."""
        return self.state in ALIVE


class Registry:
    """The containers of one engine by name and ID.

    Parameters
    ----------
    engine : Engine
        Whose containers they are.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.records: dict[str, Record] = {}
        self._names: dict[str, Record] = {}
        self.events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self.event_followers: set[str] = set()
        self.copies = Copies()
        self._calls: list[tuple[float, int, Callable[[], None], Supervised | None]] = []
        self._order = itertools.count()

    # ---- names ----

    def free_name(self, life: Life) -> str:
        """Return the name that a new container gets.

        Raises
        ------
        UsageError
            If the one asked for is in use.
        """
        if life.name not in self._names:
            return life.name
        if life.made_up:
            return next(n for i in itertools.count(1) if (n := f"{life.name}{i}") not in self._names)
        raise UsageError(
            f'--name: the name "/{life.name}" is already in use by container "{self._names[life.name].id}"; '
            "remove (or rename) that container to be able to reuse that name"
        )

    def find(self, reference: str) -> Record:
        """Find a container by its name, its ID, or the beginning of its ID.

        Raises
        ------
        UsageError
            If there is none, or more than one begins so.
        """
        name = reference.removeprefix("/")
        if name in self._names:
            return self._names[name]
        if reference in self.records:
            return self.records[reference]
        found = [r for i, r in self.records.items() if reference and i.startswith(reference)]
        if len(found) > 1:
            raise UsageError(f"more than one container's ID begins with {reference}; give more of it")
        if not found:
            raise UsageError(f"No such container: {reference}")
        return found[0]

    def rename(self, record: Record, name: str) -> None:
        """Give a container another name."""
        free = self.free_name(Life(name=name, made_up=False))
        old = record.name
        del self._names[old]
        record.name = free
        self._names[free] = record
        if record.process.network is not None:
            self.engine.networks.rename(record.process.network, free)
        self.event(record, "rename", oldName=f"/{old}")

    # ---- what happens to a container ----

    def enter(self, made: Supervised, life: Life, name: str, request: dict[str, Any]) -> None:
        """Take up a new container."""
        record = Record(made.container_id, life, name, made.spec, request, made, time.time())
        made.record = record
        self.records[record.id] = self._names[name] = record
        self.event(record, "create")

    def started(self, made: Supervised) -> None:
        """Its payload is about to run."""
        record = made.record
        if record is not None:
            record.state, record.started_s, record.error = "running", time.time(), ""
            health.begin(self, record)
            self.event(record, "start")

    def output(self, record: Record, stream: int, data: bytes) -> None:
        """Keep what a container wrote, and pass it on to those who follow."""
        if record.keeps_log:
            now = time.time()
            record.log.append(now, stream, data)
            for follower in record.followers:
                self.engine.tell(Kind.STREAM, follower, [now, stream, data])

    def failed(self, made: Supervised) -> bool:
        """It could not be built; return whether what it wrote in an earlier life is to be kept."""
        record, failure = made.record, made.failure
        if record is None or failure is None:
            return False
        if not record.started_s:
            self.forget(record)
            return False
        record.error = str(failure)
        self._answer(record, "start", error=failure)
        self._end(record, 128, time.time())
        return record.id in self.records

    def ended(self, made: Supervised, summary: dict[str, Any]) -> bool:
        """Its processes are gone; return whether what it wrote is to be kept."""
        record = made.record
        if record is None:
            return False
        record.oom_killed = summary["reason"] == "oom"
        if made.exec_errno:
            program = made.plan.steps[-1].args[1][0]
            what = "executable file not found in $PATH" if summary["exit_code"] == 127 else "permission denied"
            record.error = f'exec: "{program}": {what}'
        if record.life.detach:
            record.usage.append(summary["sample"])
        record.summary = {k: summary[k] for k in ("wall_seconds", "peak", "reason", "oom_limit")}
        if record.oom_killed:
            self.event(record, "oom", summary["finished_s"])
            if record.life.detach:
                self.mark(record, "oom")
        self._end(record, summary["exit_code"], summary["finished_s"])
        return record.id in self.records

    def _end(self, record: Record, code: int, at_s: float) -> None:
        ran_s = at_s - record.started_s
        record.state, record.exit_code, record.finished_s = "exited", code, at_s
        self.event(record, "die", at_s, exitCode=str(code), execDuration=str(int(ran_s)))
        for follower in record.followers:
            self.engine.tell(Kind.REPLY, follower, code)
        record.followers.clear()
        self._answer(record, "exit")
        if record.start_again or (not record.removing and self._policy_restarts(record)):
            self._restart_later(record, ran_s)
        elif record.removing or record.life.remove:
            self._drop(record, at_s)  # whoever reaped it disposes of it

    def _policy_restarts(self, record: Record) -> bool:
        policy, _, most = record.spec.restart.partition(":")
        if record.stop_asked or policy in ("", "no"):
            return False
        if policy == "on-failure":
            return record.exit_code != 0 and (not most or record.restart_count < int(most))
        return True

    def _restart_later(self, record: Record, ran_s: float) -> None:
        if record.start_again:
            record.start_again, delay = False, 0.0
        else:
            before = record.restart_delay_s if ran_s < SETTLED_S else 0.0
            delay = min(2 * before, LAST_RESTART_S) if before else FIRST_RESTART_S
            record.restart_count += 1
            record.state = "restarting"
        record.restart_delay_s = delay
        self.call_at(time.monotonic() + delay, lambda: self._start_again(record))

    def _start_again(self, record: Record) -> None:
        if self.records.get(record.id) is not record or record.alive or (record.stop_asked and record.restart_delay_s):
            return
        try:
            self.engine.start_again(record)
        except Exception as e:
            error = told(e)
            record.error, record.state = str(error), "exited"
            self._answer(record, "start", error=error)

    def forget(self, record: Record) -> None:
        """Remove a container that has no processes, and what it wrote."""
        self._drop(record)
        process = record.process
        if process.state == "ended":
            process.dispose()
        else:  # on its way to a new start
            process.record = None
            process.kill("killed")

    def _drop(self, record: Record, at_s: float | None = None) -> None:
        self.records.pop(record.id, None)
        self._names.pop(record.name, None)
        self.event(record, "destroy", at_s)
        self._answer(record, "removed")
        record.process.record = None  # the engine collects no cycles
        record.process.volumes = self.volumes_of(record)

    @staticmethod
    def volumes_of(record: Record) -> tuple[str, ...]:
        """Return the store and the volumes in it that go with a container; those of one whose end is waited for do so
        by the hand of who waits."""
        if not (record.life.detach and record.life.remove and record.request.get("anonymous")):
            return ()
        return record.request["store"], *record.request["anonymous"]

    def _answer(self, record: Record, what: str, error: Exception | None = None) -> None:
        rest: list[tuple[str, str]] = []
        for request, awaited in record.waiting:
            if awaited != what:
                rest.append((request, awaited))
            elif error is None:
                self.engine.tell(Kind.REPLY, request, record.exit_code)
            else:
                self.engine.tell(Kind.ERROR, request, to_dict(error))
        record.waiting[:] = rest

    def executed(self, made: Supervised) -> None:
        """Its program has been started."""
        if made.record is not None:
            self._answer(made.record, "start")
        if made.attached and made.detached:
            self.engine.tell(Kind.REPLY, made.id, True)
            made.attached = made.spec.python  # what a cell sends back is still awaited

    def cancel(self, request: str) -> None:
        """Whoever sent this request waits no longer."""
        self.event_followers.discard(request)
        for record in self.records.values():
            record.followers.discard(request)
            record.waiting[:] = [w for w in record.waiting if w[0] != request]

    # ---- events, time ----

    def event(self, record: Record, action: str, at_s: float | None = None, **attributes: str) -> None:
        """Note an event, of now or of when the kernel was told of it, and tell those who follow."""
        event = {
            "time_s": time.time() if at_s is None else at_s,
            "action": action,
            "id": record.id,
            "attributes": {"image": record.life.image, "name": record.name, **dict(record.spec.labels), **attributes},
        }
        self.events.append(event)
        for follower in self.event_followers:
            self.engine.tell(Kind.STREAM, follower, event)

    def mark(self, record: Record, text: str) -> None:
        """Put what has just happened among the events of a container's usage."""
        event = (record.process.elapsed_s(), text)
        if record.life.detach:
            record.usage.events.append(event)
        elif record.process.attached:
            self.engine.tell(Kind.EVENT, record.process.id, list(event))

    def call_at(self, when: float, action: Callable[[], None], owner: Supervised | None = None) -> None:
        """Have `action` called at `when` (`time.monotonic`); what goes wrong then is its `owner`'s end."""
        heapq.heappush(self._calls, (when, next(self._order), action, owner))

    def tick(self, now: float) -> list[float]:
        """Do what is due; return when to look again."""
        while self._calls and self._calls[0][0] <= now:
            _, _, action, owner = heapq.heappop(self._calls)
            with contextlib.nullcontext() if owner is None else owner.contained():
                action()
        return [self._calls[0][0]] if self._calls else []

    def close(self) -> None:
        """Give back what ended containers have kept."""
        for record in self.records.values():
            if record.process.state == "ended":
                with contextlib.suppress(OSError):
                    record.process.dispose()
