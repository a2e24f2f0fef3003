"""The value grammar, against Docker's own client, which validates before it connects."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jupyter_ns.errors import UsageError
from jupyter_ns.options import parse

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="no docker client to compare with")
bounded = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# What only Docker's daemon checks, or a number that go-units lets overflow.
BEYOND_THE_CLIENT = (
    "expected at least 6m",
    "expected at least --memory",
    "below 8192p",
    "expected 0.01 to ",
    "expected at least 1000 microseconds",
    "expected an integer from 1000 ",
    "expected an integer from -1000 ",
    "expected an integer from 1 ",
    "at most 63 bits",
)


def docker_accepts(tokens: list[str]) -> bool:
    command = ["docker", "-H", "unix:///nonexistent", "run", *tokens, "img"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return "Cannot connect" in done.stderr


def we_accept(tokens: list[str]) -> bool:
    try:
        parse([*tokens, "img"], cwd="/nb", environ={}, host_cpus=4)
    except UsageError as error:
        return any(words in str(error) for words in BEYOND_THE_CLIENT)
    return True


def agree(tokens: list[str]) -> None:
    assert we_accept(tokens) == docker_accepts(tokens), tokens


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
def test_sizes_as_docker(flag: str, value: str) -> None:
    agree([f"{flag}={value}"])


@bounded
@given(value=sizes)
def test_memory_swap_as_docker(value: str) -> None:
    agree(["-m", "6m", f"--memory-swap={value}"])


@pytest.mark.parametrize(
    "flag",
    ["--pids-limit", "--memory-swappiness", "--cpu-shares", "--cpu-period", "--cpu-quota", "--oom-score-adj"],
)
@bounded
@given(value=integers)
def test_integers_as_docker(flag: str, value: str) -> None:
    agree([f"{flag}={value}"])


@bounded
@given(value=rationals)
def test_cpus_as_docker(value: str) -> None:
    agree([f"--cpus={value}"])


@bounded
@given(value=ulimits)
def test_ulimits_as_docker(value: str) -> None:
    agree([f"--ulimit={value}"])


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
def test_lines_as_docker(line: str) -> None:
    agree(line.split())
