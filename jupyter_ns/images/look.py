"""Show copy-on-write: what each layer of an image added and hid, and which layer a path comes from."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import ImageError
from .merged import Stack, is_opaque, is_whiteout
from .record import Image
from .store import Store

CREATED_BY_MAX = 44
"""Characters of what made a layer that are shown, as ``docker history`` cuts them."""


@dataclass(slots=True, kw_only=True)
class LayerView:
    """One layer, as compared with those below it.

    Attributes
    ----------
    number : int
        1 is the lowest.
    chain, diff_id : str
        Its names.
    created_by : str
        What the history says of it.
    data_bytes : int
        Of its files.
    changes : list of (str, str)
        Kinds as docker-diff(1), ``A``, ``C``, ``D``, and paths, sorted by path.
    hidden_bytes : int
        Of files below that it hides: they still take room.
    """

    number: int
    chain: str
    diff_id: str
    created_by: str
    data_bytes: int
    changes: list[tuple[str, str]] = field(default_factory=list)
    hidden_bytes: int = 0

    def count(self, kind: str) -> int:
        """Count changes of a kind."""
        return sum(k == kind for k, _ in self.changes)


def layers_of(store: Store, image: Image) -> list[LayerView]:
    """Look through an image's layers, lowest first."""
    lower = store.lower_directories(image)
    words = created_by(image)
    views = []
    for number, (layer, chain) in enumerate(zip(image.layers, image.chains, strict=True), start=1):
        directory = store.layer_directory(chain)
        view = LayerView(
            number=number,
            chain=chain,
            diff_id=layer.diff_id,
            created_by=words[number - 1],
            data_bytes=store.layer_bytes(chain),
        )
        _compare(view, directory, Stack((*lower[len(lower) - number + 1 :], *ground(image))))
        views.append(view)
    return views


def ground(image: Image) -> tuple[str, ...]:
    """Return what all layers of an image lie on: this machine's root, or nothing."""
    return ("/",) if image.base else ()


def created_by(image: Image) -> list[str]:
    """Return what the history says of each layer, lowest first; empty where it says nothing."""
    history = image.config.get("history")
    entries = [h for h in history if isinstance(h, dict)] if isinstance(history, list) else []
    words = [str(h.get("created_by") or h.get("comment") or "") for h in entries if not h.get("empty_layer")]
    return (words + [""] * len(image.layers))[: len(image.layers)]


def _compare(view: LayerView, directory: str, below: Stack) -> None:
    for parent, names, files in os.walk(directory):
        names.sort()
        relative = os.path.relpath(parent, directory).removeprefix(".")
        if below.lower and relative and is_opaque(parent):
            present = set(names) | set(files)
            for name, found in below.listdir(relative).items():
                if name not in present:
                    view.changes.append(("D", f"/{relative}/{name}"))
                    view.hidden_bytes += _tree_bytes(below, f"{relative}/{name}", found.info)
        for name in [*names, *files]:
            path = os.path.join(relative, name)
            info = os.lstat(os.path.join(parent, name))
            found_below = below.find(path) if below.lower else None
            if is_whiteout(info):
                view.changes.append(("D", f"/{path}"))
                if found_below is not None:
                    view.hidden_bytes += _tree_bytes(below, path, found_below.info)
            elif found_below is None:
                view.changes.append(("A", f"/{path}"))
            elif not (stat.S_ISDIR(info.st_mode) and stat.S_ISDIR(found_below.info.st_mode)):
                view.changes.append(("C", f"/{path}"))
                view.hidden_bytes += _tree_bytes(below, path, found_below.info)
    view.changes.sort(key=lambda change: change[1])


def _tree_bytes(stack: Stack, path: str, info: os.stat_result) -> int:
    if stat.S_ISREG(info.st_mode):
        return info.st_size
    if not stat.S_ISDIR(info.st_mode):
        return 0
    return sum(f.info.st_size for _, f in stack.walk(path) if stat.S_ISREG(f.info.st_mode))


class Origin(NamedTuple):
    """What one layer says of a path: its number (1 the lowest, 0 what it lies on), the verb, whether it is seen."""

    number: int
    says: str
    seen: bool


def origin(store: Store, image: Image, path: str) -> list[Origin]:
    """Say which layers have a path or hide it, topmost first.

    Raises
    ------
    ImageError
        If no layer says anything of it.
    """
    stack = Stack((*store.lower_directories(image), *ground(image)))
    found = stack.find(path)
    said = stack.holders(path)
    if not said:
        raise ImageError(f"{path}: no layer of the image has it")
    top = len(image.layers)
    seen = -1 if found is None else found.layer
    return [Origin(top - index, words, index == seen and words == "has") for index, words in said]


def tree_text(name: str, views: Sequence[LayerView], *, bytes_words: Any, most: int = 5) -> str:
    """Draw the layers as a tree, the topmost first, with some paths of each.

    Parameters
    ----------
    name : str
        What the image is called.
    views : sequence of LayerView
        Lowest first.
    bytes_words : callable
        Words a number of bytes.
    most : int
        Paths to show of each layer.
    """
    lines = [name]
    for position, view in enumerate(reversed(views)):
        last = position == len(views) - 1
        counts = ", ".join(
            f"{view.count(kind)} {word}"
            for kind, word in (("A", "added"), ("C", "changed"), ("D", "hidden"))
            if view.count(kind)
        )
        hidden = f", {bytes_words(view.hidden_bytes)} below it hidden but kept" if view.hidden_bytes else ""
        words = f"  {view.created_by[:CREATED_BY_MAX]}{'…' * (len(view.created_by) > CREATED_BY_MAX)}"
        lines.append(
            f"{'└' if last else '├'}─ layer {view.number}  {view.diff_id[7:19]}  {bytes_words(view.data_bytes)}"
            f"  ({counts or 'empty'}{hidden}){words}".rstrip()
        )
        bar = " " if last else "│"
        lines += [f"{bar}    {kind} {path}" for kind, path in view.changes[:most]]
        if len(view.changes) > most:
            lines.append(f"{bar}    … and {len(view.changes) - most} more")
    return "\n".join(lines) + "\n"
