"""A real IPython shell in which Docker's lines are typed."""

from __future__ import annotations

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from jupyter_ns.frontend.magics import ContainerMagics


class Docker:
    """Runs magics, and gives what they write."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        config = Config()
        config.HistoryManager.enabled = False  # its database stays open
        self.shell = InteractiveShell(config=config)
        self.shell.register_magics(ContainerMagics)
        self._capsys = capsys

    def __call__(self, line: str, cell: str | None = None, magic: str = "docker") -> str:
        """Run one magic; return its standard output."""
        self._capsys.readouterr()
        if cell is None:
            self.shell.run_line_magic(magic, line)
        else:
            self.shell.run_cell_magic(magic, line, cell)
        return self._capsys.readouterr().out
