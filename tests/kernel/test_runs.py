"""Limits, exits, streams, files and deaths of containers, against the real kernel."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import missing
from ordinary_user import ordinary_user
from processes import children_of, sleepers, soon, state_of

from jupyter_ns import Container, run
from jupyter_ns.client import EngineClient, get_client
from jupyter_ns.container import Change
from jupyter_ns.errors import (
    ContainerExitError,
    ContainerOOMError,
    ContainerTimeoutError,
    SetupError,
    UsageError,
)
from jupyter_ns.runner import MAX_OUTPUT_CHARS, Run, Sink
from jupyter_ns.runtime.protocol import Kind, pack
from jupyter_ns.spec import ContainerSpec, Mount

MIB = 1 << 20
PYTHON = (sys.executable, "-S", "-E", "-c")


def sh(script: str, **options: object) -> Container:
    """Run a script; what it writes to standard error fails the test."""
    container = run("sh", "-c", script, **options)
    assert (container.stderr, container.exit_code) == ("", 0)
    return container


# ---- limits ----


@pytest.mark.needs("controller:memory")
def test_memory_limit_is_what_the_kernel_says_inside() -> None:
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    container = sh(script, memory="64m")
    assert int(container.stdout) == 64 * MIB
    record = next(r for r in container.limits if r.name == "memory_bytes")
    assert (record.requested, record.effective) == (64 * MIB, str(64 * MIB))


@pytest.mark.needs("controller:memory")
def test_out_of_memory_ends_the_container_only(engine: Callable[[], EngineClient]) -> None:
    pid = engine().pid
    container = run(*PYTHON, "x = bytearray(256 << 20)\nx[::4096] = b'x' * len(x[::4096])", memory="32m")
    assert (container.reason, container.exit_code, container.oom_killed) == ("oom", 137, True)
    assert container.peak_memory_bytes is not None and 24 * MIB < container.peak_memory_bytes <= 33 * MIB
    assert engine().pid == pid
    assert sh("echo alive").stdout == "alive\n"


@pytest.mark.needs("controller:memory")
def test_out_of_memory_of_a_grandchild_ends_it_too() -> None:
    hog = f"{sys.executable} -S -c 'x = [bytearray(1 << 20) for _ in range(200)]'"
    container = run("sh", "-c", f"{hog}; sleep 20", memory="32m", timeout=15)
    assert container.reason == "oom"
    with pytest.raises(ContainerOOMError):
        run("sh", "-c", f"{hog}; sleep 20", memory="32m", timeout=15, check=True)


@pytest.mark.needs("controller:pids")
def test_fork_bomb_stops_at_the_pids_limit() -> None:
    code = (
        "import os, time\nn = 0\n"
        "try:\n"
        "    while True:\n"
        "        if os.fork() == 0: time.sleep(60)\n"
        "        n += 1\n"
        "except BlockingIOError: print(n)\n"
    )
    container = run(*PYTHON, code, pids_limit=16, timeout=30)
    assert (container.stdout, container.exit_code) == ("15\n", 0)


@pytest.mark.needs("controller:cpu")
def test_cpu_quota_throttles() -> None:
    """A limit so low that it binds although others want the processors too."""
    code = "import time\nwhile time.process_time() < 0.15: pass"
    container = run(*PYTHON, code, cpus=0.05)
    assert container.cpu_seconds < 0.2 * container.wall_seconds
    assert container.throttled_seconds > 0.2


def test_timeout() -> None:
    container = run("sleep", "30", timeout=0.3)
    assert (container.reason, container.exit_code) == ("timeout", 137)
    assert 0.25 < container.wall_seconds < 25
    with pytest.raises(ContainerTimeoutError):
        run("sleep", "30", timeout=0.1, check=True)


# ---- exit codes ----


@pytest.mark.parametrize("code", [0, 3, 255])
def test_exit_code(code: int) -> None:
    container = run("sh", "-c", f"exit {code}")
    assert (container.exit_code, container.reason) == (code, "exited")


def test_exit_codes_of_what_cannot_run() -> None:
    assert run("no-such-program").exit_code == 127
    assert run("/no/such/program").exit_code == 127
    assert run("/etc/passwd").exit_code == 126
    assert run("/etc").exit_code == 126
    with pytest.raises(ContainerExitError) as caught:
        run("no-such-program", check=True)
    assert caught.value.returncode == 127


@pytest.mark.needs("root")
def test_a_directory_of_path_that_may_not_be_searched_has_no_programs(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "tool").write_text("not executable")
    options: dict[str, Any] = {"user": "1000:1000", "workdir": "/", "volume": f"{closed}:/srv/closed"}
    assert run("tool", env="PATH=/srv/closed:/usr/bin", **options).exit_code == 127
    assert run("/srv/closed/tool", **options).exit_code == 126
    closed.chmod(0o755)
    assert run("tool", env="PATH=/srv/closed:/usr/bin", **options).exit_code == 126
    assert run("true", env="PATH=/srv/closed:/usr/bin", **options).exit_code == 0


class Interrupter(Sink):
    """Interrupts a container once it has said that it is ready, and as often again as it says so.

    Each time, it makes a file, so that the container can know.
    """

    def __init__(self, place: Path) -> None:
        self.run: Run | None = None
        self._place, self._count = place, 0

    def on_text(self, name: str, text: str) -> None:
        assert self.run is not None
        for _ in range(text.count("ready")):
            self.run.interrupt()
            self._count += 1
            (self._place / str(self._count)).touch()


AWAIT = "await() { until [ -e /srv/$1 ]; do sleep 0.02; done; }; await"


@pytest.mark.parametrize(
    ("argv", "exit_code", "stdout"),
    [
        (("sh", "-c", f"trap '' INT; echo ready; {AWAIT} 1; echo done"), 0, "ready\ndone\n"),
        (("sh", "-c", f"trap '' INT; echo ready; {AWAIT} 1; echo ready; sleep 30"), 137, "ready\nready\n"),
        (("tail", "-f", "/etc/hostname"), 137, "ready\n"),  # neither ignores nor catches it
    ],
)
def test_a_program_that_ignores_the_first_interrupt_goes_on(
    argv: tuple[str, ...], exit_code: int, stdout: str, tmp_path: Path
) -> None:
    sink = Interrupter(tmp_path)
    mount = Mount(type="bind", source=str(tmp_path), destination="/srv")
    sink.run = Run(get_client(), ContainerSpec(argv=argv, hostname="ready", workdir="/", mounts=(mount,)), sink)
    container = sink.run.execute()
    assert (container.exit_code, container.stdout, container.reason) == (exit_code, stdout, "interrupted")


@pytest.mark.parametrize("userns", ["host", "private"])
def test_each_step_of_the_plan_has_its_time(userns: str) -> None:
    """The kernel compiles the plan anew: it must be the one that was carried out."""
    facts = get_client().facts
    if userns == "private" and (reason := missing(facts, "root") or missing(facts, "private")):
        pytest.skip(reason)
    container = run("true", workdir="/", userns=userns)
    assert len(container.timings) == len(container.plan.steps) - 1  # all but execve
    assert f'hostname", "{container.id[:12]}' in container.plan.describe()


def test_killed_by_a_signal_from_inside() -> None:
    assert run("sh", "-c", "sh -c 'kill -9 $$'").exit_code == 137
    assert run("sh", "-c", "sh -c 'kill -TERM $$'").exit_code == 143


@pytest.mark.needs("root")
def test_kill_of_pid_1_from_outside() -> None:
    class Killer(Sink):
        def on_started(self, container: Container) -> None:
            os.kill(container.pid, signal.SIGKILL)

    spec = ContainerSpec(argv=("sleep", "30"), workdir="/")
    container = Run(get_client(), spec, Killer()).execute()
    assert (container.exit_code, container.reason) == (137, "killed")


# ---- streams ----


def test_standard_input() -> None:
    assert run("cat", input="words\n").stdout == "words\n"
    assert run("cat").stdout == ""
    assert run("wc", "-c", input=b"x" * 3_000_000).stdout.strip() == "3000000"
    assert run("true", input=b"x" * 3_000_000).exit_code == 0  # which reads none of it


def test_streams_are_apart_and_in_order() -> None:
    container = run("sh", "-c", "for i in 1 2 3; do echo out$i; echo err$i >&2; done")
    assert container.stdout == "out1\nout2\nout3\n"
    assert container.stderr == "err1\nerr2\nerr3\n"


@pytest.mark.needs("root")
@pytest.mark.parametrize("user", ["", "1000:1000"])
@pytest.mark.parametrize("userns", ["", "private"])
def test_streams_can_be_opened_by_their_names(user: str, userns: str) -> None:
    if userns and (reason := missing(get_client().facts, "private")):
        pytest.skip(reason)
    script = "echo out > /dev/stdout; echo err > /dev/stderr; cat < /dev/stdin"
    container = run("sh", "-c", script, input="in", workdir="/", user=user or "0", userns=userns or "host")
    assert (container.stdout, container.stderr) == ("out\nin", "err\n")


def test_output_of_50_megabytes_is_bounded_and_says_so() -> None:
    container = run("sh", "-c", "head -c 50000000 /dev/zero | tr '\\0' x")
    assert container.exit_code == 0
    assert container.stdout[:MAX_OUTPUT_CHARS] == "x" * MAX_OUTPUT_CHARS
    assert len(container.stdout) < MAX_OUTPUT_CHARS + 200
    assert f"{50_000_000 - MAX_OUTPUT_CHARS:,} further characters" in container.stdout[MAX_OUTPUT_CHARS:]


def test_binary_output_does_not_break_the_stream() -> None:
    container = run("sh", "-c", "printf 'a\\377\\000b\\303\\251'; head -c 100000 /dev/urandom >&2")
    assert container.stdout == "a\ufffd\x00bé"
    assert container.exit_code == 0


def test_closing_every_descriptor_is_not_an_end() -> None:
    container = run(*PYTHON, "import os, time\nos.closerange(0, 256)\ntime.sleep(0.3)\nos._exit(5)")
    assert container.exit_code == 5
    assert container.wall_seconds > 0.25


@pytest.mark.parametrize("without", [None, pytest.param("pid", marks=pytest.mark.needs("controller:pids"))])
def test_nothing_survives(without: str | None, tmp_path: Path) -> None:
    marker = f"{30_000_000 + os.getpid()}"
    options = {"without": without} if without else {}
    container = run("sh", "-c", f"setsid sleep {marker} >/dev/null 2>&1 </dev/null & sleep 0.1; echo up", **options)
    assert container.stdout == "up\n"
    assert soon(lambda: sleepers(marker) == [])


# ---- files ----


def test_volume_is_written_through_and_read_only_is_not(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    sh("cat /data/old > /data/new", volume=f"{tmp_path}:/data")
    assert (tmp_path / "new").read_text() == "old"
    container = run("sh", "-c", "cat /data/old; touch /data/other", volume=f"{tmp_path}:/data:ro")
    assert container.stdout == "old"
    assert "Read-only file system" in container.stderr
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]


def test_volume_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one")
    assert sh("cat /srv/g", volume=f"{tmp_path}/f:/srv/g:ro").stdout == "one"
    assert not Path("/srv/g").exists()


def test_volume_source_that_is_absent() -> None:
    with pytest.raises(UsageError, match="/no/such"):
        run("true", mount="type=bind,source=/no/such,target=/data")


def test_read_only_root(tmp_path: Path) -> None:
    """The notebook's directory too, which is a mount of its own here; not what the user brings in."""
    (tmp_path / "volume").mkdir(mode=0o777)
    script = "touch /usr/x; touch x; echo tmp > /tmp/x; echo in > /srv/v/x; cat /tmp/x"
    container = run("sh", "-c", script, read_only=True, workdir=str(tmp_path), volume=f"{tmp_path}/volume:/srv/v")
    assert container.stdout == "tmp\n"
    assert container.stderr.count("Read-only file system") == 2
    assert {c.path for c in container.changes} <= {"/srv"}  # where the volume is mounted
    assert (tmp_path / "volume/x").read_text() == "in\n"


