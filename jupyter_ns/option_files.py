"""Options that shape the container's file system: volumes, mounts, tmpfs, read-only root."""

from __future__ import annotations

import csv
import os.path
import re

from . import units
from .option_types import Context, Option, boolean, choice, plain
from .spec import Mount

_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_TMPFS_DEFAULTS = {"exec": "noexec", "suid": "nosuid", "dev": "nodev"}
_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", re.ASCII)
_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9]+)?", re.ASCII)
_TMPFS_TIMES = ("relatime", "strictatime")
_TMPFS_DATA = {
    "size": re.compile(r"[0-9]+[kmgtpe%]?", re.IGNORECASE | re.ASCII),
    "mode": re.compile(r"[0-7]{1,4}", re.ASCII),
    "uid": re.compile(r"[0-9]+", re.ASCII),
    "gid": re.compile(r"[0-9]+", re.ASCII),
    "nr_inodes": re.compile(r"[0-9]+[kmgtpe]?", re.IGNORECASE | re.ASCII),
    "nr_blocks": re.compile(r"[0-9]+[kmgtpe]?", re.IGNORECASE | re.ASCII),
    "mpol": re.compile(r"[a-z:=0-9-]+", re.ASCII),
}
_TMPFS_ACCEPTED = "ro rw exec noexec suid nosuid dev nodev relatime strictatime " + " ".join(
    f"{key}=" for key in _TMPFS_DATA
)
_MOUNT_KEYS = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_MOUNT_ACCEPTED = (
    "type=bind|tmpfs|volume",
    "source (src)",
    "target (dst, destination)",
    "readonly (ro)",
    "bind-propagation",
    "volume-nocopy",
    "tmpfs-size",
    "tmpfs-mode",
)


def host_path(text: str, context: Context) -> str:
    """Make a host path absolute: ``~`` is the home directory, a relative path starts from the notebook's.

    Raises
    ------
    ValueError
        If ``~`` is used and HOME is not set, or another user's home is asked for.
    """
    if text == "~" or text.startswith("~/"):
        home = context.environ.get("HOME", "")
        if not home:
            raise ValueError("~ needs the environment variable HOME, which is not set")
        text = home + text[1:]
    elif text.startswith("~"):
        raise ValueError("expected ~ for your own home; name another user's with its absolute path")
    return os.path.normpath(os.path.join(context.cwd, text))


def inside_path(text: str) -> str:
    """Check a path inside the container and return it normalised.

    Raises
    ------
    ValueError
        If it is not absolute.
    """
    if not text.startswith("/"):
        raise ValueError("expected an absolute path inside the container")
    # POSIX leaves two leading slashes as they are; Linux gives them no meaning.
    return "/" + os.path.normpath(text).lstrip("/")


def _destination(text: str) -> str:
    path = inside_path(text)
    if path == "/":
        raise ValueError("expected a destination other than /")
    return path


def _volume(text: str, context: Context) -> tuple[Mount, ...]:
    parts = text.split(":")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise ValueError("expected SOURCE:DESTINATION[:ro|rw,PROPAGATION]")
    source, destination = (parts[0], _destination(parts[1])) if len(parts) > 1 else ("", _destination(parts[0]))
    modes = parts[2].split(",") if len(parts) == 3 else []
    if not source.startswith(("/", ".", "~")):
        return (_volume_mount(source, destination, modes, f"-v {text}"),)
    readonly, propagation = _volume_modes(modes)
    return (
        Mount(
            type="bind",
            source=host_path(source, context),
            destination=destination,
            readonly=readonly,
            propagation=propagation,
            option=f"-v {text}",
        ),
    )


def _volume_mount(name: str, destination: str, modes: list[str], option: str) -> Mount:
    """Make the mount of a volume: named, or, without a name, one that goes with the container."""
    if name and not _VOLUME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no volume's name (letters, digits and _ . -); for a directory, write ./{name} or an "
            "absolute path"
        )
    readonly, _ = _volume_modes([m for m in modes if m != "nocopy"])
    nocopy = "nocopy" in modes
    return Mount(type="volume", source=name, destination=destination, readonly=readonly, nocopy=nocopy, option=option)


def _volume_modes(modes: list[str]) -> tuple[bool, str]:
    access = [mode for mode in modes if mode in ("ro", "rw")]
    propagations = [mode for mode in modes if mode in _PROPAGATIONS]
    for mode in modes:
        if mode in ("z", "Z"):
            raise ValueError(f"mode {mode} is not supported: files are not relabelled for SELinux")
        if mode not in access and mode not in propagations:
            raise ValueError(f"mode {mode!r}: expected ro, rw, {', '.join(_PROPAGATIONS)}")
    if len(access) > 1 or len(propagations) > 1:
        raise ValueError("expected at most one of ro and rw, and one propagation")
    return "ro" in access, propagations[0] if propagations else "rprivate"


