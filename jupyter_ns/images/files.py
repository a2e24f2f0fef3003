"""Files of the store: written whole or not at all, removed whatever they are, owned by who holds their lock."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile

UNFINISHED = ".new-"
"""How the name of a file begins that is being written."""


def write_whole(path: str, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a loss of power."""
    fd, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=UNFINISHED)
    try:
        with open(fd, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def remove_tree(path: str) -> None:
    """Remove a directory tree, whatever modes it has."""
    if os.geteuid():
        for directory, names, _ in os.walk(path):
            for name in names:
                if not os.path.islink(os.path.join(directory, name)):
                    os.chmod(os.path.join(directory, name), 0o700)
    try:
        shutil.rmtree(path)
    except RecursionError:  # deeper than Python's stack, as a container may have made a volume
        subprocess.run(["rm", "-rf", "--", path], check=True)


def unowned(path: str) -> bool:
    """Whether the process that made a scratch directory is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
