"""Hosts crippled on purpose, in a user-mode Linux guest: the doctor is right, and nothing is half built."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import guest
import pytest

ROOT = Path(__file__).parents[2]
USER = 65534
NO_NAMESPACES = "; ".join(
    f"echo 0 > /proc/sys/user/max_{kind}_namespaces" for kind in ("mnt", "pid", "net", "uts", "ipc")
)
FILTER = f"""
import sys
sys.path.insert(0, "{ROOT}/tests/on_guest")
import ctypes
import jail
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
sys.argv[1:] = [sys.executable] + sys.argv[1:]
exec(jail.FILTERED)
"""
"""Puts Docker's filter on, which refuses clone flags, and goes on as what its arguments say."""
ASK = """
import json, os, subprocess, sys
cli = [sys.executable, "-m", "jupyter_ns.cli"]
doctor = subprocess.run([*cli, "doctor", "--json"], capture_output=True, text=True)
run = subprocess.run([*cli, "run", "sh", "-c", "echo inside $$"], capture_output=True, text=True)
left = [d for d, _, _ in os.walk("/sys/fs/cgroup") if "jupyter_ns/" in d]
left += [p for p in os.listdir("/tmp") if p.startswith("jupyter_ns-guest")]
left += [line for line in open("/proc/self/mountinfo") if "jupyter_ns" in line and " overlay " in line]
print("ANSWER", json.dumps({
    "rows": json.loads(doctor.stdout) if doctor.stdout else doctor.stderr, "healthy": doctor.returncode == 0,
    "code": run.returncode, "output": run.stdout, "error": run.stderr, "left": left}))
"""


pytestmark = pytest.mark.rung("crippled")


@dataclass(frozen=True)
class Host:
    """How a host is crippled, and what the doctor must find."""

    name: str
    setup: str = ""
    uid: int = USER
    delegated: bool = True
    root: str = "overlay"
    filtered: bool = False
    works: bool = True
    rows: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Ability to state and a part of the evidence."""


HOSTS = (
    Host(
        "no access to cgroups",
        delegated=False,
        rows={"limit: CPU time": ("no", "not writable"), "limit: memory": ("weakened", "not writable")},
    ),
    Host(
        "cgroups mounted read-only",
        uid=0,
        setup="mount -o remount,bind,ro /sys/fs/cgroup",
        rows={"limit: CPU time": ("no", "EROFS")},
    ),
    Host(
        "no user namespaces",
        setup="echo 0 > /proc/sys/user/max_user_namespaces",
        works=False,
        rows={"containers": ("no", "unshare(CLONE_NEWUSER): No space left on device")},
    ),
    Host(
        "a filter that refuses clone flags",
        filtered=True,
        works=False,
        rows={"containers": ("no", "unshare(CLONE_NEWUSER): Operation not permitted")},
    ),
    Host(
        "user namespaces that are powerless",
        setup=NO_NAMESPACES,
        works=False,
        rows={"containers": ("no", "ENOSPC"), "mount namespace": ("no", "ENOSPC")},
    ),
    Host(
        "no overlay",
        uid=0,
        root="read-only",
        works=False,
        rows={"containers": ("no", "no copy-on-write root"), "copy-on-write root": ("no", "ENODEV")},
    ),
    Host(
        "a full disk",
        setup="mount -t tmpfs -o size=64k,mode=1777 none /tmp; cat /dev/zero > /tmp/full 2> /dev/null; "
        "mount -o remount,size=64k /dev/shm; mount -t tmpfs -o size=64k,mode=1777 none /var/tmp",
        rows={"guest kernel": ("no", "nowhere to put the guest's memory")},
    ),
    Host(
        "noexec /tmp",
        setup="mount -t tmpfs -o noexec,mode=1777 none /tmp; mount -o remount,noexec /dev/shm; "
        "mount -t tmpfs -o noexec,mode=1777 none /var/tmp",
        rows={"guest kernel": ("no", "mounted noexec")},
    ),
    Host("Linux 6.1, without time namespaces", uid=0, rows={"time namespace": ("weakened", "EINVAL")}),
)


@pytest.fixture(autouse=True, scope="module")
def _guest() -> None:
    reason = guest.missing()
    if reason and "uml" in os.environ.get("JUPYTER_NS_EXPECT", "").split(","):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def ask(host: Host) -> dict[str, Any]:
    """Boot the host; return what the doctor and a run say there."""
    environ = ["env", f"PYTHONPATH={ROOT}", "PYTHONDONTWRITEBYTECODE=1", "HOME=/tmp", "TMPDIR="]
    program = [sys.executable, *(("-c", FILTER) if host.filtered else ()), "-c", ASK]
    here = os.getcwd()
    os.chdir(ROOT)
    try:
        done = guest.run([*environ, *program], uid=host.uid, delegated=host.delegated, setup=host.setup, root=host.root)
    finally:
        os.chdir(here)
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert answers, done.stdout
    answer: dict[str, Any] = json.loads(answers[0].removeprefix("ANSWER "))
    return answer


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
def test_the_doctor_is_right_and_nothing_is_half_built(host: Host) -> None:
    answer = ask(host)
    assert isinstance(answer["rows"], list), answer["rows"]
    rows = {row["ability"]: row for row in answer["rows"]}
    for ability, (state, evidence) in host.rows.items():
        assert (rows[ability]["state"], evidence in rows[ability]["evidence"]) == (state, True), rows[ability]
        assert rows[ability]["cost"]
        assert rows[ability]["documentation"]
        assert rows[ability]["fix"]
    assert rows["containers"]["state"] == ("yes" if host.works else "no")
    assert answer["healthy"] == host.works
    assert (answer["code"], answer["output"]) == ((0, "inside 1\n") if host.works else (125, "")), answer["error"]
    assert answer["left"] == []
