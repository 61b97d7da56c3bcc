"""The router for clients of the queue ends every request with an answer, after any error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from prometheus_client import CollectorRegistry

from broker.base import Broker, Consumer
from broker.channels import Channels, Limits
from broker.errors import Refused
from broker.messages import FULL, NO_HEADERS, SAFE, Delivery, Message, Outcome, Record
from broker.records.declared import endpoint_declared, endpoint_withdrawn
from broker.records.endpoint import read_endpoint
from broker.sqlite.adapter import SqliteBroker
from router.service.endpoint import EndpointService
from router.service.metrics import RouterMetrics
from router.service.model_line import STUCK_S
from router.service.ranked_requests import RankerAnswers
from router.service.run import RouterService, RouterSettings
from router.state.view import View

CHANNELS = Channels()
REQUESTS = CHANNELS.requests("e")
PATIENCE_S = 10.0


class Broken(SqliteBroker):
    """Raises an unforeseen error for requests to the model `broken`."""

    async def forward(self, deliveries: Sequence[Delivery], messages: Sequence[Message]) -> list[Outcome]:
        if any(message.queue == CHANNELS.inputs("broken", 1) for message in messages):
            raise RuntimeError("nobody foresaw this")
        return await super().forward(deliveries, messages)


@asynccontextmanager
async def serving(broker: Broker, *models: str) -> AsyncIterator[View]:
    """Serve the endpoint `e` with an arm for each model; the models' queues are not there."""
    view = View(b"secret")
    declare(view, *models)
    for channel in (REQUESTS, CHANNELS.results("e"), CHANNELS.events("e"), "mine"):
        await broker.declare(channel)
    service = EndpointService(
        broker, view, "e", "router-test", RouterMetrics(CollectorRegistry()), RankerAnswers(broker, "r")
    )
    running = asyncio.create_task(service.run())
    try:
        yield view
    finally:
        await service.stop()
        await running


def declare(view: View, *models: str) -> None:
    arms = {f"v{number}": f"{model}@1" for number, model in enumerate(models, 1)}
    policy = {"split": dict.fromkeys(arms, 1)} if len(arms) > 1 else {}
    data = {"endpoint": "e", "arms": arms, **({"policy": policy} if policy else {})}
    endpoint = read_endpoint(data, source="test")
    view.fold_declared(Record(0, endpoint_declared(endpoint, "test"), NO_HEADERS))


async def send(broker: Broker, **timeouts_ms: int) -> None:
    """Send requests by correlation id, in one call: they come to the router together."""
    await broker.publish(
        [
            Message(queue=REQUESTS, body=b"{}", reply_to="mine", correlation_id=one, headers={"timeout_ms": timeout_ms})
            for one, timeout_ms in timeouts_ms.items()
        ]
    )


async def answers(broker: Broker, number: int) -> dict[str, tuple[str, str]]:
    """Return status and error of so many answers, by correlation id."""
    consumer = broker.consume("mine", 100)
    found: dict[str, tuple[str, str]] = {}
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < number:
            for delivery in await consumer.take(number):
                answer = delivery.message
                found[str(answer.correlation_id)] = answer.headers["status"], orjson.loads(answer.body)["error"]
                await broker.ack([delivery])
    await consumer.stop()
    return found


async def test_an_unforeseen_error_ends_its_requests_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Broken(tmp_path / "b.db", CHANNELS) as broker, serving(broker, "broken") as view:
        await send(broker, one=60_000, two=60_000)
        found = await answers(broker, 2)
        assert found == dict.fromkeys(("one", "two"), ("failed", "the router could not forward it to broken@1"))
        assert "nobody foresaw this" in caplog.text
        declare(view, "whole")
        await broker.declare(CHANNELS.inputs("whole", 1))
        await send(broker, three=60_000)
        async with asyncio.timeout(PATIENCE_S):
            assert len(await broker.consume(CHANNELS.inputs("whole", 1), 1).take(1)) == 1
    async with SqliteBroker(tmp_path / "b.db", CHANNELS) as later:
        assert (await later.depth(REQUESTS)).messages == 0


async def test_a_request_whose_queue_takes_nothing_expires_once_and_its_bundle_continues(tmp_path: Path) -> None:
    async with SqliteBroker(tmp_path / "b.db", CHANNELS) as broker, serving(broker, "away"):
        await send(broker, short=150, long=60_000)
        found = await answers(broker, 1)
        assert found == {
            "short": ("expired", "its model's queue took nothing for as long as was allowed (no such queue)")
        }
        queue = CHANNELS.inputs("away", 1)
        await broker.declare(queue)
        async with asyncio.timeout(PATIENCE_S):
            [delivery] = await broker.consume(queue, 1).take(1)
        assert delivery.message.count == 1
        await broker.ack([delivery])
        assert (await broker.depth("mine")).messages == 0


