"""A container as an OCI runtime configuration (``config.json``). Pure, but for the numbers of devices.

Notes
-----
OCI runtime specification 1.0.2: config.md, config-linux.md.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any, NamedTuple

from ..host import HostFacts
from ..namespaces import KINDS
from ..plan import PlanInputs
from ..plan.steps import RLIMITS
from ..security import capabilities, paths, profile
from ..spec import ContainerSpec, Limits, Mount

VERSION = "1.0.2"
_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_DEVICES = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2))
_UNLIMITED = 2**64 - 1


class Piece(NamedTuple):
    """A directory of the host's that the container has: `lower` for an overlay whose rest lies in `upper` and `work`.

    With an empty `upper` it is bound, read-only.
    """

    path: str
    upper: str = ""
    work: str = ""


class Configuration(NamedTuple):
    """What `config.json` holds, and what it could not say."""

    document: dict[str, Any]
    notes: tuple[str, ...]


def configuration(
    spec: ContainerSpec, facts: HostFacts, inputs: PlanInputs, *, pieces: tuple[Piece, ...] = (), name: str = ""
) -> Configuration:
    """Write a container as an OCI configuration.

    Parameters
    ----------
    spec : ContainerSpec
        Resolved: `jupyter_ns.images.launch.prepare`.
    facts : HostFacts
        What this host can do.
    inputs : PlanInputs
        IDs, environment, capabilities, as `jupyter_ns.runtime.inputs.resolve_inputs` gives them.
    pieces : tuple of Piece
        For a container of the host's own files: what is mounted into the empty root.
    name : str
        For the path of its cgroup.

    Returns
    -------
    Configuration
        For the file ``config.json`` of a bundle whose root file system is in ``rootfs``.
    """
    notes: list[str] = []
    document: dict[str, Any] = {
        "ociVersion": VERSION,
        "process": _process(spec, facts, inputs, spec.command or ("sh",)),
        "root": {"path": "rootfs", "readonly": spec.readonly},
        "mounts": [*_own_mounts(spec, inputs, pieces), *(_mount(m, inputs) for m in spec.mounts)],
        "linux": _linux(spec, facts, inputs, name, notes),
    }
    if inputs.devices:
        document["linux"]["devices"] = [_device(node) for node in inputs.devices]
    if "uts" not in spec.without:
        document["hostname"] = spec.hostname or inputs.container_id[:12]
    if spec.domainname:
        notes.append("--domainname: config.json has no word for it in version 1.0.2")
    if spec.labels:
        document["annotations"] = dict(spec.labels)
    if spec.init:
        notes.append("--init: an OCI runtime has no init of its own; put one into args")
    if spec.timeout_seconds is not None:
        notes.append("--timeout: an OCI runtime has none")
    notes += [
        f"--{kind} container:{name[:12]}: its path would be one of this moment; the bundle has a namespace of its own"
        for kind, name in spec.joins
    ]
    if spec.networked:
        notes.append(f"--network {spec.network}: an OCI runtime leaves networks to others; it has loopback only")
    return Configuration(document, tuple(notes))


def _device(node: Any) -> dict[str, Any]:
    return {
        "path": node.destination,
        "type": "b" if stat.S_ISBLK(node.mode) else "c",
        "major": os.major(node.device),
        "minor": os.minor(node.device),
        "fileMode": stat.S_IMODE(node.mode),
        "uid": node.uid,
        "gid": node.gid,
    }


def _process(spec: ContainerSpec, facts: HostFacts, inputs: PlanInputs, argv: tuple[str, ...]) -> dict[str, Any]:
    names = list(capabilities.names(inputs.capabilities))
    held = names if not inputs.uid else []  # another user has none after execve(2), capabilities(7)
    process: dict[str, Any] = {
        "terminal": False,
        "user": {"uid": inputs.uid, "gid": inputs.gid, "additionalGids": list(inputs.all_groups), "umask": 0o022},
        "args": list(argv),
        "env": list(inputs.environment),
        "cwd": spec.workdir or "/",
        "capabilities": {"bounding": names, "permitted": held, "effective": held, "inheritable": [], "ambient": []},
        "noNewPrivileges": any(o.removesuffix("=true") == "no-new-privileges" for o in spec.security_options),
        "oomScoreAdj": spec.oom_score_adj,
    }
    if inputs.rlimits:
        process["rlimits"] = [
            {"type": f"RLIMIT_{RLIMITS[resource]}", "soft": soft & _UNLIMITED, "hard": hard & _UNLIMITED}
            for resource, soft, hard in inputs.rlimits
        ]
    return process


def _own_mounts(spec: ContainerSpec, inputs: PlanInputs, pieces: tuple[Piece, ...]) -> list[dict[str, Any]]:
    def mount(destination: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
        return {"destination": destination, "type": kind, "source": source or kind, "options": list(options)}

    hidden = ("nosuid", "noexec", "nodev")
    mounts = [_piece(piece) for piece in pieces]
    if "pid" in spec.without:
        mounts.append(mount("/proc", "bind", "rbind", "ro", "rro", source="/proc"))
    else:
        mounts.append(mount("/proc", "proc", *hidden))
    mounts += [
        mount("/dev", "tmpfs", "nosuid", "noexec", "mode=0755", "size=65536k"),
        mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
        mount("/dev/shm", "tmpfs", *hidden, "mode=1777", f"size={spec.shm_size_bytes}", source="shm"),
    ]
    if "ipc" not in spec.without:
        mounts.append(mount("/dev/mqueue", "mqueue", *hidden))
    if _network_is_own(spec):
        mounts.append(mount("/sys", "sysfs", *hidden, "ro"))
        mounts.append(mount("/sys/fs/cgroup", "cgroup", *hidden, "relatime", "ro"))
    else:
        mounts.append(mount("/sys", "bind", "rbind", "ro", "rro", source="/sys"))
    if pieces:
        mounts.append(mount("/tmp", "tmpfs", "nosuid", "nodev", "mode=1777"))
        mounts += [mount(path, "bind", "rbind", "ro", source=path) for path in inputs.exposed]
    return mounts


def _network_is_own(spec: ContainerSpec) -> bool:
    return spec.network != "host" and "network" not in spec.without


def _piece(piece: Piece) -> dict[str, Any]:
    if not piece.upper:
        return {"destination": piece.path, "type": "bind", "source": piece.path, "options": ["bind", "ro"]}
    options = [f"lowerdir={piece.path}", f"upperdir={piece.upper}", f"workdir={piece.work}", "nodev"]
    return {"destination": piece.path, "type": "overlay", "source": "overlay", "options": options}


def _mount(m: Mount, inputs: PlanInputs) -> dict[str, Any]:
    if m.type == "tmpfs":
        flags = ["ro" if f == "rdonly" else f for f in m.flags]
        options = [*flags, *(m.options.split(",") if m.options else ())]
        return {"destination": m.destination, "type": "tmpfs", "source": "tmpfs", "options": options}
    options = ["rbind", m.propagation, *(["ro", "rro"] if m.readonly else [])]
    return {"destination": m.destination, "type": "bind", "source": m.source, "options": options}


def _linux(spec: ContainerSpec, facts: HostFacts, inputs: PlanInputs, name: str, notes: list[str]) -> dict[str, Any]:
    left_out = set(spec.without) | (set() if _network_is_own(spec) else {"network"})
    if spec.userns != "private" and not facts.rootless:
        left_out.add("user")
    if "time" not in left_out and not spec.time_offset_seconds:
        left_out.add(
            "time"
        )  # runtimes before 1.1 of the specification refuse it, and without an offset it shows nothing
    linux: dict[str, Any] = {
        "namespaces": [{"type": k.name} for k in KINDS if k.name not in left_out],
        "cgroupsPath": f"/jupyter_ns/bundle-{name or inputs.container_id[:12]}",
        "resources": _resources(spec, inputs),
    }
    if "user" not in left_out:
        first_uid, first_gid, count = facts.private_ids
        linux["uidMappings"] = [{"containerID": 0, "hostID": first_uid, "size": count}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": first_gid, "size": count}]
        notes.append("a user namespace: the files in rootfs must belong to the IDs that it maps to")
    if spec.sysctls:
        linux["sysctl"] = dict(spec.sysctls)
    if spec.time_offset_seconds and "time" not in left_out:
        seconds, rest = divmod(spec.time_offset_seconds, 1)
        offset = {"secs": int(seconds), "nanosecs": int(rest * 1e9)}
        linux["timeOffsets"] = {"monotonic": offset, "boottime": offset}
    if not spec.privileged and "systempaths=unconfined" not in spec.security_options:
        linux["maskedPaths"] = list(paths.masked_paths(range(facts.cpus)))
        linux["readonlyPaths"] = [p.path for p in paths.READONLY_PATHS]
    if inputs.seccomp:
        linux["seccomp"] = seccomp(inputs.capabilities, facts.arch)
    return linux


def _resources(spec: ContainerSpec, inputs: PlanInputs) -> dict[str, Any]:
    limits = spec.limits
    swap = limits.memory_swap_bytes
    if not swap and limits.memory_bytes:
        swap = 2 * limits.memory_bytes  # as Docker's default
    quota, period = limits.cpu_bandwidth_us or (None, limits.cpu_period_us)
    rules = [{"allow": False, "access": "rwm"}]
    rules += [{"allow": True, "type": "c", "major": a, "minor": b, "access": "rwm"} for a, b in _DEVICES]
    rules += [{"allow": True, "type": "c", "major": 136, "access": "rwm"}]
    rules += [{"allow": True, "type": kind, "access": "m"} for kind in "cb"]
    rules += [_rule(text) for text in (*(node.rule for node in inputs.devices), *limits.device_rules)]
    table: dict[str, dict[str, Any]] = {
        "memory": {
            "limit": limits.memory_bytes,
            "swap": swap,
            "reservation": limits.memory_reservation_bytes,
            "swappiness": limits.memory_swappiness,
            "disableOOMKiller": limits.oom_kill_disable or None,
        },
        "cpu": {
            "shares": limits.cpu_shares,
            "quota": quota,
            "period": period,
            "cpus": limits.cpuset_cpus,
            "mems": limits.cpuset_mems,
        },
        "pids": {"limit": limits.pids_limit if limits.pids_limit and limits.pids_limit > 0 else None},
        "blockIO": {"weight": limits.blkio_weight, **_rates(limits)},
    }
    found: dict[str, Any] = {"devices": [{"allow": True, "access": "rwm"}] if spec.privileged else rules}
    if limits.hugetlb:
        found["hugepageLimits"] = [{"pageSize": size, "limit": limit} for size, limit in limits.hugetlb]
    for controller, values in table.items():
        given = {k: v for k, v in values.items() if v is not None}
        if given:
            found[controller] = given
    return found


def _rule(text: str) -> dict[str, Any]:
    """Write a rule of devices.allow, such as ``c 10:229 rwm``.

    Examples
    --------
    >>> _rule("c 10:* rw")
    {'allow': True, 'type': 'c', 'access': 'rw', 'major': 10}
    """
    kind, numbers, access = text.split()
    pairs = zip(("major", "minor"), numbers.split(":"), strict=True)
    return {"allow": True, "type": kind, "access": access, **{k: int(v) for k, v in pairs if v != "*"}}


_RATES = {
    "weightDevice": ("blkio_weight_device", "weight"),
    "throttleReadBpsDevice": ("device_read_bps", "rate"),
    "throttleWriteBpsDevice": ("device_write_bps", "rate"),
    "throttleReadIOPSDevice": ("device_read_iops", "rate"),
    "throttleWriteIOPSDevice": ("device_write_iops", "rate"),
}


def _rates(limits: Limits) -> dict[str, Any]:
    found = {}
    for name, (field, word) in _RATES.items():
        devices = []
        for path, value in getattr(limits, field):
            number = os.stat(path).st_rdev
            devices.append({"major": os.major(number), "minor": os.minor(number), word: value})
        found[name] = devices or None
    return found


def seccomp(mask: int, arch: str) -> dict[str, Any]:
    """Write the container's filter as the configuration has it.

    Parameters
    ----------
    mask : int
        Capabilities, on which some calls depend.
    arch : str
        As ``uname -m`` names it.
    """
    granted = {name.removeprefix("CAP_") for name in capabilities.names(mask)}
    allowed = set(profile.ALLOWED)
    for capability, calls in profile.BY_CAPABILITY.items():
        if capability in granted:
            allowed |= set(calls)
    rules: list[dict[str, Any]] = [{"names": sorted(allowed), "action": "SCMP_ACT_ALLOW"}]

    def allow(call: str, index: int, op: str, value: int, second: int = 0) -> None:
        argument = {"index": index, "value": value, "valueTwo": second, "op": f"SCMP_CMP_{op}"}
        rules.append({"names": [call], "action": "SCMP_ACT_ALLOW", "args": [argument]})

    if "clone" not in allowed:
        allow("clone", 0, "MASKED_EQ", profile.CLONE_NAMESPACES, 0)
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": int(errno.ENOSYS)})
    first = 0
    for family in sorted(profile.REFUSED_FAMILIES):
        for one in range(first, family) if family - first < 8 else ():
            allow("socket", 0, "EQ", one)
        if family - first >= 8:
            allow("socket", 0, "LT", family)
        first = family + 1
    allow("socket", 0, "GE", first)
    for persona in profile.PERSONALITIES:
        allow("personality", 0, "EQ", persona)
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": int(errno.EPERM),
        "architectures": [_ARCHITECTURES[arch]] if arch in _ARCHITECTURES else [],
        "syscalls": rules,
    }
