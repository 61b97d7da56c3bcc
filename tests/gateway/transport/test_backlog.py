"""Requests that a client sends ahead of their answers: few wait, all are answered in order and counted exactly."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.transport.backlog import PIPELINED_MOST
from tests.gateway.infer_requests import BODY
from tests.gateway.running_gateway import Gateway
from tests.gateway.transport.raw_http import POST, answer_of, limited_gateway, refusals
from tests.waiting import until

WHOLE = POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


def held_bytes(gateway: Gateway) -> float:
    return gateway.registry.get_sample_value("millrace_gateway_body_bytes") or 0.0


async def test_requests_sent_ahead_wait_unparsed_and_are_all_answered_in_order(gateway: Gateway) -> None:
    gateway.processor.go.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    live, missing = (b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path for path in (b"/v2/health/live", b"/nothing"))
    chunked = POST + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    writer.write(WHOLE + (live + WHOLE + missing + chunked) * 500)
    await gateway.until_seen()

    async def kept() -> bool:
        return held_bytes(gateway) > 50_000

    await until(kept)
    cycles = sum(issubclass(type(it), RequestResponseCycle) for it in gc.get_objects())
    assert cycles <= PIPELINED_MOST + 20
    gateway.processor.go.set()
    codes = [(await answer_of(reader))[0] for _ in range(2001)]
    assert codes == [200] + [200, 200, 404, 200] * 500
    writer.write(WHOLE)
    assert (await answer_of(reader))[0] == 200
    assert held_bytes(gateway) == 0
    writer.close()


async def test_a_client_that_sent_ahead_and_disconnected_holds_no_bytes(gateway: Gateway) -> None:
    gateway.processor.go.clear()
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(WHOLE * 1000)
    await gateway.until_seen()
    writer.transport.abort()
    gateway.processor.go.set()

    async def forgotten() -> bool:
        return held_bytes(gateway) == 0

    await until(forgotten)


async def test_a_client_that_sent_ahead_and_disconnected_ends_its_running_request(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.processor.go.clear()
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(WHOLE * 3)
    await gateway.until_seen()
    writer.transport.abort()

    async def ended() -> bool:
        return gateway.registry.get_sample_value("millrace_gateway_pending_requests") == 0 and held_bytes(gateway) == 0

    await until(ended)
    gateway.processor.go.set()
    assert (await gateway.client.get("/v2/health/live")).status_code == 200
    assert not [it for it in caplog.records if it.levelname == "ERROR"]


async def test_requests_sent_ahead_end_their_connection_when_bodies_are_full(tmp_path: Path) -> None:
    async with limited_gateway(tmp_path, bodies_bytes=len(BODY)) as gateway:
        gateway.processor.go.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(WHOLE + b"GET /v2 HTTP/1.1\r\n\r\n" * 1000)

        async def refused_once() -> bool:
            return refusals(gateway, "bodies_full") == 1

        await until(refused_once)
        gateway.processor.go.set()
        assert [(await answer_of(reader))[0] for _ in range(1 + PIPELINED_MOST)] == [200] * (1 + PIPELINED_MOST)
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("spaces", [0, 3000, 60_000])
async def test_the_bytes_of_a_complete_request_do_not_count_for_the_next(tmp_path: Path, spaces: int) -> None:
    async with limited_gateway(tmp_path, head_bytes=1024) as gateway:
        body = BODY + b" " * spaces
        chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        kinds = [b"content-length: %d\r\n\r\n" % len(body) + body, b"transfer-encoding: chunked\r\n\r\n" + chunk]
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        for kind in kinds:
            whole, cut = POST + kind, len(POST) - 20
            writer.write(whole + whole[:cut])
            assert (await answer_of(reader))[0] == 200
            writer.write(whole[cut:-5])
            await writer.drain()
            writer.write(whole[-5:] + whole[: len(POST) + 10])
            assert (await answer_of(reader))[0] == 200
            writer.write(whole[len(POST) + 10 :])
            assert (await answer_of(reader))[0] == 200
        assert refusals(gateway, "head_too_large") == 0
        writer.close()
