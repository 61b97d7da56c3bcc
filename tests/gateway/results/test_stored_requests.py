"""Stored requests, over real HTTP and a real results store."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from broker.channels import Limits
from broker.errors import Unreachable
from broker.messages import Outcome
from broker.protocol.header import Status
from broker.protocol.ids import new_uid, now_us, uid_text
from broker.records.events import read_event
from gateway.results.sqlite_store import SqliteResults
from tests.gateway.running_gateway import Gateway, X, running_gateway, second_gateway
from tests.waiting import until

URL = "/v2/models/double/infer"
BODY = json.dumps({"id": "mine", "inputs": [X]}).encode()
OTHER = json.dumps({"inputs": [{**X, "data": [1, 1]}]}).encode()
ASYNC = {"prefer": "respond-async"}


async def fetched(gateway: Gateway, location: str, code: int = 200) -> httpx.Response:
    answer = await gateway.client.get(location, headers={"prefer": "wait=5"})
    assert answer.status_code == code, answer.text
    return answer


async def test_respond_async_is_202_and_its_answer_can_be_fetched_repeatedly(gateway: Gateway) -> None:
    accepted = await gateway.client.post(URL, content=BODY, headers=ASYNC)
    uid = accepted.headers["millrace-request-id"]
    assert (accepted.status_code, accepted.headers["preference-applied"]) == (202, "respond-async")
    assert accepted.json() == {"id": uid, "status": "pending", "location": f"/v2/requests/{uid}"}
    assert (accepted.headers["location"], UUID(uid).version) == (f"/v2/requests/{uid}", 7)
    for _ in range(2):
        answer = await fetched(gateway, accepted.headers["location"])
        assert answer.json()["outputs"][0]["data"] == [3.0, 5.0]
        assert (answer.headers["millrace-request-id"], answer.headers["millrace-arm"]) == (uid, "v1")
        assert answer.headers["millrace-status"] == "ok"


async def test_a_pending_request_has_retry_after(gateway: Gateway) -> None:
    gateway.processor.go.clear()
    accepted = await gateway.client.post(URL, content=BODY, headers=ASYNC)
    pending = await gateway.client.get(accepted.headers["location"])
    assert (pending.status_code, pending.headers["retry-after"]) == (202, "1")
    assert pending.headers.get_list("millrace-request-id") == [accepted.headers["millrace-request-id"]]
    gateway.processor.go.set()
    await fetched(gateway, accepted.headers["location"])


async def test_wait_returns_the_answer_in_time_or_202(gateway: Gateway) -> None:
    soon = await gateway.client.post(URL, content=BODY, headers={"prefer": "respond-async, wait=5"})
    assert (soon.status_code, soon.json()["outputs"][0]["data"]) == (200, [3.0, 5.0])
    gateway.processor.go.clear()
    late = await gateway.client.post(URL, content=BODY, headers={"prefer": "wait=0"})
    assert (late.status_code, late.headers["preference-applied"]) == (202, "wait=0")
    later = await gateway.client.post(URL, content=BODY, headers={"prefer": "wait=1"})
    assert later.status_code == 202
    gateway.processor.go.set()
    for accepted in (late, later):
        await fetched(gateway, accepted.headers["location"])


@pytest.mark.parametrize(
    "prefer",
    ["", "return=minimal", ";;,=,", "wait=x", "wait=-1", "waits=3", "wait=" + "9" * 400, "a=" + " " * 50_000 + '"x'],
)
async def test_an_unknown_preference_is_a_plain_wait(gateway: Gateway, prefer: str) -> None:
    assert (await gateway.client.post(URL, content=BODY, headers={"prefer": prefer})).status_code == 200


@pytest.mark.parametrize(
    "prefer",
    ['respond-async, wait="0"', "foo; a=b, RESPOND-ASYNC; x", "wait = 0", ["respond-async", "return=minimal"]],
)
async def test_every_form_of_preference_in_rfc_7240_is_read(gateway: Gateway, prefer: str | list[str]) -> None:
    gateway.processor.go.clear()
    headers = [("prefer", value) for value in ([prefer] if isinstance(prefer, str) else prefer)]
    assert (await gateway.client.post(URL, content=BODY, headers=headers)).status_code == 202


async def test_an_error_is_fetched_as_it_would_have_been_answered(gateway: Gateway) -> None:
    accepted = await gateway.client.post(URL, content=b"{", headers=ASYNC)
    answer = await fetched(gateway, accepted.headers["location"], 400)
    assert (set(answer.json()), answer.headers["millrace-status"]) == ({"error"}, "invalid")


@pytest.mark.parametrize(
    "uid", ["01890a5d-ac96-774b-bcce-b302099a8057", "x", "%00", "1" * 5000, "00000000-0000-0000-0000-000000000000"]
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_unknown_request_is_404(gateway: Gateway, method: str, uid: str) -> None:
    answer = await gateway.client.request(method, f"/v2/requests/{uid}")
    assert (answer.status_code, set(answer.json())) == (404, {"error"})


async def test_an_expired_request_is_410(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, results_late_s=0.5) as gateway:
        gateway.processor.go.clear()
        accepted = await gateway.client.post(URL, content=BODY, headers={**ASYNC, "millrace-timeout-ms": "50"})
        assert (await gateway.client.get(accepted.headers["location"])).status_code == 202
        answer = await fetched(gateway, accepted.headers["location"], 410)
        assert "time allowed" in answer.json()["error"]


async def test_an_answer_with_the_status_expired_is_410(gateway: Gateway) -> None:
    gateway.processor.status = Status.EXPIRED
    accepted = await gateway.client.post(URL, content=BODY, headers=ASYNC)
    await fetched(gateway, accepted.headers["location"], 410)


async def test_an_answer_is_kept_for_a_while_then_410_then_404(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, ttl_s=0.5, results_sweep_s=0.05) as gateway:
        answer = await gateway.client.post(URL, content=BODY, headers={"prefer": "wait=5"})
        location = f"/v2/requests/{answer.headers['millrace-request-id']}"
        assert (await gateway.client.get(location)).status_code == 200
        gone = await gateway.until(location, 410)
        assert "no longer kept" in gone.json()["error"]
        await gateway.until(location, 404)


async def test_a_cancelled_request_is_410_and_is_announced_to_processors(gateway: Gateway) -> None:
    gateway.processor.go.clear()
    accepted = await gateway.client.post(URL, content=BODY, headers=ASYNC)
    location = accepted.headers["location"]
    waiting = asyncio.create_task(gateway.client.get(location, headers={"prefer": "wait=5"}))
    await asyncio.sleep(0.1)
    assert [(await gateway.client.delete(location)).status_code for _ in range(2)] == [204, 204]
    assert (await waiting).status_code == 410
    gateway.processor.go.set()
    await gateway.until_seen()
    answer = await fetched(gateway, location, 410)
    assert "cancelled" in answer.json()["error"]

    async def announced() -> bool:
        reader = gateway.broker.read(gateway.broker.channels.status, 0)
        records = await reader.read(1000)
        await reader.close()
        uid = UUID(accepted.headers["millrace-request-id"]).hex
        return any(json.loads(record.body).get("requests", [[""]])[0][0] == uid for record in records)

    await until(announced)


async def test_an_answered_request_cannot_be_cancelled(gateway: Gateway) -> None:
    answer = await gateway.client.post(URL, content=BODY, headers={"prefer": "wait=5"})
    location = f"/v2/requests/{answer.headers['millrace-request-id']}"
    assert (await gateway.client.delete(location)).status_code == 409
    assert (await gateway.client.get(location)).status_code == 200


async def test_a_refused_request_is_not_kept(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, limits=Limits(messages=1)) as gateway:
        gateway.processor.go.clear()
        codes, uids = [], []
        for _ in range(6):
            answer = await gateway.client.post(URL, content=BODY, headers=ASYNC)
            codes.append(answer.status_code)
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                uids.append(answer.headers["millrace-request-id"])
        assert codes[0] == 202
        assert uids
        assert (await gateway.client.get(f"/v2/requests/{uids[0]}")).status_code == 404
        gateway.processor.go.set()


async def test_a_refused_request_has_one_row(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, limits=Limits(messages=1)) as gateway:
        gateway.processor.go.clear()
        answers = [await gateway.client.post(URL, content=BODY, headers=ASYNC) for _ in range(6)]
        refused = {answer.headers["millrace-request-id"] for answer in answers if answer.status_code == 429}
        rows: list[str] = []

        async def written() -> bool:
            reader = gateway.broker.read(gateway.broker.channels.events("double"), 0)
            tables = [read_event(record) for record in await reader.read(100)]
            rows[:] = [str(UUID(bytes=uid)) for table in tables if table for uid in table.column("uid").to_pylist()]
            await reader.close()
            return len(rows) >= len(refused)

        await until(written)
        assert sorted(rows) == sorted(refused)
        gateway.processor.go.set()


async def test_a_full_store_refuses(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, results_limit_bytes=1) as gateway:
        answer = await gateway.client.post(URL, content=BODY, headers=ASYNC)
        assert answer.status_code == 429
        assert "results store" in answer.json()["error"]
        assert (await gateway.client.post(URL, content=BODY)).status_code == 200


async def test_answers_survive_the_gateway(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        gateway.processor.go.clear()
        accepted = [await gateway.client.post(URL, content=BODY, headers=ASYNC) for _ in range(5)]
        keyed = asyncio.create_task(gateway.client.post(URL, content=BODY, headers={"idempotency-key": "a"}))
        wait = asyncio.create_task(gateway.client.post(URL, content=BODY, headers={"prefer": "wait=9"}))
        await asyncio.sleep(0.3)
        gateway.stop.set()
        await asyncio.sleep(0.1)
        gateway.processor.go.set()
        assert [(await task).status_code for task in (keyed, wait)] == [200, 200]
    async with running_gateway(tmp_path) as gateway:
        for one in accepted:
            assert (await fetched(gateway, one.headers["location"])).json()["outputs"][0]["data"] == [3.0, 5.0]


async def test_a_wait_ends_with_202_when_the_grace_of_a_stop_is_over(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, grace_s=0.3) as gateway:
        gateway.processor.go.clear()
        wait = asyncio.create_task(gateway.client.post(URL, content=BODY, headers={"prefer": "wait=9"}))
        keyed = asyncio.create_task(gateway.client.post(URL, content=BODY, headers={"idempotency-key": "a"}))
        await asyncio.sleep(0.3)
        gateway.stop.set()
        assert [(await task).status_code for task in (wait, keyed)] == [202, 503]
        gateway.processor.go.set()


async def test_a_client_that_disconnects_cancels_its_request(gateway: Gateway) -> None:
    gateway.processor.go.clear()
    with pytest.raises(httpx.ReadTimeout):
        await gateway.client.post(URL, content=BODY, timeout=0.3)

    async def announced() -> bool:
        reader = gateway.broker.read(gateway.broker.channels.status, 0)
        records = await reader.read(1000)
        await reader.close()
        return any(json.loads(record.body)["kind"] == "cancel" for record in records)

    await until(announced)
    gateway.processor.go.set()


async def test_a_silent_broker_is_not_waited_for_longer_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: object) -> list[Outcome]:
        await asyncio.Event().wait()
        return []

    async with running_gateway(tmp_path, grace_s=0.3) as gateway:
        with monkeypatch.context() as patched:
            patched.setattr(gateway.broker, "publish", silent)
            answer = await gateway.client.post(URL, content=BODY, headers={**ASYNC, "millrace-timeout-ms": "200"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_answers_wait_for_a_store_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> list[bool]:
        raise Unreachable("the disk is full")

    async with running_gateway(tmp_path) as gateway:
        gateway.processor.go.clear()
        accepted = await gateway.client.post(URL, content=BODY, headers=ASYNC)
        with monkeypatch.context() as patched:
            patched.setattr(SqliteResults, "end", broken)
            gateway.processor.go.set()
            await gateway.until_seen()
            answer = await gateway.client.get(accepted.headers["location"], headers={"prefer": "wait=1"})
            assert answer.status_code == 202
            assert (await gateway.client.post(URL, content=BODY)).status_code == 200
            gateway.stop.set()
            await gateway.running
    async with running_gateway(tmp_path) as gateway:
        assert (await fetched(gateway, accepted.headers["location"])).json()["outputs"][0]["data"] == [3.0, 5.0]


async def test_a_store_that_cannot_be_opened_stops_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "results.db").write_bytes(b"no database at all" * 1000)
    async with running_gateway(tmp_path) as gateway:
        assert (await gateway.client.post(URL, content=BODY)).status_code == 200
        refused = await gateway.client.post(URL, content=BODY, headers=ASYNC)
        assert (refused.status_code, "results.db" in refused.json()["error"]) == (503, True)
        assert (await gateway.client.get(f"/v2/requests/{uid_text(new_uid(now_us()))}")).status_code == 503
        (tmp_path / "results.db").unlink()

        async def served() -> bool:
            return (await gateway.client.post(URL, content=BODY, headers={"prefer": "wait=5"})).status_code == 200

        await until(served)


async def test_two_stores_on_one_broker_do_not_take_each_others_answers(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway, second_gateway(gateway, tmp_path / "other") as other:
        locations = {
            client: [(await client.post(URL, content=BODY, headers=ASYNC)).headers["location"] for _ in range(20)]
            for client in (gateway.client, other)
        }
        codes = [
            (await client.get(location, headers={"prefer": "wait=5"})).status_code
            for client, mine in locations.items()
            for location in mine
        ]
    assert codes == [200] * 40


async def test_gateways_that_share_a_store_serve_each_others_answers(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway, second_gateway(gateway, tmp_path) as other:
        gateway.processor.go.clear()
        accepted = [await gateway.client.post(URL, content=BODY, headers=ASYNC) for _ in range(20)]
        keyed = asyncio.create_task(other.post(URL, content=BODY, headers={"idempotency-key": "a"}))
        waits = [
            asyncio.create_task(other.get(one.headers["location"], headers={"prefer": "wait=5"})) for one in accepted
        ]
        await asyncio.sleep(0.2)
        gateway.processor.go.set()
        assert {(await wait).status_code for wait in waits} == {200}
        again = await gateway.client.post(URL, content=BODY, headers={"idempotency-key": "a"})
        assert (again.content, again.headers["idempotent-replayed"]) == ((await keyed).content, "true")


async def test_more_than_one_transaction_is_swept_at_once(tmp_path: Path) -> None:
    results = SqliteResults(tmp_path / "results.db", ttl_s=0.0, sweep_limit=3)
    await results.open()
    uids = [new_uid(now_us()) for _ in range(20)]
    for uid in uids:
        await results.begin(uid, now_us() - 1, None, lapsed_us=0)
    await results.sweep()
    await results.sweep()
    assert await results.find(uids) == {}
    await results.close()
