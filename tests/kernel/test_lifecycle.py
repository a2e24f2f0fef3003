"""Containers that outlive their cell, and what can be done to them, against the real kernel."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from detached import detached
from ordinary_user import run_as_ordinary_user
from processes import soon

from jupyter_ns import Container, namespaces, run
from jupyter_ns.client import EngineClient, get_client
from jupyter_ns.errors import ContainerExitError, SetupError, UsageError
from jupyter_ns.lifecycle import Request, ask
from jupyter_ns.namespaces import KINDS
from jupyter_ns.runner import Run, Sink
from jupyter_ns.runtime.log import LOG_BYTES
from jupyter_ns.spec import ContainerSpec

pytestmark = pytest.mark.needs("overlay")
MIB = 1 << 20
ASKED_TO_STOP = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.05; done"


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@contextlib.contextmanager
def ready(script: str = ASKED_TO_STOP, **options: Any) -> Iterator[Container]:
    """Give a container whose script has said that it is ready."""
    with detached("sh", "-c", script, **options) as container:
        assert soon(lambda: "ready" in container.logs())
        yield container


def state(name: str) -> str:
    return str(ask("inspect", of=name)["state"])


def directories(container: Container) -> list[Path]:
    """Return the cgroup directories that exist for a container."""
    bases = get_client().facts.cgroup["bases"]
    return [p for base in bases for p in Path(base["directory"], "jupyter_ns").glob(f"*/{container.id[:12]}")]


# ---- a life of its own ----


def test_a_detached_container_runs_on_after_its_request() -> None:
    with ready(name="web") as container:
        assert (container.status, container.name) == ("running", "web")
        assert alive(container.pid)
        row = next(r for r in ask("list") if r["name"] == "web")
        assert (row["id"], row["pid"], row["state"]) == (container.id, container.pid, "running")
        kernel = namespaces.read()
        inside = namespaces.read(container.pid)
        assert {k for k in inside if inside[k] != kernel[k]} == {
            k for k, v in container.namespaces.items() if v.isolated
        }


def test_what_it_writes_is_kept_with_times() -> None:
    before = time.time()
    with ready("echo ready; echo problem >&2; sleep 100") as container:
        assert soon(lambda: len(ask("logs", of=container.id)["entries"]) >= 2)
        entries = ask("logs", of=container.id)["entries"]
        assert {(stream, data) for _, stream, data in entries} == {(1, b"ready\n"), (2, b"problem\n")}
        assert all(before <= when <= time.time() for when, _, _ in entries)


def test_its_log_is_bounded_and_says_what_is_gone() -> None:
    with ready("head -c 6000000 /dev/zero | tr '\\0' x; echo ready; sleep 100") as container:
        past = ask("logs", of=container.id)
        kept = sum(len(data) for _, _, data in past["entries"])
        assert 0 < kept <= LOG_BYTES
        assert kept + past["dropped"] == 6_000_000 + len("ready\n")


def test_names_are_unique() -> None:
    with ready(name="one"), pytest.raises(UsageError, match='"/one" is already in use'):
        run("true", name="one")
    assert run("true", name="one").exit_code == 0


def test_a_container_is_found_by_the_beginning_of_its_id() -> None:
    with ready() as container:
        assert ask("inspect", of=container.id[:7])["id"] == container.id
    with pytest.raises(UsageError, match="No such container"):
        ask("inspect", of=container.id[:7])


def test_a_program_that_is_not_there_is_an_error_of_the_start() -> None:
    container = run("no-such-program", detach=True, rm=True)
    assert container.exit_code == 127
    with pytest.raises(ContainerExitError):
        run("no-such-program", detach=True, rm=True, check=True)


def test_a_cell_that_is_waited_for_leaves_nothing() -> None:
    run("true", name="gone")
    assert [row for row in ask("list") if row["name"] == "gone"] == []


def test_its_usage_is_kept_by_the_engine_and_bounded() -> None:
    with detached("sh", "-c", "while :; do :; done", cpus=0.3) as container:
        assert soon(lambda: len(container.reload().usage) > 5)
        assert container.cpu_seconds > 0
        assert len(container.usage) <= container.usage.capacity


# ---- the end ----


def test_stop_asks_first() -> None:
    with ready() as container:
        container.stop(timeout=10)
        assert (container.status, container.exit_code) == ("exited", 3)
        assert container.stdout == "ready\nasked\n"
        assert not alive(container.pid)
        assert directories(container) == []


def test_stop_kills_what_does_not_listen() -> None:
    with ready("trap '' TERM; echo ready; while :; do sleep 0.05; done") as container:
        container.stop(timeout=0.1)
        assert container.exit_code == 137


def test_stop_signal() -> None:
    with ready("trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done", stop_signal="USR1") as container:
        assert container.stop(timeout=10).exit_code == 7


def test_kill_sends_any_signal() -> None:
    with ready("trap 'echo usr' USR1; echo ready; while :; do sleep 0.05; done") as container:
        container.kill("SIGUSR1")
        assert soon(lambda: "usr" in container.logs())
        assert container.status == "running"
        container.kill()
        assert container.wait() == 137


def test_wait_gives_the_exit_code() -> None:
    with detached("sh", "-c", "sleep 0.2; exit 4") as container:
        assert container.wait() == 4
        assert ask("wait", of=container.id) == 4


def test_remove_of_a_running_one_wants_force() -> None:
    with ready(name="here") as container:
        with pytest.raises(UsageError, match="stop the container before removing"):
            container.remove()
        assert alive(container.pid)
        container.remove(force=True)
        assert not alive(container.pid)
        assert [r for r in ask("list") if r["id"] == container.id] == []


def test_rm_removes_it_when_it_ends() -> None:
    with ready(rm=True) as container:
        removal = Request("wait", of=container.id, condition="removed")
        container.kill("SIGTERM")
        assert removal.wait() == 3
        removal.close()
        assert [r for r in ask("list") if r["id"] == container.id] == []


@pytest.mark.needs("controller:memory")
def test_out_of_memory_of_a_detached_one() -> None:
    with detached("sh", "-c", "x=$(head -c 64000000 /dev/zero | tr '\\0' x)", memory="16m") as container:
        assert container.wait() == 137
        assert container.reload().oom_killed
        assert ask("inspect", of=container.id)["oom_killed"]
        assert [text for _, text in container.usage.events] == ["oom"]


def test_every_container_goes_with_the_engine() -> None:
    script = (
        "from jupyter_ns import run\n"
        "c = run('sleep', '1000', detach=True)\n"
        "e = run('sh', '-c', 'exit 3', detach=True); e.wait()\n"
        "print(c.pid, c.id[:12], flush=True)\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    pid, name = done.stdout.split()
    assert done.returncode == -signal.SIGKILL
    assert soon(lambda: not alive(int(pid)))
    bases = get_client().facts.cgroup["bases"]
    assert soon(lambda: not any(list(Path(b["directory"], "jupyter_ns").glob(f"*/{name}")) for b in bases))


# ---- start, restart ----


def test_start_finds_what_was_written_before() -> None:
    script = "echo ready; echo $$ >> /root/starts; rm -f /etc/hostname; while :; do sleep 0.05; done"
    with ready(script) as container:
        first = dict(container.namespaces)
        container.stop(timeout=0)
        assert ["A", "/root/starts"] in ask("diff", of=container.id)["changes"]
        container.start()
        assert container.status == "running"
        assert soon(lambda: container.exec("cat", "/root/starts").stdout == "1\n1\n")
        assert container.exec("test", "-e", "/etc/hostname").exit_code == 1
        assert container.exec("ps", "-o", "pid=", "-p", "1").stdout.strip() == "1"
        assert container.namespaces["pid"].container != first["pid"].host
        inside = container.exec("sh", "-c", "readlink /proc/1/ns/pid /proc/self/ns/pid").stdout.split()
        assert inside[0] == inside[1] == f"pid:[{container.namespaces['pid'].container}]"


@pytest.mark.needs("controller:memory")
def test_limits_and_masks_hold_after_a_new_start() -> None:
    with ready("echo ready; sleep 100", memory="32m") as container:
        before = container.exec("sh", "-c", "cat /proc/self/mountinfo | wc -l; ls /sys/fs/cgroup").stdout
        container.stop(timeout=0)
        container.start()
        limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
        assert int(container.exec("sh", "-c", limit).stdout) == 32 * MIB
        assert container.exec("sh", "-c", "cat /proc/self/mountinfo | wc -l; ls /sys/fs/cgroup").stdout == before
        assert container.exec("sh", "-c", "echo 1 > /proc/sys/kernel/sysrq").exit_code != 0
        assert container.exec("cat", "/proc/keys").stdout == ""


def test_start_again_without_a_mount_namespace(tmp_path: Path) -> None:
    """What it wrote is the host's own by now."""
    script = f"echo $$ >> {tmp_path}/starts; echo ready; exec sleep 100"
    with ready(script, without="mount") as container:
        for starts in (2, 3):
            container.stop(timeout=0)
            container.start()
            assert soon(lambda: (tmp_path / "starts").read_text() == "1\n" * starts)  # noqa: B023
        assert container.exec("cat", f"{tmp_path}/starts").stdout == "1\n1\n1\n"


