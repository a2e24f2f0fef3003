"""Options and arguments of Docker's subcommands: tables, and one scanner for all (pflag's grammar)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from ... import units
from ...errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One option of a subcommand.

    Attributes
    ----------
    flags : tuple of str
        As typed.
    help : str
        One line.
    metavar : str
        Name of the value; empty for a boolean.
    parse : callable
        From text to value; `ValueError` says what is accepted.
    repeatable : bool
        Whether every use adds to a list.
    refuse : str
        Why it is not supported.
    sets : str
        Its name among the parsed options; by default its first long flag's.
    """

    flags: tuple[str, ...]
    help: str = ""
    metavar: str = ""
    parse: Callable[[str], Any] = str
    repeatable: bool = False
    refuse: str = ""
    sets: str = ""

    @property
    def key(self) -> str:
        """Its name among the parsed options."""
        if self.sets:
            return self.sets
        long = next((f for f in self.flags if f.startswith("--")), self.flags[0])
        return long.lstrip("-").replace("-", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One subcommand.

    Attributes
    ----------
    name : str
        As typed.
    usage : str
        What follows the name.
    help : str
        One line.
    run : callable
        Called with the `Console`, the options by key, and the arguments.
    flags : tuple of Flag
        Its options.
    least, most : int
        How many arguments it takes.
    interspersed : bool
        Whether options may follow arguments.
    """

    name: str
    usage: str
    help: str
    run: Callable[..., Any]
    flags: tuple[Flag, ...] = ()
    least: int = 0
    most: int = 10_000
    interspersed: bool = True
    extra: dict[str, Any] = field(default_factory=dict)

    def help_text(self) -> str:
        """Return what ``--help`` prints."""
        lines = [f"Usage:  docker {self.name} {self.usage}".rstrip(), "", self.help]
        if self.flags:
            lines += ["", "Options:"]
        for flag in self.flags:
            head = "  " + ", ".join(flag.flags) + (f" {flag.metavar}" if flag.metavar else "")
            text = f"refused: {flag.refuse}" if flag.refuse else flag.help
            lines.append(f"{head:<30}  {text}" if len(head) <= 30 else f"{head}\n{'':<32}{text}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Parsed:
    """What was typed after a subcommand's name."""

    options: dict[str, Any]
    arguments: list[str]
    help: bool = False

    def get(self, key: str, default: Any = None) -> Any:
        """Return an option's value, or `default` where it was not given."""
        return self.options.get(key, default)


def parse(command: Command, words: list[str]) -> Parsed:
    """Separate a subcommand's options from its arguments.

    Raises
    ------
    UsageError
        If an option is unknown, refused or lacks its value, or there are too few or too many arguments.

    Examples
    --------
    >>> command = Command(name="x", usage="", help="", run=print, flags=(Flag(flags=("-a", "--all")),))
    >>> parse(command, ["-a", "b"])
    Parsed(options={'all': True}, arguments=['b'], help=False)
    """
    by_flag = {flag: row for row in command.flags for flag in row.flags}
    options: dict[str, Any] = {}
    arguments: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            arguments += rest
        elif len(word) < 2 or word[0] != "-":
            arguments += [word] if command.interspersed else [word, *rest]
        elif word == "--help" or (word == "-h" and "-h" not in by_flag):
            return Parsed({}, [], help=True)
        else:
            for flag, row, text in _scan(command, by_flag, word, rest):
                _set(command, options, flag, row, text)
    if not command.least <= len(arguments) <= command.most:
        wanted = f"at least {command.least}" if command.most >= 10_000 else f"{command.least}"
        if command.least != command.most < 10_000:
            wanted = f"{command.least} to {command.most}"
        raise UsageError(
            f"docker {command.name}: requires {wanted} argument{'' if wanted.endswith('1') else 's'}, "
            f"{len(arguments)} given. Usage: docker {command.name} {command.usage}"
        )
    return Parsed(options, arguments)


def _scan(
    command: Command, by_flag: dict[str, Flag], word: str, rest: Iterator[str]
) -> Iterator[tuple[str, Flag, str]]:
    if word.startswith("--"):
        flag, equals, text = word.partition("=")
        row = _find(command, by_flag, flag)
        yield flag, row, text if equals else (_next(rest, flag, row) if row.metavar else "true")
        return
    letters = word[1:]
    while letters:
        flag, letters = f"-{letters[0]}", letters[1:]
        row = _find(command, by_flag, flag)
        if letters[:1] == "=" and len(letters) > 1:
            yield flag, row, letters[1:]
            return
        if row.metavar:
            yield flag, row, letters or _next(rest, flag, row)
            return
        yield flag, row, "true"


def _find(command: Command, by_flag: dict[str, Flag], flag: str) -> Flag:
    row = by_flag.get(flag)
    if row is None:
        known = ", ".join(f.flags[-1] for f in command.flags) or "none"
        close = get_close_matches(flag, [f for f in by_flag if f.startswith("--")]) if len(flag) > 2 else []
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {known}"
        raise UsageError(f"docker {command.name}: unknown option {flag}; {hint}")
    if row.refuse:
        raise UsageError(f"docker {command.name}: {flag} is not supported: {row.refuse}")
    return row


def _next(rest: Iterator[str], flag: str, row: Flag) -> str:
    text = next(rest, None)
    if text is None:
        raise UsageError(f"{flag}: expected a value, {row.metavar}: {row.help}")
    return text


def _set(command: Command, options: dict[str, Any], flag: str, row: Flag, text: str) -> None:
    try:
        value = row.parse(text) if row.metavar else units.parse_boolean(text)
    except ValueError as error:
        raise UsageError(f"docker {command.name}: {flag} {text!r}: {error}") from None
    if row.repeatable:
        options.setdefault(row.key, []).append(value)
    else:
        options[row.key] = value


def integer(text: str) -> int:
    """Parse an integer."""
    return units.parse_integer(text)


def filter_pair(text: str) -> tuple[str, str]:
    """Parse ``KEY=VALUE``.

    Raises
    ------
    ValueError
        If there is no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError("expected KEY=VALUE")
    return key.strip().lower(), value.strip()


def quote(text: str) -> str:
    """Quote text as Go's ``strconv.Quote``, which Docker's COMMAND column uses."""
    return json.dumps(text, ensure_ascii=False)
