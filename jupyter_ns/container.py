"""What a run leaves behind: the `Container`, in ``_container`` and from `jupyter_ns.run`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .namespaces import NamespaceID
from .plan import Plan
from .spec import ContainerSpec, LimitRecord
from .usage import Usage


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
        ``exited``, ``oom``, ``timeout``, ``killed`` or ``interrupted``.
    stdout, stderr : str
        Bounded; a truncation is said in the text.
    value : object
        The cell's last expression, if it could be returned safely; else None and `value_note` says why.
    namespaces : dict of str to NamespaceID
        Kind to inode numbers.
    usage : Usage
        Time series of what it used.
    peak_memory_bytes : int or None
        Highest memory use; `peak_memory_source` names the kernel file it came from.
    cpu_seconds, throttled_seconds, wall_seconds : float
        CPU time used; time runnable but stopped by the quota; start to end.
    changes : list of Change
        What it wrote to its copy-on-write file system.
    limits : list of LimitRecord
        Requested and effective, with the kernel file each was written to.
    timings : list of float
        Seconds each step of the plan took.
    oom_limit : OOMLimit or None
        The memory limit that was hit, where it is that of a cgroup above the container's own.
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
    namespaces: dict[str, NamespaceID] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    peak_memory_bytes: int | None = None
    peak_memory_source: str = ""
    cpu_seconds: float = 0.0
    throttled_seconds: float = 0.0
    wall_seconds: float = 0.0
    changes: list[Change] = field(default_factory=list)
    limits: list[LimitRecord] = field(default_factory=list)
    timings: list[float] = field(default_factory=list)
    weakened: list[str] = field(default_factory=list)
    changes_truncated: bool = False
    oom_limit: OOMLimit | None = None
    make_plan: Callable[[], Plan] | None = field(default=None, repr=False)

    @property
    def plan(self) -> Plan:
        """The steps that built it, in order; `timings` has the seconds that each took."""
        if self.make_plan is None:
            raise AttributeError("this container was not made by a run")
        return self.make_plan()

    def __repr__(self) -> str:
        how = f"exit code {self.exit_code}, {self.reason}" if self.status == "exited" else self.status
        what = "Python cell" if self.spec.python else " ".join(self.spec.argv)
        return f"<Container {self.name} ({self.short_id}) {what!r}: {how}, {self.wall_seconds:.3f} s>"

    @property
    def short_id(self) -> str:
        """The first 12 digits of the ID; also the default host name."""
        return self.id[:12]

    @property
    def oom_killed(self) -> bool:
        """Whether the memory limit ended it."""
        return self.reason == "oom"
