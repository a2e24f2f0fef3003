"""``--on guest``: the same engine in a user-mode Linux guest, and what is left when one of its processes dies."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jail
import nbformat
import pytest

from jupyter_ns import checkup, doctor
from jupyter_ns.api import run
from jupyter_ns.client import EngineClient, close_client, get_client
from jupyter_ns.errors import ContainerError, EngineError, UnsupportedError, UsageError
from jupyter_ns.frontend.commands import table
from jupyter_ns.frontend.commands.console import Console
from jupyter_ns.guest import kernel
from jupyter_ns.guest.keeper import PREFIX
from jupyter_ns.lifecycle import ask, ask_all
from jupyter_ns.options import parse
from jupyter_ns.runner import Cell, Run, Sink
from jupyter_ns.spec import ContainerSpec

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "notebooks" / "00-quickstart.ipynb"
BIN = Path(sys.executable).parent
pytestmark = pytest.mark.rung("guest")
PROMISED = os.environ.get("JUPYTER_NS_EXPECT", "").split(",")


def skip_or_fail(reason: str) -> None:
    if "uml" in PROMISED:
        pytest.fail(reason)
    pytest.skip(reason)


def guest_processes(directory: Path) -> set[int]:
    """Return the processes on this machine that are guests booted from a directory; others may run here too."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"init={directory}/{PREFIX}".encode() in path.read_bytes():
                found.add(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended meanwhile
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)  # nothing tells of the end of somebody else's process
    return condition()


@pytest.fixture(autouse=True, scope="module")
def _place(private_tmp: Path) -> Iterator[None]:
    try:
        kernel.find_kernel(os.environ)
    except UnsupportedError as e:
        skip_or_fail(str(e))
    yield
    close_client("guest")  # the other engine is the session's
    assert wait_for(lambda: not guest_processes(private_tmp))
    assert [p.name for p in private_tmp.iterdir() if p.name.startswith(PREFIX)] == []


def docker_lines(*lines: str) -> list[str]:
    """Carry out Docker's lines; return what each printed, or its error."""
    printed = []
    for line in lines:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                table.dispatch(Console(), shlex.split(line))
            except ContainerError as e:
                print(e)
        printed.append(out.getvalue().strip())
    return printed


@pytest.fixture
def guest() -> EngineClient:
    client = get_client("guest")
    assert client.facts.guest
    return client


# ---- containers are real there ----


@pytest.mark.usefixtures("guest")
def test_networks_are_those_of_the_guest() -> None:
    try:
        c = run("cat", "/sys/class/net/eth0/address", "/etc/hosts", on="guest", network="bridge", net_rate="1mbit")
    except UnsupportedError as e:
        assert "networks need" in str(e) and "CONFIG_" in str(e)
        return
    assert c.stdout.startswith("02:42:ac:11:00:02\n127.0.0.1\tlocalhost\n")
    assert {r.effective for r in c.limits if r.name == "net_rate_bps"} == {"125000"}


@pytest.mark.usefixtures("guest")
def test_another_kernel_with_real_namespaces_and_cgroups() -> None:
    c = run("sh", "-c", "uname -r; echo $$; cat /sys/fs/cgroup/memory.max", on="guest", memory="64m")
    release, pid, limit = c.stdout.split()
    assert release != os.uname().release
    assert (pid, limit) == ("1", str(64 << 20))
    assert [r.file for r in c.limits if r.name == "memory_bytes"] == ["memory.max"]
    assert any(f"user-mode Linux {release}" in line and "booted in" in line for line in c.weakened)
    assert {kind for kind, ids in c.namespaces.items() if ids.isolated} >= {"pid", "mount", "network", "uts", "ipc"}


@pytest.mark.usefixtures("guest")
def test_out_of_memory_is_the_guests_kernels_doing() -> None:
    hoard = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    c = run(sys.executable, "-S", "-c", hoard, on="guest", memory="48m")
    assert (c.reason, c.exit_code) == ("oom", 137)


