"""The store: digests, names, locks, garbage, and what a kill leaves."""

from __future__ import annotations

import fcntl
import gzip
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from archives import archive, directory, entry
from hypothesis import given
from hypothesis import strategies as st

from jupyter_ns.errors import ContainerError, ImageError, UsageError
from jupyter_ns.images import archive as archives
from jupyter_ns.images.make import add_image, layer_media_type, new_config
from jupyter_ns.images.record import Image, Layer
from jupyter_ns.images.reference import parse_reference
from jupyter_ns.images.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def add(store: Store, *layers: bytes, name: str = "") -> Image:
    """Make an image of archives."""
    names = [parse_reference(name)] if name else []
    with store.adding():
        made = []
        for data in layers:
            below = [one.diff_id for one in made]
            diff_id, digest, compression = store.add_layer(io.BytesIO(data), below=below)
            store.add_bytes(data)
            media_type = layer_media_type(compression)
            made.append(Layer(diff_id=diff_id, digest=digest, media_type=media_type, size=len(data)))
        config = new_config({"Cmd": ["sh"]}, diff_ids=[one.diff_id for one in made], history=[], created="2020")
        return add_image(store, made, config, names)


ONE = archive([directory("d"), entry("d/one", data=b"1" * 1000)])
TWO = gzip.compress(archive([entry("two", data=b"22")]), mtime=0)


def files(store: Store) -> set[str]:
    """Return what is in the store, but for locks and empty directories."""
    found = {os.path.relpath(os.path.join(d, n), store.root) for d, _, names in os.walk(store.root) for n in names}
    return {f for f in found if not f.endswith("lock")}


def test_layers_are_shared_and_collected_when_the_last_image_goes(store: Store) -> None:
    first, second = add(store, ONE, name="a"), add(store, ONE, TWO, name="b:2")
    assert len(os.listdir(store.path("layers"))) == 2
    assert (store.image_bytes(first), store.image_bytes(second)) == (1000, 1002)
    assert store.lower_directories(second)[1] == store.lower_directories(first)[0]
    store.remove(second.id)
    removed, freed = store.collect()
    assert removed == [second.chains[1]] and freed > 2
    assert store.find("a").id == first.id and Path(store.lower_directories(first)[0], "d/one").exists()
    store.remove(first.id)
    store.collect()
    assert files(store) == {"tags"} and store.tags() == {}


def test_the_same_image_twice_is_one(store: Store) -> None:
    assert add(store, ONE, TWO).id == add(store, ONE, TWO, name="x").id
    assert len(store.images()) == 1


def test_finding(store: Store) -> None:
    image = add(store, ONE, name="localhost:5000/a/b:tag")
    other = add(store, TWO, name="plain")
    digits = image.id.removeprefix("sha256:")
    for text in ("localhost:5000/a/b:tag", image.id, digits, digits[:12], f"localhost:5000/a/b@{image.manifest}"):
        assert store.find(text).id == image.id
    assert store.find("docker.io/library/plain:latest").id == other.id
    for text in ("a/b", "plain:other", "0" * 64):
        with pytest.raises(ImageError, match="No such image"):
            store.find(text)
    with pytest.raises(UsageError, match="lowercase"):
        store.find("Plain")


@given(text=st.text(max_size=40))
def test_any_text_is_a_reference_or_an_error_of_ours(text: str) -> None:
    try:
        reference = parse_reference(text)
    except UsageError:
        return
    assert parse_reference(str(reference)) == reference == parse_reference(reference.short)


def test_a_layer_that_is_not_the_expected_one_is_not_added(store: Store) -> None:
    with store.adding(), pytest.raises(ImageError, match="damaged"):
        store.add_layer(io.BytesIO(ONE), expected="sha256:" + "0" * 64)
    assert files(store) == set() and os.listdir(store.path("scratch")) == []


def test_an_image_with_a_missing_layer_is_not_registered(store: Store) -> None:
    missing = Layer(diff_id="sha256:" + "1" * 64, digest="sha256:" + "2" * 64, media_type="", size=1)
    with store.adding(), pytest.raises(ImageError, match="not in the store"):
        add_image(store, [missing], new_config({}, diff_ids=[missing.diff_id], history=[]))
    assert store.images() == []


def test_an_image_in_use_stays(store: Store) -> None:
    image = add(store, ONE, name="a")
    with open(store.record_path(image.id)) as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with pytest.raises(ImageError, match="using it"):
            store.remove(image.id)
    assert store.find("a").id == image.id
    store.remove(image.id)


def test_nothing_is_collected_while_somebody_adds(store: Store) -> None:
    with store.adding():
        store.add_layer(io.BytesIO(ONE))
        assert Store(store.root).collect() == ([], 0)
        assert len(os.listdir(store.path("layers"))) == 1
    assert len(store.collect()[0]) == 1


