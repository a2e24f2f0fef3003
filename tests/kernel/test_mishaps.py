"""What goes wrong with one container ends that one, with the error, and leaves the engine and all others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import engine_cgroups
from detached import detached
from processes import children_of, soon, state_of, switchboard

from jupyter_ns import Container, run
from jupyter_ns.cgroups import files
from jupyter_ns.client import EngineClient, get_client
from jupyter_ns.errors import EngineError
from jupyter_ns.frontend.commands import table
from jupyter_ns.frontend.commands.console import Console
from jupyter_ns.lifecycle import ask
from jupyter_ns.runner import Cell, Run, Sink
from jupyter_ns.runtime.changes import MAX_PATH_BYTES
from jupyter_ns.runtime.keep import MOST_PROBLEMS
from jupyter_ns.spec import ContainerSpec

pytestmark = pytest.mark.needs("overlay")


@pytest.fixture(autouse=True)
def survivor(engine: Callable[[], EngineClient]) -> Iterator[Container]:
    """Give a container that the mishap of another must not end."""
    client = engine()
    with detached("sleep", "1000") as container:
        yield container
        assert get_client() is client
        assert ask("inspect", of=container.id)["state"] == "running"


class Heard(Sink):
    """Keeps what is said, and does something when the container runs."""

    def __init__(self, action: Callable[[Container], None] = lambda _: None) -> None:
        self.text = ""
        self._action = action

    def on_started(self, container: Container) -> None:
        self._action(container)

    def on_text(self, stream: str, text: str) -> None:
        self.text += text


# ---- what a container writes ----


@pytest.mark.parametrize("name", [b"\xff", b"\xed\xa0\x80", "ü".encode()])
def test_a_file_may_have_any_name(name: bytes) -> None:
    container = run("python3", "-S", "-c", f"open(b'/srv/' + {name!r}, 'w')", workdir="/")
    assert ("A", os.fsdecode(b"/srv/" + name)) in [tuple(change) for change in container.changes]


LONG_NAMES = """
import os
os.mkdir("/srv/" + "d" * 250)
os.chdir("/srv/" + "d" * 250)
for i in range(9000):
    open("f" * 240 + str(i), "w")
