"""Linux control groups, versions 1 and 2: limits, accounting, killing, and nothing left behind.

>>> layout = detect("0::/\\n", "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\\n")
>>> layout.kind
'unified'
"""

from __future__ import annotations

from .base import Cgroup
from .facts import Base, CgroupFacts
from .layout import Hierarchy, Layout, detect, read_layout
from .manager import Manager, collect_stale, unsupported
from .none import NoCgroup, NoManager, ProcSampler, sampler_of
from .probe import probe
from .processes import engine_key
from .sampler import SAMPLE_FIELDS, Sampler

__all__ = [
    "SAMPLE_FIELDS",
    "Base",
    "Cgroup",
    "CgroupFacts",
    "Hierarchy",
    "Layout",
    "Manager",
    "NoCgroup",
    "NoManager",
    "ProcSampler",
    "Sampler",
    "collect_stale",
    "detect",
    "engine_key",
    "probe",
    "read_layout",
    "sampler_of",
    "unsupported",
]
