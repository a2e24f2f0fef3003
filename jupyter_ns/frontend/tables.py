"""Tables of namespaces and of changed files, as HTML and as plain text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..container import Change
from ..namespaces import KINDS
from .words import AMBER, GREEN, MUTED, aligned, clean, escape

OWN, SHARED, ABSENT = "≠", "=", "–"
LEGEND = f"{OWN} a namespace of its own · {SHARED} shared with the notebook's kernel"

TABLE = "border-collapse:collapse;font-size:14px;margin:0;width:auto;table-layout:auto"
_CELL = "text-align:left;padding:1px 14px 1px 0;white-space:nowrap"
CELL = f'style="{_CELL}"'
"""Attribute of a cell; without it, JupyterLab aligns to the right and spaces widely."""
NUMBER = f'style="{_CELL};font-variant-numeric:tabular-nums"'
RIGHT = f'style="{_CELL};padding-right:3px;font-variant-numeric:tabular-nums;text-align:right"'
PATH = f'style="{_CELL};white-space:normal;word-break:break-all"'
HEAD = f'style="{_CELL};font-weight:600"'
NOTE = f'style="{_CELL};{MUTED}"'


class NamespaceRow(NamedTuple):
    """A process or container: what to call it, and inode numbers by kind."""

    label: str
    ids: Mapping[str, int]
    shared: Mapping[str, str] = {}
    """Kind to the container that the namespace is of, where it is another's."""


def shared_words(shared: Mapping[str, str]) -> str:
    """Say which namespaces are another container's.

    Examples
    --------
    >>> shared_words({"network": "web", "pid": "web"})
    'network with web, pid with web'
    """
    return ", ".join(f"{kind} with {clean(name)}" for kind, name in shared.items())


_CHANGE_WORDS = {"A": "added", "C": "changed", "D": "deleted"}


def namespace_table(rows: Sequence[NamespaceRow], *, explain: bool = False) -> tuple[str, str]:
    """Lay several processes' or containers' namespaces side by side.

    Parameters
    ----------
    rows : sequence of (str, mapping of str to int)
        A label and the inode numbers by kind, as `jupyter_ns.namespaces.read` gives them; the first
        is the one that all others are compared with, the notebook kernel's.
    explain : bool
        Whether to add a column that says what each kind isolates.

    Returns
    -------
    html, text : str
        One line for each kind; each difference has the sign ``≠``, each equal number ``=``.

    Raises
    ------
    ValueError
        If there are no rows.
    """
    if not rows:
        raise ValueError("rows: the kernel's own namespaces at least")
    rows = [NamespaceRow(*row) for row in rows]
    labels = [row.label for row in rows]
    heads = ["namespace", *labels, *(["isolates"] if explain else [])]
    html_rows = ["<tr>" + "".join(f"<th {HEAD}>{escape(h)}</th>" for h in heads) + "</tr>"]
    text_rows = [[clean(h) for h in heads]]
    for kind in KINDS:
        own = rows[0].ids.get(kind.name)
        others = [row.ids.get(kind.name) for row in rows[1:]]
        cells = [str(own) if own is not None else ABSENT]
        marks = [compare(own, other) for other in others]
        of = [f" of {clean(row.shared[kind.name])}" if kind.name in row.shared else "" for row in rows[1:]]
        cells += [f"{m} {o}{w}" if o is not None else m for m, o, w in zip(marks, others, of, strict=True)]
        html_cells = [cells[0], *(marked(m, o) + escape(w) for m, o, w in zip(marks, others, of, strict=True))]
        note = [kind.isolates] if explain else []
        html_rows.append(
            f'<tr><td {CELL} title="{escape(kind.isolates)}">{kind.name}</td>'
            + "".join(f"<td {NUMBER}>{cell}</td>" for cell in html_cells)
            + "".join(f"<td {NOTE}>{escape(text)}</td>" for text in note)
            + "</tr>"
        )
        text_rows.append([kind.name, *cells, *note])
    table = f'<table style="{TABLE}">{"".join(html_rows)}</table>'
    if len(rows) == 1:
        return table, "\n".join(aligned(text_rows, indent=""))
    legend = f'<div style="font-size:12px;{MUTED}">{escape(LEGEND)}</div>'
    return table + legend, "\n".join([*aligned(text_rows, indent=""), LEGEND])


def compare(own: int | None, other: int | None) -> str:
    """Return the sign for two namespace IDs: ``≠``, ``=``, or ``–`` if one is not known."""
    if own is None or other is None:
        return ABSENT
    return OWN if own != other else SHARED


def marked(mark: str, number: int | None) -> str:
    """Return the HTML of a namespace ID after its sign, which is coloured and readable without."""
    if number is None:
        return mark
    colour = {OWN: f' style="color:{GREEN}"', SHARED: f' style="color:{AMBER}"'}.get(mark, "")
    return f"<b{colour}>{mark}</b> {number}"


def change_list(changes: Sequence[Change], *, most: int = 20, complete: bool = True) -> tuple[str, str]:
    """List what a container did to its file system.

    Parameters
    ----------
    changes : sequence of Change
        Kind (``A``, ``C``, ``D``) and path; a path may hold anything.
    most : int
        How many to list; the rest is counted.
    complete : bool
        False if there were more changes than were collected.

    Returns
    -------
    html, text : str
        Both empty if there are no changes.
    """
    if not changes:
        return "", ""
    shown = changes[:most]
    at_least = "" if complete else "at least "
    rest = len(changes) - len(shown)
    more = f"… and {at_least}{rest} more" if rest else ""
    html_rows = "".join(
        f'<tr><td {CELL} title="{_CHANGE_WORDS.get(kind, "")}"><b>{escape(kind)}</b></td>'
        f"<td {PATH}><code>{escape(path)}</code></td></tr>"
        for kind, path in shown
    )
    if more:
        html_rows += f"<tr><td {CELL}></td><td {NOTE}>{more}</td></tr>"
    text = [f"{clean(kind)} {clean(path)}" for kind, path in shown] + ([more] if more else [])
    return f'<table style="{TABLE}">{html_rows}</table>', "\n".join(text)


def change_summary(changes: Sequence[Change], *, complete: bool = True) -> str:
    """Count changes by kind.

    Examples
    --------
    >>> change_summary([Change("A", "/a"), Change("A", "/b"), Change("D", "/c")])
    '2 added, 1 deleted'
    """
    counts = Counter(kind for kind, _ in changes)
    words = ", ".join(f"{counts[kind]} {word}" for kind, word in _CHANGE_WORDS.items() if counts[kind])
    return words if complete else f"{words}, and more that were not counted"
