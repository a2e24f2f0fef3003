"""Options about the notebook's side of a run: variables, results, what is shown."""

from __future__ import annotations

import keyword

from .option_types import Option, boolean, choice, negated, plain

_STATES = (
    ("copy", "the variables that the cell reads are copied in"),
    ("fork", "a copy-on-write fork of the live kernel"),
    ("none", "a clean interpreter"),
)
_PLACES = (
    ("host", "in this machine's own kernel"),
    ("guest", "in a user-mode Linux kernel, which needs no privilege"),
)


def _identifier(text: str) -> str:
    if not text.isidentifier() or keyword.iskeyword(text):
        raise ValueError("expected a Python identifier")
    return text


def _identifiers(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
        raise ValueError("expected Python identifiers with commas between: a,b")
    return names


NOTEBOOK: tuple[Option, ...] = (
    Option(
        flags=("--on",),
        help="Which Linux kernel it runs on: host, or guest, which needs no privilege and costs speed",
        group="Notebook",
        sets="request.on",
        parse=choice(_PLACES),
        metavar="PLACE",
        default="host",
        choices=_PLACES,
    ),
    Option(
        flags=("--state",),
        help="How a Python cell sees the notebook's variables: copy, fork or none",
        group="Notebook",
        sets="request.state",
        parse=choice(_STATES),
        metavar="STATE",
        default="copy",
        choices=_STATES,
    ),
    Option(
        flags=("--in",),
        help="Variables to send in, instead of those found by analysis: a,b",
        group="Notebook",
        sets="request.inputs",
        parse=plain(_identifiers),
        metavar="NAMES",
        repeatable=True,
    ),
    Option(
        flags=("--out",),
        help="Variables to bring back: r,s; what is not named stays inside",
        group="Notebook",
        sets="request.outputs",
        parse=plain(_identifiers),
        metavar="NAMES",
        repeatable=True,
    ),
    Option(
        flags=("-o", "--result"),
        help="Leave the Container under this name, beside _container",
        group="Notebook",
        sets="request.result",
        parse=plain(_identifier),
        metavar="NAME",
    ),
    Option(
        flags=("--trust",),
        help="Believe what the container sends: unpickle it, show its HTML and scripts",
        group="Notebook",
        sets="request.trust",
        parse=boolean,
    ),
    Option(
        flags=("--explain",),
        help="Show, after the run, every step with its manual page and the time it took",
        group="Notebook",
        sets="request.explain",
        parse=boolean,
    ),
    Option(
        flags=("--quiet",),
        help="Show the output only, no card",
        group="Notebook",
        sets="request.quiet",
        parse=boolean,
    ),
    Option(
        flags=("--no-raise-error",),
        help="Do not raise when a program ends with a non-zero exit code",
        group="Notebook",
        sets="request.raise_error",
        parse=negated,
    ),
    Option(
        flags=("--help",),
        help="Show this help",
        group="Notebook",
        sets="request.help",
        parse=boolean,
    ),
)
