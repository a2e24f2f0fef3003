"""What becomes of an error that nobody expected where it happened."""

from __future__ import annotations

import traceback

from ..errors import ContainerError, EngineError


def told(error: Exception) -> Exception:
    """Return what the user is told of an error: itself, or of a defect of ours that it is one, which is logged too."""
    if isinstance(error, (ContainerError, OSError)):
        return error
    traceback.print_exception(error)
    return EngineError(f"a defect in jupyter_ns: {type(error).__name__}: {error}")
