"""Start one command and time it; as a program, do so for each line of standard input."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence

from .stats import BenchmarkError


def spawn(argv: Sequence[str]) -> float:
    """Run a command to its end, without a shell, as cheaply as a parent can.

    Parameters
    ----------
    argv : sequence of str
        Absolute path of the program and its arguments.

    Returns
    -------
    float
        Seconds from before posix_spawn(3) until it was reaped.

    Raises
    ------
    BenchmarkError
        If it did not exit with 0; standard error's last line is quoted.
    """
    with tempfile.TemporaryFile() as errors:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
        ]
        start = time.perf_counter()
        pid = os.posix_spawn(argv[0], list(argv), os.environ, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        seconds = time.perf_counter() - start
        code = os.waitstatus_to_exitcode(status)
        if code:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise BenchmarkError(f"exit code {code}: {said[-1] if said else 'no message'}")
    return seconds


def main() -> None:
    """Read JSON lists of arguments, one a line; answer each with seconds, or with a message."""
    for line in sys.stdin:
        try:
            answer: float | str = spawn(json.loads(line))
        except BenchmarkError as error:
            answer = str(error)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
