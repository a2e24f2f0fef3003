"""Start one of this package's processes: ``python main.py ROLE NUMBER``.

Run as a file, so that it needs no ``PYTHONPATH``: the starting process hands over its own
``sys.path`` as JSON, in the environment variable ``JUPYTER_NS_PATH``.
"""

import ctypes
import importlib
import json
import os
import sys

MODULES = {
    "engine": "jupyter_ns.runtime.engine",
    "zygote": "jupyter_ns.runtime.zygote",
    "keeper": "jupyter_ns.guest.keeper",
    "guest": "jupyter_ns.guest.init",
}
"""By role; each has a ``main(number)``: the descriptor of its stream, or for the guest's PID 1 when it was started."""


def _run(role: str, number: str) -> None:
    sys.path[:] = json.loads(os.environ.pop("JUPYTER_NS_PATH"))
    ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if ours not in sys.path:  # an editable install is found by a hook, which a path does not tell of
        sys.path.append(ours)
    libc = ctypes.CDLL(None)
    libc.prctl(15, f"jupyter-ns-{role[:4]}".encode(), 0, 0, 0)  # PR_SET_NAME
    importlib.import_module(MODULES[role]).main(int(number))


if __name__ == "__main__":
    _run(*sys.argv[1:])