@pytest.mark.parametrize("userns", [pytest.param("private", marks=pytest.mark.needs("root", "private")), "host"])
def test_start_again_many_times_leaves_no_mounts(userns: str) -> None:
    """In a user namespace, where what the container was built of is locked, as in none."""
    script = "echo $(stat -c %u / /root /dev/null /dev/shm) ready; exec sleep 100"
    count = "wc -l < /proc/self/mountinfo; ls /dev; ls -A /dev/shm; echo written > /dev/null && cat /proc/keys"
    with ready(script, userns=userns, read_only=True, tmpfs="/scratch", device="/dev/kmsg") as container:
        before = container.exec("sh", "-c", count).stdout
        assert "written" not in before and "kmsg" in before
        container.exec("sh", "-c", "touch /dev/shm/old /scratch/kept; rm /dev/zero; ln -s /etc/passwd /dev/zero")
        for _ in range(4):
            container.stop(timeout=0)
            container.start()
        assert container.exec("sh", "-c", count).stdout == before
        assert container.exec("ls", "/scratch").stdout == "kept\n"
        assert container.exec("sh", "-c", "exec ls -l /dev/zero").stdout.startswith("crw-rw-rw-")
        assert len(set(container.logs().splitlines())) == 1


def test_a_start_that_fails_is_answered_and_loses_nothing() -> None:
    with ready("rmdir /srv; echo ready; exec sleep 100", workdir="/srv") as container:
        container.stop(timeout=0)
        for _ in range(2):
            with pytest.raises(SetupError, match="/srv"):
                container.start()
            assert state(container.id) == "exited"
            assert ["D", "/srv"] in ask("diff", of=container.id)["changes"]
        assert directories(container) == []


