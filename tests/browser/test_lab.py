"""Cells in containers as a user of JupyterLab sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lab import Notebook, chromium, open_notebook

pytestmark = pytest.mark.browser
BUTTONS_ANSWER = int(version("ipykernel").split(".")[0]) >= 7
PLOT = 'img[src^="data:image/png"]'


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    browser = chromium()
    missing = [] if browser else ["Chromium"]
    missing += [name for name in ("jupyterlab", "nbformat", "playwright") if find_spec(name) is None]
    if browser is None or missing:
        promised = "browser" in os.environ.get("JUPYTER_NS_EXPECT", "").split(",")
        (pytest.fail if promised else pytest.skip)(f"not installed: {', '.join(missing)}")
    with open_notebook(tmp_path_factory.mktemp("Räume mit Lücken"), browser) as opened:
        yield opened


def processes_with(argument: str) -> list[Path]:
    """Return the processes that have an argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        if argument.encode() in words:
            found.append(path)
    return found


def plot_of(notebook: Notebook) -> Any:
    """Return the plot in the last cell of the saved notebook: JupyterLab 4 drops its alt text, others show it."""
    (plot,) = [o for o in notebook.saved().cells[-1].outputs if "image/png" in o.get("data", ())]
    return plot


def test_card_lives_then_stays(notebook: Notebook, tmp_path: Path) -> None:
    notebook.start(
        f"%%container --mem 128m --cpus 0.5 --name spinner -v {tmp_path}:/srv sh\n"
        "while [ ! -e /srv/seen ]; do :; done; echo counted"
    )
    first = notebook.wait_for(notebook.label, "the live plot")
    assert notebook.prompt() == "[*]:"
    second = notebook.wait_for(lambda: notebook.label() not in ("", first) and notebook.label(), "the plot to change")
    assert notebook.prompt() == "[*]:"
    assert "of 50 %" in second and "of 128MiB" in second
    assert notebook.count("button.jupyter-button") == int(BUTTONS_ANSWER)
    (tmp_path / "seen").touch()
    notebook.wait_for_end()
    notebook.wait_for(lambda: notebook.count(PLOT), "the frozen plot")
    assert notebook.count("svg[aria-label]") == notebook.count("button") == 0
    text = notebook.text()
    assert "exit code 0" in text and "spinner" in text and "counted" in text
    assert "throttled" in text and "128MiB → 128MiB" in text and "≠" in text
    assert notebook.count("table") >= 2


def test_saved_card_needs_no_kernel(notebook: Notebook) -> None:
    notebook.run("%%container --mem 64m sh\nsleep 1; echo saved")
    saved = notebook.saved()
    card, plot = (output for output in saved.cells[-1].outputs if output.output_type == "display_data")
    assert set(card.data) == {"text/html", "text/plain"} and set(plot.data) == {"image/png", "text/plain"}
    assert "exit code 0" in card.data["text/plain"] and "<table" in card.data["text/html"]
    assert plot.metadata["image/png"]["alt"] == plot.data["text/plain"]
    assert plot.data["text/plain"].startswith("CPU, memory and PIDs of container")
    assert "widgets" not in saved.metadata


def test_out_of_memory_leaves_the_kernel(notebook: Notebook) -> None:
    notebook.run("kept = 40")
    text = notebook.run(
        "%%container --mem 128m\nimport time\nhoard = []\n"
        "while True:\n    hoard.append(bytearray(1 << 21))\n    time.sleep(0.01)"
    )
    assert "ContainerOOMError" in text and "To allow more: --memory 256m" in text
    assert "✗ out of memory, exit code 137 (SIGKILL)" in text
    notebook.wait_for(lambda: notebook.count(PLOT), "the memory curve")
    assert "out of memory at" in plot_of(notebook).metadata["image/png"]["alt"]
    assert notebook.run("kept + 1 + 1").split()[-1] == "42"


def test_much_output_is_cut_and_the_card_is_there(notebook: Notebook) -> None:
    notebook.run("%%container\nfor i in range(50):\n    print(('x' * 99 + '\\n') * 10000, end='')")
    text = notebook.wait_for(lambda: "these are the first" in notebook.text() and notebook.text(), "the note")
    assert "[stdout: these are the first 524,288 characters; _container.stdout has 4,194,304]" in text
    assert "exit code 0" in text and "data rate exceeded" not in text
    assert 524_288 < len(text) < 600_000
    assert notebook.run("len(_container.stdout) > 4194304").split()[-1] == "True"


TURNS = """%%container --quiet python3 -S
import fcntl, sys, termios, time
for i in 1, 2, 3:
    for stream, name in (sys.stdout, "out"), (sys.stderr, "err"):
        print(name, i, file=stream, flush=True)
        while any(fcntl.ioctl(stream, termios.FIONREAD, bytes(4))):
            time.sleep(0.01)
"""
"""Each line once the one before has been read."""


