"""Plans of processes that enter what is there already: ``exec``, and a container that is started again. Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace

from ..errors import UnsupportedError
from ..host import HostFacts, is_below
from ..namespaces import BY_NAME
from ..spec import ContainerSpec
from .build import MNT_DETACH, PlanInputs, _Build, _kinds, connecting
from .devices import device_steps
from .finish import PR_SET_PDEATHSIG, SIGKILL, become_root, finish_steps
from .steps import Op, Plan, Step

PR_SET_DUMPABLE = 4
RENEWED = ("/proc", "/sys", "/dev")
"""What a container that is started again gets anew."""


def exec_plan(spec: ContainerSpec, facts: HostFacts, inputs: PlanInputs) -> Plan:
    """Compile the plan of one more process in a container.

    Parameters
    ----------
    spec : ContainerSpec
        The container's, with the program, user, directory and environment of the new process.
    facts : HostFacts
        What the host can do.
    inputs : PlanInputs
        As of the container; `cgroup_join` are the files of its cgroups.

    Notes
    -----
    The descriptor ``target`` is a pidfd of the container's PID 1: setns(2) takes all its namespaces at once.
    """
    spec = replace(spec, init=False)
    return Plan(0, (*_enter(spec, facts, inputs), *finish_steps(spec, facts, inputs)))


def enters_by_itself(spec: ContainerSpec, facts: HostFacts) -> bool:
    """Whether a program has to enter the PID namespace itself, which counts for its children only.

    Else its maker is in there while it clones, and then returns to its own: a user's engine could not, for that is
    of a user namespace above.
    """
    return facts.rootless and not spec.python


def _enter(spec: ContainerSpec, facts: HostFacts, inputs: PlanInputs) -> Iterator[Step]:
    """Should: be in the container's cgroups and in all its namespaces.

    Mustn't: bring anything of the host's along, or let the container look at the host's program that does this.
    """
    kinds = _kinds(spec, facts, [], bare=inputs.bare)
    fds = _Build(spec=spec, facts=facts, inputs=inputs, kinds=kinds, weakened=[], target=True).descriptors()
    target = dict(fds)["target"]
    yield Step(Op.FDS, (fds,), why="standard streams; everything else is closed")
    # CVE-2019-5736: whoever may trace a process may open its program through /proc/PID/exe. Until here, it has
    # capabilities that nobody inside has, and so cannot be traced either.
    yield Step(Op.PRCTL, (PR_SET_DUMPABLE, 0), why="not to be traced from inside before it is one of them")
    if "pid" in kinds and enters_by_itself(spec, facts):
        yield Step(Op.PRCTL, (PR_SET_PDEATHSIG, SIGKILL), why="the parent outside dies with the engine")
        yield Step(Op.SETNS, (target, BY_NAME["pid"].flag), why="for children only: pid_namespaces(7)")
        yield Step(Op.INIT, why="the parent stays outside and waits; the child is in the PID namespace")
    yield from _session(spec)
    for path in inputs.cgroup_join:
        yield Step(Op.WRITE, (path, "0"), why="into the container's cgroup")
    others = sum(BY_NAME[kind].flag for kind in kinds - {"pid"})
    if others:
        yield Step(Op.SETNS, (target, others), why="all its other namespaces")
    if "user" in kinds:
        # Of the host's root, no group may stay; a user cannot give up any (user_namespaces(7)).
        yield from (s for s in become_root() if s.op is not Op.SETGROUPS or not facts.rootless)


def _session(spec: ContainerSpec) -> Iterator[Step]:
    yield Step(Op.SETSID, tolerate=errno.EPERM, why="a session of its own")
    if spec.tty:
        yield Step(Op.CTTY, why="standard input is its terminal", option="--tty")


def restart_plan(spec: ContainerSpec, facts: HostFacts, inputs: PlanInputs) -> Plan:
    """Compile the plan of a container that is started again, in the mount namespace that it had.

    Raises
    ------
    UnsupportedError
        If that namespace cannot be used again.

    Notes
    -----
    The descriptor ``target`` is that of the mount namespace, which holds all that the container wrote.
    """
    weakened: list[str] = []
    kinds = _kinds(spec, facts, weakened, bare=inputs.bare)
    if "mount" not in kinds:
        raise UnsupportedError("start: a container without a mount namespace keeps nothing to start again from")
    if "user" in kinds:
        raise UnsupportedError("start: a container with a user namespace of its own cannot be started again")
    if facts.mknod_error:  # the host's own devices are out of reach from inside
        raise UnsupportedError(f"start: /dev cannot be made anew here: {facts.mknod_error}")
    for mount in spec.mounts:
        if any(is_below(mount.destination, path) for path in RENEWED):
            raise UnsupportedError(f"start: {mount.option}: what was mounted below {mount.destination} would be lost")
    build = _Build(spec=spec, facts=facts, inputs=inputs, kinds=kinds, weakened=weakened, target=True)
    steps = [*build.entry(), *_again(build), *build.joined(), *finish_steps(spec, facts, inputs)]
    return Plan(build.clone_flags(), tuple(steps), tuple(weakened), connecting(spec, inputs))


def _again(build: _Build) -> Iterator[Step]:
    """Should: replace those mounts that belong to namespaces which are gone.

    Mustn't: touch what the container wrote.
    """
    target = dict(build.descriptors())["target"]
    yield Step(Op.SETNS, (target, BY_NAME["mount"].flag), why="where everything is that it wrote")
    yield from build._late_namespaces()
    # /dev too: the container may have put a link in place of /dev/null, which is bound below (CVE-2025-31133).
    for path in RENEWED:
        yield Step(Op.UMOUNT, (path, MNT_DETACH), why="of namespaces that are gone; made anew")
    yield from build._dev()
    yield from device_steps(build.inputs.devices, old_root="", bind=False)
    yield from build._proc(build.root)
    yield from build._sys(build.root)
    yield from build._sysctls()
    yield from build._policy_paths()
