"""The magics: ``container``, ``docker``, ``namespaces``, ``cgroup``, ``expect``.

Most imports stand in functions: `%load_ext` is quick, and the first cell pays for what it uses.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError as IPythonUsageError
from IPython.core.magic import (
    Magics,
    line_cell_magic,
    line_magic,
    magics_class,
    no_var_expand,
    output_can_be_silenced,
)
from traitlets import Enum, observe

from ..client import PLACES, default_place, get_client, set_default_place
from ..errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from ..container import Container
    from ..option_types import RunRequest
    from ..runner import Cell


@magics_class
class ContainerMagics(Magics):  # type: ignore[misc]
    """Run cells in containers."""

    on = Enum(list(PLACES), "host", help="Where cells without --on run: host, or guest.").tag(config=True)
    refusals = Enum(
        ["raise", "show"],
        "raise",
        help="Of what this machine cannot: raise UnsupportedError, or show it and let the notebook go on.",
    ).tag(config=True)

    @observe("on")  # type: ignore[untyped-decorator]
    def _on_place(self, change: Any) -> None:
        set_default_place(change["new"])

    @contextlib.contextmanager
    def _shown(self, before: str = "") -> Iterator[None]:
        """Show misuse in IPython's way, and a refusal as the notebook has asked for."""
        try:
            yield
        except UsageError as e:
            raise IPythonUsageError(f"{before}{e}") from None
        except UnsupportedError as e:
            if self.refusals == "raise":
                raise
            print(f"Not on this machine: {e}", file=sys.stderr)

    @output_can_be_silenced  # type: ignore[untyped-decorator]
    @no_var_expand  # type: ignore[untyped-decorator]
    @line_cell_magic  # type: ignore[untyped-decorator]
    def container(self, line: str, cell: str | None = None) -> Any:
        """Run a cell in a fresh container (``%%container``), or a subcommand (``%container``)."""
        from .. import options
        from .expansion import expand

        line = expand(self.shell, line)
        with self._shown("%container: " if cell is None else "%%container: "):
            if cell is None:
                from . import subcommands

                return subcommands.dispatch(self.shell, line)
            words = options.split(line)
            if words[:1] == ["together"]:
                from . import contest

                contest.run_cell(self.shell, words[1:], cell)
                return None
            if words[:1] in (["exec"], ["run"]):
                from . import docker

                return docker.run_line(self.shell, line, cell, "container")
            request = parse_words(words)
            if request.help:
                print(options.help_text())
                return None
            return self.run_cell(request, cell)

    @output_can_be_silenced  # type: ignore[untyped-decorator]
    @no_var_expand  # type: ignore[untyped-decorator]
    @line_cell_magic  # type: ignore[untyped-decorator]
    def docker(self, line: str, cell: str | None = None) -> Any:
        """Carry out Docker's command lines, with no Docker: ``%docker ps``, ``%docker logs web | tail``.

        ``%%docker run …`` and ``%%docker exec …`` give the cell's text to the program; ``%%docker`` alone
        carries out each line of the cell.
        """
        from . import docker
        from .expansion import expand

        with self._shown():
            if line.strip() or cell is None:
                return docker.run_line(self.shell, expand(self.shell, line), cell, "docker")
            for each in docker.lines_of(cell):
                docker.run_line(self.shell, expand(self.shell, each), None, "docker")
        return None

    def run_cell(self, request: RunRequest, cell: str) -> None:
        """Run `cell` as `request` asks, show it, and raise what its end calls for."""
        from ..runner import Run
        from .commands.running import cidfile
        from .outcome import error_of
        from .sink import NotebookSink

        sink = NotebookSink(self.shell, quiet=request.quiet, trust=request.trust)
        client = get_client(request.on)
        run = Run(client, request.spec, sink)
        run.trust = request.trust
        run.lives(detach=request.detach, remove=not request.detach if request.remove is None else request.remove)
        sink.run = run
        self._leave(run.container, request)
        if request.spec.python:
            payload = python_cell(self.shell, request, cell)
            if request.state == "fork":
                from .. import forked  # the C core: only once it is needed here

                run.enter = partial(forked.enter, self.shell, payload.body(), client.facts)
            if request.detach:
                from .background import followed

                with followed(self.shell, client, run, request.outputs or ()), cidfile(request.cidfile, run):
                    run.execute(stdin=b"", cell=payload)
                print(run.container.id)
                return
            run.execute(stdin=b"", cell=payload)
        else:
            with cidfile(request.cidfile, run):
                run.execute(stdin=cell.encode())
        if request.detach and run.container.status == "running":
            print(run.container.id)
            return
        sink.finish(run.container)
        if request.explain:
            print(run.container.plan.describe(run.container.timings))
        error = sink.error or run.transfer_error
        error = error or error_of(run.container, raise_error=request.raise_error)
        if error is not None:
            raise error
        self.shell.user_ns.update({name: run.outputs[name] for name in request.outputs or ()})

    def _leave(self, container: Container, request: RunRequest) -> None:
        self.shell.user_ns["_container"] = container
        if request.result:
            self.shell.user_ns[request.result] = container

    @line_magic  # type: ignore[untyped-decorator]
    def namespaces(self, line: str) -> None:
        """Show namespace IDs of processes or containers beside the kernel's own: ``%namespaces [NAME|PID …]``."""
        from .. import options
        from . import subcommands

        with self._shown("%namespaces: "):
            subcommands.show_namespaces(self.shell, options.split(line))

    @line_magic  # type: ignore[untyped-decorator]
    def expect(self, line: str) -> None:
        """Check a condition on the last run: ``%expect oom``, ``%expect cpu < 55%``; ``-h`` lists them."""
        from ..container import Container
        from ..expect import expect, help_text

        if line.strip() in ("", "-h", "--help"):
            print(help_text())
            return
        last = self.shell.user_ns.get("_container")
        if not isinstance(last, Container):
            raise IPythonUsageError("%expect: nothing has run yet in this notebook")
        with self._shown("%expect: "):
            print(expect(last, line))

    @line_magic  # type: ignore[untyped-decorator]
    def cgroup(self, line: str) -> None:
        """Show the tree of cgroups, and whose limit binds; make and remove some: ``%cgroup --help``."""
        from .. import options
        from . import cgroup

        with self._shown("%cgroup: "):
            cgroup.cgroup(self.shell, options.split(line))


