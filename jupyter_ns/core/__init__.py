"""The C core's face to Python: the only importer of the compiled module."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..errors import UnsupportedError
from ..plan.steps import Plan

if not sys.platform.startswith("linux"):
    raise UnsupportedError("jupyter_ns needs Linux: namespaces and cgroups are features of its kernel")

from . import _core  # type: ignore[attr-defined]

ffi, lib = _core.ffi, _core.lib

FAILED, WAITING, RUNNING, DONE = lib.JNS_FAILED, lib.JNS_WAITING, lib.JNS_RUNNING, lib.JNS_DONE
REPORT = struct.Struct("<4i")


class Report(NamedTuple):
    """What a child said on its report pipe: ``phase`` is `FAILED`, `WAITING`, `RUNNING` or `DONE`."""

    phase: int
    step: int
    errno: int


def read_report(fd: int) -> Report | None:
    """Read one report (blocking); None at end of file."""
    data = os.read(fd, REPORT.size)
    return Report(*REPORT.unpack(data)[:3]) if len(data) == REPORT.size else None


def read_timings(fd: int, steps: int) -> tuple[int, ...]:
    """Read what follows a `RUNNING` report: nanoseconds that each step took."""
    data = bytearray()
    while len(data) < 8 * steps:
        chunk = os.read(fd, 8 * steps - len(data))
        if not chunk:
            break
        data += chunk
    return struct.unpack_from(f"<{len(data) // 8}q", data)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


MOST_BSS = 256 * 1024
"""Bytes of variables that a shared library may have which this process needs: libc has 50 000."""


def spare_ranges(maps: Iterable[str] | None = None) -> list[tuple[int, int]]:
    """Return where this process has what a child that runs only the core's code does without.

    Parameters
    ----------
    maps : iterable of str, optional
        Lines of proc_pid_maps(5); those of this process by default.

    Returns
    -------
    list of (start, length)
        Of ``[heap]``, of every file but the core and libc, and of anonymous memory, but for the beginning of what
        follows a mapping of these: that is the file's own ``.bss``. Neighbouring files are one. Where a library
        stands in for parts of libc (LD_PRELOAD), no file is spare.
    """
    if maps is None:
        with open("/proc/self/maps") as f:
            return spare_ranges(f.readlines())
    stood_in = _something_is_preloaded()
    found: list[tuple[int, int]] = []
    needed_until = files_until = 0  # where mappings of files end: of one that is needed, .bss included; of spare ones
    for line in maps:
        addresses, mode, _, _, inode, *rest = line.split(maxsplit=5)
        start, end = (int(a, 16) for a in addresses.split("-"))
        name = rest[0].rstrip() if rest else ""
        if inode != "0":
            spare = not (stood_in or name == _core.__file__ or _LIBC.match(os.path.basename(name)))
        else:
            if start == needed_until and not name:
                start = min(start + MOST_BSS, end)
            spare = mode == "rw-p" and name in ("", "[heap]") and start < end
        if not spare:
            needed_until = end
            continue
        if inode != "0" and start == files_until:
            found[-1] = found[-1][0], end - found[-1][0]
        else:  # anonymous memory stays apart: it may be kept after all, with libc's errno in it
            found.append((start, end - start))
        files_until = end if inode != "0" else 0
    return found


_LIBC = re.compile(r"(ld|libc|libpthread)\b")
"""The dynamic linker, which is libc itself in musl, and both parts of libc, which were two until glibc 2.34."""


def _something_is_preloaded() -> bool:
    """Whether the functions of another library may be called in place of libc's: ld.so(8)."""
    with contextlib.suppress(OSError), open("/etc/ld.so.preload") as f:
        if f.read().strip():
            return True
    return bool(os.environ.get("LD_PRELOAD"))


def spawn(
    plan: Plan,
    fds: Mapping[str, int],
    *,
    image: bytes = b"",
    cgroup_fd: int = -1,
    unneeded: Sequence[tuple[int, int]] = (),
) -> tuple[int, int]:
    """Clone a child into new namespaces and let it carry out `plan`.

    Parameters
    ----------
    plan : Plan
        Its clone flags go to clone3(2).
    fds : mapping of str to int
        Descriptors by the names that the plan uses; ``report`` and ``go`` must be among them.
    image : bytes
        ``plan.image(fds)``, where the caller has it already.
    cgroup_fd : int
        Directory of a cgroup v2 to be born in (CLONE_INTO_CGROUP, Linux 5.7); -1 for none.
    unneeded : sequence of (start, length)
        Memory that the child is made without: `spare_ranges`.

    Returns
    -------
    pid, pidfd : int
        The caller owns the pidfd.

    Raises
    ------
    OSError
        As clone3(2): EPERM, ENOSPC (too many namespaces), EINVAL (kind unknown), ENOSYS (before 5.3).
    """
    image = image or plan.image(fds)
    pidfd = ffi.new("int *", -1)
    pid = lib.jns_spawn(
        plan.clone_flags, cgroup_fd, image, len(image), len(plan.steps), fds["report"], fds["go"], pidfd,
        ffi.new("jns_range[]", unneeded), len(unneeded),
    )  # fmt: skip
    return _check(pid), pidfd[0]


