"""cgroups without a kernel: parsing, orders of writes, Docker's arithmetic, fake trees."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from jupyter_ns.cgroups import (
    Base,
    CgroupFacts,
    Manager,
    Sampler,
    alike,
    detect,
    devices,
    disks,
    files,
    probe,
    tree,
    unsupported,
    v1,
    v2,
)
from jupyter_ns.cgroups.ancestors import Level, binding, met, read_levels
from jupyter_ns.cgroups.facts import Place, changed, merge, swap_total_bytes
from jupyter_ns.errors import UnsupportedError, UsageError
from jupyter_ns.spec import Limits
from jupyter_ns.usage import SAMPLE_FIELDS

MIB = 1 << 20

V1_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1_SELF = "9:name=systemd:/x\n4:memory:/user/me\n2:cpu,cpuacct:/\n0::/\n"


def test_hybrid_layout() -> None:
    layout = detect(V1_SELF, V1_MOUNTS)
    assert layout.kind == "hybrid"
    assert set(layout.v1) == {"memory", "cpu", "cpuacct"}
    assert layout.v1["memory"].directory == "/sys/fs/cgroup/memory/user/me"
    assert layout.v1["cpu"] is layout.v1["cpuacct"]
    assert layout.v1["cpu"].directory == "/sys/fs/cgroup/cpu,cpuacct"
    assert layout.v2 is not None
    assert layout.v2.directory == "/sys/fs/cgroup/unified"


def test_unmounted_hierarchy_is_named() -> None:
    layout = detect("4:memory:/\n0::/\n", "")
    assert layout.kind == "none"
    assert layout.v1["memory"].reason == "the hierarchy is not mounted"


@pytest.mark.parametrize(
    ("path", "root", "directory"),
    [
        ("/a/b", "/", "/c/a/b"),
        ("/", "/", "/c"),
        ("/docker/1", "/docker/1", "/c"),
        ("/docker/1/x", "/docker/1", "/c/x"),
        ("/docker/12", "/docker/1", ""),  # a sibling, not a child
        ("/other", "/docker/1", ""),
        ("/", "/..", ""),  # mounted before the cgroup namespace was made: our name in it is not told
        ("/../peer", "/..", "/c/peer"),
        ("/../peer", "/", ""),
    ],
)
def test_mount_roots(path: str, root: str, directory: str) -> None:
    layout = detect(f"0::{path}\n", f"30 25 0:26 {root} /c rw - cgroup2 cgroup2 rw\n")
    assert layout.v2 is not None
    assert layout.v2.directory == directory
    assert bool(layout.v2.reason) == (not directory)


def test_writable_mount_is_preferred_and_later_one_hides() -> None:
    mounts = (
        "30 25 0:26 / /ro ro - cgroup2 cgroup2 rw\n"
        "31 25 0:26 / /with\\040space rw - cgroup2 cgroup2 rw\n"
        "32 25 0:26 / /hidden rw - cgroup2 cgroup2 rw\n"
        "33 25 0:26 / /hidden rw - tmpfs tmpfs rw\n"
    )
    v2_only = detect("0::/a\n", mounts).v2
    assert v2_only is not None
    assert v2_only.directory == "/with space/a"
    only_hidden = detect("0::/a\n", "".join(mounts.splitlines(keepends=True)[2:]))
    assert only_hidden.kind == "none"


def test_swap_defaults_and_errors() -> None:
    assert swap_total_bytes(Limits(memory_bytes=100)) == 200
    assert swap_total_bytes(Limits(memory_bytes=100, memory_swap_bytes=0)) == 200
    assert swap_total_bytes(Limits(memory_bytes=100, memory_swap_bytes=-1)) == -1
    assert swap_total_bytes(Limits(memory_bytes=100, memory_swap_bytes=100)) == 100
    assert swap_total_bytes(Limits()) is None
    with pytest.raises(UsageError, match=r"--memory-swap 99.*accepted: --memory"):
        swap_total_bytes(Limits(memory_bytes=100, memory_swap_bytes=99))
    with pytest.raises(UsageError, match="needs --memory"):
        swap_total_bytes(Limits(memory_swap_bytes=99))


@pytest.mark.parametrize(("old", "new"), [((100, 200), (50, 60)), ((50, 60), (100, 200)), ((50, 500), (100, 120))])
def test_v1_memory_never_exceeds_memsw_in_between(old: tuple[int, int], new: tuple[int, int]) -> None:
    before = Limits(memory_bytes=old[0], memory_swap_bytes=old[1])
    after = Limits(memory_bytes=new[0], memory_swap_bytes=new[1])
    state = {"memory.limit_in_bytes": old[0], "memory.memsw.limit_in_bytes": old[1]}
    for setting in v1.memory(after, before, changed(after, before), frozenset(state)):
        state[setting.file] = int(setting.value)
        assert state["memory.limit_in_bytes"] <= state["memory.memsw.limit_in_bytes"]
    assert tuple(state.values()) == new


def test_v1_memory_to_unlimited_raises_swap_first() -> None:
    before, after = Limits(memory_bytes=100), Limits(memory_bytes=0)
    names = frozenset({"memory.memsw.limit_in_bytes"})
    settings = v1.memory(after, before, changed(after, before), names)
    assert [(s.file, s.value) for s in settings] == [
        ("memory.memsw.limit_in_bytes", "-1"),
        ("memory.limit_in_bytes", "-1"),
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((50_000, 100_000), (5_000, 10_000)),
        ((5_000, 10_000), (50_000, 100_000)),
        ((90_000, 100_000), (2_000, 20_000)),
    ],
)
def test_v1_cpu_share_never_rises_in_between(old: tuple[int, int], new: tuple[int, int]) -> None:
    before = Limits(cpu_quota_us=old[0], cpu_period_us=old[1])
    after = Limits(cpu_quota_us=new[0], cpu_period_us=new[1])
    state = {"cpu.cfs_quota_us": old[0], "cpu.cfs_period_us": old[1]}
    allowed = max(old[0] / old[1], new[0] / new[1])
    for setting in v1.cpu(after, before, changed(after, before)):
        state[setting.file] = int(setting.value)
        assert state["cpu.cfs_quota_us"] / state["cpu.cfs_period_us"] <= allowed
    assert tuple(state.values()) == new


def test_period_alone_leaves_the_quota() -> None:
    limits = Limits(cpu_period_us=50_000)
    assert [s.file for s in v1.cpu(limits, Limits(), changed(limits, Limits()))] == ["cpu.cfs_period_us"]
    assert v2.cpu(limits, changed(limits, Limits()))[0].value == "max 50000"


def test_cpus_replaces_quota_and_the_reverse() -> None:
    quota = merge(Limits(nano_cpus=10**9), Limits(cpu_quota_us=5_000))
    assert (quota.nano_cpus, quota.cpu_bandwidth_us) == (None, (5_000, 100_000))
    cpus = merge(quota, Limits(nano_cpus=10**9))
    assert (cpus.cpu_quota_us, cpus.cpu_bandwidth_us) == (None, (100_000, 100_000))


@pytest.mark.parametrize(
    ("shares", "weight"), [(2, 1), (512, 59), (1024, 100), (262_144, 10_000), (1, 1), (10**6, 10_000)]
)
def test_cpu_weight_is_runcs(shares: int, weight: int) -> None:
    assert v2.cpu_weight(shares) == weight


def test_v2_values() -> None:
    limits = Limits(
        memory_bytes=100 * MIB,
        memory_swap_bytes=150 * MIB,
        memory_reservation_bytes=10 * MIB,
        pids_limit=-1,
    )
    names = frozenset({"memory.swap.max"})
    settings = v2.memory(limits, Limits(), changed(limits, Limits()), names)
    assert {s.file: s.value for s in settings} == {
        "memory.max": str(100 * MIB),
        "memory.swap.max": str(50 * MIB),
        "memory.low": str(10 * MIB),
    }
    assert alike.pids(limits, changed(limits, Limits())) == []
    lifted = merge(Limits(pids_limit=5), limits)
    assert alike.pids(lifted, changed(lifted, Limits(pids_limit=5)))[0].value == "max"


def test_v2_swap_max_follows_memory() -> None:
    before, after = (
        Limits(memory_bytes=100, memory_swap_bytes=300),
        Limits(memory_bytes=200, memory_swap_bytes=300),
    )
    settings = v2.memory(after, before, changed(after, before), frozenset({"memory.swap.max"}))
    assert {s.file: s.value for s in settings} == {"memory.max": "200", "memory.swap.max": "100"}


def test_io_weight_scales() -> None:
    limits = Limits(blkio_weight=500)
    fields = changed(limits, Limits())
    assert v2.io(limits, Limits(), fields, frozenset({"io.bfq.weight", "io.weight"}))[0][3:5] == (
        "io.bfq.weight",
        "500",
    )
    assert v2.io(limits, Limits(), fields, frozenset({"io.weight"}))[0][3:5] == ("io.weight", "4950")
    assert v1.blkio(limits, Limits(), fields, frozenset({"blkio.bfq.weight"}))[0].file == "blkio.bfq.weight"


def fake_facts(tmp_path: Path, version: int, names: set[str], controllers: tuple[str, ...]) -> CgroupFacts:
    base = Base(controllers=controllers, directory=str(tmp_path), path="/here")
    return CgroupFacts(
        version=version,
        kind="unified",
        bases=(base,),
        unavailable={"cpuset": "the parent cgroup keeps it"},
        files=frozenset(names),
        devices_error="a fake tree has no devices",
    )


def fake_v2(tmp_path: Path, contents: dict[str, str]) -> v2.V2Cgroup:
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    facts = fake_facts(tmp_path, 2, set(contents), ("memory", "cpu", "pids", "io"))
    place = Place(facts.bases[0].controllers, str(tmp_path), "/here/x")
    return v2.V2Cgroup(facts, "x", [place], lambda _: place)


def test_missing_controller_names_option_and_reason(tmp_path: Path) -> None:
    cgroup = fake_v2(tmp_path, {"memory.max": "max", "memory.current": "0"})
    with pytest.raises(UnsupportedError, match=r"--cpuset-cpus 0: .* cpuset: the parent cgroup keeps"):
        cgroup.set(Limits(cpuset_cpus="0", memory_bytes=MIB))
    assert (tmp_path / "memory.max").read_text() == "max"
    assert cgroup.records == []


def test_unsupported_lists_each_field(tmp_path: Path) -> None:
    facts = fake_facts(tmp_path, 2, {"memory.max"}, ("memory",))
    limits = Limits(
        memory_bytes=MIB, memory_swap_bytes=MIB, memory_swappiness=0, oom_kill_disable=True, cpuset_mems="0"
    )
    found = unsupported(limits, facts)
    assert set(found) == {"memory_swap_bytes", "memory_swappiness", "oom_kill_disable", "cpuset_mems"}
    assert "swap accounting" in found["memory_swap_bytes"]
    assert unsupported(Limits(memory_bytes=MIB, memory_swap_bytes=-1, pids_limit=0), facts) == {}


def test_defaulted_swap_limit_is_noted_where_it_cannot_be_given(tmp_path: Path) -> None:
    cgroup = fake_v2(tmp_path, {"memory.max": "max", "memory.current": "0"})
    cgroup.set(Limits(memory_bytes=MIB))
    assert cgroup.notes == ["swap not limited: swap accounting is off (no CONFIG_SWAP, or swapaccount=0)"]
    assert [(r.name, r.effective, r.file) for r in cgroup.records] == [("memory_bytes", str(MIB), "memory.max")]
    cgroup.set(Limits(memory_swap_bytes=-1))
    assert cgroup.notes == []


def test_lowering_below_what_is_held_is_refused(tmp_path: Path) -> None:
    held = {"memory.max": "max", "memory.current": str(10 * MIB)}
    cgroup = fake_v2(tmp_path, held | {"memory.stat": f"inactive_file {MIB}\nactive_file 0\n"})
    with pytest.raises(UsageError, match=f"--memory {8 * MIB}: the container holds {9 * MIB} bytes"):
        cgroup.set(Limits(memory_bytes=8 * MIB))
    assert (tmp_path / "memory.max").read_text() == "max"


def test_v2_sampler_counts_as_docker(tmp_path: Path) -> None:
    cgroup = fake_v2(
        tmp_path,
        {
            "memory.current": "1000\n",
            "memory.stat": "anon 1\nfile 300\nzswap 5\ninactive_file 200\nactive_file 100\n",
            "memory.swap.current": "7\n",
            "pids.current": "3\n",
            "cpu.stat": "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\nnr_periods 9\n"
            "nr_throttled 4\nthrottled_usec 500000\n",
            "io.stat": "8:0 rbytes=10 wbytes=1 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=5 wbytes=2 rios=3\n",
            "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 total=9\n",
            "io.pressure": "some avg10=1.00 avg60=0.00 avg300=0.00 total=20\nfull avg10=0.00 total=9\n",
            "memory.events": "low 0\nhigh 0\nmax 6\noom 2\noom_kill 1\n",
            "pids.events": "max 5\n",
        },
    )
    net = tmp_path / "net"
    net.write_text(
        "Inter-|\n face |\n    lo: 9 1 0 0 0 0 0 0 9 1\n  eth0: 70 1 0 0 0 0 0 0 80 1\n tun0:1 1 0 0 0 0 0 0 2 1\n"
    )
    with Sampler(cgroup) as sampler:
        sampler._fds["network"] = os.open(net, os.O_RDONLY)
        found = dict(zip(SAMPLE_FIELDS, sampler.sample(), strict=True))
    time_s = found.pop("time_s")
    assert isinstance(time_s, float)
    assert 0 <= time_s < 10
    assert found == {
        "cpu_s": 3.0,
        "user_s": 2.0,
        "system_s": 1.0,
        "throttled_s": 0.5,
        "throttled_periods": 4,
        "memory_bytes": 800,
        "cache_bytes": 300,
        "swap_bytes": 7,
        "pids": 3,
        "read_bytes": 15,
        "write_bytes": 3,
        "read_operations": 4,
        "write_operations": 1,
        "received_bytes": 71,
        "sent_bytes": 82,
        "cpu_pressure_s": 1.5,
        "memory_pressure_s": None,
        "io_pressure_s": 2e-5,
        "memory_limit_hits": 6,
        "pids_limit_hits": 5,
    }


def test_v1_sampler_and_what_is_missing(tmp_path: Path) -> None:
    contents = {
        "cpuacct.usage": "3000000000\n",
        "cpuacct.usage_user": "2000000000\n",
        "cpuacct.usage_sys": "1000000000\n",
        "memory.usage_in_bytes": "100\n",
        "memory.stat": "cache 1\ninactive_file 1\ntotal_cache 60\ntotal_inactive_file 200\n",
        "memory.failcnt": "4\n",
        "blkio.throttle.io_service_bytes_recursive": "8:0 Read 10\n8:0 Write 1\n8:0 Total 11\n8:16 Read 5\nTotal 16\n",
        "blkio.throttle.io_serviced_recursive": "8:0 Read 2\n8:0 Write 1\nTotal 3\n",
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    facts = fake_facts(tmp_path, 1, set(contents), ("memory", "cpuacct", "blkio"))
    place = Place(("memory", "cpuacct", "blkio"), str(tmp_path), "/x")
    with Sampler(v1.V1Cgroup(facts, "x", [place], lambda _: place)) as sampler:
        sample = sampler.sample()
    # More inactive file pages than usage: not subtracted, as Docker does.
    assert sample[1:10] == (3.0, 2.0, 1.0, None, None, 100, 60, None, None)
    assert sample[10:] == (15, 1, 2, 1, None, None, None, None, None, 4, None)


def test_sampler_closes_what_it_opened_on_failure(tmp_path: Path) -> None:
    cgroup = fake_v2(tmp_path, {"cpu.stat": "usage_usec 1\n", "memory.current": "1\n"})
    (tmp_path / "memory.current").unlink()
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        Sampler(cgroup)
    assert set(os.listdir("/proc/self/fd")) == before


def fake_unified(tmp_path: Path, controllers: str, procs: str = "") -> str:
    """Make something that looks like the root of a version 2 mount."""
    (tmp_path / "cgroup.controllers").write_text(controllers)
    (tmp_path / "cgroup.subtree_control").write_text("")
    (tmp_path / "cgroup.type").write_text("domain\n")
    (tmp_path / "cgroup.procs").write_text(procs)
    return str(tmp_path)


def test_probe_refuses_a_cgroup_with_other_processes(tmp_path: Path) -> None:
    mount = fake_unified(tmp_path, "memory pids", "1\n2\n3\n")
    layout = detect("0::/\n", f"30 25 0:26 / {mount} rw - cgroup2 cgroup2 rw\n")
    facts = probe(layout, adopted=mount, pid=2)
    assert facts.version == 0
    assert "holds 2 other processes" in facts.unavailable["memory"]
    with pytest.raises(UnsupportedError, match="holds 2 other processes"):
        Manager(facts, "2-1")
    assert sorted(os.listdir(mount)) == [
        "cgroup.controllers",
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.type",
    ]


def test_probe_reports_an_unreachable_or_missing_v2(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    facts = probe(detect("0::/\n", f"30 25 0:26 / {gone} rw - cgroup2 cgroup2 rw\n"))
    assert facts.version == 0
    assert "ENOENT" in facts.unavailable["memory"]
    outside = probe(detect("0::/\n", "30 25 0:26 /.. /c rw - cgroup2 cgroup2 rw\n"))
    assert "outside of what is mounted" in outside.unavailable["cpu"]


def test_probe_names_a_v1_hierarchy_that_cannot_be_used(tmp_path: Path) -> None:
    mounts = f"33 31 0:30 / {tmp_path}/absent rw - cgroup cgroup rw,memory\n"
    facts = probe(detect("4:memory:/\n", mounts))
    assert facts.version == 0
    assert facts.unavailable["memory"] == f"{tmp_path}/absent: it does not exist (ENOENT)"
    assert facts.unavailable["pids"] == "not mounted on this system"


def test_facts_are_json(tmp_path: Path) -> None:
    facts = fake_facts(tmp_path, 2, {"memory.max"}, ("memory",))
    loaded = json.loads(json.dumps(facts.to_dict()))
    assert loaded["bases"] == [{"controllers": ["memory"], "directory": str(tmp_path), "path": "/here"}]
    assert loaded["files"] == ["memory.max"]
    assert CgroupFacts.from_dict(loaded) == facts


def test_enable_only_adds(tmp_path: Path) -> None:
    directory = fake_unified(tmp_path, "cpu memory pids")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory")
    reasons = tree.enable(directory, ("memory", "cpu", "io"))
    assert set(reasons) == {"io"}
    assert (tmp_path / "cgroup.subtree_control").read_text() == "cpu memory"
    assert tree.enable(directory, ("pids",)) == {}
    assert (tmp_path / "cgroup.subtree_control").read_text().startswith("+pids")


def test_remove_tree_never_removes_a_file(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_text("kept")
    assert files.remove_tree(str(tmp_path / "a")) == str(tmp_path / "a")
    assert (tmp_path / "a" / "file").read_text() == "kept"
    assert not (tmp_path / "a" / "b").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "cgroup.procs", "a" * 129])
def test_names_are_checked(tmp_path: Path, name: str) -> None:
    manager = Manager(fake_facts(tmp_path, 1, set(), ("memory",)), "1-1")
    with manager, pytest.raises(UsageError, match=r"cgroup name .* accepted: 1 to 128"):
        manager.prepare(name)
    assert os.listdir(tmp_path) == []


def test_engine_key_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="PID-STARTTIME"):
        Manager(fake_facts(tmp_path, 1, set(), ("memory",)), "../1-1")


def test_a_name_in_use_leaves_the_first_one_alone(tmp_path: Path) -> None:
    facts = fake_facts(tmp_path, 1, {"memory.limit_in_bytes"}, ("memory",))
    with Manager(facts, "1-1") as manager:
        first = manager.prepare("twin")
        with pytest.raises(UsageError, match="'twin': in use"):
            manager.prepare("twin")
        assert os.path.isdir(first.directories[0])
    assert os.listdir(tmp_path) == []


def test_failing_create_leaves_nothing(tmp_path: Path) -> None:
    facts = fake_facts(tmp_path, 1, {"memory.limit_in_bytes"}, ("memory",))
    with Manager(facts, "1-1") as manager:
        with pytest.raises(UnsupportedError, match="--pids-limit 5: cgroup controller pids"):
            manager.create("x", Limits(pids_limit=5))
        # The fake directory has no kernel files: the write itself fails.
        with pytest.raises(FileNotFoundError):
            manager.create("x", Limits(memory_bytes=MIB))
        assert os.listdir(tmp_path / "jupyter_ns" / "1-1") == []


def test_engine_directory_removed_from_outside_is_made_again(tmp_path: Path) -> None:
    with Manager(fake_facts(tmp_path, 1, set(), ("memory",)), "1-1") as manager:
        os.rmdir(tmp_path / "jupyter_ns" / "1-1")
        os.rmdir(tmp_path / "jupyter_ns")
        assert os.path.isdir(manager.prepare("x").directories[0])


# ---- devices ----


def decides(code: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """Carry out a program for devices as the kernel would, on one request."""
    words = [sum({"m": 1, "r": 2, "w": 4}[a] for a in access) << 16 | {"b": 1, "c": 2}[kind], major, minor]
    registers = [0] * 10
    at = 0
    for _ in range(1000):
        op, both, offset, value = struct.unpack_from("<BBhi", code, 8 * at)
        target, source, value = both & 15, both >> 4, value & 0xFFFFFFFF
        at += 1
        if op == 0x95:
            return bool(registers[0])
        if op == 0x61:
            registers[target] = words[offset // 4]
        elif op in (0xB4, 0xBC):
            registers[target] = value if op == 0xB4 else registers[source]
        elif op == 0x74:
            registers[target] >>= value
        elif op == 0x54:
            registers[target] &= value
        else:
            assert op in (0x56, 0x5E)
            at += offset * (registers[target] != (value if op == 0x56 else registers[source]))
    raise AssertionError("it does not end")


@pytest.mark.parametrize(
    ("rules", "request_", "allowed"),
    [
        ((), ("c", 1, 3, "r"), False),
        (devices.DEFAULT, ("c", 1, 3, "rw"), True),
        (devices.DEFAULT, ("c", 1, 11, "r"), False),
        (devices.DEFAULT, ("c", 1, 11, "m"), True),
        (devices.DEFAULT, ("c", 1, 11, "rm"), False),
        (devices.DEFAULT, ("b", 8, 0, "m"), True),
        (devices.DEFAULT, ("b", 8, 0, "w"), False),
        (devices.DEFAULT, ("b", 1, 3, "r"), False),
        (devices.DEFAULT, ("c", 136, 77, "rw"), True),
        (("b 8:* r",), ("b", 8, 5, "r"), True),
        (("b 8:* r",), ("b", 8, 5, "rw"), False),
        (("b *:5 rw",), ("b", 9, 5, "rw"), True),
        (("b *:5 rw",), ("c", 9, 5, "r"), False),
        (("a 7:1 rw",), ("c", 7, 1, "w"), True),
        (("a 7:1 rw",), ("b", 7, 1, "w"), True),
        (("b 8:0 r", "b 8:0 w"), ("b", 8, 0, "rw"), True),
        (("b 8:0 r", "b 8:* w"), ("b", 8, 0, "rw"), False),
        (("c 4294967295:1 r",), ("c", 4294967295, 1, "r"), True),
    ],
)
def test_device_programs_decide_as_version_1(
    rules: tuple[str, ...], request_: tuple[str, int, int, str], allowed: bool
) -> None:
    assert decides(devices.program(devices.parse_rules(rules)), *request_) == allowed


# ---- disks ----


def test_disk_limits_become_a_write_for_each_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        disks, "number", lambda _field, path: {"/dev/a": "8:0", "/dev/b": "8:16", "/dev/c": "8:0"}[path]
    )
    old = Limits(device_read_bps=(("/dev/a", 5), ("/dev/b", 6)))
    new = Limits(device_read_bps=(("/dev/a", 7), ("/dev/c", 9)), device_write_iops=(("/dev/b", 0),))
    fields = changed(new, old)
    assert fields == {"device_read_bps", "device_write_iops"}
    assert [(s.file, s.value, s.line) for s in v2.io(new, old, fields, frozenset())] == [
        ("io.max", "8:0 rbps=9", "8:0 "),
        ("io.max", "8:16 rbps=max", "8:16 "),
        ("io.max", "8:16 wiops=max", "8:16 "),
    ]
    assert [(s.file, s.value) for s in v1.blkio(new, old, fields, frozenset())] == [
        ("blkio.throttle.read_bps_device", "8:0 9"),
        ("blkio.throttle.read_bps_device", "8:16 0"),
        ("blkio.throttle.write_iops_device", "8:16 0"),
    ]


def test_disk_weights_have_the_scale_of_their_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "number", lambda _field, _path: "8:0")
    limits = Limits(blkio_weight_device=(("/dev/a", 1000),))
    fields = changed(limits, Limits())
    for names, expected in (
        ({"io.weight"}, ("io.weight", "8:0 10000")),
        ({"io.weight", "io.bfq.weight"}, ("io.bfq.weight", "8:0 1000")),
    ):
        (setting,) = v2.io(limits, Limits(), fields, frozenset(names))
        assert (setting.file, setting.value) == expected
    (setting,) = v1.blkio(limits, Limits(), fields, frozenset({"blkio.bfq.weight"}))
    assert (setting.file, setting.value) == ("blkio.bfq.weight_device", "8:0 1000")


def test_huge_pages_have_a_file_for_each_size() -> None:
    names = frozenset({"hugetlb.2MB.max", "hugetlb.1GB.max", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.current"})
    new, old = Limits(hugetlb=(("2MB", 1 << 26),)), Limits(hugetlb=(("1GB", 0),))
    fields = changed(new, Limits())
    (one,) = alike.hugetlb(new, Limits(), fields, names, "limit_in_bytes")
    assert (one.controller, one.file, one.value) == ("hugetlb", "hugetlb.2MB.limit_in_bytes", "67108864")
    both = alike.hugetlb(new, old, fields, names, "max")
    assert [(s.file, s.value) for s in both] == [("hugetlb.1GB.max", "max"), ("hugetlb.2MB.max", "67108864")]
    assert alike.hugetlb(new, old, frozenset(), names, "max") == []
    with pytest.raises(UsageError, match="--hugetlb 64KB: expected one of 1GB, 2MB, which this host has"):
        alike.hugetlb(Limits(hugetlb=(("64KB", 1),)), Limits(), fields, names, "max")


# ---- whose limit ----


def level(path: str, limit: float | None, usage: float | None = 0, hits: int = 0) -> Level:
    return Level(path, limit, usage, hits)


@pytest.mark.parametrize(
    ("levels", "path"),
    [
        ([], None),
        ([level("/a/b", None), level("/a", None)], None),
        ([level("/a/b", 512), level("/a", 256)], "/a"),
        ([level("/a/b", 256), level("/a", 256)], "/a/b"),
        ([level("/a/b", 128, 10), level("/a", 256, 250)], "/a"),  # a sibling has used it up
        ([level("/a/b", None), level("/a", 2.0, None), level("/", 1.0, None)], "/"),
    ],
)
def test_the_limit_with_the_least_room_binds(levels: list[Level], path: str | None) -> None:
    found = binding(levels)
    assert (found.path if found else None) == path


def test_the_limit_that_was_hit_is_found_by_what_was_counted_meanwhile() -> None:
    before = [level("/a/b", 512, hits=0), level("/a", 256, hits=7), level("/", None, hits=3)]
    assert met(before, before) is None
    assert met(before, [level("/a/b", 512, hits=0), level("/a", 256, hits=8), level("/", None, hits=4)]) == level(
        "/a", 256, hits=8
    )
    assert met(before, [level("/a/b", 512, hits=1), level("/a", 256, hits=7)]) == level("/a/b", 512, hits=1)
    # Page cache met the own limit and made room; what killed is the one below which no room could be made.
    both = [level("/a/b", 512, hits=1), level("/a", 256, hits=9)]
    assert met(before, both) == both[1]


@pytest.mark.parametrize(
    ("version", "contents", "expected"),
    [
        (
            1,
            {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "5", "memory.failcnt": "2"},
            (None, 5, 2),
        ),
        (
            2,
            {"memory.max": "100\n", "memory.current": "5\n", "memory.events.local": "low 0\nmax 2\noom 1\n"},
            (100, 5, 2),
        ),
    ],
)
def test_levels_are_read_upwards_to_the_mount(
    tmp_path: Path, version: int, contents: dict[str, str], expected: tuple[float | None, float, int]
) -> None:
    inner = tmp_path / "mount" / "a"
    inner.mkdir(parents=True)
    for directory in (inner, tmp_path / "mount"):
        (directory / "cgroup.procs").write_text("")
    for name, text in contents.items():
        (inner / name).write_text(text)  # the root, as on version 2, has none of these
    assert read_levels("memory", str(inner), "/a", version) == [Level("/a", *expected)]
