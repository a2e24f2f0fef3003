"""Python programs of an ordinary user, whose engine is root in a user namespace only."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import jupyter_ns

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def interpreter() -> str:
    """Return an interpreter of this version that an ordinary user may run."""
    # Its engine is started by the ordinary user, so it is not enough that setpriv can start it.
    again = "import sys; print(*sys.version_info[:2])"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {again!r}])"
    for candidate in (sys.executable, "/usr/bin/python3"):
        done = subprocess.run([*AS_NOBODY, candidate, "-c", code], capture_output=True, text=True, check=False)
        if done.stdout.split() == [str(n) for n in sys.version_info[:2]]:
            return candidate
    pytest.skip("no interpreter of this version that an ordinary user may run")


@contextlib.contextmanager
def ordinary_user(mounts: Sequence[str] = ()) -> Iterator[tuple[Path, Callable[..., subprocess.CompletedProcess[str]]]]:
    """Give a directory that an ordinary user may write to, and what runs a program of Python as that user.

    Images are kept below ``data`` of the directory. `mounts` are commands that mount something, for that user only.
    """
    directory = Path(tempfile.mkdtemp(prefix="jns-ou-", dir="/tmp"))
    directory.chmod(0o777)
    # The way to this checkout may be closed to that user: it finds what it imports below its own directory.
    package = str(Path(jupyter_ns.__file__).parents[1])
    sources = [package, *(p for p in sys.path if p.endswith("site-packages"))]
    places = [directory / f"path{number}" for number in range(len(sources))]
    for place in places:
        place.mkdir()
    binds = [shlex.join(["mount", "--bind", *map(str, pair)]) for pair in zip(sources, places, strict=True)]
    command = ["unshare", "--mount", "sh", "-ec", "; ".join([*binds, *mounts, 'exec "$@"']), "sh"]
    environ = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(directory),
        "JUPYTER_NS_DATA": str(directory / "data"),
        "PYTHONPATH": os.pathsep.join(map(str, places)),
    }

    def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *AS_NOBODY, interpreter(), "-c", script, *arguments],
            capture_output=True, text=True, env=environ, cwd="/", timeout=120, check=False,
        )  # fmt: skip

    try:
        yield directory, run
    finally:
        shutil.rmtree(directory)


def run_as_ordinary_user(script: str) -> list[str]:
    """Run a Python program as an ordinary user; return the lines that it wrote. It may write nothing to stderr."""
    with ordinary_user() as (_, run):
        done = run(script)
    assert done.stderr == ""
    return done.stdout.splitlines()
