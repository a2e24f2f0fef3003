"""Expand ``$name`` and ``{expression}`` in a magic's line, but leave Go's ``{{templates}}`` alone.

IPython's own expansion would make ``{.Names}`` of ``{{.Names}}``, which ``--format`` needs as it stands.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from IPython.utils.text import DollarFormatter

_TEMPLATE = re.compile(r"(\{\{.*?\}\})", re.DOTALL)


def expand(shell: Any, line: str) -> str:
    """Expand a line as IPython does, outside of templates; what cannot be expanded stays.

    Parameters
    ----------
    shell : InteractiveShell
        Whose variables are used, and those of the function that the magic stands in.
    line : str
        As typed.
    """
    if "$" not in line and "{" not in line:
        return line
    names = {**shell.user_ns, **_caller_locals(shell)}
    return "".join(part if at % 2 else _expand(part, names) for at, part in enumerate(_TEMPLATE.split(line)))


def _expand(text: str, names: dict[str, Any]) -> str:
    try:
        return str(DollarFormatter().vformat(text, args=[], kwargs=names))
    except Exception:  # as IPython's var_expand: a line that is no format string is meant as it stands
        return text


def _caller_locals(shell: Any) -> dict[str, Any]:
    frame: Any = sys._getframe()
    while frame is not None and frame.f_globals is not shell.user_ns:
        frame = frame.f_back
    return dict(frame.f_locals) if frame is not None else {}
