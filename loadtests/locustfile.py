"""Load for a running installation: by HTTP as JSON and as raw tensors, and through RabbitMQ or Kafka.

Eight users for ten seconds against `millrace demo --serve` (endpoint `digits`), without a browser:

    locust -f loadtests/locustfile.py --headless -u 8 -r 8 -t 10s --host http://127.0.0.1:8000 HttpUser

and both ways at once, on an installation that runs on RabbitMQ:

    locust -f loadtests/locustfile.py --headless -u 8 -r 8 -t 10s --host http://127.0.0.1:8000 \\
        --amqp-url amqp://guest:guest@localhost --prefix millrace.demo. HttpUser AmqpUser

On Kafka it is `--kafka-url kafka://localhost` and `KafkaUser`.
Another endpoint: `--endpoint hello --input x --features 2`.
"""

from __future__ import annotations

import logging
import random
import time
from array import array
from concurrent.futures import CancelledError
from typing import Any, ClassVar

import orjson
import pika
from aiokafka.errors import KafkaError
from locust import FastHttpUser, User, constant, events, task
from pika.adapters.blocking_connection import BlockingChannel

from loadtests.kafka_client import SILENCE_S, KafkaClient

JSON_LENGTH = "inference-header-content-length"

Encoded = tuple[bytes, dict[str, str]]


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def options(parser: Any) -> None:
    """Add our options to locust's, and log only warnings of the client libraries."""
    for client in ("pika", "aiokafka"):
        logging.getLogger(client).setLevel(logging.WARNING)
    parser.add_argument("--endpoint", default="digits", help="The endpoint that gets the requests.")
    parser.add_argument("--input", default="image", help="The name of its input tensor, FP32.")
    parser.add_argument("--features", type=int, default=64, help="The number of values in one row.")
    parser.add_argument(
        "--amqp-url", default="amqp://guest:guest@localhost", help="The address of RabbitMQ for AmqpUser."
    )
    parser.add_argument("--kafka-url", default="kafka://localhost", help="The address of Kafka for KafkaUser.")
    parser.add_argument("--prefix", default="millrace.", help="The installation's prefix.")


def row(given: Any) -> array[float]:
    """One row of random numbers."""
    return array("f", [random.uniform(0, 16) for _ in range(given.features)])


def as_json(given: Any) -> Encoded:
    """The body and the headers of a request that is all JSON."""
    tensor = {"name": given.input, "shape": [1, given.features], "datatype": "FP32", "data": row(given).tolist()}
    return orjson.dumps({"inputs": [tensor]}), {"content-type": "application/json"}


def as_binary(given: Any) -> Encoded:
    """The body and the headers of a request with raw tensor bytes after the JSON (in this machine's order)."""
    raw = row(given).tobytes()
    tensor = {"name": given.input, "shape": [1, given.features], "datatype": "FP32"}
    head = orjson.dumps(
        {
            "inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}],
            "parameters": {"binary_data_output": True},
        }
    )
    return head + raw, {"content-type": "application/octet-stream", JSON_LENGTH: str(len(head))}


class HttpUser(FastHttpUser):
    """Sends one request after the other by HTTP, without a pause."""

    wait_time = constant(0)

    @task
    def ask_in_json(self) -> None:
        """Send a JSON request."""
        self._infer(as_json(self.environment.parsed_options), "infer json")

    @task
    def ask_in_binary(self) -> None:
        """Send a request with raw tensors."""
        self._infer(as_binary(self.environment.parsed_options), "infer binary")

    def _infer(self, encoded: Encoded, name: str) -> None:
        body, headers = encoded
        path = f"/v2/models/{self.environment.parsed_options.endpoint}/infer"
        with self.client.post(path, data=body, headers=headers, name=name, catch_response=True) as response:  # type: ignore[arg-type]
            if response.status_code == 200 and response.headers.get("millrace-request-id"):
                response.success()
            else:
                response.failure(f"{response.status_code}: {(response.text or '')[:200]}")


