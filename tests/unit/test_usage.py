"""The bounded time series: thinning keeps peaks, ends and totals."""

from __future__ import annotations

import copy
import subprocess
import sys
from itertools import pairwise

import pytest

from jupyter_ns.usage import SAMPLE_FIELDS, Usage


def sample(time_s: float, **values: float) -> dict[str, float | None]:
    return {"time_s": time_s, **values}


def steady(number: int, capacity: int = 8) -> Usage:
    """One sample a second, half a CPU, one process more each second but for a single spike."""
    usage = Usage(capacity)
    for i in range(number):
        usage.append(sample(i, cpu_s=i / 2, memory_bytes=10**9 if i == 5 else i, pids=1))
    return usage


def test_a_sequence_and_a_mapping_are_the_same_sample() -> None:
    by_name, by_order = Usage(), Usage()
    by_name.append({"time_s": 1.0, "pids": 3})
    by_order.append([{"time_s": 1.0, "pids": 3}.get(name) for name in SAMPLE_FIELDS])
    assert by_name.to_dict() == by_order.to_dict()
    assert by_name.column("pids") == [3]


BAD: tuple[object, ...] = ({"pids": 1}, {"time_s": 0, "pid": 1}, (0.0, 1.0), (None, *[1] * (len(SAMPLE_FIELDS) - 1)))


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_sample_is_refused_and_changes_nothing(bad: object) -> None:
    usage = Usage()
    with pytest.raises(ValueError, match="sample: "):
        usage.append(bad)  # type: ignore[arg-type]
    assert len(usage) == 0


@pytest.mark.parametrize("capacity", [0, 2, 7])
def test_a_capacity_that_cannot_be_halved_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity={capacity}"):
        Usage(capacity)


def test_an_unknown_column_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"field='memory'.*memory_bytes"):
        Usage().column("memory")


@pytest.mark.parametrize("number", [1, 8, 9, 10, 17, 100, 1001])
def test_thinning_bounds_the_length_and_keeps_both_ends(number: int) -> None:
    usage = steady(number)
    times = usage.column("time_s")
    assert len(usage) == len(times) <= 8
    assert times[0] == 0
    assert times[-1] == number - 1
    assert times == sorted(set(times), key=lambda t: t or 0)


@pytest.mark.parametrize("number", [6, 9, 16, 500])
def test_thinning_keeps_the_peak_of_an_amount(number: int) -> None:
    usage = steady(number)
    assert usage.peak("memory_bytes") == 10**9
    assert usage.last("memory_bytes") in (number - 1, 10**9)


def test_thinning_keeps_the_rate_of_a_counter() -> None:
    assert steady(1000).cpu_percent[1:] == pytest.approx([50.0] * (len(steady(1000)) - 1))
    assert steady(1000).last("cpu_s") == 499.5


def test_resolution_is_even_after_thinning() -> None:
    times = [t or 0 for t in steady(1 + 4 * 512).column("time_s")]
    gaps = {b - a for a, b in pairwise(times[1:-1])}
    assert len(gaps) == 1


def test_the_default_holds_600_samples() -> None:
    usage = Usage()
    usage.extend(sample(i / 10) for i in range(10_000))
    assert 300 <= len(usage) <= 600


def test_cpu_percent_is_unknown_where_it_cannot_be_told() -> None:
    usage = Usage()
    usage.extend([sample(0, cpu_s=0), sample(1), sample(2, cpu_s=1), sample(2, cpu_s=2), sample(3, cpu_s=1.5)])
    assert usage.cpu_percent == [None, None, None, None, 0.0]
    assert Usage().cpu_percent == []


def test_throttled_spans_join_neighbours() -> None:
    usage = Usage()
    usage.extend(sample(t, throttled_s=v) for t, v in enumerate([0, 0, 0.5, 0.9, 0.9, 1.0]))
    assert usage.throttled_spans == [(1, 3), (4, 5)]


def test_throttled_spans_fall_back_to_the_count_of_periods() -> None:
    usage = Usage()
    usage.extend(sample(t, throttled_periods=v) for t, v in enumerate([0, 2, 2]))
    assert usage.throttled_spans == [(0, 1)]


