"""Subcommands that make something lasting of a container: ``commit``, ``export``, ``docker-command``."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from ...container import Container
from ...errors import UnsupportedError
from ...images import elsewhere
from ...images.commit import commit_files, export_files
from ...images.reference import parse_reference
from ...images.store import Store
from ...interchange.bundle import write_bundle
from ...interchange.docker_command import docker_command
from ...lifecycle import ask, client_of
from ...plan import PlanInputs
from ...runtime.inputs import resolve_inputs
from ...spec import ContainerSpec
from .console import Console
from .grammar import Command, Flag, Parsed
from .transfers import output


class _Subject(NamedTuple):
    """A container that was named: of the engine's, or one that only the notebook remembers."""

    name: str
    spec: ContainerSpec
    inputs: PlanInputs
    detached: bool = False


def _subject(console: Console, name: str) -> _Subject:
    """Find a container by its name or ID, or by the variable that it was left in."""
    known = console.shell.user_ns.get(name) if console.shell is not None else None
    if isinstance(known, Container) and known.make_inputs is not None:
        return _Subject(known.name, known.spec, known.make_inputs())
    data = ask("files", of=name)
    spec = ContainerSpec.from_dict(data["spec"])
    return _Subject(
        data["name"], spec, resolve_inputs(data["id"], spec, client_of(name).facts, data["request"]), data["detached"]
    )


# ---- commit ----


@contextlib.contextmanager
def _standing_still(console: Console, name: str, pause: bool) -> Iterator[dict[str, Any]]:
    """Hold a container still while its files are read, and give what the engine says of them."""
    if client_of(name).facts.guest:
        raise UnsupportedError(
            f"{name} is in a guest, whose files are in the guest's own memory; bring out with cp what is to be kept"
        )
    files: dict[str, Any] = ask("files", of=name)
    del files["request"]  # no part of what is on disk, and of any length
    paused = pause and files["state"] == "running"
    if paused:
        try:
            ask("pause", of=name)
        except UnsupportedError as e:  # no freezer: as with --pause=false, and said
            console.error(f"{name} runs on meanwhile: {e}\n")
            paused = False
    try:
        yield files
    finally:
        if paused:
            ask("unpause", of=name)


def run_commit(console: Console, given: Parsed) -> None:
    """Make an image of a container."""
    name, *names = given.arguments
    for text in names:
        parse_reference(text)
    with _standing_still(console, name, given.get("pause", True)) as files:
        arguments = files, names, given.get("change", []), given.get("author", ""), given.get("message", "")
        if elsewhere.needed():
            image = elsewhere.call("commit", *arguments, beside=files["engine"])
        else:
            image = commit_files(Store(), *arguments).id
    console.line(image)


def run_export(console: Console, given: Parsed) -> None:
    """Write a container's files as an archive, or the container as an OCI bundle."""
    (name,) = given.arguments
    bundle = given.get("bundle", "")
    if bundle:
        subject = _subject(console, name)
        if subject.inputs.above:
            raise UnsupportedError(
                f"export --bundle: the image of {name} lies on this machine's own files; a bundle is made of an image "
                "(busybox), or of these files alone (host)"
            )
        directory = os.path.expanduser(bundle)
        notes = write_bundle(directory, subject.spec, client_of(name).facts, subject.inputs, name=subject.name)
        for note in notes:
            console.error(f"not in the bundle: {note}\n")
        console.line(f"crun run --bundle {shlex.quote(os.path.abspath(directory))} {subject.name}")
        return
    with _standing_still(console, name, True) as files, output(console, given.get("output", ""), "export") as out:
        if not files["lower"] or files["base"]:
            raise UnsupportedError(
                f"export: {name} has this machine's own files, and all of them would be in the archive; commit keeps "
                "what it changed, and cp brings files out"
            )
        if elsewhere.needed():
            out.flush()
            elsewhere.call("export", files, out.fileno(), beside=files["engine"], fds=(out.fileno(),))
        else:
            export_files(files, out)


def run_docker_command(console: Console, given: Parsed) -> None:
    """Print the ``docker run`` that makes the same container."""
    name = given.arguments[0] if given.arguments else "_container"
    subject = _subject(console, name)
    command = docker_command(subject.spec, detach=subject.detached)
    console.line(command.line)
    if subject.inputs.above:
        console.error("# its image lies on this machine's own files: Docker has no such images\n")
    for note in command.notes:
        console.error(f"# {note}\n")


KEEPING: tuple[Command, ...] = (
    Command(
        name="commit",
        usage="[OPTIONS] CONTAINER [NAME[:TAG]]",
        help="Make an image of a container",
        run=run_commit,
        least=1,
        most=2,
        flags=(
            Flag(flags=("-a", "--author"), help="Author", metavar="TEXT"),
            Flag(flags=("-c", "--change"), help="A Dockerfile's word: CMD, ENV…", metavar="TEXT", repeatable=True),
            Flag(flags=("-m", "--message"), help="Comment", metavar="TEXT"),
            Flag(flags=("-p", "--pause"), help="Pause it meanwhile (true)"),
        ),
    ),
    Command(
        name="export",
        usage="[-o FILE] CONTAINER | --bundle DIR CONTAINER",
        help="Write a container's files as an archive, or it as an OCI bundle",
        run=run_export,
        least=1,
        most=1,
        flags=(
            Flag(flags=("-o", "--output"), help="Where the archive goes", metavar="FILE"),
            Flag(flags=("--bundle",), help="Where the bundle goes: a directory to be made", metavar="DIR"),
        ),
    ),
    Command(
        name="docker-command",
        usage="[CONTAINER]",
        help="Print the docker run that makes the same container",
        run=run_docker_command,
        most=1,
    ),
)
