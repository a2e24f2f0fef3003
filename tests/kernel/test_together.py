"""Containers at the same time: they overlap, share as they were told, and go together if one cannot be built."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from jupyter_ns import Container
from jupyter_ns.client import EngineClient
from jupyter_ns.errors import UsageError
from jupyter_ns.runner import Run, Sink
from jupyter_ns.spec import ContainerSpec, Limits
from jupyter_ns.together import run_together

BUSY = """
while [ $(date +%s) -lt {end} ]; do
    i=0; while [ $i -lt 9999 ]; do i=$((i + 1)); done
done
"""


def sh(**fields: object) -> ContainerSpec:
    return ContainerSpec(argv=("sh",), workdir="/", **fields)  # type: ignore[arg-type]


def runs(client: EngineClient, *specs: ContainerSpec) -> list[Run]:
    return [Run(client, spec, Sink()) for spec in specs]


@pytest.mark.needs("controller:cpu", "controller:cpuset")
def test_shares_count_under_contention(engine: Callable[[], EngineClient]) -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    specs = [sh(limits=Limits(cpu_shares=shares, cpuset_cpus=cpu)) for shares in (1024, 512)]
    made = runs(engine(), *specs)
    big, small = run_together(made, BUSY.format(end=int(time.time()) + 5).encode())  # both to the same moment
    assert (big.exit_code, small.exit_code) == (0, 0)
    assert 1.5 < big.cpu_seconds / small.cpu_seconds < 2.5


def test_each_is_a_container_of_its_own(engine: Callable[[], EngineClient]) -> None:
    script = b"readlink /proc/self/ns/pid; echo $$"
    first, second = run_together(runs(engine(), sh(), sh()), script)
    assert first.namespaces["pid"].container != second.namespaces["pid"].container
    for container in (first, second):
        assert container.stdout == f"pid:[{container.namespaces['pid'].container}]\n1\n"


def test_one_that_cannot_be_built_ends_the_others(engine: Callable[[], EngineClient]) -> None:
    started = time.monotonic()
    with pytest.raises(UsageError, match="no-such-user"):
        run_together(runs(engine(), sh(), sh(user="no-such-user")), b"exec sleep 60")
    assert time.monotonic() - started < 30


def test_an_interrupt_reaches_all(engine: Callable[[], EngineClient]) -> None:
    class Counting(Sink):
        started = 0

        def on_started(self, _container: Container) -> None:
            Counting.started += 1
            if Counting.started == 2:
                os.kill(os.getpid(), signal.SIGINT)

    ended = run_together([Run(engine(), sh(), Counting()) for _ in range(2)], b"exec sleep 60")
    assert [container.reason for container in ended] == ["interrupted", "interrupted"]
