"""Reading a layer's archive once: hashed as it comes, decompressed, bounded."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from ..errors import ImageError

CHUNK = 1 << 20
RATIO_FROM_BYTES = 1 << 30
MAX_RATIO = 200
"""What has been unpacked beyond `RATIO_FROM_BYTES` may be this many times what it was packed in."""
_GZIP, _ZSTD, _BZIP2, _XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\x00"
_ZSTD_WINDOW_BYTES = 1 << 27


def compression_of(head: bytes) -> str:
    """Tell from its first bytes how a stream is compressed: as Docker, which does not believe media types.

    Examples
    --------
    >>> compression_of(bytes([0x1f, 0x8b, 8])), compression_of(b"etc/")
    ('gzip', '')
    """
    table = {_GZIP: "gzip", _ZSTD: "zstd", _BZIP2: "bzip2", _XZ: "xz"}
    return next((name for magic, name in table.items() if head.startswith(magic)), "")


class LayerStream:
    """A layer's archive, uncompressed, for `tarfile`: it reads forward, and one chunk back.

    Parameters
    ----------
    raw : binary file
        As stored or sent.

    Attributes
    ----------
    packed_bytes, unpacked_bytes : int
        Read so far.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._packed, self._unpacked = hashlib.sha256(), hashlib.sha256()
        self.packed_bytes = self.unpacked_bytes = 0
        head = raw.read(8)
        self.compression = compression_of(head)
        self._chunks = self._decompress(head)
        self._chunk, self._start, self._at = b"", 0, 0
        self._before = b""

    # ---- chunks ----

    def _packed_chunks(self, head: bytes) -> Iterator[bytes]:
        data = head
        while data:
            self._packed.update(data)
            self.packed_bytes += len(data)
            yield data
            data = self._raw.read(CHUNK)

    def _decompress(self, head: bytes) -> Iterator[bytes]:
        packed = self._packed_chunks(head)
        decode = {"gzip": _gunzip, "zstd": _unzstd, "bzip2": _unbzip2, "xz": _unxz}.get(self.compression)
        for chunk in decode(packed) if decode else packed:
            if self.compression:  # else both are the same bytes
                self._unpacked.update(chunk)
            self.unpacked_bytes += len(chunk)
            if self.unpacked_bytes > RATIO_FROM_BYTES and self.unpacked_bytes > MAX_RATIO * self.packed_bytes:
                raise ImageError(
                    f"the layer unpacks to more than {MAX_RATIO} times its size and is taken for a bomb "
                    f"({self.packed_bytes:,} bytes gave {self.unpacked_bytes:,} so far)"
                )
            yield chunk

    def _advance(self) -> bool:
        chunk = next(self._chunks, b"")
        if not chunk:
            return False
        self._before = self._chunk[-1:] or self._before
        self._start += len(self._chunk)
        self._chunk = chunk
        return True

    # ---- what tarfile calls ----

    def tell(self) -> int:
        """Return the position in the uncompressed archive."""
        return self._at

    def seek(self, position: int) -> int:
        """Go to a position: forward, or within what is still held."""
        while position > self._start + len(self._chunk) and self._advance():
            pass
        if position < self._start - 1:
            raise io.UnsupportedOperation("a layer is read forward only")
        self._at = position
        return position

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; fewer only at the end."""
        pieces = []
        while size > 0:
            piece = bytes(self.piece(size))
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def piece(self, size: int) -> memoryview:
        """Read 1 to `size` bytes without copying; none at the end."""
        if self._at == self._start - 1:
            self._at += 1
            return memoryview(self._before)
        while self._at >= self._start + len(self._chunk):
            if not self._advance():
                return memoryview(b"")
        offset = self._at - self._start
        data = memoryview(self._chunk)[offset : offset + size]
        self._at += len(data)
        return data

    # ---- the end ----

    def finish(self) -> tuple[str, str]:
        """Read what is left; return the digests of the stream as stored and uncompressed."""
        while self._advance():
            pass
        for _ in self._packed_chunks(self._raw.read(CHUNK)):
            pass  # a decoder may stop before bytes that follow its stream
        packed = f"sha256:{self._packed.hexdigest()}"
        return packed, f"sha256:{self._unpacked.hexdigest()}" if self.compression else packed


def _gunzip(packed: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress gzip, of one member or several: RFC 1952."""
    decoder = zlib.decompressobj(31)
    started = False
    for data in packed:
        while data:
            started = True
            try:
                out = decoder.decompress(data, CHUNK)
            except zlib.error as e:
                raise ImageError(f"the layer is damaged: gzip: {e}") from None
            if out:
                yield out
            data = decoder.unconsumed_tail
            if decoder.eof:
                data = decoder.unused_data.lstrip(b"\0")  # padding of tapes
                decoder, started = zlib.decompressobj(31), False
    while started and not decoder.eof:  # what it still holds back after the last input
        out = decoder.decompress(b"", CHUNK)
        if not out:
            raise ImageError("the layer is damaged: gzip: it ends early")
        yield out


def _unzstd(packed: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard

    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).stream_reader(
        cast("BinaryIO", _Chunks(packed)), read_across_frames=True
    )
    try:
        while data := reader.read(CHUNK):
            yield data
    except zstandard.ZstdError as e:
        raise ImageError(f"the layer is damaged: zstd: {e}") from None


def _unbzip2(packed: Iterator[bytes]) -> Iterator[bytes]:
    import bz2

    return _file_chunks(bz2.open(cast("BinaryIO", _Chunks(packed))))


def _unxz(packed: Iterator[bytes]) -> Iterator[bytes]:
    import lzma

    return _file_chunks(lzma.open(cast("BinaryIO", _Chunks(packed))))


def _file_chunks(file: Any) -> Iterator[bytes]:
    from lzma import LZMAError

    try:
        while data := file.read(CHUNK):
            yield data
    except (OSError, EOFError, LZMAError) as e:
        raise ImageError(f"the layer is damaged: {e}") from None


class _Chunks(io.RawIOBase):
    """An iterator of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        count = min(len(buffer), len(self._rest))
        memoryview(buffer)[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
