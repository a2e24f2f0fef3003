"""Which ``--sysctl`` names a container may set: those that belong to one of its namespaces.

Notes
-----
The choice is Docker's (docker/cli ``opts.ValidateSysctl``). namespaces(7), ipc_namespaces(7),
network_namespaces(7).
"""

from __future__ import annotations

from ..errors import UsageError

IPC_KEYS: frozenset[str] = frozenset(
    {"msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"}
)
"""The keys below ``kernel.`` that belong to the IPC namespace."""

_ACCEPTED = f"accepted: net.*, fs.mqueue.*, and kernel.{{{','.join(sorted(IPC_KEYS))}}}"
_INSTEAD = {("kernel", "hostname"): "--hostname", ("kernel", "domainname"): "--domainname"}


def validate(name: str, *, network_host: bool, ipc_host: bool) -> str:
    """Check a sysctl's name and say which file sets it.

    Parameters
    ----------
    name : str
        Such as ``net.ipv4.ip_forward``. As in sysctl(8), the first separator, ``.`` or ``/``, is the
        separator; the other one then stands for itself: ``net/ipv4/conf/eth0.100/rp_filter``.
    network_host, ipc_host : bool
        Whether the container shares the host's network or IPC namespace.

    Returns
    -------
    str
        Absolute path below ``/proc/sys``.

    Raises
    ------
    UsageError
        If the name is malformed, belongs to no namespace of a container, or to one shared with the host.

    Examples
    --------
    >>> validate("net.ipv4.ip_forward", network_host=False, ipc_host=False)
    '/proc/sys/net/ipv4/ip_forward'
    """
    parts = _split(name)
    if any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise UsageError(f"--sysctl {name!r}: not a sysctl's name; {_ACCEPTED}")
    if parts[0] == "net" and len(parts) > 1:
        kind, shared, option = "network", network_host, "--network host"
    elif (parts[:2] == ["fs", "mqueue"] and len(parts) > 2) or _is_ipc_key(parts):
        kind, shared, option = "IPC", ipc_host, "--ipc host"
    else:
        instead = _INSTEAD.get(tuple(parts[:2]))  # type: ignore[arg-type]
        hint = f"use {instead}" if instead else _ACCEPTED
        raise UsageError(f"--sysctl {name!r}: not one that a container has to itself; {hint}")
    if shared:
        raise UsageError(
            f"--sysctl {name!r}: belongs to the {kind} namespace, which {option} shares with the host; "
            "leave one of the two out"
        )
    return "/proc/sys/" + "/".join(parts)


def _split(name: str) -> list[str]:
    separator = next((c for c in name if c in "./"), ".")
    if separator == "/":
        return name.split("/")
    return [part.replace("/", ".") for part in name.split(".")]


def _is_ipc_key(parts: list[str]) -> bool:
    return len(parts) == 2 and parts[0] == "kernel" and parts[1] in IPC_KEYS
