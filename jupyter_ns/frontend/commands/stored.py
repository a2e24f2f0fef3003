"""Docker's subcommands about images, volumes, networks and the system: one table, names of two words too."""

from __future__ import annotations

from ...errors import UsageError
from ...images import elsewhere
from .acting import prune
from .console import Console
from .grammar import Command, parse
from .image_table import IMAGES
from .images import let_go
from .networks import NETWORKS
from .storage import STORAGE

STORED: dict[str, Command] = {command.name: command for command in (*IMAGES, *STORAGE, *NETWORKS)}
_BY_ANYBODY = frozenset(
    f"{group}{name}"
    for group, listed in (
        ("", "images tag save push login logout info build"),
        ("image ", "ls list inspect tag save push build"),
        ("volume ", "ls create inspect"),
        ("system ", "df info"),
        ("network ", "ls create inspect rm prune connect disconnect"),
    )
    for name in listed.split()
)
"""What needs no privilege over files of other owners."""
GROUPS = frozenset(name.split()[0] for name in STORED if " " in name)
"""First words of names of two: ``image``, ``volume``, ``system``, ``network``."""


def dispatch(console: Console, words: list[str]) -> bool:
    """Carry out a command line, if it is one of these; return whether it was.

    Raises
    ------
    UsageError
        If the second word of a group, an option or an argument is wrong; the message says what there is.
    ContainerError
        As the command.
    """
    name, rest = (words[0], words[1:]) if words else ("", [])
    if name in GROUPS:
        group = sorted(n for n in STORED if n.startswith(f"{name} "))
        if not rest or rest[0] in ("-h", "--help"):
            console.write("".join(f"  {n:<16} {STORED[n].help}\n" for n in group))
            return True
        name, rest = f"{name} {rest[0]}", rest[1:]
        if name not in STORED:
            raise UsageError(f"docker: '{name}' is not a docker command; there are: {', '.join(group)}")
    if name not in STORED:
        return False
    command = STORED[name]
    given = parse(command, rest)
    if given.help:
        console.line(command.help_text())
        return True
    if command.name == "system prune":
        prune(console)  # the engine's; the rest is the store's
    if elsewhere.needed() and command.name not in _BY_ANYBODY:
        let_go()
        elsewhere.call("command", words, console.cell, console.source, say=console.line)
    else:
        command.run(console, given)
    return True


def names() -> list[str]:
    """List the subcommands, groups by their first word."""
    return sorted({name.split()[0] for name in STORED})
