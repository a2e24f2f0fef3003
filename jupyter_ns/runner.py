"""Follow one run from request to end, and leave a `Container`.

The frontend (or `jupyter_ns.run`) gives a `Sink`, which is told what happens; nothing here
prints.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from . import namespaces
from .client import EngineClient
from .container import REFUSED, Change, Container, OOMLimit
from .errors import EngineError, TransferError, UnsupportedError, UsageError, from_dict
from .host import HostFacts
from .namespaces import NamespaceID
from .networks.data import Endpoint
from .plan import Plan, PlanInputs
from .request import request_for
from .runtime import channel
from .runtime.protocol import CHUNK, Kind, unpack
from .spec import ContainerSpec, LimitRecord, Mount

MAX_OUTPUT_CHARS = 4 * 1024 * 1024
"""Characters of each of stdout and stderr that are shown and kept; the rest is counted."""
MAX_RETURN_BYTES = 1 << 32


class Sink:
    """What a run tells; every method may be overridden, none must."""

    looks = True
    """Whether the container's namespaces are looked at whatever comes: they are read while the engine works."""

    def on_asked(self) -> None:
        """The engine has been asked, and needs some time: for what can be done meanwhile."""

    def on_started(self, container: Container) -> None:
        """The payload is about to run."""

    def on_notice(self, text: str) -> None:
        """Something happens before the container is built, such as the pull of its image."""

    def on_text(self, stream: str, text: str) -> None:
        """Output came, ``stdout`` or ``stderr``."""

    def on_sample(self, container: Container) -> None:
        """`container.usage` has a new sample."""

    def on_message(self, kind: str, body: Any) -> None:
        """The cell displays something: ``display``, ``clear``, ``result`` or ``error``. Hostile data."""

    def on_input(self, prompt: str, password: bool) -> str:
        """The cell asks for a line of input."""
        raise EOFError("no input here")

    def tick(self, container: Container) -> float:
        """Called between frames; return the seconds until it wants to be called again."""
        return 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A notebook cell for a container.

    Attributes
    ----------
    source : str
        IPython source.
    execution_count : int
        The number in the prompt.
    variables : dict
        Name to value, sent in.
    out : tuple of str
        Names to bring out.
    trust : bool
        Whether what comes out may be unpickled.
    """

    source: str
    execution_count: int = 1
    variables: dict[str, Any] = field(default_factory=dict)
    out: tuple[str, ...] = ()
    trust: bool = False
    detached: bool = False
    """Whether what it shows goes to its standard streams as text, for nobody takes anything else."""

    def body(self) -> dict[str, Any]:
        """Return what is sent, without the variables."""
        return {
            "source": self.source,
            "execution_count": self.execution_count,
            "out": list(self.out),
            "trust": self.trust,
            "detached": self.detached,
            "sys_path": sys.path,
        }


class _Text:
    """One output stream: decoded as it comes, bounded, its overflow counted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._decoder: codecs.IncrementalDecoder | None = None
        self._parts: list[str] = []
        self._left = MAX_OUTPUT_CHARS
        self._dropped = 0

    def feed(self, data: bytes, final: bool = False) -> str:
        """Take bytes; return the text to show."""
        if self._decoder is None:
            if not data:
                return ""
            self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = self._decoder.decode(data, final)
        shown, rest = text[: self._left], text[self._left :]
        self._left -= len(shown)
        self._dropped += len(rest)
        self._parts.append(shown)
        return shown

    def note(self) -> str:
        """Say what was dropped; empty if nothing was."""
        if not self._dropped:
            return ""
        return f"\n[{self.name}: {self._dropped:,} further characters are not kept; {MAX_OUTPUT_CHARS:,} are]\n"

    def text(self) -> str:
        """Return everything kept, and the note."""
        return "".join(self._parts) + self.note()


