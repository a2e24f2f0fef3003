"""Python cells that run in the background (``%%container -d``): their results come into the notebook when they end.

Nothing reads the engine's stream between cells. So before each cell it is looked at, for a moment, while there is
somebody to hear of.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from ..client import EngineClient
from ..errors import EngineError
from ..runner import Run
from ..runtime.channel import LOST
from .outcome import error_of

LOOK_S = 0.001


@contextlib.contextmanager
def followed(shell: Any, client: EngineClient, run: Run, outputs: tuple[str, ...]) -> Iterator[None]:
    """Have `run`, which begins within, set the variables named in `outputs` in the notebook once it has ended."""

    def look(*_: Any) -> None:
        with contextlib.suppress(EngineError):  # the next who asks hears of it
            if client.alive:
                client.wait(lambda: False, until=time.monotonic() + LOOK_S)
                return
        shell.events.unregister("pre_run_cell", look)

    def ended() -> None:
        with contextlib.suppress(ValueError):  # before it was registered
            shell.events.unregister("pre_run_cell", look)
        brought = run.outputs if isinstance(run.outputs, dict) else {}  # the container says what it is
        missing = [name for name in outputs if name not in brought]
        if missing:
            lost = run.container.exit_code == LOST
            why = run.transfer_error or (error_of(run.container, raise_error=False) if lost else "see its logs")
            print(f"{run.container.name} has ended without {', '.join(missing)}: {why}", file=sys.stderr)
        shell.user_ns.update({name: brought[name] for name in outputs if name not in missing})

    run.on_end = ended
    yield
    if run.container.status == "running":
        shell.events.register("pre_run_cell", look)
