"""``info`` and ``version``: what this machine and this package are, in Docker's words."""

from __future__ import annotations

import os
import platform
from collections import Counter
from importlib.metadata import version
from typing import Any

from ...client import get_client
from ...lifecycle import ask
from ...units import format_bytes
from .console import Console
from .grammar import Command, Flag, Parsed
from .templates import render


def _info(console: Console, given: Parsed) -> None:
    """Print what there is."""
    about = _facts()
    form = given.get("format", "")
    if form:
        console.line(render("{{json .}}" if form == "json" else form, about))
        return
    security = "".join(f"  {option.partition('=')[2]}\n" for option in about["SecurityOptions"])
    warnings = "".join(f"WARNING: {text}\n" for text in about["Warnings"])
    console.write(
        f"Containers: {about['Containers']}\n"
        f" Running: {about['ContainersRunning']}\n"
        f" Paused: {about['ContainersPaused']}\n"
        f" Stopped: {about['ContainersStopped']}\n"
        f"Server Version: {about['ServerVersion']}\n"
        f"Storage Driver: {about['Driver']}\n"
        " Backing Filesystem: tmpfs\n"
        f"Logging Driver: {about['LoggingDriver']}\n"
        f"Cgroup Driver: {about['CgroupDriver']}\n"
        f"Cgroup Version: {about['CgroupVersion']}\n"
        f"Runtimes: jupyter_ns\n"
        f"Security Options:\n{security}"
        f"Kernel Version: {about['KernelVersion']}\n"
        f"Operating System: {about['OperatingSystem']}\n"
        f"OSType: linux\nArchitecture: {about['Architecture']}\n"
        f"CPUs: {about['NCPU']}\n"
        f"Total Memory: {format_bytes(about['MemTotal'])}\n"
        f"Name: {about['Name']}\n{warnings}"
    )


def _facts() -> dict[str, Any]:
    facts = get_client().facts
    states = Counter(row["state"] for row in ask("list"))
    cgroup = facts.cgroup.get("version", 0)
    security = [*([] if facts.seccomp_error else ["name=seccomp,profile=builtin"])]
    security += ["name=rootless"] if facts.rootless else []
    security += ["name=cgroupns"] if not facts.namespaces.get("cgroup", "") else []
    return {
        "Containers": sum(states.values()),
        "ContainersRunning": states["running"],
        "ContainersPaused": states["paused"],
        "ContainersStopped": sum(n for state, n in states.items() if state not in ("running", "paused")),
        "ServerVersion": version("jupyter_ns"),
        "Driver": "overlay2",
        "LoggingDriver": "local",
        "CgroupDriver": "cgroupfs" if cgroup else "none",
        "CgroupVersion": str(cgroup),
        "SecurityOptions": security,
        "KernelVersion": facts.kernel,
        "OperatingSystem": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
        "OSType": "linux",
        "Architecture": facts.arch,
        "NCPU": os.cpu_count() or 1,
        "MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "Name": platform.node(),
        "Warnings": list(facts.weakened),
    }


def _version(console: Console, given: Parsed) -> None:
    """Print versions."""
    facts = get_client().facts
    own = {
        "Version": version("jupyter_ns"),
        "Os": "linux",
        "Arch": facts.arch,
        "KernelVersion": facts.kernel,
        "PythonVersion": platform.python_version(),
    }
    form = given.get("format", "")
    if form:
        console.line(render("{{json .}}" if form == "json" else form, {"Client": own, "Server": own}))
        return
    console.write(
        f"Client and server: jupyter_ns (no Docker)\n Version:           {own['Version']}\n"
        f" Python version:    {own['PythonVersion']}\n Kernel version:    {facts.kernel}\n"
        f" OS/Arch:           linux/{facts.arch}\n"
        f" Cgroup version:    {facts.cgroup.get('version', '?')}\n"
    )


_FORMAT = Flag(flags=("-f", "--format"), help="json or a Go template", metavar="FORMAT")
ABOUT = (
    Command(name="info", usage="[OPTIONS]", help="What this machine gives", run=_info, most=0, flags=(_FORMAT,)),
    Command(name="version", usage="[OPTIONS]", help="Print versions", run=_version, most=0, flags=(_FORMAT,)),
)
