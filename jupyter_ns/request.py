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
_packed: dict[int, tuple[ContainerSpec, dict[bytes, bytes], list[str], bytes]] = {}
"""What a spec was packed to the last time, and with which environment and directories; by its identity, for the
option parser has the same one for the same words, and to hash it takes longer than to compare all else."""


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
    # As os.environ keeps it: decoding it, only to see that it is the same, takes 0.1 ms.
    variables: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
    directories = exposed()
    if more:
        return _pack(spec, variables, directories, more)
    known = _packed.get(id(spec))
    if known is None or known[0] is not spec or known[1] != variables or known[2] != directories:
        if len(_packed) >= MOST:
            _packed.clear()
        known = spec, dict(variables), directories, _pack(spec, variables, directories, {})
        _packed[id(spec)] = known
    return known[3]


def _pack(
    spec: ContainerSpec, variables: Mapping[bytes, bytes], directories: list[str], more: Mapping[str, Any]
) -> bytes:
    return pack({"spec": spec.to_dict(), "environ": environment(variables), "exposed": directories, **more})


def environment(variables: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the environment that payloads inherit: the kernel's, without what only Jupyter's own parts need."""
    own = (b"JPY_", b"JUPYTERHUB_")
    return {os.fsdecode(k): os.fsdecode(v) for k, v in variables.items() if not k.startswith(own)}


def exposed() -> list[str]:
    """Return the directories that Python inside needs to see, as far as the container's own may hide them."""
    found = [p for p in sys.path if not p.startswith(_HIDING) or os.path.isdir(p)]
    return [sys.prefix, sys.base_prefix, sys.exec_prefix, _PACKAGE, *found]
