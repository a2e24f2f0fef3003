"""Several containers at the same time, to see them share: ``%%container together``."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from .container import REFUSED, Container
from .errors import UnsupportedError, UsageError
from .runner import Run

LOOK_S = 0.05
GRAMMAR = "together [OPTIONS FOR ALL] -- [OPTIONS] -- [OPTIONS] … -- PROGRAM [ARG…]"


def split(words: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """Split what follows ``together`` into the words of each container, and the program.

    Parameters
    ----------
    words : sequence of str
        Parts with ``--`` between: options for all, options of one container each, the program.

    Returns
    -------
    options : list of list of str
        One a container, those for all included.
    program : list of str
        The same for all.

    Raises
    ------
    UsageError
        If there are fewer than two containers, or no program.

    Examples
    --------
    >>> split("-m 64m -- -c 1024 -- -c 512 -- sh -c true".split())
    ([['-m', '64m', '-c', '1024'], ['-m', '64m', '-c', '512']], ['sh', '-c', 'true'])
    """
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "--":
            parts.append([])
        else:
            parts[-1].append(word)
    common, *containers, program = parts if len(parts) > 1 else (parts[0], [])
    if len(containers) < 2 or not program:
        raise UsageError(f"{GRAMMAR}: expected the options of two containers or more, and a program, with -- between")
    return [[*common, *own] for own in containers], program


def run_together(
    runs: Sequence[Run],
    stdin: bytes,
) -> list[Container]:
    """Run containers at the same time, each in a thread of its own, until all have ended.

    Parameters
    ----------
    runs : sequence of Run
        One a container; its sink is called in the container's thread.
    stdin : bytes
        What each reads.

    Returns
    -------
    list of Container
        However they ended. An interrupt goes to all of them; a second one kills them.

    Raises
    ------
    ContainerError
        The first that could not be built; the others have been killed.
    """
    errors: list[BaseException] = []
    ended = threading.Semaphore(0)

    def follow(run: Run) -> None:
        try:
            run.execute(stdin=stdin)
        except BaseException as e:  # raised below, in the thread that asked
            errors.append(e)
        finally:
            ended.release()

    for run in runs:
        threading.Thread(target=follow, args=(run,), name=run.container.name, daemon=True).start()
    left, given_up = len(runs), False
    while left:
        try:
            # Not Thread.join: in Python 3.11 a KeyboardInterrupt there takes a running thread for ended.
            left -= ended.acquire(timeout=LOOK_S)
        except KeyboardInterrupt:
            _stop(runs, times=1)
        if errors and not given_up:
            given_up = True
            _stop(runs, times=2)
    if errors:
        if isinstance(errors[0], UnsupportedError):  # for all: what ran for a moment alone says nothing
            for run in runs:
                run.container.reason = REFUSED
        raise errors[0]
    return [run.container for run in runs]


def _stop(runs: Sequence[Run], *, times: int) -> None:
    for run in runs:
        if run.container.status != "exited":
            for _ in range(times):
                run.interrupt()
