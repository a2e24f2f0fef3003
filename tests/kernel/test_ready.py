"""Containers that were built before anybody asked: they are as one that is built on demand, and are used once."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jupyter_ns import Container, run
from jupyter_ns.client import get_client
from jupyter_ns.errors import UsageError

LOOK = r"""
cat /proc/self/mountinfo /proc/self/cgroup /proc/1/limits /proc/1/oom_score_adj /proc/net/route
cut -d: -f1 /proc/net/dev
grep -E 'Cap|Seccomp|NoNewPrivs|Groups|[UG]id|Umask|Threads' /proc/1/status; grep -E 'Sig[BIC]|Shd' /proc/self/status
cut -d' ' -f 5-8 /proc/1/stat
ls -l /proc/1/fd; ls -la /dev /proc/1/ns; tr '\0' '\n' </proc/1/environ; tr '\0' ' ' </proc/1/cmdline; pwd; hostname
cat /etc/hostname /etc/hosts /etc/resolv.conf
cat /sys/class/net/lo/flags /sys/class/net/lo/ifindex; cat /proc/sys/kernel/shmmni; ls -A /tmp /dev/shm /dev/mqueue
"""


def look(program: str = "sh", **options: object) -> tuple[Container, list[str]]:
    """Run a look around; return the lines without what is different from container to container."""
    done = run(program, "-c", LOOK, memory="64m", pids_limit=50, **options)
    assert done.exit_code == 0, done.stderr
    text = done.stdout.replace(done.id[:12], "ID")
    # Numbers of mounts, devices and namespaces, of pipes, and the time of day.
    text = re.sub(r"^\d+ \d+ \d+:\d+", "M", text, flags=re.M)
    text = re.sub(r"(master|propagate_from):\d+", r"\1", text)
    text = re.sub(r"\[\d+\]|\w{3} +\d+ \d\d:\d\d", "#", text)
    return done, text.splitlines()


def waiting() -> set[int]:
    """Return the engine's children that wait in namespaces of their own."""
    found, ours = set(), os.stat("/proc/self/ns/mnt").st_ino
    for child in Path(f"/proc/{get_client().pid}/task/{get_client().pid}/children").read_text().split():
        if os.stat(f"/proc/{child}/ns/mnt").st_ino != ours:
            found.add(int(child))
    return found


def wait_until_ready() -> set[int]:
    """Wait until the engine has built what it builds after a run."""
    deadline = time.monotonic() + 10
    before: set[int] = set()
    while not (found := waiting()) or found != before:
        assert time.monotonic() < deadline
        before = found
        time.sleep(0.2)
    return found


def look_from_what_is_ready(
    *program: str, before: Callable[[], object], **options: object
) -> tuple[Container, list[str]]:
    """Look around in a container made of what stands ready after `before`.

    Other mounts of the host's, which anybody may make meanwhile, have all of that dropped: then once more.
    """
    for _ in range(5):
        before()
        ready = wait_until_ready()
        found, seen = look(*program, **options)
        if found.pid in ready:
            return found, seen
    raise AssertionError(f"{found.pid} is none of those that waited: {ready}")


@pytest.mark.needs("root")
@pytest.mark.parametrize("init", [False, True])
def test_one_that_was_ready_is_as_one_that_is_built_on_demand(init: bool) -> None:
    get_client().sync()
    assert waiting() == set()
    fresh, seen = look(init=init)
    again, same = look_from_what_is_ready(before=lambda: look(init=init), init=init)
    assert same == seen
    assert len(again.timings) == len(fresh.timings) == len(again.plan.steps) - 1
    assert again.plan.describe().replace(again.id[:12], "ID") == fresh.plan.describe().replace(fresh.id[:12], "ID")
    isolated = [{kind for kind, ids in c.namespaces.items() if ids.isolated} for c in (fresh, again)]
    assert isolated[0] == isolated[1]


@pytest.mark.needs("root")
def test_another_program_gets_one_that_was_built_before_it_was_named() -> None:
    """Arguments and environment reach it, and nothing of the run for which the engine was asked before."""
    get_client().sync()
    _, seen = look(env=["WORD=1"])

    def tell_a_secret() -> None:
        assert run("printenv", "WORD", memory="64m", pids_limit=50, env=["WORD=secret"]).stdout == "secret\n"

    _, same = look_from_what_is_ready("/bin/sh", before=tell_a_secret, env=["WORD=1"])
    assert [line.replace("/bin/sh", "sh") for line in same] == [line.replace("/bin/sh", "sh") for line in seen]
    assert not any("secret" in line for line in same)


