"""The report: Markdown for people, JSON for programs."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .stats import Series
from .targets import Verdict, judge
from .workspace import cgroup_mounts

WHY_NOT_WIDTH = 100
PEERS = ("bwrap", "crun", "runc", "unshare", "podman", "docker")


def host_facts() -> dict[str, Any]:
    """Return what a reader needs to judge the figures by: kernel, cores, cgroups, versions, load."""
    mounts = cgroup_mounts(Path("/proc/self/mountinfo").read_text())
    kinds = {"v2" if name == "unified" else "v1" for name in mounts}
    versions = {}
    for name in PEERS:
        if shutil.which(name):
            said = subprocess.run([name, "--version"], capture_output=True, text=True, check=False).stdout
            versions[name] = said.splitlines()[0] if said else "unknown"
        else:
            versions[name] = "not installed"
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "uid": os.geteuid(),
        "cgroup": "hybrid" if len(kinds) == 2 else "".join(kinds) or "none",
        "load_average_1min": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": versions,
    }


def _cell(text: str) -> str:
    """Make a message fit for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def _row(series: Series, baseline: Series | None) -> str:
    if not series.values:
        return f"| {series.name} | – | – | – | {_cell(series.missing)} |"
    low, high = series.quartiles
    comparable = baseline is not None and baseline.values and baseline.unit == series.unit
    ratio = f"{series.median / baseline.median:.2f}" if baseline is not None and comparable else "–"
    figures = f"{series.median:.2f} {series.unit} | {low:.2f} – {high:.2f} | {ratio}"
    return f"| {series.name} | {figures} | {series.note} |"


def table(title: str, rows: Sequence[Series], baseline: str) -> str:
    """Return one section: a row a series, with its ratio to `baseline`.

    Parameters
    ----------
    title : str
        Heading.
    rows : sequence of Series
        In order; what was not measured stays, with the reason.
    baseline : str
        Name of the row that ratios refer to; empty: none does.
    """
    reference = next((row for row in rows if row.name == baseline), None)
    ratio = f"÷ {baseline}" if baseline else "ratio"
    head = f"| | median | quartiles | {ratio} | remarks |\n|---|---:|---:|---:|---|"
    return "\n".join([f"### {title}\n", head, *(_row(row, reference) for row in rows)])


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Return the table of targets: what was asked, what was reached, yes or no."""
    lines = ["### Targets\n", "| | asked | reached | |", "|---|---:|---:|---|"]
    for verdict in verdicts:
        asked = f"≤ {verdict.target.at_most:g}"
        if verdict.reached is None:
            why_not = textwrap.shorten(verdict.why_not, WHY_NOT_WIDTH, placeholder=" …")
            lines.append(f"| {verdict.target.text} | {asked} | – | not measured ({_cell(why_not)}) |")
        else:
            answer = "**yes**" if verdict.met else "**no**"
            lines.append(f"| {verdict.target.text} | {asked} | {verdict.reached:.3g} {verdict.unit} | {answer} |")
    return "\n".join(lines)


def markdown(sections: Mapping[str, tuple[list[Series], str]], facts: Mapping[str, Any]) -> str:
    """Return the whole report.

    Parameters
    ----------
    sections : mapping of str to (list of Series, str)
        Title to rows and the name of their baseline.
    facts : mapping
        From `host_facts`.
    """
    host = f"Linux {facts['kernel']}, {facts['machine']}, {facts['cpus']} CPUs, cgroup {facts['cgroup']}"
    intro = f"{host}, uid {facts['uid']}, {facts['date']}. Milliseconds unless said; lower is better."
    tables = [table(title, rows, baseline) for title, (rows, baseline) in sections.items()]
    return "\n\n".join([intro, *tables, verdict_table(judge(by_name(sections)))])


def by_name(sections: Mapping[str, tuple[list[Series], str]]) -> dict[str, Series]:
    """Return all series by name."""
    return {row.name: row for rows, _ in sections.values() for row in rows}


def as_json(
    sections: Mapping[str, tuple[list[Series], str]], facts: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return everything as plain data: host, options, every value measured, the verdicts."""
    rows = [
        {
            "section": title,
            "name": row.name,
            "unit": row.unit,
            "median": row.median if row.values else None,
            "quartiles": row.quartiles if row.values else None,
            "values": row.values,
            "missing": row.missing,
            "note": row.note,
        }
        for title, (series, _) in sections.items()
        for row in series
    ]
    verdicts = [
        {
            "target": v.target.text,
            "at_most": v.target.at_most,
            "reached": v.reached,
            "met": v.met,
            "why_not": v.why_not,
        }
        for v in judge(by_name(sections))
    ]
    return {"host": dict(facts), "options": dict(options), "rows": rows, "targets": verdicts}
