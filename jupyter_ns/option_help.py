"""What is derived from the option table for people: help text, completion, reference."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import groupby

from .errors import UsageError
from .option_examples import EXAMPLES
from .option_scan import BY_FLAG, OPTIONS, scan
from .option_types import Option

_WIDTH = 100
_INDENT = 32
_SUPPORTED = tuple(option for option in OPTIONS if not option.refuse)
_REFUSED = tuple(option for option in OPTIONS if option.refuse)


def _groups() -> Iterator[tuple[str, list[Option]]]:
    order = list(dict.fromkeys(option.group for option in _SUPPORTED))
    for group, options in groupby(
        sorted(_SUPPORTED, key=lambda option: order.index(option.group)), key=lambda option: option.group
    ):
        yield group, list(options)


def _usage(option: Option) -> str:
    flags = ", ".join(option.flags)
    return f"{flags} {option.metavar}" if option.metavar else flags


CELL_USAGE = """\
%%container [OPTIONS]                     run the cell, notebook Python, in a fresh container
%%container [OPTIONS] PROGRAM [ARG…]      run the cell as that program's script"""


def help_text(usage: str = CELL_USAGE) -> str:
    """Return the help text: how it is used, supported options by group, then what is refused.

    Parameters
    ----------
    usage : str
        What stands above the options.

    Returns
    -------
    str
        Lines of at most 100 columns.
    """
    lines = [usage, "", "Sizes are binary: 512m, 1.5g. Docker's options keep Docker's meaning."]
    for group, options in _groups():
        lines += ["", f"{group}:"]
        for option in options:
            lines += _help_entry(option)
    refused = " ".join(sorted(option.name for option in _REFUSED))
    lines += ["", "Known and refused; using one says why:"]
    lines += textwrap.wrap(
        refused,
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_on_hyphens=False,
        break_long_words=False,
    )
    return "\n".join(lines) + "\n"


def _help_entry(option: Option) -> list[str]:
    head = f"  {_usage(option)}"
    notes = [f"unit: {option.unit}"] if option.unit else []
    notes += [f"default: {option.default}"] if option.default else []
    notes += ["repeatable"] if option.repeatable else []
    text = option.help + (f" ({'; '.join(notes)})" if notes else "")
    indent = " " * _INDENT
    body = textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    if len(head) < _INDENT - 1:
        return [head.ljust(_INDENT) + body[0].lstrip(), *body[1:]]
    return [head, *body]


def complete(line: str) -> list[tuple[str, str]]:
    """Offer what the word under the cursor could become.

    Parameters
    ----------
    line : str
        From after ``%%container`` to the cursor.

    Returns
    -------
    list of (str, str)
        A whole word to put in place of the one being typed, and what it means. Empty past the options.

    Examples
    --------
    >>> complete("--state f")
    [('fork', 'a copy-on-write fork of the live kernel')]
    >>> complete("--memory-sw")[0][0]
    '--memory-swap'
    """
    option, word, prefix = awaited(line)
    if option is not None:
        return _values(option, word, prefix)
    if not word.startswith("-"):
        return []
    return [(f, option.help) for option in _SUPPORTED for f in option.flags if f.startswith(word)]


def awaited(line: str) -> tuple[Option | None, str, str]:
    """Return the option whose value is being typed, what of it there is, and what stands before that in the word.

    Examples
    --------
    >>> option, *rest = awaited("--memory 1m --network=la")
    >>> option.name, *rest
    ('--network', 'la', '--network=')
    """
    words = line.split()
    word = "" if not words or line[-1].isspace() else words.pop()
    try:
        # The marker becomes the value that an option waits for, or ends the options.
        found, argv = scan([*words, "--"])
    except UsageError:
        return None, "", ""
    if argv:
        return None, "", ""
    if found and found[-1][2] == "--":
        return found[-1][1], word, ""
    flag, equals, value = word.partition("=")
    return (BY_FLAG.get(flag), value, f"{flag}=") if equals else (None, word, "")


def _values(option: Option, text: str, prefix: str) -> list[tuple[str, str]]:
    if option.comma_list and "," in text:
        done, text = text.rsplit(",", 1)
        prefix += f"{done},"
    names = [(name, what) for name, what in option.choices if name.lower().startswith(text.lower())]
    return [(prefix + name, what) for name, what in names]


def reference() -> str:
    """Return the reference of every option, in Markdown.

    Returns
    -------
    str
        A table per group, with OCI paths, kernel files, documentation and an example; then the refused options.
    """
    lines: list[str] = []
    for group, options in _groups():
        kernel = any(option.v1 or option.v2 for option in options)
        head = ["Option", "Unit", "Default", "Does", "OCI path"]
        head += ["cgroup v1", "cgroup v2"] if kernel else []
        rows = [_reference_row(option, kernel=kernel) for option in options]
        lines += [f"## {group}", "", *_table([*head, "Documentation", "Example"], rows), ""]
    refused = [[_code(", ".join(option.flags)), option.refuse] for option in _REFUSED]
    lines += ["## Refused", "", *_table(["Option", "Why"], refused)]
    return "\n".join(lines) + "\n"


def _reference_row(option: Option, *, kernel: bool) -> list[str]:
    does = option.help + (" (repeatable)" if option.repeatable else "")
    row = [_code(_usage(option)), option.unit, option.default, does, _code(option.oci)]
    row += [_code(option.v1), _code(option.v2)] if kernel else []
    return [*row, option.documentation, _code(f"%%container {EXAMPLES[option.name]}")]


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