"""


def test_paths_longer_than_a_frame_are_cut_off() -> None:
    container = run("python3", "-S", "-c", LONG_NAMES, workdir="/")
    assert container.exit_code == 0 and container.changes_truncated
    assert MAX_PATH_BYTES // 2 < sum(len(change.path) for change in container.changes) <= MAX_PATH_BYTES


PIPES = "import os\nfor i in range(9000):\n    os.mkfifo('f' * 240 + str(i))"


def test_only_so_many_files_that_cannot_be_kept_are_named(tmp_path: Path) -> None:
    sink = Heard()
    Run(
        get_client(), ContainerSpec(argv=("python3", "-S", "-c", PIPES), workdir=str(tmp_path), keep=True), sink
    ).execute()
    told = [line for line in sink.text.splitlines() if line.startswith("--keep: not kept: ")]
    assert len(told) == MOST_PROBLEMS + 1 and told[-1].endswith(f"and {9000 - MOST_PROBLEMS} more")


# ---- what goes away ----


@pytest.mark.needs("root", "controller:memory")
def test_a_cgroup_that_was_removed_while_the_container_ran(engine: Callable[[], EngineClient]) -> None:
    def take_away(container: Container) -> None:
        for top in engine_cgroups(engine(), "*"):
            directory = top / container.id[:12]
            if directory.is_dir():
                outside = top.parent.parent / "cgroup.procs"
                for pid in (directory / "cgroup.procs").read_text().split():
                    outside.write_text(pid)
                assert soon(lambda: not files.remove_tree(str(directory)))  # noqa: B023 - EBUSY for a moment

    spec = ContainerSpec(argv=("sleep", "1000"), workdir="/")
    with pytest.raises(EngineError, match=r"was ended, for the engine .* No such (device|file)"):
        Run(get_client(), spec, Heard(take_away)).execute()


@pytest.mark.usefixtures("zygote")
def test_a_zygote_that_is_killed_before_it_reads(engine: Callable[[], EngineClient]) -> None:
    """It leaves a message unread: the engine is told by ECONNRESET, and not by an end of file."""
    (zygote,) = zygotes(engine())
    get_client().sync()  # no cell waits that could be taken in place of a new fork
    os.kill(zygote, signal.SIGSTOP)
    assert soon(lambda: state_of(zygote) == "T")

    def kill_once_asked() -> None:
        assert soon(lambda: any(row["name"] == "asked" for row in ask("list")))
        os.kill(zygote, signal.SIGKILL)

    killer = threading.Thread(target=kill_once_asked)
    killer.start()
    with pytest.raises(EngineError, match="the zygote process is gone"):
        cell(name="asked")
    killer.join()
    assert cell().value == 5
    get_client().sync()  # none is made any more for the next cell
    for another in zygotes(engine()):  # it has taken the place of the one that counts as there before
        os.kill(another, signal.SIGKILL)
    assert soon(lambda: not zygotes(engine()))


def zygotes(client: EngineClient) -> list[int]:
    return [pid for pid in children_of(client.pid) if b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def cell(**spec: Any) -> Container:
    return Run(get_client(), ContainerSpec(python=True, workdir="/", **spec), Sink()).execute(cell=Cell(source="5"))


@pytest.mark.needs("networks")
def test_a_container_that_is_killed_while_it_waits_for_its_network(engine: Callable[[], EngineClient]) -> None:
    """It ends after the switchboard has answered, and before the engine has heard of either."""
    client = engine()
    with detached("sleep", "1000", network="bridge"):  # the switchboard stays
        connecting = switchboard(client.pid)
        before = set(children_of(client.pid))
        os.kill(connecting, signal.SIGSTOP)
        assert soon(lambda: state_of(connecting) == "T")

        def kill_while_both_wait() -> None:
            assert soon(lambda: any(row["name"] == "waits" for row in ask("list")))
            client.sync()  # as far as the engine comes without the switchboard
            (child,) = set(children_of(client.pid)) - before
            assert soon(lambda: state_of(child) == "S")
            os.kill(client.pid, signal.SIGSTOP)
            try:
                assert soon(lambda: state_of(client.pid) == "T")
                os.kill(connecting, signal.SIGCONT)
                assert soon(lambda: "eth0" in Path(f"/proc/{child}/net/dev").read_text())
                assert soon(lambda: state_of(connecting) == "S")  # it has answered
                os.kill(child, signal.SIGKILL)
                assert soon(lambda: state_of(child) == "Z")
            finally:
                os.kill(client.pid, signal.SIGCONT)

        killer = threading.Thread(target=kill_while_both_wait)
        killer.start()
        container = run("sleep", "1000", workdir="/", network="bridge", name="waits")
        killer.join()
        assert (container.reason, container.exit_code) == ("killed", 137)


# ---- what has entered ----


def enter(container: str) -> None:
    """Leave a process in a container."""
    table.dispatch(Console(), ["exec", "-d", container, "sleep", "1001"])


def test_what_has_entered_a_container_does_not_keep_it() -> None:
    """Its PID 1 does not end before the engine has waited for what entered, which the engine must be free to do."""
    with detached("sleep", "1000", name="entered") as container:
        for _ in range(5):
            enter("entered")
        began = time.monotonic()
        container.remove(force=True)
        assert time.monotonic() - began < 9  # the time after which killing gives up


ENTERED = """
from test_mishaps import enter
from jupyter_ns import run
from jupyter_ns.cgroups import engine_key
from jupyter_ns.client import close_client, get_client
run("sleep", "1000", detach=True, name="entered", workdir="/")
enter("entered")
print(engine_key(get_client().pid))
close_client()
"""


@pytest.mark.needs("controller:memory")
def test_what_has_entered_a_container_does_not_keep_the_engine(engine: Callable[[], EngineClient]) -> None:
    """One that had to be killed would leave its cgroups."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", ENTERED], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert engine_cgroups(engine(), done.stdout.split()[-1]) == []
