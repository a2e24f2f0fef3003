"""What a row of the option table is, and what parsing a line gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import units
from .spec import ContainerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What values are read against.

    Attributes
    ----------
    cwd : str
        Absolute path that relative paths start from.
    environ : mapping of str to str
        Where ``-e NAME`` and ``~`` look.
    host_cpus : int
        CPUs that the host has online.
    available_cpus : frozenset of int
        Their numbers.
    """

    cwd: str
    environ: Mapping[str, str]
    host_cpus: int
    available_cpus: frozenset[int]


Parser = Callable[[str, Context], Any]
"""Turns a value into what its field holds; ValueError says what is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One row of the option table.

    Attributes
    ----------
    flags : tuple of str
        As typed, the preferred long one last but for aliases: ``("-m", "--memory", "--mem")``.
    help : str
        One line.
    group : str
        Heading in the help text.
    sets : str
        ``limits.FIELD``, ``spec.FIELD`` or ``request.FIELD``; empty for a refused option.
    parse : callable
        Value to field; for a repeatable option it gives a tuple, and tuples are joined.
    metavar : str
        Name of the value; empty for a boolean, which may be written ``--flag`` or ``--flag=false``.
    unit : str
        Unit of a bare number.
    default : str
        As the user would write it; empty if nothing is set by default.
    oci : str
        Path in the OCI runtime specification.
    v1, v2 : str
        Kernel files that a limit goes to, by cgroup version.
    documentation : str
        Manual page or kernel document.
    choices : tuple of (str, str)
        Values offered in completion, each with a description.
    repeatable : bool
        Whether every use adds, instead of the last one winning.
    comma_list : bool
        Whether one value may name several choices with commas between.
    needs : str
        Namespace kind that the option acts in, so that leaving it out is a contradiction.
    refuse : str
        Why the option is not supported; empty if it is.
    """

    flags: tuple[str, ...]
    help: str
    group: str
    sets: str = ""
    parse: Parser = field(default=lambda value, _context: value, repr=False)
    metavar: str = ""
    unit: str = ""
    default: str = ""
    oci: str = ""
    v1: str = ""
    v2: str = ""
    documentation: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    repeatable: bool = False
    comma_list: bool = False
    needs: str = ""
    refuse: str = ""

    @property
    def name(self) -> str:
        """Its first long flag, or its only one."""
        return next((flag for flag in self.flags if flag.startswith("--")), self.flags[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """A parsed line: the container, and what the notebook's side does around it.

    Attributes
    ----------
    spec : ContainerSpec
        What to build and run.
    state : str
        ``copy``, ``fork`` or ``none``: how a Python cell sees the notebook's variables.
    inputs, outputs : tuple of str or None
        Variables to send in and bring back; None leaves inputs to analysis of the cell, and brings nothing
        back.
    trust : bool
        Whether to believe what a container sends.
    explain : bool
        Show, after the run, the plan and the time each step took.
    quiet : bool
        Show no card.
    result : str
        Name under which the `Container` is left, beside ``_container``.
    raise_error : bool
        Whether a program's non-zero exit raises.
    detach : bool
        Whether the container goes on without its cell.
    remove : bool or None
        Whether it is removed when it ends; None leaves that to how it was started.
    cidfile : str
        Path of a file to write its ID to; empty for none.
    on : str
        The place whose engine runs it, ``host`` or ``guest``.
    help : bool
        Help was asked for; the other fields are defaults.
    """

    spec: ContainerSpec = field(default_factory=ContainerSpec)
    state: str = "copy"
    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    trust: bool = False
    explain: bool = False
    quiet: bool = False
    result: str = ""
    raise_error: bool = True
    detach: bool = False
    remove: bool | None = None
    cidfile: str = ""
    on: str = "host"
    help: bool = False


PURE: set[Parser] = set()
"""The parsers that give the same value for the same text on the same CPUs, whatever the environment is."""


def pure(parser: Parser) -> Parser:
    """Note that a parser looks at nothing but its text and the CPUs."""
    PURE.add(parser)
    return parser


def plain(parse: Callable[[str], Any]) -> Parser:
    """Make a `Parser` of a function that needs no context."""
    return pure(lambda value, _context: parse(value))


boolean: Parser = plain(units.parse_boolean)
negated: Parser = plain(lambda text: not units.parse_boolean(text))


def choice(choices: tuple[tuple[str, str], ...]) -> Parser:
    """Make a `Parser` that takes one of the choices as it is."""
    accepted = [name for name, _ in choices]

    def parse(text: str) -> str:
        if text not in accepted:
            raise ValueError(f"expected one of {', '.join(accepted)}")
        return text

    return plain(parse)


def integer(low: int, high: int, unset: int | None = None) -> Parser:
    """Make a `Parser` of integers from ``low`` to ``high``; ``unset`` stands for: not asked for."""

    def parse(text: str) -> int | None:
        value = units.parse_integer(text)
        if value == unset:
            return None
        if not low <= value <= high:
            raise ValueError(f"expected an integer from {low} to {high}")
        return value

    return plain(parse)
