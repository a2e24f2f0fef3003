"""Loading and unloading the extension in an IPython shell."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from ..client import EngineClient, close_client, get_client, running_clients, set_default_place
from ..runtime.protocol import Kind
from . import completion
from .magics import ContainerMagics

_preloaded: dict[EngineClient, set[str]] = {}


def load(shell: Any) -> None:
    """Register the magics, start the engine, and tell its zygote of every import from now on."""
    shell.register_magics(ContainerMagics)
    set_default_place(shell.magics_manager.registry["ContainerMagics"].on)
    shell.events.register("post_run_cell", _after_cell)
    completion.install(shell)
    get_client()


def unload(shell: Any) -> None:
    """Take everything back, and end the engine."""
    shell.events.unregister("post_run_cell", _after_cell)
    for kind in ("cell", "line"):
        for name in ("container", "docker", "namespaces", "expect", "cgroup"):
            shell.magics_manager.magics[kind].pop(name, None)
    completion.remove(shell)
    _preloaded.clear()
    close_client()


def _after_cell(_result: Any) -> None:
    from IPython import get_ipython

    libraries = imported_libraries(get_ipython().user_ns)
    for client in running_clients():
        done = _preloaded.setdefault(client, set())
        new = [m for m in libraries if m not in done]
        if new and client.alive:
            done.update(new)
            client.send(Kind.PRELOAD, "", new)


def imported_libraries(user_ns: dict[str, Any]) -> list[str]:
    """List the installed modules that a namespace holds, directly or through a name imported from one.

    Modules of the notebook's own directory are left out: they are still being edited.
    """
    found: dict[str, None] = {}
    for name, value in list(user_ns.items()):
        if name.startswith("_"):
            continue
        module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(module, str) and _is_installed(module):
            found[module] = None
    return list(found)


def _is_installed(module: str) -> bool:
    top = sys.modules.get(module.partition(".")[0])
    origin = getattr(getattr(top, "__spec__", None), "origin", None) or ""
    return "site-packages" in origin or "dist-packages" in origin
