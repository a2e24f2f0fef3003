"""Find out what this host can do: each ability is tried in a throw-away child.

Every probe is a small plan, carried out by the same core that builds containers; its
evidence is the errno of the step that failed.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import platform
import signal
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from .. import core
from ..cgroups import CgroupFacts
from ..host import (
    OWN_DIRECTORIES,
    PSEUDO_FILESYSTEMS,
    VAR_TMP,
    Attributes,
    HostFacts,
    MountEntry,
    RootEntry,
    Submount,
    is_below,
    parse_mountinfo,
    visible_mounts,
)
from ..namespaces import BY_NAME, KINDS
from ..plan.build import BIND, PRIVATE, REC
from ..plan.steps import Op, Plan, Step
from ..plan.text import escape_lower
from ..plan.text import parents as parents_of
from ..security.paths import READONLY_PATHS, masked_paths

STAGING = ("/mnt", "/media", "/srv", "/opt", "/var/tmp", "/run", "/home", "/boot", "/usr/local")
NEWNS = BY_NAME["mount"].flag


Overlay = Callable[[Sequence[str]], list[str]]
"""From directories to the reason why each cannot be a lower layer; empty where it can."""
BATCH = 256
"""Mounts that one child tries; it copies all that there are, so not one child each. A plan has at most 4096 steps."""


def attempt(steps: Sequence[Step], clone_flags: int = 0) -> str:
    """Carry out `steps` in a throw-away child; return "" or what failed, with its errno's name."""
    failed = first_failure(steps, clone_flags)
    return failed[1] if failed is not None else ""


def first_failure(steps: Sequence[Step], clone_flags: int = 0) -> tuple[int, str] | None:
    """Carry out `steps` in a throw-away child; return the index of what failed (-1: the child), and the reason."""
    read, report = os.pipe2(os.O_CLOEXEC)
    go, release = os.pipe2(os.O_CLOEXEC)
    plan = Plan(clone_flags, (*steps, Step(Op.WAIT, ("end",))))
    try:
        try:
            pid, pidfd = core.spawn(plan, {"report": report, "go": go})
        except OSError as e:
            return -1, f"clone3: {errno.errorcode.get(e.errno or 0, e.errno)} ({e.strerror})"
        os.close(report)
        report = -1
        answer = core.read_report(read)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)  # it waits, or has gone already
        os.waitpid(pid, 0)
        os.close(pidfd)
    finally:
        for fd in (read, report, go, release):
            if fd >= 0:
                os.close(fd)
    if answer is None:
        return -1, "the probe's child died"
    if answer.phase == core.WAITING:
        return None
    name = errno.errorcode.get(answer.errno, str(answer.errno))
    return answer.step, f"{plan.steps[answer.step].describe()}: {name} ({os.strerror(answer.errno)})"


def try_layers(base: Sequence[Step], layer: Callable[[int, str], Sequence[Step]], lowers: Sequence[str]) -> list[str]:
    """Try directories as lower layers; return the reason for each that cannot be one, in their order.

    Parameters
    ----------
    base : sequence of Step
        What the child does first.
    layer : callable
        From a number of its own and a directory to the steps that overlay it.
    lowers : sequence of str
        The directories.
    """
    reasons: list[str] = []
    while len(reasons) < len(lowers):
        batch = lowers[len(reasons) : len(reasons) + BATCH]
        tries = [layer(number, lower) for number, lower in enumerate(batch)]
        failed = first_failure([*base, *itertools.chain.from_iterable(tries)], NEWNS)
        if failed is None:
            reasons += [""] * len(batch)
            continue
        index, reason = failed
        if index < len(base):
            return reasons + [reason] * (len(lowers) - len(reasons))
        ends = itertools.accumulate((len(steps) for steps in tries), initial=len(base))
        reasons += [""] * (sum(end <= index for end in ends) - 1) + [reason]  # the rest is tried again
    return reasons


