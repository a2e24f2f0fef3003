"""Shared by all tests: an engine for the session, honest skips, and a search for what a test left behind.

The only one below this directory: tests import from `conftest`, and of several the one loaded last has that name.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_shell import Docker
from rungs import RUNGS, native
from tools import tool

from jupyter_ns.cgroups.facts import CgroupFacts
from jupyter_ns.cgroups.processes import start_time
from jupyter_ns.client import EngineClient, close_client, get_client
from jupyter_ns.errors import ContainerError, UnsupportedError
from jupyter_ns.host import HostFacts
from jupyter_ns.lifecycle import ask
from jupyter_ns.runner import Cell, Run, Sink
from jupyter_ns.runtime.protocol import Kind
from jupyter_ns.spec import ContainerSpec

EXPECT = "JUPYTER_NS_EXPECT"
"""Abilities, separated by commas, whose absence fails a test instead of skipping it."""
CLEAN_UP_SECONDS = 30.0
CHECKED = {"kernel", "stress"}


NATIVE = pytest.StashKey[str]()
"""The rung that this machine itself is on, once the session's engine has told."""
COUNTED = ("passed", "failed", "error", "skipped")


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job ignores SIGINT, and so would all that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "needs(ability, ...): skip, with the probe's reason, where the host cannot")
    config.addinivalue_line("markers", "rung(name): the kind of machine that a test brings along; see tests/rungs.py")


# ---- the matrix: which kinds of machine the tests ran on ----


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rung", choices=list(RUNGS), help="only the tests that bring this kind of machine along")
    parser.addoption("--expect-rungs", default="", metavar="NAMES", help="fail if one of these had no test that passed")
    parser.addoption("--rungs-json", metavar="FILE", help="write what ran on which rung, for scripts/what-works-where")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("rung")
        item.user_properties.append(("rung", marker.args[0] if marker else ""))
    wanted = config.getoption("--rung")
    if wanted:
        others = [item for item in items if ("rung", wanted) not in item.user_properties]
        items[:] = [item for item in items if item not in others]
        config.hook.pytest_deselected(items=others)


def counts(reporter: Any, native_rung: str) -> dict[str, dict[str, int]]:
    """Count outcomes by rung."""
    found: dict[str, dict[str, int]] = {}
    for outcome in COUNTED:
        for report in reporter.getreports(outcome):
            rung = dict(getattr(report, "user_properties", ())).get("rung") or native_rung
            if rung:
                found.setdefault(rung, dict.fromkeys(COUNTED, 0))[outcome] += 1
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where a rung that is promised did not run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    found = counts(reporter, session.config.stash.get(NATIVE, ""))
    expected = [name for name in session.config.getoption("--expect-rungs").split(",") if name]
    if any(not found.get(name, {}).get("passed") for name in expected) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    path = session.config.getoption("--rungs-json")
    if path:
        Path(path).write_text(json.dumps({"kernel": os.uname().release, "rungs": found}, indent=1))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print one closing line for each rung."""
    found = counts(terminalreporter, config.stash.get(NATIVE, ""))
    expected = config.getoption("--expect-rungs").split(",")
    terminalreporter.section("rungs")
    for name, rung in RUNGS.items():
        if name in found:
            outcomes = ", ".join(f"{number} {outcome}" for outcome, number in found[name].items() if number)
            terminalreporter.write_line(f"rung {name}: {outcomes} ({rung.machine}; on {rung.where})")
        else:
            how = "EXPECTED, BUT DID NOT RUN" if name in expected else "did not run"
            terminalreporter.write_line(f"rung {name}: {how}")


# ---- abilities ----


def missing(facts: HostFacts, ability: str) -> str:
    """Return why this host lacks an ability, as the engine's own probe has it; empty if it does not."""
    kind, _, name = ability.partition(":")
    if kind == "controller":
        cgroup = CgroupFacts.from_dict(facts.cgroup)
        return "" if cgroup.base(name) else cgroup.unavailable.get(name, "no such controller")
    if kind == "namespace":
        return facts.namespaces.get(name, "")
    if ability in ("private", "networks"):
        options = {"userns": "private"} if ability == "private" else {"network": "bridge"}
        try:
            Run(get_client(), ContainerSpec(argv=("true",), workdir="/", **options), Sink()).execute()
        except UnsupportedError as e:
            return str(e)
        return ""
    table: dict[str, str] = {
        "root": f"the engine is root in a user namespace only (uid {facts.uid})" if facts.rootless else "",
        "userns": facts.namespaces.get("user", ""),
        "overlay": facts.overlay_error,
        "seccomp": facts.seccomp_error,
        "mount_setattr": facts.setattr_error,
        "devices": facts.cgroup.get("devices_error", ""),
    }
    return table[ability]


