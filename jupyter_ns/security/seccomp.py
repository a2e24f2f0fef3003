"""The seccomp filter: `profile`'s tables, compiled to a classic BPF program.

The program finds a system call's number among sorted ranges by binary search, split so that the calls
that programs make most need the fewest comparisons. It has only instructions that Linux 5.11 and later can
evaluate ahead, so that a call which is allowed whatever its arguments never runs the filter at all.

Two things are stricter than Docker, which also lets programs of the 32-bit and x32 ABIs run: with these,
every call fails with EPERM. (i386's socketcall(2) reaches the refused address families behind the filter's
back, and each ABI would double the program.)

Notes
-----
seccomp(2); Documentation/userspace-api/seccomp_filter.rst; ``include/uapi/linux/{filter,seccomp,audit}.h``.
A number above the highest that the profile knows answers ENOSYS, not EPERM, as runc does
(``libcontainer/seccomp/patchbpf``), so that a C library newer than the profile falls back to an older call.
"""

from __future__ import annotations

import errno
import struct
from functools import lru_cache
from typing import NamedTuple

from ..errors import UnsupportedError
from . import profile
from .capabilities import NUMBERS as CAPABILITY_NUMBERS
from .syscalls import NUMBERS

AUDIT_ARCH: dict[str, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""``struct seccomp_data.arch``, by ``uname -m``."""

ALLOW = 0x7FFF0000
EPERM = 0x00050000 | errno.EPERM
ENOSYS = 0x00050000 | errno.ENOSYS
"""SECCOMP_RET_ALLOW, and SECCOMP_RET_ERRNO with an errno."""

X32_SYSCALL_BIT = 0x40000000

_LD_ABS, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
# Offsets in struct seccomp_data. The low word of the first argument (both architectures are little-endian)
# is all that the kernel uses of clone's flags, socket's family and personality's persona.
_NR, _ARCH, _ARGUMENT = 0, 4, 16

# What programs call in a loop; each counts as much as 16 ranges that hold none of them, which
# makes its path about 7 instructions instead of 10.
_HOT_WEIGHT = 16
_HOT: tuple[str, ...] = (
    "read", "write", "readv", "writev", "close", "openat", "lseek", "fstat", "newfstatat", "poll", "ppoll",
    "epoll_wait", "epoll_pwait", "recvfrom", "recvmsg", "sendto", "sendmsg", "futex", "clock_nanosleep",
    "mmap", "munmap", "madvise", "brk", "rt_sigaction", "rt_sigprocmask",
)  # fmt: skip


class FirstArgument(NamedTuple):
    """A rule that looks at a call's first argument, an unsigned 32-bit number.

    Attributes
    ----------
    refused_bits : int
        EPERM if any of these is set.
    ranges : tuple of (int, int)
        First value of each range, ascending from 0, and what is answered in it.
    """

    refused_bits: int = 0
    ranges: tuple[tuple[int, int], ...] = ((0, ALLOW),)


Rule = int | FirstArgument


def _switches(values: dict[int, int], default: int) -> tuple[tuple[int, int], ...]:
    """Turn single values and a default into ranges."""
    points: dict[int, int] = {0: default}
    for value, answer in sorted(values.items()):
        points[value] = answer
        if value < 0xFFFFFFFF:
            points[value + 1] = default
    return tuple(points.items())


_CLONE = FirstArgument(refused_bits=profile.CLONE_NAMESPACES)
_SOCKET = FirstArgument(ranges=_switches(dict.fromkeys(profile.REFUSED_FAMILIES, EPERM), ALLOW))
_PERSONALITY = FirstArgument(ranges=_switches(dict.fromkeys(profile.PERSONALITIES, ALLOW), EPERM))


@lru_cache(maxsize=32)
def program(capabilities_mask: int, arch: str) -> bytes:
    """Compile the filter for a container.

    Parameters
    ----------
    capabilities_mask : int
        What the container is granted (`capabilities.resolve`); some calls depend on it.
    arch : str
        The machine, as ``uname -m`` names it.

    Returns
    -------
    bytes
        ``struct sock_filter[]``, 8 bytes an instruction, for seccomp(2) SECCOMP_SET_MODE_FILTER.

    Raises
    ------
    UnsupportedError
        If there is no table for the architecture.

    Examples
    --------
    >>> len(program(0, "x86_64")) % 8
    0
    """
    code = _Code()
    labels: dict[Rule, int] = {answer: code.add(_RET, answer) for answer in (ALLOW, EPERM, ENOSYS)}
    table = rules(capabilities_mask, arch)
    for rule in dict.fromkeys(table.values()):
        if isinstance(rule, FirstArgument):
            labels[rule] = _first_argument(code, rule, labels)
    hot = {NUMBERS[arch][name] for name in _HOT if name in NUMBERS[arch]}
    ranges = [
        (start, labels[rule], 1 + _HOT_WEIGHT * sum(start <= number <= last for number in hot))
        for start, last, rule in number_ranges(table, arch)
    ]
    _search(code, ranges)
    right_arch = code.add(_LD_ABS, _NR)
    code.add(_JEQ, AUDIT_ARCH[arch], right_arch, labels[EPERM])
    code.add(_LD_ABS, _ARCH)
    return code.image()


def rules(capabilities_mask: int, arch: str) -> dict[int, Rule]:
    """Return what each system call is answered, by number; those not in it are answered EPERM.

    Parameters
    ----------
    capabilities_mask, arch
        As for `program`.

    Raises
    ------
    UnsupportedError
        If there is no table for the architecture.
    """
    if arch not in AUDIT_ARCH:
        raise UnsupportedError(
            f"no seccomp filter for architecture {arch!r} (there are: {', '.join(AUDIT_ARCH)}); "
            "--security-opt seccomp=unconfined runs without one"
        )
    by_name: dict[str, Rule] = dict.fromkeys(profile.ALLOWED, ALLOW)
    by_name |= {"clone": _CLONE, "clone3": ENOSYS, "socket": _SOCKET, "personality": _PERSONALITY}
    for capability, calls in profile.BY_CAPABILITY.items():
        if capabilities_mask >> CAPABILITY_NUMBERS[capability] & 1:
            by_name |= dict.fromkeys(calls, ALLOW)
    numbers = NUMBERS[arch]
    return {numbers[name]: rule for name, rule in by_name.items() if name in numbers}


def number_ranges(table: dict[int, Rule], arch: str) -> list[tuple[int, int, Rule]]:
    """Cover every 32-bit number by ranges of one rule each.

    Parameters
    ----------
    table : dict of int to Rule
        From `rules`.
    arch : str
        As for `program`.

    Returns
    -------
    list of (int, int, Rule)
        First and last number, ascending and without gaps, and the rule.
    """
    highest = max(table)
    points: list[tuple[int, Rule]] = [(number, table.get(number, EPERM)) for number in range(highest + 1)]
    points.append((highest + 1, ENOSYS))
    if arch == "x86_64":
        points.append((X32_SYSCALL_BIT, EPERM))
    starts = [points[0]]
    for point in points[1:]:
        if point[1] != starts[-1][1]:
            starts.append(point)
    lasts = [number - 1 for number, _ in starts[1:]] + [0xFFFFFFFF]
    return [(start, last, rule) for (start, rule), last in zip(starts, lasts, strict=True)]


class _Code:
    """A program under construction, from its end backwards, since BPF jumps only forwards.

    A label is an instruction's distance from the program's end.
    """

    def __init__(self) -> None:
        self._reversed: list[tuple[int, int, int, int]] = []

    def add(self, code: int, k: int, yes: int = 0, no: int = 0) -> int:
        """Put an instruction before all others; `yes` and `no` are the labels that it jumps to."""
        following = len(self._reversed)
        self._reversed.append((code, following - yes if yes else 0, following - no if no else 0, k))
        return following + 1

    def image(self) -> bytes:
        return b"".join(struct.pack("=HBBI", *instruction) for instruction in reversed(self._reversed))


def _first_argument(code: _Code, rule: FirstArgument, labels: dict[Rule, int]) -> int:
    if rule.refused_bits:
        code.add(_JSET, rule.refused_bits, labels[EPERM], labels[ALLOW])
    else:
        _search(code, [(start, labels[answer], 1) for start, answer in rule.ranges])
    return code.add(_LD_ABS, _ARGUMENT)


def _search(code: _Code, ranges: list[tuple[int, int, int]]) -> int:
    """Add a search for the accumulator among ranges (start, label, weight); return its label."""
    if len(ranges) == 1:
        return ranges[0][1]
    if len(ranges) == 3 and ranges[0][1] == ranges[2][1] and ranges[1][0] + 1 == ranges[2][0]:
        return code.add(_JEQ, ranges[1][0], ranges[1][1], ranges[0][1])
    split = _split(ranges)
    above = _search(code, ranges[split:])
    below = _search(code, ranges[:split])
    return code.add(_JGE, ranges[split][0], above, below)


def _split(ranges: list[tuple[int, int, int]]) -> int:
    """Return the index at which both sides weigh most nearly the same."""
    total, below = sum(weight for _, _, weight in ranges), 0
    best, best_difference = 1, total
    for index, (_, _, weight) in enumerate(ranges[:-1], start=1):
        below += weight
        difference = abs(total - 2 * below)
        if difference < best_difference:
            best, best_difference = index, difference
    return best
