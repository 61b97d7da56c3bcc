"""Requests with equal Idempotency-Keys are computed once and answered each time."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from broker.channels import Limits
from broker.protocol.header import Status
from tests.gateway.running_gateway import Gateway, X, running_gateway
from tests.waiting import until

URL = "/v2/models/double/infer"
BODY = json.dumps({"id": "mine", "inputs": [X]}).encode()
OTHER = json.dumps({"inputs": [{**X, "data": [1, 1]}]}).encode()
KEY = {"idempotency-key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


async def test_a_repeated_request_is_computed_once_and_answered_twice(gateway: Gateway) -> None:
    first, second = [await gateway.client.post(URL, content=BODY, headers=KEY) for _ in range(2)]
    assert (first.status_code, first.content) == (200, second.content)
    assert first.headers["millrace-request-id"] == second.headers["millrace-request-id"]
    assert ("idempotent-replayed" in first.headers, second.headers["idempotent-replayed"]) == (False, "true")
    assert len(gateway.processor.seen) == 1


async def test_two_equal_requests_at_the_same_time_are_computed_once(gateway: Gateway) -> None:
    answers = await asyncio.gather(*[gateway.client.post(URL, content=BODY, headers=KEY) for _ in range(20)])
    assert {(answer.status_code, answer.content) for answer in answers} == {(200, answers[0].content)}
    assert len(gateway.processor.seen) == 1


async def test_the_same_key_with_another_body_is_422(gateway: Gateway) -> None:
    await gateway.client.post(URL, content=BODY, headers=KEY)
    answer = await gateway.client.post(URL, content=OTHER, headers=KEY)
    assert (answer.status_code, set(answer.json())) == (422, {"error"})
    pinned = await gateway.client.post("/v2/models/double/versions/1/infer", content=BODY, headers=KEY)
    assert pinned.status_code == 422
    assert len(gateway.processor.seen) == 1


async def test_keys_of_two_endpoints_are_independent(gateway: Gateway) -> None:
    await gateway.declare(endpoint="twice", arms={"a": "double@1"})
    await gateway.until("/v2/models/twice/ready", 200)
    await gateway.client.post(URL, content=BODY, headers=KEY)
    answer = await gateway.client.post("/v2/models/twice/infer", content=OTHER, headers=KEY)
    assert (answer.status_code, answer.json()["outputs"][0]["data"]) == (200, [2.0, 2.0])


async def test_without_a_key_equal_requests_are_computed_twice(gateway: Gateway) -> None:
    for _ in range(2):
        await gateway.client.post(URL, content=BODY)
    assert len(gateway.processor.seen) == 2


async def test_a_claim_lapses_after_the_deadline_of_an_unanswered_request(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, results_late_s=1.0) as gateway:
        gateway.processor.go.clear()
        lapsed = await gateway.client.post(URL, content=BODY, headers={**KEY, "millrace-timeout-ms": "200"})
        assert lapsed.status_code == 504
        held = await gateway.client.post(URL, content=OTHER, headers=KEY)  # its answer may still be on its way
        assert held.status_code == 422

        async def accepted() -> bool:
            asynchronous = {**KEY, "prefer": "respond-async"}
            return (await gateway.client.post(URL, content=OTHER, headers=asynchronous)).status_code == 202

        await until(accepted)
        gateway.processor.go.set()
        answer = await gateway.client.post(URL, content=OTHER, headers=KEY)
        assert (answer.status_code, answer.json()["outputs"][0]["data"]) == (200, [2.0, 2.0])
        assert answer.headers["millrace-request-id"] != lapsed.headers["millrace-request-id"]


async def test_while_it_runs_a_repeat_waits_for_the_same_answer_or_is_202(gateway: Gateway) -> None:
    gateway.processor.go.clear()
    accepted = await gateway.client.post(URL, content=BODY, headers={**KEY, "prefer": "respond-async"})
    again = await gateway.client.post(URL, content=BODY, headers={**KEY, "prefer": "respond-async"})
    waiting = asyncio.create_task(gateway.client.post(URL, content=BODY, headers=KEY))
    await asyncio.sleep(0.3)
    gateway.processor.go.set()
    assert (accepted.status_code, again.status_code) == (202, 202)
    assert accepted.headers["location"] == again.headers["location"]
    assert (await waiting).headers["millrace-request-id"] == accepted.headers["millrace-request-id"]
    assert len(gateway.processor.seen) == 1


@pytest.mark.parametrize("status", [Status.OVERLOADED, Status.EXPIRED, Status.CANCELLED])
async def test_a_request_that_was_not_computed_frees_its_key(gateway: Gateway, status: Status) -> None:
    gateway.processor.status = status
    refused = await gateway.client.post(URL, content=BODY, headers=KEY)
    assert refused.headers["millrace-status"] == status.word
    gateway.processor.status = Status.OK
    assert (await gateway.client.post(URL, content=OTHER, headers=KEY)).status_code == 200


async def test_a_cancel_frees_its_key(gateway: Gateway) -> None:
    gateway.processor.go.clear()
    accepted = await gateway.client.post(URL, content=BODY, headers={**KEY, "prefer": "respond-async"})
    assert (await gateway.client.delete(accepted.headers["location"])).status_code == 204
    gateway.processor.go.set()
    assert (await gateway.client.post(URL, content=OTHER, headers=KEY)).status_code == 200


async def test_a_refusal_at_the_door_frees_its_key(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, limits=Limits(messages=1)) as gateway:
        gateway.processor.go.clear()
        codes = []
        for number in range(6):
            key = {"idempotency-key": str(number), "prefer": "respond-async"}
            codes.append((await gateway.client.post(URL, content=BODY, headers=key)).status_code)
        refused = codes.index(429)
        gateway.processor.go.set()
        await gateway.until_seen()
        answer = await gateway.client.post(URL, content=OTHER, headers={"idempotency-key": str(refused)})
        assert answer.status_code == 200


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_an_invalid_key_is_400(gateway: Gateway, key: str) -> None:
    answer = await gateway.client.post(URL, content=BODY, headers={"idempotency-key": key})
    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json()["error"]


async def test_two_keys_are_400(gateway: Gateway) -> None:
    headers = [("idempotency-key", "a"), ("idempotency-key", "b")]
    assert (await gateway.client.post(URL, content=BODY, headers=headers)).status_code == 400


async def test_a_stored_request_that_was_not_published_is_published_by_its_repeat(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_: object) -> None:
        raise RuntimeError("as if it had died here")

    with monkeypatch.context() as patched:
        patched.setattr("gateway.results.publisher.StoredRequestPublisher.publish", killed)
        lost = await gateway.client.post(URL, content=BODY, headers={**KEY, "prefer": "respond-async"})
    assert lost.status_code == 500
    assert gateway.processor.seen == []
    again = await gateway.client.post(URL, content=BODY, headers={**KEY, "prefer": "respond-async"})
    assert again.status_code == 202
    answer = await gateway.client.get(again.headers["location"], headers={"prefer": "wait=5"})
    assert (answer.status_code, answer.json()["outputs"][0]["data"]) == (200, [3.0, 5.0])


async def test_a_full_store_still_replays_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_gateway(tmp_path) as gateway:
        first = await gateway.client.post(URL, content=BODY, headers=KEY)
        monkeypatch.setattr("gateway.results.stored_requests.StoredRequests._refusal", lambda _: "it is full")
        again = await gateway.client.post(URL, content=BODY, headers=KEY)
        other = await gateway.client.post(URL, content=BODY, headers={"idempotency-key": "other"})
    assert (again.content, other.status_code) == (first.content, 429)


async def test_a_client_that_disconnects_makes_room(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, pending_limit=1) as gateway:
        gateway.processor.go.clear()
        with pytest.raises(httpx.ReadTimeout):
            await gateway.client.post(URL, content=BODY, headers=KEY, timeout=0.3)

        async def free() -> bool:
            answer = await gateway.client.post(
                URL, content=BODY, headers={"idempotency-key": str(uuid4()), "prefer": "respond-async"}
            )
            return answer.status_code == 202

        await until(free)
        gateway.processor.go.set()
        assert (await gateway.client.post(URL, content=BODY, headers=KEY)).status_code == 200
    assert len([one for one in gateway.processor.seen if one.route.endpoint == "double"]) == 2
