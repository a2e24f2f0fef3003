"""Steps and plans: the table of operations, their description and their binary image.

One step is one system call; ``core/core.c`` names the exceptions. `OPS` is the only
place that knows an operation's arguments: description, image and checks iterate it.
"""

from __future__ import annotations

import errno
import json
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from ..namespaces import KINDS

# What `OPS` says of the operation decides: str, int, bytes, None, or a tuple of them.
Argument = Any


class Op(IntEnum):
    """The core's operations; ``enum jns_op`` in ``core/core.h``."""

    MOUNT = 1
    UMOUNT = 2
    PIVOT_ROOT = 3
    CHDIR = 4
    MKDIR = 5
    RMDIR = 6
    MKNOD = 7
    SYMLINK = 8
    WRITE = 9
    HOSTNAME = 10
    DOMAINNAME = 11
    LINK_UP = 12
    UNSHARE = 13
    SETNS = 14
    SETNS_PATH = 15
    WAIT = 16
    PRCTL = 17
    BOUNDING = 18
    CAPSET = 19
    SETGROUPS = 20
    SETRESGID = 21
    SETRESUID = 22
    RLIMIT = 23
    SECCOMP = 24
    SETSID = 25
    UMASK = 26
    KEYRING = 27
    MOUNT_SETATTR = 28
    SIGNALS = 29
    FDS = 30
    INIT = 31
    EXEC = 32
    CHMOD = 33
    PAUSE = 34
    IDMAP = 35
    FSIDS = 36
    CLOSE = 37
    CHOWN = 38
    CTTY = 39
    OPEN_TREE = 40
    MOVE_MOUNT = 41
    PLAN = 42


MOUNT_FLAGS = {
    "MS_RDONLY": 1,
    "MS_NOSUID": 2,
    "MS_NODEV": 4,
    "MS_NOEXEC": 8,
    "MS_REMOUNT": 32,
    "MS_BIND": 4096,
    "MS_MOVE": 8192,
    "MS_REC": 16384,
    "MS_UNBINDABLE": 1 << 17,
    "MS_PRIVATE": 1 << 18,
    "MS_SLAVE": 1 << 19,
    "MS_SHARED": 1 << 20,
    "MS_RELATIME": 1 << 21,
    "MS_STRICTATIME": 1 << 24,
}
_CLONE_FLAGS = {f"CLONE_NEW{'NS' if k.name == 'mount' else k.proc.upper()}": k.flag for k in KINDS}
_PRCTL = {1: "PR_SET_PDEATHSIG", 4: "PR_SET_DUMPABLE", 8: "PR_SET_KEEPCAPS", 38: "PR_SET_NO_NEW_PRIVS"}
RLIMITS = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
]


def flag_names(value: int, table: Mapping[str, int]) -> str:
    """Spell out a flag word: ``MS_BIND|MS_REC``; what has no name stays hexadecimal.

    Examples
    --------
    >>> flag_names(4096 | 1, MOUNT_FLAGS)
    'MS_RDONLY|MS_BIND'
    """
    names = [name for name, bit in table.items() if value & bit]
    rest = value & ~sum(table.values())
    if rest or not names:
        names.append(hex(rest) if rest else "0")
    return "|".join(names)


def _unlimited(value: int) -> str:
    return "unlimited" if value in (-1, 2**64 - 1) else str(value)


class OpInfo(NamedTuple):
    """How one operation is written.

    Attributes
    ----------
    call : str
        The system call, as its man page names it.
    man : str
        The man page.
    signature : str
        One letter an argument: ``s`` string, ``n`` number, ``b`` bytes (their length goes into n0),
        ``l`` list of strings, ``i`` array of 32-bit integers (their count goes into n0),
        ``p`` a BPF program (its instructions' count goes into n0),
        ``f`` pairs of descriptor name and number (pairs' count goes into n0).
    show : tuple of str
        How to print each: a name and, after a colon, a format (``flags``, ``oct``, ``clone``...).
    """

    call: str
    man: str
    signature: str
    show: tuple[str, ...] = ()


