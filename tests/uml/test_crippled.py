"""Hosts crippled on purpose, in a user-mode Linux guest: the doctor is right, and nothing is half built."""

from __future__ import annotations

import json
import os
import shutil
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
PROFILE = "\n".join(
    ["profile powerless flags=(attach_disconnected) {", "file,", "network,", "unix,", "ptrace,", "signal,", "mount,",
     "umount,", "pivot_root,", "change_profile,", "}"]
)  # fmt: skip
"""All that AppArmor mediates but `capability`, as Ubuntu's profile for user namespaces has it."""
PARSER = shutil.which("apparmor_parser", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
CONFINE = f"""
mount -t securityfs none /sys/kernel/security
echo '{PROFILE}' | {PARSER} --config-file=/dev/null -Q -K -S > /sys/kernel/security/apparmor/.load
"""
CONFINED = """
import os, sys
with open("/proc/self/attr/apparmor/exec", "w") as f:
    f.write("exec powerless")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Goes on as what its arguments say, below that profile."""
SETTING = "apparmor_restrict_unprivileged_userns"
UNABLE = """
import ctypes, os, struct, sys
# x86-64: nothing that needs a capability works but to make and map a user namespace.
CLONE3, UNSHARE, NEWUSER, EPERM = 435, 272, 0x10000000, 1
NEEDY = (165, 166, 155, 170, 171, 308, 161)  # mount, umount2, pivot_root, sethostname, setdomainname, setns, chroot
ALLOW, DENY = 0x7FFF0000, 0x00050000 | EPERM
def op(code, jt, jf, k): return struct.pack("HBBI", code, jt, jf, k)
code = op(0x20, 0, 0, 0)
for number in (*NEEDY, CLONE3):
    code += op(0x15, 0, 1, number) + op(6, 0, 0, DENY)
code += op(0x15, 0, 3, UNSHARE) + op(0x20, 0, 0, 16) + op(0x15, 1, 0, NEWUSER) + op(6, 0, 0, DENY)
code += op(6, 0, 0, ALLOW)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.byref(Program(len(code) // 8, code)), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
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


pytestmark = [pytest.mark.rung("crippled"), pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Host:
    """How a host is crippled, and what the doctor must find."""

    name: str
    setup: str = ""
    uid: int = USER
    delegated: bool = True
    root: str = "overlay"
    kargs: str = ""
    before: str = ""
    """Python that goes on as what its arguments say, once it has given something up."""
    works: bool = True
    rows: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Ability to state and a part of the evidence."""
    fix: str = ""
    """Of the row `containers`: how it begins."""
    lacks: str = ""
    """What the test lacks to make such a host here."""


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
        before=FILTER,
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
        "AppArmor: a user namespace may be made, and nothing in it",
        setup=CONFINE,
        kargs="apparmor=1 security=apparmor",
        before=CONFINED,
        works=False,
        rows={"containers": ("no", "powerless: /proc/self/setgroups: Permission denied; AppArmor confines")},
        fix="sudo aa-complain powerless",
        lacks="" if PARSER else "no apparmor_parser: apt-get install apparmor",
    ),
    Host(
        "the same where IDs can be mapped, with Ubuntu's setting",
        setup=f"mkdir /tmp/k; cp -r /proc/sys/kernel/[cn]* /tmp/k 2> /dev/null; echo 1 > /tmp/k/{SETTING}; "
        "mount --bind /tmp/k /proc/sys/kernel",
        before=UNABLE,
        works=False,
        rows={"containers": ("no", f"powerless: clone3: EPERM (Operation not permitted); kernel.{SETTING} is 1")},
        fix=f"sudo sysctl -w kernel.{SETTING}=0",
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
    if guest.missing():
        skip_or_fail(guest.missing())


def skip_or_fail(reason: str) -> None:
    if "uml" in os.environ.get("JUPYTER_NS_EXPECT", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


def ask(host: Host) -> dict[str, Any]:
    """Boot the host; return what the doctor and a run say there."""
    environ = ["env", f"PYTHONPATH={ROOT}", "PYTHONDONTWRITEBYTECODE=1", "HOME=/tmp", "TMPDIR="]
    program = [sys.executable, *(("-c", host.before) if host.before else ()), "-c", ASK]
    here = os.getcwd()
    os.chdir(ROOT)
    try:
        done = guest.run(
            [*environ, *program],
            uid=host.uid,
            delegated=host.delegated,
            setup=host.setup,
            root=host.root,
            kargs=host.kargs,
        )
    finally:
        os.chdir(here)
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert answers, done.stdout
    answer: dict[str, Any] = json.loads(answers[0].removeprefix("ANSWER "))
    return answer


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
def test_the_doctor_is_right_and_nothing_is_half_built(host: Host) -> None:
    if host.lacks:
        skip_or_fail(host.lacks)
    answer = ask(host)
    assert isinstance(answer["rows"], list), answer["rows"]
    rows = {row["ability"]: row for row in answer["rows"]}
    for ability, (state, evidence) in host.rows.items():
        assert (rows[ability]["state"], evidence in rows[ability]["evidence"]) == (state, True), rows[ability]
        assert rows[ability]["cost"]
        assert rows[ability]["documentation"]
        assert rows[ability]["fix"]
    assert rows["containers"].get("fix", "").startswith(host.fix)
    assert rows["containers"]["state"] == ("yes" if host.works else "no")
    assert answer["healthy"] == host.works
    assert (answer["code"], answer["output"]) == ((0, "inside 1\n") if host.works else (125, "")), answer["error"]
    assert answer["left"] == []
