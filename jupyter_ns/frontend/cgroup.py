"""``%cgroup``: the tree of our cgroups, whose limit binds, and the kernel file of each limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from .. import options
from ..cgroups.ancestors import RESOURCES, Level, binding
from ..client import get_client
from ..container import Container
from ..errors import UsageError
from ..runtime.protocol import Kind
from ..spec import ContainerSpec, LimitRecord, Limits
from ..units import format_bytes
from .tables import CELL, HEAD, TABLE
from .words import aligned, escape, limit_value

USAGE = """\
%cgroup                              the cgroups of this notebook: limits, usage, whose limit binds
%cgroup NAME|PATH                    one cgroup and those above it
%cgroup --files                      the kernel file of each limit, on version 1 and on version 2
%cgroup create NAME [LIMITS]         a cgroup for containers: %%container --cgroup-parent NAME
%cgroup rm NAME                      remove it"""

NOTHING_YET = (
    "none of this notebook's now; containers that run have one, and `%cgroup create NAME --mem 256m` makes one"
)

Rows = list[list[str]]


class Table(NamedTuple):
    """A heading, a head line and rows."""

    title: str
    head: Sequence[str]
    rows: Rows


def cgroup(shell: Any, words: list[str]) -> None:
    """Carry out a ``%cgroup`` line.

    Raises
    ------
    UsageError, UnsupportedError
        Nothing was changed.
    """
    if words[:1] in (["-h"], ["--help"]):
        print(USAGE)
    elif words[:1] == ["create"]:
        _create(words[1:])
    elif words[:1] == ["rm"]:
        _remove(words[1:])
    elif words == ["--files"]:
        last = shell.user_ns.get("_container")
        show(shell, files_table(last.limits if isinstance(last, Container) else []))
    elif not words:
        tree = _ask({"do": "tree"})
        found = tree_table(tree)
        if found.rows:
            show(shell, found)
        if not tree["nodes"]:
            print(f"{found.title}: {NOTHING_YET}")
    elif len(words) == 1 and not words[0].startswith("-"):
        show(shell, levels_table(words[0], _levels(shell, words[0])))
    else:
        raise UsageError(f"{' '.join(words)!r}; accepted:\n{USAGE}")


def _ask(request: dict[str, Any]) -> Any:
    return get_client().ask(Kind.CGROUP, request)


def _create(words: list[str]) -> None:
    if not words or words[0].startswith("-"):
        raise UsageError(f"create: expected a name first; accepted:\n{USAGE}")
    from .magics import parse_words

    spec = parse_words(words[1:]).spec
    if replace(spec, limits=Limits(), cgroup_parent="") != parse_words([]).spec:
        raise UsageError(
            f"create {words[0]}: accepted: limits (--mem, --cpus, …) and --cgroup-parent, and nothing else"
        )
    wanted = ContainerSpec(name=words[0], limits=spec.limits, cgroup_parent=spec.cgroup_parent)
    records = _ask({"do": "create", "spec": wanted.to_dict()})
    limits = ", ".join(f"{r.file} {r.effective}" for r in map(LimitRecord._make, records)) or "no limits"
    print(f"cgroup {words[0]}: {limits}. Run in it: %%container --cgroup-parent {words[0]}")


def _remove(words: list[str]) -> None:
    if len(words) != 1:
        raise UsageError(f"rm: expected one name; accepted:\n{USAGE}")
    get_client().sync()  # until a cell that has just ended is gone
    _ask({"do": "remove", "name": words[0]})


def _levels(shell: Any, word: str) -> dict[str, list[Level]]:
    """Find a group, a container (its name, its ID, a variable that holds it), or any cgroup by its path."""
    known = shell.user_ns.get(word)
    wanted = known.short_id if isinstance(known, Container) else word
    for node in _ask({"do": "tree"})["nodes"]:
        if wanted in (node["name"], node.get("label")):
            return _as_levels(node["levels"])
    if isinstance(known, Container):
        raise UsageError(f"{word}: its cgroup went with it; `%cgroup --files` shows where its limits went")
    return _as_levels(_ask({"do": "levels", "path": word}))


def _as_levels(found: dict[str, list[list[Any]]]) -> dict[str, list[Level]]:
    return {resource: [Level(*level) for level in levels] for resource, levels in found.items()}


def amount(resource: str, value: float | None) -> str:
    """Word an amount of a resource.

    Examples
    --------
    >>> amount("memory", 1048576), amount("cpu", 0.5), amount("pids", None)
    ('1MiB', '0.5', '–')
    """
    if value is None:
        return "–"
    return format_bytes(value) if resource == "memory" else f"{value:g}"


def tree_table(tree: dict[str, Any]) -> Table:
    """Lay out the tree: groups, the containers in them, and what above them has a limit."""
    head = ("cgroup", "memory", "limit", "CPUs", "tasks", "limit", "binds")
    above = _as_levels(tree["engine"])
    paths = list(dict.fromkeys(level.path for levels in above.values() for level in levels if level.limit is not None))
    rows: Rows = []
    for path in reversed(paths):
        own = {r: [one for one in levels if one.path == path] for r, levels in above.items()}
        rows.append([path, *_figures(own), ""])
    if tree["nodes"]:
        rows.append(["this notebook", *[""] * 6])
        rows += _below("", tree["nodes"], "")
    return Table(f"cgroup version {tree['version']}", head, rows)


def _below(parent: str, nodes: list[dict[str, Any]], indent: str) -> Rows:
    rows: Rows = []
    children = [node for node in nodes if node["parent"] == parent]
    for node in children:
        last = node is children[-1]
        levels = _as_levels(node["levels"])
        name = f"{node['name']} ({node['label']})" if node.get("label") else node["name"]
        rows.append([f"{indent}{'└─' if last else '├─'} {name}", *_figures(levels), _binds(levels)])
        if node["kind"] == "group":
            rows += _below(node["name"], nodes, indent + ("   " if last else "│  "))
    return rows


def _figures(levels: dict[str, list[Level]]) -> list[str]:
    none = Level("", None, None, 0)
    memory, cpu, pids = (next(iter(levels.get(r, ())), none) for r in RESOURCES)
    return [
        amount("memory", memory.usage),
        amount("memory", memory.limit),
        amount("cpu", cpu.limit),
        amount("pids", pids.usage),
        amount("pids", pids.limit),
    ]


def _binds(levels: dict[str, list[Level]]) -> str:
    """Say whose limit would be met first, for each resource that has one."""
    said = []
    for resource, chain in levels.items():
        level = binding(chain)
        if level is not None:
            whose = "its own" if level.path == chain[0].path else level.path.rpartition("/")[2]
            said.append(f"{resource}: {whose}")
    return ", ".join(said)


def levels_table(name: str, found: dict[str, list[Level]]) -> Table:
    """Lay out one cgroup and those above it, for each resource."""
    rows: Rows = []
    for resource, levels in found.items():
        binds = binding(levels)
        for level in levels:
            limit, usage = amount(resource, level.limit), amount(resource, level.usage)
            rows.append([resource, level.path, limit, usage, str(level.hits), "← binds" if level is binds else ""])
    return Table(f"cgroup {name} and those above it", ("resource", "cgroup", "limit", "used", "limit hits", ""), rows)


def files_table(records: Sequence[LimitRecord]) -> Table:
    """Lay out the kernel file of each limit, on both versions, and where those of the last run went."""
    head = ("option", "version 1", "version 2", "asked for", "file", "read back")
    rows: Rows = []
    for option in options.OPTIONS:
        if not option.v1 and not option.v2:
            continue
        field = option.sets.partition(".")[2]
        told = [[limit_value(field, r.requested), r.file, r.effective] for r in records if r.name == field]
        rows += [[option.name, option.v1 or "–", option.v2 or "–", *one] for one in told or [[""] * 3]]
    return Table("limits of the last run" if records else "kernel files of the limits", head, rows)


def text(table: Table) -> str:
    """Return a table as plain text."""
    return "\n".join([table.title, *aligned([list(table.head), *table.rows], indent="")])


def html(table: Table) -> str:
    """Return a table as HTML."""
    head = "".join(f"<th {HEAD}>{escape(cell)}</th>" for cell in table.head)
    body = "".join(
        "<tr>" + "".join(f"<td {CELL}>{escape(cell).replace('  ', '&nbsp; ')}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    return f'<div><b>{escape(table.title)}</b></div><table style="{TABLE}"><tr>{head}</tr>{body}</table>'


def show(shell: Any, table: Table) -> None:
    """Display a table, as HTML where there is a front end."""
    if hasattr(shell, "kernel"):
        shell.display_pub.publish({"text/html": html(table), "text/plain": text(table)})
    else:
        print(text(table))
