"""The last stage of a plan: privileges are given up, and the payload starts."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from ..host import HostFacts
from ..spec import ContainerSpec
from .inputs import PlanInputs
from .steps import Op, Step

LAST_WAIT = Step(Op.WAIT, ("go",), why="everything is ready")
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS, SIGKILL = 1, 4, 8, 38, 9


def finish_steps(spec: ContainerSpec, facts: HostFacts, inputs: PlanInputs) -> Iterator[Step]:
    """Should: reach the working directory as root, then hold no more than the payload may.

    Mustn't: need, after the seccomp filter is on, a call that the filter refuses.
    """
    yield Step(Op.UMASK, (0o022,))
    if spec.init and not spec.python:
        yield Step(Op.INIT, why="the parent stays as PID 1 and reaps; the child goes on", option="--init")
    if not facts.keyring_error:
        yield Step(Op.KEYRING, why="a session keyring of its own, keyrings(7)")
    if spec.workdir:
        if not spec.readonly:  # else it was made before the root became read-only
            yield from make_workdir(spec, inputs)
        yield Step(Op.CHDIR, (spec.workdir,), option="--workdir")
    if spec.oom_score_adj:
        text = str(spec.oom_score_adj)
        yield Step(Op.WRITE, ("/proc/self/oom_score_adj", text), option="--oom-score-adj")
    for resource, soft, hard in inputs.rlimits:
        yield Step(Op.RLIMIT, (resource, soft & (2**64 - 1), hard & (2**64 - 1)), option="--ulimit")
    yield from _privileges(spec, facts, inputs)
    yield Step(Op.PRCTL, (PR_SET_PDEATHSIG, SIGKILL), why="die with the engine; after the last change of IDs")
    if not spec.python:
        yield Step(Op.SIGNALS, why="the engine's dispositions are not the payload's")
    yield LAST_WAIT
    if inputs.bare:
        yield Step(Op.PAUSE, why="PID 1, while a fork of the notebook's kernel is inside")
    if spec.python:
        return
    yield exec_step(spec, inputs.environment)


def exec_step(spec: ContainerSpec, environment: tuple[str, ...]) -> Step:
    """Return the last step of a program's plan, the only one that depends on `recipes.WORDS`."""
    return Step(Op.EXEC, (search_path(spec.command[0], environment), spec.command, environment))


def entering_steps(spec: ContainerSpec, facts: HostFacts, inputs: PlanInputs) -> Iterator[Step]:
    """List what a process does that has just entered the container's namespaces, before the cell runs."""
    fds = (("stdin", 0), ("stdout", 1), ("stderr", 2), ("channel", 3), ("report", 4))
    yield Step(Op.FDS, (fds,), why="standard streams; everything else of the kernel's is closed")
    if spec.userns == "private" and not facts.rootless:
        yield from become_root()
    yield from (s for s in finish_steps(spec, facts, inputs) if s.op not in (Op.WAIT, Op.PAUSE))


def become_root() -> Iterator[Step]:
    """Take the IDs of root in a user namespace that was just entered: until then, they are the host's."""
    yield Step(Op.SETGROUPS, ((),), why="no group of the host's root")
    yield Step(Op.SETRESGID, (0,), why="root of the user namespace")
    yield Step(Op.SETRESUID, (0,), why="root of the user namespace")


def make_workdir(spec: ContainerSpec, inputs: PlanInputs) -> Iterator[Step]:
    """Make the working directory, as Docker does where it is absent."""
    parts = spec.workdir.strip("/").split("/")
    for i in range(1, len(parts) + 1) if not inputs.workdir_exists else ():
        path = "/" + "/".join(parts[:i])
        yield Step(Op.MKDIR, (path, 0o755), tolerate=errno.EEXIST, why="made if absent", option="--workdir")


def _privileges(spec: ContainerSpec, facts: HostFacts, inputs: PlanInputs) -> Iterator[Step]:
    no_new_privs = any(o in ("no-new-privileges", "no-new-privileges=true") for o in spec.security_options)
    if no_new_privs:
        yield Step(Op.PRCTL, (PR_SET_NO_NEW_PRIVS, 1), option="--security-opt no-new-privileges")
    if inputs.seccomp:
        # Before the capabilities go: without no_new_privs the call needs CAP_SYS_ADMIN.
        yield Step(Op.SECCOMP, (inputs.seccomp,), why="Docker's default profile")
    yield Step(Op.BOUNDING, (inputs.capabilities, facts.last_cap), why="what no execve can bring back")
    if inputs.all_groups:
        yield Step(Op.SETGROUPS, (inputs.all_groups,), option="--user")
        yield Step(Op.SETRESGID, (inputs.gid,), option="--user")
        yield Step(Op.SETRESUID, (inputs.uid,), option="--user")
    if not inputs.uid:
        yield Step(Op.CAPSET, (inputs.capabilities, 0))


def search_path(program: str, environment: tuple[str, ...]) -> tuple[str, ...]:
    """List the paths at which execvp(3) would look for `program`.

    Examples
    --------
    >>> search_path("sh", ("HOME=/", "PATH=/usr/bin:/bin"))
    ('/usr/bin/sh', '/bin/sh')
    """
    if "/" in program:
        return (program,)
    path = next((e[5:] for e in environment if e.startswith("PATH=")), "/usr/bin:/bin")
    return tuple(f"{directory or '.'}/{program}" for directory in path.split(":"))
