"""Right-sizing: what is suggested follows from what was measured, and what cannot be known is said."""

from __future__ import annotations

from jupyter_ns.container import Container
from jupyter_ns.sizing import Sizing, right_size
from jupyter_ns.spec import ContainerSpec, Limits

MIB = 1 << 20


def ended(
    limits: Limits, *, peak_mib: int, wall_s: float, cpu_s: float, throttled_s: float = 0.0, reason: str = "exited"
) -> Container:
    """Build a run that used CPU evenly."""
    container = Container(id="0" * 64, spec=ContainerSpec(limits=limits), status="exited", reason=reason)
    container.peak_memory_bytes = peak_mib * MIB
    container.wall_seconds, container.cpu_seconds, container.throttled_seconds = wall_s, cpu_s, throttled_s
    for i in range(11):
        container.usage.append({"time_s": wall_s * i / 10, "cpu_s": cpu_s * i / 10, "cache_bytes": 0})
    return container


def test_the_example_of_the_documentation() -> None:
    limits = Limits(memory_bytes=128 * MIB, nano_cpus=500_000_000)
    found = right_size(ended(limits, peak_mib=87, wall_s=10, cpu_s=3.8, throttled_s=6.2), host_cpus=2)
    assert str(found) == "peak 87MiB of 128MiB, 0.5 CPU throttled 62 % of the time; --mem 96m --cpus 1 would have done"


def test_without_limits() -> None:
    found = right_size(ended(Limits(), peak_mib=40, wall_s=10, cpu_s=3), host_cpus=4)
    assert found.options == "--mem 44m --cpus 0.4"


def test_out_of_memory_is_no_measure_of_what_it_wanted() -> None:
    run = ended(Limits(memory_bytes=64 * MIB), peak_mib=64, wall_s=1, cpu_s=0.1, reason="oom")
    found = right_size(run, host_cpus=2)
    assert "--mem" not in found.options
    assert "not known" in found.unknown


def test_what_was_stopped_is_no_measure_either() -> None:
    for reason in ("interrupted", "killed", "timeout"):
        run = ended(Limits(memory_bytes=64 * MIB, nano_cpus=10**9), peak_mib=10, wall_s=1, cpu_s=0.1, reason=reason)
        found = right_size(run, host_cpus=2)
        assert (found.options, "10MiB of 64MiB" in found.used, "stopped" in found.unknown) == ("", True, True)


def test_a_full_memory_is_not_made_smaller() -> None:
    found = right_size(ended(Limits(memory_bytes=64 * MIB), peak_mib=64, wall_s=1, cpu_s=0.1), host_cpus=2)
    assert "--mem 64m" in found.options
    assert "not known" in found.unknown


def test_several_throttled_threads_hide_what_they_wanted() -> None:
    limits = Limits(nano_cpus=500_000_000)
    found = right_size(ended(limits, peak_mib=10, wall_s=10, cpu_s=5, throttled_s=15), host_cpus=2)
    assert "throttled 100 %" in found.used
    assert "--cpus" not in found.options
    assert "not known" in found.unknown


def test_files_in_memory_are_named() -> None:
    run = ended(Limits(memory_bytes=256 * MIB), peak_mib=100, wall_s=1, cpu_s=0.1)
    run.usage.append({"time_s": 1.1, "cpu_s": 0.1, "cache_bytes": 60 * MIB})
    assert "60MiB of that held files" in right_size(run, host_cpus=2).unknown


def test_a_burst_counts_and_a_single_short_sample_does_not() -> None:
    run = ended(Limits(), peak_mib=10, wall_s=10, cpu_s=1)
    run.usage.append({"time_s": 10.01, "cpu_s": 1.01})
    assert "--cpus 0.2" in right_size(run, host_cpus=2).options
    run.usage.append({"time_s": 11.01, "cpu_s": 1.81})
    assert "--cpus 0.9" in right_size(run, host_cpus=2).options


def test_a_short_run_says_nothing_of_cpu() -> None:
    assert right_size(ended(Limits(), peak_mib=10, wall_s=0.1, cpu_s=0.1), host_cpus=2).options == "--mem 11m"


def test_an_unmeasured_run_says_nothing() -> None:
    run = ended(Limits(), peak_mib=0, wall_s=0.1, cpu_s=0.0)
    assert right_size(run, host_cpus=2) == Sizing()
    assert str(Sizing()) == ""
