"""Containers that are started again, whose mounts are not all where what they wrote is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detached import detached
from ordinary_user import run_as_ordinary_user
from processes import soon

from jupyter_ns import Container, run
from jupyter_ns.client import get_client
from jupyter_ns.errors import UnsupportedError

pytestmark = pytest.mark.needs("overlay")
# Without the numbers of mounts and of file systems that have none of their own.
MOUNTS = "cut -d ' ' -f 4- /proc/self/mountinfo"
PRIVATE = pytest.param("private", marks=pytest.mark.needs("root", "private"))


def written(container: Container, line: str, times: int) -> None:
    assert soon(lambda: container.logs().splitlines().count(line) == times)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "inner").mkdir()
    for directory in (tmp_path, tmp_path / "inner"):
        directory.chmod(0o777)  # root of a user namespace is anybody there
    (tmp_path / "file").write_text("of the host's\n")
    yield tmp_path


@pytest.mark.parametrize("userns", ["", PRIVATE])
def test_what_is_mounted_in_dev_and_proc_stays(source: Path, userns: str) -> None:
    options: dict[str, Any] = {
        "volume": [f"{source}:/dev/a/b:ro", f"{source}/inner:/dev/in", f"{source}/file:/proc/cpuinfo:ro"],
        "tmpfs": ["/dev/own:size=1m", "/dev/shm/more", "/scratch"],
        "device": "/dev/kmsg",
    }
    if not userns:
        options["volume"].append(f"{source}:/sys/fs:ro")
    with detached("sh", "-c", "echo here; exec sleep 100", userns=userns, **options) as container:
        mounts = container.exec("sh", "-c", MOUNTS).stdout
        # Where a mount stands among the others says nothing: those below /dev are made again after it.
        before = sorted(mounts.splitlines())
        assert sum(" /dev/" in line for line in before) >= 7
        container.exec("sh", "-c", "echo 1 > /dev/own/x; echo 2 > /dev/in/x; echo 3 > /dev/shm/more/x; echo 4 > /dev/y")
        for starts in range(2, 5):
            container.stop(timeout=0)
            container.start()
            written(container, "here", starts)
            assert sorted(container.exec("sh", "-c", MOUNTS).stdout.splitlines()) == before
        look = "cat /dev/own/x /dev/in/x /dev/shm/more/x /proc/cpuinfo /dev/a/b/file; ls /dev/y"
        found = container.exec("sh", "-c", look)
        assert found.stdout == "1\n2\n3\nof the host's\nof the host's\n" and found.exit_code != 0
        assert container.exec("sh", "-c", "echo x > /dev/a/b/file").exit_code != 0
        if not userns:
            assert container.exec("cat", "/sys/fs/file").stdout == "of the host's\n"
        assert (source / "inner/x").read_text() == "2\n"


def test_what_is_mounted_over_dev_itself_stays(source: Path) -> None:
    with detached(
        "sh", "-c", "echo here; exec sleep 100", tmpfs="/dev:mode=755", volume=f"{source}:/dev/v"
    ) as container:
        before = container.exec("sh", "-c", f"{MOUNTS} | sort").stdout
        container.exec("touch", "/dev/kept", "/dev/v/kept")
        for starts in (2, 3):
            container.stop(timeout=0)
            container.start()
            written(container, "here", starts)
        assert container.exec("sh", "-c", f"{MOUNTS} | sort").stdout == before
        assert container.exec("ls", "/dev").stdout == "kept\nv\n"
        assert (source / "kept").exists()


@pytest.mark.parametrize(
    "script",
    [
        "mv /dev/a /dev/c; ln -s / /dev/a",  # would be mounted without what masks it
        "mv /dev/a /dev/c; mkdir -p /dev/a/proc",
        "mv /dev/a /dev/c",
    ],
)
def test_a_link_in_the_way_is_not_followed(source: Path, script: str) -> None:
    with detached("sh", "-c", f"echo here; {script}; exec sleep 100", volume=f"{source}:/dev/a/proc") as container:
        written(container, "here", 1)
        while container.exec("test", "-e", "/dev/c").exit_code:
            time.sleep(0.02)
        container.stop(timeout=0)
        with pytest.raises(UnsupportedError, match=r"-v .*:/dev/a/proc: the container has moved"):
            container.start()
        assert container.reload().status == "exited"


@pytest.mark.needs("root", "private")
def test_what_would_be_mounted_in_sys_is_refused_in_words(source: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"-v .*:/sys/fs: conflicts with --userns private"):
        run("true", volume=f"{source}:/sys/fs", userns="private", workdir="/")
    assert get_client().alive


USER = f"""
import os, time
from jupyter_ns import run
from jupyter_ns.client import get_client
from jupyter_ns.lifecycle import ask

LOOK = ("readlink /proc/self/ns/user; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; {MOUNTS} | sort;"
        "id; cat /var/tmp/starts /dev/own/x; hostname; grep Cap /proc/1/status; cat /proc/keys; echo x > /dev/null;"
        "ps -o pid=,comm= -p 1; ls /sys/class/net; stat -c %u:%g / /dev /dev/null /proc/1 /dev/own")
engine = os.readlink("/proc/%d/ns/user" % get_client().pid)
descriptors = "/proc/%d/fd" % get_client().pid
c = run("sh", "-c", "echo $$ >> /var/tmp/starts; echo here; exec sleep 100", detach=True, userns="private",
        restart="on-failure:1", tmpfs="/dev/own", workdir="/")
def here(times):
    while c.logs().count("here") < times:
        time.sleep(0.02)
here(1)
c.exec("sh", "-c", "echo own > /dev/own/x")
first = c.exec("sh", "-c", LOOK).stdout
open_now = len(os.listdir(descriptors))
for starts in (2, 3):
    c.stop(timeout=0).start()
    here(starts)
    # The same user namespace, and all others new; its files, and what each start added.
    again = c.exec("sh", "-c", LOOK).stdout
    print(again == first.replace("1\\nown", "1\\n" * starts + "own"))
    assert engine not in again
deadline = time.monotonic() + 10  # what a process that has ended leaves is closed a moment later
while len(os.listdir(descriptors)) > open_now and time.monotonic() < deadline:
    time.sleep(0.02)
print(len(os.listdir(descriptors)) <= open_now)
own = c.exec("sh", "-c", "for n in net ipc uts mnt cgroup pid; do readlink /proc/1/ns/$n; done").stdout.split()
host = [os.readlink("/proc/self/ns/" + n) for n in ("net", "ipc", "uts", "mnt", "cgroup", "pid")]
print(len(own), set(own) & set(host))
ask("stop", of=c.id, timeout_s=0, again=True)
here(4)
os.kill(c.reload().pid, 9)  # the policy starts it once more
here(5)
print(c.exec("cat", "/var/tmp/starts").stdout.split(), c.reload().status)
c.remove(force=True)
"""


@pytest.mark.needs("root", "userns")
def test_an_ordinary_users_container_in_a_user_namespace_of_its_own() -> None:
    assert run_as_ordinary_user(USER) == ["True", "True", "True", "6 set()", "['1', '1', '1', '1', '1'] running"]


def test_an_engine_holds_no_more_after_a_new_start(source: Path) -> None:
    descriptors = f"/proc/{get_client().pid}/fd"
    with detached("sleep", "100", volume=f"{source}:/dev/v") as container:
        before = len(os.listdir(descriptors))
        for _ in range(3):
            container.stop(timeout=0)
            container.start()
        get_client().sync()
        assert len(os.listdir(descriptors)) <= before
