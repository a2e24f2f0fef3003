"""What a build does to the store: begin with an image, add a layer or a line of history, find what is there already.

An image being built is a dict that JSON can say, for an ordinary user's steps are taken in another process
(`jupyter_ns.images.elsewhere`): ``layers`` and ``history`` as an image has them, ``runtime``, its configuration,
``base`` as in `jupyter_ns.images.record.Image`, and ``id``, of the image that it is still the same as.

What a step makes is taken from any image in the store whose layers and history up to there are the same, and whose
next line of history says the same: no cache of its own can be stale, or be left.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, BinaryIO, NamedTuple

from ..errors import ImageError, UsageError
from .base import HOST
from .commit import HOST_RUNTIME, HOSTS
from .context import Context, LayerFiles, Source, Sources, required
from .make import add_image, make_layer, new_config, now
from .merged import Stack
from .pack import Writer, pack_layer
from .record import Image, Layer, chain_ids
from .reference import parse_reference
from .store import Store
from .unpack import WHITEOUT
from .users import resolve_user

Unfinished = dict[str, Any]
SCRATCH = "scratch"
_CHUNK = 1 << 20


def begin(store: Store, name: str) -> Unfinished:
    """Begin with nothing (``scratch``), with this machine's own files (``host``), or with an image that is here."""
    if name == SCRATCH:
        return {"layers": [], "history": [], "runtime": {}, "base": "", "id": ""}
    if name == HOST:
        return {"layers": [], "history": [HOSTS], "runtime": dict(HOST_RUNTIME), "base": HOST, "id": ""}
    image = store.find(name)
    return {
        "layers": [asdict(layer) for layer in image.layers],
        "history": list(image.config.get("history") or []),
        "runtime": dict(image.runtime),
        "base": image.base,
        "id": image.id,
    }


def finish(store: Store, unfinished: Unfinished, names: list[str], author: str = "") -> str:
    """Make an image of it; return its ID, which is the same for the same steps."""
    if unfinished["id"]:
        store.tag(unfinished["id"], map(parse_reference, names))
        return str(unfinished["id"])
    layers = _layers(unfinished)
    created = str((unfinished["history"] or [{}])[-1].get("created") or now())
    diff_ids = [layer.diff_id for layer in layers]
    config = new_config(unfinished["runtime"], diff_ids=diff_ids, history=unfinished["history"], created=created)
    if author:
        config["author"] = author
    with store.adding():
        return add_image(store, layers, config, map(parse_reference, names), base=unfinished["base"]).id


def found(store: Store, unfinished: Unfinished, created_by: str) -> Unfinished | None:
    """Return what a step makes, where an image has taken it before."""
    said = [_said(entry) for entry in unfinished["history"]]
    for image in store.images():
        history = image.config.get("history") or []
        if [_said(entry) for entry in history[: len(said) + 1]] != [*said, created_by] or not _begins(
            image, unfinished
        ):
            continue
        entry = history[len(said)]
        return _grown(unfinished, entry, None if entry.get("empty_layer") else image.layers[len(unfinished["layers"])])
    return None


def _grown(unfinished: Unfinished, entry: Mapping[str, Any], layer: Layer | None) -> Unfinished:
    more = [] if layer is None else [asdict(layer)]
    return unfinished | {"layers": [*unfinished["layers"], *more], "history": [*unfinished["history"], entry], "id": ""}


def _said(entry: Mapping[str, Any]) -> str:
    return str(entry.get("created_by") or "")


def _begins(image: Image, unfinished: Unfinished) -> bool:
    known = [layer["diff_id"] for layer in unfinished["layers"]]
    written = sum(not entry.get("empty_layer") for entry in image.config.get("history") or [])
    # Images from elsewhere may have lines of history for layers that are not there.
    consistent = written == len(image.layers)
    return (
        consistent and image.base == unfinished["base"] and [one.diff_id for one in image.layers[: len(known)]] == known
    )


def noted(unfinished: Unfinished, created_by: str, layer: Layer | None = None) -> Unfinished:
    """Add a line of history, and the layer that it is about."""
    entry: dict[str, Any] = {"created": now(), "created_by": created_by}
    if layer is None:
        entry["empty_layer"] = True
    return _grown(unfinished, entry, layer)


def _add_layer(store: Store, unfinished: Unfinished, created_by: str, write: Callable[[BinaryIO], None]) -> Unfinished:
    with store.adding():
        layer = make_layer(store, _layers(unfinished), write, base=unfinished["base"])
    return noted(unfinished, created_by, layer)


