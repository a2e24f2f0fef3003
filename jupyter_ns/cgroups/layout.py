"""Which cgroup hierarchies are mounted, and where this process stands in each: parsing only.

Notes
-----
cgroups(7), "/proc/[pid]/cgroup"; proc_pid_mountinfo(5); cgroup_namespaces(7) for paths that begin
with ``/..``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..host import parse_mountinfo

VERSIONS = {"cgroup": 1, "cgroup2": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """One cgroup hierarchy.

    Attributes
    ----------
    version : int
        1 or 2.
    controllers : tuple of str
        Version 1: the controllers mounted together here. Version 2: empty, because
        ``cgroup.controllers`` says it, cgroup by cgroup.
    mount_point : str
        Where it is mounted; empty if it is not.
    path : str
        This process's cgroup, as ``/proc/self/cgroup`` has it.
    directory : str
        The directory of that cgroup; empty if it cannot be reached.
    reason : str
        Why `directory` is empty.
    """

    version: int
    controllers: tuple[str, ...]
    mount_point: str
    path: str
    directory: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Every hierarchy of the running kernel that this process belongs to.

    Attributes
    ----------
    v1 : dict of str to Hierarchy
        By controller; controllers mounted together share one value.
    v2 : Hierarchy or None
        The unified hierarchy.
    """

    v1: dict[str, Hierarchy]
    v2: Hierarchy | None

    @property
    def kind(self) -> str:
        """``unified``, ``hybrid``, ``legacy`` (version 1 only) or ``none``."""
        mounted = any(h.mount_point for h in self.v1.values())
        unified = self.v2 is not None and bool(self.v2.mount_point)
        return {(True, True): "hybrid", (True, False): "legacy", (False, True): "unified"}.get(
            (mounted, unified), "none"
        )


class _Mount(NamedTuple):
    version: int
    options: frozenset[str]
    root: str
    point: str
    writable: bool


def detect(proc_self_cgroup: str, mountinfo: str) -> Layout:
    """Find the hierarchies and this process's place in each.

    Parameters
    ----------
    proc_self_cgroup : str
        Text of ``/proc/self/cgroup``.
    mountinfo : str
        Text of ``/proc/self/mountinfo``.

    Returns
    -------
    Layout
        Named hierarchies of version 1 (such as ``name=systemd``) are left out: they limit nothing.

    Raises
    ------
    ValueError
        If a line of `proc_self_cgroup` has not the form ``ID:CONTROLLERS:PATH``.

    Examples
    --------
    >>> layout = detect("0::/user.slice\\n", "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\\n")
    >>> layout.v2.directory, layout.kind
    ('/sys/fs/cgroup/user.slice', 'unified')
    """
    mounts = _mounts(mountinfo)
    v1: dict[str, Hierarchy] = {}
    v2 = None
    for line in proc_self_cgroup.splitlines():
        number, names, path = line.split(":", 2)
        controllers = tuple(n for n in names.split(",") if n)
        if number == "0" and not controllers:
            v2 = _place(2, (), path, [m for m in mounts if m.version == 2])
        elif controllers and not controllers[0].startswith("name="):
            own = [m for m in mounts if m.version == 1 and m.options.issuperset(controllers)]
            hierarchy = _place(1, controllers, path, own)
            v1.update(dict.fromkeys(controllers, hierarchy))
    return Layout(v1=v1, v2=v2)


def read_layout() -> Layout:
    """`detect` for the calling process.

    Raises
    ------
    OSError
        ENOENT: no /proc, or a kernel without cgroups.
    """
    with open("/proc/self/cgroup") as cgroup, open("/proc/self/mountinfo") as mountinfo:
        return detect(cgroup.read(), mountinfo.read())


def _mounts(mountinfo: str) -> list[_Mount]:
    """Return the cgroup mounts that can still be seen; a later mount hides one at the same point."""
    visible = {entry.path: entry for entry in parse_mountinfo(mountinfo)}
    mounts = []
    for entry in visible.values():
        if entry.fstype in VERSIONS:
            options = frozenset(entry.super_options.split(","))
            writable = not entry.readonly and "ro" not in options
            mounts.append(_Mount(VERSIONS[entry.fstype], options, entry.root, entry.path, writable))
    return mounts


def _place(version: int, controllers: tuple[str, ...], path: str, mounts: list[_Mount]) -> Hierarchy:
    """Find the directory of the cgroup `path`, through a writable mount if there is one."""
    best: tuple[_Mount, str] | None = None
    for mount in mounts:
        below = _relative(path, mount.root)
        if below is not None and (best is None or (mount.writable and not best[0].writable)):
            best = mount, f"{mount.point.rstrip('/')}/{below}".rstrip("/") or "/"
    if best:
        point, directory, reason = best[0].point, best[1], ""
    elif mounts:
        point, directory = mounts[0].point, ""
        reason = f"this process's cgroup {path} is outside of what is mounted at {point} ({mounts[0].root})"
    else:
        point, directory, reason = "", "", "the hierarchy is not mounted"
    return Hierarchy(
        version=version,
        controllers=controllers,
        mount_point=point,
        path=path,
        directory=directory,
        reason=reason,
    )


def _relative(path: str, root: str) -> str | None:
    """Return `path` relative to the mount root, or None if it does not lie below.

    Both are relative to the reader's cgroup namespace root; ``..`` leads out of it, by a name
    that is not told, so what remains must not begin with it.
    """
    parts, above = [p for p in path.split("/") if p], [p for p in root.split("/") if p]
    if parts[: len(above)] != above or ".." in parts[len(above) :]:
        return None
    return "/".join(parts[len(above) :])