OPS: dict[Op, OpInfo] = {
    Op.MOUNT: OpInfo("mount", "mount(2)", "sssns", ("source", "target", "fstype", "flags:mount", "data")),
    Op.UMOUNT: OpInfo("umount2", "umount(2)", "sn", ("target", "flags:umount")),
    Op.PIVOT_ROOT: OpInfo("pivot_root", "pivot_root(2)", "ss", ("new_root", "put_old")),
    Op.CHDIR: OpInfo("chdir", "chdir(2)", "s", ("path",)),
    Op.MKDIR: OpInfo("mkdir", "mkdir(2)", "sn", ("path", "mode:oct")),
    Op.RMDIR: OpInfo("rmdir", "rmdir(2)", "s", ("path",)),
    Op.MKNOD: OpInfo("mknod", "mknod(2)", "snn", ("path", "mode:mode", "dev:dev")),
    Op.SYMLINK: OpInfo("symlink", "symlink(2)", "ss", ("target", "path")),
    Op.WRITE: OpInfo("write", "write(2)", "sb", ("path", "data:text")),
    Op.HOSTNAME: OpInfo("sethostname", "sethostname(2)", "b", ("name:text",)),
    Op.DOMAINNAME: OpInfo("setdomainname", "setdomainname(2)", "b", ("name:text",)),
    Op.LINK_UP: OpInfo("ioctl(SIOCSIFFLAGS, IFF_UP)", "netdevice(7)", "s", ("interface",)),
    Op.UNSHARE: OpInfo("unshare", "unshare(2)", "n", ("flags:clone",)),
    Op.SETNS: OpInfo("setns", "setns(2)", "nn", ("fd", "nstype:clone")),
    Op.SETNS_PATH: OpInfo("setns", "setns(2)", "sn", ("path", "nstype:clone")),
    Op.WAIT: OpInfo("read", "pipe(7)", "s", ("go-ahead",)),
    Op.PRCTL: OpInfo("prctl", "prctl(2)", "nn", ("option:prctl", "arg2")),
    Op.BOUNDING: OpInfo("prctl(PR_CAPBSET_DROP)", "capabilities(7)", "nn", ("keep:caps", "last_cap")),
    Op.CAPSET: OpInfo("capset", "capset(2)", "nn", ("permitted=effective:caps", "inheritable:caps")),
    Op.SETGROUPS: OpInfo("setgroups", "setgroups(2)", "i", ("gids",)),
    Op.SETRESGID: OpInfo("setresgid", "setresgid(2)", "n", ("gid",)),
    Op.SETRESUID: OpInfo("setresuid", "setresuid(2)", "n", ("uid",)),
    Op.RLIMIT: OpInfo("prlimit", "getrlimit(2)", "nnn", ("resource:rlimit", "soft:lim", "hard:lim")),
    Op.SECCOMP: OpInfo("seccomp(SECCOMP_SET_MODE_FILTER)", "seccomp(2)", "p", ("filter:program",)),
    Op.SETSID: OpInfo("setsid", "setsid(2)", "", ()),
    Op.UMASK: OpInfo("umask", "umask(2)", "n", ("mask:oct",)),
    Op.KEYRING: OpInfo("keyctl(KEYCTL_JOIN_SESSION_KEYRING)", "keyctl(2)", "", ()),
    Op.MOUNT_SETATTR: OpInfo(
        "mount_setattr", "mount_setattr(2)", "snnn", ("path", "flags:at", "attr_set:attr", "attr_clr:attr")
    ),
    Op.SIGNALS: OpInfo("rt_sigaction(SIG_DFL), rt_sigprocmask", "sigaction(2)", "", ()),
    Op.FDS: OpInfo("dup3", "dup(2)", "f", ("fds",)),
    Op.INIT: OpInfo("clone", "pid_namespaces(7)", "", ()),
    Op.EXEC: OpInfo("execve", "execve(2)", "lll", ("paths", "argv", "envp:count")),
    Op.CHMOD: OpInfo("chmod", "chmod(2)", "sn", ("path", "mode:oct")),
    Op.CHOWN: OpInfo("chown", "chown(2)", "snn", ("path", "owner", "group")),
    Op.CTTY: OpInfo("open, dup3", "tty_ioctl(4)", "s", ("path",)),
    Op.PLAN: OpInfo("read", "pipe(7)", "s", ("plan",)),
    Op.PAUSE: OpInfo("rt_sigtimedwait, wait4", "pid_namespaces(7)", "", ()),
    Op.IDMAP: OpInfo(
        "open_tree, mount_setattr(MOUNT_ATTR_IDMAP), move_mount", "mount_setattr(2)", "ssn", ("source", "target", "fd")
    ),
    Op.OPEN_TREE: OpInfo("open_tree(OPEN_TREE_CLONE)", "open_tree(2)", "snn", ("path", "fd", "flags:at")),
    Op.MOVE_MOUNT: OpInfo("move_mount", "move_mount(2)", "sn", ("target", "fd")),
    Op.FSIDS: OpInfo("setfsuid, setfsgid, capset", "setfsuid(2)", "nn", ("uid", "gid")),
    Op.CLOSE: OpInfo("close", "close(2)", "n", ("fd",)),
}


