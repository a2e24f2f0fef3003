"""``run`` and ``exec``: Docker's grammar, the same engine as ``%%container``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ... import options
from ...api import parse_words
from ...client import get_client
from ...errors import EngineError, UsageError
from ...lifecycle import client_of
from ...option_process import PROCESS
from ...option_scan import scan
from ...option_types import Context, RunRequest
from ...runner import Run
from ...spec import ContainerSpec
from ..outcome import error_of
from ..sink import NotebookSink
from .console import Console
from .grammar import Command, Flag, Parsed

HOST = "host"
"""The image that is this machine's own files, copy-on-write."""
HOST_COMMAND = ("sh",)
_DOCKER_RUN = "docker run [OPTIONS] IMAGE [COMMAND] [ARG…]"


def parse_run(words: list[str]) -> tuple[RunRequest, str]:
    """Parse ``[OPTIONS] IMAGE [COMMAND] [ARG…]``.

    Raises
    ------
    UsageError
        As `jupyter_ns.options.parse`; also if no image is named, or one by ``--image``, which would be a second.
    """
    given, argv = scan(words)
    if any(option.name == "--help" and text == "true" for _, option, text in given):
        return RunRequest(help=True), ""
    if not argv:
        raise UsageError(f'"docker run" requires at least 1 argument. Usage: {_DOCKER_RUN}')
    if any(option.name == "--image" for _, option, _ in given):
        raise UsageError("docker run: unknown flag: --image; the image is the first word after the options")
    image, *command = argv
    typed = words[: len(words) - len(argv)]
    typed = typed[:-1] if typed and typed[-1] == "--" else typed
    if image == HOST:
        return parse_words([*typed, "--", *(command or HOST_COMMAND)]), image
    request = parse_words([*typed, "--image", image, "--", *command])
    # Without a command, the image's own is run; that it has one shows when it is looked at.
    return replace(request, spec=replace(request.spec, python=False)), image


def run_run(console: Console, words: list[str], *, with_image: bool) -> None:
    """Run a program in a new container: ``docker run``, or ``%container run`` without an image."""
    request, image = parse_run(words) if with_image else (parse_words(words), HOST)
    if request.help:
        usage = _DOCKER_RUN if with_image else "%container run [OPTIONS] PROGRAM [ARG…]"
        console.write(options.help_text(f"Usage:  {usage}\n\nRun a program in a new container"))
        return
    if request.spec.python:
        raise UsageError("run: a program is missing: `%container run [OPTIONS] PROGRAM [ARG…]`")
    remove = False if request.remove is None else request.remove
    # As with Docker, the input of one in the background stays open with -i: a shell waits there. One with arguments has
    # its orders, as `sh -c …`.
    if not console.has_stdin and not request.detach and len(request.spec.argv) < 2 and _interactive(words):
        console.error("[there is nothing to read for it: write %%docker run …, and below it what it is to read]\n")
    waits = request.detach and not console.has_stdin and _interactive(words)
    start(console, request, stdin=None if waits else console.stdin, remove=remove, image=image)


def _interactive(words: list[str]) -> bool:
    return any(option.name == "--interactive" and text == "true" for _, option, text in scan(words)[0])


def start(console: Console, request: RunRequest, *, stdin: bytes | None, remove: bool, image: str = HOST) -> None:
    """Start a program's container, and follow it to its end unless it is detached."""
    sink = _Sink(console, quiet=True)
    run = Run(get_client(request.on), request.spec, sink)
    run.lives(detach=request.detach, remove=remove, image=image)
    sink.run = run
    leave(console, run, request.result)
    with cidfile(request.cidfile, run):
        run.execute(stdin=stdin)
    if request.detach:
        if run.container.status == "running":
            console.line(run.container.id)
            return
        raise failed(run)
    if request.explain:
        console.line(run.container.plan.describe(run.container.timings))
    error = error_of(run.container, raise_error=request.raise_error)
    if error is not None:
        raise error


def leave(console: Console, run: Run, name: str) -> None:
    """Leave the `Container` in the notebook."""
    if console.shell is not None:
        console.shell.user_ns["_container"] = run.container
        if name:
            console.shell.user_ns[name] = run.container


class _Sink(NotebookSink):
    """Writes what a container writes to the console, which may be a pipe."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        super().__init__(console.shell, quiet=quiet, trust=False)
        self._console = console

    def on_notice(self, text: str) -> None:
        """Write to the console's standard error, as Docker does."""
        self._console.error(f"{text}\n")

    def on_text(self, stream: str, text: str) -> None:
        """Write to the console; of much, what a cell shows of it, but to a pipe all."""
        if self._console.is_direct:
            super().on_text(stream, text)
            return
        (self._console.write if stream == "stdout" else self._console.error)(text)


