"""Look up on this host what a plan needs and a spec only names."""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from stat import S_ISBLK, S_ISCHR
from typing import Any

from ..cgroups.devices import ALL
from ..errors import UnsupportedError, UsageError
from ..host import OWN_DIRECTORIES, Attributes, HostFacts, is_below
from ..plan import DeviceNode, PlanInputs
from ..security import capabilities, seccomp
from ..spec import ContainerSpec, Device, Limits
from .accounts import Accounts, resolve


def resolve_inputs(container: str, spec: ContainerSpec, facts: HostFacts, request: dict[str, Any]) -> PlanInputs:
    """Resolve names, look at paths, choose the filter.

    Parameters
    ----------
    container : str
        The container's ID.
    spec : ContainerSpec
        What was asked for.
    facts : HostFacts
        What the host can do.
    request : dict
        ``environ`` (map) and ``exposed`` (list of directories that the payload's Python needs); ``image``
        as `jupyter_ns.images.launch.prepare` gives it; ``accounts`` of a container that runs.

    Raises
    ------
    UsageError
        If a user, group or bind source does not exist.
    UnsupportedError
        If seccomp filters are wanted but not to be had.
    """
    image = request.get("image", {})
    layers = tuple(image.get("lower", ()))
    lower = () if image.get("base") else layers
    accounts = request.get("accounts") or (Accounts.of_layers(layers, alone=bool(lower)) if layers else None)
    uid, gid, groups, home = resolve(spec, accounts)
    mask = capabilities.resolve(spec.cap_add, spec.cap_drop, privileged=spec.privileged, last_cap=facts.last_cap)
    lacking: tuple[str, ...] = ()
    if spec.userns != "private":  # whoever enters a new user namespace has all of them there
        mask, lacking = capabilities.bounded(mask, facts.capabilities, spec.cap_add)
    exposed = () if lower else exposed_directories([*request.get("exposed", ()), spec.workdir])
    if not facts.root_entries:  # else one is shown with all that is mounted below it: `HostFacts.bound`
        below = (m.path for m in facts.hidden if any(is_below(m.path, path) for path in exposed))
        exposed = tuple(dict.fromkeys([*exposed, *below]))
    return PlanInputs(
        container_id=container,
        environment=environment_of(container, spec, request.get("environ", {}), home),
        home=home,
        uid=uid,
        gid=gid,
        groups=groups,
        source_is_dir=_sources(spec),
        exposed=exposed,
        attributes={path: Attributes.of(path) for path in exposed},
        rlimits=_rlimits(spec, facts),
        seccomp=_filter(spec, facts, mask),
        capabilities=mask,
        lacking=lacking,
        workdir_exists=not lower and os.path.isdir(spec.workdir),
        bare=bool(request.get("bare")),
        devices=device_nodes(spec),
        lower=lower,
        above=_above(layers, facts, exposed) if image.get("base") else {},
    )


