"""``%expect``: what holds passes with a line, what does not raises, what is no condition says what is."""

from __future__ import annotations

import pytest
from IPython.core.error import UsageError as IPythonUsageError
from IPython.core.interactiveshell import InteractiveShell

from jupyter_ns.container import Change, Container
from jupyter_ns.errors import ExpectationError, UsageError
from jupyter_ns.expect import EVENTS, FIGURES, expect, help_text
from jupyter_ns.frontend.magics import ContainerMagics
from jupyter_ns.spec import ContainerSpec

MIB = 1 << 20


def ended(reason: str = "exited", exit_code: int = 0) -> Container:
    container = Container(id="0" * 64, spec=ContainerSpec(argv=("sh",)), name="brave_turing", status="exited")
    container.reason, container.exit_code = reason, exit_code
    container.wall_seconds, container.cpu_seconds, container.throttled_seconds = 10.0, 5.0, 2.5
    container.peak_memory_bytes = 87 * MIB
    container.usage.append({"time_s": 0.0, "pids": 3})
    container.changes = [Change("A", "/tmp/x")]
    return container


@pytest.mark.parametrize(
    "condition",
    [
        "ok", "not oom", "not timeout", "throttled", "cpu < 55%", "cpu<=50", "cpu == 50 %", "cpu_seconds >= 5s",
        "throttled = 25%", "wall != 9", "peak_memory <= 128m", "peak_memory > 80MiB", "pids <= 3", "exit_code == 0",
        "changes == 1", "  cpu   <  55%  ",
    ],
)  # fmt: skip
def test_holds(condition: str) -> None:
    assert expect(ended(), condition).startswith(f"✓ {condition.strip()}: ")


@pytest.mark.parametrize(
    ("condition", "figure"),
    [
        ("oom", "exit code 0, reason exited"),
        ("not ok", "exit code 0"),
        ("cpu < 50%", "50.0 %"),
        ("peak_memory <= 64m", "87MiB"),
        ("exit_code != 0", "is 0"),
        ("throttled > 25", "25.0 %"),
    ],
)
def test_does_not_hold(condition: str, figure: str) -> None:
    with pytest.raises(ExpectationError, match=f"expected {condition}.*{figure}"):
        expect(ended(), condition)


@pytest.mark.parametrize(("reason", "code"), [("oom", 137), ("timeout", 137), ("killed", 143), ("interrupted", 130)])
def test_every_way_to_end(reason: str, code: int) -> None:
    assert expect(ended(reason, code), reason)
    assert expect(ended(reason, code), "error")
    with pytest.raises(ExpectationError):
        expect(ended(), reason)


@pytest.mark.parametrize("condition", ["", "not", "speed < 3", "cpu", "cpu ~ 3", "cpu < ", "cpu < fast", "pids < 1.5"])
def test_no_condition(condition: str) -> None:
    with pytest.raises(UsageError, match=r"expected|no value of"):
        expect(ended(), condition)


def test_a_figure_that_the_host_does_not_say_is_not_taken_for_met() -> None:
    container = ended()
    container.peak_memory_bytes = None
    with pytest.raises(ExpectationError, match="does not say"):
        expect(container, "peak_memory < 1g")


def test_a_run_that_goes_on_is_refused() -> None:
    container = ended()
    container.status = "running"
    with pytest.raises(UsageError, match="running: expected one that has ended"):
        expect(container, "ok")


def test_help_has_every_event_and_figure() -> None:
    words = help_text().split()
    assert set(EVENTS) | set(FIGURES) <= set(words)


def test_the_magic(capsys: pytest.CaptureFixture[str]) -> None:
    shell = InteractiveShell()
    shell.register_magics(ContainerMagics)
    with pytest.raises(IPythonUsageError, match="nothing has run yet"):
        shell.run_line_magic("expect", "ok")
    shell.user_ns["_container"] = ended()
    shell.run_line_magic("expect", "cpu < 55%")
    assert capsys.readouterr().out == "✓ cpu < 55%: it is 50.0 %\n"
    with pytest.raises(ExpectationError):
        shell.run_line_magic("expect", "oom")