def _tmpfs(text: str) -> tuple[Mount, ...]:
    path, _, options = text.partition(":")
    on: dict[str, bool] = {}
    times: list[str] = []
    data: dict[str, str] = {}
    for option in options.split(",") if options else ():
        key, equals, value = option.partition("=")
        plain_name = key.removeprefix("no")
        if equals and key in _TMPFS_DATA:
            if not _TMPFS_DATA[key].fullmatch(value):
                raise ValueError(f"{option!r} is no value that tmpfs(5) takes for {key}")
            data[key] = value
        elif option in ("ro", "rw"):
            on["ro"] = option == "ro"
        elif not equals and plain_name in _TMPFS_DEFAULTS:
            on[plain_name] = key == plain_name
        elif option in _TMPFS_TIMES:
            times = [option]
        else:
            raise ValueError(f"tmpfs option {option!r}: expected one of {_TMPFS_ACCEPTED}")
    flags = [flag for name, flag in _TMPFS_DEFAULTS.items() if not on.get(name, False)]
    return (_tmpfs_mount(path, data, [*flags, *times], readonly=on.get("ro", False), option=f"--tmpfs {text}"),)


def _tmpfs_mount(path: str, data: dict[str, str], flags: list[str], *, readonly: bool, option: str) -> Mount:
    return Mount(
        type="tmpfs",
        destination=_destination(path),
        readonly=readonly,
        options=",".join(f"{key}={value}" for key, value in data.items()),
        flags=(*flags, "rdonly") if readonly else tuple(flags),
        option=option,
    )


def _mount_fields(text: str) -> dict[str, str]:
    """Read ``--mount``'s comma-separated values, quoted as in RFC 4180, with their aliases resolved."""
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error:
        raise ValueError("expected comma-separated KEY=VALUE, quoted as in a CSV file") from None
    result: dict[str, str] = {}
    for item in fields:
        key, equals, value = item.partition("=")
        key = _MOUNT_KEYS.get(key.lower(), key.lower())
        if not equals and key != "readonly":
            raise ValueError(f"field {item!r}: expected KEY=VALUE")
        result[key] = value if equals else "true"
    return result


def _mount(text: str, context: Context) -> tuple[Mount, ...]:
    fields = _mount_fields(text)
    kind = fields.pop("type", "volume")
    if kind not in ("bind", "tmpfs", "volume"):
        raise ValueError(f"type {kind!r} is not supported; expected type=bind, type=tmpfs or type=volume")
    if "target" not in fields:
        raise ValueError("expected target=PATH inside the container")
    path = _destination(fields.pop("target"))
    readonly = units.parse_boolean(fields.pop("readonly", "false"))
    option = f"--mount {text}"
    source = fields.pop("source", "")
    if kind == "tmpfs":
        if source:
            raise ValueError("a tmpfs takes no source")
        data = _mount_tmpfs_data(fields)
        flags = list(_TMPFS_DEFAULTS.values())
        mount = _tmpfs_mount(path, data, flags, readonly=readonly, option=option)
    elif kind == "volume":
        nocopy = units.parse_boolean(fields.pop("volume-nocopy", "false"))
        modes = ["nocopy"] * nocopy + ["ro"] * readonly
        mount = _volume_mount(source, path, modes, option)
    else:
        if not source.startswith(("/", ".", "~")):
            raise ValueError("expected source=PATH, absolute or starting with ./ or ~")
        propagation = fields.pop("bind-propagation", "rprivate")
        if propagation not in _PROPAGATIONS:
            raise ValueError(f"bind-propagation {propagation!r}: expected one of {', '.join(_PROPAGATIONS)}")
        mount = Mount(
            type="bind",
            source=host_path(source, context),
            destination=path,
            readonly=readonly,
            propagation=propagation,
            option=option,
        )
    if fields:
        raise ValueError(f"key {next(iter(fields))!r} with type={kind}: expected {', '.join(_MOUNT_ACCEPTED)}")
    return (mount,)


def _mount_tmpfs_data(fields: dict[str, str]) -> dict[str, str]:
    data: dict[str, str] = {}
    if "tmpfs-size" in fields:
        data["size"] = str(units.parse_size(fields.pop("tmpfs-size")))
    if "tmpfs-mode" in fields:
        mode = fields.pop("tmpfs-mode")
        if not _TMPFS_DATA["mode"].fullmatch(mode):
            raise ValueError(f"tmpfs-mode {mode!r}: expected octal, such as 1777")
        data["mode"] = mode
    return data