def parse_words(words: Sequence[str]) -> RunRequest:
    """Parse the words of ``%%container`` in this kernel's directory and environment."""
    from .. import api

    return api.parse_words([f"--on={default_place()}", *words])


def python_cell(shell: Any, request: RunRequest, source: str) -> Cell:
    """Find the variables that a cell needs, and make it ready to be sent."""
    from ..runner import Cell

    # Tracebacks count lines as the notebook does, where the magic is line 1.
    lined_up = source if source.startswith("%%") else "# %%container …\n" + source
    return Cell(
        source=lined_up,
        execution_count=shell.displayhook.prompt_count,  # IPython 9.18 counts up before the cell runs
        variables=variables_for(shell, request, source),
        out=request.outputs or (),
        trust=request.trust,
        detached=request.detach,
    )


def variables_for(shell: Any, request: RunRequest, source: str) -> dict[str, Any]:
    """Choose the variables to send in: ``--in``, or what the cell reads."""
    names = request.inputs
    if names is None:
        if request.state != "copy":
            return {}
        from ..analysis import names_read

        hidden = shell.user_ns_hidden
        visible = {n for n, v in shell.user_ns.items() if n not in hidden or hidden[n] is not v}
        try:
            names = names_read(shell.transform_cell(source), visible, shell.transform_cell).names
        except SyntaxError:
            return {}  # the container's own shell shows it, as it would outside
    missing = [n for n in names if n not in shell.user_ns]
    if missing:
        raise UsageError(f"--in {', '.join(missing)}: not defined in the notebook; accepted: names of its variables")
    return {n: shell.user_ns[n] for n in names}


def _documentation() -> str:
    from .. import options

    return f"{ContainerMagics.container.__doc__}\n\n{options.help_text()}"


# What ``%container?`` shows (IPython.core.oinspect asks for `getdoc`): the option table's own text.
ContainerMagics.container.getdoc = _documentation
