"""Make an image of what a container wrote: one layer more."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from ..errors import ImageError, UsageError
from ..spec import ContainerSpec
from .base import HOST
from .make import add_image, make_layer, new_config, now
from .merged import Stack
from .pack import pack_layer, pack_stack
from .record import Image
from .reference import Reference, parse_reference
from .store import Store

_EXPOSED = re.compile(r"[0-9]+(?:-[0-9]+)?(?:/(?:tcp|udp|sctp))?", re.ASCII)


HOST_RUNTIME: dict[str, Any] = {"Cmd": ["sh"]}
"""How an image over this machine's own files is run."""
HOSTS = {"created_by": "this machine's own files", "empty_layer": True}


def only_here(image: Image, what: str) -> None:
    """Refuse to take an image away whose layers lie on this machine's own files.

    Raises
    ------
    ImageError
        If it is one.
    """
    if image.base:
        raise ImageError(
            f"{what}: the image lies on this machine's own files ({HOST}), which are in none of its layers: it runs "
            "here, and nowhere else. To take one away, begin with an image (busybox) and commit that"
        )


def commit(
    store: Store,
    base: Image | None,
    upper: Mapping[str, str] | str,
    names: Sequence[Reference],
    *,
    runtime: dict[str, Any] | None = None,
    author: str = "",
    message: str = "",
    created_by: str = "",
    first_ids: tuple[int, int] = (0, 0),
) -> Image:
    """Put an overlay's upper directory on an image.

    Parameters
    ----------
    store : Store
        Where the image is.
    base : Image or None
        What the container was made of; None: this machine's own files.
    upper : mapping of str to str, or str
        What it wrote, as `pack_layer` takes it; nobody should be writing there now.
    names : sequence of Reference
        What to call the result.
    runtime : dict, optional
        How to run it; by default as `base`.
    author, message, created_by : str
        For the history.
    first_ids : tuple of int
        What user 0 and group 0 of the container are outside.

    Raises
    ------
    ImageError
        As `pack_layer`, `Store.add_layer`.
    """
    lower = base.layers if base is not None else ()
    below = base.config if base is not None else {"history": [HOSTS]}
    kind = base.base if base is not None else HOST
    runtime = runtime if runtime is not None else base.runtime if base is not None else HOST_RUNTIME
    with store.adding():
        layers = [*lower, make_layer(store, lower, lambda out: pack_layer(upper, out, first_ids), base=kind)]
        entry = {"created": now(), "created_by": created_by, "author": author, "comment": message}
        history = [*(below.get("history") or []), {k: v for k, v in entry.items() if v}]
        config = new_config(runtime, diff_ids=[one.diff_id for one in layers], history=history)
        config["architecture"] = below.get("architecture", config["architecture"])
        if author:
            config["author"] = author
        return add_image(store, layers, config, names, base=kind)


def commit_files(
    store: Store, files: Mapping[str, Any], names: Sequence[str], changes: Sequence[str], author: str, message: str
) -> Image:
    """Make an image of what a container wrote.

    Parameters
    ----------
    store : Store
        Where its image is.
    files : mapping
        What its engine says of its files (the command ``files``).
    names : sequence of str
        What to call the result.
    changes : sequence of str
        As `apply_changes` takes them.
    author, message : str
        For the history.

    Raises
    ------
    UsageError
        As `parse_reference`, `apply_changes`.
    ImageError
        As `commit`.
    """
    base = store.image(files["image"]) if files["image"] else None
    return commit(
        store,
        base,
        files["uppers"],
        [parse_reference(name) for name in names],
        runtime=apply_changes(base.runtime if base else HOST_RUNTIME, changes),
        author=author,
        message=message,
        created_by=shlex.join(ContainerSpec.from_dict(files["spec"]).argv) or "(a Python cell)",
        first_ids=tuple(files["first_ids"]),
    )


