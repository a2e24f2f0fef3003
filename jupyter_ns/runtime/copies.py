"""``cp`` on the engine's side: trees of a container's files, read or written piece by piece as the kernel asks."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..trees import PIECE, Entry, TreeWriter, open_in_root, place_of, read_tree, weight

if TYPE_CHECKING:
    from .registry import Record

MAX_LINKS = 40


class Copies:
    """The copies that are going on."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._readers: dict[int, tuple[Generator[Entry, None, None], int]] = {}
        self._writers: dict[int, tuple[TreeWriter, int, str]] = {}

    def read(self, record: Record, path: str, *, follow: bool) -> dict[str, Any]:
        """Begin to read; return the copy's number, and whether it is a directory.

        Raises
        ------
        UsageError
            If there is no such path.
        """
        root = record.process.open_root()
        try:
            path = resolve(root, path) if follow else path
            head, _, name = path.rstrip("/").rpartition("/")
            if name in ("", "."):
                head, name = path, "."
            parent = open_in_root(root, head or "/", os.O_RDONLY | os.O_DIRECTORY)
            try:
                is_dir = stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
            except OSError:
                os.close(parent)
                raise
        except OSError as e:
            raise UsageError(f"cp {record.name}:{path}: {e.strerror}") from None
        finally:
            os.close(root)
        number = next(self._numbers)
        self._readers[number] = read_tree(parent, name, "."), parent
        return {"copy": number, "is_dir": is_dir}

    def next(self, number: int) -> list[Entry]:
        """Return the next entries, about a megabyte of them; none at the end."""
        found: list[Entry] = []
        size = 0
        for entry in self._readers[number][0]:
            found.append(entry)
            size += weight(entry)
            if size >= 4 * PIECE:
                break
        return found

    def write(
        self, record: Record, path: str, source: tuple[str, bool, bool], *, owners: bool, parents: bool = False
    ) -> dict[str, Any]:
        """Begin to write; return the copy's number and what the source is called there."""
        root = record.process.open_root()
        try:
            directory, name = place_of(root, path, *source)
        except OSError as e:
            raise UsageError(f"cp {record.name}:{path}: {e.strerror}") from None
        finally:
            os.close(root)
        first_ids = record.process.recipe.facts.private_ids[:2] if record.process.recipe.remapped else (0, 0)
        number = next(self._numbers)
        self._writers[number] = (
            TreeWriter(directory, owners=owners, first_ids=first_ids, parents=parents),
            directory,
            path,
        )
        return {"copy": number, "name": name}

    def put(self, number: int, entries: list[Entry]) -> None:
        """Write entries; none is the end."""
        writer, _, path = self._writers[number]
        try:
            for entry in entries:
                writer.take(entry)
            if not entries:
                writer.close()
        except OSError as e:
            raise UsageError(f"cp: {e.filename or path}: {e.strerror}") from None

    def close(self, number: int) -> None:
        """Let go of a copy, finished or not."""
        if number in self._readers:
            reader, parent = self._readers.pop(number)
            reader.close()
            os.close(parent)
        if number in self._writers:
            writer, directory, _ = self._writers.pop(number)
            writer.abandon()
            os.close(directory)


def resolve(root: int, path: str) -> str:
    """Follow the last part of a path while it is a symbolic link, inside `root`."""
    for _ in range(MAX_LINKS):
        fd = open_in_root(root, path, os.O_PATH | os.O_NOFOLLOW)
        try:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                return path
            target = os.readlink("", dir_fd=fd)
        finally:
            os.close(fd)
        path = target if target.startswith("/") else f"{path.rstrip('/').rpartition('/')[0]}/{target}"
    return path
