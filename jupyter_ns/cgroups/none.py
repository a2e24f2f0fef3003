"""Where no cgroup can be had: the engine's own eye on a container's processes, in place of the kernel's.

Should: limit memory and tasks by looking every `WATCH_S` seconds and killing what is over, and say so;
refuse by name every limit that looking cannot give. Mustn't: pass for a cgroup.

The processes are read from the container's own /proc, which lists its PID namespace and nothing else.
Killing needs no cgroup: with PID 1 goes its PID namespace, pid_namespaces(7).
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import ClassVar, NamedTuple

from ..errors import UnsupportedError, UsageError
from ..spec import LimitRecord, Limits
from ..usage import GAUGES, SAMPLE_FIELDS
from . import v2
from .base import Cgroup
from .devices import Rule
from .facts import OPTIONS, CgroupFacts, Need, Place, Setting, UsualDevices, is_limit, merge
from .sampler import Sampler

WATCH_S = 0.02
WATCHED = ("memory_bytes", "pids_limit")
DELEGATE = "start the notebook server in a cgroup of its own: systemd-run --user --scope -p Delegate=yes jupyter lab"
SOURCE = "sampled /proc/PID/statm"
WATCHED_BY = "watched"
"""What a `LimitRecord` names in place of a kernel file. No rlimit would do: RLIMIT_AS counts what is only
reserved, RLIMIT_NPROC all processes of the user, and each but the second bounds one process, getrlimit(2)."""

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Totals(NamedTuple):
    """Sums over a container's processes: seconds of CPU, bytes of anonymous memory, tasks."""

    user_s: float = 0.0
    system_s: float = 0.0
    memory_bytes: int = 0
    tasks: int = 0


def totals(proc_fd: int) -> Totals:
    """Sum up the processes that a /proc shows.

    CPU time of processes that have ended counts too, once their parents have waited for them.

    Notes
    -----
    proc_pid_stat(5), fields 14 to 17 and 20; proc_pid_statm(5): resident less shared is anonymous memory.
    """
    user = system = pages = tasks = 0
    for name in os.listdir(proc_fd):
        if name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                fields = _read(proc_fd, f"{name}/stat").rpartition(")")[2].split()
                memory = _read(proc_fd, f"{name}/statm").split()
                user += int(fields[11]) + int(fields[13])
                system += int(fields[12]) + int(fields[14])
                tasks += int(fields[17])
                pages += int(memory[1]) - int(memory[2])
    return Totals(user / _TICKS, system / _TICKS, pages * _PAGE, tasks)


def proportional_bytes(proc_fd: int) -> int:
    """Sum up the anonymous memory that a /proc shows, each page counted once: about 1 ms per 50 MiB.

    Notes
    -----
    ``Pss_Anon`` in proc_pid_smaps(5): after a fork, `totals` counts a shared page once a process.
    """
    total = 0
    for name in os.listdir(proc_fd):
        if name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                for line in _read(proc_fd, f"{name}/smaps_rollup").splitlines():
                    if line.startswith("Pss_Anon:"):
                        total += int(line.split()[1]) * 1024
    return total


