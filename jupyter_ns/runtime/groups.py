"""What the engine answers about its cgroups: the tree, and groups that are made and removed.

Should: answer from kernel files, read now. Mustn't: reach outside the mounted hierarchies.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..cgroups import Cgroup
from ..cgroups.ancestors import RESOURCES, read_levels
from ..errors import UsageError
from ..spec import ContainerSpec

if TYPE_CHECKING:
    from ..cgroups import Manager, NoManager
    from .supervised import Supervised


def answer(
    request: dict[str, Any],
    manager: Manager | NoManager,
    containers: Iterable[Supervised],
    release: Callable[[str], None],
) -> Any:
    """Answer a request about cgroups.

    Parameters
    ----------
    request : dict
        ``do`` is ``create`` (``spec``, of which name, limits and parent count), ``remove`` (``name``), ``tree``, or
        ``levels`` (``path``).
    manager : Manager or NoManager
        Who made them.
    containers : iterable of Supervised
        Those that run.
    release : callable
        Takes down the containers that are only held ready in a group.

    Returns
    -------
    object
        Plain data for the wire.

    Raises
    ------
    UsageError, UnsupportedError
        Nothing was changed.
    """
    do = request["do"]
    if do == "create":
        spec = ContainerSpec.from_dict(request["spec"])
        group = manager.create_group(spec.name, spec.limits, group=spec.cgroup_parent)
        return [list(record) for record in group.records]
    if do == "remove":
        release(request["name"])
        manager.remove_group(request["name"])
        return None
    if do == "levels":
        return _levels_of_path(manager, request["path"])
    return _tree(manager, containers)


def _tree(manager: Manager | NoManager, containers: Iterable[Supervised]) -> dict[str, Any]:
    groups = manager.groups
    nodes = [_node(name, "group", _parent_of(group, groups), group) for name, group in groups.items()]
    nodes += [
        _node(c.container_id[:12], "container", c.spec.cgroup_parent, c.cgroup) | {"label": c.spec.name}
        for c in containers
    ]
    return {"version": manager.facts.version, "engine": _above(manager), "nodes": nodes}


def _parent_of(group: Cgroup, groups: dict[str, Cgroup]) -> str:
    parent = os.path.basename(os.path.dirname(group.directories[0]))
    return parent if parent in groups else ""


def _node(name: str, kind: str, parent: str, cgroup: Cgroup) -> dict[str, Any]:
    levels = {resource: [list(level) for level in cgroup.levels(resource)] for resource in RESOURCES}
    records = [list(record) for record in cgroup.records]
    return {"name": name, "kind": kind, "parent": parent, "levels": levels, "records": records}


def _above(manager: Manager | NoManager) -> dict[str, list[list[Any]]]:
    """Return the levels from the engine's own base upwards: limits that bind all its containers."""
    facts = manager.facts
    found = {}
    for resource in RESOURCES:
        base = facts.base(resource)
        levels = read_levels(resource, base.directory, base.path, facts.version) if base else []
        found[resource] = [list(level) for level in levels]
    return found


def _levels_of_path(manager: Manager | NoManager, path: str) -> dict[str, list[list[Any]]]:
    """Return the levels of any cgroup, given as /proc/PID/cgroup has it, or as its directory."""
    facts = manager.facts
    found = {}
    for resource in RESOURCES:
        base = facts.base(resource)
        if base is None:
            continue
        top = base.directory.removesuffix(base.path.rstrip("/")).rstrip("/")
        below = os.path.normpath("/" + path.removeprefix(top).lstrip("/"))
        directory = f"{top}{below}".rstrip("/")
        if os.path.exists(f"{directory}/cgroup.procs"):
            levels = read_levels(resource, directory, below, facts.version)
            found[resource] = [list(level) for level in levels]
    if not found:
        raise UsageError(f"{path}: no cgroup of that name or path; `%cgroup` shows those of this notebook")
    return found
