"""Every operation of the core: once right, seen in the kernel's files; once failing, with step and errno."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import resource
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from jupyter_ns import core
from jupyter_ns.namespaces import BY_NAME
from jupyter_ns.plan.steps import MOUNT_FLAGS, Op, Plan, Step
from jupyter_ns.runtime import private
from jupyter_ns.security.syscalls import NUMBERS

pytestmark = pytest.mark.needs("root")

NEWNS, NEWUTS, NEWNET, NEWPID = (BY_NAME[k].flag for k in ("mount", "uts", "network", "pid"))
BIND, REC, PRIVATE = (MOUNT_FLAGS[f] for f in ("MS_BIND", "MS_REC", "MS_PRIVATE"))
PRIVATE_ROOT = Step(Op.MOUNT, ("none", "/", None, REC | PRIVATE, None))
NO_CAPABILITIES = Step(Op.CAPSET, (0, 0))


@contextlib.contextmanager
def child(steps: Sequence[Step], flags: int = 0, **fds: int) -> Iterator[tuple[int, core.Report | None]]:
    """Have a child carry out `steps` and park; give its PID and its first report."""
    read, report = os.pipe2(os.O_CLOEXEC)
    go, release = os.pipe2(os.O_CLOEXEC)
    plan = Plan(flags, (*steps, Step(Op.WAIT, ("end",))))
    try:
        pid, pidfd = core.spawn(plan, {"report": report, "go": go, **fds})
        os.close(report)
        report = -1
        try:
            yield pid, core.read_report(read)
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(pidfd)
    finally:
        for fd in (read, report, go, release):
            if fd >= 0:
                os.close(fd)


@contextlib.contextmanager
def parked(steps: Sequence[Step], flags: int = 0, **fds: int) -> Iterator[int]:
    """Give the PID of a child that has carried out all of `steps`."""
    with child(steps, flags, **fds) as (pid, report):
        assert report == (core.WAITING, len(steps), 0), report and os.strerror(report.errno)
        yield pid


def failure(steps: Sequence[Step], flags: int = 0, **fds: int) -> tuple[int, int]:
    """Return step index and errno of the failure that must come."""
    with child(steps, flags, **fds) as (_, report):
        assert report is not None and report.phase == core.FAILED, report
        return report.step, report.errno


def field(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith(name + ":"))


def mounts(pid: int) -> dict[str, list[str]]:
    """Return mount point to mountinfo's fields; a later mount hides an earlier one."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return {line.split()[4]: line.split() for line in lines}


def refusing(call: str, number: int = errno.EPERM) -> Step:
    """Return the step that has one system call fail from here on, for those that fail in no other way."""
    program = [
        (0x20, 0, 0, 0),  # load the system call's number
        (0x15, 0, 1, NUMBERS[platform.machine()][call]),
        (0x06, 0, 0, 0x00050000 | number),
        (0x06, 0, 0, 0x7FFF0000),
    ]
    return Step(Op.SECCOMP, (b"".join(struct.pack("<HBBI", *i) for i in program),))


# ---- mounts ----


def test_mount(tmp_path: Path) -> None:
    mount = Step(Op.MOUNT, ("tmpfs", str(tmp_path), "tmpfs", 0, "size=64k"))
    with parked([PRIVATE_ROOT, mount], NEWNS) as pid:
        assert "size=64k" in mounts(pid)[str(tmp_path)][-1]
    assert str(tmp_path) not in mounts(os.getpid())
    absent = Step(Op.MOUNT, ("tmpfs", f"{tmp_path}/absent", "tmpfs", 0, None))
    assert failure([PRIVATE_ROOT, absent], NEWNS) == (1, errno.ENOENT)