def failed(run: Run) -> BaseException:
    """Return the error of a detached container whose program could not be started."""
    return error_of(run.container, raise_error=True) or EngineError("the container ended before its program ran")


@contextlib.contextmanager
def cidfile(path: str, run: Run) -> Iterator[None]:
    """Write the container's ID to a new file once it has one; leave none where nothing was started.

    Raises
    ------
    UsageError
        If the file exists, or cannot be made.
    """
    if not path:
        yield
        return
    try:
        file = open(path, "x", encoding="ascii")  # noqa: SIM115 (closed below; must exist before the container)
    except OSError as error:
        raise UsageError(f"--cidfile {path}: {error.strerror}; expected a file that does not exist yet") from None
    with file:
        try:
            yield
        finally:
            if run.container.pid:
                file.write(run.container.id)
            else:
                os.unlink(path)


def run_exec(console: Console, given: Parsed) -> None:
    """Run a program in a running container."""
    name, *argv = given.arguments
    detach = bool(given.get("detach"))
    if detach and not argv:
        raise UsageError("docker exec: -d: expected a command; a Python cell goes on by itself with %%container -d")
    if not argv and console.cell is None:
        raise UsageError("docker exec: requires a command. Usage: docker exec [OPTIONS] CONTAINER COMMAND [ARG…]")
    changes: dict[str, Any] = {"argv": argv, "python": not argv}
    environment = [pair for pairs in (*given.get("env_file", []), *given.get("env", [])) for pair in pairs]
    for key, field in (("user", "user"), ("workdir", "workdir"), ("privileged", "privileged"), ("tty", "tty")):
        if given.get(key):
            changes[field] = given.get(key)
    sink = _Sink(console, quiet=True)
    run = Run(client_of(name), ContainerSpec(argv=tuple(argv), python=not argv), sink)
    run.enters(name, detach=detach, environment=environment, **changes)
    sink.run = run
    if not argv:
        _exec_cell(console, run, sink, given)
        return
    run.execute(stdin=console.stdin)
    error = error_of(run.container, raise_error=True)
    if error is not None:
        raise error


def _exec_cell(console: Console, run: Run, sink: NotebookSink, given: Parsed) -> None:
    """Run the cell, notebook Python, in a running container."""
    from ..magics import python_cell

    inputs, outputs = (tuple(given.get(key, "").split(",")) if given.get(key) else None for key in ("in", "out"))
    request = RunRequest(spec=run.container.spec, inputs=inputs, outputs=outputs, trust=bool(given.get("trust")))
    run.trust = request.trust
    run.execute(stdin=b"", cell=python_cell(console.shell, request, console.cell or ""))
    error = sink.error or run.transfer_error or error_of(run.container, raise_error=True)
    if error is not None:
        raise error
    console.shell.user_ns.update({name: run.outputs[name] for name in outputs or ()})


def _like(name: str, *, flags: tuple[str, ...] = ()) -> Flag:
    """Make a flag of a row of the option table."""
    option = next(row for row in PROCESS if row.name == name)

    def parse(text: str) -> Any:
        context = Context(cwd=os.getcwd(), environ=os.environ, host_cpus=1, available_cpus=frozenset((0,)))
        return option.parse(text, context)

    return Flag(
        flags=flags or option.flags,
        help=option.help,
        metavar=option.metavar,
        parse=parse,
        repeatable=option.repeatable,
    )


EXEC = Command(
    name="exec",
    usage="[OPTIONS] CONTAINER COMMAND [ARG…]",
    help="Run a program in a running container; with %%container and no command, the cell as Python",
    run=run_exec,
    least=1,
    interspersed=False,
    flags=(
        Flag(flags=("-d", "--detach"), help="Do not wait for its end; what it writes is thrown away, as Docker does"),
        _like("--env"),
        _like("--env-file"),
        Flag(flags=("-i", "--interactive"), help="Give it the cell's text: always so"),
        Flag(flags=("--in",), help="Of a Python cell: variables to send in", metavar="NAMES"),
        Flag(flags=("--out",), help="Of a Python cell: variables to bring back", metavar="NAMES"),
        Flag(flags=("--trust",), help="Of a Python cell: believe what the container sends"),
        Flag(flags=("--privileged",), help="Give it every capability"),
        Flag(flags=("-t", "--tty"), help="Give it a terminal"),
        _like("--user"),
        Flag(flags=("-w", "--workdir"), help="Directory inside", metavar="PATH"),
        Flag(flags=("--detach-keys",), metavar="KEYS", refuse="a cell is no terminal"),
    ),
)
