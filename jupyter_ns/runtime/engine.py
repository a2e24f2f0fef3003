"""The engine: one single-threaded process per notebook kernel, which makes and owns containers.

Theory of operation. The kernel starts the engine with one end of a socket pair and never
forks for containers itself. The engine waits on everything at once: that socket, each
container's pipes, pidfds, memory events, the zygote. It dies with the kernel: at end of file
it kills every container, removes every cgroup and leaves. If the engine is killed, each
container's PID 1 goes with it (PR_SET_PDEATHSIG), and the next engine collects the cgroups.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import itertools
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from typing import Any

from .. import core, namespaces
from ..cgroups import Cgroup, Manager, NoManager, collect_stale, engine_key
from ..cgroups.devices import ALL
from ..cgroups.facts import changed
from ..errors import EngineError, to_dict
from ..host import HostFacts
from ..plan import Plan
from ..spec import ContainerSpec, Limits
from . import commands, joining, protocol
from .blank import become
from .entering import enter_container, start_again
from .failing import told
from .groups import answer
from .inputs import limits_of
from .loop import Loop
from .parked import AFTER_S, Parked
from .private import open_map, probe_private, write_maps
from .protocol import CHUNK, HIGH_WATER, Kind, Outgoing, Stream
from .recipes import STAND_IN, Recipe, Recipes
from .registry import Life, Record, Registry
from .setup import Mounts, look_again, prepare_host
from .streams import make_pipes
from .supervised import Supervised
from .switchboard.manager import Networks
from .terminal import terminal_of
from .zygote_client import ZygoteClient

SAMPLE_INTERVAL = 0.1
UNSENT_S = 0.003
"""How long a frame waits for one that it can go with."""


class Engine(Loop):
    """The event loop and what it owns.

    Parameters
    ----------
    sock : Stream
        The byte stream to the kernel.
    guest : str
        The guest that this runs in, in words; empty beside the notebook's kernel.
    """

    def __init__(self, sock: Stream, guest: str = "") -> None:
        super().__init__()
        self.sock = sock
        self._guest = guest
        self.sock.setblocking(False)
        self.sample_interval = SAMPLE_INTERVAL
        self._decoder = protocol.Decoder()
        self._out = Outgoing()
        self._running = True
        self.containers: dict[str, Supervised] = {}
        self._timers: list[tuple[float, int, Supervised]] = []
        self._order = itertools.count()
        self._hello: dict[str, Any] = {}
        self._facts: HostFacts | None = None
        self._private_facts: HostFacts | None = None
        self._manager: Manager | NoManager | None = None
        self._zygote: ZygoteClient | None = None
        self._spare_ranges: list[tuple[int, int]] = []
        self._mounts: Mounts | None = None
        self._size = b""
        self._outdated = False
        self._unsent = False
        self._leaving = 0
        self._stopped: list[Supervised] = []
        self._removing: dict[int, int] = {}
        self._syncs: list[str] = []
        self._joins: dict[tuple[Any, ...], tuple[str, ...]] = {}
        self._recipes = Recipes()
        self._parked = Parked(self._build)
        self.registry = Registry(self)
        self.networks = Networks(self)
        self._commands: dict[int, Callable[[str, Any], None]] = {
            Kind.HELLO: self._on_hello,
            Kind.RUN: self._on_run,
            Kind.STDIN: lambda cid, data: self._with(cid, lambda c: c.streams.feed_stdin(data)),
            Kind.CHANNEL_IN: lambda cid, data: self._with(cid, lambda c: c.streams.feed_channel(data)),
            Kind.SIGNAL: self._on_signal,
            Kind.KILL: lambda cid, reason: self._with(cid, lambda c: c.kill(str(reason))),
            Kind.FORKED: lambda cid, code: self._with(cid, lambda c: c.on_forked_exit(int(code))),
            Kind.PRELOAD: self._on_preload,
            Kind.SYNC: self._on_sync,
            Kind.CGROUP: self._on_cgroup,
            Kind.ASK: lambda request, arguments: commands.answer(self.registry, request, arguments),
        }
        self.watch(sock.fileno(), self._on_kernel)

    @property
    def facts(self) -> HostFacts:
        """What this host can do."""
        if self._facts is None:
            raise EngineError("the kernel has not said hello yet")
        return self._facts

    @property
    def zygote(self) -> ZygoteClient:
        """The zygote, started on first use."""
        if self._zygote is None or not self._zygote.alive:
            self._zygote = ZygoteClient(self, self._hello)
        return self._zygote

    # ---- the loop ----

    def run(self) -> None:
        """Serve until the kernel goes away, then leave nothing behind."""
        try:
            while self._running:
                left_s = self._do_what_is_due()
                if self._unsent:
                    left_s = UNSENT_S if left_s is None else min(left_s, UNSENT_S)
                happened = self.turn(left_s)
                self._finalise_ended()
                if self._unsent and not happened:
                    self._flush()
        finally:
            self._shut_down()

    def schedule(self, container: Supervised, when: float) -> None:
        """Have `container` looked at at `when` (`time.monotonic`), in place of any time said before."""
        container.due = when
        heapq.heappush(self._timers, (when, next(self._order), container))

    def _do_what_is_due(self) -> float | None:
        """Look at the containers whose time has come; return the seconds until the next, None if there is none."""
        now = time.monotonic()
        timers = self._timers
        while timers and (timers[0][0] <= now or self._superseded(*timers[0])):
            when, order, container = heapq.heappop(timers)
            if not self._superseded(when, order, container):
                with container.contained():
                    self.schedule(container, container.tick(now))
        due = [*self._parked.tick(now), *self.registry.tick(now)]
        if timers:
            due.append(timers[0][0])
        return max(0.0, min(due) - now) if due else None

    @staticmethod
    def _superseded(when: float, _order: int, container: Supervised) -> bool:
        return container.due != when or container.state != "running"

    # ---- from the kernel ----

    def _on_kernel(self) -> None:
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._running = False
            return
        for kind, container, payload in self._decoder.feed(data):
            handler = self._commands.get(kind)
            try:
                if handler is None:
                    raise EngineError(f"unknown request {kind}; this engine speaks version {protocol.VERSION}")
                handler(container, payload)
            except Exception as e:  # of this request, and not of every container of the notebook
                self.tell(Kind.ERROR, container, to_dict(told(e)))

    def _with(self, container: str, action: Callable[[Supervised], None]) -> None:
        # A request may cross the container's end on the way: then there is nothing to do.
        if container in self.containers:
            action(self.containers[container])

    def _on_hello(self, _: str, hello: dict[str, Any]) -> None:
        if hello.get("version") != protocol.VERSION:
            raise EngineError(f"the kernel speaks version {hello.get('version')}, the engine {protocol.VERSION}")
        self._hello = hello
        core.note_arguments()
        facts, cgroups = prepare_host()
        self._mounts = Mounts()
        if self._guest:
            facts = replace(facts, guest=self._guest, namespace_ids=namespaces.read())
        self._facts = facts
        collect_stale(cgroups)
        self._manager = Manager(cgroups, engine_key()) if cgroups.version else NoManager(cgroups)
        self._tell_facts()

    def _tell_facts(self) -> None:
        self.tell(Kind.READY, "", {"version": protocol.VERSION, "pid": os.getpid(), "facts": self.facts.to_dict()})

    def _look_at_mounts(self) -> None:
        """Learn the host anew where its mounts have changed: containers are made of them."""
        assert self._mounts is not None and self._manager is not None
        if self._mounts.have_changed():
            self._parked.drop()
            self._outdated |= self._mounts.look_different()
        if self._outdated:
            self._recipes.clear()
            self._facts, self._private_facts = look_again(self.facts, self._manager.facts), None
            self._outdated = False  # not where it failed: the next run tries it again
            self._tell_facts()

    def _on_run(self, container: str, request: dict[str, Any]) -> None:
        if "enter" in request:
            enter_container(self, container, request)
            return
        self._kill_stopped()
        self._look_at_mounts()
        life = Life(**request["life"])
        name = self.registry.free_name(life)
        recipe = self._recipes.get(request["request"], self._facts_for, self._join_files)
        with self.networks.reserved(recipe.spec, name) as network:
            made = self._parked.take(recipe)
            if made is None:
                made = self._build(container, recipe)
        made.id = container
        made.join(network)
        if "stdin" in request:
            made.streams.feed_all(request["stdin"])
        made.let_go()
        self.containers[container] = made
        self.registry.enter(made, life, name, recipe.request)
        made.unpark()

    def start_again(self, record: Record) -> None:
        """Start a container that has ended; everything further happens in events."""
        start_again(self, record)

    def _on_signal(self, container: str, number: int) -> None:
        if number == signal.SIGINT:
            self._with(container, lambda c: c.interrupt())
        else:
            self._with(container, lambda c: c.send_signal(int(number)))

    def _on_preload(self, _: str, modules: list[str]) -> None:
        self._parked.drop(lambda recipe: recipe.spec.python)  # forked before the modules were there
        self.zygote.preload(modules)

    def _on_sync(self, container: str, _: Any) -> None:
        """Give back what is only held ready, then answer, once every process that has said it is done has gone."""
        self._kill_stopped()
        self._parked.drop()
        self.networks.drop_idle()
        self._syncs.append(container)
        self.leave(0)

    def leave(self, change: int) -> None:
        """Count a process that is still to go (1), or has gone (-1)."""
        self._leaving += change
        while not self._leaving and self._syncs:
            self.tell(Kind.REPLY, self._syncs.pop(), True)

    def stop(self, container: Supervised) -> None:
        """Have a process that has said it is done run no more, and kill it when the kernel has shown the result.

        To give its memory back takes a processor for some milliseconds, which the kernel and the browser want first.
        """
        container.send_signal(signal.SIGSTOP)
        self.leave(1)
        self._stopped.append(container)
        self.registry.call_at(time.monotonic() + AFTER_S, self._kill_stopped)

    def _kill_stopped(self) -> None:
        while self._stopped:
            container = self._stopped.pop()
            if container.leaving:  # else it has ended by itself
                container.send_signal(signal.SIGKILL)

    @property
    def groups(self) -> Collection[str]:
        """Names of the groups of containers."""
        return self._manager.groups if self._manager is not None else ()

    def _on_cgroup(self, asker: str, request: dict[str, Any]) -> None:
        assert self._manager is not None
        self.tell(Kind.REPLY, asker, answer(request, self._manager, self.containers.values(), self._release))

    def _release(self, group: str) -> None:
        self._parked.drop(lambda recipe: recipe.spec.cgroup_parent == group)

    # ---- containers ----

    def _facts_for(self, spec: ContainerSpec) -> HostFacts:
        """Return what the host can do for a spec; what only some need is found out when it is first asked for."""
        if spec.userns != "private" or self.facts.rootless:
            return self.facts
        if self._private_facts is None:
            self._private_facts = probe_private(self.facts)
        return self._private_facts

    def _join_files(self, spec: ContainerSpec, in_zygote: bool) -> tuple[str, ...]:
        """Learn, from a cgroup made for a moment, how a child joins one with limits of these kinds.

        Empty where a program can be born in its cgroup (CLONE_INTO_CGROUP).
        """
        limits = limits_of(spec, self.facts)
        rules = ALL if ALL in limits.device_rules else bool(limits.device_rules)
        kind = changed(limits, Limits()), rules, spec.cgroup_parent, in_zygote
        if kind not in self._joins or spec.cgroup_parent:  # a group may be made anew, with other limits
            cgroup = self.new_cgroup(STAND_IN, spec)
            try:
                self._joins[kind] = cgroup.self_join_files if in_zygote or cgroup.into_fd() is None else ()
            finally:
                cgroup.remove()
        return self._joins[kind]

    def new_cgroup(self, name: str, spec: ContainerSpec) -> Cgroup:
        """Make a container's cgroup, with its limits.

        Raises
        ------
        UsageError, UnsupportedError, OSError
            As `Manager.create`.
        """
        assert self._manager is not None
        cgroup = self._manager.create(name[:12], limits_of(spec, self.facts), group=spec.cgroup_parent)
        self.note_guest(cgroup, spec)
        return cgroup

    def note_guest(self, cgroup: Cgroup, spec: ContainerSpec) -> None:
        """Note among a cgroup's limits one that the guest around it is too small for."""
        if self._guest and spec.limits.memory_bytes:
            from ..guest.kernel import beyond_memory

            cgroup.notes += beyond_memory(spec.limits.memory_bytes)

    def _build(self, container: str, recipe: Recipe, *, parked: bool = False) -> Supervised:
        """Build a container; everything further happens in events.

        Raises
        ------
        OSError
            As clone3(2) and cgroups(7); nothing stays.
        """
        blank = None if parked else self._parked.take_blank(recipe)
        if blank is not None:
            try:
                become(blank, recipe)
                return blank
            except BrokenPipeError:
                blank.discard()  # killed while it waited, which nobody has noticed yet
            except BaseException:
                blank.discard()
                raise
        cgroup = self.new_cgroup(container, recipe.spec)
        ends, child = make_pipes(recipe.spec.python, recipe.uid, terminal_of(recipe.spec))
        made = Supervised(self, container, recipe, ends, cgroup, parked=parked)
        self.spawn(made, child)
        return made

    def spawn(self, made: Supervised, child: dict[str, int]) -> None:
        """Make the child that builds a container, or enters one; takes over the child's descriptors.

        Raises
        ------
        OSError
            As clone3(2) and cgroups(7); nothing stays.
        """
        recipe = made.recipe
        try:
            made.hold()
            if "userns" in recipe.descriptors:
                child["userns"] = open_map(self.facts.private_ids)
            if recipe.spec.joins and not made.enters:
                child |= joining.descriptors(self.registry, recipe.spec, recipe.descriptors)
                self.networks.share(made)
            if recipe.in_zygote:
                self.zygote.fork(made, child)
            else:
                into = None if recipe.plan.cgroup_join else made.cgroup.into_fd()
                image = recipe.image_for(made.container_id, child)
                with made.around_clone(child):
                    pid, pidfd = core.spawn(
                        recipe.plan, child, image=image, cgroup_fd=-1 if into is None else into, unneeded=self._spare()
                    )
                made.adopt(pid, pidfd)
                self.watch(pidfd, lambda: self._on_child_exit(made), made)
            made.watch_cgroup()
        except BaseException:
            made.discard()
            raise
        finally:
            for fd in child.values():
                os.close(fd)

    def _spare(self) -> list[tuple[int, int]]:
        """Return what a child is made without; looked at anew whenever the engine's memory has grown or shrunk."""
        with open("/proc/self/statm", "rb", buffering=0) as f:
            size = f.read(64).split()[0]
        if size != self._size:
            self._spare_ranges, self._size = core.spare_ranges(), size
        return self._spare_ranges

    def _on_child_exit(self, container: Supervised) -> None:
        pid, status = os.waitpid(container.pid, os.WNOHANG)
        if pid:
            self.unwatch(container.pidfd)
            container.on_exit(status)

    def _finalise_ended(self) -> None:
        for container in [c for c in self.containers.values() if c.state == "ended" and c.drained]:
            del self.containers[container.id]
            if container.failure is None:
                with container.contained():
                    summary = container.summary()
                    if container.attached:
                        self.tell(Kind.EXIT, container.id, summary)  # before whoever waits for the end is answered
            if container.failure is not None:
                self._recipes.forget(container.recipe)
                if container.attached:
                    self.tell(Kind.ERROR, container.id, to_dict(container.failure))
                container.dispose(keep_files=self.registry.failed(container))
                continue
            keep_files = self.registry.ended(container, summary)
            container.dispose(keep_files=keep_files)
            recipe = container.recipe
            if recipe.key and not (recipe.bare or recipe.once or container.detached) and container.attached:
                self._parked.replenish(recipe)

    def remove_volumes(self, store: str, *names: str) -> None:
        """Remove volumes that went with a container, in a process of its own: there may be much in them."""
        pid = os.fork()
        if not pid:
            code = 1
            try:
                from ..images.launch import remove_volumes

                remove_volumes(store, names)
                code = 0
            except BaseException:
                with contextlib.suppress(BaseException):
                    traceback.print_exc()
            finally:
                os._exit(code)
        pidfd = os.pidfd_open(pid)
        self._removing[pidfd] = pid
        self.watch(pidfd, lambda: self._removed(pidfd))

    def _removed(self, pidfd: int) -> None:
        self.unwatch(pidfd)
        os.waitpid(self._removing.pop(pidfd), 0)
        os.close(pidfd)

    def staging_of(self, plan: Plan) -> str:
        """Return where the plan stages its tmpfs, or an empty string."""
        first = plan.first_tmpfs()
        return "" if first is None else str(plan.steps[first].args[1])

    def write_id_maps(self, pid: int) -> None:
        """Map the IDs of a child's user namespace: root's to their range, a user's each to itself."""
        if not self.facts.rootless:
            write_maps(pid, self.facts.private_ids)
            return
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/self/{name}") as f:
                ranges = [tuple(map(int, line.split())) for line in f]
            lines = "".join(f"{inside} {inside} {count}\n" for inside, _, count in ranges)
            with open(f"/proc/{pid}/{name}", "w") as f:
                f.write(lines)

    # ---- to the kernel ----

    def tell(self, kind: Kind, container: str = "", payload: Any = None) -> None:
        """Queue a frame for the kernel."""
        self._out.put(protocol.encode(kind, container, payload))
        self._flush()

    def tell_soon(self, kind: Kind, container: str, payload: Any) -> None:
        """Queue a frame that goes with the next one, or after `UNSENT_S`: the kernel wakes up once for both."""
        self._out.put(protocol.encode(kind, container, payload))
        self._unsent = True

    def _flush(self) -> None:
        self._unsent = False
        try:
            empty = self._out.flush(self.sock)
        except (BrokenPipeError, ConnectionResetError):
            self._running = False
            return
        self.want_write(self.sock.fileno(), self._flush, not empty)
        if self._out.size < HIGH_WATER:
            self.resume()

    def introduction(self, c: Supervised) -> dict[str, Any]:
        """Return what the kernel is told of a container that stands ready."""
        records = [[r.name, r.requested, r.effective, r.file] for r in c.limit_records]
        payload = {
            "id": c.container_id,
            "pid": c.pid,
            "namespaces": c.namespaces,
            "limits": records,
            "weakened": [*c.recipe.facts.weakened, *c.plan.weakened, *c.cgroup.notes],
            "cgroup": c.cgroup.paths,
            "cgroup_join": list(c.cgroup.self_join_files),
        }
        if c.plan.cgroup_join:  # of this plan: other containers may be born in their cgroups
            payload["joined"] = [path.replace(STAND_IN, c.container_id[:12]) for path in c.plan.cgroup_join]
        if c.recipe.facts is not self.facts:
            payload["facts"] = c.recipe.facts.to_dict()
        if c.network is not None:
            payload["endpoints"] = [asdict(e) for e in c.network.endpoints]
        return payload

    def tell_started(self, c: Supervised) -> None:
        """Say that a container's payload is about to run."""
        self.registry.started(c)
        if c.attached:
            name = c.record.name if c.record is not None else ""
            tell = self.tell if c.recipe.bare else self.tell_soon  # the kernel forks itself into a bare one
            tell(Kind.STARTED, c.id, (c.introduction or self.introduction(c)) | {"name": name})

    def tell_sample(self, c: Supervised, sample: list[Any]) -> None:
        """Pass on a sample, unless the kernel is behind; that of a detached container is kept here."""
        if c.record is not None and c.record.life.detach:
            c.record.usage.append(sample)
        elif self._out.size < HIGH_WATER:
            self.tell(Kind.SAMPLE, c.id, sample)

    @property
    def is_behind(self) -> bool:
        """Whether much waits for the kernel to take it."""
        return self._out.size > HIGH_WATER // 2

    def hold_back(self, fd: int, handler: Callable[[], None], owner: Supervised) -> bool:
        """Stop reading `fd` while the kernel is slow to take what we have; return whether it is."""
        if self._out.size < HIGH_WATER:
            return False
        self.pause(fd, handler, owner)
        return True

    # ---- the end ----

    def _wait_for_all(self) -> None:
        """Wait for processes that have been killed, in the order in which they end.

        A PID 1 ends after all others of its namespace have been waited for, those of containers that joined it too.
        """
        poll = select.poll()
        left = {c.pidfd: c.pid for c in self.containers.values() if c.state != "ended" and c.pid and c.pidfd >= 0}
        for pidfd in left:
            poll.register(pidfd, select.POLLIN)
        while left:
            for pidfd, _ in poll.poll():
                poll.unregister(pidfd)
                with contextlib.suppress(ChildProcessError):  # a cell is the zygote's child
                    os.waitpid(left.pop(pidfd), 0)

    def _shut_down(self) -> None:
        # From the bottom up, each whatever comes of the others.
        with contextlib.ExitStack() as last:
            if self._manager is not None:
                last.callback(self._manager.close)
            last.callback(self.networks.close)
            last.callback(self._end_removing)
            last.callback(self.registry.close)
            for container in self.containers.values():
                last.callback(self._see_out, container)
            last.callback(self._wait_for_all)
            if self._zygote is not None:
                last.callback(self._zygote.close)
            for container in self.containers.values():
                last.callback(container.kill, "killed")
            last.callback(self._parked.drop)

    def _end_removing(self) -> None:
        for pidfd in list(self._removing):
            self._removed(pidfd)

    def _see_out(self, container: Supervised) -> None:
        if container.record is not None:
            container.volumes = self.registry.volumes_of(container.record)
        container.dispose()


def main(fd: int) -> None:
    """Be the engine on the socket `fd`."""
    serve(socket.socket(fileno=fd))


def serve(stream: Stream, guest: str = "") -> None:
    """Be the engine on a byte stream, in a guest or beside the notebook's kernel."""
    gc.disable()  # nothing here makes cycles in quantity; a collection would stretch a container's start
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the kernel decides what an interrupt means
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Engine(stream, guest).run()