class Run:
    """One run of one container.

    Parameters
    ----------
    client : EngineClient
        Whose engine runs it.
    spec : ContainerSpec
        What to run.
    sink : Sink
        Who is told.
    """

    def __init__(self, client: EngineClient, spec: ContainerSpec, sink: Sink) -> None:
        self._client, self._sink = client, sink
        self._id = os.urandom(32).hex()
        spec, taken = with_volumes_from(client, spec)
        spec, shared = with_joined(client, spec)
        spec, more = prepared(spec, sink)
        if taken:
            more["held"] = [*more.get("held", []), *taken]
        self.container = Container(id=self._id, spec=spec)
        self.container.name = spec.name or made_up_name(self._id)
        self.container.shared = shared
        self.container.make_plan = self._plan
        self.container.make_inputs = self.plan_inputs
        self.outputs: dict[str, Any] = {}
        self._own_facts: HostFacts | None = None
        self._joined: tuple[str, ...] = ()
        self._endpoints: list[dict[str, Any]] = []
        self.transfer_error: TransferError | None = None
        self._streams = {1: _Text("stdout"), 2: _Text("stderr")}
        self._error: Exception | None = None
        self._ended = False
        self._interrupts = self._sigints = 0
        self._goes_on = self._in_background = False
        self.on_end: Callable[[], None] = lambda: None
        """Of a cell in the background: called when its end has been heard of."""
        self._life = {"name": self.container.name, "made_up": not spec.name, "image": spec.image or "host"}
        self._more = more
        self._entering: dict[str, Any] = {}

    def lives(self, **life: Any) -> None:
        """Say how long the container is to live: fields of `jupyter_ns.runtime.registry.Life`.

        Raises
        ------
        UsageError
            If it is to be started again, and somebody waits for it.
        """
        policy = self.container.spec.restart
        if policy != "no" and not life.get("detach"):
            raise UsageError(f"--restart {policy}: expected with -d; what is waited for ends with its program")
        self._life |= life

    @property
    def _goes_with_its_cell(self) -> bool:
        return bool(self._life.get("remove", True)) and not self._life.get("detach")

    def enters(self, container: str, *, detach: bool = False, **changes: Any) -> None:
        """Have the program run inside a running container, whose spec it takes over but for `changes`."""
        self._entering = {"enter": container, "changes": changes, "detach": detach}

    def execute(self, *, stdin: bytes | None = b"", cell: Cell | None = None) -> Container:
        """Run to the end.

        Parameters
        ----------
        stdin : bytes or None
            What the payload reads; None leaves standard input open and empty.
        cell : Cell, optional
            For a Python cell.

        Returns
        -------
        Container
            However it ended; errors of the payload are not raised here.

        Raises
        ------
        SetupError, UsageError, UnsupportedError
            Nothing ran, nothing is left.
        TransferError
            A variable could not be sent in (nothing ran).
        EngineError
            The engine went away.
        """
        c, client = self.container, self._client
        pieces = self._pack(cell) if cell is not None else []
        self._in_background = cell is not None and cell.detached
        if stdin is not None and self._life.get("detach"):
            c.spec = replace(c.spec, stdin_open=False)  # also when it is started again
        client.subscribe(self._id, self._on_frame)
        try:
            if self.enter is not None:
                self._more["bare"], pieces = True, []
            with self._interruptible() as wake_fd:
                asked = self._entering or {"request": request_for(c.spec, self._more), "life": self._life}
                if stdin is not None and len(stdin) <= CHUNK:  # at once, for a program that reads it at once
                    asked, stdin = asked | {"stdin": stdin}, None
                client.send(Kind.RUN, self._id, asked, more=bool(pieces) or stdin is not None)
                client.send_channel(self._id, pieces)
                if stdin is not None:
                    for at in range(0, len(stdin), CHUNK):
                        client.send(Kind.STDIN, self._id, stdin[at : at + CHUNK], more=at + CHUNK >= len(stdin))
                    client.send(Kind.STDIN, self._id, None)
                self._sink.on_asked()
                if self._sink.looks:
                    self._outside  # noqa: B018 (read by this)
                while not self._ended:
                    wake_fds = [fd for fd in (wake_fd, self._forked_fd) if fd >= 0]
                    # A fork made meanwhile must be waited for too: then go round once more.
                    client.wait(
                        lambda: self._ended or self._forked_fd not in (-1, *wake_fds),  # noqa: B023
                        until=time.monotonic() + self._sink.tick(c),
                        wake_fds=wake_fds,
                    )
                    self._forward_interrupts()
                    self._reap_forked()
        finally:
            if not self._goes_on:
                client.unsubscribe(self._id)
            self._reap_forked(wait=True)
            if "anonymous" in self._more and self._goes_with_its_cell:
                from .images.launch import remove_anonymous

                if client.alive:
                    client.sync()  # until the engine has let go of them
                remove_anonymous(self._more["anonymous"])
        if self._error is not None:
            c.status = "exited"
            if isinstance(self._error, UnsupportedError):
                c.reason = REFUSED
            raise self._error
        return c

    @functools.cached_property
    def _outside(self) -> dict[str, int]:
        """The namespaces that the container's are compared with: where it runs, in the guest or here."""
        return self._client.facts.namespace_ids or namespaces.read()

    enter: Callable[[Container, list[str], PlanInputs], int] | None = None
    """For ``--state fork``: forks the kernel into the container that the engine has built; returns its PID."""
    _forked, _forked_fd = 0, -1

    def _reap_forked(self, wait: bool = False) -> None:
        """Tell the engine when the forked kernel has ended."""
        if not self._forked:
            return
        pid, status = os.waitpid(self._forked, 0 if wait else os.WNOHANG)
        if pid:
            os.close(self._forked_fd)
            self._forked, self._forked_fd = 0, -1
            code = os.waitstatus_to_exitcode(status)
            if not self._ended:
                self._client.send(Kind.FORKED, self._id, code if code >= 0 else 128 - code)

    @property
    def _facts(self) -> HostFacts:
        return self._own_facts or self._client.facts

    def plan_inputs(self) -> PlanInputs:
        from .runtime.inputs import resolve_inputs

        c = self.container
        return resolve_inputs(c.id, c.spec, self._facts, unpack(request_for(c.spec, self._more)))

    def _plan(self) -> Plan:
        """Compile the plan once more: it is a pure function of what both sides know."""
        from .plan import build_plan

        if self.container.spec.networked and not self._endpoints:  # it has not run: those that it would get
            from .lifecycle import ask

            self._endpoints = ask("network_preview", spec=self.container.spec.to_dict())
        endpoints = tuple(Endpoint(**e) for e in self._endpoints)
        inputs = replace(self.plan_inputs(), cgroup_join=self._joined, endpoints=endpoints)
        return build_plan(self.container.spec, self._facts, inputs)

    @staticmethod
    def _pack(cell: Cell) -> list[bytes | memoryview]:
        buffers: list[Any] = []
        if cell.variables:
            from . import transfer  # cloudpickle: only once it is needed

            data, extra = transfer.pack(cell.variables)
            buffers = [data, *extra]
        return channel.encode("cell", cell.body(), buffers)

    # ---- interrupts ----

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[int]:
        """Turn SIGINT into a wake-up, so that it cannot tear a frame apart; only in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield -1
            return
        previous = signal.signal(signal.SIGINT, self._on_sigint)
        self._default_interrupt = previous
        try:
            yield self._client.wake_fds[0]
        finally:
            signal.signal(signal.SIGINT, previous)
            self._take_interrupts()

    def _on_sigint(self, *_: Any) -> None:
        self._sigints += 1
        with contextlib.suppress(OSError):  # it is full: a wake-up is on its way; or the engine has ended
            os.write(self._client.wake_fds[1], b"i")

    def _take_interrupts(self) -> int:
        """Return how many SIGINTs have come; the wake-up is over."""
        if not self._sigints:
            return 0
        with contextlib.suppress(OSError):
            os.read(self._client.wake_fds[0], 4096)
        number, self._sigints = self._sigints, 0
        return number

    def _forward_interrupts(self) -> None:
        for _ in range(self._take_interrupts()):
            self.interrupt()

    def interrupt(self) -> None:
        """Interrupt the container; from the second time on, kill it."""
        self._interrupts += 1
        if self._interrupts == 1:
            self._client.send(Kind.SIGNAL, self._id, int(signal.SIGINT))
        else:
            self._client.send(Kind.KILL, self._id, "interrupted")

    @property
    def interrupted(self) -> bool:
        """Whether the user asked to stop."""
        return self._interrupts > 0

    # ---- what the engine says ----

    def _on_frame(self, kind: Kind, payload: Any) -> None:
        if kind is Kind.STREAM:
            self._show(payload[0], payload[1])
        elif kind is Kind.SAMPLE:
            self.container.usage.append(payload)
            self._sink.on_sample(self.container)
        elif kind is Kind.EVENT:
            self.container.usage.events.append((payload[0], payload[1]))
        elif kind is Kind.CHANNEL_OUT:
            self._on_channel(payload)
        elif kind is Kind.STARTED:
            self._on_started(payload)
        elif kind is Kind.EXIT:
            self._on_exit(payload)
        elif kind is Kind.ERROR:
            self._error = from_dict(payload)
            self._ended = True
        elif kind is Kind.REPLY:  # it is detached, and its program runs
            self._ended = True
            self._goes_on = self.container.spec.python

    def _show(self, number: int, data: bytes, final: bool = False) -> None:
        stream = self._streams[number]
        text = stream.feed(data, final)
        if text:
            self._sink.on_text(stream.name, text)

    def _on_started(self, payload: dict[str, Any]) -> None:
        c = self.container
        c.id, c.status, c.pid = payload["id"], "running", payload["pid"]
        c.name = payload["name"] or c.name
        c.limits = [LimitRecord(*r) for r in payload["limits"]]
        c.weakened = list(payload["weakened"])
        c.guest = self._client.facts.guest
        inside = payload["namespaces"]
        c.make_namespaces = lambda: {k: NamespaceID(own, inside.get(k, own)) for k, own in self._outside.items()}
        self._joined = tuple(payload.get("joined", ()))
        self._endpoints = payload.get("endpoints", [])
        if "facts" in payload:  # some are found out only when a container needs them
            self._own_facts = HostFacts.from_dict(payload["facts"])
        self._sink.on_started(c)
        if self.enter is not None:
            self._forked = self.enter(c, payload["cgroup_join"], self.plan_inputs())
            self._forked_fd = os.pidfd_open(self._forked)

    def _on_exit(self, payload: dict[str, Any]) -> None:
        c = self.container
        for number, stream in self._streams.items():
            self._show(number, b"", final=True)
            if stream.note():
                self._sink.on_text(stream.name, stream.note())
        if not self._goes_on:  # else the engine has them
            c.stdout, c.stderr = self._streams[1].text(), self._streams[2].text()
        c.status, c.exit_code, c.reason = "exited", payload["exit_code"], payload["reason"]
        c.wall_seconds = payload["wall_seconds"]
        if payload["not_kept"]:
            self._sink.on_text("stderr", "".join(f"--keep: not kept: {line}\n" for line in payload["not_kept"]))
        c.step_ns = payload["step_ns"]
        c.changes = [Change(*change) for change in payload["changes"]]
        c.changes_truncated = payload["changes_truncated"]
        c.note_peak(*payload["peak"])
        c.usage.append(payload["sample"])
        if payload["oom_kills"]:
            c.usage.events.append((payload["sample"][0], "oom"))
        c.usage.note_limits()
        c.oom_limit = OOMLimit(*payload["oom_limit"]) if payload["oom_limit"] else None
        c.cpu_seconds = float(c.usage.last("cpu_s") or 0.0)
        c.throttled_seconds = float(c.usage.last("throttled_s") or 0.0)
        self._ended = True
        if self._goes_on:
            self._client.unsubscribe(self._id)
            self.on_end()

    # ---- what the cell says: hostile until parsed ----

    @functools.cached_property
    def _messages(self) -> channel.ChannelDecoder:
        return channel.ChannelDecoder(MAX_RETURN_BYTES)

    def _on_channel(self, data: bytes) -> None:
        try:
            for kind, body, buffers in self._messages.feed(data):
                self._on_message(kind, body, buffers)
        except (EngineError, KeyError, TypeError, ValueError) as e:
            self._client.send(Kind.KILL, self._id, "killed")
            self._error = EngineError(f"the container sent what is not a message of ours, and was killed: {e}")

    def _on_message(self, kind: str, body: Any, buffers: list[bytearray]) -> None:
        if kind == "value":
            self.container.value = self._value(body, buffers)
        elif kind == "value_error":
            self.container.value_note = str(body["message"])
        elif kind == "out":
            self.outputs = self._value(body, buffers)
        elif kind == "out_error":
            self.transfer_error = TransferError(str(body["message"]))
        elif self._in_background:
            return  # it would be shown, or asked, below whichever cell runs now
        elif kind == "input":
            self._answer(str(body["prompt"]), bool(body["password"]))
        elif kind in ("display", "clear", "result", "error"):
            self._sink.on_message(kind, body)

    def _value(self, body: dict[str, Any], buffers: list[bytearray]) -> Any:
        from . import transfer, values

        if self.trust:
            return transfer.unpack_trusted(bytes(buffers[0]), buffers[1:])
        try:
            return values.decode(bytes(buffers[0]), buffers[1:])
        except TransferError as e:
            self.container.value_note = str(e)
            return None

    trust = False
    """Whether the user said ``--trust``; what the container says of itself does not count."""

    def _answer(self, prompt: str, password: bool) -> None:
        current = signal.getsignal(signal.SIGINT)
        try:
            signal.signal(signal.SIGINT, self._default_interrupt)
            try:
                line = self._sink.on_input(prompt, password)
            finally:
                signal.signal(signal.SIGINT, current)
            self._client.send_channel(self._id, channel.encode("input", line))
        except KeyboardInterrupt:
            self.interrupt()
        except EOFError as e:
            self._client.send_channel(self._id, channel.encode("no_input", str(e)))

    _default_interrupt: Any = signal.SIG_DFL


_ADJECTIVES = [
    "able",
    "bold",
    "brave",
    "bright",
    "calm",
    "clever",
    "eager",
    "fair",
    "gentle",
    "keen",
    "kind",
    "lively",
    "merry",
    "neat",
    "quick",
    "quiet",
]
_PEOPLE = [
    "cerf",
    "corbato",
    "dijkstra",
    "hamilton",
    "hopper",
    "kernighan",
    "knuth",
    "lamport",
    "liskov",
    "lovelace",
    "mccarthy",
    "perlman",
    "ritchie",
    "thompson",
    "torvalds",
    "turing",
]


def with_joined(client: EngineClient, spec: ContainerSpec) -> tuple[ContainerSpec, dict[str, str]]:
    """Replace the names of the containers whose namespaces are joined by their IDs, as Docker does.

    Whoever joins a network namespace has that container's host name too, and its lines of /etc/hosts and resolv.conf.

    Returns
    -------
    spec : ContainerSpec
        With what it takes over.
    shared : dict of str to str
        Kind of namespace to the container's name.

    Raises
    ------
    UsageError
        If there is no such container.
    """
    shared: dict[str, str] = {}
    joins: list[tuple[str, str]] = []
    for kind, name in spec.joins:
        found = client.ask(Kind.ASK, {"do": "inspect", "of": name})
        shared[kind] = found["name"]
        joins.append((kind, found["id"]))
        if kind == "network":
            other = ContainerSpec.from_dict(found["spec"])
            taken = {field: getattr(other, field) for field in _OF_THE_NETWORK}
            taken["hostname"] = other.hostname or found["id"][:12]
            spec = replace(spec, network=f"container:{found['id']}", **taken)
    return replace(spec, joins=tuple(joins)) if joins else spec, shared


_OF_THE_NETWORK = ("domainname", "dns", "dns_search", "dns_options", "add_hosts")


def with_volumes_from(client: EngineClient, spec: ContainerSpec) -> tuple[ContainerSpec, list[str]]:
    """Add the mounts of the containers that ``--volumes-from`` names; return also the files to lock for them.

    As with Docker, a later container goes before an earlier one, and what the user mounts goes before both.

    Raises
    ------
    UsageError
        If there is no such container.
    """
    if not spec.volumes_from:
        return spec, []
    found: dict[str, tuple[Mount, str]] = {}
    for text in spec.volumes_from:
        name, _, mode = text.partition(":")
        other = client.ask(Kind.ASK, {"do": "files", "of": name})
        for mount in ContainerSpec.from_dict(other["spec"]).mounts:
            if mount.type == "bind":
                mount = replace(mount, readonly=mount.readonly or mode == "ro", option=f"--volumes-from {text}")
                lock = os.path.join(os.path.dirname(mount.source), "info")
                found[mount.destination] = mount, lock if lock in other["request"].get("held", ()) else ""
    for own in spec.mounts:
        found.pop(own.destination, None)
    mounts = tuple(mount for mount, _ in found.values())
    return replace(spec, mounts=(*mounts, *spec.mounts)), [lock for _, lock in found.values() if lock]


def prepared(spec: ContainerSpec, sink: Sink) -> tuple[ContainerSpec, dict[str, Any]]:
    """Resolve the image and the volumes that a spec names, if it names any."""
    if not spec.image and not any(m.type == "volume" for m in spec.mounts):
        return spec, {}
    from .images.launch import prepare  # the store: only once it is needed

    return prepare(spec, sink.on_notice)


def made_up_name(container: str) -> str:
    """Make up a name for a container of this ID, such as ``keen_hopper``."""
    return f"{_ADJECTIVES[int(container[0], 16)]}_{_PEOPLE[int(container[1], 16)]}"