def test_umount(tmp_path: Path) -> None:
    steps = [
        PRIVATE_ROOT,
        Step(Op.MOUNT, ("tmpfs", str(tmp_path), "tmpfs", 0, None)),
        Step(Op.UMOUNT, (str(tmp_path), 0)),
    ]
    with parked(steps, NEWNS) as pid:
        assert str(tmp_path) not in mounts(pid)
    assert failure([*steps, steps[-1]], NEWNS) == (3, errno.EINVAL)


def test_pivot_root_and_chdir(tmp_path: Path) -> None:
    place = str(tmp_path)
    steps = [
        PRIVATE_ROOT,
        Step(Op.MOUNT, ("tmpfs", place, "tmpfs", 0, "size=128k")),
        Step(Op.MKDIR, (f"{place}/old", 0o700)),
        Step(Op.PIVOT_ROOT, (place, f"{place}/old")),
        Step(Op.CHDIR, ("/old",)),
    ]
    with parked(steps, NEWNS) as pid:
        assert os.listdir(f"/proc/{pid}/root") == ["old"]
        assert os.readlink(f"/proc/{pid}/cwd") == "/old"
        assert "size=128k" in mounts(pid)["/"][-1]
    assert failure([PRIVATE_ROOT, Step(Op.PIVOT_ROOT, (place, place))], NEWNS) == (1, errno.EBUSY)
    assert failure([Step(Op.CHDIR, (f"{place}/absent",))]) == (0, errno.ENOENT)


def test_mount_setattr(tmp_path: Path) -> None:
    steps = [
        PRIVATE_ROOT,
        Step(Op.MOUNT, ("tmpfs", str(tmp_path), "tmpfs", 0, None)),
        Step(Op.MOUNT_SETATTR, (str(tmp_path), 0, 1, 0)),
    ]
    with parked(steps, NEWNS) as pid:
        assert "ro" in mounts(pid)[str(tmp_path)][5].split(",")
    assert failure([*steps, Step(Op.MKDIR, (f"{tmp_path}/x", 0o755))], NEWNS) == (3, errno.EROFS)
    assert failure([PRIVATE_ROOT, Step(Op.MOUNT_SETATTR, (f"{tmp_path}/absent", 0, 1, 0))], NEWNS) == (1, errno.ENOENT)


def test_open_tree_and_move_mount(tmp_path: Path) -> None:
    """A device that is out of reach by its path: the mount is taken along as a descriptor."""
    target, number = tmp_path / "target", 77
    target.touch()
    steps = [PRIVATE_ROOT, Step(Op.OPEN_TREE, ("/dev/null", number, 0)), Step(Op.MOVE_MOUNT, (str(target), number))]
    with parked(steps, NEWNS) as pid:
        info = os.stat(f"/proc/{pid}/root{target}")
        assert (stat.S_ISCHR(info.st_mode), info.st_rdev) == (True, os.makedev(1, 3))
        assert str(number) not in os.listdir(f"/proc/{pid}/fd")
    assert stat.S_ISREG(target.stat().st_mode)
    absent = f"{tmp_path}/absent"
    assert failure([PRIVATE_ROOT, Step(Op.OPEN_TREE, (absent, number, 0))], NEWNS) == (1, errno.ENOENT)
    assert failure([*steps[:2], Step(Op.MOVE_MOUNT, (absent, number))], NEWNS) == (2, errno.ENOENT)
    assert failure([*steps, steps[-1]], NEWNS) == (3, errno.EBADF)


