"""The engine's side of the zygote: starts it, has it fork, hears of its children's ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import msgpack

from .. import core
from ..errors import EngineError
from ..namespaces import BY_NAME
from ..plan.build import BIND, NODEV, NOEXEC, NOSUID, RDONLY, REC, REMOUNT
from ..plan.steps import MOUNT_FLAGS, Op, Plan, Step

if TYPE_CHECKING:
    from .engine import Engine
    from .supervised import Supervised

SLAVE = MOUNT_FLAGS["MS_SLAVE"]
FIRST_FD = 200
"""The child finds its descriptors from here on, in this order, whatever their numbers were before."""
FD_ORDER = ("stdin", "stdout", "stderr", "channel", "report", "go", "userns")
"""The last is not always there."""


def protect(program: str) -> None:
    """In a child of the engine: let the program that it is about to execute be on a mount that is read-only.

    For /proc/self/exe leads a cell, which executes nothing, out of its root to the host's own file. The zygote
    leaves the mount namespace again (`zygote.main`); the mount stays its program's.

    Raises
    ------
    OSError
        As mount(2).
    """
    kept = os.statvfs(program).f_flag & (NOSUID | NODEV | NOEXEC)  # locked in a user namespace
    steps = (
        Step(Op.UNSHARE, (BY_NAME["mount"].flag,)),
        Step(Op.MOUNT, ("none", "/", None, REC | SLAVE, None)),
        Step(Op.MOUNT, (program, program, None, BIND, None)),
        Step(Op.MOUNT, (None, program, None, REMOUNT | BIND | RDONLY | kept, None)),
    )
    failed = core.execute_image(Plan(0, steps).image({}), len(steps), -1, -1)
    if failed:
        raise OSError(f"{steps[-failed - 1].describe()} failed")


class ZygoteClient:
    """One zygote process.

    Parameters
    ----------
    engine : Engine
        Whose loop hears the zygote's messages.
    hello : dict
        The kernel's ``sys_path``, ``environ``, ``executable`` and ``cwd``.
    """

    def __init__(self, engine: Engine, hello: dict[str, Any]) -> None:
        self._engine = engine
        self._children: dict[int, Supervised] = {}
        self._waiting: dict[str, Supervised] = {}
        self.alive = True
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        main = os.path.join(os.path.dirname(__file__), "main.py")
        # One BLAS thread: a thread pool in the zygote would not survive the fork.
        path = json.dumps(hello["sys_path"])
        environ = {**hello["environ"], "OPENBLAS_NUM_THREADS": "1", "JUPYTER_NS_PATH": path}
        try:
            self._process = subprocess.Popen(
                [hello["executable"], main, "zygote", str(theirs.fileno())],
                env=environ,
                cwd=hello["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                pass_fds=[theirs.fileno()],
                preexec_fn=partial(protect, os.path.realpath(hello["executable"])),  # the engine has no threads
            )
        except subprocess.SubprocessError as e:  # all that Popen says of `protect`
            ours.close()
            raise EngineError(
                f"the zygote cannot be started: {hello['executable']} cannot be mounted read-only for it"
            ) from e
        finally:
            theirs.close()
        self._sock = ours
        self._send({"hello": {"environ": hello["environ"]}})
        engine.watch(ours.fileno(), self._on_message)

    def _send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        socket.send_fds(self._sock, [msgpack.packb(message)], fds or [])

    def preload(self, modules: list[str]) -> None:
        """Import modules, so that cells find them imported; what is not safe to fork is left out."""
        self._send({"preload": list(modules)})

    def fork(self, container: Supervised, fds: dict[str, int]) -> None:
        """Have a child forked that builds `container` around itself, or enters one: that behind ``target``."""
        joined = [name for name in fds if name not in (*FD_ORDER, "target", "join-pid")]
        # The last one is that of the PID namespace, where it is not a new one.
        names = [*(name for name in FD_ORDER if name in fds), *joined, *(n for n in ("target", "join-pid") if n in fds)]
        numbers = {name: FIRST_FD + i for i, name in enumerate(names)}
        kinds = set(BY_NAME) - set(container.spec.without)
        message = {
            "fork": container.id,
            "image": container.recipe.image_for(container.id, numbers),
            "steps": len(container.plan.steps),
            "pid_namespace": "pid" in kinds,
            "enters": "target" in fds,
            "joins": "target" in fds or "join-pid" in fds,
            "parked": container.parked,
        }
        self._waiting[container.id] = container
        self._send(message, [fds[name] for name in names])

    def _on_message(self) -> None:
        try:
            data = self._sock.recv(1 << 16)
        except ConnectionResetError:  # it was killed before it read our last message
            data = b""
        if not data:
            self._on_death()
            return
        message = msgpack.unpackb(data)
        if "forked" in message:
            container = self._waiting.pop(message["forked"])
            pid = message["pid"]
            self._children[pid] = container
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:  # it has ended and the zygote has reaped it: "exited" follows
                pidfd = -1
            if container.ends.report >= 0:
                container.adopt(pid, pidfd)
            elif pidfd >= 0:  # discarded while the zygote forked
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)
        elif "failed" in message:
            container = self._waiting.pop(message["failed"])
            container.failure = OSError(message["errno"], os.strerror(message["errno"]))
            container.state = "ended"
            container.streams.close()
        elif "exited" in message:
            container = self._children.pop(message["exited"])
            if container.ends.go >= 0:  # else it was parked, and has been discarded
                container.on_exit(message["status"])

    def _on_death(self) -> None:
        """The zygote is gone, and its children with it (PR_SET_PDEATHSIG)."""
        self.alive = False
        self._engine.unwatch(self._sock.fileno())
        self._sock.close()
        self._process.wait()
        for container in [*self._waiting.values(), *self._children.values()]:
            if container.ends.go >= 0:  # else it has been discarded
                container.fail(EngineError("the zygote process is gone; run the cell again"))
                container.on_exit(9)

    def close(self) -> None:
        """End the zygote."""
        if self.alive:
            self._engine.unwatch(self._sock.fileno())
            self._sock.close()
            self._process.kill()
            with contextlib.suppress(ChildProcessError):
                self._process.wait()
            self.alive = False
