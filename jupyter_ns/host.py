"""What this host can do, as data; `jupyter_ns.runtime.probe` finds it out by doing."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, field
from stat import S_IMODE
from typing import Any, NamedTuple

# Kernel interfaces rather than files: a container gets its own or none.
PSEUDO_FILESYSTEMS = frozenset(
    [
        "proc",
        "sysfs",
        "cgroup",
        "cgroup2",
        "devtmpfs",
        "devpts",
        "mqueue",
        "debugfs",
        "tracefs",
        "securityfs",
        "pstore",
        "bpf",
        "configfs",
        "fusectl",
        "hugetlbfs",
        "binfmt_misc",
        "autofs",
        "rpc_pipefs",
        "efivarfs",
        "nsfs",
        "selinuxfs",
    ]
)
# The container has these for itself, so nothing that the host mounted below them is taken over.
OWN_DIRECTORIES = ("/proc", "/sys", "/dev", "/tmp")
VAR_TMP = "/var/tmp"
"""Everybody may write in it, and it is root's: for an ordinary user it is overlaid by itself, as a directory whose
owner has no ID inside cannot be copied up (EOVERFLOW)."""
ID_COUNT = 65536
DEFAULT_FIRST_ID = 0x6FFF0000
"""The last 65536 of the IDs that systemd leaves to containers (0x80000 to 0x6FFFFFFF): uid-gid(7), "UIDs and GIDs"."""


ALL_CAPABILITIES = (1 << 64) - 1


class MountEntry(NamedTuple):
    """One line of ``/proc/PID/mountinfo``: proc_pid_mountinfo(5)."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    path: str
    options: str
    fstype: str
    source: str
    super_options: str = ""

    @property
    def readonly(self) -> bool:
        """Whether the mount (not the file system) is read-only."""
        return "ro" in self.options.split(",")


class Attributes(NamedTuple):
    """Permissions and owner of a directory, as whoever looked sees them: stat(2)."""

    mode: int
    uid: int
    gid: int

    @classmethod
    def of(cls, path: str) -> Attributes:
        """Look at a directory; one that is out of reach counts as usual."""
        try:
            found = os.stat(path)
        except OSError:
            return USUAL
        return cls(S_IMODE(found.st_mode), found.st_uid, found.st_gid)


USUAL = Attributes(0o755, 0, 0)


class Submount(NamedTuple):
    """A mount of the host's below ``/`` that a container takes over.

    Attributes
    ----------
    path : str
        Where it is.
    how : str
        ``overlay`` (copy-on-write) or ``bind`` (read-only).
    reason : str
        Why it is not an overlay; empty if it is one, or if the host has it read-only too.
    attributes : Attributes
        Of the directory.
    """

    path: str
    how: str
    reason: str = ""
    attributes: Attributes = USUAL


