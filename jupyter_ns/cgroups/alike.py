"""Controllers that take the same writes on both versions."""

from __future__ import annotations

import re

from ..errors import UsageError
from ..spec import Limits
from .facts import OPTIONS, Need, Setting, positive

_PAGE_SIZES = tuple(f"{n}{unit}B" for unit in "KMG" for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512))
"""Sizes of huge pages that some architecture has."""


def cpuset(new: Limits, fields: frozenset[str], *, told: str = "") -> list[Setting]:
    """Return the writes of the cpuset controller.

    Parameters
    ----------
    new : Limits
        What is wanted.
    fields : frozenset of str
        Which of it is new.
    told : str
        How the name of the file ends that tells what took effect: version 2 takes CPUs that the parent has not, and
        leaves them out, where version 1 refuses them.
    """
    return [
        Setting(name, value, "cpuset", file, value, f"{file}{told}" if told else "")
        for name, file in (("cpuset_cpus", "cpuset.cpus"), ("cpuset_mems", "cpuset.mems"))
        if name in fields and (value := getattr(new, name))
    ]


def pids(new: Limits, fields: frozenset[str]) -> list[Setting]:
    """Return the writes of the pids controller."""
    if "pids_limit" not in fields:
        return []
    value = positive(new.pids_limit, "max")
    return [Setting("pids_limit", new.pids_limit, "pids", "pids.max", value)]


def hugetlb_need(limit: str) -> Need:
    """Return what a limit of huge pages needs, where the name of its file ends in `limit`."""
    names = tuple(f"hugetlb.{size}.{limit}" for size in _PAGE_SIZES)
    return Need("hugetlb", names, "this kernel has no huge pages (CONFIG_CGROUP_HUGETLB)")


def hugetlb(new: Limits, old: Limits, fields: frozenset[str], names: frozenset[str], limit: str) -> list[Setting]:
    """Return the writes of the hugetlb controller, one a size of pages: admin-guide/cgroup-v1/hugetlb.rst.

    Raises
    ------
    UsageError
        If the host has no pages of a size.
    """
    if "hugetlb" not in fields:
        return []
    here = sorted(m[1] for name in names if (m := re.fullmatch(rf"hugetlb\.(\w+)\.{re.escape(limit)}", name)))
    found = []
    for size, value in ({size: -1 for size, _ in old.hugetlb} | dict(new.hugetlb)).items():
        if size not in here:
            raise UsageError(f"{OPTIONS['hugetlb']} {size}: expected one of {', '.join(here)}, which this host has")
        text = str(value) if value >= 0 else "max" if limit == "max" else "-1"
        found.append(Setting("hugetlb", f"{size}:{value}", "hugetlb", f"hugetlb.{size}.{limit}", text))
    return found
