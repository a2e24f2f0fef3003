"""Docker's subcommands about images: the table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .building import BUILD
from .grammar import Command, Flag, filter_pair
from .images import run_history, run_images, run_inspect, run_layers, run_prune, run_rmi, run_tag
from .transfers import run_import, run_load, run_login, run_logout, run_pull, run_push, run_save

_FORMAT = Flag(flags=("--format",), help="table, table TEMPLATE, json or a Go template", metavar="FORMAT")
_NO_TRUNC = Flag(flags=("--no-trunc",), help="Do not cut what is long")
_QUIET = Flag(flags=("-q", "--quiet"), help="Only IDs")


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
    BUILD,
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
