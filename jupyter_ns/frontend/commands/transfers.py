"""Docker's subcommands that bring images here and take them away: archives and registries."""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from ...errors import ImageError, UsageError
from ...images import archive
from ...images.base import HOST, OFFLINE
from ...images.commit import apply_changes
from ...images.pull import Progress, pull, push
from ...images.record import Image
from ...images.reference import DEFAULT_REGISTRY, Reference, parse_reference
from ...images.registry import save_login
from ...images.store import Store
from ...units import format_decimal_bytes
from ..words import escape
from .console import Console
from .grammar import Parsed
from .html import html_table
from .images import find, is_name

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
        names += [n for n in store.names_of(image.id) if is_name(text, n)]
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
