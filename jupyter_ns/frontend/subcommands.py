"""``%container SUBCOMMAND …``: a table from names to functions."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from .. import doctor, namespaces, options
from ..client import default_place, get_client
from ..container import Container
from ..errors import UsageError
from ..lifecycle import ask, ask_all, client_of
from ..runner import Run, Sink
from ..together import GRAMMAR
from .commands import table
from .tables import NamespaceRow, namespace_table


def dispatch(shell: Any, line: str) -> Any:
    """Run a subcommand: ours, or one of Docker's.

    Raises
    ------
    UsageError
        If there is none of that name; the message lists those there are.
    """
    from . import docker

    name = line.split(None, 1)[0] if line.strip() else ""
    if name in table.names() and name not in _TABLE:
        return docker.run_line(shell, line, None, "container")
    words = options.split(line)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return None
    name, *arguments = words
    if name not in _TABLE:
        if name.startswith("-"):
            raise UsageError(f"{name}: options belong to a cell, %%container, or to `%container run [OPTIONS] PROGRAM`")
        why = f": {table.ABSENT[name]}" if name in table.ABSENT else ""
        raise UsageError(f"no subcommand {name!r}{why}; there are: {', '.join(names())}")
    return _TABLE[name][0](shell, arguments)


def _overview() -> str:
    ours = {name: text for name, (_, text) in _TABLE.items()}
    usage = "%%container [OPTIONS] [PROGRAM [ARG…]]   run the cell in a fresh container; options: `%container options`"
    together = f"%%container {GRAMMAR}\n   run several at the same time, and compare them"
    return f"{usage}\n{together}\n\n{table.overview('container', ours)}"


def _plan(_shell: Any, arguments: list[str]) -> None:
    """Print the plan of a container, without starting anything."""
    from .magics import parse_words

    request = parse_words(arguments)
    run = Run(get_client(request.on), request.spec, Sink())
    plan = run.container.plan
    print(plan.describe())
    for line in plan.weakened:
        print(f"weakened: {line}")


def _explain(shell: Any, _arguments: list[str]) -> None:
    """Print the steps of the last run, with the time each took."""
    container = shell.user_ns.get("_container")
    if not isinstance(container, Container):
        raise UsageError("nothing has run yet in this notebook; `%container plan …` shows a plan without running it")
    print(container.plan.describe(container.timings))


def _version(_shell: Any, _arguments: list[str]) -> None:
    facts = get_client().facts
    print(f"jupyter_ns {version('jupyter_ns')}, Linux {facts.kernel}, cgroup v{facts.cgroup.get('version', '?')}")


def _doctor(shell: Any, arguments: list[str]) -> None:
    """Show what this host can do, tried by doing; also where it can make no container at all."""
    from ..checkup import examine, place_of

    rows = examine(place_of(arguments, default_place()))
    if hasattr(shell, "kernel"):
        shell.display_pub.publish({"text/html": doctor.html(rows), "text/plain": doctor.text(rows)})
    else:
        print(doctor.text(rows))


def _help(_shell: Any, _arguments: list[str]) -> None:
    print(options.help_text())


_TABLE: dict[str, tuple[Callable[[Any, list[str]], None], str]] = {
    "plan": (_plan, "[OPTIONS] [PROGRAM]: print how a container would be built; nothing is started"),
    "explain": (_explain, "print how the last one was built, with the time each step took"),
    "doctor": (_doctor, "[--on guest]: what this host, or a guest, can do, what it cannot, and how to mend that"),
    "version": (_version, "versions of this package, the kernel and cgroups"),
    "options": (_help, "every option of %%container"),
}


def names() -> list[str]:
    """List the subcommands."""
    return [*_TABLE, *(name for name in table.names() if name not in _TABLE)]


def show_namespaces(shell: Any, words: list[str]) -> None:
    """Show namespace IDs: of the kernel, and of each name, PID or the last container."""
    rows = [NamespaceRow("kernel", namespaces.read())]
    last = shell.user_ns.get("_container")
    if not words and isinstance(last, Container):
        outside = {kind: pair.host for kind, pair in last.namespaces.items()}
        if last.guest:  # numbers of another kernel say nothing beside this one's
            rows = [NamespaceRow("guest kernel", outside)]
        rows.append(_row_of(last))
    for word in words:
        known = shell.user_ns.get(word)
        if isinstance(known, Container):
            rows.append(_row_of(known))
        elif word.isdigit():
            rows.append(_row_of_pid(word))
        else:
            rows.append(_row_of_name(word))
    html, text = namespace_table(rows, explain=True)
    if hasattr(shell, "kernel"):
        shell.display_pub.publish({"text/html": html, "text/plain": text})
    else:
        print(text)


def _row_of(container: Container) -> NamespaceRow:
    ids = {kind: pair.container for kind, pair in container.namespaces.items()}
    return NamespaceRow(container.name, ids, container.shared)


def _row_of_name(word: str) -> NamespaceRow:
    if any(word == row["name"] or row["id"].startswith(word) for row in ask_all("list")):
        found = ask("usage", of=word)
        shared = client_of(word).facts.namespace_ids or namespaces.read()
        return NamespaceRow(found["name"], shared | found["namespaces"], found["shared"])
    raise UsageError(f"{word!r} is no container's name or ID, no process ID, and no variable that holds a Container")


def _row_of_pid(word: str) -> NamespaceRow:
    try:
        return NamespaceRow(f"PID {word}", namespaces.read(int(word)))
    except (FileNotFoundError, ProcessLookupError):
        raise UsageError(f"no process {word} here") from None
    except PermissionError:
        raise UsageError(f"process {word} is not ours to look at ({os.strerror(13)})") from None
