"""Archives of images in and out: Docker's (``manifest.json``) and OCI image layouts (``index.json``).

What comes in was made by anybody: sizes are bounded, digests verified, names looked up in a table of the
archive's own members and nowhere else.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import shutil
import tarfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from ..errors import ImageError, UsageError
from .commit import only_here
from .make import INDEXES, MANIFESTS, OCI_INDEX, add_image, encode, host_architecture, layer_media_type
from .record import MAX_DOCUMENT_BYTES, Image, Layer, chain_ids, diff_ids_of, digest_of, hex_of, parse_document
from .reference import Reference, parse_reference
from .store import Store
from .streams import CHUNK, LayerStream, compression_of
from .unpack import DEFAULT_BOUNDS, bounded_header

_MAX_MEMBERS = 100_000
_MAX_LINKS = 8
_CONTAINERD_NAME, _REF_NAME = "io.containerd.image.name", "org.opencontainers.image.ref.name"


class _Members:
    """The files of an archive, or of a directory laid out as one."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[int, int, int]] = {}
        self.links: dict[str, str] = {}

    def part(self, name: str) -> tuple[int, int, int]:
        """Return descriptor, offset and size of a file; links are followed within the archive."""
        path = posixpath.normpath(name)
        for _ in range(_MAX_LINKS):
            if path in self.files:
                return self.files[path]
            if path not in self.links:
                break
            path = self.links[path]
        raise ImageError(f"the archive lacks {name!r}")

    def document(self, name: str, digest: str = "") -> dict[str, Any]:
        """Read a JSON object."""
        return parse_document(self.data(name, digest), name)

    def data(self, name: str, digest: str = "") -> bytes:
        """Read a small file."""
        fd, offset, size = self.part(name)
        if size > MAX_DOCUMENT_BYTES:
            raise ImageError(f"{name}: more than {MAX_DOCUMENT_BYTES:,} bytes")
        data = os.pread(fd, size, offset)
        if digest and digest_of(data) != digest:
            raise ImageError(f"{name} is damaged: its digest is {digest_of(data)}")
        return data


@contextlib.contextmanager
def _opened(path: str, scratch: str) -> Iterator[_Members]:
    members = _Members()
    fds: list[int] = []
    try:
        if os.path.isdir(path):
            _list_directory(path, members, fds)
        else:
            fds.append(_uncompressed(path, scratch))
            _list_archive(fds[0], members)
        yield members
    except (tarfile.TarError, RecursionError, UnicodeError) as e:
        raise ImageError(f"{path} is damaged: {e}") from None
    finally:
        for fd in fds:
            os.close(fd)


def _uncompressed(path: str, scratch: str) -> int:
    """Open an archive, unpacked to the scratch directory first if it is compressed as a whole."""
    with open(path, "rb") as file:
        stream = LayerStream(file)
        if not stream.compression:
            return os.dup(file.fileno())
        copy = os.path.join(scratch, "archive.tar")
        with open(copy, "wb") as out:
            while data := stream.piece(CHUNK):
                out.write(data)
                if out.tell() > DEFAULT_BOUNDS.data_bytes:
                    raise ImageError(f"{path} unpacks to more than {DEFAULT_BOUNDS.data_bytes:,} bytes")
        return os.open(copy, os.O_RDONLY | os.O_CLOEXEC)


def _list_archive(fd: int, members: _Members) -> None:
    with open(os.dup(fd), "rb") as file:
        file.seek(0)
        tar = tarfile.TarFile(fileobj=file, tarinfo=bounded_header(), encoding="utf-8", errors="surrogateescape")
        for count, entry in enumerate(tar):
            if count > _MAX_MEMBERS:
                raise ImageError(f"the archive has more than {_MAX_MEMBERS:,} members")
            name = posixpath.normpath(entry.name.lstrip("/"))
            if entry.isreg() and entry.sparse is None:
                members.files[name] = (fd, entry.offset_data, entry.size)
            elif entry.issym():
                members.links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), entry.linkname))
            elif entry.islnk():
                members.links[name] = posixpath.normpath(entry.linkname)


