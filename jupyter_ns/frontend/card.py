"""The card of one container: live while it runs, frozen when it has ended, one line if it was short.

Notes
-----
The frozen card is tables and text only: viewers of saved notebooks drop ``<svg>`` and ``<script>``, and
some drop every style. All that comes from a container, names and paths above all, is escaped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from ..container import Container
from ..namespaces import KINDS
from ..runner import MAX_OUTPUT_CHARS
from ..sizing import right_size
from ..spec import LimitRecord
from ..units import format_bytes, format_duration
from .figure import final_png
from .svg import sparklines
from .tables import (
    CELL,
    HEAD,
    LEGEND,
    NOTE,
    NUMBER,
    RIGHT,
    TABLE,
    NamespaceRow,
    change_list,
    change_summary,
    compare,
    marked,
    namespace_table,
    shared_words,
)
from .words import AMBER, MUTED, RED, aligned, clean, count, escape, limit_label, limit_owner, limit_value, state

__all__ = ["Bundle", "facts", "final_bundle", "final_png", "live_html", "one_line"]

Bundle = tuple[dict[str, Any], dict[str, Any]]

_LOST = ".jupyter-widgets-disconnected"
_LOST_STYLE = (
    f"<style>.jns-lost{{display:none}}{_LOST} .jns-lost{{display:inline}}{_LOST} .jns-live{{display:none}}"
    f".jns-card{_LOST}::before,.jns-card {_LOST}::before{{content:none}}"
    f".jns-card{_LOST}>:not(.widget-html){{display:none}}</style>"
)
"""How a card looks whose kernel went without freezing it: in the browser, ipywidgets then marks its widgets."""

_CARD = "font-size:14px;line-height:1.45;margin:2px 0"
_OPEN_CHANGES = 6  # up to as many are shown without a click


def live_html(container: Container, elapsed_s: float, note: str = "") -> str:
    """Draw the card of a running container, for `ipywidgets.HTML`.

    Parameters
    ----------
    container : Container
        Its `usage` may grow meanwhile.
    elapsed_s : float
        Seconds since its start.
    note : str
        Plain text for its last line.

    Returns
    -------
    str
        HTML with one inline SVG; made anew for each refresh.
    """
    words = (
        f'<span class="jns-live">{_state_html(container)}</span>'
        f'<span class="jns-lost"><span style="color:{RED}">✗</span> gone with the notebook\'s kernel</span>'
    )
    return (
        f'{_LOST_STYLE}<div style="{_CARD}">{_headline_html(words, container, elapsed_s)}'
        f'<div style="margin-top:6px">{sparklines(container.usage, container.spec.limits)}</div>'
        f"{_io_html(container)}{_namespaces_live(container)}{_weakened_html(container)}"
        f'<div style="font-size:12px;{MUTED}">{escape(note)}</div></div>'
    )


def _state_html(container: Container) -> str:
    now = state(container)
    return f'<span style="color:{now.colour}">{now.mark}</span> {escape(now.words)}'


def _headline_html(words: str, container: Container, elapsed_s: float) -> str:
    name = f"<b>{escape(container.name)}</b> " if container.name else ""
    return (
        f"<div>{words} · {name}"
        f'<code title="{escape(container.id)}">{escape(container.short_id)}</code> · '
        f'<span style="font-variant-numeric:tabular-nums">{format_duration(elapsed_s)}</span></div>'
    )


def _transferred(container: Container) -> str | None:
    read, written = container.usage.last("read_bytes"), container.usage.last("write_bytes")
    if read is None or written is None:
        return None
    return f"{format_bytes(read)} read, {format_bytes(written)} written"


def _io_html(container: Container) -> str:
    moved = _transferred(container)
    return f'<div style="font-size:12px;{MUTED}">Block I/O {moved}</div>' if moved else ""


def _namespaces_live(container: Container) -> str:
    """Lay the kinds out as columns: two lines under the plot, which a refresh cannot fold away."""
    kinds = [k.name for k in KINDS if k.name in container.namespaces]
    if not kinds:
        return ""
    ids = [container.namespaces[kind] for kind in kinds]
    rows = (
        ("namespace", kinds),
        (_kernel(container), [str(pair.host) for pair in ids]),
        ("container", [marked(compare(*pair), pair.container) for pair in ids]),
    )
    lines = "".join(
        f"<tr><td {HEAD}>{title}</td>{''.join(f'<td {RIGHT}>{cell}</td>' for cell in cells)}</tr>"
        for title, cells in rows
    )
    # Eight columns of ten digits, as small as leaves them beside each other in a window of 1300 pixels.
    table = f'<table style="{TABLE};font-size:11px;line-height:1.3">{lines}</table>'
    return (
        f'<div style="overflow-x:auto;margin-top:4px">{table}</div>'
        f'<div style="font-size:12px;{MUTED}">{escape(LEGEND)}</div>{_shared_live(container)}'
    )


def _shared_live(container: Container) -> str:
    said = f"shared namespaces: {shared_words(container.shared)}" if container.shared else ""
    return f'<div style="font-size:12px;{MUTED}">{escape(said)}</div>' if said else ""


def _kernel(container: Container) -> str:
    return "guest kernel" if container.guest else "this kernel"


def _weakened_html(container: Container) -> str:
    return "".join(
        f'<div><b style="color:{AMBER}">!</b> weaker than asked: {escape(reason)}</div>'
        for reason in container.weakened
    )


def facts(container: Container) -> list[tuple[str, str]]:
    """Return what is to be said of an ended container, as label and plain text with units."""
    limits, usage = container.spec.limits, container.usage
    wall, cpu, stopped = container.wall_seconds, container.cpu_seconds, container.throttled_seconds
    rows = [
        ("wall time", format_duration(wall)),
        ("CPU time", format_duration(cpu) + (f" ({100 * cpu / wall:.0f} % of one CPU)" if wall > 0 else "")),
    ]
    if stopped or limits.cpu_bandwidth_us:
        share = f" ({100 * stopped / wall:.0f} % of the wall time)" if wall > 0 else ""
        rows.append(("throttled", format_duration(stopped) + share))
    rows.append(("peak memory", _peak_memory(container)))
    if container.peak_memory_source:
        rows.append(("peak read from", container.peak_memory_source))
    pids = usage.peak("pids")
    if pids is not None:
        limit = limits.pids_limit if limits.pids_limit and limits.pids_limit > 0 else None
        rows.append(("peak PIDs", f"{pids}" if limit is None else f"{pids} of {limit}"))
    moved = _transferred(container)
    if moved:
        rows.append(("block I/O", moved))
    if container.shared:
        rows.append(("shared namespaces", shared_words(container.shared)))
    ooms = usage.oom_times
    if ooms:
        rows.append(("out of memory", "at " + ", ".join(format_duration(t) for t in ooms[:5])))
    if container.oom_limit is not None:
        whose, amount = limit_owner(container.oom_limit), format_bytes(container.oom_limit.limit_bytes)
        rows.append(("limit hit", f"memory of {whose}: {amount}"))
    for time, text in usage.hits:
        what, _, times = text.rstrip(")").partition(" (")
        rows.append((what, f"{times}, first at {format_duration(time)}"))
    rows += [(f"{stream} truncated", note) for stream, note in _truncations(container)]
    return [(label, clean(text)) for label, text in rows]


def _truncations(container: Container) -> list[tuple[str, str]]:
    """Return the streams that were longer than what is kept, each with the runner's own note at its end."""
    streams = (("stdout", container.stdout), ("stderr", container.stderr))
    return [(name, text[MAX_OUTPUT_CHARS:].strip()) for name, text in streams if len(text) > MAX_OUTPUT_CHARS]


