"""Write files as an archive: a layer of what a container changed, or all that a stack of layers holds.

Notes
-----
OCI image specification, "Image Layer Filesystem Changeset", "Representing Changes".
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, BinaryIO

from ..errors import ImageError
from .merged import Stack, is_opaque, is_whiteout
from .unpack import OPAQUE, WHITEOUT

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REDIRECTS = ("trusted.overlay.redirect", "user.overlay.redirect")
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}


class Writer:
    """Puts files into an archive: links once, times exactly, attributes but overlayfs's own.

    Parameters
    ----------
    out : binary file
        Where it goes; need not be seekable.
    first_ids : tuple of int
        What user 0 and group 0 are where the files are; it is subtracted.
    owner : tuple of int, optional
        User and group ID that all shall have.
    mode : int, optional
        Permissions that all but links shall have.
    """

    def __init__(
        self,
        out: BinaryIO,
        first_ids: tuple[int, int] = (0, 0),
        *,
        owner: tuple[int, int] | None = None,
        mode: int | None = None,
    ) -> None:
        self.first_ids = first_ids
        self._owner, self._mode = owner, mode
        self._tar = tarfile.open(  # noqa: SIM115 (closed by `close`)
            fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20, errors="surrogateescape"
        )
        self._links: dict[tuple[int, int], str] = {}

    def close(self) -> None:
        self._tar.close()

    def put(self, name: str, info: os.stat_result, path: str, fd: int | None = None) -> None:
        """Put one file; `path` is relative to `fd` if there is one. Sockets are left out."""
        kind = _KINDS.get(stat.S_IFMT(info.st_mode))
        if kind is None:
            return
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.uid, entry.gid = kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
        entry.uid, entry.gid = max(0, entry.uid - self.first_ids[0]), max(0, entry.gid - self.first_ids[1])
        entry.uid, entry.gid = self._owner or (entry.uid, entry.gid)
        if self._mode is not None and kind != tarfile.SYMTYPE:
            entry.mode = self._mode
        seconds, rest = divmod(info.st_mtime_ns, 1_000_000_000)
        entry.mtime = seconds
        headers = {"mtime": f"{seconds}.{rest:09}"} if rest else {}
        if kind == tarfile.SYMTYPE:
            entry.linkname = os.readlink(path, dir_fd=fd)
        elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            entry.devmajor, entry.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
        elif kind != tarfile.DIRTYPE and info.st_nlink > 1:
            first = self._links.setdefault((info.st_dev, info.st_ino), name)
            if first != name:
                entry.type, entry.linkname = tarfile.LNKTYPE, first
        if entry.type not in (tarfile.REGTYPE, tarfile.DIRTYPE):
            entry.pax_headers = headers
            self._tar.addfile(entry)
            return
        flags = _DIRECTORY if kind == tarfile.DIRTYPE else os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        opened = os.open(path, flags, dir_fd=fd)
        with open(opened, "rb") if kind == tarfile.REGTYPE else _Closing(opened) as file:
            for key in os.listxattr(opened):
                if ".overlay." not in key:
                    headers[f"SCHILY.xattr.{key}"] = os.getxattr(opened, key).decode("utf-8", "surrogateescape")
            entry.pax_headers = headers
            entry.size = os.fstat(opened).st_size if kind == tarfile.REGTYPE else 0
            self._tar.addfile(entry, file if isinstance(file, io.BufferedReader) else None)

    def put_directory(self, name: str) -> None:
        """Put a directory that is nowhere yet."""
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, int(time.time())
        entry.uid, entry.gid = self._owner or (0, 0)
        self._tar.addfile(entry)

    def put_member(self, member: tarfile.TarInfo, data: IO[bytes] | None) -> None:
        """Put what another archive has, as it says."""
        self._tar.addfile(member, data)

    def put_empty(self, name: str) -> None:
        """Put a whiteout's empty file."""
        self._tar.addfile(tarfile.TarInfo(name))


class _Closing:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> _Closing:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def pack_layer(directories: Mapping[str, str] | str, out: BinaryIO, first_ids: tuple[int, int] = (0, 0)) -> None:
    """Write an overlay's upper directory as a layer's archive, or those of several overlays, one below the other.

    Parameters
    ----------
    directories : mapping of str to str, or str
        The path that an overlay has in the container, and its upper directory; only that of the root's. A container
        wrote them: no link in them is followed.
    out : binary file
        Where the archive goes; need not be seekable.
    first_ids : tuple of int
        What user 0 and group 0 are in the directory; it is subtracted.

    Raises
    ------
    ImageError
        If a directory was renamed in a way that an archive cannot say (overlayfs's ``redirect_dir``).
    """
    writer = Writer(out, first_ids)
    for path, directory in sorted({"/": directories}.items() if isinstance(directories, str) else directories.items()):
        prefix = f"{path.strip('/')}/".lstrip("/")
        root = os.open(directory, _DIRECTORY)
        try:
            if prefix and os.listdir(root):
                writer.put(prefix.rstrip("/"), os.fstat(root), ".", root)
            _pack_directory(writer, root, prefix)
        except RecursionError:
            raise ImageError("its directories lie too deep in one another to be committed") from None
        finally:
            os.close(root)
    writer.close()


def _pack_directory(writer: Writer, fd: int, prefix: str) -> None:
    if is_opaque(fd):
        writer.put_empty(f"{prefix}{OPAQUE}")
    for name in sorted(os.listdir(fd)):
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if is_whiteout(info):
            writer.put_empty(f"{prefix}{WHITEOUT}{name}")
            continue
        if name.startswith(WHITEOUT):
            raise ImageError(f"{prefix}{name} would pass for a whiteout; rename it to commit")
        writer.put(f"{prefix}{name}", info, name, fd)
        if stat.S_ISDIR(info.st_mode):
            below = os.open(name, _DIRECTORY, dir_fd=fd)
            try:
                if any(key in _REDIRECTS for key in os.listxattr(below)):
                    raise ImageError(f"{prefix}{name} was renamed by overlayfs's redirect_dir, which no layer can say")
                _pack_directory(writer, below, f"{prefix}{name}/")
            finally:
                os.close(below)


def pack_stack(stack: Stack, out: BinaryIO, first_ids: tuple[int, int] = (0, 0)) -> None:
    """Write all files of merged layers as one archive; `first_ids`, as `pack_layer` takes them, are of the topmost."""
    writer = Writer(out)
    try:
        for path, found in stack.walk():
            writer.first_ids = first_ids if found.layer == 0 else (0, 0)
            writer.put(path, found.info, found.path)
    except RecursionError:
        raise ImageError("its directories lie too deep in one another to be written to an archive") from None
    writer.close()


def pack_tree(root: str, out: BinaryIO, *, wanted: Callable[[os.stat_result], bool] = lambda _: True) -> None:
    """Write a directory tree as an archive, without following links; entries that are not `wanted` are left out."""
    writer = Writer(out)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name, info, parent, base in _walk(fd, "", wanted):
            writer.put(name, info, base, parent)
    finally:
        os.close(fd)
    writer.close()


def _walk(
    fd: int, prefix: str, wanted: Callable[[os.stat_result], bool]
) -> Iterator[tuple[str, os.stat_result, int, str]]:
    for name in sorted(os.listdir(fd)):
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if not wanted(info):
            continue
        yield f"{prefix}{name}", info, fd, name
        if stat.S_ISDIR(info.st_mode):
            below = os.open(name, _DIRECTORY, dir_fd=fd)
            try:
                yield from _walk(below, f"{prefix}{name}/", wanted)
            finally:
                os.close(below)
