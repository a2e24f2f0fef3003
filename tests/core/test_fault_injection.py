"""A failing step at every index of a plan: that index is reported, and nothing is left behind."""

from __future__ import annotations

import errno
import gc
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jupyter_ns.cgroups import engine_key
from jupyter_ns.plan import Plan, build_plan
from jupyter_ns.plan.steps import Op, Step
from jupyter_ns.runner import Cell
from jupyter_ns.runtime import channel, recipes
from jupyter_ns.runtime.engine import Engine
from jupyter_ns.runtime.protocol import VERSION, Decoder, Kind, encode, pack
from jupyter_ns.spec import ContainerSpec, Limits, Mount

pytestmark = pytest.mark.needs("root", "overlay")

LABEL = "fail-at"
FAILING = Step(Op.CHDIR, ("/no/such/directory",), option="--injected")
SPECS = {
    "default": ContainerSpec(argv=("true",), workdir="/"),
    "cell": ContainerSpec(python=True, workdir="/", limits=Limits(memory_bytes=256 << 20, pids_limit=20)),
    "private": ContainerSpec(argv=("true",), workdir="/", userns="private", limits=Limits(pids_limit=20)),
    "private cell": ContainerSpec(python=True, workdir="/", userns="private"),
    "limits, mounts, init": ContainerSpec(
        argv=("true",),
        workdir="/usr",
        init=True,
        readonly=True,
        limits=Limits(memory_bytes=64 << 20, pids_limit=20),
        mounts=(
            Mount(type="tmpfs", destination="/srv/scratch", option="--tmpfs"),
            Mount(type="bind", source="/usr/share", destination="/srv/share", readonly=True, option="-v"),
        ),
        user="1000:1000",
        time_offset_seconds=60.0,
    ),
}


class Host:
    """An engine in a thread of this process, and the other end of its stream."""

    def __init__(self, cgroups_of: Callable[[str], list[Path]]) -> None:
        self._cgroups_of = cgroups_of
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(20)
        self._decoder = Decoder()
        self._frames: list[tuple[int, str, Any]] = []
        self._engine = Engine(theirs)
        self._thread = threading.Thread(target=self._engine.run)
        self._thread.start()
        hello = {"sys_path": sys.path, "executable": sys.executable, "cwd": "/", "environ": dict(os.environ)}
        self.ask(Kind.HELLO, "", {"version": VERSION, **hello})

    def ask(self, kind: Kind, container: str, payload: Any = None, *more: bytes) -> tuple[int, Any]:
        """Send a request, and what follows it; return the first answer that ends it."""
        self.sock.sendall(b"".join((encode(kind, container, payload), *more)))
        while True:
            while self._frames:
                got, about, answer = self._frames.pop(0)
                if about == container and got in (Kind.READY, Kind.REPLY, Kind.ERROR, Kind.EXIT):
                    return got, answer
            self._frames += self._decoder.feed(self.sock.recv(1 << 16))

    def run(self, spec: ContainerSpec) -> tuple[int, Any]:
        container = uuid.uuid4().hex * 2
        wanted = {"spec": spec.to_dict(), "environ": {"PATH": os.environ["PATH"]}, "exposed": []}
        request = {"request": pack(wanted), "life": {}}
        if not spec.python:
            return self.ask(Kind.RUN, container, request)
        cell = b"".join(map(bytes, channel.encode("cell", Cell(source="pass").body())))
        return self.ask(Kind.RUN, container, request, encode(Kind.CHANNEL_IN, container, cell))

    def cgroups(self) -> set[str]:
        """Return the cgroup directories of this process as an engine."""
        return {directory for top in self._cgroups_of(engine_key()) for directory, _, _ in os.walk(top)}

    def state(self) -> tuple[set[str], str, set[str], str]:
        """Return cgroups, mounts, descriptors and children of this process, engine and zygote included."""
        self.ask(Kind.SYNC, "sync")
        own = Path("/proc/self/fd")
        links = {f"{fd}: {os.readlink(own / fd)}" for fd in os.listdir(own) if (own / fd).is_symlink()}
        children = "".join((task / "children").read_text() for task in Path("/proc/self/task").iterdir())
        return self.cgroups(), Path("/proc/self/mountinfo").read_text(), links, children + self._zygotes()

    def _zygotes(self) -> str:
        """Return the children and descriptors of the zygote, once it has reaped those that have ended."""
        if self._engine._zygote is None:
            return ""
        of = Path("/proc", str(self._engine._zygote._process.pid))
        children = of / "task" / of.name / "children"
        deadline = time.monotonic() + 10
        while children.read_text() and time.monotonic() < deadline:
            time.sleep(0.005)
        return children.read_text() + " ".join(sorted(os.listdir(of / "fd")))

    def close(self) -> None:
        self.sock.close()
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._engine.sock.close()
        del self._engine, self._thread
        gc.collect()  # an engine is a process: what it holds goes with that, else here


def injected(spec: ContainerSpec, *others: Any) -> Plan:
    """Build the plan, with the failing step where the label says."""
    plan = build_plan(spec, *others)
    at = dict(spec.labels).get(LABEL)
    if at is None:
        return plan
    steps = list(plan.steps)
    steps.insert(int(at), FAILING)
    return replace(plan, steps=tuple(steps))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, cgroups_of: Callable[[str], list[Path]]) -> Iterator[Host]:
    monkeypatch.setattr(recipes, "build_plan", injected)
    made = Host(cgroups_of)
    yield made
    made.close()
    assert made.cgroups() == set()


@pytest.mark.parametrize("name", SPECS)
def test_every_step(host: Host, name: str) -> None:
    kind, answer = host.run(SPECS[name])
    if SPECS[name].userns == "private" and kind == Kind.ERROR and answer["type"] == "UnsupportedError":
        pytest.skip(answer["message"])
    assert (kind, answer["exit_code"]) == (Kind.EXIT, 0)
    # A program's last step, execve, is not timed.
    before, count = host.state(), len(answer["step_ns"]) + (not SPECS[name].python)
    assert count > 60
    for at in range(1, count):  # the first step gives the child its descriptors: see below
        spec = replace(SPECS[name], labels=((LABEL, str(at)),))
        kind, error = host.run(spec)
        assert kind == Kind.ERROR, (at, error)
        found = {k: error[k] for k in ("type", "step", "steps", "errno", "option")}
        assert found == {
            "type": "SetupError",
            "step": at,
            "steps": count + 1,
            "errno": errno.ENOENT,
            "option": "--injected",
        }
        assert host.state() == before, at


@pytest.mark.needs("controller:cpuset")
def test_a_cgroup_that_refuses_its_limit_leaves_nothing(host: Host) -> None:
    host.run(replace(SPECS["default"], limits=Limits(cpuset_cpus="0")))  # makes the engine's own directories
    before = host.state()
    spec = replace(SPECS["default"], limits=Limits(cpuset_cpus="4000"))
    kind, error = host.run(spec)
    assert (kind, error["type"]) == (Kind.ERROR, "UsageError")
    assert host.state() == before


def test_no_processes_for_the_child(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_ns import core

    def refuse(*_: object, **__: object) -> tuple[int, int]:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = host.state()
    monkeypatch.setattr(core, "spawn", refuse)
    kind, error = host.run(SPECS["default"])
    assert kind == Kind.ERROR
    assert "temporarily unavailable" in error["message"]
    assert host.state() == before
