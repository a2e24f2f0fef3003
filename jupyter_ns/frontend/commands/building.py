"""``build``: an image of a Dockerfile."""

from __future__ import annotations

import os
from typing import Any

from ...errors import UsageError
from .console import Console
from .grammar import Command, Flag, Parsed


def run_build(console: Console, given: Parsed) -> None:
    """Build an image."""
    from ...build import BuildRequest, build

    (where,) = given.arguments
    quiet = bool(given.get("quiet"))
    request = BuildRequest(
        text=_dockerfile(console, where, given.get("file", "")),
        context="" if where == "-" else _directory(where),
        names=tuple(given.get("tag", [])),
        arguments=dict(map(_argument, given.get("build_arg", []))),
        target=given.get("target", ""),
        cached=not given.get("no_cache"),
        pull="always" if given.get("pull") else "missing",
        labels=tuple(given.get("label", [])),
    )
    said: list[str] = []
    identity = build(
        request,
        said.append if quiet else console.line,
        lambda stream, text: None if quiet else (console.write if stream == "stdout" else console.error)(text),
    )
    if quiet:
        console.line(identity)
        return
    console.line(f"Successfully built {identity.removeprefix('sha256:')[:12]}")
    for name in request.names:
        console.line(f"Successfully tagged {name if ':' in name.rpartition('/')[2] else f'{name}:latest'}")


def _dockerfile(console: Console, where: str, file: str) -> str:
    if "-" in (where, file):
        if not console.has_stdin:
            raise UsageError(
                "docker build -: expected the Dockerfile below: `%%docker build -t NAME -`, then its lines"
            )
        return console.stdin.decode()
    path = os.path.expanduser(file) if file else os.path.join(_directory(where), "Dockerfile")
    try:
        with open(path, encoding="utf-8") as f:
            return f.read()
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "no UTF-8 text"
        raise UsageError(f"docker build: failed to read dockerfile {path}: {reason}") from None


def _directory(where: str) -> str:
    path = os.path.expanduser(where)
    if not os.path.isdir(path):
        raise UsageError(f"docker build {where}: expected a directory, or - for a Dockerfile without a context")
    return path


def _argument(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    return name, value if equals else os.environ.get(name, "")


def _progress(text: str) -> str:
    if text not in ("auto", "plain"):
        raise ValueError("auto or plain; what a step prints is always shown as plain text")
    return text


def _flag(*flags: str, help: str, **more: Any) -> Flag:
    return Flag(flags=flags, help=help, **more)


BUILD = Command(
    name="build",
    usage="[OPTIONS] PATH | -",
    help="Build an image of a Dockerfile; - reads it from the cell, without a context",
    run=run_build,
    least=1,
    most=1,
    flags=(
        _flag("-t", "--tag", help="What to call it", metavar="NAME[:TAG]", repeatable=True),
        _flag("-f", "--file", help="The Dockerfile (PATH/Dockerfile); - is the cell", metavar="FILE"),
        _flag("--build-arg", help="Value of an ARG", metavar="NAME[=VALUE]", repeatable=True),
        _flag("--label", help="Label of the image", metavar="NAME=VALUE", repeatable=True),
        _flag("--target", help="Stage to stop after", metavar="STAGE"),
        _flag("--no-cache", help="Take no step from an image that has it"),
        _flag("--pull", help="Look for newer base images"),
        _flag("--progress", help="auto or plain, which are the same here", metavar="TYPE", parse=_progress),
        _flag("-q", "--quiet", help="Print the image's ID only"),
        _flag("--rm", help="Remove the containers of steps, as is always done"),
        _flag("--force-rm", help="Remove them after a failure too, as is always done"),
    ),
)
