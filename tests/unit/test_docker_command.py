"""``docker run`` lines made of containers: read back they are the same, and Docker's own client accepts them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import replace

import pytest

from jupyter_ns.interchange.docker_command import docker_command
from jupyter_ns.options import parse
from jupyter_ns.spec import ContainerSpec

LINES = [
    "busybox",
    "busybox sh -c 'echo \"$A\"; ls *'",
    "-m 64m --memory-swap 96m --memory-reservation 32m --memory-swappiness 10 --cpus 0.05 --pids-limit 50 busybox sh",
    "--cpu-period 50000 --cpu-quota 20000 --cpu-shares 512 --cpuset-cpus 0 --cpuset-mems 0 busybox sh",
    "--user 1000:1001 --group-add 5 -e A=b -e 'C=d e' -w /srv/made --hostname h --domainname d busybox sh",
    "--ulimit nofile=100:200 --ulimit core=-1 --oom-score-adj 100 --shm-size 1m --init --stop-signal INT busybox sh",
    "--read-only --tmpfs /scratch:size=1m,exec --tmpfs /x:ro -v /etc:/e:ro -v /srv:/s:rshared -v named:/n busybox sh",
    "-v /anonymous -v data:/d:nocopy --name some-name --label a=b --label c= --platform linux/arm64 busybox sh",
    "--cap-drop ALL --cap-add NET_BIND_SERVICE --security-opt no-new-privileges --sysctl net.ipv4.ip_forward=1 busybox",
    "--privileged --pid host --ipc host --uts host --cgroupns host --network host busybox sh",
    "--device /dev/null:/dev/mine:rw --device-cgroup-rule 'c 10:* rw' --device-read-bps /dev/null:1m busybox sh",
    "--entrypoint /bin/ls --oom-kill-disable -m 64m busybox -l /",
]


def spec_of(words: list[str]) -> ContainerSpec:
    """Read a line of Docker's: options, image, command."""
    options = [w for w in words if w not in ("--detach", "--rm")]
    at = options.index("busybox")
    argv = ["--image", "busybox", *options[:at], "--", *options[at + 1 :]]
    return parse(argv, cwd="/", environ={}, host_cpus=2).spec


def comparable(spec: ContainerSpec) -> ContainerSpec:
    """Return a spec without how its mounts were typed, and in which order."""
    return replace(
        spec, mounts=tuple(sorted((replace(m, option="") for m in spec.mounts), key=lambda m: m.destination))
    )


@pytest.mark.parametrize("line", LINES)
def test_read_back_it_is_the_same(line: str) -> None:
    spec = spec_of(shlex.split(line))
    command = docker_command(spec)
    assert comparable(spec_of(list(command.words[1:]))) == comparable(spec)
    assert shlex.split(command.line) == ["docker", *command.words]


@pytest.mark.skipif(shutil.which("docker") is None, reason="no Docker client is installed")
@pytest.mark.parametrize("line", LINES)
def test_dockers_client_takes_it(line: str) -> None:
    command = docker_command(spec_of(shlex.split(line)))
    environ = {**os.environ, "DOCKER_HOST": "unix:///nonexistent"}
    done = subprocess.run(["docker", *command.words], capture_output=True, text=True, env=environ, check=False)
    # With --device, it wants to know the server's system before anything else.
    no_server = ("failed to connect to the docker API", "Cannot connect", "unknown server OS")
    assert any(words in done.stderr for words in no_server), done.stderr


def test_of_several_values_of_a_variable_the_last_is_written() -> None:
    words = docker_command(spec_of(shlex.split("-e A=image -e B=c -e A=own busybox"))).words
    assert [word for word in words if "=" in word] == ["A=own", "B=c"]


def test_what_docker_has_not_is_said() -> None:
    spec = ContainerSpec(argv=("sh",), time_offset_seconds=1.0, timeout_seconds=5.0, keep=True, userns="private")
    command = docker_command(spec, detach=True)
    assert command.words[:2] == ("run", "--detach") and command.words[-2:] == ("IMAGE", "sh")
    assert [n.split(" ")[0] for n in command.notes] == ["IMAGE", "--time-offset:", "--timeout:", "--keep:", "--userns"]


def test_what_is_taken_from_another_container_is_not_asked_for_again() -> None:
    spec = ContainerSpec(
        argv=("sh",),
        image="busybox",
        network="container:web",
        joins=(("network", "web"), ("pid", "db")),
        hostname="web",
        dns=("1.1.1.1",),
        ipc_shareable=True,
    )
    words = docker_command(spec).line
    assert "--pid container:db --ipc shareable --network container:web" in words
    assert "--hostname" not in words and "--dns" not in words
    several = ContainerSpec(
        argv=("sh",), image="busybox", network="front", networks=(("back", "172.30.2.9", "", ("deep",)),)
    )
    assert "--network front --network name=back,ip=172.30.2.9,alias=deep" in docker_command(several).line
