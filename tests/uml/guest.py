"""Run a command on another kernel: ``python tests/uml/guest.py [-u UID] [--] COMMAND [ARG…]``.

User-mode Linux is a Linux kernel that runs as an ordinary process; it needs no privilege. The guest sees this
machine's files, copy-on-write (hostfs below, a tmpfs above), and a pure cgroup version 2 with every controller
passed on. The command's output and exit status come back; what it writes to files does not.

Needs busybox (static) and a kernel: Debian's ``user-mode-linux`` package, or a file named by ``$UML``.
``$UML_KARGS`` is added to its command line (``seccomp=on`` makes Linux 7 twice as fast), ``$UML_MEM`` is its
memory (``768M``), ``$UML_CPU`` the processor that it is pinned to: unpinned, it is two to five times slower.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence

NO_GUEST = 250
"""Exit status if the guest itself failed."""
OLD_KERNEL = os.environ.get("UML_OLD", str(pathlib.Path(__file__).parents[2] / ".cache/uml-5.10/usr/bin/linux.uml"))
"""Linux 5.10, as scripts/fetch-old-kernel leaves it."""
MODULES = """fs/overlayfs/overlay drivers/net/veth lib/crc-ccitt net/ipv6/ipv6 net/llc/llc net/802/stp net/bridge/bridge
    net/sched/sch_tbf net/sched/sch_netem"""
INSMOD = f"""$b grep -qw overlay /proc/filesystems ||
    for m in {" ".join(MODULES.split())}; do $b insmod {{modules}}/kernel/$m.ko; done"""
OVERLAY = "$b mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work root /mnt/root"
PARTS = """$b mount -t tmpfs -o mode=755 root /mnt/root
for d in proc sys dev mnt root home srv tmp; do $b mkdir /mnt/root/$d; done
$b chmod 1777 /mnt/root/tmp
$b cp -a /etc /mnt/root
for d in /bin /sbin /lib /lib64 /usr /var /opt {needed}; do
    if [ -h $d ]; then
        $b cp -a $d /mnt/root
    elif [ -d $d ] && [ ! -d /mnt/root$d ]; then
        $b mkdir -p /mnt/root$d
        $b mount --bind $d /mnt/root$d
        $b mount -o remount,bind,ro /mnt/root$d
    fi
