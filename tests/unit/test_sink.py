"""What a notebook shows of a run, without a notebook: the streams beside a display, and a cell's error."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from jupyter_ns.frontend.outcome import CellError, cell_error
from jupyter_ns.frontend.sink import NotebookSink


def show(publish: Callable[..., None]) -> None:
    """Have a display published in a notebook whose streams are empty."""
    shell = SimpleNamespace(kernel=None, display_pub=SimpleNamespace(publish=publish))
    sink = NotebookSink(shell, quiet=True, trust=False)
    sink.on_asked()
    sink.on_message("display", {"data": {"text/plain": "1"}, "metadata": {}, "transient": {}, "update": False})


class Counting(io.StringIO):
    """Counts how often it is flushed."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def test_nothing_is_flushed_for_a_display_and_the_streams_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Counting(), Counting()
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    taken: list[Any] = []

    def publish(*_args: Any, **_kwargs: Any) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.write("x")
            stream.flush()
            taken.append(stream)

    show(publish)
    before = [stream.flushes for stream in streams]
    assert (sys.stdout, sys.stderr) == streams
    assert [stream.getvalue() for stream in streams] == ["x", "x"]
    for stream in taken:  # another thread may have kept them
        stream.flush()
    assert [stream.flushes - n for stream, n in zip(streams, before, strict=True)] == [1, 1]


def test_a_stream_that_a_thread_puts_in_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    streams, new = (Counting(), Counting()), io.StringIO()
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    show(lambda *_args, **_kwargs: setattr(sys, "stdout", new))
    assert (sys.stdout, sys.stderr) == (new, streams[1])


@pytest.mark.parametrize("name", ["ZeroDivisionError", "SyntaxError", "IndentationError", "SystemExit", "Unheard"])
def test_an_error_is_shown_as_it_was_rendered(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = cell_error({"ename": name, "evalue": "what", "traceback": ["line 1", "line 2"]})
    assert isinstance(error, CellError) and (type(error).__name__, str(error)) == (name, "what")
    InteractiveShell().showtraceback((type(error), error, None))
    shown = capsys.readouterr()
    assert (shown.out + shown.err).splitlines() == ["line 1", "line 2"]