def test_idmap_and_close(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / "target"
    target.mkdir()
    fd = private.open_map((7000, 8000, 10))
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    steps = [PRIVATE_ROOT, Step(Op.IDMAP, (str(tmp_path), str(target), fd))]
    try:
        with parked([*steps, Step(Op.CLOSE, (fd,))], NEWNS) as pid:
            info = os.stat(f"/proc/{pid}/root{target}/file")
            assert (info.st_uid, info.st_gid) == (7000, 8000)
            assert str(fd) not in os.listdir(f"/proc/{pid}/fd")
        assert os.stat(tmp_path / "file").st_uid == 0
        for source, place, map_fd, number in (
            (f"{tmp_path}/absent", target, fd, errno.ENOENT),
            (tmp_path, f"{tmp_path}/absent", fd, errno.ENOENT),
            (tmp_path, target, null, errno.EINVAL),
        ):
            step = Step(Op.IDMAP, (str(source), str(place), map_fd))
            assert failure([PRIVATE_ROOT, step], NEWNS) == (1, number)
        assert failure([Step(Op.CLOSE, (9999,))]) == (0, errno.EBADF)
    finally:
        os.close(fd)
        os.close(null)


# ---- files ----


def test_mkdir_rmdir(tmp_path: Path) -> None:
    path = str(tmp_path / "d")
    with parked([Step(Op.UMASK, (0,)), Step(Op.MKDIR, (path, 0o751))]):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o751
    assert failure([Step(Op.MKDIR, (path, 0o755))]) == (0, errno.EEXIST)
    with parked([Step(Op.MKDIR, (path, 0o755), tolerate=errno.EEXIST), Step(Op.RMDIR, (path,))]):
        assert not os.path.exists(path)
    assert failure([Step(Op.RMDIR, (path,))]) == (0, errno.ENOENT)


def test_mknod_symlink_chmod_chown(tmp_path: Path) -> None:
    node, link = str(tmp_path / "null"), str(tmp_path / "link")
    steps = [
        Step(Op.MKNOD, (node, stat.S_IFCHR | 0o600, 0x103)),
        Step(Op.SYMLINK, ("null", link)),
        Step(Op.CHOWN, (node, 12, 34)),
        Step(Op.CHMOD, (node, 0o4711)),
    ]
    with parked(steps):
        info = os.stat(node)
        assert stat.S_ISCHR(info.st_mode) and info.st_rdev == 0x103
        assert stat.S_IMODE(info.st_mode) == 0o4711
        assert (info.st_uid, info.st_gid) == (12, 34)
        assert os.readlink(link) == "null"
    assert failure(steps) == (0, errno.EEXIST)
    assert failure(steps[1:]) == (0, errno.EEXIST)
    assert failure([Step(Op.CHMOD, (f"{tmp_path}/absent", 0o700))]) == (0, errno.ENOENT)
    assert failure([Step(Op.CHOWN, (f"{tmp_path}/absent", 0, 0))]) == (0, errno.ENOENT)


def test_write(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    with parked([Step(Op.WRITE, (path, "zwölf\nlines"))]):
        assert Path(path).read_text() == "zwölf\nlines"
    assert failure([Step(Op.WRITE, (f"{path}/below", "x"))]) == (0, errno.ENOTDIR)
    assert failure([Step(Op.WRITE, ("/dev/full", "x"))]) == (0, errno.ENOSPC)


# ---- namespaces ----


def inside(pid: int, flag: str, *command: str) -> str:
    return subprocess.run(
        ["nsenter", "-t", str(pid), flag, *command], check=True, capture_output=True, text=True
    ).stdout


def test_hostname_domainname() -> None:
    with parked([Step(Op.HOSTNAME, ("box",)), Step(Op.DOMAINNAME, ("realm",))], NEWUTS) as pid:
        read = ("cat", "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname")
        assert inside(pid, "-u", *read) == "box\nrealm\n"
    assert failure([Step(Op.HOSTNAME, ("x" * 65,))], NEWUTS) == (0, errno.EINVAL)
    assert failure([Step(Op.DOMAINNAME, ("x" * 65,))], NEWUTS) == (0, errno.EINVAL)


def test_link_up() -> None:
    with parked([], NEWNET) as pid:
        assert "127.0.0.1" not in Path(f"/proc/{pid}/net/fib_trie").read_text()
    with parked([Step(Op.LINK_UP, ("lo",))], NEWNET) as pid:
        assert "127.0.0.1" in Path(f"/proc/{pid}/net/fib_trie").read_text()
    assert failure([Step(Op.LINK_UP, ("absent0",))], NEWNET) == (0, errno.ENODEV)


def uts(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/uts").st_ino


def test_unshare() -> None:
    with parked([Step(Op.UNSHARE, (NEWUTS,))]) as pid:
        assert uts(pid) != uts(os.getpid())
    assert failure([Step(Op.UNSHARE, (1,))]) == (0, errno.EINVAL)


def test_setns() -> None:
    fd = os.open("/proc/self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with parked([], NEWUTS) as pid:
            assert uts(pid) != uts(os.getpid())
        with parked([Step(Op.SETNS, (fd, NEWUTS))], NEWUTS) as pid:
            assert uts(pid) == uts(os.getpid())
        assert failure([Step(Op.SETNS, (fd, NEWNET))]) == (0, errno.EINVAL)
    finally:
        os.close(fd)
    with parked([Step(Op.SETNS_PATH, (f"/proc/{os.getpid()}/ns/uts", NEWUTS))], NEWUTS) as pid:
        assert uts(pid) == uts(os.getpid())
    assert failure([Step(Op.SETNS_PATH, ("/proc/self/ns/absent", NEWUTS))]) == (0, errno.ENOENT)


def test_clone_flags_that_contradict() -> None:
    with pytest.raises(OSError) as caught, child([], NEWPID | 0x00010000):  # CLONE_THREAD
        pass
    assert caught.value.errno == errno.EINVAL


# ---- privileges ----


def test_prctl() -> None:
    with parked([Step(Op.PRCTL, (38, 1))]) as pid:
        assert field(pid, "NoNewPrivs") == "1"
    assert failure([Step(Op.PRCTL, (38, 2))]) == (0, errno.EINVAL)


def test_bounding_and_capset() -> None:
    with parked([Step(Op.BOUNDING, (0b101, 40)), Step(Op.CAPSET, (0b100, 0b1))]) as pid:
        assert int(field(pid, "CapBnd"), 16) == 0b101
        assert int(field(pid, "CapPrm"), 16) == int(field(pid, "CapEff"), 16) == 0b100
        assert int(field(pid, "CapInh"), 16) == 0b1
    assert failure([NO_CAPABILITIES, Step(Op.CAPSET, (1, 0))]) == (1, errno.EPERM)
    assert failure([NO_CAPABILITIES, Step(Op.BOUNDING, (0, 40))]) == (1, errno.EPERM)


def test_ids() -> None:
    steps = [Step(Op.SETGROUPS, ((7, 8),)), Step(Op.SETRESGID, (1234,)), Step(Op.SETRESUID, (2345,))]
    with parked(steps) as pid:
        assert field(pid, "Uid").split() == ["2345"] * 4
        assert field(pid, "Gid").split() == ["1234"] * 4
        assert field(pid, "Groups").split() == ["7", "8"]
    for step in steps:
        assert failure([NO_CAPABILITIES, step]) == (1, errno.EPERM)


def test_fsids_leave_the_capabilities(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with parked([Step(Op.FSIDS, (1234, 2345)), Step(Op.WRITE, (str(path), "x"))]) as pid:
        assert field(pid, "Uid").split() == ["0", "0", "0", "1234"]
        assert field(pid, "Gid").split() == ["0", "0", "0", "2345"]
        assert field(pid, "CapEff") == field(os.getpid(), "CapEff")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)
    assert failure([NO_CAPABILITIES, Step(Op.FSIDS, (1234, 2345))]) == (1, errno.EPERM)


def test_rlimit() -> None:
    with parked([Step(Op.RLIMIT, (resource.RLIMIT_NOFILE, 10, 20))]) as pid:
        line = next(x for x in Path(f"/proc/{pid}/limits").read_text().splitlines() if "open files" in x)
        assert line.split()[3:5] == ["10", "20"]
    assert failure([Step(Op.RLIMIT, (resource.RLIMIT_NOFILE, 20, 10))]) == (0, errno.EINVAL)


@pytest.mark.needs("seccomp")
def test_seccomp() -> None:
    with parked([refusing("keyctl")]) as pid:
        assert field(pid, "Seccomp") == "2"
    assert failure([Step(Op.SECCOMP, (b"",))]) == (0, errno.EINVAL)


@pytest.mark.needs("seccomp")
def test_keyring() -> None:
    with parked([Step(Op.KEYRING)]):
        pass
    assert failure([refusing("keyctl"), Step(Op.KEYRING)]) == (1, errno.EPERM)


def test_setsid() -> None:
    with parked([Step(Op.SETSID)]) as pid:
        assert os.getsid(pid) == pid
    assert failure([Step(Op.SETSID), Step(Op.SETSID)]) == (1, errno.EPERM)
    with parked([Step(Op.SETSID), Step(Op.SETSID, tolerate=errno.EPERM)]):
        pass


def test_umask() -> None:
    with parked([Step(Op.UMASK, (0o037,))]) as pid:  # umask(2) cannot fail
        assert field(pid, "Umask") == "0037"


@pytest.mark.needs("seccomp")
def test_signals() -> None:
    with parked([]) as pid:
        assert int(field(pid, "SigIgn"), 16)  # Python ignores SIGPIPE, and its children inherit that
    with parked([Step(Op.SIGNALS)]) as pid:
        assert (int(field(pid, "SigIgn"), 16), int(field(pid, "SigCgt"), 16), int(field(pid, "SigBlk"), 16)) == (
            0,
            0,
            0,
        )
    assert failure([refusing("rt_sigaction"), Step(Op.SIGNALS)]) == (1, errno.EPERM)


# ---- descriptors, programs ----


def test_fds_moves_crossing_numbers_and_closes_nothing_before_exec(tmp_path: Path) -> None:
    one = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    two = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)
    low, high = min(one, two), max(one, two)
    try:
        pairs = (("high", 0), ("low", 1), ("high", 2), ("report", 3), ("go", 4))
        with parked([Step(Op.FDS, (pairs,))], low=low, high=high) as pid:
            got = [os.readlink(f"/proc/{pid}/fd/{n}") for n in range(3)]
            assert got == [os.readlink(f"/proc/self/fd/{fd}") for fd in (high, low, high)]
        assert failure([Step(Op.FDS, ((("bad", 0),),))], bad=9999) == (0, errno.EBADF)
    finally:
        os.close(one)
        os.close(two)


def execute(*steps: Step, flags: int = 0) -> tuple[list[core.Report], tuple[int, ...], int, bytes]:
    """Let a child run to its end; return its reports, nanoseconds of steps, wait status and standard output."""
    out, stdout = os.pipe2(os.O_CLOEXEC)
    read, report = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    pairs = (("null", 0), ("stdout", 1), ("null", 2), ("report", 3), ("go", 4))
    fds = {"null": null, "stdout": stdout, "report": report, "go": null}
    pid, pidfd = core.spawn(Plan(flags, (Step(Op.FDS, (pairs,)), *steps)), fds)
    for fd in (stdout, report, null):
        os.close(fd)
    reports: list[core.Report] = []
    timings: tuple[int, ...] = ()
    while (one := core.read_report(read)) is not None:
        reports.append(one)
        if one.phase == core.RUNNING:
            timings = core.read_timings(read, one.step)
    with open(out, "rb") as stream:
        data = stream.read()
    _, status = os.waitpid(pid, 0)
    os.close(read)
    os.close(pidfd)
    return reports, timings, status, data


def test_exec() -> None:
    paths = ("/no/such/echo", "/bin/echo")
    reports, timings, status, out = execute(Step(Op.EXEC, (paths, ("echo", "a", "", "ü"), ("A=1",))))
    assert reports == [(core.RUNNING, 1, 0)]
    assert len(timings) == 1 and 0 <= timings[0] < 5e9
    assert (status, out) == (0, "a  ü\n".encode())


@pytest.mark.parametrize(
    ("paths", "number"),
    [
        (("/no/such",), errno.ENOENT),
        (("/etc/passwd", "/no/such"), errno.EACCES),
        (("/etc/passwd/x",), errno.ENOENT),
        (("/dev/null",), errno.EACCES),
    ],
)
def test_exec_fails_as_execvp_does(paths: tuple[str, ...], number: int) -> None:
    reports, _, status, _ = execute(Step(Op.EXEC, (paths, ("x",), ())))
    assert reports == [(core.RUNNING, 1, 0), (core.FAILED, 1, number)]
    assert os.waitstatus_to_exitcode(status) == 125


def test_environment_is_exactly_what_was_given() -> None:
    _, _, _, out = execute(Step(Op.EXEC, (("/usr/bin/env",), ("env",), ("ONE=1", "TWO=zwei ü"))))
    assert out.decode() == "ONE=1\nTWO=zwei ü\n"


@pytest.mark.needs("seccomp")
def test_init() -> None:
    shell = ("/bin/sh",)
    script = Step(Op.EXEC, (shell, ("sh", "-c", "echo $$ $PPID; exit 9"), ()))
    reports, _, status, out = execute(Step(Op.INIT), script, flags=NEWPID)
    assert [r.phase for r in reports] == [core.RUNNING]
    assert (os.waitstatus_to_exitcode(status), out) == (9, b"2 1\n")
    killed = Step(Op.EXEC, (shell, ("sh", "-c", "kill -9 $$"), ()))
    assert os.waitstatus_to_exitcode(execute(Step(Op.INIT), killed, flags=NEWPID)[2]) == 137
    assert failure([refusing("clone"), Step(Op.INIT)]) == (1, errno.EPERM)


def test_controlling_terminal() -> None:
    master, slave = os.openpty()
    try:
        fds = (("stdin", 0), ("stdout", 1), ("stderr", 2), ("report", 3), ("go", 4))
        steps = [Step(Op.FDS, (fds,)), Step(Op.SETSID), Step(Op.CTTY, (os.ttyname(slave),))]
        null = os.open(os.devnull, os.O_RDWR)
        with parked(steps, stdin=null, stdout=null, stderr=null) as pid:
            os.close(null)
            assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)} == {os.ttyname(slave)}
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            number = os.fstat(slave).st_rdev
            assert int(fields[4]) == os.minor(number) | os.major(number) << 8
            assert int(fields[5]) == pid  # in the foreground
    finally:
        os.close(master)
        os.close(slave)
    assert failure([Step(Op.SETSID), Step(Op.CTTY, ("/nowhere",))]) == (1, errno.ENOENT)


def test_pause_reaps_until_it_is_killed() -> None:
    with child([Step(Op.PAUSE)], NEWPID) as (pid, report):
        assert report == (core.RUNNING, 0, 0)
        subprocess.run(["nsenter", "-t", str(pid), "-p", "sh", "-c", "sleep 0.05 &"], check=True)  # now an orphan
        deadline = time.monotonic() + 5
        while Path(f"/proc/{pid}/task/{pid}/children").read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert Path(f"/proc/{pid}/task/{pid}/children").read_text() == ""
        assert field(pid, "State").startswith("S")


def test_wait_ends_the_child_when_the_engine_lets_go() -> None:
    read, report = os.pipe2(os.O_CLOEXEC)
    go, release = os.pipe2(os.O_CLOEXEC)
    pairs = (("null", 0), ("report", 3), ("go", 4))
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    closed = Step(Op.WAIT, ("go",))
    # The child has our end of the go pipe too, until it is told to keep only what is listed and executes.
    os.close(release)
    plan = Plan(0, (Step(Op.FDS, (pairs,)), closed))
    pid, pidfd = core.spawn(plan, {"null": null, "report": report, "go": go})
    for fd in (report, go, null):
        os.close(fd)
    assert core.read_report(read) == (core.WAITING, 1, 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 125
    assert core.read_report(read) is None
    os.close(read)
    os.close(pidfd)


@contextlib.contextmanager
def blank() -> Iterator[tuple[int, int, int]]:
    """Give the PID of a child that waits for a plan, the read end of its report pipe, and its go pipe's write end."""
    read, report = os.pipe2(os.O_CLOEXEC)
    go, release = os.pipe2(os.O_CLOEXEC)
    pairs = (("report", 3), ("go", 4))
    pid, pidfd = core.spawn(Plan(0, (Step(Op.FDS, (pairs,)), Step(Op.PLAN, ("plan",)))), {"report": report, "go": go})
    try:
        for fd in (report, go):
            os.close(fd)
        assert core.read_report(read) == (core.WAITING, 1, 0)
        yield pid, read, release
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in (read, release, pidfd):
            os.close(fd)


def test_plan_goes_on_with_the_plan_that_comes(tmp_path: Path) -> None:
    """It is longer than a pipe holds, and its steps count from its own first."""
    made, filler = tmp_path / "made", "x" * 100_000
    plan = Plan(0, (Step(Op.MKDIR, (str(made), 0o700)), Step(Op.HOSTNAME, (filler,)), Step(Op.WAIT, ("end",))))
    with blank() as (_, read, release):
        core.tell(release, core.further_plan(plan.image({}), len(plan.steps)))
        assert core.read_report(read) == (core.FAILED, 1, errno.EINVAL)  # a name of 100,000 characters
        assert made.is_dir()


@pytest.mark.parametrize("damage", [lambda image: image[:-2], lambda image: b"\xff" * 128 + image[128:]])
def test_a_plan_that_does_not_hold_together_is_refused(damage: Callable[[bytes], bytes]) -> None:
    plan = Plan(0, (Step(Op.CHDIR, ("/",)), Step(Op.EXEC, (("/bin/true",), ("true",), ("A=1",)))))
    with blank() as (_, read, release):
        core.tell(release, core.further_plan(damage(plan.image({})), len(plan.steps)))
        assert core.read_report(read) == (core.FAILED, 1, errno.EINVAL)
        assert core.read_report(read) is None


def test_plan_ends_the_child_when_the_engine_lets_go() -> None:
    with blank() as (_, read, release):
        os.write(release, b"half")
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, release)  # closes it
        os.close(null)
        assert core.read_report(read) is None


# ---- what a child is made of ----


@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="the address sanitizer watches memory that would be missing")
def test_a_child_is_made_of_the_core_and_libc() -> None:
    """It walks steps of many kinds without Python's program, other libraries and heap."""
    read, report = os.pipe2(os.O_CLOEXEC)
    go, release = os.pipe2(os.O_CLOEXEC)
    steps = (PRIVATE_ROOT, Step(Op.HOSTNAME, ("spare",)), Step(Op.LINK_UP, ("lo",)), Step(Op.WAIT, ("end",)))
    plan = Plan(NEWNS | NEWUTS | NEWNET, steps)
    spare = core.spare_ranges()
    pid, pidfd = core.spawn(plan, {"report": report, "go": go}, unneeded=spare)
    try:
        assert core.read_report(read) == (core.WAITING, 3, 0)
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        starts = {int(line.split("-")[0], 16) for line in lines}
        kept = [s for s in starts if any(start <= s < start + length for start, length in spare)]
        assert starts and len(kept) <= 1  # that of libc's errno, where it is one of them
        files = {line.split(maxsplit=5)[5] for line in lines if len(line.split()) > 5}
        assert str(core._core.__file__) in files and "[heap]" not in files
        others = {os.path.basename(name) for name in files if name[0] == "/"} - {"_core.abi3.so"}
        assert others and all(name.startswith(("libc.", "libc-", "libpthread", "ld-")) for name in others)
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in (pidfd, read, report, go, release):
            os.close(fd)