def test_a_new_start_trusts_nothing_in_dev() -> None:
    """CVE-2025-31133: a link in place of /dev/null would have its target bound over the masked paths."""
    script = (
        "test -e /root/again || { rm /dev/null; ln -s /proc/sys/kernel/core_pattern /dev/null; touch /root/again; }"
    )
    with ready(script + "; echo ready; sleep 100") as container:
        container.stop(timeout=0)
        container.start()
        assert container.exec("stat", "-c", "%F %t:%T", "/dev/null").stdout.startswith("character special file 1:3")
        core_pattern = Path("/proc/sys/kernel/core_pattern").read_text()
        assert container.exec("cat", "/proc/keys").stdout != core_pattern


def test_restart() -> None:
    with ready() as container:
        old = container.pid
        ask("stop", of=container.id, timeout_s=10, again=True)
        container.reload()
        assert container.status == "running" and container.pid != old
        assert not alive(old) and alive(container.pid)


def test_restart_policy_counts_failures() -> None:
    with detached("sh", "-c", "echo run; exit 5", restart="on-failure:2") as container:
        assert soon(lambda: container.logs() == "run\n" * 3)
        assert soon(lambda: state(container.id) == "exited")
        found = ask("inspect", of=container.id)
        assert (found["restart_count"], found["exit_code"]) == (2, 5)


