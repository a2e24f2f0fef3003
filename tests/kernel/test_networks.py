"""Networks between containers, against the real kernel: what is in each namespace, who reaches whom, what is left."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from detached import detached
from processes import children_of, soon, switchboard

from jupyter_ns import Container, run
from jupyter_ns.client import EngineClient, get_client
from jupyter_ns.errors import SetupError, UnsupportedError, UsageError
from jupyter_ns.frontend.magics import parse_words
from jupyter_ns.lifecycle import ask
from jupyter_ns.runner import Cell, Run, Sink

pytestmark = pytest.mark.needs("overlay", "networks")
ECHO = """
import socket
with socket.create_server(("", 7)) as server:
    while True:
        with server.accept()[0] as client:
            while data := client.recv(65536):
                client.sendall(data.upper())
"""
CALL = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 7), timeout=20) as s:
        s.sendall(b"hello")
        print(s.recv(10).decode())
except OSError as e:
    print(type(e).__name__)
"""
MIB = 1 << 20


@pytest.fixture
def net(engine: Callable[[], EngineClient]) -> Iterator[Callable[..., str]]:
    """Return what makes networks; they are removed in the end."""
    engine()
    made: list[str] = []

    def create(name: str, **options: Any) -> str:
        ask("network_create", name=name, **options)
        made.append(name)
        return name

    try:
        yield create
    finally:
        for name in made:
            ask("network_remove", of=name)


@contextlib.contextmanager
def server(**options: Any) -> Iterator[Container]:
    """Give a container that answers on port 7."""
    with detached(sys.executable, "-c", ECHO, **options) as container:
        # 0A: TCP_LISTEN, proc_pid_net(5)
        assert soon(lambda: ":0007 00000000:0000 0A" in Path(f"/proc/{container.pid}/net/tcp").read_text())
        yield container


def call(name: str, **options: Any) -> str:
    """Say hello to port 7 of a name from a container of its own; return the answer, or the name of the error."""
    return run(sys.executable, "-c", CALL, name, workdir="/", **options).stdout.strip()


def interfaces(pid: int) -> list[str]:
    """Return the interfaces in a process's network namespace."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    return [line.partition(":")[0].strip() for line in lines]


def addresses(pid: int) -> set[str]:
    """Return the addresses that are local in a process's network namespace."""
    lines = Path(f"/proc/{pid}/net/fib_trie").read_text().splitlines()
    return {a.split()[-1] for a, b in itertools.pairwise(lines) if "/32 host LOCAL" in b}


def routes(pid: int) -> set[tuple[str, str, str]]:
    """Return interface, destination and gateway of each route of a process's network namespace."""
    rows = (line.split() for line in Path(f"/proc/{pid}/net/route").read_text().splitlines()[1:])

    def dotted(word: str) -> str:
        return socket.inet_ntoa(int(word, 16).to_bytes(4, sys.byteorder))

    return {(row[0], dotted(row[1]), dotted(row[2])) for row in rows}


# ---- what is there ----


def test_a_container_has_an_interface_an_address_and_a_route(net: Callable[..., str]) -> None:
    host = set(os.listdir("/sys/class/net"))
    with detached("sleep", "99", network=net("lab", subnet="172.28.0.0/16"), ip="172.28.0.9") as container:
        assert interfaces(container.pid) == ["lo", "eth0"]
        assert addresses(container.pid) == {"127.0.0.1", "172.28.0.9"}
        assert routes(container.pid) == {("eth0", "0.0.0.0", "172.28.0.1"), ("eth0", "172.28.0.0", "0.0.0.0")}
        mac = container.exec("cat", "/sys/class/net/eth0/address").stdout
        assert mac == "02:42:ac:1c:00:09\n"
        assert set(os.listdir("/sys/class/net")) == host
        assert os.stat(f"/proc/{container.pid}/ns/net").st_ino == container.namespaces["network"].container


def test_an_internal_network_has_no_default_route(net: Callable[..., str]) -> None:
    with detached("sleep", "99", network=net("lab", internal=True)) as container:
        assert {destination for _, destination, _ in routes(container.pid)} == {"172.18.0.0"}


