"""The stage that makes the nodes of devices that the user asked for."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from stat import S_IFREG, S_ISBLK, filemode
from types import MappingProxyType

from ..host import is_below
from .steps import MOUNT_FLAGS, Op, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    """One device as the host has it, and where the container shall see it.

    Attributes
    ----------
    source, destination : str
        Absolute paths, outside and inside.
    mode, device, uid, gid : int
        As stat(2) has them.
    permissions : str
        Of ``rwm``.
    """

    source: str
    destination: str
    mode: int
    device: int
    uid: int
    gid: int
    permissions: str

    @property
    def rule(self) -> str:
        """The rule that allows it, as devices.allow has it."""
        kind = "b" if S_ISBLK(self.mode) else "c"
        return f"{kind} {os.major(self.device)}:{os.minor(self.device)} {self.permissions}"


def device_steps(
    nodes: tuple[DeviceNode, ...], *, old_root: str, bind: bool, trees: Mapping[str, int] = MappingProxyType({})
) -> Iterator[Step]:
    """Make device nodes in the new root.

    Should: give the container nodes of its own, so that no change of mode or owner reaches the host's.

    Mustn't: make one outside of /dev, where the file system may open no devices; there the host's is bound, as
    everywhere if `bind` (mknod(2) is refused in a user namespace).
    """
    for node in nodes:
        option = f"--device {node.source}"
        path = node.destination
        for parent in _parents(path):
            yield Step(Op.MKDIR, (parent, 0o755), tolerate=errno.EEXIST, option=option)
        if bind or not is_below(path, "/dev"):
            yield Step(Op.MKNOD, (path, S_IFREG | 0o666, 0), tolerate=errno.EEXIST, option=option)
            yield bind_device(old_root + node.source, path, trees, option=option)
        else:
            why = f"{filemode(node.mode)}, as on the host"
            yield Step(Op.MKNOD, (path, node.mode, node.device), tolerate=errno.EEXIST, why=why, option=option)
            if node.uid or node.gid:
                yield Step(Op.CHOWN, (path, node.uid, node.gid), option=option)


def bind_device(source: str, target: str, trees: Mapping[str, int], *, option: str = "") -> Step:
    """Bind a device of the host's: from where it is, or, of those that were opened as `trees`, from its descriptor."""
    if source in trees:
        return Step(Op.MOVE_MOUNT, (target, trees[source]), why=f"the host's {source}", option=option)
    return Step(Op.MOUNT, (source, target, None, MOUNT_FLAGS["MS_BIND"], None), option=option)


def _parents(path: str) -> list[str]:
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[:i]) for i in range(1, len(parts))]
