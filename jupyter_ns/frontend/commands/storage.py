"""Docker's subcommands about volumes, and about what everything takes on the disk."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from importlib.metadata import version
from typing import Any

from ...client import get_client
from ...errors import ImageError, UsageError
from ...images import volumes
from ...images.record import Image
from ...images.store import Store
from ...images.volumes import Volume
from ...lifecycle import ask_all
from ...units import format_bytes, format_decimal_bytes
from .console import Console
from .grammar import Command, Flag, Parsed, filter_pair
from .images import image_rows, let_go, print_json, prune_images, show
from .listing import fields
from .templates import render
from .text import tabulate

# ---- volumes ----

_VOLUME_HEADS = {"Driver": "DRIVER", "Name": "VOLUME NAME", "Mountpoint": "MOUNTPOINT", "Labels": "LABELS"}


def _fields(volume: Volume) -> dict[str, Any]:
    labels = ",".join(f"{k}={v}" for k, v in volume.labels.items())
    return {"Driver": "local", "Name": volume.name, "Mountpoint": volume.path, "Labels": labels, "Scope": "local"}


def run_create(console: Console, given: Parsed) -> None:
    """Make a volume."""
    driver = given.get("driver", "local")
    if driver != "local":
        raise UsageError(f"volume create --driver {driver}: volumes are directories of this machine: local")
    labels = dict(text.partition("=")[::2] for text in given.get("label", []))
    name = given.arguments[0] if given.arguments else given.get("name", "")
    console.line(volumes.create(Store(), name, labels).name)


def run_list(console: Console, given: Parsed) -> None:
    """List volumes."""
    store = Store()
    found = volumes.volumes(store)
    for key, value in given.get("filter", []):
        if key == "dangling":
            found = [v for v in found if volumes.in_use(store, v.name) != (value in ("true", "1"))]
        elif key == "name":
            found = [v for v in found if value in v.name]
        elif key == "label":
            name, _, wanted = value.partition("=")
            found = [v for v in found if name in v.labels and wanted in ("", v.labels[name])]
        else:
            raise UsageError(f"--filter {key}: invalid filter; there are: dangling, label, name")
    if given.get("quiet"):
        console.write("".join(f"{v.name}\n" for v in found))
        return
    show(console, given.get("format", ""), [_fields(v) for v in found], _VOLUME_HEADS, ("Driver", "Name"))


def run_inspect(console: Console, given: Parsed) -> None:
    """Print everything about volumes as JSON."""
    store = Store()
    found = [volumes.describe(volumes.get(store, name)) for name in given.arguments]
    print_json(console, given.get("format", ""), found)


def run_remove(console: Console, given: Parsed) -> None:
    """Remove volumes."""
    store = Store()
    let_go()
    failures = []
    for name in given.arguments:
        try:
            volumes.remove(store, name)
            console.line(name)
        except ImageError as e:
            if not (given.get("force") and "no such" in str(e)):
                failures.append(str(e))
    if failures:
        raise ImageError("; ".join(failures))


def run_prune(console: Console, given: Parsed) -> None:
    """Remove volumes that no container has: anonymous ones, with ``-a`` all."""
    names, freed = prune_volumes(Store(), everything=bool(given.get("all")))
    if names:
        console.write("Deleted Volumes:\n" + "".join(f"{name}\n" for name in names) + "\n")
    console.line(f"Total reclaimed space: {format_decimal_bytes(freed)}")


def prune_volumes(store: Store, *, everything: bool) -> tuple[list[str], int]:
    """Remove volumes that no container has; return their names and the bytes that were freed."""
    let_go()
    names, freed = [], 0
    for volume in volumes.volumes(store):
        if volume.anonymous or everything:
            size = volumes.volume_bytes(volume)
            with contextlib.suppress(ImageError):  # in use, or removed meanwhile
                volumes.remove(store, volume.name)
                names.append(volume.name)
                freed += size
    return names, freed


# ---- system ----


def usage_rows(store: Store) -> list[dict[str, Any]]:
    """Sum up what is on the disk, and in memory for containers, as ``docker system df`` does."""
    let_go()
    images = store.images()
    busy = {image.id for image in images if store.in_use(image.id)}
    sizes = {chain: store.layer_bytes(chain) for image in images for chain in image.chains}
    kept = {chain for image in images if image.id in busy for chain in image.chains}
    found = volumes.volumes(store)
    volume_sizes = {v.name: volumes.volume_bytes(v) for v in found}
    busy_volumes = {v.name for v in found if volumes.in_use(store, v.name)}
    containers = ask_all("list", size=True)
    written = [row["size_bytes"] for row in containers]
    ended = [row["size_bytes"] for row in containers if row["state"] not in ("running", "paused", "restarting")]
    total, volume_total = sum(sizes.values()), sum(volume_sizes.values())
    free = sum(size for chain, size in sizes.items() if chain not in kept)
    volume_free = sum(size for name, size in volume_sizes.items() if name not in busy_volumes)
    return [
        _usage("Images", len(images), len(busy), total, free),
        _usage("Containers", len(containers), len(containers) - len(ended), sum(written), sum(ended)),
        _usage("Local Volumes", len(found), len(busy_volumes), volume_total, volume_free),
        _usage("Build Cache", 0, 0, 0, 0),
    ]


def _usage(kind: str, count: int, active: int, size: int, free: int) -> dict[str, Any]:
    percent = f" ({free * 100 // size}%)" if size else ""
    return {
        "Type": kind,
        "TotalCount": str(count),
        "Active": str(active),
        "Size": format_decimal_bytes(size),
        "Reclaimable": f"{format_decimal_bytes(free)}{percent}",
    }


_USAGE_HEADS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}


def run_df(console: Console, given: Parsed) -> None:
    """Show what images and volumes take on the disk."""
    store = Store()
    if given.get("verbose"):
        console.write(_verbose(store))
        return
    show(console, given.get("format", ""), usage_rows(store), _USAGE_HEADS, tuple(_USAGE_HEADS))


def _verbose(store: Store) -> str:
    chains: dict[str, int] = {}
    for image in store.images():
        for chain in image.chains:
            chains[chain] = chains.get(chain, 0) + 1
    rows = ask_all("list", size=True)
    used = [image.id for row in rows for image in _images_of(store, row["image"])]
    images = ["REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS"]
    for row in image_rows(store, truncate=True):
        image = store.find(row["ID"])
        shared = sum(store.layer_bytes(c) for c in image.chains if chains[c] > 1)
        unique = store.image_bytes(image) - shared
        cells = (row["Repository"], row["Tag"], row["ID"], row["CreatedSince"], row["Size"])
        images.append(
            "\t".join((*cells, format_decimal_bytes(shared), format_decimal_bytes(unique), str(used.count(image.id))))
        )
    containers = ["CONTAINER ID\tIMAGE\tCOMMAND\tLOCAL VOLUMES\tSIZE\tCREATED\tSTATUS\tNAMES"]
    columns = ("ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names")
    for row in rows:
        shown = fields(row, time.time(), truncate=True)
        containers.append("\t".join(str(shown[column]) for column in columns))
    found = ["VOLUME NAME\tLINKS\tSIZE"]
    for volume in volumes.volumes(store):
        links = int(volumes.in_use(store, volume.name))
        found.append(f"{volume.name}\t{links}\t{format_decimal_bytes(volumes.volume_bytes(volume))}")
    return (
        f"Images space usage:\n\n{tabulate(images)}\n"
        f"Containers space usage (in memory):\n\n{tabulate(containers)}\n"
        f"Local Volumes space usage:\n\n{tabulate(found)}"
    )


def _images_of(store: Store, name: str) -> list[Image]:
    try:
        return [store.find(name)]
    except (ImageError, UsageError):  # host, or one that has lost its name
        return []


def run_system_prune(console: Console, given: Parsed) -> None:
    """Remove what nobody uses."""
    store = Store()
    lines, freed = prune_images(store, everything=bool(given.get("all")))
    if lines:
        console.write("Deleted Images:\n" + "".join(f"{line}\n" for line in lines) + "\n")
    if given.get("volumes"):
        names, more = prune_volumes(store, everything=False)
        freed += more
        if names:
            console.write("Deleted Volumes:\n" + "".join(f"{name}\n" for name in names) + "\n")
    console.line(f"Total reclaimed space: {format_decimal_bytes(freed)}")


def information() -> dict[str, Any]:
    """Describe this machine as ``docker info`` does."""
    facts, store = get_client().facts, Store()
    states = [row["state"] for row in ask_all("list")]
    security = [] if facts.seccomp_error else ["name=seccomp,profile=builtin"]
    security += ["name=rootless"] if facts.rootless else []
    security += ["name=cgroupns"] if not facts.namespaces.get("cgroup") else []
    return {
        "ServerVersion": version("jupyter_ns"),
        "Containers": len(states),
        "ContainersRunning": states.count("running") + states.count("restarting"),
        "ContainersPaused": states.count("paused"),
        "ContainersStopped": states.count("exited") + states.count("created"),
        "Images": len(store.image_ids()),
        "Driver": "overlayfs",
        "CgroupVersion": str(facts.cgroup.get("version", 0)),
        "CgroupDriver": "cgroupfs" if facts.cgroup.get("version") else "none",
        "DefaultRuntime": "jupyter_ns",
        "SecurityOptions": security,
        "KernelVersion": facts.kernel,
        "OperatingSystem": _operating_system(),
        "OSType": "linux",
        "Architecture": facts.arch,
        "NCPU": os.cpu_count() or 1,
        "MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "Name": platform.node(),
        "DockerRootDir": store.root,
        "Warnings": list(facts.weakened),
    }


def _operating_system() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return "Linux"


def run_info(console: Console, given: Parsed) -> None:
    """Describe this machine."""
    data = information()
    form = given.get("format", "")
    if form:
        console.line(render("{{json .}}" if form == "json" else form, data))
        return
    security = "".join(f"  {text.split(',')[0].removeprefix('name=')}\n" for text in data["SecurityOptions"])
    console.write(
        f"Server:\n Containers: {data['Containers']}\n  Running: {data['ContainersRunning']}\n"
        f"  Paused: {data['ContainersPaused']}\n  Stopped: {data['ContainersStopped']}\n"
        f" Images: {data['Images']}\n Server Version: {data['ServerVersion']} (jupyter_ns, no Docker)\n"
        f" Storage Driver: {data['Driver']}\n Cgroup Driver: {data['CgroupDriver']}\n"
        f" Cgroup Version: {data['CgroupVersion']}\n Default Runtime: {data['DefaultRuntime']}\n"
        f" Security Options:\n{security}"
        f" Kernel Version: {data['KernelVersion']}\n Operating System: {data['OperatingSystem']}\n"
        f" OSType: {data['OSType']}\n Architecture: {data['Architecture']}\n CPUs: {data['NCPU']}\n"
        f" Total Memory: {format_bytes(data['MemTotal'])}\n Name: {data['Name']}\n"
        f" Docker Root Dir: {data['DockerRootDir']}\n" + "".join(f"WARNING: {line}\n" for line in data["Warnings"])
    )


_FORMAT = Flag(flags=("--format",), help="table, json or a Go template", metavar="FORMAT")
_FORCE = Flag(flags=("-f", "--force"), help="Do not ask: it never does")
_FILTER = Flag(
    flags=("-f", "--filter"),
    help="Filter by KEY=VALUE: dangling, label, name",
    metavar="FILTER",
    parse=filter_pair,
    repeatable=True,
)
_INFO = (Flag(flags=("-f", "--format"), help="json or a Go template", metavar="FORMAT"),)
_ALL = Flag(flags=("-a", "--all"), help="Also those with a name")

STORAGE: tuple[Command, ...] = (
    Command(
        name="volume create",
        usage="[OPTIONS] [NAME]",
        help="Make a volume",
        run=run_create,
        most=1,
        flags=(
            Flag(flags=("-d", "--driver"), help="local", metavar="DRIVER"),
            Flag(flags=("--label",), help="Attach a label", metavar="KEY=VALUE", repeatable=True),
            Flag(flags=("--name",), help="The same as NAME", metavar="NAME"),
            Flag(flags=("-o", "--opt"), metavar="OPTION", refuse="volumes are plain directories"),
        ),
    ),
    Command(
        name="volume ls",
        usage="[OPTIONS]",
        help="List volumes",
        run=run_list,
        most=0,
        flags=(_FILTER, _FORMAT, Flag(flags=("-q", "--quiet"), help="Only names")),
    ),
    Command(
        name="volume inspect",
        usage="[OPTIONS] VOLUME…",
        help="Print everything about volumes as JSON",
        run=run_inspect,
        least=1,
        flags=_INFO,
    ),
    Command(
        name="volume rm",
        usage="[OPTIONS] VOLUME…",
        help="Remove volumes",
        run=run_remove,
        least=1,
        flags=(Flag(flags=("-f", "--force"), help="Also where there is none"),),
    ),
    Command(
        name="volume prune",
        usage="[OPTIONS]",
        help="Remove volumes that no container has",
        run=run_prune,
        most=0,
        flags=(_ALL, _FORCE),
    ),
    Command(
        name="system df",
        usage="[OPTIONS]",
        help="Show what images and volumes take on the disk",
        run=run_df,
        most=0,
        flags=(Flag(flags=("-v", "--verbose"), help="Each by itself"), _FORMAT),
    ),
    Command(
        name="system prune",
        usage="[OPTIONS]",
        help="Remove what nobody uses",
        run=run_system_prune,
        most=0,
        flags=(
            Flag(flags=("-a", "--all"), help="Also images with a name that no container uses"),
            _FORCE,
            Flag(flags=("--volumes",), help="Also anonymous volumes"),
        ),
    ),
    Command(name="system info", usage="[OPTIONS]", help="Describe this machine", run=run_info, most=0, flags=_INFO),
    Command(name="info", usage="[OPTIONS]", help="Describe this machine", run=run_info, most=0, flags=_INFO),
)
