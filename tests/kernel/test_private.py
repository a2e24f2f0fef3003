"""``--userns private`` for the host's root: who a container is outside, what it owns, and what it cannot do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jupyter_ns import Container, namespaces, run
from jupyter_ns.client import get_client
from jupyter_ns.lifecycle import ask
from jupyter_ns.runner import Cell, Run, Sink
from jupyter_ns.spec import ContainerSpec, Mount

pytestmark = [pytest.mark.usefixtures("zygote"), pytest.mark.needs("root", "userns", "private")]
FULL: dict[str, Any] = {"cap_add": ["SYS_ADMIN", "NET_ADMIN"], "security_opt": "seccomp=unconfined"}


def private(script: str, **options: Any) -> Container:
    return run("sh", "-c", script, **{"userns": "private", "workdir": "/", **options})


def first_ids() -> tuple[int, int]:
    return get_client().facts.private_ids[:2]


class Outside(Sink):
    """Reads what the host's /proc says of PID 1, then makes a file."""

    def __init__(self, done: Path) -> None:
        self._done = done

    def on_started(self, container: Container) -> None:
        lines = Path(f"/proc/{container.pid}/status").read_text().splitlines()
        self.status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        self.maps = [Path(f"/proc/{container.pid}/{name}").read_text().split() for name in ("uid_map", "gid_map")]
        self._done.touch()


@pytest.mark.parametrize("python", [False, True])
def test_root_inside_is_nobody_outside(python: bool, tmp_path: Path) -> None:
    uid, gid, count = get_client().facts.private_ids
    tmp_path.chmod(0o755)
    sink = Outside(tmp_path / "done")
    mount = Mount(type="bind", source=str(tmp_path), destination="/srv")
    argv = () if python else ("sh", "-c", "until [ -e /srv/done ]; do sleep 0.02; done; id -u")
    spec = ContainerSpec(argv=argv, python=python, workdir="/", userns="private", mounts=(mount,))
    source = "import os, time\nwhile not os.path.exists('/srv/done'): time.sleep(0.02)\nprint(os.getuid())"
    container = Run(get_client(), spec, sink).execute(cell=Cell(source=source) if python else None)
    assert (container.stdout, container.stderr, container.exit_code) == ("0\n", "", 0)
    assert sink.maps == [["0", str(uid), str(count)], ["0", str(gid), str(count)]]
    assert sink.status["Uid"].split() == [str(uid)] * 4
    assert sink.status["Gid"].split() == [str(gid)] * 4
    assert sink.status["Groups"].split() == []
    ours = namespaces.read()
    assert {k for k, n in container.namespaces.items() if n.container != ours[k]} == set(ours)


def test_started_again_it_is_as_private_as_before() -> None:
    uid, _, count = get_client().facts.private_ids
    script = "rm -f /etc/hostname; echo x >> /root/f; exec sleep 100"
    container = private(script, detach=True, tmpfs="/scratch", **FULL)
    try:
        for starts in (1, 2, 3):
            assert Path(f"/proc/{container.pid}/uid_map").read_text().split() == ["0", str(uid), str(count)]
            assert set(namespaces.read(container.pid).values()).isdisjoint(namespaces.read().values())
            deadline = time.monotonic() + 30
            while container.exec("cat", "/root/f").stdout != "x\n" * starts and time.monotonic() < deadline:
                time.sleep(0.02)
            assert container.exec("sh", "-c", "cat /root/f; stat -c %u /root/f /dev/null").stdout == (
                "x\n" * starts + "0\n0\n"
            )
            for path in ("/dev", "/proc", "/scratch"):  # it is in none that it could take off
                assert "umount" in container.exec("umount", path).stderr
            container.stop(timeout=0)
            assert ("D", "/etc/hostname") in [tuple(c) for c in ask("diff", of=container.id)["changes"]]
            container.start()
    finally:
        container.remove(force=True)


def test_the_range_is_no_accounts() -> None:
    first, _, count = get_client().facts.private_ids
    accounts = [int(line.split(":")[2]) for line in Path("/etc/passwd").read_text().splitlines()]
    assert not [uid for uid in accounts if first <= uid < first + count]


def test_namespaces_of_the_container_are_what_it_says() -> None:
    container = private("stat -L -c %i /proc/self/ns/user /proc/self/ns/net /proc/self/ns/mnt /proc/self/ns/pid")
    inside = [container.namespaces[kind].container for kind in ("user", "network", "mount", "pid")]
    assert list(map(int, container.stdout.split())) == inside


def test_owners_are_right_inside_and_outside(tmp_path: Path) -> None:
    host = os.stat("/etc/shadow")
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, *first_ids())
    script = "stat -c '%u %g' /etc/shadow /; touch /srv/shared/new /new; chown 5:6 /srv/shared/new; stat -c %u /new"
    container = private(script, volume=f"{shared}:/srv/shared")
    assert container.stderr == ""
    assert container.stdout.splitlines() == [f"{host.st_uid} {host.st_gid}", "0 0", "0"]
    info = (shared / "new").stat()
    assert (info.st_uid - first_ids()[0], info.st_gid - first_ids()[1]) == (5, 6)
    assert [w for w in container.weakened if w.startswith("/srv/shared: owners")]