@pytest.mark.needs("root")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hostname": "h"},
        {"add_host": ["db:10.0.0.1"], "dns": ["10.0.0.2"]},
        {"read_only": True},
        {"user": "1:1"},
        {"volume": ["/usr:/mnt:ro"]},
        {"network": "host"},
    ],
    ids=lambda options: next(iter(options), "usual"),
)
def test_one_of_a_kind_that_is_not_ready_is_finished_from_a_blank(options: dict[str, object]) -> None:
    get_client().sync()
    fresh, seen = look(**options)

    def run_another_kind() -> None:
        get_client().sync()
        run("true", domainname="another.kind", network=str(options.get("network", "none")))

    again, same = look_from_what_is_ready(before=run_another_kind, **options)
    assert same == seen
    assert again.limits == fresh.limits and again.weakened == fresh.weakened and again.changes == fresh.changes
    assert len(again.timings) == len(fresh.timings) == len(again.plan.steps) - 1


@pytest.mark.needs("root")
@pytest.mark.parametrize(
    "options", [{"time_offset": "1h"}, {"tty": True}, {"cpuset_cpus": str(min(os.sched_getaffinity(0)))}]
)
def test_one_that_begins_otherwise_is_made_of_no_blank(options: dict[str, object]) -> None:
    run("true")
    ready = wait_until_ready()
    done = run("true", **options)
    assert done.exit_code == 0 and done.pid not in ready


@pytest.mark.needs("root")
def test_a_blank_is_made_anew_for_the_kind_that_was_last_asked_for() -> None:
    get_client().sync()
    run("true")
    usual = wait_until_ready()
    run("true", network="host")
    ready = wait_until_ready() - usual
    assert len(ready) == 2  # the blank, and one of that kind
    assert run("true", network="host", hostname="h").pid in ready


@pytest.mark.needs("root")
def test_a_directory_of_the_ground_that_is_another_one_by_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory below /tmp that Python is taken from lies on the container's own /tmp."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        path = Path(name, "modules")
        monkeypatch.syspath_prepend(str(path))
        for text in ("old", "new"):
            path.mkdir()
            (path / "file").write_text(text)
            run("true")
            before = wait_until_ready()
            path.rename(path.with_name(f"was {text}"))
            path.mkdir()
            (path / "file").write_text(text + "er")
            done = run("cat", str(path / "file"), hostname=text)
            assert done.stdout == text + "er" and done.pid not in before
            path.rename(path.with_name(f"was {text}er"))


@pytest.mark.needs("root")
def test_a_limit_that_cannot_be_set_leaves_no_blank_behind() -> None:
    run("true")
    ready = wait_until_ready()
    with pytest.raises(UsageError, match="No such file"):
        run("true", device_write_iops="/dev/no-such-disk:1")
    assert run("echo", "on").stdout == "on\n"
    get_client().sync()
    assert waiting() == set() and not [pid for pid in ready if Path(f"/proc/{pid}").exists()]


@pytest.mark.needs("root")
def test_each_is_used_once_and_has_what_was_asked_for() -> None:
    pids, names = set(), set()
    for number in range(4):
        wait_until_ready() if number else get_client().sync()
        script = 'echo $$ $0 "$N"; hostname; test -e /tmp/mark || echo unused; : >/tmp/mark'
        done = run("sh", "-c", script, "me", env=[f"N={number}"])
        assert done.stdout == f"1 me {number}\n{done.id[:12]}\nunused\n"
        pids.add(done.pid)
        names.add(done.id)
    assert len(pids) == len(names) == 4


@pytest.mark.needs("root")
def test_a_program_that_is_not_there_is_told_of_by_one_that_was_ready() -> None:
    run("true")
    wait_until_ready()
    assert run("no-such-program").exit_code == 127
    wait_until_ready()
    assert run("/etc").exit_code == 126


@pytest.mark.needs("root", "controller:memory")
def test_other_limits_are_another_kind() -> None:
    for limit in ("64m", "96m", "64m", "96m"):
        done = run("true", memory=limit)
        record = next(r for r in done.limits if r.name == "memory_bytes")
        assert int(record.effective) == int(limit[:-1]) << 20
        wait_until_ready()


@pytest.mark.needs("root")
def test_a_volume_that_is_another_directory_by_now(tmp_path: Path) -> None:
    """One that was ready has the directory that stood there when it was built."""
    source = tmp_path / "source"
    for text in ("old", "new"):
        source.mkdir()
        (source / "file").write_text(text)
        assert run("cat", "/in/file", volume=[f"{source}:/in"]).stdout == text
        wait_until_ready()
        source.rename(tmp_path / f"was {text}")
