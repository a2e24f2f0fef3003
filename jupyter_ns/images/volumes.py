"""Volumes: directories of the store that outlive containers."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..errors import ImageError, UsageError
from ..spec import ContainerSpec, Mount
from .files import write_whole
from .make import now
from .merged import Found, Stack
from .store import Store

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One volume.

    Attributes
    ----------
    name : str
        As given, or 64 hexadecimal digits.
    path : str
        Its directory on the host.
    created : str
        RFC 3339.
    labels : dict of str to str
        As given.
    anonymous : bool
        Whether its name was made up.
    """

    name: str
    path: str
    created: str
    labels: dict[str, str]
    anonymous: bool = False


def create(store: Store, name: str = "", labels: dict[str, str] | None = None) -> Volume:
    """Make a volume, or return the one of that name.

    Raises
    ------
    UsageError
        If the name is not one.
    """
    if name and not NAME.fullmatch(name):
        raise UsageError(
            f'create {name}: "{name}" includes invalid characters for a local volume name, '
            "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )
    anonymous = not name
    name = name or secrets.token_hex(32)
    path = store.path("volumes", name)
    if not os.path.exists(path):
        with store.scratch() as scratch:
            made = os.path.join(scratch, "volume")
            os.makedirs(os.path.join(made, "_data"), mode=0o755)
            info = {"created": now(), "labels": labels or {}, "anonymous": anonymous}
            write_whole(os.path.join(made, "info"), json.dumps(info).encode())
            with contextlib.suppress(OSError):  # made by another kernel meanwhile
                os.rename(made, path)
    return get(store, name)


def get(store: Store, name: str) -> Volume:
    """Return a volume.

    Raises
    ------
    ImageError
        If there is none of that name.
    """
    try:
        if not NAME.fullmatch(name):
            raise FileNotFoundError
        with open(store.path("volumes", name, "info")) as f:
            info = json.load(f)
    except FileNotFoundError:
        raise ImageError(f"get {name}: no such volume") from None
    return Volume(name=name, path=store.path("volumes", name, "_data"), **info)


def volumes(store: Store) -> list[Volume]:
    """List all volumes, by name."""
    found = []
    for name in sorted(os.listdir(store.path("volumes"))):
        with contextlib.suppress(ImageError):  # removed meanwhile
            found.append(get(store, name))
    return found


def in_use(store: Store, name: str) -> bool:
    """Whether a container has the volume."""
    try:
        with open(store.path("volumes", name, "info")) as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def remove(store: Store, name: str) -> None:
    """Remove a volume and what is in it.

    Raises
    ------
    ImageError
        If there is none, or a container has it.
    """
    get(store, name)
    if in_use(store, name):
        raise ImageError(f"remove {name}: volume is in use")
    with store.scratch() as scratch:  # renamed away first: half a volume has no name
        os.rename(store.path("volumes", name), os.path.join(scratch, "volume"))


def volume_bytes(volume: Volume) -> int:
    """Return the size of the files in a volume."""
    total, todo = 0, [volume.path]
    while todo:  # a container may have made directories deeper than Python's stack
        with contextlib.suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total


class Bound(NamedTuple):
    """A spec without mounts of type ``volume``, the files to lock meanwhile, and volumes that go with the container."""

    spec: ContainerSpec
    held: tuple[str, ...]
    anonymous: tuple[str, ...]


def bind_volumes(store: Store, spec: ContainerSpec, image: Stack | None) -> Bound:
    """Turn a spec's volumes into bind mounts, making and filling those that are new.

    Parameters
    ----------
    store : Store
        Where volumes are.
    spec : ContainerSpec
        What was asked for.
    image : Stack or None
        The image's files: a new volume starts as a copy of what the image has at its place.
    """
    mounts, held, anonymous = [], [], []
    for mount in spec.mounts:
        if mount.type == "volume":
            volume = create(store, mount.source)
            held.append(os.path.join(os.path.dirname(volume.path), "info"))
            if not mount.source:
                anonymous.append(volume.name)
            if image is not None and not mount.nocopy and not os.listdir(volume.path):
                fill(volume, image, mount)
            mount = replace(mount, type="bind", source=volume.path)
        mounts.append(mount)
    return Bound(replace(spec, mounts=tuple(mounts)), tuple(held), tuple(anonymous))


def fill(volume: Volume, image: Stack, mount: Mount) -> None:
    """Copy what an image has at a mount's destination into an empty volume."""
    start = image.find(mount.destination)
    if start is None or not stat.S_ISDIR(start.info.st_mode):
        return
    _copy_attributes(start, volume.path)
    links: dict[tuple[int, int], str] = {}
    base = mount.destination.strip("/")
    directories = []
    for path, found in image.walk(base):
        target = os.path.join(volume.path, path[len(base) + 1 :])
        if found.info.st_nlink > 1 and not stat.S_ISDIR(found.info.st_mode):
            known = links.setdefault((found.info.st_dev, found.info.st_ino), target)
            if known != target:
                os.link(known, target, follow_symlinks=False)
                continue
        copy_entry(found, target)
        if stat.S_ISDIR(found.info.st_mode):
            directories.append((found, target))
    for found, target in reversed(directories):
        os.utime(target, ns=(found.info.st_mtime_ns, found.info.st_mtime_ns))


def copy_entry(found: Found, target: str) -> None:
    """Copy one file, directory (without what it holds), link or node."""
    mode = found.info.st_mode
    if stat.S_ISDIR(mode):
        os.mkdir(target, 0o700)
    elif stat.S_ISLNK(mode):
        os.symlink(os.readlink(found.path), target)
    elif stat.S_ISREG(mode):
        shutil.copyfile(found.path, target, follow_symlinks=False)
    else:
        os.mknod(target, mode, found.info.st_rdev)
    _copy_attributes(found, target)


def _copy_attributes(found: Found, target: str) -> None:
    info = found.info
    os.chown(target, info.st_uid, info.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        os.chmod(target, stat.S_IMODE(info.st_mode))
    for name in os.listxattr(found.path, follow_symlinks=False):
        if ".overlay." not in name:
            try:
                os.setxattr(target, name, os.getxattr(found.path, name, follow_symlinks=False), follow_symlinks=False)
            except OSError as e:
                if e.errno not in (errno.ENOTSUP, errno.EPERM):  # not on this file system; kept to root
                    raise
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)


def describe(volume: Volume) -> dict[str, Any]:
    """Return what ``docker volume inspect`` shows."""
    return {
        "CreatedAt": volume.created,
        "Driver": "local",
        "Labels": volume.labels or None,
        "Mountpoint": volume.path,
        "Name": volume.name,
        "Options": None,
        "Scope": "local",
    }
