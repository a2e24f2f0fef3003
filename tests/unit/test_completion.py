"""Tab completion in a real IPython shell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from detached import detached
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from jupyter_ns.frontend import completion
from jupyter_ns.frontend.magics import ContainerMagics
from jupyter_ns.lifecycle import ask


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    shell = InteractiveShell()
    completion.install(shell)
    yield shell
    completion.remove(shell)
    assert completion.container_matcher not in shell.Completer.custom_matchers


def completed(shell: InteractiveShell, text: str) -> list[str]:
    with provisionalcompleter():
        return [found.text for found in shell.Completer.completions(text, len(text))]


def test_flags(shell: InteractiveShell) -> None:
    found = completed(shell, "%%container --mem")
    assert "--memory" in found
    assert "--memory-swap" in found
    assert all(f.startswith("--mem") for f in found)


def test_values_of_a_choice(shell: InteractiveShell) -> None:
    assert sorted(completed(shell, "%%container --state ")) == ["copy", "fork", "none"]


def test_subcommands_on_a_line_magic_only(shell: InteractiveShell) -> None:
    assert "plan" in completed(shell, "%container pl")
    assert "plan" not in completed(shell, "%%container pl")


def test_nothing_elsewhere(shell: InteractiveShell) -> None:
    assert "--memory" not in completed(shell, "x = 1 --mem")


def test_help_of_the_magic_lists_the_options(shell: InteractiveShell) -> None:
    shell.register_magics(ContainerMagics)
    assert "--memory" in shell.object_inspect("%container")["docstring"]


@pytest.mark.needs("overlay", "networks")
def test_names_that_the_notebook_has_made(shell: InteractiveShell) -> None:
    ask("network_create", name="completed-lab")
    try:
        with detached("sleep", "100", name="completed-web"):
            assert completed(shell, "%docker run --network complet") == ["completed-lab"]
            assert completed(shell, "%docker run --network=container:c") == ["--network=container:completed-web"]
            assert completed(shell, "%%container --pid cont") == ["container:completed-web"]
            assert completed(shell, "%docker run --volumes-from c") == ["completed-web"]
            assert completed(shell, "%docker network rm c") == ["completed-lab"]
            assert completed(shell, "%docker network connect completed") == ["completed-lab", "completed-web"]
            assert completed(shell, "%docker network inspect bri") == ["bridge"]
            assert completed(shell, "%docker network di") == ["disconnect"]
            assert completed(shell, "%docker stop c") == ["completed-web"]
    finally:
        ask("network_remove", of="completed-lab")
