"""A further process in a running container (``exec``), as the engine sees it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import SetupError, UsageError
from ..plan.entering import enters_by_itself
from ..usage import SAMPLE_FIELDS
from .ending import exit_code_of
from .joining import inside
from .protocol import CHUNK
from .supervised import Supervised

_JUST_ENDED = "exec: the container has just ended"


@dataclass(slots=True)
class Entered(Supervised):
    """A process that has entered the namespaces of `host`, and its streams.

    Where a program enters by itself (`plan.entering`), `pid` is its parent, which stays outside: the payload is that
    one's only child.
    """

    target: int = -1
    """A pidfd of the container's PID 1."""
    collected: bytearray | None = None
    """What it writes is kept here, up to a bound, where nobody at the kernel follows it."""
    on_end: Callable[[Entered], None] | None = None
    on_its_own: bool = False
    """Whether nobody waits for it once its program runs (``exec -d``)."""

    @property
    def enters(self) -> bool:
        """Whether it is one more process of a container that is there."""
        return True

    @property
    def detached(self) -> bool:
        """Whether it goes on when its program has been started and the kernel looks away."""
        return self.on_its_own

    @contextlib.contextmanager
    def around_clone(self, child: dict[str, int]) -> Iterator[None]:
        """Be in the container's PID namespace for children; nobody else is made meanwhile."""
        if "pid" in self.spec.without or enters_by_itself(self.spec, self.recipe.facts):
            yield
            return
        try:
            with inside(self.target):
                yield
        except OSError as e:
            if e.errno in (errno.ESRCH, errno.ENOMEM):  # setns(2); clone(2) into a namespace whose init has ended
                raise UsageError(_JUST_ENDED) from None
            raise

    def watch_cgroup(self) -> None:
        """Nothing: the cgroup is the container's."""

    def on_report(self) -> None:
        """Read the child's report pipe; that the container ended meanwhile is no failure of ours."""
        Supervised.on_report(self)
        if isinstance(self.failure, SetupError) and self.failure.errno == errno.ESRCH:
            self.failure = UsageError(_JUST_ENDED)

    def pass_on(self, number: int, data: bytes) -> None:
        """Take what the process wrote."""
        if self.collected is None:
            Supervised.pass_on(self, number, data)
        elif len(self.collected) < CHUNK:
            self.collected += data

    def _on_ready(self) -> None:
        self.state = "ready"

    def _sample(self, now: float) -> None:
        self.next_sample = now + 60.0

    def relative_sample(self) -> list[Any]:
        """Return a sample that says nothing but the time: usage is counted by container."""
        return [time.monotonic() - self.started, *[None] * (len(SAMPLE_FIELDS) - 1)]

    def _payload_pid(self) -> int:
        """Return the PID of the process inside, as the host counts; 0 if there is none."""
        if not enters_by_itself(self.spec, self.recipe.facts):
            return self.pid
        with contextlib.suppress(OSError, IndexError), open(f"/proc/{self.pid}/task/{self.pid}/children") as f:
            return int(f.read().split()[0])
        return 0

    def interrupt(self) -> None:
        """Deliver SIGINT to the process inside."""
        self.reason = self.reason or "interrupted"
        self.send_signal(signal.SIGINT)

    def kill(self, reason: str) -> None:
        """Kill the process inside, and no other of the container's."""
        self.reason = reason if self.reason in ("", "interrupted") and reason != "killed" else self.reason or reason
        pid = self._payload_pid()
        if self.status is None and pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # its parent is ours and alive, so the number is not used again
        if self.state == "building":
            self.send_signal(signal.SIGKILL)

    def on_exit(self, status: int) -> None:
        """The process has ended; what it left runs on in the container."""
        self.status = status
        with self.contained():
            self.take_last_reports()
        self.state = "ended"

    def summary(self) -> dict[str, Any]:
        """Return what the kernel is told of the end."""
        return {
            "exit_code": exit_code_of(self),
            "exec_errno": self.exec_errno,
            "reason": self.reason or "exited",
            "wall_seconds": time.monotonic() - self.started,
            "sample": self.relative_sample(),
            "peak": [None, ""],
            "changes": [],
            "changes_truncated": False,
            "step_ns": self.step_ns,
            "oom_kills": 0,
            "oom_limit": None,
            "not_kept": [],
        }

    def discard(self) -> None:
        """Take down a child in which nothing has run."""
        if self.pidfd >= 0 and self.status is None:
            self.send_signal(signal.SIGKILL)
            if not self.recipe.in_zygote:
                os.waitpid(self.pid, 0)
        self.dispose()

    def dispose(self, *, keep_files: bool = False) -> None:
        """Give back descriptors."""
        self.close_all()
        if self.on_end is not None:
            self.on_end(self)
