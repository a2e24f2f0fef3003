"""Start the engine or the zygote: ``python main.py engine|zygote FD``.

Run as a file, so that it needs no ``PYTHONPATH``: the starting process hands over its own
``sys.path`` as JSON, in the environment variable ``JUPYTER_NS_PATH``.
"""

import ctypes
import json
import os
import sys


def _run(role: str, fd: str) -> None:
    sys.path[:] = json.loads(os.environ.pop("JUPYTER_NS_PATH"))
    ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if ours not in sys.path:  # an editable install is found by a hook, which a path does not tell of
        sys.path.append(ours)
    libc = ctypes.CDLL(None)
    libc.prctl(15, f"jupyter-ns-{role[:4]}".encode(), 0, 0, 0)  # PR_SET_NAME
    if role == "engine":
        from jupyter_ns.runtime.engine import main
    else:
        from jupyter_ns.runtime.zygote import main
    main(int(fd))


if __name__ == "__main__":
    _run(*sys.argv[1:])
