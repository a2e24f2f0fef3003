"""Names that --sysctl accepts, and the tables of masked and read-only paths."""

from __future__ import annotations

import pytest

from jupyter_ns.errors import UsageError
from jupyter_ns.security.paths import MASKED_PATHS, READONLY_PATHS, masked_paths
from jupyter_ns.security.sysctls import IPC_KEYS, validate


def own(name: str) -> str:
    return validate(name, network_host=False, ipc_host=False)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
        ("net/ipv4/conf/eth0.100/rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
        ("net.core.somaxconn", "net/core/somaxconn"),
        ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
        ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
    ],
)
def test_accepted(name: str, path: str) -> None:
    assert own(name) == f"/proc/sys/{path}"


def test_the_eight_ipc_keys() -> None:
    assert len(IPC_KEYS) == 8
    assert {own(f"kernel.{key}") for key in IPC_KEYS} == {f"/proc/sys/kernel/{key}" for key in IPC_KEYS}


@pytest.mark.parametrize(
    "name",
    [
        "kernel.core_pattern",
        "kernel.msgmax.x",
        "kernel",
        "vm.overcommit_memory",
        "fs.mqueue",
        "fs.file-max",
        "net",
        "network.x",
        "NET.ipv4.ip_forward",
        "mqueue",
    ],
)
def test_not_namespaced(name: str) -> None:
    with pytest.raises(UsageError, match=rf"--sysctl '{name}': not one .*accepted: net\.\*, fs\.mqueue\.\*"):
        own(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "net.",
        ".net.x",
        "net..x",
        "net/../kernel/core_pattern",
        "net.//.kernel.core_pattern",
        "net/./x",
        "/net/x",
        "net.x\n",
        "net.\0",
    ],
)
def test_malformed(name: str) -> None:
    with pytest.raises(UsageError, match=r"--sysctl .*: not a sysctl's name"):
        own(name)


@pytest.mark.parametrize("key", ["hostname", "domainname"])
def test_option_of_its_own(key: str) -> None:
    with pytest.raises(UsageError, match=f"use --{key}"):
        own(f"kernel.{key}")


def test_namespace_shared_with_the_host() -> None:
    with pytest.raises(UsageError, match="network namespace, which --network host shares"):
        validate("net.core.somaxconn", network_host=True, ipc_host=False)
    for name in ("kernel.sem", "fs.mqueue.msg_max"):
        with pytest.raises(UsageError, match="IPC namespace, which --ipc host shares"):
            validate(name, network_host=False, ipc_host=True)
        assert validate(name, network_host=True, ipc_host=False)
    assert validate("net.core.somaxconn", network_host=False, ipc_host=True)


def test_masked_paths_are_dockers() -> None:
    proc = "acpi asound interrupts kcore keys latency_stats sched_debug scsi timer_list timer_stats"
    sys = {"/sys/firmware", "/sys/devices/virtual/powercap"}
    assert set(masked_paths([])) == {f"/proc/{name}" for name in proc.split()} | sys


def test_thermal_throttle_of_each_cpu() -> None:
    per_cpu = set(masked_paths(range(3))) - set(masked_paths([]))
    assert per_cpu == {f"/sys/devices/system/cpu/cpu{n}/thermal_throttle" for n in (0, 1, 2)}


def test_readonly_paths_are_dockers() -> None:
    names = {row.path.removeprefix("/proc/") for row in READONLY_PATHS}
    assert names == {"bus", "fs", "irq", "sys", "sysrq-trigger"}


def test_every_path_has_its_reason() -> None:
    for row in (*MASKED_PATHS, *READONLY_PATHS):
        assert row.reason and "\n" not in row.reason, row
