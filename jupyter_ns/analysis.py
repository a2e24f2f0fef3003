"""Find the notebook variables that a cell reads, from its text.

A name too many costs the time to send it; a name too few breaks the cell. So: whatever may
be read counts, unless the cell itself has certainly bound the name before. Functions that
the cell merely calls are not looked into here: pickling them brings the globals they use.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .magic_lines import Nested, Used
from .scopes import Scope

_OWN = frozenset({"get_ipython"})
"""Names that the shell inside has itself, and that IPython writes into each magic's call."""

Bound = frozenset[str]


@dataclass(frozen=True, slots=True)
class Reads:
    """What a cell reads from the notebook.

    Attributes
    ----------
    names : tuple of str
        Sorted.
    dynamic : bool
        Whether it may read more than can be known, through `eval`, `globals` or ``%who``.
    """

    names: tuple[str, ...]
    dynamic: bool


class _Flow:
    """Walks top-level statements in order; knows what is certainly bound at each.

    A state of None means: not reached, because of a ``raise`` or the like.
    """

    def __init__(self, nested: Nested) -> None:
        self.reads: set[str] = set()
        self.binds: set[str] = set()
        self.dynamic = False
        self._nested = nested

    def use(self, nodes: Sequence[ast.AST | None], bound: Bound) -> set[str]:
        """Note what some nodes read beyond `bound`, and what they may bind; return what they do bind."""
        scope = Scope(self._nested).look(nodes)
        self.reads |= (scope.reads | scope.above) - bound
        self.binds |= scope.binds | scope.above | scope.assigned_by_magics
        self.dynamic |= scope.dynamic
        perhaps = {n.target.id for node in nodes if node for n in ast.walk(node) if isinstance(n, ast.NamedExpr)}
        return (scope.binds - perhaps).union(_walrus(node for node in nodes if node))

    def block(self, statements: Iterable[ast.stmt], bound: Bound) -> Bound | None:
        """Walk statements; return what is bound after them."""
        state: Bound | None = bound
        for statement in statements:
            after = _WALKERS.get(type(statement), _Flow._simple)(self, statement, bound)
            if after is None:
                state = None
            else:
                bound = after
        return bound if state is not None else None

    def _simple(self, statement: ast.stmt, bound: Bound) -> Bound | None:
        return bound | self.use([statement], bound)

    def _unbind(self, statement: ast.stmt, bound: Bound) -> Bound | None:
        before = set(self.binds)
        self.use([statement], bound)
        self.binds = before
        return bound

    def _leave(self, statement: ast.stmt, bound: Bound) -> Bound | None:
        self.use([statement], bound)
        return None

    def _annotate(self, statement: ast.AnnAssign, bound: Bound) -> Bound | None:
        return (self._unbind if statement.value is None else self._simple)(statement, bound)

    def _define(self, statement: ast.FunctionDef | ast.ClassDef, bound: Bound) -> Bound | None:
        # A function may name itself; a decorator may call it before its name is bound.
        at_once = bool(statement.decorator_list) or statement.name in _read_at_once(statement)
        self.use([statement], bound if at_once else bound | {statement.name})
        return bound | {statement.name}

    def _if(self, statement: ast.If, bound: Bound) -> Bound | None:
        bound = bound | self.use([statement.test], bound)
        return _join([self.block(statement.body, bound), self.block(statement.orelse, bound)])

    def _while(self, statement: ast.While, bound: Bound) -> Bound | None:
        bound = bound | self.use([statement.test], bound)
        self.block(statement.body, bound)
        self.block(statement.orelse, bound)
        return bound

    def _for(self, statement: ast.For, bound: Bound) -> Bound | None:
        bound = bound | self.use([statement.iter], bound)
        targets = self.use([statement.target], bound)
        self.block(statement.body, bound | targets)
        self.block(statement.orelse, bound)
        return bound

    def _with(self, statement: ast.With, bound: Bound) -> Bound | None:
        for item in statement.items:
            bound = bound | self.use([item.context_expr], bound)
            bound = bound | self.use([item.optional_vars], bound)
        after = self.block(statement.body, bound)
        # Most context managers may swallow an exception and so skip the rest of the body.
        return after if all(_is_open(item.context_expr) for item in statement.items) else bound

    def _try(self, statement: ast.Try, bound: Bound) -> Bound | None:
        body = self.block(statement.body, bound)
        ends = [body if body is None else self.block(statement.orelse, body)]
        for handler in statement.handlers:
            self.use([handler.type], bound)
            caught = {handler.name} if handler.name else set()
            self.binds |= caught
            after = self.block(handler.body, bound | caught)
            ends.append(after if after is None else after - (caught - bound))
        final = self.block(statement.finalbody, bound)
        joined = _join(ends)
        return None if final is None or joined is None else joined | final

    def _match(self, statement: ast.Match, bound: Bound) -> Bound | None:
        bound = bound | self.use([statement.subject], bound)
        ends: list[Bound | None] = []
        for case in statement.cases:
            captured = bound | self.use([case.pattern], bound)
            self.use([case.guard], captured)
            ends.append(self.block(case.body, captured))
        last = statement.cases[-1]
        if last.guard or not (isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None):
            ends.append(bound)
        return _join(ends)