def test_a_damaged_document_is_found_out(store: Store) -> None:
    image = add(store, ONE)
    with open(store.blob_path(image.id), "r+b") as f:
        f.write(b"[")
    with pytest.raises(ImageError, match="damaged"):
        store.image(image.id)


def test_the_store_is_closed_to_others(store: Store) -> None:
    assert os.stat(store.root).st_mode & 0o077 == 0


COMMITTER = """
import sys
from jupyter_ns.images.commit import commit
from jupyter_ns.images.reference import parse_reference
from jupyter_ns.images.store import Store
store = Store(sys.argv[1])
base = store.find("base")
print("ready", flush=True)
commit(store, base, sys.argv[2], [parse_reference("committed")])
print("done", flush=True)
"""
LOADER = """
import os, sys
from jupyter_ns.images import archive
from jupyter_ns.images.store import Store
print("ready", flush=True)
archive.load(Store(sys.argv[1]), sys.argv[2])
print("done", flush=True)
"""


def loader(store: Store, path: Path, script: str = LOADER) -> subprocess.Popen[str]:
    """Start a process that loads an archive, or commits a directory."""
    command = [sys.executable, "-c", textwrap.dedent(script), store.root, str(path)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Image]:
    """Return an archive of an image with two layers of some size."""
    source = Store(str(tmp_path / "source"))
    big = archive([entry(f"f{i}", data=os.urandom(200_000)) for i in range(50)])
    image = add(source, big, TWO, name="saved")
    with open(tmp_path / "saved.tar", "wb") as out:
        archives.save(source, [(image, source.names_of(image.id))], out)
    return tmp_path / "saved.tar", image


def check_consistent(store: Store) -> None:
    """Every image is whole, every layer and blob is what its name says; nothing else stays after collecting."""
    for image in store.images():
        assert all(map(os.path.isdir, store.lower_directories(image)))
        for layer in image.layers:
            with store.open_blob(layer.digest) as raw:
                from jupyter_ns.images.streams import LayerStream

                assert LayerStream(raw).finish() == (layer.digest, layer.diff_id)
    store.collect(downloads=True)
    assert os.listdir(store.path("scratch")) == []
    assert len(os.listdir(store.path("layers"))) == len({c for i in store.images() for c in i.chains})


@pytest.mark.parametrize("delay_ms", [0, 2, 5, 10, 15, 20, 30, 45, 60, 80])
def test_killed_while_loading(delay_ms: int, store: Store, saved: tuple[Path, Image]) -> None:
    path, image = saved
    process = loader(store, path)
    time.sleep(delay_ms / 1000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    check_consistent(store)
    ((loaded, _),) = archives.load(store, str(path))
    assert loaded.id == image.id == store.find("saved").id
    check_consistent(store)
    assert len(os.listdir(store.path("layers"))) == 2


@pytest.mark.parametrize("delay_ms", [0, 2, 5, 10, 20, 35, 50, 80])
def test_killed_while_committing(delay_ms: int, store: Store, tmp_path: Path) -> None:
    base = add(store, TWO, name="base")
    (tmp_path / "upper").mkdir()
    for i in range(50):
        (tmp_path / f"upper/f{i}").write_bytes(os.urandom(200_000))
    process = loader(store, tmp_path / "upper", COMMITTER)
    time.sleep(delay_ms / 1000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    check_consistent(store)
    assert {image.id for image in store.images()} >= {base.id}
    assert loader(store, tmp_path / "upper", COMMITTER).communicate()[0] == "done\n"
    assert len(store.find("committed").layers) == 2
    check_consistent(store)


def test_several_processes_load_the_same(store: Store, saved: tuple[Path, Image]) -> None:
    path, image = saved
    processes = [loader(store, path) for _ in range(4)]
    for process in processes:
        assert process.communicate()[0] == "done\n" and process.returncode == 0
    assert [i.id for i in store.images()] == [image.id]
    check_consistent(store)
    assert len(os.listdir(store.path("layers"))) == 2


def test_what_lies_deeper_than_pythons_stack_is_removed_too(store: Store) -> None:
    from jupyter_ns.images import volumes

    path = volumes.create(store, "deep").path
    fd = os.open(path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    assert volumes.volume_bytes(volumes.get(store, "deep")) == 0
    volumes.remove(store, "deep")
    assert os.listdir(store.path("volumes")) == os.listdir(store.path("scratch")) == []


def test_no_store_where_none_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ContainerError, match="JUPYTER_NS_DATA"):
        Store(str(tmp_path / "file"))
