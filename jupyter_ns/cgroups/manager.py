"""The engine's cgroups: making them, and collecting what dead engines left."""

from __future__ import annotations

import os
import re
import types
from functools import partial

from .. import core
from ..errors import UnsupportedError, UsageError
from ..spec import CGROUP_NAME, Limits
from . import devices, files, none, processes, tree, v1, v2
from .base import Cgroup
from .facts import CgroupFacts, Place, UsualDevices, missing

USUAL_DEVICES = "usual-devices"
"""Version 1: the cgroup of all containers that want no devices of their own."""
_KEY = re.compile(r"(\d+)-(\d+)(-probe)?")


class Manager:
    """Makes the cgroups of one engine, below ``jupyter_ns/KEY`` of each base.

    Parameters
    ----------
    facts : CgroupFacts
        From `jupyter_ns.cgroups.probe`.
    engine_key : str
        From `jupyter_ns.cgroups.engine_key`: ``PID-STARTTIME``.

    Raises
    ------
    UnsupportedError
        If no controller can be used here.
    OSError
        If a directory cannot be made; none stays.
    """

    def __init__(self, facts: CgroupFacts, engine_key: str) -> None:
        match = _KEY.fullmatch(engine_key)
        if not match:
            raise ValueError(f"engine_key {engine_key!r}: accepted: PID-STARTTIME")
        if facts.version == 0:
            raise UnsupportedError(f"cgroup limits: {'; '.join(dict.fromkeys(facts.unavailable.values()))}")
        self.facts, self.key = facts, engine_key
        self._pid = int(match[1])
        self._parents: dict[str, Place] = {}
        self._count = 0
        self._moved: list[str] | None = None
        self._usual_devices = UsualDevices()
        self.groups: dict[str, Cgroup] = {}
        """What `create_group` made, by name."""
        try:
            self._start()
        except OSError:
            self.close()
            raise

    def _start(self) -> None:
        if self.facts.version == 1:
            for controller in v1.DEFAULT:
                if self.facts.base(controller):
                    self._parent(controller)
            if not self.facts.devices_error:
                usual = tree.make_place(self._parent("devices"), USUAL_DEVICES)
                v1.write_rules(usual.directory, devices.parse_rules(devices.DEFAULT))
                self._usual_devices = UsualDevices(directory=usual.directory)
            return
        base = self.facts.bases[0]
        if self.facts.moves_engine:
            passed = files.read(f"{base.directory}/cgroup.subtree_control").split()
            self._moved = [c for c in base.controllers if c not in passed]
            if not tree.move_engine(base.directory, self._pid):
                self._moved = None
        tree.enable(base.directory, base.controllers)
        self._parent(base.controllers[0])
        if not self.facts.devices_error:
            code = devices.program(devices.parse_rules(devices.DEFAULT))
            self._usual_devices = UsualDevices(program_fd=core.load_device_program(code))

    def _parent(self, controller: str) -> Place:
        """Return the engine's directory in the hierarchy of `controller`, made on first use."""
        if controller not in self._parents:
            base = self.facts.base(controller)
            if base is None:
                reason = self.facts.unavailable.get(controller, "unknown to this kernel")
                raise UnsupportedError(f"cgroup controller {controller}: {reason}")
            place = tree.open_engine(self.facts, base, self.key)
            self._parents.update(dict.fromkeys(base.controllers, place))
        return self._parents[controller]

    def _place(self, controller: str, name: str, group: str = "") -> Place:
        """Make a directory in the hierarchy of `controller`, below the engine's or a group's."""
        parent = self.groups[group].place(controller) if group else self._parent(controller)
        try:
            place = tree.make_place(parent, name)
        except FileNotFoundError:
            if group:
                raise
            for known in parent.controllers:  # removed from outside: made again
                del self._parents[known]
            place = tree.make_place(self._parent(controller), name)
        if self.facts.version == 1 and "cpuset" in place.controllers:
            v1.fill_cpuset(place.directory)
        return place

    def unsupported(self, limits: Limits) -> dict[str, str]:
        """Return the fields of `limits` that cannot be honoured here, and why."""
        return unsupported(limits, self.facts)

    def create(self, name: str, limits: Limits, *, group: str = "", controllers: tuple[str, ...] = ()) -> Cgroup:
        """Make a container's cgroup and limit it.

        Parameters
        ----------
        name : str
            Directory name: letters, digits, ``_`` and ``-``.
        limits : Limits
            Only what is not None is written.
        group : str
            The group that it is part of.
        controllers : tuple of str
            Wanted besides the usual ones.

        Raises
        ------
        UsageError
            If the name is not acceptable or in use, or the kernel refuses a limit.
        UnsupportedError
            If a limit cannot be honoured here. Nothing stays of a failed one.
        OSError
            As mkdir(2) gives it.
        """
        if group and group not in self.groups:
            raise UsageError(self._no_group(group))
        cgroup = self.prepare(name, controllers, group)
        try:
            if self.facts.version == 2 and "memory.oom.group" in self.facts.files:
                files.write(f"{cgroup.directories[0]}/memory.oom.group", "1")
            cgroup.set(limits)
            if not self.facts.devices_error:
                cgroup.allow_devices(limits.device_rules, self._usual_devices)
        except BaseException:
            cgroup.remove()
            raise
        return cgroup

    def create_group(self, name: str, limits: Limits, *, group: str = "") -> Cgroup:
        """Make a cgroup for containers to be below, so that its limits bind them all.

        Parameters
        ----------
        name : str
            As in `create`.
        limits : Limits
            Of all together.
        group : str
            The group that it is part of.

        Raises
        ------
        UsageError, UnsupportedError, OSError
            As in `create`.
        """
        if limits.device_rules:
            raise UsageError("--device-cgroup-rule: accepted: for a container, not for a group of them")
        if group and group not in self.groups:
            raise UsageError(
                f"--cgroup-parent {group!r}: accepted: {', '.join(self.groups) or 'none, for none is there'}"
            )
        cgroup = self.prepare(name, group=group)
        try:
            cgroup.set(limits)
            if self.facts.version == 2:
                tree.enable(cgroup.directories[0], self.facts.bases[0].controllers)
        except BaseException:
            cgroup.remove()
            raise
        self.groups[name] = cgroup
        return cgroup

    def _no_group(self, name: str) -> str:
        known = ", ".join(self.groups) or "none yet"
        return (
            f"--cgroup-parent {name!r}: accepted: a cgroup that `%cgroup create NAME` made in this notebook ({known})"
        )

    def remove_group(self, name: str) -> None:
        """Remove a group that is empty.

        Raises
        ------
        UsageError
            If there is none of that name, or something is still below it.
        """
        if name not in self.groups:
            raise UsageError(f"no cgroup {name!r}; accepted: {', '.join(self.groups) or 'nothing, for none was made'}")
        group = self.groups[name]
        below = sorted({os.path.basename(p) for d in group.directories for p in files.children(d)})
        if below:
            raise UsageError(f"cgroup {name!r} is in use by {', '.join(below)}; accepted: once these are gone")
        group.remove()
        del self.groups[name]

    def prepare(self, name: str = "", controllers: tuple[str, ...] = (), group: str = "") -> Cgroup:
        """Make a cgroup without limits, for a pool: `Cgroup.set` limits it later.

        Parameters
        ----------
        name : str
            As in `create`; ``pool-N`` by default.
        controllers : tuple of str
            As in `create`.
        group : str
            As in `create`.

        Raises
        ------
        UsageError, UnsupportedError, OSError
            As in `create`.
        """
        if not name:
            self._count += 1
            name = f"pool-{self._count}"
        if not CGROUP_NAME.fullmatch(name):
            raise UsageError(f"cgroup name {name!r}: accepted: 1 to 128 letters, digits, '_' and '-'")
        usual = v1.DEFAULT if self.facts.version == 1 else self.facts.bases[0].controllers
        if group:
            controllers = (*controllers, *self.groups[group].paths)  # it must be where the group's limits are
        places: list[Place] = []
        covered: set[str] = set()
        try:
            for controller in (*(c for c in usual if self.facts.base(c)), *controllers):
                if controller not in covered:
                    places.append(self._place(controller, name, group))
                    covered.update(places[-1].controllers)
        except BaseException as e:
            for place in reversed(places):
                os.rmdir(place.directory)
            if isinstance(e, FileExistsError):
                raise UsageError(f"cgroup name {name!r}: in use; accepted: another name") from None
            raise
        return self._cgroup(name, places, group)

    def _cgroup(self, name: str, places: list[Place], group: str) -> Cgroup:
        opener = partial(self._place, name=name, group=group)
        if self.facts.version == 1:
            return v1.V1Cgroup(self.facts, name, places, opener)
        return v2.V2Cgroup(self.facts, name, places, opener)

    def close(self) -> None:
        """Kill and remove every cgroup of this engine, and its directories.

        Raises
        ------
        OSError
            EBUSY, or `TimeoutError`: a process outlived SIGKILL.
        """
        if self._usual_devices.program_fd >= 0:
            os.close(self._usual_devices.program_fd)
        self._usual_devices = UsualDevices()
        while self.groups:
            self.groups.popitem()[1].close()
        self._parents.clear()
        _sweep(self.facts, self.key)
        for base in self.facts.bases:
            files.discard(f"{base.directory}/{tree.NAME}")
        if self._moved is not None:
            tree.move_back(self.facts.bases[0].directory, self._pid, self._moved)
            self._moved = None

    def __enter__(self) -> Manager:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()


