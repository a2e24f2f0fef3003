"""The same on another kernel: pure cgroup version 2, as root and as an ordinary user, in a user-mode Linux guest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import guest
import pytest

ROOT = Path(__file__).parents[2]
USER = 65534
pytestmark = pytest.mark.timeout(900)
PYTEST = (
    "-m",
    "pytest",
    "-q",
    "-p",
    "no:cacheprovider",
    "--color=no",
    "--tb=short",
    "-W",
    "ignore::pytest.PytestWarning",
)


@pytest.fixture(autouse=True, scope="module")
def _guest() -> None:
    reason = guest.missing()
    if reason and "uml" in os.environ.get("JUPYTER_NS_EXPECT", "").split(","):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def run_python(
    *arguments: str, uid: int = 0, delegated: bool = True, setup: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run this interpreter on arguments in a guest, from the project's directory."""
    command = ["env", f"PYTHONPATH={ROOT}", "PYTHONDONTWRITEBYTECODE=1", "HOME=/tmp", "JUPYTER_NS_EXPECT="]
    here = os.getcwd()
    os.chdir(ROOT)
    try:
        return guest.run([*command, sys.executable, *arguments], uid=uid, delegated=delegated, setup=setup)
    finally:
        os.chdir(here)


def evaluate(code: str, *, uid: int = 0, delegated: bool = True) -> list[str]:
    """Run code that begins with the usual import; return the lines it printed."""
    done = run_python("-c", f"from jupyter_ns.api import run\n{code}", uid=uid, delegated=delegated)
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


@pytest.mark.rung("root-v2")
def test_command_status_and_output_come_back() -> None:
    done = guest.run(["sh", "-c", "cat /proc/self/cgroup; echo oops >&2; exit 7"])
    assert done.returncode == 7
    assert done.stdout.splitlines() == ["0::/session/notebook", "oops"]


