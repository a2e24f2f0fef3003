"""Whatever a cell reads from the notebook is found; most of what it does not read is not."""

from __future__ import annotations

import ast
import contextlib
import dis
import importlib.util
import random
import types
from collections.abc import Iterator
from typing import Any

import pytest

from jupyter_ns.analysis import names_assigned, names_read
from jupyter_ns.magic_lines import Nested, Used
from jupyter_ns.scopes import Scope

LETTERS = frozenset("abcdefgxyz")


def read(source: str) -> str:
    return "".join(names_read(source, LETTERS).names)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("", ""),
        ("a", "a"),
        ("a = 1; a", ""),
        ("a = a + 1", "a"),
        ("a += b", "ab"),
        ("a.x = b[c]", "abc"),
        ("a[b] = 1; a", "ab"),
        ("a, (b, *c) = d; a; b; c", "d"),
        ("a: b = c; a", "bc"),
        ("a: int\na", "a"),
        ("del a", "a"),
        ("a = 1\ndel a", ""),
        ("import a.b as c, d.e; c; d; a", "a"),
        ("from a import b as c, d; c; d; b", "b"),
        ("from a import *; b", "b"),
        ("f'{a} {b!r:{c}} {d=}'", "abcd"),
        # functions
        ("def f(): return a", "a"),
        ("def f(a, /, b, *c, d=e, **g): a; b; c; d; g", "e"),
        ("def f(a: b) -> c: d = 1; return d", "bc"),
        ("@a\ndef f(): pass", "a"),
        ("def f(): return f()", ""),
        ("@a\ndef f(): return f()", "af"),
        ("def f(x=f): pass", "f"),
        ("def f():\n  a = 1\n  def g():\n    return a\n  return g", ""),
        ("def f():\n  a = 1\n  def g():\n    global a\n    return a\n  return g", "a"),
        ("def f():\n  a = 1\n  def g():\n    nonlocal a\n    a += 1\n  return g", ""),
        ("def f():\n  global a\n  a += 1", "a"),
        ("def f():\n  for a in b: pass\n  return a", "b"),
        ("def f():\n  with b as a: a", "b"),
        ("def f():\n  try: pass\n  except b as a: a", "b"),
        ("def f():\n  import a\n  a", ""),
        ("def f():\n  a()\n  a = 1", ""),
        ("a = 1\ndef f(): return a", ""),
        ("def f(): return a\na = 1", "a"),
        ("async def f():\n  async with a as b: return await b", "a"),
        ("lambda a, b=c: a + b + d", "cd"),
        ("await a", "a"),
        # comprehensions
        ("[a for a in b]", "b"),
        ("[a for a in a]", "a"),
        ("{a: b for a in c for b in a if d}", "cd"),
        ("[c := a for a in b]; c", "bc"),
        ("def f(): return [c := a for a in b], c", "b"),
        ("def f(): return [[c := a for a in d] for d in b], c", "bc"),
        ("[(lambda: a) for a in b]", "b"),
        # classes
        ("class a(b, metaclass=c): x = d", "bcd"),
        ("class a:\n  b = 1\n  c = b", ""),
        ("class a:\n  b = 1\n  def f(self): return b", "b"),
        ("class a:\n  b = 1\n  c = [b for x in y]", "by"),
        ("class a:\n  b = b", "b"),
        ("class a:\n  b += 1", "b"),
        ("class a:\n  def f(self): return a()", ""),
        ("class a(a): pass", "a"),
        ("@b\nclass a:\n  def f(self): return a", "ab"),
        # order and conditions
        ("if a: b = 1\nb", "ab"),
        ("if a: b = 1\nelse: b = 2\nb", "a"),
        ("if a: b = 1\nelse: raise c\nb", "ac"),
        ("if a:\n  b = 1\n  b", "a"),
        ("for a in b: a\na", "ab"),
        ("for a in b: c = a\nelse: c", "bc"),
        ("while a:\n  b = 1\nb", "ab"),
        ("while a:\n  if b: continue\n  else: c = 1\n  c", "ab"),
        ("try: a = 1\nexcept b: pass\na", "ab"),
        ("try: a = 1\nexcept b: raise\na", "b"),
        ("try: a = 1\nexcept b: a = 2\na", "b"),
        ("try: pass\nexcept b: raise\nelse: a = 1\na", "b"),
        ("try: b\nfinally: a = 1\na", "b"),
        ("try: b\nexcept c as a: a", "bc"),
        ("try: b\nexcept* c as a: a", "bc"),
        ("with a as b: b", "a"),
        ("with a: b = 1\nb", "ab"),
        ("with open(a) as b: c = b.read()\nc", "a"),
        ("with open(a) as b, c: d = 1\nd", "acd"),
        ("if (a := b) and (c := x): b\na; c", "bcx"),
        ("b if a else (c := 1); c", "abc"),
        ("(a := 1); a", ""),
        ("b = x and (c := y)\nb; c", "cxy"),
        ("b < (a := 1) < (c := 2); a; c", "bc"),
        ("match a:\n  case [b, *c]: b; c\n  case {'k': d, **e}: d; e\n  case x.y: pass", "ax"),
        ("match a:\n  case 1: b = 1\n  case _: b = 2\nb", "a"),
        ("match a:\n  case 1: b = 1\nb", "ab"),
        ("match a:\n  case g(x=1) if b: pass", "abg"),
        ("assert (a := b); a", "b"),
        # text that names variables
        ("a.query('b > @c')", "abc"),
        ("a.eval('b + ' + 'c')", "abc"),
        ("a.sql(f'select * from b where {c}')", "abc"),
        ("a.other('b')", "a"),
    ],
)
def test_names_read(source: str, names: str) -> None:
    assert read(source) == names


