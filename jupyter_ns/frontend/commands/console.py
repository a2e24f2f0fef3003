"""Where a subcommand's output goes: text for a terminal or a pipe, tables besides for a notebook."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from typing import Any


class Console:
    """Takes what a subcommand has to say.

    Parameters
    ----------
    show : callable, optional
        Called with a MIME bundle, in a notebook; None: text is wanted.
    cell : str, optional
        The cell's text, which a program reads.
    shell : object, optional
        The IPython shell, for what runs as cells do.
    """

    def __init__(
        self, show: Callable[[dict[str, Any]], Any] | None = None, *, cell: str | None = None, shell: Any = None
    ) -> None:
        self.show, self.cell, self.shell = show, cell, shell
        self._pipe: io.StringIO | None = None

    def write(self, text: str) -> None:
        """Write to standard output, as it stands."""
        if self._pipe is not None:
            self._pipe.write(text)
        else:
            sys.stdout.write(text)
            sys.stdout.flush()

    def line(self, text: object = "") -> None:
        """Write a line."""
        self.write(f"{text}\n")

    def error(self, text: str) -> None:
        """Write to standard error, which goes through no pipe."""
        sys.stderr.write(text)
        sys.stderr.flush()

    @property
    def rich(self) -> bool:
        """Whether a table is better than text."""
        return self.show is not None and self._pipe is None

    def table(self, text: str, html: str) -> None:
        """Show a table: `html` in a notebook, else `text`."""
        if self.rich and self.show is not None:
            self.show({"text/plain": text.rstrip("\n"), "text/html": html})
        else:
            self.write(text)

    def update(self, handle: Any, text: str, html: str) -> Any:
        """Show a table in place of the one that `handle` stands for; return its handle."""
        from IPython.display import display

        bundle = {"text/plain": text.rstrip("\n"), "text/html": html}
        if handle is None:
            return display(bundle, raw=True, display_id=True)
        handle.update(bundle, raw=True)
        return handle

    @contextlib.contextmanager
    def piped(self) -> Iterator[io.StringIO]:
        """Collect standard output instead of showing it."""
        self._pipe = io.StringIO()
        try:
            yield self._pipe
        finally:
            self._pipe = None
