"""Hosts that parts listen on: names, IPv4 and IPv6 addresses, as written in settings and as shown in URLs."""

from __future__ import annotations

import ipaddress
import random
import socket

_EVERYWHERE = frozenset(("", "0.0.0.0", "::"))  # noqa: S104 - these are recognized, not listened on
_LOCAL = "127.0.0.1"
_PORTS = range(20_000, 25_000)  # below those that Linux, macOS and Windows give to outgoing connections, and unassigned
_TRIES = 100


def bare(host: object) -> str:
    """Remove the brackets that an IPv6 address has in a URL."""
    text = str(host).strip()
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def is_loopback(host: str) -> bool:
    """Return True if only this computer can reach a server on the host; False for a name other than localhost."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shown(host: str, port: int) -> str:
    """Format host and port for a URL: an IPv6 address gets brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reached_at(host: str) -> str:
    """Return the address at which this computer reaches a server that listens on the host."""
    return _LOCAL if host in _EVERYWHERE else host


def free_port() -> int:
    """Return a free port of 127.0.0.1 for a part that will start soon.

    A port that the kernel chooses (port 0) could be taken by an outgoing connection before the part starts.

    Raises:
        OSError: no free port was found.
    """
    for port in random.sample(_PORTS, _TRIES):
        with socket.socket() as probe:
            try:
                probe.bind((_LOCAL, port))
            except OSError:
                continue
            return port
    raise OSError(f"{_TRIES} ports between {_PORTS.start} and {_PORTS.stop} were tried, and none is free")
