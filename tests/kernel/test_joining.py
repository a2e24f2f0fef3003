"""Containers that join another one's namespaces, as the kernel sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from detached import detached
from docker_shell import Docker
from IPython.core.error import UsageError as ShownError
from ordinary_user import run_as_ordinary_user
from processes import soon

from jupyter_ns import Container, namespaces, run
from jupyter_ns.client import get_client
from jupyter_ns.errors import UnsupportedError, UsageError
from jupyter_ns.lifecycle import ask

pytestmark = pytest.mark.needs("overlay")
KINDS = "for n in net pid ipc uts mnt cgroup user; do readlink /proc/self/ns/$n; done"
ALL = {"network": "container:web", "pid": "container:web", "ipc": "container:web"}


@pytest.fixture
def web() -> Iterator[Container]:
    ask("network_create", name="lab")
    try:
        script = "echo of-web > /dev/shm/x; exec sleep 100"
        with detached("sh", "-c", script, name="web", network="lab", ipc="shareable") as container:
            assert soon(lambda: Path(f"/proc/{container.pid}/comm").read_text() == "sleep\n")
            yield container
    finally:
        ask("network_remove", of="lab")


def ids(container: Container) -> dict[str, int]:
    return namespaces.read(container.pid)


@pytest.mark.needs("root", "networks")
@pytest.mark.parametrize("kind", ["network", "pid", "ipc"])
def test_one_namespace_is_shared_and_no_other(web: Container, kind: str) -> None:
    with detached("sleep", "100", **{kind: "container:web"}) as container:
        mine, theirs = ids(container), ids(web)
        assert {k for k in mine if mine[k] == theirs[k]} == {kind, "user"}
        assert container.shared == {kind: "web"} and container.namespaces[kind].container == theirs[kind]
        inside = container.exec("sh", "-c", "readlink /proc/self/ns/" + {"network": "net"}.get(kind, kind)).stdout
        assert inside.strip().endswith(f"[{theirs[kind]}]")


@pytest.mark.needs("root", "networks")
def test_what_is_seen_of_the_other(web: Container) -> None:
    with detached("sleep", "100", **ALL) as side:
        commands = side.exec("sh", "-c", "cat /proc/[0-9]*/comm; hostname; cat /dev/shm/x; ls /sys/class/net").stdout
        assert commands.split()[:2] == ["sleep", "sleep"]
        assert commands.split()[-4:] == [web.short_id, "of-web", "eth0", "lo"]
        assert " web" in side.exec("cat", "/etc/hosts").stdout
        with detached("sleep", "100", name="late", network="lab"):
            assert side.exec("getent", "hosts", "late").stdout == web.exec("getent", "hosts", "late").stdout != ""
        assert side.exec("getent", "hosts", "late").exit_code != 0
        # What masks /proc and /sys is its own.
        assert side.exec("sh", "-c", "cat /proc/keys; echo 1 > /proc/sys/kernel/sysrq").exit_code != 0
        side.exec("sh", "-c", "echo more > /dev/shm/y")
        assert web.exec("cat", "/dev/shm/y").stdout == "more\n"


@pytest.mark.needs("root", "networks")
def test_it_goes_without_the_other_and_with_its_pid_namespace(web: Container) -> None:
    with (
        detached("sleep", "100", network="container:web") as net,
        detached("sh", "-c", "sleep 100 & exec sleep 100", pid="container:web") as pid,
    ):
        pid.stop(timeout=0)
        # Who joins is not PID 1: what it started goes with its cgroup, and is a zombie where nobody waits for it.
        assert web.exec("sh", "-c", "ps -eo stat=,comm= | grep sleep | grep -vc Z").stdout == "1\n"
        pid.start()
        assert ids(pid)["pid"] == ids(web)["pid"]
        web.stop(timeout=0)
        assert soon(lambda: pid.reload().status == "exited") and net.reload().status == "running"
        assert pid.exit_code == 137
        with pytest.raises(UsageError, match="cannot join pid of a non running container"):
            pid.start()
        web.start()
        pid.start()
        assert ids(pid)["pid"] == ids(web)["pid"] and ids(net)["network"] != ids(web)["network"]


@pytest.mark.needs("root", "networks")
def test_a_new_start_joins_again(web: Container) -> None:
    with detached("sleep", "100", **ALL) as side:
        for _ in range(2):
            side.stop(timeout=0)
            side.start()
        mine, theirs = ids(side), ids(web)
        assert {k for k in mine if mine[k] == theirs[k]} == {"network", "pid", "ipc", "user"}
        assert side.exec("cat", "/dev/shm/x").stdout == "of-web\n"
        assert " web" in side.exec("cat", "/etc/hosts").stdout


@pytest.mark.needs("root", "networks")
def test_no_descriptor_of_a_namespace_is_passed_on(web: Container) -> None:
    assert run("sh", "-c", "ls -l /proc/self/fd | grep -c ns: ; true", workdir="/", **ALL).stdout == "0\n"
    before = len(os.listdir(f"/proc/{get_client().pid}/fd"))
    for _ in range(3):
        run("true", workdir="/", **ALL)
    get_client().sync()
    assert len(os.listdir(f"/proc/{get_client().pid}/fd")) <= before


@pytest.mark.needs("root", "networks")
def test_the_other_cannot_reach_the_program_that_enters(web: Container) -> None:
    """CVE-2019-5736: until it executes its own, a process that enters a PID namespace is the host's Python."""
    steps = [step.describe() for step in run("true", workdir="/", **ALL).plan.steps]
    assert steps[1].startswith("prctl(PR_SET_DUMPABLE, 0")


