"""Options about devices: which may be used, and how much of a disk.

Notes
-----
Docker, ``opts/throttledevice.go``, ``opts/weightdevice.go``, ``cli/command/container/opts.go``.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable

from . import units
from .option_types import Option, Parser, plain
from .spec import Device

WEIGHT_MIN, WEIGHT_MAX = 10, 1000
_RULE = re.compile(r"[acb] (?:[0-9]+|\*):(?:[0-9]+|\*) [rwm]{1,3}", re.ASCII)
_DEVICE_NUMBER_MAX = 2**32 - 1
_EXAMPLE = "expected /dev/NAME:{}"


def _of_device(parse: Callable[[str], int], what: str) -> Parser:
    """Make a `Parser` of ``/dev/NAME:VALUE``."""

    def pair(text: str) -> tuple[tuple[str, int], ...]:
        path, colon, value = text.partition(":")
        if not colon or not path.startswith("/dev/"):
            raise ValueError(_EXAMPLE.format(what))
        return ((path, parse(value)),)

    return plain(pair)


def _unsigned(text: str, most: int) -> int:
    """Parse as Go's ``strconv.ParseUint(text, 10, …)``: digits and nothing else."""
    if not re.fullmatch(r"[0-9]{1,40}", text, re.ASCII) or int(text) > most:
        raise ValueError(f"expected a number from 0 to {most}")
    return int(text)


def _iops(text: str) -> int:
    return _unsigned(text, 2**64 - 1)


def _device_weight(text: str) -> int:
    weight = _unsigned(text, 2**16 - 1)
    if weight and not WEIGHT_MIN <= weight <= WEIGHT_MAX:
        raise ValueError(f"expected a weight from {WEIGHT_MIN} to {WEIGHT_MAX}, or 0 for the usual one")
    return weight


def _weight(text: str) -> int | None:
    weight = -1 if text[:1] in ("+", "-") else units.parse_integer(text)
    if not 0 <= weight < 2**16:
        raise ValueError("expected an integer without a sign, of 16 bits")
    if weight and not WEIGHT_MIN <= weight <= WEIGHT_MAX:
        raise ValueError(f"expected an integer from {WEIGHT_MIN} to {WEIGHT_MAX}, or 0 for the usual weight")
    return weight or None


def _is_mode(text: str) -> bool:
    return bool(text) and set(text) <= set("rwm") and len(set(text)) == len(text)


def _device(text: str) -> tuple[Device, ...]:
    """Parse ``SOURCE[:DESTINATION][:rwm]``; two parts are a mode if the second is one."""
    source, *rest = text.split(":")
    if not source or len(rest) > 2:
        raise ValueError("expected SOURCE[:DESTINATION][:rwm]")
    mode = "rwm"
    if len(rest) == 2:
        mode = rest.pop()
        if not _is_mode(mode):
            raise ValueError("expected after the last colon some of the letters r, w and m, each once")
    elif rest and _is_mode(rest[0]):
        mode = rest.pop()
    destination = rest[0] if rest else source
    if not destination.startswith("/"):
        raise ValueError("expected the absolute path of a device")
    source = os.path.normpath(source)
    if not source.startswith("/dev/"):
        raise ValueError("expected a device of the host's, below /dev/")
    return (Device(source=source, destination=os.path.normpath(destination), permissions=mode),)


def _rule(text: str) -> tuple[str, ...]:
    if not _RULE.fullmatch(text):
        raise ValueError("expected a type of a, b or c, MAJOR:MINOR (* for all), some of rwm: 'c 10:229 rwm'")
    kind, numbers, access = text.split(" ")
    if any(n != "*" and int(n) > _DEVICE_NUMBER_MAX for n in numbers.split(":")):
        raise ValueError("expected device numbers of at most 32 bits")
    return (f"{kind} {numbers} {''.join(a for a in 'rwm' if a in access)}",)


def _rate(name: str, does: str, unit: str, v1: str, v2: str) -> Option:
    bps = name.endswith("bps")
    return Option(
        flags=(f"--{name.replace('_', '-')}",),
        help=f"{does} of a disk, at most; direct I/O on cgroup v1",
        group="Devices",
        sets=f"limits.{name}",
        parse=_of_device(units.parse_size if bps else _iops, "SIZE, such as /dev/sda:10mb" if bps else "NUMBER"),
        metavar=f"DEVICE:{'SIZE' if bps else 'NUMBER'}",
        unit=unit,
        oci=f"linux.resources.blockIO.throttle{''.join(w.capitalize() for w in name.split('_')[1:])}Device",
        v1=v1,
        v2=v2,
        documentation="admin-guide/cgroup-v2.rst, io.max",
        repeatable=True,
    )


DEVICES: tuple[Option, ...] = (
    Option(
        flags=("--device",),
        help="Give it a device of the host's, perhaps under another name",
        group="Devices",
        sets="spec.devices",
        parse=plain(_device),
        metavar="SOURCE[:DESTINATION][:rwm]",
        default="null zero full random urandom tty",
        oci="linux.devices",
        v1="devices.allow",
        v2="BPF_CGROUP_DEVICE",
        documentation="admin-guide/cgroup-v1/devices.rst",
        repeatable=True,
    ),
    Option(
        flags=("--device-cgroup-rule",),
        help="Allow devices by type and number: 'c 10:229 rwm'",
        group="Devices",
        sets="limits.device_rules",
        parse=plain(_rule),
        metavar="RULE",
        oci="linux.resources.devices",
        v1="devices.allow",
        v2="BPF_CGROUP_DEVICE",
        documentation="admin-guide/cgroup-v1/devices.rst",
        repeatable=True,
    ),
    _rate("device_read_bps", "Bytes a second read", "bytes/s", "blkio.throttle.read_bps_device", "io.max"),
    _rate("device_write_bps", "Bytes a second written", "bytes/s", "blkio.throttle.write_bps_device", "io.max"),
    _rate("device_read_iops", "Reads a second", "operations/s", "blkio.throttle.read_iops_device", "io.max"),
    _rate("device_write_iops", "Writes a second", "operations/s", "blkio.throttle.write_iops_device", "io.max"),
    Option(
        flags=("--blkio-weight",),
        help=f"Weight when a disk is contended for, {WEIGHT_MIN} to {WEIGHT_MAX}; 0 is the usual one",
        group="Devices",
        sets="limits.blkio_weight",
        parse=plain(_weight),
        metavar="N",
        default="0",
        oci="linux.resources.blockIO.weight",
        v1="blkio.bfq.weight",
        v2="io.weight",
        documentation="block/bfq-iosched.rst",
    ),
    Option(
        flags=("--blkio-weight-device",),
        help="The same for one disk",
        group="Devices",
        sets="limits.blkio_weight_device",
        parse=_of_device(_device_weight, "WEIGHT"),
        metavar="DEVICE:N",
        oci="linux.resources.blockIO.weightDevice",
        v1="blkio.bfq.weight_device",
        v2="io.bfq.weight",
        documentation="block/bfq-iosched.rst",
        repeatable=True,
    ),
)