def export_files(files: Mapping[str, Any], out: BinaryIO) -> None:
    """Write all files of a container of an image as one archive.

    Parameters
    ----------
    files : mapping
        As of `commit_files`.
    out : binary file
        Where it goes.

    Raises
    ------
    ImageError
        As `pack_stack`.
    """
    layers = [files["uppers"]["/"], *files["lower"]]
    pack_stack(Stack(layers), out, tuple(files["first_ids"]))


def apply_changes(runtime: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Apply ``--change`` instructions, in a Dockerfile's words.

    Parameters
    ----------
    runtime : dict
        The configuration so far; not altered.
    changes : sequence of str
        ``CMD``, ``ENTRYPOINT``, ``ENV``, ``EXPOSE``, ``LABEL``, ``STOPSIGNAL``, ``USER``, ``VOLUME``, ``WORKDIR``.

    Raises
    ------
    UsageError
        If one is unknown or malformed.

    Examples
    --------
    >>> apply_changes({"Env": ["A=1", "B=2"]}, ["ENV A=3", 'CMD ["sh", "-l"]', "WORKDIR /x"])
    {'Env': ['B=2', 'A=3'], 'Cmd': ['sh', '-l'], 'WorkingDir': '/x'}
    """
    made = dict(runtime)
    for change in changes:
        word, _, rest = change.strip().partition(" ")
        instruction = _INSTRUCTIONS.get(word.upper())
        if instruction is None or not rest.strip():
            raise UsageError(f"--change {change!r}: expected one of {', '.join(_INSTRUCTIONS)}, and a value")
        try:
            instruction(made, rest.strip())
        except ValueError as e:
            raise UsageError(f"--change {change!r}: {e}") from None
    return made


def _command(key: str) -> Any:
    def change(made: dict[str, Any], text: str) -> None:
        words = json.loads(text) if text.startswith("[") else ["/bin/sh", "-c", text]
        if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
            raise ValueError("expected a JSON list of texts, or a shell's command")
        made[key] = words

    return change


def _pairs(text: str) -> list[tuple[str, str]]:
    words = shlex.split(text)
    if words and "=" not in words[0]:
        return [(words[0], text.partition(" ")[2].strip())]
    pairs = [tuple(word.partition("=")[::2]) for word in words]
    if not all(key for key, _ in pairs):
        raise ValueError("expected NAME=VALUE")
    return pairs  # type: ignore[return-value]


def _environment(made: dict[str, Any], text: str) -> None:
    new = dict(_pairs(text))
    kept = [e for e in made.get("Env") or [] if e.partition("=")[0] not in new]
    made["Env"] = kept + [f"{k}={v}" for k, v in new.items()]


def _labels(made: dict[str, Any], text: str) -> None:
    made["Labels"] = {**(made.get("Labels") or {}), **dict(_pairs(text))}


def _ports(made: dict[str, Any], text: str) -> None:
    ports = text.split()
    if not all(_EXPOSED.fullmatch(port) for port in ports):
        raise ValueError("expected PORT[/PROTOCOL]")
    added: dict[str, Any] = {port if "/" in port else f"{port}/tcp": {} for port in ports}
    made["ExposedPorts"] = {**(made.get("ExposedPorts") or {}), **added}


def _volumes(made: dict[str, Any], text: str) -> None:
    paths = json.loads(text) if text.startswith("[") else text.split()
    made["Volumes"] = {**(made.get("Volumes") or {}), **{str(path): {} for path in paths}}


def _set(key: str) -> Any:
    def change(made: dict[str, Any], text: str) -> None:
        made[key] = text

    return change


_INSTRUCTIONS = {
    "CMD": _command("Cmd"),
    "ENTRYPOINT": _command("Entrypoint"),
    "ENV": _environment,
    "EXPOSE": _ports,
    "LABEL": _labels,
    "STOPSIGNAL": _set("StopSignal"),
    "USER": _set("User"),
    "VOLUME": _volumes,
    "WORKDIR": _set("WorkingDir"),
}
