"""The README's table of what works where is of the form that its script writes, and knows every kind of machine."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
from rungs import RUNGS, native

from jupyter_ns.host import HostFacts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("what_works_where", str(ROOT / "scripts" / "what-works-where"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_readme_has_a_measured_row_for_every_rung(script: ModuleType) -> None:
    text = (ROOT / "README.md").read_text()
    lines = text.split(script.BEGIN)[1].split(script.END)[0].splitlines()
    assert lines[:2] == script.table({"rungs": {}}).splitlines()[:2]
    for line, (name, rung) in zip(lines[2:], RUNGS.items(), strict=True):
        assert line.startswith(f"| {rung.machine} | {rung.gives} | `{name}`: ")
        measured = line.removeprefix(f"| {rung.machine} | {rung.gives} |")
        assert " passed, " in measured
        assert " failed" not in measured


def test_what_was_not_measured_or_failed_is_said(script: ModuleType) -> None:
    measured = {"rungs": {"root-v2": {"passed": 3, "failed": 1, "error": 1, "skipped": 2}}}
    rows = script.table(measured).splitlines()
    assert "`root-v1`: not measured" in rows[2]
    assert "`root-v2`: 3 tests passed, 2 failed, 2 skipped" in rows[3]


@pytest.mark.parametrize(
    ("rootless", "version", "name"),
    [(False, 1, "root-v1"), (True, 2, "user-v2"), (True, 0, "user-none"), (True, 1, "")],
)
def test_a_machine_is_on_the_rung_of_its_facts(rootless: bool, version: int, name: str) -> None:
    assert native(HostFacts(rootless=rootless, cgroup={"version": version})) == name
