"""Whom ``--user`` and ``--group-add`` mean: by the container's own files, or by this machine's.

Notes
-----
passwd(5), group(5), nsswitch.conf(5).
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import UsageError
from ..spec import ContainerSpec
from ..trees import open_in_root

MOST_BYTES = 1 << 20
"""Of each file, which anybody in the container may have written."""

Who = tuple[int, int, tuple[int, ...], str]
"""User, group, supplementary groups, home directory; empty for one that is left as it is."""


class Accounts(NamedTuple):
    """What a container's files say.

    Attributes
    ----------
    passwd, group : str
        Text of the two.
    alone : bool
        Whether only these count: the container has an image's files. Otherwise it has this machine's, and what is
        not in them may be in this machine's other sources.
    """

    passwd: str
    group: str
    alone: bool

    @classmethod
    def of_layers(cls, layers: Sequence[str], *, alone: bool) -> Accounts:
        """Read those of an image's layers; empty where they have none."""
        from ..images.merged import Stack

        stack = Stack(layers)
        return cls(stack.read_text("etc/passwd"), stack.read_text("etc/group"), alone)

    @classmethod
    def of_root(cls, root_fd: int, *, alone: bool) -> Accounts:
        """Read those that a container has now: one may have been added since it was started."""
        return cls(_text(root_fd, "etc/passwd"), _text(root_fd, "etc/group"), alone)

    def names(self, user: str) -> bool:
        """Whether a user, by name or number, is in the file."""
        return any(user in (e[0], e[2]) for e in (line.split(":") for line in self.passwd.splitlines()) if len(e) > 2)


def _text(root_fd: int, path: str) -> str:
    try:
        # What is there may be a FIFO, which nobody writes to.
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # as in Docker, no file is an empty one
        return ""
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return file.read(MOST_BYTES).decode(errors="replace")


def resolve(spec: ContainerSpec, accounts: Accounts | None) -> Who:
    """Turn ``name|uid[:group|gid]`` into IDs, supplementary groups and home directory.

    Parameters
    ----------
    spec : ContainerSpec
        Whose ``user`` and ``groups`` are meant.
    accounts : Accounts or None
        The container's; None where it has this machine's files as they are.

    Raises
    ------
    UsageError
        If a name is not there.
    """
    from ..images.users import resolve_user

    if accounts is None or not (accounts.alone or accounts.names(spec.user.partition(":")[0])):
        return _of_this_machine(spec)
    try:
        return resolve_user(spec.user, spec.groups, accounts.passwd, accounts.group)
    except UsageError:
        if accounts.alone:
            raise
        return _of_this_machine(spec)


def _of_this_machine(spec: ContainerSpec) -> Who:
    user, _, group = spec.user.partition(":")
    extra = tuple(_gid(g) for g in spec.groups)
    if not user:
        return 0, _gid(group) if group else 0, extra, ""
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        if not user.isdigit():
            raise UsageError(
                f"--user {spec.user}: no user {user!r} in /etc/passwd; give a name that is, or a number"
            ) from None
        return int(user), _gid(group) if group else 0, extra, "/"
    if group:
        return entry.pw_uid, _gid(group), extra, entry.pw_dir
    groups = set(os.getgrouplist(entry.pw_name, entry.pw_gid)) - {entry.pw_gid} if entry.pw_uid else set()
    return entry.pw_uid, entry.pw_gid, (*extra, *sorted(groups)), entry.pw_dir


def _gid(group: str) -> int:
    if group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"no group {group!r} in /etc/group; give a name that is, or a number") from None
