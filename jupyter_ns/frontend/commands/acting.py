"""Subcommands that do something to containers: ``stop``, ``kill``, ``rm``, ``update``, …"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ...errors import ContainerError, UsageError
from ...lifecycle import Request, ask
from ...option_network import RATES
from ...option_process import RESTART_CHOICES, parse_restart, parse_signal
from ...option_resources import RESOURCES
from ...option_types import Context
from ...spec import Limits
from ...units import format_decimal_bytes
from .console import Console
from .grammar import Command, Flag, Parsed, integer

_SIGNAL = Flag(flags=("-s", "--signal"), help="Signal to send to the container", metavar="SIGNAL", parse=parse_signal)
_TIME = Flag(
    flags=("-t", "--timeout", "--time"),
    help="Seconds to wait before killing the container; -1 waits for ever",
    metavar="SECONDS",
    parse=integer,
)


def each(console: Console, names: list[str], start: Callable[[str], Request], *, show: bool = False) -> None:
    """Ask for every container at once; name those where it worked, then raise what failed.

    Parameters
    ----------
    console : Console
        Where the names go, or with `show` the answers.
    names : list of str
        As the user gave them.
    start : callable
        Sends the request for one.

    Raises
    ------
    ContainerError
        The first failure, with what the others say.
    """
    requests = [(name, start(name)) for name in names]
    failures: list[ContainerError] = []
    for name, request in requests:
        try:
            answer = request.wait()
            console.line(answer if show else name)
        except ContainerError as error:
            failures.append(error)
        finally:
            request.close()
    if failures:
        raise type(failures[0])("\n".join(map(str, failures))) if len(failures) > 1 else failures[0]


def _stop(console: Console, given: Parsed) -> None:
    name, again = given.get("signal", ""), False
    _stop_each(console, given, name, again)


def _restart(console: Console, given: Parsed) -> None:
    _stop_each(console, given, given.get("signal", ""), True)


def _stop_each(console: Console, given: Parsed, signal_name: str, again: bool) -> None:
    timeout_s = given.get("timeout")
    each(
        console,
        given.arguments,
        lambda of: Request("stop", of=of, timeout_s=timeout_s, signal_name=signal_name, again=again),
    )


def _kill(console: Console, given: Parsed) -> None:
    name = given.get("signal", "SIGKILL")
    each(console, given.arguments, lambda of: Request("kill", of=of, signal_name=name))


def _start(console: Console, given: Parsed) -> None:
    each(console, given.arguments, lambda of: Request("start", of=of))


def _pause(console: Console, given: Parsed) -> None:
    each(console, given.arguments, lambda of: Request("pause", of=of))


def _unpause(console: Console, given: Parsed) -> None:
    each(console, given.arguments, lambda of: Request("unpause", of=of))


def _wait(console: Console, given: Parsed) -> None:
    each(console, given.arguments, lambda of: Request("wait", of=of), show=True)


def _remove(console: Console, given: Parsed) -> None:
    force = bool(given.get("force"))
    own = [ask("files", of=of)["request"].get("anonymous", []) for of in given.arguments if given.get("volumes")]
    each(console, given.arguments, lambda of: Request("remove", of=of, force=force))
    if any(own):
        from ...images.launch import remove_anonymous

        remove_anonymous([name for names in own for name in names])


def prune(console: Console) -> None:
    """Remove containers that have ended, and list them as Docker does."""
    ended = [row for row in ask("list") if row["state"] in ("created", "exited")]
    for row in ended:
        ask("remove", of=row["id"])
    if ended:
        console.write("Deleted Containers:\n" + "".join(f"{row['id']}\n" for row in ended) + "\n")


def _prune(console: Console, _given: Parsed) -> None:
    before = sum(row["size_bytes"] for row in ask("list", size=True))
    prune(console)
    after = sum(row["size_bytes"] for row in ask("list", size=True))
    console.line(f"Total reclaimed space: {format_decimal_bytes(max(0, before - after))}")


def _rename(_console: Console, given: Parsed) -> None:
    of, name = given.arguments
    ask("rename", of=of, name=name)


def _update(console: Console, given: Parsed) -> None:
    values = {key: value for key, value in given.options.items() if key != "restart"}
    if not given.options:
        raise UsageError(f"docker update: you must provide one or more flags: {', '.join(_LIMIT_FLAGS)}")
    limits = asdict(Limits(**values))
    asked = {key: value for key, value in limits.items() if value != getattr(Limits(), key)}
    each(
        console,
        given.arguments,
        lambda of: Request("update", of=of, limits=asked, restart=given.get("restart", "")),
    )


_MOVABLE = (
    *("--blkio-weight", "--cpu-period", "--cpu-quota", "--cpu-shares", "--cpus", "--cpuset-cpus", "--cpuset-mems"),
    *("--memory", "--memory-reservation", "--memory-swap", "--pids-limit"),
)
_LIMITS = (*(option for option in RESOURCES if option.name in _MOVABLE), *RATES)
_LIMIT_FLAGS = tuple(option.name for option in _LIMITS)


def _limit_flag(option: Any) -> Flag:
    """Make a flag of a row of the option table; its value is parsed as that of ``%%container``."""
    import os

    def parse(text: str) -> Any:
        context = Context(
            cwd=os.getcwd(),
            environ=os.environ,
            host_cpus=os.cpu_count() or 1,
            available_cpus=frozenset(os.sched_getaffinity(0)),
        )
        return option.parse(text, context)

    return Flag(
        flags=option.flags, help=option.help, metavar=option.metavar, parse=parse, sets=option.sets.partition(".")[2]
    )


_UPDATE_FLAGS = tuple(_limit_flag(option) for option in _LIMITS)
_RESTART = Flag(
    flags=("--restart",),
    help="When to start it again: " + ", ".join(name for name, _ in RESTART_CHOICES),
    metavar="POLICY",
    parse=parse_restart,
)
_SOME = "CONTAINER [CONTAINER…]"

ACTING = (
    Command(
        name="stop",
        usage=f"[OPTIONS] {_SOME}",
        help="Ask running containers to end, and kill those that do not",
        run=_stop,
        least=1,
        flags=(_SIGNAL, _TIME),
    ),
    Command(name="start", usage=_SOME, help="Start containers that have ended", run=_start, least=1),
    Command(
        name="restart",
        usage=f"[OPTIONS] {_SOME}",
        help="Stop containers and start them again",
        run=_restart,
        least=1,
        flags=(_SIGNAL, _TIME),
    ),
    Command(
        name="kill", usage=f"[OPTIONS] {_SOME}", help="Send a signal to PID 1", run=_kill, least=1, flags=(_SIGNAL,)
    ),
    Command(name="pause", usage=_SOME, help="Freeze all processes of containers", run=_pause, least=1),
    Command(name="unpause", usage=_SOME, help="Let them go on", run=_unpause, least=1),
    Command(name="wait", usage=_SOME, help="Wait until containers end, and print their exit codes", run=_wait, least=1),
    Command(
        name="rm",
        usage=f"[OPTIONS] {_SOME}",
        help="Remove containers, and what they wrote",
        run=_remove,
        least=1,
        flags=(
            Flag(flags=("-f", "--force"), help="Kill them if they run"),
            Flag(flags=("-v", "--volumes"), help="Remove their volumes without a name too"),
            Flag(flags=("-l", "--link"), refuse="containers are not linked"),
        ),
    ),
    Command(
        name="container prune",
        usage="[OPTIONS]",
        help="Remove containers that have ended",
        run=_prune,
        most=0,
        flags=(Flag(flags=("-f", "--force"), help="Do not ask: it never does"),),
    ),
    Command(name="rename", usage="CONTAINER NEW_NAME", help="Rename a container", run=_rename, least=2, most=2),
    Command(
        name="update",
        usage=f"[OPTIONS] {_SOME}",
        help="Move limits, also of running containers",
        run=_update,
        least=1,
        flags=(*_UPDATE_FLAGS, _RESTART),
    ),
)
