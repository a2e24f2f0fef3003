"""Options that limit resources: memory, CPU, tasks, per-process limits.

Their error conditions are those of Docker's client and daemon.
"""

from __future__ import annotations

import re

from . import units
from .option_types import Context, Option, boolean, integer, plain, pure
from .spec import CGROUP_NAME, Ulimit

MEMORY_MIN_BYTES = 6 * 1024 * 1024
"""Docker's least memory limit: below it, the runtime's own start does not fit."""

_INT64_MAX = 2**63 - 1
_CGROUP_V1 = "admin-guide/cgroup-v1/"
_RLIMITS = (
    ("core", "size of a core file, bytes"),
    ("cpu", "CPU time, seconds"),
    ("data", "data segment, bytes"),
    ("fsize", "size of a file written, bytes"),
    ("locks", "file locks"),
    ("memlock", "locked memory, bytes"),
    ("msgqueue", "POSIX message queues, bytes"),
    ("nice", "20 minus the lowest nice value"),
    ("nofile", "file descriptors"),
    ("nproc", "processes of this user"),
    ("rss", "resident set, bytes (no effect since Linux 2.4.30)"),
    ("rtprio", "real-time priority"),
    ("rttime", "real-time CPU time without sleeping, microseconds"),
    ("sigpending", "queued signals"),
    ("stack", "stack, bytes"),
)


def _memory(text: str) -> int | None:
    size = units.parse_size(text)
    if 0 < size < MEMORY_MIN_BYTES:
        raise ValueError("expected at least 6m (6291456 bytes)")
    return size or None


def _memory_swap(text: str) -> int | None:
    # Only the literal is unlimited; "-1b" and "-2" are sizes, and wrong ones: opts.MemSwapBytes.
    return -1 if text == "-1" else units.parse_size(text) or None


@pure
def _cpus(text: str, context: Context) -> int | None:
    nano = units.parse_nano_cpus(text)
    # 0.01 is the kernel's least quota, 1 ms, in Docker's period of 100 ms.
    if nano and not 10_000_000 <= nano <= context.host_cpus * 1_000_000_000:
        raise ValueError(f"expected 0.01 to {context.host_cpus}, as this host has {context.host_cpus} CPUs")
    return nano or None


def _cpu_quota(text: str) -> int | None:
    quota_us = units.parse_integer(text)
    if 0 < quota_us < 1000:
        raise ValueError("expected at least 1000 microseconds, or -1 for unlimited")
    return quota_us if quota_us > 0 else None


@pure
def _cpuset_cpus(text: str, context: Context) -> str | None:
    if not text:
        return None
    numbers = units.parse_cpu_list(text)
    if not context.available_cpus.issuperset(numbers):
        available = units.format_cpu_list(tuple(sorted(context.available_cpus)))
        raise ValueError(f"expected CPUs among {available}, which this host has")
    return units.format_cpu_list(numbers)


def _cpuset_mems(text: str) -> str | None:
    return units.format_cpu_list(units.parse_cpu_list(text)) if text else None


def _cgroup_parent(text: str) -> str:
    name = text.strip("/")
    if text and not CGROUP_NAME.fullmatch(name):
        raise ValueError("expected a name that `%cgroup create` takes: letters, digits, '_' and '-'")
    return name


def _hugetlb(text: str) -> tuple[tuple[str, int], ...]:
    """Parse ``PAGESIZE:SIZE``; the size of the pages becomes what the kernel writes, ``2MB``."""
    pages, _, limit = text.partition(":")
    if not limit:
        raise ValueError("expected PAGESIZE:SIZE, such as 2MB:64m")
    size = units.parse_size(pages)
    for unit, factor in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if size >= factor and size % factor == 0:
            return ((f"{size // factor}{unit}", units.parse_size(limit)),)
    raise ValueError("expected a size of pages such as 64KB, 2MB or 1GB")


