"""What ``COPY`` and ``ADD`` may take: a directory without what its ``.dockerignore`` names, or a stack of layers."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import pathspec

from ..errors import UsageError
from .merged import Stack

IGNORE = ".dockerignore"


class Entry(NamedTuple):
    """A file of a source.

    Attributes
    ----------
    relative : str
        Below the source; empty for the source itself.
    path : str
        Where it is on this machine.
    info : os.stat_result
        Of it; a link in it is not followed.
    """

    relative: str
    path: str
    info: os.stat_result


class Source(NamedTuple):
    """One thing to be copied: its name, and what is in it, a directory before what is in that."""

    name: str
    entries: list[Entry]

    @property
    def is_directory(self) -> bool:
        """Whether it is one: what is in it is copied then, and not itself."""
        return stat.S_ISDIR(self.entries[0].info.st_mode)


class Sources(Protocol):
    """Where files are taken from."""

    def find(self, pattern: str) -> list[Source]:
        """Return what a pattern of ``COPY`` means, in the order of names; empty if nothing does."""


class Context:
    """The directory of a build.

    Parameters
    ----------
    directory : str
        Nothing outside it can be had, not by a symbolic link either.
    """

    def __init__(self, directory: str) -> None:
        self._root = os.path.realpath(directory)
        try:
            with open(os.path.join(self._root, IGNORE), encoding="utf-8", errors="surrogateescape") as f:
                self._ignored = ignored(f.read())
        except FileNotFoundError:
            self._ignored = ignored("")

    def find(self, pattern: str) -> list[Source]:
        """Return what a pattern means; a link that is named itself is followed, as Docker does."""
        relative = os.path.normpath(f"/{pattern}").lstrip("/") or "."
        names = [relative] if not glob.has_magic(relative) else glob.glob(relative, root_dir=self._root)
        found = []
        for name in sorted(names):
            path = os.path.realpath(os.path.join(self._root, name))
            inside = path == self._root or path.startswith(self._root + "/")
            below = os.path.relpath(path, self._root)
            if not inside or not os.path.lexists(path) or (below != "." and self._ignored.match_file(below)):
                continue
            found.append(Source(os.path.basename(name), list(self._walk(path, ""))))
        return found

    def _walk(self, path: str, relative: str) -> Iterator[Entry]:
        info = os.lstat(path)
        yield Entry(relative, path, info)
        if stat.S_ISDIR(info.st_mode):
            for name in sorted(os.listdir(path)):
                there = os.path.join(path, name)
                inner = list(self._walk(there, f"{relative}/{name}".lstrip("/")))
                # An ignored directory is there for what is not ignored in it.
                if len(inner) > 1 or not self._ignored.match_file(os.path.relpath(there, self._root)):
                    yield from inner


def ignored(text: str) -> pathspec.PathSpec[pathspec.Pattern]:
    """Return the patterns of a ``.dockerignore``: the last that matches decides, and each begins at the context's top.

    Examples
    --------
    >>> spec = ignored("*.log\\n!keep.log\\n/build/\\n")
    >>> [spec.match_file(name) for name in ("a.log", "keep.log", "sub/a.log", "build/x")]
    [True, False, False, True]
    """
    lines = []
    for line in text.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        negated = "!" if pattern.startswith("!") else ""
        cleaned = os.path.normpath(f"/{pattern.removeprefix('!').strip()}").lstrip("/")
        if cleaned:
            lines.append(f"{negated}/{cleaned}")
    return pathspec.PathSpec.from_lines("gitignore", lines)


class LayerFiles:
    """The files of an image, or of an earlier stage."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def find(self, pattern: str) -> list[Source]:
        """Return what a pattern means."""
        found = []
        for name in self._names(os.path.normpath(f"/{pattern}").strip("/")):
            real = self._stack.canonical(name)
            top = self._stack.find(real) if real is not None else None
            if real is None or top is None:
                continue
            entries = [Entry("", top.path, top.info)]
            if stat.S_ISDIR(top.info.st_mode):
                entries += [Entry(p[len(real) :].lstrip("/"), at.path, at.info) for p, at in self._stack.walk(real)]
            found.append(Source(os.path.basename(name), entries))
        return found

    def _names(self, pattern: str) -> list[str]:
        names = [""]
        for part in pattern.split("/") if pattern else []:
            if glob.has_magic(part):
                names = [f"{n}/{e}" for n in names for e in self._stack.listdir(n) if fnmatch.fnmatchcase(e, part)]
            else:
                names = [f"{name}/{part}" for name in names]
        return sorted(names)


def required(sources: Sources, patterns: list[str]) -> list[Source]:
    """Return what patterns mean.

    Raises
    ------
    UsageError
        If one means nothing.
    """
    found = []
    for pattern in patterns:
        some = sources.find(pattern)
        if not some:
            raise UsageError(f"failed: {pattern}: not found in the build context, or excluded by {IGNORE}")
        found += some
    return found
