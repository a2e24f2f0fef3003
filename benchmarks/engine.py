"""The engine through the client library, without a notebook: request to result."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from typing import Any

from .stats import BenchmarkError, Candidate
from .workspace import Workspace

ON_DEMAND = "jupyter_ns engine: run(true), limits"
PLAIN = "jupyter_ns engine: run(true)"
NEW = "jupyter_ns engine: run(true), limits, of a kind never used before"
WORDS = "jupyter_ns engine: run(true), limits, in words never used before"
PARKED = "jupyter_ns engine: parked container"
HEARD = "jupyter_ns engine alone: parked container, request sent to end heard"
REAPED = "jupyter_ns engine alone: parked container, request sent to reaped"
TURNS = 8
"""Kinds of container in turn: more than wait parked, so that none is, when its turn comes again."""
KIND, WORD = "hostname", "env"
"""An option that makes another kind of container, for which none waits; and one for which any of its kind will do."""
LIMITS: dict[str, Any] = {"memory": "128m", "cpus": 0.5, "pids_limit": 100}
KINDS = frozenset({"pid", "mount", "network", "uts", "ipc", "cgroup", "time"})


def run_once(program: str, *arguments: str, **options: Any) -> Any:
    """Run one container to its end through `jupyter_ns.run`.

    Parameters
    ----------
    program, *arguments : str
        The command line.
    **options
        As `jupyter_ns.run` takes them.

    Returns
    -------
    jupyter_ns.Container

    Raises
    ------
    BenchmarkError
        If the package is not there, refused, or the program failed.
    """
    try:
        from jupyter_ns import run
    except ImportError as error:
        raise BenchmarkError(f"jupyter_ns cannot be imported: {error}") from error
    from jupyter_ns.errors import ContainerError

    try:
        return run(program, *arguments, **options)
    except ContainerError as error:
        raise BenchmarkError(f"{type(error).__name__}: {error}") from error


def _timed(
    program: str, options: dict[str, Any], *, parked: bool = False, turns: int = TURNS, differs: str = KIND
) -> Callable[[], float]:
    turn = itertools.count()

    def words(number: int) -> dict[str, Any]:
        number = number % turns if turns else number
        return options | {differs: [f"TURN={number}"] if differs == WORD else f"turn{number}"}

    def run() -> float:
        number = next(turn)
        if not number:
            for other in range(turns):
                run_once(program, **words(other))
        # Untimed: the run before, after which the engine makes what it holds ready. The peers mount things on the host
        # for a moment, and what was made before that is dropped.
        run_once(program, **(options if parked else words(number - 1)))
        time.sleep(0.1)
        start = time.perf_counter()
        run_once(program, **(options if parked else words(number)))
        return time.perf_counter() - start

    return run


def _timed_alone(program: str, *, heard: bool) -> Callable[[], float]:
    """Time what the engine does, from before the request is sent, without the client's part.

    That is to make up the request, and to make a `jupyter_ns.Container` of what the engine tells. With `heard` to when
    that has come; else to when the engine had reaped the program, which it tells: the clock is the same.
    """

    def run() -> float:
        from jupyter_ns.api import parse_words, to_flags
        from jupyter_ns.client import get_client
        from jupyter_ns.request import request_for
        from jupyter_ns.runtime.protocol import Kind

        run_once(program, **LIMITS)  # untimed, as for the other rows
        time.sleep(0.1)
        client, told = get_client(), []
        spec = parse_words([*to_flags(LIMITS), "--", program]).spec
        request = {"request": request_for(spec, {}), "life": {"name": "alone"}, "stdin": b""}
        name = os.urandom(32).hex()
        client.subscribe(name, lambda kind, payload: told.append((kind, payload)))
        try:
            start_s = time.time()
            client.send(Kind.RUN, name, request)
            client.wait(lambda: bool(told) and told[-1][0] in (Kind.EXIT, Kind.ERROR))
            heard_s = time.time()
        finally:
            client.unsubscribe(name)
        kind, payload = told[-1]
        if kind is Kind.ERROR or payload["exit_code"]:
            raise BenchmarkError(f"the engine alone: {payload}")
        return float((heard_s if heard else payload["finished_s"]) - start_s)

    return run


def check_isolated(container: Any) -> None:
    """Refuse to time something that is not the container it is said to be.

    Raises
    ------
    BenchmarkError
        If it failed, or shares one of the seven kinds of namespace with this process.
    """
    if container.exit_code != 0:
        raise BenchmarkError(f"exit code {container.exit_code}: {container.stderr.strip()}")
    isolated = {kind for kind, ids in container.namespaces.items() if ids.host != ids.container}
    if not isolated >= KINDS:
        raise BenchmarkError(f"shares namespaces with the caller: {', '.join(sorted(KINDS - isolated))}")


def candidates(space: Workspace) -> list[Candidate]:
    """Return the engine's rows; they start the engine on their first run.

    Parameters
    ----------
    space : Workspace
        For its payload, the same as the peers'.
    """
    program = str(space.true)
    rows = []
    on_demand = "request to result in Python; none of its kind waits"
    for name, options, run, note in (
        (ON_DEMAND, LIMITS, _timed(program, LIMITS), on_demand),
        (PLAIN, {}, _timed(program, {}), on_demand),
        (NEW, LIMITS, _timed(program, LIMITS, turns=0), "as above, and its plan is still to be made"),
        (WORDS, LIMITS, _timed(program, LIMITS, turns=0, differs=WORD), "one of its kind waits, built for any program"),
        (PARKED, LIMITS, _timed(program, LIMITS, parked=True), "request to result in Python"),
        (HEARD, LIMITS, _timed_alone(program, heard=True), "without the client library's part"),
        (REAPED, LIMITS, _timed_alone(program, heard=False), "as above, and as the C floor's own clock has it"),
    ):
        try:
            check_isolated(run_once(program, **options))
        except BenchmarkError as error:
            rows.append(Candidate(name=name, missing=f"failed: {error}"))
        else:
            rows.append(Candidate(name=name, run=run, note=note))
    return rows
