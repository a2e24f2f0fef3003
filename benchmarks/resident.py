"""Resident processes that start commands on request: the C floor, and the spawner's client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .stats import BenchmarkError, Candidate
from .workspace import Workspace, cgroup_mounts

FLOOR_REAPED, FLOOR_REMOVED = "C floor, resident: to reaped", "C floor, resident: to cgroups removed"


class Resident:
    """A child that answers each line on its standard input with one line.

    Parameters
    ----------
    argv : sequence of str
        The child.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, request: str) -> str:
        """Write `request`, return the line that answers it.

        Raises
        ------
        BenchmarkError
            If the child has ended; what it wrote on standard error is quoted.
        """
        assert self._process.stdin and self._process.stdout and self._process.stderr
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchmarkError("the resident process has ended") from None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(self._process.stderr.read().strip() or "the resident process has ended")
        return line

    def close(self) -> None:
        """Close its standard input and wait for its end."""
        self._process.communicate()


@contextmanager
def resident_floor(space: Workspace) -> Iterator[list[Candidate]]:
    """Start the floor as a resident process; yield its two rows, by its own clock."""
    missing = space.floor_missing or space.cgroup_missing
    names = (FLOOR_REAPED, FLOOR_REMOVED)
    if missing or space.floor is None:
        yield [Candidate(name=name, missing=missing) for name in names]
        return
    argv = [str(space.floor), *space.cgroup_arguments, "--loop", "1000000000", "--wait", str(space.true)]
    floor = Resident(argv)

    def clock(column: int) -> Callable[[], float]:
        return lambda: float(floor.ask("x").split()[column]) / 1e6

    try:
        yield [Candidate(name=n, run=clock(i), note="built on demand, own clock") for i, n in enumerate(names)]
    finally:
        floor.close()


def hidden_unified_mount(mountinfo: str) -> str:
    """Return the mount point of cgroup2 if this is a hybrid host whose cgroup2 has controllers.

    crun (1.8) refuses such hosts: "cgroups in hybrid mode not supported, drop all controllers from
    cgroupv2". It is content where that mount cannot be seen.
    """
    mounts = cgroup_mounts(mountinfo)
    unified = mounts.get("unified", "")
    if len(mounts) > 1 and unified and Path(unified, "cgroup.controllers").read_text().split():
        return unified
    return ""


@contextmanager
def pure_v1_spawner() -> Iterator[Callable[[Sequence[str]], float] | None]:
    """Yield a function like `spawn.spawn` that runs commands where no cgroup2 is mounted.

    The commands run in a mount namespace of the spawner's own; the host's mounts stay as they are.
    None where that is not needed.
    """
    unified = hidden_unified_mount(Path("/proc/self/mountinfo").read_text())
    if not unified:
        yield None
        return
    script = 'umount "$0" && exec "$@"'
    spawner = [sys.executable, "-m", "benchmarks.spawn"]
    resident = Resident(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, unified, *spawner])

    def run(argv: Sequence[str]) -> float:
        answer = json.loads(resident.ask(json.dumps(list(argv)) + os.linesep))
        if isinstance(answer, str):
            raise BenchmarkError(answer)
        return float(answer)

    try:
        yield run
    finally:
        resident.close()
