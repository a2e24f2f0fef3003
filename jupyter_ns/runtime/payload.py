"""In the container: receive one cell, run it, send back what it shows and what is asked for."""

from __future__ import annotations

import builtins
import getpass
import io
import signal
import socket
import sys
from typing import Any

from .. import transfer, values
from ..errors import TransferError
from . import channel
from .shell import CHANNEL, CellShell, flush_streams, forget, take_over

MAX_VALUE_BYTES = 8 * 1024 * 1024
"""A last expression larger than this does not come back by itself; ``--out`` brings it."""


def connect(channel_fd: int) -> None:
    """Have what the cell shows, and asks for, go over its channel."""
    CHANNEL.sock = socket.socket(fileno=channel_fd)
    builtins.input = _input
    getpass.getpass = _getpass


def run(shell: CellShell, channel_fd: int) -> int:
    """Run the one cell that comes over the channel; return the exit code. `open_streams` and `connect` were called."""
    try:
        kind, body, buffers = CHANNEL.receive()
        assert kind == "cell"
        return _run_cell(shell, body, buffers)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return channel.LOST


def rehearse(shell: CellShell) -> None:
    """Run a cell of our own and forget it: after a fork, the pages that the real one writes have been copied then."""
    here, there = socket.socketpair()
    with there:
        connect(here.detach())
        cell = {"source": "# %%container …\n1 + 1", "sys_path": list(sys.path), "execution_count": 1}
        for piece in channel.encode("cell", cell | {"out": [], "trust": False, "detached": False}):
            there.sendall(piece)
        run(shell, -1)
    CHANNEL.close()
    forget(shell)


def run_forked(shell: Any, cell: dict[str, Any], channel_fd: int) -> int:
    """Run a cell in a fork of the notebook's kernel, with the kernel's own shell; return the exit code."""
    open_streams()
    connect(channel_fd)
    take_over(shell)
    return _run_cell(shell, cell, [], store_history=False)


def open_streams() -> None:
    """Make Python's standard streams anew, on the container's descriptors."""
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115 (for the life of the process)
    for name, fd in (("stdout", 1), ("stderr", 2)):
        raw = io.FileIO(fd, "w", closefd=False)
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run_cell(shell: CellShell, cell: dict[str, Any], buffers: list[bytearray], store_history: bool = True) -> int:
    sys.path[:] = cell["sys_path"]
    CHANNEL.plain = cell["detached"]
    if CHANNEL.plain:
        shell.colors = "nocolor"
    shell.execution_count = cell["execution_count"]
    if buffers:
        try:
            sent = transfer.unpack(buffers[0], [memoryview(b) for b in buffers[1:]], shell.user_ns)
            shell.user_ns.update(sent)
        except Exception:
            shell.showtraceback()
            return 1
    signal.signal(signal.SIGINT, signal.default_int_handler)
    result = shell.run_cell(cell["source"], store_history=store_history)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    flush_streams()
    error = result.error_before_exec or result.error_in_exec
    code = _exit_code(error)
    _send_outputs(shell, cell, code)
    return channel.LOST if CHANNEL.lost and not isinstance(error, SystemExit) else code


def _exit_code(error: BaseException | None) -> int:
    if isinstance(error, SystemExit):
        code = error.code
        return code & 0xFF if isinstance(code, int) else 0 if code is None else 1
    return 1 if error is not None else 0


def _send_outputs(shell: CellShell, cell: dict[str, Any], code: int) -> None:
    trust, names = cell["trust"], cell["out"]
    if code == 0 and names:
        missing = [n for n in names if n not in shell.user_ns]
        if missing:
            CHANNEL.send("out_error", {"message": f"--out {', '.join(missing)}: the cell made no such variable"})
        else:
            _send_values("out", {n: shell.user_ns[n] for n in names}, trust, None)
    last = shell.displayhook.last
    if last is not None:
        _send_values("value", last, trust, MAX_VALUE_BYTES)


def _send_values(kind: str, value: Any, trust: bool, max_bytes: int | None) -> None:
    try:
        if trust:
            data, buffers = transfer.pack_trusted(value)
        elif kind == "out":
            data, buffers = values.encode_named(value, max_bytes)
        else:
            data, buffers = values.encode(value, max_bytes)
    except TransferError as e:
        CHANNEL.send(f"{kind}_error", {"message": str(e)})
    else:
        CHANNEL.send(kind, {"trusted": trust}, [data, *buffers])


def _input(prompt: object = "") -> str:
    return _ask(str(prompt), password=False)


def _getpass(prompt: str = "Password: ", stream: object = None) -> str:
    return _ask(prompt, password=True)


def _ask(prompt: str, *, password: bool) -> str:
    sys.stdout.flush()
    if CHANNEL.plain:
        raise EOFError("nobody can be asked: the cell runs in the background")
    CHANNEL.send("input", {"prompt": prompt, "password": password})
    kind, body, _ = CHANNEL.receive()
    if kind == "no_input":
        raise EOFError(str(body))
    return str(body)
