"""cgroups on the running kernel, version 1 or 2: what the kernel says, not what we wrote."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from processes import soon

from jupyter_ns.cgroups import (
    SAMPLE_FIELDS,
    Cgroup,
    CgroupFacts,
    Manager,
    Sampler,
    collect_stale,
    engine_key,
    probe,
    read_layout,
)
from jupyter_ns.errors import UnsupportedError, UsageError
from jupyter_ns.spec import Limits

MIB = 1 << 20
FACTS = probe(read_layout())
KERNEL = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
pytestmark = pytest.mark.skipif(FACTS.version == 0, reason=f"no cgroups: {FACTS.unavailable}")

# Waits until it has been put into its cgroup, then runs the code that it is given.
GATED = "import sys, os, time; sys.stdin.readline()\n"


def needs(*controllers: str) -> pytest.MarkDecorator:
    """Skip, with the probe's own reason, where a controller is missing."""
    missing = {c: FACTS.unavailable.get(c, "absent") for c in controllers if not FACTS.base(c)}
    return pytest.mark.skipif(bool(missing), reason=f"no controller: {missing}")


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Compare cgroups and descriptors before and after, live engines of others left out."""

    def state() -> tuple[set[str], set[str]]:
        keys = {f"{base.directory}/jupyter_ns/{k}" for base in FACTS.bases for k in engines(base.directory)}
        return {path for key in keys for path, _, _ in os.walk(key)}, set(os.listdir("/proc/self/fd"))

    before = state()
    yield
    assert [now - then for now, then in zip(state(), before, strict=True)] == [set(), set()]


def engines(directory: str) -> list[str]:
    """Return the engine directories of this process, and of processes that have ended."""
    names = os.listdir(f"{directory}/jupyter_ns") if os.path.isdir(f"{directory}/jupyter_ns") else []
    pids = [(name, name.partition("-")[0]) for name in names if "-" in name]
    return [name for name, pid in pids if pid == str(os.getpid()) or not os.path.exists(f"/proc/{pid}")]


@pytest.fixture
def manager() -> Iterator[Manager]:
    with Manager(FACTS, engine_key()) as made:
        yield made


class Run:
    """Python code in a cgroup of its own."""

    def __init__(self, cgroup: Cgroup, code: str) -> None:
        self.cgroup = cgroup
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-S", "-E", "-c", GATED + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        cgroup.add(self.process.pid)
        self.send("go")

    def send(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def end(self) -> int:
        """Wait for the exit, close the pipes, and return the status."""
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture
def run(manager: Manager) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(code: str, limits: Limits | None = None, facts: CgroupFacts | None = None) -> Run:
        cgroup = manager.create(f"run-{len(runs)}", limits or Limits())
        cgroup._facts = facts or FACTS
        runs.append(Run(cgroup, code))
        return runs[-1]

    yield start
    for started in runs:
        started.process.kill()
        started.process.communicate()
        if started.cgroup.directories:
            started.cgroup.kill()
            started.cgroup.remove()


def cgroup_of(pid: int) -> dict[str, str]:
    """Return controller to path from /proc/PID/cgroup; version 2 has the key ''."""
    with open(f"/proc/{pid}/cgroup") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    return {name: path for _, names, path in lines for name in names.split(",")}


def test_probe_leaves_nothing_and_is_repeatable() -> None:
    again = probe(read_layout())
    assert again == FACTS
    assert again.version in (1, 2)
    for base in again.bases:
        assert os.path.isdir(base.directory)


def test_process_is_where_paths_say(manager: Manager, run: Callable[..., Run]) -> None:
    started = run("print('in'); sys.stdin.readline()")
    assert started.line() == "in"
    seen = cgroup_of(started.process.pid)
    for controller, path in started.cgroup.paths.items():
        assert seen["" if FACTS.version == 2 else controller] == path
    assert started.cgroup.pids() == [started.process.pid]
    assert started.cgroup.populated()
    started.send("end")
    assert started.end() == 0
    started.cgroup.kill()  # waits until the kernel has let go of the process
    assert not started.cgroup.populated()


def test_process_can_join_by_itself(manager: Manager) -> None:
    cgroup = manager.create("self", Limits())
    joins = "".join(f"open({path!r}, 'w').write('0')\n" for path in cgroup.self_join_files)
    code = joins + "print(open('/proc/self/cgroup').read())"
    shown = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f":{path}\n" in shown for path in cgroup.paths.values())
    cgroup.kill()
    cgroup.remove()


@needs("memory", "cpu", "pids")
def test_records_are_what_the_kernel_has(manager: Manager) -> None:
    limits = Limits(memory_bytes=64 * MIB + 1, nano_cpus=500_000_000, pids_limit=7, cpu_shares=512)
    cgroup = manager.create("limited", limits)
    effective = {(r.name, r.file): r.effective for r in cgroup.records}
    if FACTS.version == 1:
        assert effective["memory_bytes", "memory.limit_in_bytes"] == str(64 * MIB)  # whole pages
        assert effective["nano_cpus", "cpu.cfs_quota_us"] == "50000"
        assert effective["nano_cpus", "cpu.cfs_period_us"] == "100000"
        assert effective["cpu_shares", "cpu.shares"] == "512"
    else:
        assert effective["memory_bytes", "memory.max"] == str(64 * MIB)
        assert effective["nano_cpus", "cpu.max"] == "50000 100000"
        assert effective["cpu_shares", "cpu.weight"] == "59"
    assert effective["pids_limit", "pids.max"] == "7"
    owner = {"memory_bytes": "memory", "nano_cpus": "cpu", "cpu_shares": "cpu", "pids_limit": "pids"}
    for record in cgroup.records:
        path = cgroup.file(owner.get(record.name, "memory"), record.file)
        assert path is not None
        with open(path) as file:
            assert file.readline().strip() == record.effective
    cgroup.remove()
    assert not any(os.path.exists(d) for d in cgroup.directories)


@needs("memory")
def test_swap_is_limited_or_said_not_to_be(manager: Manager) -> None:
    names = ("memory.memsw.limit_in_bytes", "memory.swap.max")
    cgroup = manager.create("swap", Limits(memory_bytes=64 * MIB))
    swap = [r for r in cgroup.records if r.name == "memory_swap_bytes"]
    if FACTS.files.isdisjoint(names):
        assert swap == []
        assert "swap not limited" in cgroup.notes[0]
        with pytest.raises(UnsupportedError, match=r"--memory-swap \d+: cgroup controller memory: swap acc"):
            cgroup.set(Limits(memory_swap_bytes=128 * MIB))
    else:
        assert cgroup.notes == []
        assert swap[0].requested is None
        assert int(swap[0].effective) == (128 if FACTS.version == 1 else 64) * MIB
    cgroup.remove()


ALLOCATE = "held = bytearray({} << 20); print('held', flush=True); sys.stdin.readline()"


@needs("memory")
def test_out_of_memory_is_told(run: Callable[..., Run]) -> None:
    limits = Limits(memory_bytes=32 * MIB)
    started = run("sys.stdin.readline()\n" + ALLOCATE.format(200), limits)
    cgroup = started.cgroup
    fd = cgroup.oom_fd()
    assert fd is not None
    assert cgroup.oom_fd() == fd
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(0) == []
    assert cgroup.oom_kills() == 0
    started.send("allocate")
    assert poll.poll(20_000)
    assert started.end() == -signal.SIGKILL
    assert cgroup.oom_kills() >= 1  # version 2 counts the victim again as a member of its group
    cgroup.oom_ack()
    assert poll.poll(0) == []
    peak_bytes, file = cgroup.peak()
    if FACTS.version == 2 and KERNEL < (5, 19):
        assert (peak_bytes, file) == (None, "")
        return
    assert file in FACTS.files
    assert peak_bytes is not None
    assert 24 * MIB < peak_bytes <= 32 * MIB


@needs("memory")
def test_limit_moves_while_it_runs(run: Callable[..., Run]) -> None:
    started = run(ALLOCATE.format(40), Limits(memory_bytes=100 * MIB))
    cgroup = started.cgroup
    assert started.line() == "held"
    cgroup.set(Limits(memory_bytes=200 * MIB))
    cgroup.set(Limits(memory_bytes=60 * MIB))
    assert {r.effective for r in cgroup.records if r.name == "memory_bytes"} == {str(60 * MIB)}
    with pytest.raises(UsageError, match=rf"--memory {8 * MIB}: .* accepted:"):
        cgroup.set(Limits(memory_bytes=8 * MIB))
    assert cgroup.oom_kills() == 0
    assert started.process.poll() is None
    cgroup.set(Limits(memory_bytes=100 * MIB))
    assert {r.effective for r in cgroup.records if r.name == "memory_bytes"} == {str(100 * MIB)}


@needs("memory")
@pytest.mark.skipif(FACTS.version == 1, reason="version 1 has no memory.oom.group")
def test_oom_ends_the_whole_group(run: Callable[..., Run]) -> None:
    code = f"child = os.fork()\nif child == 0: time.sleep(60)\n{ALLOCATE.format(200)}"
    started = run(code, Limits(memory_bytes=32 * MIB))
    assert started.end() == -signal.SIGKILL
    started.cgroup.kill(timeout_s=5)
    assert started.cgroup.oom_kills() >= 2


@needs("pids")
def test_pids_limit_binds(run: Callable[..., Run]) -> None:
    code = """