async def test_refusals_that_cannot_be_delivered_are_counted(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    async with SqliteBroker(tmp_path / "broker.db", Channels()) as broker:
        queue = broker.channels.requests("e")
        await broker.declare(queue)
        await broker.publish([Message(queue=queue, body=b"{}", reply_to="gone")] * 2)
        answers = RankerAnswers(broker, "router-test")
        service = EndpointService(broker, View(b"key"), "e", "router-test", RouterMetrics(registry), answers)
        running = asyncio.create_task(service.run())
        async with asyncio.timeout(10):
            while (await broker.depth(queue)).messages:  # noqa: ASYNC110 - a broker tells depth only when asked
                await asyncio.sleep(0.01)
            await service.stop()
            await running
    assert registry.get_sample_value("millrace_answers_dropped_total", {"reason": "no such queue"}) == 2


async def pinned(broker: Broker, arm: str, number: int, *, timeout_ms: int = 60_000) -> None:
    """Send requests that insist on an arm; each is named by the arm and a number."""
    headers = {"timeout_ms": timeout_ms, "millrace-arm": arm}
    await broker.publish(
        [
            Message(queue=REQUESTS, body=b"{}", reply_to="mine", correlation_id=f"{arm}-{at}", headers=headers)
            for at in range(number)
        ]
    )


async def test_an_arm_whose_queue_is_not_there_holds_up_no_other_one(tmp_path: Path) -> None:
    """Any client could stop an endpoint with requests that insist on an arm that does not load."""
    async with SqliteBroker(tmp_path / "b.db", CHANNELS) as broker, serving(broker, "away", "whole"):
        whole = CHANNELS.inputs("whole", 1)
        await broker.declare(whole)
        await pinned(broker, "v1", 1500)
        await pinned(broker, "v2", 5)
        consumer, came = broker.consume(whole, 100), 0
        async with asyncio.timeout(PATIENCE_S + STUCK_S):
            while came < 5:
                came += sum(delivery.message.count for delivery in await consumer.take(5))
        refused = await answers(broker, 1000)
        assert {status for status, _ in refused.values()} == {"overloaded"}
        assert {error.split(" ", 1)[1] for _, error in refused.values()} == {
            "requests wait for away@1 already, and none gets through"
        }
        assert {name.split("-")[0] for name in refused} == {"v1"}


async def test_an_arm_whose_replicas_hang_holds_up_no_other_one(tmp_path: Path) -> None:
    async with SqliteBroker(tmp_path / "b.db", CHANNELS) as broker, serving(broker, "hung", "whole"):
        for model in ("hung", "whole"):
            await broker.declare(CHANNELS.inputs(model, 1))
        await pinned(broker, "v1", 1500)  # they fill its queue as far as they may, and then its line
        await pinned(broker, "v2", 5)
        consumer, came = broker.consume(CHANNELS.inputs("whole", 1), 100), 0
        async with asyncio.timeout(PATIENCE_S + STUCK_S):
            while came < 5:
                came += sum(delivery.message.count for delivery in await consumer.take(5))


async def test_requests_before_a_hung_arm_expire_in_time(tmp_path: Path) -> None:
    async with SqliteBroker(tmp_path / "b.db", CHANNELS) as broker, serving(broker, "hung"):
        await broker.declare(CHANNELS.inputs("hung", 1))
        await pinned(broker, "v1", 256)
        await until_depth(broker, CHANNELS.inputs("hung", 1), 256)
        await send(broker, late=500)
        found = await answers(broker, 1)
        assert found == {"late": ("expired", "its model's queue had no room for as long as was allowed")}


async def test_a_single_slow_arm_makes_requests_wait_and_refuses_none(tmp_path: Path) -> None:
    async with SqliteBroker(tmp_path / "b.db", CHANNELS) as broker, serving(broker, "slow"):
        queue = CHANNELS.inputs("slow", 1)
        await broker.declare(queue)
        await pinned(broker, "v1", 2000)
        consumer, came = broker.consume(queue, 1000), 0
        async with asyncio.timeout(6 * PATIENCE_S):
            while came < 2000:
                deliveries = await consumer.take(100)
                came += sum(delivery.message.count for delivery in deliveries)
                await broker.ack(deliveries)
        assert (await broker.depth("mine")).messages == 0


async def until_depth(broker: Broker, queue: str, requests: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await broker.depth(queue)).requests < requests:  # noqa: ASYNC110 - a broker tells depth only when asked
            await asyncio.sleep(0.01)


class Refusing(SqliteBroker):
    """Does not allow the queue of the endpoint `bad`, until told to."""

    allows = False

    async def _make(self, channel: str, limits: Limits) -> None:
        if channel == CHANNELS.requests("bad") and not self.allows:
            raise Refused("the queue is of another type")
        await super()._make(channel, limits)


async def test_an_endpoint_whose_queue_is_refused_is_named_and_the_others_are_served(tmp_path: Path) -> None:
    view = View(b"secret")
    for name in ("bad", "e"):
        endpoint = read_endpoint({"endpoint": name, "arms": {"v1": "whole@1"}}, source="test")
        view.fold_declared(Record(0, endpoint_declared(endpoint, "test"), NO_HEADERS))
    registry = CollectorRegistry()
    async with Refusing(tmp_path / "b.db", CHANNELS) as broker:
        metrics = RouterMetrics(registry)
        service = RouterService(broker, view, RouterSettings(instance="r", limits=Limits(messages=7)), metrics)
        metrics.watch(service.problems)
        service.serve_new()
        async with asyncio.timeout(PATIENCE_S):
            while await broker.missing([REQUESTS]) or not service.problems():  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.01)
        assert service.problems() == {"bad": "the queue is of another type"}
        assert registry.get_sample_value("millrace_endpoints_refused") == 1
        await broker.declare(CHANNELS.inputs("whole", 1))
        await send(broker, one=60_000)
        async with asyncio.timeout(PATIENCE_S):
            assert len(await broker.consume(CHANNELS.inputs("whole", 1), 1).take(1)) == 1
        broker.allows = True
        async with asyncio.timeout(PATIENCE_S):
            while service.problems():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        assert not await broker.missing([CHANNELS.requests("bad")])
        await service.close()


