"""The outcomes of requests inside a processor, for any behaviour of the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from broker.channels import Channels
from broker.errors import Failed
from broker.messages import NO_QUEUE, TOO_LARGE, UNKNOWN, Delivery, Message, Outcome
from broker.protocol.bundle import bundle, single
from broker.protocol.header import BodyForm, pack_head, pack_route, pack_ticket
from broker.sqlite.adapter import SqliteBroker
from broker.tensor.datatypes import Array
from broker.tensor.inference import TensorSpec
from broker.tensor.tensors import assemble
from processors.pipeline import PipelineSettings
from tests.processors.pipeline_harness import ROUTE, Compute, bundled, request, running_pipeline

GUILTY = 666.0


class Unprintable(Exception):
    """An error whose text raises."""

    def __str__(self) -> str:
        raise ValueError


class Deadly(Exception):
    """An error whose text would end the interpreter."""

    def __str__(self) -> str:
        raise SystemExit(3)


def raising(error: BaseException) -> Compute:
    """Return a model that raises for the number GUILTY, and otherwise returns its input."""

    def compute(inputs: dict[str, Array]) -> Mapping[str, Array]:
        if (inputs["x"] == GUILTY).any():
            raise error
        return {"y": inputs["x"], "z": inputs["x"]}

    return compute


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("file \udcff.txt"), "model m failed: ValueError: file ?.txt"),
        (Failed("file \udcff.txt"), "file ?.txt"),
        (KeyboardInterrupt(), "model m failed: KeyboardInterrupt:"),
        (GeneratorExit(), "model m failed: GeneratorExit:"),
        (asyncio.CancelledError(), "model m failed: CancelledError:"),
        (BaseException("x"), "model m failed: BaseException: x"),
        (Unprintable(), "model m failed: Unprintable: its text cannot be read"),
        (Deadly(), "model m failed: Deadly: its text cannot be read"),
    ],
)
async def test_any_exception_of_a_model_fails_only_the_request_that_caused_it(
    tmp_path: Path, error: BaseException, message: str
) -> None:
    async with running_pipeline(tmp_path, raising(error)) as harness:
        requests = [request(1), request(GUILTY), request(2)]
        await harness.publish(bundled(harness.pipeline.queue, requests))
        await harness.serve()
        answers = await harness.answers()
        assert [answers[one.uid][0] for one in requests] == ["ok", "failed", "ok"]
        assert answers[requests[1].uid][1] == {"error": message}
        rows = {row["uid"]: (row["status"], row["error"]) for row in await harness.rows()}
        assert rows == {
            requests[0].uid: ("ok", None),
            requests[1].uid: ("failed", message),
            requests[2].uid: ("ok", None),
        }


async def test_a_batch_that_does_not_fit_into_memory_is_computed_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def assembled(batch: Sequence[Mapping[str, Array]], specs: Sequence[TensorSpec]) -> dict[str, Array]:
        if len(batch) > 1 or (batch[0]["x"] == GUILTY).any():
            raise MemoryError
        return assemble(batch, specs)

    monkeypatch.setattr("processors.model.assemble", assembled)
    async with running_pipeline(tmp_path, raising(ValueError("never"))) as harness:
        requests = [request(1), request(GUILTY), request(2)]
        await harness.publish(bundled(harness.pipeline.queue, requests))
        await harness.serve()
        answers = await harness.answers()
        assert [answers[one.uid][0] for one in requests] == ["ok", "failed", "ok"]
        assert answers[requests[1].uid][1] == {"error": "model m: no memory for the inputs of 1 requests"}


def texts(guilty: object) -> Compute:
    """Return a model whose `y` is text, and `guilty` for the number GUILTY."""

    def compute(inputs: dict[str, Array]) -> Mapping[str, Array]:
        found = [[guilty if value == GUILTY else "fine"] for value in inputs["x"].ravel().tolist()]
        return {"y": np.array(found, object), "z": inputs["x"]}

    return compute


@pytest.mark.parametrize("guilty", ["\udcff", 7])
async def test_an_output_that_is_not_text_fails_only_its_own_request(tmp_path: Path, guilty: object) -> None:
    async with running_pipeline(tmp_path, texts(guilty), output="TYPE_STRING") as harness:
        requests = [request(1), request(GUILTY)]
        await harness.publish(bundled(harness.pipeline.queue, requests))
        await harness.serve()
        answers = await harness.answers()
        assert [answers[one.uid][0] for one in requests] == ["ok", "failed"]
        assert answers[requests[1].uid][1]["error"].startswith("the model's output y holds ")
        assert sorted(row["status"] for row in await harness.rows()) == ["failed", "ok"]


@pytest.mark.parametrize(
    "compute",
    [
        texts("\udcff"),
        texts(7),
        lambda inputs: {"y": np.array([["\udcff"]]), "z": inputs["x"]},
        lambda inputs: {"y": np.array([[b"a"]]), "z": inputs.pop("x").astype(">f4")},
    ],
)
async def test_a_row_without_tensors_is_written_if_arrow_cannot_hold_them(
    tmp_path: Path, compute: Callable[[dict[str, Array]], Mapping[str, Array]]
) -> None:
    async with running_pipeline(tmp_path, compute, output="TYPE_STRING") as harness:
        await harness.publish(bundled(harness.pipeline.queue, [request(GUILTY, output="z")]))
        await harness.serve()
        assert [status for status, _ in (await harness.answers()).values()] == ["ok"]
        (row,) = await harness.rows()
        assert row["status"] == "ok"
        assert "output.y" not in row


class RefusingRetryQueue(SqliteBroker):
    """Gives the same outcome for everything that is published to a retry queue."""

    outcome = TOO_LARGE

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        if any(".retry." in message.queue for message in messages):
            return [self.outcome] * len(messages)
        return await super().publish(messages)


class MissingRetryQueue(RefusingRetryQueue):
    outcome = NO_QUEUE


class UncertainRetryQueue(RefusingRetryQueue):
    outcome = UNKNOWN


AGAIN = {"on": ["failed"], "attempts": 3}
IMPATIENT = PipelineSettings(instance="test", retry_patience_s=0.01)


async def test_a_failed_request_that_is_retried_waits_unanswered_in_the_retry_queue(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, raising(ValueError("no")), retry=AGAIN) as harness:
        requests = [request(1), request(GUILTY)]
        await harness.publish(bundled(harness.pipeline.queue, requests))
        await harness.serve()
        assert set(await harness.answers()) == {requests[0].uid}
        assert [row["uid"] for row in await harness.rows()] == [requests[0].uid]
        assert harness.pipeline.acks.held == 0
        (delayed,) = await harness.retried(1)
        assert (delayed.uid, delayed.attempts) == (requests[1].uid, 1)


@pytest.mark.parametrize("kind", [RefusingRetryQueue, MissingRetryQueue, UncertainRetryQueue])
async def test_a_failed_request_that_the_retry_queue_refuses_is_answered_and_has_its_row(
    tmp_path: Path, kind: type[SqliteBroker]
) -> None:
    async with running_pipeline(
        tmp_path, raising(ValueError("no")), broker_class=kind, retry=AGAIN, settings=IMPATIENT
    ) as harness:
        guilty = request(GUILTY)
        await harness.publish(bundled(harness.pipeline.queue, [guilty]))
        await harness.serve()
        error = "model m failed: ValueError: no"
        assert await harness.answers() == {guilty.uid: ("failed", {"error": error})}
        assert [(row["uid"], row["status"], row["error"]) for row in await harness.rows()] == [
            (guilty.uid, "failed", error)
        ]
        assert harness.pipeline.acks.held == 0
        assert not await harness.retried(0)


def routed(route: bytes) -> Message:
    """Return a message with these bytes as its route."""
    one = request()
    header = pack_head(BodyForm.SINGLE, 1, route) + pack_ticket(one, 0)
    return Message(queue="", body=bytes(one.body), header=header)


def patched(**texts: str) -> bytes:
    """Return the bytes of a route with texts that our own code never writes."""
    marks = {
        name: chr(ord("A") + number) * len(text.encode("utf-8", "surrogateescape"))
        for number, (name, text) in enumerate(texts.items())
    }
    data = pack_route(replace(ROUTE, **marks))  # type: ignore[arg-type]  # all of them are texts
    for name, text in texts.items():
        data = data.replace(marks[name].encode(), text.encode("utf-8", "surrogateescape"))
    return data


WRONG = {
    "a leg that no row has room for": routed(pack_route(replace(ROUTE, leg=300))),
    "a tenant that is no text": routed(patched(tenant="te\udcffnant")),
    "a reply address that is no text": routed(patched(reply_to="re\udcffply")),
    "a reply address too long for any queue": routed(pack_route(replace(ROUTE, reply_to="q" * 300))),
    "a route of many bytes": routed(pack_route(replace(ROUTE, policy="p" * 20_000))),
    "an endpoint that is no name": routed(pack_route(replace(ROUTE, endpoint="a b/..*"))),
    "no endpoint": routed(pack_route(replace(ROUTE, endpoint=""))),
    "extra that is not JSON": single("", request(extra=b"{not json")),
    "extra that is no object": single("", request(extra=b"[1]")),
    "CloudEvents attributes that are none": single("", request(extra=b'{"cloud_events": [1]}')),
    "a CloudEvents id that is no text": single("", request(extra=b'{"cloud_events": {"id": {}}}')),
    "a correlation id too long for any broker": single("", request(correlation="c" * 300)),
    "texts that fit no header": single("", request(key="k" * 40_000)),
    "a bundle of none": bundle("", BodyForm.BUNDLE, pack_route(ROUTE), [], 0),
    "a bundle with bytes behind it": bundle("", BodyForm.BUNDLE, pack_route(ROUTE), [b"x"], 0),
    "a header of nothing": Message(queue="", body=b"x", header=b"\x01"),
    "no header": Message(queue="", body=b"x"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_a_message_that_breaks_the_contract_is_buried_and_the_others_are_served(
    tmp_path: Path, wrong: Message
) -> None:
    async with running_pipeline(tmp_path, raising(ValueError("no"))) as harness:
        queue, good = harness.pipeline.queue, request(1)
        await harness.publish(replace(wrong, queue=queue), bundled(queue, [good]))
        await harness.serve()
        (buried,) = await harness.take_all(harness.broker.channels.dead(queue))
        assert (buried.body, buried.header) == (wrong.body, wrong.header)
        assert buried.headers["millrace-dead-reason"] == "unreadable"
        assert set(await harness.answers()) == {good.uid}
        assert harness.pipeline.acks.held == 0


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_a_message_that_breaks_the_contract_is_buried_from_the_retry_queue_too(
    tmp_path: Path, wrong: Message
) -> None:
    async with running_pipeline(tmp_path, raising(ValueError("no"))) as harness:
        lane = harness.broker.channels.retry(harness.pipeline.queue)
        await harness.publish(replace(wrong, queue=lane))
        await harness.serve_alone()
        await harness.pipeline.drain()
        assert len(await harness.take_all(harness.broker.channels.dead(lane))) == 1


async def test_empty_bundles_do_not_raise_the_prefetch(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, raising(ValueError("no"))) as harness:
        empty = replace(WRONG["a bundle of none"], queue=harness.pipeline.queue)
        for _ in range(30):
            await harness.publish(empty)
            await harness.serve()
        assert harness.pipeline.prefetch <= 64


async def test_a_request_at_the_limit_of_attempts_is_given_up(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, raising(ValueError("no"))) as harness:
        one = request(attempts=0xFFFF)
        lane = harness.broker.channels.retry(harness.pipeline.queue)
        await harness.publish(single(lane, one))
        consumer = harness.broker.consume(lane, 1)
        await harness.broker.requeue(await consumer.take(1))
        await consumer.stop()
        await harness.serve_alone()
        assert [status for status, _ in (await harness.answers()).values()] == ["failed"]
        assert [row["attempts"] for row in await harness.rows()] == [0xFFFF]


async def test_answers_without_a_queue_are_counted_and_delay_nothing(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, raising(ValueError("no"))) as harness:
        gone = replace(ROUTE, reply_to="gone")
        await harness.publish(bundled(harness.pipeline.queue, [request(1, gone), request(GUILTY, gone)]))
        await harness.serve()
        labels = {"model": "m", "version": "1", "reason": "no such queue"}
        assert harness.registry.get_sample_value("millrace_answers_dropped_total", labels) == 2
        assert harness.pipeline.acks.held == 0


class SlowRows(SqliteBroker):
    """Confirms events late, and records the order of rows, acks and burials."""

    def __init__(self, path: Path, channels: Channels) -> None:
        super().__init__(path, channels)
        self.order: list[str] = []

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        if any(".events." in message.queue for message in messages):
            await asyncio.sleep(0.1)  # longer than an idle drain would take
            outcomes = await super().publish(messages)
            self.order.append("row")
            return outcomes
        return await super().publish(messages)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.order.append("ack")
        await super().ack(deliveries)

    async def bury(self, delivery: Delivery, *, reason: str, attempts: int, error: str) -> list[Outcome]:
        self.order.append("burial")
        return await super().bury(delivery, reason=reason, attempts=attempts, error=error)


async def test_a_drained_pipeline_has_written_its_rows_before_its_acks(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, raising(ValueError("no")), broker_class=SlowRows) as harness:
        await harness.publish(bundled(harness.pipeline.queue, [request(1), request(2)]))
        await harness.serve()
        assert isinstance(harness.broker, SlowRows)
        assert harness.broker.order == ["row", "ack"]
        assert len(await harness.rows()) == 2
        assert harness.pipeline.acks.held == 0


async def test_a_request_that_is_given_up_has_its_row_before_it_is_buried(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, raising(ValueError("no")), broker_class=SlowRows) as harness:
        one = request(attempts=3)
        await harness.publish(single(harness.broker.channels.retry(harness.pipeline.queue), one))
        await harness.serve_alone()
        assert isinstance(harness.broker, SlowRows)
        assert harness.broker.order == ["row", "burial"]
        assert [(row["uid"], row["status"]) for row in await harness.rows()] == [(one.uid, "failed")]
        assert {status for status, _ in (await harness.answers()).values()} == {"failed"}
        assert harness.pipeline.acks.held == 0


async def test_rows_of_a_batch_with_requests_to_two_endpoints_keep_their_own_tensors(tmp_path: Path) -> None:
    """True labels are compared with logged outputs, so a model that two endpoints share must log them for both."""
    other = replace(ROUTE, endpoint="f")
    async with running_pipeline(tmp_path, lambda inputs: {"y": inputs["x"] * 10, "z": inputs["x"]}) as harness:
        for route, values in ((ROUTE, (1.0, 2.0)), (other, (3.0,)), (ROUTE, (4.0,))):
            await harness.publish(bundled(harness.pipeline.queue, [request(value, route) for value in values]))
        await harness.serve()
        for endpoint, sent in (("e", [1.0, 2.0, 4.0]), ("f", [3.0])):
            rows = sorted(await harness.rows(endpoint), key=lambda row: float(row["input.x"]))
            assert [row["input.x"] for row in rows] == sent
            assert [row["output.y"] for row in rows] == [10 * value for value in sent]
            assert {row["batch"] for row in rows} == {4}


async def test_an_output_that_cannot_be_encoded_removes_the_tensors_of_its_own_row_only(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, texts("\udcff"), output="TYPE_STRING") as harness:
        await harness.publish(bundled(harness.pipeline.queue, [request(1), request(GUILTY), request(2)]))
        await harness.serve()
        rows = {row["status"]: row for row in await harness.rows()}
        assert rows["ok"]["output.y"] == b"fine"
        assert "output.y" not in rows["failed"]


async def test_computed_and_failed_requests_are_in_the_statistics(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, raising(ValueError("no"))) as harness:
        await harness.publish(bundled(harness.pipeline.queue, [request(1), request(GUILTY), request(2)]))
        await harness.serve()
        did = harness.metrics.statistics
        assert (did.success.count, did.fail.count, did.queue.count, did.compute.count, did.rows) == (2, 1, 2, 2, 2)
        assert sum(size * it.count for size, it in did.batches.items()) == 2
        assert did.last_ms > 0
