"""Where a subcommand's output goes: text for a terminal or a pipe, tables besides for a notebook."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO

IN_MEMORY_BYTES = 8 << 20
"""Of output on its way to a pipe; what is more lies in a file meanwhile."""


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
    source : str
        The file that is read in place of a cell's text; empty for none.
    errors : str
        Where standard error goes: see `frontend.docker.Line`.
    """

    def __init__(
        self,
        show: Callable[[dict[str, Any]], Any] | None = None,
        *,
        cell: str | None = None,
        shell: Any = None,
        source: str = "",
        errors: str = "",
    ) -> None:
        self.show, self.cell, self.shell, self.source = show, cell, shell, source
        self._errors = errors
        self._pipe: IO[bytes] | None = None

    @property
    def stdin(self) -> bytes:
        """What a program is given to read."""
        if self.source:
            with open(self.source, "rb") as f:
                return f.read()
        return (self.cell or "").encode()

    @property
    def has_stdin(self) -> bool:
        """Whether there is a cell's text, or a file, to be read."""
        return self.cell is not None or bool(self.source)

    @property
    def binary(self) -> BinaryIO | None:
        """Where an archive can go: the pipe, if there is one."""
        return self._pipe  # type: ignore[return-value]

    @property
    def is_direct(self) -> bool:
        """Whether all that is written is a cell's own output, which somebody looks at."""
        return self._pipe is None and not self._errors

    def write(self, text: str) -> None:
        """Write to standard output, as it stands."""
        if self._pipe is not None:
            self._pipe.write(text.encode(errors="surrogateescape"))
        else:
            sys.stdout.write(text)
            sys.stdout.flush()

    def line(self, text: object = "") -> None:
        """Write a line."""
        self.write(f"{text}\n")

    def error(self, text: str) -> None:
        """Write to standard error, which goes through no pipe unless it was sent there."""
        if self._errors == "with the rest":
            self.write(text)
        elif not self._errors:
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
    def piped(self) -> Iterator[IO[bytes]]:
        """Collect standard output instead of showing it."""
        with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as pipe:
            self._pipe = pipe
            try:
                yield pipe
            finally:
                self._pipe = None