def test_tmpfs_with_a_size() -> None:
    container = run(
        "sh", "-c", "head -c 2000000 /dev/zero > /scratch/x; stat -f -c %T /scratch", tmpfs="/scratch:size=1m"
    )
    assert container.stdout.strip() == "tmpfs"
    assert "No space left" in container.stderr
    assert not Path("/scratch").exists()


def test_shm_size() -> None:
    assert sh("df -B1 --output=size /dev/shm | tail -1", shm_size="1m").stdout.strip() == str(MIB)


@pytest.mark.needs("root")
def test_changes_added_changed_deleted_and_nothing_outside() -> None:
    passwd = Path("/etc/passwd").read_bytes()
    container = sh(
        "echo x >> /etc/passwd; rm /etc/hostname /etc/group; mkdir /usr/new; touch /usr/new/a; chmod 700 /srv"
    )
    changes = set(container.changes)
    assert {
        Change("C", "/etc"),
        Change("C", "/etc/passwd"),
        Change("D", "/etc/group"),
        Change("A", "/usr/new"),
        Change("A", "/usr/new/a"),
        Change("C", "/usr"),
        Change("C", "/srv"),
    } <= changes
    assert Path("/etc/passwd").read_bytes() == passwd
    assert Path("/etc/group").exists() and not Path("/usr/new").exists()