def note(store: Store, unfinished: Unfinished, created_by: str, cached: bool) -> tuple[Unfinished, bool]:
    """Add a line of history that no layer belongs to; return whether there was one."""
    before = found(store, unfinished, created_by) if cached else None
    return (before, True) if before is not None else (noted(unfinished, created_by), False)


def add_written(store: Store, unfinished: Unfinished, created_by: str, files: Mapping[str, Any]) -> Unfinished:
    """Add what a container has written, by what its engine says of its files (the command ``files``)."""

    def write(out: BinaryIO) -> None:
        pack_layer(files["uppers"], out, tuple(files["first_ids"]))

    return _add_layer(store, unfinished, created_by, write)


def make_directory(store: Store, unfinished: Unfinished, created_by: str, cached: bool) -> tuple[Unfinished, bool]:
    """Make the working directory, unless it is there, as ``WORKDIR`` does."""
    path = str(unfinished["runtime"]["WorkingDir"])
    before = found(store, unfinished, created_by) if cached else None
    if before is not None:
        return before, True
    with _stack(store, unfinished) as stack:
        placing = _Placing(stack)
        missing = list(placing.parents(f"{placing.real(path)}/."))
    if not missing:
        return noted(unfinished, created_by), False

    def write(out: BinaryIO) -> None:
        writer = Writer(out)
        for name in missing:
            writer.put_directory(name)
        writer.close()

    return _add_layer(store, unfinished, created_by, write), False


class Copy(NamedTuple):
    """What ``COPY`` and ``ADD`` say.

    Attributes
    ----------
    word : str
        The instruction.
    patterns : list of str
        What to copy.
    destination : str
        Where to; relative to the working directory.
    context : str
        The directory of the build; empty where `stage` counts.
    stage : dict or None
        The image to copy from.
    chown : str
        ``user[:group]``; empty: root's, or as in the stage.
    chmod : str
        Octal; empty: as they are.
    """

    word: str
    patterns: list[str]
    destination: str
    context: str
    stage: Unfinished | None
    chown: str = ""
    chmod: str = ""


def add_files(store: Store, unfinished: Unfinished, copy: Any, cached: bool) -> tuple[Unfinished, bool]:
    """Copy files into it; return whether an image had them already.

    Raises
    ------
    UsageError
        If there is nothing to copy, or it cannot stand where it shall.
    """
    copy = Copy(*copy)
    with _stack(store, unfinished) as stack, _stack(store, copy.stage or begin(store, SCRATCH)) as taken:
        sources: Sources = LayerFiles(taken) if copy.stage is not None else Context(copy.context)
        some = required(sources, copy.patterns)
        owner = _owner(stack, copy)
        mode = int(copy.chmod, 8) if copy.chmod else None
        flags = "".join(f" --{k}={v}" for k, v in (("chown", copy.chown), ("chmod", copy.chmod)) if v)
        created_by = f"/bin/sh -c #(nop) {copy.word}{flags} {_digest(some, owner)} in {copy.destination} "
        before = found(store, unfinished, created_by) if cached else None
        if before is not None:
            return before, True
        directory = str(unfinished["runtime"].get("WorkingDir") or "/")
        to = os.path.join(directory, copy.destination)

        def write(out: BinaryIO) -> None:
            writer = Writer(out, owner=owner, mode=mode)
            _Placing(stack).write(writer, some, to, unpack=copy.word == "ADD", owner=owner if copy.chown else None)
            writer.close()

        return _add_layer(store, unfinished, created_by, write), False


def _owner(stack: Stack, copy: Copy) -> tuple[int, int] | None:
    if not copy.chown:
        return None if copy.stage is not None else (0, 0)
    name, _, group = copy.chown.partition(":")
    passwd, groups = (stack.read_text(f"/etc/{file}") for file in ("passwd", "group"))
    user = resolve_user(f"{name}:{group or name}" if name.isdecimal() else copy.chown, (), passwd, groups)
    return user.uid, user.gid


def _digest(sources: list[Source], owner: tuple[int, int] | None) -> str:
    """Return what a step is known by again: names, kinds, modes, owners and contents, but not times, as with Docker."""
    whole = hashlib.sha256()
    for source in sources:
        for entry in source.entries:
            uid, gid = owner or (entry.info.st_uid, entry.info.st_gid)
            name = f"{source.name}/{entry.relative}"
            whole.update(repr((os.fsencode(name), entry.info.st_mode, uid, gid)).encode())
            if stat.S_ISLNK(entry.info.st_mode):
                whole.update(os.fsencode(os.readlink(entry.path)) + b"\0")
            elif stat.S_ISREG(entry.info.st_mode):
                with open(entry.path, "rb") as f:
                    whole.update(hashlib.file_digest(f, "sha256").digest())
    kind = "multi" if len(sources) > 1 else "dir" if sources[0].is_directory else "file"
    return f"{kind}:{whole.hexdigest()}"


