"""Options about the process: environment, user, names, signals, lifetime."""

from __future__ import annotations

import re
import signal

from . import units
from .option_files import host_path
from .option_types import Context, Option, boolean, integer, plain

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", re.ASCII)
_SIGNALS = tuple(s.name for s in signal.Signals if s.name not in ("SIGRTMIN", "SIGRTMAX"))
_RT = re.compile(r"SIGRT(?:MIN(?:\+([0-9]{1,2}))?|MAX(?:-([0-9]{1,2}))?)", re.ASCII)
_HOST_NAME_MAX = 64
_TIME_OFFSET_MAX_SECONDS = 4_611_686_018
"""The kernel answers ERANGE above half of KTIME_SEC_MAX: time_namespaces(7)."""


_RESTART = re.compile(r"(no|always|unless-stopped|on-failure)(:[0-9]+)?", re.ASCII)


RESTART_CHOICES = (
    ("no", "never"),
    ("on-failure", "after an exit code that is not 0"),
    ("always", "whenever it ends by itself"),
    ("unless-stopped", "the same"),
)


def parse_restart(text: str) -> str:
    """Check a restart policy."""
    match = _RESTART.fullmatch(text or "no")
    if match is None or (match[2] and match[1] != "on-failure"):
        raise ValueError("expected no, always, unless-stopped or on-failure[:MOST]")
    return "on-failure" if text == "on-failure:0" else match[0]


def _environment(text: str, context: Context) -> tuple[tuple[str, str | None], ...]:
    name, equals, value = text.partition("=")
    if not name:
        raise ValueError("expected NAME=VALUE, or NAME to copy the notebook's value")
    return ((name, value if equals else context.environ.get(name)),)