@pytest.mark.usefixtures("guest")
def test_a_limit_above_the_guests_own_memory_is_flagged() -> None:
    above = run("true", on="guest", memory="40g").weakened
    assert any("--memory 40GiB is more than the guest's own" in line and kernel.MEMORY in line for line in above)
    assert not any("--memory" in line for line in run("true", on="guest", memory="64m").weakened)


@pytest.mark.usefixtures("guest")
def test_dockers_lines_find_a_container_wherever_it_is() -> None:
    run("sleep", "100", on="guest", detach=True, name="inside")
    run("sleep", "100", detach=True, name="outside")
    try:
        assert {row["name"]: row["state"] for row in ask_all("list")} == {"inside": "running", "outside": "running"}
        shown = docker_lines("ps --format {{.Names}}", "exec inside uname -r", "exec outside uname -r", "top inside")
        names, inside, outside, top = shown
        assert set(names.split()) == {"inside", "outside"}
        assert inside != outside == os.uname().release
        assert "sees no process of a guest" in top
    finally:
        for name in ("inside", "outside"):
            ask("remove", of=name, force=True)
    assert ask_all("list") == []


@pytest.mark.usefixtures("guest")
def test_files_are_copied_on_write_and_a_volume_is_the_hosts(tmp_path: Path) -> None:
    kept, lost = tmp_path / "kept", tmp_path / "lost"
    kept.mkdir(), lost.mkdir()
    script = f"echo one > {kept}/file; echo two > {lost}/file; cat {kept}/file {lost}/file"
    c = run("sh", "-c", script, on="guest", volume=[f"{kept}:{kept}"], workdir=str(tmp_path))
    assert c.stdout == "one\ntwo\n", c.stderr
    assert (kept / "file").read_text() == "one\n"
    assert list(lost.iterdir()) == []
    assert (kept / "file").stat().st_uid == os.getuid()


def test_a_python_cell_and_its_variables(guest: EngineClient) -> None:
    data = random.Random(1).randbytes(3 << 20)
    source = "import hashlib\ndigest = hashlib.sha256(data).hexdigest()\nback = data[::-1]"
    running = Run(guest, ContainerSpec(python=True, workdir="/"), Sink())
    c = running.execute(cell=Cell(source=source, variables={"data": data}, out=("digest", "back")))
    assert c.exit_code == 0
    assert running.outputs == {"digest": hashlib.sha256(data).hexdigest(), "back": data[::-1]}


@pytest.mark.usefixtures("guest")
def test_every_byte_comes_back_as_it_was() -> None:
    data = random.Random(2).randbytes(1 << 20)
    c = run("sh", "-c", "tee /tmp/copy | sha256sum; base64 -w0 < /tmp/copy | sha256sum", input=data, on="guest")
    assert c.stdout.split()[0] == hashlib.sha256(data).hexdigest()
    everything = bytes(range(256)) * 16
    script = "import sys; sys.stdout.buffer.write(bytes(range(256)).hex().encode())"
    c = run("cat", input=everything.hex(), on="guest")
    assert c.stdout == everything.hex()
    c = run(sys.executable, "-S", "-c", script, on="guest")
    assert bytes.fromhex(c.stdout) == bytes(range(256))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--on", "moon", "sh"], "--on 'moon': expected one of host, guest"),
        (["--on", "guest", "--network", "host", "sh"], "--network host: conflicts with --on guest"),
        (["--on", "guest", "-p", "80", "sh"], "--publish: conflicts with --on guest"),
        (["--on", "guest", "--state", "fork"], "--state fork: conflicts with --on guest"),
    ],
)
def test_what_a_guest_cannot_have_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(words, cwd="/", environ={}, host_cpus=2)


@pytest.mark.usefixtures("guest")
def test_the_doctor_says_that_it_is_a_guest() -> None:
    rows = {row.ability: row for row in checkup.examine("guest")}
    assert rows["containers"].state == doctor.YES, rows["containers"]
    assert "user-mode Linux" in rows["guest kernel"].evidence
    assert "system call" in rows["guest kernel"].cost
    assert rows["limit: memory"].evidence.startswith("controller memory of cgroup version 2")