class Step(NamedTuple):
    """One step of a plan: a tuple, for plans are made of a hundred, and compared.

    Attributes
    ----------
    op : Op
        What to do.
    args : tuple
        As `OPS` has them for `op`.
    tolerate : int
        An errno that counts as success; 0 is none.
    why : str
        What the step is for, in a few words.
    option : str
        The option that asked for it; empty for the default container.
    """

    op: Op
    args: tuple[Argument, ...] = ()
    tolerate: int = 0
    why: str = ""
    option: str = ""

    def describe(self) -> str:
        """Write the step as a call, such as ``mount("proc", "/proc", "proc", MS_NOSUID)``."""
        info = OPS[self.op]
        shown = [_show(how, arg) for how, arg in zip(info.show, self.args, strict=True)]
        # Some calls are named with the one argument that never changes.
        call, closing = (info.call[:-1] + ", ", ")") if info.call.endswith(")") else (info.call + "(", ")")
        text = (call + ", ".join(shown)).removesuffix(", ") + closing
        if self.tolerate:
            text += f"  [{errno.errorcode[self.tolerate]} is fine]"
        return text


def _show(how: str, value: Argument) -> str:
    name, _, form = how.partition(":")
    if isinstance(value, tuple):
        if form == "count":
            return f"{len(value)} variables"
        if value and isinstance(value[0], tuple):
            return ", ".join(f"{n}→{fd}" for n, fd in value)
        return "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, bytes):
        if form == "program":
            return f"{len(value) // 8} BPF instructions"
        return repr(value.decode(errors="replace"))
    if isinstance(value, int):
        return _show_number(name, form, value)
    return "NULL" if value is None else json.dumps(value, ensure_ascii=False)


def _show_number(name: str, form: str, value: int) -> str:
    if form == "mount":
        return flag_names(value, MOUNT_FLAGS)
    if form == "clone":
        return flag_names(value, _CLONE_FLAGS)
    if form == "umount":
        return flag_names(value, {"MNT_FORCE": 1, "MNT_DETACH": 2})
    if form == "at":
        return flag_names(value, {"AT_RECURSIVE": 0x8000})
    if form == "attr":
        return flag_names(value, {"MOUNT_ATTR_RDONLY": 1})
    if form == "prctl":
        return _PRCTL.get(value, str(value))
    if form == "rlimit":
        return "RLIMIT_" + RLIMITS[value]
    if form == "lim":
        return _unlimited(value)
    if form == "oct":
        return f"{value:04o}"
    if form == "mode":
        kind = {stat.S_IFCHR: "S_IFCHR|", stat.S_IFREG: "S_IFREG|"}.get(stat.S_IFMT(value), "")
        return f"{kind}{stat.S_IMODE(value):04o}"
    if form == "dev":
        return f"{value >> 8}:{value & 255}"
    if form == "caps":
        return f"{value:#x}"
    return f"{name}={value}" if name in ("last_cap", "uid", "gid", "fd") else str(value)


_STEP = struct.Struct("<ii5q4I")
assert _STEP.size == 64


