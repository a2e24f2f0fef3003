"""The command: measure what was asked for, print Markdown, write JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import commands, detached, engine, images, notebook, report, resident, scale
from .stats import BenchmarkError, Series, interleave
from .workspace import workspace

Section = tuple[list[Series], str]


def _positive(convert: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = convert(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return parse


def _start(options: argparse.Namespace) -> Section:
    with workspace() as space, resident.resident_floor(space) as floor, resident.pure_v1_spawner() as pure_v1:
        rows = commands.candidates(space, image=options.image, pandas_image=options.pandas_image, pure_v1_spawn=pure_v1)
        rows += [*floor, *engine.candidates(space)]
        return interleave(rows, rounds=options.rounds, gap_s=options.gap_ms / 1e3), commands.BWRAP


def _notebook(options: argparse.Namespace) -> Section:
    with (
        workspace() as space,
        notebook.candidates(space, image=options.image, pandas_image=options.pandas_image) as rows,
    ):
        return interleave(rows, rounds=options.rounds, gap_s=options.gap_ms / 1e3), notebook.BASH


def _heap(options: argparse.Namespace) -> Section:
    rows = scale.heap(gib=options.heap_gib, rounds=options.rounds, gap_s=options.gap_ms / 1e3)
    return rows, scale.HEAP_EMPTY


def _load(options: argparse.Namespace) -> Section:
    return scale.load(kernels=options.kernels), ""


def _sampling(_: argparse.Namespace) -> Section:
    return scale.sampling(), ""


def _live(options: argparse.Namespace) -> Section:
    rows = scale.live(containers=options.live, rounds=options.rounds, gap_s=options.gap_ms / 1e3)
    return rows, scale.LIVE_FIRST


def _detached(options: argparse.Namespace) -> Section:
    rows = scale.detached(containers=options.live, rounds=options.rounds, gap_s=options.gap_ms / 1e3)
    return rows, detached.CELL


def _images(options: argparse.Namespace) -> Section:
    gap_s = options.gap_ms / 1e3
    rows = images.series(
        mebibytes=options.image_mib, containers=options.of_one_image, rounds=options.rounds, gap_s=gap_s
    )
    return rows, images.PODMAN


SECTIONS: dict[str, tuple[str, Callable[[argparse.Namespace], Section]]] = {
    "start": ("Request to reaped: whole commands and the engine", _start),
    "notebook": ("In a notebook: execute request to idle", _notebook),
    "heap": ("The kernel's heap", _heap),
    "load": ("Loading the extension", _load),
    "sampling": ("Watching one idle container", _sampling),
    "live": ("Many live containers", _live),
    "detached": ("Detached containers", _detached),
    "images": ("Images", _images),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    count, number = _positive(int), _positive(float)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of: {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--rounds", type=count, default=30, help="runs kept of each row (default: %(default)s)")
    parser.add_argument("--gap-ms", type=number, default=60, help="pause before each run (default: %(default)s)")
    parser.add_argument("--heap-gib", type=number, default=4, help="heap of the full kernel (default: %(default)s)")
    parser.add_argument("--kernels", type=count, default=10, help="fresh kernels for %%load_ext (default: %(default)s)")
    parser.add_argument("--live", type=count, default=300, help="idle containers (default: %(default)s)")
    parser.add_argument("--image-mib", type=count, default=500, help="image that is loaded (default: %(default)s)")
    parser.add_argument("--of-one-image", type=count, default=50, help="containers of an image (default: %(default)s)")
    parser.add_argument("--image", default="busybox", help="local image for docker run (default: %(default)s)")
    parser.add_argument("--pandas-image", default="", help="local image with pandas for docker run")
    parser.add_argument("--json", type=Path, default=Path("benchmark.json"), help="file (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write.

    Parameters
    ----------
    argv : sequence of str or None
        Command line without the program's name; None: `sys.argv`.

    Returns
    -------
    int
        0; 1 if a section could not be measured at all. A target that was not met is a finding,
        not a failure.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"unknown section {unknown[0]!r}; there are: {', '.join(SECTIONS)}")
    facts = report.host_facts()
    sections: dict[str, Section] = {}
    for name in options.sections or SECTIONS:
        title, measure = SECTIONS[name]
        print(f"measuring: {title}", file=sys.stderr, flush=True)
        try:
            sections[title] = measure(options)
        except BenchmarkError as error:
            print(f"{title}: {error}", file=sys.stderr)
            return 1
    print(report.markdown(sections, facts))
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    options.json.write_text(json.dumps(report.as_json(sections, facts, settings), indent=1) + "\n")
    return 0