def _peak_memory(container: Container) -> str:
    peak, limit = container.peak_memory_bytes, container.spec.limits.memory_bytes
    if peak is None:
        return "unknown"
    of = f" of {format_bytes(limit)} ({100 * peak / limit:.0f} %)" if limit else ""
    return f"{format_bytes(peak)}{of}"


def _limit_rows(limits: Sequence[LimitRecord]) -> list[tuple[str, str, str]]:
    """Word the limits, one row each: one that went to several files (``--cpus`` to quota and period) names them all."""
    rows = []
    for (name, requested), group in groupby(limits, key=lambda limit: (limit.name, limit.requested)):
        records = list(group)
        # The file's name says the unit, where it is another than the option's.
        units = [one.file if one.file.endswith("_us") else name for one in records]
        obtained = ", ".join(limit_value(unit, one.effective) for unit, one in zip(units, records, strict=True))
        files = ", ".join(clean(one.file) for one in records)
        rows.append((limit_label(name), f"{limit_value(name, requested)} → {obtained}", files))
    return rows


def final_bundle(container: Container) -> Bundle:
    """Draw the card of an ended container, to stay in the saved notebook.

    Returns
    -------
    data, metadata : dict
        A MIME bundle of ``text/html`` (tables only) and ``text/plain`` with the same facts.
    """
    own = {kind: pair.host for kind, pair in container.namespaces.items()}
    inside = {kind: pair.container for kind, pair in container.namespaces.items()}
    namespaces = namespace_table(
        [NamespaceRow(_kernel(container), own), NamespaceRow("container", inside, container.shared)]
    )
    changes = change_list(container.changes, complete=not container.changes_truncated)
    return {
        "text/html": _final_html(container, namespaces[0] if own else "", changes[0]),
        "text/plain": _final_text(container, namespaces[1] if own else "", changes[1]),
    }, {}