def test_a_cell_is_on_a_network_too(net: Callable[..., str], zygote: None) -> None:
    name = net("lab")
    with server(network=name, name="echo"):
        spec = parse_words(["--network", name]).spec
        made = Run(get_client(), spec, Sink())
        source = "import socket\ns = socket.create_connection(('echo', 7), 20)\ns.sendall(b'cell')\nprint(s.recv(9))"
        assert made.execute(cell=Cell(source=source)).stdout == "b'CELL'\n"


@pytest.mark.needs("private")
def test_in_a_user_namespace_of_its_own(net: Callable[..., str]) -> None:
    name = net("lab")
    with server(network=name, name="echo", userns="private") as container:
        assert addresses(container.pid) == {"127.0.0.1", "172.18.0.2"}
        assert call("echo", network=name) == "HELLO"
        assert call("echo", network=name, userns="private") == "HELLO"


def test_the_plan_says_what_is_done(net: Callable[..., str]) -> None:
    name = net("lab")
    request = parse_words(["--network", name, "--net-rate", "10mbit", "true"])
    planned = Run(get_client(), request.spec, Sink()).container.plan
    assert [line.rpartition(": ")[2] for line in planned.outside if "RTM_NEWADDR" in line] == [
        'RTM_NEWADDR(172.18.0.2/16, "eth0")'
    ]
    assert sum("tbf rate 10000000bit" in line for line in planned.outside) == 2
    assert ask("networks")[0]["containers"] == {}
    with detached("sleep", "99", network=name):
        ran = run("true", network=name).plan
    assert any("RTM_NEWADDR(172.18.0.3/16" in line for line in ran.outside)
    text = ran.describe()
    assert text.index("RTM_NEWROUTE") < text.index('read("go")')


# ---- who reaches whom ----


def test_containers_of_one_network_reach_each_other_by_name_and_others_do_not(net: Callable[..., str]) -> None:
    lab, other = net("lab"), net("other")
    with server(network=lab, name="echo", network_alias="shout", hostname="box") as container:
        for name in ("echo", "shout", "box", container.short_id, "172.18.0.2"):
            assert call(name, network=lab) == "HELLO"
        assert call("172.18.0.2", network=other) in ("OSError", "ConnectionRefusedError", "TimeoutError")
        assert call("echo", network=other) == "gaierror"
        assert call("172.18.0.2") == "OSError"


def test_on_dockers_default_network_there_are_no_names() -> None:
    with server(network="bridge", name="echo") as container:
        assert addresses(container.pid) == {"127.0.0.1", "172.17.0.2"}
        assert call("172.17.0.2", network="bridge") == "HELLO"
        assert call("echo", network="bridge") == "gaierror"


def test_what_is_broken_is_mended_by_connecting(net: Callable[..., str]) -> None:
    lab, other = net("lab"), net("other")
    with server(network=lab, name="echo"), detached("sleep", "99", network=other, name="far") as far:
        hello = (sys.executable, "-c", CALL, "echo")
        assert far.exec(*hello).stdout == "gaierror\n"
        ask("network_connect", of=lab, container="far", aliases=["near"])
        assert interfaces(far.pid) == ["lo", "eth0", "eth1"]
        assert far.exec(*hello).stdout == "HELLO\n"
        assert "172.18.0.3\tfar near" in ask_hosts("echo")
        ask("network_disconnect", of=lab, container="far")
        assert interfaces(far.pid) == ["lo", "eth0"]
        assert far.exec(*hello).stdout == "gaierror\n"
        assert "far" not in ask_hosts("echo")


def ask_hosts(name: str) -> str:
    """Return a container's /etc/hosts."""
    pid = ask("inspect", of=name)["pid"]
    return Path(f"/proc/{pid}/root/etc/hosts").read_text()


def test_hosts_follow_who_comes_goes_and_is_renamed(net: Callable[..., str]) -> None:
    lab = net("lab")
    with detached("sleep", "99", network=lab, name="one", add_host="db:10.0.0.1"):
        assert "10.0.0.1\tdb\n" in ask_hosts("one")
        with detached("sleep", "99", network=lab, name="two") as two:
            assert "172.18.0.3\ttwo " in ask_hosts("one")
            assert "172.18.0.2\tone " in ask_hosts("two")
            ask("rename", of="two", name="deux")
            assert "172.18.0.3\tdeux " in ask_hosts("one")
            two.stop(0)
            assert "deux" not in ask_hosts("one")
            if not get_client().facts.mknod_error:  # else it cannot be started again
                two.start()
                assert soon(lambda: "172.18.0.3\tdeux " in ask_hosts("one"))
                assert addresses(ask("inspect", of="deux")["pid"]) == {"127.0.0.1", "172.18.0.3"}
        assert "deux" not in ask_hosts("one")


