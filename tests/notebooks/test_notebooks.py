"""The shipped notebooks: each runs from top to bottom, and its saved copy can be read without a kernel."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

import jupyter_ns

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CELL_SECONDS = 120
PRIVATE_PATHS = re.compile(r"/(?:work|home|opt|root/\.\w+)/")
"""What would show on whose machine a notebook was saved."""

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def errors(cell: NotebookNode) -> list[str]:
    return [output.ename for output in cell.outputs if output.output_type == "error"]


def kinds(cell: NotebookNode) -> list[set[str]]:
    return [set(output.get("data", {"stream": 0})) for output in cell.outputs]


def test_there_are_notebooks() -> None:
    assert [path.name for path in NOTEBOOKS][:1] == ["00-quickstart.ipynb"]


@each
@pytest.mark.notebooks
@pytest.mark.needs("controller:memory", "controller:cpu")
def test_runs_and_shows_what_was_saved(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(jupyter_ns.__file__).parents[1]))
    saved = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    for cell in code_cells(fresh):
        cell.outputs = []
    NotebookClient(fresh, timeout=CELL_SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for old, new in zip(code_cells(saved), code_cells(fresh), strict=True):
        assert errors(new) == errors(old), new.source
        tagged = "raises-exception" in new.metadata.get("tags", [])
        assert bool(errors(new)) == tagged, new.source
        assert bool(new.outputs) == bool(old.outputs), new.source
        before, now = (sum("image/png" in kind for kind in kinds(cell)) for cell in (old, new))
        # A container has a picture if it ran for half a second: where others want the processors, more of them do.
        assert now == before or (now > before and new.source.startswith("%%container")), new.source


@each
def test_saved_copy_needs_no_kernel(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) / 2
    for cell in cells:
        assert all("application/vnd.jupyter.widget-view+json" not in kind for kind in kinds(cell)), cell.source
        if cell.source.startswith("%%container"):
            assert cell.outputs, cell.source
    containers = [cell for cell in cells if cell.source.startswith("%%container")]
    assert any("image/png" in kind for cell in containers for kind in kinds(cell)), "no picture of a card"


@each
def test_saved_copy_names_nobodys_machine(path: Path) -> None:
    assert PRIVATE_PATHS.findall(path.read_text()) == []
