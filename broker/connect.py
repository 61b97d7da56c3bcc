"""Finds the broker for a URL by its scheme.

A broker is one line in `BUILT_IN`, or an entry point of another distribution in the group `millrace.brokers`. The name
of the entry point is the URL scheme. Its value is a callable `(url, channels) -> Broker` that returns a broker that is
not opened yet. An adapter is imported only when a URL has its scheme.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from broker.base import Broker
from broker.channels import Channels
from broker.errors import Misconfigured

GROUP = "millrace.brokers"
BUILT_IN = {
    "amqp": "broker.rabbitmq.adapter:RabbitBroker",
    "amqps": "broker.rabbitmq.adapter:RabbitBroker",
    "kafka": "broker.kafka.adapter:KafkaBroker",
    "kafkas": "broker.kafka.adapter:KafkaBroker",
    "sqlite": "broker.sqlite.adapter:open_url",
}
"""The adapter for each scheme; an entry point cannot replace it."""


def connect(url: str, channels: Channels) -> Broker:
    """Return the broker of `url`, not opened yet; raises Misconfigured for an unknown scheme or a wrong URL."""
    scheme, separator, _ = url.partition("://")
    adapter = _adapters().get(scheme) if separator else None
    if adapter is None:
        begin = f"with {scheme[:20]!r}" if separator else "with no scheme"  # without one, it may be a password
        raise Misconfigured(
            f"broker.url begins {begin}; known schemes are {', '.join(sorted(_adapters()))}, as in "
            "sqlite:///path/to/file or amqp://host"
        )
    try:
        open_url = adapter.load()
    except (ImportError, AttributeError) as exc:
        raise Misconfigured(f"the adapter {adapter.value} for {scheme} cannot be imported: {exc}") from exc
    broker = open_url(url, channels)
    if not isinstance(broker, Broker):
        raise Misconfigured(f"the adapter {adapter.value} for {scheme} returned no broker: {type(broker).__name__}")
    return broker


def _adapters() -> dict[str, EntryPoint]:
    """Return all adapters by scheme."""
    installed = {point.name: point for point in entry_points(group=GROUP)}
    return installed | {scheme: EntryPoint(scheme, value, GROUP) for scheme, value in BUILT_IN.items()}
