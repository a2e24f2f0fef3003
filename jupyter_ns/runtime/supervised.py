"""One container as the engine sees it: its descriptors, its states, its end.

States: *blank* (the child has no plan yet: `.blank`) → *building* (it walks its plan) → *ready* (parked at
the last wait) → *running* → *ended* (PID 1 is reaped, streams are being drained) → finalised.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import core
from ..cgroups import sampler_of
from ..cgroups.ancestors import Level
from ..errors import EngineError, ImageError, SetupError
from ..namespaces import BY_NAME, KINDS
from ..plan.steps import Op, Plan
from ..spec import ContainerSpec, LimitRecord
from ..usage import CUMULATIVE
from .advice import setup_error
from .ending import summary_of
from .failing import logged, told
from .joining import inside
from .protocol import Kind
from .streams import Ends, Streams
from .terminal import terminal_in

if TYPE_CHECKING:
    from ..cgroups import Cgroup, ProcSampler, Sampler
    from .engine import Engine
    from .recipes import Recipe
    from .registry import Record
    from .switchboard.attachment import Attachment

IDLE_INTERVALS = 8
FIRST_SAMPLE_S = 0.01
"""From the start to the first sample; each later interval is twice as long, up to the regular one: what runs out of
memory often does so within a tenth of a second, and is to have a curve."""
KEPT = ("mount_namespace_fd", "ground_fd", "layer_fd", "root_fd")
"""Descriptors that hold what a container wrote, also after its end."""


@dataclass(slots=True, weakref_slot=True)
class Supervised:
    """A container and everything the engine holds for it."""

    engine: Engine
    id: str
    recipe: Recipe
    ends: Ends
    cgroup: Cgroup
    streams: Streams = field(init=False)
    sampler: Sampler | ProcSampler | None = None
    parked: bool = False
    go_ahead: bytes = core.GO
    """What its child is told at the last wait."""
    record: Record | None = None
    network: Attachment | None = None
    """Its place on a network, if it has one."""
    host_of_network: Attachment | None = None
    """The place of the container whose network namespace it has joined, where that is on a network."""
    hosts: str = ""
    """What has been written to its /etc/hosts since it was built."""
    attached: bool = True
    """Whether the kernel follows it; a detached one is only asked about."""
    container_id: str = ""
    """Its own ID; `id` is what the kernel calls it, which for a parked one comes later."""
    state: str = "building"
    pid: int = 0
    pidfd: int = -1
    mount_namespace_fd: int = -1
    ground_fd: int = -1
    """Of one that has entered a user namespace: the mount namespace that it was built in, where nothing is locked."""
    layer_fd: int = -1
    root_fd: int = -1
    """Its root directory, held where it may be asked for after the end."""
    held_fds: list[int] = field(default_factory=list)
    """They hold the locks that keep the image and the volumes from being removed."""
    volumes: tuple[str, ...] = ()
    """The store, and the volumes in it that go with the container once all is given back."""
    oom_fd: int = -1
    oom_hit: bool = False
    started: float = 0.0
    deadline: float | None = None
    next_sample: float = 0.0
    sample_interval_s: float = 0.0
    last_sample: tuple[Any, ...] = ()
    sampled: float = 0.0
    due: float = 0.0
    """When the engine looks at it next (`Engine.schedule`)."""
    finished_s: float = 0.0
    """When its PID 1 was reaped, or its cell said that it is done: `time.time`."""
    kill_at: float | None = None
    reason: str = ""
    status: int | None = None
    exec_errno: int = 0
    namespaces: dict[str, int] = field(default_factory=dict)
    introduction: dict[str, Any] = field(default_factory=dict)
    """`Engine.introduction`, of a parked one."""
    step_ns: tuple[int, ...] = ()
    base_sample: tuple[Any, ...] | None = None
    base_levels: list[Level] = field(default_factory=list)
    entered: dict[bytes, Recipe] = field(default_factory=dict)
    """How processes entered it, by what was asked for."""
    failure: Exception | None = None
    forked_code: int | None = None
    said_code: int | None = None
    """The exit code that a cell announced before its process was gone."""
    leaving: bool = False
    """Ended for everybody, but its process is still there: disposed of when that is gone, `keep_files` or not."""
    keep_files: bool = False

    def __post_init__(self) -> None:
        self.container_id = self.id
        self.streams = Streams(self.engine, self.ends, self)

    @property
    def spec(self) -> ContainerSpec:
        """What was asked for."""
        return self.recipe.spec

    @property
    def plan(self) -> Plan:
        """How it is built."""
        return self.recipe.plan

    @property
    def limit_records(self) -> list[LimitRecord]:
        """Where each limit went, in its cgroup and on its interfaces."""
        return [*self.cgroup.records, *(self.network.records if self.network is not None else ())]

    # ---- building ----

    def adopt(self, pid: int, pidfd: int) -> None:
        """Take charge of the child that was just made."""
        self.pid, self.pidfd = pid, pidfd
        self.engine.watch(self.ends.report, self.on_report, self)

    def around_clone(self, child: dict[str, int]) -> contextlib.AbstractContextManager[None]:
        """Return the context in which its child is made."""
        return inside(child["join-pid"]) if "join-pid" in child else contextlib.nullcontext()

    def watch_cgroup(self) -> None:
        """Open what tells of the cgroup, while the child builds."""
        self.sampler = sampler_of(self.cgroup)
        self.cgroup.peak(), self.cgroup.oom_kills()  # which opens their files
        oom_fd = self.cgroup.oom_fd()
        if oom_fd is not None:
            self.oom_fd = oom_fd
            self.engine.watch(oom_fd, self.on_oom, self)

    def hold(self) -> None:
        """Keep the image and the volumes, if there are any, from being removed.

        Raises
        ------
        ImageError
            If one has been removed meanwhile.
        """
        for path in self.recipe.held:
            try:
                self.held_fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                fcntl.flock(self.held_fds[-1], fcntl.LOCK_SH)
                gone = os.fstat(self.held_fds[-1]).st_nlink == 0
            except FileNotFoundError:
                gone = True
            if gone:
                raise ImageError("its image, or a volume of it, has just been removed")

    def on_report(self) -> None:
        """Read the child's report pipe: it waits, runs, has failed, has executed its program, or is done."""
        try:
            report = core.read_report(self.ends.report)
        except BlockingIOError:
            report = None
        # While a cell runs, it may write there what it likes.
        forged = self.recipe.in_zygote and bool(self.step_ns) and report is not None and report.phase != core.DONE
        if report is None or forged:
            self.streams.close_one("report")
            if self.state == "running" and self.failure is None and not self.exec_errno:
                self.engine.registry.executed(self)
        elif report.phase == core.DONE:
            self._on_done(report.step)
        elif report.phase == core.WAITING:
            # Where it was killed while it waited, its end follows.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, BrokenPipeError):
                self._at_wait(str(self.plan.steps[report.step].args[0]))
            if self.state == "ready" and not self.parked:
                self.let_go()
                if self.state == "running":
                    self.follow()
        elif report.phase == core.RUNNING:
            self.step_ns = core.read_timings(self.ends.report, report.step)
            if self.recipe.in_zygote:
                os.set_blocking(self.ends.report, False)  # the cell may read it as well, from /proc/self/fd
                self.engine.registry.executed(self)
        elif self.plan.steps[report.step].op is Op.EXEC:
            self.exec_errno = report.errno
        else:
            self.failure = setup_error(self.plan, report.step, report.errno)

    def _at_wait(self, label: str) -> None:
        if label == "ids":
            self.engine.write_id_maps(self.pid)
        elif label == "layer":
            self._hold_layer()
        elif label == "terminal":
            self._open_terminal()
        elif label in ("plan", "go"):
            self._read_namespaces([k.name for k in KINDS if k.name not in self.namespaces])
            if label == "plan":
                self.state = "blank"
            else:
                self._on_ready()
            return
        core.tell(self.ends.go, core.GO)
        if label == "layer" and not self.recipe.remapped:
            if self.network is not None:
                self.network.connect()
            # While the child goes on building: everything that it has already entered.
            self._read_namespaces([k.name for k in KINDS if k.name not in ("cgroup", "time")])

    def _hold_layer(self) -> None:
        if self.recipe.remapped:
            self.ground_fd = os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        staging = self.engine.staging_of(self.plan)
        if staging:
            self.layer_fd = os.open(f"/proc/{self.pid}/root{staging}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _open_terminal(self) -> None:
        root = os.open(f"/proc/{self.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            master, slave = terminal_in(root, self.recipe.uid)
        finally:
            os.close(root)
        os.close(slave)  # the child opens it by its path
        self.streams.take_terminal(master)

    def _read_namespaces(self, kinds: Any) -> None:
        for kind in kinds:
            with contextlib.suppress(FileNotFoundError):  # a kind that this kernel does not have
                self.namespaces[kind] = os.stat(f"/proc/{self.pid}/ns/{BY_NAME[kind].proc}").st_ino

    def _on_ready(self) -> None:
        """The child stands at its last wait: do all that can be done before the payload is wanted."""
        # Held, so that the exit of PID 1 need not wait until its mounts are taken down: a grace period of RCU.
        self._keep("mount_namespace_fd", os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
        self.cgroup.watch(self.pid)
        if self.sampler is not None and self.spec.network == "none" and "network" not in self.spec.without:
            self.sampler.watch_network(self.pid)
        self._keep("root_fd", os.open(f"/proc/{self.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        self.state = "ready"
        for network in (self.network, self.host_of_network):
            if network is not None:
                network.write_hosts()
        if self.sampler is not None:  # before the payload runs: a short one may be over when it has been let go
            self.base_sample = self.sampler.counters()
        if self.parked and not self.spec.networked:
            self.introduction = self.engine.introduction(self)

    def join(self, network: Attachment | None) -> None:
        """Take the place on a network that was reserved for it."""
        self.network = network
        if network is not None:
            network.container = self

    def on_connected(self) -> None:
        """It is on its networks: nothing else holds it back."""
        if self.state == "ready":
            self.let_go()
            self.follow()

    def let_go(self) -> None:
        """Let the child go on to its payload, if it stands ready and is connected."""
        if self.state == "ready" and (self.network is None or self.network.connect()):
            if self.spec.cgroup_parent and not self.enters:  # not before: it is another's hit that would be forgotten
                self.base_levels = self.cgroup.levels_anew("memory")
            self.state = "running"
            self.started = time.monotonic()
            with contextlib.suppress(FileNotFoundError, BrokenPipeError):  # killed while it waited: its end follows
                if self.network is not None and self.sampler is not None:
                    self.sampler.watch_network(self.pid)
                core.tell(self.ends.go, self.go_ahead)

    def _keep(self, name: str, fd: int) -> None:
        """Take up one of `KEPT`, in place of that of an earlier life."""
        if getattr(self, name) >= 0:
            os.close(getattr(self, name))
        setattr(self, name, fd)

    def unpark(self) -> None:
        """The payload is wanted: follow it now, if it has been let go, or as soon as the container is ready."""
        self.parked = False
        if self.state == "running":
            self.follow()

    def follow(self) -> None:
        """Tell of the payload that has been let go, and read what it writes."""
        self.engine.tell_started(self)
        self.streams.watch()
        if self.spec.timeout_seconds is not None:
            self.deadline = self.started + self.spec.timeout_seconds
        self.sample_soon(FIRST_SAMPLE_S)
        self.engine.schedule(self, self.tick(self.started))

    # ---- running ----

    def pass_on(self, number: int, data: bytes) -> None:
        """Take what the payload wrote to stdout (1) or stderr (2)."""
        if self.record is not None:
            self.engine.registry.output(self.record, number, data)
        if self.attached and not self.detached:
            self.engine.tell(Kind.STREAM, self.id, [number, data])

    @property
    def enters(self) -> bool:
        """Whether it is one more process of a container that is there."""
        return False

    @property
    def followed(self) -> bool:
        """Whether somebody at the kernel reads its output."""
        return bool(self.record.followers) if self.record is not None and self.detached else self.attached

    @property
    def detached(self) -> bool:
        """Whether it goes on when its program has been started and the kernel looks away."""
        return self.record is not None and self.record.life.detach

    def interrupt(self) -> None:
        """Deliver SIGINT as a terminal would: to every process of the container.

        A PID 1 without a handler never sees it (pid_namespaces(7)): a program that is one gets a
        quarter of a second to end by itself, then the container is killed. One that ignores it on purpose
        goes on, as after Ctrl-C; `kill` is for the second time.
        """
        self.reason = self.reason or "interrupted"
        for pid in self.cgroup.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        if not self.spec.python and not self.spec.init and defaults(self.pid, signal.SIGINT):
            self.kill_at = time.monotonic() + 0.25
            self._look_by(self.kill_at)

    def send_signal(self, number: int) -> None:
        """Send PID 1 a signal."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def kill(self, reason: str) -> None:
        """Kill every process of the container, for `reason`."""
        self.reason = reason if self.reason in ("", "interrupted") and reason != "killed" else self.reason or reason
        if self.pidfd >= 0 and self.status is None:
            self.send_signal(signal.SIGKILL)
        self.cgroup.kill()

    def on_forked_exit(self, code: int) -> None:
        """The fork of the kernel that ran inside has ended: nothing is left to do for PID 1."""
        self.forked_code = code
        self.send_signal(signal.SIGKILL)
        self.cgroup.kill()

    def on_oom(self) -> None:
        """The kernel says that the memory limit was hit: where it killed somebody, all go."""
        self.cgroup.oom_ack()
        self.oom_hit = True
        now = time.monotonic()
        if self.state == "running" and now >= self.sampled + FIRST_SAMPLE_S:
            self._sample(now)  # the victim has not yet given its memory back
        self._look_for_oom_kill()
        self.sample_soon()

    def _look_for_oom_kill(self) -> None:
        if self.state == "running" and self.cgroup.oom_kills():
            self.oom_hit = False
            self.kill("oom")

    def tick(self, now: float) -> float:
        """Do what is due; return when to come back."""
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            self.kill("timeout")
        if self.kill_at is not None and now >= self.kill_at:
            self.kill_at = None
            self.kill("interrupted")
        look_s = self.cgroup.watch_interval_s
        if look_s is not None and (over := self.cgroup.exceeded()):
            self.kill(over)
        if now >= self.next_sample:
            if self.oom_hit:  # version 1 wakes us before it has counted its victim
                self._look_for_oom_kill()
            self._sample(now)
        look_at = None if look_s is None else now + look_s
        return min(t for t in (self.next_sample, self.deadline, self.kill_at, look_at) if t is not None)

    def _sample(self, now: float) -> None:
        sample = self._take_sample()
        # One that does nothing is looked at less and less often, down to every `IDLE_INTERVALS`-th time.
        idle = sample[1:] == self.last_sample[1:]
        regular_s = self.engine.sample_interval
        self.sample_interval_s = min(2 * self.sample_interval_s, IDLE_INTERVALS * regular_s if idle else regular_s)
        self.last_sample, self.sampled = sample, now
        self.next_sample = max(self.next_sample + self.sample_interval_s, now)
        self.engine.tell_sample(self, relative(sample, self.base_sample, self.started))

    def sample_soon(self, interval_s: float | None = None) -> None:
        """Take the next sample one interval from now, by default a regular one, however idle the container has been."""
        self.sample_interval_s = interval_s or self.engine.sample_interval
        self.next_sample = time.monotonic() + self.sample_interval_s
        self._look_by(self.next_sample)

    def _look_by(self, when: float) -> None:
        if when < self.due:
            self.engine.schedule(self, when)

    def elapsed_s(self) -> float:
        """Return the seconds since the payload's start."""
        return time.monotonic() - self.started

    def relative_sample(self) -> list[Any]:
        """Take a sample; counters and time count from the payload's start."""
        return relative(self._take_sample(), self.base_sample, self.started)

    def last_counters(self) -> list[Any]:
        """Return what it has used, when its processes have gone, as a sample without amounts."""
        assert self.sampler is not None
        return relative(self.sampler.counters(), self.base_sample, self.started)

    def _take_sample(self) -> tuple[Any, ...]:
        assert self.sampler is not None
        return self.sampler.sample()

    # ---- the end ----

    @contextlib.contextmanager
    def contained(self) -> Iterator[None]:
        """Have whatever goes wrong within be the end of this container, and of no other."""
        try:
            yield
        except Exception as e:
            self.fail(e)

    def fail(self, error: Exception) -> None:
        """End it: its user is told of this error in place of how it ended."""
        if self.failure is None:
            error = told(error)
            if isinstance(error, OSError):
                error = EngineError(
                    f"the container was ended, for the engine could not look after it any longer: {error}"
                )
            self.failure = error
        with contextlib.suppress(OSError):  # what it cannot do, the end of PID 1 does
            self.kill("killed")
        if self.status is not None:
            self.state = "ended"

    def on_exit(self, status: int) -> None:
        """PID 1 has been reaped with this wait status."""
        self.status, self.finished_s = status, time.time()
        with self.contained():
            if "pid" not in self.namespaces or "pid" in self.spec.without or "pid" in self.spec.joined:
                self.cgroup.kill()  # without a PID namespace, nothing else ends what it started
        if self.leaving:
            self.leaving = False
            self.dispose(keep_files=self.keep_files)
            self.engine.leave(-1)
            return
        with self.contained():
            self.take_last_reports()
        self.state = "ended"

    def _on_done(self, code: int) -> None:
        """The cell is over, and its process has yet to give its memory back, which takes milliseconds: do not wait.

        Where anything else runs in the container, its end is waited for.
        """
        assert self.sampler is not None
        alone = self.state == "running" and not (self.reason or self.engine.is_behind) and self.sampler.tasks() == 1
        if alone and self.streams.read_out():  # else the cell has made a pipe larger
            self.said_code, self.leaving, self.state = code & 0xFF, True, "ended"
            self.finished_s = time.time()
            self.engine.stop(self)  # who says so ends
            self.streams.drain()
        self.streams.close_one("report")  # which the process waits for

    def take_last_reports(self) -> None:
        """Read what the child said before it ended; one that ended before its payload began has failed."""
        if self.ends.report >= 0:
            os.set_blocking(self.ends.report, False)
        while self.ends.report >= 0:
            self.on_report()
        if self.state in ("building", "ready"):
            self.failure = self.failure or SetupError(
                step=0, steps=len(self.plan.steps), call="clone3", errno=errno.ECHILD,
                cause="the child was killed while it was building the container",
            )  # fmt: skip

    @property
    def drained(self) -> bool:
        """Whether everything the container wrote has been read; one that could not be built wrote nothing."""
        return self.failure is not None or self.streams.at_end

    def summary(self) -> dict[str, Any]:
        """Return what the kernel is told of the end."""
        return summary_of(self)

    def open_root(self) -> int:
        """Return a descriptor of the root directory; the caller closes it."""
        return os.dup(self.root_fd)

    def layer_bytes(self) -> int:
        """Return the bytes that what it wrote takes."""
        if self.layer_fd < 0:
            return 0
        state = os.fstatvfs(self.layer_fd)
        return (state.f_blocks - state.f_bfree) * state.f_frsize

    def discard(self) -> None:
        """Take down a container in which nothing has run."""
        self.cgroup.kill()
        if self.pidfd >= 0 and self.status is None:
            self.send_signal(signal.SIGKILL)
            if not self.recipe.in_zygote:
                os.waitpid(self.pid, 0)
        self.dispose()

    def dispose(self, *, keep_files: bool = False) -> None:
        """Give back everything: descriptors, layer, cgroups. Every process is dead by now.

        With `keep_files`, what the container wrote stays, until it is disposed of once more.
        """
        if self.network is not None:
            self.network.close()
        if self.host_of_network is not None:
            self.host_of_network.guests.remove(self)
            self.host_of_network = None
        if self.leaving:
            self.keep_files = keep_files
            return
        self.close_all(keep_files=keep_files)
        if self.sampler is not None:
            self.sampler.close()
        with logged():  # EBUSY: a process is still in the kernel; it goes with the engine's own directory
            self.cgroup.remove()
        if self.volumes and not keep_files:
            with logged():  # EAGAIN: no more processes; `volume prune` finds them
                self.engine.remove_volumes(*self.volumes)
            self.volumes = ()

    def close_all(self, *, keep_files: bool = False) -> None:
        """Close every descriptor."""
        self.streams.close()
        for attribute in ("pidfd", "oom_fd", *(() if keep_files else KEPT)):
            fd = getattr(self, attribute)
            if fd >= 0:
                self.engine.unwatch(fd)
                if attribute != "oom_fd":  # the cgroup's own
                    os.close(fd)
                setattr(self, attribute, -1)
        while self.held_fds and not keep_files:
            os.close(self.held_fds.pop())


def defaults(pid: int, number: int) -> bool:
    """Whether a process neither catches nor ignores a signal: ``SigCgt``, ``SigIgn`` in proc_pid_status(5)."""
    masks = 0
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as f:
        for row in f:
            if row.startswith(("SigCgt:", "SigIgn:")):
                masks |= int(row.split()[1], 16)
    return not masks >> (number - 1) & 1


def relative(sample: tuple[Any, ...], base: tuple[Any, ...] | None, started: float) -> list[Any]:
    """Make a sample's time and counters count from the payload's start (fields: `usage.SAMPLE_FIELDS`)."""
    values = list(sample)
    values[0] = max(0.0, time.monotonic() - started)
    if base is not None:
        for i in CUMULATIVE:
            if values[i] is not None and base[i] is not None:
                values[i] = max(0, values[i] - base[i])
    return values
