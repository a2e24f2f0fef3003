"""A section that is a program of its own: figures in on its command line, JSON out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from .stats import BenchmarkError


def answer(measure: Callable[[int, int, float], Any]) -> int:
    """Run `measure` with the command line's containers, rounds and gap (s), print its result; return the exit code."""
    try:
        result = measure(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result), flush=True)
    return 0