def test_restart_of_what_is_waited_for_is_refused() -> None:
    with pytest.raises(UsageError, match="--restart always: expected with -d"):
        run("true", restart="always")
    assert ask("list") == []


def test_restart_policy_always_ends_with_stop() -> None:
    with detached("sh", "-c", "echo run", restart="always") as container:
        assert soon(lambda: container.logs().count("run") >= 2)
        ask("stop", of=container.id, timeout_s=0)
        assert soon(lambda: state(container.id) == "exited")
        count = container.logs().count("run")
        time.sleep(0.3)
        assert container.logs().count("run") == count


# ---- pause, update ----


def test_pause_freezes_and_unpause_goes_on() -> None:
    with ready("echo ready; i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done") as container:
        container.pause()
        assert container.status == "paused"
        get_client().sync()  # what it wrote before has been read
        frozen = container.logs()
        time.sleep(0.2)
        assert container.logs() == frozen
        with pytest.raises(UsageError, match="already paused"):
            container.pause()
        with pytest.raises(UsageError, match="is paused"):
            container.exec("true")
        container.unpause()
        assert soon(lambda: container.logs() != frozen)


def test_a_paused_container_can_be_stopped_and_removed() -> None:
    with ready() as container:
        container.pause()
        container.stop(timeout=10)
        assert container.exit_code == 3
        container.start().pause().remove(force=True)


@pytest.mark.needs("controller:memory")
def test_update_moves_a_limit_while_it_runs() -> None:
    limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    with ready(memory="64m") as container:
        container.update(memory="128m", memory_swap="256m")
        assert int(container.exec("sh", "-c", limit).stdout) == 128 * MIB
        record = next(r for r in container.limits if r.name == "memory_bytes")
        assert (record.requested, record.effective) == (128 * MIB, str(128 * MIB))
        texts = [text for _, text in container.reload().usage.events]
        assert "limit moved: memory 64 MiB -> 128 MiB" in texts
        container.stop(timeout=0)
        container.start()
        assert int(container.exec("sh", "-c", limit).stdout) == 128 * MIB


@pytest.mark.needs("controller:memory")
def test_update_of_a_container_that_is_waited_for_is_told_to_its_cell() -> None:
    class Updating(Sink):
        def on_started(self, container: Container) -> None:
            self.request = Request("update", of=container.id, limits={"memory_bytes": 96 * MIB}, restart="")

    sink = Updating()
    limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    until_moved = f'until [ "$({limit})" = {96 * MIB} ]; do sleep 0.02; done'
    spec = ContainerSpec(argv=("sh", "-c", until_moved), workdir="/")
    container = Run(get_client(), spec, sink).execute()
    sink.request.wait()
    sink.request.close()
    assert [text for _, text in container.usage.events] == ["limit moved: memory unlimited -> 96 MiB"]


@pytest.mark.needs("controller:memory")
def test_a_bad_update_changes_nothing() -> None:
    with ready(memory="64m") as container:
        with pytest.raises(UsageError):
            container.update(memory="1k")
        assert next(r for r in container.reload().limits if r.name == "memory_bytes").effective == str(64 * MIB)


# ---- exec ----


