"""Docker's subcommands by name, and those of them that are not there with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import version
from types import MappingProxyType

from ...errors import UsageError
from ...lifecycle import ask_all
from . import stored
from .about import VERSION
from .acting import ACTING
from .console import Console
from .copying import CP
from .grammar import Command, parse
from .inspecting import INSPECT
from .keeping import KEEPING
from .listing import PS
from .looking import LOOKING
from .running import EXEC, run_run
from .stats import STATS

_NOT_HERE = "it is not supported in this version"
_NO_SWARM = "there is no cluster here"
_NO_DAEMON = "there is no daemon here"

ABSENT: dict[str, str] = {
    **dict.fromkeys(("create", "search", "manifest", "buildx", "compose"), _NOT_HERE),
    **dict.fromkeys(("swarm", "node", "service", "stack", "secret", "config"), _NO_SWARM),
    **dict.fromkeys(("context", "plugin", "trust"), _NO_DAEMON),
}


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        PS,
        CP,
        EXEC,
        INSPECT,
        STATS,
        *KEEPING,
        *ACTING,
        *LOOKING,
        VERSION,
    )
}
_ALIASES = {("container", "ls"): "ps", ("container", "list"): "ps", ("container", "prune"): "container prune"}


def names() -> list[str]:
    """List the subcommands."""
    return sorted({*COMMANDS, *stored.names(), "run"})


def complete(command: Command, fragment: str) -> list[str]:
    """List the options, or the containers, that a word of a subcommand could become."""
    if fragment.startswith("-"):
        return [f for flag in command.flags if not flag.refuse for f in flag.flags if f.startswith(fragment)]
    names: list[str] = []
    if "NETWORK" in command.usage and command.name != "network create":
        names += network_names()
    if command.most != 0 and ("CONTAINER" in command.usage or "NAME" in command.usage):
        names += container_names()
    return [name for name in names if name.startswith(fragment)]


def container_names() -> list[str]:
    """Return the names of all containers."""
    return [row["name"] for row in ask_all("list")]


def network_names() -> list[str]:
    """Return the names of all networks."""
    return list(dict.fromkeys(network["name"] for network in ask_all("networks")))


def dispatch(console: Console, words: list[str], *, magic: str = "docker") -> None:
    """Carry out one of Docker's command lines.

    Parameters
    ----------
    console : Console
        Where the output goes.
    words : list of str
        What stands after ``docker``.
    magic : str
        ``docker`` or ``container``: with the former, ``run`` takes an image.

    Raises
    ------
    UsageError
        If there is no such subcommand, option or container; the message says what there is.
    ContainerError
        As the engine says.
    """
    if not words or words[0] in ("-h", "--help", "help"):
        console.write(overview(magic))
        return
    name, *rest = words
    if name in ("-v", "--version"):
        console.line(f"jupyter_ns version {version('jupyter_ns')}, which has Docker's command lines and no Docker")
        return
    if name == "container" and rest and magic == "docker":  # docker container stop is docker stop
        name, *rest = rest
        name = _ALIASES.get(("container", name), name)
    if name == "run":
        run_run(console, rest, with_image=magic == "docker")
        return
    if stored.dispatch(console, [name, *rest]):
        return
    if name not in COMMANDS:
        raise UsageError(_unknown(name))
    command = COMMANDS[name]
    given = parse(command, rest)
    if given.help:
        console.line(command.help_text())
    else:
        command.run(console, given)


def _unknown(name: str) -> str:
    if name in ABSENT:
        return f"docker {name}: {ABSENT[name]}; there are: {', '.join(names())}"
    close = get_close_matches(name, names())
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"docker: '{name}' is not a docker command; {hint}there are: {', '.join(names())}"


def overview(magic: str, ours: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return what the magic alone prints: what is only `ours`, and then Docker's subcommands."""
    image = "IMAGE [COMMAND] [ARG…]" if magic == "docker" else "PROGRAM [ARG…]"
    rows = [*ours.items(), ("run", f"[OPTIONS] {image}: run a program in a new container")]
    every = {**COMMANDS, **stored.STORED}
    rows += [(name, every[name].help) for name in sorted(every) if name not in ours]
    width = max(len(name) for name, _ in rows)
    return "".join(f"  %{magic} {name:<{width}}  {text}\n" for name, text in rows)
