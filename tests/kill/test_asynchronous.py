"""A gateway that is killed keeps the requests that it answered with 202."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

import httpx

from tests.kill.client import body_of
from tests.kill.installation import Installation
from tests.kill.models import STEADY
from tests.kill.rows import read_rows
from tests.waiting import until

REQUESTS = 1000
BEFORE_THE_KILL = 400
AT_ONCE = 50
PATIENCE_S = 60.0


async def test_every_stored_request_has_one_answer_after_the_gateway_was_killed(installation: Installation) -> None:
    await installation.serve("steady", STEADY, "gateway")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{installation.http_port}", timeout=PATIENCE_S) as client:
        await until(lambda: _ready(client))
        accepted: dict[str, int] = {}
        broken = 0
        killed = asyncio.Event()
        numbers = iter(range(REQUESTS))

        async def send() -> None:
            nonlocal broken
            for number in numbers:
                while True:
                    try:
                        answer = await client.post(
                            "/v2/models/steady/infer", content=body_of(number), headers={"prefer": "respond-async"}
                        )
                    except httpx.TransportError:
                        broken += 1
                        await until(lambda: _ready(client))
                        continue
                    assert answer.status_code == 202, answer.text
                    accepted[answer.headers["location"]] = number
                    break
                if len(accepted) >= BEFORE_THE_KILL:
                    killed.set()

        async def kill() -> None:
            await killed.wait()
            installation.kill("gateway")
            installation.start("gateway")

        await asyncio.gather(kill(), *[send() for _ in range(AT_ONCE)])
        first = await _fetch_all(client, accepted)
        second = await _fetch_all(client, accepted)
        rows = await read_rows(installation.broker, "steady", [location.rpartition("/")[2] for location in accepted])
    values = {location: answer.json()["outputs"][0]["data"][0] for location, answer in first.items()}
    wrong = [location for location, number in accepted.items() if values[location] != number]
    sys.stdout.write(
        f"accepted {len(accepted)} broken {broken} fetched {len(first)} wrong {len(wrong)} repeated {rows.repeated}\n"
    )
    assert broken > 0
    assert wrong == []
    assert Counter(answer.status_code for answer in first.values()) == {200: REQUESTS}
    assert {location: answer.content for location, answer in first.items()} == {
        location: answer.content for location, answer in second.items()
    }
    assert rows.missing([location.rpartition("/")[2] for location in accepted]) == 0


async def _fetch_all(client: httpx.AsyncClient, locations: dict[str, int]) -> dict[str, httpx.Response]:
    left = iter(locations)
    found: dict[str, httpx.Response] = {}

    async def fetch() -> None:
        for location in left:
            async with asyncio.timeout(PATIENCE_S):
                while (answer := await client.get(location, headers={"prefer": "wait=5"})).status_code == 202:
                    pass
            found[location] = answer

    await asyncio.gather(*[fetch() for _ in range(AT_ONCE)])
    return found


async def _ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/v2/health/ready")).status_code == 200
    except httpx.TransportError:
        return False
