"""`millrace predict`: sends one request through the queue."""

from __future__ import annotations

import asyncio
import secrets
import sys
from typing import Annotated

import orjson
import typer

from broker.base import Broker
from broker.errors import Misconfigured, Unavailable
from broker.messages import JSON, Message
from deploy.cli.terminal import (
    DEFAULT_SETTINGS,
    BrokerUrl,
    SettingsPath,
    overrides,
    started_installation,
    with_broker,
)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: millrace predict hello < request.json")(predict)


def predict(
    endpoint: Annotated[str, typer.Argument(help="The endpoint that gets the request.")],
    body: Annotated[
        str, typer.Argument(help="An Open Inference Protocol request as JSON; - reads standard input.")
    ] = "-",
    settings: SettingsPath = DEFAULT_SETTINGS,
    broker: BrokerUrl = "",
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = 30.0,
) -> None:
    """Send one request through the queue, as a queue client does, and print the answer."""
    text = sys.stdin.read() if body == "-" else body
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise Misconfigured(f"the request is not JSON: {exc}") from exc

    async def ask(connection: Broker) -> Message:
        queue = f"predict.{secrets.token_hex(8)}"
        await connection.declare(queue)
        try:
            return await _ask(connection, queue, endpoint, text, timeout)
        finally:
            await connection.delete(queue)

    answer = with_broker(started_installation(settings, overrides(broker__url=broker)), ask)
    sys.stdout.write(bytes(answer.body).decode() + "\n")
    if answer.headers.get("status") != "ok":
        sys.exit(1)


async def _ask(connection: Broker, queue: str, endpoint: str, text: str, timeout_s: float) -> Message:
    request = Message(
        queue=connection.channels.requests(endpoint),
        body=text.encode(),
        content_type=JSON,
        reply_to=queue,
        message_id=secrets.token_hex(8),
        headers={"timeout_ms": int(timeout_s * 1000)},
    )
    outcome = (await connection.publish([request]))[0]
    if not outcome.safe:
        raise Unavailable(
            f"the broker did not accept the request ({outcome}): is endpoint {endpoint!r} served? see millrace models"
        )
    consumer = connection.consume(queue, 1)
    try:
        async with asyncio.timeout(timeout_s):
            deliveries = await consumer.take(1)
    except TimeoutError as exc:
        raise Unavailable(f"no answer within {timeout_s:.0f} s; see millrace status") from exc
    await connection.ack(deliveries)
    await consumer.stop()
    return deliveries[0].message
