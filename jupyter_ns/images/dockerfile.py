"""Read a Dockerfile: instructions, their flags, variables. Nothing is carried out here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..errors import UsageError

INSTRUCTIONS = (
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER", "ONBUILD",
    "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
)  # fmt: skip
_DIRECTIVE = re.compile(r"#\s*(\w+)\s*=\s*(.*?)\s*$")
_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(\S*))?(?:\s+|$)")
_HEREDOC = re.compile(r"<<(-?)(['\"]?)([A-Za-z_][A-Za-z0-9_.]*)\2")
_REFERENCE = re.compile(r"\$(?:(\w+)|\{(\w+)(?:(:?[-+])([^}]*))?\})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Attributes
    ----------
    line : int
        Where it begins, from 1.
    name : str
        In capitals.
    text : str
        What follows the name and its flags.
    flags : dict of str to list of str
        ``--name=value``; without a value ``true``.
    script : str or None
        Of a ``RUN`` that is nothing but a here-document, its text.
    """

    line: int
    name: str
    text: str
    flags: dict[str, list[str]] = field(default_factory=dict)
    script: str | None = None

    @property
    def where(self) -> str:
        """How an error names it."""
        return f"Dockerfile, line {self.line}: {self.name}"


def parse(text: str) -> tuple[list[Instruction], str]:
    r"""Split a Dockerfile into instructions.

    Returns
    -------
    instructions : list of Instruction
    escape : str
        The character that continues a line and protects ``$``: a backslash, unless the file says otherwise.

    Raises
    ------
    UsageError
        If an instruction is unknown, or the file has none.

    Examples
    --------
    >>> parse("FROM busybox\nRUN echo \\\n  # why\n  a")[0][1].text
    'echo   a'
    """
    lines = text.splitlines()
    escape = "\\"
    for line in lines:
        directive = _DIRECTIVE.match(line)
        if directive is None:
            break
        if directive[1].lower() == "escape":
            escape = directive[2]
            if escape not in ("\\", "`"):
                raise UsageError(f"Dockerfile: escape={escape}: expected \\ or `")
    made = list(_instructions(lines, escape))
    if not made:
        raise UsageError("Dockerfile: it has no instruction; the first is FROM (ARG may stand before it)")
    return made, escape


def _instructions(lines: list[str], escape: str) -> Iterator[Instruction]:
    number = 0
    while number < len(lines):
        first = number
        pieces: list[str] = []
        while number < len(lines):
            line = lines[number]
            number += 1
            if line.lstrip().startswith("#") or (pieces and not line.strip()):
                continue
            first = first if pieces else number - 1
            continued = line.rstrip().endswith(escape)
            pieces.append(line.rstrip()[:-1] if continued else line)
            if not continued:
                break
        whole = "".join(pieces).strip()
        if whole:
            here, number = _heredocs(whole, lines, number, first + 1)
            yield _instruction(first + 1, whole, here)


def _instruction(line: int, whole: str, here: list[tuple[str, str]]) -> Instruction:
    name, rest = re.match(r"(\S+)\s*(.*)", whole, re.DOTALL).groups()  # type: ignore[union-attr]
    name = name.upper()
    if name not in INSTRUCTIONS:
        raise UsageError(f"Dockerfile, line {line}: unknown instruction: {name}; there are: {' '.join(INSTRUCTIONS)}")
    flags: dict[str, list[str]] = {}
    if name in ("FROM", "RUN", "COPY", "ADD", "HEALTHCHECK"):
        while found := _FLAG.match(rest):
            flags.setdefault(found[1], []).append("true" if found[2] is None else found[2])
            rest = rest[found.end() :]
    if not rest:
        raise UsageError(f"Dockerfile, line {line}: {name} requires at least one argument")
    script = None
    if here:
        if name != "RUN":
            raise UsageError(f"Dockerfile, line {line}: {name}: here-documents are read after RUN only; use a file")
        if _HEREDOC.fullmatch(rest):
            script = here[0][0]
        else:
            rest = "\n".join([rest, *(raw for _, raw in here)])
    return Instruction(line, name, rest, flags, script)


def _heredocs(whole: str, lines: list[str], number: int, first: int) -> tuple[list[tuple[str, str]], int]:
    """Take the here-documents of an instruction; return each one's text and its lines as they stand."""
    found: list[tuple[str, str]] = []
    if whole.split(None, 1)[0].upper() not in ("RUN", "COPY", "ADD"):
        return found, number
    for strip, _, end in _HEREDOC.findall(whole):
        body: list[str] = []
        raw: list[str] = []
        while number < len(lines):
            line = lines[number]
            number += 1
            raw.append(line)
            kept = line.lstrip("\t") if strip else line
            if kept == end:
                break
            body.append(kept)
        else:
            raise UsageError(f"Dockerfile, line {first}: the here-document has no end; expected a line {end}")
        found.append(("".join(f"{line}\n" for line in body), "\n".join(raw)))
    return found, number


def substitute(text: str, variables: Mapping[str, str], escape: str = "\\", *, quoted: bool = True) -> str:
    r"""Put the values of variables in, by the rules of a Dockerfile.

    Parameters
    ----------
    text : str
        ``$NAME``, ``${NAME}``, ``${NAME:-word}``, ``${NAME:+word}``, each also without ``:`` (unset only); nothing in
        single quotes or after `escape` is one.
    variables : mapping of str to str
        Their values; others are empty.
    escape : str
        As of `parse`.
    quoted : bool
        Whether a value is put in so that `shlex.split` takes it as a part of one word.

    Examples
    --------
    >>> substitute("$A ${B:-none} '$A' \\$A", {"A": "x y"})
    "'x y' none '$A' \\$A"
    """
    made: list[str] = []
    quote = ""
    i = 0
    while i < len(text):
        char = text[i]
        reference = _REFERENCE.match(text, i) if char == "$" and quote != "'" else None
        if reference is not None:
            made.append(_quote(_value(reference, variables), quote) if quoted else _value(reference, variables))
            i = reference.end()
            continue
        if char == escape and quote != "'" and i + 1 < len(text):
            made.append(f"\\{text[i + 1]}" if quoted or text[i + 1] != "$" else "$")
            i += 2
            continue
        if char in "'\"" and quote in ("", char):
            quote = "" if quote else char
        made.append(char)
        i += 1
    return "".join(made)


def _value(reference: re.Match[str], variables: Mapping[str, str]) -> str:
    plain, name, operator, word = reference.groups()
    value = variables.get(plain or name)
    if not operator:
        return value or ""
    there = bool(value) if operator[0] == ":" else value is not None
    if operator[-1] == "-":
        return (value or "") if there else substitute(word, variables, quoted=False)
    return substitute(word, variables, quoted=False) if there else ""


def _quote(value: str, quote: str) -> str:
    return re.sub(r'(["\\])', r"\\\1", value) if quote else shlex.quote(value) if value else ""