n = 0
try:
    while n < 20:
        if os.fork() == 0:
            time.sleep(60)
        n += 1
except BlockingIOError:
    print(n)
"""
    started = run(code, Limits(pids_limit=5))
    assert started.line() == "4"
    assert len(started.cgroup.pids()) in (4, 5)  # the parent may have ended
    started.cgroup.kill()
    assert started.cgroup.pids() == []


BUSY = "held = bytearray(b'x') * (1 << 20)\nprint('busy', flush=True)\nwhile True: pass"


@needs("cpu")
def test_cpu_limit_throttles(run: Callable[..., Run]) -> None:
    """A limit so low that it binds although others want the processors too."""
    started = run(BUSY, Limits(nano_cpus=50_000_000))
    assert started.line() == "busy"
    with Sampler(started.cgroup) as sampler:
        first = dict(zip(SAMPLE_FIELDS, sampler.sample(), strict=True))
        time.sleep(1)
        last = dict(zip(SAMPLE_FIELDS, sampler.sample(), strict=True))
    assert last["time_s"] - first["time_s"] >= 1
    assert last["throttled_s"] > first["throttled_s"]
    assert last["throttled_periods"] > first["throttled_periods"]
    share = (last["cpu_s"] - first["cpu_s"]) / (last["time_s"] - first["time_s"])
    assert 0.002 < share < 0.2
    assert last["pids"] == 1
    assert last["memory_bytes"] >= MIB


def test_frozen_processes_use_no_time(run: Callable[..., Run]) -> None:
    started = run(BUSY)
    assert started.line() == "busy"
    started.cgroup.freeze()
    with Sampler(started.cgroup) as sampler:
        used_s = sampler.sample()[1]
        time.sleep(0.2)
        assert sampler.sample()[1] == used_s
        started.cgroup.thaw()
        assert soon(lambda: sampler.sample()[1] > used_s)
    started.cgroup.freeze()
    started.cgroup.kill()  # also a frozen one
    assert started.end() == -signal.SIGKILL


FORKING = """
print('on', flush=True)
end = time.time() + 30
while time.time() < end:
    if os.fork():
        time.sleep(0.01)
        os._exit(0)
