"""Layers unpacked: what they hold, what they hide, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from archives import archive, directory, entry, hard_link, sparse, symlink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jupyter_ns.errors import ImageError
from jupyter_ns.images.merged import Stack
from jupyter_ns.images.streams import LayerStream
from jupyter_ns.images.unpack import Bounds, unpack

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices are made by root")
SMALL = Bounds(data_bytes=1 << 20, file_bytes=1 << 30, entries=100, header_bytes=1 << 12, free_bytes=0)


def unpacked(data: bytes, directory: Path, bounds: Bounds = SMALL) -> LayerStream:
    """Unpack an archive, to its end."""
    directory.mkdir(exist_ok=True)
    stream = LayerStream(io.BytesIO(data))
    unpack(stream, str(directory), Stack(()), bounds)
    return stream


def is_whiteout(path: Path) -> bool:
    info = os.lstat(path)
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return os.getxattr(path, "user.overlay.opaque") == b"y"


@root_only
def test_attributes(tmp_path: Path) -> None:
    data = archive(
        [
            directory("./", mode=0o751, mtime=1000),
            directory("d", mode=0o2775, uid=12, gid=34, mtime=1234567890),
            entry("d/f", data=b"text", mode=0o4755, uid=1000, gid=1001, mtime=1111111111),
            entry("d/x", data=b"x", pax_headers={"SCHILY.xattr.user.note": "hä", "mtime": "1500000000.123456789"}),
            entry("d/pipe", tarfile.FIFOTYPE, mode=0o600),
            entry("d/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            symlink("d/link", "/etc/../outside"),
            hard_link("d/g", "./d/f"),
        ]
    )
    unpacked(data, tmp_path / "layer")
    d = tmp_path / "layer" / "d"
    assert stat.S_IMODE(os.lstat(tmp_path / "layer").st_mode) == 0o751
    info = os.lstat(d)
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime) == (0o2775, 12, 34, 1234567890)
    info = os.lstat(d / "f")
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime) == (0o4755, 1000, 1001, 1111111111)
    assert (d / "f").read_bytes() == b"text"
    assert os.path.samefile(d / "f", d / "g") and info.st_nlink == 2
    assert os.getxattr(d / "x", "user.note") == "hä".encode()
    assert os.lstat(d / "x").st_mtime_ns == 1500000000123456789
    assert stat.S_ISFIFO(os.lstat(d / "pipe").st_mode)
    assert os.lstat(d / "null").st_rdev == os.makedev(1, 3)
    assert os.readlink(d / "link") == "/etc/../outside"


def test_whiteouts_and_opaque_directories(tmp_path: Path) -> None:
    data = archive(
        [
            directory("a"),
            entry("a/.wh.gone"),
            directory("b"),
            entry("b/new", data=b"n"),
            entry("b/.wh..wh..opq"),
            entry(".wh..wh.plnk"),
            entry("c/.wh.both"),  # hides what lower layers have; this layer's own stays
            directory("c/both"),
            entry("c/both/file", data=b"f"),
            entry("c/file", data=b"kept"),
            entry("c/.wh.file"),
        ]
    )
    unpacked(data, tmp_path / "l")
    layer = tmp_path / "l"
    assert is_whiteout(layer / "a/gone")
    assert is_opaque(layer / "b") and (layer / "b/new").read_bytes() == b"n"
    assert not (layer / ".wh..wh.plnk").exists() and sorted(os.listdir(layer)) == ["a", "b", "c"]
    assert is_opaque(layer / "c/both") and (layer / "c/both/file").exists()
    assert (layer / "c/file").read_bytes() == b"kept"


def test_later_entries_replace_earlier_ones(tmp_path: Path) -> None:
    data = archive(
        [
            directory("d"),
            entry("d/f", data=b"old"),
            entry("d/f", data=b"new"),
            directory("e"),
            entry("e/below", data=b"x"),
            entry("e", data=b"now a file"),
            symlink("g", "d"),
            directory("g"),
            entry("g/in", data=b"not through the link"),
        ]
    )
    unpacked(data, tmp_path / "l")
    assert (tmp_path / "l/d/f").read_bytes() == b"new"
    assert (tmp_path / "l/e").read_bytes() == b"now a file"
    assert not (tmp_path / "l/g").is_symlink() and sorted(os.listdir(tmp_path / "l/d")) == ["f"]


def test_sparse_files_of_gnu_tar_keep_their_holes(tmp_path: Path) -> None:
    source = tmp_path / "s"
    source.mkdir()
    with open(source / "sparse", "wb") as f:
        f.write(b"head")
        f.seek(300 << 20)
        f.write(b"tail")
    for form in ("gnu", "posix"):
        subprocess.run(["tar", "-C", source, "--format", form, "-Scf", tmp_path / form, "sparse"], check=True)
        unpacked((tmp_path / form).read_bytes(), tmp_path / f"l{form}")
        made = tmp_path / f"l{form}" / "sparse"
        assert made.stat().st_size == (300 << 20) + 4 and made.stat().st_blocks * 512 < 1 << 20
        with open(made, "rb") as f:
            assert f.read(8) == b"head\0\0\0\0"
            f.seek(300 << 20)
            assert f.read() == b"tail"


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("", lambda data: data),
        ("gzip", gzip.compress),
        ("gzip", lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:])),
        ("zstd", lambda data: zstandard.ZstdCompressor().compress(data)),
        ("bzip2", bz2.compress),
        ("xz", lzma.compress),
    ],
)
def test_compression(name: str, compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    import hashlib

    data = archive([entry("f", data=os.urandom(300_000)), entry("g", data=bytes(700_000))])
    packed = compress(data)
    stream = unpacked(packed, tmp_path / "l")
    assert stream.compression == name
    assert stream.finish() == tuple(f"sha256:{hashlib.sha256(d).hexdigest()}" for d in (packed, data))
    assert (tmp_path / "l/g").read_bytes() == bytes(700_000)


HOSTILE = {
    "out of the root": [entry("../evil", data=b"x")],
    "out of the root, later": [entry("a/../../evil", data=b"x")],
    "through an absolute link": [symlink("a", "/"), entry("a/evil", data=b"x")],
    "through a relative link": [directory("d"), symlink("d/a", "../.."), entry("d/a/evil", data=b"x")],
    "through a link to a link": [symlink("a", "b"), symlink("b", ".."), directory("a/c")],
    "through a file": [entry("a", data=b""), entry("a/b", data=b"")],
    "hard link out": [hard_link("a", "../evil")],
    "hard link through a link": [symlink("a", "/etc"), hard_link("b", "a/passwd")],
    "hard link to nothing": [hard_link("a", "missing")],
    "hard link to a directory": [directory("d"), hard_link("a", "d")],
    "device that is a whiteout": [entry("a", tarfile.CHRTYPE, devmajor=0, devminor=0)],
    "whiteout of the parent": [entry(".wh...")],
    "whiteout of nothing": [entry(".wh.")],
    "the root as a file": [entry("./", data=b"x")],
    "too many entries": [entry(f"f{i}") for i in range(101)],
    "too much data": [entry("f", data=bytes((1 << 20) + 1))],
    "a header too large": [entry("f", pax_headers={"comment": "x" * 5000})],
    "too deep": [directory("d/" * 300)],
    "an unknown type": [entry("f", b"Z")],
    "a time that is none": [entry("f", pax_headers={"mtime": "1e9999999"})],
    "a NUL in a name": [entry("f", pax_headers={"path": "a\0b"})],
    "a directory swapped for a link": [directory("d"), entry("d/f"), symlink("d", "/etc"), entry("d/evil", data=b"x")],
    "a link swapped for a link": [symlink("d", "e"), directory("e"), symlink("d", "/"), entry("d/evil", data=b"x")],
    "a directory swapped for a link, then time": [directory("d/e", mtime=1), symlink("d", "/"), directory("d/e")],
    "an attribute too large": [entry("f", pax_headers={"SCHILY.xattr.user.x": "x" * 3000 * 30})],
    "an attribute without a name": [entry("f", pax_headers={"SCHILY.xattr.user.": "x"})],
    "a sparse file beyond bounds": [sparse("f", 1 << 31, [(0, 512)])],
    "a hole that is data": [sparse("f", 1 << 20, [(0, 512), (1 << 40, 512)])],
    "pieces that overlap": [sparse("f", 1 << 20, [(0, 512), (0, 512)])],
    "an owner out of range": [entry("f", pax_headers={"uid": str(1 << 40)})],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_and_touch_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    before = sorted(os.listdir(tmp_path)), os.lstat("/etc/passwd").st_nlink
    with pytest.raises(ImageError):
        unpacked(archive(HOSTILE[name]), tmp_path / "outside" / "l")
    assert (sorted(os.listdir(tmp_path)), os.lstat("/etc/passwd").st_nlink) == before
    assert os.listdir(tmp_path / "outside") == ["l"]


@root_only
def test_what_a_link_stood_for_is_never_written(tmp_path: Path) -> None:
    """Neither by the entry that comes in its place, nor by whiteouts below it, nor through a hard link to it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/f").write_text("as it was")
    target = f"{tmp_path}/outside"
    members = [
        *(symlink("l", f"{target}/f"), hard_link("h", "l"), entry("h", data=b"new"), entry("l", data=b"new")),
        *(directory("d"), entry("d/f"), symlink("d", target), entry("d/.wh.f"), entry("d/.wh..wh..opq")),
        *(directory("w"), entry(".wh.w"), symlink("w", target), entry("w/.wh.f")),
    ]
    unpacked(archive(members), tmp_path / "l")
    assert (tmp_path / "outside/f").read_text() == "as it was"
    assert os.listxattr(tmp_path / "outside") == []
    assert (tmp_path / "l/h").read_bytes() == (tmp_path / "l/l").read_bytes() == b"new"


