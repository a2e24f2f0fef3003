"""Finding out by doing where cgroups can be made, and what can be limited there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from .. import core
from . import devices, files, processes, tree
from .facts import Base, CgroupFacts
from .layout import Hierarchy, Layout
from .v1 import CONTROLLERS as V1_CONTROLLERS
from .v1 import fill_cpuset
from .v2 import CONTROLLERS as V2_CONTROLLERS

CORE = ("memory", "cpu", "pids")
"""Version 1 is used if it has any of these; a hybrid system has them there."""


def probe(layout: Layout, adopted: str | None = None, pid: int | None = None) -> CgroupFacts:
    """Find where this process can make cgroups, by making a throw-away one.

    Parameters
    ----------
    layout : Layout
        From `jupyter_ns.cgroups.read_layout`.
    adopted : str, optional
        Directory of a version 2 cgroup that was made for the engine alone, such as a scope of
        systemd's; no other is tried then.
    pid : int, optional
        The engine, the only process that may be moved; the caller by default.

    Returns
    -------
    CgroupFacts
        Nothing is left behind, except that controllers passed on by the root cgroup stay so.

    Notes
    -----
    Version 1: below this process's own cgroups, so that their limits still bind. Version 2: below its
    own cgroup if the engine is alone there, else below one further up that is delegated to this user and
    holds no processes, else at the top of the mount, which for root is exempt from the rule that a cgroup
    holds processes or controlled children.
    """
    pid = os.getpid() if pid is None else pid
    if adopted is None:
        facts = _probe_v1(layout)
        if any(facts.base(name) for name in CORE) or layout.v2 is None:
            return facts
        if layout.v1 and not layout.v2.mount_point:
            return facts
        unified = _probe_v2(layout, None, pid)
        kept = {c: reason for c, reason in facts.unavailable.items() if c in layout.v1}
        return unified if unified.version else replace(unified, unavailable=unified.unavailable | kept)
    return _probe_v2(layout, adopted, pid)


def _probe_v1(layout: Layout) -> CgroupFacts:
    bases: list[Base] = []
    names: set[str] = set()
    unavailable = {c: "not mounted on this system" for c in V1_CONTROLLERS if c not in layout.v1}
    for hierarchy in dict.fromkeys(h for c, h in layout.v1.items() if c in V1_CONTROLLERS):
        usable = tuple(c for c in hierarchy.controllers if c in V1_CONTROLLERS)
        reason = hierarchy.reason
        if not reason:
            try:
                names |= _try_v1(hierarchy)
            except OSError as e:
                reason = tree.explain(e, hierarchy.directory)
        if reason:
            unavailable |= dict.fromkeys(usable, reason)
        else:
            bases.append(Base(controllers=usable, directory=hierarchy.directory, path=hierarchy.path))
    return CgroupFacts(
        version=1 if any(c in CORE for b in bases for c in b.controllers) else 0,
        kind=layout.kind,
        bases=tuple(bases),
        unavailable=unavailable,
        files=frozenset(names),
        devices_error="" if any("devices" in b.controllers for b in bases) else unavailable["devices"],
    )


def _try_v1(hierarchy: Hierarchy) -> set[str]:
    """Make a throw-away cgroup, and return the names of its files."""
    parent, child = _names(hierarchy.directory)
    try:
        files.make(parent)
        if "cpuset" in hierarchy.controllers:
            fill_cpuset(parent)
        files.make(child)
        return set(os.listdir(child))
    finally:
        _discard(child, parent)


def _probe_v2(layout: Layout, adopted: str | None, pid: int) -> CgroupFacts:
    reasons: list[str] = []
    for directory, path, moves, reason in _candidates(layout, adopted, pid):
        if not reason:
            try:
                unavailable, names, devices_error = _try_v2(directory, pid, moves=moves)
            except OSError as e:
                reason = tree.explain(e, directory)
            else:
                usable = tuple(c for c in V2_CONTROLLERS if c not in unavailable)
                if usable:
                    base = Base(controllers=usable, directory=directory, path=path)
                    return CgroupFacts(
                        version=2,
                        kind=layout.kind,
                        bases=(base,),
                        unavailable=unavailable,
                        files=frozenset(names),
                        moves_engine=moves,
                        devices_error=devices_error,
                        notes=() if adopted else _notes(layout, path),
                    )
                reason = "; ".join(dict.fromkeys(unavailable.values()))
        reasons.append(reason)
    why = "; ".join(reasons) or "version 2 is not mounted"
    advice = "run as root, or in a cgroup that is delegated to you and holds nothing else"
    unavailable = dict.fromkeys(V2_CONTROLLERS, f"{why} ({advice})")
    return CgroupFacts(
        version=0, kind=layout.kind, unavailable=unavailable, devices_error="there is no cgroup to restrict them in"
    )


def _candidates(layout: Layout, adopted: str | None, pid: int) -> Iterator[tuple[str, str, bool, str]]:
    """Yield directory, path, whether the engine has to move, and why it cannot be used."""
    own = layout.v2
    if own is None or not own.mount_point:
        yield "", "", False, own.reason if own else "the kernel has no cgroup version 2"
        return
    if not own.directory and adopted is None:
        yield "", "", False, own.reason
        return
    below = own.directory[len(own.mount_point.rstrip("/")) :]
    root = own.path[: len(own.path) - len(below)] if below else own.path
    if adopted is not None:
        path = f"{root.rstrip('/')}/{os.path.relpath(adopted, own.mount_point)}"
        yield from _owned(adopted.rstrip("/"), path, pid)
        return
    if os.path.exists(f"{own.directory}/cgroup.type"):  # the root cgroup has none
        if os.path.basename(own.directory) == tree.LEAF:
            yield from _owned(os.path.dirname(own.directory), os.path.dirname(own.path), pid)
        else:
            yield from _owned(own.directory, own.path, pid)
        if not os.access(own.mount_point, os.W_OK):
            yield from _delegated_above(own, pid)
    yield own.mount_point, root or "/", False, ""


def _delegated_above(own: Hierarchy, pid: int) -> Iterator[tuple[str, str, bool, str]]:
    """Judge the cgroups above the engine's own that were delegated to this user."""
    directory, path = os.path.dirname(own.directory), os.path.dirname(own.path)
    while directory != own.mount_point and directory.startswith(own.mount_point):
        if os.access(f"{directory}/cgroup.procs", os.W_OK):
            yield from _owned(directory, path, pid)
        directory, path = os.path.dirname(directory), os.path.dirname(path)


