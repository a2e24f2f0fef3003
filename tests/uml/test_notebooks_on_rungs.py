"""The first two notebooks on each kind of machine: they run to their end, and say what the machine lacks."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import guest
import manager
import pytest
from manager import USER

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ("00-quickstart", "01-cgroups")
REFUSAL = "Not on this machine: "
EXECUTE = """
import json, sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=300, allow_errors=True, resources={"metadata": {"path": "/tmp"}}).execute()
print("ANSWER", json.dumps([cell for cell in notebook.cells if cell.cell_type == "code"]))
"""
NO_CGROUP = {
    "--cpus", "--memory-swap", "--cpu-period", "--cpu-shares", "--device-cgroup-rule", "--cgroup-parent",
    "pause", "%cgroup",
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """How a rung's machine is set up, and what it cannot: the first word of each refusal."""

    rung: str
    uid: int = USER
    delegated: bool = True
    setup: str = ""
    environ: tuple[str, ...] = ()
    root: str = "overlay"
    kernel: str = ""
    refuses: set[str] = field(default_factory=set)


MACHINES = (
    Machine("root-v2", uid=0),
    Machine("user-v2", refuses={"--device-cgroup-rule"}),  # bpf(2) is root's
    Machine(
        "user-systemd",
        delegated=False,
        setup=manager.SETUP,
        environ=manager.ENVIRON,
        refuses={"--device-cgroup-rule"},
    ),
    Machine("old-kernel", uid=0, root="parts", kernel=guest.OLD_KERNEL),
    Machine("user-none", delegated=False, refuses=NO_CGROUP),
)


def refusals(cell: dict[str, Any]) -> list[str]:
    """Return what a cell's run was refused for; a `%expect` after it only says that there was no run."""
    said = [output["text"] for output in cell["outputs"] if output.get("name") == "stderr"]
    lines = [line.removeprefix(REFUSAL) for text in said for line in text.splitlines() if line.startswith(REFUSAL)]
    return [line for line in lines if not line.startswith("%expect")]


def told_of_no_run(cell: dict[str, Any]) -> bool:
    return any("the run before was refused" in output.get("text", "") for output in cell["outputs"])


@pytest.mark.notebooks
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.parametrize("machine", [pytest.param(m, marks=pytest.mark.rung(m.rung), id=m.rung) for m in MACHINES])
def test_runs_to_its_end_and_says_what_is_lacking(machine: Machine, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = guest.missing(machine.kernel) or (manager.missing() if machine.setup else "")
    promise = "uml-5.10" if machine.kernel else "uml"
    if reason and promise in os.environ.get("JUPYTER_NS_EXPECT", "").split(","):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    monkeypatch.chdir(ROOT)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environ = [*machine.environ, f"PYTHONPATH={ROOT}", "PYTHONDONTWRITEBYTECODE=1", "HOME=/tmp", f"PATH={path}"]
    done = guest.run(
        ["env", *environ, sys.executable, "-c", EXECUTE, f"notebooks/{name}.ipynb"],
        uid=machine.uid, delegated=machine.delegated, setup=machine.setup, root=machine.root,
        kernel=machine.kernel, timeout_s=800,
    )  # fmt: skip
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert answers, done.stdout
    cells = json.loads(answers[0].removeprefix("ANSWER "))
    refused = set()
    for cell in cells:
        errors = [f"{o['ename']}: {o['evalue']}" for o in cell["outputs"] if o["output_type"] == "error"]
        reasons = refusals(cell)
        refused |= {reason.split()[0].rstrip(":") for reason in reasons}
        on_purpose = "raises-exception" in cell["metadata"].get("tags", [])
        assert bool(errors) == (on_purpose and not reasons), ("".join(cell["source"]), errors, reasons)
        assert all(error.startswith("ContainerOOMError") for error in errors)
        if told_of_no_run(cell):
            assert refused
    expected = machine.refuses if name == "01-cgroups" else machine.refuses & {"--cpus"}
    assert refused == expected
