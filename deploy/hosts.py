"""Hosts that parts listen at: names, IPv4 and IPv6 addresses, as people write them and as URLs show them."""

from __future__ import annotations

import ipaddress
import random
import socket

_EVERYWHERE = frozenset(("", "0.0.0.0", "::"))  # noqa: S104 - these are recognized, not listened at
_LOCAL = "127.0.0.1"
_PORTS = range(20_000, 25_000)  # below those that Linux, macOS and Windows give to outgoing connections, and unassigned
_TRIES = 100


def bare(host: object) -> str:
    """Return a host without the brackets that an IPv6 address has in a URL."""
    text = str(host).strip()
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def is_loopback(host: str) -> bool:
    """Tell whether only this computer reaches what listens at a host; of a name that is not known."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shown(host: str, port: int) -> str:
    """Return host and port as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reached_at(host: str) -> str:
    """Return where this computer reaches what listens at a host."""
    return _LOCAL if host in _EVERYWHERE else host


def free_port() -> int:
    """Return a port of 127.0.0.1 for a part that is started in a moment.

    The kernel's own choice may belong to an outgoing connection of any program by then.

    Raises:
        OSError: no free one was found.
    """
    for port in random.sample(_PORTS, _TRIES):
        with socket.socket() as probe:
            try:
                probe.bind((_LOCAL, port))
            except OSError:
                continue
            return port
    raise OSError(f"{_TRIES} ports between {_PORTS.start} and {_PORTS.stop} were tried, and none is free")
