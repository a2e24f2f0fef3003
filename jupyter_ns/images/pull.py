"""Pull and push images: layers in parallel, resumable, verified; half a pull is never an image."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import urljoin

import requests

from ..errors import ImageError
from .archive import choose_platform, verified_layer
from .commit import only_here
from .make import DOCKER_INDEX, DOCKER_MANIFEST, INDEXES, MANIFESTS, OCI_INDEX, OCI_MANIFEST
from .record import MAX_DOCUMENT_BYTES, Image, chain_ids, diff_ids_of, digest_of, hex_of, parse_document
from .reference import Reference
from .registry import (
    ATTEMPTS,
    CancelledError,
    Registry,
    RegistryError,
    Settings,
    read_bounded,
    read_settings,
    registries_for,
)
from .store import Store
from .streams import CHUNK

PARALLEL = 3
"""Layers at a time, as Docker."""
_DRAW_SECONDS = 0.1
_PIECE_BYTES = 1 << 16
"""Of a download: what is lost when the connection breaks is less than this."""
_MAX_LAYERS = 500
_ACCEPT = ", ".join((OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST))
Say = Callable[[str], None]


@dataclass(slots=True)
class Progress:
    """How far each layer is: ``bars`` maps its short ID to (words, bytes done, bytes in all)."""

    say: Say
    bars: dict[str, tuple[str, int, int]] = field(default_factory=dict)

    def set(self, digest: str, words: str, done: int = 0, total: int = 0) -> None:
        """Note how far a layer is; a change of words is also said."""
        key = hex_of(digest)[:12]
        if self.bars.get(key, ("",))[0] != words and words not in ("Downloading", "Pushing"):
            self.say(f"{key}: {words}")
        self.bars[key] = (words, done, total)

    def draw(self) -> None:
        """Called ten times a second from the thread that waits; a notebook draws bars."""


def pull(
    store: Store,
    reference: Reference,
    *,
    platform: str = "",
    say: Say = lambda _: None,
    progress: Progress | None = None,
    settings: Settings | None = None,
) -> Image:
    """Pull an image from its registry, or from a mirror.

    Parameters
    ----------
    store : Store
        Where it goes.
    reference : Reference
        What to pull.
    platform : str
        ``os/architecture[/variant]``; this machine's by default.
    say : callable
        Told what happens, in Docker's words.
    progress : Progress, optional
        Told how far it is.
    settings : Settings, optional
        As `read_settings` by default.

    Raises
    ------
    ImageError
        If it cannot be had whole; what came is kept for the next attempt, and is no image.
    """
    cancelled = threading.Event()
    found = registries_for(reference, settings or read_settings(store), cancelled)
    try:
        registry, data, media_type = _manifest_from_any(found, reference)
        with store.adding():
            manifest = _for_platform(registry, data, media_type, platform)
            say(f"{reference.tag or reference.digest}: Pulling from {reference.path}")
            return _fetch(store, registry, manifest, reference, progress or Progress(say), cancelled)
    finally:
        for one in found:
            one.close()


def _manifest_from_any(found: list[Registry], reference: Reference) -> tuple[Registry, bytes, str]:
    failures = []
    for registry in found:
        try:
            # Whether somebody speaks TLS there is not a question to ask five times.
            attempts = 1 if registry is not found[-1] else 3
            data, kind = _get_manifest(registry, reference.digest or reference.tag, attempts)
            return registry, data, kind
        except RegistryError as e:
            failures.append(e)
    # An answer says more than that nobody speaks TLS.
    raise next((f for f in failures if f.status), failures[-1])


def _get_manifest(registry: Registry, which: str, attempts: int = ATTEMPTS) -> tuple[bytes, str]:
    """Get a manifest or index by tag or digest; return it and its media type."""
    url = registry.url(f"manifests/{which}")
    with registry.request("GET", url, headers={"Accept": _ACCEPT}, attempts=attempts) as response:
        data = read_bounded(response)
        stated = response.headers.get("Docker-Content-Digest", "")
        kind = response.headers.get("Content-Type", "").partition(";")[0]
    expected = which if which.startswith("sha256:") else stated
    if expected and digest_of(data) != expected:
        raise ImageError(f"the manifest is damaged: expected {expected}, got {digest_of(data)}")
    return data, kind


def _for_platform(registry: Registry, data: bytes, kind: str, platform: str) -> bytes:
    for _ in range(4):
        document = parse_document(data, "the manifest")
        kind = str(document.get("mediaType") or kind)
        if kind not in INDEXES and "manifests" not in document:
            break
        entries = document.get("manifests")
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise ImageError("the index of the image is malformed")
        digest = str(choose_platform(entries, platform).get("digest"))
        hex_of(digest)
        data, kind = _get_manifest(registry, digest)
    if kind not in MANIFESTS:
        raise ImageError(f"its manifest is of a type that is not supported: {kind[:80]!r}")
    return data


@dataclass(frozen=True, slots=True)
class _Blob:
    digest: str
    size: int


def _descriptors(manifest: dict[str, Any]) -> tuple[_Blob, list[_Blob]]:
    """Read the configuration's and the layers' descriptors from a manifest."""
    try:
        entries = [manifest["config"], *manifest["layers"]]
        blobs = [_Blob(str(e["digest"]), int(e["size"])) for e in entries]
        foreign = [e for e in entries if "foreign" in e["mediaType"] or e.get("urls")]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ImageError("the manifest of the image is malformed") from None
    if foreign:
        raise ImageError("a layer of it is kept elsewhere (a foreign layer), which is not supported")
    if len(blobs) > _MAX_LAYERS + 1:
        raise ImageError(f"it has {len(blobs) - 1} layers; overlayfs stacks {_MAX_LAYERS}")
    for blob in blobs:
        hex_of(blob.digest)
        if blob.size < 0:
            raise ImageError("the manifest of the image is malformed: a negative size")
    return blobs[0], blobs[1:]


def _fetch(
    store: Store,
    registry: Registry,
    data: bytes,
    reference: Reference,
    progress: Progress,
    cancelled: threading.Event,
) -> Image:
    manifest = parse_document(data, "the manifest")
    config, layers = _descriptors(manifest)
    if config.size > MAX_DOCUMENT_BYTES:
        raise ImageError(f"its configuration has more than {MAX_DOCUMENT_BYTES:,} bytes")
    download(store, registry, config, lambda _: None, cancelled)
    diff_ids = diff_ids_of(store.read_document(config.digest))
    if len(diff_ids) != len(layers):
        raise ImageError(f"{len(diff_ids)} layers in its configuration, {len(layers)} in its manifest")
    known = store.tags().get(f"{reference.repository}:{reference.tag}")
    chains = chain_ids(diff_ids)

    def one(blob: _Blob) -> None:
        progress.set(blob.digest, "Pulling fs layer", 0, blob.size)
        download(store, registry, blob, lambda n: progress.set(blob.digest, "Downloading", n, blob.size), cancelled)
        progress.set(blob.digest, "Download complete", blob.size, blob.size)

    def extract(number: int) -> None:
        with store.open_blob(layers[number].digest) as raw:
            verified_layer(store, raw, diff_ids[: number + 1], layers[number].digest)
        progress.set(layers[number].digest, "Pull complete", layers[number].size, layers[number].size)

    with _Workers(progress, cancelled) as workers:
        coming = {}
        for blob, chain in zip(layers, chains, strict=True):
            if store.has_layer(chain) and store.has_blob(blob.digest):
                progress.set(blob.digest, "Already exists", blob.size, blob.size)
            elif blob.digest not in coming:  # of equal layers, one is enough
                coming[blob.digest] = workers.start(one, blob)
        for number, blob in enumerate(layers):  # each on those below it
            if blob.digest in coming:
                workers.wait_for(coming[blob.digest])
                workers.wait_for(workers.start(extract, number))
    names = [reference] if reference.tag else []
    image = store.register(manifest, store.add_bytes(data), names)
    progress.say(f"Digest: {image.manifest}")
    newer = "Image is up to date" if known == image.id else "Downloaded newer image"
    progress.say(f"Status: {newer} for {reference.short}")
    return image


class _Workers:
    """A few threads; whoever waits for them draws meanwhile. A failure, or an interrupt, ends them all."""

    def __init__(self, progress: Progress, cancelled: threading.Event) -> None:
        self._progress, self._cancelled = progress, cancelled
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="jupyter_ns-layer")
        self._all: set[Future[None]] = set()

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._cancelled.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, work: Callable[..., None], *arguments: Any) -> Future[None]:
        """Have something done."""
        future = self._pool.submit(work, *arguments)
        self._all.add(future)
        return future

    def wait_for(self, *wanted: Future[None]) -> None:
        """Wait until something is done; raise the first failure of anything."""
        while any(f in self._all for f in wanted):
            done, self._all = wait(self._all, timeout=_DRAW_SECONDS, return_when=FIRST_COMPLETED)
            self._progress.draw()
            for future in done:
                future.result()


def download(
    store: Store, registry: Registry, blob: _Blob, advance: Callable[[int], None], cancelled: threading.Event
) -> None:
    """Download a blob, going on where an earlier attempt stopped; wait where another kernel is at it.

    Raises
    ------
    ImageError
        If it is not what its digest says, or does not come.
    """
    path = store.path("downloads", hex_of(blob.digest))
    while not store.has_blob(blob.digest):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(fd, "r+b") as file:
            if not _lock(file, cancelled):
                continue
            if not _still_there(file, path):
                continue  # whoever had it has finished
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    _download_rest(registry, blob, file, advance, cancelled)
                    break
                except requests.RequestException as e:  # the connection broke within the blob
                    if attempt == ATTEMPTS:
                        raise RegistryError(f"{registry.base}: the download broke off: {e}") from None
                    if cancelled.wait(0.25 * 2**attempt):
                        raise CancelledError("stopped") from None
            os.rename(path, store.blob_path(blob.digest))


def _lock(file: BinaryIO, cancelled: threading.Event) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # another kernel downloads it; flock(2) has no time-out, and must be given up with us
        if cancelled.wait(0.2):
            raise CancelledError("stopped") from None
        return False
    return True


def _still_there(file: BinaryIO, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _download_rest(
    registry: Registry, blob: _Blob, file: BinaryIO, advance: Callable[[int], None], cancelled: threading.Event
) -> None:
    sha, have = hashlib.sha256(), 0
    file.seek(0)
    while data := file.read(CHUNK):
        sha.update(data)
        have += len(data)
    if have > blob.size:
        sha, have = hashlib.sha256(), 0
    file.seek(have)
    file.truncate()
    if have < blob.size or not have:
        headers = {"Range": f"bytes={have}-"} if have else {}
        url = registry.url(f"blobs/{blob.digest}")
        with registry.request("GET", url, headers=headers, expect=(200, 206)) as response:
            if response.status_code == 200 and have:  # it does not know ranges
                sha, have = hashlib.sha256(), 0
                file.seek(0)
                file.truncate()
            for data in response.iter_content(_PIECE_BYTES):
                if cancelled.is_set():
                    raise CancelledError("stopped")
                have += len(data)
                if have > blob.size:
                    break
                sha.update(data)
                file.write(data)
                advance(have)
    file.flush()
    if have < blob.size:
        raise requests.ConnectionError(f"{have:,} of {blob.size:,} bytes came")
    if have != blob.size or f"sha256:{sha.hexdigest()}" != blob.digest:
        file.seek(0)
        file.truncate()
        raise ImageError(f"{blob.digest} came damaged from {registry.base}; nothing of it is kept")


# ---- out ----


def push(
    store: Store,
    image: Image,
    reference: Reference,
    *,
    say: Say = lambda _: None,
    progress: Progress | None = None,
    settings: Settings | None = None,
) -> str:
    """Push an image under a name; return the digest of its manifest.

    Raises
    ------
    ImageError
        If the registry refuses it or cannot be reached.
    """
    only_here(image, "push")
    cancelled = threading.Event()
    progress = progress or Progress(say)
    say(f"The push refers to repository [{reference.repository}]")
    registries = registries_for(reference, settings or read_settings(store), cancelled, "pull,push")
    failures = []
    try:
        for registry in registries:
            try:
                with registry.request(
                    "HEAD", registry.url(f"blobs/{image.id}"), expect=(200, 404), attempts=1
                ):  # who is there, and does it let us in
                    pass
            except RegistryError as e:
                failures.append(e)
                continue
            digests = dict.fromkeys((image.id, *(layer.digest for layer in image.layers)))
            with _Workers(progress, cancelled) as workers:
                workers.wait_for(*[workers.start(_push_blob, store, registry, d, progress) for d in digests])
            return _push_manifest(store, registry, image, reference, say)
    finally:
        for registry in registries:
            registry.close()
    raise next((f for f in failures if f.status), failures[-1])


def _push_blob(store: Store, registry: Registry, digest: str, progress: Progress) -> None:
    with registry.request("HEAD", registry.url(f"blobs/{digest}"), expect=(200, 404)) as response:
        if response.status_code == 200:
            progress.set(digest, "Layer already exists")
            return
    progress.set(digest, "Preparing")
    with registry.request("POST", registry.url("blobs/uploads/"), expect=(202,)) as response:
        place = urljoin(response.url, response.headers.get("Location", ""))
    joint = "&" if "?" in place else "?"
    with (
        store.open_blob(digest) as data,
        registry.request(
            "PUT",
            f"{place}{joint}digest={digest}",
            expect=(201, 204),
            data=data,
            headers={"Content-Type": "application/octet-stream"},
        ),
    ):
        progress.set(digest, "Pushed")


def _push_manifest(store: Store, registry: Registry, image: Image, reference: Reference, say: Say) -> str:
    with store.open_blob(image.manifest) as f:
        data = f.read()
    kind = str(parse_document(data, image.manifest).get("mediaType") or OCI_MANIFEST)
    which = reference.tag or "latest"
    with registry.request(
        "PUT", registry.url(f"manifests/{which}"), expect=(201, 200), data=data, headers={"Content-Type": kind}
    ):
        say(f"{which}: digest: {image.manifest} size: {len(data)}")
    return image.manifest
