"""Unpack one layer's archive into a directory, in the form that overlayfs stacks.

- **Should:** give every entry its owner, mode, times and extended attributes; turn whiteouts into what
  overlayfs knows: a character device 0:0, and the attribute ``overlay.opaque``.
- **Mustn't:** follow a symbolic link, leave the directory, or believe a size.

Notes
-----
OCI image specification, "Image Layer Filesystem Changeset"; Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ..errors import ImageError
from .merged import OPAQUE_XATTRS, Stack, is_whiteout
from .streams import CHUNK, LayerStream

WHITEOUT, OPAQUE, AUFS = ".wh.", ".wh..wh..opq", ".wh..wh."
_OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")
_XATTR = "SCHILY.xattr."
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_TIME = re.compile(r"-?[0-9]{1,10}(\.[0-9]*)?", re.ASCII)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How large a layer may be.

    Attributes
    ----------
    data_bytes : int
        Of all files together.
    file_bytes : int
        Apparent size of one file, which may be sparse.
    entries : int
        Files, directories, links.
    depth : int
        Directories in one another.
    header_bytes : int
        One extended header: names and attributes.
    free_bytes : int
        What must stay free on the file system.
    """

    data_bytes: int = 64 << 30
    file_bytes: int = 1 << 40
    entries: int = 4_000_000
    depth: int = 256
    header_bytes: int = 1 << 20
    free_bytes: int = 128 << 20


DEFAULT_BOUNDS = Bounds()


@dataclass(slots=True)
class Unpacked:
    """What a layer holds.

    Attributes
    ----------
    data_bytes : int
        Of its regular files, hard links counted once: what Docker calls its size.
    entries : int
        How many there are.
    squashed : int
        How many became root's, for their owners are not to be had: only one user ID is mapped here.
    """

    data_bytes: int = 0
    entries: int = 0
    squashed: int = 0


def unpack(stream: LayerStream, directory: str, below: Stack, bounds: Bounds = DEFAULT_BOUNDS) -> Unpacked:
    """Unpack an archive into an empty directory.

    Parameters
    ----------
    stream : LayerStream
        The archive; read as far as it goes.
    directory : str
        Exists and is empty; nobody else may write to it.
    below : Stack
        The layers below: directories that the archive does not describe are as there.
    bounds : Bounds
        What is too large.

    Raises
    ------
    ImageError
        If the archive is damaged, hostile or too large, or does not fit (ENOSPC, EDQUOT); `directory` then
        holds a part of it.
    """
    root = os.open(directory, _DIRECTORY)
    try:
        return _Unpacker(stream, root, below, bounds).run()
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as e:
        raise ImageError(f"the layer is damaged: {e}") from None
    finally:
        os.close(root)


def bounded_header(bounds: Bounds = DEFAULT_BOUNDS) -> type[tarfile.TarInfo]:
    """Make headers that are bounded, for tarfile reads extended ones into memory whole."""

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
            try:
                header = super().frombuf(buf, encoding, errors)
            except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as e:  # type: ignore[attr-defined]
                raise ImageError(f"the layer is damaged: tar: {e}") from None  # tarfile would take it for the end
            if header.size < 0:
                raise ImageError(f"the layer is damaged: tar: an entry of {header.size} bytes")
            if header.type in _HEADERS and header.size > bounds.header_bytes:
                raise ImageError(f"the layer has a header of {header.size:,} bytes and is taken for a bomb")
            return header

    return Header


