"""Commands that look and ask: `status`, `models`, `predict`."""

from __future__ import annotations

import asyncio
import secrets
import sys
from typing import Annotated, Any

import orjson
import typer

from broker.base import Broker
from broker.errors import Misconfigured, Unavailable
from broker.messages import JSON, Message
from broker.protocol.ids import now_us
from broker.records.endpoint import Endpoint
from deploy.cli.terminal import (
    DEFAULT_SETTINGS,
    BrokerUrl,
    Json,
    SettingsPath,
    connected,
    existing,
    listed,
    looked_at,
    overrides,
    show,
    warn,
)
from deploy.operations.inspection import left_out, read_view, withheld_arms
from deploy.settings import load_settings

SETTLE_S = 2.5  # a heartbeat and a little


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: millrace status --json")(status)
    app.command(epilog="Example: millrace models")(models)
    app.command(epilog="Example: millrace predict hello < request.json")(predict)


def status(settings: SettingsPath = DEFAULT_SETTINGS, broker: BrokerUrl = "", as_json: Json = False) -> None:
    """Show which processes are there, and what they say of themselves."""
    declared: list[Endpoint] = []

    async def look(connection: Broker) -> list[dict[str, Any]]:
        view = await read_view(connection)
        declared.extend(view.declarations())
        rows = []
        for said, _ in view.processes.newest.values():
            age_s = max(0.0, (now_us() - said.at_us) / 1e6)  # another machine's clock may be ahead
            model = f"{said.model}@{said.version}" if said.model else ""
            rows.append(
                {
                    "part": said.part,
                    "state": said.state if age_s < 3 * SETTLE_S else "silent",
                    "model": model,
                    "pid": said.pid,
                    "in flight": said.in_flight,
                    "heard s ago": round(age_s, 1),
                    "instance": said.instance,
                    "error": "; ".join(filter(None, (said.error, *said.troubles))),
                }
            )
        return sorted(rows, key=lambda row: (row["part"], row["model"], row["instance"]))

    rows = listed(existing(settings, overrides(broker__url=broker)), look)
    show(rows, ("part", "state", "model", "pid", "in flight", "heard s ago", "error"), as_json=as_json)
    warn(withheld_arms(declared, load_settings(settings).repository_folder))


def models(settings: SettingsPath = DEFAULT_SETTINGS, broker: BrokerUrl = "", as_json: Json = False) -> None:
    """Show what can be called: endpoints, their arms, and whether each is ready."""
    declared: list[Endpoint] = []

    async def look(connection: Broker) -> list[dict[str, Any]]:
        view = await read_view(connection)
        declared.extend(view.declarations())
        rows = []
        for name in view.endpoints():
            router = view.router(name)
            for arm, target in router.endpoint.arms.items():
                depth = await connection.depth(connection.channels.inputs(target.model, target.version))
                ready = view.versions.is_ready(target.model, target.version)
                rows.append(
                    {
                        "endpoint": name,
                        "arm": arm,
                        "model": target.model,
                        "version": target.version,
                        "ready": "yes" if ready else "no",
                        "waiting": depth.requests,
                    }
                )
        return rows

    rows = listed(existing(settings, overrides(broker__url=broker)), look)
    show(rows, ("endpoint", "arm", "model", "version", "ready", "waiting"), as_json=as_json)
    repository = load_settings(settings).repository_folder
    warn([*left_out(repository), *withheld_arms(declared, repository)])


def predict(
    endpoint: Annotated[str, typer.Argument(help="What to ask.")],
    body: Annotated[
        str, typer.Argument(help="An Open Inference Protocol request as JSON; - reads standard input.")
    ] = "-",
    settings: SettingsPath = DEFAULT_SETTINGS,
    broker: BrokerUrl = "",
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = 30.0,
) -> None:
    """Send one request through the queue, as any client of it would, and print the answer."""
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

    answer = connected(looked_at(settings, overrides(broker__url=broker)), ask)
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
            f"the request was not taken ({outcome}): is endpoint {endpoint!r} served? see millrace models"
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
