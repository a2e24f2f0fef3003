"""Trees of files as a sequence of entries: read here, written there (``cp``), through the engine or beside it.

Both sides hold directories by descriptor and follow no symbolic link below them: what is in a container
may change while it is read, and is hostile.

Notes
-----
openat2(2), ``RESOLVE_IN_ROOT``: a path is resolved as if the directory were the root.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Generator
from typing import Any

PIECE = 256 * 1024
MAX_DEPTH = 200
"""Directories inside each other; each holds a descriptor while it is read."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_SYS_OPENAT2, _SYS_OPEN_TREE, _OPEN_TREE_CLONE = 437, 428, 1
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_IN_ROOT = 0x02, 0x04, 0x10

Entry = list[Any]
"""``["dir"|"file", path, mode, uid, gid, mtime_ns]``, ``["link", path, mode, uid, gid, mtime_ns, target]``,
``["hard", path, mode, uid, gid, mtime_ns, path]`` of a file before, ``["data", bytes]`` of the file before,
``["xattr", path, name, bytes]`` of the file or directory just before, or ``["left", path]`` for what is none of
these."""


def weight(entry: Entry) -> int:
    """Return about how many bytes an entry takes on its way."""
    return 64 + sum(len(part) for part in entry if isinstance(part, (bytes, str)))


def open_in_root(root: int, path: str, flags: int = os.O_PATH, *, links: bool = True) -> int:
    """Open a path as seen by somebody whose root is the directory `root`; symbolic links stay inside, or are refused.

    Raises
    ------
    OSError
        As openat2(2).
    """
    resolve = _RESOLVE_IN_ROOT | (_RESOLVE_NO_MAGICLINKS if links else _RESOLVE_NO_SYMLINKS)
    how = struct.pack("<3Q", flags | os.O_CLOEXEC, 0, resolve)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.syscall(_SYS_OPENAT2, root, os.fsencode(path), how, len(how)))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd


