"""Where the guest's kernel is, and where its memory can lie: looked for on the host, tried by doing."""

from __future__ import annotations

import mmap
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import UnsupportedError, UsageError
from ..host import parse_mountinfo
from ..units import format_bytes, parse_size

KERNEL, MEMORY, ARGUMENTS = "JUPYTER_NS_UML", "JUPYTER_NS_GUEST_MEMORY", "JUPYTER_NS_GUEST_ARGS"
"""Environment variables: the kernel's file, the guest's memory, more words for the kernel's command line."""
PROGRAM = "linux.uml"
PLACES = ("/tmp", "/dev/shm", "/var/tmp")
"""Where its memory may lie."""
UNPACKED = "~/.local/share/jupyter_ns/user-mode-linux"
"""Where Debian's package may be unpacked by a user who cannot install it."""
INSTALL = (
    f"sudo apt-get install user-mode-linux  # Debian's; elsewhere, or without root, unpack its package: "
    f"dpkg -x user-mode-linux_*.deb {UNPACKED}; {KERNEL} may name another kernel built with ARCH=um"
)
MAKE_SPACE = "export TMPDIR=DIRECTORY  # one with space that is not mounted noexec"
OVERLAY_COST = (
    "its memory lies on an overlay, where each page is a mapping of its own: a process that uses more than about {} is "
    "killed, whatever its limit (a TMPDIR on a volume or tmpfs mends that)"
)
DEFAULT_BYTES, LEAST_BYTES = 1 << 30, 192 << 20


class Memory(NamedTuple):
    """Where the file that is the guest's memory lies, and its size in bytes."""

    directory: str
    size_bytes: int

    @property
    def drawback(self) -> str:
        """What that place costs; empty if nothing."""
        return OVERLAY_COST.format(format_bytes(mappings() * mmap.PAGESIZE)) if on_overlay(self.directory) else ""


def find_kernel(environ: Mapping[str, str]) -> str:
    """Return the path of a user-mode Linux kernel.

    Raises
    ------
    UnsupportedError
        If there is none; names the package that has it.
    """
    given = environ.get(KERNEL)
    if given:
        if os.path.isfile(given) and os.access(given, os.X_OK):
            return os.path.realpath(given)
        raise UnsupportedError(f"{KERNEL}={given}: no executable file; give the path of a user-mode Linux kernel")
    unpacked = f"{os.path.expanduser(UNPACKED)}/usr/bin"
    found = shutil.which(PROGRAM, path=f"{environ.get('PATH', os.defpath)}:{unpacked}")
    if found:
        return os.path.realpath(found)
    machine = platform.machine()
    only = "" if machine in ("x86_64", "i686") else f" (it exists for x86 only; this is {machine})"
    raise UnsupportedError(f"--on guest: no {PROGRAM} on PATH{only}. To get it: {INSTALL}")


def modules_of(kernel: str) -> str:
    """Return the directory in which a kernel's package has its modules, one directory for each release."""
    return os.path.join(os.path.dirname(os.path.dirname(kernel)), "lib/uml/modules")


def find_memory(environ: Mapping[str, str]) -> Memory:
    """Choose where the guest's memory lies: a directory whose files can be executed, with space for it.

    Where ``TMPDIR`` is set, there and nowhere else.

    Raises
    ------
    UnsupportedError
        If no directory will do; says why of each.
    UsageError
        If the size asked for is none.
    """
    wanted = environ.get(MEMORY)
    try:
        size = parse_size(wanted) if wanted else min(DEFAULT_BYTES, available_bytes() // 2)
    except ValueError as e:
        raise UsageError(f"{MEMORY}={wanted}: {e}") from None
    least = size if wanted else LEAST_BYTES
    if size < LEAST_BYTES:
        raise UnsupportedError(f"a guest needs {format_bytes(LEAST_BYTES)} of memory or more; {MEMORY} says how much")
    reasons = []
    own = environ.get("TMPDIR")
    for directory in [own] if own else sorted(PLACES, key=on_overlay):
        blank = any(c in directory for c in " \t\n\"'")
        reason = "the kernel's command line takes no blanks or quotes" if blank else not_executable(directory)
        if not reason:
            free = free_bytes(directory)
            if free >= least:
                return Memory(os.path.realpath(directory), min(size, free) >> 20 << 20)
            reason = f"{format_bytes(free)} free, {format_bytes(least)} needed"
        reasons.append(f"{directory}: {reason}")
    raise UnsupportedError(
        f"--on guest: nowhere to put the guest's memory: {'; '.join(reasons)}. Set TMPDIR to a directory with space "
        "that is not mounted noexec"
    )


def not_executable(directory: str) -> str:
    """Return why a file in `directory` cannot be mapped executable, as the guest's memory must be; or nothing."""
    try:
        with tempfile.TemporaryFile(dir=directory) as f:
            f.write(bytes(mmap.PAGESIZE))
            f.flush()
            mmap.mmap(f.fileno(), mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except PermissionError as e:
        return f"{e.strerror}; is it mounted noexec?"
    except OSError as e:
        return e.strerror or str(e)
    return ""


def on_overlay(directory: str) -> bool:
    """Whether a directory is on overlayfs, as everything in a container without volumes is.

    The kernel joins mappings of neighbouring pages of a file, but not of one there; and `mappings` bounds their number.
    """
    if not os.path.isdir(directory):
        return False
    device = os.stat(directory).st_dev
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        overlays = {m.device for m in parse_mountinfo(f.read()) if m.fstype == "overlay"}
    return f"{os.major(device)}:{os.minor(device)}" in overlays


def mappings() -> int:
    """Return how many mappings a process may have: proc_sys_vm(5), ``max_map_count``."""
    with open("/proc/sys/vm/max_map_count") as f:
        return int(f.read())


def free_bytes(directory: str) -> int:
    """Return what an ordinary user can still write to a file system, bytes."""
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize


def available_bytes() -> int:
    """Return the memory that the host can give without swapping: ``MemAvailable`` in proc_meminfo(5), bytes."""
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable:"))


def beyond_memory(limit_bytes: int) -> list[str]:
    """Say, in a guest, where a memory limit is more than the guest has; nothing if it is not."""
    all_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if limit_bytes <= all_bytes:
        return []
    return [
        f"--memory {format_bytes(limit_bytes)} is more than the guest's own {format_bytes(all_bytes)}: when those are "
        f"used up, its kernel kills some process, before this limit; {MEMORY} gives it more"
    ]
