"""The line of ``%%container together``, and the table and picture of its end."""

from __future__ import annotations

import threading

import pytest

from jupyter_ns.container import Container
from jupyter_ns.errors import UsageError
from jupyter_ns.frontend import contest
from jupyter_ns.spec import ContainerSpec
from jupyter_ns.together import split


@pytest.mark.parametrize(
    "line", ["", "sh", "-- -- sh", "-m 64m -- -c 2 -- sh", "-- -c 1 -- -c 2 --", "-- -c 1 -- -c 2"]
)
def test_too_few_parts(line: str) -> None:
    with pytest.raises(UsageError, match="expected the options of two containers or more, and a program"):
        split(line.split())


def test_options_for_all_come_first_so_that_one_of_its_own_wins() -> None:
    assert split(["-m", "1g", "--", "-m", "2g", "--", "--", "sh", "-c", "x"]) == (
        [["-m", "1g", "-m", "2g"], ["-m", "1g"]],
        ["sh", "-c", "x"],
    )


def ended(cpu_s: float) -> Container:
    container = Container(id="0" * 64, spec=ContainerSpec(argv=("sh",)), status="exited", exit_code=0, reason="exited")
    container.cpu_seconds, container.wall_seconds, container.peak_memory_bytes = cpu_s, 10.0, 1 << 20
    container.usage.extend({"time_s": t, "cpu_s": cpu_s * t / 10, "memory_bytes": 1 << 20} for t in range(11))
    return container


def test_table_and_picture_say_the_shares() -> None:
    data, _ = contest.table(["big", "<small>"], [ended(6.0), ended(3.0)])
    assert "66.7 %" in data["text/plain"] and "33.3 %" in data["text/plain"]
    assert "&lt;small&gt;" in data["text/html"] and "<small>" not in data["text/html"]
    png, alt = contest.picture(["big", "small"], [ended(6.0), ended(3.0)])
    assert png.startswith(b"\x89PNG")
    assert "big used 6s of CPU time, 66.7 % of all" in alt


def test_output_is_told_apart_by_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lock = threading.Lock()
    first, second = contest.NamedSink("a", lock), contest.NamedSink("b", lock)
    first.on_text("stdout", "on")
    second.on_text("stdout", "two\nthr")
    first.on_text("stdout", "e\n")
    first.finish()
    second.finish()
    assert capsys.readouterr().out == "b │ two\na │ one\nb │ thr\n"