def _final_html(container: Container, namespaces: str, changes: str) -> str:
    rows = "".join(
        f"<tr><td {HEAD}>{escape(label)}</td><td {NUMBER}>{escape(text)}</td></tr>" for label, text in facts(container)
    )
    left = f'<table style="{TABLE}">{rows}</table>'
    if container.limits:
        limits = "".join(
            f"<tr><td {CELL}>{escape(label)}</td><td {NUMBER}>{escape(values)}</td>"
            f"<td {NOTE}><code>{escape(file)}</code></td></tr>"
            for label, values, file in _limit_rows(container.limits)
        )
        heads = "".join(f"<th {HEAD}>{head}</th>" for head in ("limit", "requested → effective", "kernel file"))
        left += f'<table style="{TABLE};margin-top:8px"><tr>{heads}</tr>{limits}</table>'
    if changes:
        files = change_summary(container.changes, complete=not container.changes_truncated)
        shown = " open" if len(container.changes) <= _OPEN_CHANGES else ""
        changes = f"<details{shown}><summary>Files (copy-on-write): {files}</summary>{changes}</details>"
    return (
        f'<div style="{_CARD}">{_headline_html(_state_html(container), container, container.wall_seconds)}'
        f'<div style="display:flex;flex-wrap:wrap;gap:8px 32px;margin-top:4px"><div>{left}</div>'
        f"<div>{namespaces}</div></div>{changes}{_sizing_html(container)}{_weakened_html(container)}</div>"
    )


def _sizing_html(container: Container) -> str:
    said = str(right_size(container, os.cpu_count() or 1))
    return f'<div style="{MUTED}">{escape(said)}</div>' if said else ""


def _headline_text(container: Container) -> str:
    now = state(container)
    name = f"{clean(container.name)} " if container.name else ""
    wall = format_duration(container.wall_seconds)
    return f"{now.mark} {now.words} · {name}{clean(container.short_id)} · {wall}"


def _final_text(container: Container, namespaces: str, changes: str) -> str:
    lines = [_headline_text(container), *aligned(facts(container))]
    if container.limits:
        head = ("limit", "requested → effective", "kernel file")
        lines += ["", *aligned([head, *_limit_rows(container.limits)])]
    if namespaces:
        lines += ["", *(f"  {line}" for line in namespaces.splitlines())]
    if changes:
        files = change_summary(container.changes, complete=not container.changes_truncated)
        lines += ["", f"  files (copy-on-write): {files}"]
        lines += [f"  {line}" for line in changes.splitlines()]
    sizing = right_size(container, os.cpu_count() or 1)
    if any(sizing):
        lines += ["", f"  {clean(sizing)}"]
    if container.weakened:
        lines += ["", *(f"  ! weaker than asked: {clean(reason)}" for reason in container.weakened)]
    return "\n".join(lines)


def one_line(container: Container) -> Bundle:
    """Sum up a short run in one line.

    Returns
    -------
    data, metadata : dict
        A MIME bundle of ``text/html`` and ``text/plain``.
    """
    now = state(container)
    isolated = sum(pair.isolated for pair in container.namespaces.values())
    parts = [now.words, format_duration(container.wall_seconds)]
    if container.peak_memory_bytes is not None:
        parts.append(f"peak {format_bytes(container.peak_memory_bytes)}")
    if container.namespaces:
        parts.append(f"{isolated} of {count(len(container.namespaces), 'namespace')} isolated")
    if container.shared:
        parts.append(f"shared: {shared_words(container.shared)}")
    changed = count(len(container.changes), "change") if container.changes else "no changes"
    parts.append(f"at least {changed}" if container.changes_truncated else changed)
    if container.weakened:
        parts.append(f"! weaker than asked: {'; '.join(map(clean, container.weakened))}")
    parts += [text for _, text in container.usage.hits]
    parts += [f"{stream} truncated" for stream, _ in _truncations(container)]
    text = " · ".join(parts)
    mark = f'<span style="color:{now.colour}">{now.mark}</span>'
    words = f'<span style="{MUTED}">{escape(text)}</span>'
    html = f'<div style="font-size:13px;line-height:1.45">{mark} {words}</div>'
    return {"text/html": html, "text/plain": f"{now.mark} {text}"}, {}
