"""From a line to a `RunRequest`, by the option table.

One row per option (`OPTIONS`) holds flags, value, unit, OCI path, kernel files and documentation;
`parse`, `help_text`, `complete` and `reference` are derived from it.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping, Sequence, Set
from typing import Any

from . import units
from .errors import UsageError
from .option_checks import check
from .option_help import awaited, complete, help_text, reference
from .option_isolation import settle_modes
from .option_network import settle
from .option_scan import BY_FLAG, OPTIONS, scan
from .option_types import PURE, Context, Option, RunRequest
from .spec import ContainerSpec, Limits

__all__ = [
    "BY_FLAG",
    "OPTIONS",
    "Option",
    "RunRequest",
    "awaited",
    "complete",
    "help_text",
    "parse",
    "reference",
    "split",
]

_ORDER: dict[str, int] = {flag: index for index, option in enumerate(OPTIONS) for flag in option.flags}
_FIELDS: dict[str, tuple[str, str]] = {
    option.name: (option.sets.split(".")[0], option.sets.split(".")[1]) for option in OPTIONS if option.sets
}

_split = functools.lru_cache(64)(shlex.split)

MAX_REQUESTS = 64
_requests: dict[tuple[object, ...], RunRequest] = {}
"""What lines came to that mean the same whenever they are read: cells are run again and again."""


def split(line: str) -> list[str]:
    """Split a magic's line into words as a shell does.

    Parameters
    ----------
    line : str
        What stands after ``%%container``.

    Returns
    -------
    list of str
        Words without their quotes.

    Raises
    ------
    UsageError
        If a quotation is not closed.

    Examples
    --------
    >>> split("--mem 64m sh -c 'echo hi'")
    ['--mem', '64m', 'sh', '-c', 'echo hi']
    """
    try:
        return list(_split(line))
    except ValueError as error:
        raise UsageError(f"{line!r}: {str(error).lower()}: expected every quotation mark to be closed") from None


def parse(
    line_tokens: Sequence[str],
    *,
    cwd: str,
    environ: Mapping[str, str],
    host_cpus: int,
    available_cpus: Set[int] | None = None,
) -> RunRequest:
    """Parse ``[OPTIONS] [PROGRAM [ARG…]]``.

    Parameters
    ----------
    line_tokens : sequence of str
        Words of the line (see `split`).
    cwd : str
        Absolute path of the notebook's directory; also the default working directory inside.
    environ : mapping of str to str
        The notebook's environment, for ``-e NAME`` and ``~``.
    host_cpus : int
        CPUs that the host has online.
    available_cpus : set of int, optional
        Their numbers, where they are not 0 to ``host_cpus - 1``.

    Returns
    -------
    RunRequest
        With ``spec.python`` set if no program is given.

    Raises
    ------
    UsageError
        Naming the option, the value and what is accepted.

    Examples
    --------
    >>> request = parse(["--mem", "128m", "sh"], cwd="/", environ={}, host_cpus=2)
    >>> request.spec.limits.memory_bytes, request.spec.argv
    (134217728, ('sh',))
    """
    available = frozenset(range(host_cpus) if available_cpus is None else available_cpus)
    key = (tuple(line_tokens), cwd, host_cpus, available)
    known = _requests.get(key)
    if known is not None:
        return known
    scanned, argv = scan(line_tokens)
    if any(option.name == "--help" and text == "true" for _, option, text in scanned):
        return RunRequest(help=True)
    context = Context(cwd=cwd, environ=environ, host_cpus=host_cpus, available_cpus=available)
    sections: dict[str, dict[str, Any]] = {"request": {}, "spec": {"workdir": cwd}, "limits": {}}
    given: dict[str, tuple[Option, str]] = {}
    # Docker applies environment files first, wherever they stand; the table's order has them first.
    for flag, option, text in sorted(scanned, key=lambda item: _ORDER[item[0]]):
        value = _value(flag, option, text, context)
        section, field = _FIELDS[option.name]
        fields = sections[section]
        fields[field] = fields.get(field, ()) + value if option.repeatable else value
        if value not in (None, "", ()) if option.metavar else units.parse_boolean(text):
            given[option.name] = (option, flag)
        else:
            given.pop(option.name, None)
    if sections["spec"].get("image", "host") != "host" and "--workdir" not in given:
        sections["spec"]["workdir"] = ""  # the image's own
    entrypoint = sections["spec"].get("entrypoint")
    spec = ContainerSpec(
        argv=argv, python=not argv and not entrypoint, limits=Limits(**sections["limits"]), **sections["spec"]
    )
    spec = settle(settle_modes(spec), given)
    request = RunRequest(spec=spec, **sections["request"])
    check(request, given)
    if all(option.parse in PURE for _, option, _ in scanned):
        if len(_requests) >= MAX_REQUESTS:
            _requests.clear()
        _requests[key] = request
    return request


def _value(flag: str, option: Option, text: str, context: Context) -> Any:
    try:
        if "\0" in text:
            raise ValueError("expected text without NUL characters")
        return option.parse(text, context)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{flag} {text!r}: {error}") from None