def test_a_sparse_file_takes_no_more_than_its_data(tmp_path: Path) -> None:
    unpacked(archive([sparse("f", 1 << 29, [(0, 512), ((1 << 29) - 512, 512)])]), tmp_path / "l")
    info = os.stat(tmp_path / "l/f")
    assert info.st_size == 1 << 29 and info.st_blocks * 512 < 1 << 20


def test_entries_of_one_name_are_one(tmp_path: Path) -> None:
    """They count as often as they come; the last is there, whatever kinds the others were."""
    kinds = [entry("a", data=b"1"), directory("a"), entry("a/b"), symlink("a", "/"), entry("a", tarfile.FIFOTYPE)]
    unpacked(archive([*kinds, entry("a", data=b"2")]), tmp_path / "l")
    assert (os.listdir(tmp_path / "l"), (tmp_path / "l/a").read_bytes()) == (["a"], b"2")
    with pytest.raises(ImageError, match="100 entries"):
        unpacked(archive([entry("a")] * 101), tmp_path / "m")


def test_overlay_attributes_of_an_archive_are_left_out(tmp_path: Path) -> None:
    headers = {"SCHILY.xattr.user.overlay.redirect": "/etc", "SCHILY.xattr.trusted.overlay.opaque": "y"}
    unpacked(archive([directory("d", pax_headers=headers)]), tmp_path / "l")
    assert [n for n in os.listxattr(tmp_path / "l/d") if "overlay" in n] == []


