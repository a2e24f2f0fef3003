"""PID 1 of the guest: mounts what its kernel has to offer, starts the engine, and powers off when that has ended.

Should: leave the host's files as they are; containers get their copy-on-write layer from the engine, as on any
machine. Mustn't: return, for a kernel whose PID 1 ends panics.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import signal
import socket
import struct
import time
import traceback

from .line import READY, Line

MOUNTS = (
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devpts", "/dev/pts", "ptmxmode=666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", ""),
)
LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
)
MODULES, DRAWBACK = "JUPYTER_NS_MODULES", "JUPYTER_NS_DRAWBACK"
"""Environment variables: where the kernel's package has its modules; what the place of the guest's memory costs."""
NETWORKS = (
    "drivers/net/veth.ko",
    "lib/crc-ccitt.ko",
    "net/ipv6/ipv6.ko",
    "net/llc/llc.ko",
    "net/802/stp.ko",
    "net/bridge/bridge.ko",
    "net/sched/sch_tbf.ko",
    "net/sched/sch_netem.ko",
)
"""Modules, in the order in which they need each other."""
SYSTEM_CALL_COST = "a system call costs 10 to 20 µs there, and all containers share one CPU"

_FINIT_MODULE = 313  # x86, the only architecture with such a kernel in distributions
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


def main(started_ms: int) -> None:
    """Be PID 1.

    Parameters
    ----------
    started_ms : int
        When the keeper started the guest, milliseconds since the epoch.
    """
    try:
        _prepare()
        line = Line()
        os.write(line.fileno(), READY)
        boot_s = max(0.0, time.time() - started_ms / 1000)
        _serve(line, f"user-mode Linux {platform.release()}, booted in {boot_s:.1f} s")
    except BaseException:
        traceback.print_exc()
    finally:
        with open("/proc/sysrq-trigger", "w") as f:  # reboot(2) would only halt
            f.write("o")
        signal.pause()


def _serve(line: Line, guest: str) -> None:
    """Run the engine in a child, and wait for it and for whatever is orphaned meanwhile."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _libc.prctl(15, b"jupyter-ns-engi", 0, 0, 0)  # PR_SET_NAME
            from ..runtime import engine

            costs = [SYSTEM_CALL_COST, os.environ.get(DRAWBACK, "")]
            engine.serve(line, guest="; ".join([guest, *filter(None, costs)]))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    while os.wait()[0] != pid:
        pass


def _prepare() -> None:
    _mount("devtmpfs", "/dev", "")
    for number in (1, 2):  # until here, the console may not have existed
        os.dup2(os.open("/dev/console", os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC), number)
    for kind, path, options in MOUNTS:
        os.makedirs(path, exist_ok=True)
        _mount(kind, path, options)
    for target, name in LINKS:
        os.symlink(target, f"/dev/{name}")
    with open("/proc/filesystems") as f:
        if "\toverlay\n" not in f.read():
            _load("fs/overlayfs/overlay.ko")
            for module in NETWORKS:  # nobody here could load them on demand
                with contextlib.suppress(OSError):  # then there are no networks, and the engine's probe says so
                    _load(module)
    socket.sethostname("guest")
    _raise_loopback()


def _mount(kind: str, path: str, options: str) -> None:
    if _libc.mount(kind.encode(), path.encode(), kind.encode(), 0, options.encode()):
        number = ctypes.get_errno()
        if number != errno.EBUSY:  # CONFIG_DEVTMPFS_MOUNT: the kernel has mounted it already
            raise OSError(number, os.strerror(number), path)


def _load(module: str) -> None:
    path = f"{os.environ[MODULES]}/{platform.release()}/kernel/{module}"
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if _libc.syscall(_FINIT_MODULE, fd, b"", 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    os.close(fd)


def _raise_loopback() -> None:
    """Bring ``lo`` up: netdevice(7)."""
    with socket.socket() as s:
        request = fcntl.ioctl(s, _SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
        (flags,) = struct.unpack_from("h", request, 16)
        fcntl.ioctl(s, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
