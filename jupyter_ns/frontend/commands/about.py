"""``version``: of this package and what it runs on."""

from __future__ import annotations

import platform
from importlib.metadata import version

from ...client import get_client
from .console import Console
from .grammar import Command, Flag, Parsed
from .templates import render


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


VERSION = Command(
    name="version",
    usage="[OPTIONS]",
    help="Print versions",
    run=_version,
    most=0,
    flags=(Flag(flags=("-f", "--format"), help="json or a Go template", metavar="FORMAT"),),
)
