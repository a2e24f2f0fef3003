"""The doctor's judgement of hosts, and what is refused or watched where there are no cgroups."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from jupyter_ns import doctor
from jupyter_ns.cgroups import CgroupFacts, NoManager, ProcSampler
from jupyter_ns.cgroups.none import totals
from jupyter_ns.errors import UnsupportedError
from jupyter_ns.host import HostFacts, RootEntry, Submount, parse_mountinfo, visible_mounts
from jupyter_ns.namespaces import KINDS
from jupyter_ns.spec import Limits
from jupyter_ns.usage import SAMPLE_FIELDS

NONE = CgroupFacts(version=0, kind="unified", unavailable={"cpu": "/c: not writable (EACCES)"})
V2: dict[str, Any] = {
    "version": 2,
    "kind": "unified",
    "bases": [{"controllers": ["memory", "cpu", "pids"], "directory": "/c", "path": "/"}],
    "unavailable": {"cpuset": "not offered", "io": "not offered"},
    "files": ["memory.max", "memory.swap.max"],
}
ROOT = HostFacts(cgroup=V2)
USER = replace(ROOT, rootless=True, uid=1000, id_ranges=False, cgroup=NONE.to_dict())


def rows(facts: HostFacts) -> dict[str, doctor.Row]:
    return {row.ability: row for row in doctor.doctor(facts)}


def test_root_has_all_but_what_the_kernel_keeps() -> None:
    assert [name for name, row in rows(ROOT).items() if row.state != doctor.YES] == [
        "limit: choice of CPUs",
        "limit: block I/O",
    ]


def test_a_user_without_cgroups_is_told_what_is_weaker_and_how_to_mend_it() -> None:
    found = rows(USER)
    assert {n: found[n].state for n in ("privilege", "several user IDs", "limit: memory", "limit: CPU time")} == {
        "privilege": "weakened",
        "several user IDs": "no",
        "limit: memory": "weakened",
        "limit: CPU time": "no",
    }
    assert found["limit: CPU time"].evidence == "/c: not writable (EACCES)"
    assert "Delegate=yes" in found["limit: CPU time"].fix


@pytest.mark.parametrize(
    ("change", "ability", "state"),
    [
        ({"overlay_error": "EINVAL"}, "copy-on-write root", "no"),
        ({"root_entries": (RootEntry("/usr", "dir"),)}, "copy-on-write root", "weakened"),
        ({"namespaces": {"pid": "EPERM"}}, "pid namespace", "no"),
        ({"namespaces": {"time": "EINVAL"}}, "time namespace", "weakened"),
        ({"seccomp_error": "EINVAL"}, "seccomp filter", "no"),
        ({"cgroup": V2 | {"files": ["memory.max"]}}, "limit: swap", "weakened"),
    ],
)
def test_each_failed_probe_is_a_row(change: dict[str, Any], ability: str, state: str) -> None:
    row = rows(replace(ROOT, **change))[ability]
    assert row.state == state
    assert row.cost
    assert row.documentation


WORST = replace(
    ROOT,
    rootless=True,
    uid=1000,
    id_ranges=False,
    guest="user-mode Linux 6.1, booted in 1 s; slow",
    namespaces=dict.fromkeys([kind.name for kind in KINDS], "EPERM"),
    root_entries=(RootEntry("/usr", "dir"),),
    submounts=(Submount("/data", "bind", "EINVAL"),),
    **dict.fromkeys([f"{what}_error" for what in ("mknod", "proc", "sysfs", "seccomp", "setattr", "keyring")], "EPERM"),
)


@pytest.mark.parametrize(
    "cgroup", [V2 | {"files": [], "notes": ["beside"]}, NONE.to_dict(), {"version": 0, "kind": "hybrid"}]
)
@pytest.mark.parametrize("overlay_error", ["", "EINVAL"])
def test_whatever_is_missing_has_evidence_a_cost_a_command_and_a_document(
    cgroup: dict[str, Any], overlay_error: str
) -> None:
    for row in doctor.doctor(replace(WORST, cgroup=cgroup, overlay_error=overlay_error)):
        if row.state != doctor.YES:
            assert all(row), row
            command = row.fix.split()[0]
            assert command in ("sudo", "systemd-run", "uname", "docker", "%%container", "%config"), row.fix


def test_where_the_engine_refuses_the_probe_and_the_fix_are_there() -> None:
    (row,) = doctor.refused("unshare(CLONE_NEWUSER): EPERM" + doctor.MORE)
    assert (row.state, row.evidence) == ("no", "unshare(CLONE_NEWUSER): EPERM")
    assert "sysctl" in row.fix


def test_html_escapes_what_the_kernel_said() -> None:
    page = doctor.html([doctor.Row("a", "no", "<script>", "b & c")])
    assert "&lt;script&gt;" in page
    assert "b &amp; c" in page
    assert "<script" not in page


def test_html_leaves_out_columns_without_an_entry() -> None:
    page = doctor.html([doctor.Row("a", "yes", "it ran")])
    assert "evidence" in page and ">it ran<" in page
    assert not any(head in page for head in ("what it costs", ">fix<", ">see<"))


def test_without_cgroups_memory_and_tasks_are_watched_and_marked() -> None:
    cgroup = NoManager(NONE).create("c", Limits(memory_bytes=1 << 20, pids_limit=5))
    assert [(r.name, r.effective, r.file) for r in cgroup.records] == [
        ("memory_bytes", "1048576", "watched"),
        ("pids_limit", "5", "watched"),
    ]
    assert len(cgroup.notes) == 2
    assert cgroup.watch_interval_s is not None
    assert NoManager(NONE).create("c", Limits()).watch_interval_s is None


@pytest.mark.parametrize(
    ("limits", "option"),
    [
        (Limits(nano_cpus=5 * 10**8), "--cpus"),
        (Limits(cpu_shares=2), "--cpu-shares"),
        (Limits(cpuset_cpus="0"), "--cpuset-cpus"),
        (Limits(memory_bytes=1 << 20, memory_swap_bytes=1 << 21), "--memory-swap"),
        (Limits(blkio_weight=10), "--blkio-weight"),
    ],
)
def test_without_cgroups_the_rest_is_refused_by_name_with_the_fix(limits: Limits, option: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{option} needs the cgroup controller .*Delegate=yes"):
        NoManager(NONE).create("c", limits)


def test_totals_and_samples_see_this_process() -> None:
    fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert totals(fd).tasks >= 1
        assert totals(fd).memory_bytes > 1 << 20
    finally:
        os.close(fd)
    assert len(ProcSampler(NoManager(NONE).create("c", Limits())).sample()) == len(SAMPLE_FIELDS)


def test_after_pivot_root_the_old_roots_mounts_do_not_hide_behind_their_order() -> None:
    text = "9 3 0:1 / /mnt rw - hostfs a rw\n4 9 0:2 / /mnt/proc rw - proc p rw\n3 1 0:3 / / rw - overlay o rw\n"
    assert [m.path for m in visible_mounts(parse_mountinfo(text))] == ["/", "/mnt", "/mnt/proc"]
