"""A container as a ``docker run`` command line. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from ..networks.wiring import has_limits
from ..spec import ContainerSpec, Mount

IMAGE = "IMAGE"
"""Stands for an image where the container has the host's own files, which are none of Docker's."""

Words = Iterable[str]


class DockerCommand(NamedTuple):
    """The words after ``docker``, and what they could not say."""

    words: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def line(self) -> str:
        """As one types it."""
        return shlex.join(("docker", *self.words))


def docker_command(spec: ContainerSpec, *, detach: bool = False) -> DockerCommand:
    """Write a container as ``docker run``.

    Parameters
    ----------
    spec : ContainerSpec
        As asked for, or resolved.
    detach : bool
        Whether it was started with ``-d``.

    Examples
    --------
    >>> from jupyter_ns.spec import Limits
    >>> spec = ContainerSpec(argv=("sh", "-c", "echo $A"), image="busybox", limits=Limits(memory_bytes=1 << 27))
    >>> docker_command(spec).line
    "docker run --rm -i --memory 134217728 --network none busybox sh -c 'echo $A'"
    """
    if "network" in spec.joined:  # these are the other container's, and conflict
        spec = replace(spec, hostname="", domainname="", dns=(), dns_search=(), dns_options=(), add_hosts=())
    words = ["run", *(["--detach"] if detach else ["--rm"])]
    if spec.stdin_open:
        words.append("-i")
    for option in _OPTIONS:
        words += option(spec)
    notes = [note for applies, note in _NOTES if applies(spec)]
    words.append(spec.image or IMAGE)
    words += spec.argv
    return DockerCommand(tuple(words), tuple(notes))


def _limits(spec: ContainerSpec) -> Words:
    limits = spec.limits
    for name, flag in _LIMITS:
        value = getattr(limits, name)
        if value is not None:
            yield from (flag, str(value))
    if limits.nano_cpus:
        yield from ("--cpus", f"{limits.nano_cpus / 1e9:.9f}".rstrip("0").rstrip("."))
    if limits.oom_kill_disable:
        yield "--oom-kill-disable"


def _devices(spec: ContainerSpec) -> Words:
    for device in spec.devices:
        yield from ("--device", f"{device.source}:{device.destination}:{device.permissions}")
    for rule in spec.limits.device_rules:
        yield from ("--device-cgroup-rule", rule)
    for name, flag in _RATES:
        for path, rate in getattr(spec.limits, name):
            yield from (flag, f"{path}:{rate}")


_RATES = (
    ("blkio_weight_device", "--blkio-weight-device"),
    ("device_read_bps", "--device-read-bps"),
    ("device_write_bps", "--device-write-bps"),
    ("device_read_iops", "--device-read-iops"),
    ("device_write_iops", "--device-write-iops"),
)
_LIMITS = (
    ("memory_bytes", "--memory"),
    ("memory_swap_bytes", "--memory-swap"),
    ("memory_reservation_bytes", "--memory-reservation"),
    ("memory_swappiness", "--memory-swappiness"),
    ("cpu_period_us", "--cpu-period"),
    ("cpu_quota_us", "--cpu-quota"),
    ("cpu_shares", "--cpu-shares"),
    ("cpuset_cpus", "--cpuset-cpus"),
    ("cpuset_mems", "--cpuset-mems"),
    ("pids_limit", "--pids-limit"),
    ("blkio_weight", "--blkio-weight"),
)


def _text(flag: str, name: str) -> Callable[[ContainerSpec], Words]:
    return lambda spec: (flag, str(getattr(spec, name))) if getattr(spec, name) else ()


def _switch(flag: str, name: str) -> Callable[[ContainerSpec], Words]:
    return lambda spec: (flag,) if getattr(spec, name) else ()


def _each(flag: str, name: str) -> Callable[[ContainerSpec], Words]:
    return lambda spec: (word for value in getattr(spec, name) for word in (flag, value))


def _environment(spec: ContainerSpec) -> Words:
    for name, value in dict(spec.environment).items():  # of several values of a name, the last counts
        yield from ("--env", name if value is None else f"{name}={value}")


def _pairs(flag: str, name: str) -> Callable[[ContainerSpec], Words]:
    return lambda spec: (word for key, value in getattr(spec, name) for word in (flag, f"{key}={value}"))


def _ulimits(spec: ContainerSpec) -> Words:
    for limit in spec.ulimits:
        yield from ("--ulimit", f"{limit.name}={limit.soft}:{limit.hard}")


def _namespaces(spec: ContainerSpec) -> Words:
    for kind, flag in (("pid", "--pid"), ("ipc", "--ipc"), ("uts", "--uts"), ("cgroup", "--cgroupns")):
        if kind in spec.without:
            yield from (flag, "host")
        elif kind in spec.joined:
            yield from (flag, f"container:{dict(spec.joins)[kind]}")
    if spec.ipc_shareable:
        yield from ("--ipc", "shareable")
    yield from ("--network", "host" if "network" in spec.without else spec.network)
    for name, ip, mac, aliases in spec.networks:
        pairs = [("name", name), ("ip", ip), ("mac-address", mac), *(("alias", alias) for alias in aliases)]
        yield from ("--network", ",".join(f"{key}={value}" for key, value in pairs if value))
    for port in spec.ports:
        outer = f"{port.host or ''}{f'-{port.last}' if port.last else ''}"
        ip = f"[{port.ip}]" if ":" in port.ip else port.ip
        yield from ("--publish", f"{ip}:{outer}:{port.container}/{port.protocol}")
    for number, protocol in spec.exposed_ports:
        yield from ("--expose", f"{number}/{protocol}")


def _hosts(spec: ContainerSpec) -> Words:
    for name, address in spec.add_hosts:
        yield from ("--add-host", f"{name}:{address}")


def _mounts(spec: ContainerSpec) -> Words:
    for mount in spec.mounts:
        yield from _mount(mount)


def _mount(m: Mount) -> Words:
    if m.type == "tmpfs":
        flags = [name.removeprefix("no") if name not in m.flags else name for name in ("noexec", "nosuid", "nodev")]
        flags += ["ro" if f == "rdonly" else f for f in m.flags if f not in flags]
        options = ",".join([*flags, *([m.options] if m.options else [])])
        return ("--tmpfs", f"{m.destination}:{options}" if options else m.destination)
    modes = ["ro"] if m.readonly else []
    if m.type == "bind" and m.propagation != "rprivate":
        modes.append(m.propagation)
    if m.nocopy:
        modes.append("nocopy")
    parts = [*([m.source] if m.source else []), m.destination, *([",".join(modes)] if modes and m.source else [])]
    return ("--volume", ":".join(parts))


def _shm(spec: ContainerSpec) -> Words:
    return ("--shm-size", str(spec.shm_size_bytes)) if spec.shm_size_bytes != 64 << 20 else ()


def _stop(spec: ContainerSpec) -> Words:
    return ("--stop-signal", spec.stop_signal) if spec.stop_signal != "SIGTERM" else ()


def _entrypoint(spec: ContainerSpec) -> Words:
    return ("--entrypoint", spec.entrypoint) if spec.entrypoint is not None else ()


_OPTIONS: tuple[Callable[[ContainerSpec], Words], ...] = (
    _text("--name", "name"),
    _text("--hostname", "hostname"),
    _text("--domainname", "domainname"),
    _limits,
    _devices,
    _ulimits,
    _text("--oom-score-adj", "oom_score_adj"),
    _mounts,
    _shm,
    _switch("--read-only", "readonly"),
    _text("--workdir", "workdir"),
    _environment,
    _text("--user", "user"),
    _each("--group-add", "groups"),
    _entrypoint,
    _switch("--init", "init"),
    _stop,
    _namespaces,
    _each("--network-alias", "network_aliases"),
    _text("--ip", "ip"),
    _text("--mac-address", "mac_address"),
    _switch("--publish-all", "publish_all"),
    _each("--dns", "dns"),
    _each("--dns-search", "dns_search"),
    _each("--dns-option", "dns_options"),
    _hosts,
    _each("--cap-add", "cap_add"),
    _each("--cap-drop", "cap_drop"),
    _switch("--privileged", "privileged"),
    _each("--security-opt", "security_options"),
    _pairs("--sysctl", "sysctls"),
    _pairs("--label", "labels"),
    _text("--platform", "platform"),
)
_NOTES: tuple[tuple[Callable[[ContainerSpec], bool], str], ...] = (
    (lambda s: has_limits(s.limits), "--net-rate, --net-delay, --net-loss: Docker has none; tc(8) on its veth does it"),
    (lambda s: bool(s.limits.hugetlb), "--hugetlb: Docker has none"),
    (lambda s: not s.image, f"{IMAGE} stands for an image: this machine's own files are none of Docker's"),
    (lambda s: s.python, "a cell of Python has no program; Docker would need one"),
    (lambda s: bool(s.time_offset_seconds), "--time-offset: Docker makes no time namespaces"),
    (lambda s: s.timeout_seconds is not None, "--timeout: Docker has none; `timeout SECONDS docker run …` kills it"),
    (lambda s: s.keep, "--keep: Docker has none; use --volume"),
    (lambda s: bool(s.cgroup_parent), "--cgroup-parent: its limits are those of a cgroup of this notebook's"),
    (lambda s: s.userns == "private", "--userns private: Docker's daemon decides that (userns-remap)"),
    (
        lambda s: bool({"mount", "time", "user"} & set(s.without)),
        "--without mount, time or user: Docker always has one",
    ),
)
