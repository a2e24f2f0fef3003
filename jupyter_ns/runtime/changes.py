"""What a container wrote: its overlay's upper directories, read as A, C and D.

Notes
-----
Documentation/filesystems/overlayfs.rst: a whiteout is a character device 0:0; an opaque
directory carries the xattr ``trusted.overlay.opaque`` (``user.`` in a user namespace).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

MAX_CHANGES = 10_000
EMPTY_BYTES = 40
"""Size of a directory of a tmpfs, where the layers lie, that has nothing but ``.`` and ``..``: 20 for each entry."""
MAX_PATH_BYTES = 1 << 20
"""Of all paths together: what is told of a container's end is one frame, and the names are the container's choice."""


class Below(Protocol):
    """Where to look for what a layer covers: the module `os`, or the layers of an image."""

    def lstat(self, path: str) -> os.stat_result:
        """Return the status of a path, as lstat(2)."""

    def readlink(self, path: str) -> str:
        """Return where a symbolic link points, as readlink(2)."""


class Layer(NamedTuple):
    """An upper directory (its name below the container's tmpfs) and the path it stands for."""

    name: str
    path: str


def collect_changes(
    staging_fd: int,
    layers: Sequence[Layer],
    *,
    own: frozenset[str] = frozenset(),
    standing: frozenset[str] = frozenset(),
    first_ids: tuple[int, int] = (0, 0),
    below: Below = os,
) -> tuple[list[tuple[str, str]], bool]:
    """List what was added, changed and deleted, sorted by path.

    Parameters
    ----------
    staging_fd : int
        The tmpfs that holds the layers (O_PATH is enough).
    layers : sequence of Layer
        The upper directories.
    own : frozenset of str
        Paths that building the container made; not listed.
    standing : frozenset of str
        Paths that building made in place of the host's; what is gone of them has been deleted.
    first_ids : tuple of int
        What user 0 and group 0 inside are outside: the layers have the latter.
    below : Below
        What the layers lie on; the host's own files by default.

    Returns
    -------
    changes : list of (kind, path)
        Kinds as docker-diff(1): ``A``, ``C``, ``D``; a parent of an A or a D is a C.
    truncated : bool
        Whether there were more than `MAX_CHANGES`, or longer ones than `MAX_PATH_BYTES`.
    """
    found: list[tuple[str, str]] = []
    left_bytes = MAX_PATH_BYTES
    built = _Built(own, set(standing), first_ids, below)
    for layer in layers:
        if os.stat(layer.name, dir_fd=staging_fd).st_size <= EMPTY_BYTES:
            continue
        fd = os.open(layer.name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=staging_fd)
        for change in _walk(fd, layer.path.rstrip("/"), built):
            left_bytes -= len(os.fsencode(change[1]))
            if len(found) == MAX_CHANGES or left_bytes < 0:
                return sorted(found, key=lambda c: c[1]), True
            found.append(change)
    found += (("D", path) for path in built.gone)
    return sorted(found, key=lambda c: c[1]), False


class _Built(NamedTuple):
    """What building the container did to its layers; `gone` loses what is met."""

    own: frozenset[str]
    gone: set[str]
    first_ids: tuple[int, int]
    below: Below


def _walk(fd: int, prefix: str, built: _Built) -> Iterator[tuple[str, str]]:
    """Walk one directory of an upper layer; takes over `fd`."""
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                path = f"{prefix}/{entry.name}"
                built.gone.discard(path)
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                    yield "D", path
                    continue
                unchanged = path in built.own or (entry.is_symlink() and _same_link(path, entry.name, fd, built.below))
                kind = "" if unchanged else _kind(path, info, built)
                if kind:
                    yield kind, path
                if stat.S_ISDIR(info.st_mode):
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
                    yield from _walk(os.open(entry.name, flags, dir_fd=fd), path, built)
    finally:
        os.close(fd)


def _same_link(path: str, name: str, directory: int, below: Below) -> bool:
    """Whether a symbolic link points where the one below does."""
    try:
        return os.readlink(name, dir_fd=directory) == below.readlink(path)
    except OSError:  # one of them is not there, or no link
        return False


def _kind(path: str, info: os.stat_result, built: _Built) -> str:
    """Compare with the file below: added, changed, or (a directory only passed through) neither."""
    try:
        below = built.below.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "A"
    if stat.S_ISDIR(info.st_mode) and stat.S_ISDIR(below.st_mode):
        ids = (info.st_uid - built.first_ids[0], info.st_gid - built.first_ids[1])
        same = (info.st_mode, *ids) == (below.st_mode, below.st_uid, below.st_gid)
        return "" if same and info.st_mtime_ns == below.st_mtime_ns else "C"
    return "C"
