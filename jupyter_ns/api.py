"""The same from Python, without magics: `run`."""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

from . import options
from .client import default_place, get_client
from .container import Container
from .errors import UsageError
from .frontend.outcome import error_of
from .option_types import RunRequest
from .runner import Run, Sink


class _Capture(Sink):
    """Shows nothing; what came is in the container."""

    looks = False


class Echo(Sink):
    """Prints what the container writes, as it comes."""

    looks = False

    def on_notice(self, text: str) -> None:
        """Say what happens before the container is built."""
        print(text, file=sys.stderr, flush=True)

    def on_text(self, stream: str, text: str) -> None:
        print(text, end="", file=sys.stdout if stream == "stdout" else sys.stderr, flush=True)


def run(
    program: str, *arguments: str, input: str | bytes = b"", check: bool = False, echo: bool = False, **keywords: Any
) -> Container:
    """Run a program in a fresh container and wait for it.

    Parameters
    ----------
    program, *arguments : str
        What to run; no shell is involved.
    input : str or bytes
        Its standard input.
    check : bool
        Whether a non-zero exit code, a time-out or running out of memory raises.
    echo : bool
        Whether its output is printed as it comes.
    **keywords
        The options of ``%%container``, with ``_`` for ``-``: ``memory="128m"``, ``cpus=0.5``,
        ``volume=["/a:/b:ro"]``, ``read_only=True``; with ``detach=True`` it goes on by itself.

    Returns
    -------
    Container
        With ``stdout``, ``exit_code``, ``usage`` and so on.

    Raises
    ------
    UsageError, UnsupportedError, SetupError
        Nothing was started.
    ContainerExitError, ContainerOOMError, ContainerTimeoutError
        If `check`.

    Examples
    --------
    >>> run("echo", "hello", memory="64m").stdout  # doctest: +SKIP
    'hello\\n'
    """
    request = parse_words([*to_flags(keywords), "--", program, *arguments])
    running = Run(get_client(request.on), request.spec, Echo() if echo else _Capture())
    running.lives(detach=request.detach, remove=not request.detach if request.remove is None else request.remove)
    container = running.execute(stdin=input.encode() if isinstance(input, str) else input)
    error = error_of(container, raise_error=True) if check else None
    if error is not None:
        raise error
    return container


def parse_words(words: list[str]) -> RunRequest:
    """Parse the words of ``%%container`` in this process's directory and environment.

    Raises
    ------
    UsageError
        As `jupyter_ns.options.parse`.
    """
    available = frozenset(os.sched_getaffinity(0))
    return options.parse(
        [f"--on={default_place()}", *words],
        cwd=os.getcwd(),
        environ=os.environ,
        host_cpus=_host_cpus(available),
        available_cpus=available,
    )


@functools.cache
def _host_cpus(available: frozenset[int]) -> int:
    """Count the host's CPUs: again only once others are `available`, for that reads a file."""
    return os.cpu_count() or 1


def to_flags(keywords: dict[str, Any]) -> list[str]:
    """Turn keyword arguments into the option table's words.

    Examples
    --------
    >>> to_flags({"memory": "128m", "read_only": True, "env": ["A=1", "B=2"]})
    ['--memory=128m', '--read-only=true', '--env=A=1', '--env=B=2']
    """
    words = []
    for name, value in keywords.items():
        flag = "--" + name.replace("_", "-")
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if item is None:
                raise UsageError(f"{flag}: None is not a value; leave the keyword out")
            words.append(f"{flag}={str(item).lower() if isinstance(item, bool) else item}")
    return words
