"""The guest's end of the byte stream: a serial line in raw mode that the engine uses as it does a socket.

A second line says how much of the first has been read, and the keeper never has more than `WINDOW_BYTES` on the
way: where Linux 6.1's line discipline is full and holds the line up, it may never be told to go on.
"""

from __future__ import annotations

import errno
import os
import struct
import tty

DEVICE, RECEIPTS = "/dev/ttyS0", "/dev/ttyS1"
WINDOW_BYTES = 3072
"""Less than what a line discipline holds (N_TTY_BUF_SIZE, 4096) before it throttles."""
RECEIPT = struct.Struct(">H")
"""What the second line carries: a number of bytes that have been read."""
READY = b"jupyter_ns guest\n"
"""What the guest says first: from here on the line takes bytes as they are."""


class Line:
    """As much of `socket.socket` as the engine needs, over a terminal device."""

    def __init__(self) -> None:
        self._fd, self._receipts = (os.open(p, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC) for p in (DEVICE, RECEIPTS))
        for fd in (self._fd, self._receipts):
            tty.setraw(fd)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def setblocking(self, flag: bool) -> None:
        """Choose whether calls wait."""
        os.set_blocking(self._fd, flag)

    def recv(self, size: int) -> bytes:
        """Read; empty when the line has hung up.

        Raises
        ------
        BlockingIOError
            There is nothing yet.
        """
        try:
            data = os.read(self._fd, min(size, WINDOW_BYTES))
            os.write(self._receipts, RECEIPT.pack(len(data)))
            return data
        except OSError as e:
            if e.errno == errno.EIO:  # hung up: tty_ioctl(4)
                return b""
            raise

    def send(self, data: bytes | memoryview) -> int:
        """Write what the line takes.

        Raises
        ------
        BlockingIOError
            It takes nothing now.
        BrokenPipeError
            It has hung up.
        """
        try:
            return os.write(self._fd, data)
        except OSError as e:
            if e.errno == errno.EIO:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from e
            raise