@pytest.mark.needs("root", "networks")
@pytest.mark.usefixtures("zygote")
def test_a_python_cell(web: Container, docker: Docker) -> None:
    source = "import os\nprint(os.getpid() > 1, sorted(os.listdir('/sys/class/net')), open('/dev/shm/x').read())"
    line = "--network container:web --pid container:web --ipc container:web"
    assert docker(line, source, magic="container").startswith("True ['eth0', 'lo'] of-web\n")


@pytest.mark.needs("root", "networks")
def test_as_docker_shows_it(web: Container, docker: Docker) -> None:
    docker("run -d --name side --network container:web --pid container:web host sleep 100")
    try:
        form = "{{.HostConfig.NetworkMode}} {{.HostConfig.PidMode}} {{.HostConfig.IpcMode}} {{.Config.Hostname}}"
        found = docker(f"inspect side --format '{form}'").split()
        assert found == [f"container:{web.id}", f"container:{web.id}", "private", web.short_id]
        assert docker("ps --format '{{.Names}} {{.Networks}}'") == "side \nweb lab\n"
        assert "web" in docker("side", magic="namespaces")
        with pytest.raises(ShownError, match="sharing network namespace with another container or host cannot be"):
            docker("network connect lab side")
    finally:
        docker("rm -f side")
    docker("run --name ended host true")
    with pytest.raises(ShownError, match="cannot join network of a non running container"):
        docker("run --network container:ended host true")
    docker("rm ended")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--network container:web -p 80:80", "--publish: conflicting options: port publishing and the container type"),
        ("--network container:web --expose 80", "--expose: conflicting options: port exposing and the container type"),
        ("--network container:web -h x", "--hostname: conflicting options: hostname and the network mode"),
        ("--network container:web --dns 1.1.1.1", "--dns: conflicting options: dns and the network mode"),
        ("--network container:web --add-host a:1.1.1.1", "--add-host: conflicting options: custom host-to-IP mapping"),
        ("--network container:web --mac-address 02:42:ac:11:00:02", "conflicting options: mac-address and the network"),
        ("--network container:web --ip 172.18.0.9", "--ip and the container type network mode"),
        ("--network container:", "invalid container format"),
        ("--network container:web --without network", "conflicts with --without network"),
        ("--pid container:web --without pid", "conflicts with --without pid"),
        ("--pid container:", "expected host or container:NAME"),
        ("--pid container:web --init", "--init: conflicts with --pid container:web"),
        ("--uts container:web", "--uts 'container:web': expected host"),
        ("--ipc container:web --shm-size 1m", "--shm-size: conflicts with --ipc container:web"),
        ("--userns private --network container:web", "--userns private: conflicts with --network container:web"),
        ("--network container:no-such-container", "No such container: no-such-container"),
    ],
)
def test_what_contradicts_it_is_refused(docker: Docker, line: str, said: str) -> None:
    with pytest.raises(ShownError) as error:
        docker(f"run {line} host true")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("options", "join", "said"),
    [
        ({}, {"ipc": "container:other"}, "non-shareable IPC"),
        ({"ipc": "host"}, {"ipc": "container:other"}, "it has the host's own"),
        ({"network": "host"}, {"network": "container:other"}, "it has the host's own"),
        ({"without": "pid"}, {"pid": "container:other"}, "it has the host's own"),
    ],
)
@pytest.mark.needs("root")
def test_what_is_not_to_be_shared_is_refused(options: dict[str, str], join: dict[str, str], said: str) -> None:
    with detached("sleep", "100", name="other", **options), pytest.raises(UsageError, match=said):
        run("true", workdir="/", **join)


