"""Peers as whole commands: spawn, wait, and the time between."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .spawn import spawn
from .stats import BenchmarkError, Candidate
from .workspace import CGROUP_PARENT, Workspace

Spawn = Callable[[Sequence[str]], float]
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP",
    "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)  # fmt: skip
DENIED_CALLS = (
    "mount", "umount2", "pivot_root", "unshare", "setns", "bpf", "perf_event_open", "keyctl", "add_key",
    "request_key", "userfaultfd", "init_module", "finit_module", "delete_module", "kexec_load", "reboot",
    "swapon", "swapoff", "open_by_handle_at",
)  # fmt: skip
"""As in floor.c."""
FLOOR, BWRAP, CRUN, RUNC = "C floor, as a command", "bwrap", "crun run", "runc run"
DOCKER, DOCKER_PANDAS = "docker run", "docker run python3 -c 'import pandas'"


def _command(name: str, argv: Sequence[str], *, note: str = "") -> Candidate:
    program = shutil.which(argv[0])
    if not program:
        return Candidate(name=name, missing="not installed", note=note)
    full = [program, *argv[1:]]
    return Candidate(name=name, run=lambda: spawn(full), note=note)


def bwrap_argv(space: Workspace) -> list[str]:
    """Return bubblewrap's command line for the same mounts and capabilities as the others."""
    argv = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--tmpfs", "/run"]
    argv += ["--proc", "/proc", "--dev", "/dev", "--hostname", "bench", "--cap-drop", "ALL"]
    for name in CAPABILITIES:
        argv += ["--cap-add", f"CAP_{name}"]
    return [*argv, str(space.true)]


def _floor(space: Workspace) -> Candidate:
    missing = space.floor_missing or space.cgroup_missing
    note = "everything; see floor.c"
    if missing or space.floor is None:
        return Candidate(name=FLOOR, missing=missing, note=note)
    argv = [str(space.floor), *space.cgroup_arguments, str(space.true)]
    return Candidate(name=FLOOR, run=lambda: spawn(argv), note=note)


def oci_config(space: Workspace, name: str, *, namespaces: Sequence[str]) -> dict[str, Any]:
    """Return an OCI runtime configuration with the floor's namespaces, limits and capabilities.

    Notes
    -----
    OCI runtime-spec 1.1, config.md and config-linux.md.
    """
    capabilities = [f"CAP_{capability}" for capability in CAPABILITIES]
    nosuid = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "hostname": "bench",
        "root": {"path": str(space.rootfs), "readonly": False},
        "process": {
            "args": ["/bin/true"],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": True,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": nosuid},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*nosuid, "ro"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "cgroupsPath": f"/{CGROUP_PARENT}/{name}",
            "resources": {
                "memory": {"limit": 128 * 1024 * 1024},
                "cpu": {"quota": 50_000, "period": 100_000},
                "pids": {"limit": 100},
            },
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": list(DENIED_CALLS), "action": "SCMP_ACT_ERRNO"}],
            },
        },
    }


def _oci(
    space: Workspace, row: str, program: str, options: Sequence[str], *, start: Spawn, note: str = ""
) -> Candidate:
    path = shutil.which(program)
    if not path:
        return Candidate(name=row, missing="not installed")
    if space.cgroup_missing:
        return Candidate(name=row, missing=space.cgroup_missing)
    bundle = space.directory / f"bundle-{program}"
    bundle.mkdir()
    argv = [path, "--root", str(space.directory / f"state-{program}"), *options]
    argv += ["run", "--bundle", str(bundle), f"bench-{program}"]
    kinds = ["pid", "mount", "network", "uts", "ipc", "cgroup", "time"]
    left_out = ""
    _write_config(bundle, oci_config(space, program, namespaces=kinds))
    try:
        start(argv)
    except BenchmarkError:
        # Time namespaces came with runtime-spec 1.1; an older runtime refuses the whole bundle.
        _write_config(bundle, oci_config(space, program, namespaces=kinds[:-1]))
        left_out = "no time namespace; "
    return Candidate(name=row, run=lambda: start(argv), note=f"{left_out}no copy-on-write root{note}")


def _write_config(bundle: Path, config: dict[str, Any]) -> None:
    (bundle / "config.json").write_text(json.dumps(config))


def _engine_missing(client: str, *, image: str) -> str:
    if not shutil.which(client):
        return "not installed"
    if subprocess.run([client, "info"], capture_output=True, check=False, timeout=60).returncode:
        return "not installed (a client, but no engine answers)"
    inspect = [client, "image", "inspect", image]
    if not image or subprocess.run(inspect, capture_output=True, check=False, timeout=60).returncode:
        return f"image {image or '(none given)'} is not there; pull it first"
    return ""


def docker_argv(client: str, image: str, *command: str) -> list[str]:
    """Return ``docker run`` (or podman's) with the limits that the other rows have."""
    limits = ["--network", "none", "--memory", "128m", "--cpus", "0.5", "--pids-limit", "100"]
    return [client, "run", "--rm", *limits, image, *command]


def docker_missing(image: str) -> str:
    """Return why ``docker run IMAGE`` cannot be measured; empty if it can."""
    return _engine_missing("docker", image=image)


def _container_engine(row: str, client: str, image: str, *command: str) -> Candidate:
    missing = _engine_missing(client, image=image)
    if missing:
        return Candidate(name=row, missing=missing)
    return _command(row, docker_argv(client, image, *command))


def candidates(
    space: Workspace, *, image: str, pandas_image: str, pure_v1_spawn: Spawn | None = None
) -> list[Candidate]:
    """Return every whole-command row, those that are not there included.

    Parameters
    ----------
    space : Workspace
        Payload, root file system and cgroups.
    image, pandas_image : str
        Local images for ``docker run``: one with ``true``, one with pandas.
    pure_v1_spawn : callable or None
        From `resident.pure_v1_spawner`, for crun.
    """
    hidden = "; run where cgroup2 is not mounted, for it refuses hybrid hosts" if pure_v1_spawn else ""
    kinds = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--time", "--fork"]
    return [
        _command("fork + exec of a static program", [str(space.true)], note="no isolation"),
        _command("unshare, 7 kinds", ["unshare", *kinds, str(space.true)], note="namespaces only"),
        _floor(space),
        _command(BWRAP, bwrap_argv(space), note="no limits, no copy-on-write root, no seccomp"),
        _oci(space, CRUN, "crun", ["--cgroup-manager", "cgroupfs"], start=pure_v1_spawn or spawn, note=hidden),
        _oci(space, RUNC, "runc", [], start=spawn),
        _container_engine("podman run", "podman", image, "true"),
        _container_engine(DOCKER, "docker", image, "true"),
        _container_engine(DOCKER_PANDAS, "docker", pandas_image, "python3", "-c", "import pandas"),
    ]
