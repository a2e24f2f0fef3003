"""The doctor's round: try the engine, try a container, look for a guest kernel, and have `doctor` judge."""

from __future__ import annotations

import os

from . import doctor
from .client import PLACES, EngineClient, get_client
from .doctor import NO, WEAKENED, YES, Row
from .errors import ContainerError, EngineError, UnsupportedError, UsageError
from .runner import Run, Sink
from .spec import ContainerSpec


def examine(on: str = "host") -> list[Row]:
    """Find out what can be done in a place.

    Parameters
    ----------
    on : str
        ``host``, or ``guest``, which is booted for it.

    Returns
    -------
    list of Row
        The first says whether a container can be made at all; its state is ``no`` if not.
    """
    try:
        client = get_client(on)
        first = _a_container(client)
        networks = [] if first.state == NO else [_networks(client)]
        rows = [first, *doctor.doctor(client.facts), *networks]
    except (UnsupportedError, EngineError) as e:
        rows = doctor.no_guest(str(e)) if on == "guest" else doctor.refused(str(e))
    return rows if on == "guest" else [*rows, _guest_kernel()]


def place_of(words: list[str], default: str) -> str:
    """Read ``[--on PLACE]``, which is all that a doctor is told.

    Raises
    ------
    UsageError
        If there is anything else.

    Examples
    --------
    >>> place_of(["--on", "guest"], "host"), place_of([], "host")
    ('guest', 'host')
    """
    on = words[1] if len(words) == 2 and words[0] == "--on" else " ".join(words).removeprefix("--on=") or default
    if on not in PLACES:
        raise UsageError(f"doctor {' '.join(words)!r}: expected nothing after doctor, or --on {' or '.join(PLACES)}")
    return on


def _a_container(client: EngineClient) -> Row:
    """Make one, the default one, and run ``true`` in it."""
    try:
        container = Run(client, ContainerSpec(argv=("true",), workdir="/"), Sink()).execute()
    except (ContainerError, OSError) as e:
        return doctor.verdict(str(e), "")
    failed = "" if container.exit_code == 0 else f"`true` ended with exit code {container.exit_code}"
    return doctor.verdict(failed, f"`true` ran in one, in {container.wall_seconds * 1000:.0f} ms")


def _networks(client: EngineClient) -> Row:
    """Connect a container to a network, and look for its interface."""
    spec = ContainerSpec(argv=("test", "-e", "/sys/class/net/eth0"), workdir="/", network="bridge")
    try:
        container = Run(client, spec, Sink()).execute()
    except (ContainerError, OSError) as e:
        return doctor.networks(str(e))
    return doctor.networks("" if container.exit_code == 0 else "a container on a network has no eth0")


def _guest_kernel() -> Row:
    from .guest import kernel  # only a doctor, or who asks for a guest, needs it

    fix = kernel.INSTALL
    try:
        path = kernel.find_kernel(os.environ)
        fix = kernel.MAKE_SPACE
        memory = kernel.find_memory(os.environ)
    except ContainerError as e:
        return Row("guest kernel", NO, str(e), "--on guest is refused", fix, doctor.UML)
    evidence = f"{path}; its memory goes to {memory.directory}. Not booted: `%container doctor --on guest` does that"
    if memory.drawback:
        return Row("guest kernel", WEAKENED, evidence, memory.drawback, kernel.MAKE_SPACE, doctor.UML)
    return Row("guest kernel", YES, evidence, documentation=doctor.UML)