@pytest.mark.needs("root", "private")
def test_namespaces_of_another_user_namespace_are_refused() -> None:
    with (
        detached("sleep", "100", name="other", userns="private"),
        pytest.raises(UnsupportedError, match="other has a user namespace of its own"),
    ):
        run("true", workdir="/", network="container:other")


LEAVING = """
from jupyter_ns import run
from jupyter_ns.client import close_client, get_client
for name, options in (("web", {}), ("side", {"pid": "container:web"}), ("last", {"pid": "container:side"})):
    run("sh", "-c", "sleep 100 & exec sleep 100", detach=True, name=name, workdir="/", **options)
engine = get_client()._process
close_client()
print("closed", engine.returncode)
"""


@pytest.mark.needs("root")
def test_the_engine_goes_with_all_who_share_a_pid_namespace() -> None:
    """A PID 1 ends after the others of its namespace have been waited for: in the other order nobody ever would be."""
    started = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=60, check=False)
    assert (started.stdout, started.stderr) == ("closed 0\n", "")


USER = f"""
import os
from jupyter_ns import run
from jupyter_ns.errors import UnsupportedError
from jupyter_ns.lifecycle import ask
ask("network_create", name="lab")
web = run("sh", "-c", "echo of-web > /dev/shm/x; exec sleep 100", detach=True, name="web", network="lab",
          ipc="shareable", workdir="/")
side = run("sleep", "100", detach=True, network="container:web", ipc="container:web", workdir="/")
look = "{KINDS}"
one, other = (c.exec("sh", "-c", look).stdout.split() for c in (web, side))
print([a.partition(":")[0] for a, b in zip(one, other) if a == b])
print(side.exec("sh", "-c", "cat /dev/shm/x; hostname; ls /sys/class/net").stdout.replace(web.short_id, "web").split())
side.stop(timeout=0).start()
again = side.exec("sh", "-c", look).stdout.split()
print(again[0] == one[0] and again[1] != one[1] and again[2] == one[2])
try:
    run("true", pid="container:web", workdir="/")
except UnsupportedError as e:
    print(str(e).partition(":")[0], "docker exec" in str(e) or "cgroup" in str(e))
for c in (side, web):
    c.remove(force=True)
"""


@pytest.mark.needs("root", "userns")
def test_an_ordinary_user() -> None:
    found = run_as_ordinary_user(USER)
    assert found[:3] == ["['net', 'ipc', 'user']", "['of-web', 'web', 'eth0', 'lo']", "True"]
    assert found[3].endswith(" True")
