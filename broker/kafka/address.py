"""The brokers' URL: parsed once, and shown without its password."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from broker.errors import Misconfigured, Unreachable

PARTITIONS = 8
REQUEST_TIMEOUT_MS = 10_000
_PORT = 9092
_PORT_MOST = 65535
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]\s]+)(:(?P<port>[0-9]{1,5}))?")
_MECHANISM = "SCRAM-SHA-512"
_EXAMPLE = "kafka://host:9092,host2:9092 or kafkas://user:password@host:9093?cafile=ca.pem"
_OPTIONS = ("cafile", "partitions", "mechanism")


@dataclass(frozen=True, slots=True, repr=False)
class KafkaAddress:
    """The parsed URL; `partitions` is the number of partitions of a new queue."""

    shown: str
    partitions: int
    arguments: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Address({self.shown!r})"

    @classmethod
    def of(cls, url: str) -> KafkaAddress:
        """Parse a URL; raises Misconfigured."""
        try:
            parts = urlsplit(url)
        except ValueError:  # it may quote the password
            raise Misconfigured(f"broker.url cannot be read: it looks like {_EXAMPLE}") from None
        credentials, _, hosts = parts.netloc.rpartition("@")
        options = dict(parse_qsl(parts.query))
        unknown = [name for name in options if name not in _OPTIONS]
        if not hosts or parts.path not in ("", "/") or unknown:
            what = f"it has the option {unknown[0]!r}" if unknown else "it has no host, or a path"
            raise Misconfigured(f"broker.url cannot be read ({what}): it looks like {_EXAMPLE}")
        servers = [_server(host) for host in hosts.split(",")]
        arguments = {
            "bootstrap_servers": servers,
            "client_id": "millrace",
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            **_security(parts.scheme == "kafkas", credentials, options),
        }
        return cls(f"{parts.scheme}://{','.join(servers)}", _partitions(options), arguments)

    def unreachable(self) -> Unreachable:
        """Return the error for brokers that do not answer; Kafka reports a wrong password in the same way."""
        return Unreachable(
            f"no Kafka broker answers at {self.shown}: is it running, and is broker.url right, user and password too?"
        )


def _server(host: str) -> str:
    """Return a host with its port. Error texts do not quote the host: it may be half of a password."""
    match = _HOST.fullmatch(host)
    if match is None or (match["port"] and not 1 <= int(match["port"]) <= _PORT_MOST):
        raise Misconfigured(f"broker.url cannot be read (a host or port is wrong): it looks like {_EXAMPLE}")
    return host if match["port"] else f"{host}:{_PORT}"


def _partitions(options: Mapping[str, str]) -> int:
    text = options.get("partitions", str(PARTITIONS))
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise Misconfigured(f"broker.url: partitions={text}, and a queue can have 1 to 10000 partitions")
    return int(text)


def _security(encrypted: bool, credentials: str, options: Mapping[str, str]) -> dict[str, Any]:
    protocol = ("SASL_" if credentials else "") + ("SSL" if encrypted else "PLAINTEXT")
    found: dict[str, Any] = {"security_protocol": protocol}
    if encrypted:
        try:
            found["ssl_context"] = ssl.create_default_context(cafile=options.get("cafile"))
        except OSError as exc:
            raise Misconfigured(f"broker.url: the cafile {options.get('cafile')} cannot be read ({exc})") from exc
    if credentials:
        user, _, password = credentials.partition(":")
        found |= {
            "sasl_mechanism": options.get("mechanism", _MECHANISM),
            "sasl_plain_username": unquote(user),
            "sasl_plain_password": unquote(password),
        }
    return found
