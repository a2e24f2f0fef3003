"""Many runs, spawns under malloc load, storms of interrupts. JUPYTER_NS_STRESS multiplies the numbers."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import missing
from processes import children_of

from jupyter_ns import Container, core, run
from jupyter_ns.cgroups.processes import start_time
from jupyter_ns.client import get_client
from jupyter_ns.frontend.outcome import error_of
from jupyter_ns.namespaces import KINDS
from jupyter_ns.plan.steps import Op, Plan, Step
from jupyter_ns.runner import MAX_OUTPUT_CHARS, Cell, Run, Sink
from jupyter_ns.spec import ContainerSpec, Limits

pytestmark = pytest.mark.stress
TIMES = int(os.environ.get("JUPYTER_NS_STRESS", "1"))


def test_300_runs_leave_nothing_and_each_has_its_own_name() -> None:
    """What is left, the fixture for every test here finds; in the engine's memory, a container's record is 18 KiB."""
    for _ in range(350):  # until its list of events is full
        run("true", workdir="/")
    resident = rss_kib(get_client().pid)
    for i in range(300 * TIMES):
        container = run("sh", "-c", "hostname; echo $PPID >&2; exit 3" if i % 2 else "hostname", workdir="/")
        assert container.stdout == container.id[:12] + "\n", i
        assert container.exit_code == (3 if i % 2 else 0), i
    assert rss_kib(get_client().pid) - resident < 2048


def run_cell(source: str, **spec: Any) -> Container:
    spec = {"workdir": "/", "timeout_seconds": 120.0, **spec}
    return Run(get_client(), ContainerSpec(python=True, **spec), Sink()).execute(cell=Cell(source=source))


def zygote_pid() -> int:
    """Return the engine's child that has run for the longest: every other one belongs to a container."""
    return min(children_of(get_client().pid), key=lambda pid: start_time(pid) or math.inf)  # PIDs begin anew


@pytest.mark.usefixtures("zygote")
def test_100_cells_leave_nothing_in_engine_and_zygote() -> None:
    run_cell("pass")
    processes = (get_client().pid, zygote_pid())
    resident = [rss_kib(pid) for pid in processes]
    for i in range(100 * TIMES):
        assert run_cell(f"{i} + 1").value == i + 1
    assert (get_client().pid, zygote_pid()) == processes
    for pid, before, most in zip(processes, resident, (1024, 4096), strict=True):
        assert rss_kib(pid) - before < most * TIMES


@pytest.mark.usefixtures("zygote")
def test_a_cell_that_prints_without_end_is_cut_off_and_says_so() -> None:
    megabytes = 20 * TIMES
    container = run_cell(f"for _ in range({megabytes}): print('x' * 999_999)")
    assert container.exit_code == 0
    assert f"{megabytes * 1_000_000 - MAX_OUTPUT_CHARS:,} further characters" in container.stdout[-200:]


DAEMON = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "{marker}"])
    os._exit(0)
print("up")
"""


@pytest.mark.usefixtures("zygote")
@pytest.mark.parametrize("without", [(), ("pid",)])
@pytest.mark.parametrize("python", [True, False])
def test_a_daemon_ends_with_its_container(python: bool, without: tuple[str, ...]) -> None:
    """It holds the streams open, too: those must not be waited for without end."""
    for i in range(3 * TIMES):
        marker = str(40_000_000 + os.getpid() + i)
        source = DAEMON.format(marker=marker)
        if python:
            container = run_cell(source, without=without)
        else:
            spec = ContainerSpec(argv=(sys.executable, "-S", "-c", source), workdir="/", without=without)
            container = Run(get_client(), spec, Sink()).execute()
        assert (container.stdout, container.exit_code) == ("up\n", 0)
        assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if marker in read(p)]


def read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.usefixtures("zygote")
@pytest.mark.parametrize("first", [0, 3])
def test_a_cell_that_closes_every_descriptor_ends(first: int) -> None:
    container = run_cell(f"import os\nos.closerange({first}, 4096)\n5")
    assert (container.exit_code, container.value) == (125, None)
    assert container.stderr == ""
    assert "descriptor 3" in str(error_of(container, raise_error=False))
    assert run_cell("1 + 1").value == 2


@pytest.mark.usefixtures("zygote")
@pytest.mark.needs("controller:pids")
def test_a_fork_bomb_in_a_cell_hits_its_limit() -> None:
    bomb = "import os\nwhile True:\n    os.fork()"
    for _ in range(2 * TIMES):
        container = run_cell(bomb, limits=Limits(pids_limit=30), timeout_seconds=5.0)
        assert container.exit_code != 0
    assert run_cell("1 + 1").value == 2


MOUNTS = """
import sys
from jupyter_ns import run
for options in ({}, {"userns": "private"}) if sys.argv[1] == "private" else ({},):
    c = run("sh", "-c", "cat /srv/m/*/f | wc -l; echo x > /srv/m/7/new", workdir="/", **options)
    print(c.stdout.strip(), c.stderr.strip(), [tuple(x) for x in c.changes if x.path.startswith("/srv")])
"""


@pytest.mark.needs("root", "overlay")
def test_a_machine_with_hundreds_of_mounts() -> None:
    count = min(100 * TIMES, 1000)
    script = (
        f"mount -t tmpfs t /srv; mkdir /srv/m; for i in $(seq {count}); do mkdir /srv/m/$i; "
        'mount -t tmpfs t$i /srv/m/$i; echo x > /srv/m/$i/f; done; exec "$@"'
    )
    which = "" if missing(get_client().facts, "private") else "private"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    command += [sys.executable, "-c", MOUNTS, which]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    line = f"{count}  [('A', '/srv/m/7/new')]\n"
    assert (done.stdout, done.stderr) == (line * (2 if which else 1), "")


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
