"""Docker's subcommands about images: what is here, where it comes from, where it goes."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, BinaryIO

from ...client import get_client
from ...errors import ImageError, UsageError
from ...images import archive
from ...images.base import BUSYBOX, HOST, OFFLINE, make_busybox
from ...images.commit import apply_changes
from ...images.elsewhere import KEEPER
from ...images.look import layers_of, origin, tree_text
from ...images.pull import Progress, pull, push
from ...images.reference import DEFAULT_REGISTRY, Reference, parse_reference
from ...images.registry import save_login
from ...images.store import Image, Store, hex_of
from ...units import format_decimal_bytes
from ..words import escape
from .console import Console
from .grammar import Command, Flag, Parsed, filter_pair
from .html import html_table
from .templates import compile_template, to_json
from .text import formatted, human_duration

NONE = "<none>"
MISSING = "<missing>"
_CREATED_BY_MAX = 45
_FORMAT = Flag(flags=("--format",), help="table, table TEMPLATE, json or a Go template", metavar="FORMAT")
_NO_TRUNC = Flag(flags=("--no-trunc",), help="Do not cut what is long")
_QUIET = Flag(flags=("-q", "--quiet"), help="Only IDs")
_NO_BUILD = "Dockerfiles are not built here; run the steps in a container, then commit it"


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
            console.line(f"{path}: layer {layer.number} {layer.says} it{seen}")


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
        "Parent": "",
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
    by_name = [n for n in names if _is_name(text, n)]
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


def _is_name(text: str, name: Reference) -> bool:
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


# ---- archives ----


def run_load(console: Console, given: Parsed) -> None:
    """Load images from an archive."""
    path = given.get("input", "") or console.source
    if not path:
        raise UsageError("load: expected an archive: load -i FILE, or load < FILE")
    for image, names in archive.load(Store(), os.path.expanduser(path)):
        console.write("".join(f"Loaded image: {n.short}\n" for n in names) or f"Loaded image ID: {image.id}\n")


@contextlib.contextmanager
def output(console: Console, path: str, what: str) -> Iterator[BinaryIO]:
    """Open the file that an archive goes to, which appears whole or not at all; or the pipe behind the line.

    Raises
    ------
    UsageError
        If none was named, or it cannot be written.
    """
    if not path and console.binary is not None:
        yield console.binary
        return
    if not path:
        raise UsageError(f"{what}: a cell is no place for an archive: {what} -o FILE …, or {what} … > FILE")
    path = os.path.expanduser(path)
    part = f"{path}.part-{os.getpid()}"
    try:
        with open(part, "xb") as out:
            yield out
        os.replace(part, path)
    except OSError as e:
        raise UsageError(f"{what} -o {path}: {e.strerror}") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def run_save(console: Console, given: Parsed) -> None:
    """Save images as an archive that Docker and OCI tools read."""
    store = Store()
    chosen: dict[str, tuple[Image, list[Reference]]] = {}
    for text in given.arguments:
        image = find(store, text)
        _, names = chosen.setdefault(image.id, (image, []))
        names += [n for n in store.names_of(image.id) if _is_name(text, n)]
    with output(console, given.get("output", ""), "save") as out:
        archive.save(store, list(chosen.values()), out)


def run_import(console: Console, given: Parsed) -> None:
    """Make an image of an archive of files."""
    path, *name = given.arguments
    if path == "-" and console.source:
        path = console.source
    if path == "-" or "://" in path:
        raise UsageError(f"import {path}: expected a file, or - and < FILE; URLs are not fetched")
    runtime = apply_changes({}, given.get("change", []))
    path = os.path.expanduser(path)
    try:
        with open(path, "rb") as raw:
            names = [parse_reference(n) for n in name]
            comment = given.get("message") or f"Imported from {path}"
            image = archive.import_files(Store(), raw, names, runtime, comment)
    except OSError as e:
        raise UsageError(f"import {path}: {e.strerror}") from None
    console.line(image.id)


# ---- registries ----


class Bars(Progress):
    """Draws a bar for each layer in a notebook; lines of text elsewhere."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        super().__init__(lambda text: None if quiet or console.rich else console.line(text))
        self._console, self._quiet = console, quiet
        self._handle: Any = None
        self._drawn: dict[str, tuple[str, int, int]] = {}

    def draw(self) -> None:
        """Draw what has changed."""
        if self._quiet or not self._console.rich or self.bars == self._drawn:
            return
        self._drawn = dict(self.bars)
        rows = [
            [f"<code>{escape(key)}</code>", escape(words), _bar(done, total), _amount(done, total)]
            for key, (words, done, total) in self._drawn.items()
        ]
        text = "".join(f"{key}: {words} {_amount(*n)}\n" for key, (words, *n) in self._drawn.items())
        html = html_table(["Layer", "", "", ""], rows, trusted=frozenset((0, 1, 2)))
        self._handle = self._console.update(self._handle, text, html)


