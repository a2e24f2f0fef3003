"""Disks by path: the numbers that I/O limits name them by."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable

from ..errors import UsageError
from ..spec import Limits
from . import files
from .facts import OPTIONS, Setting


def number(field: str, path: str) -> str:
    """Return ``MAJOR:MINOR`` of a disk.

    Parameters
    ----------
    field : str
        Of `Limits`, for the message.
    path : str
        Of a block device.

    Raises
    ------
    UsageError
        If there is none, or it is a partition: the kernel limits whole disks (ENODEV).
    """
    option = f"{OPTIONS[field]} {path}"
    try:
        found = os.stat(path)
    except OSError as e:
        raise UsageError(f"{option}: {e.strerror}; expected a disk of this host, as lsblk lists them") from None
    if not stat.S_ISBLK(found.st_mode):
        raise UsageError(f"{option}: no block device; expected a disk of this host, as lsblk lists them")
    numbers = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    about = f"/sys/dev/block/{numbers}"
    if os.path.exists(f"{about}/partition"):
        disk = os.path.basename(os.path.dirname(os.path.realpath(about)))
        raise UsageError(f"{option}: a partition, and the kernel limits whole disks; expected /dev/{disk}")
    return numbers


def weight_note(limits: Limits, file: str) -> list[str]:
    """Return what to say of weights where no disk has the scheduler that looks at them."""
    if "bfq" not in file or not (limits.blkio_weight or limits.blkio_weight_device):
        return []
    for name in os.listdir("/sys/block"):
        with contextlib.suppress(FileNotFoundError):  # a disk without a queue
            if "[bfq]" in files.read(f"/sys/block/{name}/queue/scheduler"):
                return []
    return [f"{OPTIONS['blkio_weight']}: no disk here has the BFQ scheduler, which alone looks at it"]


def disk_settings(
    field: str,
    new: Limits,
    old: Limits,
    controller: str,
    file: str,
    form: str,
    unlimited: str,
    scale: Callable[[int], int] = int,
) -> list[Setting]:
    """Return a write for each disk that `field` names, or named before.

    Parameters
    ----------
    field : str
        Of `Limits`; of a disk that is named twice, the last value counts.
    new, old : Limits
        Wanted, and as it is now.
    controller, file : str
        Where to.
    form : str
        How a value is written, such as ``rbps={}``.
    unlimited : str
        What is written in place of 0, and of a value that is no longer wanted.
    scale : callable
        From the value asked for to the file's own scale.

    Raises
    ------
    UsageError
        As `number`.
    """
    wanted = {number(field, path): (path, value) for path, value in getattr(new, field)}
    before = {number(field, path): (path, 0) for path, _ in getattr(old, field)}
    found = []
    for numbers, (path, value) in (before | wanted).items():
        text = form.format(scale(value) if value else unlimited)
        found.append(Setting(field, f"{path}:{value}", controller, file, f"{numbers} {text}", line=f"{numbers} "))
    return found