IN_IPYTHON = """
ip = get_ipython()
ip.run_line_magic("load_ext", "jupyter_ns")
ip.run_line_magic("config", "ContainerMagics.on = 'guest'")
from jupyter_ns import run
print("RELEASE", run("uname", "-r").stdout.strip())
ip.run_cell_magic("container", "--quiet sh", "echo RELEASE $(uname -r)")
ip.run_cell_magic("container", "--quiet --on host sh", "echo RELEASE $(uname -r)")
ip.run_line_magic("namespaces", "")
ip.run_cell_magic("container", "--quiet sh", "true")
ip.run_line_magic("namespaces", "")
"""


def test_config_makes_it_the_default(tmp_path: Path) -> None:
    environ = {**os.environ, "IPYTHONDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", "-c", IN_IPYTHON]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=200)
    releases = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("RELEASE")]
    assert len(releases) == 3, done.stdout + done.stderr
    assert releases[0] == releases[1] != os.uname().release == releases[2]
    heads = [line.split() for line in done.stdout.splitlines() if line.startswith("namespace ")]
    assert [head[1] for head in heads] == ["kernel", "guest"], done.stdout


# ---- whatever dies first ----

STARTS_ONE = """
import sys, time
from jupyter_ns.client import get_client
client = get_client("guest")
client.facts
print(client.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a process with a guest; give it and its keeper's PID."""
    environ = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", STARTS_ONE], env=environ, stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout is not None
        keeper = int(p.stdout.readline())
        yield p, keeper
        p.kill()


def runs(pid: int) -> bool:
    """Whether a process is there and is no zombie: an orphan's is there until the machine's init looks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found |= {int(stat.parent.name)} | descendants(int(stat.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended meanwhile
    return found


@pytest.mark.parametrize("victim", ["notebook", "keeper"])
def test_nothing_is_left_when_one_is_killed(
    victim: str, notebook: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    process, keeper = notebook
    doomed = {keeper} | descendants(keeper)
    assert len(doomed) > 2, "a keeper, a guest and its processes"
    assert list(tmp_path.iterdir()) == []  # not even now
    os.kill(process.pid if victim == "notebook" else keeper, signal.SIGKILL)
    assert wait_for(lambda: not any(map(runs, doomed)))
    assert list(tmp_path.iterdir()) == []


def test_a_guest_that_dies_is_an_error_and_the_next_is_a_new_one(guest: EngineClient, private_tmp: Path) -> None:
    (child,) = [pid for pid in guest_processes(private_tmp) if parent(pid) == guest.pid]
    doomed = descendants(guest.pid)
    os.kill(child, signal.SIGKILL)
    with pytest.raises(EngineError, match="the guest kernel ended"):
        run("true", on="guest")
    assert wait_for(lambda: not any(map(runs, doomed)))
    assert run("echo", "again", on="guest").stdout == "again\n"


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# ---- hosts on which no guest boots ----


def shell(script: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "-m", "sh", "-ec", script], env={**os.environ, **environ}, capture_output=True, text=True
    )


def test_without_a_kernel_the_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="apt-get install user-mode-linux"):
        kernel.find_kernel({"PATH": str(tmp_path), "HOME": str(tmp_path)})
    with pytest.raises(UnsupportedError, match="no executable file"):
        kernel.find_kernel({kernel.KERNEL: str(tmp_path)})


def test_its_memory_is_of_a_size_and_in_a_place_that_a_kernel_takes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{kernel.MEMORY}=lots: expected"):
        kernel.find_memory({kernel.MEMORY: "lots"})
    with pytest.raises(UnsupportedError, match="192MiB of memory or more"):
        kernel.find_memory({kernel.MEMORY: "64m"})
    with pytest.raises(UnsupportedError, match="no blanks or quotes"):
        kernel.find_memory({"TMPDIR": f"{tmp_path}/a b"})
    assert kernel.find_memory({kernel.MEMORY: "200m", "TMPDIR": str(tmp_path)}) == (str(tmp_path), 200 << 20)


@pytest.mark.parametrize(
    ("options", "reason"), [("noexec", "mounted noexec"), ("size=8m", "192MiB needed"), ("ro", "Read-only")]
)
def test_where_its_memory_cannot_lie_is_said(options: str, reason: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        skip_or_fail("mounting a tmpfs needs root")
    script = f"mount -t tmpfs -o {options} none {tmp_path}; {BIN}/jupyter-ns run --on guest true"
    done = shell(script, TMPDIR=str(tmp_path))
    assert done.returncode == 125, done.stderr
    assert "nowhere to put the guest's memory" in done.stderr
    assert reason in done.stderr


def test_what_is_no_kernel_does_not_boot_and_its_words_are_shown(tmp_path: Path) -> None:
    fake = tmp_path / "linux"
    fake.write_text("#!/bin/sh\necho I am no kernel\n")
    fake.chmod(0o755)
    environ = {**os.environ, kernel.KERNEL: str(fake), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [BIN / "jupyter-ns", "run", "--on", "guest", "true"], env=environ, capture_output=True, text=True
    )
    assert done.returncode == 125
    assert "the guest kernel did not boot" in done.stderr
    assert "I am no kernel" in done.stderr
    assert os.listdir(tmp_path) == ["linux"]


def test_an_overlay_is_the_last_choice_for_its_memory_and_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container of ours, all but /tmp is an overlay."""
    code = "from jupyter_ns.guest.kernel import on_overlay; print(*map(on_overlay, ('/tmp', '/var/tmp', '/missing')))"
    assert run(sys.executable, "-c", code, env=[f"PYTHONPATH={ROOT}"]).stdout == "False True False\n"
    monkeypatch.setattr(kernel, "on_overlay", lambda directory: directory == "/tmp")
    environ = {kernel.MEMORY: "200m"}
    assert kernel.find_memory(environ).directory != "/tmp"
    assert kernel.find_memory(environ).drawback == ""
    assert "a mapping of its own" in kernel.find_memory({**environ, "TMPDIR": "/tmp"}).drawback


