"""Run notebook cells in real Linux containers.

``%load_ext jupyter_ns`` gives the magics; `run` does the same from Python.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import run
    from .container import Container
    from .spec import Limits

__all__ = ["Container", "Limits", "run"]

_WHERE = {"run": ".api", "Container": ".container", "Limits": ".spec"}


def __getattr__(name: str) -> Any:
    # On first use: importing the package must stay cheap, in the engine too.
    if name in _WHERE:
        return getattr(import_module(_WHERE[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(shell: Any) -> None:
    """Load the extension: ``%load_ext jupyter_ns``."""
    from .frontend.extension import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Unload it, and end every container of this notebook: ``%unload_ext jupyter_ns``."""
    from .frontend.extension import unload

    unload(shell)