def _ulimit(text: str) -> tuple[Ulimit, ...]:
    """Parse ``name=soft[:hard]``; -1 is unlimited (go-units, ``ParseUlimit``)."""
    match = re.fullmatch(r"([^=]*)=(-1|\+?[0-9]{1,19})(?::(-1|\+?[0-9]{1,19}))?", text, re.ASCII)
    if match is None:
        raise ValueError("expected NAME=SOFT[:HARD], such as nofile=1024:4096; -1 is unlimited")
    name, soft = match[1], int(match[2])
    hard = soft if match[3] is None else int(match[3])
    if name not in dict(_RLIMITS):
        raise ValueError(f"expected a name among {', '.join(dict(_RLIMITS))}")
    if max(soft, hard) > _INT64_MAX:
        raise ValueError("expected limits of at most 63 bits")
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError("expected a soft limit that is not above the hard limit")
    return (Ulimit(name=name, soft=soft, hard=hard),)


RESOURCES: tuple[Option, ...] = (
    Option(
        flags=("-m", "--memory", "--mem"),
        help="Memory limit, at least 6m; swap doubles it unless --memory-swap says otherwise",
        group="Memory",
        sets="limits.memory_bytes",
        parse=plain(_memory),
        metavar="SIZE",
        unit="bytes",
        oci="linux.resources.memory.limit",
        v1="memory.limit_in_bytes",
        v2="memory.max",
        documentation="admin-guide/cgroup-v2.rst, memory.max",
    ),
    Option(
        flags=("--memory-swap",),
        help="Limit of memory plus swap; -1 is unlimited, the same as --memory means no swap",
        group="Memory",
        sets="limits.memory_swap_bytes",
        parse=plain(_memory_swap),
        metavar="SIZE",
        unit="bytes",
        default="2 x --memory",
        oci="linux.resources.memory.swap",
        v1="memory.memsw.limit_in_bytes",
        v2="memory.swap.max",
        documentation="admin-guide/cgroup-v2.rst, memory.swap.max",
    ),
    Option(
        flags=("--memory-reservation",),
        help="Memory kept for the container when the host runs short, at least 6m, at most --memory",
        group="Memory",
        sets="limits.memory_reservation_bytes",
        parse=plain(_memory),
        metavar="SIZE",
        unit="bytes",
        oci="linux.resources.memory.reservation",
        v1="memory.soft_limit_in_bytes",
        v2="memory.low",
        documentation="admin-guide/cgroup-v2.rst, memory.low",
    ),
    Option(
        flags=("--memory-swappiness",),
        help="How readily its anonymous pages are swapped, 0 to 100",
        group="Memory",
        sets="limits.memory_swappiness",
        parse=integer(0, 100, unset=-1),
        metavar="N",
        oci="linux.resources.memory.swappiness",
        v1="memory.swappiness",
        documentation=_CGROUP_V1 + "memory.rst, 5.3 swappiness",
    ),
    Option(
        flags=("--oom-kill-disable",),
        help="At the memory limit, let the container's tasks wait instead of killing one",
        group="Memory",
        sets="limits.oom_kill_disable",
        parse=boolean,
        oci="linux.resources.memory.disableOOMKiller",
        v1="memory.oom_control",
        documentation=_CGROUP_V1 + "memory.rst, 10. OOM Control",
    ),
    Option(
        flags=("--oom-score-adj",),
        help="How likely the host's out-of-memory killer picks it, -1000 to 1000",
        group="Memory",
        sets="spec.oom_score_adj",
        parse=integer(-1000, 1000),
        metavar="N",
        default="0",
        oci="process.oomScoreAdj",
        documentation="proc_pid_oom_score_adj(5)",
    ),
    Option(
        flags=("--cpus",),
        help="CPUs' worth of time, 0.01 to the host's CPUs; 0.5 is half of one",
        group="CPU",
        sets="limits.nano_cpus",
        parse=_cpus,
        metavar="NUMBER",
        unit="CPUs",
        oci="linux.resources.cpu.quota",
        v1="cpu.cfs_quota_us",
        v2="cpu.max",
        documentation="admin-guide/cgroup-v2.rst, cpu.max",
    ),
    Option(
        flags=("--cpu-period",),
        help="Period over which --cpu-quota is counted, 1000 to 1000000",
        group="CPU",
        sets="limits.cpu_period_us",
        parse=integer(1000, 1_000_000, unset=0),
        metavar="N",
        unit="microseconds",
        default="100000",
        oci="linux.resources.cpu.period",
        v1="cpu.cfs_period_us",
        v2="cpu.max",
        documentation="scheduler/sched-bwc.rst",
    ),
    Option(
        flags=("--cpu-quota",),
        help="CPU time per period, at least 1000; -1 is unlimited",
        group="CPU",
        sets="limits.cpu_quota_us",
        parse=plain(_cpu_quota),
        metavar="N",
        unit="microseconds",
        oci="linux.resources.cpu.quota",
        v1="cpu.cfs_quota_us",
        v2="cpu.max",
        documentation="scheduler/sched-bwc.rst",
    ),
    Option(
        flags=("-c", "--cpu-shares"),
        help="Weight when CPUs are contended for; 1024 is the usual share",
        group="CPU",
        sets="limits.cpu_shares",
        parse=integer(1, _INT64_MAX, unset=0),
        metavar="N",
        oci="linux.resources.cpu.shares",
        v1="cpu.shares",
        v2="cpu.weight",
        documentation="admin-guide/cgroup-v2.rst, cpu.weight",
    ),
    Option(
        flags=("--cpuset-cpus",),
        help="CPUs that it may run on: 0-1,3",
        group="CPU",
        sets="limits.cpuset_cpus",
        parse=_cpuset_cpus,
        metavar="LIST",
        oci="linux.resources.cpu.cpus",
        v1="cpuset.cpus",
        v2="cpuset.cpus",
        documentation="cpuset(7)",
    ),
    Option(
        flags=("--cpuset-mems",),
        help="Memory nodes that it may allocate from: 0,1",
        group="CPU",
        sets="limits.cpuset_mems",
        parse=plain(_cpuset_mems),
        metavar="LIST",
        oci="linux.resources.cpu.mems",
        v1="cpuset.mems",
        v2="cpuset.mems",
        documentation="cpuset(7)",
    ),
    Option(
        flags=("--pids-limit",),
        help="Tasks (processes and threads) at once; 0 or less is unlimited",
        group="Processes",
        sets="limits.pids_limit",
        parse=integer(-_INT64_MAX - 1, _INT64_MAX, unset=0),
        metavar="N",
        unit="tasks",
        oci="linux.resources.pids.limit",
        v1="pids.max",
        v2="pids.max",
        documentation="admin-guide/cgroup-v2.rst, pids.max",
    ),
    Option(
        flags=("--cgroup-parent",),
        help="Run below a cgroup that `%cgroup create NAME` made, whose limits bind too",
        group="Processes",
        sets="spec.cgroup_parent",
        parse=plain(_cgroup_parent),
        metavar="NAME",
        oci="linux.cgroupsPath",
        documentation="cgroups(7)",
    ),
    Option(
        flags=("--hugetlb",),
        help="Huge pages of a size, at most; not one of Docker's",
        group="Memory",
        sets="limits.hugetlb",
        parse=plain(_hugetlb),
        metavar="PAGESIZE:SIZE",
        unit="bytes",
        oci="linux.resources.hugepageLimits",
        v1="hugetlb.PAGESIZE.limit_in_bytes",
        v2="hugetlb.PAGESIZE.max",
        documentation="admin-guide/cgroup-v1/hugetlb.rst",
        repeatable=True,
    ),
    Option(
        flags=("--ulimit",),
        help="Limit of each process: nofile=1024:4096; -1 is unlimited",
        group="Processes",
        sets="spec.ulimits",
        parse=plain(_ulimit),
        metavar="NAME=SOFT[:HARD]",
        oci="process.rlimits",
        documentation="setrlimit(2)",
        choices=tuple((f"{name}=", what) for name, what in _RLIMITS),
        repeatable=True,
    ),
)
