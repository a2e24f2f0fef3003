"""The guest's keeper: boots it, passes bytes on between it and the notebook's kernel, and ends it.

Single-threaded, so that PR_SET_PDEATHSIG, which follows the creating thread, holds for its whole life.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping

from ..errors import ContainerError, EngineError, to_dict
from ..runtime.protocol import CHUNK, HIGH_WATER, Kind, Outgoing, encode
from . import kernel
from .init import DRAWBACK, MODULES
from .line import READY, RECEIPT, WINDOW_BYTES

BOOT_S, POWER_OFF_S = 60.0, 5.0
PREFIX = "jupyter_ns-guest-"
TAIL_BYTES = 4096
"""Of what the guest's console says, for the error message."""

INIT = """#!/bin/sh
# The first program of a guest of jupyter_ns. The console may not exist yet.
exec < /dev/null > /dev/null 2>&1
export {assignments}
exec {command}
"""
_PR_SET_PDEATHSIG = 1


def main(fd: int) -> None:
    """Keep a guest for the notebook's kernel at the other end of the socket `fd`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with socket.socket(fileno=fd) as notebook:
        try:
            _keep(notebook, os.environ)
        except (ContainerError, OSError) as e:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                notebook.setblocking(True)
                notebook.sendall(encode(Kind.ERROR, "", to_dict(e)))
                while notebook.recv(CHUNK):  # what it has sent meanwhile; unread, it would hide the error
                    pass


def _keep(notebook: socket.socket, environ: Mapping[str, str]) -> None:
    binary, memory = kernel.find_kernel(environ), kernel.find_memory(environ)
    _collect_stale(memory.directory)
    with _scratch(memory.directory) as scratch:
        guest = Guest(notebook, binary, memory, scratch, environ)
        try:
            booted = guest.boot()
            shutil.rmtree(scratch, ignore_errors=True)  # it has served: nothing is left, whoever dies now
            if booted:
                guest.relay()
        finally:
            guest.end()


class Guest:
    """One guest: its process, its serial line, its console."""

    def __init__(
        self, notebook: socket.socket, binary: str, memory: kernel.Memory, scratch: str, environ: Mapping[str, str]
    ) -> None:
        self._notebook = notebook
        self._line, theirs = socket.socketpair()
        self._receipts, their_receipts = socket.socketpair()
        self._console, console = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._tail = b""
        _write_init(scratch, binary, memory.drawback)
        cpus = sorted(os.sched_getaffinity(0))
        with theirs, their_receipts:
            self._process = subprocess.Popen(
                [
                    binary,
                    f"mem={memory.size_bytes >> 20}M",
                    "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={scratch}/init",
                    f"ssl0=fd:{theirs.fileno()}", f"ssl1=fd:{their_receipts.fileno()}",
                    "con=null", "con0=null,fd:1", "loglevel=3", "panic=1",
                    "uml_dir=.", "umid=guest",
                    *shlex.split(environ.get(kernel.ARGUMENTS, "")),
                ],
                cwd=scratch,
                env={"PATH": os.defpath, "TMPDIR": memory.directory},
                pass_fds=[theirs.fileno(), their_receipts.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                preexec_fn=_with_us_on(cpus[os.getpid() % len(cpus)]),
            )  # fmt: skip
        os.close(console)
        self._guardian, self._lifeline = _guard(self._process.pid)
        self._pidfd = os.pidfd_open(self._process.pid)

    def boot(self) -> bool:
        """Wait until the guest says that its line is ready; False if the notebook has gone.

        Raises
        ------
        EngineError
            If it does not come so far; has the console's last words.
        """
        said, deadline = b"", time.monotonic() + BOOT_S
        poll = select.poll()
        poll.register(self._notebook, select.POLLRDHUP)
        for fd in (self._line.fileno(), self._console, self._pidfd):
            poll.register(fd, select.POLLIN)
        while said != READY:
            ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if self._console in ready and not self._read_console():
                poll.unregister(self._console)
            if self._notebook.fileno() in ready:
                return False
            if not ready:
                raise self._failed(f"did not boot in {BOOT_S:.0f} s")
            heard = self._line.recv(len(READY) - len(said)) if self._line.fileno() in ready else b""
            said += heard
            if self._pidfd in ready and not heard:
                raise self._failed("did not boot")
        return True

    def relay(self) -> None:
        """Pass bytes on in both directions until the notebook goes away.

        Raises
        ------
        EngineError
            If the guest ends first.
        """
        streams = self._notebook, self._line, self._receipts
        for stream in streams:
            stream.setblocking(False)
        notebook, line, receipts = (stream.fileno() for stream in streams)
        to_notebook, to_line, on_the_way, received = Outgoing(), Outgoing(), 0, b""
        poll = select.poll()
        for fd in (self._pidfd, self._console, receipts):
            poll.register(fd, select.POLLIN)
        while True:
            poll.register(line, select.POLLIN if to_notebook.size < HIGH_WATER else 0)
            more = select.POLLIN if to_line.size < HIGH_WATER else 0
            poll.register(notebook, more | (select.POLLOUT if to_notebook.size else 0))
            ready = dict(poll.poll())
            if self._console in ready and not self._read_console():
                poll.unregister(self._console)
            try:
                if ready.get(notebook, 0) & ~select.POLLOUT:
                    to_line.put(_some(self._notebook))
                to_notebook.flush(self._notebook)
            except OSError:  # ECONNRESET, EPIPE
                return
            try:
                if receipts in ready:
                    received += _some(self._receipts)
                    whole = len(received) // RECEIPT.size * RECEIPT.size
                    on_the_way -= sum(number for (number,) in RECEIPT.iter_unpack(received[:whole]))
                    received = received[whole:]
                if line in ready:
                    to_notebook.put(_some(self._line))
                    to_notebook.flush(self._notebook)
                if to_line.size and on_the_way < WINDOW_BYTES:
                    sent = self._line.send(to_line.head()[: WINDOW_BYTES - on_the_way])
                    to_line.advance(sent)
                    on_the_way += sent
            except OSError:
                raise self._failed("ended") from None
            if self._pidfd in ready:
                raise self._failed("ended")

    def end(self) -> None:
        """Hang up, let the guest power off, and kill it if it does not."""
        self._line.close()
        self._receipts.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(POWER_OFF_S)
        os.close(self._lifeline)
        os.waitpid(self._guardian, 0)
        self._process.wait()
        os.close(self._pidfd)
        os.close(self._console)

    def _read_console(self) -> bytes:
        try:
            data = os.read(self._console, 1 << 16)
        except BlockingIOError:
            return b"\n"
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        return data

    def _failed(self, how: str) -> EngineError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)  # it says its last words
        while self._read_console().strip():
            pass
        words = [line for line in self._tail.decode(errors="replace").splitlines() if line.strip()]
        said = "\n  ".join(["; its console said:", *words[-8:]]) if words else ""
        return EngineError(f"the guest kernel {how}, and no container of it runs any more{said}")


def _some(stream: socket.socket) -> bytes:
    """Read what there is.

    Raises
    ------
    ConnectionResetError
        At its end.
    """
    data = stream.recv(CHUNK)
    if not data:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    return data


def _with_us_on(cpu: int) -> Callable[[], None]:
    """Return what a child does first: it ends with us, and stays on one CPU, as it is slower on several."""
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.setpgid(0, 0)
        os.sched_setaffinity(0, {cpu})

    return prepare


def _guard(group: int) -> tuple[int, int]:
    """Start a process that kills a process group once the descriptor returned is closed, by whatever end of ours.

    A guest's kernel has helper processes that outlive it where it is killed; and at SIGTERM, for which it has a
    handler, it may hang.
    """
    end, lifeline = os.pipe2(os.O_CLOEXEC)
    guardian = os.fork()
    if guardian:
        os.close(end)
        return guardian, lifeline
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.dup2(end, 0)
        os.closerange(1, 1 << 16)  # the notebook's stream among them, whose end is to be seen
        os.read(0, 1)
        os.killpg(group, signal.SIGKILL)
    finally:
        os._exit(0)


def _write_init(scratch: str, binary: str, drawback: str) -> None:
    main = os.path.join(os.path.dirname(os.path.dirname(__file__)), "runtime", "main.py")
    settings = {"JUPYTER_NS_PATH": json.dumps(sys.path), MODULES: kernel.modules_of(binary), DRAWBACK: drawback}
    command = [sys.executable, "-S", "-E", main, "guest", str(time.time_ns() // 1_000_000)]
    text = INIT.format(
        assignments=" ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items()),
        command=shlex.join(command),
    )
    with open(os.open(f"{scratch}/init", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), "w") as f:
        f.write(text)


# ---- the directory for the time of booting ----


@contextlib.contextmanager
def _scratch(parent: str) -> Iterator[str]:
    """Make a directory that is locked as long as it is in use."""
    while True:
        path = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if _lock(lock) and os.path.isdir(path):
            break
        os.close(lock)  # another keeper took it for one that was left
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _collect_stale(parent: str) -> None:
    """Remove the directories of keepers that were killed while booting: nobody holds their lock."""
    for path in glob.glob(f"{glob.escape(parent)}/{PREFIX}*"):
        with contextlib.suppress(OSError):  # it is somebody else's, or has gone
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if _lock(lock):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
