"""Containers that run by themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from jupyter_ns import Container, run
from jupyter_ns.lifecycle import ask


@contextlib.contextmanager
def detached(*argv: str, **options: Any) -> Iterator[Container]:
    """Give a container that runs by itself; it is removed in the end."""
    container = run(*argv, detach=True, **{"workdir": "/", **options})
    try:
        yield container
    finally:
        if any(row["id"] == container.id for row in ask("list")):
            container.remove(force=True)
