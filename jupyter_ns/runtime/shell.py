"""The IPython shell that a cell in a container finds: as in a notebook, its output on the channel."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import socket
import struct
import sys
import termios
import time
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from pygments.lexer import words
from traitlets import Type
from traitlets.config import Config

from . import channel
from .protocol import CHUNK

FAILS = "1 / 0"
"""A cell that loads what renders tracebacks, and has `inspect` note the file of each module that there is."""
TAKEN_S = 0.0001
"""How often one that has shown something looks whether the engine has taken it; nothing tells."""


class Channel:
    """The cell's end of its channel to the notebook; set in the child."""

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.plain = False
        """Whether nobody takes what is shown: then it goes to the standard streams as text."""
        self.lost = False
        """Whether the cell has closed our end, so that something could not be sent."""
        self._decoder = channel.ChannelDecoder(max_total=1 << 40)  # the kernel is trusted
        self._messages: list[channel.Message] = []

    def send(self, kind: str, body: Any = None, buffers: Any = ()) -> None:
        """Send a message; blocks while the engine does not take what was sent before."""
        assert self.sock is not None
        pieces = channel.encode(kind, body, buffers)
        if sum(map(len, pieces)) <= CHUNK:  # at once, so that the engine wakes up once
            pieces = [b"".join(pieces)]
        try:
            for piece in pieces:
                self.sock.sendall(piece)
        except OSError as e:
            if e.errno not in (errno.EBADF, errno.ENOTSOCK):
                raise
            self.lost = True

    def show(self, kind: str, body: Any) -> None:
        """Send a message, and wait until the engine has taken it: what the cell writes next is to come after it."""
        self.send(kind, body)
        assert self.sock is not None
        while not self.lost and struct.unpack("i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4)))[0]:
            time.sleep(TAKEN_S)

    def receive(self) -> channel.Message:
        """Wait for the next message.

        Raises
        ------
        EOFError
            If the kernel is gone.
        """
        assert self.sock is not None
        while not self._messages:
            data = self.sock.recv(CHUNK)
            if not data:
                raise EOFError("the notebook's kernel is gone")
            self._messages = self._decoder.feed(data)
        return self._messages.pop(0)

    def close(self) -> None:
        """Close our end."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None


CHANNEL = Channel()


def flush_streams() -> None:
    """Write out what Python still holds of the standard streams."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the cell has closed it
            stream.flush()


class CellDisplayPublisher(DisplayPublisher):  # type: ignore[misc]
    """Sends ``display()`` to the notebook."""

    def publish(self, data, metadata=None, *, transient=None, update=False, **_kwargs) -> None:  # type: ignore[no-untyped-def]
        """Send a MIME bundle."""
        if CHANNEL.plain:
            super().publish(data, metadata, transient=transient, update=update)
            return
        flush_streams()
        body = {"data": data, "metadata": metadata or {}, "transient": transient or {}, "update": bool(update)}
        CHANNEL.show("display", body)

    def clear_output(self, wait: bool = False) -> None:
        """Clear the cell's output in the notebook."""
        if CHANNEL.plain:
            return
        flush_streams()
        CHANNEL.show("clear", {"wait": bool(wait)})


class CellDisplayHook(DisplayHook):  # type: ignore[misc]
    """Sends the last expression's representation to the notebook, and keeps its value."""

    last: Any = None

    def quiet(self) -> bool:
        """Whether a semicolon ends the cell: IPython takes it apart into tokens, for which most give no reason."""
        return ";" in "".join(self.shell.history_manager.input_hist_parsed[-1:]) and bool(super().quiet())

    def write_output_prompt(self) -> None:
        """Nothing: the notebook has its own prompt."""

    def write_format_data(self, format_dict, md_dict=None) -> None:  # type: ignore[no-untyped-def]
        """Send the representation."""
        if CHANNEL.plain:
            print(format_dict.get("text/plain", ""))
            return
        flush_streams()
        CHANNEL.send("result", {"data": format_dict, "metadata": md_dict or {}})

    def update_user_ns(self, result) -> None:  # type: ignore[no-untyped-def]
        """Keep the value."""
        self.last = result
        super().update_user_ns(result)


def take_over(shell: InteractiveShell) -> None:
    """Make a forked kernel's own shell show what it shows over the channel."""
    shell.display_pub = CellDisplayPublisher(parent=shell, shell=shell)
    shell.displayhook = CellDisplayHook(parent=shell, shell=shell, cache_size=0)
    shell.display_trap.hook = sys.displayhook = shell.displayhook  # the cell that was forked has set its trap already
    shell._showtraceback = CellShell._showtraceback.__get__(shell)
    shell.system = CellShell.system.__get__(shell)


class CellShell(InteractiveShell):  # type: ignore[misc]
    """An `InteractiveShell` whose output goes to the notebook."""

    displayhook_class = Type(CellDisplayHook)
    display_pub_class = Type(CellDisplayPublisher)

    def init_io(self) -> None:
        """Leave the streams alone."""

    def system(self, cmd: str) -> None:
        """Run ``!cmd`` with the container's own streams (no terminal, so that output streams)."""
        flush_streams()
        self.system_raw(cmd)

    def _showtraceback(self, etype, evalue, stb) -> None:  # type: ignore[no-untyped-def]
        flush_streams()
        if CHANNEL.plain:
            print(*stb, sep="\n", file=sys.stderr)
            return
        CHANNEL.send("error", {"ename": str(etype.__name__), "evalue": str(evalue), "traceback": list(stb)})

    def _format_exception_for_storage(self, *_args: Any, **_kwargs: Any) -> dict[str, Any]:
        """Nothing: from version 9.1 on IPython renders each traceback twice, once for a history that ends here."""
        return {}

    def enable_gui(self, gui: Any = None) -> None:
        """Nothing: there is no event loop of a GUI in a container."""


def make_shell() -> CellShell:
    """Make the shell, and run through it once so that what it loads lazily is there before the fork."""
    config = Config()
    config.HistoryManager.enabled = False  # its database has a thread
    config.InteractiveShell.colors = "neutral"
    config.InteractiveShell.cache_size = 0
    shell: CellShell = CellShell.instance(config=config)
    # For each line of a traceback stack_data makes a lexer class of its own, and Pygments the same expressions again.
    words.get = functools.cache(words.get)
    run_through(shell, "1 + 1", "!true", FAILS)
    return shell


def run_through(shell: CellShell, *sources: str) -> None:
    """Run cells of our own, throw away what they show, and forget them."""
    here, there = socket.socketpair()
    with here, there:
        CHANNEL.sock = here
        for source in sources:
            shell.run_cell(source, store_history=False)
    CHANNEL.sock = None
    forget(shell)


def forget(shell: CellShell) -> None:
    """Take back what a cell of our own has left."""
    for names in (shell.user_ns, shell.user_ns_hidden):
        for name in ("_exit_code", "_", "__", "___", "_i", "_ii", "_iii", "_i1"):
            names.pop(name, None)
    history = shell.history_manager
    del history.input_hist_parsed[1:], history.input_hist_raw[1:], history.db_input_cache[:]
    history._i00 = history._i = history._ii = history._iii = ""
    history.output_hist_reprs.clear()
    if hasattr(history, "outputs"):  # IPython 9
        history.outputs.clear()
    shell.last_execution_succeeded = True
    shell.displayhook.last = None
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        vars(sys).pop(name, None)