"""


@pytest.mark.parametrize("without", [(), ("cgroup.kill", "freezer.state")])
def test_kill_reaches_what_keeps_forking(run: Callable[..., Run], without: tuple[str, ...]) -> None:
    started = run(FORKING, facts=replace(FACTS, files=FACTS.files - set(without)))
    assert started.line() == "on"
    started.cgroup.kill()
    assert started.cgroup.pids() == []
    assert not started.cgroup.populated()


def test_nested_cgroups_are_killed_and_removed(run: Callable[..., Run]) -> None:
    started = run("print('on', flush=True); time.sleep(60)")
    assert started.line() == "on"
    for directory in started.cgroup.directories:
        os.makedirs(f"{directory}/a/b")
        with open(f"{directory}/a/b/cgroup.procs", "w") as file:
            file.write(str(started.process.pid))
    assert started.cgroup.pids() == [started.process.pid]
    with pytest.raises(OSError, match=str(started.process.pid)) as caught:
        started.cgroup.remove(timeout_s=0.05)
    assert caught.value.errno == errno.EBUSY
    directories = started.cgroup.directories
    started.cgroup.kill()
    started.cgroup.remove()
    assert not any(os.path.exists(d) for d in directories)
    assert started.end() == -signal.SIGKILL


@needs("cpu")
def test_refused_limit_leaves_nothing(manager: Manager) -> None:
    with pytest.raises(UsageError, match=r"--cpu-quota 10: the kernel refused .*EINVAL.* accepted:"):
        manager.create("refused", Limits(memory_bytes=64 * MIB, cpu_quota_us=10))
    for base in FACTS.bases:
        assert not os.path.exists(f"{base.directory}/jupyter_ns/{manager.key}/refused")


@needs("cpu")
def test_update_after_a_refusal_starts_from_the_truth(manager: Manager) -> None:
    cgroup = manager.create("again", Limits(memory_bytes=64 * MIB, cpu_quota_us=50_000))
    with pytest.raises(UsageError):
        cgroup.set(Limits(memory_bytes=32 * MIB, cpu_quota_us=10))
    cgroup.set(Limits(memory_bytes=64 * MIB))
    assert {r.effective for r in cgroup.records if r.name == "memory_bytes"} == {str(64 * MIB)}
    cgroup.set(Limits(cpu_quota_us=-1))
    quota = [r.effective for r in cgroup.records if r.file in ("cpu.max", "cpu.cfs_quota_us")]
    assert quota == ["max 100000" if FACTS.version == 2 else "-1"]
    cgroup.remove()


@needs("cpu")
def test_both_orders_of_quota_and_period(manager: Manager) -> None:
    cgroup = manager.create("period", Limits(cpu_quota_us=50_000))
    for quota_us, period_us in ((5_000, 10_000), (500_000, 1_000_000), (1_000, 1_000_000), (1_000, 1_000)):
        cgroup.set(Limits(cpu_quota_us=quota_us, cpu_period_us=period_us))
        effective = " ".join(r.effective for r in cgroup.records)
        assert str(quota_us) in effective.split()
        assert str(period_us) in effective.split()
    cgroup.remove()


@needs("cpuset")
def test_cpuset_added_to_a_running_container(run: Callable[..., Run]) -> None:
    started = run("print('on', flush=True); sys.stdin.readline()")
    assert started.line() == "on"
    cpu = min(os.sched_getaffinity(0))
    started.cgroup.set(Limits(cpuset_cpus=str(cpu)))
    assert os.sched_getaffinity(started.process.pid) == {cpu}
    with pytest.raises(UsageError, match="--cpuset-cpus 4095"):
        started.cgroup.set(Limits(cpuset_cpus="4095"))
    assert os.sched_getaffinity(started.process.pid) == {cpu}


def test_into_fd_is_the_directory_or_none(manager: Manager) -> None:
    cgroup = manager.prepare()
    fd = cgroup.into_fd()
    if FACTS.version == 1:
        assert fd is None
    else:
        assert fd is not None
        assert os.path.samestat(os.fstat(fd), os.stat(cgroup.directories[0]))
        assert not os.get_inheritable(fd)
    cgroup.remove()


def test_close_kills_and_removes_everything() -> None:
    manager = Manager(FACTS, engine_key())
    started = Run(manager.prepare(), "time.sleep(60)")
    manager.prepare()
    manager.close()
    assert started.end() == -signal.SIGKILL
    started.cgroup.close()


ENGINE = """
import subprocess, sys
from jupyter_ns.cgroups import *
manager = Manager(probe(read_layout()), engine_key())
cgroup = manager.prepare()
child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
cgroup.add(child.pid)
print(manager.key, child.pid, flush=True)
sys.stdin.readline()
"""
COLLECT = "from jupyter_ns.cgroups import *; print(*collect_stale(probe(read_layout())))"


def start_engine() -> tuple[subprocess.Popen[str], str, int]:
    """Start an engine of its own with one process in a cgroup; return it, its key and that PID."""
    engine = subprocess.Popen([sys.executable, "-c", ENGINE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert engine.stdout
    key, pid = engine.stdout.readline().split()
    return engine, key, int(pid)


def test_only_dead_engines_are_collected() -> None:
    dead, dead_key, orphan = start_engine()
    live, live_key, child = start_engine()
    pidfd = os.pidfd_open(orphan)
    dead.kill()
    dead.communicate()
    try:
        found = [subprocess.Popen([sys.executable, "-c", COLLECT], stdout=subprocess.PIPE, text=True) for _ in range(4)]
        said = [process.communicate(timeout=60)[0].split() for process in found]
        assert [process.returncode for process in found] == [0, 0, 0, 0]
        assert dead_key in {key for keys in said for key in keys}
        assert live_key not in {key for keys in said for key in keys}
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(30_000)  # the orphan has ended
        os.kill(child, 0)
        for base in FACTS.bases:
            assert not os.path.exists(f"{base.directory}/jupyter_ns/{dead_key}")
    finally:
        os.close(pidfd)
        live.kill()
        live.communicate()
        assert live_key in collect_stale(FACTS)


DELEGATED = """
import os
from jupyter_ns.cgroups import *
from jupyter_ns.spec import Limits
open("{top}/cgroup.procs", "w").write("0")
os.setresuid({uid}, {uid}, {uid})  # only now: the files of this Python may be root's alone
facts = probe(read_layout())
assert facts.moves_engine, facts
own = open("/proc/self/cgroup").read()
with Manager(facts, engine_key()) as manager:
    assert open("/proc/self/cgroup").read() == own.strip() + "/engine\\n"
    assert probe(read_layout()).bases == facts.bases
    cgroup = manager.create("x", Limits(memory_bytes=1 << 26, pids_limit=5))
    print(facts.bases[0].directory, cgroup.paths["memory"], *(r.effective for r in cgroup.records))
assert open("/proc/self/cgroup").read() == own
"""


@pytest.mark.skipif(FACTS.version == 1, reason="version 1 needs no delegation")
@pytest.mark.skipif(os.geteuid() != 0, reason="delegates a cgroup, as root")
@pytest.mark.parametrize("uid", [0, 65534])
def test_delegated_leaf(uid: int) -> None:
    top = f"{FACTS.bases[0].directory}/test-{os.getpid()}"
    own = "".join(cgroup_of(os.getpid()).values())
    os.mkdir(top)
    try:
        for name in ("", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"):
            os.chown(top + name, uid, uid)
        code = DELEGATED.replace("{top}", top).replace("{uid}", str(uid))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        directory, path, *effective = done.stdout.split()
        assert directory == top
        assert path.startswith(f"/{os.path.basename(top)}/jupyter_ns/")
        assert effective[0] == str(1 << 26)
        assert "5" in effective
        assert [e.name for e in os.scandir(top) if e.is_dir()] == []
        assert "".join(cgroup_of(os.getpid()).values()) == own
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(top)
