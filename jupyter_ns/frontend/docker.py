"""``%docker`` and ``%%docker``: Docker's own command lines; ``|``, ``>``, ``<`` and ``$(…)`` are a shell's."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import ImageError, UsageError
from .commands import table
from .commands.console import Console
from .substitution import substitute


def run_line(shell: Any, line: str, cell: str | None, magic: str) -> None:
    """Carry out one line.

    Parameters
    ----------
    shell : InteractiveShell
        Where it was typed.
    line : str
        What stands after the magic's name.
    cell : str or None
        What the program reads.
    magic : str
        ``docker`` or ``container``.

    Raises
    ------
    UsageError
        See `commands.table.dispatch`; also if a quotation is not closed.
    """
    typed = split_line(substitute(line, lambda command: _output_of(shell, command, magic)))
    with as_docker(typed.words) if magic == "docker" else contextlib.nullcontext():
        _carry_out(shell, typed, cell, magic)


def _output_of(shell: Any, command: str, magic: str) -> str:
    """Return what a command of ``$(…)`` writes: one of ours, or one of the host's shell."""
    if command.split()[:1] != ["docker"]:
        done = subprocess.run(command, shell=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        sys.stderr.write(done.stderr)
        return done.stdout
    typed = split_line(
        substitute(command.strip().removeprefix("docker"), lambda inner: _output_of(shell, inner, magic))
    )
    console = Console(shell=shell, source=_readable(typed.source), errors=typed.errors)
    return _collected(console, typed, magic)


def _carry_out(shell: Any, typed: Line, cell: str | None, magic: str) -> None:
    if typed.source and cell is not None:
        raise UsageError(f"< {typed.source}: expected either a file or a cell's text to be read")
    show = shell.display_pub.publish if hasattr(shell, "kernel") else None
    console = Console(show, cell=cell, shell=shell, source=_readable(typed.source), errors=typed.errors)
    if not typed.rest:
        table.dispatch(console, typed.words, magic=magic)
        return
    console.write(_collected(console, typed, magic))


def _collected(console: Console, typed: Line, magic: str) -> str:
    """Carry out a line; return what it writes, and where it goes on in the host's shell, what that writes."""
    with console.piped() as collected:
        table.dispatch(console, typed.words, magic=magic)
        collected.seek(0)
        if not typed.rest:
            return collected.read().decode(errors="replace")
        done = subprocess.run(typed.rest, shell=True, stdin=collected, capture_output=True)
    console.error(done.stderr.decode(errors="replace"))
    return done.stdout.decode(errors="replace")


_SAID_BY_THE_DAEMON = re.compile(
    r"^(?=No such (?:container|image): |network \S+ not found|get \S+: no such volume|cannot remove container )", re.M
)


@contextlib.contextmanager
def as_docker(words: list[str]) -> Iterator[None]:
    """Have what is not there said as Docker's client says it: who put on "Error response from daemon" reads for that.

    Raises
    ------
    UsageError, ImageError
        As they come, in other words.
    """
    try:
        yield
    except (UsageError, ImageError) as e:
        text = _SAID_BY_THE_DAEMON.sub("Error response from daemon: ", str(e))
        text = re.sub("^(?=No such object: )", "Error: ", text, flags=re.M)
        if words[:1] == ["run"] and text != str(e):
            text = f"docker: {text}"
        if text == str(e):
            raise
        raise type(e)(text) from None


def _readable(source: str) -> str:
    path = os.path.expanduser(source)
    if source and not os.access(path, os.R_OK):
        raise UsageError(f"< {source}: no such file, or not readable")
    return path


def lines_of(cell: str) -> list[str]:
    """Return the command lines of a cell: comments and the word ``docker`` before them are left out.

    Examples
    --------
    >>> lines_of("docker ps\\n# all\\n\\n$ docker ps -a")
    ['ps', 'ps -a']
    """
    stripped = (line.strip().removeprefix("$ ").removeprefix("docker ").strip() for line in cell.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


class Line(NamedTuple):
    """A command line.

    Attributes
    ----------
    words : list of str
        Of the command, without their quotes.
    rest : str
        What the host's shell does with its output; empty for nothing.
    source : str
        The file that it reads, of ``< FILE``.
    errors : str
        ``with the rest`` (``2>&1``), ``nowhere`` (``2>/dev/null``), or empty: as usual.
    """

    words: list[str]
    rest: str = ""
    source: str = ""
    errors: str = ""


_ERRORS = {"2>&1": "with the rest", "2>/dev/null": "nowhere"}


def split_line(line: str) -> Line:
    """Cut off what stands outside quotation marks and is a shell's to do.

    Raises
    ------
    UsageError
        If a quotation is not closed, or nothing follows a ``|``, ``>`` or ``<``.

    Examples
    --------
    >>> split_line("inspect web | grep -i pid")
    Line(words=['inspect', 'web'], rest='grep -i pid', source='', errors='')
    >>> split_line("run host sh -c 'a | b' 2>&1").words
    ['run', 'host', 'sh', '-c', 'a | b']
    >>> split_line("save busybox > b.tar").rest, split_line("load < b.tar").source
    ('cat > b.tar', 'b.tar')
    """
    at = _unquoted(line, "|<>")
    words = _words(line[:at])
    mark, rest = line[at : at + 1], line[at + 1 :].strip()
    if not mark:
        return Line(words)
    if not rest:
        raise UsageError(f"{mark}: expected a {'command' if mark == '|' else 'file'} after it")
    if mark == "|":
        return Line(words, rest)
    if mark == "<":
        end = _unquoted(rest, "|<> ")
        if not end:
            raise UsageError("<: expected a file after it")
        after = split_line(rest[end:])
        (source,) = _words(rest[:end])
        return Line([*words, *after.words], after.rest, after.source or source, after.errors)
    if line[at - 2 : at] == " 2":
        how = next((how for how in _ERRORS if line[at - 1 :].replace("> ", ">", 1).startswith(how)), "")
        if not how:
            raise UsageError(f"{line[at - 1 :]}: expected {' or '.join(_ERRORS)}")
        after = split_line(line[at - 1 :].replace("> ", ">", 1)[len(how) :])
        return Line([*words[:-1], *after.words], after.rest, after.source, after.errors or _ERRORS[how])
    return Line(words, f"cat {line[at:]}")


def _unquoted(line: str, marks: str) -> int:
    """Return where the first of `marks` stands outside quotation marks; the line's length where none does."""
    quote, at = "", 0
    while at < len(line):
        letter = line[at]
        if letter == "\\" and quote != "'":
            at += 1
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in marks:
            return at
        at += 1
    return len(line)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{text!r}: {str(error).lower()}: expected every quotation mark to be closed") from None
