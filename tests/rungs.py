"""The kinds of machine that the tests cover, one row each: for the matrix, and the README's table."""

from __future__ import annotations

from typing import NamedTuple

from jupyter_ns.host import HostFacts


class Rung(NamedTuple):
    """One kind of machine.

    Attributes
    ----------
    machine : str
        What it is.
    gives : str
        What a user gets there.
    where : str
        Where its tests run.
    """

    machine: str
    gives: str
    where: str


UML = "user-mode Linux"
RUNGS = {
    "root-v1": Rung("root, cgroup version 1 or hybrid", "everything", "the machine itself"),
    "root-v2": Rung("root, cgroup version 2", "everything", UML),
    "user-v2": Rung(
        "ordinary user, cgroup version 2 delegated",
        "user namespace, limits by cgroup; file systems that refuse to be a layer of an overlay are read-only inside",
        UML,
    ),
    "user-systemd": Rung(
        "ordinary user of a machine with systemd, cgroup version 2",
        "the same: the engine asks systemd for a scope of its own, over D-Bus",
        f"{UML}, with a systemd user manager",
    ),
    "user-none": Rung(
        "ordinary user, no cgroup",
        "user namespace; `--memory` and `--pids-limit` by a guard that looks every 20 ms, other limits refused",
        UML,
    ),
    "old-kernel": Rung(
        "root, cgroup version 2, Linux 5.10",
        "everything but time namespaces, `--userns private`, and `:ro` for mounts below a volume; peaks are sampled. "
        "Ordinary users: a refusal (overlays are root's before 5.11)",
        f"{UML} 5.10, of Debian 11",
    ),
    "crippled": Rung(
        "something is forbidden or missing: cgroups, namespaces, overlay, space, a newer kernel",
        "what is left, or a refusal that names what failed; never a half-built container",
        UML,
    ),
    "guest": Rung(
        "namespaces forbidden (public notebook hosts)",
        "`--on guest`: a user-mode Linux guest, in which all is real, at a cost in speed",
        "an unprivileged container (runc, user 1000, Docker's filter), and the machine itself",
    ),
}
_NATIVE = {(False, 1): "root-v1", (False, 2): "root-v2", (True, 2): "user-v2", (True, 0): "user-none"}


def native(facts: HostFacts) -> str:
    """Return the rung that a machine itself is on; empty if it is none of them."""
    return _NATIVE.get((facts.rootless, facts.cgroup.get("version", 0)), "")
