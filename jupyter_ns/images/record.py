"""What an image is, as data: digests, layers, configurations; nothing here looks at the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ImageError

MAX_DOCUMENT_BYTES = 4 << 20
"""Of a manifest or configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer of an image.

    Attributes
    ----------
    diff_id : str
        Digest of the uncompressed archive.
    digest : str
        Of the blob; equal to `diff_id` where it is not compressed.
    media_type : str
        Of the blob.
    size : int
        Of the blob, bytes.
    """

    diff_id: str
    digest: str
    media_type: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The record of an image, and its configuration.

    Attributes
    ----------
    id : str
        Digest of the configuration.
    manifest : str
        Digest of the manifest.
    layers : tuple of Layer
        Lowest first.
    config : dict
        The configuration, an OCI image configuration.
    base : str
        What the layers lie on: nothing, or ``host``, this machine's own files. Only `commit` makes such images; no
        archive and no registry can say it of theirs.
    """

    id: str
    manifest: str
    layers: tuple[Layer, ...]
    config: dict[str, Any] = field(repr=False)
    base: str = ""

    @property
    def chains(self) -> tuple[str, ...]:
        """The layers' chain IDs, lowest first."""
        return chain_ids([layer.diff_id for layer in self.layers])

    @property
    def runtime(self) -> dict[str, Any]:
        """The part that says how to run it: Env, Cmd, Entrypoint…"""
        return self.config.get("config") or {}


def hex_of(digest: str) -> str:
    """Return the digits of a digest.

    Raises
    ------
    ImageError
        If it is no SHA-256.
    """
    kind, _, digits = digest.partition(":")
    if kind != "sha256" or len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise ImageError(f"{digest!r}: only sha256 digests are known")
    return digits


def digest_of(data: bytes) -> str:
    """Return the digest of bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """Name each layer together with those below it, as the OCI image specification does ("Layer ChainID").

    A layer's archive need not hold the directories that it only passes through: they are as below. So the
    same archive may unpack differently on others.

    Examples
    --------
    >>> chain_ids(["sha256:" + "0" * 64])[0][:12]
    'sha256:00000'
    """
    chains: list[str] = []
    for diff_id in diff_ids:
        chains.append(digest_of(f"{chains[-1]} {diff_id}".encode()) if chains else diff_id)
    return tuple(chains)


def diff_ids_of(config: dict[str, Any]) -> list[str]:
    """Return the diff IDs that a configuration names, lowest first.

    Raises
    ------
    ImageError
        If there are none, or they are no digests.
    """
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not diff_ids:
        raise ImageError("the image has no layers: rootfs.diff_ids is missing in its configuration")
    for diff_id in diff_ids:
        hex_of(str(diff_id))
    return list(diff_ids)


def parse_document(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object of bounded size.

    Raises
    ------
    ImageError
        If it is too large or not one.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ImageError(f"{what}: more than {MAX_DOCUMENT_BYTES:,} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ImageError(f"{what}: not JSON: {e}") from None
    if not isinstance(document, dict):
        raise ImageError(f"{what}: expected a JSON object")
    return document
