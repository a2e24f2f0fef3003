"""Write a container as an OCI bundle: a directory that crun and runc run."""

from __future__ import annotations

import json
import os
import stat

from ..errors import ImageError, UnsupportedError, UsageError
from ..host import OWN_DIRECTORIES, HostFacts, is_below
from ..images.merged import Found, Stack
from ..images.volumes import copy_entry
from ..plan import PlanInputs
from ..plan.inputs import hostname
from ..spec import ContainerSpec
from .oci import Piece, configuration


def write_bundle(
    directory: str, spec: ContainerSpec, facts: HostFacts, inputs: PlanInputs, *, name: str = ""
) -> tuple[str, ...]:
    """Write a bundle.

    Parameters
    ----------
    directory : str
        Made, or empty.
    spec : ContainerSpec
        Resolved: `jupyter_ns.images.launch.prepare`.
    facts : HostFacts
        What this host can do.
    inputs : PlanInputs
        As for the plan.
    name : str
        For the path of its cgroup.

    Returns
    -------
    tuple of str
        What a bundle cannot say.

    Raises
    ------
    UsageError
        If the directory is not empty or cannot be made.
    UnsupportedError
        If the container runs a cell, which needs this notebook.
    """
    if spec.python:
        raise UnsupportedError("a cell of Python runs in a fork of a process of this notebook; a bundle has a program")
    directory = os.path.abspath(directory)
    try:
        os.makedirs(directory, exist_ok=True)
        if os.listdir(directory):
            raise UsageError(f"--bundle {directory}: expected an empty directory, or one to be made")
        root = os.path.join(directory, "rootfs")
        os.mkdir(root, 0o755)
        if inputs.lower:
            pieces: tuple[Piece, ...] = ()
            copy_stack(Stack(inputs.lower), root)
        else:
            pieces = _host_pieces(directory, root, facts)
    except OSError as e:
        raise UsageError(f"--bundle {directory}: {e.strerror}") from None
    written = configuration(spec, facts, inputs, pieces=pieces, name=name)
    for path, text in _own_files(spec, inputs).items():
        if inputs.lower:
            target = os.path.join(root, path)
            if not os.path.islink(os.path.dirname(target)) and os.path.isdir(os.path.dirname(target)):
                if os.path.lexists(target):
                    os.unlink(target)
                with open(target, "x") as f:
                    f.write(text)
    with open(os.path.join(directory, "config.json"), "x") as f:
        json.dump(written.document, f, indent=2)
    bound = [p.path for p in pieces if not p.upper and is_below(directory, p.path)]
    notes = [f"{', '.join(bound)}: read-only in the bundle, for the bundle lies there"] if bound else []
    return (*written.notes, *notes)


def _own_files(spec: ContainerSpec, inputs: PlanInputs) -> dict[str, str]:
    host = hostname(spec, inputs)
    hosts = f"127.0.0.1\tlocalhost {host}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    return {"etc/hostname": f"{host}\n", "etc/hosts": hosts}


def copy_stack(stack: Stack, root: str) -> None:
    """Copy all files of merged layers into an empty directory.

    Raises
    ------
    ImageError
        If one cannot be copied.
    """
    links: dict[tuple[int, int], str] = {}
    directories: list[tuple[Found, str]] = []
    for path, found in stack.walk():
        target = os.path.join(root, path)
        try:
            if found.info.st_nlink > 1 and not stat.S_ISDIR(found.info.st_mode):
                first = links.setdefault((found.info.st_dev, found.info.st_ino), target)
                if first != target:
                    os.link(first, target, follow_symlinks=False)
                    continue
            copy_entry(found, target)
        except OSError as e:
            raise ImageError(f"/{path} cannot be copied: {e.strerror}") from None
        if stat.S_ISDIR(found.info.st_mode):
            directories.append((found, target))
    for found, target in reversed(directories):
        os.utime(target, ns=(found.info.st_mtime_ns, found.info.st_mtime_ns))


def _host_pieces(directory: str, root: str, facts: HostFacts) -> tuple[Piece, ...]:
    """Stand in for the host's root: what is a directory there becomes an overlay of the bundle's."""
    pieces = []
    for entry in sorted(os.scandir("/"), key=lambda e: e.name):
        path = f"/{entry.name}"
        if entry.is_symlink():
            os.symlink(os.readlink(path), root + path)
        elif entry.is_dir():
            os.mkdir(root + path, 0o755)
            if path not in OWN_DIRECTORIES:
                pieces.append(_layer(directory, path))
        elif entry.is_file():
            with open(root + path, "x"):
                pieces.append(Piece(path))
    for submount in facts.submounts:
        if not any(is_below(submount.path, own) for own in OWN_DIRECTORIES):
            piece = _layer(directory, submount.path)
            pieces = [p for p in pieces if p.path != submount.path]
            pieces.append(piece if submount.how == "overlay" else Piece(submount.path))
    return tuple(sorted(pieces))


def _layer(directory: str, path: str) -> Piece:
    if is_below(directory, path):
        return Piece(path)  # overlayfs refuses an upper directory inside of its lower one
    name = path.strip("/").replace("/", "-")
    upper, work = (os.path.join(directory, "layers", kind, name) for kind in ("upper", "work"))
    os.makedirs(upper)
    os.makedirs(work)
    return Piece(path, upper, work)
