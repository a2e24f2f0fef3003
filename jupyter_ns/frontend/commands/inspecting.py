"""``inspect``: containers in the shape and with the names of Docker's JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...errors import ImageError, UsageError
from ...images.store import Store, default_root
from ...lifecycle import ask
from ...spec import ContainerSpec, Mount
from .console import Console
from .grammar import Command, Flag, Parsed
from .images import image_json, print_json
from .text import rfc3339


def docker_json(data: Mapping[str, Any]) -> dict[str, Any]:
    """Shape what the engine knows of a container as ``docker inspect`` does.

    Parameters
    ----------
    data : mapping
        The answer to ``inspect``.
    """
    spec = ContainerSpec.from_dict(dict(data["spec"]))
    argv = list(spec.command) or data["argv"]
    return {
        "Id": data["id"],
        "Created": rfc3339(data["created_s"]),
        "Path": argv[0],
        "Args": argv[1:],
        "State": _state(data),
        "Image": data["image"],
        "Name": f"/{data['name']}",
        "RestartCount": data["restart_count"],
        "Driver": "overlayfs",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": _host_config(data, spec),
        "GraphDriver": {"Data": None, "Name": "overlayfs"},
        "Mounts": [_mount(m) for m in spec.mounts if m.type == "bind"],
        "Config": _config(data, spec),
        "NetworkSettings": _network(data, spec),
        "Weakened": data["weakened"],
    }


def _state(data: Mapping[str, Any]) -> dict[str, Any]:
    state = data["state"]
    shaped = {
        "Status": state,
        "Running": state in ("running", "paused", "restarting"),
        "Paused": state == "paused",
        "Restarting": state == "restarting",
        "OOMKilled": data["oom_killed"],
        "Dead": False,
        "Pid": data["pid"],
        "ExitCode": data["exit_code"],
        "Error": data["error"],
        "StartedAt": rfc3339(data["started_s"]),
        "FinishedAt": rfc3339(data["finished_s"]),
    }
    if data.get("health_log") is not None:
        shaped["Health"] = {
            "Status": data["health"],
            "FailingStreak": data["failing_streak"],
            "Log": [
                {"Start": rfc3339(start), "End": rfc3339(end), "ExitCode": code, "Output": text}
                for start, end, code, text in data["health_log"]
            ],
        }
    return shaped


def _host_config(data: Mapping[str, Any], spec: ContainerSpec) -> dict[str, Any]:
    limits = spec.limits
    policy, _, most = spec.restart.partition(":")
    host_or = {kind: "host" if kind in spec.without else otherwise for kind, otherwise in _MODES.items()}
    host_or |= {kind: f"container:{of}" for kind, of in spec.joins}
    if spec.ipc_shareable:
        host_or["ipc"] = "shareable"
    tmpfs = {m.destination: m.options for m in spec.mounts if m.type == "tmpfs"}
    return {
        "Binds": [_bind(m) for m in spec.mounts if m.type == "bind" and not m.option.startswith("--volumes-from")]
        or None,
        "ContainerIDFile": "",
        "LogConfig": {"Type": "local", "Config": {}},
        "NetworkMode": spec.network,
        "PortBindings": _bindings(spec),
        "RestartPolicy": {"Name": policy, "MaximumRetryCount": int(most or 0)},
        "AutoRemove": data["remove"],
        "VolumesFrom": list(spec.volumes_from) or None,
        "CapAdd": list(spec.cap_add) or None,
        "CapDrop": list(spec.cap_drop) or None,
        "CgroupnsMode": host_or["cgroup"],
        "Dns": list(spec.dns),
        "DnsOptions": list(spec.dns_options),
        "DnsSearch": list(spec.dns_search),
        "ExtraHosts": [f"{name}:{address}" for name, address in spec.add_hosts] or None,
        "GroupAdd": list(spec.groups) or None,
        "IpcMode": host_or["ipc"],
        "OomScoreAdj": spec.oom_score_adj,
        "PidMode": host_or["pid"],
        "Privileged": spec.privileged,
        "PublishAllPorts": spec.publish_all,
        "ReadonlyRootfs": spec.readonly,
        "SecurityOpt": list(spec.security_options) or None,
        "UTSMode": host_or["uts"],
        "UsernsMode": spec.userns,
        "ShmSize": spec.shm_size_bytes,
        "Sysctls": dict(spec.sysctls) or None,
        "Tmpfs": tmpfs or None,
        "Runtime": "jupyter_ns",
        "Isolation": "",
        "CpuShares": limits.cpu_shares or 0,
        "Memory": limits.memory_bytes or 0,
        "NanoCpus": limits.nano_cpus or 0,
        "CgroupParent": "",
        "BlkioWeight": limits.blkio_weight or 0,
        "CpuPeriod": limits.cpu_period_us or 0,
        "CpuQuota": limits.cpu_quota_us or 0,
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": limits.cpuset_cpus or "",
        "CpusetMems": limits.cpuset_mems or "",
        "Devices": [],
        "MemoryReservation": limits.memory_reservation_bytes or 0,
        "MemorySwap": _swap(spec),
        "MemorySwappiness": limits.memory_swappiness,
        "OomKillDisable": limits.oom_kill_disable,
        "PidsLimit": limits.pids_limit,
        "Ulimits": [{"Name": u.name, "Hard": u.hard, "Soft": u.soft} for u in spec.ulimits],
        "Init": spec.init,
    }


_MODES = {"cgroup": "private", "ipc": "private", "pid": "", "uts": ""}


def _bindings(spec: ContainerSpec) -> dict[str, Any]:
    found: dict[str, list[dict[str, str]]] = {}
    for p in spec.ports:
        outer = f"{p.host}-{p.last}" if p.last else str(p.host or "")
        found.setdefault(f"{p.container}/{p.protocol}", []).append({"HostIp": p.ip, "HostPort": outer})
    return found


def _swap(spec: ContainerSpec) -> int:
    limits = spec.limits
    return limits.memory_swap_bytes or 2 * (limits.memory_bytes or 0)


def _volume(mount: Mount) -> str:
    """Return the name of the volume that a mount shows; empty for a directory of the user's."""
    match = re.fullmatch(re.escape(f"{default_root()}/volumes/") + "([^/]+)/_data", mount.source)
    return match[1] if match else ""