@pytest.mark.skipif("sys.version_info < (3, 12)")
@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f[a: b](x: a) -> a: return a", "b"),
        ("class c[a](b[a]):\n  d: a", "b"),
        ("type a[b] = c[b, a]", "ac"),
    ],
)
def test_names_read_by_generic_definitions(source: str, names: str) -> None:
    assert read(source) == names


@pytest.mark.parametrize(
    ("source", "names", "dynamic"),
    [
        ("!ls {a} $b ${c.d} {x[0]:{y}}", "abcxy", False),
        ("z = !ls {a}", "a", False),
        ("z = %env a\nz", "a", False),
        ("!awk '{print $1}' {a}", "a", False),
        ("!echo {", "", False),
        ("!echo {globals()}", "", True),
        ("%time a(b)", "ab", False),
        ("%timeit -n 10 -r3 a(b)", "ab", False),
        ("%timeit -o a", "a", False),
        ("%time a = b\na", "ab", False),
        ("%time a = 1\nb", "b", False),
        ("%prun -s a b()", "ab", False),
        ("%%time\na = 1\na + b\n!ls {c}", "bc", False),
        ("%%timeit a = b\na + c", "abc", False),
        ("%%capture a\nb = 1\nprint(b, c)", "c", False),
        ("%%bash -s {a} $b\necho $c {d}", "ab", False),
        ("%%sx\nls {a}", "a", False),
        ("%%writefile {a}.txt\nb", "a", False),
        ("%%unheard_of -i a\nb", "ab", False),
        ("%unheard_of -i a.b", "ab", False),
        ("a?", "a", False),
        ("a.b??", "ab", False),
        ("%who", "", True),
        ("%run x.py", "x", False),
        ("%run -i x.py", "x", True),
        ("%%time\neval('a')", "", True),
        ("eval('a')", "", True),
        ("globals()['a']", "", True),
        ("def f(): return locals()", "", True),
        ("vars()", "", True),
        ("vars(a)", "a", False),
        ("dir()", "", True),
        ("dir = a", "a", False),
        ("import __main__", "", True),
        ("from __main__ import a", "", True),
        ("get_ipython().user_ns['a']", "", True),
        ("g = get_ipython()", "", True),
        ("def f(a):\n    !ls {a} {b}", "b", False),
        ("def f():\n    %time x = a\n    return x", "ax", False),
    ],
)
def test_magics(shell: Any, source: str, names: str, dynamic: bool) -> None:
    found = names_read(shell.transform_cell(source), LETTERS | {"get_ipython"}, shell.transform_cell)
    assert ("".join(found.names), found.dynamic) == (names, dynamic)


@pytest.fixture(scope="module")
def shell() -> Any:
    return pytest.importorskip("IPython.core.inputtransformer2").TransformerManager()


def test_only_available_names_are_returned() -> None:
    assert names_read("print(a, len(b))", {"b", "c"}).names == ("b",)


def test_a_syntax_error_is_raised_as_it_is() -> None:
    with pytest.raises(SyntaxError):
        names_read("a = ", {"a"})


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("a = b = 1; c, *d = 2, 3; e += 1; x.y = 1; z[0] = 1", "abcde"),
        ("for a in b:\n  c = 1\nwith b as d: pass", "acd"),
        ("def f():\n  a = 1\nclass g: b = 1", "fg"),
        ("def f():\n  global a\n  a = 1", "af"),
        ("import a.b, c as d", "ad"),
        ("del a\nb: int\nc: int = 1", "c"),
        ("(a := 1)\n[b := c for c in d]", "ab"),
        ("match a:\n  case [b]: pass", "b"),
        ("try: pass\nexcept b as a: pass", "a"),
        ("%time a = 1", "a"),
        ("%%capture a\nb = 1", "ab"),
        ("%%timeit\nb = 1", ""),
        ("a = !ls", "a"),
    ],
)
def test_names_assigned(shell: Any, source: str, names: str) -> None:
    assert "".join(names_assigned(shell.transform_cell(source), shell.transform_cell)) == names


