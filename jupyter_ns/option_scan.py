"""The option table, whole, and the scanner that it drives.

Notes
-----
The scanner follows pflag, which Docker's client uses: short flags combine (``-im128m``), options end at
the first word that is none. argparse would abbreviate, and exit on errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from .errors import UsageError
from .option_devices import DEVICES
from .option_files import FILES
from .option_health import HEALTH
from .option_isolation import ISOLATION
from .option_network import NETWORK
from .option_notebook import NOTEBOOK
from .option_process import PROCESS
from .option_refused import REFUSED
from .option_resources import RESOURCES
from .option_types import Option

OPTIONS: tuple[Option, ...] = (
    *RESOURCES,
    *DEVICES,
    *FILES,
    *PROCESS,
    *HEALTH,
    *ISOLATION,
    *NETWORK,
    *NOTEBOOK,
    *REFUSED,
)
"""Every option that is known, in the order of the help text; environment files stand before variables."""

BY_FLAG: dict[str, Option] = {flag: option for option in OPTIONS for flag in option.flags}

Scanned = tuple[str, Option, str]
"""The flag as typed, its row, its value."""


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
