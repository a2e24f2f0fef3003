"""Controllers that take the same writes on both versions."""

from __future__ import annotations

from ..spec import Limits
from .facts import Setting, positive


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
