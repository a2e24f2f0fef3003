"""What the first figure of a process costs, paid in the zygote: no cell's is the first."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys

LIBRARIES = {
    "matplotlib.pyplot": "matplotlib_inline.backend_inline",
    "pandas": "pandas.plotting._matplotlib",
}
"""What draws, and the module that its first figure imports."""


def prepare() -> None:
    """Import what a first figure would, and draw one, where the libraries for that are there.

    Should: leave the libraries' state, as a cell sees it, alone. Mustn't: raise anything.
    """
    if "matplotlib.pyplot" not in sys.modules:
        return
    for library, module in LIBRARIES.items():
        if library in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(module)
    with contextlib.suppress(Exception):
        _draw()


def _draw() -> None:
    """Draw a figure that pyplot does not know of: fonts are found, and backends and formats of files loaded."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"text.usetex": False}):  # which would start programs
        figure = Figure()
        axes = figure.add_subplot(title="0", xlabel="0", ylabel="0")
        axes.plot([0, 1], label="0")
        axes.legend()
        figure.savefig(io.BytesIO(), bbox_inches="tight")
