"""What there is to say of a container that has ended, and what it wrote."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, Any

from ..cgroups.ancestors import met
from ..host import is_below
from .changes import collect_changes
from .keep import keep

if TYPE_CHECKING:
    from .supervised import Supervised


def summary_of(c: Supervised) -> dict[str, Any]:
    """Return what the kernel is told of the end."""
    sample = c.last_counters()
    oom_kills = c.cgroup.oom_kills()
    if oom_kills and c.reason in ("", "interrupted"):
        c.reason = "oom"
    code = exit_code_of(c)
    killed = c.status is not None and os.WIFSIGNALED(c.status) and c.forked_code is None
    peak, source = c.cgroup.peak()
    changes, truncated = changes_of(c)
    not_kept = _keep(c) if c.spec.keep else []
    return {
        "exit_code": code,
        "exec_errno": c.exec_errno,
        "reason": c.reason or ("killed" if killed else "exited"),
        "wall_seconds": time.monotonic() - c.started,
        "finished_s": c.finished_s,
        "sample": sample,
        "peak": [peak, source],
        "changes": changes,
        "changes_truncated": truncated,
        "step_ns": c.step_ns,
        "oom_kills": oom_kills,
        "oom_limit": _oom_limit(c) if c.reason == "oom" else None,
        "not_kept": not_kept,
    }


def exit_code_of(c: Supervised) -> int:
    """Return the exit code as Docker counts."""
    if c.forked_code is not None:
        return c.forked_code
    if c.said_code is not None:
        return c.said_code
    if c.exec_errno:
        return 127 if c.exec_errno in (errno.ENOENT, errno.ENOTDIR) else 126
    status = c.status or 0
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _oom_limit(c: Supervised) -> list[Any] | None:
    """Return name and bytes of the limit that was hit, if it was that of a cgroup above."""
    levels = c.cgroup.levels("memory")
    level = met(c.base_levels, levels)
    if level is None or level.path == levels[0].path:
        return None
    name = os.path.basename(level.path)
    return [name if name in c.engine.groups else level.path, level.limit]


def changes_of(c: Supervised) -> tuple[list[tuple[str, str]], bool]:
    """List what was written to the copy-on-write layers."""
    if c.layer_fd < 0:
        return [], False
    recipe = c.recipe
    image = recipe.lower or ((*recipe.above, "/") if recipe.above else ())
    if not image:
        return collect_changes(c.layer_fd, recipe.layers, **recipe.built)
    from ..images.merged import Stack  # the store: only once it is needed

    return collect_changes(c.layer_fd, recipe.layers, below=Stack(image), **recipe.built)


def _keep(c: Supervised) -> list[str]:
    """Bring out what was written below the working directory; return what could not be."""
    if c.layer_fd < 0 or not c.spec.workdir:
        return []
    covering = [layer for layer in c.recipe.layers if is_below(c.spec.workdir, layer.path)]
    layer = max(covering, key=lambda one: len(one.path))
    return keep(c.layer_fd, layer.name, layer.path, c.spec.workdir, c.recipe.made)
