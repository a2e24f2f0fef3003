"""What the engine is asked to make, as it goes over the wire."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from .host import OWN_DIRECTORIES
from .runtime.protocol import pack
from .spec import ContainerSpec

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_HIDING = tuple(f"{directory}/" for directory in OWN_DIRECTORIES)
MOST = 64
_packed: dict[ContainerSpec, bytes] = {}
_about: list[Any] = []
"""The environment and the directories to which `_packed` belongs."""


def request_for(spec: ContainerSpec, more: Mapping[str, Any]) -> bytes:
    """Pack a request for a container; what a cell before asked for too is not packed anew.

    Parameters
    ----------
    spec : ContainerSpec
        What to make.
    more : mapping
        What else its plan depends on: see `jupyter_ns.runtime.inputs.resolve_inputs`.

    Returns
    -------
    bytes
        For `jupyter_ns.runtime.recipes`; the same for the same container.
    """
    about = [_variables(), exposed()]
    if about != _about:
        _about[:] = about
        _packed.clear()
    known = _packed.get(spec) if not more else None
    if known is None:
        known = pack({"spec": spec.to_dict(), "environ": environment(), "exposed": about[1], **more})
        if not more:
            if len(_packed) >= MOST:
                _packed.clear()
            _packed[spec] = known
    return known


def _variables() -> dict[Any, Any]:
    """Return a copy of the environment as os.environ keeps it, to see whether it has changed: decoded, 0.1 ms."""
    return dict(os.environ._data)  # type: ignore[attr-defined]


def environment() -> dict[str, str]:
    """Return the environment that payloads inherit: the kernel's, without what only Jupyter's own parts need."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("JPY_", "JUPYTERHUB_"))}


def exposed() -> list[str]:
    """Return the directories that Python inside needs to see, as far as the container's own may hide them."""
    found = [p for p in sys.path if not p.startswith(_HIDING) or os.path.isdir(p)]
    return [sys.prefix, sys.base_prefix, sys.exec_prefix, _PACKAGE, *found]
