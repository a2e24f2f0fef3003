"""Go's templates, as far as ``--format`` is used with them.

Fields and chains of them, pipelines, ``if``/``else``/``range``/``with``, variables, comparisons, and
Docker's functions (``json``, ``join``, ``upper``, …). Values are data: nothing is called, nothing runs.

Notes
-----
Go, text/template; Docker, templates/templates.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ...errors import UsageError

_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r'\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)'
    r"|(?P<chain>\$?[A-Za-z_]*(?:\.[A-Za-z_][\w]*)+|\$[A-Za-z_]\w*|\$|\.)"
    r"|(?P<word>[A-Za-z_]\w*)|(?P<sign>:=|[()|,=]))"
)
MAX_DEPTH = 100

Scope = dict[str, Any]
Node = Callable[[Any, Scope], str]


def render(template: str, value: Any) -> str:
    """Fill in a template.

    Parameters
    ----------
    template : str
        As the user wrote it, or with ``\\t`` and ``\\n`` as Docker's command line takes them.
    value : object
        What ``.`` stands for.

    Raises
    ------
    UsageError
        If the template is malformed, or names a field that does not exist.

    Examples
    --------
    >>> render("{{.Name}}: {{range .List}}<{{.}}>{{end}}", {"Name": "a", "List": [1, 2]})
    'a: <1><2>'
    >>> render("{{json .}} {{len .a | printf \\"%d\\"}}", {"a": [True]})
    '{"a":[true]} 1'
    """
    return compile_template(template)(value)


def compile_template(template: str) -> Callable[[Any], str]:
    """Read a template once, to fill it in often; see `render`."""
    pieces = list(_pieces(template.replace("\\t", "\t").replace("\\n", "\n")))
    nodes, _, _ = _block(template, pieces, 0, frozenset())

    def fill(value: Any) -> str:
        return _run(nodes, value, {"$": value})

    return fill


def _malformed(template: str, why: str) -> UsageError:
    return UsageError(f"--format {template!r}: {why}")


def _pieces(template: str) -> Iterator[tuple[bool, str]]:
    """Cut into text (False) and actions (True); ``{{-`` and ``-}}`` trim the text beside them."""
    at, trim = 0, False
    for match in _ACTION.finditer(template):
        text = template[at : match.start()]
        text = text.lstrip() if trim else text
        yield False, text.rstrip() if match[1] else text
        action = match[2].strip()
        if not (action.startswith("/*") and action.endswith("*/")):
            yield True, action
        at, trim = match.end(), bool(match[3])
    rest = template[at:]
    if "{{" in rest:
        raise _malformed(template, "expected every {{ to be closed by }}")
    yield False, rest.lstrip() if trim else rest


def _block(
    template: str, pieces: list[tuple[bool, str]], at: int, until: frozenset[str], depth: int = 0
) -> tuple[list[Node], int, str]:
    """Read nodes up to one of the words in `until`; return them, where they end, and that action."""
    if depth > MAX_DEPTH:
        raise _malformed(template, f"more than {MAX_DEPTH} blocks inside each other")
    nodes: list[Node] = []
    while at < len(pieces):
        is_action, text = pieces[at]
        word = text.split(None, 1)[0] if is_action and text else ""
        if not is_action:
            nodes.append(_text(text))
        elif word in ("end", "else"):
            if word not in until:
                raise _malformed(template, f"{{{{{word}}}}} without a beginning")
            return nodes, at + 1, text
        elif word in _BLOCKS:
            node, at = _read_block(template, pieces, at, word, depth)
            nodes.append(node)
            continue
        else:
            nodes.append(_action(template, text))
        at += 1
    if until:
        raise _malformed(template, "a block has no {{end}}")
    return nodes, at, ""


def _text(text: str) -> Node:
    return lambda _value, _scope: text


def _read_block(template: str, pieces: list[tuple[bool, str]], at: int, word: str, depth: int) -> tuple[Node, int]:
    """Read an ``if``, ``range`` or ``with``, and its ``else``."""
    head = pieces[at][1][len(word) :].strip()
    body, at, closing = _block(template, pieces, at + 1, frozenset(("end", "else")), depth + 1)
    otherwise: list[Node] = []
    chained = closing.removeprefix("else").strip() if closing.startswith("else") else ""
    if chained:  # {{else if …}} is a block of its own in the other branch, and shares the {{end}}
        inner = [*pieces[: at - 1], (True, chained), *pieces[at:]]
        node, at = _read_block(template, inner, at - 1, chained.split()[0], depth + 1)
        otherwise = [node]
    elif closing.startswith("else"):
        otherwise, at, _ = _block(template, pieces, at, frozenset(("end",)), depth + 1)
    names: list[str] = []
    assigned = re.fullmatch(r"((?:\$\w+\s*,\s*)?\$\w+)\s*:=\s*(.*)", head, re.DOTALL)
    if assigned:
        names, head = re.findall(r"\$\w+", assigned[1]), assigned[2]
    return _BLOCKS[word](_pipeline(template, head), names, body, otherwise), at


def _run(nodes: list[Node], value: Any, scope: Scope) -> str:
    return "".join(node(value, scope) for node in nodes)


Expression = Callable[[Any, Scope], Any]


def _if(test: Expression, names: list[str], body: list[Node], otherwise: list[Node]) -> Node:
    def node(value: Any, scope: Scope) -> str:
        found = test(value, scope)
        inner = {**scope, **dict.fromkeys(names, found)}
        return _run(body if _truth(found) else otherwise, value, inner)

    return node


def _with(test: Expression, names: list[str], body: list[Node], otherwise: list[Node]) -> Node:
    def node(value: Any, scope: Scope) -> str:
        found = test(value, scope)
        inner = {**scope, **dict.fromkeys(names, found)}
        return _run(body, found, inner) if _truth(found) else _run(otherwise, value, scope)

    return node


def _range(test: Expression, names: list[str], body: list[Node], otherwise: list[Node]) -> Node:
    def node(value: Any, scope: Scope) -> str:
        found = test(value, scope)
        if not found:
            return _run(otherwise, value, scope)
        pairs = sorted(found.items()) if isinstance(found, Mapping) else list(enumerate(found))
        out = []
        for key, item in pairs:
            values = (key, item) if len(names) == 2 else (item,)
            out.append(_run(body, item, {**scope, **dict(zip(names, values, strict=False))}))
        return "".join(out)

    return node


_BLOCKS: dict[str, Callable[[Expression, list[str], list[Node], list[Node]], Node]] = {
    "if": _if,
    "with": _with,
    "range": _range,
}


def _action(template: str, text: str) -> Node:
    assigned = re.fullmatch(r"(\$\w+)\s*:?=\s*(.*)", text, re.DOTALL)
    if assigned:
        name, expression = assigned[1], _pipeline(template, assigned[2])

        def assign(value: Any, scope: Scope) -> str:
            scope[name] = expression(value, scope)
            return ""

        return assign
    expression = _pipeline(template, text)
    return lambda value, scope: show(expression(value, scope))


def _pipeline(template: str, text: str) -> Expression:
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _malformed(template, f"cannot read {text[at:].strip()!r}")
        tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
        at = match.end()
    if not tokens:
        raise _malformed(template, "expected a field such as {{.Name}} between {{ and }}")
    expression, rest = _commands(template, tokens, 0)
    if rest < len(tokens):
        raise _malformed(template, f"did not expect {tokens[rest][1]!r}")
    return expression


def _commands(template: str, tokens: list[tuple[str, str]], at: int) -> tuple[Expression, int]:
    """Read commands with ``|`` between them: each is the last argument of the next."""
    expression, at = _command(template, tokens, at, None)
    while at < len(tokens) and tokens[at][1] == "|":
        expression, at = _command(template, tokens, at + 1, expression)
    return expression, at


def _command(template: str, tokens: list[tuple[str, str]], at: int, piped: Expression | None) -> tuple[Expression, int]:
    name = tokens[at][1] if at < len(tokens) and tokens[at][0] == "word" else ""
    if name in ("true", "false", "nil"):
        name = ""
    at += bool(name)
    operands: list[Expression] = []
    while at < len(tokens) and tokens[at][1] not in ("|", ")"):
        operand, at = _operand(template, tokens, at)
        operands.append(operand)
    if piped is not None:
        operands.append(piped)
    if not name:
        if len(operands) != 1:
            raise _malformed(template, "expected one field, or a function and its arguments")
        return operands[0], at
    if name not in _FUNCTIONS:
        raise _malformed(template, f"no function {name!r}; there are: {', '.join(sorted(_FUNCTIONS))}")
    function = _FUNCTIONS[name]

    def call(value: Any, scope: Scope) -> Any:
        try:
            return function(*(operand(value, scope) for operand in operands))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise _malformed(template, f"{name}: {error}") from None

    return call, at


def _operand(template: str, tokens: list[tuple[str, str]], at: int) -> tuple[Expression, int]:
    kind, text = tokens[at]
    if text == "(":
        expression, at = _commands(template, tokens, at + 1)
        if at >= len(tokens) or tokens[at][1] != ")":
            raise _malformed(template, "expected every ( to be closed")
        return expression, at + 1
    if kind == "chain":
        return _chain(template, text), at + 1
    constants: dict[str, Any] = {"true": True, "false": False, "nil": None}
    if kind == "string":
        constant: Any = text[1:-1] if text[0] == "`" else json.loads(text)
    elif kind == "number":
        constant = float(text) if "." in text else int(text)
    elif text in constants:
        constant = constants[text]
    else:
        raise _malformed(template, f"did not expect {text!r}")
    return lambda _value, _scope: constant, at + 1


def _chain(template: str, text: str) -> Expression:
    start, *names = text.split(".")

    def get(value: Any, scope: Scope) -> Any:
        if start:
            if start not in scope:
                raise _malformed(template, f"no variable {start}")
            value = scope[start]
        for name in filter(None, names):
            if not isinstance(value, Mapping):
                raise _malformed(template, f"{text}: there is no field in {show(value)!r}")
            if name not in value:
                raise _malformed(template, f"no field {name!r}; there are: {', '.join(map(str, value))}")
            value = value[name]
        return value

    return get


def show(value: Any) -> str:
    """Print a value as Go's ``%v``.

    Examples
    --------
    >>> show(True), show(None), show([1, "a"]), show({"b": 1.0})
    ('true', '<no value>', '[1 a]', 'map[b:1]')
    """
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{k}:{show(v)}" for k, v in sorted(value.items())) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(map(show, value)) + "]"
    return str(value)


def _truth(value: Any) -> bool:
    return bool(value)


def to_json(value: Any) -> str:
    """Write JSON as Go does: compact, and with ``<``, ``>`` and ``&`` as they are."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _printf(form: str, *values: Any) -> str:
    left = list(values)

    def one(match: re.Match[str]) -> str:
        verb = match[2]
        if verb == "%":
            return "%"
        value = left.pop(0)
        if verb == "q":
            return json.dumps(str(value), ensure_ascii=False)
        if verb in "vs":
            return str(f"%{match[1]}s" % show(value))
        return str(f"%{match[1]}{verb}" % value)

    return re.sub(r"%([-+ 0#]*\d*(?:\.\d+)?)([vsdqfxXtge%])", one, form)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key, "") if isinstance(value, Mapping) else value[key]
    return value