async def test_a_refused_endpoint_that_is_withdrawn_is_no_problem_any_more_and_gets_no_queue(tmp_path: Path) -> None:
    view = View(b"secret")
    endpoint = read_endpoint({"endpoint": "bad", "arms": {"v1": "whole@1"}}, source="test")
    view.fold_declared(Record(0, endpoint_declared(endpoint, "test"), NO_HEADERS))
    async with Refusing(tmp_path / "b.db", CHANNELS) as broker:
        service = RouterService(broker, view, RouterSettings(instance="r"), RouterMetrics(CollectorRegistry()))
        service.serve_new()
        async with asyncio.timeout(PATIENCE_S):
            while not service.problems():  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.01)
        view.fold_declared(Record(1, endpoint_withdrawn("bad", "test"), NO_HEADERS))
        broker.allows = True
        async with asyncio.timeout(PATIENCE_S):
            while service.problems():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        assert await broker.missing([CHANNELS.requests("bad")])
        await service.close()


class Slow(SqliteBroker):
    """Takes for ever to declare the queues of new endpoints."""

    async def _make(self, channel: str, limits: Limits) -> None:
        if "requests.new" in channel:
            await asyncio.Event().wait()
        await super()._make(channel, limits)


async def test_an_endpoint_whose_queue_is_there_waits_for_no_declaration_of_others(tmp_path: Path) -> None:
    """A router that started again with thousands of endpoints declared them all, in their order, before it served."""
    view = View(b"secret")
    for name in [*[f"new{at}" for at in range(30)], "e"]:
        endpoint = read_endpoint({"endpoint": name, "arms": {"v1": "whole@1"}}, source="test")
        view.fold_declared(Record(0, endpoint_declared(endpoint, "test"), NO_HEADERS))
    async with Slow(tmp_path / "b.db", CHANNELS) as broker:
        for queue in (REQUESTS, CHANNELS.inputs("whole", 1)):
            await broker.declare(queue)
        service = RouterService(broker, view, RouterSettings(instance="r"), RouterMetrics(CollectorRegistry()))
        service.serve_new()
        await send(broker, one=60_000)
        async with asyncio.timeout(PATIENCE_S):
            assert len(await broker.consume(CHANNELS.inputs("whole", 1), 1).take(1)) == 1
        await service.close()


async def test_a_queue_is_not_consumed_while_it_is_being_declared(tmp_path: Path) -> None:
    """RabbitMQ 3.10 ends the connection of who does, and with it all that the others were about to settle."""
    consumed: list[str] = []

    class Watching(Slow):
        def consume(self, queue: str, prefetch: int) -> Consumer:
            consumed.append(queue)
            return super().consume(queue, prefetch)

    view = View(b"secret")
    for name in ("new", "e"):
        endpoint = read_endpoint({"endpoint": name, "arms": {"v1": "whole@1"}}, source="test")
        view.fold_declared(Record(0, endpoint_declared(endpoint, "test"), NO_HEADERS))
    async with Watching(tmp_path / "b.db", CHANNELS) as broker:
        service = RouterService(broker, view, RouterSettings(instance="r"), RouterMetrics(CollectorRegistry()))
        service.serve_new()
        async with asyncio.timeout(PATIENCE_S):
            while REQUESTS not in consumed:  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.01)
        assert CHANNELS.requests("new") not in consumed
        assert not await broker.missing([REQUESTS])
        await service.close()


async def test_the_queue_of_clients_has_a_limit(tmp_path: Path) -> None:
    view = View(b"secret")
    declare(view, "whole")
    async with SqliteBroker(tmp_path / "b.db", CHANNELS) as broker:
        settings = RouterSettings(instance="r", limits=Limits(messages=7))
        service = RouterService(broker, view, settings, RouterMetrics(CollectorRegistry()))
        service.serve_new()
        async with asyncio.timeout(PATIENCE_S):
            while await broker.missing([REQUESTS]):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        await service.close()
        outcomes = await broker.publish([Message(queue=REQUESTS, body=b"{}")] * 8)
        assert outcomes == [SAFE] * 7 + [FULL]
