"""What an errno of a step most likely means, and what to try next. Written once, here."""

from __future__ import annotations

import errno

from ..errors import SetupError
from ..plan.steps import Op, Plan, Step

_MOUNT = {
    errno.ENOSPC: "too many mounts: fs.mount-max is reached (proc_sys_fs(5)); fewer -v, or raise it",
    errno.ENOENT: "a path of it does not exist; for -v, the source must exist on the host",
    errno.EPERM: "this host does not let user namespaces make this mount; `%container doctor` says which can",
    errno.ENOTDIR: "a directory was to be mounted on a file, or a file on a directory",
    errno.EINVAL: "the file system refuses these options, or cannot be a layer of an overlay",
    errno.ENODEV: "the kernel does not have this file system (its module may need to be loaded)",
    errno.ELOOP: "overlay file systems are stacked more than two deep here",
    errno.EROFS: "the place is on a read-only file system",
}
_PLACE = {
    errno.EROFS: "the place is on a read-only file system",
    errno.ENOTDIR: "a part of the path is a file",
    errno.ENOENT: "nothing can be made there, for instance in /proc or /sys; give another destination",
}
_BY_OP: dict[Op, dict[int, str]] = {
    Op.MOUNT: _MOUNT,
    Op.MKDIR: _PLACE,
    Op.MKNOD: _PLACE,
    Op.CHDIR: {
        errno.ENOENT: "the working directory does not exist inside; give another with --workdir",
        errno.ENOTDIR: "the working directory is a file",
        errno.EACCES: "the container's user may not enter the working directory; give another with --workdir",
    },
    Op.WRITE: {
        errno.EACCES: "the kernel does not let this namespace write this file",
        errno.EPERM: "the kernel does not let this namespace write this file",
        errno.ERANGE: "the value is out of range",
        errno.EINVAL: "the kernel refused the value",
        errno.ENOENT: "this kernel does not have this file",
    },
    Op.RLIMIT: {errno.EPERM: "the hard limit is above the notebook's own (ulimit -H); ask for less"},
    Op.SETRESUID: {errno.EINVAL: "this ID is not mapped in the user namespace; `%container doctor` shows the range"},
    Op.SETRESGID: {errno.EINVAL: "this ID is not mapped in the user namespace; `%container doctor` shows the range"},
    Op.SETGROUPS: {errno.EPERM: "setgroups is denied in this user namespace (no newgidmap); use the default user"},
    Op.UNSHARE: {
        errno.ENOSPC: "too many namespaces: a /proc/sys/user/max_*_namespaces limit is reached",
        errno.EPERM: "this host does not let this user make namespaces; `%container doctor` says why",
    },
    Op.SECCOMP: {
        errno.EINVAL: "the kernel has no seccomp filters; leave it out with --security-opt seccomp=unconfined"
    },
}


def cause_of(step: Step, number: int) -> str:
    """Return the likely cause and the next thing to try, or an empty string."""
    return _BY_OP.get(step.op, {}).get(number, "")


def setup_error(plan: Plan, index: int, number: int) -> SetupError:
    """Say in words which step failed."""
    step = plan.steps[index]
    return SetupError(
        step=index,
        steps=len(plan.steps),
        call=step.describe(),
        errno=number,
        option=step.option,
        cause=cause_of(step, number),
    )
