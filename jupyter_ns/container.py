"""What a run leaves behind: the `Container`, in ``_container`` and from `jupyter_ns.run`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import container_control
from .errors import UsageError
from .lifecycle import ask
from .namespaces import NamespaceID
from .plan import Plan, PlanInputs
from .spec import ContainerSpec, LimitRecord
from .usage import Usage

REFUSED = "refused"
"""The `Container.reason` of what never ran, as this machine cannot."""


class Change(NamedTuple):
    """A path that a container added (``A``), changed (``C``) or deleted (``D``)."""

    kind: str
    path: str


class OOMLimit(NamedTuple):
    """Whose memory limit a container ran into: a group's name, or a cgroup's path."""

    name: str
    limit_bytes: int


@dataclass(slots=True, repr=False)
class Container:
    """One container, while it runs and afterwards.

    Attributes
    ----------
    id, name : str
        64 hexadecimal digits; the name given or made up.
    pid : int
        Its PID 1 as the host counts.
    status : str
        ``created``, ``running``, ``paused`` or ``exited``.
    exit_code : int or None
        As Docker's: 125 to 127, 128 + signal, else the program's own.
    reason : str
        ``exited``, ``oom``, ``timeout``, ``killed``, ``interrupted`` or ``refused``: this machine cannot.
    stdout, stderr : str
        Bounded; a truncation is said in the text.
    value : object
        The cell's last expression, if it could be returned safely; else None and `value_note` says why.
    shared : dict of str to str
        Kind of namespace to the container that it is of, where it is another's (``--network container:NAME``).
    usage : Usage
        Time series of what it used.
    peak_memory_bytes : int or None
        Highest memory use; `peak_memory_source` names the kernel file it came from, or says that it was sampled.
    cpu_seconds, throttled_seconds, wall_seconds : float
        CPU time used; time runnable but stopped by the quota; start to end.
    changes : list of Change
        What it wrote to its copy-on-write file system.
    limits : list of LimitRecord
        Requested and effective, with the kernel file each was written to.
    step_ns : sequence of int
        Nanoseconds that each step of the plan took; `timings` has them in seconds.
    oom_limit : OOMLimit or None
        The memory limit that was hit, where it is that of a cgroup above the container's own.
    guest : str
        The guest kernel that it ran in, in words; empty for this machine's own.
    weakened : list of str
        Every guarantee that this host could not give, and why.
    """

    id: str
    spec: ContainerSpec
    name: str = ""
    pid: int = 0
    status: str = "created"
    exit_code: int | None = None
    reason: str = ""
    stdout: str = ""
    stderr: str = ""
    value: Any = None
    value_note: str = ""
    shared: dict[str, str] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    peak_memory_bytes: int | None = None
    peak_memory_source: str = ""
    cpu_seconds: float = 0.0
    throttled_seconds: float = 0.0
    wall_seconds: float = 0.0
    changes: list[Change] = field(default_factory=list)
    limits: list[LimitRecord] = field(default_factory=list)
    step_ns: Sequence[int] = field(default=(), repr=False)
    guest: str = ""
    weakened: list[str] = field(default_factory=list)
    changes_truncated: bool = False
    oom_limit: OOMLimit | None = None
    make_inputs: Callable[[], PlanInputs] | None = field(default=None, repr=False)
    make_plan: Callable[[], Plan] | None = field(default=None, repr=False)
    make_namespaces: Callable[[], dict[str, NamespaceID]] | None = field(default=None, repr=False)
    _namespaces: dict[str, NamespaceID] = field(default_factory=dict, repr=False)

    @property
    def namespaces(self) -> dict[str, NamespaceID]:
        """Kind to inode numbers: this process's own are read when they are first asked for, which takes 0.1 ms."""
        if not self._namespaces and self.make_namespaces is not None:
            self._namespaces = self.make_namespaces()
        return self._namespaces

    @namespaces.setter
    def namespaces(self, ids: dict[str, NamespaceID]) -> None:
        self._namespaces = ids

    @property
    def timings(self) -> list[float]:
        """Seconds that each step of the plan took."""
        return [ns / 1e9 for ns in self.step_ns]

    @property
    def plan(self) -> Plan:
        """The steps that built it, in order; `timings` has the seconds that each took."""
        if self.make_plan is None:
            raise AttributeError("this container was not made by a run")
        return self.make_plan()

    def __repr__(self) -> str:
        how = f"exit code {self.exit_code}, {self.reason}" if self.status == "exited" else self.status
        what = "Python cell" if self.spec.python else " ".join(self.spec.command)
        return f"<Container {self.name} ({self.short_id}) {what!r}: {how}, {self.wall_seconds:.3f} s>"

    def note_peak(self, peak_bytes: int | None, source: str) -> None:
        """Note the highest memory use; where the kernel keeps none (before Linux 5.19), that of the samples."""
        if peak_bytes is None and (seen := self.usage.peak("memory_bytes")) is not None:
            peak_bytes, source = int(seen), "sampled memory.current"
        self.peak_memory_bytes, self.peak_memory_source = peak_bytes, source

    @property
    def short_id(self) -> str:
        """The first 12 digits of the ID; also the default host name."""
        return self.id[:12]

    def reload(self) -> Container:
        """Bring the attributes of a container that goes on, or has gone on, by itself up to date; return it.

        Raises
        ------
        UsageError
            If it has been removed.
        """
        container_control.reload(self)
        return self

    def logs(self) -> str:
        """Return what it wrote to standard output so far."""
        return container_control.output(self)[1]

    def exec(self, program: str, *arguments: str, input: str | bytes = b"", **changes: Any) -> Container:
        """Run a program inside, in its namespaces, cgroup and capabilities, and wait for it.

        Parameters
        ----------
        program, *arguments : str
            What to run.
        input : str or bytes
            Its standard input.
        **changes
            ``user``, ``workdir``, ``environment`` (a mapping), where they are not the container's.

        Returns
        -------
        Container
            With ``stdout``, ``stderr`` and ``exit_code`` of the program.
        """
        return container_control.execute(self, program, *arguments, input=input, **changes)

    def update(self, **limits: Any) -> Container:
        """Move limits, also while it runs: ``c.update(memory="128m", cpus=0.5)``."""
        container_control.update(self, limits)
        return self

    def wait(self) -> int:
        """Wait until it ends; return its exit code."""
        code = int(ask("wait", of=self.id))
        self.exit_code, self.status = code, "exited"
        return code

    def stop(self, timeout: float | None = None) -> Container:
        """Ask it to end, and kill it after `timeout` seconds; by default ``--stop-timeout``."""
        ask("stop", of=self.id, timeout_s=timeout)
        return self._after()

    def kill(self, signal: str = "SIGKILL") -> Container:
        """Send its PID 1 a signal."""
        ask("kill", of=self.id, signal_name=signal)
        return self._after()

    def start(self) -> Container:
        """Start it again, after it has ended."""
        ask("start", of=self.id)
        return self._after()

    def pause(self) -> Container:
        """Freeze all its processes."""
        ask("pause", of=self.id)
        return self._after()

    def unpause(self) -> Container:
        """Let them go on."""
        ask("unpause", of=self.id)
        return self._after()

    def remove(self, force: bool = False) -> None:
        """Remove it and what it wrote; with `force` also while it runs."""
        ask("remove", of=self.id, force=force)
        self.status = "removed"

    def _after(self) -> Container:
        try:
            return self.reload()
        except UsageError:  # --rm: it went when it ended
            self.status = "exited"
            return self

    @property
    def oom_killed(self) -> bool:
        """Whether the memory limit ended it."""
        return self.reason == "oom"
