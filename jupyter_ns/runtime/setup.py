"""Prepare the engine for its host: become root of a user namespace where need be, then probe."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import subprocess
from dataclasses import replace

from .. import core
from ..cgroups import CgroupFacts, read_layout
from ..cgroups import probe as probe_cgroups
from ..doctor import RESTRICTED
from ..errors import MORE, UnsupportedError
from ..host import HostFacts, parse_mountinfo, visible_mounts
from ..namespaces import BY_NAME
from .private import private_ids
from .probe import capability_set, probe

CAP_SYS_ADMIN = 21
MOST_OPEN_FILES = 65_536


def prepare_host() -> tuple[HostFacts, CgroupFacts]:
    """Gain what privilege there is, probe, and return the facts and the cgroup back end's own.

    Raises
    ------
    UnsupportedError
        If this user may not make namespaces at all.
    """
    uid, gid = os.getuid(), os.getgid()
    rootless = not has_capability(CAP_SYS_ADMIN)
    no_scope = ask_for_cgroup(uid) if rootless else ""  # before: the bus would not know us in a user namespace
    id_ranges = enter_user_namespace(uid, gid) if rootless else True
    cgroup = probe_cgroups(read_layout())
    if no_scope:
        reasons = {name: f"{reason}; {no_scope}" for name, reason in cgroup.unavailable.items()}
        cgroup = replace(cgroup, unavailable=reasons)
    facts = probe(rootless=rootless, uid=uid, gid=gid, id_ranges=id_ranges, cgroup=cgroup)
    if rootless and "EPERM" in facts.namespaces["mount"]:  # not a limit, which would be ENOSPC
        raise powerless(facts.namespaces["mount"])
    return replace(facts, private_ids=private_ids(), nofile=raise_open_files()), cgroup


def look_again(facts: HostFacts, cgroup: CgroupFacts) -> HostFacts:
    """Probe once more what the host can do, after its mounts have changed."""
    anew = probe(rootless=facts.rootless, uid=facts.uid, gid=facts.gid, id_ranges=facts.id_ranges, cgroup=cgroup)
    kept = ("private_ids", "nofile", "guest", "namespace_ids")
    return replace(anew, **{name: getattr(facts, name) for name in kept})


class Mounts:
    """Tells whether this mount namespace has changed since it was asked last, and whether what is seen in it has."""

    def __init__(self) -> None:
        # proc_pid_mounts(5): the file polls as an exceptional condition once mounts have changed.
        self._file = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLPRI)
        self._seen = self._visible()

    @staticmethod
    def _visible() -> list[tuple[object, ...]]:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
            return [entry[2:] for entry in visible_mounts(parse_mountinfo(f.read()))]  # all but the numbers

    def have_changed(self) -> bool:
        """Whether anything has been mounted or unmounted."""
        return bool(self._poll.poll(0))

    def look_different(self) -> bool:
        """Whether other mounts are seen than when it was asked last: many come for a moment and go."""
        before, self._seen = self._seen, self._visible()
        return self._seen != before


def raise_open_files() -> tuple[int, int]:
    """Let this process have as many descriptors as it may: a container takes some 15, and 1024 is a usual limit.

    Returns
    -------
    soft, hard : int
        RLIMIT_NOFILE as it was, getrlimit(2); zeros if it stays.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return 0, 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return soft, hard


def ask_for_cgroup(uid: int) -> str:
    """Where an ordinary user has no cgroup of version 2, ask systemd for one; return why there is none now."""
    layout = read_layout()
    if layout.kind != "unified" or probe_cgroups(layout).version:
        return ""
    from .scope import bus_address, enter_scope

    return enter_scope(bus_address(os.environ, uid), os.getpid())


def has_capability(number: int) -> bool:
    """Whether this process has a capability in effect."""
    return bool(capability_set("CapEff") >> number & 1)


def enter_user_namespace(uid: int, gid: int) -> bool:
    """Make this process root of a new user namespace, as rootless container engines do.

    Returns
    -------
    bool
        Whether ranges of IDs are mapped (newuidmap(1), newgidmap(1), subuid(5)); else only one.

    Raises
    ------
    UnsupportedError
        EPERM, ENOSPC: this host forbids it; or, as on Ubuntu with AppArmor, makes it powerless.
    """
    read, write = os.pipe()
    helper = os.fork()
    if helper == 0:  # stays outside: newuidmap must be called from the parent namespace
        os.close(write)
        os.read(read, 1)
        os._exit(0 if map_ranges(os.getppid(), uid, gid) else 1)
    os.close(read)
    try:
        core.unshare(BY_NAME["user"].flag)
    except OSError as e:
        raise UnsupportedError(f"user namespaces are forbidden here: unshare(CLONE_NEWUSER): {e.strerror}{MORE}") from e
    finally:
        os.write(write, b"g")
        os.close(write)
        _, status = os.waitpid(helper, 0)
    if status == 0:
        return True
    try:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1\n")
        _write("/proc/self/gid_map", f"0 {gid} 1\n")
    except OSError as e:
        raise powerless(f"{e.filename}: {e.strerror}") from e
    return False


def powerless(failed: str) -> UnsupportedError:
    """Return the error for a user namespace whose root may do nothing, with AppArmor's part in it.

    Notes
    -----
    Ubuntu from 23.10 on lets everybody make user namespaces, and has AppArmor refuse every capability in them. The
    process has changed to the profile ``unprivileged_userns`` by now, which `proc_pid_attr(5)` tells.
    """
    why = ""
    with contextlib.suppress(OSError), open("/proc/self/attr/apparmor/current") as f:  # absent: no AppArmor
        profile = f.read().rstrip("\0\n")
        why = "" if profile == "unconfined" else f"; AppArmor confines this process: {profile}"
    with contextlib.suppress(OSError), open(f"/proc/sys/{RESTRICTED.replace('.', '/')}") as f:  # absent: not Ubuntu's
        why += f"; {RESTRICTED} is 1" if f.read().strip() == "1" else ""
    return UnsupportedError(f"a user namespace was made, but it is powerless: {failed}{why}{MORE}")


def map_ranges(pid: int, uid: int, gid: int) -> bool:
    """Map IDs by the setuid helpers, if this user has ranges; return whether both maps were written."""
    uids, gids = subordinate("/etc/subuid", uid), subordinate("/etc/subgid", uid)
    if uids is None or gids is None:
        return False
    for tool, own, (start, count) in (("newuidmap", uid, uids), ("newgidmap", gid, gids)):
        command = [tool, str(pid), "0", str(own), "1", "1", str(start), str(count)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return False
    return True


def subordinate(path: str, uid: int) -> tuple[int, int] | None:
    """Return the first range of subordinate IDs of a user: subuid(5), by name or number; None if there is none."""
    import pwd

    names = {str(uid)}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    with contextlib.suppress(OSError), open(path) as f:
        for line in f:
            name, _, rest = line.strip().partition(":")
            if name in names:
                start, _, count = rest.partition(":")
                return int(start), int(count)
    return None


def _write(path: str, text: str) -> None:
    with open(path, "w") as f:
        f.write(text)