class RootEntry(NamedTuple):
    """What to make in an empty root where the host's cannot be the lower layer of an overlay as a whole.

    Attributes
    ----------
    path : str
        Where it is.
    kind : str
        ``dir``, ``link`` or ``file``; what a directory or file holds comes as a `Submount`.
    target : str
        Of a link.
    """

    path: str
    kind: str
    target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What this host can do; each ``…_error`` is empty where it can, else the reason.

    Attributes
    ----------
    rootless : bool
        The engine is root only in a user namespace of its own.
    uid, gid : int
        The notebook user's IDs, outside.
    id_ranges : bool
        More than one ID is mapped in the engine's user namespace (newuidmap(1)).
    capabilities : int
        Mask of those that the engine holds: it can give no others.
    nofile : tuple of int
        RLIMIT_NOFILE, soft and hard, that payloads get back because the engine has raised its own; zeros: it has not.
    private_ids : tuple of int
        For ``--userns private`` as root: first user ID and group ID outside, and how many of each.
    namespaces : dict of str to str
        Kind to reason why it cannot be made; empty reason: it can.
    overlay_error, mknod_error, proc_error, sysfs_error, seccomp_error, setattr_error : str
        Each tried in a throw-away child.
    root : Attributes
        Of ``/``.
    submounts : tuple of Submount
        In mount order.
    hidden : tuple of Submount
        Those below a place that the container has for itself; of use only where a directory there is to be seen.
    root_entries : tuple of RootEntry
        Empty if the root can be overlaid as a whole; else what stands in it, its directories among `submounts`.
    masked, readonly_paths : tuple of (str, bool)
        Paths of the container policy that exist here, and whether each is a directory.
    staging : tuple of str
        Directories without mounts below, on which a container's tmpfs may be staged.
    cgroup : dict
        The cgroup back end's own facts.
    cgroup_mounts : tuple of (str, str, str)
        Path below ``/sys/fs/cgroup``, file system type and options, to show a container its own.
    guest : str
        The guest kernel that the engine runs in, in words; empty beside the notebook's kernel.
    namespace_ids : dict of str to int
        Of the guest's own processes, which a container's are compared with; empty where there is no guest.
    """

    kernel: str = ""
    arch: str = ""
    rootless: bool = False
    uid: int = 0
    gid: int = 0
    id_ranges: bool = True
    private_ids: tuple[int, int, int] = (DEFAULT_FIRST_ID, DEFAULT_FIRST_ID, ID_COUNT)
    cpus: int = 1
    last_cap: int = 40
    capabilities: int = ALL_CAPABILITIES
    nofile: tuple[int, int] = (0, 0)
    namespaces: dict[str, str] = field(default_factory=dict)
    overlay_error: str = ""
    mknod_error: str = ""
    proc_error: str = ""
    sysfs_error: str = ""
    seccomp_error: str = ""
    setattr_error: str = ""
    keyring_error: str = ""
    root: Attributes = USUAL
    submounts: tuple[Submount, ...] = ()
    hidden: tuple[Submount, ...] = ()
    root_entries: tuple[RootEntry, ...] = ()
    masked: tuple[tuple[str, bool], ...] = ()
    readonly_paths: tuple[tuple[str, bool], ...] = ()
    staging: tuple[str, ...] = ("/mnt",)
    cgroup: dict[str, Any] = field(default_factory=dict)
    cgroup_mounts: tuple[tuple[str, str, str], ...] = ()
    guest: str = ""
    namespace_ids: dict[str, int] = field(default_factory=dict)

    @property
    def weakened(self) -> list[str]:
        """Say what is weaker for every container here."""
        return [f"it runs in a guest kernel: {self.guest}"] if self.guest else []

    def bound(self, path: str) -> str:
        """Return why a directory that a place of the container's own hides can only be bound, read-only; or nothing.

        Examples
        --------
        >>> facts = HostFacts(hidden=(Submount("/tmp/nb/data", "overlay"),), root_entries=(RootEntry("/usr", "dir"),))
        >>> facts.bound("/tmp/nb"), facts.bound("/tmp/nb/data"), facts.bound("/tmp/other")
        ('/tmp/nb/data is mounted below it, and an ordinary user may show both only together', '', '')
        """
        below = [m.path for m in self.hidden if m.path != path and is_below(m.path, path)]
        if below and self.root_entries:
            return f"{below[0]} is mounted below it, and an ordinary user may show both only together"
        around = max((m for m in self.hidden if is_below(path, m.path)), key=lambda m: len(m.path), default=None)
        if around is None or any(is_below(m.path, around.path) for m in self.hidden if m is not around):
            return ""  # what holds for a directory with mounts below need not hold for one without
        return around.reason or ("it is so on the host" if around.how == "bind" else "")

    def to_dict(self) -> dict[str, Any]:
        """Return a map for the wire."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> HostFacts:
        """Build from what `to_dict` gave."""
        d = dict(data)
        for key in ("submounts", "hidden"):
            mounts = d.get(key, ())
            d[key] = tuple(Submount(path, how, reason, Attributes(*found)) for path, how, reason, found in mounts)
        d["root"] = Attributes(*d.get("root", USUAL))
        d["root_entries"] = tuple(RootEntry(*e) for e in d.get("root_entries", ()))
        for key in ("masked", "readonly_paths", "cgroup_mounts"):
            d[key] = tuple(tuple(p) for p in d.get(key, ()))
        for key in ("staging", "private_ids", "nofile"):
            if key in d:
                d[key] = tuple(d[key])
        return cls(**d)


def parse_mountinfo(text: str) -> list[MountEntry]:
    """Parse ``/proc/PID/mountinfo``, in its order.

    Examples
    --------
    >>> parse_mountinfo("27 1 254:0 / /a\\\\040b rw,relatime - ext4 /dev/vda rw\\n")[0].path
    '/a b'
    """
    entries = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        f, r = left.split(" "), right.split(" ")
        root, path, source = map(_unescape, (f[3], f[4], r[1]))
        entries.append(MountEntry(int(f[0]), int(f[1]), f[2], root, path, f[5], r[0], source, " ".join(r[2:])))
    return entries


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)


def is_below(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or lies below it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def visible_mounts(entries: list[MountEntry]) -> list[MountEntry]:
    """Return the mounts that a path look-up reaches, each before those below it.

    Their order in the file does not tell: pivot_root(2) leaves the old root's before the new one's.

    Examples
    --------
    >>> text = "1 0 8:1 / / rw - ext4 a rw\\n2 1 8:2 / /m/x rw - ext4 b rw\\n3 1 8:3 / /m rw - ext4 c rw\\n"
    >>> [m.path for m in visible_mounts(parse_mountinfo(text))]
    ['/', '/m']
    """
    by_id = {e.mount_id: e for e in entries}
    children: dict[int, list[MountEntry]] = {}
    for entry in entries:
        children.setdefault(entry.parent_id, []).append(entry)

    def reachable(entry: MountEntry) -> bool:
        parent = by_id.get(entry.parent_id)
        if parent is None or parent is entry:
            return True
        siblings = children[entry.parent_id]
        covered = any(s is not entry and is_below(entry.path, s.path) for s in siblings)
        return not covered and reachable(parent)

    def on_top(entry: MountEntry) -> bool:
        return all(c is entry or c.path != entry.path for c in children.get(entry.mount_id, ()))

    return sorted((e for e in entries if on_top(e) and reachable(e)), key=lambda e: e.path)
