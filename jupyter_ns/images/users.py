"""Who a container of an image runs as, by the image's own ``/etc/passwd`` and ``/etc/group``."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import UsageError


class User(NamedTuple):
    """IDs inside, and the home directory."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def resolve_user(user: str, extra: tuple[str, ...], passwd: str, group: str) -> User:
    """Look a user up.

    Parameters
    ----------
    user : str
        ``name|uid[:group|gid]``; empty for root.
    extra : tuple of str
        Supplementary groups asked for.
    passwd, group : str
        Text of the two files: passwd(5), group(5).

    Raises
    ------
    UsageError
        If a name is not there.

    Notes
    -----
    github.com/moby/sys/user, ``GetExecUser``.

    Examples
    --------
    >>> resolve_user("www:", (), "www:x:33:34::/srv:/bin/sh", "web:x:50:www")
    User(uid=33, gid=34, groups=(50,), home='/srv')
    >>> resolve_user("7", (), "", "")
    User(uid=7, gid=0, groups=(), home='/')
    """
    name, _, group_name = (user or "0").partition(":")
    groups = [f for f in (line.split(":") for line in group.splitlines()) if len(f) >= 4 and f[2].isdecimal()]
    entry = next((e for e in _entries(passwd) if e[0] == name or (name.isdecimal() and e[2] == str(int(name)))), None)
    if entry is None and not name.isdecimal():
        raise UsageError(f"unable to find user {name}: no matching entries in the image's passwd file")
    uid = int(entry[2]) if entry else int(name)
    gid = int(entry[3]) if entry else 0
    home = entry[5] or "/" if entry else "/"
    more = [_gid(g, groups) for g in extra]
    if group_name:
        gid = _gid(group_name, groups)
    elif entry:
        more += [int(g[2]) for g in groups if entry[0] in g[3].split(",")]
    return User(uid, gid, tuple(dict.fromkeys(more)), home)


def _entries(passwd: str) -> list[list[str]]:
    fields = [line.split(":") for line in passwd.splitlines()]
    return [f for f in fields if len(f) >= 6 and f[2].isdecimal() and f[3].isdecimal()]


def _gid(name: str, groups: list[list[str]]) -> int:
    entry = next((g for g in groups if g[0] == name), None)
    if entry is not None:
        return int(entry[2])
    if not name.isdecimal():
        raise UsageError(f"unable to find group {name}: no matching entries in the image's group file")
    return int(name)
