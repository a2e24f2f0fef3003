"""``ps``: rows, filters, columns."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from ...errors import UsageError
from ...lifecycle import ask_all
from ...units import format_decimal_bytes
from .console import Console
from .grammar import Command, Flag, Parsed, filter_pair, integer, quote
from .html import html_table
from .text import at, formatted, human_duration

HEADS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "State": "STATE",
    "Ports": "PORTS",
    "Names": "NAMES",
    "Size": "SIZE",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "Networks": "NETWORKS",
    "LocalVolumes": "LOCAL VOLUMES",
}
COLUMNS = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")
_STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")


def status(row: Mapping[str, Any], now: float) -> str:
    """Word a container's status as ``docker ps`` does.

    Examples
    --------
    >>> status({"state": "exited", "exit_code": 3, "finished_s": 10.0}, now=15.0)
    'Exited (3) 5 seconds ago'
    """
    state = row["state"]
    if state in ("running", "paused"):
        note = " (Paused)" if state == "paused" else f" ({row['health']})" if row.get("health") else ""
        note = " (health: starting)" if row.get("health") == "starting" and state == "running" else note
        return f"Up {human_duration(now - row['started_s'])}{note}"
    if state in ("exited", "restarting"):
        return f"{state.capitalize()} ({row['exit_code']}) {human_duration(now - row['finished_s'])} ago"
    return str(state).capitalize()


def command_line(row: Mapping[str, Any]) -> str:
    """Return program and arguments with blanks between, as Docker does: an argument with a blank is quoted.

    Examples
    --------
    >>> command_line({"entrypoint": "", "argv": ["sh", "-c", "echo one"]})
    "sh -c 'echo one'"
    """
    words: list[str] = [*([row["entrypoint"]] if row["entrypoint"] else []), *row["argv"]]
    return " ".join(words[:1] + [f"'{word}'" if " " in word else word for word in words[1:]])


def ellipsis(text: str, length: int) -> str:
    """Cut text to a length; a sign stands for the rest.

    Examples
    --------
    >>> ellipsis("sleep 1000000 seconds", 8)
    'sleep 1…'
    """
    return text if len(text) <= length else text[: length - 1] + "…"


def networks(row: Mapping[str, Any]) -> list[str]:
    """Return the names of a container's networks."""
    return [endpoint["network"] for endpoint in row["endpoints"]]


def ports(row: Mapping[str, Any]) -> str:
    """Word a container's ports.

    Examples
    --------
    >>> ports({"ports": [[80, "tcp", "127.0.0.1", 8080], [53, "udp", "", 0]]})
    '53/udp, 127.0.0.1:8080->80/tcp'
    """
    return ", ".join(
        f"{at(ip, outer)}->{inner}/{protocol}" if outer else f"{inner}/{protocol}"
        for inner, protocol, ip, outer in sorted(row["ports"], key=lambda port: (port[3], port[0]))
    )


def fields(row: Mapping[str, Any], now: float, *, truncate: bool) -> dict[str, Any]:
    """Return a row's fields, as templates name them."""
    command = command_line(row)
    return {
        "ID": row["id"][:12] if truncate else row["id"],
        "Image": row["image"],
        "Command": quote(ellipsis(command, 20) if truncate else command),
        "CreatedAt": f"{datetime.fromtimestamp(row['created_s']).astimezone():%Y-%m-%d %H:%M:%S %z %Z}",
        "RunningFor": f"{human_duration(now - row['created_s'])} ago",
        "Status": status(row, now),
        "State": row["state"],
        "Ports": ports(row),
        "Names": row["name"],
        "Size": format_decimal_bytes(row.get("size_bytes") or 0),
        "Labels": ",".join(f"{k}={v}" for k, v in sorted(row["labels"].items())),
        "Mounts": ",".join(ellipsis(m, 15) if truncate else m for m in row["mounts"]),
        "Networks": ",".join(networks(row)),
        "LocalVolumes": "0",
    }


Test = Callable[[Mapping[str, Any], str, list[Mapping[str, Any]]], bool]


def _older(row: Mapping[str, Any], value: str, rows: list[Mapping[str, Any]]) -> bool:
    return bool(row["created_s"] < _named(value, rows)["created_s"])


def _newer(row: Mapping[str, Any], value: str, rows: list[Mapping[str, Any]]) -> bool:
    return bool(row["created_s"] > _named(value, rows)["created_s"])


