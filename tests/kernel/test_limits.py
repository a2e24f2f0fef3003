"""Devices, disks, groups of containers and every option's example, against the real kernel."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_ns import Container, lifecycle, options, run
from jupyter_ns.cgroups import sampler
from jupyter_ns.client import EngineClient, get_client
from jupyter_ns.errors import ContainerOOMError, UnsupportedError, UsageError
from jupyter_ns.frontend import cgroup as cgroup_magic
from jupyter_ns.frontend.card import final_bundle, one_line
from jupyter_ns.frontend.magics import parse_words
from jupyter_ns.frontend.outcome import error_of
from jupyter_ns.option_examples import EXAMPLES
from jupyter_ns.runner import Cell, Run, Sink
from jupyter_ns.runtime.protocol import Kind
from jupyter_ns.spec import ContainerSpec, Limits

MIB = 1 << 20
KMSG = Path("/dev/kmsg")  # opening it for writing needs no capability, and writes nothing
EAT = "head -c {} /dev/zero | tail -c {} >/dev/null"


def sh(script: str, **options: object) -> Container:
    """Run a script; what it writes to standard error fails the test."""
    container = run("sh", "-c", script, **options)
    assert (container.stderr, container.exit_code) == ("", 0)
    return container


def ask(**request: Any) -> Any:
    """Ask the engine about its cgroups."""
    return get_client().ask(Kind.CGROUP, request)


@pytest.fixture(autouse=True, scope="module")
def _hierarchies(engine: Callable[[], EngineClient]) -> None:
    """Have the engine make its directories in the hierarchies that it joins on first use."""
    engine()
    with contextlib.suppress(UnsupportedError):
        run("true", cpuset_cpus=str(min(os.sched_getaffinity(0))))


# ---- devices ----


@pytest.mark.needs("root", "devices")
def test_a_device_whose_node_is_made_inside_cannot_be_opened() -> None:
    container = run(
        "sh", "-c", "mknod /dev/k c 1 11 && echo made; true > /dev/k; mknod /dev/z c 1 5 && head -c1 /dev/z"
    )
    assert container.stdout == "made\n\0"
    assert "Operation not permitted" in container.stderr
    assert not any("any device" in note for note in container.weakened)


@pytest.mark.needs("root", "devices")
def test_a_rule_lets_it_be_opened() -> None:
    container = sh("mknod /dev/k c 1 11; true > /dev/k && echo opened", device_cgroup_rule="c 1:* rw")
    assert container.stdout == "opened\n"
    (record,) = (r for r in container.limits if r.name == "device_rules")
    assert record.requested == "c 1:* rw"
    assert "c 1:* rw" in record.effective.split(", ")


@pytest.mark.needs("root", "devices")
def test_access_that_no_rule_gives_stays_refused() -> None:
    script = "mknod /dev/k c 1 11; true > /dev/k || echo not for writing"
    container = run("sh", "-c", script, device_cgroup_rule=["c 1:11 r", "b 1:11 w", "c 11:1 rwm"])
    assert "not for writing" in container.stdout


@pytest.mark.needs("root", "devices")
@pytest.mark.skipif(not KMSG.exists(), reason="no /dev/kmsg")
@pytest.mark.parametrize("inside", ["/dev/kmsg", "/dev/log/messages", "/opt/kmsg"])
def test_a_device_is_given_under_any_name(inside: str) -> None:
    container = sh(f"true > {inside} && stat -c '%t %T %a %u' {inside}", device=f"/dev/kmsg:{inside}")
    status = KMSG.stat()
    assert container.stdout == f"1 b {status.st_mode & 0o777:o} {status.st_uid}\n"


@pytest.mark.needs("root", "devices")
@pytest.mark.skipif(not KMSG.exists(), reason="no /dev/kmsg")
def test_a_node_of_its_own_leaves_the_host_s_alone() -> None:
    before = KMSG.stat().st_mode
    assert sh("chmod 777 /dev/kmsg; stat -c %a /dev/kmsg", device="/dev/kmsg").stdout == "777\n"
    assert KMSG.stat().st_mode == before


@pytest.mark.needs("root", "devices")
@pytest.mark.skipif(not KMSG.exists(), reason="no /dev/kmsg")
def test_read_only_access_to_a_device() -> None:
    container = run("sh", "-c", "true > /dev/kmsg || echo refused", device="/dev/kmsg:r")
    assert container.stdout == "refused\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "/dev/no-such-device"}, "does not exist"),
        ({"device": "/dev/shm:/dev/x"}, "no device"),
        ({"device_read_bps": "/dev/null:1m"}, "no block device"),
        ({"device_write_iops": "/dev/no-such-disk:1"}, "No such file"),
    ],
)
def test_what_is_no_device_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run("true", **options)


@pytest.mark.needs("devices")
def test_a_python_cell_is_restricted_too(zygote: None) -> None:
    if get_client().facts.rootless:
        pytest.skip("an engine that is not root cannot make nodes")
    source = "import os\nos.mknod('/dev/k', 0o20666, os.makedev(1, 11))\nopen('/dev/k', 'w')"
    sink = _Errors()
    Run(get_client(), ContainerSpec(python=True, workdir="/"), sink).execute(cell=Cell(source=source))
    assert sink.names == ["PermissionError"]


class _Errors(Sink):
    def __init__(self) -> None:
        self.names: list[str] = []

    def on_message(self, kind: str, body: Any) -> None:
        if kind == "error":
            self.names.append(body["ename"])


# ---- disks ----


def disk() -> str:
    """Return the path of a disk that limits can be set on; skips where there is none."""
    for name in sorted(os.listdir("/sys/block")):
        path = f"/dev/{name}"
        if int(Path(f"/sys/block/{name}/size").read_text()) and os.path.exists(path):
            return path
    pytest.skip("no disk here")


def numbers(path: str) -> str:
    device = os.stat(path).st_rdev
    return f"{os.major(device)}:{os.minor(device)}"


def throttles(engine: EngineClient) -> None:
    """Skip where the kernel limits no block I/O."""
    cgroup = engine.facts.cgroup
    if not {"io.max", "blkio.throttle.read_bps_device"} & set(cgroup["files"]):
        pytest.skip("the kernel limits no block I/O")


def test_disk_limits_are_what_the_kernel_reads_back(engine: Callable[[], EngineClient]) -> None:
    throttles(engine())
    path = disk()
    rates = {
        "device_read_bps": 10 * MIB,
        "device_write_bps": 5 * MIB,
        "device_read_iops": 100,
        "device_write_iops": 50,
    }
    shown = "cat /sys/fs/cgroup/io.max 2>/dev/null || cat /sys/fs/cgroup/blkio/blkio.throttle.*_device"
    container = sh(shown, **{name: f"{path}:{rate}" for name, rate in rates.items()})
    number = numbers(path)
    if engine().facts.cgroup["version"] == 2:
        assert container.stdout == f"{number} rbps={10 * MIB} wbps={5 * MIB} riops=100 wiops=50\n"
        assert not any("buffered writes" in note for note in container.weakened)
    else:
        assert sorted(container.stdout.split()[1::2]) == sorted(map(str, rates.values()))
        assert sum("buffered writes escape" in note for note in container.weakened) == 2
    for name, rate in rates.items():
        (record,) = (r for r in container.limits if r.name == name)
        assert record.requested == f"{path}:{rate}"
        assert record.effective.startswith(number) and str(rate) in record.effective


def test_rate_0_is_no_limit(engine: Callable[[], EngineClient]) -> None:
    throttles(engine())
    (record,) = (r for r in run("true", device_read_bps=f"{disk()}:0").limits if r.name == "device_read_bps")
    assert record.effective in ("", f"{numbers(disk())} rbps=max wbps=max riops=max wiops=max")


def test_a_weight_that_no_scheduler_looks_at_is_said(engine: Callable[[], EngineClient]) -> None:
    if not {"blkio.bfq.weight", "io.bfq.weight"} & set(engine().facts.cgroup["files"]):
        pytest.skip("the kernel has no BFQ")
    schedulers = [path.read_text() for path in Path("/sys/block").glob("*/queue/scheduler")]
    container = run("true", blkio_weight=300)
    assert any("BFQ" in note for note in container.weakened) == (not any("[bfq]" in text for text in schedulers))
    (record,) = (r for r in container.limits if r.name == "blkio_weight")
    assert record.effective.split()[-1] == "300"


# ---- groups ----


@pytest.fixture
def group() -> Iterator[Callable[..., str]]:
    """Return what makes groups; they are removed afterwards, the last first."""
    made: list[str] = []

    def make(name: str, parent: str = "", **limits: Any) -> str:
        spec = ContainerSpec(name=name, limits=Limits(**limits), cgroup_parent=parent)
        ask(do="create", spec=spec.to_dict())
        made.append(name)
        return name

    yield make
    for name in dict.fromkeys(reversed(made)):
        ask(do="remove", name=name)


@pytest.mark.needs("controller:memory")
def test_a_child_that_may_more_dies_at_its_parent_s_limit(group: Callable[..., str]) -> None:
    container = run(
        "sh", "-c", EAT.format("80m", "80m"), cgroup_parent=group("lab", memory_bytes=32 * MIB), memory="256m"
    )
    assert (container.reason, container.exit_code) == ("oom", 137)
    assert container.oom_limit == ("lab", 32 * MIB)
    error = error_of(container, raise_error=True)
    assert isinstance(error, ContainerOOMError)
    assert "the limit of --cgroup-parent lab, 32MiB, was hit; its own limit is 256MiB" in str(error)
    card, _ = final_bundle(container)
    for words in ("out of memory at the limit of --cgroup-parent lab", "memory of --cgroup-parent lab: 32MiB"):
        assert words in card["text/plain"] and words in card["text/html"]


@pytest.mark.needs("controller:memory")
def test_one_that_goes_on_by_itself_tells_whose_limit_it_was_too(group: Callable[..., str]) -> None:
    lab = group("lab", memory_bytes=32 * MIB)
    container = run("sh", "-c", EAT.format("80m", "80m"), cgroup_parent=lab, memory="256m", detach=True)
    assert container.wait() == 137
    assert container.reload().oom_limit == ("lab", 32 * MIB)
    container.start().wait()
    assert container.reload().oom_limit == ("lab", 32 * MIB)
    container.remove()


@pytest.mark.needs("controller:memory")
def test_a_parent_without_swap_is_named_too(group: Callable[..., str]) -> None:
    """On version 1 it is the counter of memory and swap that moves there."""
    lab = group("lab", memory_bytes=32 * MIB, memory_swap_bytes=32 * MIB)
    for _ in range(2):
        container = run("sh", "-c", EAT.format("80m", "80m"), cgroup_parent=lab, memory="256m")
        assert (container.reason, container.oom_limit) == ("oom", ("lab", 32 * MIB))
        assert run("sh", "-c", EAT.format("80m", "80m"), cgroup_parent=lab, memory="16m").oom_limit is None


@pytest.mark.needs("controller:memory")
def test_its_own_limit_is_its_own(group: Callable[..., str]) -> None:
    lab = group("lab", memory_bytes=64 * MIB)
    container = run("sh", "-c", EAT.format("80m", "80m"), cgroup_parent=lab, memory="16m")
    assert (container.reason, container.oom_limit) == ("oom", None)
    # Another one's death is not this one's: the parent's counters go on from where they were.
    assert run("sh", "-c", EAT.format("80m", "80m"), cgroup_parent=lab).oom_limit == ("lab", 64 * MIB)
    assert run("sh", "-c", EAT.format("80m", "80m"), cgroup_parent=lab, memory="16m").oom_limit is None


@pytest.mark.needs("controller:memory")
def test_the_limit_of_an_outer_group_binds(group: Callable[..., str]) -> None:
    inner = group("inner", parent=group("outer", memory_bytes=32 * MIB), memory_bytes=128 * MIB)
    assert run("sh", "-c", EAT.format("80m", "80m"), cgroup_parent=inner).oom_limit == ("outer", 32 * MIB)
    nodes = {node["name"]: node for node in ask(do="tree")["nodes"]}
    assert (nodes["inner"]["parent"], nodes["outer"]["parent"]) == ("outer", "")
    levels = [level[:2] for level in nodes["inner"]["levels"]["memory"]]
    assert [limit for _, limit in levels[:2]] == [128 * MIB, 32 * MIB]
    assert levels[0][0].endswith("/outer/inner")


@pytest.mark.needs("controller:pids")
def test_tasks_of_a_group_are_counted_together(group: Callable[..., str]) -> None:
    lab = group("lab", pids_limit=5)
    container = run("sh", "-c", "for i in 1 2 3 4 5 6 7; do sleep 9 & done; echo $!", cgroup_parent=lab)
    assert "Cannot fork" in container.stderr or "can't fork" in container.stderr


@pytest.mark.needs("controller:cpuset")
def test_a_limit_that_only_the_group_has_binds(group: Callable[..., str]) -> None:
    first = min(os.sched_getaffinity(0))
    lab = group("lab", cpuset_cpus=str(first))
    script = "grep Cpus_allowed_list /proc/self/status"
    assert sh(script, cgroup_parent=lab).stdout.split() == ["Cpus_allowed_list:", str(first)]
    ask(do="remove", name=lab)
    group(lab)  # the same name, without that limit: nothing of the first is kept
    assert sh(script, cgroup_parent=lab).stdout == sh(script).stdout


@pytest.mark.needs("controller:pids")
def test_a_group_can_be_removed_right_after_a_cell_in_it(group: Callable[..., str], zygote: None) -> None:
    spec = ContainerSpec(python=True, workdir="/", cgroup_parent=group("lab"))
    for _ in range(3):
        Run(get_client(), spec, Sink()).execute(cell=Cell(source="1"))
        cgroup_magic.cgroup(None, ["rm", "lab"])
        group("lab")


def test_a_group_in_use_stays_and_an_unknown_one_is_refused(group: Callable[..., str]) -> None:
    group("inner", parent=group("outer"))
    with pytest.raises(UsageError, match="in use by inner"):
        ask(do="remove", name="outer")
    with pytest.raises(UsageError, match="no cgroup 'nope'"):
        ask(do="remove", name="nope")
    with pytest.raises(UsageError, match=r"--cgroup-parent 'nope': accepted: .*outer"):
        run("true", cgroup_parent="nope")
    with pytest.raises(UsageError, match="'outer': in use"):
        ask(do="create", spec=ContainerSpec(name="outer").to_dict())
    with pytest.raises(UsageError, match="accepted: 1 to 128 letters"):
        ask(do="create", spec=ContainerSpec(name="../x").to_dict())
    with pytest.raises(UsageError, match="no cgroup of that name or path"):
        ask(do="levels", path="/../../../etc")


@pytest.mark.needs("controller:memory")
def test_levels_of_any_cgroup_are_the_kernel_s(group: Callable[..., str]) -> None:
    lab = group("lab", memory_bytes=32 * MIB)
    own = next(n for n in ask(do="tree")["nodes"] if n["name"] == lab)["levels"]["memory"]
    read = ask(do="levels", path=own[0][0])["memory"]
    assert [level[:2] for level in read] == [level[:2] for level in own]  # what the host uses changes meanwhile
    assert cgroup_magic._as_levels({"memory": own})["memory"][0].limit == 32 * MIB


def test_cgroup_magic_makes_shows_and_removes(capsys: pytest.CaptureFixture[str]) -> None:
    class Shell:
        user_ns: dict[str, Any] = {}  # noqa: RUF012

    cgroup_magic.cgroup(Shell, ["create", "lab", "--pids-limit", "9"])
    assert "lab: pids.max 9." in capsys.readouterr().out
    Shell.user_ns["_container"] = sh("true", cgroup_parent="lab", pids_limit=50)
    cgroup_magic.cgroup(Shell, [])
    assert "lab" in capsys.readouterr().out
    cgroup_magic.cgroup(Shell, ["lab"])
    (line,) = (row for row in capsys.readouterr().out.splitlines() if row.endswith("binds") and "/lab " in row)
    assert line.split()[2] == "9"
    cgroup_magic.cgroup(Shell, ["--files"])
    (line,) = (row for row in capsys.readouterr().out.splitlines() if row.startswith("--pids-limit"))
    assert line.split() == ["--pids-limit", "pids.max", "pids.max", "50", "pids.max", "50"]
    with pytest.raises(UsageError, match="its cgroup went with it"):
        cgroup_magic.cgroup(Shell, ["_container"])
    with pytest.raises(UsageError, match="accepted: limits"):
        cgroup_magic.cgroup(Shell, ["create", "other", "--name", "some"])
    cgroup_magic.cgroup(Shell, ["rm", "lab"])
    cgroup_magic.cgroup(Shell, [])
    assert "lab" not in capsys.readouterr().out


# ---- samples ----


@pytest.mark.needs("controller:pids", "controller:memory")
def test_limit_hits_are_counted_and_told() -> None:
    script = "for i in 1 2 3 4 5 6; do sleep 9 & done; true"
    container = run("sh", "-c", script, pids_limit=3, memory="64m")
    assert (container.usage.last("pids_limit_hits") or 0) >= 1
    assert any(text.startswith("task limit hit") for _, text in container.usage.events)
    assert "task limit hit (" in one_line(container)[0]["text/plain"]


def test_an_empty_network_sent_nothing_and_the_host_s_is_not_counted() -> None:
    container = sh("true")
    if get_client().facts.cgroup["version"]:
        assert (container.usage.last("received_bytes"), container.usage.last("sent_bytes")) == (0, 0)
    assert sh("true", network="host").usage.last("received_bytes") is None


@pytest.mark.skipif(not Path("/proc/pressure/cpu").exists(), reason="a kernel without PSI")
def test_pressure_is_read_as_the_kernel_writes_it() -> None:
    """The host's own has the format of a cgroup's."""
    fd = os.open("/proc/pressure/cpu", os.O_RDONLY)
    try:
        before, read, after = _total_us(), sampler._total_s(fd), _total_us()
    finally:
        os.close(fd)
    assert read is not None
    assert before <= round(read * 1e6) <= after


def _total_us() -> int:
    line = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    return int(dict(field.split("=") for field in line.split()[1:])["total"])


# ---- the reference ----


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_runs(name: str, zygote: None, group: Callable[..., str]) -> None:
    line = EXAMPLES[name]
    request = parse_words(options.split(line.replace("/dev/sda", disk()) if "/dev/sda" in line else line))
    if request.help:
        return
    if request.spec.cgroup_parent:
        group(request.spec.cgroup_parent)
    given = run("true", name="data", rm=False, volume=["/usr:/shared"]) if request.spec.volumes_from else None
    if request.spec.network == "lab":
        lifecycle.ask("network_create", name="lab", subnet="172.28.0.0/16")
    made = Run(get_client(), request.spec, Sink())
    if given is not None:
        given.remove()
    try:
        container = made.execute(cell=Cell(source="pass") if request.spec.python else None)
    except UnsupportedError as e:
        pytest.skip(str(e))
    except UsageError as e:
        if name != "--blkio-weight-device":  # needs a disk with the BFQ scheduler, as its documentation says
            raise
        pytest.skip(str(e))
    finally:
        if request.spec.network == "lab":
            lifecycle.ask("network_remove", of="lab")
    assert container.exit_code == (1 if "--no-raise-error" in shlex.split(line) else 0), container.stderr
