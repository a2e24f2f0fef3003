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
from ...images.commit import HOST_RUNTIME, apply_changes, commit
from ...images.merged import Stack
from ...images.pack import pack_stack
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
def _standing_still(name: str, pause: bool) -> Iterator[dict[str, Any]]:
    """Hold a container still while its files are read, and give what the engine says of them."""
    if elsewhere.needed():
        raise UnsupportedError(
            "what a container wrote lies in its engine's user namespace, which only root can read from outside; "
            "bring files out with cp"
        )
    data: dict[str, Any] = ask("files", of=name)
    paused = pause and data["state"] == "running"
    if paused:
        ask("pause", of=name)
    try:
        yield data
    finally:
        if paused:
            ask("unpause", of=name)


def run_commit(console: Console, given: Parsed) -> None:
    """Make an image of a container."""
    name, *target = given.arguments
    names = [parse_reference(text) for text in target]
    store = Store()
    with _standing_still(name, given.get("pause", True)) as data:
        base = store.image(data["image"]) if data["image"] else None
        runtime = apply_changes(base.runtime if base else HOST_RUNTIME, given.get("change", []))
        image = commit(
            store,
            base,
            data["uppers"],
            names,
            runtime=runtime,
            author=given.get("author", ""),
            message=given.get("message", ""),
            created_by=shlex.join(ContainerSpec.from_dict(data["spec"]).argv) or "(a Python cell)",
            first_ids=tuple(data["first_ids"]),
        )
    console.line(image.id)


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
    with _standing_still(name, True) as data, output(console, given.get("output", ""), "export") as out:
        if not data["request"].get("image", {}).get("lower") or data["request"]["image"].get("base"):
            raise UnsupportedError(
                f"export: {name} has this machine's own files, and all of them would be in the archive; commit keeps "
                "what it changed, and cp brings files out"
            )
        first_ids = data["first_ids"]
        if any(first_ids):
            raise UnsupportedError(
                "export: the owners of its files are mapped (--userns private); commit it, then save"
            )
        pack_stack(Stack([data["uppers"]["/"], *data["request"]["image"]["lower"]]), out)


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
