"""Send the notebook's variables into a container, and trusted values out, by pickle.

The direction in is trusted: the kernel's own objects go to a process that may do less than
the kernel. All variables of a cell go as one pickle, so that what is shared between them
stays shared; large buffers (of arrays, tables) go beside it, not copied. Functions and
classes defined in the notebook travel by value, with the globals that they use.

The direction out is for ``--trust`` only; `jupyter_ns.values` is for all else.
"""

from __future__ import annotations

import io
import pickle
import types
from collections import ChainMap
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, ClassVar

import cloudpickle

from .errors import TransferError
from .unpicklable import Culprit, find_culprit

INLINE_BYTES = 16 * 1024
"""Up to this size a buffer stands in the pickle: one more message part costs more."""

_WAYS_IN = (
    "Ways round: `--state fork` (the cell sees the live variables, nothing is sent); make it again inside "
    "the cell; or name only what the cell needs with `--in a,b`."
)
_WAYS_OUT = "Way round: bring out what it holds as plain data, or write it to a directory given with `-v`."

_namespace: ContextVar[dict[str, Any] | None] = ContextVar("_namespace", default=None)


def cell_globals() -> dict[str, Any]:
    """Return the namespace that is being unpacked into; pickles of notebook functions call it."""
    namespace = _namespace.get()
    if namespace is None:
        raise pickle.UnpicklingError("a notebook function can be unpacked by jupyter_ns only")
    return namespace


class _NotebookGlobals(dict[str, Any]):
    """Stands in a pickle for the notebook's global namespace, which itself isn't sent."""

    def __reduce__(self) -> tuple[Any, ...]:
        return cell_globals, ()


def shell_getter() -> Any:
    """Return the function that finds the shell; pickles of functions with magics call it."""
    from IPython import get_ipython

    return get_ipython


def _is_shell(obj: object) -> bool:
    return any(cls.__name__ == "InteractiveShell" for cls in type(obj).__mro__)


def _reduce_method(method: types.MethodType) -> Any:
    # IPython puts this method into the notebook's namespace, and calls of it into functions
    # with magics in them; the shell itself cannot be pickled.
    if method.__name__ == "get_ipython" and _is_shell(method.__self__):
        return shell_getter, ()
    return cloudpickle.Pickler.dispatch_table[types.MethodType](method)


def _refuse_file(file: io.TextIOWrapper) -> tuple[Any, ...]:
    # cloudpickle would send a text file's whole contents, and leave files of bytes alone.
    raise pickle.PicklingError(f"cannot pickle the open file {file.name!r}")


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc, unused-ignore]
    """Pickles with buffers kept apart, and notebook functions bound to the cell's namespace."""

    dispatch_table: ClassVar[Any] = ChainMap(
        {io.TextIOWrapper: _refuse_file, types.MethodType: _reduce_method}, cloudpickle.Pickler.dispatch_table
    )

    def __init__(self, file: Any, buffers: list[memoryview]) -> None:
        def keep(buffer: pickle.PickleBuffer) -> bool:
            view = buffer.raw()
            if view.nbytes <= INLINE_BYTES:
                return True
            buffers.append(view)
            return False

        super().__init__(file, protocol=5, buffer_callback=keep)
        import __main__

        # All its functions share one namespace again: the cell's, so that a function sees what
        # the cell assigns, as it would in the notebook.
        self.globals_ref[id(__main__.__dict__)] = _NotebookGlobals(__name__="__main__")


def _dump(obj: object) -> tuple[bytes, list[memoryview]]:
    file, buffers = io.BytesIO(), list[memoryview]()
    _Pickler(file, buffers).dump(obj)
    return file.getvalue(), buffers


def _load(data: Any, buffers: Sequence[Any], namespace: dict[str, Any]) -> Any:
    token = _namespace.set(namespace)
    try:
        return pickle.loads(data, buffers=[b if not memoryview(b).readonly else bytearray(b) for b in buffers])
    except ImportError as error:
        raise TransferError(f"a value needs a module that is missing on this side: {error}") from error
    except Exception as error:
        # A class's own __setstate__ may raise anything.
        raise TransferError(f"a value could not be rebuilt: {type(error).__name__}: {error}") from error
    finally:
        _namespace.reset(token)


def _tries(obj: object) -> Exception | None:
    """Pickle `obj` into nothing; return what went wrong."""
    try:
        _Pickler(_Sink(), []).dump(obj)
    except MemoryError:
        raise
    except Exception as error:
        return error
    return None


class _Sink:
    def write(self, data: Any) -> int:
        return len(data)


def _explain(culprits: list[Culprit]) -> str:
    return "\n".join(f"  {c.path}: {c.reason}" for c in culprits)


def pack(variables: Mapping[str, object]) -> tuple[bytes, list[memoryview]]:
    """Pickle a cell's variables as one.

    Parameters
    ----------
    variables : mapping of str to object
        Name to value.

    Returns
    -------
    (bytes, list of memoryview)
        The buffers are windows on the variables' own memory: send them before it changes.

    Raises
    ------
    TransferError
        If a variable cannot be sent; names each such variable, the object inside it that is to
        blame, the reason, and the ways round.

    Examples
    --------
    >>> unpack(*pack({"a": [1, 2], "f": len}))
    {'a': [1, 2], 'f': <built-in function len>}
    """
    try:
        return _dump(dict(variables))
    except MemoryError:
        raise
    except Exception as error:
        culprits = [c for name, value in variables.items() if (c := find_culprit(name, value, _tries))]
        if not culprits:
            raise TransferError(f"cannot send the variables together: {error}\n{_WAYS_IN}") from error
        count = "a variable" if len(culprits) == 1 else f"{len(culprits)} variables"
        text = f"cannot send {count} into the container:\n{_explain(culprits)}\n{_WAYS_IN}"
        raise TransferError(text) from error


def unpack(data: Any, buffers: Sequence[Any] = (), namespace: dict[str, Any] | None = None) -> dict[str, Any]:
    """Rebuild variables from what `pack` gave. Never for data from inside a container.

    Parameters
    ----------
    data : bytes-like
        The pickle.
    buffers : sequence of bytes-like
        Writable ones (a `bytearray`, a private mapping) become the variables' memory without a
        copy; read-only ones are copied.
    namespace : dict, optional
        The globals of the notebook's functions: the namespace the cell will run in. What these
        functions use is put there; the variables themselves are the caller's to put.

    Raises
    ------
    TransferError
        If a module is missing here, or an object's own code fails to rebuild it.
    """
    fresh: dict[str, Any] = {"__name__": "__main__"}
    variables: dict[str, Any] = _load(data, buffers, fresh if namespace is None else namespace)
    return variables


def pack_trusted(value: object, *, name: str = "value") -> tuple[bytes, list[memoryview]]:
    """Pickle one value for the way out under ``--trust``; `name` is for messages.

    Raises
    ------
    TransferError
        If it cannot be pickled.
    """
    try:
        return _dump(value)
    except MemoryError:
        raise
    except Exception as error:
        culprit = find_culprit(name, value, _tries)
        where = _explain([culprit]) if culprit else f"  {name}: {error}"
        raise TransferError(f"cannot bring a value out:\n{where}\n{_WAYS_OUT}") from error


def unpack_trusted(data: Any, buffers: Sequence[Any] = ()) -> Any:
    """Rebuild a value from `pack_trusted`: **runs whatever code the container sent**.

    A function comes with globals of its own: it neither sees nor changes the notebook's.

    Raises
    ------
    TransferError
        If it cannot be rebuilt.
    """
    return _load(data, buffers, {"__name__": "__main__"})
