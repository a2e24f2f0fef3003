"""The host's ends of published ports: sockets that are bound before anything of a container is built."""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass

from ...errors import UsageError
from ...spec import ContainerSpec, Port

BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Published:
    """A socket of the host's, and the container's port that it stands for."""

    sock: socket.socket
    port: int
    protocol: str
    ip: str
    host: int


def open_ports(spec: ContainerSpec) -> list[Published]:
    """Bind everything that a container publishes.

    Raises
    ------
    UsageError
        If a port is in use, is not this user's to take, or its address is not this machine's; none is bound then.
    """
    wanted = list(spec.ports)
    if spec.publish_all:
        named = {(p.container, p.protocol) for p in spec.ports}
        wanted += [Port(container=c, protocol=p, option="-P") for c, p in spec.exposed_ports if (c, p) not in named]
    found: list[Published] = []
    try:
        for port in wanted:
            found.append(_open(port))
    except BaseException:
        for one in found:
            one.sock.close()
        raise
    return found


def _open(port: Port) -> Published:
    family = socket.AF_INET6 if ipaddress.ip_address(port.ip).version == 6 else socket.AF_INET
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    for host in range(port.host, max(port.host, port.last) + 1):
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC)
        try:
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((port.ip, host))
            if kind == socket.SOCK_STREAM:
                sock.listen(BACKLOG)
        except OSError as e:
            sock.close()
            if e.errno != errno.EADDRINUSE or host >= port.last:
                raise UsageError(f"{port.option}: {_reason(port, host, e)}") from None
        else:
            return Published(sock, port.container, port.protocol, port.ip, int(sock.getsockname()[1]))
    raise AssertionError("a range has a last port")


def _reason(port: Port, host: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        which = f"ports {port.host} to {port.last} of {port.ip} are" if port.last else f"port {host} of {port.ip} is"
        return f"{which} already in use on this host; expected one that is free, or none: any that is"
    if error.errno == errno.EACCES:
        return f"port {host} may be taken by root only; expected one from 1024 on"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{port.ip} is no address of this machine"
    return f"{port.ip}:{host}: {error.strerror}"