def _list_directory(path: str, members: _Members, fds: list[int]) -> None:
    names = [n for n in ("index.json", "manifest.json", "oci-layout") if os.path.isfile(os.path.join(path, n))]
    blobs = os.path.join(path, "blobs", "sha256")
    with contextlib.suppress(FileNotFoundError):
        names += [f"blobs/sha256/{name}" for name in os.listdir(blobs)]
    for name in names:
        fd = os.open(os.path.join(path, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        fds.append(fd)
        members.files[name] = (fd, 0, os.fstat(fd).st_size)


# ---- in ----


def load(store: Store, path: str) -> list[tuple[Image, list[Reference]]]:
    """Load every image of an archive, or of a directory in OCI layout.

    Parameters
    ----------
    store : Store
        Where they go.
    path : str
        A file, perhaps compressed as a whole, or a directory.

    Returns
    -------
    list of (Image, list of Reference)
        Each with the names that it got.

    Raises
    ------
    ImageError
        If it is no such archive, damaged or hostile; nothing is added then.
    """
    try:
        with store.adding(), store.scratch() as scratch, _opened(path, scratch) as members:
            if "manifest.json" in members.files or "manifest.json" in members.links:
                return _load_docker(store, scratch, members)
            if "index.json" in members.files:
                return _load_oci(store, scratch, members)
    except (KeyError, TypeError, AttributeError) as e:
        raise ImageError(f"{path}: its description is malformed: {type(e).__name__}: {e}") from None
    except OSError as e:
        raise ImageError(f"{path}: {e.strerror}") from None
    raise ImageError(
        f"{path} is no archive of images: neither manifest.json nor index.json is in it "
        "(for the files of a container, use import)"
    )


def _load_docker(store: Store, scratch: str, members: _Members) -> list[tuple[Image, list[Reference]]]:
    import json

    entries = json.loads(members.data("manifest.json"))
    ready = []
    for entry in entries:
        config = members.data(entry["Config"])
        names = [parse_reference(name) for name in entry.get("RepoTags") or ()]
        diff_ids = diff_ids_of(parse_document(config, entry["Config"]))
        if len(diff_ids) != len(entry["Layers"]):
            raise ImageError(f"{entry['Config']}: {len(diff_ids)} layers, and {len(entry['Layers'])} in manifest.json")
        layers = [
            _add_layer(store, scratch, members, name, diff_ids[: number + 1])
            for number, name in enumerate(entry["Layers"])
        ]
        ready.append((layers, config, names))
    return [(add_image(store, layers, config, names), names) for layers, config, names in ready]


def _load_oci(store: Store, scratch: str, members: _Members) -> list[tuple[Image, list[Reference]]]:
    ready = []
    for entry in members.document("index.json")["manifests"]:
        digest = _image_manifest(members, entry)
        data = members.data(_blob(digest), digest)
        manifest = parse_document(data, digest)
        config_digest = manifest["config"]["digest"]
        config = members.data(_blob(config_digest), config_digest)
        diff_ids = diff_ids_of(parse_document(config, config_digest))
        if len(diff_ids) != len(manifest["layers"]):
            raise ImageError(f"{config_digest}: its layers are not those of its manifest")
        for number, layer in enumerate(manifest["layers"]):
            _add_layer(store, scratch, members, _blob(layer["digest"]), diff_ids[: number + 1], layer["digest"])
        ready.append((manifest, data, config, _oci_names(entry.get("annotations") or {})))
    loaded = []
    for manifest, data, config, names in ready:
        store.add_bytes(config)
        loaded.append((store.register(manifest, store.add_bytes(data), names), names))
    return loaded


def _blob(digest: str) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def _image_manifest(members: _Members, entry: dict[str, Any], depth: int = 0) -> str:
    """Follow indexes to the manifest for this machine."""
    if entry.get("mediaType") in INDEXES and depth < 4:
        index = members.document(_blob(entry["digest"]), entry["digest"])
        return _image_manifest(members, choose_platform(index["manifests"]), depth + 1)
    if entry.get("mediaType", MANIFESTS[0]) not in MANIFESTS:
        raise ImageError(f"{entry['digest']}: an entry of type {entry.get('mediaType')!r} is no image")
    return str(entry["digest"])


def choose_platform(entries: Sequence[dict[str, Any]], wanted: str = "") -> dict[str, Any]:
    """Choose the entry of an index for a platform.

    Parameters
    ----------
    entries : sequence of dict
        Descriptors.
    wanted : str
        ``os/architecture[/variant]``; this machine's by default.

    Raises
    ------
    ImageError
        If there is none; the message lists those there are.
    """
    system, _, architecture = (wanted or f"linux/{host_architecture()}").partition("/")
    architecture, _, variant = architecture.partition("/")
    there = []
    for entry in entries:
        p = entry.get("platform") or {}
        there.append("/".join(str(p[k]) for k in ("os", "architecture", "variant") if p.get(k)))
        same = (p.get("os"), p.get("architecture")) == (system, architecture)
        if same and (not variant or p.get("variant") == variant):
            return entry
    if len(entries) == 1 and not entries[0].get("platform"):
        return entries[0]
    listed = ", ".join(sorted({t for t in there if t and not t.startswith("unknown")}))
    raise ImageError(f"no image for {wanted or f'linux/{architecture}'}; there are: {listed or 'none'}")


def _oci_names(annotations: dict[str, str]) -> list[Reference]:
    name = annotations.get(_CONTAINERD_NAME) or annotations.get(_REF_NAME) or ""
    if ":" not in name and "/" not in name:
        return []  # a tag alone names nothing
    try:
        return [parse_reference(name)]
    except UsageError:
        return []


def _add_layer(
    store: Store, scratch: str, members: _Members, name: str, diff_ids: Sequence[str], digest: str = ""
) -> Layer:
    """Add the last of a chain of layers: its blob and its directory, unless they are there; verify both digests."""
    fd, offset, size = members.part(name)
    compression = compression_of(os.pread(fd, 8, offset))
    known = digest or ("" if compression else diff_ids[-1])
    if not (known and store.has_layer(chain_ids(diff_ids)[-1]) and store.has_blob(known)):
        copy = os.path.join(scratch, "blob")
        with open(copy, "wb") as out:
            _copy_range(fd, offset, size, out.fileno())
        with open(copy, "rb") as raw:
            known = verified_layer(store, raw, diff_ids, digest)
        os.rename(copy, store.blob_path(known))
    size = os.path.getsize(store.blob_path(known))
    return Layer(diff_id=diff_ids[-1], digest=known, media_type=layer_media_type(compression), size=size)


def verified_layer(store: Store, raw: BinaryIO, diff_ids: Sequence[str], digest: str = "") -> str:
    """Unpack the last of a chain of layers unless it is there; return the digest of its blob.

    Raises
    ------
    ImageError
        If either digest is not the expected one.
    """
    *below, diff_id = diff_ids
    if store.has_layer(chain_ids(diff_ids)[-1]):
        found, got = LayerStream(raw).finish()
        if got != diff_id:
            raise ImageError(f"a layer is damaged: expected {diff_id}, got {got}")
    else:
        _, found, _ = store.add_layer(raw, below=below, expected=diff_id)
    if digest and found != digest:
        raise ImageError(f"a layer is damaged: expected {digest}, got {found}")
    return found


def _copy_range(source: int, offset: int, size: int, target: int) -> None:
    while size:
        try:
            done = os.copy_file_range(source, target, min(size, 1 << 30), offset)
        except OSError:  # between file systems, or where the kernel cannot
            while size and (data := os.pread(source, min(size, CHUNK), offset)):
                offset, size = offset + os.write(target, data), size - len(data)
            done = 0
        if size and not done:
            raise ImageError("the archive is damaged: it ends early")
        offset, size = offset + done, size - done


def import_files(
    store: Store, raw: BinaryIO, names: Sequence[Reference], runtime: dict[str, Any], comment: str = ""
) -> Image:
    """Make an image of one layer from an archive of files.

    Raises
    ------
    ImageError
        If the archive is damaged or hostile.
    """
    from .make import new_config, now

    with store.adding(), store.scratch() as scratch:
        copy = os.path.join(scratch, "blob")
        with open(copy, "wb") as out:
            shutil.copyfileobj(raw, out, CHUNK)
        with open(copy, "rb") as f:
            diff_id, digest, compression = store.add_layer(f)
        size = os.path.getsize(copy)
        os.rename(copy, store.blob_path(digest))
        layer = Layer(diff_id=diff_id, digest=digest, media_type=layer_media_type(compression), size=size)
        history = [{"created": now(), "comment": comment or "Imported from -"}]
        return add_image(store, [layer], new_config(runtime, diff_ids=[diff_id], history=history), names)


# ---- out ----


def save(store: Store, chosen: Sequence[tuple[Image, Sequence[Reference]]], out: BinaryIO) -> None:
    """Write images as one archive that both Docker and OCI tools read.

    Parameters
    ----------
    store : Store
        Where they are.
    chosen : sequence of (Image, sequence of Reference)
        Each with the names to save.
    out : binary file
        Where it goes; need not be seekable.
    """
    for image, _ in chosen:
        only_here(image, "save")
    manifest, index = [], []
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        written: set[str] = set()
        for image, names in chosen:
            for digest in (image.id, image.manifest, *(layer.digest for layer in image.layers)):
                if digest not in written:
                    written.add(digest)
                    _put_blob(store, tar, digest)
            manifest.append(
                {
                    "Config": _blob(image.id),
                    "RepoTags": [f"{n.familiar}:{n.tag}" for n in names] or None,
                    "Layers": [_blob(layer.digest) for layer in image.layers],
                }
            )
            entry = {
                "mediaType": store.read_document(image.manifest).get("mediaType", MANIFESTS[0]),
                "digest": image.manifest,
                "size": os.path.getsize(store.blob_path(image.manifest)),
            }
            annotations = [{_CONTAINERD_NAME: str(n), _REF_NAME: n.tag} for n in names]
            index += [{**entry, "annotations": a} for a in annotations] or [entry]
        _put_bytes(tar, "index.json", encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": index}))
        _put_bytes(tar, "manifest.json", encode(manifest))  # type: ignore[arg-type]
        _put_bytes(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')


def _put_blob(store: Store, tar: tarfile.TarFile, digest: str) -> None:
    with store.open_blob(digest) as f:
        info = tarfile.TarInfo(_blob(digest))
        info.size, info.mtime = os.fstat(f.fileno()).st_size, int(time.time())
        tar.addfile(info, f)


def _put_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