def test_name_servers_are_the_containers_own(net: Callable[..., str]) -> None:
    lab = net("lab")
    assert run("cat", "/etc/resolv.conf", network=lab).stdout == ""
    options = {"dns": "172.18.0.9", "dns_search": "example.org", "dns_option": "timeout:1"}
    text = "nameserver 172.18.0.9\nsearch example.org\noptions timeout:1\n"
    assert run("cat", "/etc/resolv.conf", network=lab, **options).stdout == text
    assert run("cat", "/etc/resolv.conf", **options).stdout == text


def test_a_container_again_in_the_same_words_is_as_the_first(net: Callable[..., str]) -> None:
    lab = net("lab")
    seen = set()
    for _ in range(4):  # from the second on, one that was built ahead
        container = run("cat", "/etc/hosts", "/proc/net/fib_trie", "/sys/class/net/eth0/address", network=lab)
        seen.add(container.stdout.replace(container.short_id, "ID").replace(container.name, "NAME"))
        time.sleep(0.1)
    assert len(seen) == 1


def test_one_that_is_made_of_a_blank_has_the_names_of_its_network(net: Callable[..., str]) -> None:
    lab = net("lab")
    with server(name="near", network=lab):
        seen = set()
        for name in ("first", "second"):  # the second is of another kind, for which a blank waits
            container = run("cat", "/etc/hosts", hostname=name, network=lab)
            seen.add(
                container.stdout.replace(container.short_id, "ID").replace(container.name, "NAME").replace(name, "H")
            )
            time.sleep(0.3)
    assert len(seen) == 1 and "near" in seen.pop()


# ---- published ports ----


def test_a_port_is_published_on_loopback(net: Callable[..., str]) -> None:
    with server(network=net("lab"), publish="7") as container:
        ((port, protocol, ip, outer),) = ask("inspect", of=container.id)["ports"]
        assert (port, protocol, ip) == (7, "tcp", "127.0.0.1")
        payload = os.urandom(3 * MIB).replace(b"a", b"A")
        with socket.create_connection((ip, outer), timeout=10) as client:
            sent = subprocess.Popen([sys.executable, "-c", "pass"])  # another process in between changes nothing
            client.settimeout(10)
            client.sendall(b"hello")
            assert client.recv(10) == b"HELLO"
            sent.wait()
        assert echoed(ip, outer, payload) == payload.upper()
        with pytest.raises(UsageError, match=rf"-p {outer}:7: port {outer} of 127.0.0.1 is already in use"):
            run("true", network="lab", publish=f"{outer}:7")
    assert run("true", network="lab", publish=f"{outer}:7").exit_code == 0  # at once: it is free again
    assert soon(lambda: refused(ip, outer))


