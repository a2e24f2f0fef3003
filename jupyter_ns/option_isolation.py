"""Options that choose namespaces and privileges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from . import units
from .namespaces import KINDS
from .option_types import Option, Parser, boolean, choice, plain
from .security import capabilities, sysctls
from .spec import ContainerSpec

_KINDS = tuple((kind.name, kind.isolates) for kind in KINDS)
_USERNS = (("private", "a user namespace of its own"), ("host", "the user namespace that it is started from"))
_CAPABILITIES = (("ALL", "every capability"), *((name, "capabilities(7)") for name in capabilities.NAMES))
_SECURITY = (
    ("seccomp=default", "Docker's default system call filter"),
    ("seccomp=unconfined", "no system call filter"),
    ("no-new-privileges", "execve cannot gain privileges"),
    ("systempaths=unconfined", "no masked or read-only paths in /proc and /sys"),
)


def _without(text: str) -> tuple[str, ...]:
    kinds = text.split(",")
    names = [name for name, _ in _KINDS]
    for kind in kinds:
        if kind not in names:
            raise ValueError(f"expected namespace kinds among {', '.join(names)}")
    return tuple(kinds)


CONTAINER = "container:"


def _mode(kind: str, own: tuple[str, ...] = ("",), *, joins: bool = False) -> Parser:
    """Make the parser of ``--pid`` and its like; `settle_modes` tells what it means."""

    def parse(text: str) -> tuple[tuple[str, str], ...]:
        if text == "host" or text in own:
            return ((kind, text),)
        if joins and text.startswith(CONTAINER) and text != CONTAINER:
            return ((kind, text),)
        accepted = [*filter(None, ("host", *own)), *([f"{CONTAINER}NAME"] if joins else [])]
        raise ValueError(f"expected {' or '.join(accepted)}")

    return plain(parse)


def settle_modes(spec: ContainerSpec) -> ContainerSpec:
    """Take the modes of ``--pid`` and its like apart; the last of each counts.

    Examples
    --------
    >>> settle_modes(ContainerSpec(joins=(("pid", "host"), ("ipc", "container:db")))).joins
    (('ipc', 'db'),)
    """
    modes = dict(spec.joins)
    return replace(
        spec,
        without=(*spec.without, *(kind for kind, mode in modes.items() if mode == "host")),
        joins=tuple((kind, mode[len(CONTAINER) :]) for kind, mode in modes.items() if mode.startswith(CONTAINER)),
        ipc_shareable=modes.get("ipc") == "shareable",
    )


def _sysctl(text: str) -> tuple[tuple[str, str], ...]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError("expected NAME=VALUE, such as net.ipv4.ip_forward=1")
    sysctls.validate(name, network_host=False, ipc_host=False)
    return ((name, value),)


def _capability(check: Callable[[str], object]) -> Parser:
    def parse(text: str) -> tuple[str, ...]:
        check(text)
        name = text.strip().upper()
        return (name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}",)

    return plain(parse)


def _check_added(name: str) -> None:
    capabilities.resolve([name], [], privileged=False, last_cap=len(capabilities.NAMES) - 1)


def _check_dropped(name: str) -> None:
    capabilities.resolve([], [name], privileged=False, last_cap=len(capabilities.NAMES) - 1)


def _security_option(text: str) -> tuple[str, ...]:
    """Check a security option and bring it to the form ``key=value``; Docker also takes ``key:value``."""
    key, separator, value = text.partition("=")
    if not separator:
        key, separator, value = text.partition(":")
    if key == "no-new-privileges":
        on = units.parse_boolean(value) if separator else True
        return (f"no-new-privileges={'true' if on else 'false'}",)
    if f"{key}={value}" in dict(_SECURITY):
        return (f"{key}={value}",)
    if key == "seccomp":
        raise ValueError("expected seccomp=default or seccomp=unconfined; profiles from files are not supported")
    if key in ("apparmor", "label"):
        raise ValueError(f"{key} is not supported: no AppArmor profile or SELinux label is set")
    accepted = ", ".join(name for name, _ in _SECURITY)
    raise ValueError(f"expected one of {accepted}")


ISOLATION: tuple[Option, ...] = (
    Option(
        flags=("--without",),
        help="Leave namespaces out, to see what they did: pid,network",
        group="Namespaces",
        sets="spec.without",
        parse=plain(_without),
        metavar="KIND",
        oci="linux.namespaces",
        documentation="namespaces(7)",
        choices=_KINDS,
        repeatable=True,
        comma_list=True,
    ),
    Option(
        flags=("--userns",),
        help="private: a user namespace of its own; host: none",
        group="Namespaces",
        sets="spec.userns",
        parse=choice((*_USERNS, ("", ""))),
        metavar="MODE",
        oci="linux.namespaces",
        documentation="user_namespaces(7)",
        choices=_USERNS,
    ),
    Option(
        flags=("--pid",),
        help="host: see the host's processes; container:NAME: those of another container",
        group="Namespaces",
        sets="spec.joins",
        parse=_mode("pid", joins=True),
        metavar="MODE",
        oci="linux.namespaces",
        documentation="pid_namespaces(7)",
        choices=(("host", "the host's PID namespace"),),
        repeatable=True,
    ),
    Option(
        flags=("--ipc",),
        help="private; shareable: others may join it; container:NAME: join another's, with its /dev/shm; host",
        group="Namespaces",
        sets="spec.joins",
        parse=_mode("ipc", ("", "private", "shareable"), joins=True),
        metavar="MODE",
        default="private",
        oci="linux.namespaces",
        documentation="ipc_namespaces(7)",
        choices=(
            ("private", "an IPC namespace of its own"),
            ("shareable", "its own, which other containers may join"),
            ("host", "the host's IPC namespace"),
        ),
        repeatable=True,
    ),
    Option(
        flags=("--uts",),
        help="host: share the host name",
        group="Namespaces",
        sets="spec.joins",
        parse=_mode("uts"),
        metavar="MODE",
        oci="linux.namespaces",
        documentation="uts_namespaces(7)",
        choices=(("host", "the host's UTS namespace"),),
        repeatable=True,
    ),
    Option(
        flags=("--cgroupns",),
        help="private, or host: see the host's cgroup tree",
        group="Namespaces",
        sets="spec.joins",
        parse=_mode("cgroup", ("", "private")),
        metavar="MODE",
        default="private",
        oci="linux.namespaces",
        documentation="cgroup_namespaces(7)",
        choices=(("private", "a cgroup namespace of its own"), ("host", "the host's cgroup namespace")),
        repeatable=True,
    ),
    Option(
        flags=("--sysctl",),
        help="Set a kernel parameter of its namespaces: net.ipv4.ip_forward=1",
        group="Namespaces",
        sets="spec.sysctls",
        parse=plain(_sysctl),
        metavar="NAME=VALUE",
        oci="linux.sysctl",
        documentation="admin-guide/sysctl/index.rst",
        repeatable=True,
    ),
    Option(
        flags=("--cap-add",),
        help="Add a capability, or ALL",
        group="Security",
        sets="spec.cap_add",
        parse=_capability(_check_added),
        metavar="CAP",
        oci="process.capabilities",
        documentation="capabilities(7)",
        choices=_CAPABILITIES,
        repeatable=True,
    ),
    Option(
        flags=("--cap-drop",),
        help="Drop a capability, or ALL",
        group="Security",
        sets="spec.cap_drop",
        parse=_capability(_check_dropped),
        metavar="CAP",
        oci="process.capabilities",
        documentation="capabilities(7)",
        choices=_CAPABILITIES,
        repeatable=True,
    ),
    Option(
        flags=("--privileged",),
        help="All capabilities, no system call filter, no masked paths",
        group="Security",
        sets="spec.privileged",
        parse=boolean,
        oci="process.capabilities",
        documentation="capabilities(7)",
    ),
    Option(
        flags=("--security-opt",),
        help="seccomp=default|unconfined, no-new-privileges[=false], systempaths=unconfined",
        group="Security",
        sets="spec.security_options",
        parse=plain(_security_option),
        metavar="OPTION",
        oci="linux.seccomp",
        documentation="seccomp(2)",
        choices=_SECURITY,
        repeatable=True,
    ),
)
