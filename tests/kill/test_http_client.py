"""The HTTP client of the kill tests counts lost and wrong answers, and repeats requests after a failure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

from tests.kill.http_client import FIRST, HttpClient
from tests.waiting import until

PATIENCE_S = 20.0
DEADLINE_S = 2.0

Answer = Callable[[str, float], bytes]
"""Makes the bytes of the response to a request, from its id and its number; no bytes close the connection."""


def answer(code: int, body: object, status: str) -> bytes:
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {code} .\r\nmillrace-status: {status}\r\nmillrace-request-id: {uuid4()}\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


def right(name: str, number: float) -> bytes:
    return answer(200, {"id": name, "outputs": [{"name": "y", "data": [number]}]}, "ok")


def refused(code: int) -> Answer:
    return lambda name, number: answer(code, {"error": "later"}, "failed")


@asynccontextmanager
async def gateway(*script: Answer) -> AsyncIterator[tuple[int, list[str]]]:
    """Answer with the script, and then correctly; yields the port and the received idempotency keys."""
    keys: list[str] = []
    left = list(script)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while response := await _answer(reader, left, keys):
                writer.write(response)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    serving: list[asyncio.Task[None]] = []
    server = await asyncio.start_server(lambda *both: serving.append(asyncio.create_task(serve(*both))), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], keys
        await asyncio.gather(*serving)


async def _answer(reader: asyncio.StreamReader, left: list[Answer], keys: list[str]) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    body = json.loads(await reader.readexactly(int(headers["content-length"])))
    keys.append(headers["idempotency-key"])
    act = left.pop(0) if left else right
    return act(body["id"], body["inputs"][0]["data"][0])


async def one_request(*script: Answer) -> tuple[HttpClient, Sequence[str]]:
    """Send one number, and wait for its end."""
    async with (
        asyncio.timeout(PATIENCE_S),
        gateway(*script) as (port, keys),
        HttpClient(port, "steady", callers=1, deadline_s=DEADLINE_S) as client,
    ):
        await until(lambda: bool(client.sent))
        await client.finish()
        return client, keys


async def test_a_right_answer_is_counted_once() -> None:
    client, _ = await one_request()
    assert client.sent == set(client.answers) == {FIRST}
    assert (client.lost, client.twice, client.wrong()) == (0, 0, [])


async def test_after_a_broken_connection_or_a_refusal_the_same_request_is_repeated() -> None:
    client, keys = await one_request(lambda *_: b"", refused(503), refused(429), refused(504))
    assert (client.lost, client.wrong()) == (0, [])
    assert client.tries == {"RemoteProtocolError": 1, "503": 1, "429": 1, "504": 1, "200": 1}
    assert len(keys) == 5
    assert len(set(keys)) == 1


async def test_a_wrong_number_is_counted_as_wrong() -> None:
    client, _ = await one_request(lambda name, number: right(name, number + 1))
    assert [(one.number, one.value) for one in client.wrong()] == [(FIRST, FIRST + 1)]


async def test_the_answer_to_another_request_is_counted_as_wrong() -> None:
    client, _ = await one_request(lambda name, number: right("another", number))
    assert [one.status for one in client.wrong()] == ["of another request"]


async def test_an_error_that_no_fault_explains_is_counted_as_wrong() -> None:
    client, _ = await one_request(refused(500), refused(404))
    assert [one.text[:3] for one in client.wrong()] == ["500", "404"]


async def test_a_request_without_an_answer_by_its_deadline_is_counted_as_lost() -> None:
    client, _ = await one_request(*[refused(503)] * 1000)
    assert (client.lost, client.wrong()) == (1, [])
