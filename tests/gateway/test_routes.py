"""The routes other than infer: health, models, repository, feedback, docs."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import tritonclient.http as triton

from broker.base import Broker
from broker.channels import Channels
from broker.delivery.log_follower import LogFollower
from broker.errors import Misconfigured, Unreachable
from broker.records.feedback import read_feedback
from broker.sqlite.adapter import SqliteBroker
from gateway.routes.openapi import openapi
from gateway.server import listen
from tests.gateway.infer_requests import BODY, URL, error_of
from tests.gateway.running_gateway import FULL, PATIENCE_S, Gateway, declare, running_gateway
from tests.waiting import until


async def test_the_server_lists_its_extensions(gateway: Gateway) -> None:
    answer = await gateway.client.get("/v2")
    assert answer.json()["name"] == "millrace"
    assert answer.json()["extensions"] == ["binary_tensor_data", "model_configuration", "statistics"]


async def test_live_and_ready_are_json(gateway: Gateway) -> None:
    assert (await gateway.client.get("/v2/health/live")).json() == {"live": True}
    answer = await gateway.until("/v2/health/ready", 200)
    assert answer.json() == {"ready": True, "live": True, "waiting_for": [], "troubles": []}


async def test_an_unreachable_broker_makes_the_gateway_unready(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(broker: Broker) -> None:
        raise Unreachable("no broker answers at here")

    monkeypatch.setattr(type(gateway.broker), "ping", away)
    answer = await gateway.until("/v2/health/ready", 503)
    assert answer.json()["waiting_for"] == ["no broker answers at here"]


async def test_a_model_is_described_as_its_replica_announced_it(gateway: Gateway) -> None:
    await gateway.declare(endpoint="fraud", arms={"a": "double@1", "b": "double@2"}, policy={"split": ["a", "b"]})
    answer = await gateway.until("/v2/models/fraud", 200)
    arms = {name: {"model": "double", "version": number} for name, number in (("a", "1"), ("b", "2"))}
    assert answer.json() == {**FULL["metadata"], "name": "fraud", "versions": ["1", "2"], "arms": arms}
    assert (await gateway.client.get("/v2/models")).json() == {"models": ["fraud"]}
    config = (await gateway.client.get("/v2/models/fraud/versions/1/config")).json()
    assert config == {**FULL["config"], "name": "fraud"}


async def test_an_arm_without_a_replica_is_503_although_the_endpoint_is_ready(gateway: Gateway) -> None:
    await gateway.declare(endpoint="fraud", arms={"a": "double@1", "b": "double@2"}, policy={"split": ["a", "b"]})
    await gateway.until("/v2/models/fraud/ready", 200)
    for path in ("", "/config", "/ready"):
        answer = await gateway.client.get(f"/v2/models/fraud/versions/b{path}")
        assert answer.status_code == 503
        assert "double@2" in answer.json()["error"]


@pytest.mark.parametrize("path", ["nobody", "nobody/ready", "nobody/config", "double/versions/9", "a%2Fb", "%FF"])
async def test_an_unknown_model_is_404(gateway: Gateway, path: str) -> None:
    answer = await gateway.client.get(f"/v2/models/{path}")
    assert answer.status_code == 404
    error_of(answer)


async def test_tritons_client_reads_all_routes_that_it_knows(gateway: Gateway) -> None:
    def ask() -> Any:
        client = triton.InferenceServerClient(f"127.0.0.1:{gateway.port}")
        found = [client.is_server_live(), client.is_server_ready(), client.is_model_ready("double")]
        found += [client.is_model_ready("nobody"), client.get_server_metadata()["name"]]
        found += [
            client.get_model_metadata("double")["inputs"][0]["name"],
            client.get_model_config("double", "v1")["name"],
        ]
        found.append(client.get_model_repository_index())
        with pytest.raises(triton.InferenceServerException, match="loads and unloads nothing"):
            client.load_model("double")
        with pytest.raises(triton.InferenceServerException, match="Request for unknown model"):
            client.get_model_metadata("nobody")
        client.close()
        return found

    await gateway.until("/v2/health/ready", 200)
    index = [{"name": "double", "version": "1", "arm": "v1", "state": "READY", "reason": ""}]
    assert await asyncio.to_thread(ask) == [True, True, True, False, "millrace", "x", "double", index]


async def test_the_index_has_the_reason_why_an_arm_is_not_ready(gateway: Gateway) -> None:
    await gateway.announce("double", 2, "loading")
    await gateway.announce("double", 3, "failed", error="no such file")
    arms = {f"v{number}": f"double@{number}" for number in (1, 2, 3, 4)}
    await gateway.declare(endpoint="all", arms=arms, policy={"split": list(arms)})
    await gateway.until("/v2/models/all/versions/v1/ready", 200)
    entries = (await gateway.client.post("/v2/repository/index")).json()
    assert [(entry["state"], entry["reason"]) for entry in entries] == [
        ("READY", ""),
        ("LOADING", ""),
        ("UNAVAILABLE", "no such file"),
        ("UNAVAILABLE", "no replica has come up yet"),
    ]
    only = (await gateway.client.post("/v2/repository/index", json={"ready": True})).json()
    assert [(entry["version"], entry["arm"]) for entry in only] == [("1", "v1")]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready": 1}', b"\xff"])
async def test_a_wrong_index_request_is_400(gateway: Gateway, body: bytes) -> None:
    error_of(answer := await gateway.client.post("/v2/repository/index", content=body))
    assert answer.status_code == 400


async def test_feedback_is_on_the_log_when_it_is_accepted(gateway: Gateway) -> None:
    uid = (await gateway.client.post(URL, content=BODY)).headers["millrace-request-id"]
    body = {"request_id": uid, "values": {"clicked": 1}}
    answer = await gateway.client.post("/v2/models/double/feedback", json=body)
    assert (answer.status_code, answer.json()) == (202, {"accepted": True})
    (record,) = await gateway.broker.read(gateway.broker.channels.events("double"), 0).read(10)
    feedback = read_feedback(record)
    assert feedback is not None
    assert (feedback.uid, feedback.values) == (UUID(uid).bytes, {"clicked": 1.0})


UID = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff\xfe",
        b"{}",
        json.dumps({"request_id": UID}).encode(),
        json.dumps({"request_id": "x", "truth": 1}).encode(),
        json.dumps({"request_id": [UID], "truth": 1}).encode(),
        json.dumps({"request_id": UID, "truth": 1, "values": {}}).encode(),
        json.dumps({"request_id": UID, "values": {"a": "b"}}).encode(),
        json.dumps({"request_id": UID, "values": {"a": True}}).encode(),
        json.dumps({"request_id": UID, "values": []}).encode(),
        json.dumps({"request_id": UID, "truth": 1, "item": [7]}).encode(),
        json.dumps({"request_id": UID, "truth": 1, "more": 7}).encode(),
        b'{"request_id": "%s", "values": {"a": 1e999}}' % UID.encode(),
        b'{"request_id": "%s", "values": {"a": NaN}}' % UID.encode(),
        b'{"request_id": "%s", "truth": %s1%s}' % (UID.encode(), b"[" * 600, b"]" * 600),
        b'{"request_id": "%s", "truth": "\\ud800"}' % UID.encode(),
    ],
)
async def test_hostile_feedback_is_400(gateway: Gateway, body: bytes) -> None:
    error_of(answer := await gateway.client.post("/v2/models/double/feedback", content=body))
    assert answer.status_code == 400, answer.text


async def test_feedback_for_an_unknown_endpoint_is_404_and_makes_no_log(gateway: Gateway) -> None:
    answer = await gateway.client.post("/v2/models/nobody/feedback", json={"request_id": UID, "truth": 1})
    assert answer.status_code == 404
    assert await gateway.broker.end(gateway.broker.channels.events("nobody")) == 0


async def test_feedback_over_the_limit_is_413(gateway: Gateway) -> None:
    answer = await gateway.client.post("/v2/models/double/feedback", content=b" " * 300_000)
    assert answer.status_code == 413
    error_of(answer)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/", 404),
        ("GET", "/v2/models/double/statistics", 404),
        ("DELETE", "/v2", 405),
        ("POST", "/v2/models/double", 405),
        ("OPTIONS", "/v2/health/live", 405),
        ("GET", "/v2/repository/index", 405),
        ("POST", "/v2/repository/models/double/load", 501),
        ("TRACE", "/docs", 405),
        ("GET", "/v2/models/x/y/z", 404),
    ],
)
async def test_every_error_is_json_with_a_request_id(gateway: Gateway, method: str, path: str, code: int) -> None:
    answer = await gateway.client.request(method, path)
    assert answer.status_code == code
    assert error_of(answer)
    assert ("allow" in answer.headers) == (code == 405)


async def test_an_answer_to_head_has_no_body(gateway: Gateway) -> None:
    answer = await gateway.client.head("/v2/health/live")
    assert (answer.status_code, answer.content) == (200, b"")
    UUID(answer.headers["millrace-request-id"])


async def test_a_bug_is_500_in_the_usual_form(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("router.state.view.View.endpoints", broken)
    answer = await gateway.client.get("/v2/models")
    assert answer.status_code == 500
    assert "log" in error_of(answer)
    monkeypatch.setattr("router.state.view.View.resolve", broken)
    answer = await gateway.client.post(URL, content=BODY)
    assert answer.status_code == 500
    assert "log" in error_of(answer)


async def test_the_docs_page_is_self_contained_and_names_every_route(gateway: Gateway) -> None:
    page = (await gateway.client.get("/docs")).text
    assert not re.search(r"(?:src|href)=\"(?!/openapi.json)", page)
    for path in openapi()["paths"]:
        assert path in page
    assert f"curl -i http://127.0.0.1:{gateway.port}/v2/models/fraud/versions/v1/ready" in page


async def test_a_stop_waits_for_the_pending_answer_and_takes_no_new_connection(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        gateway.processor.go.clear()
        pending = asyncio.create_task(gateway.client.post(URL, content=BODY))
        await gateway.until_seen()
        gateway.stop.set()

        async def refuses() -> bool:
            return not await _connects(gateway.port)

        await until(refuses)
        assert not pending.done()
        gateway.processor.go.set()
        assert (await pending).status_code == 200
        async with asyncio.timeout(PATIENCE_S):
            await gateway.running


async def test_a_request_that_waits_after_the_grace_is_answered_that_the_gateway_stops(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, grace_s=0.3) as gateway:
        gateway.processor.go.clear()
        pending = asyncio.create_task(gateway.client.post(URL, content=BODY))
        await gateway.until_seen()
        gateway.stop.set()
        answer = await pending
        assert answer.status_code == 503
        assert "stops" in error_of(answer)


async def test_a_port_in_use_is_an_error_with_a_way_out(gateway: Gateway) -> None:
    with pytest.raises(Misconfigured, match=rf"port {gateway.port} of 127.0.0.1 is in use.*gateway.http_port"):
        listen("127.0.0.1", gateway.port)


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(Misconfigured, match=r"cannot listen at 192\.0\.2\.1:1"):
        listen("192.0.2.1", 1)


async def _connects(port: int) -> bool:
    try:
        async with httpx.AsyncClient() as client:
            await client.get(f"http://127.0.0.1:{port}/v2/health/live", timeout=0.5)
    except httpx.TransportError:
        return False
    return True


async def test_an_unknown_endpoint_is_503_until_the_declarations_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = asyncio.Event()
    run = LogFollower.run

    async def late(following: LogFollower) -> None:
        await read.wait()
        await run(following)

    async with SqliteBroker(tmp_path / "broker.db", Channels()) as broker:
        await broker.declare(broker.channels.declared)
        await declare(broker, endpoint="twice", arms={"a": "double@1"})
    monkeypatch.setattr(LogFollower, "run", late)
    asking = ("GET", "/v2/models/twice"), ("POST", "/v2/models/twice/infer"), ("POST", "/v2/models/twice/feedback")
    async with running_gateway(tmp_path, is_ready=False) as gateway:
        for method, path in asking:
            answer = await gateway.client.request(method, path, json={})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        read.set()
        await gateway.until("/v2/models/nobody", 404)
