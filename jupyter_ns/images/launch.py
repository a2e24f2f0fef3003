"""Make what a user asked for of an image definite: which image, what its configuration adds, which volumes."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from ..errors import ImageError, UnsupportedError, UsageError
from ..spec import ContainerSpec
from . import elsewhere
from .base import BUSYBOX, HOST, OFFLINE, make_busybox
from .make import host_architecture
from .merged import Stack
from .record import Image
from .reference import Reference, parse_reference
from .store import Store, default_root

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Say = Callable[[str], None]
_SPANS = {
    "Interval": "interval",
    "Timeout": "timeout",
    "StartPeriod": "start_period",
    "StartInterval": "start_interval",
}
"""Of a health check, in an image's configuration and in a spec."""


class Prepared(NamedTuple):
    """A spec that needs the store no more, and what else the engine is told."""

    spec: ContainerSpec
    request: dict[str, Any]


def prepare(spec: ContainerSpec, say: Say) -> Prepared:
    """Resolve a spec's image and volumes.

    Parameters
    ----------
    spec : ContainerSpec
        As the user wrote it.
    say : callable
        Told of progress, in lines of text.

    Returns
    -------
    Prepared
        ``request`` has, for an image, ``environ`` and ``exposed`` (empty: nothing of the host's is inside) and
        ``image``: its ID and the layers' directories. ``held`` names the files to lock while the container has
        the image and the volumes; ``anonymous`` the volumes that go with it.

    Raises
    ------
    UsageError, UnsupportedError
        If the spec and the image contradict each other.
    ImageError
        If the image cannot be had.
    """
    request: dict[str, Any] = {}
    lower: tuple[str, ...] = ()
    if spec.image == HOST:
        spec = replace(spec, image="")
    if spec.image:
        if spec.keep:
            raise UsageError("--keep brings files out to the host's own, and cannot do so from an image; use -v")
        store = Store()
        image = _found(store, spec.image) if spec.python else None
        if image is None and not spec.python:
            image = obtain(store, spec.image, pull=spec.pull, platform=spec.platform, say=say)
        if image is None or (spec.python and image.base != HOST):
            raise UnsupportedError(
                f"--image {spec.image}: a cell of Python runs in this notebook's own Python, which is not in an image; "
                f"name a program of the image: `%%container --image {spec.image} sh`"
            )
        directories = store.lower_directories(image)
        spec = apply(spec, image.runtime, over_host=image.base == HOST)
        request = {
            "image": {"id": image.id, "lower": list(directories), "base": image.base},
            "held": [store.record_path(image.id)],
        }
        if image.base != HOST:
            lower = directories
            request |= {"environ": {}, "exposed": []}
    if any(m.type == "volume" for m in spec.mounts):
        from .volumes import Bound, bind_volumes

        if elsewhere.needed():
            fields, held, anonymous = elsewhere.call("volumes", spec.to_dict(), lower)
            made = Bound(ContainerSpec.from_dict(fields), tuple(held), tuple(anonymous))
        else:
            made = bind_volumes(Store(), spec, Stack(lower) if lower else None)
        spec = made.spec
        request["held"] = [*request.get("held", []), *made.held]
        if made.anonymous:
            request |= {"anonymous": list(made.anonymous), "store": default_root()}
    return Prepared(spec, request)


def _found(store: Store, name: str) -> Image | None:
    """Find an image that is here."""
    try:
        return store.find(name)
    except ImageError:
        return None


def apply(spec: ContainerSpec, config: dict[str, Any], *, over_host: bool = False) -> ContainerSpec:
    """Add what an image's configuration says to what the user did not.

    Parameters
    ----------
    spec : ContainerSpec
        An empty ``entrypoint`` string resets the image's.
    config : dict
        Env, Cmd, Entrypoint, WorkingDir, User, StopSignal, Labels, ExposedPorts; made by anybody.
    over_host : bool
        Whether the image lies on this machine's own files: then the notebook's directory and environment are there,
        and a Python cell can run.

    Raises
    ------
    ImageError
        If the configuration is malformed.
    UsageError
        If neither names a program.

    Notes
    -----
    Docker, ``daemon/commit.go``: merge. The image's Cmd counts only where neither program nor
    ``--entrypoint`` is given.

    Examples
    --------
    >>> apply(ContainerSpec(argv=("-l",)), {"Entrypoint": ["ls"], "Cmd": ["/"]}).argv
    ('ls', '-l')
    """
    entrypoint = _words(config, "Entrypoint") if spec.entrypoint is None else ()
    argv = spec.argv
    if spec.entrypoint:
        entrypoint = (spec.entrypoint,)
    elif not argv and spec.entrypoint is None:
        argv = _words(config, "Cmd")
    argv = () if spec.python else (*entrypoint, *argv)
    if not argv and not spec.python:
        raise UsageError(f"--image {spec.image}: no command specified, and the image names none")
    given = _words(config, "Env")
    base = tuple(tuple(e.partition("=")[::2]) for e in (given if over_host else (PATH, *given)))
    labels = {**dict(_pairs(config, "Labels")), **dict(spec.labels)}
    stop = config.get("StopSignal")
    return replace(
        spec,
        **_health(spec, config.get("Healthcheck")),
        argv=argv,
        entrypoint=None,
        environment=(*base, *spec.environment),  # type: ignore[arg-type]
        workdir=spec.workdir or _text(config, "WorkingDir") or (os.getcwd() if over_host else "/"),
        user=spec.user or _text(config, "User"),
        labels=tuple(labels.items()),
        exposed_ports=tuple(dict.fromkeys((*spec.exposed_ports, *_ports(config)))),
        stop_signal=str(stop) if stop and spec.stop_signal == "SIGTERM" else spec.stop_signal,
    )