done
$b mount -t tmpfs -o mode=1777 tmp /mnt/root/var/tmp"""
"""For Linux before 6: what an overlay shows of a hostfs cannot be opened there."""
READ_ONLY = "$b mount --bind / /mnt/root; $b mount -o remount,bind,ro /mnt/root"
ROOTS = {"overlay": OVERLAY, "parts": PARTS, "read-only": READ_ONLY}
NOISE = ("Failed to initialize ubd", "mmapper_init", "sysrq: Power Off", "reboot: Power down")

INIT = """#!/bin/sh
b={busybox}
$b mount -t proc proc /proc
$b mount -t tmpfs -o mode=755 rw /mnt
$b mkdir /mnt/upper /mnt/work /mnt/root
{insmod}
{root}
cd /mnt/root
$b mount -t proc proc proc
$b mount -t sysfs sys sys
$b mount -t devtmpfs dev dev
$b mkdir -p dev/pts dev/shm run
$b mount -t devpts -o newinstance,ptmxmode=666 pts dev/pts
$b mount -t tmpfs -o mode=1777 shm dev/shm
$b mount -t tmpfs -o mode=755 run run
[ -e dev/fd ] || $b ln -s /proc/self/fd dev/fd
$b mount -t cgroup2 cgroup2 sys/fs/cgroup
for c in $($b cat sys/fs/cgroup/cgroup.controllers); do echo +$c > sys/fs/cgroup/cgroup.subtree_control; done
$b mkdir sys/fs/cgroup/session
for c in $($b cat sys/fs/cgroup/cgroup.controllers); do echo +$c > sys/fs/cgroup/session/cgroup.subtree_control; done
$b mkdir sys/fs/cgroup/session/notebook
{delegate}
for d in {passed}; do $b chmod o+x /mnt/root$d; done
echo 0 > sys/fs/cgroup/session/notebook/cgroup.procs
$b ip link set lo up
# A chroot would not do: unshare(CLONE_NEWUSER) is refused in one.
$b pivot_root . mnt
cd /
(
{setup}
)
$b cp /mnt{scratch}/command /run/command  # the way to the scratch directory may be closed to the user
{enter} /bin/sh /run/command
echo $? > /mnt{scratch}/status
echo o > /proc/sysrq-trigger
$b sleep 10
"""


def missing(kernel: str = "") -> str:
    """Return what is missing to start a guest; empty if nothing is."""
    if not os.access(kernel or _kernel(), os.X_OK):
        return "no user-mode Linux kernel: install Debian's user-mode-linux package, or set UML to one"
    if not shutil.which("busybox"):
        return "no busybox: install busybox-static"
    return ""


def run(
    command: Sequence[str],
    *,
    uid: int = 0,
    delegated: bool = True,
    setup: str = "",
    root: str = "overlay",
    kargs: str = "",
    kernel: str = "",
    timeout_s: float = 800.0,
) -> subprocess.CompletedProcess[str]:
    """Run a command in a fresh guest.

    Parameters
    ----------
    command : sequence of str
        Program and arguments; it starts in this process's working directory and environment.
    uid : int
        Who runs it there; also the group.
    delegated : bool
        Whether its cgroup belongs to that user, as systemd's ``Delegate=yes`` does it.
    setup : str
        Lines of sh that root carries out before, to cripple the machine.
    root : str
        ``overlay``: this machine's files, copy-on-write. ``parts``: a tmpfs with what is needed, read-only, mounted
        into it. ``read-only``: this machine's files, on a kernel without overlay file systems.
    kargs : str
        More of the kernel's command line.
    kernel : str
        Another than the usual one, as a path.
    timeout_s : float
        After which the guest is ended.

    Returns
    -------
    subprocess.CompletedProcess
        Both output streams in ``stdout``; ``returncode`` is `NO_GUEST` if the guest did not come so far.

    Raises
    ------
    subprocess.TimeoutExpired
        If it takes longer.
    """
    kernel = kernel or _kernel()
    with tempfile.TemporaryDirectory(prefix="jupyter_ns-uml-") as scratch:
        os.chmod(scratch, 0o755)
        insmod = INSMOD.format(modules=_modules(kernel)) if root != "read-only" else ""
        _write_files(scratch, command, uid, delegated, setup, root, insmod)
        arguments = [
            "setpriv", "--pdeathsig", "TERM", "taskset", "-c", os.environ.get("UML_CPU", "0"),
            kernel, f"mem={os.environ.get('UML_MEM', '768M')}",
            "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={scratch}/init",
            f"umid=guest{os.getpid()}", f"uml_dir={scratch}", "loglevel=3", "con=null", "con0=null,fd:1",
            *shlex.split(f"{os.environ.get('UML_KARGS', '')} {kargs}"),
        ]  # fmt: skip
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        with process:
            try:
                said, complained = process.communicate(timeout=timeout_s)
            finally:  # it leads a group of its own, and its helper processes outlive it where it is killed
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
        lines = (line for line in said.splitlines(keepends=True) if not line.startswith(NOISE))
        output = "".join(lines).replace("\r\n", "\n")
        try:
            with open(f"{scratch}/status") as f:
                status = int(f.read())
        except (FileNotFoundError, ValueError):
            return subprocess.CompletedProcess(arguments, NO_GUEST, output + complained)
    return subprocess.CompletedProcess(arguments, status, output)


def _kernel() -> str:
    return os.environ.get("UML") or shutil.which("linux.uml") or ""


def _modules(kernel: str) -> str:
    """Return the directory of a kernel's modules: it lies beside it as in the package, installed or unpacked."""
    prefix = pathlib.Path(kernel).resolve().parents[1]
    return next(iter(glob.glob(f"{prefix}/lib/uml/modules/*")), "/nonexistent")


def _write_files(
    scratch: str, command: Sequence[str], uid: int, delegated: bool, setup: str, root: str, insmod: str
) -> None:
    session = "sys/fs/cgroup/session"
    chown = f"$b chown {uid}:{uid} {session} {session}/cgroup.* {session}/notebook {session}/notebook/cgroup.*"
    init = INIT.format(
        busybox=shutil.which("busybox"),
        insmod=insmod,
        root=ROOTS[root].replace("{needed}", shlex.join(sorted({sys.prefix, sys.base_prefix, os.getcwd()}))),
        setup=setup or ":",
        passed=shlex.join(_above(sys.executable, os.path.realpath(sys.executable), os.getcwd()))
        if uid and root == "overlay"
        else "",
        delegate=chown if uid and delegated else "",
        enter=f"setpriv --reuid={uid} --regid={uid} --clear-groups" if uid else "",
        scratch=scratch,
    )
    kept = {k: v for k, v in os.environ.items() if k.isidentifier()}
    export = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in kept.items())
    lines = f"{export}cd {shlex.quote(os.getcwd())}\nexec {shlex.join(command)}\n"
    for name, text, mode in (("init", init, 0o755), ("command", lines, 0o644)):
        with open(f"{scratch}/{name}", "w") as f:
            f.write(text)
        os.chmod(f.name, mode)


def _above(*paths: str) -> list[str]:
    """Return the directories above paths: who is not root must be able to pass them."""
    return sorted({str(directory) for path in paths for directory in pathlib.Path(path).parents})


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-u", "--uid", type=int, default=0, help="user and group in the guest")
    parser.add_argument("--not-delegated", action="store_true", help="the user's cgroup belongs to root")
    parser.add_argument("--root", choices=list(ROOTS), default="overlay", help="what its root is made of")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if missing() or not command:
        parser.error(missing() or "COMMAND is missing")
    done = run(command, uid=options.uid, delegated=not options.not_delegated, root=options.root)
    sys.stdout.write(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
