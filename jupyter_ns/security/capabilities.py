"""Capabilities: the kernel's table, Docker's default set, and ``--cap-add``/``--cap-drop``.

A set of capabilities is an int with bit *n* set for capability number *n*, as capset(2)
and ``/proc/PID/status`` have it.

Notes
-----
capabilities(7); ``include/uapi/linux/capability.h``. The rules of `resolve` are Docker's
(moby ``daemon/pkg/oci/caps``).
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from ..errors import UnsupportedError, UsageError

NAMES: tuple[str, ...] = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)
"""Names without ``CAP_``; the index is the number."""

NUMBERS: dict[str, int] = {name: number for number, name in enumerate(NAMES)}


def mask(wanted: Iterable[str]) -> int:
    """Combine capabilities into a bit mask.

    Parameters
    ----------
    wanted : iterable of str
        Names as in `NAMES`.

    Raises
    ------
    KeyError
        If a name is unknown; names from users go through `resolve`.

    Examples
    --------
    >>> hex(mask(["CHOWN", "SYS_ADMIN"]))
    '0x200001'
    """
    result = 0
    for name in wanted:
        result |= 1 << NUMBERS[name]
    return result


DEFAULT: int = mask(
    (
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    )
)
"""The 14 that Docker leaves to a container."""


def full(last_cap: int) -> int:
    """Return every capability of a kernel.

    Parameters
    ----------
    last_cap : int
        The highest number that the kernel knows: ``/proc/sys/kernel/cap_last_cap``.

    Examples
    --------
    >>> hex(full(40))
    '0x1ffffffffff'
    """
    return (1 << (last_cap + 1)) - 1


def names(capabilities: int) -> tuple[str, ...]:
    """Spell out a mask in the order of the numbers; a number without a name stays a number.

    Examples
    --------
    >>> names(1 << 21 | 1 << 0)
    ('CAP_CHOWN', 'CAP_SYS_ADMIN')
    >>> names(1 << 50)
    ('50',)
    """
    bits = (number for number in range(capabilities.bit_length()) if capabilities >> number & 1)
    return tuple(f"CAP_{NAMES[number]}" if number < len(NAMES) else str(number) for number in bits)


def resolve(add: Iterable[str], drop: Iterable[str], *, privileged: bool, last_cap: int) -> int:
    """Work out a container's capabilities by Docker's rules.

    ``--privileged`` is every capability, whatever else is said. Adding ``ALL`` is every one but those
    dropped; else dropping ``ALL`` is exactly those added; else `DEFAULT` less those dropped, plus those
    added (so a name that is both dropped and added is granted).

    Parameters
    ----------
    add, drop : iterable of str
        Values of ``--cap-add`` and ``--cap-drop``: a name with or without ``CAP_``, in any case, or ``ALL``.
    privileged : bool
        Whether ``--privileged`` was given.
    last_cap : int
        The highest number that the kernel knows.

    Returns
    -------
    int
        Mask for the bounding, permitted and effective sets.

    Raises
    ------
    UsageError
        If a name is unknown (also with ``--privileged``); the closest names are listed.
    UnsupportedError
        If a capability to be added is newer than the kernel.

    Examples
    --------
    >>> names(resolve(["net_admin"], ["ALL"], privileged=False, last_cap=40))
    ('CAP_NET_ADMIN',)
    """
    everything = full(last_cap)
    added, add_all = _parse("--cap-add", add)
    dropped, drop_all = _parse("--cap-drop", drop)
    if missing := names(added & ~everything):
        raise UnsupportedError(
            f"--cap-add {missing[0]}: this kernel's last capability is number {last_cap} "
            "(/proc/sys/kernel/cap_last_cap); leave the option out or use a newer kernel"
        )
    if privileged:
        return everything
    if add_all:
        return everything & ~dropped
    if drop_all:
        return added
    return DEFAULT & everything & ~dropped | added


def bounded(wanted: int, held: int, add: Iterable[str]) -> tuple[int, tuple[str, ...]]:
    """Take from what is wanted what the engine does not hold itself.

    Parameters
    ----------
    wanted : int
        From `resolve`.
    held : int
        What the engine holds.
    add : iterable of str
        Values of ``--cap-add``.

    Returns
    -------
    given : int
        Mask of what the container gets.
    lacking : tuple of str
        Names of what it goes without.

    Raises
    ------
    UnsupportedError
        If one was asked for by name.

    Examples
    --------
    >>> bounded(mask(["CHOWN", "KILL"]), mask(["KILL"]), []) == (mask(["KILL"]), ("CAP_CHOWN",))
    True
    """
    named, _ = _parse("--cap-add", add)
    if refused := names(named & ~held):
        raise UnsupportedError(
            f"--cap-add {refused[0]}: the notebook's own processes do not have it, and cannot give it"
        )
    return wanted & held, names(wanted & ~held)


def _parse(option: str, values: Iterable[str]) -> tuple[int, bool]:
    """Return the mask of the names among an option's values, and whether ``ALL`` is one of them."""
    result, everything = 0, False
    for value in values:
        name = value.strip().upper()
        if name == "ALL":
            everything = True
            continue
        number = NUMBERS.get(name.removeprefix("CAP_"))
        if number is None:
            raise UsageError(_unknown(option, value, name.removeprefix("CAP_")))
        result |= 1 << number
    return result, everything


def _unknown(option: str, value: str, name: str) -> str:
    close = get_close_matches(name, ("ALL", *NAMES), cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return (
        f"{option} {value!r}: unknown capability{hint} "
        "(accepted: ALL, or a name of capabilities(7) in any case, with or without CAP_)"
    )