def _bar(done: int, total: int) -> str:
    return f'<progress max="{total}" value="{done}"></progress>' if total else ""


def _amount(done: int, total: int) -> str:
    return f"{format_decimal_bytes(done)}/{format_decimal_bytes(total)}" if total and done < total else ""


def run_pull(console: Console, given: Parsed) -> None:
    """Pull an image from its registry."""
    quiet = bool(given.get("quiet"))
    name = given.arguments[0]
    if name == HOST:
        raise UsageError(f"pull {HOST}: this machine's own files are here already")
    reference = parse_reference(name)
    if not quiet and ":" not in name.rpartition("/")[2] and not reference.digest:
        console.line(f"Using default tag: {reference.tag}")
    bars = Bars(console, quiet=quiet)
    try:
        image = pull(
            Store(),
            reference,
            platform=given.get("platform", ""),
            say=(lambda _: None) if quiet else console.line,
            progress=bars,
        )
    except ImageError as e:
        raise ImageError(f"{reference.short} cannot be pulled: {e}. {OFFLINE}") from None
    bars.draw()
    if console.rich and not quiet:
        console.line(f"Digest: {image.manifest}")
    console.line(reference)


def run_push(console: Console, given: Parsed) -> None:
    """Push an image to its registry."""
    store = Store()
    quiet = bool(given.get("quiet"))
    reference = parse_reference(given.arguments[0])
    say = (lambda _: None) if quiet else console.line
    push(store, store.find(given.arguments[0]), reference, say=say, progress=Bars(console, quiet=quiet))
    if quiet:
        console.line(reference)


def run_login(console: Console, given: Parsed) -> None:
    """Keep a user and a password for a registry, in a file that only this user reads."""
    server = _server(given)
    user = given.get("username") or _ask("Username: ")
    password = given.get("password")
    if given.get("password_stdin"):
        if not console.has_stdin:
            raise UsageError("login --password-stdin: expected the password as the cell's text, below %%docker")
        password = console.stdin.decode().strip()
    elif password is None:
        password = getpass.getpass("Password: ")
    if not user or not password:
        raise UsageError("login: expected a user and a password")
    save_login(Store(), server, (user, password))
    console.line(f"Kept for {server}; whether it is right shows with the next pull or push")


def _ask(prompt: str) -> str:
    return input(prompt) if sys.stdin is not None else ""


def _server(given: Parsed) -> str:
    text = given.arguments[0] if given.arguments else DEFAULT_REGISTRY
    return text.removeprefix("https://").removeprefix("http://").split("/")[0]


def run_logout(console: Console, given: Parsed) -> None:
    """Forget a registry's password."""
    server = _server(given)
    known = save_login(Store(), server, None)
    console.line(f"Removing login credentials for {server}" if known else f"Not logged in to {server}")


def run_build(_console: Console, _given: Parsed) -> None:
    """Refuse, with the reason."""
    raise UsageError(f"build: {_NO_BUILD}")


# ---- tables ----


def _row(name: str, usage: str, text: str, run: Any, least: int, most: int, *flags: Flag) -> Command:
    return Command(name=name, usage=usage, help=text, run=run, least=least, most=most, flags=flags)


