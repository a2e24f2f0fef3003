"""Images: loading one of some size beside other tools, and starting many containers of one.

As a program: time starts of containers of ``busybox`` beside none and beside N - 1 idle ones; prints JSON.

Usage: ``python -m benchmarks.images CONTAINERS ROUNDS GAP_SECONDS``. A process of its own, with a store of its own:
its end takes the engine and all containers down whatever happened.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .engine import run_once
from .program import answer
from .spawn import spawn
from .stats import Candidate, Series, interleave

MIB = 1 << 20
LOAD, PODMAN, SKOPEO = "load", "podman load", "skopeo copy … containers-storage:"
FIRST, LAST = "first container of an image", "last of many containers of an image"
LAYERS, LAYER_FILES, LARGE_BYTES = 4, 2_000, 60 * MIB
IDLE_S = "3600"
MOST_LOADS = 5
"""Each takes seconds, and an unpacked image of disk."""


def _layer(number: int, mebibytes: int) -> bytes:
    """Make a layer as software has them: many small files of text, a few large ones that do not compress."""
    draw = random.Random(number)
    words = [f"{draw.getrandbits(32):x}" for _ in range(4_000)]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))

        large = min(LARGE_BYTES, mebibytes * MIB // 2)
        add(f"usr/lib/large-{number}", draw.randbytes(large))
        each = (mebibytes * MIB - large) // LAYER_FILES
        for i in range(LAYER_FILES):
            text = " ".join(draw.choices(words, k=each // 9 + 1)).encode()[:each]
            add(f"usr/share/{number}/{i % 40}/{i}", text)
    return out.getvalue()


def write_archive(path: Path, mebibytes: int) -> None:
    """Write an image of about this size as ``docker save`` does."""
    from jupyter_ns.images import archive
    from jupyter_ns.images.make import OCI_LAYER, add_image, new_config
    from jupyter_ns.images.record import Layer
    from jupyter_ns.images.reference import parse_reference
    from jupyter_ns.images.store import Store

    store = Store(str(path.parent / "source"))
    layers: list[Layer] = []
    with store.adding():
        for number in range(LAYERS):
            data = _layer(number, mebibytes // LAYERS)
            diff_id, digest, _ = store.add_layer(io.BytesIO(data), below=[one.diff_id for one in layers])
            Path(store.blob_path(digest)).write_bytes(data)
            layers.append(Layer(diff_id=diff_id, digest=digest, media_type=OCI_LAYER, size=len(data)))
        config = new_config({"Cmd": ["true"]}, diff_ids=[one.diff_id for one in layers], history=[])
        names = [parse_reference("bench/large:1")]
        image = add_image(store, layers, config, names)
    with open(path, "wb") as out:
        archive.save(store, [(image, names)], out)
    shutil.rmtree(store.root)


def _load(directory: Path, archive_path: Path) -> float:
    from jupyter_ns.images import archive
    from jupyter_ns.images.store import Store

    root = directory / "ours"
    start = time.perf_counter()
    archive.load(Store(str(root)), str(archive_path))
    seconds = time.perf_counter() - start
    shutil.rmtree(root)
    os.sync()  # what it wrote is not the next one's to wait for
    return seconds


def _into_a_new_store(directory: Path, argv: Callable[[Path], list[str]]) -> Callable[[], float]:
    def run() -> float:
        place = directory / "theirs"
        try:
            seconds = spawn(argv(place))
        finally:
            _remove_store(place)
        os.sync()
        return seconds

    return run


def _remove_store(place: Path) -> None:
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        if line.split()[4].startswith(f"{place}/"):  # podman leaves its store mounted on itself
            subprocess.run(["umount", "-l", line.split()[4]], check=True)
    shutil.rmtree(place, ignore_errors=True)


@contextmanager
def loads(*, mebibytes: int) -> Iterator[list[Candidate]]:
    """Write the archive; yield the rows that load it, those that are not there included."""
    directory = Path(tempfile.mkdtemp(prefix="jns-bench.", dir="/var/tmp"))
    path = directory / "large.tar"

    def podman(place: Path) -> list[str]:
        options = ["--root", f"{place}/s", "--runroot", f"{place}/r", "--storage-driver", "overlay"]
        return [str(shutil.which("podman")), *options, "load", "-q", "-i", str(path)]

    def skopeo(place: Path) -> list[str]:
        target = f"containers-storage:[overlay@{place}/s+{place}/r]bench/large:1"
        options = ["copy", "-q", "--insecure-policy", f"docker-archive:{path}", target]
        return [str(shutil.which("skopeo")), *options]

    def row(name: str, program: str, argv: Callable[[Path], list[str]]) -> Candidate:
        if not shutil.which(program):
            return Candidate(name=name, missing="not installed")
        return Candidate(name=name, run=_into_a_new_store(directory, argv), note="into an empty store")

    try:
        write_archive(path, mebibytes)
        size = f"{path.stat().st_size / 1e6:.0f} MB, {LAYERS} layers, into an empty store"
        ours = Candidate(name=LOAD, run=lambda: _load(directory, path), note=size)
        yield [ours, row(PODMAN, "podman", podman), row(SKOPEO, "skopeo", skopeo)]
    finally:
        _remove_store(directory / "theirs")
        shutil.rmtree(directory)


def measure(containers: int, rounds: int, gap_s: float) -> dict[str, list[float]]:
    """Time starts beside no other container of the image, and beside ``containers - 1`` of them, seconds."""

    def timed() -> float:
        time.sleep(gap_s)
        start = time.perf_counter()
        run_once("true", image="busybox")
        return time.perf_counter() - start

    for _ in range(3):  # the image is made with the first
        timed()
    first = [timed() for _ in range(rounds)]
    for _ in range(containers - 1):
        run_once("sleep", IDLE_S, image="busybox", detach=True)
    return {FIRST: first, LAST: [timed() for _ in range(rounds)]}


def series(*, mebibytes: int, containers: int, rounds: int, gap_s: float) -> list[Series]:
    """Measure loads, then starts."""
    with loads(mebibytes=mebibytes) as rows:
        found = interleave(rows, rounds=min(rounds, MOST_LOADS), gap_s=gap_s, warmup=1)
    argv = [sys.executable, "-m", "benchmarks.images", str(containers), str(rounds), str(gap_s)]
    with tempfile.TemporaryDirectory(prefix="jns-bench.") as store:
        environ = {**os.environ, "JUPYTER_NS_DATA": store}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        why = f"failed: {said[-1] if said else f'exit code {done.returncode}'}"
        return [*found, *(Series(name=name, missing=why) for name in (FIRST, LAST))]
    answer = json.loads(done.stdout)
    notes = {FIRST: "busybox, beside no other", LAST: f"beside {containers - 1} idle ones of the same image"}
    return [*found, *(Series(name=n, values=tuple(s * 1e3 for s in answer[n]), note=notes[n]) for n in notes)]


if __name__ == "__main__":
    sys.exit(answer(measure))
