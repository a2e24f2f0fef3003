"""Other tools that know images: what the tests compare with."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest


def needs(*tools: str) -> pytest.MarkDecorator:
    missing = [t for t in tools if shutil.which(t) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def tool(*words: str | Path) -> str:
    """Run a tool; return what it prints."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fill_context(top: Path, ignored: str) -> Path:
    """Make a directory that images are built from, with a ``.dockerignore``; its Dockerfile is the test's."""
    (top / "sub/deep").mkdir(parents=True)
    (top / "a.txt").write_text("a\n")
    (top / "b.sh").write_text("#!/bin/sh\necho b\n")
    (top / "b.sh").chmod(0o755)
    (top / "sub/c.txt").write_text("c\n")
    (top / "sub/deep/private").write_text("p\n")
    (top / "sub/deep/private").chmod(0o600)
    (top / "sub").chmod(0o750)
    (top / "link").symlink_to("a.txt")
    (top / "left.log").write_text("no")
    (top / ".dockerignore").write_text(ignored)
    with tarfile.open(top / "t.tgz", "w:gz") as tar:
        info = tarfile.TarInfo("in/side")
        info.size, info.uid, info.gid, info.mode = 2, 7, 8, 0o640
        tar.addfile(info, io.BytesIO(b"t\n"))
    os.chown(top / "a.txt", 1000, 1000)
    return top