def _bind(mount: Mount) -> str:
    return f"{_volume(mount) or mount.source}:{mount.destination}" + (":ro" if mount.readonly else "")


def _mount(mount: Mount) -> dict[str, Any]:
    name = _volume(mount)
    return {
        "Type": "volume" if name else mount.type,
        **({"Name": name, "Driver": "local"} if name else {}),
        "Source": mount.source,
        "Destination": mount.destination,
        "Mode": "ro" if mount.readonly else "",
        "RW": not mount.readonly,
        "Propagation": mount.propagation,
    }


def _config(data: Mapping[str, Any], spec: ContainerSpec) -> dict[str, Any]:
    inner = [*spec.exposed_ports, *((p.container, p.protocol) for p in spec.ports)]
    exposed: dict[str, Any] = {f"{port}/{protocol}": {} for port, protocol in inner}
    return {
        "Hostname": spec.hostname or data["id"][:12],
        "Domainname": spec.domainname,
        "User": spec.user,
        "AttachStdin": False,
        "AttachStdout": not data["detached"],
        "AttachStderr": not data["detached"],
        **({"ExposedPorts": exposed} if exposed else {}),
        "Tty": spec.tty,
        "OpenStdin": spec.stdin_open,
        "StdinOnce": False,
        "Env": _environment(spec),
        "Cmd": data["argv"],
        **({"Healthcheck": _healthcheck(spec)} if spec.health_cmd else {}),
        "Image": data["image"],
        "Volumes": None,
        "WorkingDir": spec.workdir,
        "Entrypoint": [spec.entrypoint] if spec.entrypoint else None,
        "Labels": dict(spec.labels),
        "StopSignal": spec.stop_signal,
        "StopTimeout": spec.stop_timeout_seconds,
    }


