"""Why a value cannot be brought out, and what to bring out instead."""

from __future__ import annotations

import dataclasses
import enum

from ..wording import type_name, what_is

_TRUST = "or --trust, if you trust the code that ran"

_ADVICE: dict[str, str] = {
    "torch.Tensor": "use x.numpy(force=True)",
    "jax.Array": "use numpy.asarray(x)",
    "polars.dataframe.frame.DataFrame": "use x.to_pandas()",
    "polars.series.series.Series": "use x.to_pandas()",
    "pyarrow.lib.Table": "use x.to_pandas()",
    "scipy.sparse._base._spbase": "use x.toarray()",
    "xarray.core.dataset.Dataset": "use x.to_dict()",
    "xarray.core.dataarray.DataArray": "use x.values",
    "pandas.core.frame.DataFrame": "use pandas.DataFrame(x)",
    "pandas.core.series.Series": "use pandas.Series(x)",
    "pandas.DataFrame": "use pandas.DataFrame(x)",
    "pandas.Series": "use pandas.Series(x)",
    "datetime.tzinfo": "use zoneinfo.ZoneInfo('Area/City')",
    "builtins.function": "bring out its result",
    "builtins.generator": "use list(x)",
    "builtins.map": "use list(x)",
    "builtins.filter": "use list(x)",
    "builtins.zip": "use list(x)",
    "builtins.dict_keys": "use list(x)",
    "builtins.dict_values": "use list(x)",
    "builtins.dict_items": "use list(x)",
    "builtins.memoryview": "use bytes(x)",
    "array.array": "use list(x) or numpy.array(x)",
    "_io._IOBase": "bring out its contents, or write it to a directory given with -v",
    "enum.Enum": "use x.name or x.value",
    "builtins.BaseException": "use str(x) or repr(x); raised, it is shown as outside",
    "builtins.type": "bring out plain data",
    "builtins.module": "import it in the notebook",
}


def refusal(obj: object) -> str:
    """Say why `obj` cannot be brought out, and what could be.

    Examples
    --------
    >>> refusal(len)
    'a function cannot be brought out; use plain data, or --trust, if you trust the code that ran'
    """
    kind = type(obj)
    names = [f"{cls.__module__}.{cls.__qualname__}" for cls in kind.__mro__]
    advice = next((_ADVICE[name] for name in names if name in _ADVICE), "use plain data")
    what = what_is(obj)
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        what, advice = f"a dataclass instance ({type_name(kind)})", "use dataclasses.asdict(x)"
    elif isinstance(obj, tuple) and hasattr(obj, "_asdict"):
        what, advice = f"a named tuple ({type_name(kind)})", "use x._asdict() or tuple(x)"
    elif isinstance(obj, enum.Enum):
        what = f"an enum member ({type_name(kind)})"
    else:
        base = next((cls for cls in kind.__mro__[1:] if cls in _PLAIN), None)
        if base is not None:
            what = f"a {type_name(kind)}, a subclass of {base.__name__},"
            advice = f"use {base.__name__}(x)"
    return f"{what} cannot be brought out; {advice}, {_TRUST}"


_PLAIN = (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset)
