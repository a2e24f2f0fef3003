"""A JupyterLab server of its own, and one of its notebooks in headless Chromium."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import jupyter_ns

if TYPE_CHECKING:
    from playwright.sync_api import Page

T = TypeVar("T")

START_SECONDS = 120.0
CELL_SECONDS = 120.0
NOTEBOOK = "Übung mit Räumen.ipynb"

_NOTEBOOK = "window.jupyterapp.shell.currentWidget.content"
_READY = """() => {
    const panel = window.jupyterapp?.shell.currentWidget;
    return panel?.content?.widgets?.length && panel.sessionContext.session?.kernel?.status === 'idle';
}"""


def chromium() -> str | None:
    """Return the path of a Chromium or Chrome; None if there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


def wait_for(question: Callable[[], T], what: str, seconds: float = CELL_SECONDS, seen: Callable[[], str] = str) -> T:
    """Ask until the answer is true, and return it; fail after `seconds`, with what is `seen`."""
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}; seen: {seen()!r}"
        time.sleep(0.1)
    return answer


@contextmanager
def lab_server(directory: Path) -> Iterator[str]:
    """Run JupyterLab in `directory` with settings of its own; yield its address, with the token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex()
    settings = directory / ".settings"
    news = settings / "lab" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    environ = os.environ | {
        "JUPYTER_CONFIG_DIR": str(settings / "config"),
        "JUPYTER_DATA_DIR": str(settings / "data"),
        "JUPYTER_RUNTIME_DIR": str(settings / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(settings / "lab"),
        "JUPYTERLAB_WORKSPACES_DIR": str(settings / "workspaces"),
        "PYTHONPATH": str(Path(jupyter_ns.__file__).parents[1]),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command += ["--LabApp.expose_app_in_browser=True"]
    with open(settings / "log", "wb") as log:
        server = subprocess.Popen(command, cwd=directory, env=environ, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: _answers(f"{url}/api/status?token={token}", server), "JupyterLab", START_SECONDS)
        yield f"{url}/lab/tree/{quote(NOTEBOOK)}?token={token}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _answers(url: str, server: subprocess.Popen[bytes]) -> bool:
    assert server.poll() is None, "JupyterLab ended at once"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


class Notebook:
    """The notebook that is open in a page; cells are appended and run as a user would."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page, self.path = page, path

    def start(self, source: str) -> None:
        """Append a cell and run it; do not wait for its end. It is the active one from now on."""
        self.page.evaluate(
            f"""async source => {{
                const notebook = {_NOTEBOOK}, commands = window.jupyterapp.commands;
                notebook.activeCellIndex = notebook.widgets.length - 1;
                await commands.execute('notebook:insert-cell-below');
                notebook.activeCell.model.sharedModel.setSource(source);
                commands.execute('notebook:run-cell');
            }}""",
            source,
        )

    def run(self, source: str) -> str:
        """Run a cell to its end; return the text of its output."""
        self.start(source)
        self.wait_for_end()
        return self.text()

    def wait_for(self, question: Callable[[], T], what: str) -> T:
        """Ask until the answer is true, and return it."""
        return wait_for(question, what, seen=lambda: f"{self.prompt()} {self.text()}")

    def wait_for_end(self) -> None:
        """Wait until the prompt has its number: the kernel's status reads idle in mid-run."""
        self.wait_for(lambda: self.prompt()[1:2].isdigit(), "the cell to end")

    def prompt(self) -> str:
        """Return the active cell's prompt, such as ``[*]:``."""
        return str(self._active("node.querySelector('.jp-InputArea-prompt')?.innerText ?? ''")).strip()

    def text(self) -> str:
        """Return the text of the active cell's output, as seen."""
        return str(self._active("node.querySelector('.jp-Cell-outputArea')?.innerText ?? ''"))

    def count(self, selector: str) -> int:
        """Count the elements of the active cell's output that a CSS selector finds."""
        return int(self._active(f"node.querySelectorAll({json.dumps('.jp-Cell-outputArea ' + selector)}).length"))

    def label(self) -> str:
        """Return the words of the live plot; empty if there is none."""
        return str(self._active("node.querySelector('svg[aria-label]')?.getAttribute('aria-label') ?? ''"))

    def click(self, selector: str) -> None:
        """Click on the last element that a CSS selector finds in the page."""
        self.page.locator(selector).last.click(timeout=60_000)

    def command(self, name: str) -> None:
        """Execute a command of JupyterLab, and wait for it."""
        self.page.evaluate("name => window.jupyterapp.commands.execute(name)", name)

    def restart(self) -> None:
        """Restart the kernel, without the question whether one is sure."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")

    def saved(self) -> Any:
        """Save, and return what is in the file."""
        import nbformat

        self.command("docmanager:save")
        return nbformat.read(self.path, as_version=4)

    def _active(self, expression: str) -> Any:
        return self.page.evaluate(f"() => {{ const node = {_NOTEBOOK}.activeCell.node; return {expression}; }}")


@contextmanager
def open_notebook(directory: Path, browser: str, scale: float = 1) -> Iterator[Notebook]:
    """Start JupyterLab and Chromium, and open a new notebook that has loaded the extension; `scale` is of pictures."""
    import nbformat  # here and not above: pytest imports this file where there is no browser, too
    from playwright.sync_api import sync_playwright

    cells = [nbformat.v4.new_code_cell("%load_ext jupyter_ns")]
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernelspec}), directory / NOTEBOOK)
    with lab_server(directory) as url, sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        page = playwright.chromium.launch(executable_path=browser, args=flags).new_page(
            viewport={"width": 1300, "height": 1600}, device_scale_factor=scale
        )
        page.goto(url)
        page.wait_for_function(_READY, timeout=1000 * START_SECONDS)
        notebook = Notebook(page, directory / NOTEBOOK)
        notebook.command("notebook:run-cell")
        notebook.wait_for_end()
        assert notebook.text().strip() == ""
        yield notebook
