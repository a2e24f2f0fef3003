"""Tables as HTML, from text that a container may have made."""

from __future__ import annotations

from collections.abc import Sequence

from ..tables import CELL, HEAD, TABLE
from ..words import escape


def html_table(heads: Sequence[str], rows: Sequence[Sequence[object]], *, trusted: frozenset[int] = frozenset()) -> str:
    """Write a table; only cells of columns in `trusted` are HTML already.

    Examples
    --------
    >>> "&lt;b&gt;" in html_table(["A"], [["<b>"]])
    True
    """
    head = "".join(f"<th {HEAD}>{escape(h)}</th>" for h in heads)
    body = "".join(
        "<tr>" + "".join(f"<td {CELL}>{c if i in trusted else escape(c)}</td>" for i, c in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<table style="{TABLE}"><tr>{head}</tr>{body}</table>'