def _above(layers: tuple[str, ...], facts: HostFacts, exposed: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Find what an image's layers hold of each of the host's file systems that a container has an overlay of."""
    overlays = [submount.path for submount in facts.submounts if submount.how == "overlay"]
    found = {}
    for path in ("/", *overlays, *exposed):
        directories = [os.path.join(layer, path.lstrip("/")) for layer in layers]
        found[path] = tuple(d for d in directories if os.path.isdir(d) and not os.path.islink(d))
    return found


def limits_of(spec: ContainerSpec, facts: HostFacts) -> Limits:
    """Return the limits of a container, with the rules for the devices that it is given.

    Raises
    ------
    UsageError
        If a device does not exist.
    UnsupportedError
        If the use of a device is to be restricted where it cannot be.
    """
    if spec.privileged:
        return replace(spec.limits, device_rules=(ALL,) if not facts.cgroup.get("devices_error") else ())
    if not spec.devices:
        return spec.limits
    rules = {n.rule for n in device_nodes(spec)}
    reason = facts.cgroup.get("devices_error", "")
    if not reason:
        return replace(spec.limits, device_rules=(*spec.limits.device_rules, *sorted(rules)))
    for device in spec.devices:
        if set(device.permissions) != set("rwm"):
            raise UnsupportedError(f"--device {device.source}:{device.permissions}: only rwm can be had here: {reason}")
    return spec.limits


def device_nodes(spec: ContainerSpec) -> tuple[DeviceNode, ...]:
    """Look up the devices that a container is given; a directory stands for all devices in it.

    Raises
    ------
    UsageError
        If one does not exist, or is no device.
    """
    return tuple(node for device in spec.devices for node in _nodes_of(device))


def _nodes_of(device: Device) -> list[DeviceNode]:
    found = []
    for source in _device_paths(device):
        status = os.stat(source)
        if S_ISCHR(status.st_mode) or S_ISBLK(status.st_mode):
            found.append(
                DeviceNode(
                    source=source,
                    destination=device.destination + source[len(device.source) :],
                    mode=status.st_mode,
                    device=status.st_rdev,
                    uid=status.st_uid,
                    gid=status.st_gid,
                    permissions=device.permissions,
                )
            )
    if not found:
        raise UsageError(f"--device {device.source}: no device; expected a block or character device of the host's")
    return found


def _device_paths(device: Device) -> list[str]:
    if not os.path.exists(device.source):
        raise UsageError(f"--device {device.source}: does not exist on the host")
    if not os.path.isdir(device.source):
        return [device.source]
    found = []
    for top, directories, names in os.walk(device.source):
        directories[:] = [d for d in directories if d not in ("pts", "shm", "mqueue", "fd")]  # it has its own
        found += [f"{top}/{name}" for name in sorted(names) if not os.path.islink(f"{top}/{name}")]
    return found


def environment_of(container: str, spec: ContainerSpec, base: dict[str, str], home: str) -> tuple[str, ...]:
    """Return a payload's environment, ``NAME=value``: the kernel's, and what the user said."""
    merged: dict[str, str] = {**base, "HOSTNAME": spec.hostname or container[:12]}
    if home:
        merged["HOME"] = home
    if spec.tty:
        # A cell has no cursor to be moved, and nobody waits there for a prompt.
        merged |= {"TERM": "dumb", "PS1": "", "PS2": ""}
    for name, value in spec.environment:
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return tuple(f"{k}={v}" for k, v in merged.items())


def _sources(spec: ContainerSpec) -> dict[str, bool]:
    found = {}
    for mount in spec.mounts:
        if mount.type == "bind":
            if not os.path.exists(mount.source):
                raise UsageError(f"{mount.option}: {mount.source} does not exist on the host; make it first")
            found[mount.source] = os.path.isdir(mount.source)
    return found


def exposed_directories(candidates: list[str]) -> tuple[str, ...]:
    """Choose the directories that must be seen although they lie below one of the container's own.

    Examples
    --------
    >>> exposed_directories(["/usr", "/tmp/jupyter_ns-no-such-directory"])
    ()
    """
    places = {_directory(c) for c in candidates if c}
    chosen: list[str] = []
    for path in sorted(p for p in places if any(is_below(p, o) for o in OWN_DIRECTORIES)):
        if not is_below(path, "/proc") and not is_below(path, "/sys") and not any(is_below(path, c) for c in chosen):
            chosen.append(path)
    return tuple(chosen)


def _directory(path: str) -> str:
    """Return the path of a directory without links, as the kernel knows it; empty if there is none."""
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")  # much faster than looking at each part of it
    finally:
        os.close(fd)


def _rlimits(spec: ContainerSpec, facts: HostFacts) -> tuple[tuple[int, int, int], ...]:
    own = ((getattr(resource, "RLIMIT_" + u.name.upper()), u.soft, u.hard) for u in spec.ulimits)
    engines = [(resource.RLIMIT_NOFILE, *facts.nofile)] if any(facts.nofile) else []
    return (*engines, *own)  # the later one counts


def _filter(spec: ContainerSpec, facts: HostFacts, mask: int) -> bytes:
    if spec.privileged or "seccomp=unconfined" in spec.security_options:
        return b""
    if facts.seccomp_error:
        raise UnsupportedError(
            f"no seccomp filter: {facts.seccomp_error}. Go without, knowingly, with --security-opt seccomp=unconfined"
        )
    return seccomp.program(mask, facts.arch)
