"""What ``--userns private`` needs where the engine is the host's root: IDs, a map, and what the kernel makes of it.

Notes
-----
user_namespaces(7); subuid(5); mount_setattr(2), "ID-mapped mounts": overlay file systems take such layers
since Linux 5.19.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from .. import core
from ..errors import UnsupportedError
from ..host import DEFAULT_FIRST_ID, ID_COUNT, HostFacts, parse_mountinfo, visible_mounts
from ..namespaces import BY_NAME
from ..plan.build import BIND, NODEV, NOEXEC, NOSUID, PRIVATE, RDONLY, REC, REMOUNT
from ..plan.steps import Op, Plan, Step
from .probe import NEWNS, attempt, submounts, try_layers

ACCOUNTS = ("jupyter_ns", "dockremap")
"""Whose ranges in /etc/subuid and /etc/subgid are used, in this order; the second is Docker's own name."""
LATE = sum(BY_NAME[k].flag for k in ("user", "mount", "network"))


def private_ids() -> tuple[int, int, int]:
    """Choose the IDs for user namespaces: first user ID, first group ID, how many of each; about 0.1 ms."""
    uids, uid_count = choose_range(_read("/etc/subuid"), _read("/etc/passwd"))
    gids, gid_count = choose_range(_read("/etc/subgid"), _read("/etc/group"))
    return uids, gids, min(uid_count, gid_count)


def choose_range(subordinate: str, accounts: str) -> tuple[int, int]:
    """Return the range that is ours, or else the highest below `DEFAULT_FIRST_ID` that nobody has.

    Parameters
    ----------
    subordinate : str
        Text of subuid(5) or subgid(5).
    accounts : str
        Text of passwd(5) or group(5).

    Returns
    -------
    first, count : int
        At most `ID_COUNT`.

    Examples
    --------
    >>> choose_range("dockremap:200000:70000\\n", "")
    (200000, 65536)
    >>> choose_range("me:1878982656:1\\n", "")[0] == DEFAULT_FIRST_ID - ID_COUNT
    True
    """
    ranges: dict[str, tuple[int, int]] = {}
    taken: list[tuple[int, int]] = []
    for name, first, count in _numbers(subordinate, 1, 2):
        ranges.setdefault(name, (first, min(count, ID_COUNT)))
        taken.append((first, count))
    for name in ACCOUNTS:
        if name in ranges:
            return ranges[name]
    taken += ((number, 1) for _, number in _numbers(accounts, 2))
    first = DEFAULT_FIRST_ID
    while any(start < first + ID_COUNT and first < start + count for start, count in taken):
        first -= ID_COUNT
    return first, ID_COUNT


def _numbers(text: str, *columns: int) -> Iterable[tuple[Any, ...]]:
    for line in text.splitlines():
        fields = line.split(":")
        with contextlib.suppress(ValueError, IndexError):  # a comment, or what no tool would read either
            yield fields[0], *(int(fields[c]) for c in columns)


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def write_maps(pid: int, ids: tuple[int, int, int]) -> None:
    """Write the maps of a user namespace that a child of the host's root is in."""
    for name, first in zip(("uid_map", "gid_map"), ids, strict=False):
        with open(f"/proc/{pid}/{name}", "w") as f:
            f.write(f"0 {first} {ids[2]}\n")


def open_map(ids: tuple[int, int, int]) -> int:
    """Return a descriptor of a user namespace that nobody is in, and that has these IDs: a map for mounts.

    Raises
    ------
    OSError
        As clone3(2), or EPERM: the maps are refused.
    """
    go, release = os.pipe2(os.O_CLOEXEC)
    plan = Plan(BY_NAME["user"].flag, (Step(Op.WAIT, ("map",)),))
    try:
        pid, pidfd = core.spawn(plan, {"report": -1, "go": go})
        try:
            write_maps(pid, ids)
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(pidfd)
    finally:
        os.close(go)
        os.close(release)


def probe_private(facts: HostFacts) -> HostFacts:
    """Find out, by doing, what a container in a user namespace of its own can have of the host.

    Parameters
    ----------
    facts : HostFacts
        Of the host's root, without a user namespace.

    Returns
    -------
    HostFacts
        With the mounts that can be shown with mapped owners.

    Raises
    ------
    UnsupportedError
        If the kernel refuses a part that there is no substitute for.
    """
    try:
        fd = open_map(facts.private_ids)
    except OSError as e:
        raise UnsupportedError(f"--userns private: a user namespace cannot be made here: {e.strerror}") from e
    staging = facts.staging[0]
    base = [
        Step(Op.MOUNT, ("none", "/", None, REC | PRIVATE, None)),
        Step(Op.FSIDS, facts.private_ids[:2]),
        Step(Op.MOUNT, ("tmpfs", staging, "tmpfs", 0, None)),
    ]

    def layer(number: int, lower: str) -> list[Step]:
        at = {letter: f"{staging}/{letter}{number}" for letter in "luwm"}
        data = f"lowerdir={at['l']},upperdir={at['u']},workdir={at['w']}"
        return [
            *(Step(Op.MKDIR, (path, 0o755)) for path in at.values()),
            Step(Op.IDMAP, (lower, at["l"], fd)),
            Step(Op.MOUNT, ("overlay", at["m"], "overlay", 0, data)),
        ]

    sys = f"{staging}/m0/sys"
    try:
        steps = [
            *base,
            *layer(0, "/"),
            Step(Op.MOUNT, ("/sys", sys, None, BIND, None)),
            Step(Op.MOUNT, (None, sys, None, REMOUNT | BIND | RDONLY, None)),
            Step(Op.UNSHARE, (LATE,)),
            Step(Op.MOUNT, ("sysfs", sys, "sysfs", NOSUID | NODEV | NOEXEC | RDONLY, None)),
        ]
        if error := attempt(steps, NEWNS):
            raise UnsupportedError(
                f"--userns private: {error}. It takes Linux 5.19 and a root on a file system that can show its files "
                "with other owners (ext4, XFS, Btrfs); where the notebook's user is not root, there always is one"
            )
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
            mounts = visible_mounts(parse_mountinfo(f.read()))
        taken, hidden = submounts(mounts, partial(try_layers, base, layer))
        return replace(facts, submounts=taken, hidden=hidden)
    finally:
        os.close(fd)
