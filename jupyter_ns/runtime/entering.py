"""Make the engine's children that enter what is there already: ``exec``, ``start``."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgpack

from ..errors import UnsupportedError, UsageError
from ..plan import PlanInputs
from ..plan.entering import carried_over, exec_plan, restart_plan
from ..spec import ContainerSpec
from ..trees import open_in_root
from .accounts import Accounts
from .entered import Entered
from .inputs import resolve_inputs
from .recipes import Recipe, entering_recipe
from .streams import make_pipes
from .supervised import KEPT, Supervised
from .terminal import terminal_in, terminal_of

if TYPE_CHECKING:
    from .engine import Engine
    from .registry import Record

NS_GET_USERNS = 0xB701
"""ioctl_ns(2)."""
MOST_WORDS = 16
"""Kinds of process to enter one container whose recipes are kept."""


def enter_container(engine: Engine, request_id: str, request: dict[str, Any]) -> None:
    """Start one more process in a running container.

    Parameters
    ----------
    engine : Engine
        Whose container it is.
    request_id : str
        What the kernel calls the process.
    request : dict
        ``enter`` (name or ID of the container) and ``changes``, fields of the spec that differ from the
        container's; ``environment`` among them is added to it. ``detach``: nobody waits for its end.
        ``stdin``: all that it reads.

    Raises
    ------
    UsageError
        If there is no such container, or it does not run.
    """
    made = enter(engine, request_id, engine.registry.find(request["enter"]), request["changes"])
    made.on_its_own = bool(request.get("detach"))
    if "stdin" in request:
        made.streams.feed_all(request["stdin"])


def enter(engine: Engine, name: str, record: Record, changes: dict[str, Any]) -> Entered:
    """Start one more process in a running container; see `enter_container`."""
    if record.state != "running":
        raise UsageError(f"exec: container {record.name} is {record.state}, not running")
    host = record.process
    key = msgpack.packb([changes, host.cgroup.self_join_files], unicode_errors="surrogateescape")
    recipe = host.entered.get(key) or _recipe_to_enter(record, dict(changes))
    if not (recipe.spec.user or recipe.spec.groups):  # whom a name means may change meanwhile
        if len(host.entered) >= MOST_WORDS:
            host.entered.clear()
        host.entered[key] = recipe
    ends, child = make_pipes(recipe.spec.python, recipe.uid, _terminal(host, recipe))
    child["target"] = os.dup(host.pidfd)
    made = Entered(engine, name, recipe, ends, host.cgroup, target=host.pidfd)
    made.container_id, made.namespaces = record.id, host.namespaces
    engine.containers[name] = made
    try:
        engine.spawn(made, child)
    except BaseException:
        del engine.containers[name]
        raise
    return made


def _terminal(host: Supervised, recipe: Recipe) -> tuple[int, int] | None:
    """Open a terminal for what enters a container: in its /dev/pts, where that is what it should be."""
    if not recipe.spec.tty or "mount" in recipe.spec.without:
        return terminal_of(recipe.spec)
    try:
        return terminal_in(host.root_fd, recipe.uid)
    except OSError as e:
        raise UsageError(f"docker exec -t: no terminal can be opened in the container's /dev/pts: {e}") from None


def _recipe_to_enter(record: Record, changes: dict[str, Any]) -> Recipe:
    host = record.process
    added = tuple((name, value) for name, value in changes.pop("environment", ()))
    spec = ContainerSpec.from_dict(
        replace(record.spec, entrypoint=None, timeout_seconds=None, tty=False).to_dict() | changes
    )
    spec = replace(spec, environment=(*record.spec.environment, *added))
    facts = host.recipe.facts
    # What is exposed was chosen when the container was built; looking once more takes longer than all the rest.
    request = {"environ": record.request["environ"], "accounts": _accounts(record, spec)}
    inputs = resolve_inputs(record.id, spec, facts, request)
    inputs = replace(inputs, cgroup_join=host.cgroup.self_join_files, workdir_exists=True)
    uid = inputs.uid + (facts.private_ids[0] if host.recipe.remapped else 0)
    return entering_recipe(spec, exec_plan(spec, facts, inputs), inputs.exposed, facts, uid)


def _accounts(record: Record, spec: ContainerSpec) -> Accounts | None:
    image = record.request.get("image", {})
    alone = bool(image) and not image.get("base")
    if not (alone or spec.user or spec.groups) or "mount" in spec.without:
        return None
    return Accounts.of_root(record.process.root_fd, alone=alone)


def start_again(engine: Engine, record: Record) -> None:
    """Start a container that has ended, in the mount namespace that it kept, if it had one.

    Raises
    ------
    UnsupportedError
        If it cannot be used again.
    OSError
        As clone3(2) and cgroups(7).
    """
    before, spec, facts = record.process, record.spec, record.process.recipe.facts
    inputs = resolve_inputs(record.id, spec, facts, record.request)
    if "mount" not in spec.without:
        _look_for_links(before.root_fd, spec)
    had = before.network.wanted if before.network is not None else None
    with engine.networks.reserved(spec, record.name, had) as network:
        made, child = _made_again(engine, record, inputs)
    made.join(network)
    if "target" in made.recipe.descriptors:
        child["target"] = os.dup(before.ground_fd if before.ground_fd >= 0 else before.mount_namespace_fd)
    if "owner" in made.recipe.descriptors:
        child["owner"] = fcntl.ioctl(before.mount_namespace_fd, NS_GET_USERNS)
    engine.spawn(made, child)
    if not spec.stdin_open:
        made.streams.feed_stdin(None)
    for kept in KEPT:  # until it has its own, and where it cannot be started
        setattr(made, kept, getattr(before, kept))
        setattr(before, kept, -1)
    before.dispose()
    record.process = made
    engine.containers[made.id] = made


def _look_for_links(root_fd: int, spec: ContainerSpec) -> None:
    """Make sure that what is to be mounted again is where it was: the plan goes there by its path.

    Raises
    ------
    UnsupportedError
        If the container has put a link on the way, or moved it. Its processes are gone, so this stays as it is found.
    """
    for mount in carried_over(spec):
        base = "/" + mount.destination.split("/")[1]
        devices = [_device_at(root_fd, path) for path in {base, mount.destination}]
        if None in devices or len(set(devices)) != len(devices):  # a link, nothing, or a directory of the base's own
            raise UnsupportedError(
                f"start: {mount.option}: the container has moved what was mounted there, or put a link "
                "in its path, which is not followed; `docker cp` gets what it wrote"
            )


def _device_at(root_fd: int, path: str) -> int | None:
    try:
        fd = open_in_root(root_fd, path, os.O_PATH, links=False)
    except OSError:
        return None
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def _made_again(engine: Engine, record: Record, inputs: PlanInputs) -> tuple[Supervised, dict[str, int]]:
    before, spec, facts = record.process, record.spec, record.process.recipe.facts
    cgroup = engine.new_cgroup(record.id, spec)
    try:
        join = cgroup.self_join_files if cgroup.into_fd() is None else ()
        plan = restart_plan(spec, facts, replace(inputs, cgroup_join=join))
        uid = inputs.uid + (facts.private_ids[0] if before.recipe.remapped else 0)
        recipe = entering_recipe(spec, plan, inputs.exposed, facts, uid)
        recipe = replace(recipe, lower=before.recipe.lower, above=before.recipe.above, held=before.recipe.held)
        ends, child = make_pipes(spec.python, recipe.uid, terminal_of(spec))
    except BaseException:
        cgroup.remove()
        raise
    made = Supervised(engine, record.id, recipe, ends, cgroup)
    made.attached, made.record = False, record
    return made, child
