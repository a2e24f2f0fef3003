"""What becomes of an error that nobody expected where it happened."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator

from ..errors import ContainerError, EngineError


def told(error: Exception) -> Exception:
    """Return what the user is told of an error: itself, or of a defect of ours that it is one, which is logged too."""
    if isinstance(error, (ContainerError, OSError)):
        return error
    traceback.print_exception(error)
    return EngineError(f"a defect in jupyter_ns: {type(error).__name__}: {error}")


@contextlib.contextmanager
def logged() -> Iterator[None]:
    """Have what the kernel refuses within be written to the engine's log: everything has been answered by now."""
    try:
        yield
    except OSError as e:
        print(f"jupyter_ns: {e}", file=sys.stderr)
