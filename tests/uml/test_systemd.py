"""An ordinary user with systemd: a real user manager on a real bus gives the engine a delegated scope."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import guest
import manager
import pytest
from manager import USER

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.rung("user-systemd"), pytest.mark.timeout(900)]

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
deadline = time.monotonic() + 60
while glob.glob(scopes) and time.monotonic() < deadline:
    time.sleep(0.1)  # systemd removes it in its own time
print("ANSWER", json.dumps({"pid": pid, "stands": stands, "files": [r.file for r in c.limits],
    "effective": [r.effective for r in c.limits], "left": glob.glob(scopes)}))
"""


@pytest.fixture(autouse=True, scope="module")
def _systemd() -> None:
    reason = guest.missing() or manager.missing()
    if reason and "uml" in os.environ.get("JUPYTER_NS_EXPECT", "").split(","):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def test_the_engine_is_given_a_scope_and_it_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    environ = [*manager.ENVIRON, f"PYTHONPATH={ROOT}", "PYTHONDONTWRITEBYTECODE=1", "HOME=/tmp"]
    done = guest.run(["env", *environ, sys.executable, "-c", ASK], uid=USER, delegated=False, setup=manager.SETUP)
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert answers, done.stdout
    answer = json.loads(answers[0].removeprefix("ANSWER "))
    assert answer["stands"] == f"0::/session/manager/app.slice/jupyter_ns-{answer['pid']}.scope/engine"
    assert answer["files"] == ["memory.max", "memory.swap.max", "cpu.max"]
    assert answer["effective"] == [str(64 << 20), str(64 << 20), "50000 100000"]
    assert answer["left"] == []
