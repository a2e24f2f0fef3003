"""The option table, and the parser that it drives.

One row per option (`OPTIONS`) holds flags, value, unit, OCI path, kernel files and documentation;
the parser here, and the help text, completion and reference in `jupyter_ns.option_help`, read nothing else.

Notes
-----
The scanner follows pflag, which Docker's client uses: short flags combine (``-im128m``), options end at
the first word that is none. argparse would abbreviate, and exit on errors.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence, Set
from difflib import get_close_matches
from typing import Any

from . import units
from .errors import UsageError
from .option_checks import check
from .option_files import FILES
from .option_isolation import ISOLATION
from .option_notebook import NOTEBOOK
from .option_process import PROCESS
from .option_refused import REFUSED
from .option_resources import RESOURCES
from .option_types import Context, Option, RunRequest
from .spec import ContainerSpec, Limits

OPTIONS: tuple[Option, ...] = (*RESOURCES, *FILES, *PROCESS, *ISOLATION, *NOTEBOOK, *REFUSED)
"""Every option that is known, in the order of the help text; environment files stand before variables."""

BY_FLAG: dict[str, Option] = {flag: option for option in OPTIONS for flag in option.flags}
_ORDER: dict[str, int] = {flag: index for index, option in enumerate(OPTIONS) for flag in option.flags}
_FIELDS: dict[str, tuple[str, str]] = {
    option.name: (option.sets.split(".")[0], option.sets.split(".")[1]) for option in OPTIONS if option.sets
}

Scanned = tuple[str, Option, str]
"""The flag as typed, its row, its value."""


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
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(
            f"{line!r}: {str(error).lower()}: expected every quotation mark to be closed"
        ) from None


def scan(tokens: Sequence[str]) -> tuple[list[Scanned], tuple[str, ...]]:
    """Separate options from the program, without looking at values.

    Parameters
    ----------
    tokens : sequence of str
        Words of the line.

    Returns
    -------
    options : list of (str, Option, str)
        Flag as typed, row, value; ``"true"`` for a boolean without one.
    argv : tuple of str
        The first word that is no option, and everything after it.

    Raises
    ------
    UsageError
        If an option is unknown, refused, or lacks its value.

    Examples
    --------
    >>> options, argv = scan(["-im128m", "sh", "-x"])
    >>> [(flag, value) for flag, _, value in options], argv
    ([('-i', 'true'), ('-m', '128m')], ('sh', '-x'))
    """
    found: list[Scanned] = []
    rest = iter(tokens)
    for token in rest:
        if token == "--":
            break
        if len(token) < 2 or token[0] != "-":
            return found, (token, *rest)
        if token.startswith("--"):
            flag, equals, value = token.partition("=")
            option = _find(flag)
            if not equals:
                value = _next(rest, flag) if option.metavar else "true"
            found.append((flag, option, value))
        else:
            found.extend(_scan_short(token[1:], rest))
    return found, tuple(rest)


def _scan_short(letters: str, rest: Iterator[str]) -> Iterator[Scanned]:
    while letters:
        flag, letters = f"-{letters[0]}", letters[1:]
        option = _find(flag)
        if letters[:1] == "=" and len(letters) > 1:
            yield flag, option, letters[1:]
            return
        if not option.metavar:
            yield flag, option, "true"
        elif letters:
            yield flag, option, letters
            return
        else:
            value = next(rest, None)
            # Docker's -h takes a host name; with none after it, it is what people type for help.
            if value is None and flag == "-h":
                yield flag, BY_FLAG["--help"], "true"
                return
            yield flag, option, _given(value, flag)


def _find(flag: str) -> Option:
    option = BY_FLAG.get(flag)
    if option is None:
        # Among flags of one letter, every other one is as close.
        close = get_close_matches(flag, [f for f in BY_FLAG if f.startswith("--")]) if len(flag) > 2 else []
        hint = f"did you mean {' or '.join(close)}?" if close else "--help lists what is accepted"
        raise UsageError(f"{flag}: unknown option; {hint}")
    if option.refuse:
        raise UsageError(f"{flag} is not supported: {option.refuse}")
    return option


def _next(rest: Iterator[str], flag: str) -> str:
    return _given(next(rest, None), flag)


def _given(value: str | None, flag: str) -> str:
    if value is None:
        option = BY_FLAG[flag]
        raise UsageError(f"{flag}: expected a value, {option.metavar}: {option.help}")
    return value


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
    scanned, argv = scan(line_tokens)
    if any(option.name == "--help" and text == "true" for _, option, text in scanned):
        return RunRequest(help=True)
    available = frozenset(range(host_cpus) if available_cpus is None else available_cpus)
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
    entrypoint = sections["spec"].get("entrypoint")
    spec = ContainerSpec(
        argv=argv, python=not argv and not entrypoint, limits=Limits(**sections["limits"]), **sections["spec"]
    )
    request = RunRequest(spec=spec, **sections["request"])
    check(request, given)
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
