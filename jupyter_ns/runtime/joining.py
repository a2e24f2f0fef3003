"""What a new container shares with another one: namespaces that it joins instead of having its own."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .. import core
from ..errors import UnsupportedError, UsageError
from ..namespaces import BY_NAME
from ..trees import clone_mount

if TYPE_CHECKING:
    from ..spec import ContainerSpec
    from .registry import Record, Registry


def donor(registry: Registry, kind: str, name: str) -> Record:
    """Return the container whose namespace is joined.

    Raises
    ------
    UsageError
        If there is none, it does not run, or it has no such namespace to share.
    """
    record = registry.find(name)
    option, spec = f"--{kind} container:{record.name}", record.spec
    if not record.alive:
        raise UsageError(f"{option}: cannot join {kind} of a non running container: {record.id}")
    if kind in spec.without or (kind == "network" and spec.network == "host"):
        raise UsageError(f"{option}: it has the host's own; expected --{kind} host where that is wanted")
    if kind == "ipc" and not spec.ipc_shareable and kind not in spec.joined:
        raise UsageError(
            f"{option}: non-shareable IPC (hint: use IpcMode:shareable for the donor container): start {record.name} "
            "with --ipc shareable"
        )
    if spec.userns == "private":
        raise UnsupportedError(
            f"{option}: {record.name} has a user namespace of its own (--userns private), to which its others belong"
        )
    return record


def descriptors(registry: Registry, spec: ContainerSpec, names: tuple[str, ...]) -> dict[str, int]:
    """Open what a child is to join, by the names that its plan has; and as ``join-pid``, what its maker is to.

    Raises
    ------
    UsageError, UnsupportedError, OSError
        As `donor`; ESRCH, ENOENT: that container has just ended.
    """
    found: dict[str, int] = {}
    try:
        for kind, name in spec.joins:
            record = donor(registry, kind, name)
            path = f"/proc/{record.process.pid}/ns/{BY_NAME[kind].proc}"
            found[f"join-{kind}"] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if kind == "ipc" and "shm" in names:
                found["shm"] = _shared_memory(record)
        return found
    except BaseException:
        for fd in found.values():
            os.close(fd)
        raise


def _shared_memory(record: Record) -> int:
    """Return a descriptor of a clone of a container's /dev/shm, made by a child that has gone there.

    Raises
    ------
    OSError
        As setns(2) and open_tree(2).
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                core.setns(record.process.mount_namespace_fd, BY_NAME["mount"].flag)
                fd = clone_mount("/dev/shm")
                theirs.sendmsg([b"t"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
                code = 0
            except OSError as e:
                code = e.errno or 1
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code:
            raise OSError(max(code, 1), os.strerror(max(code, 1)), f"/dev/shm of container {record.name}")
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    os.set_inheritable(fds[0], False)
    return fds[0]


@contextlib.contextmanager
def inside(pid_namespace: int) -> Iterator[None]:
    """Be in a PID namespace for children: pid_namespaces(7); a descriptor of it, or of a process in it.

    Raises
    ------
    OSError
        As setns(2); ENOMEM from what is made meanwhile: its PID 1 has ended.
    """
    flag = BY_NAME["pid"].flag
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        core.setns(pid_namespace, flag)
        yield
    finally:
        core.setns(own, flag)
        os.close(own)
