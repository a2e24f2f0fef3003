"""The value grammar, against Docker's own client.

A daemon of a few lines listens on a socket: it says that it is on Linux, and keeps the request for a container that
the client sends after it has parsed and checked its options. So both can be compared: whether a line is accepted, and
what its values are.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from os.path import normpath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jupyter_ns.errors import UsageError
from jupyter_ns.options import BY_FLAG, parse
from jupyter_ns.spec import ContainerSpec

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="no docker client to compare with")
bounded = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
STRESS = int(os.environ.get("JUPYTER_NS_STRESS", "1"))
"""Multiplies the number of generated lines."""
LINES_AT_ONCE = 400

# What only Docker's daemon checks, or a number that go-units lets overflow.
BEYOND_THE_CLIENT = (
    "expected at least 6m",
    "expected at least --memory",
    "expected at most --memory",
    "expected with --memory",
    "below 8192p",
    "expected 0.01 to ",
    "expected CPUs among ",
    "expected a list ",
    "conflicts with --cpu-",
    "expected at least 1000 microseconds",
    "expected an integer from 10 to 1000",
    "expected an integer from 1000 ",
    "expected an integer from -1000 ",
    "expected an integer from 1 ",
    "expected device numbers of at most 32 bits",
    "expected a device of the host's",
    "expected a name that `%cgroup create` takes",
    "at most 63 bits",
)


class _Daemon(BaseHTTPRequestHandler):
    """Answers what the client asks before it sends a container, and refuses to make one, naming it."""

    protocol_version = "HTTP/1.1"
    asked: dict[str, dict[str, Any]] = {}  # noqa: RUF012

    def do_HEAD(self) -> None:
        self._answer(200, b"")

    def do_GET(self) -> None:
        self._answer(200, b"OK" if "_ping" in self.path else b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked[[body["Image"], *(body["Cmd"] or ())][-1]] = body
        self._answer(500, b'{"message": "kept"}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Api-Version", "1.48"),
            ("OSType", "linux"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
        ):
            self.send_header(name, value)
        with contextlib.suppress(BrokenPipeError):  # the client has asked, refused its line and left
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""

    def address_string(self) -> str:
        return "unix"


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


Docker = Callable[[list[str]], dict[str, Any] | None]


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """Return what gives the request for a container that Docker makes of a line, or None if it refuses the line."""
    directory = tmp_path_factory.mktemp("docker")
    address = str(directory / "s")
    environment = os.environ | {"HOME": str(directory), "DOCKER_CONFIG": str(directory)}
    environment.pop("DOCKER_CONTEXT", None)
    numbers = iter(range(10**9))

    def ask(tokens: list[str]) -> dict[str, Any] | None:
        image = f"img{next(numbers)}"
        command = ["docker", "-H", f"unix://{address}", "run", *tokens, image]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
        assert done.returncode == 125 or "--help" in tokens, done
        return _Daemon.asked.pop(image, None)

    with _Server(address, _Daemon) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield ask
        server.shutdown()
        thread.join()


def our_spec(tokens: list[str]) -> tuple[ContainerSpec | None, str]:
    """Return what we make of a line, or why we refuse it."""
    try:
        return parse([*tokens, "img"], cwd="/nb", environ={}, host_cpus=4).spec, ""
    except UsageError as error:
        return None, str(error)


def agree(docker: Docker, tokens: list[str]) -> None:
    """Both accept or both refuse; where both accept, the values are the same."""
    theirs, (ours, why) = docker(tokens), our_spec(tokens)
    beyond = any(words in why for words in BEYOND_THE_CLIENT)
    if not beyond or len(tokens) == 1:  # else what the client thinks of the line's other options is not known
        assert (ours is not None or beyond) == (theirs is not None), (tokens, why)
    if ours is not None and theirs is not None:
        assert ours_in_their_words(ours) == in_their_words(theirs["HostConfig"]), tokens


# Docker's names for the fields of `Limits`; a value that limits nothing is left out on both sides.
FIELDS = {
    "Memory": "memory_bytes",
    "MemorySwap": "memory_swap_bytes",
    "MemoryReservation": "memory_reservation_bytes",
    "MemorySwappiness": "memory_swappiness",
    "NanoCpus": "nano_cpus",
    "CpuPeriod": "cpu_period_us",
    "CpuQuota": "cpu_quota_us",
    "CpuShares": "cpu_shares",
    "CpusetCpus": "cpuset_cpus",
    "CpusetMems": "cpuset_mems",
    "PidsLimit": "pids_limit",
    "BlkioWeight": "blkio_weight",
}
PAIRS = {
    "BlkioWeightDevice": ("blkio_weight_device", "Weight"),
    "BlkioDeviceReadBps": ("device_read_bps", "Rate"),
    "BlkioDeviceWriteBps": ("device_write_bps", "Rate"),
    "BlkioDeviceReadIOps": ("device_read_iops", "Rate"),
    "BlkioDeviceWriteIOps": ("device_write_iops", "Rate"),
}
UNSET = {"MemorySwappiness": (-1,), "PidsLimit": (0,), "CpuQuota": range(-(2**63), 1), "CpuPeriod": (0,)}
CPU_LISTS = ("CpusetCpus", "CpusetMems")


def in_their_words(config: dict[str, Any]) -> dict[str, Any]:
    """Return the values of Docker's request that we know."""
    found: dict[str, Any] = {}
    for name in FIELDS:
        value = config.get(name)
        if value is not None and value not in UNSET.get(name, (0, "")):
            found[name] = cpus(value) if name in CPU_LISTS else value
    for name, (_, key) in PAIRS.items():
        if config.get(name):
            found[name] = [(entry["Path"], entry[key]) for entry in config[name]]
    found["devices"] = [
        (normpath(d["PathOnHost"]), d["PathInContainer"], set(d["CgroupPermissions"])) for d in config["Devices"] or ()
    ]
    found["rules"] = [rule(text) for text in config["DeviceCgroupRules"] or ()]
    found["ulimits"] = {u["Name"]: (u["Soft"], u["Hard"]) for u in config["Ulimits"] or ()}
    found["oom"] = (config["OomKillDisable"] or False, config["OomScoreAdj"])
    found["shm"] = config["ShmSize"] or 64 << 20
    found["parent"] = config["CgroupParent"].strip("/")
    return found