def unsupported(limits: Limits, facts: CgroupFacts) -> dict[str, str]:
    """Return the fields of `limits` that cgroups cannot honour on this host, and why."""
    if facts.version == 0:
        return none.missing(limits, facts)
    return missing(limits, facts, v1.NEEDS if facts.version == 1 else v2.NEEDS)


def collect_stale(facts: CgroupFacts) -> list[str]:
    """Kill and remove what engines left that have ended; two engines may do so at once.

    Returns
    -------
    list of str
        The engines' keys, ``PID-STARTTIME``. Left alone is one whose processes are not all in our
        PID namespace: whether its engine lives cannot be told from here.

    Raises
    ------
    OSError
        EBUSY, or `TimeoutError`: a process outlived SIGKILL.
    """
    keys = set()
    for base in facts.bases:
        for path in files.children(f"{base.directory}/{tree.NAME}"):
            match = _KEY.fullmatch(os.path.basename(path))
            if match and processes.start_time(int(match[1])) != int(match[2]):
                keys.add(match[0])
    collected = [key for key in sorted(keys) if _sweep(facts, key)]
    for base in facts.bases if collected else ():
        files.discard(f"{base.directory}/{tree.NAME}")
    return collected


def _sweep(facts: CgroupFacts, key: str) -> bool:
    """Kill and remove everything of one engine; return whether that was possible."""
    candidates = [Place(b.controllers, f"{b.directory}/{tree.NAME}/{key}", "") for b in facts.bases]
    places = [place for place in candidates if os.path.isdir(place.directory)]
    if not places:
        return False
    kind = v1.V1Cgroup if facts.version == 1 else v2.V2Cgroup
    engine = kind(facts, key, places, _closed)
    if 0 in engine.pids():
        return False
    engine.kill()
    engine.remove()
    return True


def _closed(controller: str) -> Place:
    raise LookupError(f"no more hierarchies are joined: {controller}")
