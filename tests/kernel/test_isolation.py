"""What a container sees: asked from inside, compared with the kernel's own files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from detached import detached
from processes import soon

from jupyter_ns import Container, namespaces, run
from jupyter_ns.client import get_client
from jupyter_ns.errors import UnsupportedError
from jupyter_ns.namespaces import BY_NAME, KINDS
from jupyter_ns.security import capabilities

KIND_NAMES = [k.name for k in KINDS]
DEFAULT_KINDS = [
    k.name for k in KINDS if k.name != "user" and Path("/proc/self/ns", k.proc).exists()
]  # time: Linux 5.6
LISTING = "for n in /proc/self/ns/*; do echo ${n##*/} $(stat -L -c %i $n); done"


def seen(container: Container) -> dict[str, int]:
    """Parse the output of `LISTING`: kind to inode number."""
    by_file = dict(line.split() for line in container.stdout.splitlines() if len(line.split()) == 2)
    return {k.name: int(by_file[k.proc]) for k in KINDS if k.proc in by_file}


def sh(script: str, **options: object) -> Container:
    """Run a script; what it writes to standard error fails the test."""
    container = run("sh", "-c", script, **options)
    assert (container.stderr, container.exit_code) == ("", 0)
    return container


@pytest.mark.needs("root")
def test_every_kind_but_user_is_new() -> None:
    container = sh(LISTING)
    ours, inside = namespaces.read(), seen(container)
    assert {k for k in inside if inside[k] != ours[k]} == set(DEFAULT_KINDS)
    assert {k: n.container for k, n in container.namespaces.items()} == inside
    assert {k: n.host for k, n in container.namespaces.items()} == ours


@pytest.mark.needs("root")
@pytest.mark.parametrize("kind", DEFAULT_KINDS)
def test_without_leaves_out_exactly_that_kind(kind: str) -> None:
    # Without a mount namespace /proc stays the host's, where "self" of another PID namespace dangles.
    without = [kind, "pid"] if kind == "mount" else [kind]
    container = sh(LISTING, without=without)
    ours, inside = namespaces.read(), seen(container)
    assert {k for k in inside if inside[k] == ours[k]} == {"user", *without}


def test_is_pid_1_in_a_world_of_its_own() -> None:
    container = sh("echo $$; ls -d /proc/[0-9]* | wc -l")
    own, processes = map(int, container.stdout.split())
    assert own == 1
    assert processes <= 3  # sh, ls, wc


def test_hostname_is_the_id_unless_given() -> None:
    container = sh("hostname; cat /etc/hostname /proc/sys/kernel/hostname")
    assert container.stdout.split() == [container.id[:12]] * 3
    assert sh("hostname; grep -w web1 /etc/hosts", hostname="web1").stdout.startswith("web1\n127.0.0.1")
    assert socket.gethostname() != "web1"


def test_domainname() -> None:
    assert sh("cat /proc/sys/kernel/domainname", domainname="example.org").stdout == "example.org\n"


def test_its_cgroup_is_the_root_that_it_sees() -> None:
    paths = {line.split(":")[2] for line in sh("cat /proc/self/cgroup").stdout.splitlines() if "name=" not in line}
    assert paths == {"/"}


def test_only_loopback_and_it_is_up() -> None:
    code = "import socket; s=socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    assert sh("ls /sys/class/net").stdout == "lo\n"
    container = run(sys.executable, "-S", "-c", code)
    assert (container.exit_code, container.stderr) == (0, "")


def test_network_host_is_the_notebooks() -> None:
    container = sh(f"{LISTING}", network="host")
    assert seen(container)["network"] == namespaces.read()["network"]


def test_no_descriptor_but_the_three() -> None:
    assert sh("ls /proc/self/fd").stdout.split() == ["0", "1", "2", "3"]  # 3 is that of ls


def test_no_mount_shows_outside() -> None:
    before = Path("/proc/self/mountinfo").read_text()
    container = sh("cat /proc/self/mountinfo")
    assert Path("/proc/self/mountinfo").read_text() == before
    points = [line.split()[4] for line in container.stdout.splitlines()]
    assert points[0] == "/" and "/proc" in points and "/dev/pts" in points
    assert not any(".jupyter_ns" in p for p in points)


def test_capabilities_are_dockers_default() -> None:
    status = sh("cat /proc/self/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    default = capabilities.DEFAULT
    assert {name: int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")} == {
        "CapPrm": default,
        "CapEff": default,
        "CapBnd": default,
        "CapInh": 0,
        "CapAmb": 0,
    }


def test_capabilities_added_and_dropped() -> None:
    container = sh("grep CapEff /proc/self/status", cap_drop="ALL", cap_add="NET_ADMIN")
    assert int(container.stdout.split()[1], 16) == capabilities.mask(["NET_ADMIN"])


@pytest.mark.needs("seccomp")
def test_seccomp_filters_unless_told_not_to() -> None:
    read = "awk '/^Seccomp:/ {print $2}' /proc/self/status"
    assert sh(read).stdout == "2\n"
    ours = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "Seccomp:" in line)
    assert sh(read, security_opt="seccomp=unconfined").stdout == f"{ours}\n"


@pytest.mark.needs("seccomp")
def test_a_refused_call_is_eperm() -> None:
    container = run("unshare", "--mount", "true")
    assert container.exit_code == 1
    assert "Operation not permitted" in container.stderr


def test_no_new_privileges() -> None:
    assert sh("grep NoNewPrivs /proc/self/status", security_opt="no-new-privileges").stdout.split()[1] == "1"


@pytest.mark.needs("root")
def test_user_and_group() -> None:
    container = sh("id -u; id -g; id -G; grep CapEff /proc/self/status; cat /etc/shadow 2>&1 || true", user="1000:1000")
    lines = container.stdout.splitlines()
    assert lines[:3] == ["1000", "1000", "1000"]
    assert int(lines[3].split()[1], 16) == 0
    assert "Permission denied" in lines[4]


def test_ulimit() -> None:
    assert sh("ulimit -Sn; ulimit -Hn", ulimit="nofile=100:200").stdout.split() == ["100", "200"]


@pytest.mark.needs("namespace:time")
def test_time_offset() -> None:
    code = "import time; print(time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME))"
    container = run(sys.executable, "-S", "-c", code, time_offset=3600)
    assert container.stderr == ""
    monotonic, boottime = map(float, container.stdout.split())
    assert abs(monotonic - time.clock_gettime(time.CLOCK_MONOTONIC) - 3600) < 30
    assert abs(boottime - time.clock_gettime(time.CLOCK_BOOTTIME) - 3600) < 30


def test_sysctl_of_its_own_network() -> None:
    host = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
    container = sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", sysctl="net.ipv4.ip_unprivileged_port_start=99")
    assert container.stdout == "99\n"
    assert Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text() == host


@pytest.mark.needs("root")
def test_environment_comes_in_and_can_be_set() -> None:
    container = sh("echo $A $HOSTNAME; echo ${PATH}", env=["A=b c", "HOSTNAME=other"])
    assert container.stdout.splitlines() == ["b c other", os.environ["PATH"]]


def test_masked_and_read_only_paths() -> None:
    masked = next(path for path, is_directory in get_client().facts.masked if not is_directory)
    container = run("sh", "-c", f"wc -c < {masked}; echo 1 > /proc/sys/vm/drop_caches")
    assert container.stdout == "0\n"
    assert "Read-only file system" in container.stderr


def test_engines_session_is_not_the_payloads() -> None:
    assert sh("cut -d' ' -f6 /proc/self/stat").stdout == "1\n"


@pytest.mark.needs("root")
def test_init_reaps_and_passes_the_exit_code_on() -> None:
    script = "(sh -c 'exit 0' &) ; sleep 0.2; ps -eo stat= | grep -c Z; cat /proc/1/comm > /dev/null; exit 7"
    with_init = run("sh", "-c", script, init=True)
    assert (with_init.stdout, with_init.exit_code) == ("0\n", 7)
    assert run("sh", "-c", "echo $$", init=True).stdout == "2\n"


def test_init_has_a_name_that_says_what_it_is() -> None:
    """And not that of the engine, of which it is a copy."""
    look = "cat /proc/1/comm; tr '\\0' ' ' < /proc/1/cmdline; echo; ps -o args= -p 1; exec sleep 100"
    with detached("sh", "-c", look, init=True) as container:
        for starts in (1, 2):
            assert soon(lambda: container.logs().count("\n") == 3 * starts)  # noqa: B023
            assert [line.strip() for line in container.logs().splitlines()] == ["jupyter_ns-init"] * 3 * starts
            container.stop(timeout=0).start()
        assert b"jupyter_ns" not in Path(f"/proc/{get_client().pid}/comm").read_bytes()


def test_kinds_table_is_the_kernels() -> None:
    """What the notebook's own process has is what the table knows."""
    assert set(namespaces.read()) <= set(BY_NAME)
    listed = {p.name for p in Path("/proc/self/ns").iterdir() if not p.name.endswith("_for_children")}
    assert {BY_NAME[k].proc for k in namespaces.read()} == listed


def test_run_from_a_thread() -> None:
    code = (
        "import threading\nfrom jupyter_ns import run\n"
        "t = threading.Thread(target=lambda: print(run('echo', 'in a thread').stdout))\nt.start(); t.join()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("in a thread", "")


def test_privileged_is_all_that_the_engine_has_and_the_rest_is_said() -> None:
    facts = get_client().facts
    container = run("sed", "-n", r"s/^CapPrm:\s*//p", "/proc/self/status", privileged=True)
    given, everything = int(container.stdout, 16), (2 << facts.last_cap) - 1
    assert given == facts.capabilities & everything
    assert any("CAP_" in line for line in container.weakened) is (given != everything)


def test_a_capability_that_the_engine_lacks_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="--cap-add CAP_SYS_TIME: the notebook's own processes do not have it"):
        capabilities.bounded(capabilities.mask(["SYS_TIME"]), capabilities.mask(["CHOWN"]), ["SYS_TIME"])
