"""Subcommands that look at containers: ``logs``, ``top``, ``diff``, ``port``, ``attach``, ``events``."""

from __future__ import annotations

import codecs
import re
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ...errors import UnsupportedError, UsageError
from ...lifecycle import Request, ask, client_of
from ...runtime.protocol import CHUNK
from ...units import parse_duration
from .console import Console
from .grammar import Command, Flag, Parsed, filter_pair
from .html import html_table
from .templates import compile_template, to_json
from .text import TOP_WIDTH, at, rfc3339, tabulate

# ---- logs ----


class LogLine(NamedTuple):
    """A line of output: when its first byte came, on which stream (1 or 2), its text with its end."""

    time_s: float
    stream: int
    text: str


class Lines:
    """Cuts output into lines, as pieces of both streams come in."""

    def __init__(self) -> None:
        self._decoders = {n: codecs.getincrementaldecoder("utf-8")("replace") for n in (1, 2)}
        self._begun: dict[int, tuple[float, str]] = {}

    def feed(self, time_s: float, stream: int, data: bytes) -> Iterator[LogLine]:
        """Take a piece; give the lines that are complete."""
        began, text = self._begun.pop(stream, (time_s, ""))
        for part in re.split(r"(?<=\n)", text + self._decoders[stream].decode(data)):
            if part.endswith("\n"):
                yield LogLine(began, stream, part)
                began = time_s
            elif part:
                self._begun[stream] = (began, part)

    def rest(self) -> Iterator[LogLine]:
        """Give what is there without an end of line."""
        for stream, (began, text) in sorted(self._begun.items(), key=lambda item: item[1][0]):
            yield LogLine(began, stream, text)
        self._begun.clear()


def parse_moment(text: str) -> float:
    """Parse a time as ``--since`` takes it: RFC 3339, seconds since the epoch, or a span before now.

    Returns
    -------
    float
        Seconds since the epoch.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    try:
        return time.time() - parse_duration(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    except ValueError:
        raise ValueError("expected a time such as 2026-01-02T13:23:37Z, or a span such as 42m") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_tail(text: str) -> int:
    """Parse a number of lines; ``all`` and negative numbers are -1."""
    return -1 if text == "all" or re.fullmatch(r"-\d+", text) else int(text)


class _LogPrinter:
    def __init__(self, console: Console, given: Parsed) -> None:
        self._console = console
        self._times = bool(given.get("timestamps"))
        self._since, self._until = given.get("since", 0.0), given.get("until", float("inf"))
        self.lines = Lines()

    def wanted(self, line: LogLine) -> bool:
        return bool(self._since <= line.time_s <= self._until)

    def show(self, line: LogLine) -> None:
        text = f"{rfc3339(line.time_s)} {line.text}" if self._times else line.text
        (self._console.write if line.stream == 1 else self._console.error)(text)

    def on_stream(self, piece: Sequence[Any]) -> None:
        for line in self.lines.feed(*piece):
            if self.wanted(line):
                self.show(line)


def run_logs(console: Console, given: Parsed) -> None:
    """Print what a container wrote."""
    printer = _LogPrinter(console, given)
    follow = bool(given.get("follow"))
    early: list[Any] = []
    shown: list[bool] = []

    def on_stream(piece: Any) -> None:  # what comes before the past has been shown waits
        printer.on_stream(piece) if shown else early.append(piece)

    request = Request("logs", of=given.arguments[0], follow=follow, on_stream=on_stream)
    try:
        past = request.wait()
        lines = [line for entry in past["entries"] for line in printer.lines.feed(*entry)]
        if not past["follows"]:
            lines += printer.lines.rest()
        tail = given.get("tail", -1)
        kept = deque((line for line in lines if printer.wanted(line)), maxlen=None if tail < 0 else tail)
        if past["dropped"] and tail < 0:
            console.error(f"[{past['dropped']:,} earlier bytes are no longer kept]\n")
        for line in kept:
            printer.show(line)
        shown.append(True)
        for piece in early:
            printer.on_stream(piece)
        if past["follows"]:
            _until_end(request)
            for line in printer.lines.rest():
                printer.show(line)
    finally:
        request.close()


def _until_end(request: Request, until: float | None = None) -> Any:
    """Wait for the second answer, up to `until` (`time.monotonic`); an interrupt ends only the looking."""
    try:
        return request.wait(answers=2, until=until)
    except KeyboardInterrupt:
        return None


def run_attach(console: Console, given: Parsed) -> None:
    """Give a running container the cell's text to read, and show what it writes from now on, until it ends."""
    of = given.arguments[0]
    state = ask("inspect", of=of)["state"]
    if state == "paused":
        raise UsageError(f"attach {of}: cannot attach to a paused container, unpause it first")
    if state != "running":
        raise UsageError(f"attach {of}: cannot attach to a container that is not running")
    data = b"" if given.get("no_stdin") else console.stdin
    seconds = given.get("timeout")
    until = None if seconds is None else time.monotonic() + seconds
    printer = _LogPrinter(console, given)
    request = Request("logs", of=of, follow=True, history=False, on_stream=printer.on_stream)
    try:
        if request.wait()["follows"]:
            for at in range(0, len(data), CHUNK):
                ask("stdin", of=of, data=data[at : at + CHUNK])
            _until_end(request, until)
        for line in printer.lines.rest():
            printer.show(line)
    finally:
        request.cancel()