class _Unpacker:
    """The state of one unpacking. Paths are tuples of names, below `root`."""

    def __init__(self, stream: LayerStream, root: int, below: Stack, bounds: Bounds) -> None:
        self._stream, self._root, self._below, self._bounds = stream, root, below, bounds
        self._done = Unpacked()
        self._times: dict[tuple[str, ...], int] = {}
        self._parent: tuple[tuple[str, ...], int] = ((), os.dup(root))
        self._hidden: set[tuple[str, ...]] = set()
        self._since_check = 0
        self._root_user = os.geteuid() == 0
        self._one_id = self._root_user and one_id()

    def run(self) -> Unpacked:
        tar = tarfile.TarFile(
            fileobj=self._stream,  # type: ignore[arg-type]
            tarinfo=bounded_header(self._bounds),
            encoding="utf-8",
            errors="surrogateescape",
        )
        try:
            while (entry := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it keeps all that it has seen
                self._done.entries += 1
                if self._done.entries > self._bounds.entries:
                    raise ImageError(
                        f"the layer has more than {self._bounds.entries:,} entries and is taken for a bomb"
                    )
                self._entry(entry)
            for path, mtime_ns in reversed(self._times.items()):
                self._set_directory_time(path, mtime_ns)
        finally:
            os.close(self._parent[1])
        return self._done

    # ---- one entry ----

    def _entry(self, entry: tarfile.TarInfo) -> None:
        if entry.size < 0:
            raise ImageError(f"{entry.name!r} is damaged: it has {entry.size} bytes")
        path = safe_path(entry.name)
        if not path:
            if entry.isdir():
                self._apply_attributes(self._root, entry)
                self._times[()] = _mtime_ns(entry)
                return
            raise ImageError(f"{entry.name!r} would replace the root directory")
        if len(path) > self._bounds.depth:
            raise ImageError(f"{entry.name[:80]!r}… lies more than {self._bounds.depth} directories deep")
        name = path[-1]
        try:
            parent = self._open_parent(path)
            if parent is None:
                return
            if name.startswith(WHITEOUT):
                self._whiteout(parent, path)
                return
            make = self._makers.get(entry.type)
            if make is None:
                raise ImageError(f"{entry.name!r}: an entry of type {entry.type!r} is not known")
            self._make_room(parent, path, entry)
            make(self, parent, name, entry)
        except OSError as e:
            raise ImageError(f"{entry.name!r} cannot be unpacked: {e.strerror}") from None

    def _open_parent(self, path: tuple[str, ...]) -> int | None:
        """Return the directory that an entry goes to, making what is missing; links are not followed.

        None for a whiteout below what is no directory here, which by that hides everything below it.
        """
        wanted = path[:-1]
        if self._parent[0] == wanted:
            return self._parent[1]
        fd = os.dup(self._root)
        for depth in range(1, len(wanted) + 1):
            try:
                below = self._enter(fd, wanted[:depth])
            except OSError as e:
                os.close(fd)
                if e.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                if path[-1].startswith(WHITEOUT):
                    return None
                shown = "/".join(wanted[:depth])
                raise ImageError(f"{'/'.join(path)!r} goes through {shown!r}, which is not a directory") from None
            os.close(fd)
            fd = below
        os.close(self._parent[1])
        self._parent = (wanted, fd)
        return fd

    def _enter(self, fd: int, path: tuple[str, ...]) -> int:
        """Open a directory below `fd`; make it if it is missing, or was hidden so far."""
        name = path[-1]
        try:
            return _open_directory(fd, name)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=fd)
            self._done.entries += 1
            made = _open_directory(fd, name)
            self._inherit(made, path)
            return made
        except NotADirectoryError:
            if path not in self._hidden or not is_whiteout(os.lstat(name, dir_fd=fd)):
                raise
            self._uncover(fd, name)
        return _open_directory(fd, name)

    def _inherit(self, fd: int, path: tuple[str, ...]) -> None:
        """Give a directory that the archive does not describe the attributes that it has below."""
        found = self._below.find("/".join(path)) if self._below.lower else None
        if found is None or not stat.S_ISDIR(found.info.st_mode):
            return
        os.chown(fd, found.info.st_uid, found.info.st_gid)
        os.fchmod(fd, stat.S_IMODE(found.info.st_mode))
        for name in os.listxattr(found.path):
            if not name.startswith(_OVERLAY_XATTRS):
                os.setxattr(fd, name, os.getxattr(found.path, name))
        self._times[path] = found.info.st_mtime_ns

    def _uncover(self, parent: int, name: str) -> None:
        """Put a directory in place of a whiteout; what lower layers have in it stays hidden."""
        os.unlink(name, dir_fd=parent)
        os.mkdir(name, 0o755, dir_fd=parent)
        self._set_opaque(parent, name)

    def _make_room(self, parent: int, path: tuple[str, ...], entry: tarfile.TarInfo) -> None:
        """Remove what an entry replaces: the later of two of one name counts."""
        try:
            there = os.lstat(path[-1], dir_fd=parent)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(there.st_mode):
            if entry.isdir():
                return
            shutil.rmtree(path[-1], dir_fd=parent)
            self._times = {p: t for p, t in self._times.items() if p[: len(path)] != path}
        else:
            if path in self._hidden and entry.isdir():
                self._uncover(parent, path[-1])
            else:
                os.unlink(path[-1], dir_fd=parent)

    def _whiteout(self, parent: int, path: tuple[str, ...]) -> None:
        name = path[-1]
        if name == OPAQUE:
            _set_opaque_fd(parent)
            return
        if name.startswith(AUFS):
            return  # of the file system aufs, for itself
        hidden = name.removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            raise ImageError(f"{'/'.join(path)!r} is not a whiteout")
        self._hidden.add((*path[:-1], hidden))
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            # A whiteout hides what lower layers have, never what its own layer has.
            if stat.S_ISDIR(os.lstat(hidden, dir_fd=parent).st_mode):
                self._set_opaque(parent, hidden)

    @staticmethod
    def _set_opaque(parent: int, name: str) -> None:
        fd = _open_directory(parent, name)
        try:
            _set_opaque_fd(fd)
        finally:
            os.close(fd)

    # ---- kinds ----

    def _make_directory(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            pass
        fd = _open_directory(parent, name)
        try:
            self._apply_attributes(fd, entry)
        finally:
            os.close(fd)
        self._times[safe_path(entry.name)] = _mtime_ns(entry)

    def _make_file(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            self._write(fd, entry)
            self._apply_attributes(fd, entry)
            mtime_ns = _mtime_ns(entry)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)

    def _write(self, fd: int, entry: tarfile.TarInfo) -> None:
        if entry.size > self._bounds.file_bytes:
            raise ImageError(f"{entry.name!r} of {entry.size:,} bytes is too large")
        self._stream.seek(entry.offset_data)
        sparse: Any = entry.sparse  # offset and size of each piece
        pieces = sparse if sparse is not None else [(0, entry.size)]
        end = 0
        for offset, size in pieces:
            if not size:
                continue  # GNU tar ends its map so
            if offset < end or size < 0 or offset + size > entry.size:
                raise ImageError(f"{entry.name!r}: its map of holes is damaged")
            end = offset + size
            self._count(size, entry)
            while size:
                data = self._stream.piece(min(size, CHUNK))
                if not data:
                    raise ImageError(f"the layer is damaged: it ends within {entry.name!r}")
                done = os.pwrite(fd, data, offset)
                while done < len(data):
                    done += os.pwrite(fd, data[done:], offset + done)
                offset, size = offset + done, size - done
        if end < entry.size:
            os.ftruncate(fd, entry.size)

    def _count(self, size: int, entry: tarfile.TarInfo) -> None:
        self._done.data_bytes += size
        if self._done.data_bytes > self._bounds.data_bytes:
            raise ImageError(f"the layer holds more than {self._bounds.data_bytes:,} bytes and is taken for a bomb")
        self._since_check += size
        if self._since_check > 64 << 20 or size > 64 << 20:
            self._since_check = 0
            room = os.fstatvfs(self._root)
            if room.f_bavail * room.f_frsize - size < self._bounds.free_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _make_symlink(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        os.symlink(entry.linkname, name, dir_fd=parent)
        self._finish_by_name(parent, name, entry)

    def _make_hard_link(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        target = safe_path(entry.linkname)
        if not target:
            raise ImageError(f"{entry.name!r} links to the root directory")
        fd = os.dup(self._root)
        try:
            for part in target[:-1]:
                below = _open_directory(fd, part)
                os.close(fd)
                fd = below
            if stat.S_ISDIR(os.lstat(target[-1], dir_fd=fd).st_mode):
                raise ImageError(f"{entry.name!r} is a hard link to the directory {entry.linkname!r}")
            os.link(target[-1], name, src_dir_fd=fd, dst_dir_fd=parent, follow_symlinks=False)
        except OSError as e:
            raise ImageError(f"{entry.name!r} cannot link to {entry.linkname!r}: {e.strerror}") from None
        finally:
            os.close(fd)

    def _make_fifo(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        os.mkfifo(name, 0o600, dir_fd=parent)
        self._finish_by_name(parent, name, entry)

    def _make_device(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        kind = stat.S_IFBLK if entry.isblk() else stat.S_IFCHR
        device = os.makedev(entry.devmajor, entry.devminor)
        if kind == stat.S_IFCHR and device == 0:
            raise ImageError(f"{entry.name!r} is device 0:0, which would pass for a whiteout")
        try:
            os.mknod(name, kind | 0o600, device, dir_fd=parent)
        except PermissionError:
            raise ImageError(
                f"{entry.name!r} is a device node, which this user may not make; unpacking it needs root"
            ) from None
        self._finish_by_name(parent, name, entry)

    _makers: dict[bytes, Callable[[_Unpacker, int, str, tarfile.TarInfo], None]] = {  # noqa: RUF012
        tarfile.REGTYPE: _make_file,
        tarfile.AREGTYPE: _make_file,
        tarfile.CONTTYPE: _make_file,
        tarfile.GNUTYPE_SPARSE: _make_file,
        tarfile.DIRTYPE: _make_directory,
        tarfile.SYMTYPE: _make_symlink,
        tarfile.LNKTYPE: _make_hard_link,
        tarfile.FIFOTYPE: _make_fifo,
        tarfile.CHRTYPE: _make_device,
        tarfile.BLKTYPE: _make_device,
    }

    # ---- attributes ----

    def _apply_attributes(self, fd: int, entry: tarfile.TarInfo) -> None:
        # chown(2) clears set-user-ID and capabilities, so owner, then mode, then attributes.
        self._chown(entry, lambda uid, gid: os.chown(fd, uid, gid))
        os.fchmod(fd, entry.mode & 0o7777)
        for name, value in _xattrs(entry):
            try:
                os.setxattr(fd, name, value)
            except OSError as e:
                # ENOTSUP: the file system has none of this kind. EPERM: kept to root, as file capabilities are.
                if e.errno != errno.ENOTSUP and (e.errno != errno.EPERM or self._root_user):
                    raise

    def _finish_by_name(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        self._chown(entry, lambda uid, gid: os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False))
        if not entry.issym():
            os.chmod(name, entry.mode & 0o7777, dir_fd=parent)
        mtime_ns = _mtime_ns(entry)
        os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _chown(self, entry: tarfile.TarInfo, chown: Callable[[int, int], None]) -> None:
        try:
            chown(entry.uid, entry.gid)
        except OSError as e:
            if e.errno not in (errno.EINVAL, errno.EPERM, errno.EOVERFLOW):
                raise
            if self._one_id:
                self._done.squashed += 1
                return
            raise ImageError(
                f"{entry.name!r} belongs to {entry.uid}:{entry.gid}, which is not to be had here: "
                "give this user a range in /etc/subuid and /etc/subgid, and install uidmap"
            ) from None

    def _set_directory_time(self, path: tuple[str, ...], mtime_ns: int) -> None:
        fd = os.dup(self._root)
        try:
            for name in path:
                below = _open_directory(fd, name)
                os.close(fd)
                fd = below
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)


def one_id() -> bool:
    """Whether this user namespace maps a single user ID: uid_map in user_namespaces(7)."""
    with open("/proc/self/uid_map") as f:
        return sum(int(line.split()[2]) for line in f) == 1


def safe_path(name: str) -> tuple[str, ...]:
    """Split the name of an entry into parts.

    Raises
    ------
    ImageError
        If it leaves the root.

    Examples
    --------
    >>> safe_path("./etc//passwd"), safe_path("/")
    (('etc', 'passwd'), ())
    """
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise ImageError(f"{name!r} leaves the layer's root")
    return parts


def _open_directory(fd: int, name: str) -> int:
    return os.open(name, _DIRECTORY, dir_fd=fd)


def _set_opaque_fd(fd: int) -> None:
    for name in OPAQUE_XATTRS:
        try:
            os.setxattr(fd, name, b"y")
        except OSError as e:
            if e.errno != errno.EPERM or name != OPAQUE_XATTRS[0]:  # trusted.* is the first user namespace's root's
                raise


def _mtime_ns(entry: tarfile.TarInfo) -> int:
    """Return the exact time, which tarfile rounds to a float."""
    text = str(entry.pax_headers.get("mtime", int(entry.mtime)))
    if not _TIME.fullmatch(text):
        raise ImageError(f"{entry.name!r}: {text[:40]!r} is no time")
    return int(Decimal(text) * 1_000_000_000)


def _xattrs(entry: tarfile.TarInfo) -> list[tuple[str, bytes]]:
    """List extended attributes, but for those by which overlayfs would be steered."""
    found = []
    for key, value in entry.pax_headers.items():
        name = key.removeprefix(_XATTR)
        if name != key and not name.startswith(_OVERLAY_XATTRS):
            found.append((name, value.encode("utf-8", "surrogateescape")))
    return found
