"""Real kernels: two at once, restarted in the middle of a run, large, in a directory with an odd name."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client import KernelManager
from processes import sleepers

pytestmark = [pytest.mark.stress, pytest.mark.usefixtures("engine")]
TIMES = int(os.environ.get("JUPYTER_NS_STRESS", "1"))


class Kernel:
    """A kernel process with the extension loaded."""

    def __init__(self, directory: Path) -> None:
        self.manager = KernelManager(kernel_name="python3")
        assert self.manager.kernel_spec is not None
        self.manager.kernel_spec.argv[0] = sys.executable
        # Its own ports and no more: what it logs is not under test.
        self.manager.start_kernel(cwd=str(directory), stderr=subprocess.DEVNULL)
        self.client = self.manager.client()
        self.client.start_channels()
        self.ready()

    def ready(self) -> None:
        self.client.wait_for_ready(timeout=60)
        self("%load_ext jupyter_ns")

    def __call__(self, code: str) -> str:
        """Execute a cell; return what it printed, and the name of the error it ended with."""
        out: list[str] = []

        def hook(message: dict[str, Any]) -> None:
            content = message["content"]
            out.append(content.get("text") or content.get("ename") or content.get("data", {}).get("text/plain", ""))

        self.client.execute_interactive(code, output_hook=hook, timeout=120, allow_stdin=False)
        return "".join(out)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.context.destroy()


@pytest.fixture(scope="module")
def _event_loop(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Use jupyter_client once before anything is counted: it keeps an event loop for the thread that uses it."""
    Kernel(tmp_path_factory.mktemp("first")).close()


@pytest.fixture
def kernel(_event_loop: None, tmp_path: Path) -> Iterator[Callable[[], Kernel]]:
    made: list[Kernel] = []
    directory = tmp_path / "Mein Heft – ünï ☃"
    directory.mkdir()

    def make() -> Kernel:
        made.append(Kernel(directory))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_two_at_once_in_a_directory_with_an_odd_name(kernel: Callable[[], Kernel]) -> None:
    busy, other = kernel(), kernel()
    for i in range(3 * TIMES):
        for magic in ("%%container --quiet", "%%container --quiet --state fork"):
            source = "import os, time\nprint({}, os.path.basename(os.getcwd()))"
            busy.client.execute(f"{magic} -o first\n{source.format(-i)}; time.sleep(0.2)")
            assert other(f"{magic}\n{source.format(i)}").strip() == f"{i} Mein Heft – ünï ☃"
            assert busy("print(first.stdout)").strip() == f"{-i} Mein Heft – ünï ☃"


CELLS = {
    "program": "%%container --quiet sh\nsleep {marker}",
    "cell": "%%container --quiet\nimport subprocess; subprocess.run(['sleep', '{marker}'])",
    "fork": "%%container --quiet --state fork\nimport subprocess; subprocess.run(['sleep', '{marker}'])",
}


@pytest.mark.parametrize("name", CELLS)
def test_restart_in_the_middle_of_a_run(kernel: Callable[[], Kernel], name: str) -> None:
    one, marker = kernel(), str(50_000_000 + os.getpid())
    one.client.execute(CELLS[name].format(marker=marker))
    until(lambda: bool(sleepers(marker)))
    one.manager.restart_kernel(now=True)
    until(lambda: not sleepers(marker))
    one.ready()
    assert one("%%container --quiet sh\necho again").strip() == "again"


def test_a_large_kernel_runs_containers_all_the_same(kernel: Callable[[], Kernel]) -> None:
    one = kernel()
    one(f"big = [(i, str(i)) for i in range({10**6 * TIMES})]")
    assert one("%%container --quiet\nprint(1 + 1)").strip() == "2"
    assert one("%%container --quiet --state fork\nprint(len(big))").strip() == str(10**6 * TIMES)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