def note_arguments() -> None:
    """Note where this process's arguments are, which an init of a container's has a name of its own in place of."""
    with open("/proc/self/stat", "rb") as f:  # arg_start and arg_end: proc_pid_stat(5), fields 48 and 49
        start, end = map(int, f.read().rpartition(b")")[2].split()[45:47])
    lib.jns_arguments.start, lib.jns_arguments.length = start, end - start


GO = b"g"
"""What a child that waits is told to go on with its plan."""


def further_plan(image: bytes, steps: int, first: int = 0) -> bytes:
    """Return what a child that waits in a step of `Op.PLAN` is told, to go on with another plan.

    Parameters
    ----------
    image : bytes
        From `Plan.image`.
    steps : int
        How many there are.
    first : int
        What its reports call the first of them.
    """
    return struct.pack("<QQQ", len(image), steps, first) + image


def tell(go_fd: int, told: bytes) -> None:
    """Tell a child that waits `GO`, or a `further_plan`.

    Parameters
    ----------
    go_fd : int
        The write end of its go pipe; blocks until the pipe has taken it.
    told : bytes
        What it waits for.

    Raises
    ------
    BrokenPipeError
        If the child has ended.
    """
    data = memoryview(told)
    while data:
        data = data[os.write(go_fd, data) :]


def execute_image(
    image: bytes, steps: int, report_fd: int, go_fd: int, *, first: int = 0, end: int | None = None
) -> int:
    """Carry out a plan's image in this process, which must be single-threaded.

    Parameters
    ----------
    image : bytes
        From `Plan.image`.
    steps : int
        How many there are.
    report_fd, go_fd : int
        Descriptors of the report and go pipes now; a step of `Op.FDS` moves them.
    first, end : int
        The part to carry out, all of it by default.

    Returns
    -------
    int
        0, or -(index + 1) of the step that failed (it has been reported).
    """
    return int(lib.jns_execute(image, len(image), steps, first, steps if end is None else end, report_fd, go_fd))


def setns(fd: int, nstype: int) -> None:
    """Move this thread into a namespace: setns(2)."""
    _check(lib.jns_setns(fd, nstype))


def unshare(flags: int) -> None:
    """Give this thread new namespaces: unshare(2)."""
    _check(lib.jns_unshare(flags))


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """Duplicate another process's descriptor: pidfd_getfd(2), Linux 5.6."""
    return _check(lib.jns_pidfd_getfd(pidfd, fd))


_PROG_LOAD, _PROG_ATTACH, _CGROUP_DEVICE_PROGRAM, _CGROUP_DEVICE, _ALLOW_MULTI = 5, 8, 15, 6, 2


def load_device_program(code: bytes) -> int:
    """Load a program that decides on devices; the caller owns the descriptor.

    Raises
    ------
    OSError
        As bpf(2): EPERM without CAP_BPF or CAP_SYS_ADMIN, EINVAL without CONFIG_CGROUP_BPF, ENOSYS.
    """
    instructions, licence = ffi.from_buffer(code), ffi.new("char[]", b"GPL")
    addresses = (int(ffi.cast("uintptr_t", p)) for p in (instructions, licence))
    # Up to prog_flags of linux/bpf.h, which the kernel takes as it is and fills up with zeros.
    attributes = struct.pack("<IIQQIIQII", _CGROUP_DEVICE_PROGRAM, len(code) // 8, *addresses, 0, 0, 0, 0, 0)
    return _bpf(_PROG_LOAD, attributes)


def attach_device_program(cgroup_fd: int, program_fd: int) -> None:
    """Have a program decide on the devices of a cgroup v2, beside those of the cgroups above; it goes with it.

    Raises
    ------
    OSError
        As bpf(2): EPERM if a cgroup above forbids it.
    """
    _bpf(_PROG_ATTACH, struct.pack("<IIII", cgroup_fd, program_fd, _CGROUP_DEVICE, _ALLOW_MULTI))


def _bpf(command: int, attributes: bytes) -> int:
    return _check(lib.jns_bpf(command, ffi.new("char[]", attributes), len(attributes)))
