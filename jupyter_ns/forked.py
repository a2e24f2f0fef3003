"""``--state fork``: a copy-on-write fork of the live kernel moves into a container.

The one exception to "the kernel never forks", asked for by name. libc's fork is used, so that
its atfork handlers run; only the calling thread exists in the child. Hazards: locks that other
threads held stay locked in the child, sockets and open files of the notebook are closed there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from typing import Any

from . import core
from .container import Container
from .errors import UsageError
from .host import HostFacts
from .namespaces import BY_NAME
from .plan import Plan, PlanInputs
from .plan.finish import entering_steps

FIRST_FD = 200


def enter(
    shell: Any, cell: dict[str, Any], facts: HostFacts, container: Container, join: list[str], inputs: PlanInputs
) -> int:
    """Fork the kernel; the child enters `container`, runs `cell` there and ends. Returns the child's PID.

    Raises
    ------
    UsageError
        Outside the main thread, which is the one that the cell's state belongs to.
    """
    if threading.current_thread() is not threading.main_thread():
        raise UsageError("--state fork: only the kernel's main thread can be forked; use --state copy here")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = _fork()
    if pid:
        return pid
    code = 125
    try:
        code = _outer(shell, cell, facts, container, join, inputs)
    finally:
        os._exit(code)


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of forking with threads; the module's documentation says what that means here.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _outer(
    shell: Any, cell: dict[str, Any], facts: HostFacts, container: Container, join: list[str], inputs: PlanInputs
) -> int:
    """In the first child: enter every namespace, and fork once more to be inside the PID namespace."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pidfd = os.pidfd_open(container.pid)
    fds = [core.pidfd_getfd(pidfd, number) for number in range(4)]
    for path in join:
        with open(path, "w") as f:
            f.write("0")
    core.setns(pidfd, sum(BY_NAME[k].flag for k, ids in container.namespaces.items() if ids.isolated))
    child = _fork()
    if child:
        for fd in fds:
            os.close(fd)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code if code >= 0 else 128 - code
    try:
        return _inner(shell, cell, facts, container, inputs, fds)
    except BaseException:
        sys.__excepthook__(*sys.exc_info())
        return 125


def _inner(
    shell: Any, cell: dict[str, Any], facts: HostFacts, container: Container, inputs: PlanInputs, fds: list[int]
) -> int:
    """In the second child: give up privileges as every payload does, then run the cell."""
    from .runtime import payload

    fds.append(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC))
    for number, fd in enumerate(fds, start=FIRST_FD):
        os.dup2(fd, number, inheritable=False)
    names = dict(zip(("stdin", "stdout", "stderr", "channel", "report"), range(FIRST_FD, FIRST_FD + 5), strict=True))
    plan = Plan(0, tuple(entering_steps(container.spec, facts, inputs)))
    failed = core.execute_image(plan.image(names), len(plan.steps), names["report"], -1)
    if failed:
        os.write(2, f"--state fork: {plan.steps[-failed - 1].describe()} failed\n".encode())
        return 125
    return payload.run_forked(shell, cell, 3)
