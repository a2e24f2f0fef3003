"""Which names a piece of Python takes from outside itself, and which it binds.

A scope here is a function, lambda, comprehension or class body, or a run of statements at
the top level. Within one the order of statements is not looked at: what may be read counts
as read (`jupyter_ns.analysis` looks at the order at the top level).

Notes
-----
Python Language Reference, 4.2 "Naming and binding".
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Any

from .magic_lines import SHELL_CALLS, Nested, identifiers

_DYNAMIC = frozenset({"eval", "exec", "globals", "locals", "get_ipython"})
"""Functions through which any name can be read."""

_WITHOUT_ARGUMENTS = frozenset({"vars", "dir"})
"""Functions through which any name can be read, if called with nothing."""

_TEXT_METHODS = frozenset({"query", "eval", "evaluate", "sql", "execute", "from_formula", "ols", "glm", "logit"})
"""Methods of pandas, numexpr, duckdb, statsmodels: their text may name the caller's variables."""

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Scope(ast.NodeVisitor):
    """The names of one scope, and of those nested in it.

    Attributes
    ----------
    reads : set of str
        Names loaded here, or wanted from here by nested scopes.
    binds : set of str
        Names bound here.
    above : set of str
        Names that a ``global`` statement, here or nested, takes from the top.
    declared : set of str
        Names that a ``global`` or ``nonlocal`` statement keeps from being bound here.
    assigned_by_magics : set of str
        Names that a magic may bind at the top.
    dynamic : bool
        Whether names may be read that cannot be known from the text.
    """

    def __init__(self, nested: Nested, *, comprehension: bool = False) -> None:
        self.reads: set[str] = set()
        self.binds: set[str] = set()
        self.above: set[str] = set()
        self.declared: set[str] = set()
        self.assigned_by_magics: set[str] = set()
        self.dynamic = False
        self._nested = nested
        self._comprehension = comprehension

    def outward(self) -> set[str]:
        """Return the names taken from outside: from any enclosing scope or the top."""
        return (self.reads - (self.binds - self.declared)) | self.above

    def look(self, nodes: Iterable[ast.AST | None]) -> Scope:
        """Visit each node; returns self."""
        for node in nodes:
            if node is not None:
                self.visit(node)
        return self

    def _nest(self, inner: Scope, local: Iterable[str] = ()) -> None:
        # What an inner ``global`` names bypasses this scope's own variables.
        self.above |= inner.above
        self.reads |= inner.outward() - inner.above - set(local)
        self.dynamic |= inner.dynamic

    def _new(self, *, comprehension: bool = False) -> Scope:
        return Scope(self._nested, comprehension=comprehension)

    # Names

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, (ast.Load, ast.Del)):
            self.reads.add(node.id)
            self.dynamic |= node.id in _DYNAMIC
        if isinstance(node.ctx, (ast.Store, ast.Del)):
            self.binds.add(node.id)

    def visit_Global(self, node: ast.Global) -> None:
        self.declared.update(node.names)
        self.above.update(node.names)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        self.declared.update(node.names)
        self.reads.update(node.names)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.reads.add(node.target.id)
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        if self._comprehension:
            # It binds in the scope around the comprehension (PEP 572), which sees to that.
            self.reads.add(node.target.id)
        else:
            self.binds.add(node.target.id)

    def visit_alias(self, node: ast.alias) -> None:
        if node.name != "*":
            self.binds.add(node.asname or node.name.split(".")[0])
        self.dynamic |= node.name == "__main__"

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.dynamic |= node.module == "__main__"
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.binds.add(node.name)
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        if node.name:
            self.binds.add(node.name)
        self.generic_visit(node)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        if node.name:
            self.binds.add(node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        if node.rest:
            self.binds.add(node.rest)
        self.generic_visit(node)

    # Nested scopes

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        parameters = _type_parameters(node)
        self.look(node.decorator_list)
        self._parameters(node.args, node, parameters)
        self.binds.add(node.name)
        inner = self._new()
        inner.binds.update(_arguments(node.args), parameters)
        self._nest(inner.look(node.body))

    visit_FunctionDef = _visit_function
    visit_AsyncFunctionDef = _visit_function

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._parameters(node.args, node, set())
        inner = self._new()
        inner.binds.update(_arguments(node.args))
        self._nest(inner.look([node.body]))

    def _parameters(self, args: ast.arguments, node: Any, parameters: set[str]) -> None:
        """Visit what is evaluated where a function is defined: defaults and annotations."""
        self.look([*args.defaults, *args.kw_defaults])
        annotations = self._new().look(
            [*(a.annotation for a in _all_arguments(args)), getattr(node, "returns", None), *_bounds(node)]
        )
        self._nest(annotations, parameters)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        parameters = _type_parameters(node)
        self.look(node.decorator_list)
        self._nest(self._new().look([*node.bases, *node.keywords, *_bounds(node)]), parameters)
        bound: set[str] = set()
        for statement in node.body:
            inner = self._new().look([statement])
            nested = self._new()
            # A class body's own names are not seen by the functions in it.
            nested.reads, nested.above = inner.reads - _directly_read(statement, bound), inner.above
            nested.dynamic = inner.dynamic
            self._nest(nested, parameters)
            if isinstance(statement, (ast.Assign, ast.Import, ast.ImportFrom, *_FUNCTIONS, ast.ClassDef)):
                bound |= inner.binds - inner.declared
        self.binds.add(node.name)

    def _visit_comprehension(self, node: Any) -> None:
        first, *rest = node.generators
        self.visit(first.iter)
        inner = self._new(comprehension=True)
        for generator in node.generators:
            inner.look([generator.target, *generator.ifs])
        inner.look(generator.iter for generator in rest)
        inner.look([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt])
        walrus = set(_walrus_targets(node))
        if self._comprehension:
            self.reads |= walrus
        else:
            self.binds |= walrus
        # What is read in here too may be read before it is bound, in the first round.
        loaded = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        self._nest(inner, walrus - loaded)

    visit_ListComp = _visit_comprehension
    visit_SetComp = _visit_comprehension
    visit_DictComp = _visit_comprehension
    visit_GeneratorExp = _visit_comprehension

    def visit_TypeAlias(self, node: Any) -> None:
        self._nest(self._new().look([node.value, *_bounds(node)]), _type_parameters(node))
        self.binds.add(node.name.id)

    # Calls that read names in other ways

    def visit_Call(self, node: ast.Call) -> None:
        if self._shell_call(node):
            return
        function = node.func
        if isinstance(function, ast.Name) and function.id in _WITHOUT_ARGUMENTS:
            self.dynamic |= not node.args
        if isinstance(function, ast.Attribute) and function.attr in _TEXT_METHODS:
            for text in _texts(node):
                self.reads |= identifiers(text)
        self.generic_visit(node)

    def _shell_call(self, node: ast.Call) -> bool:
        """Handle ``get_ipython().METHOD('…')``, which IPython makes of magics; say if it was one."""
        function = node.func
        if not (
            isinstance(function, ast.Attribute)
            and isinstance(function.value, ast.Call)
            and isinstance(function.value.func, ast.Name)
            and function.value.func.id == "get_ipython"
        ):
            return False
        handler = SHELL_CALLS.get(function.attr)
        arguments = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if handler is None or len(arguments) != len(node.args):
            return False
        used = handler(arguments, self._nested)
        self.reads |= used.reads
        self.assigned_by_magics |= used.binds
        self.dynamic |= used.dynamic
        return True


def _all_arguments(args: ast.arguments) -> list[ast.arg]:
    every = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    return [a for a in every if a is not None]


def _arguments(args: ast.arguments) -> set[str]:
    return {a.arg for a in _all_arguments(args)}


def _type_parameters(node: Any) -> set[str]:
    return {p.name for p in getattr(node, "type_params", ())}  # Python 3.12


def _bounds(node: Any) -> list[ast.AST | None]:
    """List what type parameters are bounded by, or default to."""
    of = getattr(node, "type_params", ())
    return [getattr(p, field, None) for p in of for field in ("bound", "default_value")]


def _walrus_targets(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.NamedExpr):
            yield child.target.id
        if not isinstance(child, (ast.Lambda, *_COMPREHENSIONS)):
            yield from _walrus_targets(child)


def _directly_read(statement: ast.stmt, bound: set[str]) -> set[str]:
    """Return those of `bound` that a statement reads itself, and no function in it does."""
    nested = [n for n in ast.walk(statement) if isinstance(n, (ast.Lambda, *_FUNCTIONS, *_COMPREHENSIONS))]
    inside = {n.id for node in nested for n in ast.walk(node) if isinstance(n, ast.Name)}
    return bound - inside


def _texts(node: ast.Call) -> Iterator[str]:
    for argument in [*node.args, *(k.value for k in node.keywords)]:
        for part in ast.walk(argument):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value
