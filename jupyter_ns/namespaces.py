"""The kinds of Linux namespace: one row of one table each.

Notes
-----
namespaces(7); clone(2); ``include/uapi/linux/sched.h`` for the flags.
"""

from __future__ import annotations

import functools
import os
from typing import NamedTuple


class NamespaceKind(NamedTuple):
    """One kind of namespace.

    Attributes
    ----------
    name : str
        The field's everyday name, as ``--without`` takes it.
    proc : str
        Its file under ``/proc/PID/ns``.
    flag : int
        ``CLONE_NEW*``.
    oci : str
        Its name in the OCI runtime specification.
    man : str
        Its manual page.
    isolates : str
        What it isolates, in a few words.
    """

    name: str
    proc: str
    flag: int
    oci: str
    man: str
    isolates: str


KINDS: tuple[NamespaceKind, ...] = (
    NamespaceKind("user", "user", 0x10000000, "user", "user_namespaces(7)", "user and group IDs, capabilities"),
    NamespaceKind("pid", "pid", 0x20000000, "pid", "pid_namespaces(7)", "process IDs"),
    NamespaceKind("mount", "mnt", 0x00020000, "mount", "mount_namespaces(7)", "mount points"),
    NamespaceKind("network", "net", 0x40000000, "network", "network_namespaces(7)", "devices, addresses, routes"),
    NamespaceKind("uts", "uts", 0x04000000, "uts", "uts_namespaces(7)", "host name and NIS domain name"),
    NamespaceKind("ipc", "ipc", 0x08000000, "ipc", "ipc_namespaces(7)", "System V IPC, POSIX message queues"),
    NamespaceKind("cgroup", "cgroup", 0x02000000, "cgroup", "cgroup_namespaces(7)", "the cgroup root that is seen"),
    NamespaceKind("time", "time", 0x00000080, "time", "time_namespaces(7)", "monotonic and boot-time clocks"),
)  # fmt: skip

BY_NAME: dict[str, NamespaceKind] = {kind.name: kind for kind in KINDS}


class NamespaceID(NamedTuple):
    """Inode numbers of one kind of namespace: the notebook kernel's and the container's."""

    host: int
    container: int

    @property
    def isolated(self) -> bool:
        """Whether the container has a namespace of its own of this kind."""
        return self.host != self.container


def read(pid: int | str = "self") -> dict[str, int]:
    """Read a process's namespace IDs.

    Parameters
    ----------
    pid : int or str
        A process ID, or ``"self"``.

    Returns
    -------
    dict of str to int
        Kind to inode number, for the kinds that the running kernel has.

    Raises
    ------
    OSError
        ESRCH or ENOENT: no such process; EACCES: not ours to look at (ptrace(2), access mode).

    Examples
    --------
    >>> read()["pid"] == os.stat("/proc/self/ns/pid").st_ino
    True
    """
    return {kind.name: os.stat(f"/proc/{pid}/ns/{kind.proc}").st_ino for kind in _present()}


@functools.cache
def _present() -> tuple[NamespaceKind, ...]:
    """Return the kinds that the running kernel has."""
    names = set(os.listdir("/proc/self/ns"))
    return tuple(kind for kind in KINDS if kind.proc in names)
