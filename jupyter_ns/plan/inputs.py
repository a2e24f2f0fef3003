"""What a plan needs to know beside the spec and the host's facts."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..host import Attributes
from ..networks.data import Endpoint
from ..spec import ContainerSpec
from .devices import DeviceNode


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInputs:
    """What differs from container to container and is not the user's to say.

    Attributes
    ----------
    container_id : str
        64 hexadecimal digits.
    environment : tuple of str
        ``NAME=value``, for execve(2).
    home : str
        The user's home directory, where `environment` has it from there.
    uid, gid : int
        IDs inside; `groups` the supplementary ones.
    source_is_dir : dict of str to bool
        For each bind source: whether it is a directory.
    exposed : tuple of str
        Directories that must be seen although they lie below one of the container's own
        (the notebook's directory or a virtual environment below ``/tmp``), and what is mounted below them.
    attributes : dict of str to Attributes
        Of each of `exposed`.
    rlimits : tuple of (int, int, int)
        Resource, soft, hard.
    seccomp : bytes
        BPF program; empty for none.
    capabilities : int
        Mask of what stays; `lacking` names what was wanted and cannot be given.
    cgroup_join : tuple of str
        The files of its cgroups to which the child writes itself; empty if it is born there.
    devices : tuple of DeviceNode
        What ``--device`` names.
    bare : bool
        Build the container and wait, as a place for a forked kernel to enter; run nothing.
    endpoints : tuple of Endpoint
        What it has on networks, where that is known; no step depends on it.
    lower : tuple of str
        The directories of an image's layers, topmost first; empty for the host's own files.
    above : dict of str to tuple of str
        For an image over the host's own files: an overlay's path, and the layers' directories that lie on the host's
        there, topmost first.
    """

    container_id: str
    environment: tuple[str, ...] = ()
    home: str = ""
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    source_is_dir: dict[str, bool] = field(default_factory=dict)
    exposed: tuple[str, ...] = ()
    attributes: dict[str, Attributes] = field(default_factory=dict)
    rlimits: tuple[tuple[int, int, int], ...] = ()
    seccomp: bytes = b""
    capabilities: int = 0
    workdir_exists: bool = True
    cgroup_join: tuple[str, ...] = ()
    bare: bool = False
    devices: tuple[DeviceNode, ...] = ()
    lower: tuple[str, ...] = ()
    above: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def all_groups(self) -> tuple[int, ...]:
        """The supplementary groups to be set: the payload's own first, as Docker has it; none for root alone.

        A program that sets its group ID would otherwise leave its user's (CVE-2022-36109).
        """
        if not (self.uid or self.gid or self.groups):
            return ()
        return tuple(dict.fromkeys((self.gid, *self.groups)))


def hostname(spec: ContainerSpec, inputs: PlanInputs) -> str:
    """Return the host name inside: ``--hostname``, or the first 12 digits of the container's ID."""
    return spec.hostname or inputs.container_id[:12]
