"""Capabilities: the table against the kernel's header, Docker's rules for --cap-add and --cap-drop."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jupyter_ns.errors import UnsupportedError, UsageError
from jupyter_ns.security.capabilities import DEFAULT, NAMES, full, mask, names, resolve

HEADER = Path("/usr/include/linux/capability.h")
LAST = 40


def cap(add: str = "", drop: str = "", *, privileged: bool = False, last_cap: int = LAST) -> set[str]:
    granted = resolve(add.split(), drop.split(), privileged=privileged, last_cap=last_cap)
    return {name.removeprefix("CAP_") for name in names(granted)}


DOCKER_DEFAULT = {
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
}  # fmt: skip


@pytest.mark.skipif(not HEADER.exists(), reason=f"{HEADER} is not installed")
def test_table_is_the_kernels() -> None:
    found = dict(re.findall(r"^#define CAP_(\w+)\s+(\d+)$", HEADER.read_text(), re.MULTILINE))
    assert {name: str(number) for number, name in enumerate(NAMES)}.items() <= found.items()


def test_default_is_dockers_mask() -> None:
    # CapEff of `docker run alpine`, as its /proc/1/status shows it.
    assert f"{DEFAULT:016x}" == "00000000a80425fb"
    assert cap() == DOCKER_DEFAULT


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ("NET_ADMIN", "", DOCKER_DEFAULT | {"NET_ADMIN"}),
        ("", "CHOWN KILL", DOCKER_DEFAULT - {"CHOWN", "KILL"}),
        ("", "SYS_ADMIN", DOCKER_DEFAULT),
        ("SYS_TIME", "MKNOD", DOCKER_DEFAULT - {"MKNOD"} | {"SYS_TIME"}),
        ("CHOWN", "CHOWN", DOCKER_DEFAULT),
        ("", "ALL", set()),
        ("SYS_PTRACE KILL", "ALL", {"SYS_PTRACE", "KILL"}),
        ("SYS_PTRACE", "ALL KILL", {"SYS_PTRACE"}),
        ("ALL", "", set(NAMES)),
        ("ALL", "SYS_ADMIN BPF", set(NAMES) - {"SYS_ADMIN", "BPF"}),
        ("ALL", "ALL", set(NAMES)),
        ("all", "cap_sys_admin", set(NAMES) - {"SYS_ADMIN"}),
        ("cap_net_admin Sys_Time CAP_BPF", "All", {"NET_ADMIN", "SYS_TIME", "BPF"}),
    ],
)
def test_docker_rules(add: str, drop: str, expected: set[str]) -> None:
    assert cap(add, drop) == expected


def test_privileged_is_everything() -> None:
    assert cap(privileged=True) == set(NAMES)
    assert cap("KILL", "ALL", privileged=True) == set(NAMES)


def test_older_kernel_has_fewer() -> None:
    assert cap("ALL", last_cap=36) == set(NAMES[:37])
    assert cap(privileged=True, last_cap=37) == set(NAMES[:38])
    assert cap(drop="BPF", last_cap=36) == DOCKER_DEFAULT
    with pytest.raises(UnsupportedError, match=r"--cap-add CAP_BPF: .* number 37 .*cap_last_cap"):
        cap("BPF", last_cap=37)


def test_newer_kernel_has_more() -> None:
    assert resolve(["ALL"], [], privileged=False, last_cap=42) == full(42) == (1 << 43) - 1
    assert names(full(42))[-3:] == ("CAP_CHECKPOINT_RESTORE", "41", "42")


@pytest.mark.parametrize("privileged", [False, True])
@pytest.mark.parametrize(
    ("add", "drop", "message"),
    [
        ("NET_ADMN", "", r"--cap-add 'NET_ADMN': unknown capability; did you mean NET_ADMIN"),
        ("", "cap_chwon", r"--cap-drop 'cap_chwon': unknown capability; did you mean CHOWN"),
        ("CAP_ALL", "", r"--cap-add 'CAP_ALL': unknown capability; did you mean ALL"),
        ("", "21", r"--cap-drop '21': unknown capability \(accepted: ALL, or"),
        ("CAP_", "", r"--cap-add 'CAP_': unknown"),
    ],
)
def test_unknown_name_is_refused(add: str, drop: str, message: str, *, privileged: bool) -> None:
    with pytest.raises(UsageError, match=message):
        cap(add, drop, privileged=privileged)


def test_empty_name_is_refused() -> None:
    with pytest.raises(UsageError, match="--cap-add ''"):
        resolve([""], [], privileged=False, last_cap=LAST)


def test_mask_and_names_are_inverse() -> None:
    for number, name in enumerate(NAMES):
        assert mask([name]) == 1 << number
        assert names(1 << number) == (f"CAP_{name}",)
    assert names(0) == ()
    with pytest.raises(KeyError, match="NOT_ONE"):
        mask(["NOT_ONE"])