def _truncate(text: str, length: int) -> str:
    return text[:length]


def _compare(function: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda a, b: function(a, b)


def _println(*values: Any) -> str:
    return " ".join(map(show, values)) + "\n"


def _slice(value: Sequence[Any], *ends: int) -> Sequence[Any]:
    return value[slice(*ends)] if len(ends) != 1 else value[ends[0] :]


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "join": lambda items, by: by.join(map(show, items)),
    "split": lambda text, by: text.split(by),
    "upper": lambda text: text.upper(),
    "lower": lambda text: text.lower(),
    "title": lambda text: text.title(),
    "pad": lambda text, before, after: " " * before + text + " " * after if text else "",
    "truncate": _truncate,
    "println": _println,
    "print": lambda *values: "".join(map(show, values)),
    "printf": _printf,
    "index": _index,
    "slice": _slice,
    "len": len,
    "eq": lambda a, *others: any(a == b for b in others),
    "ne": _compare(lambda a, b: a != b),
    "lt": _compare(lambda a, b: a < b),
    "le": _compare(lambda a, b: a <= b),
    "gt": _compare(lambda a, b: a > b),
    "ge": _compare(lambda a, b: a >= b),
    "not": lambda value: not _truth(value),
    "and": lambda *values: next((v for v in values if not _truth(v)), values[-1]),
    "or": lambda *values: next((v for v in values if _truth(v)), values[-1]),
}