# ---- top, diff, port ----


def run_top(console: Console, given: Parsed) -> None:
    """Show a container's processes, with the host's PIDs, by the host's ps(1)."""
    of, *options = given.arguments
    if client_of(of).facts.guest:
        raise UnsupportedError(f"docker top: ps(1) here sees no process of a guest; `%docker exec {of} ps` does")
    pids = {str(pid) for pid in ask("top", of=of)}
    done = subprocess.run(["ps", *(options or ["-ef"])], capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise UsageError(f"docker top: ps {' '.join(options)}: {done.stderr.strip()}")
    head, *lines = done.stdout.splitlines()
    titles = head.split()
    if "PID" not in titles:
        raise UsageError("docker top: couldn't find PID field in ps output; expected options of ps that show it")
    rows = [line.split(None, len(titles) - 1) for line in lines]
    at = titles.index("PID")
    rows = [row for row in rows if len(row) > at and row[at] in pids]
    console.table(tabulate(["\t".join(row) for row in (titles, *rows)], TOP_WIDTH), html_table(titles, rows))


def run_diff(console: Console, given: Parsed) -> None:
    """List what a container added, changed and deleted."""
    found = ask("diff", of=given.arguments[0])
    for kind, path in found["changes"]:
        console.line(f"{kind} {path}")
    if found["truncated"]:
        console.error("[there are more changes than were collected]\n")


def run_port(console: Console, given: Parsed) -> None:
    """List published ports, or where one is published."""
    data = ask("inspect", of=given.arguments[0])
    published = sorted(
        f"{inner}/{protocol} -> {at(ip, outer)}" for inner, protocol, ip, outer in data["ports"] if outer
    )
    if len(given.arguments) == 1:
        console.write("".join(f"{line}\n" for line in published))
        return
    port, _, protocol = given.arguments[1].partition("/")
    wanted = f"{port}/{protocol or 'tcp'} -> "
    found = [line.removeprefix(wanted) for line in published if line.startswith(wanted)]
    if not found:
        raise UsageError(f"No public port '{given.arguments[1]}' published for {data['name']}")
    console.write("".join(f"{line}\n" for line in found))


# ---- events ----


def run_events(console: Console, given: Parsed) -> None:
    """Print what happened to containers; goes on until --until or an interrupt."""
    since, until = given.get("since"), given.get("until")
    filters = given.get("filter", [])
    form = given.get("format", "")
    fill = compile_template(form) if form not in ("", "json") else None

    def show(event: Mapping[str, Any]) -> None:
        if (until is None or event["time_s"] <= until) and _event_wanted(event, filters):
            message = event_message(event)
            text = event_line(event) if not form else to_json(message) if fill is None else fill(message)
            console.line(text)

    follow = until is None or until > time.time()
    request = Request("events", follow=follow, on_stream=show)
    try:
        past = request.wait()
        for event in past:
            if since is not None and event["time_s"] >= since:
                show(event)
        if follow:
            monotonic = None if until is None else time.monotonic() + until - time.time()
            request.wait(answers=2, until=monotonic)
            request.cancel()
    except KeyboardInterrupt:
        pass  # the usual way to end it
    finally:
        request.close()


_EVENT_FILTERS: dict[str, Callable[[Mapping[str, Any], str], bool]] = {
    "event": lambda e, v: e["action"] == v,
    "container": lambda e, v: v in (e["attributes"]["name"], e["id"]) or e["id"].startswith(v),
    "image": lambda e, v: e["attributes"]["image"] == v,
    "type": lambda _e, v: v == "container",
    "label": lambda e, v: (
        v.partition("=")[0] in e["attributes"]
        and (not v.partition("=")[1] or e["attributes"][v.partition("=")[0]] == v.partition("=")[2])
    ),
}


def _event_wanted(event: Mapping[str, Any], filters: list[tuple[str, str]]) -> bool:
    by_key: dict[str, list[str]] = {}
    for key, value in filters:
        if key not in _EVENT_FILTERS:
            raise UsageError(f"--filter {key}: invalid filter; there are: {', '.join(_EVENT_FILTERS)}")
        by_key.setdefault(key, []).append(value)
    return all(any(_EVENT_FILTERS[key](event, value) for value in values) for key, values in by_key.items())


def event_line(event: Mapping[str, Any]) -> str:
    """Format an event as ``docker events`` prints it."""
    attributes = ", ".join(f"{k}={v}" for k, v in sorted(event["attributes"].items()))
    moment = datetime.fromtimestamp(event["time_s"]).astimezone()
    nanoseconds = int(event["time_s"] % 1 * 1e9)
    zone = f"{moment:%z}"
    when = f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}{zone[:3]}:{zone[3:]}"
    return f"{when} container {event['action']} {event['id']} ({attributes})"