def skip_or_fail(ability: str, reason: str) -> None:
    """Skip with the reason; fail where the environment promises the ability."""
    if ability in os.environ.get(EXPECT, "").split(","):
        pytest.fail(f"{ability} is expected here ({EXPECT}), but: {reason}")
    pytest.skip(f"{ability}: {reason}")


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    abilities = [a for marker in request.node.iter_markers("needs") for a in marker.args]
    if not abilities:
        return
    client: EngineClient = request.getfixturevalue("engine")()
    for ability in abilities:
        reason = missing(client.facts, ability)
        if reason:
            skip_or_fail(ability, reason)


@pytest.fixture(autouse=True, scope="session")
def _parents() -> Iterator[None]:
    """Take away the parent cgroups that crun and runc make in every hierarchy, and leave."""
    before = set(glob.glob("/sys/fs/cgroup/*/jupyter_ns"))
    yield
    for directory in set(glob.glob("/sys/fs/cgroup/*/jupyter_ns")) - before:
        with contextlib.suppress(OSError):  # EBUSY: an engine works there by now
            os.rmdir(directory)


# ---- the session's engine ----


@pytest.fixture(scope="session", autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the session a store of images and volumes of its own."""
    before = os.environ.get("JUPYTER_NS_DATA")
    os.environ["JUPYTER_NS_DATA"] = str(tmp_path_factory.mktemp("data"))
    yield
    if before is None:
        del os.environ["JUPYTER_NS_DATA"]
    else:
        os.environ["JUPYTER_NS_DATA"] = before


@pytest.fixture(scope="session")
def private_tmp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the session a temporary directory of its own, so that what stays in it can be counted."""
    path = tmp_path_factory.mktemp("tmp")
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = tempfile.tempdir = str(path)
    yield path
    tempfile.tempdir = None
    if before is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = before


@pytest.fixture(scope="session")
def engine(private_tmp: Path, pytestconfig: pytest.Config) -> Iterator[Callable[[], EngineClient]]:
    """Return what gives this session's engine; in the end it goes, and must leave nothing."""
    try:
        assert get_client().facts.kernel == os.uname().release
        pytestconfig.stash[NATIVE] = native(get_client().facts)
    except ContainerError as e:
        close_client()
        skip_or_fail("engine", str(e))
    yield get_client
    client = get_client()
    assert client.facts  # a test may have ended the one before; this one may be new
    key = engine_key(client.pid)
    close_client()
    assert not client.alive
    assert start_time(client.pid) is None
    assert cgroup_directories(client, key) == set()


@pytest.fixture
def zygote(engine: Callable[[], EngineClient]) -> None:
    """Start what forks Python cells, and have it fork one, before anything is counted."""
    Run(engine(), ContainerSpec(python=True, workdir="/"), Sink()).execute(cell=Cell(source="pass"))


@pytest.fixture
def docker(engine: Callable[[], EngineClient], capsys: pytest.CaptureFixture[str]) -> Iterator[Docker]:
    """Type Docker's lines; the containers that they made go in the end."""
    engine()
    yield Docker(capsys)
    for row in ask("list"):
        ask("remove", of=row["id"], force=True)


@pytest.fixture
def podman() -> Iterator[Callable[..., str]]:
    """Give podman a store of its own."""
    tmp_path = Path(tempfile.mkdtemp(prefix="jns-", dir="/tmp"))  # podman wants a short path
    base = ["--root", tmp_path / "podman", "--runroot", tmp_path / "run", "--storage-driver", "overlay"]
    yield lambda *words: tool("podman", *base, *words)
    subprocess.run(["podman", *map(str, base), "unmount", "--all"], capture_output=True, check=False)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed([m for m in mounts if m.startswith(str(tmp_path))]):
        subprocess.run(["umount", "-l", mount], check=True)
    shutil.rmtree(tmp_path)


def sync(client: EngineClient) -> None:
    """Wait until the engine has done everything that it was asked before."""
    answered: list[object] = []
    client.subscribe("sync", lambda _kind, payload: answered.append(payload))
    client.send(Kind.SYNC, "sync")
    assert client.wait(lambda: bool(answered), until=time.monotonic() + 60)
    client.unsubscribe("sync")


def engine_key(pid: int) -> str:
    """Return the name that an engine's cgroup directories have."""
    return f"{pid}-{start_time(pid)}"


# ---- leaks ----


def engine_cgroups(client: EngineClient, key: str) -> list[Path]:
    """Return the directories that engines whose key matches a pattern have in each hierarchy."""
    bases = CgroupFacts.from_dict(client.facts.cgroup).bases
    return [path for base in bases for path in Path(base.directory, "jupyter_ns").glob(key)]


def cgroup_directories(client: EngineClient, key: str) -> set[str]:
    """Return an engine's directories and those of its containers."""
    return {directory for top in engine_cgroups(client, key) for directory, _, _ in os.walk(top)}


@pytest.fixture
def cgroups_of(engine: Callable[[], EngineClient]) -> Callable[[str], list[Path]]:
    """Return what finds the cgroup directories of engines, by their key's pattern."""
    return lambda key: engine_cgroups(engine(), key)


def children(pid: int) -> set[str]:
    """Return the child processes of a process, zombies too, with their names."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, fields = stat.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if int(fields.split()[1]) == pid:
            found.add(name.replace("(", ""))
    return found


def descriptors(pid: int) -> set[str]:
    """Return the open descriptors of a process and what they are."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.add(f"{fd} -> {os.readlink(f'/proc/{pid}/fd/{fd}')}")
        except FileNotFoundError:
            pass  # the one that lists the directory
    return found


def state(client: EngineClient, private_tmp: Path) -> dict[str, set[str]]:
    """Return everything that a test could leave behind."""
    key = engine_key(client.pid)
    return {
        # Its own directory the engine makes in a hierarchy when it is first asked for a limit there.
        "cgroups": {d for d in cgroup_directories(client, key) if os.path.basename(d) != key},
        "mounts": set(Path("/proc/self/mountinfo").read_text().splitlines()),
        "interfaces": set(os.listdir("/sys/class/net")),
        "our children": children(os.getpid()),
        "the engine's children": children(client.pid),
        "our descriptors": descriptors(os.getpid()),
        "the engine's descriptors": descriptors(client.pid),
        "temporary files": set(os.listdir(private_tmp)),
    }


def leaks(before: dict[str, set[str]], after: dict[str, set[str]]) -> dict[str, list[str]]:
    """Return what is there now and was not before."""
    return {what: sorted(found - before[what]) for what, found in after.items() if found - before[what]}


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare before and after each test against the kernel."""
    if request.node.path.parent.name not in CHECKED:
        yield
        return
    get: Callable[[], EngineClient] = request.getfixturevalue("engine")
    private_tmp: Path = request.getfixturevalue("private_tmp")
    if "zygote" in request.fixturenames:
        request.getfixturevalue("zygote")
    client = get()
    sync(client)
    before = state(client, private_tmp)
    yield
    assert get() is client, "the session's engine died in this test"
    deadline = time.monotonic() + CLEAN_UP_SECONDS
    sync(client)
    left = leaks(before, state(client, private_tmp))
    while left and time.monotonic() < deadline:
        time.sleep(0.02)  # the kernel frees cgroups and PIDs in its own time, and has no event for all
        left = leaks(before, state(client, private_tmp))
    assert not left