def result_of(status: str, content: bytes) -> bytes:
    """Return the content of an answer; raises RuntimeError if it is an error."""
    if status != "ok":
        raise RuntimeError(f"{status}: {content[:200].decode('utf-8', 'replace')}")
    return content


class QueueUser(User):
    """Publishes one request after the other with its own reply queue, and waits for each answer."""

    abstract = True
    wait_time = constant(0)
    protocol: ClassVar[str]
    errors: ClassVar[tuple[type[Exception], ...]]

    @property
    def queue(self) -> str:
        """The queue of the endpoint's requests."""
        given = self.environment.parsed_options
        return f"{given.prefix}requests.{given.endpoint}"

    @task
    def ask_in_json(self) -> None:
        """Send a JSON request."""
        self._ask(as_json(self.environment.parsed_options), "requests json")

    @task
    def ask_in_binary(self) -> None:
        """Send a request with raw tensors."""
        self._ask(as_binary(self.environment.parsed_options), "requests binary")

    def _ask(self, encoded: Encoded, name: str) -> None:
        started = time.perf_counter()
        error, size = None, 0
        try:
            size = len(result_of(*self._answered(*encoded)))
        except self.errors as exc:
            error = exc
        self.environment.events.request.fire(
            request_type=self.protocol,
            name=name,
            response_time=(time.perf_counter() - started) * 1000,
            response_length=size,
            exception=error,
            context={},
        )

    def _answered(self, body: bytes, headers: dict[str, str]) -> tuple[str, bytes]:
        """Publish one request and return its answer's status and body; raises RuntimeError if none arrives."""
        raise NotImplementedError


class AmqpUser(QueueUser):
    """Sends requests through RabbitMQ, with its own connection and reply queue."""

    protocol = "AMQP"
    errors = (pika.exceptions.AMQPError, RuntimeError)
    channel: BlockingChannel
    replies: str
    sent: ClassVar[int] = 0

    def on_start(self) -> None:
        """Connect and declare the reply queue, which is deleted with the connection."""
        self.connection = pika.BlockingConnection(pika.URLParameters(self.environment.parsed_options.amqp_url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.replies = self.channel.queue_declare("", exclusive=True).method.queue
        self.answers = self.channel.consume(self.replies, auto_ack=True, inactivity_timeout=SILENCE_S)

    def on_stop(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _answered(self, body: bytes, headers: dict[str, str]) -> tuple[str, bytes]:
        AmqpUser.sent += 1
        correlation_id = str(AmqpUser.sent)
        length = {JSON_LENGTH: int(headers[JSON_LENGTH])} if JSON_LENGTH in headers else None
        properties = pika.BasicProperties(
            content_type=headers["content-type"], headers=length, reply_to=self.replies, correlation_id=correlation_id
        )
        self.channel.basic_publish("", self.queue, body, properties, mandatory=True)
        for method, answer, content in self.answers:
            if method is None:
                raise RuntimeError(f"no answer within {SILENCE_S:.0f} s")
            if answer.correlation_id == correlation_id:  # other answers belong to requests that timed out
                return answer.headers["status"], content
        raise RuntimeError("the reply queue is gone")


class KafkaUser(QueueUser):
    """Sends requests through Kafka, with the client of its process."""

    protocol = "Kafka"
    errors = (KafkaError, CancelledError, RuntimeError)
    client: ClassVar[KafkaClient | None] = None

    def on_start(self) -> None:
        """Open the client; the first user creates it."""
        if KafkaUser.client is None:
            KafkaUser.client = KafkaClient(self.environment.parsed_options.kafka_url, self.queue)
        KafkaUser.client.open()

    def _answered(self, body: bytes, headers: dict[str, str]) -> tuple[str, bytes]:
        if KafkaUser.client is None:
            raise RuntimeError("the client is closed")
        record = KafkaUser.client.ask(body, headers)
        return dict(record.headers)["status"].decode(), record.value


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def close_kafka(**_: Any) -> None:
    """Close the client when all users have stopped."""
    client, KafkaUser.client = KafkaUser.client, None
    if client is not None:
        client.close()