def test_compression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_ns.images.streams.RATIO_FROM_BYTES", 1 << 20)
    data = gzip.compress(archive([entry("f", data=bytes(30 << 20))]))
    with pytest.raises(ImageError, match="bomb"):
        unpacked(data, tmp_path / "l", Bounds())


def test_an_archive_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    room = shutil.disk_usage(tmp_path).free
    with pytest.raises(ImageError, match="No space left"):
        unpacked(archive([entry("f", data=bytes(65 << 20))]), tmp_path / "l", Bounds(free_bytes=2 * room))


@pytest.mark.parametrize("cut", [100, 512, 700, 1300])
def test_a_damaged_archive_is_said(cut: int, tmp_path: Path) -> None:
    data = archive([entry("f", data=b"x" * 600), entry("g", data=b"y" * 600)])
    with pytest.raises(ImageError):
        unpacked(gzip.compress(data)[:-20], tmp_path / "z")
    if cut % 512:
        with pytest.raises(ImageError, match="damaged"):
            unpacked(data[:cut], tmp_path / "l")
    broken = bytearray(data)
    broken[1536 : 1536 + 20] = b"\xff" * 20  # the second header
    with pytest.raises(ImageError, match="damaged"):
        unpacked(bytes(broken), tmp_path / "b")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 4095), junk=st.binary(min_size=1, max_size=40))
def test_any_damage_ends_in_an_error_of_ours_or_none(at: int, junk: bytes, tmp_path: Path) -> None:
    data = bytearray(
        archive([directory("d"), entry("d/f", data=b"x" * 600, pax_headers={"mtime": "1.5"}), symlink("l", "d")])
    )
    data[at : at + len(junk)] = junk
    shutil.rmtree(tmp_path / "l", ignore_errors=True)
    try:
        unpacked(bytes(data), tmp_path / "l")
    except ImageError:
        pass
    assert os.listdir(tmp_path) == ["l"]


def test_what_follows_a_whiteout_is_seen_alone(tmp_path: Path) -> None:
    data = archive(
        [entry(".wh.d"), entry("d/f", data=b"f"), entry("g"), entry("g/.wh.h"), symlink("l", "/"), entry("l/.wh.etc")]
    )
    unpacked(data, tmp_path / "l")
    assert is_opaque(tmp_path / "l/d") and os.listdir(tmp_path / "l/d") == ["f"]
    assert os.path.isfile(tmp_path / "l/g") and os.path.isdir("/etc")