def _owned(directory: str, path: str, pid: int) -> Iterator[tuple[str, str, bool, str]]:
    """Judge a cgroup that only the engine may be in."""
    try:
        inside = tree.members(directory)
    except OSError as e:
        yield directory, path, False, tree.explain(e, directory)
        return
    others = [p for p in inside if p != pid]
    reason = ""
    if others:
        reason = (
            f"{directory} holds {len(others)} other processes, and version 2 lets no cgroup both hold "
            "processes and limit children"
        )
    # An engine that stands in the leaf already was moved there before, and must stay.
    leaf = f"{directory}/{tree.LEAF}"
    moved = os.path.isdir(leaf) and pid in tree.members(leaf)
    yield directory, path, bool(inside) or moved, reason


def _try_v2(directory: str, pid: int, *, moves: bool) -> tuple[dict[str, str], set[str], str]:
    """Make a throw-away cgroup; return the controllers it lacks, its files, and why devices cannot be restricted."""
    parent, child = _names(directory)
    was_inside = moves and pid in tree.members(directory)
    before = files.read(f"{directory}/cgroup.subtree_control").split()
    try:
        if moves:
            tree.move_engine(directory, pid)
        files.make(parent)
        unavailable = tree.enable(directory, V2_CONTROLLERS)
        unavailable |= tree.enable(parent, [c for c in V2_CONTROLLERS if c not in unavailable])
        files.make(child)
        return unavailable, set(os.listdir(child)), _try_devices(child)
    finally:
        _discard(child, parent)
        if was_inside:
            passed = files.read(f"{directory}/cgroup.subtree_control").split()
            tree.move_back(directory, pid, [c for c in passed if c not in before])


def _try_devices(directory: str) -> str:
    """Attach a program for devices to a cgroup of version 2; return why that cannot be."""
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        program_fd = core.load_device_program(devices.program(devices.parse_rules(devices.DEFAULT)))
        try:
            core.attach_device_program(directory_fd, program_fd)
        finally:
            os.close(program_fd)
    except OSError as e:
        # EINVAL, ENOSYS: no CONFIG_CGROUP_BPF; EPERM: not root of the machine.
        return f"version 2 needs a BPF program for that, and bpf(2) says: {e.strerror}"
    finally:
        os.close(directory_fd)
    return ""


def _notes(layout: Layout, path: str) -> tuple[str, ...]:
    own = layout.v2.path if layout.v2 else "/"
    if own in ("/", path, f"{path.rstrip('/')}/{tree.LEAF}"):
        return ()
    return (f"containers stand beside this process's own cgroup {own}: limits set on it do not bind them",)


def _names(directory: str) -> tuple[str, str]:
    parent = f"{directory.rstrip('/')}/{tree.NAME}"
    return parent, f"{parent}/{processes.engine_key()}-probe"


def _discard(child: str, parent: str) -> None:
    for path in (child, parent):
        if os.path.isdir(path):
            files.discard(path)
