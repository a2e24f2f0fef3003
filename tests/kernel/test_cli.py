"""``jupyter-ns`` from a shell: output as it comes, Docker's exit codes."""

from __future__ import annotations

import io
import os
import sys
from types import SimpleNamespace

import pytest

from jupyter_ns import cli

Capture = pytest.CaptureFixture[str]


def test_run_passes_on_output_and_exit_code(capsys: Capture) -> None:
    assert cli.main(["run", "sh", "-c", "echo out; echo err >&2; exit 7"]) == 7
    assert capsys.readouterr() == ("out\n", "err\n")


def test_run_is_in_a_namespace_of_its_own(capsys: Capture) -> None:
    assert cli.main(["run", "readlink", "/proc/self/ns/uts"]) == 0
    inside = capsys.readouterr().out.strip()
    assert inside.startswith("uts:[")
    assert inside != os.readlink("/proc/self/ns/uts")


def test_standard_input_is_read_only_if_asked_for(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"abc")))
    assert cli.main(["run", "cat"]) == 0
    assert capsys.readouterr().out == ""
    assert cli.main(["run", "-i", "cat"]) == 0
    assert capsys.readouterr().out == "abc"


def test_time_limit_is_said(capsys: Capture) -> None:
    assert cli.main(["run", "--timeout", "200ms", "sleep", "60"]) == 137
    assert "--timeout 0.2 s" in capsys.readouterr().err


def test_program_that_does_not_exist(capsys: Capture) -> None:
    assert cli.main(["run", "no-such-program"]) == 127


def test_explain_prints_the_steps(capsys: Capture) -> None:
    assert cli.main(["run", "--explain", "true"]) == 0
    assert "pivot_root(" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuch"], "there are: run, doctor, version"),
        (["run"], "a program is missing"),
        (["run", "-d", "true"], "nothing outlives this command"),
        (["run", "--restart", "always", "true"], "--restart always: expected with -d"),
        (["run", "--mem", "12x", "true"], "--mem '12x'"),
        (["version", "-v"], "expected nothing after version"),
        (["doctor", "-v"], "expected nothing after doctor"),
    ],
)
def test_refusals(words: list[str], said: str, capsys: Capture) -> None:
    assert cli.main(words) == 125
    assert said in capsys.readouterr().err


@pytest.mark.needs("namespace:pid")
def test_help_and_doctor(capsys: Capture) -> None:
    assert cli.main([]) == 0
    assert "jupyter-ns run [OPTIONS]" in capsys.readouterr().out
    assert cli.main(["run", "--help"]) == 0
    assert "--memory" in capsys.readouterr().out
    assert cli.main(["doctor"]) == 0
    assert "pid namespace: made in a throw-away child" in capsys.readouterr().out