class _Placing:
    """Finds out where files go in a stack of layers, and which directories must be made for them."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._made: set[str] = set()
        self._modes: dict[str, int] = {}

    def real(self, path: str) -> str:
        """Return a path of the image without symbolic links, and without a leading slash."""
        there = self._stack.canonical(path)
        if there is None:
            raise UsageError(f"{path}: too many levels of symbolic links")
        return there

    def _mode(self, path: str) -> int:
        if path not in self._modes:
            at = self._stack.find(path)
            self._modes[path] = 0 if at is None else at.info.st_mode
        return self._modes[path]

    def parents(self, path: str) -> Iterator[str]:
        """Yield the directories above a path that must be made."""
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            parent = "/".join(parts[:depth])
            mode = self._mode(parent)
            if mode and not stat.S_ISDIR(mode):
                raise UsageError(f"/{parent}: not a directory")
            if not mode and parent not in self._made:
                self._made.add(parent)
                yield parent

    def write(
        self, writer: Writer, sources: list[Source], to: str, *, unpack: bool, owner: tuple[int, int] | None
    ) -> None:
        """Put sources where ``COPY`` would; `owner` is of what is unpacked, None: as the archive says."""
        target = self.real(to)
        is_directory = to.endswith(("/", "/.")) or not target or stat.S_ISDIR(self._mode(target))
        if len(sources) > 1 and not is_directory:
            raise UsageError(f"{to}: with more than one source, the destination must be a directory and end with a /")
        for source in sources:
            top = source.entries[0]
            if unpack and not source.is_directory and tarfile.is_tarfile(top.path):
                self._unpack(writer, top.path, target, owner)
                continue
            plain = not source.is_directory
            place = os.path.join(target, source.name) if plain and is_directory else target
            for entry in source.entries:
                if entry.relative or plain:
                    self._put(writer, os.path.join(place, entry.relative).rstrip("/"), entry.info, entry.path)
                else:  # of a directory only what is in it is copied
                    for parent in self.parents(f"{target}/."):
                        writer.put_directory(parent)

    def _put(self, writer: Writer, name: str, info: os.stat_result, path: str) -> None:
        if self._room(writer, name, stat.S_ISDIR(info.st_mode)):
            writer.put(name, info, path)

    def _room(self, writer: Writer, name: str, is_directory: bool) -> bool:
        """Make the directories above; return whether the thing itself is to be put there."""
        for parent in self.parents(name):
            writer.put_directory(parent)
        mode = self._mode(name)
        if mode and stat.S_ISDIR(mode) != is_directory:
            raise UsageError(f"/{name}: a directory and a file cannot replace each other")
        if is_directory:
            if mode or name in self._made:
                return False
            self._made.add(name)
        return True

    def _unpack(self, writer: Writer, path: str, target: str, owner: tuple[int, int] | None) -> None:
        with tarfile.open(path) as archive:
            for member in archive:
                relative = os.path.normpath(member.name.lstrip("/"))
                if relative.startswith("../") or os.path.basename(relative).startswith(WHITEOUT):
                    raise ImageError(
                        f"ADD {os.path.basename(path)}: {member.name} may be in no archive that is unpacked here"
                    )
                member.name = os.path.join(target, relative).rstrip("/")
                if relative == "." or not self._room(writer, member.name, member.isdir()):
                    continue
                member.uid, member.gid = owner or (member.uid, member.gid)
                if member.islnk():
                    member.linkname = os.path.join(target, os.path.normpath(member.linkname.lstrip("/")))
                writer.put_member(member, archive.extractfile(member) if member.isreg() else None)


def _layers(unfinished: Unfinished) -> list[Layer]:
    return [Layer(**layer) for layer in unfinished["layers"]]


@contextlib.contextmanager
def _stack(store: Store, unfinished: Unfinished) -> Iterator[Stack]:
    chains = chain_ids([layer["diff_id"] for layer in unfinished["layers"]])
    lower = [*map(store.layer_directory, reversed(chains)), *(["/"] if unfinished["base"] else [])]
    if lower:
        yield Stack(lower)
        return
    with store.scratch() as empty:
        yield Stack([empty])


def forget(store: Store, image_id: str) -> None:
    """Remove an image that stood for a step, unless it has a name or a container by now."""
    if not list(store.names_of(image_id)):
        with contextlib.suppress(ImageError):
            store.remove(image_id)


OPERATIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (begin, finish, forget, found, note, add_written, make_directory, add_files)
}
"""By name, for another process; the first argument is the store."""