def _read(directory_fd: int, path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        return os.read(fd, 1 << 16).decode(errors="replace")
    finally:
        os.close(fd)


class NoCgroup(Cgroup):
    """One container's processes and limits, without a cgroup."""

    NEEDS: ClassVar[dict[str, Need]] = {name: need for name, need in v2.NEEDS.items() if name not in WATCHED}
    __slots__ = ("_base", "_base_bytes", "_last", "_peak_bytes", "_pid_namespace", "_proc", "_verdict")

    def __init__(self, facts: CgroupFacts, name: str) -> None:
        super().__init__(facts, name, [], _no_place)
        self._proc = -1
        self._pid_namespace = 0
        self._base, self._last = Totals(), Totals()
        self._base_bytes = self._peak_bytes = 0
        self._verdict = ""

    def set(self, limits: Limits) -> None:
        """Apply limits; see `Cgroup.set`.

        Raises
        ------
        UnsupportedError
            If one cannot be had by looking; the message names the way to a cgroup.
        """
        reasons = missing(limits, self._facts)
        if reasons:
            named = "; ".join(f"{OPTIONS[n]} needs the cgroup {reason}" for n, reason in reasons.items())
            raise UnsupportedError(f"{named}. To get one, {DELEGATE}")
        self.limits = merge(self.limits, limits)
        self._records.clear()
        self.notes = []
        for field in WATCHED:
            value = getattr(self.limits, field)
            if value is not None and value > 0:
                self._records[field, WATCHED_BY] = LimitRecord(field, value, str(value), WATCHED_BY)
                self.notes.append(f"{OPTIONS[field]}: {_MEANING[field]}")

    def watch(self, pid: int) -> None:
        """Begin to look: the container whose PID 1 this is stands, its payload has not begun."""
        self._proc = os.open(f"/proc/{pid}/root/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._pid_namespace = os.stat(f"/proc/{pid}/ns/pid").st_ino
        self._base = totals(self._proc)
        # What a fork of the zygote shares with it is not the container's.
        self._base_bytes = self._base.memory_bytes
        self._last = self._base

    @property
    def watch_interval_s(self) -> float | None:
        """How often to ask `exceeded`, seconds; None: nothing is limited."""
        return WATCH_S if self._records else None

    def exceeded(self) -> str:
        """Look; return the reason to kill the container, ``oom`` or ``killed``, or nothing."""
        if self._verdict or self._proc < 0:
            return ""
        now = self.totals()
        tasks, memory = self.limits.pids_limit or 0, self.limits.memory_bytes or 0
        if 0 < tasks < now.tasks:
            self._verdict = "killed"
        elif 0 < memory < now.memory_bytes and memory < proportional_bytes(self._proc) - self._base_bytes // 2:
            self._verdict = "oom"
        return self._verdict

    def totals(self) -> Totals:
        """Return the sums now; once all have ended, the CPU time seen last."""
        try:
            now = totals(self._proc) if self._proc >= 0 else Totals()
        except OSError:  # ESRCH, ENOENT: the PID namespace is gone
            now = Totals()
        memory = max(0, now.memory_bytes - self._base_bytes)
        self._peak_bytes = max(self._peak_bytes, memory)
        user, system = max(now.user_s, self._last.user_s), max(now.system_s, self._last.system_s)
        self._last = Totals(user, system, memory, now.tasks)
        return self._last

    def use_usual_devices(self, usual: UsualDevices) -> None:
        """Do nothing: there is nothing to restrict them in."""

    def restrict_devices(self, rules: tuple[Rule, ...]) -> tuple[list[str], str]:
        """Return nothing: no rule is in force."""
        return [], WATCHED_BY

    def _settings(self, wanted: Limits, fields: frozenset[str]) -> list[Setting]:
        return []

    @property
    def self_join_files(self) -> tuple[str, ...]:
        """None to join."""
        return ()

    def add(self, pid: int) -> None:
        """Do nothing: who is in the PID namespace is in."""

    def into_fd(self) -> None:
        """Return None: there is nothing to be born in."""

    def oom_fd(self) -> None:
        """Return None: nobody tells; see `exceeded`."""

    def oom_ack(self) -> None:
        """Do nothing."""

    def oom_kills(self) -> int:
        """Return 1 if the memory limit was the end of it."""
        return int(self._verdict == "oom")

    def peak(self) -> tuple[int | None, str]:
        """Return the highest memory use that was seen, bytes."""
        return self._peak_bytes, SOURCE

    def freeze(self, timeout_s: float = 5.0) -> None:
        """Refuse: SIGSTOP would be seen inside.

        Raises
        ------
        UnsupportedError
            Always.
        """
        raise UnsupportedError(f"pause: needs a cgroup, and there is none here; {DELEGATE}")

    def thaw(self) -> None:
        """Do nothing."""

    def kill(self, timeout_s: float = 10.0) -> None:
        """Do nothing: with PID 1, whose pidfd the engine has, its whole namespace ends."""

    def pids(self) -> list[int]:
        """Return the processes of the container, as this process counts."""
        found = []
        for name in os.listdir("/proc") if self._pid_namespace else ():
            if name.isdigit():
                with contextlib.suppress(OSError):  # it has ended, or is not ours
                    if os.stat(f"/proc/{name}/ns/pid").st_ino == self._pid_namespace:
                        found.append(int(name))
        return sorted(found)

    def close(self) -> None:
        """Close the descriptor."""
        if self._proc >= 0:
            os.close(self._proc)
            self._proc = -1


_MEANING = {
    "memory_bytes": (
        f"the engine looks every {WATCH_S * 1000:.0f} ms and kills what is over; it counts anonymous memory, neither "
        "files written inside nor swap"
    ),
    "pids_limit": f"the engine looks every {WATCH_S * 1000:.0f} ms and kills what is over; fork itself does not fail",
}


def missing(limits: Limits, facts: CgroupFacts) -> dict[str, str]:
    """Return the fields that cannot be honoured without a cgroup, and why."""
    found = {}
    if limits.device_rules:
        found["device_rules"] = f"rules on devices: {facts.devices_error}"
    for name, (controller, _, _) in v2.NEEDS.items():
        value = getattr(limits, name)
        if name not in WATCHED and value is not None and is_limit(name, value):
            found[name] = f"controller {controller}: {facts.unavailable.get(controller, 'there is none here')}"
    return found


def _no_place(controller: str) -> Place:
    raise LookupError(f"there are no cgroups: {controller}")


class NoManager:
    """Stands in for `Manager` where `CgroupFacts.version` is 0."""

    def __init__(self, facts: CgroupFacts) -> None:
        self.facts = facts
        self.groups: dict[str, Cgroup] = {}

    def create(self, name: str, limits: Limits, *, group: str = "", controllers: tuple[str, ...] = ()) -> NoCgroup:
        """Make the stand-in for a container's cgroup; see `Manager.create`.

        Raises
        ------
        UnsupportedError
            If a limit cannot be honoured here.
        """
        if group:
            raise UnsupportedError(f"--cgroup-parent {group}: there is no cgroup here. To get one, {DELEGATE}")
        cgroup = NoCgroup(self.facts, name)
        cgroup.set(limits)
        return cgroup

    def create_group(self, name: str, limits: Limits, *, group: str = "") -> NoCgroup:
        """Refuse: without cgroups, there are no groups of containers.

        Raises
        ------
        UnsupportedError
            Always.
        """
        raise UnsupportedError(f"%cgroup create: there is no cgroup here. To get one, {DELEGATE}")

    def remove_group(self, name: str) -> None:
        """Refuse, as `create_group`."""
        raise UsageError(f"no cgroup {name!r}: there are none here")

    def close(self) -> None:
        """Do nothing: nothing was made."""


class ProcSampler:
    """Takes samples of a container without a cgroup; as `jupyter_ns.cgroups.Sampler`."""

    def __init__(self, cgroup: NoCgroup) -> None:
        self._cgroup = cgroup
        self._start_s = time.monotonic()

    def sample(self) -> tuple[float | int | None, ...]:
        """Return what is used now, in the order of `SAMPLE_FIELDS`; None: not to be had without a cgroup."""
        now = self._cgroup.totals()
        known = {
            "time_s": time.monotonic() - self._start_s,
            "cpu_s": now.user_s + now.system_s,
            "user_s": now.user_s,
            "system_s": now.system_s,
            "memory_bytes": now.memory_bytes,
            "pids": now.tasks,
        }
        return tuple(known.get(name) for name in SAMPLE_FIELDS)

    def counters(self) -> tuple[float | int | None, ...]:
        """Return the same without `usage.GAUGES`."""
        return tuple(
            None if name in GAUGES else value for name, value in zip(SAMPLE_FIELDS, self.sample(), strict=True)
        )

    def tasks(self) -> int:
        """Return how many tasks there are now."""
        return self._cgroup.totals().tasks

    def watch_network(self, pid: int) -> None:
        """Do nothing: without a cgroup, nothing more is counted."""

    def close(self) -> None:
        """Do nothing: the descriptor is the cgroup's."""


def sampler_of(cgroup: Cgroup) -> Sampler | ProcSampler:
    """Return what takes samples of a container."""
    return ProcSampler(cgroup) if isinstance(cgroup, NoCgroup) else Sampler(cgroup)
