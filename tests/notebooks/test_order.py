"""What a cell writes and what it displays come in the order in which it did so, in a real kernel."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

import jupyter_ns

TEXT_AND_CARDS = """
ip = get_ipython()
for n in range(3):
    print("before", n)
    ip.run_cell_magic("container", "sh", f"echo inside {n}; echo wrong {n} >&2")
    ip.run_cell_magic("container", "sh", "true")
print("after")
"""
PYTHON = """
print("before")
ip.run_cell_magic("container", "", "for n in range(40): print(n); display(str(n))\\nprint('last'); 'value'")
print("after")
"""
CAPTURED = """
from IPython.utils.capture import capture_output
import sys
out, err = sys.stdout, sys.stderr
with capture_output() as captured:
    ip.run_cell_magic("container", "sh", "echo inside")
print(captured.stdout.strip(), len(captured.outputs), sys.stdout is out, sys.stderr is err)
"""


def shown(cell: NotebookNode) -> list[str]:
    """List what a cell shows: the lines of its standard streams, and of each display ``card``, or its plain text."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream":
            found += output.text.splitlines()
        else:
            text = output["data"]["text/plain"]
            found.append("card" if "exit code 0 ·" in text else text)
    return found


@pytest.mark.notebooks
def test_text_and_displays_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(jupyter_ns.__file__).parents[1]))
    cells = ("%load_ext jupyter_ns", TEXT_AND_CARDS, PYTHON, CAPTURED)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    _, shell, python, captured = (shown(cell) for cell in notebook.cells)
    for n in range(3):
        at = shell.index(f"before {n}")
        # What a container writes to two pipes has no order.
        assert {*shell[at + 1 : at + 3]} == {f"inside {n}", f"wrong {n}"}
        assert shell[at + 3 : at + 5] == ["card", "card"]
    assert shell[-1] == "after"
    each = [line for n in range(40) for line in (f"{n}", f"'{n}'")]
    assert python == ["before", *each, "last", "'value'", "card", "after"]
    assert captured == ["inside 1 True True"]


FORKED = """%%container --state fork
known + 1"""
CLOSED = """%%container{}
import os
os.closerange(0, 4096)
{}"""


@pytest.mark.notebooks
def test_what_a_cell_ends_with_is_shown_or_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(jupyter_ns.__file__).parents[1]))
    cells = ["%load_ext jupyter_ns\nknown = 41", FORKED, "_container.value"]
    endings = ("5", "1 / 0", "raise SystemExit(4)")
    cells += [CLOSED.format(option, ending) for option in ("", " --state fork") for ending in endings]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in [*cells, "known"]])
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, resources=resources, allow_errors=True).execute()
    assert [shown(cell) for cell in notebook.cells[1:3]] == [["42", "card"], ["42"]]
    errors = [[o.evalue for o in cell.outputs if o.output_type == "error"] for cell in notebook.cells[3:-1]]
    assert [len(found) for found in errors] == [1] * len(errors)
    lost, code = "has closed descriptor 3", "exit code 4;"
    assert all(words in found[0] for words, found in zip([lost, lost, code] * 2, errors, strict=True))
    assert shown(notebook.cells[-1]) == ["41"]
