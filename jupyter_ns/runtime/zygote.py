"""The zygote: a Python process with IPython and the notebook's libraries imported, ready to be forked.

Single-threaded, so that libc's fork is safe: a library that starts threads when it is
imported is not preloaded. Every cell runs in a fresh child; nothing runs in the zygote.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import os
import random
import select
import signal
import socket
import sys
from typing import Any

import msgpack

from .. import core
from ..namespaces import BY_NAME
from ..plan.build import MNT_DETACH
from ..plan.steps import Op, Plan, Step
from . import figures, payload
from .shell import FAILS, make_shell, run_through
from .zygote_client import FD_ORDER, FIRST_FD

PR_SET_PDEATHSIG = 1
CHANNEL_FD, REPORT_FD, GO_FD = 3, 4, 5
"""Where the first step of a plan puts them: `plan.build`, the stage ``entry``."""
MOST_FILES = 4096
"""Up to which descriptor a cell's files are closed before it ends: old kernels take each close(2) apart."""
HEARD_MS = 100
"""How long a cell that is over waits at most for the engine to hear so."""

REHEARSALS = 16
"""How often the zygote runs a cell, so that the interpreter has adapted its code to it (PEP 659) before any fork."""


def threads() -> int:
    """Count this process's threads, as the kernel does."""
    return len(os.listdir("/proc/self/task"))


class Zygote:
    """Serves the engine's requests: fork, preload."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._children: dict[int, tuple[int, int]] = {}  # pidfd → PID here, PID as the engine counts
        self._to_preload: list[str] = []
        self._unsafe: set[str] = set()
        self.environ: dict[str, str] = {}
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self.shell = make_shell()
        for _ in range(REHEARSALS):
            payload.rehearse(self.shell)

    def run(self) -> None:
        """Serve until the engine closes the socket."""
        while True:
            for fd, _ in self._poll.poll(0 if self._to_preload else None):
                if fd == self._sock.fileno():
                    if not self._on_request():
                        return
                else:
                    self._reap(fd)
            if self._to_preload:
                self._preload_one(self._to_preload.pop(0))
                if not self._to_preload:
                    run_through(self.shell, FAILS)

    def _on_request(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, 1 << 20, len(FD_ORDER) + 5)
        except ConnectionResetError:  # the engine left without reading our last message
            return False
        if not data:
            return False
        message = msgpack.unpackb(data)
        if "fork" in message:
            self._fork(message, fds)
        elif "preload" in message:
            self._to_preload += [m for m in message["preload"] if m not in sys.modules]
        elif "hello" in message:
            self.environ = message["hello"]["environ"]
        return True

    def _fork(self, message: dict[str, Any], fds: list[int]) -> None:
        own = message["pid_namespace"]
        pid = -1
        try:
            if own and message["joins"]:
                core.setns(fds[-1], BY_NAME["pid"].flag)  # for children only: pid_namespaces(7)
            elif own:
                core.unshare(BY_NAME["pid"].flag)  # likewise
            gc.freeze()
            pid = os.fork()
        except OSError as e:
            self._send({"failed": message["fork"], "errno": e.errno})
            return
        finally:
            if own and pid != 0:
                core.setns(self._pid_namespace, BY_NAME["pid"].flag)
        if pid == 0:
            self._be_payload(message, fds)
        for fd in fds:
            os.close(fd)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid, visible_pid(pidfd)
        self._poll.register(pidfd, select.POLLIN)
        self._send({"forked": message["fork"], "pid": self._children[pidfd][1]})

    def _be_payload(self, message: dict[str, Any], fds: list[int]) -> None:
        """In the child: move into the container, make ready, wait, run the cell. Never returns."""
        code = 125
        try:
            self._sock.detach()
            for number, fd in enumerate(fds, start=FIRST_FD):
                os.dup2(fd, number, inheritable=False)
            report, go = (FIRST_FD + FD_ORDER.index(name) for name in ("report", "go"))
            image, steps = message["image"], message["steps"]
            wait = steps - 1  # the last step; what can be done before it, a cell need not wait for
            if core.execute_image(image, steps, report, go, end=wait) == 0:
                reseed()
                os.environ.clear()
                os.environ.update(self.environ)
                if message["enters"]:
                    os.close(GO_FD + 1)  # the pidfd of the container's PID 1 has served
                payload.open_streams()
                if message["parked"]:
                    payload.rehearse(self.shell)
                    rehearse_end()
                payload.connect(CHANNEL_FD)
                gc.freeze()
                gc.enable()
                # Beside others that go on, nothing is to be read into the end of one process.
                last = -1 if message["enters"] else fcntl.fcntl(REPORT_FD, fcntl.F_DUPFD_CLOEXEC, REPORT_FD)
                pipe = os.fstat(last) if last >= 0 else None
                if core.execute_image(image, steps, REPORT_FD, GO_FD, first=wait) == 0:
                    code = payload.run(self.shell, CHANNEL_FD)
                    if pipe is not None:
                        # With their locks and ports, which the next cell may want.
                        os.closerange(CHANNEL_FD, last)
                        os.closerange(last + 1, MOST_FILES)
                        say_done(last, pipe, code, HEARD_MS)
        except BaseException:
            with contextlib.suppress(BaseException):
                sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def _reap(self, pidfd: int) -> None:
        pid, visible = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        self._send({"exited": visible, "status": status})

    def _send(self, message: dict[str, Any]) -> None:
        self._sock.send(msgpack.packb(message))

    def _preload_one(self, module: str) -> None:
        """Import one module, first in a child: what starts threads, crashes or talks is not for us."""
        if module in sys.modules or module in self._unsafe:
            return
        pid = os.fork()
        if pid == 0:
            quietly_import(module)
            os._exit(0 if threads() == 1 else 1)
        _, status = os.waitpid(pid, 0)
        if status == 0:
            quietly_import(module)
            gc.collect()
        else:
            self._unsafe.add(module)


def quietly_import(module: str) -> None:
    """Import `module` with its output thrown away; a failure is the cell's to see, not ours."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    saved = [os.dup(n) for n in (1, 2)]
    try:
        for n in (1, 2):
            os.dup2(null, n)
        with contextlib.suppress(Exception):
            importlib.import_module(module)
        if module in figures.LIBRARIES:
            figures.prepare()
    finally:
        for n, fd in zip((1, 2), saved, strict=True):
            os.dup2(fd, n)
            os.close(fd)
        os.close(null)


