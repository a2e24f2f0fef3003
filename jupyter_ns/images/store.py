"""The store: blobs, layers, images, tags, and the locks that make it safe under several kernels.

::

    blobs/sha256/HEX     as downloaded or loaded: layers' archives, manifests, configurations
    layers/HEX/diff      a layer unpacked on those below it; HEX is its chain ID
    layers/HEX/info      its size; written before the directory gets its name
    images/HEX           the record of an image; HEX is the digest of its configuration
    tags                 names to images, one JSON map
    downloads/HEX        parts of blobs, to be resumed
    volumes/NAME/_data   volumes
    scratch/…            work in progress; flock(2) tells whether its owner lives
    lock, gc.lock        for changes of names and records; held shared while anything is added

Everything gets its name by rename(2) when it is whole. What no record refers to is garbage, and is
collected when nobody is adding anything.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, BinaryIO

from ..errors import ImageError, UsageError
from .files import UNFINISHED, remove_tree, unowned, write_whole
from .merged import Stack
from .record import MAX_DOCUMENT_BYTES, Image, Layer, chain_ids, diff_ids_of, digest_of, hex_of, parse_document
from .reference import Reference, parse_reference
from .streams import LayerStream
from .unpack import DEFAULT_BOUNDS, Bounds, unpack

_DIRECTORIES = ("blobs/sha256", "layers", "images", "downloads", "volumes", "scratch")


def default_root() -> str:
    """Return where the store is: ``JUPYTER_NS_DATA``, or ``jupyter_ns`` below the user's data directory."""
    own = os.environ.get("JUPYTER_NS_DATA")
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.abspath(own or os.path.join(data, "jupyter_ns"))


