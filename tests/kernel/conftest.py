"""Shared by the tests that type Docker's lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from docker_shell import Docker

from jupyter_ns.client import EngineClient
from jupyter_ns.lifecycle import ask


@pytest.fixture
def docker(engine: Callable[[], EngineClient], capsys: pytest.CaptureFixture[str]) -> Iterator[Docker]:
    engine()
    made = Docker(capsys)
    yield made
    for row in ask("list"):
        ask("remove", of=row["id"], force=True)
