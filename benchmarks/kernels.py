"""A real ipykernel, driven as a notebook front end drives it."""

from __future__ import annotations

import os
import queue
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from .stats import BenchmarkError


@dataclass(frozen=True, slots=True)
class Executed:
    """One cell's outcome: seconds from request to idle, and its standard output."""

    seconds: float
    stdout: str


class Kernel:
    """A running kernel and a client.

    Attributes
    ----------
    pid : int
        The kernel's process ID.
    """

    def __init__(self, client: BlockingKernelClient) -> None:
        self._client = client
        self.pid = int(self.run("import os; print(os.getpid())").stdout)

    def submit(self, code: str) -> str:
        """Send an execute request without waiting; return its message ID."""
        return str(self._client.execute(code))

    def wait(self, request: str, *, start: float, timeout_s: float = 600.0) -> Executed:
        """Wait for the idle status that belongs to `request`, then for its reply.

        Raises
        ------
        BenchmarkError
            If the cell raised, or took longer than `timeout_s`.
        """
        stdout: list[str] = []
        error = ""
        while True:
            try:
                message = self._client.get_iopub_msg(timeout=timeout_s)
            except queue.Empty:
                raise BenchmarkError(f"no answer within {timeout_s:g} s") from None
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream" and content["name"] == "stdout":
                stdout.append(content["text"])
            elif kind == "error":
                error = f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                seconds = time.perf_counter() - start
                break
        reply = self._client.get_shell_msg(timeout=timeout_s)
        if reply["content"]["status"] != "ok":
            # UsageError sends no error message, only a line on standard error.
            error = error or str(reply["content"].get("evalue", reply["content"]["status"]))
        if error:
            raise BenchmarkError(" ".join(error.split()))
        return Executed(seconds, "".join(stdout))

    def run(self, code: str) -> Executed:
        """Execute one cell to the end.

        Raises
        ------
        BenchmarkError
            If it raised.
        """
        start = time.perf_counter()
        return self.wait(self.submit(code), start=start)

    def timed(self, code: str) -> Callable[[], float]:
        """Return a function that runs `code` and gives the seconds to idle."""
        return lambda: self.run(code).seconds


@contextmanager
def kernel() -> Iterator[Kernel]:
    """Start a kernel with an IPython profile of its own; shut it down afterwards.

    Raises
    ------
    BenchmarkError
        If it does not start.
    """
    with TemporaryDirectory(prefix="jupyter_ns_bench.") as profile:
        manager = KernelManager(kernel_name="python3")
        path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        manager.start_kernel(env={**os.environ, "IPYTHONDIR": profile, "PYTHONPATH": path}, stderr=subprocess.DEVNULL)
        client = manager.blocking_client()
        try:
            client.start_channels()
            try:
                client.wait_for_ready(timeout=60)
            except RuntimeError as error:
                raise BenchmarkError(f"the kernel does not start: {error}") from error
            yield Kernel(client)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=False)
            manager.cleanup_resources()
