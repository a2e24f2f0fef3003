"""Build archives for tests: layers entry by entry, hostile ones too."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from typing import Any


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Make one member; `fields` are those of a TarInfo."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def directory(name: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Make a directory's member."""
    return entry(name, tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """Make a symbolic link's member."""
    return entry(name, tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """Make a hard link's member."""
    return entry(name, tarfile.LNKTYPE, linkname=target)


def sparse(name: str, size: int, pieces: Sequence[tuple[int, int]]) -> tuple[tarfile.TarInfo, bytes]:
    """Make a sparse file's member, in GNU tar's form 1.0: a map of offsets and sizes stands before the data."""
    numbers = [len(pieces), *(number for piece in pieces for number in piece)]
    table = "".join(f"{number}\n" for number in numbers).encode()
    data = table + bytes(-len(table) % 512) + b"x" * sum(n for _, n in pieces)
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name}
    return entry(name, data=data, pax_headers={**headers, "GNU.sparse.realsize": str(size)})


def archive(members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Write an archive in POSIX's format."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
