"""The terminal of a container with ``--tty``: a pseudo-terminal of the host's.

Notes
-----
pty(7), termios(3), tty_ioctl(4).
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios

END_OF_TRANSMISSION = b"\x04"
"""What a terminal takes for the end of its input."""
ROWS, COLUMNS = 40, 120


def open_terminal() -> tuple[int, int, int, int, int, int]:
    """Open a terminal.

    It does not echo (the cell's text is on the screen already), and does not turn line feeds into two
    characters.

    Returns
    -------
    to_stdin, from_stdout, from_stderr : int
        The engine's ends; the last is -1, for a terminal has one output.
    stdin, stdout, stderr : int
        The child's.
    """
    master, slave = os.openpty()
    settings = termios.tcgetattr(slave)
    settings[1] &= ~termios.OPOST
    settings[3] &= ~(termios.ECHO | termios.ECHONL)
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
    return os.dup(master), master, -1, slave, os.dup(slave), os.dup(slave)