_WALKERS: dict[type, Callable[[_Flow, Any, Bound], Bound | None]] = {
    **dict.fromkeys((ast.Raise, ast.Return, ast.Break, ast.Continue), _Flow._leave),
    **dict.fromkeys((ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef), _Flow._define),
    **dict.fromkeys((ast.For, ast.AsyncFor), _Flow._for),
    **dict.fromkeys((ast.With, ast.AsyncWith), _Flow._with),
    **dict.fromkeys((ast.Try, ast.TryStar), _Flow._try),
    ast.Delete: _Flow._unbind,
    ast.AnnAssign: _Flow._annotate,
    ast.If: _Flow._if,
    ast.While: _Flow._while,
    ast.Match: _Flow._match,
}


def _join(states: Iterable[Bound | None]) -> Bound | None:
    """Return what is bound whichever of several ways was taken."""
    reached = [state for state in states if state is not None]
    return frozenset.intersection(*reached) if reached else None


def _is_open(expression: ast.expr) -> bool:
    """Whether it is a call of `open`, whose result never swallows an exception."""
    return isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name) and expression.func.id == "open"


def _read_at_once(definition: ast.AST) -> set[str]:
    """Return the names that a definition reads outside the bodies of functions."""
    names: set[str] = set()
    for child in ast.iter_child_nodes(definition):
        if isinstance(child, ast.Name):
            names.add(child.id)
        if not (isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef)) and child in definition.body):
            names |= _read_at_once(child)
    return names


def _walrus(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names that ``:=`` in some nodes binds whatever happens."""
    for node in nodes:
        match node:
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                continue
            case ast.BoolOp():
                yield from _walrus(node.values[:1])
            case ast.IfExp():
                yield from _walrus([node.test])
            case ast.Compare():
                yield from _walrus([node.left, node.comparators[0]])
            case ast.Assert():
                yield from _walrus([node.test])
            case ast.NamedExpr():
                yield node.target.id
                yield from _walrus([node.value])
            case _:
                yield from _walrus(ast.iter_child_nodes(node))


def _as_it_stands(source: str) -> str:
    return source


def _analyse(source: str, transform: Callable[[str], str]) -> Used:
    def nested(text: str) -> Used:
        return _analyse(text, transform)

    flow = _Flow(Nested(nested, transform))
    flow.block(ast.parse(source).body, frozenset())
    return Used(frozenset(flow.reads), frozenset(flow.binds), flow.dynamic)


def names_read(source: str, available: Container[str], transform: Callable[[str], str] = _as_it_stands) -> Reads:
    """Find the names that a cell may read from outside itself.

    Parameters
    ----------
    source : str
        Python, as IPython's input transformer leaves it.
    available : container of str
        The notebook's variables; no other name is returned.
    transform : callable
        IPython's input transformer, for code inside magics such as ``%%time``.

    Raises
    ------
    SyntaxError
        If it is not Python.

    Examples
    --------
    >>> names_read("y = x + 1; print(y)", {"x", "y"})
    Reads(names=('x',), dynamic=False)
    """
    used = _analyse(source, transform)
    return Reads(tuple(sorted(n for n in used.reads - _OWN if n in available)), used.dynamic)


def names_assigned(source: str, transform: Callable[[str], str] = _as_it_stands) -> list[str]:
    """Find the names that a cell may bind at its top level, sorted.

    Raises
    ------
    SyntaxError
        If it is not Python.

    Examples
    --------
    >>> names_assigned("import os\\nfor i in 'ab': x = i")
    ['i', 'os', 'x']
    """
    return sorted(_analyse(source, transform).binds)
