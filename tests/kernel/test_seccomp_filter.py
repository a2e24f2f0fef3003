"""The seccomp filter, loaded into the kernel by a child that then makes system calls."""

from __future__ import annotations

import errno
import json
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_ns.security.capabilities import DEFAULT, mask
from jupyter_ns.security.seccomp import AUDIT_ARCH, X32_SYSCALL_BIT, program
from jupyter_ns.security.syscalls import NUMBERS

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
needs_unfiltered = pytest.mark.skipif(
    "Seccomp:\t0\n" not in Path("/proc/self/status").read_text(),
    reason="these tests run under another filter",
)


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
    new_user, clone_fs = 0x10000000, 0x200  # contradict each other: EINVAL
    return {
        "getppid": (nr["getppid"],),
        "unshare": (nr["unshare"], 0),
        "mount": (nr["mount"], 0, 0, 0, 0, 0),
        "clone newuser": (nr["clone"], new_user | clone_fs, 0, 0, 0, 0),
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
@needs_unfiltered
def test_the_kernel_lets_through_what_sys_admin_allows() -> None:
    got = under_filter(program(DEFAULT | mask(["SYS_ADMIN"]), NATIVE), real_calls())
    assert got["unshare"] == (0, 0)
    assert got["mount"] == (-1, errno.EFAULT)
    assert got["clone newuser"] == (-1, errno.EINVAL)
    assert got["clone3"] == (-1, errno.EINVAL)
    assert got["alg"] == (-1, errno.EPERM)


@needs_native
@needs_unfiltered
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
@needs_unfiltered
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
