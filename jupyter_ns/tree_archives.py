"""Entries of `jupyter_ns.trees` as a tar archive, and back: ``cp CONTAINER:PATH -`` and ``cp - CONTAINER:PATH``."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, BinaryIO

from .trees import PIECE, Entry

_KINDS = {"dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "file": tarfile.REGTYPE}
_NANO = 1_000_000_000
_XATTR = "SCHILY.xattr."


def write_archive(entries: Iterable[Entry], out: BinaryIO) -> tuple[int, list[str]]:
    """Write entries as an archive.

    Parameters
    ----------
    entries : iterable of Entry
        With their paths as the archive is to have them.
    out : binary file
        Where it goes; need not be seekable.

    Returns
    -------
    written : int
        Bytes of files.
    left : list of str
        What was not copied: devices, sockets, pipes.
    """
    written = 0
    left: list[str] = []
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for info, data in _members(entries, left):
            written += info.size
            tar.addfile(info, data)
    return written, left


def _members(entries: Iterable[Entry], left: list[str]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Pair headers and contents: what belongs into a header comes after its entry, and stands before its contents."""
    pending: tarfile.TarInfo | None = None
    with tempfile.SpooledTemporaryFile(4 * PIECE) as data:
        for entry in entries:
            if entry[0] == "data":
                data.write(entry[1])
                continue
            if entry[0] == "xattr" and pending is not None:
                value = entry[3].decode("utf-8", "surrogateescape")
                pending.pax_headers = {**pending.pax_headers, _XATTR + entry[2]: value}
                continue
            if pending is not None:
                yield _complete(pending, data)
                pending = None
            if entry[0] == "left":
                left.append(entry[1])
                continue
            pending = tarfile.TarInfo(entry[1])
            pending.type, pending.mode, pending.uid, pending.gid = _KINDS[entry[0]], *entry[2:5]
            seconds, rest = divmod(entry[5], _NANO)
            pending.mtime = seconds
            pending.pax_headers = {"mtime": f"{seconds}.{rest:09}"} if rest else {}
            if entry[0] == "link":
                pending.linkname = entry[6]
            data.seek(0)
            data.truncate()
        if pending is not None:
            yield _complete(pending, data)


def _complete(info: tarfile.TarInfo, data: IO[bytes]) -> tuple[tarfile.TarInfo, IO[bytes] | None]:
    if not info.isreg():
        return info, None
    info.size = data.tell()
    data.seek(0)
    return info, data


def read_archive(raw: BinaryIO) -> Iterator[Entry]:
    """Read an archive, however it is compressed, as entries; the writer judges the paths.

    Raises
    ------
    tarfile.TarError, OSError, EOFError
        If it is damaged, or no archive.
    """
    with tarfile.open(fileobj=raw, mode="r|*", errors="surrogateescape") as tar:
        for info in tar:
            path = "/".join(part for part in info.name.split("/") if part not in ("", ".")) or "."
            about = [path, info.mode & 0o7777, info.uid, info.gid, int(float(info.mtime) * _NANO)]
            headers = info.pax_headers.items()
            kept = [
                ["xattr", path, key[len(_XATTR) :], value.encode("utf-8", "surrogateescape")]
                for key, value in headers
                if key.startswith(_XATTR)
            ]
            if info.isdir():
                yield ["dir", *about]
                yield from kept
            elif info.issym():
                yield ["link", *about, info.linkname]
            elif info.islnk():
                yield ["hard", *about, "/".join(part for part in info.linkname.split("/") if part not in ("", "."))]
            elif info.isreg():
                yield ["file", *about]
                yield from kept
                data = tar.extractfile(info)
                while data is not None and (piece := data.read(PIECE)):
                    yield ["data", piece]
            else:
                yield ["left", path]