def _volumes_from(text: str) -> tuple[str, ...]:
    name, colon, mode = text.partition(":")
    if not name or (colon and mode not in ("ro", "rw")):
        raise ValueError("expected CONTAINER[:ro|rw]")
    return (text,)


def _shm_size(text: str) -> int:
    # Docker takes 0 for: not given.
    return units.parse_size(text) or 64 * 1024 * 1024


_PULLS = (
    ("missing", "pull the image if it is not here"),
    ("always", "pull it, also if it is here"),
    ("never", "use what is here"),
)


def _image(text: str) -> str:
    if not text:
        raise ValueError("expected the name of an image")
    return text


def _platform(text: str) -> str:
    if not _PLATFORM.fullmatch(text):
        raise ValueError("expected OS/ARCHITECTURE[/VARIANT], such as linux/arm64")
    return text


FILES: tuple[Option, ...] = (
    Option(
        flags=("--image",),
        help="Root file system: the name or ID of an image; host is this machine's own files",
        group="Files",
        sets="spec.image",
        parse=plain(_image),
        metavar="NAME",
        default="host",
        oci="root.path",
        documentation="Documentation/filesystems/overlayfs.rst",
        choices=(("host", "this machine's own files, copy-on-write"), ("busybox", "small; needs no network")),
        needs="mount",
    ),
    Option(
        flags=("--pull",),
        help="When to pull the image: missing, always or never",
        group="Files",
        sets="spec.pull",
        parse=choice(_PULLS),
        metavar="WHEN",
        default="missing",
        choices=_PULLS,
    ),
    Option(
        flags=("--platform",),
        help="Which of an image's platforms to pull: linux/arm64",
        group="Files",
        sets="spec.platform",
        parse=plain(_platform),
        metavar="OS/ARCH",
        default="this machine's",
    ),
    Option(
        flags=("-v", "--volume"),
        help="Show a host directory or file inside, whose path is absolute or starts with ./ or ~; or a volume",
        group="Files",
        sets="spec.mounts",
        parse=_volume,
        metavar="[SOURCE:]DESTINATION[:MODE]",
        oci="mounts",
        documentation="mount(2), MS_BIND",
        repeatable=True,
        needs="mount",
    ),
    Option(
        flags=("--mount",),
        help="The same in words, or a tmpfs: type=bind,source=…,target=…[,readonly]; type=tmpfs,target=…",
        group="Files",
        sets="spec.mounts",
        parse=_mount,
        metavar="KEY=VALUE,…",
        oci="mounts",
        documentation="mount(2)",
        choices=(
            ("type=bind,", "a host directory or file"),
            ("type=tmpfs,", "memory"),
            ("type=volume,", "a volume"),
        ),
        repeatable=True,
        needs="mount",
    ),
    Option(
        flags=("--tmpfs",),
        help="Mount a tmpfs: /run:size=64m,mode=1777; noexec,nosuid,nodev unless said otherwise",
        group="Files",
        sets="spec.mounts",
        parse=plain(_tmpfs),
        metavar="PATH[:OPTIONS]",
        oci="mounts",
        documentation="tmpfs(5)",
        repeatable=True,
        needs="mount",
    ),
    Option(
        flags=("--volumes-from",),
        help="Show the volumes and binds of another container of this notebook inside, at the same places",
        group="Files",
        sets="spec.volumes_from",
        parse=plain(_volumes_from),
        metavar="CONTAINER[:ro|rw]",
        oci="mounts",
        documentation="mount(2), MS_BIND",
        repeatable=True,
        needs="mount",
    ),
    Option(
        flags=("--shm-size",),
        help="Size of /dev/shm",
        group="Files",
        sets="spec.shm_size_bytes",
        parse=plain(_shm_size),
        metavar="SIZE",
        unit="bytes",
        default="64m",
        oci="mounts",
        documentation="shm_overview(7)",
        needs="mount",
    ),
    Option(
        flags=("--read-only",),
        help="Mount the root file system read-only",
        group="Files",
        sets="spec.readonly",
        parse=boolean,
        oci="root.readonly",
        documentation="mount_setattr(2), MOUNT_ATTR_RDONLY",
        needs="mount",
    ),
    Option(
        flags=("-w", "--workdir"),
        help="Working directory inside, an absolute path; made if absent",
        group="Files",
        sets="spec.workdir",
        parse=plain(inside_path),
        metavar="PATH",
        default="the notebook's directory",
        oci="process.cwd",
        documentation="chdir(2)",
    ),
)