@pytest.mark.rung("root-v2")
def test_what_a_guest_writes_stays_there(tmp_path: Path) -> None:
    done = guest.run(["sh", "-c", f"echo inside > {tmp_path}/file && cat {tmp_path}/file"])
    assert (done.returncode, done.stdout) == (0, "inside\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.rung("root-v2")
def test_root_on_pure_version_2() -> None:
    done = run_python(*PYTEST, "tests/kernel/test_isolation.py", "tests/kernel/test_cgroups.py")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.rung("root-v2")
def test_networks_of_root() -> None:
    done = run_python(*PYTEST, "tests/kernel/test_networks.py")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.rung("user-v2")
def test_networks_of_an_ordinary_user() -> None:
    done = run_python(*PYTEST, "tests/kernel/test_networks.py", uid=USER)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.rung("root-v2")
def test_limits_on_pure_version_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as f:
        f.truncate(64 << 20)
    monkeypatch.setenv("UML_KARGS", f"{os.environ.get('UML_KARGS', '')} ubd0={image}")
    done = run_python(*PYTEST, "tests/kernel/test_limits.py", "-k", "not example")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.rung("user-v2")
def test_user_with_a_delegated_cgroup() -> None:
    done = run_python(*PYTEST, "tests/kernel/test_isolation.py", uid=USER)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


OOM = """
import sys
c = run(sys.executable, "-c", "x = []\\nwhile True: x.append(bytearray(1 << 20))", memory="64m")
print(c.reason, c.exit_code, [r.file for r in c.limits if r.name == "memory_bytes"])
"""


@pytest.mark.parametrize(
    ("uid", "delegated", "file"),
    [
        pytest.param(0, True, "memory.max", marks=pytest.mark.rung("root-v2")),
        pytest.param(USER, True, "memory.max", marks=pytest.mark.rung("user-v2")),
        pytest.param(USER, False, "watched", marks=pytest.mark.rung("user-none")),
    ],
)
def test_out_of_memory(uid: int, delegated: bool, file: str) -> None:
    lines = evaluate(OOM, uid=uid, delegated=delegated)
    assert lines[-1] == f"oom 137 ['{file}']"


IMAGES = """
import os, shlex, tempfile, time
os.environ["JUPYTER_NS_DATA"] = tempfile.mkdtemp()
from jupyter_ns.frontend.commands import table
from jupyter_ns.frontend.commands.console import Console
def docker(line, cell=None):
    table.dispatch(Console(cell=cell), shlex.split(line))
docker("build -q -t made -", "FROM busybox\\nRUN echo one > /one; chmod 600 /one\\nWORKDIR /w\\n")
c = run("sh", "-c", "cat /one > two; echo up; exec sleep 100", image="made", detach=True)
while not c.logs():
    time.sleep(0.02)
docker(f"commit {c.name} again")
print(run("sh", "-c", "cat /one two; pwd", image="again").stdout.split())
"""


@pytest.mark.rung("user-v2")
def test_images_of_a_user_with_a_delegated_cgroup() -> None:
    lines = evaluate(IMAGES, uid=USER)
    assert lines[2:] == ["['one', 'one', '/w']"]  # and nothing about a container that would not stand still


@pytest.mark.rung("root-v2")
def test_a_private_user_namespace_is_refused_where_owners_cannot_be_mapped() -> None:
    """The guest's root is hostfs, which takes no ID-mapped mounts."""
    code = 'try:\n    run("true", userns="private")\nexcept Exception as e:\n    print(type(e).__name__, e)'
    assert evaluate(code)[-1].startswith(
        "UnsupportedError --userns private: open_tree, mount_setattr(MOUNT_ATTR_IDMAP)"
    )


@pytest.mark.rung("user-none")
def test_without_delegation_cpus_are_refused_with_the_fix() -> None:
    code = 'try:\n    run("true", cpus=0.5)\nexcept Exception as e:\n    print(type(e).__name__, e)'
    lines = evaluate(code, uid=USER, delegated=False)
    assert lines[-1].startswith("UnsupportedError --cpus")
    assert "Delegate=yes" in lines[-1]


@pytest.mark.rung("user-none")
def test_tasks_over_the_limit_end_the_container_without_delegation() -> None:
    script = "for i in 1 2 3 4 5 6; do sleep 9 & done; wait"
    code = f'c = run("sh", "-c", "{script}", pids_limit=3)\nprint(c.reason, c.weakened)'
    lines = evaluate(code, uid=USER, delegated=False)
    assert lines[-1].startswith("killed [")
    assert "--pids-limit" in lines[-1]


AGAIN = """
import time
c = run("sh", "-c", "echo x >> /tmp/f; cat /tmp/f; exec sleep 100", detach=True)
mounts = []
for lines in (1, 3, 6):
    while c.logs().count("x") < lines: time.sleep(0.02)
    mounts.append(c.exec("sh", "-c", "wc -l < /proc/self/mountinfo; echo x > /dev/null && wc -l < /proc/keys").stdout)
    if lines < 6: c.stop(timeout=0).start()
print(len(set(mounts)), mounts[0].split()[1])
c.remove(force=True)
"""


@pytest.mark.parametrize(
    "uid",
    [
        pytest.param(0, marks=pytest.mark.rung("root-v2")),
        pytest.param(USER, marks=pytest.mark.rung("user-v2")),
    ],
)
def test_started_again_it_has_what_it_wrote_and_no_mounts_more(uid: int) -> None:
    assert evaluate(AGAIN, uid=uid) == ["1 0"]


JOINING = """
from jupyter_ns import namespaces
from jupyter_ns.errors import UnsupportedError
options = {"detach": True, "workdir": "/"}
web = run("sh", "-c", "echo of-web > /dev/shm/x; exec sleep 1000", name="web", ipc="shareable", **options)
kinds = ("network", "ipc") + PID
side = run("sleep", "1000", **{kind: "container:web" for kind in kinds}, **options)
for _ in range(2):
    a, b = namespaces.read(web.pid), namespaces.read(side.pid)
    print(*sorted({k for k in a if a[k] == b[k]} - {"user"}), side.exec("cat", "/dev/shm/x").stdout.strip())
    side.stop(timeout=0).start()
try:
    print(run("true", pid="container:web", workdir="/").exit_code)
except UnsupportedError as e:
    print(str(e).partition(":")[0], "docker exec" in str(e))
web.exec("true")
side.remove(force=True)
web.remove(force=True)
"""


@pytest.mark.rung("root-v2")
def test_namespaces_of_another_container() -> None:
    code = JOINING.replace("PID", '("pid",)')
    assert evaluate(code) == ["ipc network pid of-web", "ipc network pid of-web", "0"]


@pytest.mark.rung("user-v2")
def test_namespaces_of_another_container_of_an_ordinary_user() -> None:
    found = evaluate(JOINING.replace("PID", "()"), uid=USER)
    assert found == ["ipc network of-web", "ipc network of-web", "--pid container True"]