def event_message(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event in the shape of Docker's API."""
    return {
        "status": event["action"],
        "id": event["id"],
        "from": event["attributes"]["image"],
        "Type": "container",
        "Action": event["action"],
        "Actor": {"ID": event["id"], "Attributes": event["attributes"]},
        "scope": "local",
        "time": int(event["time_s"]),
        "timeNano": int(event["time_s"] * 1e9),
    }


_SINCE = Flag(flags=("--since",), help="From this time on", metavar="TIME", parse=parse_moment)
_UNTIL = Flag(flags=("--until",), help="Up to this time", metavar="TIME", parse=parse_moment)

LOOKING = (
    Command(
        name="logs",
        usage="[OPTIONS] CONTAINER",
        help="Print what a container wrote; the latest 2 MiB are kept",
        run=run_logs,
        least=1,
        most=1,
        flags=(
            Flag(flags=("-f", "--follow"), help="Go on until it ends"),
            _SINCE,
            _UNTIL,
            Flag(flags=("-n", "--tail"), help="Only so many lines from the end", metavar="LINES", parse=parse_tail),
            Flag(flags=("-t", "--timestamps"), help="Show times"),
            Flag(flags=("--details",), help="Show extra details (there are none)"),
        ),
    ),
    Command(
        name="attach",
        usage="[OPTIONS] CONTAINER",
        help="Give a running container the cell's text, and show what it writes from now on",
        run=run_attach,
        least=1,
        most=1,
        flags=(
            Flag(flags=("--no-stdin",), help="Give it nothing to read"),
            Flag(
                flags=("--timeout",),
                help="Look for so many seconds, then detach (not Docker's); by default until it ends",
                metavar="SECONDS",
                parse=float,
            ),
            Flag(flags=("--sig-proxy",), help="An interrupt ends the looking only, as with --sig-proxy=false"),
            Flag(flags=("--detach-keys",), metavar="KEYS", refuse="interrupt the cell to detach"),
        ),
    ),
    Command(
        name="top",
        usage="CONTAINER [PS OPTIONS]",
        help="Show a container's processes, as the host counts",
        run=run_top,
        least=1,
        interspersed=False,
    ),
    Command(name="diff", usage="CONTAINER", help="List what it added, changed, deleted", run=run_diff, least=1, most=1),
    Command(name="port", usage="CONTAINER [PORT[/PROTO]]", help="List published ports", run=run_port, least=1, most=2),
    Command(
        name="events",
        usage="[OPTIONS]",
        help="Print what happens to containers",
        run=run_events,
        most=0,
        flags=(
            _SINCE,
            _UNTIL,
            Flag(
                flags=("-f", "--filter"),
                help="Filter by KEY=VALUE: " + ", ".join(_EVENT_FILTERS),
                metavar="FILTER",
                parse=filter_pair,
                repeatable=True,
            ),
            Flag(flags=("--format",), help="json or a Go template", metavar="FORMAT"),
        ),
    ),
)
