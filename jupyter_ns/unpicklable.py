"""Find the object inside a variable that keeps it from being pickled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from types import FunctionType
from typing import Any, NamedTuple

from .wording import known_kind, type_name

_MAX_DEPTH = 12
_MAX_PARTS = 1_000
"""How far and how wide to look: an explanation is worth this much time, no more."""

Try = Callable[[object], Exception | None]


class Culprit(NamedTuple):
    """An object that cannot be pickled.

    Attributes
    ----------
    path : str
        How to reach it from the variable: ``model.session``.
    reason : str
        What it is, in plain words, or else the pickler's own.
    """

    path: str
    reason: str


def find_culprit(name: str, value: object, attempt: Try) -> Culprit | None:
    """Find why a variable cannot be pickled, or return None if it can.

    Parameters
    ----------
    name : str
        The variable.
    value : object
        Its value.
    attempt : callable
        Tries to pickle an object and returns the exception, or None.
    """
    error = attempt(value)
    if error is None:
        return None
    # cloudpickle raises an error of its own from this one.
    if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
        return Culprit(name, "nested too deeply to be sent")
    path = name
    for _ in range(_MAX_DEPTH):
        if _opaque(value):
            break
        for label, part in islice(_parts(value), _MAX_PARTS):
            inner = attempt(part)
            if inner is not None:
                path, value, error = path + label, part, inner
                break
        else:
            break
    return Culprit(path, _reason(value, error))


def _opaque(value: object) -> bool:
    """Whether an object is named better by what it is than by what it holds."""
    kind = known_kind(value)
    return kind is not None and not isinstance(value, (type, FunctionType, BaseException))


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    """Yield what an object holds, with how to write the way there."""
    if isinstance(value, dict):
        yield from ((f"[{_short(key)}]", item) for key, item in list(value.items()))
        yield from ((f", its key {_short(key)}", key) for key in list(value))
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{i}]", item) for i, item in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((", an element of it", item) for item in list(value))
    if isinstance(value, FunctionType):
        yield from _function_parts(value)
    if isinstance(value, type):
        if value.__module__ == "__main__":
            yield from ((f".{key}", item) for key, item in list(vars(value).items()) if not key.startswith("__"))
        return
    try:
        attributes = dict(vars(value))
    except TypeError:  # no __dict__
        attributes = {}
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                attributes[slot] = getattr(value, slot)
    yield from ((f".{key}", item) for key, item in attributes.items())
    if type(value).__module__ == "__main__":
        yield f"'s class {type(value).__name__}", type(value)


def _function_parts(function: FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f" (it uses {name})", cell.cell_contents
        except ValueError:  # an empty cell
            continue
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f" (it uses {name})", function.__globals__[name]
    for i, default in enumerate(function.__defaults__ or ()):
        yield f" (its default value {i})", default


def _short(key: object) -> str:
    text = repr(key) if isinstance(key, (str, int, float, tuple, bytes)) else f"<{type(key).__name__}>"
    return text if len(text) <= 40 else text[:37] + "..."


def _reason(value: object, error: Exception) -> str:
    known = known_kind(value)
    if known is not None and _opaque(value):
        file_name = getattr(value, "name", None)
        named = f" ({file_name!r})" if known == "an open file" and isinstance(file_name, str) else ""
        return f"{known}{named} cannot leave its process"
    return f"{known or 'an object of type ' + repr(type_name(type(value)))} cannot be pickled: {error}"
