"""Change the store as root of a user namespace: ``python -m jupyter_ns.storekeeper OPERATION ENGINE``.

Started by `jupyter_ns.images.elsewhere`; answers in lines of JSON: ``say``, then ``result`` or ``error``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from . import core
from .errors import ContainerError, to_dict
from .images import building
from .images.commit import commit_files, export_files
from .images.launch import obtain, remove_anonymous
from .images.merged import Stack
from .images.store import Store
from .images.volumes import bind_volumes
from .namespaces import BY_NAME
from .runtime.setup import enter_user_namespace
from .spec import ContainerSpec


def _tell(**answer: Any) -> None:
    sys.__stdout__.write(json.dumps(answer) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def _say(text: object) -> None:
    _tell(say=str(text))


def _obtain(name: str, pull: str, platform: str) -> str:
    return obtain(Store(), name, pull=pull, platform=platform, say=_say).id


def _volumes(spec: dict[str, Any], lower: list[str]) -> list[Any]:
    made = bind_volumes(Store(), ContainerSpec.from_dict(spec), Stack(lower) if lower else None)
    return [made.spec.to_dict(), made.held, made.anonymous]


def _remove_anonymous(names: list[str]) -> None:
    remove_anonymous(names)


def _command(words: list[str], cell: str | None, source: str) -> None:
    from .frontend.commands.console import Console
    from .frontend.commands.stored import dispatch

    class Teller(Console):
        def write(self, text: str) -> None:
            """Send it to who started this process."""
            _say(text.removesuffix("\n"))

    dispatch(Teller(cell=cell, source=source), words)


def _commit(*arguments: Any) -> str:
    return commit_files(Store(), *arguments).id


def _export(files: dict[str, Any], fd: int) -> None:
    with open(fd, "wb") as out:
        export_files(files, out)


def _enter_namespace_of(engine: int) -> None:
    """Become root of the user namespace that an engine made: user_namespaces(7) lets its owner."""
    with open(f"/proc/{engine}/ns/user") as namespace:
        core.setns(namespace.fileno(), BY_NAME["user"].flag)


def _build(operation: str, *arguments: Any) -> Any:
    return building.OPERATIONS[operation](Store(), *arguments)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "build": _build,
    "commit": _commit,
    "export": _export,
    "obtain": _obtain,
    "volumes": _volumes,
    "remove_anonymous": _remove_anonymous,
    "command": _command,
}


def main(operation: str, engine: str) -> int:
    """Carry out one operation; its arguments are on standard input, as a list in JSON."""
    try:
        arguments = json.load(sys.stdin)
        if int(engine):
            _enter_namespace_of(int(engine))
        elif os.geteuid():
            enter_user_namespace(os.getuid(), os.getgid())
        _tell(result=OPERATIONS[operation](*arguments))
    except (ContainerError, OSError) as e:
        _tell(error=to_dict(e))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
