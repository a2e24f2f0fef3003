"""Plans of processes that enter what is there already: ``exec``, and a container that is started again. Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..host import HostFacts, is_below
from ..namespaces import BY_NAME
from ..spec import ContainerSpec, Mount
from .build import DEVICES, MNT_DETACH, OPEN_ALREADY, _Build, _kinds, build_plan, connecting, controlling_terminal
from .devices import device_steps
from .finish import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, SIGKILL, become_root, finish_steps
from .inputs import PlanInputs
from .steps import MOUNT_FLAGS, Op, Plan, Step

AT_RECURSIVE = 0x8000
RENEWED = ("/proc", "/sys", "/dev")
"""What a container that is started again gets anew."""
NEW = "/dev/.new"
"""Where the new ones are for a moment; the /dev is ours."""
FIRST_TREE_FD = 16
"""Above all numbers of `_Build.descriptors`."""


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
    spec = replace(spec, init=False, joins=())  # what it has joined is entered as all else
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
        yield controlling_terminal(OPEN_ALREADY)


def restart_plan(spec: ContainerSpec, facts: HostFacts, inputs: PlanInputs) -> Plan:
    """Compile the plan of a container that is started again, in the mount namespace that it had.

    Raises
    ------
    UnsupportedError
        As `build_plan`.

    Notes
    -----
    The descriptor ``target`` is that of the mount namespace, which holds all that the container wrote; of a container
    that was built by the host's root and then entered a user namespace, that in which it was built, where nothing is
    locked. There is none where the container had the host's mount namespace: there it is built as before. An ordinary
    user's mount namespace may belong to a user namespace of the container's: it keeps that alive, and ``owner`` is a
    descriptor of it. What the user mounted on or below /dev, /proc and /sys is cloned by its path: the caller makes
    sure that no link is on the way (`carried_over`).
    """
    weakened: list[str] = []
    kinds = _kinds(spec, facts, weakened, bare=inputs.bare)
    if "mount" not in kinds:
        return build_plan(spec, facts, inputs)  # it has written to the host's own files
    rejoins = "user" in kinds and facts.rootless
    build = _Build(spec=spec, facts=facts, inputs=inputs, kinds=kinds, weakened=weakened, target=True, rejoins=rejoins)
    steps = [*build.entry(), *_again(build), *build.joined(), *finish_steps(spec, facts, inputs)]
    return Plan(build.clone_flags(), tuple(steps), tuple(weakened), connecting(spec, inputs))


def carried_over(spec: ContainerSpec, renewed: Iterable[str] = RENEWED) -> list[Mount]:
    """List what the user had mounted on or below what is renewed; what is below one of these comes along with it."""
    there = [m for m in spec.mounts if any(is_below(m.destination, path) for path in renewed)]
    return [m for m in there if not any(o is not m and is_below(m.destination, o.destination) for o in there)]


def _again(build: _Build) -> Iterator[Step]:
    """Should: replace those mounts that belong to namespaces which are gone.

    Mustn't: touch what the container wrote, or take a path of the container's for one of the host's.
    """
    target = dict(build.descriptors())["target"]
    bind = bool(build.facts.mknod_error) or build.remapped
    carried = carried_over(build.spec, ("/dev", *_renewed(build)))
    # Those elsewhere are where they were.
    nodes = [n for n in build.inputs.devices if is_below(n.destination, "/dev")]
    nodes = [n for n in nodes if not any(is_below(n.destination, m.destination) for m in carried)]
    hosts = [f"/dev/{name}" for name, _, _ in DEVICES] if build.binds_devices else []
    hosts += [node.source for node in nodes] if bind else []
    build.trees = {path: FIRST_TREE_FD + index for index, path in enumerate(dict.fromkeys(hosts))}
    if build.trees and build.facts.rootless:
        yield Step(Op.UNSHARE, (BY_NAME["mount"].flag,), why="open_tree(2) wants a mount namespace of one's own")
    for path, fd in build.trees.items():
        yield Step(Op.OPEN_TREE, (path, fd, 0), why="out of reach once we are inside")
    yield Step(Op.SETNS, (target, BY_NAME["mount"].flag), why="where everything is that it wrote")
    first = FIRST_TREE_FD + len(build.trees)
    for fd, mount in enumerate(carried, start=first):
        arguments = (mount.destination, fd, AT_RECURSIVE)
        yield Step(Op.OPEN_TREE, arguments, why="to be mounted again", option=mount.option)
    proc_fd = first + len(carried)
    if build.remapped:
        yield Step(Op.FSIDS, build.facts.private_ids[:2], why="what is made from here on belongs to root inside")
    elif build.rejoins:
        yield from _rejoin(build, proc_fd)
    else:
        yield from build._late_namespaces()
    # /dev too: the container may have put a link in place of /dev/null, which is bound below (CVE-2025-31133).
    yield from _unmounted(build, "/dev")
    yield from build._dev()
    yield from device_steps(tuple(nodes), old_root="", bind=bind, trees=build.trees)
    yield from _swapped(build, proc_fd)
    yield from build._terminal()
    for fd, mount in enumerate(carried, start=first):
        yield from build._mount_point(mount)
        yield Step(Op.MOVE_MOUNT, (mount.destination, fd), why="as it was", option=mount.option)
    if build.remapped:
        yield from build._late_namespaces()
        yield from build._mqueue("/dev")
        yield from build._sys("")
    yield from build._sysctls()
    yield from build._policy_paths(("/proc", "/sys") if build.remapped else tuple(_renewed(build)))


def _rejoin(build: _Build, proc_fd: int) -> Iterator[Step]:
    """Enter the user namespace that owns the mounts, and make the others there; of an ordinary user's container.

    The PID namespace is there already, and so is of the engine's user namespace: who has left that may not mount its
    /proc, proc(5).
    """
    owner = dict(build.descriptors())["owner"]
    if "/proc" in _renewed(build):
        yield from build._proc("")
        yield Step(Op.OPEN_TREE, ("/proc", proc_fd, 0), why="to be mounted from inside")
        yield Step(Op.UMOUNT, ("/proc", MNT_DETACH))
    yield Step(Op.SETNS, (owner, BY_NAME["user"].flag), why="its maps are as they were", option="--userns private")
    flags = sum(BY_NAME[kind].flag for kind in build.kinds - {"user", "mount", "pid", "time"})
    if flags:
        yield Step(Op.UNSHARE, (flags,), why="they belong to it, as before")
    yield from build._loopback()


def _unmounted(build: _Build, path: str) -> Iterator[Step]:
    """Take away what is mounted there, and what the user had mounted on it."""
    for _ in range(1 + sum(mount.destination == path for mount in build.spec.mounts)):
        yield Step(Op.UMOUNT, (path, MNT_DETACH), why="of a namespace that is gone, or not to be trusted")


def _renewed(build: _Build) -> dict[str, Iterator[Step]]:
    """Return those of /proc and /sys that are of namespaces which are gone, and the steps that mount new ones."""
    found = {}
    if "pid" in build.kinds and not build.facts.proc_error:
        found["/proc"] = build._proc(NEW)
    if "network" in build.kinds and not build.facts.sysfs_error and not build.remapped:
        found["/sys"] = build._sys(NEW)
    return found


def _swapped(build: _Build, proc_fd: int) -> Iterator[Step]:
    """Mount the new ones before the old go: in a user namespace, mount(2) wants to see one already."""
    renewed = _renewed(build)
    if build.rejoins and "/proc" in renewed:
        renewed["/proc"] = iter([Step(Op.MOVE_MOUNT, (NEW + "/proc", proc_fd))])
    yield Step(Op.MKDIR, (NEW, 0o755))
    for path, mounting in renewed.items():
        yield Step(Op.MKDIR, (NEW + path, 0o755))
        yield from mounting
        yield from _unmounted(build, path)
        yield Step(Op.MOUNT, (NEW + path, path, None, MOUNT_FLAGS["MS_MOVE"], None))
        yield Step(Op.RMDIR, (NEW + path,))
    yield Step(Op.RMDIR, (NEW,))
