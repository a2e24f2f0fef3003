"""Which names IPython's magics and shell escapes read.

The source has been through IPython's input transformer: ``!ls {x}`` is
``get_ipython().system('ls {x}')``, ``%time f(a)`` is
``get_ipython().run_line_magic('time', 'f(a)')``, ``obj?`` is a line magic called pinfo.

Notes
-----
IPython: ``InteractiveShell.var_expand`` and ``IPython.utils.text.DollarFormatter`` for
``$name`` and ``{expression}``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from string import Formatter
from typing import NamedTuple

_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_DOLLAR = re.compile(r"\$\$?([^\W\d]\w*)")
_OPTIONS = re.compile(r"(\s*-\w+(\s+[\w./]+)?(?=\s|$))*")

_CODE = frozenset({"time", "timeit", "prun", "memit", "mprun", "lprun", "capture"})
"""Magics whose line (or body) is the notebook's own code."""

_SHELL = frozenset({"system", "sx", "!", "!!"})
"""Cell magics whose body is a shell command, with names expanded."""

_TEXT = frozenset(
    {"bash", "cmd", "file", "html", "HTML", "javascript", "js", "latex", "markdown", "perl", "pypy", "python"}
    | {"python2", "python3", "ruby", "script", "sh", "svg", "SVG", "writefile"}
)
"""Cell magics whose body goes elsewhere as it stands."""

_DYNAMIC = frozenset(
    {
        "debug",
        "edit",
        "macro",
        "psearch",
        "recall",
        "rep",
        "rerun",
        "reset",
        "reset_selective",
        "save",
        "store",
    }
    | {"who", "who_ls", "whos"}
)
"""Magics that look at any variable."""


class Used(NamedTuple):
    """Names that a piece of a cell reads and binds, and whether it may read others."""

    reads: frozenset[str] = frozenset()
    binds: frozenset[str] = frozenset()
    dynamic: bool = False

    def __or__(self, other: Used) -> Used:
        return Used(self.reads | other.reads, self.binds | other.binds, self.dynamic or other.dynamic)


class Nested(NamedTuple):
    """How to read code inside magics.

    Attributes
    ----------
    analyse : callable
        From Python to the names it uses; raises `SyntaxError`.
    transform : callable
        From IPython's syntax to Python.
    """

    analyse: Callable[[str], Used]
    transform: Callable[[str], str]

    def code(self, text: str) -> Used:
        """Read code in IPython's syntax."""
        return self.analyse(self.transform(text))

    def expression(self, text: str) -> Used:
        """Read an expression; if it is none, every identifier in it counts."""
        try:
            return self.analyse(text.strip())
        except SyntaxError:
            return Used(identifiers(text))


Handler = Callable[[Sequence[str], Nested], Used]


def identifiers(text: str) -> frozenset[str]:
    """Return whatever in a text looks like a name.

    Examples
    --------
    >>> sorted(identifiers("a.b + 3c"))
    ['a', 'b', 'c']
    """
    return frozenset(_IDENTIFIER.findall(text))


def expansions(text: str, nested: Nested) -> Used:
    """Find what ``$name``, ``${name}`` and ``{expression}`` in a command read."""
    used = Used(frozenset(_DOLLAR.findall(text)))
    try:
        for _, field, spec, _ in Formatter().parse(text):
            if field:
                used |= nested.expression(field)
            if spec:
                used |= expansions(spec, nested) | Used(identifiers(spec))
    except ValueError:
        # Unbalanced braces: IPython passes the command on as it stands; names in it cost little.
        used |= Used(identifiers(text))
    return used


def _system(arguments: Sequence[str], nested: Nested) -> Used:
    return expansions(arguments[0], nested)


def _line_code(line: str, nested: Nested) -> Used:
    """Read a line of options and code."""
    options = _OPTIONS.match(line)
    end = options.end() if options else 0
    # An option's value and the code's first word look alike: both count.
    used = Used(identifiers(line[:end])) | expansions(line, nested)
    try:
        return used | nested.code(line[end:].strip())
    except SyntaxError:
        return used | Used(identifiers(line))


def _own_names(name: str, used: Used) -> Used:
    """Drop what a magic's code binds if it is run as a function of its own."""
    return used._replace(binds=frozenset()) if name == "timeit" else used


def _line_magic(arguments: Sequence[str], nested: Nested) -> Used:
    name, line = arguments[0], " ".join(arguments[1:])
    if name in _CODE:
        return _own_names(name, _line_code(line, nested))
    dynamic = name in _DYNAMIC or (name == "run" and "-i" in line.split())
    # Each name in the line, and so each in its expansions, except that these may be dynamic.
    return Used(identifiers(line), dynamic=dynamic or expansions(line, nested).dynamic)


def _cell_magic(arguments: Sequence[str], nested: Nested) -> Used:
    name, line, body = (*arguments, "", "")[:3]
    if name in _SHELL:
        return expansions(line, nested) | expansions(body, nested)
    if name == "capture":
        kept = [word for word in line.split() if word.isidentifier()]
        return nested.code(body) | Used(binds=frozenset(kept))
    if name in _CODE:
        return _own_names(name, _line_code(line, nested) | nested.code(body))
    used = Used(identifiers(line), dynamic=name in _DYNAMIC) | expansions(line, nested)
    return used if name in _TEXT else used | Used(identifiers(body))


SHELL_CALLS: dict[str, Handler] = {
    "system": _system,
    "getoutput": _system,
    "run_line_magic": _line_magic,
    "run_cell_magic": _cell_magic,
}
"""Methods of the shell that IPython's input transformer writes calls of."""
