"""A gateway over an embedded broker, with real HTTP, and a small processor that doubles its input."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from broker.base import Broker
from broker.channels import Channels, Limits
from broker.errors import MillraceError
from broker.protocol.answers import error_body
from broker.protocol.bundle import bundle, requests_in
from broker.protocol.header import BY_WORD, BodyForm, Request, Status, pack_answer
from broker.protocol.ids import now_us
from broker.records.declared import endpoint_declared
from broker.records.endpoint import read_endpoint
from broker.records.status import Announcement, State, write_announcement
from broker.sqlite.adapter import SqliteBroker
from broker.tensor.outputs import encode
from broker.tensor.tensors import decode
from gateway.core.core import GatewaySettings
from gateway.results.sqlite_store import SqliteResults
from gateway.run import run
from tests.waiting import until

PATIENCE_S = 10.0
FULL: dict[str, Any] = {
    "metadata": {
        "name": "double",
        "versions": ["1"],
        "platform": "python",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    },
    "config": {
        "name": "double",
        "max_batch_size": 8,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}],
    },
    "max_batch_size": 8,
}
X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.5, 2.5]}


@dataclass
class DoublingProcessor:
    """Takes from the queue of one model version and answers y = 2x, but not before `go` is set."""

    broker: Broker
    model: str
    version: int
    go: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[Request] = field(default_factory=list)
    status: Status = Status.OK

    async def work(self) -> None:
        consumer = self.broker.consume(self.broker.channels.inputs(self.model, self.version), 100)
        while deliveries := await consumer.take(100):
            requests = [request for delivery in deliveries for request in requests_in(delivery.message)]
            self.seen += requests
            await self.go.wait()
            by_queue: dict[str, list[bytes]] = {}
            for request in requests:
                by_queue.setdefault(request.route.reply_to, []).extend(self._answer(request))
            messages = [bundle(it, BodyForm.ANSWERS, b"", parts, len(parts) // 2) for it, parts in by_queue.items()]
            await self.broker.forward(deliveries, messages)

    def _answer(self, request: Request) -> tuple[bytes, bytes]:
        route, status = request.route, self.status
        try:
            if status is not Status.OK:
                body, json_length = error_body(f"ended as {status.word}"), None
            else:
                inputs = decode(request.body, request.json_length)
                outputs = {"y": inputs.tensors["x"] * 2}
                body, json_length = encode(outputs, head=inputs.head, model=route.endpoint, version=str(route.version))
        except MillraceError as exc:
            body, json_length, status = error_body(str(exc)), None, BY_WORD[exc.status]
        arm = route.arm.encode()
        return pack_answer(request.uid, status, arm, route.version, json_length, (1, 2, 3), len(body)), body


@dataclass
class Gateway:
    """A running gateway, its client, its broker and its processor."""

    broker: Broker
    port: int
    client: httpx.AsyncClient
    processor: DoublingProcessor
    registry: CollectorRegistry
    stop: asyncio.Event
    running: asyncio.Task[None]

    async def announce(self, model: str, version: int, state: State, **more: Any) -> None:
        """Announce the state of a replica."""
        more = {"instance": f"replica-{model}-{version}", **more}
        announcement = Announcement(part="replica", state=state, at_us=now_us(), model=model, version=version, **more)
        await self.broker.append(self.broker.channels.status, [write_announcement(announcement)])

    async def catalog(self, models: dict[str, list[int]] | None = None, **problems: str) -> None:
        """Announce the models of the repository and their problems, as a catalog does."""
        announcement = Announcement(
            instance="catalog-test",
            part="catalog",
            state="ready",
            at_us=now_us(),
            full={"models": models or {}, "problems": problems},
        )
        await self.broker.append(self.broker.channels.status, [write_announcement(announcement)])

    async def declare(self, **declaration: Any) -> None:
        """Declare an endpoint."""
        await declare(self.broker, **declaration)

    async def until(self, path: str, code: int) -> httpx.Response:
        """Repeat a GET until it returns this status code: the gateway reads logs with a delay."""
        answers: list[httpx.Response] = []

        async def has_code() -> bool:
            answers.append(await self.client.get(path))
            return answers[-1].status_code == code

        await until(has_code)
        return answers[-1]

    async def until_seen(self) -> None:
        """Wait until the processor has taken a request."""

        async def seen() -> bool:
            return bool(self.processor.seen)

        await until(seen)

    async def raw(self, request: bytes) -> bytes:
        """Send bytes and return everything that the gateway sends until it closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read()
        finally:
            writer.close()


async def declare(broker: Broker, **declaration: Any) -> None:
    """Declare an endpoint."""
    record = endpoint_declared(read_endpoint(declaration, source="test"), "test")
    await broker.append(broker.channels.declared, [record])


@asynccontextmanager
async def running_gateway(
    folder: Path,
    *,
    limits: Limits | None = None,
    ttl_s: float = 60.0,
    is_ready: bool = True,
    is_loaded: bool = True,
    broker_class: type[SqliteBroker] = SqliteBroker,
    **settings: Any,
) -> AsyncIterator[Gateway]:
    """Run a gateway with one model, `double` version 1, which no endpoint declares."""
    async with broker_class(folder / "broker.db", Channels()) as broker:
        await broker.declare(broker.channels.inputs("double", 1), limits or Limits())
        processor = DoublingProcessor(broker, "double", 1)
        processor.go.set()
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        stop, registry = asyncio.Event(), CollectorRegistry()
        configured = GatewaySettings(instance="gateway-test", port=0, **settings)
        results = SqliteResults(folder / "results.db", ttl_s=ttl_s)
        running = asyncio.create_task(
            run(broker, configured, b"secret", results, registry, stop, on_started=started.set_result), name="gateway"
        )
        await asyncio.wait((running, started), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        work = asyncio.create_task(processor.work())
        port = started.result()
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
                gateway = Gateway(broker, port, client, processor, registry, stop, running)
                await gateway.announce("double", 1, "ready", full=FULL)
                if is_loaded:
                    await gateway.catalog({"double": [1]})
                if is_ready:
                    await gateway.until("/v2/models/double/ready", 200)
                if is_ready and is_loaded:
                    await gateway.until("/v2/health/ready", 200)
                yield gateway
        finally:
            stop.set()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await running


@asynccontextmanager
async def second_gateway(gateway: Gateway, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Run a second gateway on the same broker, with the results store in `folder`; yield a client of it."""
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop, results = asyncio.Event(), SqliteResults(folder / "results.db", ttl_s=60.0)
    configured = GatewaySettings(instance="gateway-beside", port=0)
    running = asyncio.create_task(
        run(gateway.broker, configured, b"secret", results, CollectorRegistry(), stop, on_started=started.set_result)
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{await started}", timeout=PATIENCE_S) as client:

            async def ready() -> bool:
                return (await client.get("/v2/models/double/ready")).status_code == 200

            await until(ready)
            yield client
    finally:
        stop.set()
        await running
