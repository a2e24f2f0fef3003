"""Containers built ahead: each waits, untouched, at the last step before its payload.

After a run, the next one in the same words is likely, so one is built for it at once. It is as
fresh as one built on demand: nothing has run in it, it is used once, and it is dropped when the
host's mounts change, when the zygote has learnt new modules, and after `KEEP_S` seconds.
"""

from __future__ import annotations

import os
import select
import time
import uuid
from collections.abc import Callable

from .recipes import Recipe
from .supervised import Supervised

KEEP_S = 3.0
MOST = 2


class Parked:
    """The containers that wait.

    Parameters
    ----------
    build : callable
        Builds one: (container ID, recipe, parked=True).
    """

    def __init__(self, build: Callable[..., Supervised]) -> None:
        self._build = build
        self._waiting: dict[bytes, tuple[Supervised, float]] = {}
        # proc_pid_mounts(5): the file polls as an exceptional condition once mounts have changed.
        self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._mounts, select.POLLPRI)

    def take(self, key: bytes) -> Supervised | None:
        """Take the container that waits for this request, if there is one."""
        if self._poll.poll(0):
            self.drop()
        found, _ = self._waiting.pop(key, (None, 0.0))
        if found is not None and found.state == "ended":  # killed while it waited
            found.dispose()
            return None
        return found

    def replenish(self, recipe: Recipe) -> None:
        """Build one more container by this recipe."""
        if recipe.key in self._waiting:
            return
        while len(self._waiting) >= MOST:
            self._drop_one(next(iter(self._waiting)))
        try:
            made = self._build(uuid.uuid4().hex + uuid.uuid4().hex, recipe, parked=True)
        except OSError:
            return  # not needed: the next run builds its own, and says what is wrong
        self._waiting[recipe.key] = made, time.monotonic() + KEEP_S

    def tick(self, now: float) -> list[float]:
        """Drop what has waited too long; return when to look again."""
        for key, (_, until) in list(self._waiting.items()):
            if now >= until:
                self._drop_one(key)
        return [until for _, until in self._waiting.values()]

    def drop(self, which: Callable[[Recipe], bool] = lambda _: True) -> None:
        """Take down the waiting containers that `which` chooses."""
        for key, (container, _) in list(self._waiting.items()):
            if which(container.recipe):
                self._drop_one(key)

    def _drop_one(self, key: bytes) -> None:
        container, _ = self._waiting.pop(key)
        container.discard()
