"""The servers of the tests do what other tests ask of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests import servers

QUEUE = "tests.servers"
DURABLE = pika.BasicProperties(delivery_mode=2)


@pytest.fixture
def queue() -> Iterator[str]:
    """An empty queue on a node that runs without an alarm, before and after.

    A classic one: RabbitMQ 3.10 loses a quorum queue when it is killed in the second after the declaration.
    """
    with _channel() as channel:
        channel.queue_delete(QUEUE)
        channel.queue_declare(QUEUE, durable=True)
    yield QUEUE
    servers.control_rabbitmq("start")
    servers.control_rabbitmq("alarm", "off")
    with _channel() as channel:
        channel.queue_delete(QUEUE)


def test_a_killed_node_comes_back_with_what_it_confirmed(queue: str) -> None:
    with _channel() as channel:
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"kept", DURABLE)
    servers.control_rabbitmq("kill")
    with pytest.raises(pika.exceptions.AMQPConnectionError), _channel():
        pass
    servers.control_rabbitmq("start")
    with _channel() as channel:
        _, _, body = channel.basic_get(queue, auto_ack=True)
    assert body == b"kept"


def test_a_memory_alarm_blocks_publishers_until_it_is_cleared(queue: str) -> None:
    seen: list[str] = []
    with _channel() as channel:
        connection = channel.connection
        connection.add_on_connection_blocked_callback(lambda *_: seen.append("blocked"))
        connection.add_on_connection_unblocked_callback(lambda *_: seen.append("unblocked"))
        servers.control_rabbitmq("alarm", "on")
        channel.basic_publish("", queue, b"held back", DURABLE)
        connection.process_data_events(time_limit=5)
        servers.control_rabbitmq("alarm", "off")
        connection.process_data_events(time_limit=5)
    assert seen == ["blocked", "unblocked"]


def test_a_lent_server_is_never_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_written_addresses", dict)
    monkeypatch.setenv("MILLRACE_TEST_RABBITMQ_URL", "amqp://elsewhere/")
    with pytest.raises(pytest.skip.Exception, match="lent"):
        servers.control_rabbitmq("kill")


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_missing_server_skips_on_a_laptop_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[Exception]
) -> None:
    monkeypatch.setattr(servers, "_written_addresses", dict)
    monkeypatch.delenv("MILLRACE_TEST_RABBITMQ_URL", raising=False)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="make services"):
        servers.rabbitmq_url()


@contextmanager
def _channel() -> Iterator[BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(servers.rabbitmq_url()))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()