def test_spare_is_all_but_the_core_and_libc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    program, libc, large = os.path.realpath(sys.executable), "/lib/libc.so.6", core.MOST_BSS
    maps = [
        f"1000-2000 r-xp 0 fe:00 5     {program}\n",
        "2000-3000 rw-p 0 fe:00 5     /lib/libz.so.1\n",
        "3000-4000 rw-p 0 00:00 0 \n",  # .bss of what is spare is spare
        "4000-5000 r--p 0 fe:00 6     /lib/libm.so.6\n",  # a file apart from what precedes it
        "5000-6000 rw-p 0 00:00 0     [heap]\n",
        f"100000-200000 rw-p 0 fe:00 6     {libc}\n",
        f"200000-{0x200000 + 2 * large:x} rw-p 0 00:00 0 \n",  # its .bss, and what has grown together with it
        "800000-900000 rw-p 0 00:00 0 \n",
        "900000-901000 ---p 0 00:00 0 \n",
        "a00000-a01000 r--p 0 00:00 0     [vvar]\n",
        "b00000-b01000 rw-p 0 00:00 0     [stack]\n",
        f"c00000-c01000 r--p 0 fe:00 7     {core._core.__file__}\n",
        "c01000-c02000 rw-p 0 00:00 0 \n",
    ]
    assert core.spare_ranges(maps) == [
        (0x1000, 0x2000), (0x3000, 0x1000), (0x4000, 0x1000), (0x5000, 0x1000), (0x200000 + large, large),
        (0x800000, 0x100000),
    ]  # fmt: skip


