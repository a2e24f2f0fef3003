"""``cp``: files between a container and the host, or a tar archive."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any

from ...client import EngineClient
from ...errors import UsageError
from ...lifecycle import ask, client_of
from ...tree_archives import read_archive, write_archive
from ...trees import PIECE, Entry, TreeWriter, place_of, prefixed, read_tree, weight
from ...units import format_decimal_bytes
from .console import Console
from .grammar import Command, Flag, Parsed


def split(text: str) -> tuple[str, str]:
    """Cut ``CONTAINER:PATH``; a path of the host's has no container.

    Examples
    --------
    >>> split("web:/etc"), split("./a:b"), split("/tmp")
    (('web', '/etc'), ('', './a:b'), ('', '/tmp'))
    """
    name, colon, path = text.partition(":")
    return (name, path) if colon and name and not name.startswith(("/", ".")) else ("", text)


def run_cp(console: Console, given: Parsed) -> None:
    """Copy a file or directory out of a container, or into one."""
    (source, source_path), (target, target_path) = map(split, given.arguments)
    if bool(source) == bool(target):
        raise UsageError("docker cp: expected CONTAINER:PATH on one side, a path of the host's on the other")
    if source and target_path == "-":
        written, left = _out_as_archive(console, source, "/" + source_path.lstrip("/"), given)
    elif target and source_path == "-":
        written, left = _in_from_archive(console, target, "/" + target_path.lstrip("/"), given)
    elif source:
        written, left = _out(source, "/" + source_path.lstrip("/"), _local(target_path), given)
    else:
        written, left = _in(_local(source_path), target, "/" + target_path.lstrip("/"), given)
    for path in left:
        console.error(f"cp: {path}: a device, socket or pipe is not copied\n")
    if not given.get("quiet") and target_path != "-":
        console.error(f"Successfully copied {format_decimal_bytes(written)} to {given.arguments[1]}\n")


def _local(path: str) -> str:
    return os.path.join(os.getcwd(), os.path.expanduser(path))


def _name_of(path: str) -> str:
    return os.path.basename(os.path.normpath(path)) or "."


def _out(container: str, path: str, target: str, given: Parsed) -> tuple[int, list[str]]:
    client = client_of(container)
    begun = ask("copy_out", client=client, of=container, path=path, follow=bool(given.get("follow_link")))
    number = begun["copy"]
    try:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            directory, name = place_of(root, target, _name_of(path), begun["is_dir"], path.endswith("/."))
        except OSError as e:
            raise UsageError(f"docker cp: {target}: {e.strerror}") from None
        finally:
            os.close(root)
        writer = TreeWriter(directory, owners=bool(given.get("archive")))
        try:
            while entries := ask("copy_next", client=client, copy=number):
                for entry in entries:
                    writer.take(prefixed(entry, name))
            writer.close()
        except OSError as e:
            raise UsageError(f"docker cp: {e.filename or target}: {e.strerror}") from None
        finally:
            writer.abandon()
            os.close(directory)
        return writer.written, writer.left
    finally:
        ask("copy_close", client=client, copy=number)


def _out_as_archive(console: Console, container: str, path: str, given: Parsed) -> tuple[int, list[str]]:
    if console.binary is None:
        raise UsageError("docker cp: a cell is no place for an archive; send it on: cp … - > FILE, or cp … - | tar -t")
    client = client_of(container)
    begun = ask("copy_out", client=client, of=container, path=path, follow=bool(given.get("follow_link")))
    name = "." if path.endswith("/.") else _name_of(path).strip("/") or "."

    def entries() -> Iterator[Entry]:
        while batch := ask("copy_next", client=client, copy=begun["copy"]):
            yield from (prefixed(entry, name) for entry in batch)

    try:
        return write_archive(entries(), console.binary)
    finally:
        ask("copy_close", client=client, copy=begun["copy"])


def _in_from_archive(console: Console, container: str, path: str, given: Parsed) -> tuple[int, list[str]]:
    if not console.source:
        raise UsageError("docker cp: - reads an archive, which a cell's text is not: cp - CONTAINER:PATH < FILE")
    # As a directory's contents, which go into one that is there; else its name would be the last of the path.
    about: dict[str, Any] = {"source": [".", True, False], "owners": True, "parents": True}
    client = client_of(container)
    begun = ask("copy_in", client=client, of=container, path=path, **about)
    try:
        if begun["name"] != ".":
            raise UsageError(f"docker cp: {container}:{path}: expected a directory that is there")
        with open(console.source, "rb") as raw:
            return _put(client, begun["copy"], _batches(read_archive(raw)))
    except (tarfile.TarError, EOFError, OSError) as e:
        raise UsageError(f"docker cp: {console.source} is no tar archive, or damaged: {e}") from None
    finally:
        ask("copy_close", client=client, copy=begun["copy"])


def _put(client: EngineClient, number: int, batches: Iterable[list[Entry]], name: str = ".") -> tuple[int, list[str]]:
    """Have entries written; return the bytes of files, and what was left."""
    written = 0
    left: list[str] = []
    for batch in batches:
        written += sum(len(entry[1]) for entry in batch if entry[0] == "data")
        left += [entry[1] for entry in batch if entry[0] == "left"]
        ask("copy_put", client=client, copy=number, entries=[prefixed(entry, name) for entry in batch])
    ask("copy_put", client=client, copy=number, entries=[])
    return written, left


def _in(source: str, container: str, path: str, given: Parsed) -> tuple[int, list[str]]:
    contents = source.endswith("/.")
    real = os.path.realpath(source) if given.get("follow_link") or source.endswith("/") else os.path.normpath(source)
    if not os.path.lexists(real):
        raise UsageError(f"docker cp: {source}: no such file or directory")
    is_dir = os.path.isdir(real) and not os.path.islink(real)
    about: dict[str, Any] = {"source": [_name_of(source), is_dir, contents], "owners": bool(given.get("archive"))}
    client = client_of(container)
    begun = ask("copy_in", client=client, of=container, path=path, **about)
    try:
        return _put(client, begun["copy"], _batches(_local_tree(real)), begun["name"])
    finally:
        ask("copy_close", client=client, copy=begun["copy"])


def _local_tree(path: str) -> Iterator[Entry]:
    """Read a tree of the host's."""
    parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield from read_tree(parent, os.path.basename(path) or ".", ".")
    except OSError as e:
        raise UsageError(f"docker cp: {e.filename or path}: {e.strerror}") from None
    finally:
        os.close(parent)


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Put entries together to pieces that fit a frame."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += weight(entry)
        if size >= 4 * PIECE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


CP = Command(
    name="cp",
    usage="[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-, or SRC_PATH|- CONTAINER:DEST_PATH",
    help="Copy files between a container and the host; - is a tar archive: cp … - > FILE, cp - … < FILE",
    run=run_cp,
    least=2,
    most=2,
    flags=(
        Flag(flags=("-a", "--archive"), help="Keep owners"),
        Flag(flags=("-L", "--follow-link"), help="Follow a symbolic link in SRC_PATH"),
        Flag(flags=("-q", "--quiet"), help="Do not say what was copied"),
    ),
)
