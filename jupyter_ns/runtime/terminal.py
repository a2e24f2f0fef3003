"""The terminal of a container with ``--tty``: a pseudo-terminal of its own /dev/pts, so that it is found there.

Notes
-----
pty(7), pts(4), termios(3), tty_ioctl(4).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios

from ..spec import ContainerSpec
from ..trees import open_in_root

END_OF_TRANSMISSION = 64 * b"\x04"
"""What a terminal takes for the end of its input: each for one read, and a shell reads on after its programs have."""
ROWS, COLUMNS = 40, 120
LATER = -2
"""In place of our end of a terminal that is opened while the container is built."""
PTMX = os.makedev(5, 2)
_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441


def terminal_of(spec: ContainerSpec) -> tuple[int, int] | None:
    """Return our end and the child's of the terminal of a container to be built: the host's, or one to be opened later.

    None without ``--tty``.
    """
    if not spec.tty:
        return None
    if "mount" not in spec.without:
        return LATER, os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    master, slave = os.openpty()
    _set_up(master)
    return master, slave


def terminal_in(root: int, uid: int) -> tuple[int, int]:
    """Open a terminal in the /dev/pts below a root directory; return both ends.

    Parameters
    ----------
    root : int
        Descriptor of the root.
    uid : int
        Whose it shall be, as we count.

    Raises
    ------
    OSError
        As openat2(2); ENOTTY: what is there is none.
    """
    master = open_in_root(root, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK, links=False)
    try:
        if os.fstat(master).st_rdev != PTMX:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY), "/dev/pts/ptmx")
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        _set_up(master)
        # Not by its path: the container may have something else there.
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if uid:
            os.fchown(slave, uid, -1)
    except BaseException:
        os.close(master)
        raise
    return master, slave


def _set_up(master: int) -> None:
    """Have it not echo (the cell's text is on the screen already), nor turn line feeds into two characters."""
    settings = termios.tcgetattr(master)
    settings[1] &= ~termios.OPOST
    settings[3] &= ~(termios.ECHO | termios.ECHONL)
    termios.tcsetattr(master, termios.TCSANOW, settings)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
