"""Tab completion of ``%container`` and ``%docker`` lines, from the tables of options and subcommands."""

from __future__ import annotations

import re
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

_LINE = re.compile(r"%%?(container|docker)\s+(.*)", re.DOTALL)


@context_matcher(identifier="jupyter_ns")  # type: ignore[untyped-decorator]
def container_matcher(context: CompletionContext) -> SimpleMatcherResult:
    """Complete flags, values and subcommands, on the first line of a cell only."""
    line = context.line_with_cursor[: context.cursor_position]
    match = _LINE.fullmatch(line)
    if context.cursor_line != 0 or match is None:
        return {"completions": [], "suppress": False}
    magic, words = match.groups()
    fragment = re.split(r"\s", words)[-1]
    texts = _options_or_subcommands(magic, words, fragment, cell=line.startswith("%%"))
    found = [SimpleCompletion(text=text, type="magic") for text in texts]
    return {"completions": found, "suppress": bool(found), "matched_fragment": fragment}


def _options_or_subcommands(magic: str, words: str, fragment: str, *, cell: bool) -> list[str]:
    from . import subcommands  # not for `%load_ext` to pay
    from .commands import stored, table

    name, _, rest = words.partition(" ")
    if name == "run" and name != fragment:
        return _options(rest)
    if name in table.COMMANDS and name != fragment:
        return table.complete(table.COMMANDS[name], fragment)
    if name in stored.GROUPS and name != fragment:
        second, _, rest = rest.partition(" ")
        group = [n.removeprefix(f"{name} ") for n in stored.STORED if n.startswith(f"{name} ")]
        if second == fragment and not rest:
            return [n for n in group if n.startswith(fragment)]
        return table.complete(stored.STORED[f"{name} {second}"], fragment) if second in group else []
    if magic == "docker":
        return [n for n in table.names() if words == fragment and n.startswith(fragment)]
    found = _options(words)
    if not cell and words == fragment:
        found += [n for n in subcommands.names() if n.startswith(fragment)]
    return found


def _options(line: str) -> list[str]:
    """Complete an option or its value, also those that name what this notebook has made."""
    from .. import options
    from .commands import table

    found = [text for text, _ in options.complete(line)]
    option, typed, prefix = options.awaited(line)
    names: list[str] = []
    if option is not None and option.name == "--network":
        names += [name for name in table.network_names() if name not in dict(option.choices)]
    if option is not None and option.name in ("--network", "--pid", "--ipc"):
        names += [f"container:{name}" for name in table.container_names()]
    if option is not None and option.name == "--volumes-from":
        names += table.container_names()
    return found + [prefix + name for name in names if name.startswith(typed)]


def install(shell: Any) -> None:
    """Add the matcher to a shell's completer."""
    shell.Completer.custom_matchers.append(container_matcher)


def remove(shell: Any) -> None:
    """Take it out again."""
    if container_matcher in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(container_matcher)
