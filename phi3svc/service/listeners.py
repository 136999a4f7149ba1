"""Where the server listens. gRPC alone would share a busy port or take over a live socket file."""

from __future__ import annotations

import errno
import socket

import grpc.aio

from phi3svc.errors import ConfigError


def bind(server: grpc.aio.Server, address: str) -> str:
    """Adds `host:port` or `unix:path` to the server; returns it with the real port for port 0.

    Raises ConfigError when the address is in use, not ours, or not allowed.
    """
    probe = _probe_unix if address.startswith("unix:") else _probe_tcp
    try:
        probe(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"listen={address!r}: {reason.lower()}") from None
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if address.startswith("unix:"):
        if not port:
            raise ConfigError(f"listen={address!r}: cannot bind")
        return address
    if not port:
        raise ConfigError(f"listen={address!r}: cannot bind")
    return f"{address.rpartition(':')[0]}:{port}"


def _probe_unix(address: str) -> None:
    """Fails if a server answers at the path: gRPC unlinks whatever socket file it finds."""
    path = address.removeprefix("unix:")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            return  # left behind by a server that died
    raise OSError(errno.EADDRINUSE, "address already in use")


def _probe_tcp(address: str) -> None:
    """Fails if any address behind the name is in use: gRPC is content with one of several."""
    host, _, port = address.rpartition(":")
    infos = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    failures = []
    for family, kind, protocol, _, target in infos:
        with socket.socket(family, kind, protocol) as probe:
            # As gRPC does: connections of an earlier server that still wind down are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(target)
            except OSError as error:
                failures.append(error)
    # A machine without IPv6 still resolves `localhost` to ::1.
    fatal = [e for e in failures if e.errno != errno.EADDRNOTAVAIL or len(failures) == len(infos)]
    if fatal:
        raise fatal[0]