def test_both_streams_are_shown_in_the_order_written(notebook: Notebook) -> None:
    notebook.run(TURNS)
    assert notebook.text().split() == ["out", "1", "err", "1", "out", "2", "err", "2", "out", "3", "err", "3"]


def test_the_live_card_fits(notebook: Notebook, tmp_path: Path) -> None:
    notebook.start(f"%%container --mem 64m -v {tmp_path}:/srv sh\nuntil [ -e /srv/seen ]; do sleep 0.1; done")
    notebook.wait_for(lambda: notebook.count("table"), "the namespaces")
    widths = "['scrollWidth', 'clientWidth'].map(w => node.querySelector('.jp-OutputArea-output .widget-vbox')[w])"
    wanted, there = notebook._active(widths)
    (tmp_path / "seen").touch()
    notebook.wait_for_end()
    assert wanted <= there


def test_input_asks(notebook: Notebook) -> None:
    notebook.start('%%container\nprint("hello", input("Name? "))')
    box = notebook.page.locator("input.jp-Stdin-input")
    box.wait_for(timeout=60_000)
    box.fill("Zoë")
    box.press("Enter")
    notebook.wait_for_end()
    assert "hello Zoë" in notebook.text()


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("%%container sh\necho ready; sleep 1000", "Interrupted: the container was interrupted"),
        ("%%container\nimport time\nprint('ready')\ntime.sleep(1000)", "KeyboardInterrupt"),
    ],
    ids=["sh", "python"],
)
def test_interrupt(notebook: Notebook, cell: str, shown: str) -> None:
    notebook.start(cell)
    notebook.wait_for(lambda: "ready" in notebook.text(), "the cell to run")
    notebook.command("notebook:interrupt-kernel")
    notebook.wait_for_end()
    assert shown in notebook.text()
    assert notebook.run("1 + 1").split()[-1] == "2"


@pytest.mark.skipif(not BUTTONS_ANSWER, reason="buttons answer during a cell from ipykernel 7.1 on")
def test_stop_button_interrupts_then_kills(notebook: Notebook) -> None:
    notebook.start('%%container sh\ntrap "echo stubborn" INT\nwhile :; do sleep 0.2; done')
    notebook.wait_for(lambda: notebook.count("button.jupyter-button"), "the Stop button")
    notebook.click("button.jupyter-button")
    notebook.wait_for(lambda: "stubborn" in notebook.text(), "the interrupt to arrive")
    assert notebook.prompt() == "[*]:"
    notebook.click("button.jupyter-button")
    notebook.wait_for_end()
    assert "interrupted, exit code 137 (SIGKILL)" in notebook.text()


def test_restart_in_mid_run_leaves_nothing(notebook: Notebook) -> None:
    seconds = f"1000.{os.getpid()}"
    notebook.start(f"%%container --mem 64m sh\nsleep {seconds}")
    notebook.wait_for(lambda: processes_with(seconds), "the container")
    notebook.wait_for(lambda: "● running" in notebook.text(), "the live card")
    notebook.restart()
    notebook.wait_for(lambda: not processes_with(seconds), "the container's end")
    notebook.wait_for(lambda: "✗ gone with the notebook's kernel" in notebook.text(), "the card to tell")
    assert "running" not in notebook.text() and "Stop" not in notebook.text()
    assert notebook.run("%load_ext jupyter_ns").strip() == ""
    assert "again" in notebook.run("%%container sh\necho again")


@pytest.mark.skipif(not BUTTONS_ANSWER, reason="sliders answer during a cell from ipykernel 7.1 on")
def test_a_slider_moves_a_limit_while_the_cell_runs(notebook: Notebook) -> None:
    notebook.start("%%container --mem 128m --cpus 0.5 --no-raise-error sh\nwhile :; do :; done")
    notebook.wait_for(lambda: notebook.count(".noUi-handle") == 2, "a slider for each limit")
    notebook.wait_for(lambda: "of 50 %" in notebook.label(), "the quota in the plot")
    handle = notebook.page.locator(".noUi-handle").nth(-1)
    handle.press("ArrowRight")
    notebook.wait_for(lambda: "of 55 %" in notebook.label(), "the plot to show the new quota")
    assert "cpus 0.5 -> 0.55 at" in notebook.label()
    assert notebook.prompt() == "[*]:"
    notebook.click("button.jupyter-button")
    notebook.wait_for_end()
    notebook.run("print([(r.file, r.effective) for r in _container.limits if r.name == 'nano_cpus'])")
    assert "55000" in notebook.text()
