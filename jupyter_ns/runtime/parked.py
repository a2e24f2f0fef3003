"""Containers built ahead: each waits, untouched, at the last step before its payload.

After a run, the next one of the same kind is likely: in the same words, or with another program, other arguments and
another environment, which only the last step needs (`recipes`). So one is built for it, once the kernel has had
time to show the first. It is as fresh as one built on demand: nothing has run in it, it is used once, and
it is dropped when the host's mounts change (`Engine`), when a directory that it stands on is another by now, when
the zygote has learnt new modules, and after `KEEP_S` seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from . import blank
from .failing import told
from .recipes import Recipe
from .streams import is_readable
from .supervised import Supervised

KEEP_S = 30.0
MOST = 4
AFTER_S = 0.02
"""How long after a run the next container is built: the kernel and the browser want the processors first."""


class _Waiting(NamedTuple):
    container: Supervised
    until: float
    ground: list[tuple[int, int]]
    """Identity of the directories that it has entered or mounted."""


def ground_of(recipe: Recipe) -> list[tuple[int, int]]:
    """Return device and inode of each directory or file that a container keeps hold of from its building on."""
    found = []
    for path in (recipe.spec.workdir, *recipe.exposed, *(m.source for m in recipe.spec.mounts if m.source)):
        try:
            stat = os.stat(path)
        except OSError:
            found.append((0, 0))  # not there: the container makes it, or does without
        else:
            found.append((stat.st_dev, stat.st_ino))
    return found


class Parked:
    """The containers that wait.

    Parameters
    ----------
    build : callable
        Builds one: (container ID, recipe, parked=True).
    """

    def __init__(self, build: Callable[..., Supervised]) -> None:
        self._build = build
        self._waiting: dict[bytes, _Waiting] = {}
        self._wanted: dict[bytes, tuple[Recipe, float]] = {}
        self._blank: _Waiting | None = None

    def take(self, recipe: Recipe) -> Supervised | None:
        """Take the container that waits for this request, if there is one."""
        self._wanted.pop(recipe.kind, None)
        found = self._waiting.pop(recipe.kind, None)
        if found is None:
            return None
        if found.container.state == "ended":  # killed while it waited
            found.container.dispose()
            return None
        if found.container.pidfd >= 0 and is_readable(found.container.pidfd):  # likewise, just now
            found.container.discard()
            return None
        if found.ground != ground_of(recipe) or not recipe.fits(found.container.recipe):
            found.container.discard()
            return None
        found.container.recipe = recipe
        found.container.go_ahead = recipe.go_ahead(found.container.container_id)
        return found.container

    def take_blank(self, recipe: Recipe) -> Supervised | None:
        """Take the child that waits for a plan, if it can become a container of this kind."""
        found = self._blank
        if found is None or not blank.suits(recipe) or not blank.begins(found.container, recipe):
            return None
        self._blank = None
        if found.container.state == "blank" and found.ground == ground_of(found.container.recipe):
            return found.container
        found.container.discard()  # it is not ready, was killed while it waited, or stands on what is another by now
        return None

    def replenish(self, recipe: Recipe) -> None:
        """Have one more container built by this recipe, soon."""
        self._wanted[recipe.kind] = recipe, time.monotonic() + AFTER_S

    def _replenish(self, recipe: Recipe) -> None:
        if blank.suits(recipe) and not (self._blank and blank.begins(self._blank.container, recipe)):
            self._drop_blank()
            self._blank = self._wait(blank.recipe_like(recipe))
        if recipe.kind in self._waiting:
            return
        while len(self._waiting) >= MOST:
            self._drop_one(next(iter(self._waiting)))
        made = self._wait(recipe.unfinished())
        if made is not None:
            self._waiting[recipe.kind] = made

    def _wait(self, recipe: Recipe) -> _Waiting | None:
        """Build one that waits, or not: the next run builds its own, and says what is wrong."""
        try:
            made = self._build(os.urandom(32).hex(), recipe, parked=True)
        except Exception as e:
            told(e)
            return None
        return _Waiting(made, time.monotonic() + KEEP_S, ground_of(recipe))

    def tick(self, now: float) -> list[float]:
        """Build what is wanted, drop what has waited too long; return when to look again."""
        for key, (recipe, when) in list(self._wanted.items()):
            if now >= when:
                del self._wanted[key]
                self._replenish(recipe)
        for key, waiting in list(self._waiting.items()):
            if now >= waiting.until:
                self._drop_one(key)
        if self._blank is not None and now >= self._blank.until:
            self._drop_blank()
        blank_until = [] if self._blank is None else [self._blank.until]
        wanted = [when for _, when in self._wanted.values()]
        return [*wanted, *blank_until, *(waiting.until for waiting in self._waiting.values())]

    def drop(self, which: Callable[[Recipe], bool] = lambda _: True) -> None:
        """Take down the waiting containers that `which` chooses."""
        for key, (recipe, _) in list(self._wanted.items()):
            if which(recipe):
                del self._wanted[key]
        for key, waiting in list(self._waiting.items()):
            if which(waiting.container.recipe):
                self._drop_one(key)

        if self._blank is not None and which(self._blank.container.recipe):
            self._drop_blank()

    def _drop_blank(self) -> None:
        if self._blank is not None:
            with self._blank.container.contained():
                self._blank.container.discard()
            self._blank = None

    def _drop_one(self, key: bytes) -> None:
        container = self._waiting.pop(key).container
        with container.contained():
            container.discard()