# Against what Python itself does.


def _globals_loaded(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals_loaded(constant)


@pytest.mark.parametrize(
    "module",
    [
        "argparse",
        "ast",
        "asyncio.tasks",
        "collections",
        "configparser",
        "dataclasses",
        "decimal",
        "doctest",
        "enum",
        "functools",
        "http.client",
        "inspect",
        "logging",
        "pathlib",
        "pdb",
        "pickle",
        "pydoc",
        "random",
        "subprocess",
        "tarfile",
        "threading",
        "typing",
        "unittest.mock",
        "zipfile",
    ],
)
def test_every_global_that_the_compiler_sees_is_found(module: str) -> None:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        pytest.skip("no source")
    with open(spec.origin, encoding="utf-8") as file:
        source = file.read()
    scope = Scope(Nested(lambda _: Used(), lambda text: text)).look(ast.parse(source).body)
    loaded = {n for n in _globals_loaded(compile(source, module, "exec")) if not n.startswith("_")}
    assert loaded <= scope.reads | scope.above


class _Recorder(dict[str, Any]):
    """A namespace that notes the names read from it before the program bound them."""

    def __init__(self) -> None:
        super().__init__()
        self.bound: set[str] = set()
        self.outside: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        if name in LETTERS and name not in self.bound and name not in self:  # STORE_GLOBAL asks no __setitem__
            self.outside.add(name)
            return 1
        return super().__getitem__(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self.bound.add(name)
        super().__setitem__(name, value)


class _Programs:
    """Writes random programs of a few names, with every compound statement."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def name(self) -> str:
        return self._random.choice("abc")

    def expression(self) -> str:
        a, b, c = self.name(), self.name(), self.name()
        plain = ["0", "1", a, a]
        bold = ["1 // 0", f"({a} := {b})", f"({a} and ({b} := {c}))", f"({a} if {b} else ({c} := 0))"]
        bold += [
            f"[{a} for x in ({b}, 0)][0]",
            f"[({a} := {b}) for x in range({c})]",
            f"({a} < 0 < ({b} := 0))",
        ]
        return self._random.choice(self._random.choice([plain, bold]))

    def block(self, depth: int) -> list[str]:
        lines = [line for _ in range(self._random.randint(1, 3)) for line in self.statement(depth)]
        return ["    " + line for line in lines]

    def statement(self, depth: int) -> list[str]:
        a, b, e = self.name(), self.name(), self.expression()
        simple = [f"{a} = {e}", f"{a} = {e}", f"{a} += {e}", e, a, f"class {a}: x = {b}"]
        if depth == 0 or self._random.random() < 0.5:
            return [self._random.choice(simple)]
        inner = depth - 1
        block, other, third = self.block(inner), self.block(inner), self.block(inner)
        last = "    " + self._random.choice(["break", "continue", "pass"])
        handler = self._random.choice(["ZeroDivisionError", "Exception as c", "ValueError"])
        compound = [
            [f"if {e}:", *block, "else:", *other],
            [f"if {e}:", *block],
            [f"for {a} in range({self._random.choice('02')}):", *block, "else:", *other],
            ["for x in (0, 1):", *block, f"    if {e}:", "    " + last, *other],
            ["try:", *block, f"except {handler}:", *other, "else:", *third],
            ["try:", *block, "except Exception:", *other, "finally:", *third],
            [f"with swallow({e}) as {a}:", *block],
            [f"match {a}:", f"    case 0 | [] as {b}:", *("    " + line for line in block)],
        ]
        return self._random.choice(compound)


@contextlib.contextmanager
def _swallow(_: object) -> Iterator[int]:
    with contextlib.suppress(ZeroDivisionError):
        yield 1


def test_no_name_that_a_running_program_reads_from_outside_is_missed() -> None:
    programs = _Programs(0)
    found = 0
    for _ in range(6_000):
        source = "\n".join(line for _ in range(4) for line in programs.statement(2))
        space = _Recorder()
        space["swallow"] = _swallow
        # Errors are part of it: a program may read names before one ends it.
        with contextlib.suppress(ZeroDivisionError, TypeError, NameError, ValueError):
            exec(compile(source, "cell", "exec"), space)  # as in a notebook, its globals are its locals
        assert space.outside <= set(names_read(source, LETTERS).names), source
        found += len(space.outside)
    assert found > 4_000