def _named(value: str, rows: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    found = next((r for r in rows if r["name"] == value or r["id"].startswith(value)), None)
    if found is None:
        raise UsageError(f"No such container: {value}")
    return found


def _label(row: Mapping[str, Any], value: str, _rows: list[Mapping[str, Any]]) -> bool:
    key, equals, wanted = value.partition("=")
    return key in row["labels"] and (not equals or row["labels"][key] == wanted)


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error as error:
        raise UsageError(f"--filter {pattern!r}: no regular expression: {error}") from None


FILTERS: dict[str, Test] = {
    "id": lambda row, value, _: row["id"].startswith(value),
    "name": lambda row, value, _: _matches(value, f"/{row['name']}") or _matches(value, row["name"]),
    "label": _label,
    "exited": lambda row, value, _: row["state"] == "exited" and str(row["exit_code"]) == value,
    "status": lambda row, value, _: row["state"] == value,
    "ancestor": lambda row, value, _: row["image"] == value,
    "before": _older,
    "since": _newer,
    "volume": lambda row, value, _: value in row["mounts"],
    "network": lambda row, value, _: value in networks(row),
    "publish": lambda row, value, _: value in [f"{p}{s}" for p, t, _, h in row["ports"] if h for s in ("", f"/{t}")],
    "expose": lambda row, value, _: value in [f"{p}{s}" for p, t, *_ in row["ports"] for s in ("", f"/{t}")],
    "health": lambda row, value, _: (row.get("health") or "none") == value,
}


def chosen(rows: list[Mapping[str, Any]], filters: list[tuple[str, str]]) -> list[Mapping[str, Any]]:
    """Keep the rows that every filter takes; filters with the same key are alternatives.

    Raises
    ------
    UsageError
        If there is no such filter or status.
    """
    by_key: dict[str, list[str]] = {}
    for key, value in filters:
        if key not in FILTERS:
            raise UsageError(f"--filter {key}: invalid filter; there are: {', '.join(FILTERS)}")
        if key == "status" and value not in _STATES:
            raise UsageError(f"--filter status={value}: expected one of {', '.join(_STATES)}")
        if key in ("before", "since"):
            _named(value, rows)  # also where there is none that it would be compared with
        by_key.setdefault(key, []).append(value)

    def takes(row: Mapping[str, Any], key: str, values: list[str]) -> bool:
        found = [FILTERS[key](row, value, rows) for value in values]
        return all(found) if key == "label" else any(found)

    return [row for row in rows if all(takes(row, key, values) for key, values in by_key.items())]


def run_ps(console: Console, given: Parsed) -> None:
    """List containers, the newest first."""
    filters = given.get("filter", [])
    last = 1 if given.get("latest") else given.get("last", -1)
    everything = given.get("all") or last >= 0 or any(key in ("status", "exited") for key, _ in filters)
    form = given.get("format", "")
    size = bool(given.get("size"))
    rows: list[Mapping[str, Any]] = ask_all("list", size=size or ".Size" in form)
    rows = chosen(rows, filters)
    rows = [row for row in rows if everything or row["state"] in ("running", "paused", "restarting")]
    rows = rows[:last] if last >= 0 else rows
    now = time.time()
    truncate = not given.get("no_trunc")
    found = [fields(row, now, truncate=truncate) for row in rows]
    if given.get("quiet"):
        console.write("".join(f"{row['ID']}\n" for row in found))
        return
    columns = (*COLUMNS, "Size") if size else COLUMNS
    default = "\t".join(f"{{{{.{c}}}}}" for c in columns)
    text = formatted(form, found, HEADS, default)
    if form in ("", "table"):
        console.table(text, html_table([HEADS[c] for c in columns], [[row[c] for c in columns] for row in found]))
    else:
        console.write(text)


PS = Command(
    name="ps",
    usage="[OPTIONS]",
    help="List containers",
    run=run_ps,
    most=0,
    flags=(
        Flag(flags=("-a", "--all"), help="Show all containers, not just running ones"),
        Flag(
            flags=("-f", "--filter"),
            help="Filter by KEY=VALUE: " + ", ".join(FILTERS),
            metavar="FILTER",
            parse=filter_pair,
            repeatable=True,
        ),
        Flag(flags=("--format",), help="table, table TEMPLATE, json or a Go template", metavar="FORMAT"),
        Flag(flags=("-n", "--last"), help="Show the last created ones", metavar="N", parse=integer),
        Flag(flags=("-l", "--latest"), help="Show the latest created one"),
        Flag(flags=("--no-trunc",), help="Do not cut what is long"),
        Flag(flags=("-q", "--quiet"), help="Only IDs"),
        Flag(flags=("-s", "--size"), help="Show what each has written"),
    ),
)
