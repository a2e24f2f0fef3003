"""Have the store changed by another process, where this one may not give files their owners.

Who is not root becomes root of a user namespace first (`jupyter_ns.storekeeper`), which a notebook's
kernel cannot: it has threads. The engine's namespace has the same map, so both see the same owners. What a
container wrote is read in the engine's namespace itself: a mount that was made there has its files' owners from there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from ..errors import EngineError, from_dict

KEEPER = "JUPYTER_NS_STOREKEEPER"
"""In the environment of that other process."""


def needed() -> bool:
    """Whether this process cannot do it itself."""
    return os.geteuid() != 0


def call(
    operation: str,
    *arguments: Any,
    say: Callable[[str], None] = lambda _: None,
    beside: int = 0,
    fds: tuple[int, ...] = (),
) -> Any:
    """Have an operation of `jupyter_ns.storekeeper` carried out.

    Parameters
    ----------
    operation : str
        Its name.
    *arguments
        What JSON can say; of any length.
    say : callable
        Told what it prints.
    beside : int
        Process ID of the engine whose user namespace it shall enter; 0: one of its own, with the same map.
    fds : tuple of int
        Descriptors that it shall have under the same numbers.

    Raises
    ------
    ContainerError
        As the operation.
    EngineError
        If the process ends without an answer.
    """
    environ = {**os.environ, KEEPER: "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-m", "jupyter_ns.storekeeper", operation, str(beside)]
    answer: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+") as given:
        json.dump(arguments, given)
        given.seek(0)
        with subprocess.Popen(
            command, env=environ, stdin=given, stdout=subprocess.PIPE, text=True, pass_fds=fds
        ) as process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    answer = json.loads(line)
                    if "say" in answer:
                        say(answer["say"])
            except BaseException:
                process.terminate()
                raise
    if "error" in answer:
        raise from_dict(answer["error"])
    if "result" not in answer:
        raise EngineError(f"the process that keeps the store ended with exit code {process.returncode}")
    return answer["result"]
