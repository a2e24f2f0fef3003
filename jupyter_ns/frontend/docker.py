"""``%docker`` and ``%%docker``: Docker's own command lines, pipes at their end included."""

from __future__ import annotations

import shlex
import subprocess
from typing import Any

from ..errors import UsageError
from .commands import table
from .commands.console import Console


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
    words, pipe = split_pipe(line)
    show = shell.display_pub.publish if hasattr(shell, "kernel") else None
    console = Console(show, cell=cell, shell=shell)
    if not pipe:
        table.dispatch(console, words, magic=magic)
        return
    with console.piped() as collected:
        try:
            table.dispatch(console, words, magic=magic)
        finally:
            text = collected.getvalue()
    done = subprocess.run(pipe, shell=True, input=text, capture_output=True, text=True, errors="replace")
    console.error(done.stderr)
    console.write(done.stdout)


def lines_of(cell: str) -> list[str]:
    """Return the command lines of a cell: comments and the word ``docker`` before them are left out.

    Examples
    --------
    >>> lines_of("docker ps\\n# all\\n\\n$ docker ps -a")
    ['ps', 'ps -a']
    """
    stripped = (line.strip().removeprefix("$ ").removeprefix("docker ").strip() for line in cell.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def split_pipe(line: str) -> tuple[list[str], str]:
    """Cut a line at the first ``|`` that stands outside quotation marks; split what is before into words.

    Returns
    -------
    words : list of str
        Without their quotes.
    pipe : str
        What the host's shell is to do with the output; empty for nothing.

    Raises
    ------
    UsageError
        If a quotation is not closed, or nothing follows the ``|``.

    Examples
    --------
    >>> split_pipe("inspect web | grep -i pid")
    (['inspect', 'web'], 'grep -i pid')
    >>> split_pipe("run host sh -c 'a | b'")
    (['run', 'host', 'sh', '-c', 'a | b'], '')
    """
    quote, at = "", 0
    while at < len(line):
        letter = line[at]
        if letter == "\\" and quote != "'":
            at += 1
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "|":
            break
        at += 1
    before, pipe = line[:at], line[at + 1 :].strip()
    if at < len(line) and not pipe:
        raise UsageError("|: expected a command after it")
    try:
        return shlex.split(before), pipe
    except ValueError as error:
        raise UsageError(f"{before!r}: {str(error).lower()}: expected every quotation mark to be closed") from None
