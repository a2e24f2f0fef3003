"""The directories between a base and the containers: ``BASE/jupyter_ns/PID-STARTTIME``.

Should: make them, pass the controllers on (version 2), put the engine into a leaf where it must.
Mustn't: take a controller away that others may use, or move a process other than the engine.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from . import files
from .facts import Base, CgroupFacts, Place
from .v1 import fill_cpuset

NAME = "jupyter_ns"
"""The one directory made in another's cgroup; everything else stands below it."""
LEAF = "engine"
"""Where the engine itself stands, on version 2 if its own cgroup is the base."""


def explain(error: OSError, directory: str) -> str:
    """Say why a cgroup directory could not be used, in plain words."""
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    cause = {
        errno.EROFS: "mounted read-only",
        errno.EACCES: "not writable for this user: neither delegated nor is it root",
        errno.EPERM: "not permitted to this user",
        errno.ENOENT: "it does not exist",
        errno.EBUSY: "it holds processes, so on version 2 it cannot limit children",
        errno.EOPNOTSUPP: "it is threaded, or below such a cgroup",
        errno.EAGAIN: "cgroup.max.depth or cgroup.max.descendants is reached",
        errno.ENOSPC: "the kernel has no room for more cgroups",
    }.get(error.errno or 0, os.strerror(error.errno or 0))
    return f"{directory}: {cause} ({name})"


def enable(directory: str, controllers: Iterable[str]) -> dict[str, str]:
    """Pass controllers on to the children of a version 2 cgroup; none is ever taken away.

    Returns
    -------
    dict of str to str
        Those that could not be passed on, and why.

    Raises
    ------
    OSError
        If the cgroup cannot be read.
    """
    offered = files.read(f"{directory}/cgroup.controllers").split()
    passed = files.read(f"{directory}/cgroup.subtree_control").split()
    reasons = {}
    for name in controllers:
        if name not in offered:
            reasons[name] = f"not in {directory}/cgroup.controllers: the kernel or the parent cgroup keeps it"
        elif name not in passed:
            try:
                files.write(f"{directory}/cgroup.subtree_control", f"+{name}")
            except OSError as e:
                reasons[name] = explain(e, directory)
    return reasons


def members(directory: str) -> list[int]:
    """Return the processes directly in one cgroup.

    Raises
    ------
    OSError
        ENOENT: there is no such cgroup.
    """
    return [int(pid) for pid in files.read(f"{directory}/cgroup.procs").split()]


def move_engine(base: str, pid: int) -> bool:
    """Put the engine, if it stands in `base`, into the leaf of it; return whether it did.

    Raises
    ------
    OSError
        EACCES: the cgroup is not delegated to us.
    """
    if pid not in members(base):
        return False
    files.make(f"{base}/{LEAF}")
    files.write(f"{base}/{LEAF}/cgroup.procs", str(pid))
    return True


def move_back(base: str, pid: int, enabled: Iterable[str]) -> None:
    """Undo `move_engine` and what `enable` did to `base`, if nobody else uses it by now."""
    leaf = f"{base}/{LEAF}"
    if os.path.isdir(f"{base}/{NAME}") or not os.path.isdir(leaf) or members(leaf) != [pid]:
        return
    files.write(f"{base}/cgroup.subtree_control", " ".join(f"-{name}" for name in enabled))
    files.write(f"{base}/cgroup.procs", str(pid))
    files.discard(leaf)


def open_engine(facts: CgroupFacts, base: Base, key: str) -> Place:
    """Make ``jupyter_ns`` and the engine's directory in one base.

    Raises
    ------
    OSError
        As mkdir(2) gives it.
    """
    parent, directory = f"{base.directory}/{NAME}", f"{base.directory}/{NAME}/{key}"
    for _ in files.pauses(1.0):
        try:
            _make(facts, base, parent)
            _make(facts, base, directory)
        except FileNotFoundError:
            continue  # another engine, ending, has just removed the empty parent
        return Place(base.controllers, directory, f"{base.path.rstrip('/')}/{NAME}/{key}")
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)


def _make(facts: CgroupFacts, base: Base, directory: str) -> None:
    files.make(directory)
    if facts.version == 2:
        enable(directory, base.controllers)
    elif "cpuset" in base.controllers:
        fill_cpuset(directory)


def make_place(parent: Place, name: str) -> Place:
    """Make a container's directory below the engine's.

    Raises
    ------
    OSError
        As mkdir(2) gives it.
    """
    place = Place(parent.controllers, f"{parent.directory}/{name}", f"{parent.path}/{name}")
    os.mkdir(place.directory, 0o755)
    return place
