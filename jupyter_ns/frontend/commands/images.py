"""Docker's subcommands about images: what is here, where it comes from, where it goes."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ...client import get_client
from ...errors import ImageError, UsageError
from ...images.base import BUSYBOX, HOST, make_busybox
from ...images.elsewhere import KEEPER
from ...images.look import layers_of, origin, tree_text
from ...images.record import Image, hex_of
from ...images.reference import Reference, parse_reference
from ...images.store import Store
from ...units import format_decimal_bytes
from ..words import escape
from .console import Console
from .grammar import Parsed
from .html import html_table
from .templates import compile_template, to_json
from .text import formatted, human_duration

NONE = "<none>"
MISSING = "<missing>"
_CREATED_BY_MAX = 45


# ---- listing ----


def created_s(image: Image) -> float:
    """Return when an image was made, seconds since the epoch; -1 if it does not say."""
    try:
        return datetime.fromisoformat(str(image.config.get("created"))[:26].rstrip("Z") + "+00:00").timestamp()
    except ValueError:
        return -1.0


def ago(seconds: float) -> str:
    """Word how long ago something was, as Docker's CREATED column does; ``N/A`` for no time."""
    return f"{human_duration(max(0.0, time.time() - seconds))} ago" if seconds >= 0 else "N/A"


IMAGE_HEADS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
}


def image_rows(store: Store, *, truncate: bool, digests: bool = False) -> list[dict[str, Any]]:
    """List images as ``docker images`` does, one row a name, the newest first."""
    found = []
    for image in sorted(store.images(), key=created_s, reverse=True):
        names: list[Reference | None] = list(store.names_of(image.id)) or [None]
        for name in names:
            made = created_s(image)
            found.append(
                {
                    "Repository": name.familiar if name else NONE,
                    "Tag": name.tag if name else NONE,
                    "Digest": image.manifest if digests else NONE,
                    "ID": hex_of(image.id)[:12] if truncate else image.id,
                    "CreatedSince": ago(made),
                    "CreatedAt": datetime.fromtimestamp(made).astimezone().strftime("%Y-%m-%d %H:%M:%S %z %Z"),
                    "Size": format_decimal_bytes(store.image_bytes(image)),
                    "Containers": "N/A",
                }
            )
    return found


def _wanted(row: Mapping[str, Any], filters: list[tuple[str, str]], name: str) -> bool:
    if name:
        reference = parse_reference(name)
        if row["Repository"] != reference.familiar or (":" in name.rpartition("/")[2] and row["Tag"] != reference.tag):
            return False
    for key, value in filters:
        if key == "dangling":
            if (row["Tag"] == NONE) != (value in ("true", "1")):
                return False
        elif key == "reference":
            from fnmatch import fnmatch

            if not any(fnmatch(text, value) for text in (row["Repository"], f"{row['Repository']}:{row['Tag']}")):
                return False
        else:
            raise UsageError(f"--filter {key}: invalid filter; there are: dangling, reference")
    return True


def run_images(console: Console, given: Parsed) -> None:
    """List images."""
    name = given.arguments[0] if given.arguments else ""
    digests = bool(given.get("digests"))
    rows = image_rows(Store(), truncate=not given.get("no_trunc"), digests=digests)
    rows = [row for row in rows if _wanted(row, given.get("filter", []), name)]
    if given.get("quiet"):
        console.write("".join(f"{i}\n" for i in dict.fromkeys(row["ID"] for row in rows)))
        return
    columns = ("Repository", "Tag", *(("Digest",) if digests else ()), "ID", "CreatedSince", "Size")
    show(console, given.get("format", ""), rows, IMAGE_HEADS, columns)


def show(
    console: Console, form: str, rows: list[dict[str, Any]], heads: Mapping[str, str], columns: tuple[str, ...]
) -> None:
    """Print rows by ``--format``; a table in a notebook is HTML."""
    text = formatted(form, rows, heads, "\t".join(f"{{{{.{c}}}}}" for c in columns))
    if form in ("", "table"):
        console.table(text, html_table([heads[c] for c in columns], [[row[c] for c in columns] for row in rows]))
    else:
        console.write(text)


