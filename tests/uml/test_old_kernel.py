"""Linux 5.10, with neither cgroup.kill, memory.peak, mount_setattr nor overlays for users: fallbacks, or refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import guest
import pytest
from test_crippled import ASK, USER
from test_guest import PYTEST

ROOT = Path(__file__).parents[2]
ENVIRON = ("env", f"PYTHONPATH={ROOT}", "PYTHONDONTWRITEBYTECODE=1", "HOME=/tmp", "TMPDIR=", "JUPYTER_NS_EXPECT=")
ON_A_READ_ONLY_DISK = "not changes_added and not opt/kmsg"
"""The guest's /usr and /opt are read-only, so these cannot be tried there."""
SHOWN = """
from jupyter_ns.api import run
from jupyter_ns.errors import ContainerError
def attempt(*words, **options):
    try:
        c = run(*words, **options)
        print("ANSWER", c.exit_code, c.reason, c.peak_memory_source or "-", "|", "; ".join(c.weakened))
    except ContainerError as e:
        print("ANSWER", type(e).__name__, e)
"""
pytestmark = [pytest.mark.rung("old-kernel"), pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def _old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    reason = guest.missing(guest.OLD_KERNEL)
    if reason and "uml-5.10" in os.environ.get("JUPYTER_NS_EXPECT", "").split(","):
        pytest.fail(reason)
    if reason:
        pytest.skip(f"{reason}: scripts/fetch-old-kernel")


def python(*arguments: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
    return guest.run(
        [*ENVIRON, sys.executable, *arguments], uid=uid, root="parts", kernel=guest.OLD_KERNEL, timeout_s=800
    )


def answers(code: str) -> list[str]:
    done = python("-c", SHOWN + code)
    found = [line.removeprefix("ANSWER ") for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert found, done.stdout
    return found


@pytest.mark.parametrize(
    "files",
    [("tests/kernel/test_isolation.py", "tests/kernel/test_cgroups.py"), ("tests/kernel/test_limits.py",)],
    ids=["isolation", "limits"],
)
def test_root(files: tuple[str, ...]) -> None:
    done = python(*PYTEST, *files, "-k", f"{ON_A_READ_ONLY_DISK} and not example")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_what_it_lacks_is_replaced_or_refused_by_name() -> None:
    out_of_memory, private, time, read_only = answers(
        """
attempt("sh", "-c", "sleep 0.3; head -c 99m /dev/zero | tail", memory="64m")
attempt("true", userns="private")
attempt("true", time_offset="1h")
attempt("true", volume=["/usr:/u:ro"])
"""
    )
    assert out_of_memory.startswith("137 oom sampled memory.current | no time namespace")
    assert private.startswith("UnsupportedError --userns private: open_tree, mount_setattr(MOUNT_ATTR_IDMAP)")
    assert "ENOSYS" in private
    assert time.startswith("UnsupportedError --time-offset")
    assert read_only.startswith("0 exited")


def test_it_is_refused_as_a_guests_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an overlay of this machine's files shows cannot be opened there."""
    monkeypatch.setenv("JUPYTER_NS_UML", guest.OLD_KERNEL)
    command = [sys.executable, "-m", "jupyter_ns.cli"]
    done = subprocess.run([*command, "run", "--on", "guest", "true"], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (125, "")
    assert "no copy-on-write root: nothing can be opened in an overlay of hostfs" in done.stderr
    done = subprocess.run([*command, "doctor", "--on", "guest", "--json"], capture_output=True, text=True, timeout=200)
    rows = {row["ability"]: row for row in json.loads(done.stdout)}
    assert rows["containers"]["state"] == rows["copy-on-write root"]["state"] == "no"
    assert "too old" in rows["containers"]["fix"]


def test_an_ordinary_user_is_refused_and_told_why() -> None:
    done = python("-c", ASK, uid=USER)
    assert "ANSWER " in done.stdout, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    answer = json.loads(line.removeprefix("ANSWER "))
    rows = {row["ability"]: row for row in answer["rows"]}
    assert rows["containers"]["state"] == "no"
    assert "no copy-on-write root" in rows["containers"]["evidence"]
    assert "EPERM" in rows["containers"]["evidence"]
    assert "Linux 5.11" in rows["containers"]["fix"]
    assert (answer["code"], answer["output"], answer["left"]) == (125, "", [])
    assert "--on guest" in answer["error"]