def test_no_file_is_spare_where_a_library_stands_in_for_libc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "libother.so")
    maps = ["1000-2000 r-xp 0 fe:00 5     /lib/libz.so.1\n", "3000-4000 rw-p 0 00:00 0     [heap]\n"]
    assert core.spare_ranges(maps) == [(0x3000, 0x1000)]


def test_a_signal_waits_until_the_child_has_its_own_dispositions() -> None:
    """A handler of Python's is not there in the child."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    read, report = os.pipe2(os.O_CLOEXEC)
    go, release = os.pipe2(os.O_CLOEXEC)
    plan = Plan(0, (Step(Op.WAIT, ("first",)), Step(Op.WAIT, ("second",)), Step(Op.SIGNALS), Step(Op.WAIT, ("end",))))
    pid, pidfd = core.spawn(plan, {"report": report, "go": go}, unneeded=core.spare_ranges())
    try:
        assert core.read_report(read) == (core.WAITING, 0, 0)
        os.kill(pid, signal.SIGTERM)
        os.write(release, b"g")
        assert core.read_report(read) == (core.WAITING, 1, 0)
        os.write(release, b"g")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()  # ours is as before
    finally:
        signal.signal(signal.SIGTERM, before)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for fd in (pidfd, read, report, go, release):
            os.close(fd)


# ---- images that do not hold together ----


@pytest.mark.parametrize("cut", [2, 64, 100])
def test_a_damaged_image_is_refused(cut: int) -> None:
    plan = Plan(0, (Step(Op.CHDIR, ("/",)), Step(Op.EXEC, (("/bin/true",), ("true",), ("A=1",)))))
    image = plan.image({})
    with pytest.raises(OSError) as caught:
        core.spawn(plan, {"report": -1, "go": -1}, image=image[: len(image) - cut])
    assert caught.value.errno == errno.EINVAL


def test_every_op_is_tested_here() -> None:
    text = Path(__file__).read_text()
    assert [op.name for op in Op if f"Op.{op.name}" not in text] == []