# ---- history, layers ----

_HISTORY_HEADS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}


def history_rows(store: Store, image: Image, *, truncate: bool, human: bool = True) -> list[dict[str, Any]]:
    """List the steps that made an image as ``docker history`` does, the newest first."""
    entries = image.config.get("history")
    steps = [h for h in entries if isinstance(h, dict)] if isinstance(entries, list) else []
    chains = list(image.chains)
    if not steps:
        steps = [{} for _ in chains]
    found = []
    for step in steps:
        size = 0 if step.get("empty_layer") or not chains else store.layer_bytes(chains.pop(0))
        created = Image(id="", manifest="", layers=(), config=step)
        words = str(step.get("created_by") or "").replace("\t", " ").replace("\n", " ")
        if truncate and len(words) > _CREATED_BY_MAX:
            words = words[: _CREATED_BY_MAX - 1] + "…"
        found.append(
            {
                "ID": MISSING,
                "CreatedSince": ago(created_s(created)) if human else str(step.get("created", "")),
                "CreatedAt": str(step.get("created", "")),
                "CreatedBy": words,
                "Size": format_decimal_bytes(size) if human else str(size),
                "Comment": str(step.get("comment") or ""),
            }
        )
    found.reverse()
    if found:
        found[0]["ID"] = hex_of(image.id)[:12] if truncate else image.id
    return found


def run_history(console: Console, given: Parsed) -> None:
    """Print how an image was made."""
    store = Store()
    truncate, human = not given.get("no_trunc"), bool(given.get("human", True))
    rows = history_rows(store, find(store, given.arguments[0]), truncate=truncate, human=human)
    if given.get("quiet"):
        console.write("".join(f"{row['ID']}\n" for row in rows))
        return
    created = "CreatedSince" if human else "CreatedAt"
    show(console, given.get("format", ""), rows, _HISTORY_HEADS, ("ID", created, "CreatedBy", "Size", "Comment"))


def find(store: Store, name: str) -> Image:
    """Find an image; ``busybox`` is made where it is not.

    Raises
    ------
    ImageError
        If there is none; ``host`` is none.
    """
    if name == HOST:
        raise ImageError(f"{HOST} is this machine's own files, and no image of the store")
    try:
        return store.find(name)
    except ImageError:
        if str(parse_reference(name)) != BUSYBOX:
            raise
        return make_busybox(store)


def run_layers(console: Console, given: Parsed) -> None:
    """Draw an image's layers, or say which of them a path comes from."""
    store = Store()
    name, *paths = given.arguments
    image = find(store, name)
    if not paths:
        views = layers_of(store, image)
        most = max(len(view.changes) for view in views) if given.get("no_trunc") else 5
        text = tree_text(name, views, bytes_words=format_decimal_bytes, most=most)
        console.table(text, f"<pre>{escape_lines(text)}</pre>")
        return
    for path in paths:
        for layer in origin(store, image, path):
            seen = "  (what is seen)" if layer.seen else ""
            where = f"layer {layer.number}" if layer.number else "this machine"
            console.line(f"{path}: {where} {layer.says} it{seen}")


def escape_lines(text: str) -> str:
    """Escape text as HTML, line by line."""
    return "\n".join(escape(line) for line in text.splitlines())


# ---- inspect ----


def image_json(store: Store, image: Image) -> dict[str, Any]:
    """Describe an image as ``docker image inspect`` does."""
    names = store.names_of(image.id)
    return {
        "Id": image.id,
        "RepoTags": [f"{n.familiar}:{n.tag}" for n in names],
        "RepoDigests": sorted({f"{n.familiar}@{image.manifest}" for n in names}),
        "Parent": image.base,
        "Comment": "",
        "Created": image.config.get("created", ""),
        "DockerVersion": "",
        "Author": image.config.get("author", ""),
        "Config": image.runtime,
        "Architecture": image.config.get("architecture", ""),
        "Os": image.config.get("os", ""),
        "Size": store.image_bytes(image),
        "GraphDriver": {
            "Data": {"LowerDir": ":".join(store.lower_directories(image))},
            "Name": "overlayfs",
        },
        "RootFS": {"Type": "layers", "Layers": [layer.diff_id for layer in image.layers]},
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
    }