@dataclass(frozen=True, slots=True)
class Plan:
    """How to build one container: pure data.

    Attributes
    ----------
    clone_flags : int
        Namespaces made by clone3(2) itself (for a program; a notebook cell's are unshared by a step).
    steps : tuple of Step
        In order.
    weakened : tuple of str
        What the plan could not give on this host, each with the reason.
    outside : tuple of str
        What the engine does meanwhile, and has done before it gives the last go-ahead.
    ground : int
        How many of the steps make the ground: namespaces, and a root of its own. They depend on little that is asked
        for, the others on all of it.
    """

    clone_flags: int
    steps: tuple[Step, ...]
    weakened: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    ground: int = 0

    @property
    def cgroup_join(self) -> tuple[str, ...]:
        """The files by which the child puts itself into its cgroup: `PlanInputs.cgroup_join`."""
        return tuple(s.args[0] for s in self.steps[:16] if s.op is Op.WRITE and s.args[1] == "0")

    def first_tmpfs(self) -> int | None:
        """Return the index of the step that mounts the first tmpfs, on which what the container writes is staged."""
        return next((i for i, s in enumerate(self.steps) if s.op is Op.MOUNT and s.args[2] == "tmpfs"), None)

    def describe(self, timings: Sequence[float] = ()) -> str:
        """List the steps with man pages, and microseconds each if `timings` (seconds) are given."""
        width = len(str(len(self.steps)))
        lines = []
        if self.clone_flags:
            lines.append(f"{'':>{width}}  clone3({flag_names(self.clone_flags, _CLONE_FLAGS)})  — clone(2)")
        for i, step in enumerate(self.steps):
            if step.op is Op.WAIT and step.args == ("go",):
                lines += [f"{'':>{width}}  the engine, {line}  — rtnetlink(7)" for line in self.outside]
            took = f"{timings[i] * 1e6:7.0f} µs  " if i < len(timings) else ""
            why = f"  — {step.why}" if step.why else ""
            asked = f" [{step.option}]" if step.option else ""
            lines.append(f"{i + 1:>{width}}  {took}{step.describe()}{why}{asked}  — {OPS[step.op].man}")
        return "\n".join(lines)

    def image(self, fds: Mapping[str, int]) -> bytes:
        """Encode the plan for the core.

        Parameters
        ----------
        fds : mapping of str to int
            The descriptors that steps refer to by name.

        Returns
        -------
        bytes
            64 bytes a step, then the data; ends in NUL.

        Raises
        ------
        KeyError
            If a step names a descriptor that is not in `fds`.
        """
        data = bytearray(64 * len(self.steps))
        seen: dict[bytes, int] = {}
        for i, step in enumerate(self.steps):
            numbers, offsets = [0] * 5, [0] * 4
            n = s = 0
            for letter, arg in zip(OPS[step.op].signature, step.args, strict=True):
                if letter == "n":
                    assert isinstance(arg, int)
                    numbers[n] = arg if arg < 2**63 else arg - 2**64
                    n += 1
                elif arg is None:
                    s += 1
                else:
                    offsets[s] = _put(data, seen, letter, arg, numbers, fds)
                    s += 1
                    n += letter in "bifp"
            if step.op is Op.WRITE:
                # s0 is the path; the length of s1 is n0.
                numbers[0] = len(_raw(step.args[1]))
            _STEP.pack_into(data, 64 * i, step.op, step.tolerate, *numbers, *offsets)
        data.append(0)
        return bytes(data)


def _put(
    data: bytearray,
    seen: dict[bytes, int],
    letter: str,
    arg: Argument,
    numbers: list[int],
    fds: Mapping[str, int],
) -> int:
    """Append one argument's data; return its offset; fill n0 where the argument has a count."""
    if letter == "s":
        return _string(data, seen, str(arg).encode(errors="surrogateescape"))
    if letter == "b":
        raw = _raw(arg)
        numbers[0] = len(raw)
        return _string(data, seen, raw)
    _align(data)
    offset = len(data)
    if letter == "p":
        assert isinstance(arg, bytes)
        numbers[0] = len(arg) // 8
        data += arg
    elif letter == "i":
        numbers[0] = len(arg)
        data += struct.pack(f"<{len(arg)}I", *arg)
    elif letter == "f":
        numbers[0] = len(arg)
        for name, number in arg:
            data += struct.pack("<ii", fds[name], number)
    else:
        assert letter == "l"
        raws = [a.encode(errors="surrogateescape") for a in arg]
        data += bytes(8 * (len(raws) + 2))
        places = [_string(data, seen, raw) for raw in raws]
        struct.pack_into(f"<{len(raws) + 1}Q", data, offset, len(raws), *places)
    return offset


def _raw(arg: Argument) -> bytes:
    return arg if isinstance(arg, bytes) else str(arg).encode(errors="surrogateescape")


def _string(data: bytearray, seen: dict[bytes, int], raw: bytes) -> int:
    if raw not in seen:
        seen[raw] = len(data)
        data += raw
        data.append(0)
    return seen[raw]


def _align(data: bytearray) -> None:
    data += bytes(-len(data) % 8)