def probe(*, rootless: bool, uid: int, gid: int, id_ranges: bool, cgroup: CgroupFacts) -> HostFacts:
    """Probe everything that plans need to know; about 10 ms here.

    Parameters
    ----------
    rootless : bool
        Whether the engine is root only in its own user namespace.
    uid, gid : int
        The notebook user's, outside.
    id_ranges : bool
        Whether more than one ID is mapped.
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        mounts = visible_mounts(parse_mountinfo(f.read()))
    staging = _staging(mounts)
    private = Step(Op.MOUNT, ("none", "/", None, REC | PRIVATE, None))
    tmpfs = Step(Op.MOUNT, ("tmpfs", staging[0], "tmpfs", 0, None))
    base = [private, tmpfs]
    layer = partial(_layer, staging[0], rootless)
    overlay = partial(try_layers, base, layer)
    (overlay_error,) = overlay(["/"])
    entries: list[RootEntry] = []
    parts: list[Submount] = []
    if overlay_error and "" in overlay(_without_mounts("/", {m.path for m in mounts})):
        # The mounts that a user namespace inherits are locked, and what has such below cannot be a lower
        # layer (mount_namespaces(7)): so what has none is overlaid piece by piece.
        _split_root("/", {m.path for m in mounts}, overlay, entries, parts)
        overlay_error = ""
        if os.path.isdir(VAR_TMP) and not os.path.islink(VAR_TMP) and not any(m.path == VAR_TMP for m in mounts):
            parts.append(Submount(VAR_TMP, "overlay", overlay([VAR_TMP])[0], Attributes.of(VAR_TMP)))
        full = {p.path for p in parts if os.path.isdir(p.path) and _holds_something(p.path)}
        staging = [d for d in staging if d not in full]
    elif not overlay_error and any(m.path == "/" and m.fstype == "hostfs" for m in mounts):
        overlay_error = _opening_fails(base, layer(0, "/"))
    taken, hidden = submounts(mounts, overlay)
    pid_net = BY_NAME["pid"].flag | BY_NAME["network"].flag | NEWNS
    return HostFacts(
        kernel=os.uname().release,
        arch=platform.machine(),
        rootless=rootless,
        uid=uid,
        gid=gid,
        id_ranges=id_ranges,
        cpus=len(os.sched_getaffinity(0)),
        last_cap=_last_cap(),
        capabilities=capability_set("CapPrm"),
        namespaces=_namespaces(),
        overlay_error=overlay_error,
        mknod_error=attempt([*base, Step(Op.MKNOD, (f"{staging[0]}/n", 0o20666, 0x103))], NEWNS),
        proc_error=attempt([*base, Step(Op.MOUNT, ("proc", staging[0], "proc", 14, None))], pid_net),
        sysfs_error=attempt([*base, Step(Op.MOUNT, ("sysfs", staging[0], "sysfs", 15, None))], pid_net),
        seccomp_error=attempt([Step(Op.PRCTL, (38, 1)), Step(Op.SECCOMP, (b"\x06\0\0\0\0\0\xff\x7f",))]),
        setattr_error=attempt(
            [
                *base,
                Step(Op.MOUNT, ("/", staging[0], None, BIND | REC, None)),
                Step(Op.MOUNT_SETATTR, (staging[0], 0x8000, 1, 0)),
            ],
            NEWNS,
        ),
        keyring_error=attempt([Step(Op.KEYRING)]),
        root=Attributes.of("/"),
        submounts=(*parts, *taken),
        hidden=hidden,
        root_entries=tuple(entries),
        masked=tuple(_existing(masked_paths(range(os.cpu_count() or 1)))),
        readonly_paths=tuple(_existing(p.path for p in READONLY_PATHS)),
        staging=tuple(staging),
        cgroup=cgroup.to_dict(),
        cgroup_mounts=tuple(_cgroup_mounts(cgroup)),
    )


def _staging(mounts: Iterable[MountEntry]) -> list[str]:
    taken = [m.path for m in mounts if m.path != "/"]
    free = [d for d in STAGING if os.path.isdir(d) and not any(is_below(t, d) for t in taken)]
    return free or ["/mnt"]


def _namespaces() -> dict[str, str]:
    results = {}
    for kind in KINDS:
        if kind.name in ("time", "pid"):  # these are for children: clone3 takes both, but time only since 5.6
            results[kind.name] = attempt([Step(Op.UNSHARE, (kind.flag,))])
        else:
            results[kind.name] = attempt([], kind.flag)
    return results


def _layer(staging: str, rootless: bool, number: int, lower: str) -> list[Step]:
    u, w, m = (f"{staging}/{letter}{number}" for letter in "uwm")
    extra = ",userxattr" if rootless else ""
    data = f"lowerdir={escape_lower(lower)},upperdir={u},workdir={w}{extra}"
    dirs = [Step(Op.MKDIR, (d, 0o755)) for d in (u, w, m)]
    return [*dirs, Step(Op.MOUNT, ("overlay", m, "overlay", 0, data))]


def _opening_fails(base: list[Step], layer: Sequence[Step]) -> str:
    """Return why no file can be opened in an overlay of ``/``; empty if one can.

    The hostfs of Linux 5.10 looks for a file under a path of the overlay's, unless somebody has it open.
    """
    file = f"{layer[-1].args[1]}{os.path.dirname(core.__file__)}/core.h"
    opens = Step(Op.SETNS_PATH, (file, 0), tolerate=errno.EINVAL)  # what was opened is no namespace
    failed = attempt([*base, *layer, opens], NEWNS)
    return f"nothing can be opened in an overlay of hostfs: {failed}" if failed else ""


def submounts(mounts: Iterable[MountEntry], overlay: Overlay) -> tuple[tuple[Submount, ...], tuple[Submount, ...]]:
    """Return the mounts that a container takes over, and those that are hidden by what it has for itself."""
    entries = list(mounts)
    parents = {path for m in entries for path in parents_of(m.path)}
    layers: dict[tuple[str, str, bool, bool], str] = {}
    found: list[tuple[bool, MountEntry, tuple[str, str, bool, bool] | None, str]] = []
    for m in entries:
        hidden = any(is_below(m.path, own) for own in OWN_DIRECTORIES)
        pseudo = m.fstype in PSEUDO_FILESYSTEMS
        if m.path == "/" or (pseudo and (not hidden or m.path in OWN_DIRECTORIES)):
            continue
        try:
            is_dir = stat.S_ISDIR(os.stat(m.path).st_mode)
        except OSError:
            continue  # below a directory that is closed to us
        if pseudo:
            found.append((hidden, m, None, f"it is {m.fstype}"))
        elif not is_dir:
            found.append((hidden, m, None, "it is a mounted file"))
        elif m.readonly:
            found.append((hidden, m, None, ""))
        else:
            key = (m.fstype, m.device, m.path in parents, hidden)
            layers.setdefault(key, m.path)
            found.append((hidden, m, key, ""))
    verdicts = dict(zip(layers, overlay(list(layers.values())), strict=True))
    sorted_out: tuple[list[Submount], list[Submount]] = [], []
    for hidden, m, tried, reason in found:
        why = verdicts[tried] if tried else reason
        how = "overlay" if tried and not why else "bind"
        sorted_out[hidden].append(Submount(m.path, how, why, Attributes.of(m.path)))
    return tuple(sorted_out[False]), tuple(sorted_out[True])


def _split_root(
    directory: str,
    mounted: set[str],
    overlay: Overlay,
    entries: list[RootEntry],
    parts: list[Submount],
) -> None:
    """List what stands in `directory`, and which of it is overlaid as one piece."""
    verdicts: dict[tuple[int, bool], str] = {}
    for entry in sorted(os.scandir(directory), key=lambda e: e.name):
        path = entry.path
        if entry.is_symlink():
            entries.append(RootEntry(path, "link", os.readlink(path)))
        elif not entry.is_dir():
            entries.append(RootEntry(path, "file"))
            if path not in mounted:
                parts.append(Submount(path, "bind"))
        else:
            entries.append(RootEntry(path, "dir"))
            if path in OWN_DIRECTORIES or path in mounted:
                continue
            holds_mounts = any(is_below(m, path) for m in mounted)
            if holds_mounts and os.access(path, os.R_OK):
                _split_root(path, mounted, overlay, entries, parts)
                continue
            key = entry.stat().st_dev, holds_mounts
            if key not in verdicts:
                (verdicts[key],) = overlay([path])
            how = "bind" if verdicts[key] else "overlay"
            parts.append(Submount(path, how, verdicts[key], Attributes.of(path)))


def _without_mounts(directory: str, mounted: set[str]) -> list[str]:
    """List the directories in `directory` at or below which nothing is mounted."""
    found = (e.path for e in os.scandir(directory) if e.is_dir(follow_symlinks=False))
    return sorted(path for path in found if not any(is_below(m, path) for m in mounted))


def _holds_something(directory: str) -> bool:
    try:
        return bool(os.listdir(directory))
    except PermissionError:
        return True


def _existing(paths: Iterable[str]) -> Iterable[tuple[str, bool]]:
    return ((p, os.path.isdir(p)) for p in paths if os.path.lexists(p))


def _cgroup_mounts(cgroup: CgroupFacts) -> Iterable[tuple[str, str, str]]:
    if cgroup.version == 2:
        yield "", "cgroup2", ""
    elif cgroup.version == 1:
        for base in cgroup.bases:
            names = ",".join(base.controllers)
            yield names, "cgroup", names


def capability_set(name: str) -> int:
    """Return one of this process's sets of capabilities, such as ``CapEff``, as a mask: proc_pid_status(5)."""
    with open("/proc/self/status") as f:
        return next(int(row.split()[1], 16) for row in f if row.startswith(f"{name}:"))


def _last_cap() -> int:
    with contextlib.suppress(OSError, ValueError), open("/proc/sys/kernel/cap_last_cap") as f:
        return int(f.read())
    return 40