def _health(spec: ContainerSpec, given: Any) -> dict[str, Any]:
    """Return the fields of an image's health check, where the user named none and did not refuse it."""
    test = given.get("Test") if isinstance(given, dict) else None
    if spec.health_cmd or spec.no_healthcheck or not isinstance(test, list) or len(test) < 2:
        return {}
    if test[0] not in ("CMD", "CMD-SHELL") or not all(isinstance(word, str) and "\0" not in word for word in test):
        raise ImageError(f"the image's configuration is malformed: Healthcheck {test!r}")
    made: dict[str, Any] = {"health_cmd": test[1] if test[0] == "CMD-SHELL" else shlex.join(test[1:])}
    numbers = {key: n for key, n in given.items() if isinstance(n, int) and 0 < n < 2**63}
    made["health_retries"] = min(numbers.pop("Retries", 0), 2**31 - 1)
    for key, name in _SPANS.items():
        if key in numbers:
            made[f"health_{name}_seconds"] = numbers[key] / 1e9
    return made


def _ports(config: dict[str, Any]) -> tuple[tuple[int, str], ...]:
    found = []
    for text in config.get("ExposedPorts") or {}:
        port, _, protocol = str(text).partition("/")
        protocol = protocol or "tcp"
        if not port.isdecimal() or not 0 < int(port) < 65536 or protocol not in ("tcp", "udp"):
            continue  # such as sctp, which nothing here could publish
        found.append((int(port), protocol))
    return tuple(found)


def _text(config: dict[str, Any], key: str) -> str:
    value = config.get(key) or ""
    if not isinstance(value, str) or "\0" in value:
        raise ImageError(f"the image's configuration is malformed: {key} is no text")
    return value


def _words(config: dict[str, Any], key: str) -> tuple[str, ...]:
    value = config.get(key) or []
    if not isinstance(value, list) or not all(isinstance(v, str) and "\0" not in v for v in value):
        raise ImageError(f"the image's configuration is malformed: {key} is no list of texts")
    return tuple(value)


def _pairs(config: dict[str, Any], key: str) -> tuple[tuple[str, str], ...]:
    value = config.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise ImageError(f"the image's configuration is malformed: {key} is no map of texts")
    return tuple(value.items())


def obtain(store: Store, name: str, *, pull: str = "missing", platform: str = "", say: Say) -> Image:
    """Find an image, make it, or pull it.

    Parameters
    ----------
    store : Store
        Where it is or goes.
    name : str
        A name or an ID.
    pull : str
        ``missing``, ``always`` or ``never``.
    platform : str
        ``os/architecture[/variant]``.
    say : callable
        Told of progress.

    Raises
    ------
    ImageError
        If it cannot be had; the message names what can be without a network.
    """
    missing = ""
    if pull != "always":
        try:
            return _of_platform(store.find(name), name, platform)
        except ImageError as e:
            if elsewhere.needed():
                return store.image(elsewhere.call("obtain", name, pull, platform, say=say))
            here = _found(store, name) is not None
            if not here and str(parse_reference(name)) == BUSYBOX and platform in ("", f"linux/{host_architecture()}"):
                return make_busybox(store)
            if pull == "never":
                raise ImageError(f"{e}, and --pull never keeps it from being pulled. {OFFLINE}") from None
            missing = str(e) if here else f"Unable to find image '{parse_reference(name).short}' locally"
    if elsewhere.needed():
        return store.image(elsewhere.call("obtain", name, pull, platform, say=say))
    reference = parse_reference(name)
    say(missing or f"Pulling {reference.short}")
    return pull_image(store, reference, platform=platform, say=say)


def _of_platform(image: Image, name: str, platform: str) -> Image:
    """Return an image if it is for a platform; one of this machine's own files is for this machine's.

    Raises
    ------
    ImageError
        If it is not: to whoever wants another platform, it is not here.
    """
    system, _, rest = platform.partition("/")
    architecture, _, variant = rest.partition("/")
    had = {key: str(image.config.get(key) or "") for key in ("os", "architecture", "variant")}
    wanted = {"os": system, "architecture": architecture, "variant": variant}
    if all(value in ("", had[key]) or (key, had[key]) == ("variant", "") for key, value in wanted.items()):
        return image
    actual = "/".join(value for value in had.values() if value)
    raise ImageError(f"{name} does not match the specified platform: wanted {platform}, actual: {actual}")


def pull_image(store: Store, reference: Reference, *, platform: str = "", say: Say) -> Image:
    """Pull an image; where that fails, name the offline choice.

    Raises
    ------
    ImageError
        As `jupyter_ns.images.pull.pull`.
    """
    from .pull import pull

    try:
        return pull(store, reference, platform=platform, say=say)
    except ImageError as e:
        raise ImageError(f"{reference.short} cannot be pulled: {e}. {OFFLINE}") from None


def remove_anonymous(names: list[str]) -> None:
    """Remove the volumes that were made for one container, which has ended."""
    if elsewhere.needed():
        elsewhere.call("remove_anonymous", names)
        return
    remove_volumes(default_root(), names)


def remove_volumes(root: str, names: Iterable[str]) -> None:
    """Remove volumes of a store which nobody has; here, with the rights of this process."""
    from .volumes import remove

    store = Store(root)
    for name in names:
        with contextlib.suppress(ImageError):  # the engine still has it, or somebody else removed it
            remove(store, name)
