"""The seccomp filter: by an interpreter over all numbers, and by the kernel itself."""

from __future__ import annotations

import errno
import json
import platform
import re
import signal
import struct
import subprocess
import sys
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


# Loads the filter given in hexadecimal, then makes the calls given; prints [result, errno] of each.
CHILD = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
image, calls, seccomp = bytes.fromhex(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]

PR_SET_NO_NEW_PRIVS, SECCOMP_SET_MODE_FILTER = 38, 1
filter = Program(len(image) // 8, image)
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
if image and libc.syscall(seccomp, SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(filter)) != 0:
    sys.exit(f"seccomp: errno {ctypes.get_errno()}")
results = []
for number, *arguments in calls:
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(a) for a in arguments))
    results.append([result, ctypes.get_errno()])
print(json.dumps(results))
"""
NATIVE = platform.machine()
needs_native = pytest.mark.skipif(NATIVE not in AUDIT_ARCH, reason=f"no filter for {NATIVE}")


def under_filter(image: bytes, calls: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Make system calls in a child; name to result and errno."""
    numbers = json.dumps(list(calls.values()))
    argv = [sys.executable, "-c", CHILD, image.hex(), numbers, str(NUMBERS[NATIVE]["seccomp"])]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return {name: (result[0], result[1]) for name, result in zip(calls, json.loads(run.stdout), strict=True)}


def real_calls() -> dict[str, tuple[int, ...]]:
    """Calls that do nothing even where they are allowed."""
    nr = NUMBERS[NATIVE]
    clone_fs = 0x200  # contradicts CLONE_NEWUSER: EINVAL
    return {
        "getppid": (nr["getppid"],),
        "unshare": (nr["unshare"], 0),
        "mount": (nr["mount"], 0, 0, 0, 0, 0),
        "clone newuser": (nr["clone"], NEWUSER | clone_fs, 0, 0, 0, 0),
        "clone3": (nr["clone3"], 0, 0),
        "unix": (nr["socket"], 1, 1, 0),
        "alg": (nr["socket"], 38, 5, 0),
        "alg, high bits": (nr["socket"], 38 | 1 << 32, 5, 0),
        "vsock": (nr["socket"], 40, 1, 0),
        "personality query": (nr["personality"], 0xFFFFFFFF),
        "no randomization": (nr["personality"], 0x0040000),
        "io_uring": (nr["io_uring_setup"], 0, 0),
        "newer": (466 + 1, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
    }


@needs_native
def test_the_kernel_takes_the_default_filter() -> None:
    got = under_filter(program(DEFAULT, NATIVE), real_calls())
    assert got["getppid"][0] > 0
    assert got["unix"][0] >= 0
    assert got["personality query"][0] >= 0
    refused = {
        "unshare": errno.EPERM,
        "mount": errno.EPERM,
        "clone newuser": errno.EPERM,
        "clone3": errno.ENOSYS,
        "alg": errno.EPERM,
        "alg, high bits": errno.EPERM,
        "vsock": errno.EPERM,
        "no randomization": errno.EPERM,
        "io_uring": errno.EPERM,
        "newer": errno.ENOSYS,
    }
    assert {name: got[name] for name in refused} == {name: (-1, code) for name, code in refused.items()}


@needs_native
def test_the_kernel_lets_through_what_sys_admin_allows() -> None:
    got = under_filter(program(DEFAULT | mask(["SYS_ADMIN"]), NATIVE), real_calls())
    assert got["unshare"] == (0, 0)
    assert got["mount"] == (-1, errno.EFAULT)
    assert got["clone newuser"] == (-1, errno.EINVAL)
    assert got["clone3"] == (-1, errno.EINVAL)
    assert got["alg"] == (-1, errno.EPERM)


@needs_native
def test_without_the_filter_the_kernel_answers_otherwise() -> None:
    got = under_filter(b"", real_calls())
    assert got["unshare"] == (0, 0)
    assert got["clone newuser"] == (-1, errno.EINVAL)
    assert got["no randomization"][0] >= 0


@needs_native
@pytest.mark.skipif(NATIVE != "x86_64", reason="x32 is an ABI of x86_64")
def test_the_kernel_refuses_x32() -> None:
    got = under_filter(program(DEFAULT, NATIVE), {"x32": (X32_SYSCALL_BIT | NUMBERS[NATIVE]["getppid"],)})
    assert got["x32"] == (-1, errno.EPERM)


@needs_native
@pytest.mark.skipif(NATIVE != "x86_64", reason="int 0x80 is x86's")
def test_the_kernel_refuses_i386() -> None:
    enter = bytes.fromhex("b814000000 cd80 c3")  # mov eax, 20 (i386's getpid); int 0x80; ret
    child = CHILD.replace("print(json.dumps(results))", "") + (
        "import mmap\n"
        "page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        f"page.write({enter!r})\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())\n"
    )
    results = []
    for image in (b"", program(DEFAULT, NATIVE)):
        argv = [sys.executable, "-c", child, image.hex(), "[]", str(NUMBERS[NATIVE]["seccomp"])]
        results.append(subprocess.run(argv, capture_output=True, text=True, timeout=60))
    if results[0].returncode == -signal.SIGSEGV:
        pytest.skip("this kernel has no 32-bit emulation")
    assert int(results[0].stdout) > 0
    assert int(results[1].stdout) == -errno.EPERM


@needs_native
def test_a_program_works_under_the_default_filter() -> None:
    """Threads, subprocesses, sockets and files: what a cell does must not notice the filter."""
    script = (
        "import os, socket, subprocess, tempfile, threading\n"
        "thread = threading.Thread(target=print, args=('thread',), daemon=False)\n"
        "thread.start(); thread.join()\n"
        "print(subprocess.run(['sh', '-c', 'echo program'], capture_output=True, text=True).stdout.strip())\n"
        "a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'\n"
        "with tempfile.TemporaryFile() as f: f.write(b'y'); f.flush(); os.fsync(f.fileno())\n"
        "pid = os.fork()\n"
        "os._exit(7) if pid == 0 else print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    argv = [sys.executable, "-c", CHILD.replace("print(json.dumps(results))", script)]
    argv += [program(DEFAULT, NATIVE).hex(), "[]", str(NUMBERS[NATIVE]["seccomp"])]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (run.stdout.split(), run.stderr, run.returncode) == (["thread", "program", "7"], "", 0)
