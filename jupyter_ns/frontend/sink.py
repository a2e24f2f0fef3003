"""What a notebook (or a terminal) shows of a run while it goes on and when it has ended."""

from __future__ import annotations

import contextlib
import getpass
import sys
import time
from collections.abc import Iterator
from typing import Any

from ..container import Container
from ..runner import MAX_OUTPUT_CHARS, Run, Sink
from . import card
from .outcome import cell_error
from .sanitise import clean_bundle

CARD_AFTER_S = 0.5
"""Runs shorter than this get one line instead of a card."""
FRAME_S = 0.2
MAX_SHOWN_CHARS = 512 * 1024
"""Of each stream, in a notebook. Jupyter's server drops what is beyond 3 MB in 3 s, the card and its note too."""


class _Flushed:
    """A stream with nothing left to flush: ipykernel does so before it publishes anything, and waits for its thread.

    Another thread may take it for the stream, and keep it: after `over`, it flushes as that does.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.flush = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def over(self) -> Any:
        """Be the stream from now on, and return it."""
        del self.flush
        return self._stream


class NotebookSink(Sink):
    """Shows a run in an IPython shell.

    Parameters
    ----------
    shell : InteractiveShell
        Whose display publisher and hook are used.
    quiet : bool
        Show no card.
    trust : bool
        Show what the container displays as it is.
    """

    def __init__(self, shell: Any, *, quiet: bool, trust: bool) -> None:
        self._shell, self._quiet, self._trust = shell, quiet, trust
        self._notebook = hasattr(shell, "kernel")
        self._began = self._flushed = 0.0
        self._latest = ""
        self._unflushed = True
        self._room = dict.fromkeys(("stdout", "stderr"), MAX_SHOWN_CHARS)
        self._live: LiveCard | None = None
        self.run: Run | None = None
        self.error: BaseException | None = None
        self.result: dict[str, Any] | None = None

    def on_asked(self) -> None:
        """Flush what the notebook has written so far, while nobody waits for it."""
        for stream in (sys.stdout, sys.stderr):
            # ipykernel's streams know whether anything is in them. To flush them wakes its thread, which needs a
            # processor that the container needs too; where another stream, or version, does not say so, it costs that.
            if getattr(stream, "_flush_pending", True):
                stream.flush()
        self._unflushed = False

    def on_started(self, container: Container) -> None:
        """Start the clock of the card."""
        self._began = time.monotonic()

    def on_notice(self, text: str) -> None:
        """Say what happens before the container is built."""
        print(text, file=sys.stderr, flush=True)

    def on_text(self, stream: str, text: str) -> None:
        """Write to the cell's own stream: at once, but of much in a row few pieces.

        Notes
        -----
        Each piece is a message, after which JupyterLab lays the whole output out anew: 1 MB in pieces of a pipe's size
        took it 5 s, and in those of ipykernel, which flushes by itself after 0.2 s, 1 s.
        """
        if self._notebook:
            room = max(0, self._room[stream])
            self._room[stream] -= len(text)
            text = text[:room]
            if not text:
                return
        out, other = (sys.stdout, sys.stderr) if stream == "stdout" else (sys.stderr, sys.stdout)
        if stream != self._latest:
            other.flush()  # what was written before is shown before
        out.write(text)
        self._unflushed = True
        now = time.monotonic()
        if not self._notebook or stream != self._latest or now - self._flushed >= FRAME_S:
            out.flush()
            self._flushed, self._unflushed = now, False
        self._latest = stream

    def on_message(self, kind: str, body: Any) -> None:
        """Show what the cell displays."""
        if kind == "error":
            self.error = cell_error(body)
        elif kind == "clear":
            with self._after_the_text():
                self._shell.display_pub.clear_output(wait=bool(body["wait"]))
        else:
            data = clean_bundle(dict(body["data"]), trust=self._trust)
            metadata = dict(body["metadata"])
            if kind == "result":
                self._show_result(data, metadata)
            else:
                transient = {k: str(v) for k, v in dict(body["transient"]).items() if k == "display_id"}
                with self._after_the_text():
                    self._shell.display_pub.publish(data, metadata, transient=transient, update=bool(body["update"]))

    def _show_result(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        hook = self._shell.displayhook
        hook.start_displayhook()
        hook.write_output_prompt()
        hook.write_format_data(data, metadata)
        with self._after_the_text():
            hook.finish_displayhook()

    @contextlib.contextmanager
    def _after_the_text(self) -> Iterator[None]:
        """Let something be published that belongs below what was written before."""
        if self._unflushed or not self._notebook:
            yield
            self._unflushed = False
            return
        flushed = {name: _Flushed(getattr(sys, name)) for name in ("stdout", "stderr")}
        vars(sys).update(flushed)
        try:
            yield
        finally:
            for name, stand_in in flushed.items():
                stream = stand_in.over()
                if getattr(sys, name) is stand_in:  # else another thread has put one of its own there
                    setattr(sys, name, stream)

    def on_input(self, prompt: str, password: bool) -> str:
        """Ask in the notebook.

        Raises
        ------
        EOFError
            If this front end has nobody to ask.
        """
        try:
            return getpass.getpass(prompt) if password else input(prompt)
        except NotImplementedError as e:  # ipykernel's StdinNotImplementedError: nbconvert, papermill
            raise EOFError(f"nobody can be asked here: {e}") from e

    def tick(self, container: Container) -> float:
        """Draw the card, once the run has lasted long enough for one."""
        if self._quiet or not self._notebook or container.status != "running":
            return 60.0 if self._quiet or not self._notebook else 0.05
        elapsed = time.monotonic() - self._began
        if elapsed < CARD_AFTER_S:
            return CARD_AFTER_S - elapsed
        if self._live is None:
            self._live = LiveCard(self._shell, self.run, container)
        self._live.draw(container, elapsed)
        return FRAME_S

    def finish(self, container: Container) -> None:
        """Freeze the card, or show the one line; before that, say of which stream not all was shown."""
        for stream in (name for name, room in self._room.items() if room < 0):
            out, kept = getattr(sys, stream), min(len(getattr(container, stream)), MAX_OUTPUT_CHARS)
            out.write(f"\n[{stream}: these are the first {MAX_SHOWN_CHARS:,} characters; ")
            out.write(f"_container.{stream} has {kept:,}]\n")
            self._unflushed = True
        if self._quiet:
            if self._live is not None:
                self._live.close()
            return
        if self._live is not None:
            self._live.freeze(container)
            return
        long = container.wall_seconds >= CARD_AFTER_S or container.reason != "exited"
        data, metadata = card.final_bundle(container) if long else card.one_line(container)
        if not self._notebook:
            print(data["text/plain"])
            return
        with self._after_the_text():
            self._shell.display_pub.publish(data, metadata)
        if long and container.usage.peak("memory_bytes") is not None:  # else it was over before the first sample
            self._shell.display_pub.publish(*plot_bundle(container))


class LiveCard:
    """The card while the run goes on: a widget, replaced in place by a picture and tables at the end."""

    def __init__(self, shell: Any, run: Run | None, container: Container) -> None:
        import ipywidgets
        from IPython.display import display

        from . import sliders

        self._html = ipywidgets.HTML()
        parts = [self._html]
        self._words = ""
        if run is not None and _answers_buttons(shell):
            stop = ipywidgets.Button(description="Stop", icon="stop", tooltip="Interrupt; a second time: kill")
            stop.on_click(lambda _: run.interrupt())
            parts += [*sliders.sliders(container), stop]
            for part in parts:
                _use_main_comm(part)
        else:
            self._words = sliders.words(container)
        self._box = ipywidgets.VBox(parts, _dom_classes=("jns-card",))
        bundle = self._box._repr_mimebundle_()
        bundle["text/plain"] = "live card of a running container: a widget, which cannot be shown here"
        self._card = display(bundle, raw=True, display_id=True)
        self._plot = display({"text/plain": ""}, raw=True, display_id=True)

    def draw(self, container: Container, elapsed_s: float) -> None:
        """Draw the present state."""
        self._html.value = card.live_html(container, elapsed_s, self._words)

    def freeze(self, container: Container) -> None:
        """Replace the widget by what a saved notebook can show without a kernel."""
        data, metadata = card.final_bundle(container)
        self._card.update(data, raw=True, metadata=metadata)
        plot, plot_metadata = plot_bundle(container)
        self._plot.update(plot, raw=True, metadata=plot_metadata)
        self._close_widgets()

    def close(self) -> None:
        """Take the card away."""
        self._card.update({"text/plain": ""}, raw=True)
        self._close_widgets()

    def _close_widgets(self) -> None:
        for widget in (*self._box.children, self._box):
            widget.close()


def plot_bundle(container: Container) -> card.Bundle:
    """Draw the plot of an ended container, with its words beside it."""
    png, alt = card.final_png(container)
    return {"image/png": png, "text/plain": alt}, {"image/png": {"alt": alt}}


def _answers_buttons(shell: Any) -> bool:
    """Whether a button's callback runs while the main thread is busy: ipykernel 7.1 and later."""
    return bool(getattr(shell.kernel, "_supports_kernel_subshells", False))


def _use_main_comm(widget: Any) -> None:
    # ipykernel 7.4 would answer in the subshell of the request, which waits for the main one.
    widget.comm.__dict__.pop("_reply_subshell_id", None)
