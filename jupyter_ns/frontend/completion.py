"""Tab completion of ``%%container`` and ``%container`` lines, from the option table."""

from __future__ import annotations

import re
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

_LINE = re.compile(r"%%?container\s+(.*)", re.DOTALL)


@context_matcher(identifier="jupyter_ns")  # type: ignore[untyped-decorator]
def container_matcher(context: CompletionContext) -> SimpleMatcherResult:
    """Complete flags, values and subcommands, on the first line of a cell only."""
    line = context.line_with_cursor[: context.cursor_position]
    match = _LINE.fullmatch(line)
    if context.cursor_line != 0 or match is None:
        return {"completions": [], "suppress": False}
    from .. import options  # not for `%load_ext` to pay
    from . import subcommands

    words = match.group(1)
    fragment = re.split(r"\s", words)[-1]
    found = [SimpleCompletion(text=text, type="magic") for text, _ in options.complete(words)]
    if not line.startswith("%%") and words == fragment:
        found += [SimpleCompletion(text=n, type="magic") for n in subcommands.names() if n.startswith(fragment)]
    return {"completions": found, "suppress": bool(found), "matched_fragment": fragment}


def install(shell: Any) -> None:
    """Add the matcher to a shell's completer."""
    shell.Completer.custom_matchers.append(container_matcher)


def remove(shell: Any) -> None:
    """Take it out again."""
    if container_matcher in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(container_matcher)