def run_inspect(console: Console, given: Parsed) -> None:
    """Print everything about images as JSON, or what a template takes of it."""
    store = Store()
    print_json(console, given.get("format", ""), [image_json(store, find(store, n)) for n in given.arguments])


def print_json(console: Console, form: str, found: list[dict[str, Any]]) -> None:
    """Print what ``inspect`` found."""
    if form == "json":
        console.line(to_json(found))
    elif form:
        fill = compile_template(form)
        for one in found:
            console.line(fill(one))
    else:
        console.line(json.dumps(found, indent=4, ensure_ascii=False))


# ---- names and removal ----


def run_tag(_console: Console, given: Parsed) -> None:
    """Give an image one more name."""
    store = Store()
    source, target = given.arguments
    name = parse_reference(target)
    if name.digest:
        raise UsageError(f"tag {target}: expected a name without a digest")
    store.tag(find(store, source).id, [name])


def run_rmi(console: Console, given: Parsed) -> None:
    """Remove images, or names of them."""
    store = Store()
    let_go()
    failures = []
    for text in given.arguments:
        try:
            for line in remove_image(store, text, force=bool(given.get("force"))):
                console.line(line)
        except ImageError as e:
            failures.append(str(e))
    if failures:
        raise ImageError("; ".join(failures))


def let_go() -> None:
    """Have this notebook's engine drop the containers that it only holds ready: they hold images and volumes."""
    if KEEPER not in os.environ:
        get_client().sync()


def remove_image(store: Store, text: str, *, force: bool) -> list[str]:
    """Remove a name, and the image with its last one; return what Docker prints.

    Raises
    ------
    ImageError
        If there is none, it has several names and was given by its ID, or a container uses it.
    """
    image = store.find(text)
    names = store.names_of(image.id)
    by_name = [n for n in names if is_name(text, n)]
    if by_name and len(names) > 1:
        store.untag(by_name[0])
        return [f"Untagged: {by_name[0].short}"]
    if not by_name and len(names) > 1 and not force:
        raise ImageError(
            f"conflict: unable to delete {hex_of(image.id)[:12]} (must be forced): image is referenced in several "
            f"repositories: {', '.join(n.short for n in names)}"
        )
    store.remove(image.id)
    removed, _ = store.collect()
    return [*(f"Untagged: {n.short}" for n in names), f"Deleted: {image.id}", *(f"Deleted: {c}" for c in removed)]


def is_name(text: str, name: Reference) -> bool:
    """Whether a name that was typed is this one."""
    try:
        given = parse_reference(text)
    except UsageError:
        return False
    return (given.repository, given.tag) == (name.repository, name.tag)


def run_prune(console: Console, given: Parsed) -> None:
    """Remove images without a name; with ``-a``, all that no container uses."""
    lines, freed = prune_images(Store(), everything=bool(given.get("all")))
    if lines:
        console.write("Deleted Images:\n" + "".join(f"{line}\n" for line in lines) + "\n")
    console.line(f"Total reclaimed space: {format_decimal_bytes(freed)}")


def prune_images(store: Store, *, everything: bool) -> tuple[list[str], int]:
    """Remove images that nobody uses; return what Docker prints, and the bytes that were freed."""
    let_go()
    lines = []
    for image in store.images():
        names = store.names_of(image.id)
        if (names and not everything) or store.in_use(image.id):
            continue
        with contextlib.suppress(ImageError):  # a container was faster
            store.remove(image.id)
            lines += [*(f"untagged: {n.short}" for n in names), f"deleted: {image.id}"]
    removed, freed = store.collect(downloads=True)
    return [*lines, *(f"deleted: {chain}" for chain in removed)], freed