def test_exec_is_in_every_namespace_the_cgroup_and_has_no_more_rights(engine: Callable[[], EngineClient]) -> None:
    with ready() as container:
        script = "for k in cgroup ipc mnt net pid time user uts; do readlink /proc/self/ns/$k || echo; done"
        inside = container.exec("sh", "-c", script).stdout.split()
        ids = {text.partition(":")[0]: int(text.partition("[")[2].rstrip("]")) for text in inside}
        expected = {BY.proc: container.namespaces[BY.name].container for BY in KINDS if BY.name in container.namespaces}
        assert ids == expected
        status = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/{}/status"
        own = container.exec("sh", "-c", status.format("self")).stdout
        assert own == container.exec("sh", "-c", status.format(1)).stdout
        mine = container.exec("cat", "/proc/self/cgroup").stdout
        assert mine == container.exec("cat", "/proc/1/cgroup").stdout


def test_exec_gets_no_descriptor_of_the_engines() -> None:
    with ready() as container:
        listed = container.exec("sh", "-c", "exec ls /proc/self/fd").stdout.split()
        assert listed == ["0", "1", "2", "3"]  # the last is what ls itself opened


def test_exec_is_not_counted_twice() -> None:
    with detached("sleep", "100") as container:
        processes = container.exec("ps", "-e", "-o", "comm=").stdout.split()
        assert sorted(processes) == ["ps", "sleep"]


def test_exec_codes_streams_and_input() -> None:
    with ready() as container:
        done = container.exec("sh", "-c", "cat; echo err >&2; exit 6", input="in\n")
        assert (done.stdout, done.stderr, done.exit_code) == ("in\n", "err\n", 6)
        assert container.exec("no-such-program").exit_code == 127
        assert container.exec("/etc/passwd").exit_code == 126
        assert container.exec("sh", "-c", "kill -9 $$").exit_code == 137
        assert container.reload().status == "running"


def test_exec_as_another_user_elsewhere() -> None:
    with ready(env="A=1") as container:
        done = container.exec(
            "sh", "-c", "id -u; id -g; pwd; echo $A$B", user="12:34", workdir="/usr", environment={"B": "2"}
        )
        assert done.stdout == "12\n34\n/usr\n12\n"


def test_exec_ends_with_its_container() -> None:
    with ready("trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done") as container:
        spec = ContainerSpec(argv=("sleep", "100"))

        class Stopping(Sink):
            def on_started(self, _container: Container) -> None:
                self.request = Request("stop", of=container.id)

        sink = Stopping()
        inside = Run(get_client(), spec, sink)
        inside.enters(container.id, argv=["sleep", "100"])
        assert inside.execute().exit_code == 137
        sink.request.wait()
        sink.request.close()
        assert container.reload().exit_code == 0


def test_killing_an_exec_leaves_the_container() -> None:
    with ready() as container:
        inside = Run(get_client(), ContainerSpec(argv=("sleep", "100")), Sink())
        inside._sink.on_started = lambda _c: (inside.interrupt(), inside.interrupt())  # type: ignore[method-assign]
        inside.enters(container.id, argv=["sleep", "100"])
        assert inside.execute().exit_code in (130, 137)
        assert container.exec("ps", "-e", "-o", "comm=").stdout.count("sleep") <= 1
        assert container.reload().status == "running"


def test_exec_in_what_does_not_run_is_refused() -> None:
    with detached("true") as container:
        container.wait()
        with pytest.raises(UsageError, match="exited, not running"):
            container.exec("true")
    with pytest.raises(UsageError, match="No such container"):
        container.exec("true")


def test_the_program_that_enters_cannot_be_opened_from_inside() -> None:
    """CVE-2019-5736: whoever may trace what enters could write to the host's interpreter."""
    script = (
        "echo ready; while :; do for p in /proc/[0-9]*; do "
        'case "$(readlink $p/exe)" in *python*) echo "seen $p";; esac; done; done'
    )
    with ready(script) as container:
        for _ in range(20):
            container.exec("true")
        assert "seen" not in container.logs()


# ---- health ----


