"""The `Cgroup` that a container lives in: what both versions share.

Should: create, limit, watch, kill and remove cgroups below ``jupyter_ns``.
Mustn't: touch a cgroup or a process outside of it (the engine's own process excepted), remove a
file, leave a directory behind, or leave a limit out without saying so.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from ..errors import UnsupportedError, UsageError
from ..spec import LimitRecord, Limits
from . import devices, files
from .ancestors import Level, forget_peaks, read_levels
from .facts import (
    ACCEPTED,
    BANDWIDTH,
    OPTIONS,
    CgroupFacts,
    Need,
    Place,
    Setting,
    UsualDevices,
    as_typed,
    changed,
    id_set,
    merge,
    missing,
    swap_total_bytes,
)


class Cgroup(ABC):
    """One container's cgroup, in as many hierarchies as it needs.

    Made by `jupyter_ns.cgroups.Manager`. Not thread-safe: the engine has one thread.

    Attributes
    ----------
    name : str
        The directory's name.
    limits : Limits
        Everything asked for so far.
    notes : list of str
        Limits that Docker's defaults imply and this host cannot give.
    """

    NEEDS: ClassVar[dict[str, Need]]
    __slots__ = ("_facts", "_fds", "_open", "_places", "_records", "_where", "limits", "name", "notes")

    def __init__(self, facts: CgroupFacts, name: str, places: list[Place], open_place: Callable[[str], Place]) -> None:
        self._facts, self.name, self._places, self._open = facts, name, places, open_place
        self._fds: dict[str, int] = {}
        self.limits = Limits()
        self._where = {c: place.directory for place in places for c in place.controllers}
        self._records: dict[tuple[str, ...], LimitRecord] = {}
        self.notes: list[str] = []

    @property
    def version(self) -> int:
        """1 or 2."""
        return self._facts.version

    @property
    def records(self) -> list[LimitRecord]:
        """Every limit, requested and effective as the kernel read it back."""
        return list(self._records.values())

    @property
    def paths(self) -> dict[str, str]:
        """Controller to path, as ``/proc/PID/cgroup`` shows it to this process."""
        return {c: place.path for place in self._places for c in place.controllers}

    @property
    def directories(self) -> tuple[str, ...]:
        """Its directories, one a hierarchy."""
        return tuple(place.directory for place in self._places)

    def place(self, controller: str) -> Place:
        """Return its directory in the hierarchy of `controller`, made on first use."""
        if controller not in self._where:
            self._join(controller)
        return next(p for p in self._places if controller in p.controllers)

    def file(self, controller: str, name: str) -> str | None:
        """Return the path of a kernel file, or None where it does not exist."""
        directory = self._where.get(controller)
        return f"{directory}/{name}" if directory and name in self._facts.files else None

    def _read_kept(self, path: str) -> str:
        """Return the text of a kernel file of ours that is read more than once: it stays open.

        Raises
        ------
        OSError
            As open(2) and pread(2).
        """
        if path not in self._fds:
            self._fds[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._fds[path], files.SIZE, 0).decode()

    def levels(self, resource: str) -> list[Level]:
        """Return its limit of a resource and those of all cgroups above; see `ancestors.read_levels`."""
        place = next((p for p in self._places if resource in p.controllers), None)
        return [] if place is None else read_levels(resource, place.directory, place.path, self.version)

    def levels_anew(self, resource: str) -> list[Level]:
        """Return `levels` to compare later ones with."""
        for directory in self.directories:
            forget_peaks(directory)
        return self.levels(resource)

    def core_file(self, name: str) -> str | None:
        """Return the path of a file that version 2 has whatever the controllers are; None if there is none."""
        return f"{self._places[0].directory}/{name}" if name in self._facts.files else None

    def set(self, limits: Limits) -> None:
        """Apply limits, also to a running container; a field that is None stays as it is.

        Raises
        ------
        UnsupportedError
            If this host lacks a controller or a file; nothing was written.
        UsageError
            If the kernel refuses a value. What was written before it stays, and is in `records`.
        OSError
            If the cgroup is gone, or not writable.
        """
        wanted = merge(self.limits, limits)
        reasons = missing(limits, self._facts, self.NEEDS)
        if reasons:
            raise UnsupportedError("; ".join(f"{as_typed(limits, n)}: {r}" for n, r in reasons.items()))
        swap_total_bytes(wanted)
        fields = changed(wanted, self.limits)
        settings = self._settings(wanted, fields)
        self._check(wanted, fields)
        applied: set[str] = set()
        try:
            for setting in settings:
                if setting.controller not in self._where:
                    self._join(setting.controller)
                self._apply(setting)
                applied.add(setting.field)
        except BaseException:
            # What later changes start from must be what the kernel has now.
            written = applied | (BANDWIDTH if applied & BANDWIDTH else frozenset())
            self.limits = replace(self.limits, **{n: getattr(wanted, n) for n in written})
            raise
        self.limits = wanted

    def _apply(self, setting: Setting) -> None:
        path = f"{self._where[setting.controller]}/{setting.file}"
        try:
            told = files.write_back(path, setting.value).splitlines()
            effective = next((line for line in told if line.startswith(setting.line)), "")
            if setting.effective_file:
                effective = files.read(f"{os.path.dirname(path)}/{setting.effective_file}").strip()
        except OSError as e:
            refused = (
                errno.EINVAL,
                errno.ERANGE,
                errno.EBUSY,
                errno.ENOSPC,
                errno.ENODEV,
                errno.EOPNOTSUPP,
                errno.EACCES,
            )
            # cpuset answers EACCES to what the parent lacks; elsewhere it is about permission.
            if e.errno not in refused or (e.errno == errno.EACCES and setting.controller != "cpuset"):
                raise
            self._refuse(setting, errno.errorcode[e.errno])
        if setting.effective_file and setting.requested and id_set(effective) != id_set(setting.requested):
            self._refuse(setting, f"only {effective} took effect")
        record = LimitRecord(setting.field, setting.requested, effective, setting.file)
        self._records[record.name, record.file, setting.line] = record

    def _refuse(self, setting: Setting, why: str) -> None:
        accepted = ACCEPTED.get(setting.field, "another value")
        raise UsageError(
            f"{OPTIONS[setting.field]} {setting.requested}: the kernel refused {setting.value!r} "
            f"in {setting.file} ({why}); accepted: {accepted}"
        )

    def _join(self, controller: str) -> None:
        """Make the cgroup in one more hierarchy and bring its processes along."""
        members = self.pids()
        place = self._open(controller)
        self._places.append(place)
        self._where.update(dict.fromkeys(place.controllers, place.directory))
        for pid in members:
            try:
                files.write(f"{place.directory}/cgroup.procs", str(pid))
            except ProcessLookupError:
                continue  # it ended meanwhile

    def allow_devices(self, extra: tuple[str, ...], usual: UsualDevices) -> None:
        """Let the usual devices be used and these, and no other.

        Parameters
        ----------
        extra : tuple of str
            Rules; `devices.ALL` among them takes every restriction away.
        usual : UsualDevices
            What has been made ready for who wants no more than the usual ones.

        Raises
        ------
        UsageError
            If a cgroup above does not have one of `extra` to give.
        OSError
            As write(2) and bpf(2).
        """
        if not extra:
            self.use_usual_devices(usual)
        if not extra or devices.ALL in extra:
            return
        rules = devices.parse_rules((*devices.DEFAULT, *extra))
        told, file = self.restrict_devices(rules)
        refused = [rule.text for rule in devices.parse_rules(extra) if not devices.covered(rule, told)]
        if refused:
            raise UsageError(f"{OPTIONS['device_rules']} {refused[0]}: accepted: {ACCEPTED['device_rules']}")
        self._records["device_rules", file] = LimitRecord("device_rules", ", ".join(extra), ", ".join(told), file)

    @abstractmethod
    def use_usual_devices(self, usual: UsualDevices) -> None:
        """Let the usual devices be used and no other.

        Raises
        ------
        OSError
            As bpf(2).
        """

    @abstractmethod
    def restrict_devices(self, rules: tuple[devices.Rule, ...]) -> tuple[list[str], str]:
        """Let these devices be used and no other; return the rules in force, and where they were written.

        Raises
        ------
        OSError
            As write(2), or bpf(2).
        """

    @abstractmethod
    def _settings(self, wanted: Limits, fields: frozenset[str]) -> list[Setting]:
        """Return the writes that lead from `limits` to `wanted`, in an order the kernel accepts."""

    @property
    def watch_interval_s(self) -> float | None:
        """How often somebody has to ask `exceeded`, seconds; None: the kernel sees to the limits."""
        return None

    def watch(self, pid: int) -> None:  # noqa: B027
        """Learn the container's PID 1, before its payload begins."""

    def exceeded(self) -> str:
        """Return the reason to kill the container for, if a limit is only watched; else nothing."""
        return ""

    def _check(self, wanted: Limits, fields: frozenset[str]) -> None:  # noqa: B027
        """Raise `UsageError` for a change that the kernel would answer with an OOM kill."""

    @property
    @abstractmethod
    def self_join_files(self) -> tuple[str, ...]:
        """The files to which a process with one thread writes ``0`` to put itself in."""

    @abstractmethod
    def add(self, pid: int) -> None:
        """Put another process, with one thread, in.

        Raises
        ------
        OSError
            ESRCH: no such process.

        Notes
        -----
        Costs 4 to 20 ms if none was moved shortly before: for another PID than the writer's own the
        kernel takes the lock of all thread groups, and waits for an RCU grace period
        (``cgroup_threadgroup_rwsem``). `self_join_files` and `into_fd` do without.
        """

    @abstractmethod
    def into_fd(self) -> int | None:
        """Return a directory descriptor for ``CLONE_INTO_CGROUP``; None on version 1. We close it."""

    @abstractmethod
    def oom_fd(self) -> int | None:
        """Return a descriptor that is readable (POLLIN) after an OOM; None without ``memory``.

        It also wakes for related events, so look at `oom_kills`; `oom_ack` rearms it. We close it.
        """

    @abstractmethod
    def oom_ack(self) -> None:
        """Take the event from `oom_fd`."""

    @abstractmethod
    def oom_kills(self) -> int:
        """Return how many processes the OOM killer has ended; 0 without ``memory``."""

    @abstractmethod
    def peak(self) -> tuple[int | None, str]:
        """Return the highest memory use, bytes, and the kernel file that says so; None if none does."""

    @abstractmethod
    def freeze(self, timeout_s: float = 5.0) -> None:
        """Stop every process, also in cgroups below.

        Raises
        ------
        UnsupportedError
            If there is no freezer here.
        TimeoutError
            If one does not stop, as in an uninterruptible sleep; all run again.
        """

    @abstractmethod
    def thaw(self) -> None:
        """Undo `freeze`."""

    @abstractmethod
    def kill(self, timeout_s: float = 10.0) -> None:
        """SIGKILL every process, also in cgroups below, and wait until all are gone.

        Raises
        ------
        TimeoutError
            If one outlives that, as in an uninterruptible sleep.
        """

    def pids(self) -> list[int]:
        """Return the processes inside, also in cgroups below; 0 is one that our /proc does not show."""
        found: set[int] = set()
        for place in self._places:
            for directory in files.walk(place.directory):
                try:
                    found.update(map(int, files.read(f"{directory}/cgroup.procs").split()))
                except FileNotFoundError:
                    continue  # removed between listing and reading
        return sorted(found)

    def populated(self) -> bool:
        """Return whether any process is inside."""
        return bool(self.pids())

    def remove(self, timeout_s: float = 2.0) -> None:
        """Remove its directories, with those that the payload made below; no file is ever removed.

        Raises
        ------
        OSError
            EBUSY: processes are still inside after `timeout_s` seconds.
        """
        self.close()
        for place in reversed(self._places):
            for _ in files.pauses(timeout_s):
                busy = files.remove_tree(place.directory)
                if not busy:
                    break
            else:
                raise OSError(errno.EBUSY, f"cgroup in use by processes {self.pids()}", busy)
        self._places.clear()

    def close(self) -> None:
        """Close the descriptors; the cgroup stays."""
        while self._fds:
            os.close(self._fds.popitem()[1])