def test_changes_in_the_root_directory_itself() -> None:
    """Rootless too, where it is no overlay."""
    script = "echo x > /new-file; mkdir /new-directory; rm /bin; /usr/bin/ln -s usr/sbin /bin2; /usr/bin/rm /lib64"
    container = run("sh", "-c", script, workdir="/")
    wanted = {("A", "/new-file"), ("A", "/new-directory"), ("D", "/bin"), ("A", "/bin2"), ("D", "/lib64")}
    assert {(c.kind, c.path) for c in container.changes} == wanted


def test_a_run_that_writes_nothing_changes_nothing() -> None:
    assert sh("true").changes == []


def test_a_directory_made_anew_hides_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").write_text("")
    container = sh("rm -r d; mkdir d; touch d/new; ls d", workdir=str(tmp_path))
    assert container.stdout == "new\n"
    assert Change("A", f"{tmp_path}/d/new") in container.changes
    assert os.listdir(tmp_path / "d") == ["old"]


@pytest.mark.parametrize("name", ["with space", "naïve-目录", "a:b,c", "back\\slash", "new\nline"])
def test_workdir_below_tmp_is_seen_and_copy_on_write(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    place.mkdir()
    (place / "given").write_text("given")
    container = sh("pwd; cat given; echo more > made; echo changed > given", workdir=str(place))
    assert container.stdout == f"{place}\ngiven"
    assert os.listdir(place) == ["given"]
    assert (place / "given").read_text() == "given"
    assert {Change("A", f"{place}/made"), Change("C", f"{place}/given")} <= set(container.changes)


def test_workdir_that_is_absent_is_made() -> None:
    assert sh("pwd", workdir="/srv/made/here").stdout == "/srv/made/here\n"
    assert not Path("/srv/made").exists()


def test_workdir_that_is_a_file_is_a_setup_error_with_its_step() -> None:
    with pytest.raises(SetupError) as caught:
        run("true", workdir="/etc/passwd")
    assert "chdir" in caught.value.call
    assert caught.value.option == "--workdir"
    assert 0 < caught.value.step < caught.value.steps


def test_a_place_that_cannot_be_made_says_why() -> None:
    with pytest.raises(SetupError, match="give another destination") as caught:
        run("true", tmpfs=["/proc/none"])
    assert "mkdir" in caught.value.call
    assert caught.value.option.startswith("--tmpfs")


# ---- violent deaths: with a client of their own ----

CLIENT = """
import json, sys
from jupyter_ns.client import get_client
from jupyter_ns.runner import Run, Sink
from jupyter_ns.spec import ContainerSpec
class Tell(Sink):
    def on_started(self, container):
        print(json.dumps([get_client().pid, container.pid]), flush=True)
spec = ContainerSpec(argv=("sh", "-c", "sleep 1000 & sleep 1000"), workdir="/")
try:
    Run(get_client(), spec, Tell()).execute()
except Exception as e:
    print(type(e).__name__, flush=True)
    print(Run(get_client(), ContainerSpec(argv=("echo", "again"), workdir="/"), Sink()).execute().stdout, flush=True)
"""


class Client:
    """A client process with a container that runs."""

    def __init__(self, cgroups_of: Callable[[str], list[Path]]) -> None:
        self.directories = lambda: cgroups_of(f"{self.engine_pid}-*")
        self.process = subprocess.Popen([sys.executable, "-c", CLIENT], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.engine_pid, self.container_pid = json.loads(self.process.stdout.readline())
        self.pidfds = [os.pidfd_open(pid) for pid in (self.engine_pid, self.container_pid)]
        assert self.directories()

    def gone(self) -> bool:
        """Wait until engine and container have ended; return whether they have."""
        poll = select.poll()
        for fd in self.pidfds:
            poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + 60
        while len(poll.poll(100)) < 2 and time.monotonic() < deadline:
            pass
        return len(poll.poll(0)) == 2

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        for fd in self.pidfds:
            os.close(fd)


@pytest.fixture
def client(cgroups_of: Callable[[str], list[Path]]) -> Iterator[Client]:
    made = Client(cgroups_of)
    yield made
    made.close()


@pytest.mark.needs("controller:memory")
def test_kill_of_the_client_ends_engine_and_container(client: Client) -> None:
    client.process.kill()
    assert client.gone()
    assert client.directories() == []


@pytest.mark.needs("controller:memory")
def test_kill_of_the_engine_ends_the_container_and_the_next_one_collects(client: Client) -> None:
    os.kill(client.engine_pid, signal.SIGKILL)
    assert client.gone()
    out, _ = client.process.communicate(timeout=30)
    assert out.split() == ["EngineError", "again"]
    assert client.directories() == []


@pytest.mark.needs("controller:memory")
def test_termination_of_the_engine_leaves_nothing(client: Client) -> None:
    os.kill(client.engine_pid, signal.SIGTERM)
    assert client.gone()
    client.process.communicate(timeout=30)
    assert client.directories() == []


def test_an_installation_that_only_an_import_hook_finds(tmp_path: Path) -> None:
    """As editable ones: the engine and the zygote must find the package all the same."""
    root = Path(__file__).parents[2]
    code = (
        "import sys, importlib.util as u\n"
        f"sys.path[:] = [p for p in sys.path if p not in ('', {str(root)!r})]\n"
        f"s = u.spec_from_file_location('jupyter_ns', {str(root / 'jupyter_ns/__init__.py')!r})\n"
        "m = sys.modules['jupyter_ns'] = u.module_from_spec(s)\n"
        "s.loader.exec_module(m)\n"
        "print(m.run('echo', 'found').stdout)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("found", "")


def test_engine_is_not_in_the_clients_process_group(engine: Callable[[], EngineClient]) -> None:
    session: EngineClient = engine()
    assert os.getpgid(session.pid) != os.getpgid(0)
    assert os.getsid(session.pid) == session.pid


def test_the_engine_has_more_descriptors_than_its_containers() -> None:
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 4000))
from jupyter_ns import run
from jupyter_ns.client import get_client
script = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
python = (sys.executable, "-S", "-E", "-c", script)
print(run(*python).stdout.strip(), "|", run(*python, ulimit="nofile=200:200").stdout.strip(), end=" | ")
print(*resource.prlimit(get_client().pid, resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stderr, done.stdout) == ("", "300 4000 | 200 200 | 4000 4000\n")


# ---- a host that changes ----

MOUNTS_COME_AND_GO = """
import os, subprocess, sys
from jupyter_ns import run

directory = sys.argv[1]
script = ("sh", "-c", f"cat {directory}/mounted 2>&1; echo new > {directory}/written")
seen = [run(*script).stdout]
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
with open(f"{directory}/mounted", "w") as f:
    f.write("here")
seen += [run(*script).stdout for _ in range(2)]
assert os.listdir(directory) == ["mounted"]
subprocess.run(["umount", directory], check=True)
os.rmdir(directory)
ended = run("sh", "-c", f"ls {directory}")
print([text.replace(directory, "…") for text in seen], ended.exit_code)
"""


@pytest.mark.needs("root", "overlay")
def test_mounts_that_come_and_go_are_followed() -> None:
    """In a mount namespace of the kernel's own, which its engine shares; not in /tmp, of which each has its own."""
    place = tempfile.mkdtemp(dir="/var/tmp")
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", MOUNTS_COME_AND_GO, place],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout == f"{['cat: …/mounted: No such file or directory' + chr(10), 'here', 'here']} 2\n"


ATTRIBUTES = """
import os, subprocess, sys
from jupyter_ns import run
options = {"1777": "mode=1777", "700": "mode=0700", "2750": "mode=2750,uid=1000,gid=1001"}
options["far"] = "mode=0711,uid=99999999"
places = {name: f"{sys.argv[1]}/{name}" for name in options}
for name, place in places.items():
    os.mkdir(place)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options[name], "none", place], check=True)
notebook = f"{sys.argv[2]}/notebook"
os.mkdir(notebook)
os.chown(notebook, 1000, 1001)
os.chmod(notebook, 0o2700)
asked = ["/", *places.values(), notebook]
def stat(*program, **options):
    ended = run(*program, "stat", "-c", "%a %u %g", *asked, workdir=notebook, **options)
    assert not ended.changes
    return ended.stdout.splitlines()
outside = subprocess.run(["stat", "-c", "%a %u %g", *asked], capture_output=True, text=True).stdout.splitlines()
print(outside[1:], stat() == outside, stat(read_only=True) == outside)
# The map of --userns private has no ID for one of the owners.
print([line for line in stat(userns="private") if line not in outside])
script = f"touch {places['1777']}/x {places['2750']}/x x && cat {places['700']}/x"
ended = run("sh", "-c", script, user="1000", workdir=notebook)
print(sum(change.kind == "A" for change in ended.changes), ended.stderr.split(": ")[-1], end="")
"""


@pytest.mark.needs("root", "private")
def test_mounts_and_the_notebooks_directory_keep_mode_and_owner() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place, tempfile.TemporaryDirectory(dir="/tmp") as hidden:
        for directory in (place, hidden):
            os.chmod(directory, 0o755)
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", ATTRIBUTES, place, hidden],
            capture_output=True, text=True, check=False, cwd="/",
        )  # fmt: skip
    assert done.stderr == ""
    outside, private, written = done.stdout.splitlines()
    assert outside == "['1777 0 0', '700 0 0', '2750 1000 1001', '711 99999999 0', '2700 1000 1001'] True True"
    assert private == "['711 0 0']"
    assert written == "3 Permission denied"


BELOW_TMP = """
import sys
from jupyter_ns import run
from jupyter_ns.client import get_client
from jupyter_ns.runner import Cell, Run, Sink
from jupyter_ns.spec import ContainerSpec
notebook = sys.argv[1] + "/notebook"
script = "pwd; ls; cat data/x; echo; touch own data/own 2>&1 | cut -d: -f3 | cut -c 2-"
for options in ({}, {"userns": "private"}, {"volume": f"{notebook}:{notebook}"}):
    ended = run("sh", "-c", script, workdir=notebook, **options)
    said = [line.replace(notebook, "…") for line in ended.weakened if notebook in line]
    print(*ended.stdout.replace(notebook, "…").splitlines(), said)
spec = ContainerSpec(python=True, workdir=notebook)
ended = Run(get_client(), spec, Sink()).execute(cell=Cell(source="open('here').read()"))
print(ended.value, run("sh", "-c", "touch new && ls", workdir=f"{notebook}/sub").stdout.split())
"""


@pytest.mark.needs("root", "userns")
def test_an_ordinary_users_notebook_below_tmp_with_mounts_below_it() -> None:
    """What a mount covers is not to be seen by who may not take it away: so no overlay shows the directory alone."""
    mounts = ("mount --bind $HOME/notebook/elsewhere $HOME/notebook/data", "mount -t proc proc $HOME/notebook/proc")
    with ordinary_user(mounts) as (directory, run):
        notebook = directory / "notebook"
        for name in ("data", "sub", "proc", "elsewhere"):
            (notebook / name).mkdir(parents=True)
            (notebook / name).chmod(0o777)
        notebook.chmod(0o777)
        (notebook / "here").write_text("a file")
        (notebook / "elsewhere/x").write_text("mounted")
        done = run(BELOW_TMP, directory)
        assert sorted(path.name for path in notebook.rglob("own")) == ["own", "own"]  # by way of the volume
    assert done.stderr == ""
    reason = "…/data is mounted below it, and an ordinary user may show both only together"
    weakened = [f"… is read-only inside: {reason}; -v …:… gives it as it is"]
    seen = "… data elsewhere here proc sub mounted"
    refused = f"{seen} Read-only file system Read-only file system {weakened}"
    assert done.stdout.splitlines() == [refused, refused, f"{seen} []", "a file ['new']"]


@pytest.mark.needs("root")
def test_roots_notebook_below_tmp_has_its_mounts(tmp_path: Path) -> None:
    """Copy-on-write too, where that can be; in a mount namespace of its own, which goes with the script."""
    for name in ("notebook/data", "notebook/ro", "notebook/proc"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "notebook/file").touch()
    (tmp_path / "other").write_text("mounted")
    script = """
    cd $0/notebook
    mount -t tmpfs -o mode=0700 data data && echo x > data/x
    mount -t tmpfs ro ro && echo y > ro/y && mount -o remount,ro ro
    mount -t proc proc proc
    mount --bind ../other file
    exec $1 -c "$2"
    """
    source = """
from os import listdir
from jupyter_ns import run
command = "cat data/x ro/y file; stat -c ' %a' data; ls proc/version; for d in data ro; do echo > $d/new && ls $d; done"
ended = run("sh", "-c", command)
print(*ended.stdout.split(), *(f"{c.kind} {c.path}" for c in ended.changes), *listdir("data"), *ended.weakened, sep="|")
"""
    command = ["unshare", "-m", "sh", "-ec", script, str(tmp_path), sys.executable, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == ""
    said = done.stdout.replace(f"{tmp_path}/notebook/", "").strip().split("|")
    assert said[:8] == ["x", "y", "mounted", "700", "proc/version", "new", "x", "A data/new"]
    assert said[8] == "x"  # on the host
    readonly = {"file": "it is a mounted file", "proc": "it is proc", "ro": "it is so on the host"}
    assert sorted(said[9:]) == [
        f"{path} is read-only inside: {why}; -v {path}:{path} gives it as it is" for path, why in readonly.items()
    ]


def test_an_error_names_the_entry_point() -> None:
    with pytest.raises(ContainerExitError, match="'/nosuch sh' ended with exit code 127"):
        run("sh", entrypoint="/nosuch", check=True)


def test_a_volume_where_nothing_can_be_made_says_so() -> None:
    with pytest.raises(SetupError, match="nothing can be made there"):
        run("true", volume="/etc/hostname:/proc/1/x")


# ---- a defect of ours ----


def test_a_defect_ends_one_request_and_not_the_engine() -> None:
    client = get_client()
    heard: list[tuple[Kind, Any]] = []
    client.subscribe("broken", lambda kind, payload: heard.append((kind, payload)))
    client.send(Kind.RUN, "broken", {"request": pack({"spec": {"no_such_field": 1}}), "life": {}})
    assert client.wait(lambda: bool(heard), until=time.monotonic() + 20)
    client.unsubscribe("broken")
    (kind, error), pid = heard[0], client.pid
    assert kind is Kind.ERROR and "a defect in jupyter_ns: TypeError" in error["message"]
    assert sh("echo alive").stdout == "alive\n" and get_client().pid == pid


def test_a_blank_that_was_just_killed_is_replaced(engine: Callable[[], EngineClient]) -> None:
    run("true")
    pid = engine().pid
    assert soon(lambda: len(_waiting(pid)) == 2)  # the blank, and one for the same words
    waiting = _waiting(pid)

    def kill() -> None:
        for child in waiting:
            os.kill(child, signal.SIGKILL)
            assert soon(lambda: state_of(child) == "Z")  # noqa: B023
        os.kill(pid, signal.SIGCONT)

    os.kill(pid, signal.SIGSTOP)  # the engine hears of the request before it hears of the end
    later = threading.Timer(0.3, kill)
    later.start()
    assert run("echo", "another").stdout == "another\n"
    later.join()


def _waiting(engine: int) -> list[int]:
    """Return the engine's children that sleep in a PID namespace of their own."""
    own = os.stat("/proc/self/ns/pid").st_ino
    return [p for p in children_of(engine) if os.stat(f"/proc/{p}/ns/pid").st_ino != own and state_of(p) == "S"]
