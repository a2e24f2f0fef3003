"""The benchmarks' own arithmetic: interleaving, quartiles, verdicts, the report."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

# The benchmarks are not part of the installed package.
sys.path.insert(0, str(Path(__file__).parents[2]))
stats = import_module("benchmarks.stats")
targets = import_module("benchmarks.targets")
report = import_module("benchmarks.report")
run = import_module("benchmarks.run")
workspace = import_module("benchmarks.workspace")


def test_every_round_runs_each_row_once() -> None:
    calls: list[str] = []

    def row(name: str) -> object:
        return stats.Candidate(name=name, run=lambda: calls.append(name) or len(calls) / 1e3)

    rows = stats.interleave([row("a"), row("b"), row("c")], rounds=5, gap_s=0.0, warmup=1)
    rounds = [sorted(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert rounds == [["a", "b", "c"]] * 6
    assert [len(series.values) for series in rows] == [5, 5, 5]
    assert sum(map(sum, (series.values for series in rows))) == pytest.approx(sum(range(4, 19)))


def test_missing_and_failing_rows_stay_with_their_reason() -> None:
    def fail() -> float:
        raise stats.BenchmarkError("exit code 1: no")

    rows = stats.interleave(
        [
            stats.Candidate(name="gone", missing="not installed"),
            stats.Candidate(name="broken", run=fail),
            stats.Candidate(name="fine", run=lambda: 0.002),
        ],
        rounds=3,
        gap_s=0.0,
    )
    assert [(r.name, r.values, r.missing) for r in rows] == [
        ("gone", (), "not installed"),
        ("broken", (), "failed: exit code 1: no"),
        ("fine", (2.0, 2.0, 2.0), ""),
    ]
    text = report.table("T", rows, "fine")
    assert "| gone | – | – | – | not installed |" in text
    assert "| fine | 2.00 ms | 2.00 – 2.00 | 1.00 |" in text


def test_median_and_quartiles() -> None:
    series = stats.Series(name="s", values=(5.0, 1.0, 3.0, 2.0, 4.0))
    assert series.median == 3.0
    assert series.quartiles == (2.0, 4.0)
    assert stats.Series(name="s", values=(7.0,)).quartiles == (7.0, 7.0)


@pytest.mark.parametrize(("value", "met"), [(9.0, True), (10.0, True), (10.1, False)])
def test_verdict_compares_with_the_baseline(value: float, met: bool) -> None:
    target = targets.TARGETS[0]
    rows = {
        target.row: stats.Series(name=target.row, values=(value,)),
        target.baseline: stats.Series(name=target.baseline, values=(10.0,)),
    }
    verdict = targets.judge(rows)[0]
    assert verdict.reached == pytest.approx(value / 10)
    assert verdict.met is met


def test_unmeasured_targets_say_why() -> None:
    target = targets.TARGETS[0]
    rows = {
        target.row: stats.Series(name=target.row, values=(1.0,)),
        target.baseline: stats.Series(name=target.baseline, missing="not installed"),
    }
    verdict = targets.judge(rows)[0]
    assert verdict.met is None
    assert verdict.why_not == f"{target.baseline}: not installed"
    assert len(targets.judge({})) == len(targets.TARGETS)
    assert all(v.why_not.endswith("not part of this run") for v in targets.judge({}))


def test_cgroup_mounts_of_a_hybrid_host() -> None:
    mountinfo = (
        "31 24 0:27 / /cg/memory rw,relatime - cgroup cgroup rw,memory\n"
        "32 24 0:28 / /cg/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "33 24 0:29 / /cg/pids rw,relatime - cgroup cgroup rw,pids\n"
        "34 24 0:30 / /cg/unified rw,relatime - cgroup2 cgroup2 rw\n"
        "35 24 0:31 / / rw - ext4 /dev/vda rw\n"
    )
    assert workspace.cgroup_mounts(mountinfo) == {
        "memory": "/cg/memory",
        "cpu": "/cg/cpu,cpuacct",
        "pids": "/cg/pids",
        "unified": "/cg/unified",
    }


@pytest.mark.parametrize("argv", [["nonsense"], ["--rounds", "0"], ["--gap-ms", "-1"], ["--live", "x"]])
def test_bad_command_lines_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run.main(argv)
    assert stopped.value.code == 2
    assert argv[-1] in capsys.readouterr().err