def reseed() -> None:
    """Give the child random numbers of its own (`random` reseeds itself after a fork; numpy does not)."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def say_done(fd: int, pipe: os.stat_result, code: int, heard_ms: int) -> None:
    """Report that the cell is over, and wait until the engine has heard so: it ends this process when there is time."""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(fd), pipe):  # else the cell has closed it, and opened a file in its place
            os.write(fd, core.REPORT.pack(core.DONE, code, 0, 0))
            heard = select.poll()
            heard.register(fd, 0)  # the engine closes its end: POLLERR
            heard.poll(heard_ms)


def rehearse_end() -> None:
    """Do what follows on a cell, as `payload.rehearse` does what comes before."""
    reading, writing = os.pipe()
    say_done(writing, os.fstat(writing), 0, 0)
    os.close(reading)
    os.close(writing)


def visible_pid(pidfd: int) -> int:
    """Return a process's PID as this mount of /proc shows it, which is the engine's: proc_pid_fdinfo(5)."""
    with open(f"/proc/self/fdinfo/{pidfd}") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Pid:"))


def own_pid_namespace() -> None:
    """Go on as PID 1 of a new namespace, where this one belongs to a user namespace above ours.

    After each fork the zygote has to return from the child's PID namespace to its own, and setns(2) wants
    CAP_SYS_ADMIN over that. The first process stays and passes the exit status on.
    """
    flag = BY_NAME["pid"].flag
    current = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        core.setns(current, flag)
    except PermissionError:
        core.unshare(flag)
        pid = os.fork()
        if pid:
            _, status = os.waitpid(pid, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
        die_with_parent()
    finally:
        os.close(current)


def rejoin_mounts() -> None:
    """Undo what `protect` did, except that this program is executed from a mount that is read-only.

    Into a mount namespace of a user namespace above ours there is no way back; there the mount goes alone.
    """
    directory = os.getcwd()
    fd = os.open(f"/proc/{os.getppid()}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        core.setns(fd, BY_NAME["mount"].flag)
        os.chdir(directory)
    except PermissionError:
        steps = (Step(Op.UMOUNT, (os.path.realpath(sys.executable), MNT_DETACH)),)
        core.execute_image(Plan(0, steps).image({}), 1, -1, -1)
    finally:
        os.close(fd)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main(fd: int) -> None:
    """Be the zygote on the socket `fd`."""
    # A child collects its own garbage only: looking at all that is here would copy it, pages and all (gc.freeze).
    gc.disable()
    die_with_parent()
    if os.getppid() == 1:
        return  # the engine died before the line above
    rejoin_mounts()
    own_pid_namespace()
    sys.argv[:] = [""]
    Zygote(socket.socket(fileno=fd)).run()