def test_health_follows_the_command() -> None:
    options = {"health_cmd": "! cat /root/ill", "health_interval": "50ms", "health_retries": 2}
    with detached("sleep", "100", name="patient", **options) as container:
        health = lambda: ask("inspect", of="patient")["health"]  # noqa: E731
        assert soon(lambda: health() == "healthy")
        container.exec("sh", "-c", "echo fever > /root/ill")
        assert soon(lambda: health() == "unhealthy")
        found = ask("inspect", of="patient")
        assert found["failing_streak"] >= 2
        assert found["health_log"][-1][2:] == [1, "fever\n"]
        assert len(found["health_log"]) <= 5
        container.exec("rm", "/root/ill")
        assert soon(lambda: health() == "healthy")
    actions = [e["action"] for e in ask("events") if e["id"] == container.id and e["action"].startswith("health")]
    assert actions == ["health_status: healthy", "health_status: unhealthy", "health_status: healthy"]


def test_a_check_that_hangs_has_failed_and_leaves_no_process() -> None:
    options = {"health_cmd": "exec sleep 77", "health_interval": "50ms", "health_timeout": "100ms", "health_retries": 1}
    with ready("echo ready; exec tail -f /dev/null", **options) as container:
        assert soon(lambda: ask("inspect", of=container.id)["health"] == "unhealthy")
        code, text = ask("inspect", of=container.id)["health_log"][0][2:]
        assert (code, text) == (-1, "Health check exceeded timeout (0.1s)")
        assert container.exec("ps", "-e", "-o", "comm=").stdout.split().count("sleep") <= 1


# ---- files ----


def test_diff_while_it_runs_and_afterwards() -> None:
    with ready("touch /srv/new; rm /etc/group; echo ready; sleep 100") as container:
        for _ in range(2):
            changes = {tuple(c) for c in ask("diff", of=container.id)["changes"]}
            assert {("A", "/srv/new"), ("D", "/etc/group"), ("C", "/etc")} <= changes
            container.stop(timeout=0)


# ---- terminal ----


def test_a_terminal_is_one_and_is_controlling() -> None:
    spec = ContainerSpec(
        argv=("sh", "-c", "test -t 0 && test -t 1 && test -t 2 && ps -o tpgid= -p $$ && stty size && cat"),
        workdir="/",
        tty=True,
    )
    container = Run(get_client(), spec, Sink()).execute(stdin=b"typed\n")
    foreground, size, typed = container.stdout.splitlines()
    assert int(foreground) == 1
    assert (size, typed, container.exit_code) == ("40 120", "typed", 0)


FIND = (
    "tty && python3 -S -c 'import os; print(os.ttyname(0), os.ttyname(1), os.ttyname(2))' && "
    "stat -c %u:%t:%T /dev/pts/0 && echo to its terminal > /dev/tty && echo to the console > /dev/console"
)
FOUND = [
    "/dev/pts/0", "/dev/pts/0 /dev/pts/0 /dev/pts/0", "{uid}:88:0", "to its terminal", "to the console"
]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init": True},
        {"read_only": True},
        {"user": "1000"},
        pytest.param({"userns": "private"}, marks=pytest.mark.needs("root", "private")),
        pytest.param({"userns": "private", "user": "1000"}, marks=pytest.mark.needs("root", "private")),
    ],
    ids=str,
)
def test_a_terminal_is_found_in_the_containers_own_dev(options: dict[str, Any]) -> None:
    container = run("sh", "-c", FIND, tty=True, workdir="/", **options)
    assert container.stdout.splitlines() == [line.format(uid=options.get("user", 0)) for line in FOUND]


def test_what_is_typed_at_once_reaches_a_terminal_that_is_opened_later() -> None:
    typed = "".join(f"line {number}\n" for number in range(2000))  # more than a terminal holds
    container = run("cat", input=typed, tty=True, workdir="/")
    assert (container.stdout, container.exit_code) == (typed, 0)


@pytest.mark.parametrize(
    ("script", "shown"), [("read x; echo got $x", "got\n"), ("cat; cat; wc -c; echo end", "0\nend\n")]
)
def test_the_end_of_what_is_typed_is_seen_by_each_that_reads(script: str, shown: str) -> None:
    container = run("sh", input=f"{script}\n", tty=True, workdir="/", timeout=20)
    assert (container.stdout.rstrip("\n") + "\n", container.reason) == (shown, "exited")