def test_it_cannot_write_what_is_roots_outside(tmp_path: Path) -> None:
    container = private("touch /srv/d/x; chown 0 /srv/d; stat -c %u /srv/d", volume=f"{tmp_path}:/srv/d")
    assert container.stdout == "65534\n"
    assert "touch: cannot touch '/srv/d/x'" in container.stderr
    assert "chown: " in container.stderr
    assert list(tmp_path.iterdir()) == []


def test_its_capabilities_are_powerless_outside() -> None:
    """All that is asked for is there inside; the host's disk, its processes and its limits are out of reach."""
    disk = os.stat("/").st_dev
    script = (
        f"mknod /disk b {os.major(disk)} {os.minor(disk)}; mount -t ext4 /dev/sr0 /mnt; kill -9 {os.getpid()}; "
        "umount /dev; hostname changed; hostname; echo 1 > /proc/sys/vm/drop_caches; true"
    )
    container = private(script, pid="host", **FULL)
    assert container.stdout == "changed\n"
    assert "mknod: /disk: Operation not permitted" in container.stderr
    assert "kill: Operation not permitted" in container.stderr
    assert "umount: /dev:" in container.stderr
    assert "mount: /mnt:" in container.stderr
    assert "drop_caches" in container.stderr


def test_what_was_mounted_read_only_stays_so(tmp_path: Path) -> None:
    """Locked: mount_namespaces(7). In a container of the host's root, these capabilities would undo it."""
    tmp_path.chmod(0o777)
    script = "mount -o remount,rw,bind /srv/d; touch /srv/d/x; umount /srv/d; mount -o remount,rw,bind /; touch /after"
    container = private(script, volume=f"{tmp_path}:/srv/d:ro", read_only=True, **FULL)
    assert list(tmp_path.iterdir()) == []
    assert "cannot touch '/srv/d/x': Read-only file system" in container.stderr
    assert "cannot touch '/after': Read-only file system" in container.stderr
    assert "umount: /srv/d:" in container.stderr


def test_network_and_ports_are_its_own() -> None:
    code = "import socket; print(socket.create_server(('127.0.0.1', 80)).getsockname()[1])"
    script = f'ls /sys/class/net; {sys.executable} -S -c "{code}"; cat /proc/sys/net/ipv4/ip_forward'
    container = private(script, sysctl="net.ipv4.ip_forward=1")
    assert (container.stdout.split(), container.stderr) == (["lo", "80", "1"], "")


@pytest.mark.needs("controller:memory", "controller:pids")
def test_limits_bind() -> None:
    code = "x = bytearray(1 << 28)"
    container = run(sys.executable, "-S", "-c", code, memory="32m", userns="private", workdir="/")
    assert (container.reason, container.exit_code) == ("oom", 137)
    container = private("for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait", pids_limit=4)
    assert "fork" in container.stderr


def test_another_user_inside() -> None:
    container = private("id -u; id -g; touch /root/x", user="1000:1000")
    assert container.stdout.split() == ["1000", "1000"]
    assert "Permission denied" in container.stderr


def test_changes_and_keep(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "old").write_text("old")
    os.chown(work / "old", 1000, 1000)
    script = "echo new > new; echo more >> old; mkdir d; rm /etc/passwd; ls -R /usr/share > /dev/null"
    container = private(script, workdir=str(work), keep=True)
    assert container.stderr == ""
    below = {(c.kind, c.path) for c in container.changes if c.path.startswith(f"{work}/")}
    assert below == {("A", f"{work}/new"), ("C", f"{work}/old"), ("A", f"{work}/d")}
    others = {(c.kind, c.path) for c in container.changes if not c.path.startswith("/tmp")}
    assert others == {("C", "/etc"), ("D", "/etc/passwd")}
    assert (work / "old").read_text() == "oldmore\n"
    assert (work / "new").stat().st_uid == 0
    assert private("ls -R /etc /root > /dev/null").changes == []


def test_tmpfs_options_count_inside() -> None:
    container = private("stat -c '%u %g %a' /scratch /dev/shm /tmp", tmpfs="/scratch:uid=5,mode=700")
    assert container.stdout.splitlines() == ["5 0 700", "0 0 1777", "0 0 1777"]


FORK = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "jupyter_ns")
shell.user_ns["secret"] = 42
shell.run_cell('''%%container --userns private --state fork --quiet -v {shared}:/srv/shared
import os
open("/srv/shared/from-the-fork", "w").write(f"{{secret}} {{os.getuid()}} {{os.getgroups()}}")''')
"""


def test_a_fork_of_the_kernel_gives_up_the_hosts_root_too(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    code = FORK.replace("{shared}", str(shared)).replace("{{", "{").replace("}}", "}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    made = shared / "from-the-fork"
    assert made.exists(), done.stdout + done.stderr
    assert made.read_text() == "42 0 []"
    assert (made.stat().st_uid, made.stat().st_gid) == first_ids()
