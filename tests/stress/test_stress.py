"""Many runs, spawns under malloc load, storms of interrupts. JUPYTER_NS_STRESS multiplies the numbers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from jupyter_ns import Container, core, run
from jupyter_ns.client import get_client
from jupyter_ns.namespaces import KINDS
from jupyter_ns.plan.steps import Op, Plan, Step
from jupyter_ns.runner import Run, Sink
from jupyter_ns.spec import ContainerSpec

pytestmark = pytest.mark.stress
TIMES = int(os.environ.get("JUPYTER_NS_STRESS", "1"))


def test_300_runs_leave_nothing_and_each_has_its_own_name() -> None:
    """What is left, the fixture for every test here finds."""
    resident = rss_kib(get_client().pid)
    for i in range(300 * TIMES):
        container = run("sh", "-c", "hostname; echo $PPID >&2; exit 3" if i % 2 else "hostname", workdir="/")
        assert container.stdout == container.id[:12] + "\n", i
        assert container.exit_code == (3 if i % 2 else 0), i
    assert rss_kib(get_client().pid) - resident < 8192 + 8 * TIMES


def rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def test_many_at_once_from_threads() -> None:
    results: list[Container] = []

    def work(i: int) -> None:
        for j in range(5 * TIMES):
            results.append(run("sh", "-c", f"echo {i}.{j}; exit {i}", workdir="/"))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert Counter(c.exit_code for c in results) == dict.fromkeys(range(6), 5 * TIMES)
    assert sorted(c.stdout.strip() for c in results) == sorted(f"{i}.{j}" for i in range(6) for j in range(5 * TIMES))


@pytest.mark.needs("root")
def test_spawns_under_malloc_load() -> None:
    """The core's child inherits malloc's locks in any state: it must not need them."""
    stop = threading.Event()

    def allocate() -> None:
        while not stop.is_set():
            b"".join(bytes(1000 + n % 7000) for n in range(200))  # large enough for malloc(3) itself
            os.listdir("/")

    threads = [threading.Thread(target=allocate) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for i in range(100 * TIMES):
            assert spawn_and_exit() == 7, i
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def spawn_and_exit() -> int:
    """Spawn a child into new namespaces which becomes a shell; return its exit code, -9 after 20 s."""
    read, report = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    pairs = (("null", 0), ("null", 1), ("null", 2), ("report", 3), ("go", 4))
    flags = sum(k.flag for k in KINDS if k.name in ("pid", "mount", "uts", "ipc"))
    steps = (
        Step(Op.FDS, (pairs,)),
        Step(Op.HOSTNAME, ("box",)),
        Step(Op.INIT),
        Step(Op.SIGNALS),
        Step(Op.EXEC, (("/bin/sh",), ("sh", "-c", "exit 7"), ("A=1",))),
    )
    pid, pidfd = core.spawn(Plan(flags, steps), {"null": null, "report": report, "go": null})
    os.close(report)
    timer = threading.Timer(20, lambda: signal.pidfd_send_signal(pidfd, signal.SIGKILL))
    timer.start()
    _, status = os.waitpid(pid, 0)
    timer.cancel()
    timer.join()
    for fd in (read, null, pidfd):
        os.close(fd)
    return os.waitstatus_to_exitcode(status)


class Storm(Sink):
    """Sends this process interrupts from the moment that the container runs."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._send)

    def on_started(self, container: Container) -> None:
        self.thread.start()

    def _send(self) -> None:
        while not self.over.wait(self.interval_s):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("interval_s", [0.0003, 0.005])
@pytest.mark.parametrize("script", ["exec sleep 30", "trap '' INT; sleep 30 & wait; wait"])
def test_interrupt_storm(interval_s: float, script: str) -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))  # those that come late
    try:
        for _ in range(5 * TIMES):
            storm = Storm(interval_s)
            started = time.monotonic()
            spec = ContainerSpec(argv=("sh", "-c", script), workdir="/")
            try:
                container = Run(get_client(), spec, storm).execute()
            finally:
                storm.over.set()
                storm.thread.join()
            assert container.reason == "interrupted"
            assert container.exit_code in (130, 137)
            assert time.monotonic() - started < 10
    finally:
        signal.signal(signal.SIGINT, before)
    assert run("echo", "calm", workdir="/").stdout == "calm\n"
