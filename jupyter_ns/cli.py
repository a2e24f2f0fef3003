"""From a shell: ``jupyter-ns run [OPTIONS] PROGRAM [ARG…]``, ``doctor`` and ``version``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.metadata import version

from . import checkup, doctor, options
from .api import Echo
from .client import get_client
from .errors import ContainerError, UsageError
from .frontend.outcome import error_of
from .option_scan import scan
from .runner import Run

COULD_NOT_START = 125
"""The exit code of Docker's for what never ran."""

USAGE = """\
jupyter-ns run [OPTIONS] PROGRAM [ARG…]   run a program in a fresh container; exits with its code
jupyter-ns doctor [--on guest] [--json]   what this host, or a guest, can do, what it cannot, and how to mend that;
                                          exits with 1 if no container can be made
jupyter-ns version                        versions of this package, the kernel and cgroups

`jupyter-ns run --help` lists the options. With -i, standard input is read to its end and passed on."""


def main(words: list[str] | None = None) -> int:
    """Carry out a command line.

    Parameters
    ----------
    words : list of str, optional
        What follows the program's name; by default that of this process.

    Returns
    -------
    int
        The container's exit code; 125 if nothing was started.
    """
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    name, *arguments = words
    try:
        if name not in _TABLE:
            raise UsageError(f"no command {name!r}; there are: {', '.join(_TABLE)}")
        return _TABLE[name](arguments)
    except ContainerError as e:
        print(f"jupyter-ns: {e}", file=sys.stderr)
        return COULD_NOT_START


def _run(words: list[str]) -> int:
    request = options.parse(
        words,
        cwd=os.getcwd(),
        environ=os.environ,
        host_cpus=os.cpu_count() or 1,
        available_cpus=os.sched_getaffinity(0),
    )
    if request.help:
        print(options.help_text().replace("%%container", "jupyter-ns run"))
        return 0
    if request.spec.python:
        raise UsageError("a program is missing; a cell of Python needs a notebook: `jupyter-ns run [OPTIONS] PROGRAM`")
    # As with Docker, without -i a program must not swallow what the caller's next command is to read.
    stdin = sys.stdin.buffer.read() if _interactive(words) else b""
    if request.detach:
        raise UsageError("-d: nothing outlives this command, its engine neither; in a notebook it does")
    running = Run(get_client(request.on), request.spec, Echo())
    running.lives()
    container = running.execute(stdin=stdin)
    if request.explain:
        print(container.plan.describe(container.timings), file=sys.stderr)
    if not request.quiet:
        for line in container.weakened:
            print(f"jupyter-ns: weakened: {line}", file=sys.stderr)
    error = error_of(container, raise_error=False)
    if error is not None:
        print(f"jupyter-ns: {error}", file=sys.stderr)
    return COULD_NOT_START if container.exit_code is None else container.exit_code


def _interactive(words: list[str]) -> bool:
    given, _ = scan(words)
    return any(option.name == "--interactive" and text == "true" for _, option, text in given)


def _no_more(command: str, words: list[str]) -> None:
    if words:
        raise UsageError(f"{command} {' '.join(words)!r}: expected nothing after {command}")


def _doctor(words: list[str]) -> int:
    as_json = "--json" in words
    rows = checkup.examine(checkup.place_of([word for word in words if word != "--json"], "host"))
    print(doctor.json_text(rows) if as_json else doctor.text(rows))
    return int(rows[0].state == doctor.NO)


def _version(words: list[str]) -> int:
    _no_more("version", words)
    facts = get_client().facts
    print(f"jupyter_ns {version('jupyter_ns')}, Linux {facts.kernel}, cgroup v{facts.cgroup.get('version', '?')}")
    return 0


_TABLE: dict[str, Callable[[list[str]], int]] = {"run": _run, "doctor": _doctor, "version": _version}

if __name__ == "__main__":
    sys.exit(main())