def refused(ip: str, port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as client:
        return client.connect_ex((ip, port)) == errno.ECONNREFUSED


def echoed(ip: str, port: int, payload: bytes) -> bytes:
    """Send bytes, end, and return everything that comes back."""
    code = (
        "import socket, sys, threading\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)\n"
        "data = sys.stdin.buffer.read()\n"
        "threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR))).start()\n"
        "while piece := s.recv(65536): sys.stdout.buffer.write(piece)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, ip, str(port)], input=payload, capture_output=True, check=True)
    return done.stdout


def test_datagrams_are_published_too(net: Callable[..., str]) -> None:
    code = (
        "import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\ns.bind(('', 9))\nprint('ready', flush=True)\n"
        "while True:\n    data, who = s.recvfrom(99)\n    s.sendto(data.upper(), who)"
    )
    with detached(sys.executable, "-c", code, network=net("lab"), publish="9/udp") as container:
        assert soon(lambda: "ready" in container.logs())
        ((_, _, ip, outer),) = ask("inspect", of=container.id)["ports"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.sendto(b"hello", (ip, outer))
            assert client.recv(10) == b"HELLO"


def test_all_exposed_ports_are_published_and_a_range_gives_the_first_that_is_free() -> None:
    with server(publish_all=True, expose="7") as container:
        ((port, _, _, outer),) = ask("inspect", of=container.id)["ports"]
        assert port == 7
        assert addresses(container.pid) == {"127.0.0.1", "172.17.0.2"}  # -P alone is on Docker's default network
        assert echoed("127.0.0.1", outer, b"x") == b"X"
        with server(publish=f"{outer}-{outer + 9}:7") as second:
            ((_, _, _, other),) = ask("inspect", of=second.id)["ports"]
            assert outer < other <= outer + 9


def test_nothing_starts_where_a_port_is_taken(net: Callable[..., str]) -> None:
    lab = net("lab")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="already in use"):
            run("true", network=lab, publish=f"{port}:80")
    with pytest.raises(UsageError, match="no address of this machine"):
        run("true", network=lab, publish="192.0.2.1:8080:80")
    assert ask("list") == []
    assert ask("networks")[2]["containers"] == {}


# ---- limits ----


def received(seconds: float, **options: Any) -> tuple[float, Container]:
    """Have one container send another as fast as it can; return what came, bytes per second."""
    sink = (
        "import socket, time\nserver = socket.create_server(('', 7))\nprint('ready', flush=True)\n"
        f"c = server.accept()[0]\nc.recv(1)\nbegin = time.monotonic()\nn = 0\n"
        f"while time.monotonic() < begin + {seconds}: n += len(c.recv(1 << 20))\n"
        "print(n / (time.monotonic() - begin), flush=True)\n"
    )
    source = (
        "import socket, time\ns = socket.create_connection(('sink', 7), 20)\ns.settimeout(1)\n"
        f"end = time.monotonic() + {seconds} + 1\n"
        "try:\n    while time.monotonic() < end: s.send(bytes(1 << 16))\nexcept OSError: pass\n"
    )
    lab = {"network": "lab"}
    receiving, sending = (lab | options.pop(side, {}) for side in ("sink", "source"))
    with detached(sys.executable, "-c", sink, name="sink", **receiving) as container:
        assert soon(lambda: "ready" in container.logs())
        sent = run(sys.executable, "-c", source, workdir="/", **sending)
        assert soon(lambda: len(container.logs().split()) == 2)
        return float(container.logs().split()[1]), sent


@pytest.mark.parametrize("side", ["source", "sink"])
def test_a_rate_holds_for_what_is_sent_and_what_is_received(net: Callable[..., str], side: str) -> None:
    net("lab")
    rate, sent = received(3.0, **{side: {"net_rate": "20mbit"}})
    # Far from what it would be without; how near to it depends on who else wants the processors.
    assert 0.5 * 2.5e6 < rate < 1.25 * 2.5e6
    if side == "source":
        assert [(r.name, r.requested, r.effective) for r in sent.limits] == [("net_rate_bps", 2_500_000, "2500000")] * 2
        assert sent.limits[0].file == "qdisc tbf of eth0 inside"
        assert sent.usage.last("sent_bytes") is None or (sent.usage.last("sent_bytes") or 0) > 3 * 0.5 * 2.5e6


def test_a_rate_is_moved_while_it_runs(net: Callable[..., str]) -> None:
    with detached("sleep", "99", network=net("lab")) as container:
        container.update(net_rate="1mbit")
        assert {r.effective for r in container.limits} == {"125000"}
        container.update(net_rate="2mbit")
        assert {r.effective for r in container.limits} == {"250000"}
    with detached("sleep", "99") as container, pytest.raises(UsageError, match="on a network"):
        container.update(net_rate="1mbit")


def test_delay_and_loss_are_refused_by_name_or_kept(net: Callable[..., str]) -> None:
    lab = net("lab")
    try:
        container = run("true", network=lab, net_delay="50ms", net_loss="10%", net_rate="1mbit")
    except UnsupportedError as e:
        assert "--net-delay" in str(e) and "CONFIG_NET_SCH_NETEM" in str(e)
        return
    told = {r.name: float(r.effective) for r in container.limits if "inside" in r.file}
    assert told["net_delay_us"] == 50_000
    assert told["net_loss_percent"] == pytest.approx(10, abs=0.01)
    assert told["net_rate_bps"] == 125_000
    with server(network=lab, name="echo", net_delay="200ms"):
        begin = time.monotonic()
        assert call("echo", network=lab) == "HELLO"
        assert time.monotonic() - begin > 0.4  # the answers to SYN and to what was said


def test_traffic_is_counted(net: Callable[..., str]) -> None:
    lab = net("lab")
    with server(network=lab, name="echo"):
        code = "import socket\ns = socket.create_connection(('echo', 7), 20)\ns.sendall(bytes(500_000))\n" \
               "n = 0\nwhile n < 500_000: n += len(s.recv(65536))"  # fmt: skip
        container = run(sys.executable, "-c", code, network=lab, workdir="/")
    if get_client().facts.cgroup["version"]:
        for column in ("received_bytes", "sent_bytes"):
            assert 500_000 < (container.usage.last(column) or 0) < 700_000


# ---- names, refusals ----


def test_networks_are_made_with_dockers_conditions(net: Callable[..., str]) -> None:
    net("lab", subnet="10.9.0.0/24", gateway="10.9.0.254")
    for message, options in {
        "already exists": {"name": "lab"},
        "expected letters": {"name": "/x"},
        "overlaps": {"name": "x", "subnet": "10.9.0.128/25"},
        "IPv4 network": {"name": "x", "subnet": "10.9.0.0"},
        "expected an address of 10.8.0.0/24": {"name": "x", "subnet": "10.8.0.0/24", "gateway": "10.9.0.1"},
    }.items():
        with pytest.raises(UsageError, match=message):
            ask("network_create", **options)
    with detached("sleep", "99", network="lab", ip="10.9.0.1", name="one"):
        with pytest.raises(UsageError, match="Address already in use"):
            run("true", network="lab", ip="10.9.0.1")
        with pytest.raises(UsageError, match="has active endpoints: one"):
            ask("network_remove", of="lab")
    with pytest.raises(UsageError, match="Address already in use"):
        run("true", network="lab", ip="10.9.0.254")
    with pytest.raises(UsageError, match=r"expected an address of network lab, 10\.9\.0\.0/24"):
        run("true", network="lab", ip="10.8.0.1")
    with pytest.raises(UsageError, match="on user defined networks only"):
        run("true", network="bridge", ip="172.17.0.9")
    with pytest.raises(UsageError, match="user configured subnets"):
        run("true", network=net("auto"), ip="172.18.0.9")
    with pytest.raises(UsageError, match="pre-defined"):
        ask("network_remove", of="bridge")
    with pytest.raises(UsageError, match=r"network nowhere not found.*bridge, lab"):
        run("true", network="nowhere")


def test_addresses_are_given_back(net: Callable[..., str]) -> None:
    lab = net("lab", subnet="10.9.0.0/30")
    for _ in range(3):
        with detached("sleep", "99", network=lab) as container:
            assert addresses(container.pid) == {"127.0.0.1", "10.9.0.2"}
            with pytest.raises(UsageError, match="no available IPv4 addresses"):
                run("true", network=lab)
    with pytest.raises(SetupError):
        run("true", network=lab, volume="/proc/version:/proc/none/x")
    assert run("true", network=lab).exit_code == 0


# ---- what is left ----


def test_the_switchboard_goes_when_nobody_needs_it(net: Callable[..., str]) -> None:
    with detached("sleep", "99", network=net("lab")):
        pid = switchboard(get_client().pid)
        assert pid
    get_client().sync()
    assert switchboard(get_client().pid) == 0
    assert not Path(f"/proc/{pid}").exists()


KILLED = """
import os, signal, time
from jupyter_ns import run
from jupyter_ns.client import get_client
c = run("sleep", "99", detach=True, network="bridge", publish="7")
print(get_client().pid, c.pid, flush=True)
time.sleep(99)
"""


def network_namespaces() -> set[int]:
    """Return the inodes of all that this process may look at."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is not ours
            found.add(os.stat(path).st_ino)
    return found


def test_nothing_outlives_an_engine_that_is_killed() -> None:
    kernel = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    try:
        assert kernel.stdout is not None
        engine, container = map(int, kernel.stdout.readline().split())
        with contextlib.suppress(OSError):
            namespace = os.stat(f"/proc/{container}/ns/net").st_ino
        forks = children_of(engine)
        assert len(forks) == 2  # the container, and the switchboard
        os.kill(engine, signal.SIGKILL)
        assert soon(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (*forks, container)))
        assert namespace not in network_namespaces()
    finally:
        kernel.kill()
        kernel.communicate()


def test_what_was_sent_arrives_although_the_sender_has_ended(net: Callable[..., str]) -> None:
    count = (
        "import socket\nserver = socket.create_server(('', 7))\nprint('ready', flush=True)\nc = server.accept()[0]\n"
        "n = 0\nwhile piece := c.recv(65536): n += len(piece)\nprint(n, flush=True)"
    )
    lab = net("lab")
    with detached(sys.executable, "-c", count, network=lab, name="sink") as sink:
        assert soon(lambda: "ready" in sink.logs())
        code = "import socket\nsocket.create_connection(('sink', 7)).sendall(bytes(200_000))"
        run(sys.executable, "-c", code, network=lab, workdir="/", net_rate="2mbit")
        assert soon(lambda: sink.logs().split()[1:] == ["200000"])


def test_a_switchboard_that_was_killed_is_replaced(net: Callable[..., str]) -> None:
    lab = net("lab")
    with detached("sleep", "99", network=lab) as container:
        os.kill(switchboard(get_client().pid), signal.SIGKILL)
        assert soon(lambda: interfaces(container.pid) == ["lo"])  # the bridge has gone, and every cable to it
        with server(network=lab, name="echo"):
            assert call("echo", network=lab) == "HELLO"


REFUSED = """
import os, socket, sys
from jupyter_ns import core
from jupyter_ns.networks.data import Endpoint
from jupyter_ns.runtime.switchboard.switch import CLONE_NEWNET, MessageError, Switch
from jupyter_ns.spec import Limits

def namespace():
    core.unshare(CLONE_NEWNET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)

def attach(fd, interface):
    endpoint = Endpoint(
        network="lab", network_id="a" * 64, bridge="br-a", bridge_address="10.9.0.1/24", interface=interface,
        peer=f"veth{interface}", address="10.9.0.2/24", gateway="10.9.0.1", mac="02:42:0a:09:00:02",
    )
    switch.attach(endpoint, Limits(), fd)

switch, fd = Switch(), namespace()
attach(fd, "eth0")
for interface in ("eth0", "eth1"):  # the name is taken; the second default route is refused
    try:
        attach(fd, interface)
    except MessageError as e:
        print(e.errno, e.text.partition("(")[0])
core.setns(fd, CLONE_NEWNET)
print([name for _, name in socket.if_nameindex()])
"""


@pytest.mark.needs("root")
def test_what_the_kernel_refuses_is_named_and_nothing_of_it_stays() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, check=True)
    exists = errno.EEXIST
    assert done.stdout.splitlines() == [f"{exists} RTM_NEWLINK", f"{exists} RTM_NEWROUTE", "['lo', 'eth0']"]


# ---- taken off, in numbers ----


def test_taken_off_its_only_network_it_starts_again_without(net: Callable[..., str]) -> None:
    lab = net("lab")
    with detached("sleep", "99", network=lab, name="one", publish="7") as one:
        ask("network_disconnect", of=lab, container="one")
        assert ask("inspect", of="one")["ports"] == []
        one.stop(0)
        if not get_client().facts.mknod_error:  # else it cannot be started again
            one.start()
            assert soon(lambda: ask("inspect", of="one")["state"] == "running")
            assert interfaces(ask("inspect", of="one")["pid"]) == ["lo"]


def test_a_port_goes_with_the_network_that_it_was_published_for(net: Callable[..., str]) -> None:
    lab = net("lab")
    ask("network_create", name="other")
    with server(network="other", publish="7", name="first"), server(network=lab, name="by"):
        ((_, _, ip, outer),) = ask("inspect", of="first")["ports"]
        assert echoed(ip, outer, b"x") == b"X"
        ask("network_disconnect", of="other", container="first")
        assert refused(ip, outer)  # who gets the address next is not reached by it
        ask("network_remove", of="other")
        assert call("by", network=lab) == "HELLO"


def test_more_ports_than_descriptors_go_in_one_message(net: Callable[..., str]) -> None:
    first = 21_000
    with detached("sleep", "99", network=net("lab"), publish=f"{first}-{first + 299}:8000-8299") as container:
        assert len(ask("inspect", of=container.id)["ports"]) == 300
        with socket.create_connection(("127.0.0.1", first + 299), timeout=5) as client:
            assert client.recv(1) == b""  # nobody listens inside


def test_more_requests_than_a_socket_holds(net: Callable[..., str]) -> None:
    with detached("sleep", "99", network=net("lab")):
        for i in range(700):
            ask("network_create", name=f"n{i}", subnet=f"10.{100 + i // 256}.{i % 256}.0/24")
        assert len(ask("network_prune")) == 700


# ---- several at once ----


def test_several_networks_at_the_start_and_again(net: Callable[..., str]) -> None:
    net("front", subnet="172.30.1.0/24")
    net("back", subnet="172.30.2.0/24")
    asked = ["front", "name=back,ip=172.30.2.9,mac-address=02:42:ac:1e:02:63,alias=deep"]
    look = "ip -o -4 addr show | awk '{print $2, $4}'; cat /sys/class/net/eth1/address; ip route | grep -c default"
    with (
        server(name="web", network=asked) as web,
        detached("sleep", "100", network="back") as back,
        detached("sleep", "100", network="front") as front,
    ):
        expected = ["lo", "127.0.0.1/8", "eth0", "172.30.1.2/24", "eth1", "172.30.2.9/24", "02:42:ac:1e:02:63", "1"]
        for _ in range(2):
            assert web.exec("sh", "-c", look).stdout.split() == expected
            for container, name in ((back, "web"), (back, "deep"), (front, "web")):
                assert container.exec(sys.executable, "-c", CALL, name).stdout == "HELLO\n"
            assert front.exec("getent", "hosts", "deep").exit_code != 0
            web.stop(timeout=0)
            web.start()
            assert soon(lambda: ":0007 00000000:0000 0A" in Path(f"/proc/{web.pid}/net/tcp").read_text())
        assert [e["network"] for e in ask("inspect", of="web")["endpoints"]] == ["front", "back"]


def test_what_fails_on_the_second_network_takes_nothing_of_the_first(net: Callable[..., str]) -> None:
    net("front", subnet="172.30.1.0/29")
    for wrong, said in (
        ("no-such", "network no-such not found"),
        ("name=back,ip=172.30.9.9", "expected an address of"),
    ):
        with contextlib.suppress(UsageError):
            net("back", subnet="172.30.2.0/24")
        with pytest.raises(UsageError, match=said):
            run("true", workdir="/", network=["front", wrong])
    assert run("sh", "-c", "ip -o -4 addr show eth0", workdir="/", network="front").stdout.split()[3] == "172.30.1.2/29"


@pytest.mark.parametrize(
    ("networks", "said"),
    [
        (["lab", "lab"], 'network "lab" is specified multiple times'),
        (["none", "lab"], "cannot attach both user-defined and non-user-defined network-modes"),
        (["lab", "host"], "cannot attach both user-defined and non-user-defined network-modes"),
        (["lab", "bridge"], "cannot attach both user-defined and non-user-defined network-modes"),
        (["lab", "container:web"], "cannot attach both user-defined and non-user-defined network-modes"),
    ],
)
def test_networks_that_do_not_go_together(networks: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run("true", workdir="/", network=networks)


def test_who_is_on_no_network_is_not_connected_to_one(net: Callable[..., str]) -> None:
    net("lab")
    for mode, said in (("none", "networks in private .none. mode"), ("host", "sharing network namespace with another")):
        with detached("sleep", "100", network=mode) as container:
            with pytest.raises(UsageError, match=said):
                ask("network_connect", of="lab", container=container.id)
            assert container.exec("ls", "/sys/class/net").stdout.split() == sorted(
                os.listdir("/sys/class/net") if mode == "host" else ["lo"]
            )
