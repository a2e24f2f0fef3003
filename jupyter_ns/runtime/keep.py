"""``--keep``: bring what was written below the working directory back to the host.

The upper layer was written by a container and is hostile: nothing in it is followed. Every
directory on the host's side is opened without following symbolic links.
"""

from __future__ import annotations

import os
import shutil
import stat

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
MOST_PROBLEMS = 100
"""Problems that are told one by one: their number and names are the container's choice."""
_XATTRS = ("trusted.overlay.opaque", "user.overlay.opaque")


def keep(staging_fd: int, layer: str, base: str, workdir: str, made: frozenset[str] = frozenset()) -> list[str]:
    """Apply a layer's changes below `workdir` to the host.

    Parameters
    ----------
    staging_fd : int
        The container's tmpfs.
    layer : str
        Name of the upper directory that covers `workdir`.
    base : str
        The path that the layer stands for.
    workdir : str
        Absolute path of the working directory.
    made : frozenset of str
        Paths in the layer that building the container made: no changes.

    Returns
    -------
    list of str
        What could not be kept, each with the reason; the last of many says how many more there are.
    """
    problems: list[str] = []
    relative = os.path.relpath(workdir, base)
    try:
        upper = os.open(os.path.join(layer, relative), _DIRECTORY, dir_fd=staging_fd)
    except FileNotFoundError:
        return []  # nothing was written there
    except OSError as e:
        return [f"{workdir}: {e.strerror}"]
    try:
        lower = os.open(workdir, _DIRECTORY)
    except OSError as e:
        os.close(upper)
        return [f"{workdir}: {e.strerror}"]
    _apply(upper, lower, workdir.rstrip("/"), made, problems)
    more = len(problems) - MOST_PROBLEMS
    problems[MOST_PROBLEMS:] = [f"and {more} more"] if more > 0 else []
    return [os.fsencode(text).decode(errors="backslashreplace") for text in problems]


def _apply(upper: int, lower: int, path: str, made: frozenset[str], problems: list[str]) -> None:
    """Apply one directory; takes over both descriptors."""
    try:
        for name in os.listdir(upper):
            try:
                _apply_entry(upper, lower, name, f"{path}/{name}", made, problems)
            except OSError as e:
                problems.append(f"{path}/{name}: {e.strerror}")
    finally:
        os.close(upper)
        os.close(lower)


def _apply_entry(upper: int, lower: int, name: str, path: str, made: frozenset[str], problems: list[str]) -> None:
    info = os.stat(name, dir_fd=upper, follow_symlinks=False)
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFCHR and info.st_rdev == 0:
        _remove(lower, name)
    elif kind == stat.S_IFDIR:
        _apply_directory(upper, lower, name, path, info, made, problems)
    elif path in made:
        return  # a file that stood for the host's
    elif kind == stat.S_IFLNK:
        _remove(lower, name)
        os.symlink(os.readlink(name, dir_fd=upper), name, dir_fd=lower)
    elif kind == stat.S_IFREG:
        _copy_file(upper, lower, name, info)
    else:
        problems.append(f"{path}: a device, socket or pipe is not brought out")


def _apply_directory(
    upper: int, lower: int, name: str, path: str, info: os.stat_result, made: frozenset[str], problems: list[str]
) -> None:
    inside = os.open(name, _DIRECTORY, dir_fd=upper)
    if any(_xattr(inside, x) == b"y" for x in _XATTRS) or not _is_directory(lower, name):
        _remove(lower, name)
        os.mkdir(name, dir_fd=lower)
    outside = os.open(name, _DIRECTORY, dir_fd=lower)
    if path not in made:
        os.fchmod(outside, stat.S_IMODE(info.st_mode))
    _apply(inside, outside, path, made, problems)


def _copy_file(upper: int, lower: int, name: str, info: os.stat_result) -> None:
    """Copy beside the target, then rename over it: a reader sees the old file or the new one."""
    if _is_directory(lower, name):
        _remove(lower, name)
    temporary = f".{name[:200]}.jupyter_ns-{os.getpid()}"
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=upper)
    with open(source, "rb") as reader:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(temporary, flags, 0o600, dir_fd=lower)
        try:
            with open(target, "wb") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
                os.fchmod(writer.fileno(), stat.S_IMODE(info.st_mode) & 0o777)  # no set-user-ID comes out
            os.replace(temporary, name, src_dir_fd=lower, dst_dir_fd=lower)
        except BaseException:
            os.unlink(temporary, dir_fd=lower)
            raise


def _remove(directory: int, name: str) -> None:
    try:
        if _is_directory(directory, name):
            shutil.rmtree(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass  # nothing there to replace


def _is_directory(directory: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _xattr(fd: int, name: str) -> bytes:
    try:
        return os.getxattr(fd, name)
    except OSError:  # ENODATA, ENOTSUP: not set
        return b""
