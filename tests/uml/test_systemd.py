"""An ordinary user with systemd: a real user manager on a real bus gives the engine a delegated scope."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import guest
import pytest

ROOT = Path(__file__).parents[2]
USER = 65534
MANAGER = Path("/lib/systemd/systemd")
BUS_UNIT = Path("/usr/lib/systemd/user/dbus.socket")
pytestmark = pytest.mark.rung("user-systemd")

# As a login has it: the manager owns its own subtree, the notebook's cgroup beside it is nobody's to change, and
# processes may be moved between the two. The directory is how systemd's parts see that systemd is there.
SETUP = f"""
s=/sys/fs/cgroup/session
mkdir -p $s/manager /run/systemd/system /run/user/{USER}
chown -R {USER}:{USER} $s/manager /run/user/{USER}
chown {USER} $s/cgroup.procs $s/notebook/cgroup.procs
(
    echo 0 > $s/manager/cgroup.procs
    exec setpriv --reuid={USER} --regid={USER} --clear-groups env -i HOME=/tmp PATH=/usr/bin:/bin \
        XDG_RUNTIME_DIR=/run/user/{USER} {MANAGER} --user
) > /tmp/manager.log 2>&1 &
for i in $(seq 300); do [ -S /run/user/{USER}/bus ] && break; sleep 0.1; done
"""
ASK = """
import glob, json, os, time
from jupyter_ns.api import run
from jupyter_ns.client import close_client, get_client
pid = get_client().pid
c = run("true", memory="64m", cpus=0.5)
with open(f"/proc/{pid}/cgroup") as f:
    stands = f.read().strip()
close_client()
scopes = f"/sys/fs/cgroup/session/manager/*/jupyter_ns-{pid}.scope"
deadline = time.monotonic() + 20
while glob.glob(scopes) and time.monotonic() < deadline:
    time.sleep(0.1)  # systemd removes it in its own time
print("ANSWER", json.dumps({"pid": pid, "stands": stands, "files": [r.file for r in c.limits],
    "effective": [r.effective for r in c.limits], "left": glob.glob(scopes)}))
"""


@pytest.fixture(autouse=True, scope="module")
def _systemd() -> None:
    reason = guest.missing()
    if not reason and not (MANAGER.exists() and BUS_UNIT.exists()):
        reason = "no systemd with a bus for users: apt-get install systemd dbus-user-session"
    if reason and "uml" in os.environ.get("JUPYTER_NS_EXPECT", "").split(","):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def test_the_engine_is_given_a_scope_and_it_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    environ = [f"PYTHONPATH={ROOT}", "PYTHONDONTWRITEBYTECODE=1", "HOME=/tmp", f"XDG_RUNTIME_DIR=/run/user/{USER}"]
    unset = ["-u", "DBUS_SESSION_BUS_ADDRESS"]
    done = guest.run(
        ["env", *unset, *environ, sys.executable, "-c", ASK], uid=USER, delegated=False, setup=SETUP, timeout_s=200
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert answers, done.stdout
    answer = json.loads(answers[0].removeprefix("ANSWER "))
    assert answer["stands"] == f"0::/session/manager/app.slice/jupyter_ns-{answer['pid']}.scope/engine"
    assert answer["files"] == ["memory.max", "memory.swap.max", "cpu.max"]
    assert answer["effective"] == [str(64 << 20), str(64 << 20), "50000 100000"]
    assert answer["left"] == []