MANY = 10_000
_IMAGES_FLAGS = (
    Flag(flags=("-a", "--all"), help="Show all images: there are no hidden ones"),
    Flag(flags=("--digests",), help="Show digests"),
    Flag(
        flags=("-f", "--filter"),
        help="Filter by KEY=VALUE: dangling, reference",
        metavar="FILTER",
        parse=filter_pair,
        repeatable=True,
    ),
    _FORMAT,
    _NO_TRUNC,
    _QUIET,
)
_HISTORY = (
    _FORMAT,
    Flag(flags=("-H", "--human"), help="Sizes and dates for people"),
    _NO_TRUNC,
    _QUIET,
)
_RMI = (
    Flag(flags=("-f", "--force"), help="Also where it has several names"),
    Flag(flags=("--no-prune",), help="Nothing to keep: layers belong to images"),
)
_CHANGE = Flag(flags=("-c", "--change"), help="A Dockerfile's word: CMD, ENV…", metavar="TEXT", repeatable=True)
_MESSAGE = Flag(flags=("-m", "--message"), help="Comment", metavar="TEXT")
_PULL = (
    _QUIET,
    Flag(flags=("--platform",), help="OS/ARCHITECTURE[/VARIANT]", metavar="PLATFORM"),
    Flag(flags=("-a", "--all-tags"), refuse="pull them one by one"),
    Flag(flags=("--disable-content-trust",), help="Digests are verified always, signatures never"),
)
_INPUT = Flag(flags=("-i", "--input"), help="The archive, or a directory in OCI layout", metavar="FILE")
_OUTPUT = Flag(flags=("-o", "--output"), help="Where it goes", metavar="FILE")
_INSPECT = Flag(flags=("-f", "--format"), help="json or a Go template", metavar="FORMAT")
_PRUNE = (
    Flag(flags=("-a", "--all"), help="Also those with a name that no container uses"),
    Flag(flags=("-f", "--force"), help="Do not ask: it never does"),
)

_ROWS: tuple[Command, ...] = (
    _row("images", "[OPTIONS] [REPOSITORY[:TAG]]", "List images", run_images, 0, 1, *_IMAGES_FLAGS),
    _row("history", "[OPTIONS] IMAGE", "Show how an image was made", run_history, 1, 1, *_HISTORY),
    _row("layers", "IMAGE [PATH…]", "Show what each layer added and hid, or where paths come from", run_layers, 1, MANY,
         _NO_TRUNC),
    _row("image inspect", "[OPTIONS] IMAGE…", "Print everything about images as JSON", run_inspect, 1, MANY, _INSPECT),
    _row("tag", "SOURCE TARGET", "Give an image one more name", run_tag, 2, 2),
    _row("rmi", "[OPTIONS] IMAGE…", "Remove images, or names of them", run_rmi, 1, MANY, *_RMI),
    _row("image prune", "[OPTIONS]", "Remove images without a name", run_prune, 0, 0, *_PRUNE),
    _row("load", "[-i FILE]", "Load images from an archive", run_load, 0, 0, _INPUT, _QUIET),
    _row("save", "[-o FILE] IMAGE…", "Save images as an archive", run_save, 1, MANY, _OUTPUT),
    _row("import", "FILE|- [NAME[:TAG]]", "Make an image of an archive of files", run_import, 1, 2, _CHANGE, _MESSAGE),
    _row("pull", "[OPTIONS] NAME[:TAG|@DIGEST]", "Pull an image from its registry", run_pull, 1, 1, *_PULL),
    _row("push", "[OPTIONS] NAME[:TAG]", "Push an image to its registry", run_push, 1, 1, _QUIET),
    _row("login", "[OPTIONS] [SERVER]", "Keep a registry's user and password", run_login, 0, 1,
         Flag(flags=("-u", "--username"), help="User", metavar="NAME"),
         Flag(flags=("-p", "--password"), help="Password; it would stay in the notebook", metavar="TEXT"),
         Flag(flags=("--password-stdin",), help="The password is the cell's text")),
    _row("logout", "[SERVER]", "Forget a registry's password", run_logout, 0, 1),
    _row("build", "…", f"Refused: {_NO_BUILD}", run_build, 0, MANY),
)  # fmt: skip
_ALSO = {
    "image ls": "images",
    "image list": "images",
    "image rm": "rmi",
    "image remove": "rmi",
    **{f"image {name}": name for name in ("history", "tag", "load", "save", "import", "pull", "push", "build")},
}
IMAGES: tuple[Command, ...] = (
    *_ROWS,
    *(replace(row, name=also) for also, name in _ALSO.items() for row in _ROWS if row.name == name),
)