def _environment_file(text: str, context: Context) -> tuple[tuple[str, str | None], ...]:
    """Read a file of ``NAME=VALUE`` or ``NAME`` lines as Docker does: without quotes, ``#`` for comments."""
    path = host_path(text, context)
    try:
        with open(path, "rb") as file:
            content = file.read().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}") from None
    pairs: list[tuple[str, str | None]] = []
    for number, raw in enumerate(content.split("\n"), start=1):
        line = raw.removesuffix("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not name or re.search(r"\s", name):
            raise ValueError(f"{path}, line {number}: expected a variable's name without white space")
        if equals or name in context.environ:
            pairs.append((name, value if equals else context.environ[name]))
    return tuple(pairs)


def _user(text: str) -> str:
    parts = text.split(":")
    if len(parts) > 2 or (text and not parts[0]):
        raise ValueError("expected NAME or UID, then perhaps : and GROUP or GID")
    return text


def _group(text: str) -> tuple[str, ...]:
    if not text:
        raise ValueError("expected a group's name or number")
    return (text,)


def _host_name(text: str) -> str:
    if len(text.encode()) > _HOST_NAME_MAX:
        raise ValueError(f"expected at most {_HOST_NAME_MAX} bytes")
    return text


def _name(text: str) -> str:
    if text and not _NAME.fullmatch(text):
        raise ValueError("expected letters, digits and _ . - (two or more, the first a letter or digit)")
    return text


def parse_signal(text: str) -> str:
    """Name a signal that is given by name, with or without SIG, or by number."""
    accepted = "expected a signal such as SIGTERM, TERM, 15 or SIGRTMIN+3"
    if text.isascii() and text.isdecimal():
        number = int(text)
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return f"SIGRTMIN+{number - signal.SIGRTMIN}"
        if not 1 <= number < 32:
            raise ValueError(accepted)
        return signal.Signals(number).name
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    match = _RT.fullmatch(name)
    if match:
        if max(int(match[1] or 0), int(match[2] or 0)) > signal.SIGRTMAX - signal.SIGRTMIN:
            raise ValueError(accepted)
        return name
    if name not in _SIGNALS:
        raise ValueError(accepted)
    return name


def _label(text: str) -> tuple[tuple[str, str], ...]:
    key, _, value = text.partition("=")
    if not key or re.search(r"\s", key):
        raise ValueError("expected KEY=VALUE, the key without white space")
    return ((key, value),)


def _timeout(text: str) -> float:
    seconds = units.parse_duration(text)
    if seconds <= 0:
        raise ValueError("expected more than 0 seconds")
    return seconds


def _time_offset(text: str) -> float:
    seconds = units.parse_duration(text)
    if abs(seconds) > _TIME_OFFSET_MAX_SECONDS:
        raise ValueError(f"expected at most {_TIME_OFFSET_MAX_SECONDS} seconds either way")
    return seconds


PROCESS: tuple[Option, ...] = (
    Option(
        flags=("--env-file",),
        help="Read environment variables from a file, before those of --env",
        group="Process",
        sets="spec.environment",
        parse=_environment_file,
        metavar="FILE",
        oci="process.env",
        documentation="environ(7)",
        repeatable=True,
    ),
    Option(
        flags=("-e", "--env"),
        help="Set an environment variable; NAME alone copies the notebook's value",
        group="Process",
        sets="spec.environment",
        parse=_environment,
        metavar="NAME[=VALUE]",
        oci="process.env",
        documentation="environ(7)",
        repeatable=True,
    ),
    Option(
        flags=("-u", "--user"),
        help="User, and perhaps group, that the program runs as",
        group="Process",
        sets="spec.user",
        parse=plain(_user),
        metavar="USER[:GROUP]",
        default="your own; root inside",
        oci="process.user",
        documentation="credentials(7)",
    ),
    Option(
        flags=("--group-add",),
        help="Add a supplementary group",
        group="Process",
        sets="spec.groups",
        parse=plain(_group),
        metavar="GROUP",
        oci="process.user.additionalGids",
        documentation="setgroups(2)",
        repeatable=True,
    ),
    Option(
        flags=("--entrypoint",),
        help="Program put before the line's own; without one, the program itself",
        group="Process",
        sets="spec.entrypoint",
        metavar="PROGRAM",
        oci="process.args",
        documentation="execve(2)",
    ),
    Option(
        flags=("-i", "--interactive"),
        help="Give it standard input: the cell's text, or input()",
        group="Process",
        sets="spec.stdin_open",
        parse=boolean,
        default="true",
        documentation="stdin(3)",
    ),
    Option(
        flags=("-t", "--tty"),
        help="Give a program a terminal, which prompts and does not echo",
        group="Process",
        sets="spec.tty",
        parse=boolean,
        oci="process.terminal",
        documentation="pty(7)",
    ),
    Option(
        flags=("--init",),
        help="Run an init as PID 1 that forwards signals and reaps zombies",
        group="Process",
        sets="spec.init",
        parse=boolean,
        documentation="pid_namespaces(7)",
        needs="pid",
    ),
    Option(
        flags=("--stop-signal",),
        help="Signal that asks it to stop",
        group="Lifetime",
        sets="spec.stop_signal",
        parse=plain(parse_signal),
        metavar="SIGNAL",
        default="SIGTERM",
        documentation="signal(7)",
        choices=tuple((name, signal.strsignal(signal.Signals[name]) or "") for name in _SIGNALS),
    ),
    Option(
        flags=("--timeout",),
        help="Kill it after this wall time: 10, 500ms, 1m30s",
        group="Lifetime",
        sets="spec.timeout_seconds",
        parse=plain(_timeout),
        metavar="SECONDS",
        unit="seconds",
        documentation="timerfd_create(2)",
    ),
    Option(
        flags=("--name",),
        help="Name of the container; made up if absent",
        group="Lifetime",
        sets="spec.name",
        parse=plain(_name),
        metavar="NAME",
    ),
    Option(
        flags=("-l", "--label"),
        help="Attach a label",
        group="Lifetime",
        sets="spec.labels",
        parse=plain(_label),
        metavar="KEY[=VALUE]",
        oci="annotations",
        repeatable=True,
    ),
    Option(
        flags=("--rm",),
        help="Remove it, and what it wrote, when it ends",
        group="Lifetime",
        sets="request.remove",
        parse=boolean,
        default="true for a cell that is waited for",
    ),
    Option(
        flags=("-d", "--detach"),
        help="Let it go on without the cell; it ends with the notebook's kernel at the latest",
        group="Lifetime",
        sets="request.detach",
        parse=boolean,
    ),
    Option(
        flags=("--restart",),
        help="When to start it again: no, always, unless-stopped, on-failure[:MOST]",
        group="Lifetime",
        sets="spec.restart",
        parse=plain(parse_restart),
        metavar="POLICY",
        default="no",
        choices=RESTART_CHOICES,
    ),
    Option(
        flags=("--stop-timeout",),
        help="From the stop signal to SIGKILL; -1 waits for ever",
        group="Lifetime",
        sets="spec.stop_timeout_seconds",
        parse=integer(-1, 2**31 - 1),
        metavar="SECONDS",
        unit="seconds",
        default="10",
        documentation="signal(7)",
    ),
    Option(
        flags=("--cidfile",),
        help="Write its ID to this file, which must not exist yet",
        group="Lifetime",
        sets="request.cidfile",
        parse=host_path,
        metavar="FILE",
    ),
    Option(
        flags=("--keep",),
        help="Bring what it wrote below the working directory to the host when it ends",
        group="Lifetime",
        sets="spec.keep",
        parse=boolean,
    ),
    Option(
        flags=("-h", "--hostname"),
        help="Host name inside; -h with nothing after it prints this help",
        group="Namespaces",
        sets="spec.hostname",
        parse=plain(_host_name),
        metavar="NAME",
        default="the container's ID, 12 digits",
        oci="hostname",
        documentation="uts_namespaces(7)",
        needs="uts",
    ),
    Option(
        flags=("--domainname",),
        help="NIS domain name inside",
        group="Namespaces",
        sets="spec.domainname",
        parse=plain(_host_name),
        metavar="NAME",
        oci="domainname",
        documentation="setdomainname(2)",
        needs="uts",
    ),
    Option(
        flags=("--time-offset",),
        help="Add this to the monotonic and boot-time clocks inside: 3600, 24h, -10s",
        group="Namespaces",
        sets="spec.time_offset_seconds",
        parse=plain(_time_offset),
        metavar="SECONDS",
        unit="seconds",
        default="0",
        oci="linux.timeOffsets",
        documentation="time_namespaces(7)",
        needs="time",
    ),
)
