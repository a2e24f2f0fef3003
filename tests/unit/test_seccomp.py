"""The seccomp filter, run by an interpreter over all numbers; the tables of numbers."""

from __future__ import annotations

import re
import signal
import struct
from pathlib import Path

import pytest

from jupyter_ns.errors import UnsupportedError
from jupyter_ns.security import profile
from jupyter_ns.security.capabilities import DEFAULT, NAMES, full, mask
from jupyter_ns.security.seccomp import ALLOW, AUDIT_ARCH, ENOSYS, EPERM, X32_SYSCALL_BIT, program
from jupyter_ns.security.syscalls import NUMBERS

ARCHES = sorted(AUDIT_ARCH)
OTHER_ARCH = {"i386": 0x40000003, "arm": 0x40000028, "riscv64": 0xC00000F3, "none": 0}
MASKS = [0, DEFAULT, DEFAULT | mask(["SYS_ADMIN"]), full(40), *(1 << n for n in range(len(NAMES)))]
NEWNS, NEWUSER, NEWPID, NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000


class Machine:
    """Classic BPF as seccomp has it: enough instructions to run a filter, checked as the kernel checks."""

    def __init__(self, image: bytes) -> None:
        self.code = list(struct.iter_unpack("=HBBI", image))
        self.loaded: list[int] = []
        """Offsets in struct seccomp_data that the last run looked at."""

    def run(self, nr: int, arch: int, *args: int) -> tuple[int, int]:
        """Return the filter's answer and the number of instructions it took."""
        args = (*args, *(0,) * (6 - len(args)))
        data = struct.pack("<IIQ6Q", nr, arch, 0x7F0000001000, *args)
        accumulator, at, steps = 0, 0, 0
        self.loaded = []
        while True:
            opcode, yes, no, k = self.code[at]
            steps, at = steps + 1, at + 1
            if opcode == 0x20:
                assert k % 4 == 0
                self.loaded.append(k)
                (accumulator,) = struct.unpack_from("<I", data, k)
            elif opcode == 0x06:
                return k, steps
            else:
                taken = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: accumulator & k != 0}[opcode]
                at += yes if taken else no


def answer(name: str, arch: str, granted: int = DEFAULT, *args: int) -> int:
    return Machine(program(granted, arch)).run(NUMBERS[arch][name], AUDIT_ARCH[arch], *args)[0]


def expected(number: int, names: dict[int, str], granted: int) -> int:
    """What a call that has all arguments zero must be answered, from the profile's names."""
    name = names.get(number, "")
    for capability, calls in profile.BY_CAPABILITY.items():
        if name in calls and granted & mask([capability]):
            return ALLOW
    if name == "clone3":
        return ENOSYS
    if name in profile.ALLOWED or name in ("clone", "socket", "personality"):
        return ALLOW
    return ENOSYS if 466 < number < X32_SYSCALL_BIT else EPERM


@pytest.mark.parametrize("arch", ARCHES)
def test_every_number_is_answered_by_the_table(arch: str) -> None:
    names = {number: name for name, number in NUMBERS[arch].items()}
    for granted in MASKS:
        machine = Machine(program(granted, arch))
        for number in [*range(601), 0xFFFF, X32_SYSCALL_BIT - 1]:
            got, _ = machine.run(number, AUDIT_ARCH[arch])
            assert got == expected(number, names, granted), (names.get(number, number), hex(granted))


@pytest.mark.parametrize("granted", [DEFAULT, full(40)])
def test_x32_is_refused(granted: int) -> None:
    machine = Machine(program(granted, "x86_64"))
    for number in (*range(601), 0x3FFFFFFF):
        assert machine.run(X32_SYSCALL_BIT | number, AUDIT_ARCH["x86_64"])[0] == EPERM
    assert machine.run(0xFFFFFFFF, AUDIT_ARCH["x86_64"])[0] == EPERM


