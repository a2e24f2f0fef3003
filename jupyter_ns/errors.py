"""What can go wrong, as types.

The library raises these; only the frontend prints them. Each carries data, so that
a caller need not parse a message. The engine sends them as maps (`to_dict`), the
client raises them again (`from_dict`).
"""

from __future__ import annotations

import os
from subprocess import CalledProcessError
from typing import Any

MORE = ". `%container doctor` says more; --on guest runs it in a guest kernel, which needs no privilege"
"""How an error ends that sends its reader to the doctor."""


class ContainerError(Exception):
    """Base of every error of this package.

    IPython shows it without a traceback: the lines of this package would tell a user nothing.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"\x1b[31m{type(self).__name__}\x1b[39m: {self}"]


class UsageError(ContainerError, ValueError):
    """An option or a value was not acceptable; nothing was started.

    Also an `IPython.core.error.UsageError` once the frontend has translated it, which
    IPython shows as one line without a traceback.
    """


class UnsupportedError(ContainerError, NotImplementedError):
    """This host cannot do what was asked; the message names the failed probe and the fix."""


class ImageError(ContainerError, RuntimeError):
    """An image cannot be had: not there, not to be pulled, damaged, or hostile; the store is as it was."""


class EngineError(ContainerError, RuntimeError):
    """The engine process is gone or spoke out of turn."""


class SetupError(ContainerError, OSError):
    """A step of the plan failed; everything already built was taken down again.

    Parameters
    ----------
    step : int
        Index of the failing step, from 0.
    steps : int
        Number of steps of the plan.
    call : str
        The step, as the plan describes it: system call and arguments.
    errno : int
        As the kernel returned it.
    option : str
        The option that asked for the step, or ``"the default container"``.
    cause : str
        The likely cause on this host and the next thing to try.
    """

    def __init__(self, *, step: int, steps: int, call: str, errno: int, option: str = "", cause: str = "") -> None:
        self.step, self.steps, self.call, self.option, self.cause = step, steps, call, option, cause
        super().__init__(errno, os.strerror(errno))

    def __str__(self) -> str:
        import errno as names

        name = names.errorcode.get(self.errno or 0, str(self.errno))
        asked = f", asked for by {self.option}" if self.option else ""
        hint = f"\n{self.cause}" if self.cause else ""
        return (
            f"step {self.step + 1}/{self.steps}: {self.call}: "
            f"{name} ({self.strerror}){asked}{hint}\nNothing was left behind."
        )


class ContainerExitError(ContainerError, CalledProcessError):
    """The program ended with a non-zero exit code (see ``returncode``)."""

    def __init__(self, returncode: int, argv: list[str], container: Any = None) -> None:
        CalledProcessError.__init__(self, returncode, argv)
        self.container = container

    def __str__(self) -> str:
        note = {
            125: " (the container could not be started)",
            126: " (found, but not executable)",
            127: " (program not found)",
        }.get(self.returncode, "")
        if 128 < self.returncode < 193:
            import signal

            try:
                note = f" ({signal.Signals(self.returncode - 128).name})"
            except ValueError:
                pass
        return f"{' '.join(map(str, self.cmd))!r} ended with exit code {self.returncode}{note}"


class ContainerOOMError(ContainerError, MemoryError):
    """The container ran into its memory limit and was killed; the notebook's kernel lives on."""

    def __init__(self, message: str, container: Any = None) -> None:
        super().__init__(message)
        self.container = container


class ContainerTimeoutError(ContainerError, TimeoutError):
    """The container ran longer than ``--timeout`` and was killed."""

    def __init__(self, message: str, container: Any = None) -> None:
        super().__init__(message)
        self.container = container


class ContainerKilledError(ContainerError):
    """A container with a Python cell was killed, by a signal from inside or outside."""

    def __init__(self, message: str, container: Any = None) -> None:
        super().__init__(message)
        self.container = container


class ExpectationError(ContainerError, AssertionError):
    """What ``%expect`` said of a run does not hold."""


class TransferError(ContainerError, TypeError):
    """A variable could not be sent into, or brought out of, the container."""


_BY_NAME: dict[str, type[ContainerError]] = {
    c.__name__: c for c in (UsageError, UnsupportedError, ImageError, EngineError, TransferError)
}


def to_dict(error: Exception) -> dict[str, Any]:
    """Turn an error into a map for the wire."""
    if isinstance(error, SetupError):
        return {
            "type": "SetupError",
            "step": error.step,
            "steps": error.steps,
            "call": error.call,
            "errno": error.errno,
            "option": error.option,
            "cause": error.cause,
        }
    return {"type": type(error).__name__, "message": str(error)}


def from_dict(data: dict[str, Any]) -> ContainerError:
    """Build the error that `to_dict` described; an unknown type becomes an `EngineError`."""
    data = dict(data)
    kind = data.pop("type", "")
    if kind == "SetupError":
        return SetupError(**data)
    message = data.get("message", "")
    if kind in _BY_NAME:
        return _BY_NAME[kind](message)
    return EngineError(f"{kind}: {message}" if kind else message)
