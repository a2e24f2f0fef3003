"""Cells of a real notebook kernel: execute request to idle."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from .commands import bwrap_argv, docker_argv, docker_missing
from .kernels import Kernel, kernel
from .stats import BenchmarkError, Candidate
from .workspace import Workspace

EMPTY, BASH, SH = "empty cell", "%%bash true", "%%sh true"
BASH_BWRAP = "%%bash bwrap … true"
CONTAINER, CONTAINER_LIMITS = "%%container sh", "%%container sh, limits"
CONTAINER_PYTHON = "%%container, Python cell 1+1"
EXEC = "%%container exec, sh"
DOCKER, DOCKER_PANDAS = "!docker run … true", "!docker run … python3 -c 'import pandas'"
LOAD = "%load_ext jupyter_ns"
LIMITS = "--mem 128m --cpus 0.5 --pids-limit 100"
ISOLATED_CELL = f"%%container {LIMITS} sh\nreadlink /proc/self/ns/pid /proc/self/ns/net /proc/self/ns/mnt"


def _extension(shell: Kernel) -> str:
    """Load the extension and check that its cells are isolated; return why not, or nothing."""
    try:
        shell.run(LOAD)
        inside = set(shell.run(ISOLATED_CELL).stdout.split())
        outside = set(shell.run(ISOLATED_CELL.replace(f"%%container {LIMITS} sh", "%%sh")).stdout.split())
    except BenchmarkError as error:
        return f"failed: {error}"
    return "" if len(inside) == 3 and not inside & outside else "failed: the cell shares namespaces with the kernel"


def _imports(shell: Kernel) -> str:
    try:
        shell.run("import numpy, pandas")
    except BenchmarkError as error:
        return f"not installed: {error}"
    return ""


def _detached(shell: Kernel) -> str:
    """Start the container that `EXEC` enters; return why not, or nothing."""
    try:
        shell.run("%container run -d --name benchmark sleep 3600")
    except BenchmarkError as error:
        return f"failed: {error}"
    return ""


@contextmanager
def candidates(space: Workspace, *, image: str, pandas_image: str) -> Iterator[list[Candidate]]:
    """Start one kernel; yield its rows, those that are not there included.

    Parameters
    ----------
    space : Workspace
        For bubblewrap's payload.
    image, pandas_image : str
        Local images for ``!docker run``.
    """
    with kernel() as shell:
        imports = _imports(shell)
        extension = _extension(shell)

        def row(name: str, code: str, *, missing: str = "", note: str = "") -> Candidate:
            return Candidate(name=name, run=None if missing else shell.timed(code), missing=missing, note=note)

        def command(name: str, argv: list[str], missing: str) -> Candidate:
            return row(name, f"!{shlex.join(argv)}\nassert not _exit_code", missing=missing)  # IPython does not mind

        bwrap = Candidate(name=BASH_BWRAP, missing="not installed")
        if shutil.which("bwrap"):
            bwrap = row(BASH_BWRAP, f"%%bash\n{shlex.join(bwrap_argv(space))}")
        pandas = docker_argv("docker", pandas_image, "python3", "-c", "import pandas")
        yield [
            row(EMPTY, ""),
            row(SH, "%%sh\ntrue"),
            row(BASH, "%%bash\ntrue"),
            bwrap,
            row(CONTAINER, "%%container sh\ntrue", missing=extension),
            row(CONTAINER_LIMITS, f"%%container {LIMITS} sh\ntrue", missing=extension, note=LIMITS),
            row(
                CONTAINER_PYTHON,
                "%%container --mem 512m\n1+1",
                missing=imports or extension,
                note="numpy and pandas imported",
            ),
            row(EXEC, "%%container exec benchmark sh\ntrue", missing=extension or _detached(shell)),
            command(DOCKER, docker_argv("docker", image, "true"), docker_missing(image)),
            command(DOCKER_PANDAS, pandas, docker_missing(pandas_image)),
        ]
