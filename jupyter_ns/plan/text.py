"""How paths and options are written for the kernel."""

from __future__ import annotations

import os.path


def parents(path: str) -> list[str]:
    """List the proper ancestors of `path`, outermost first, without ``/``.

    Examples
    --------
    >>> parents("/a/b/c")
    ['/a', '/a/b']
    """
    parts = os.path.normpath(path).strip("/").split("/")
    return ["/" + "/".join(parts[:i]) for i in range(1, len(parts))]


def shifted(options: str, ids: tuple[int, int, int]) -> str:
    """Move the ``uid=`` and ``gid=`` of a tmpfs to where they are outside.

    Examples
    --------
    >>> shifted("size=1m,uid=5", (1000, 2000, 10))
    'size=1m,uid=1005'
    """
    first = {"uid": ids[0], "gid": ids[1]}
    pairs = [option.partition("=") for option in options.split(",")]
    return ",".join(
        f"{name}={first[name] + int(value)}" if name in first and value.isdigit() else f"{name}{equals}{value}"
        for name, equals, value in pairs
    )


def escape_lower(path: str) -> str:
    """Escape a path for overlay's ``lowerdir=``, where ``:`` and ``,`` separate.

    Examples
    --------
    >>> print(escape_lower("/a:b,c"))
    /a\\:b\\,c
    """
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
