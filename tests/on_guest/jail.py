"""An unprivileged container as public notebook hosts have it, by runc: user 1000, no capability, no-new-privileges.

It has Docker's masked /proc, its 64 MB noexec /dev/shm, no cgroups, and Docker's default seccomp profile as this
project has it. This interpreter and this checkout are bound into it, below directories that everybody may pass.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
UID = 1000
CGROUP = f"/jupyter_ns/jail-{os.getpid()}"
MASKED = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug",
          "/proc/scsi", "/sys/firmware")  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
FILTERED = """
import ctypes, os, sys
from jupyter_ns.security.seccomp import program
code = program(0, os.uname().machine)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(22, 2, ctypes.byref(Program(len(code) // 8, code)), 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    raise OSError(ctypes.get_errno(), "seccomp")
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Puts the filter on and becomes its arguments; runc has put on no-new-privileges before."""


def missing() -> str:
    """Return what is missing for a jail; empty if nothing is."""
    if os.geteuid() != 0:
        return "runc is run as root here"
    return "" if shutil.which("runc") else "no runc: apt-get install runc"


def run(
    command: Sequence[str], directory: Path, *, timeout_s: float = 300.0, tmp_options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a command in a fresh jail.

    Parameters
    ----------
    command : sequence of str
        Path of a program, and arguments.
    directory : Path
        An empty directory; becomes ``/data``, writable, with the jail's ``/tmp`` beside it.
    tmp_options : sequence of str
        More mount options for ``/tmp``, such as ``noexec``.
    """
    bundle = directory / "bundle"
    data, tmp = directory / "data", directory / "tmp"
    for path in (bundle / "rootfs", data, tmp):
        path.mkdir(parents=True, exist_ok=True)
    for path in (data, tmp):
        os.chown(path, UID, UID)
    name = f"jupyter_ns-test-{os.getpid()}"
    (bundle / "config.json").write_text(json.dumps(_config(command, data, tmp, tmp_options)))
    if not os.listdir(bundle / "rootfs"):
        _skeleton(bundle / "rootfs")
    runc = ["runc", "--root", str(directory / "state")]
    try:
        return subprocess.run(
            [*runc, "run", "-b", str(bundle), name],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip
    finally:
        subprocess.run([*runc, "delete", "--force", name], capture_output=True)


def _skeleton(rootfs: Path) -> None:
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (rootfs / name).symlink_to(os.readlink(f"/{name}"))


def _config(command: Sequence[str], data: Path, tmp: Path, tmp_options: Sequence[str]) -> dict[str, Any]:
    exposed = {sys.prefix, sys.base_prefix, str(ROOT)} - {"/usr"}
    shown = ["/usr", "/etc", *sorted(p for p in exposed if not any(p != o and p.startswith(f"{o}/") for o in exposed))]
    binds = [(p, p, ["ro"]) for p in shown] + [(str(data), "/data", []), (str(tmp), "/tmp", list(tmp_options))]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/data",
        **{k: v for k, v in os.environ.items() if k.startswith("JUPYTER_NS_UML")},
    }
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": UID, "gid": UID},
            "args": [sys.executable, "-c", FILTERED, *command],
            "env": [f"{k}={v}" for k, v in environment.items()],
            "cwd": "/data",
            "noNewPrivileges": True,
            "capabilities": {k: [] for k in ("bounding", "effective", "permitted", "inheritable", "ambient")},
        },
        "root": {"path": "rootfs"},
        "hostname": "jail",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64m"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=64m"],
            },
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            *(
                {"destination": to, "type": "bind", "source": source, "options": ["bind", *options]}
                for source, to, options in binds
            ),
        ],
        "linux": {
            "cgroupsPath": CGROUP,
            "namespaces": [{"type": t} for t in ("pid", "ipc", "uts", "mount", "network")],
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
        },
    }