def ours_in_their_words(spec: ContainerSpec) -> dict[str, Any]:
    """Return the same of a spec of ours."""
    limits = spec.limits
    found: dict[str, Any] = {}
    for name, field in FIELDS.items():
        value = getattr(limits, field)
        if value is not None:
            found[name] = cpus(value) if name in CPU_LISTS else value
    for name, (field, _) in PAIRS.items():
        if getattr(limits, field):
            found[name] = list(getattr(limits, field))
    found["devices"] = [(d.source, d.destination, set(d.permissions)) for d in spec.devices]
    found["rules"] = [rule(text) for text in limits.device_rules]
    found["ulimits"] = {u.name: (u.soft, u.hard) for u in spec.ulimits}
    found["oom"] = (limits.oom_kill_disable, spec.oom_score_adj)
    found["shm"] = spec.shm_size_bytes
    found["parent"] = spec.cgroup_parent
    return found


def cpus(text: str) -> set[int]:
    """Return the numbers of a list."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def rule(text: str) -> tuple[str, frozenset[str]]:
    """Return what a rule is about, and the kinds of access it allows."""
    devices, _, access = text.rpartition(" ")
    return devices, frozenset(access)


numbers = st.one_of(
    st.integers(-5, 10**7).map(str),
    st.decimals(0, 5000, places=3).map(str),
    st.text("0123456789._", min_size=1, max_size=6),
    st.sampled_from(["1e3", "1e-2", "1E2", ".5", "5.", "+1", "-1", "", " 1", "1 ", "0", "00", "1_0", "08", "0b1"]),
)
suffixes = st.one_of(
    st.sampled_from(["", "b", "k", "m", "g", "t", "p", "kb", "MiB", "GB", "Ki", "bb", "ib", "x", " m", "  m", "e"]),
    st.text("bkmgtpiBKMGTPI ", max_size=3),
)
sizes = st.builds(str.__add__, numbers, suffixes)
integers = st.one_of(
    st.integers(-(2**64), 2**64).map(str),
    st.integers(-2000, 2_000_000).map(str),
    st.text("0123456789_+-xobabc", max_size=6),
)
rationals = st.one_of(numbers, st.builds("{}/{}".format, integers, integers), st.text("0123456789./e-+_", max_size=6))
soft_and_hard = st.integers(-1, 2**63 - 1) | st.integers(-1, 50)
ulimits = st.one_of(
    st.builds("{}={}:{}".format, st.sampled_from(["nofile", "core", "as", "x"]), soft_and_hard, soft_and_hard),
    st.builds("nofile={}".format, st.text("0123456789:+ _.", max_size=6)),
)


@pytest.mark.parametrize("flag", ["--memory", "--memory-reservation", "--shm-size"])
@bounded
@given(value=sizes)
def test_sizes_as_docker(docker: Docker, flag: str, value: str) -> None:
    agree(docker, [f"{flag}={value}"])


@bounded
@given(value=sizes)
def test_memory_swap_as_docker(docker: Docker, value: str) -> None:
    agree(docker, ["-m", "6m", f"--memory-swap={value}"])


@pytest.mark.parametrize(
    "flag",
    ["--pids-limit", "--memory-swappiness", "--cpu-shares", "--cpu-period", "--cpu-quota", "--oom-score-adj"],
)
@bounded
@given(value=integers)
def test_integers_as_docker(docker: Docker, flag: str, value: str) -> None:
    agree(docker, [f"{flag}={value}"])


@bounded
@given(value=rationals)
def test_cpus_as_docker(docker: Docker, value: str) -> None:
    agree(docker, [f"--cpus={value}"])


@bounded
@given(value=ulimits)
def test_ulimits_as_docker(docker: Docker, value: str) -> None:
    agree(docker, [f"--ulimit={value}"])


LINES = """\
-m=64m | -m64m | -m 64m | -im64m | -im=64m | -i=false | -i=x | -ix | -z | --memoryx=1 | -= | --=x
--init false | --init=false | --init=T | --init=yes | --init= | --rm=x | -e=a=b | -e =b | -e a | -l a | -l =b
-l x=y=z | -mi | --memory | -m | -it- | -m 64m -m 7m | --sysctl net.x=1 | --sysctl foo=1 | --sysctl net.x
--sysctl kernel.shmmax=1 | --memory-swap=-1 | -m 64m --memory-swap=-2 | --userns=host | --userns=foo
--pid=host | --pid=private | --uts=host | --uts=private | --cgroupns=private | --cgroupns=foo | --ipc=host
-v /a:/b | -v /a:/b:ro | -v :/b | -v /a:/b: | -v /a:/b:ro:z | -v ./a:/b | --tmpfs /x:size=64m
--mount type=bind,src=/a,dst=/b | --mount type=bind,src=/a | --mount type=bind,src=/a,dst=/b,ro=maybe
--mount type=tmpfs,dst=/b,tmpfs-mode=9 | --mount type=tmpfs,dst=/b,tmpfs-size=64m | --mount type
--mount TYPE=bind,SRC=/a,destination=/b | --security-opt foo | --security-opt seccomp=unconfined
--env-file /nonexistent | --cpus=0x1 | --cpus=1/2 | --cpus=1/-2 | --cpus=0.5/2
--cpus=1e100 | --cpus=0/9223372036854775808 | --
--ulimit nofile | --ulimit nofile= | --ulimit nofile=+1
"""


@pytest.mark.parametrize("line", [line.strip() for row in LINES.splitlines() for line in row.split("|")])
def test_lines_as_docker(docker: Docker, line: str) -> None:
    agree(docker, line.split())


# ---- whole lines ----

SIZES = [
    "0",
    "1",
    "6m",
    "64m",
    "128M",
    "1g",
    "1.5GiB",
    "6291455b",
    "2k",
    "-1",
    "1x",
    "1e3",
    ".5g",
    "0.25g",
    "512mb",
    "9p",
]
INTEGERS = [
    "0",
    "1",
    "2",
    "10",
    "100",
    "512",
    "999",
    "1000",
    "1001",
    "1024",
    "100000",
    "1000000",
    "1000001",
    "-1",
    "-5",
    "0x10",
    "010",
    "0b11",
    "1_000",
    "+7",
    "x",
    "1.5",
]
RATES = [f"{path}:{rate}" for path in ("/dev/sda", "/dev/vda", "sda", "/dev/", "/x") for rate in (*SIZES, "")]
COUNTS = [f"/dev/sda:{n}" for n in (*INTEGERS, str(2**64 - 1), str(2**64), "1:2", "")]
MODES = ("", "r", "rw", "rwm", "mwr", "rr", "x", "rwx", "/dev/b", "/dev/b:r", "/dev/b:rwm", "b", ":", "/a/b:", "/b:x:y")
VALUES: dict[str, list[str]] = {
    "--memory": SIZES,
    "--memory-swap": SIZES,
    "--memory-reservation": SIZES,
    "--memory-swappiness": INTEGERS,
    "--oom-kill-disable": ["true", "false", "T", "0", "x", ""],
    "--oom-score-adj": [*INTEGERS, "-1000", "-1001"],
    "--cpus": [
        "0",
        "0.5",
        "1/2",
        "1e-2",
        ".01",
        "0.009",
        "1.0000000001",
        "3",
        "4",
        "5",
        "-1",
        "x",
        "0x1",
        "1/0",
        "0.123456789",
        "1e-9",
    ],
    "--cpu-period": INTEGERS,
    "--cpu-quota": INTEGERS,
    "--cpu-shares": INTEGERS,
    "--cpuset-cpus": ["0", "0-1", "0,2", "3", "4", "1-0", "x", "", "0-", "00", "0 1"],
    "--cpuset-mems": ["0", "0-1", "x", ""],
    "--pids-limit": INTEGERS,
    "--blkio-weight": [*INTEGERS, "65535", "65536", "9", "11"],
    "--blkio-weight-device": COUNTS,
    "--device-read-bps": RATES,
    "--device-write-bps": RATES,
    "--device-read-iops": COUNTS,
    "--device-write-iops": COUNTS,
    "--device": [f"/dev/null:{mode}" if mode else "/dev/null" for mode in MODES]
    + ["null", "", "a:/b", ":/b", "/dev/../x", "/dev/./null", "/dev//null:/dev/x/"],
    "--device-cgroup-rule": [
        f"{kind} {numbers} {access}"
        for kind in ("a", "c", "b", "x", "")
        for numbers in ("1:3", "*:*", "1:*", "10", "-1:3", "99999999999:1")
        for access in ("r", "rwm", "mmm", "rwmr", "")
    ],
    "--ulimit": ["nofile=1", "nofile=1:2", "nofile=2:1", "core=-1", "core=-1:5", "as=1", "nproc", "cpu=x", "data=1:-1"],
    "--shm-size": SIZES,
    "--cgroup-parent": ["lab", "/lab", "", "a b", "a/b", "x.slice"],
}


def lines(seed: int, count: int) -> list[list[str]]:
    """Make lines of one to five options out of `VALUES`, the same for the same seed.

    What cannot be repeated is not: of such an option Docker checks the range of the last value only, and we of all.
    """
    choose = random.Random(seed)
    made = []
    for _ in range(count):
        flags = choose.choices(list(VALUES), k=choose.choice((1, 1, 2, 3, 5)))
        flags = [f for i, f in enumerate(flags) if BY_FLAG[f].repeatable or f not in flags[:i]]
        made.append([f"{flag}={choose.choice(VALUES[flag])}" for flag in flags])
    return made


@pytest.mark.parametrize("seed", range(STRESS))
def test_option_lists_as_docker(docker: Docker, seed: int) -> None:
    wrong = []
    accepted = 0

    def compare(tokens: list[str]) -> None:
        nonlocal accepted
        try:
            agree(docker, tokens)
            accepted += our_spec(tokens)[0] is not None
        except AssertionError as error:
            wrong.append(f"{tokens}: {error}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(compare, lines(seed, LINES_AT_ONCE)))
    assert not wrong, "\n".join(wrong)
    assert LINES_AT_ONCE // 10 < accepted < LINES_AT_ONCE


def test_what_docker_takes_for_a_device_of_a_vendor_is_refused(docker: Docker) -> None:
    assert docker(["--device=vendor.com/class=name"]) is not None
    assert "expected the absolute path" in our_spec(["--device=vendor.com/class=name"])[1]