def _environment(spec: ContainerSpec) -> list[str]:
    """Return what the image and the options set, as Docker's; the notebook's own, which ``host`` adds, is not shown."""
    return [f"{name}={value}" for name, value in dict(spec.environment).items() if value is not None]


def _healthcheck(spec: ContainerSpec) -> dict[str, Any]:
    return {
        "Test": ["CMD-SHELL", spec.health_cmd],
        "Interval": int(spec.health_interval_seconds * 1e9),
        "Timeout": int(spec.health_timeout_seconds * 1e9),
        "StartPeriod": int(spec.health_start_period_seconds * 1e9),
        "StartInterval": int(spec.health_start_interval_seconds * 1e9),
        "Retries": spec.health_retries,
    }


def _network(data: Mapping[str, Any], spec: ContainerSpec) -> dict[str, Any]:
    alive = data["state"] in ("running", "paused")
    networks = {one["network"]: _endpoint(one, spec) for one in data["endpoints"]}
    ports: dict[str, Any] = {}
    for inner, protocol, ip, outer in data["ports"]:
        bound = [{"HostIp": ip, "HostPort": str(outer)}] if outer else []
        ports[f"{inner}/{protocol}"] = [*(ports.get(f"{inner}/{protocol}") or []), *bound] or None
    # As Docker, which says of the default network what it says of each.
    first = networks.get("bridge", {})
    return {
        "SandboxKey": f"/proc/{data['pid']}/ns/net" if alive else "",
        "Ports": ports,
        "EndpointID": first.get("EndpointID", ""),
        "Gateway": first.get("Gateway", ""),
        "IPAddress": first.get("IPAddress", ""),
        "IPPrefixLen": first.get("IPPrefixLen", 0),
        "MacAddress": first.get("MacAddress", ""),
        "Networks": networks,
    }


def _endpoint(one: Mapping[str, Any], spec: ContainerSpec) -> dict[str, Any]:
    ip, _, prefix = one["address"].partition("/")
    return {
        "IPAMConfig": {"IPv4Address": spec.ip} if spec.ip and one["network"] == spec.network else None,
        "Links": None,
        "Aliases": list(one.get("aliases", ())) or None,
        "DNSNames": list(one.get("names", ())) or None,
        "MacAddress": one.get("mac", ""),
        "NetworkID": one.get("network_id", ""),
        "EndpointID": one.get("id", ""),
        "Gateway": one.get("gateway", ""),
        "IPAddress": ip,
        "IPPrefixLen": int(prefix or 0),
    }


def _described(of: str, kind: str) -> dict[str, Any]:
    """Describe a container, or the image of that name where there is no container."""
    if kind != "image":
        try:
            return docker_json(ask("inspect", of=of))
        except UsageError:
            if kind:
                raise
    store = Store()
    try:
        return image_json(store, store.find(of))
    except ImageError:
        if kind:
            raise
        raise UsageError(f"No such object: {of}") from None


def run_inspect(console: Console, given: Parsed) -> None:
    """Print everything about containers as JSON, or what a template takes of it."""
    kind = given.get("type", "")
    if kind not in ("", "container", "image"):
        raise UsageError(f"docker inspect --type {kind}: expected container or image")
    found: list[dict[str, Any]] = []
    failures: list[str] = []
    for of in given.arguments:
        try:
            found.append(_described(of, kind))
        except (UsageError, ImageError) as e:
            failures.append(str(e))
    if found or not given.get("format"):
        print_json(console, given.get("format", ""), found)
    if failures:  # as Docker: what there is, is shown
        raise UsageError("\n".join(failures))


INSPECT = Command(
    name="inspect",
    usage="[OPTIONS] NAME|ID [NAME|ID…]",
    help="Print everything about containers as JSON",
    run=run_inspect,
    least=1,
    flags=(
        Flag(flags=("-f", "--format"), help="json or a Go template", metavar="FORMAT"),
        Flag(flags=("-s", "--size"), help="Add what it has written"),
        Flag(flags=("--type",), help="Only objects of this type", metavar="TYPE"),
    ),
)