def clone_mount(path: str) -> int:
    """Return a descriptor of a clone of what is mounted at a path, which is nowhere until it is moved somewhere.

    Raises
    ------
    OSError
        As open_tree(2).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.syscall(_SYS_OPEN_TREE, -1, os.fsencode(path), _OPEN_TREE_CLONE | os.O_CLOEXEC))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd


def read_tree(directory: int, name: str, as_name: str, *, depth: int = 0) -> Generator[Entry, None, None]:
    """Read one entry of a directory, and what is below it.

    Parameters
    ----------
    directory : int
        Descriptor of the directory; ``name`` ``.`` is that directory itself.
    name : str
        The entry.
    as_name : str
        What it is to be called; ``.`` stands for the target itself.

    Raises
    ------
    OSError
        As openat(2); ELOOP: directories are too deep.
    """
    if depth > MAX_DEPTH:
        raise OSError(errno.ELOOP, "directories inside each other are too many", as_name)
    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    about = [as_name, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns]
    if stat.S_ISDIR(info.st_mode):
        inside = os.open(name, _DIRECTORY, dir_fd=directory)
        try:
            yield ["dir", *about]
            yield from _xattrs(inside, as_name)
            for child in sorted(os.listdir(inside)):
                with contextlib.suppress(FileNotFoundError):  # gone while we read
                    yield from read_tree(
                        inside, child, child if as_name == "." else f"{as_name}/{child}", depth=depth + 1
                    )
        finally:
            os.close(inside)
    elif stat.S_ISLNK(info.st_mode):
        yield ["link", *about, os.readlink(name, dir_fd=directory)]
    elif stat.S_ISREG(info.st_mode):
        # O_NONBLOCK: it may have become a pipe meanwhile.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                yield ["file", *about]
                yield from _xattrs(fd, as_name)
                while data := os.read(fd, PIECE):
                    yield ["data", data]
        finally:
            os.close(fd)
    else:
        yield ["left", as_name]


def kept_xattr(name: str) -> bool:
    """Whether an extended attribute goes along: what programs put there, and a program's capabilities; no labels.

    Examples
    --------
    >>> kept_xattr("user.mime_type"), kept_xattr("security.capability"), kept_xattr("trusted.overlay.opaque")
    (True, True, False)
    """
    return (name.startswith("user.") and not name.startswith("user.overlay.")) or name == CAPABILITY


CAPABILITY = "security.capability"


def _xattrs(fd: int, as_name: str) -> Generator[Entry, None, None]:
    try:
        names = os.listxattr(fd)
    except OSError as e:
        if e.errno != errno.ENOTSUP:  # a file system without any
            raise
        return
    for name in filter(kept_xattr, names):
        try:
            value = os.getxattr(fd, name)
        except OSError as e:
            if e.errno != errno.ENODATA:  # gone while we read
                raise
        else:
            yield ["xattr", as_name, name, value]


class TreeWriter:
    """Writes entries below a directory.

    Parameters
    ----------
    directory : int
        Descriptor of the directory; not closed.
    owners : bool
        Whether files get the owner that they had; else who writes owns them.
    parents : bool
        Whether directories are made that no entry is about.
    first_ids : tuple of (int, int)
        User and group that are root where the files are seen.

    Attributes
    ----------
    written : int
        Bytes.
    left : list of str
        What was not copied: devices, sockets, pipes.
    """

    def __init__(
        self, directory: int, *, owners: bool, first_ids: tuple[int, int] = (0, 0), parents: bool = False
    ) -> None:
        self._directory, self._owners, self._first, self._parents = directory, owners, first_ids, parents
        self._file = -1
        self._times: list[Entry] = []
        self._xattrs: dict[str, dict[str, bytes]] = {}
        self._dirs: list[Entry] = []
        self.written = 0
        self.left: list[str] = []

    def take(self, entry: Entry) -> None:
        """Write one entry.

        Raises
        ------
        OSError
            As openat(2) and write(2); EINVAL: a name leads elsewhere.
        """
        kind = entry[0]
        if kind == "data":
            view = memoryview(entry[1])
            while view:
                view = view[os.write(self._file, view) :]
            self.written += len(entry[1])
            return
        if kind == "xattr":
            if entry[1] != ".":
                self._xattrs.setdefault(entry[1], {})[entry[2]] = entry[3]
            return
        self._end_file()
        if kind == "left":
            self.left.append(entry[1])
            return
        path, uid, gid = entry[1], entry[3], entry[4]
        if path == ".":
            return
        parent = self._open_parent(path)
        name = path.rpartition("/")[2]
        try:
            if kind == "dir":
                _make_directory(parent, name)
                self._dirs.append(entry)
            elif kind == "link":
                _remove(parent, name)
                os.symlink(str(entry[6]), name, dir_fd=parent)
                if owner := self._owner(uid, gid):
                    os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
            elif kind == "hard":
                self._link(str(entry[6]), name, parent)
            else:
                _remove(parent, name)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                self._file = os.open(name, flags, 0o600, dir_fd=parent)
                self._times = [entry]
        finally:
            os.close(parent)

    def _link(self, target: str, name: str, parent: int) -> None:
        there = self._open_parent(target)
        try:
            _remove(parent, name)
            base = target.rpartition("/")[2]
            os.link(base, name, src_dir_fd=there, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(there)

    def _open_parent(self, path: str) -> int:
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise OSError(errno.EINVAL, "a name that leads elsewhere", path)
        at = os.open(".", _DIRECTORY, dir_fd=self._directory)
        for part in parts[:-1]:
            try:
                if self._parents:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=at)
                        os.chown(part, *self._first, dir_fd=at, follow_symlinks=False)
                below = os.open(part, _DIRECTORY, dir_fd=at)
            finally:
                os.close(at)
            at = below
        return at

    def _end_file(self) -> None:
        if self._file >= 0:
            fd, self._file = self._file, -1
            try:
                self._finish(fd, self._times.pop())
            finally:
                os.close(fd)

    def _finish(self, fd: int, entry: Entry) -> None:
        mode, uid, gid, mtime_ns = entry[2:6]
        if owner := self._owner(uid, gid):
            os.fchown(fd, *owner)
        os.fchmod(fd, mode if self._owners else mode & 0o777)  # no set-user-ID for another owner
        for name, value in self._xattrs.pop(entry[1], {}).items():  # after the owner, whose change takes capabilities
            if kept_xattr(name) and (self._owners or name != CAPABILITY):
                try:
                    os.setxattr(fd, name, value)
                except OSError as e:
                    if e.errno not in (errno.ENOTSUP, errno.EPERM):  # not here, or not for this user: as tar(1)
                        raise
        os.utime(fd, ns=(mtime_ns, mtime_ns))

    def _owner(self, uid: int, gid: int) -> tuple[int, int] | None:
        """Return whom a file is to be given to; None: it stays who writes."""
        if self._owners:
            return self._first[0] + uid, self._first[1] + gid
        return self._first if any(self._first) else None

    def close(self) -> None:
        """Finish the last file; then give directories their modes, the innermost first."""
        self._end_file()
        for entry in reversed(self._dirs):
            parent = self._open_parent(entry[1])
            try:
                fd = os.open(entry[1].rpartition("/")[2], _DIRECTORY, dir_fd=parent)
            finally:
                os.close(parent)
            try:
                self._finish(fd, entry)
            finally:
                os.close(fd)
        self._dirs.clear()

    def abandon(self) -> None:
        """Close the file that is being written."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _make_directory(parent: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise OSError(errno.ENOTDIR, "cannot put a directory in place of a file", name) from None