def test_a_terminal_of_one_that_is_started_again_and_of_what_enters_it() -> None:
    def entered() -> str:
        spec = ContainerSpec(argv=("sh", "-c", "tty; echo entered > /dev/tty; ps -o tt= -p 1"))
        running = Run(get_client(), spec, Sink())
        running.enters(container.id, argv=["sh", "-c", spec.argv[-1]], tty=True)
        return running.execute(stdin=b"").stdout

    with detached("sh", "-c", "tty; exec sleep 100", tty=True) as container:
        for starts in (1, 2):
            assert soon(lambda: container.logs() == "/dev/pts/0\n" * starts)  # noqa: B023
            assert entered().split() == ["/dev/pts/1", "entered", "pts/0"]
            container.stop(timeout=0).start()


USER = """
from jupyter_ns import run
for options in ({}, {"userns": "private"}):
    container = run("sh", "-c", "tty; echo typed > /dev/tty; stat -c %u /dev/console", tty=True, workdir="/", **options)
    print(container.stdout.split())
"""


@pytest.mark.needs("root", "userns")
def test_a_terminal_of_an_ordinary_users_container() -> None:
    assert run_as_ordinary_user(USER) == ["['/dev/pts/0', 'typed', '0']"] * 2


def test_without_a_mount_namespace_the_terminal_is_one_of_the_hosts() -> None:
    container = run("sh", "-c", "tty; echo typed > /dev/tty", tty=True, without="mount", workdir="/")
    found, typed = container.stdout.splitlines()
    assert found.startswith("/dev/pts/") and typed == "typed"


def test_no_terminal_is_opened_in_what_a_container_has_in_place_of_its_own() -> None:
    script = "mount -t tmpfs none /dev/pts && mkfifo /dev/pts/ptmx && echo ready; sleep 100"
    with detached("sh", "-c", script, privileged=True) as container:
        assert soon(lambda: container.logs() == "ready\n")
        running = Run(get_client(), ContainerSpec(argv=("true",)), Sink())
        running.enters(container.id, argv=["true"], tty=True)
        with pytest.raises(UsageError, match="docker exec -t: no terminal can be opened"):
            running.execute(stdin=b"")
        assert container.exec("true").exit_code == 0


# ---- events, interrupts ----


def test_events_in_order() -> None:
    began = time.time()
    with ready(name="noted", label="a=b") as container:
        container.pause().unpause().stop(timeout=10)
        ask("rename", of="noted", name="renamed")
    actions = [e["action"] for e in ask("events") if e["id"] == container.id and e["time_s"] >= began]
    expected = ["create", "start", "pause", "unpause", "kill", "stop", "die", "rename", "destroy"]
    assert actions == expected
    labelled = next(e for e in ask("events") if e["id"] == container.id)
    assert labelled["attributes"]["a"] == "b"


def test_an_interrupt_ends_the_waiting_only() -> None:
    with ready() as container:
        request = Request("wait", of=container.id)
        before = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        try:
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                request.wait()
        finally:
            signal.signal(signal.SIGALRM, before)
        assert container.reload().status == "running"


@pytest.mark.needs("root", "userns", "private")
def test_exec_in_a_private_user_namespace_is_as_powerless_as_its_container() -> None:
    with ready(userns="private") as container:
        asked = "id -u; id -G; grep -E '^(Uid|Gid|Groups|Cap)' /proc/{}/status; readlink /proc/{}/ns/user"
        own, first = (container.exec("sh", "-c", asked.format(who, who)).stdout for who in ("self", "1"))
        assert own == first
        assert own.splitlines()[:2] == ["0", "0"]
        done = container.exec("sh", "-c", "id -u; echo again > /dev/stdout", user="12:34")
        assert (done.stdout, done.stderr) == ("12\nagain\n", "")
