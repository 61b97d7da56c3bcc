"""What becomes of requests inside a processor, whatever the model does with them."""

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
from broker.protocol.bundle import bundle
from broker.protocol.header import BodyForm, pack_head, pack_route, pack_ticket
from broker.sqlite.adapter import SqliteBroker
from broker.tensor.datatypes import Array
from broker.tensor.inference import TensorSpec
from broker.tensor.tensors import assemble
from processors import retry_queue as lane
from tests.processors.piping import ROUTE, Compute, alone, bundled, piped, request

GUILTY = 666.0


class Unprintable(Exception):
    """An error of a model that does not even have a text."""

    def __str__(self) -> str:
        raise ValueError


class Deadly(Exception):
    """One whose text would end the interpreter."""

    def __str__(self) -> str:
        raise SystemExit(3)


def raising(error: BaseException) -> Compute:
    """Return a model that raises for the guilty number, and else gives back what it was given."""

    def compute(inputs: dict[str, Array]) -> Mapping[str, Array]:
        if (inputs["x"] == GUILTY).any():
            raise error
        return {"y": inputs["x"], "z": inputs["x"]}

    return compute


@pytest.mark.parametrize(
    ("error", "says"),
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
async def test_whatever_a_model_raises_only_the_guilty_request_fails(
    tmp_path: Path, error: BaseException, says: str
) -> None:
    async with piped(tmp_path, raising(error)) as pipe:
        requests = [request(1), request(GUILTY), request(2)]
        await pipe.put(bundled(pipe.pipeline.queue, requests))
        await pipe.serve()
        answers = await pipe.answers()
        assert [answers[one.uid][0] for one in requests] == ["ok", "failed", "ok"]
        assert answers[requests[1].uid][1] == {"error": says}
        rows = {row["uid"]: (row["status"], row["error"]) for row in await pipe.rows()}
        assert rows == {requests[0].uid: ("ok", None), requests[1].uid: ("failed", says), requests[2].uid: ("ok", None)}


async def test_a_batch_that_does_not_fit_into_memory_is_computed_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def assembled(batch: Sequence[Mapping[str, Array]], specs: Sequence[TensorSpec]) -> dict[str, Array]:
        if len(batch) > 1 or (batch[0]["x"] == GUILTY).any():
            raise MemoryError
        return assemble(batch, specs)

    monkeypatch.setattr("processors.model.assemble", assembled)
    async with piped(tmp_path, raising(ValueError("never"))) as pipe:
        requests = [request(1), request(GUILTY), request(2)]
        await pipe.put(bundled(pipe.pipeline.queue, requests))
        await pipe.serve()
        answers = await pipe.answers()
        assert [answers[one.uid][0] for one in requests] == ["ok", "failed", "ok"]
        assert answers[requests[1].uid][1] == {"error": "model m: no memory for the inputs of 1 requests"}


def texts(guilty: object) -> Compute:
    """Return a model whose `y` is text, and something else for the guilty number."""

    def compute(inputs: dict[str, Array]) -> Mapping[str, Array]:
        found = [[guilty if value == GUILTY else "fine"] for value in inputs["x"].ravel().tolist()]
        return {"y": np.array(found, object), "z": inputs["x"]}

    return compute


@pytest.mark.parametrize("guilty", ["\udcff", 7])
async def test_an_output_that_is_no_text_fails_its_own_request(tmp_path: Path, guilty: object) -> None:
    async with piped(tmp_path, texts(guilty), output="TYPE_STRING") as pipe:
        requests = [request(1), request(GUILTY)]
        await pipe.put(bundled(pipe.pipeline.queue, requests))
        await pipe.serve()
        answers = await pipe.answers()
        assert [answers[one.uid][0] for one in requests] == ["ok", "failed"]
        assert answers[requests[1].uid][1]["error"].startswith("the model's output y holds ")
        assert sorted(row["status"] for row in await pipe.rows()) == ["failed", "ok"]


@pytest.mark.parametrize(
    "compute",
    [
        texts("\udcff"),
        texts(7),
        lambda inputs: {"y": np.array([["\udcff"]]), "z": inputs["x"]},
        lambda inputs: {"y": np.array([[b"a"]]), "z": inputs.pop("x").astype(">f4")},
    ],
)
async def test_tensors_that_arrow_cannot_hold_cost_the_row_nothing_but_them(
    tmp_path: Path, compute: Callable[[dict[str, Array]], Mapping[str, Array]]
) -> None:
    async with piped(tmp_path, compute, output="TYPE_STRING") as pipe:
        await pipe.put(bundled(pipe.pipeline.queue, [request(GUILTY, asks="z")]))
        await pipe.serve()
        assert [status for status, _ in (await pipe.answers()).values()] == ["ok"]
        (row,) = await pipe.rows()
        assert row["status"] == "ok"
        assert "output.y" not in row


class LaneSays(SqliteBroker):
    """Says the same of whatever is published to a retry lane."""

    outcome = TOO_LARGE

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        if any(".retry." in message.queue for message in messages):
            return [self.outcome] * len(messages)
        return await super().publish(messages)


class LaneGone(LaneSays):
    outcome = NO_QUEUE


class LaneUnsure(LaneSays):
    outcome = UNKNOWN


AGAIN = {"on": ["failed"], "attempts": 3}


async def test_a_failed_request_that_is_wanted_again_waits_in_the_lane_unanswered(tmp_path: Path) -> None:
    async with piped(tmp_path, raising(ValueError("no")), retry=AGAIN) as pipe:
        requests = [request(1), request(GUILTY)]
        await pipe.put(bundled(pipe.pipeline.queue, requests))
        await pipe.serve()
        assert set(await pipe.answers()) == {requests[0].uid}
        assert [row["uid"] for row in await pipe.rows()] == [requests[0].uid]
        assert pipe.pipeline.acks.held == 0
        (delayed,) = await pipe.lane(1)
        assert (delayed.uid, delayed.attempts) == (requests[1].uid, 1)


@pytest.mark.parametrize("kind", [LaneSays, LaneGone, LaneUnsure])
async def test_a_failed_request_that_the_lane_does_not_take_is_answered_and_has_its_row(
    tmp_path: Path, kind: type[SqliteBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "PATIENCE_S", 0.01)
    async with piped(tmp_path, raising(ValueError("no")), kind=kind, retry=AGAIN) as pipe:
        guilty = request(GUILTY)
        await pipe.put(bundled(pipe.pipeline.queue, [guilty]))
        await pipe.serve()
        said = "model m failed: ValueError: no"
        assert await pipe.answers() == {guilty.uid: ("failed", {"error": said})}
        assert [(row["uid"], row["status"], row["error"]) for row in await pipe.rows()] == [
            (guilty.uid, "failed", said)
        ]
        assert pipe.pipeline.acks.held == 0
        assert not await pipe.lane(0)


def routed(route: bytes) -> Message:
    """Return a message whose route is these bytes."""
    one = request()
    header = pack_head(BodyForm.SINGLE, 1, route) + pack_ticket(one, 0)
    return Message(queue="", body=bytes(one.body), header=header)


def patched(**texts: str) -> bytes:
    """Return the bytes of a route with texts that no part of ours would write."""
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
    "extra that is not JSON": alone("", request(extra=b"{not json")),
    "extra that is no object": alone("", request(extra=b"[1]")),
    "CloudEvents attributes that are none": alone("", request(extra=b'{"cloud_events": [1]}')),
    "a CloudEvents id that is no text": alone("", request(extra=b'{"cloud_events": {"id": {}}}')),
    "a correlation id too long for any broker": alone("", request(correlation="c" * 300)),
    "texts that fit no header": alone("", request(key="k" * 40_000)),
    "a bundle of none": bundle("", BodyForm.BUNDLE, pack_route(ROUTE), [], 0),
    "a bundle with bytes behind it": bundle("", BodyForm.BUNDLE, pack_route(ROUTE), [b"x"], 0),
    "a header of nothing": Message(queue="", body=b"x", header=b"\x01"),
    "no header": Message(queue="", body=b"x"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_a_message_out_of_the_contract_is_buried_and_the_others_are_served(
    tmp_path: Path, wrong: Message
) -> None:
    async with piped(tmp_path, raising(ValueError("no"))) as pipe:
        queue, good = pipe.pipeline.queue, request(1)
        await pipe.put(replace(wrong, queue=queue), bundled(queue, [good]))
        await pipe.serve()
        (buried,) = await pipe.waiting(pipe.broker.channels.dead(queue))
        assert (buried.body, buried.header) == (wrong.body, wrong.header)
        assert buried.headers["millrace-dead-reason"] == "unreadable"
        assert set(await pipe.answers()) == {good.uid}
        assert pipe.pipeline.acks.held == 0


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_a_message_out_of_the_contract_is_buried_from_the_lane_too(tmp_path: Path, wrong: Message) -> None:
    async with piped(tmp_path, raising(ValueError("no"))) as pipe:
        lane = pipe.broker.channels.retry(pipe.pipeline.queue)
        await pipe.put(replace(wrong, queue=lane))
        await pipe.serve_alone()
        await pipe.pipeline.drain()
        assert len(await pipe.waiting(pipe.broker.channels.dead(lane))) == 1


async def test_messages_that_say_they_carry_nothing_do_not_widen_what_is_held(tmp_path: Path) -> None:
    async with piped(tmp_path, raising(ValueError("no"))) as pipe:
        empty = replace(WRONG["a bundle of none"], queue=pipe.pipeline.queue)
        for _ in range(30):
            await pipe.put(empty)
            await pipe.serve()
        assert pipe.pipeline.prefetch <= 64


async def test_a_count_of_attempts_at_its_limit_is_given_up(tmp_path: Path) -> None:
    async with piped(tmp_path, raising(ValueError("no"))) as pipe:
        one = request(attempts=0xFFFF)
        lane = pipe.broker.channels.retry(pipe.pipeline.queue)
        await pipe.put(alone(lane, one))
        consumer = pipe.broker.consume(lane, 1)
        await pipe.broker.requeue(await consumer.take(1))
        await consumer.stop()
        await pipe.serve_alone()
        assert [status for status, _ in (await pipe.answers()).values()] == ["failed"]
        assert [row["attempts"] for row in await pipe.rows()] == [0xFFFF]


async def test_answers_that_nobody_can_be_given_are_counted_and_hold_up_nothing(tmp_path: Path) -> None:
    async with piped(tmp_path, raising(ValueError("no"))) as pipe:
        gone = replace(ROUTE, reply_to="gone")
        await pipe.put(bundled(pipe.pipeline.queue, [request(1, gone), request(GUILTY, gone)]))
        await pipe.serve()
        labels = {"model": "m", "version": "1", "reason": "no such queue"}
        assert pipe.registry.get_sample_value("millrace_answers_dropped_total", labels) == 2
        assert pipe.pipeline.acks.held == 0


class SlowRows(SqliteBroker):
    """Takes events late; notes whether what was acked or buried had its rows by then."""

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


async def test_a_drained_pipeline_has_written_its_rows_and_acked(tmp_path: Path) -> None:
    async with piped(tmp_path, raising(ValueError("no")), kind=SlowRows) as pipe:
        await pipe.put(bundled(pipe.pipeline.queue, [request(1), request(2)]))
        await pipe.serve()
        assert isinstance(pipe.broker, SlowRows)
        assert pipe.broker.order == ["row", "ack"]
        assert len(await pipe.rows()) == 2
        assert pipe.pipeline.acks.held == 0


async def test_a_request_that_is_given_up_has_its_row_before_it_is_buried(tmp_path: Path) -> None:
    async with piped(tmp_path, raising(ValueError("no")), kind=SlowRows) as pipe:
        one = request(attempts=3)
        await pipe.put(alone(pipe.broker.channels.retry(pipe.pipeline.queue), one))
        await pipe.serve_alone()
        assert isinstance(pipe.broker, SlowRows)
        assert pipe.broker.order == ["row", "burial"]
        assert [(row["uid"], row["status"]) for row in await pipe.rows()] == [(one.uid, "failed")]
        assert {status for status, _ in (await pipe.answers()).values()} == {"failed"}
        assert pipe.pipeline.acks.held == 0


async def test_rows_of_a_batch_with_requests_to_two_endpoints_keep_their_own_tensors(tmp_path: Path) -> None:
    """Rewards from true labels are scored by logged outputs: a model that two endpoints share has to log them."""
    other = replace(ROUTE, endpoint="f")
    async with piped(tmp_path, lambda inputs: {"y": inputs["x"] * 10, "z": inputs["x"]}) as pipe:
        for route, values in ((ROUTE, (1.0, 2.0)), (other, (3.0,)), (ROUTE, (4.0,))):
            await pipe.put(bundled(pipe.pipeline.queue, [request(value, route) for value in values]))
        await pipe.serve()
        for endpoint, sent in (("e", [1.0, 2.0, 4.0]), ("f", [3.0])):
            rows = sorted(await pipe.rows(endpoint), key=lambda row: float(row["input.x"]))
            assert [row["input.x"] for row in rows] == sent
            assert [row["output.y"] for row in rows] == [10 * value for value in sent]
            assert {row["batch"] for row in rows} == {4}


async def test_an_answer_that_cannot_be_written_costs_only_its_own_row_the_tensors(tmp_path: Path) -> None:
    async with piped(tmp_path, texts("\udcff"), output="TYPE_STRING") as pipe:
        await pipe.put(bundled(pipe.pipeline.queue, [request(1), request(GUILTY), request(2)]))
        await pipe.serve()
        rows = {row["status"]: row for row in await pipe.rows()}
        assert rows["ok"]["output.y"] == b"fine"
        assert "output.y" not in rows["failed"]


async def test_what_was_computed_and_what_failed_is_in_the_statistics(tmp_path: Path) -> None:
    async with piped(tmp_path, raising(ValueError("no"))) as pipe:
        await pipe.put(bundled(pipe.pipeline.queue, [request(1), request(GUILTY), request(2)]))
        await pipe.serve()
        did = pipe.metrics.statistics
        assert (did.success.count, did.fail.count, did.queue.count, did.compute.count, did.rows) == (2, 1, 2, 2, 2)
        assert sum(size * it.count for size, it in did.batches.items()) == 2
        assert did.last_ms > 0
