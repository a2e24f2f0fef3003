"""Make images of layers that are here: a configuration, a manifest, a record."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, BinaryIO

from .record import Image, Layer, digest_of
from .reference import Reference
from .store import Store

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFESTS, INDEXES = (OCI_MANIFEST, DOCKER_MANIFEST), (OCI_INDEX, DOCKER_INDEX)
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "i686": "386",
    "riscv64": "riscv64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
}
_SUFFIXES = {"": "", "gzip": "+gzip", "zstd": "+zstd"}


def host_architecture() -> str:
    """Return this machine's architecture, as images name it (Go's GOARCH)."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def layer_media_type(compression: str) -> str:
    """Return the media type of a layer's blob; of one in a form that OCI does not name, that of plain tar."""
    return OCI_LAYER + _SUFFIXES.get(compression, "")


def now() -> str:
    """Return the time as configurations have it: RFC 3339, UTC."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def new_config(
    runtime: dict[str, Any], *, diff_ids: Sequence[str], history: Sequence[dict[str, Any]], created: str = ""
) -> dict[str, Any]:
    """Make an OCI image configuration for this machine's architecture."""
    return {
        "created": created or now(),
        "architecture": host_architecture(),
        "os": "linux",
        "config": runtime,
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": list(history),
    }


def encode(document: dict[str, Any]) -> bytes:
    """Encode a document as it is stored and hashed."""
    return json.dumps(document, separators=(",", ":")).encode()


def make_layer(store: Store, below: Sequence[Layer], write: Callable[[BinaryIO], None], *, base: str = "") -> Layer:
    """Make a layer of an archive that `write` writes; within `Store.adding`.

    Parameters
    ----------
    store : Store
        Where the layers below are.
    below : sequence of Layer
        Lowest first.
    write : callable
        Called with the file that the archive, not compressed, goes to.
    base : str
        What all of them lie on, as in `Image`.

    Raises
    ------
    ImageError
        As `write`, `Store.add_layer`.
    """
    with store.scratch() as scratch:
        path = os.path.join(scratch, "blob")
        with open(path, "wb") as out:
            write(out)
        with open(path, "rb") as raw:
            ground = ("/",) if base else ()
            diff_id, digest, _ = store.add_layer(raw, below=[one.diff_id for one in below], ground=ground)
        size = os.path.getsize(path)
        os.rename(path, store.blob_path(digest))
    return Layer(diff_id=diff_id, digest=digest, media_type=OCI_LAYER, size=size)


def add_image(
    store: Store,
    layers: Sequence[Layer],
    config: dict[str, Any] | bytes,
    names: Iterable[Reference] = (),
    *,
    base: str = "",
) -> Image:
    """Make an image of layers and a configuration; within `Store.adding`.

    Parameters
    ----------
    store : Store
        Where the layers' directories and blobs are.
    layers : sequence of Layer
        Lowest first.
    config : dict or bytes
        The configuration; bytes keep the digest that they have.
    names : iterable of Reference
        What to call it.
    base : str
        As in `Image`.

    Raises
    ------
    ImageError
        As `Store.register`.
    """
    data = config if isinstance(config, bytes) else encode(config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest_of(data), "size": len(data)},
        "layers": [{"mediaType": one.media_type, "digest": one.digest, "size": one.size} for one in layers],
    }
    store.add_bytes(data)
    return store.register(manifest, store.add_bytes(encode(manifest)), names, base=base)
