"""Paths of ``/proc`` and ``/sys`` that a container may not see, or may not write.

``--privileged`` and ``--security-opt systempaths=unconfined`` leave both tables out.

Notes
-----
The choice of paths is Docker's (moby ``daemon/pkg/oci/defaults.go``). Masking is a bind mount of
``/dev/null`` over a file, and a read-only tmpfs over a directory: OCI runtime specification,
config-linux.md, "Masked Paths" and "Readonly Paths".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class SystemPath(NamedTuple):
    """One path and why it is hidden or protected.

    Attributes
    ----------
    path : str
        Absolute path inside; ``{cpu}`` stands for each CPU's number.
    reason : str
        What could be read or done through it.
    """

    path: str
    reason: str


MASKED_PATHS: tuple[SystemPath, ...] = (
    SystemPath("/proc/acpi", "shows the host's ACPI devices; some can be switched"),
    SystemPath("/proc/asound", "shows the host's sound hardware and what it plays"),
    SystemPath("/proc/interrupts", "interrupt counts tell keystrokes and packets apart by their timing"),
    SystemPath("/proc/kcore", "the host's physical memory"),
    SystemPath("/proc/keys", "kernel keyrings are not namespaced"),
    SystemPath("/proc/latency_stats", "kernel stacks in which the host's processes waited"),
    SystemPath("/proc/sched_debug", "names and scheduling of every process of the host"),
    SystemPath("/proc/scsi", "devices can be removed through /proc/scsi/scsi"),
    SystemPath("/proc/timer_list", "kernel addresses, and processes of the host"),
    SystemPath("/proc/timer_stats", "processes of the host that use timers"),
    SystemPath("/sys/devices/virtual/powercap", "power meters leak what other processes compute (PLATYPUS)"),
    SystemPath("/sys/firmware", "firmware variables and tables, serial numbers among them"),
    SystemPath("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle", "tells the host's load"),
)  # fmt: skip

READONLY_PATHS: tuple[SystemPath, ...] = (
    SystemPath("/proc/bus", "PCI and USB devices can be configured"),
    SystemPath("/proc/fs", "settings of the host's file systems"),
    SystemPath("/proc/irq", "decides which CPU serves an interrupt"),
    SystemPath("/proc/sys", "most sysctls are not namespaced; --sysctl sets those that are"),
    SystemPath("/proc/sysrq-trigger", "one letter reboots the host"),
)


def masked_paths(cpus: Iterable[int]) -> tuple[str, ...]:
    """Return the paths to mask.

    Parameters
    ----------
    cpus : iterable of int
        Numbers of the host's CPUs, ``/sys/devices/system/cpu/possible``.

    Returns
    -------
    tuple of str
        Absolute paths, many of which a given kernel does not have.

    Examples
    --------
    >>> masked_paths([0])[-1]
    '/sys/devices/system/cpu/cpu0/thermal_throttle'
    """
    numbers = tuple(cpus)
    plain = [row.path for row in MASKED_PATHS if "{cpu}" not in row.path]
    per_cpu = [row.path.format(cpu=n) for n in numbers for row in MASKED_PATHS if "{cpu}" in row.path]
    return (*plain, *per_cpu)