@pytest.mark.parametrize("arch", ARCHES)
def test_other_architectures_are_refused(arch: str) -> None:
    foreign = {**AUDIT_ARCH, **OTHER_ARCH}
    del foreign[arch]
    machine = Machine(program(full(40), arch))
    for number in range(601):
        assert {machine.run(number, value)[0] for value in foreign.values()} == {EPERM}


@pytest.mark.parametrize("arch", ARCHES)
def test_clone_with_namespaces_needs_sys_admin(arch: str) -> None:
    admin = DEFAULT | mask(["SYS_ADMIN"])
    thread = 0x3D0F00  # what glibc's pthread_create passes
    for flag in (1 << n for n in range(64)):
        new_namespace = flag & profile.CLONE_NAMESPACES
        assert answer("clone", arch, DEFAULT, flag) == (EPERM if new_namespace else ALLOW), hex(flag)
        assert answer("clone", arch, DEFAULT, flag | thread) == (EPERM if new_namespace else ALLOW)
        assert answer("clone", arch, admin, flag) == ALLOW
    assert answer("clone", arch, DEFAULT, NEWUSER | NEWNS | NEWPID | NEWNET) == EPERM
    assert answer("clone", arch, DEFAULT, signal.SIGCHLD) == ALLOW
    assert answer("clone3", arch, DEFAULT) == ENOSYS
    assert answer("clone3", arch, admin) == ALLOW


def test_clone_flags_are_the_kernels() -> None:
    newns, newcgroup, newuts, newipc = 0x20000, 0x2000000, 0x4000000, 0x8000000
    assert newns | newcgroup | newuts | newipc | NEWUSER | NEWPID | NEWNET == profile.CLONE_NAMESPACES


@pytest.mark.parametrize("arch", ARCHES)
def test_socket_families(arch: str) -> None:
    refused = {family for family in range(64) if answer("socket", arch, DEFAULT, family, 1) == EPERM}
    assert refused == {38, 40}
    # The kernel takes the family as an int: what stands above its 32 bits must not hide it.
    assert answer("socket", arch, DEFAULT, 38 | 1 << 32) == EPERM
    assert answer("socket", arch, DEFAULT, 0xFFFFFFFF) == ALLOW
    assert answer("socket", arch, full(40), 40) == EPERM


@pytest.mark.parametrize("arch", ARCHES)
def test_personalities(arch: str) -> None:
    candidates = [
        *range(256),
        *(1 << n for n in range(32)),
        0x20008,
        0x20009,
        0x40000,
        0xFFFFFFFE,
        0xFFFFFFFF,
    ]
    allowed = {value for value in candidates if answer("personality", arch, DEFAULT, value) == ALLOW}
    assert allowed == {0, 8, 0x20000, 0x20008, 0xFFFFFFFF}


@pytest.mark.parametrize(
    ("call", "capability"),
    [
        ("mount", "SYS_ADMIN"),
        ("unshare", "SYS_ADMIN"),
        ("setns", "SYS_ADMIN"),
        ("bpf", "SYS_ADMIN"),
        ("bpf", "BPF"),
        ("perf_event_open", "PERFMON"),
        ("syslog", "SYSLOG"),
        ("chroot", "SYS_CHROOT"),
        ("settimeofday", "SYS_TIME"),
        ("init_module", "SYS_MODULE"),
        ("reboot", "SYS_BOOT"),
        ("pidfd_getfd", "SYS_PTRACE"),
        ("mbind", "SYS_NICE"),
        ("vhangup", "SYS_TTY_CONFIG"),
        ("acct", "SYS_PACCT"),
        ("open_by_handle_at", "DAC_READ_SEARCH"),
    ],
)
@pytest.mark.parametrize("arch", ARCHES)
def test_calls_that_come_with_a_capability(call: str, capability: str, arch: str) -> None:
    assert answer(call, arch, 0) == EPERM
    assert answer(call, arch, mask([capability])) == ALLOW
    others = full(40) & ~mask(cap for cap, calls in profile.BY_CAPABILITY.items() if call in calls)
    assert answer(call, arch, others) == EPERM


