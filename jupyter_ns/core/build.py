"""Builds ``jupyter_ns.core._core`` (cffi, API mode, stable ABI). Run by setup.py."""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
HEADER = (HERE / "core.h").read_text()

ffibuilder = FFI()
ffibuilder.cdef(re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S))
ffibuilder.set_source(
    "jupyter_ns.core._core",
    '#include <stdint.h>\n#include "core.h"\n',
    sources=["jupyter_ns/core/core.c"],
    include_dirs=[str(HERE)],
    depends=["jupyter_ns/core/core.h"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fstack-protector-strong"],
    py_limited_api=True,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