def test_only_out_of_memory_events_are_oom_times() -> None:
    usage = Usage()
    usage.events += [(0.5, "throttle"), (1.5, "oom"), (2.0, "limit moved: memory 64MiB -> 128MiB")]
    assert usage.oom_times == [1.5]


def test_a_copy_is_independent() -> None:
    usage = steady(20)
    before = usage.to_dict()
    twin = usage.copy()
    usage.extend(sample(20 + i) for i in range(20))
    usage.events.append((21.0, "oom"))
    assert twin.to_dict() == before
    twin.append(sample(20, cpu_s=10))
    assert twin.column("time_s")[-1] == 20


def test_it_can_be_deep_copied() -> None:
    assert copy.deepcopy(steady(20)).to_dict() == steady(20).to_dict()


def test_to_dict_has_a_column_for_each_field() -> None:
    columns = steady(3).to_dict()
    assert set(columns) == {*SAMPLE_FIELDS, "cpu_percent", "events"}
    assert columns["read_bytes"] == [None, None, None]


def test_to_frame_is_indexed_by_time() -> None:
    pytest.importorskip("pandas")
    usage = steady(3)
    usage.events.append((1.0, "oom"))
    frame = usage.to_frame()
    assert list(frame.index) == [0, 1, 2]
    assert frame.loc[2, "cpu_percent"] == 50.0
    assert frame.attrs["events"] == [[1.0, "oom"]]


def test_to_frame_without_pandas_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install pandas.*to_dict"):
        Usage().to_frame()


def test_plot_draws_into_the_given_axes() -> None:
    from matplotlib.figure import Figure

    usage = steady(6)
    usage.events.append((5.0, "oom"))
    axes = Figure().subplots()
    assert usage.plot(axes) is axes
    assert axes.get_ylabel() == "CPU (% of one)"
    drawn = axes.get_lines()[0].get_ydata()
    assert list(drawn[1:]) == [50.0] * 5
    assert [text.get_text() for text in axes.texts] == ["OOM"]


def test_import_needs_no_third_party_module() -> None:
    code = (
        "import sys, jupyter_ns.usage; "
        "print([m for m in ('matplotlib', 'numpy', 'pandas', 'IPython') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_cpu_over_a_window_is_smooth_where_single_samples_are_not() -> None:
    usage = Usage()
    for i in range(41):  # all of each second 50-ms slice, then none: 50 % on the whole
        usage.append({"time_s": i * 0.05, "cpu_s": (i + 1) // 2 * 0.05})
    single = [v for v in usage.cpu_percent if v is not None]
    assert (min(single), max(single)) == (pytest.approx(0, abs=0.01), pytest.approx(100))
    smooth = [v for v in usage.cpu_percent_over(0.5)[10:] if v is not None]
    assert len(smooth) == 31
    assert all(v == pytest.approx(50, abs=5.1) for v in smooth)


def test_cpu_over_a_window_looks_back_to_the_start_at_first() -> None:
    usage = Usage()
    usage.extend({"time_s": t, "cpu_s": c} for t, c in ((0.0, 0.0), (0.1, 0.1), (0.2, 0.1), (5.0, 0.58)))
    assert usage.cpu_percent_over(0.5) == [None, pytest.approx(100), pytest.approx(50), pytest.approx(10)]


def test_rises_of_a_counter_become_events() -> None:
    usage = Usage()
    for time, hits, periods in ((0.0, 0, 0), (0.1, 0, 3), (0.2, None, 3), (0.3, 2, 5), (0.4, 3, 5)):
        usage.append({"time_s": time, "pids_limit_hits": hits, "throttled_periods": periods})
    assert usage.rises("pids_limit_hits") == [(0.3, 2), (0.4, 1)]
    assert usage.rises("memory_limit_hits") == []
    usage.note_limits()
    assert usage.events == [(0.1, "throttle (5×)"), (0.3, "task limit hit (3×)")]


def test_an_hour_at_10_hz_stays_bounded_and_keeps_what_was_hit() -> None:
    usage = Usage()
    for i in range(36_000):
        usage.append({"time_s": i / 10, "memory_bytes": 10**6 if i == 17_001 else 5, "pids_limit_hits": i // 18_000})
    assert len(usage) <= usage.capacity
    assert usage.peak("memory_bytes") == 10**6
    assert (usage.last("time_s"), usage.rises("pids_limit_hits")[0][1]) == (3599.9, 1)
