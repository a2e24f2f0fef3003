"""Options that are known and refused, each with its reason: an option of Docker's is never ignored."""

from __future__ import annotations

from .option_types import Option

_NETWORK = "networks are IPv4, and containers find each other by name on one that was made with network create"
_LINK = (
    "deprecated by Docker; containers of a network that `docker network create` made find each other by name, and "
    "by --network-alias"
)
_GPU = "GPUs need their vendor's libraries and devices as one; give the devices with --device"
_TERMINAL = "a cell is no terminal that could be attached and detached"
_STORAGE = "the storage driver is overlayfs, and has no options; what a container writes is bounded by --memory"
_TRUST = "signatures of images are not checked; their digests are"
_LOG = "the output goes to the notebook; log drivers are not supported"
_WINDOWS = "it is for Windows containers only"
_RECORD = "experiment records are not supported in this version"

_VALUES: dict[str, tuple[tuple[str, ...], ...]] = {
    _NETWORK: (("--ip6",), ("--link-local-ip",)),
    _LINK: (("--link",),),
    _GPU: (("--gpus",),),
    _TERMINAL: (("--detach-keys",), ("-a", "--attach")),
    _STORAGE: (("--storage-opt",),),
    _LOG: (("--log-driver",), ("--log-opt",)),
    _WINDOWS: (
        ("--cpu-count",),
        ("--cpu-percent",),
        ("--io-maxbandwidth",),
        ("--io-maxiops",),
        ("--isolation",),
    ),
    _RECORD: (("--record",), ("--seed",)),
    "real-time time of a cgroup (cpu.rt_runtime_us) exists on version 1 with CONFIG_RT_GROUP_SCHED only, "
    "and is taken from the host's own": (
        ("--cpu-rt-period",),
        ("--cpu-rt-runtime",),
    ),
    "kernel memory has no limit of its own since Linux 5.16; use --memory": (("--kernel-memory",),),
    "volumes are directories of this machine, and have no other driver": (("--volume-driver",),),
    "annotations are for an OCI runtime, and none is used; use --label": (("--annotation",),),
    "containers are built in place, without an OCI runtime": (("--runtime",),),
    "labels from files are not read; use --label": (("--label-file",),),
}
_BOOLEANS: dict[str, tuple[tuple[str, ...], ...]] = {
    _TERMINAL: (("--sig-proxy",),),
    _TRUST: (("--disable-content-trust",),),
    "there is no Docker daemon whose socket it could be": (("--use-api-socket",),),
}

REFUSED: tuple[Option, ...] = tuple(
    Option(flags=flags, help=f"Refused: {reason}", group="Refused", metavar=metavar, refuse=reason)
    for metavar, table in (("VALUE", _VALUES), ("", _BOOLEANS))
    for reason, rows in table.items()
    for flags in rows
)