# ---- in an unprivileged container ----


@pytest.fixture
def _jail() -> None:
    if jail.missing():
        skip_or_fail(jail.missing())


@pytest.mark.usefixtures("_jail")
def test_a_jail_refuses_by_default_and_names_the_way_through(tmp_path: Path) -> None:
    done = jail.run([str(BIN / "jupyter-ns"), "run", "true"], tmp_path)
    assert done.returncode == 125
    assert "unshare(CLONE_NEWUSER): Operation not permitted" in done.stderr
    assert "--on guest" in done.stderr
    done = jail.run([str(BIN / "jupyter-ns"), "doctor", "--json"], tmp_path)
    assert done.returncode == 1, done.stderr
    rows = {row["ability"]: row for row in json.loads(done.stdout)}
    assert rows["containers"]["state"] == doctor.NO
    assert rows["guest kernel"]["state"] == doctor.YES


@pytest.mark.usefixtures("_jail")
@pytest.mark.timeout(1200)
def test_the_quickstart_runs_in_a_jail(tmp_path: Path) -> None:
    data = tmp_path / "data"
    profile = data / ".ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_config.py").write_text('c.ContainerMagics.on = "guest"\n')
    (data / "in.ipynb").write_bytes(QUICKSTART.read_bytes())
    for path in data.rglob("*"):
        os.chown(path, jail.UID, jail.UID)
    execute = (
        "import nbformat, nbclient; n = nbformat.read('in.ipynb', 4);"
        "nbclient.NotebookClient(n, timeout=900).execute(); nbformat.write(n, 'out.ipynb')"
    )
    done = jail.run([sys.executable, "-c", execute], tmp_path, timeout_s=1100)
    assert done.returncode == 0, done.stderr
    cells = [cell for cell in nbformat.read(data / "out.ipynb", 4).cells if cell.cell_type == "code"]
    for cell in cells:
        errors = [output.ename for output in cell.outputs if output.output_type == "error"]
        on_purpose = "raises-exception" in cell.metadata.get("tags", [])
        assert errors == (["ContainerOOMError"] if on_purpose else []), cell.outputs
    cards = [
        o.data["text/plain"] for c in cells for o in c.outputs if c.source.startswith("%%container") and "data" in o
    ]
    assert any("user-mode Linux" in card for card in cards), cards
    images = [o for c in cells for o in c.outputs if "image/png" in o.get("data", {})]
    assert images
