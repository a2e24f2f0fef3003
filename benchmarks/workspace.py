"""What the whole commands need on disk and in the cgroup tree, and its removal."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .stats import BenchmarkError

SOURCES = Path(__file__).parent
CGROUP_PARENT = "jupyter_ns_bench"
V1_CONTROLLERS = ("memory", "cpu", "pids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Directories and binaries of one benchmark run.

    Attributes
    ----------
    directory : Path
        On the root file system, so that an overlay whose lower directory is ``/`` shows it.
    true : Path
        A static program that does nothing, below `rootfs` and so visible from the host too.
    floor : Path or None
        The compiled floor; None if there is no C compiler, and `floor_missing` says so.
    cgroup_arguments : tuple of str
        The floor's ``--cgroup1 …`` or ``--cgroup2 …``; empty if there are none, see `cgroup_missing`.
    """

    directory: Path
    rootfs: Path
    true: Path
    floor: Path | None
    floor_missing: str
    cgroup_arguments: tuple[str, ...]
    cgroup_missing: str


def cgroup_mounts(mountinfo: str) -> dict[str, str]:
    """Find where controllers are mounted.

    Parameters
    ----------
    mountinfo : str
        Text of ``/proc/self/mountinfo``.

    Returns
    -------
    dict of str to str
        v1 controller name to mount point; ``"unified"`` for cgroup v2.

    Notes
    -----
    proc_pid_mountinfo(5).

    Examples
    --------
    >>> cgroup_mounts("30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate")
    {'unified': '/sys/fs/cgroup'}
    """
    mounts: dict[str, str] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        mount_point, kind, options = left.split()[4], right.split()[0], right.split()[-1].split(",")
        if kind == "cgroup2":
            mounts["unified"] = mount_point
        elif kind == "cgroup":
            mounts.update((name, mount_point) for name in V1_CONTROLLERS if name in options)
    return mounts


def _make_parents(mounts: dict[str, str]) -> tuple[str, ...]:
    if all(name in mounts for name in V1_CONTROLLERS):
        parents = [os.path.join(mounts[name], CGROUP_PARENT) for name in V1_CONTROLLERS]
        for parent in parents:
            os.makedirs(parent, exist_ok=True)
        return ("--cgroup1", *parents)
    if "unified" not in mounts:
        raise BenchmarkError("no cgroup hierarchy is mounted")
    parent = os.path.join(mounts["unified"], CGROUP_PARENT)
    os.makedirs(parent, exist_ok=True)
    for directory in (mounts["unified"], parent):
        enabled = Path(directory, "cgroup.subtree_control").read_text().split()
        wanted = " ".join(f"+{name}" for name in V1_CONTROLLERS if name not in enabled)
        if wanted:
            Path(directory, "cgroup.subtree_control").write_text(wanted)
    return ("--cgroup2", parent)


def _prepare_cgroups() -> tuple[tuple[str, ...], str]:
    try:
        return _make_parents(cgroup_mounts(Path("/proc/self/mountinfo").read_text())), ""
    except (OSError, BenchmarkError) as error:
        return (), f"no cgroups to write to: {error}"


def _remove_cgroups() -> None:
    # In every hierarchy: runc and crun make their cgroup below CGROUP_PARENT in all of them.
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounts = [line.split()[4] for line in lines if line.partition(" - ")[2].startswith("cgroup")]
    for mount in mounts:
        for directory, _, _ in os.walk(os.path.join(mount, CGROUP_PARENT), topdown=False):
            _remove_cgroup(directory)


def _remove_cgroup(directory: str) -> None:
    # EBUSY while the last task of a run that was cut short is still being reaped.
    for attempts_left in range(50, -1, -1):
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError:
            if not attempts_left:
                raise
            time.sleep(0.02)


def compile_c(source: Path, target: Path) -> str:
    """Compile one C file as a static program.

    Returns
    -------
    str
        Empty, or why it could not be compiled.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        return "not built: no C compiler"
    command = [
        compiler,
        "-std=gnu11",
        "-O2",
        "-static",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-o",
        str(target),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"not built: {done.stderr.strip().splitlines()[-1]}"


def _directory_on_root() -> str:
    root = os.stat("/").st_dev
    # /tmp last: jupyter_ns gives each container one of its own, which would hide the payload.
    for candidate in ("/var/tmp", "/", "/tmp"):
        if os.path.isdir(candidate) and os.stat(candidate).st_dev == root and os.access(candidate, os.W_OK):
            return candidate
    raise BenchmarkError("no writable directory on the root file system (tried /var/tmp, / and /tmp)")


def _build(directory: Path) -> Workspace:
    rootfs = directory / "rootfs"
    for name in ("bin", "dev", "proc", "sys", "tmp"):
        (rootfs / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox:
        shutil.copy(busybox, rootfs / "bin" / "busybox")
        (rootfs / "bin" / "sh").symlink_to("busybox")
    true = rootfs / "bin" / "true"
    reason = compile_c(SOURCES / "true.c", true)
    if reason:
        raise BenchmarkError(f"the payload was {reason}")
    floor = directory / "floor"
    reason = compile_c(SOURCES / "floor.c", floor)
    arguments, cgroup_missing = _prepare_cgroups()
    return Workspace(
        directory=directory,
        rootfs=rootfs,
        true=true,
        floor=None if reason else floor,
        floor_missing=reason,
        cgroup_arguments=arguments,
        cgroup_missing=cgroup_missing,
    )


@contextmanager
def workspace() -> Iterator[Workspace]:
    """Build the payload, the floor and the cgroup parents; remove all of it afterwards.

    Raises
    ------
    BenchmarkError
        If the payload cannot be compiled, or no directory on the root file system is writable.
    """
    directory = Path(tempfile.mkdtemp(prefix="jupyter_ns_bench.", dir=_directory_on_root()))
    try:
        directory.chmod(0o755)
        yield _build(directory)
    finally:
        _remove_cgroups()
        shutil.rmtree(directory)
