"""From a URL to a broker. What an adapter needs is imported only when its scheme is asked for."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from broker.base import Broker
from broker.channels import Channels
from broker.errors import Misconfigured

KNOWN = "sqlite:///path/to/file, amqp://host, amqps://host, kafka://host, kafkas://host"


def connect(url: str, channels: Channels) -> Broker:
    """Return the broker behind `url`, not opened yet; raises Misconfigured for a scheme that nobody serves."""
    scheme, _, rest = url.partition("://")
    if scheme in ("amqp", "amqps"):
        from broker.rabbitmq.adapter import RabbitBroker

        return RabbitBroker(url, channels)
    if scheme in ("kafka", "kafkas"):
        from broker.kafka.adapter import KafkaBroker

        return KafkaBroker(url, channels)
    if scheme == "sqlite":
        return _sqlite(rest, channels)
    begins = f"with {scheme[:20]!r}" if "://" in url else "with no scheme"  # what stands there may be a password
    raise Misconfigured(f"broker.url begins {begins}; what can stand there is {KNOWN}")


def _sqlite(rest: str, channels: Channels) -> Broker:
    from broker.sqlite.adapter import SqliteBroker

    host, slash, path = rest.partition("/")
    if host or not slash or not path:
        raise Misconfigured("broker.url: sqlite has three slashes before a relative path, four before an absolute one")
    return SqliteBroker(Path(unquote(path)), channels)
