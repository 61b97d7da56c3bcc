"""Hosts that parts listen at: names, IPv4 and IPv6 addresses, as people write them and as URLs show them."""

from __future__ import annotations

import ipaddress

_EVERYWHERE = frozenset(("", "0.0.0.0", "::"))  # noqa: S104 - these are recognized, not listened at
_LOCAL = "127.0.0.1"


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