@pytest.mark.parametrize("arch", ARCHES)
def test_never_allowed(arch: str) -> None:
    calls = "io_uring_setup io_uring_enter userfaultfd keyctl add_key kexec_load pivot_root swapon move_pages"
    for call in calls.split():
        assert answer(call, arch, full(40)) == EPERM, call


@pytest.mark.parametrize("arch", ARCHES)
def test_what_a_python_program_needs(arch: str) -> None:
    calls = "read write openat newfstatat futex mmap execve ptrace getrandom memfd_create statx rseq seccomp"
    for call in calls.split():
        assert answer(call, arch, 0) == ALLOW, call


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("granted", MASKS[:4])
def test_short_and_fast(arch: str, granted: int) -> None:
    image = program(granted, arch)
    assert len(image) // 8 < 100
    machine, audit = Machine(image), AUDIT_ARCH[arch]
    with_argument_tests = {NUMBERS[arch][name] for name in ("clone", "socket", "personality")}
    assert max(machine.run(n, audit)[1] for n in range(601) if n not in with_argument_tests) <= 14
    assert max(machine.run(n, audit, 0xFFFFFFFF)[1] for n in with_argument_tests) <= 18
    for hot in ("read", "write", "futex", "close", "mmap"):
        assert machine.run(NUMBERS[arch][hot], audit)[1] <= 10, hot


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("granted", MASKS)
def test_constant_answers_can_be_evaluated_ahead(arch: str, granted: int) -> None:
    """Linux 5.11 caches an answer that only number and architecture decide (kernel/seccomp.c)."""
    machine = Machine(program(granted, arch))
    assert {opcode for opcode, *_ in machine.code} <= {0x20, 0x15, 0x35, 0x45, 0x06}
    with_argument_tests = {NUMBERS[arch][name] for name in ("clone", "socket", "personality")}
    for number in range(601):
        machine.run(number, AUDIT_ARCH[arch])
        if number not in with_argument_tests:
            assert machine.loaded == [4, 0], number


def test_compiled_once() -> None:
    assert program(DEFAULT, "x86_64") is program(DEFAULT, "x86_64")
    assert program(DEFAULT, "x86_64") != program(DEFAULT, "aarch64")


def test_unknown_architecture() -> None:
    with pytest.raises(UnsupportedError, match=r"'riscv64' .*x86_64, aarch64.*seccomp=unconfined"):
        program(DEFAULT, "riscv64")


def test_names_of_the_profile_exist() -> None:
    known = {name for table in NUMBERS.values() for name in table}
    named = profile.ALLOWED.union(*profile.BY_CAPABILITY.values())
    assert named <= known


def test_numbers_are_unique() -> None:
    for arch, table in NUMBERS.items():
        assert len(set(table.values())) == len(table), arch


HEADERS = {
    "x86_64": ("/usr/include/asm/unistd_64.h", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}


@pytest.mark.parametrize("arch", ARCHES)
def test_numbers_are_the_headers(arch: str) -> None:
    header = next((path for path in map(Path, HEADERS[arch]) if path.exists()), None)
    if header is None:
        pytest.skip(f"none of {HEADERS[arch]} is installed")
    defines = re.findall(r"^#define\s+(__NR\w+)\s+(\w+)", header.read_text(), re.MULTILINE)
    plain = {name: int(value) for name, value in defines if value.isdigit()}
    # asm-generic names some numbers twice, once for each word size: __NR_fcntl, __NR_fcntl64.
    pairs = {(name.removeprefix("__NR_"), plain.get(value, plain.get(name))) for name, value in defines}
    ours = NUMBERS[arch]
    in_header = {name for name, _ in pairs}
    assert {(name, number) for name, number in ours.items() if name in in_header} <= pairs
    not_calls = {"syscalls", "arch_specific_syscall"}
    time64_only = range(403, 424)
    numbers = {n for name, n in pairs if name not in not_calls and n is not None and n not in time64_only}
    assert {n for n in numbers if n < 470} <= set(ours.values())