def _remove(parent: int, name: str) -> None:
    try:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(info.st_mode):
        raise OSError(errno.EISDIR, "cannot put a file in place of a directory", name)
    os.unlink(name, dir_fd=parent)


def place_of(root: int, path: str, source_name: str, source_is_dir: bool, contents_only: bool) -> tuple[int, str]:
    """Decide where a copy goes, as ``docker cp`` and cp(1) do.

    Parameters
    ----------
    root : int
        Descriptor of the root that `path` starts from.
    path : str
        The target, as the user wrote it, absolute.
    source_name : str
        Last part of the source's path.
    source_is_dir, contents_only : bool
        What the source is, and whether it ends in ``/.``.

    Returns
    -------
    directory : int
        Descriptor of the directory to write in; the caller closes it.
    name : str
        What the source is called there; ``.`` for the directory itself.

    Raises
    ------
    OSError
        ENOENT: the directory that is to hold it does not exist. ENOTDIR: a directory onto a file.
    """
    try:
        target = open_in_root(root, path)
    except FileNotFoundError:
        if path.endswith("/") and not source_is_dir:
            raise OSError(errno.ENOENT, "no such directory", path) from None
        head, _, name = path.rstrip("/").rpartition("/")
        parent = open_in_root(root, head or "/", os.O_RDONLY | os.O_DIRECTORY)
        if source_is_dir and contents_only:
            os.mkdir(name, 0o755, dir_fd=parent)
        return parent, name
    is_dir = stat.S_ISDIR(os.fstat(target).st_mode)
    os.close(target)
    if is_dir:
        directory = open_in_root(root, path, os.O_RDONLY | os.O_DIRECTORY)
        return directory, "." if source_is_dir and contents_only else source_name
    if source_is_dir:
        raise OSError(errno.ENOTDIR, "cannot copy a directory onto a file", path)
    head, _, name = path.rstrip("/").rpartition("/")
    return open_in_root(root, head or "/", os.O_RDONLY | os.O_DIRECTORY), name


def prefixed(entry: Entry, name: str) -> Entry:
    """Return an entry whose path begins with `name` in place of ``.``."""
    if entry[0] == "data" or name == ".":
        return entry
    path = name if entry[1] == "." else f"{name}/{entry[1]}"
    return [entry[0], path, *entry[2:]]