class Store:
    """One store. Objects may be made at will: all state is on the disk.

    Parameters
    ----------
    root : str, optional
        Its directory; `default_root` if absent.

    Raises
    ------
    ImageError
        If the directory cannot be made or belongs to another user.
    """

    def __init__(self, root: str | None = None) -> None:
        self.root = root or default_root()
        try:
            # Closed to other users: layers hold set-user-ID programs and device nodes.
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            for directory in _DIRECTORIES:
                os.makedirs(self.path(directory), exist_ok=True)
        except OSError as e:
            raise ImageError(
                f"no store of images at {self.root}: {e.strerror}; JUPYTER_NS_DATA names another"
            ) from None
        if os.stat(self.root).st_uid != os.geteuid():
            raise ImageError(f"the store {self.root} belongs to another user; JUPYTER_NS_DATA names another")

    def path(self, *parts: str) -> str:
        """Return a path below the root."""
        return os.path.join(self.root, *parts)

    # ---- locks ----

    @contextlib.contextmanager
    def _flock(self, name: str, operation: int) -> Iterator[None]:
        fd = os.open(self.path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, operation)
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def adding(self) -> Iterator[None]:
        """While this is held, nothing is collected; what was added must be registered before it ends."""
        with self._flock("gc.lock", fcntl.LOCK_SH):
            self._sweep_scratch()
            yield

    def changing(self) -> contextlib.AbstractContextManager[None]:
        """Hold names and records still, for a moment."""
        return self._flock("lock", fcntl.LOCK_EX)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[str]:
        """Give a directory that goes in the end, or, if this process is killed, with the next that adds."""
        with self.changing():
            path = tempfile.mkdtemp(dir=self.path("scratch"))
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield path
        finally:
            remove_tree(path)
            os.close(fd)

    def _sweep_scratch(self) -> None:
        with self.changing():
            for name in os.listdir(self.path("scratch")):
                path = self.path("scratch", name)
                if unowned(path):
                    remove_tree(path)
            for directory in (self.root, self.path("images")):
                for name in os.listdir(directory):
                    if name.startswith(UNFINISHED):  # only who holds this lock writes here
                        os.unlink(os.path.join(directory, name))

    # ---- blobs ----

    def blob_path(self, digest: str) -> str:
        """Return where a blob is, or would be."""
        return self.path("blobs/sha256", hex_of(digest))

    def has_blob(self, digest: str) -> bool:
        """Whether a blob is here, whole."""
        return os.path.exists(self.blob_path(digest))

    def add_bytes(self, data: bytes) -> str:
        """Add a small blob; return its digest."""
        digest = digest_of(data)
        write_whole(self.blob_path(digest), data)
        return digest

    def read_document(self, digest: str) -> dict[str, Any]:
        """Read a manifest or configuration.

        Raises
        ------
        ImageError
            If it is missing, or not what its name says.
        """
        try:
            with open(self.blob_path(digest), "rb") as f:
                data = f.read(MAX_DOCUMENT_BYTES + 1)
        except FileNotFoundError:
            raise ImageError(f"{digest} is not in the store") from None
        if digest_of(data) != digest:
            raise ImageError(f"{digest} is damaged in the store; remove the image and pull it again")
        return parse_document(data, digest)

    def open_blob(self, digest: str) -> BinaryIO:
        """Open a blob."""
        try:
            return open(self.blob_path(digest), "rb")
        except FileNotFoundError:
            raise ImageError(f"{digest} is not in the store") from None

    # ---- layers ----

    def layer_directory(self, chain: str) -> str:
        """Return where a layer is, or would be, as overlayfs takes it."""
        return self.path("layers", hex_of(chain), "diff")

    def has_layer(self, chain: str) -> bool:
        """Whether a layer is here, unpacked."""
        return os.path.exists(self.layer_directory(chain))

    def layer_bytes(self, chain: str) -> int:
        """Return the size of a layer's files."""
        try:
            with open(self.path("layers", hex_of(chain), "info")) as f:
                return int(json.load(f)["data_bytes"])
        except FileNotFoundError:
            return 0

    def add_layer(
        self,
        raw: BinaryIO,
        *,
        below: Sequence[str] = (),
        ground: Sequence[str] = (),
        expected: str = "",
        bounds: Bounds = DEFAULT_BOUNDS,
    ) -> tuple[str, str, str]:
        """Unpack a layer and verify it; within `adding`.

        Parameters
        ----------
        raw : binary file
            The archive, however it is compressed.
        below : sequence of str
            Diff IDs of the layers below, lowest first; unpacked already.
        ground : sequence of str
            Directories that all layers lie on: ``/``, for an image over this machine's own files.
        expected : str
            Its diff ID, if known.
        bounds : Bounds
            What is too large.

        Returns
        -------
        diff_id, digest, compression : str
            Of the archive uncompressed, and as it came.

        Raises
        ------
        ImageError
            If it is damaged, hostile or not the one expected; nothing is added.
        """
        stream = LayerStream(raw)
        stack = Stack([*(self.layer_directory(chain) for chain in reversed(chain_ids(below))), *ground])
        with self.scratch() as scratch:
            made = os.path.join(scratch, "layer")
            os.makedirs(os.path.join(made, "diff"), mode=0o755)
            done = unpack(stream, os.path.join(made, "diff"), stack, bounds)
            digest, diff_id = stream.finish()
            if expected and diff_id != expected:
                raise ImageError(f"a layer is damaged: expected {expected}, got {diff_id}")
            write_whole(os.path.join(made, "info"), json.dumps(asdict(done)).encode())
            try:
                os.rename(made, self.path("layers", hex_of(chain_ids([*below, diff_id])[-1])))
            except OSError as e:
                if e.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another kernel was faster
                    raise
        return diff_id, digest, stream.compression

    # ---- images ----

    def register(
        self, manifest: dict[str, Any], manifest_digest: str, names: Iterable[Reference] = (), *, base: str = ""
    ) -> Image:
        """Make an image of parts that are all here, and name it; within `adding`.

        Raises
        ------
        ImageError
            If a part is missing, or the parts contradict each other.
        """
        config_digest = str(manifest["config"]["digest"])
        config = self.read_document(config_digest)
        diff_ids = diff_ids_of(config)
        entries = manifest["layers"]
        if len(diff_ids) != len(entries):
            raise ImageError(
                f"{config_digest}: {len(diff_ids)} layers in the configuration, {len(entries)} in the manifest"
            )
        layers = [
            {"diff_id": d, "digest": e["digest"], "media_type": e["mediaType"], "size": e["size"]}
            for d, e in zip(diff_ids, entries, strict=True)
        ]
        for layer, chain in zip(layers, chain_ids(diff_ids), strict=True):
            if not self.has_layer(chain) or not self.has_blob(layer["digest"]):
                raise ImageError(f"{config_digest}: layer {layer['diff_id']} is not in the store")
        record = {"manifest": manifest_digest, "layers": layers, "added": time.time(), "base": base}
        with self.changing():
            path = self.path("images", hex_of(config_digest))
            if not os.path.exists(path):
                write_whole(path, json.dumps(record).encode())
        self.tag(config_digest, names)
        return self.image(config_digest)

    def image(self, image_id: str) -> Image:
        """Return an image by its ID.

        Raises
        ------
        ImageError
            If there is none.
        """
        try:
            with open(self.record_path(image_id)) as f:
                record = json.load(f)
        except FileNotFoundError:
            raise ImageError(f"No such image: {image_id}") from None
        layers = tuple(Layer(**layer) for layer in record["layers"])
        config = self.read_document(image_id)
        return Image(
            id=image_id, manifest=record["manifest"], layers=layers, config=config, base=record.get("base", "")
        )

    def record_path(self, image_id: str) -> str:
        """Return the file whose shared lock keeps an image from being removed."""
        return self.path("images", hex_of(image_id))

    def image_ids(self) -> list[str]:
        """List the IDs of all images."""
        return [f"sha256:{name}" for name in sorted(os.listdir(self.path("images"))) if len(name) == 64]

    def images(self) -> list[Image]:
        """List all images."""
        found = []
        for image_id in self.image_ids():
            with contextlib.suppress(ImageError):  # removed meanwhile
                found.append(self.image(image_id))
        return found

    def image_bytes(self, image: Image) -> int:
        """Return the size of all files of an image, as Docker counts."""
        return sum(self.layer_bytes(chain) for chain in image.chains)

    def lower_directories(self, image: Image) -> tuple[str, ...]:
        """List the layers' directories for an overlay, topmost first."""
        return tuple(self.layer_directory(chain) for chain in reversed(image.chains))

    def in_use(self, image_id: str) -> bool:
        """Whether a container holds the image."""
        try:
            with open(self.record_path(image_id)) as f:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    # ---- names ----

    def tags(self) -> dict[str, str]:
        """Return names (in full) and the IDs of their images."""
        try:
            with open(self.path("tags")) as f:
                return dict(json.load(f))
        except FileNotFoundError:
            return {}

    def _write_tags(self, tags: Mapping[str, str]) -> None:
        write_whole(self.path("tags"), json.dumps(tags, indent=1).encode())

    def tag(self, image_id: str, names: Iterable[Reference]) -> None:
        """Give an image names; each is taken from whoever has it."""
        new = {f"{n.repository}:{n.tag or 'latest'}": image_id for n in names}
        if new:
            with self.changing():
                self._write_tags({**self.tags(), **new})

    def names_of(self, image_id: str) -> list[Reference]:
        """List an image's names."""
        return [parse_reference(name) for name, target in sorted(self.tags().items()) if target == image_id]

    def find(self, text: str) -> Image:
        """Find an image by name, or by a unique beginning of its ID.

        Raises
        ------
        ImageError
            If there is none, or several.
        UsageError
            If `text` is neither.
        """
        digits = text.removeprefix("sha256:")
        by_name: Reference | None = None
        if digits == text:
            try:
                by_name = parse_reference(text)
            except UsageError:
                if not set(digits) <= set("0123456789abcdef"):
                    raise
        if by_name is not None:
            target = self.tags().get(f"{by_name.repository}:{by_name.tag or 'latest'}")
            if target is not None and not by_name.digest:
                return self.image(target)
            if by_name.digest:
                for image in self.images():
                    if by_name.digest in (image.manifest, image.id):
                        return image
        if digits and set(digits) <= set("0123456789abcdef"):
            found = [i for i in self.image_ids() if hex_of(i).startswith(digits)]
            if len(found) > 1:
                raise ImageError(f"{text!r} is the beginning of {len(found)} IDs; give more digits")
            if found:
                return self.image(found[0])
        raise ImageError(f"No such image: {by_name.short if by_name else text}")

    # ---- removing ----

    def untag(self, name: Reference) -> bool:
        """Take a name away; return whether it was there."""
        with self.changing():
            tags = self.tags()
            gone = tags.pop(f"{name.repository}:{name.tag or 'latest'}", None)
            if gone is not None:
                self._write_tags(tags)
        return gone is not None

    def remove(self, image_id: str) -> None:
        """Remove an image's record and names; its layers go with the next `collect`.

        Raises
        ------
        ImageError
            If a container uses it.
        """
        with self.changing():
            if self.in_use(image_id):
                raise ImageError(f"conflict: unable to delete {hex_of(image_id)[:12]}: a container is using it")
            self._write_tags({name: target for name, target in self.tags().items() if target != image_id})
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.record_path(image_id))

    def collect(self, *, downloads: bool = False) -> tuple[list[str], int]:
        """Remove blobs and layers that no image has, unless somebody is adding.

        Parameters
        ----------
        downloads : bool
            Whether parts of interrupted downloads go too.

        Returns
        -------
        removed : list of str
            Chain IDs of layers.
        freed_bytes : int
            Of layers' files and blobs.
        """
        try:
            with self._flock("gc.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                self._sweep_scratch()
                return self._collect(downloads)
        except BlockingIOError:
            return [], 0  # the next one does it

    def _collect(self, downloads: bool) -> tuple[list[str], int]:
        kept_layers, kept_blobs = set(), set()
        for image_id in self.image_ids():
            with open(self.record_path(image_id)) as f:
                record = json.load(f)
            kept_blobs |= {hex_of(image_id), hex_of(record["manifest"])}
            kept_blobs |= {hex_of(layer["digest"]) for layer in record["layers"]}
            kept_layers |= {hex_of(chain) for chain in chain_ids([layer["diff_id"] for layer in record["layers"]])}
        removed, freed = [], 0
        for name in set(os.listdir(self.path("layers"))) - kept_layers:
            freed += self.layer_bytes(f"sha256:{name}")
            with self.scratch() as scratch:  # renamed away first: half a layer has no name
                os.rename(self.path("layers", name), os.path.join(scratch, "layer"))
            removed.append(f"sha256:{name}")
        gone = [self.path("blobs/sha256", n) for n in set(os.listdir(self.path("blobs/sha256"))) - kept_blobs]
        if downloads:
            gone += [self.path("downloads", n) for n in os.listdir(self.path("downloads"))]
        for path in gone:
            freed += os.path.getsize(path)
            os.unlink(path)
        return sorted(removed), freed
