"""Look into a stack of layers as overlayfs would merge them, without mounting anything.

Layers do not change and were unpacked by us; still, symbolic links in them are followed inside the stack only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

OPAQUE_XATTRS = ("trusted.overlay.opaque", "user.overlay.opaque")
"""The first counts in ordinary overlays, the second in those mounted in a user namespace."""
_MAX_LINKS = 40


class Found(NamedTuple):
    """What a path of the stack is.

    Attributes
    ----------
    layer : int
        Index of the layer that it comes from, 0 the topmost.
    path : str
        Where it is on the host.
    info : os.stat_result
        Of it.
    """

    layer: int
    path: str
    info: os.stat_result


class Stack:
    """Layers, topmost first.

    Parameters
    ----------
    lower : sequence of str
        Their directories.
    """

    def __init__(self, lower: Sequence[str]) -> None:
        self.lower = tuple(lower)

    def find(self, path: str) -> Found | None:
        """Return what is at a path; a symbolic link in its last part is not followed, nor is any before."""
        merged = list(range(len(self.lower)))
        found = Found(0, self.lower[0], os.lstat(self.lower[0]))
        parts = [p for p in path.split("/") if p not in ("", ".")]
        for depth in range(1, len(parts) + 1):
            if not stat.S_ISDIR(found.info.st_mode):
                return None
            step = self._step(merged, "/".join(parts[:depth]))
            if step is None:
                return None
            found, merged = step
        return found

    def lstat(self, path: str) -> os.stat_result:
        """Return the status of a path, as lstat(2).

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        found = self.find(path)
        if found is None:
            raise FileNotFoundError(path)
        return found.info

    def readlink(self, path: str) -> str:
        """Return where a symbolic link points, as readlink(2).

        Raises
        ------
        OSError
            ENOENT, EINVAL: there is none.
        """
        found = self.find(path)
        if found is None:
            raise FileNotFoundError(path)
        return os.readlink(found.path)

    def _step(self, layers: list[int], relative: str) -> tuple[Found, list[int]] | None:
        """Look for a path in the layers in which its parent is merged."""
        first: Found | None = None
        merged = []
        for index in layers:
            here = os.path.join(self.lower[index], relative)
            try:
                info = os.lstat(here)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if is_whiteout(info):
                break
            if first is None:
                first = Found(index, here, info)
            if not stat.S_ISDIR(info.st_mode):
                break
            merged.append(index)
            if is_opaque(here):
                break
        return None if first is None else (first, merged)

    def resolve(self, path: str) -> Found | None:
        """Return what is at a path, following symbolic links inside the stack."""
        there = self._follow(path, missing=False)
        return None if there is None else self.find(there)

    def canonical(self, path: str) -> str | None:
        """Return a path without symbolic links in it, also one of what is not there; None if they lead in a circle."""
        return self._follow(path, missing=True)

    def _follow(self, path: str, *, missing: bool) -> str | None:
        todo = [p for p in path.split("/") if p not in ("", ".")][::-1]
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                done[-1:] = []
                continue
            found = self.find("/".join([*done, part]))
            if found is None and not missing:
                return None
            if found is not None and stat.S_ISLNK(found.info.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    return None
                target = os.readlink(found.path)
                if target.startswith("/"):
                    done = []
                todo += [p for p in target.split("/") if p not in ("", ".")][::-1]
            else:
                done.append(part)
        return "/".join(done)

    def read_text(self, path: str, most_bytes: int = 1 << 20) -> str:
        """Return the text of a regular file, or an empty one if there is none."""
        found = self.resolve(path)
        if found is None or not stat.S_ISREG(found.info.st_mode):
            return ""
        with open(found.path, "rb") as f:
            return f.read(most_bytes).decode(errors="replace")

    def listdir(self, path: str) -> dict[str, Found]:
        """List a directory; nothing if it is none."""
        merged = self._merged(path)
        found: dict[str, Found] = {}
        hidden: set[str] = set()
        for index in merged:
            directory = os.path.join(self.lower[index], path.strip("/"))
            for name in sorted(os.listdir(directory)):
                if name in found or name in hidden:
                    continue
                here = os.path.join(directory, name)
                info = os.lstat(here)
                if is_whiteout(info):
                    hidden.add(name)
                else:
                    found[name] = Found(index, here, info)
        return dict(sorted(found.items()))

    def _merged(self, path: str) -> list[int]:
        merged = list(range(len(self.lower)))
        parts = [p for p in path.split("/") if p]
        for depth in range(1, len(parts) + 1):
            step = self._step(merged, "/".join(parts[:depth]))
            if step is None:
                return []
            merged = step[1]
        return merged

    def walk(self, path: str = "") -> Iterator[tuple[str, Found]]:
        """Yield every path below one, parents first, sorted; without a leading slash."""
        for name, found in self.listdir(path).items():
            here = f"{path}/{name}" if path else name
            yield here, found
            if stat.S_ISDIR(found.info.st_mode):
                yield from self.walk(here)

    def holders(self, path: str) -> list[tuple[int, str]]:
        """List each layer that says something of a path: ``has``, ``hides`` (whiteout) or ``hides below`` (opaque)."""
        relative = path.strip("/")
        said = []
        for index, lower in enumerate(self.lower):
            parts = relative.split("/")
            for depth in range(1, len(parts) + 1):
                here = os.path.join(lower, *parts[:depth])
                try:
                    info = os.lstat(here)
                except (FileNotFoundError, NotADirectoryError):
                    break
                if is_whiteout(info):
                    said.append((index, "hides"))
                    break
                if depth == len(parts):
                    said.append((index, "has"))
                elif not stat.S_ISDIR(info.st_mode):
                    said.append((index, "hides"))
                    break
                elif is_opaque(here):
                    said.append((index, "hides below"))
        return said


def is_whiteout(info: os.stat_result) -> bool:
    """Whether an entry of a layer stands for a deletion."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_opaque(path: str | int) -> bool:
    """Whether a directory of a layer hides all that lower ones have in it."""
    for name in OPAQUE_XATTRS:
        try:
            if os.getxattr(path, name) == b"y":
                return True
        except OSError:  # ENODATA; EPERM or ENOTSUP for the other kind
            continue
    return False
