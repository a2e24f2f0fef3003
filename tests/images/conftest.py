"""What tests of images share."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tools import tool


@pytest.fixture
def podman() -> Iterator[Callable[..., str]]:
    """Give podman a store of its own."""
    tmp_path = Path(tempfile.mkdtemp(prefix="jns-", dir="/tmp"))  # podman wants a short path
    base = ["--root", tmp_path / "podman", "--runroot", tmp_path / "run", "--storage-driver", "overlay"]
    yield lambda *words: tool("podman", *base, *words)
    subprocess.run(["podman", *map(str, base), "unmount", "--all"], capture_output=True, check=False)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed([m for m in mounts if m.startswith(str(tmp_path))]):
        subprocess.run(["umount", "-l", mount], check=True)
    shutil.rmtree(tmp_path)
