"""``$(command)`` in one of Docker's command lines, as a shell does it: unquoted or between double quotes.

Notes
-----
POSIX, Shell Command Language, 2.6.3 Command Substitution. Arithmetic, ``$((…))``, stays as it stands.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable

from ..errors import UsageError


def substitute(line: str, run: Callable[[str], str]) -> str:
    """Put what commands write in their places.

    Parameters
    ----------
    line : str
        As typed.
    run : callable
        From a command line to what it wrote.

    Raises
    ------
    UsageError
        If a parenthesis is not closed.

    Examples
    --------
    >>> substitute("rm $(docker ps -aq)", lambda command: "a b\\n")
    'rm a b'
    >>> substitute('''run -v "$(pwd)/in":/in host sh -c 'echo $(pwd)' ''', lambda command: "/my files\\n")
    'run -v "/my files/in":/in host sh -c \\'echo $(pwd)\\' '
    """
    done, quote, at = "", "", 0
    while at < len(line):
        letter = line[at]
        if letter == "\\" and quote != "'":
            done, at = done + line[at : at + 2], at + 2
            continue
        if quote != "'" and line.startswith("$(", at) and not line.startswith("$((", at):
            end = _closed(line, at + 2)
            text = run(line[at + 2 : end]).rstrip("\n")
            done += text.replace("\\", "\\\\").replace('"', '\\"') if quote else shlex.join(text.split())
            at = end + 1
            continue
        if letter in "'\"" and quote in ("", letter):
            quote = "" if quote else letter
        done, at = done + letter, at + 1
    return done


def _closed(line: str, start: int) -> int:
    """Return where the parenthesis closes that was opened before `start`."""
    quote, depth, at = "", 1, start
    while at < len(line):
        letter = line[at]
        if letter == "\\" and quote != "'":
            at += 1
        elif letter in "'\"":
            quote = letter if not quote else "" if quote == letter else quote
        elif not quote:
            depth += {"(": 1, ")": -1}.get(letter, 0)
            if not depth:
                return at
        at += 1
    raise UsageError(f"{line[start - 2 :]}: expected the parenthesis to be closed")
