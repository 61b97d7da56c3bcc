"""A gateway that has as many connections as it may: the quiet ones make room, and the others can read their 503."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from gateway.transport.door import SILENT_S
from tests.gateway.infer_requests import BODY
from tests.gateway.running_gateway import Gateway
from tests.gateway.transport.raw_http import POST, answer_of, limited_gateway, refusals
from tests.waiting import in_background, until

WHOLE = POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


async def waiting_clients(gateway: Gateway) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Take all 16 connections of a gateway with requests that wait until `processor.go` is set."""
    gateway.processor.go.clear()
    clients = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(16)]
    for _, writer in clients:
        writer.write(WHOLE)
    await until(lambda: gateway.registry.get_sample_value("millrace_gateway_pending_requests") == 16)
    return clients


@pytest.mark.parametrize("silent", [16, 40, 64])
async def test_silent_connections_make_room_for_connections_with_requests(tmp_path: Path, silent: int) -> None:
    async with limited_gateway(tmp_path, connections=16) as gateway:
        quiet = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(silent)]
        await asyncio.sleep(4 * SILENT_S)
        for _ in range(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(WHOLE)
            assert (await answer_of(reader))[0] == 200
            writer.close()
        for _, writer in quiet:
            writer.close()


async def test_a_flood_of_silent_connections_shuts_no_client_out(tmp_path: Path) -> None:
    async with limited_gateway(tmp_path, connections=16) as gateway:
        quiet: list[asyncio.StreamWriter] = []

        async def flood() -> None:
            while True:
                quiet.append((await asyncio.open_connection("127.0.0.1", gateway.port))[1])
                await asyncio.sleep(0.01)

        async with in_background(flood()):
            await asyncio.sleep(1.0)
            codes = []
            for _ in range(20):
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                writer.write(WHOLE)
                codes.append((await answer_of(reader))[0])
                writer.close()
                await asyncio.sleep(0.02)
        assert codes == [200] * 20
        for writer in quiet:
            writer.close()


async def test_a_connection_beyond_the_limit_is_served_once_there_is_room(tmp_path: Path) -> None:
    async with limited_gateway(tmp_path, connections=16) as gateway:
        waiting = await waiting_clients(gateway)
        reader, late = await asyncio.open_connection("127.0.0.1", gateway.port)
        late.write(WHOLE)
        assert (await answer_of(reader))[0] == 503
        gateway.processor.go.set()
        for other, _ in waiting:
            assert (await answer_of(other))[0] == 200
        late.write(WHOLE)
        assert (await answer_of(reader))[0] == 200
        for _, writer in [*waiting, (reader, late)]:
            writer.close()


async def test_clients_that_connect_together_without_room_all_read_their_503(tmp_path: Path) -> None:
    async with limited_gateway(tmp_path, connections=16) as gateway:
        waiting = await waiting_clients(gateway)
        late = await asyncio.gather(*[asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(40)])
        for _, writer in late:
            writer.write(WHOLE)
        assert [(await answer_of(reader))[0] for reader, _ in late] == [503] * 40
        gateway.processor.go.set()
        assert [(await answer_of(reader))[0] for reader, _ in waiting] == [200] * 16
        for _, writer in [*waiting, *late]:
            writer.close()


async def test_waiting_requests_are_never_displaced_and_health_is_still_served(tmp_path: Path) -> None:
    async with limited_gateway(tmp_path, connections=16) as gateway:
        waiting = await waiting_clients(gateway)
        late, late_writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        late_writer.write(WHOLE)
        code, headers, _ = await answer_of(late)
        assert (code, headers["retry-after"]) == (503, "1")
        health, health_writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        health_writer.write(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await answer_of(health))[0] == 200
        assert refusals(gateway, "connections_full") == 1
        gateway.processor.go.set()
        for reader, writer in [*waiting, (late, late_writer), (health, health_writer)]:
            if reader not in (late, health):
                assert (await answer_of(reader))[0] == 200
            writer.close()


async def test_a_client_without_room_can_read_its_503(tmp_path: Path) -> None:
    async with limited_gateway(tmp_path, connections=16) as gateway:
        gateway.processor.go.clear()
        others: list[asyncio.StreamWriter] = []
        for sent in [b"content-length: %d\r\n\r\n" % len(BODY) + BODY] * 16 + [b"content-length: 9\r\n\r\n{"] * 32:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(POST + sent)
            if len(others) >= 16:
                assert (await answer_of(reader))[0] == 503
            others.append(writer)
        late = socket.create_connection(("127.0.0.1", gateway.port))
        late.sendall(POST + b"content-length: 9\r\n\r\n" + b" " * 9)  # before the gateway can read
        late.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=late)
        assert (await answer_of(reader))[0] == 503
        assert await reader.read() == b""
        assert refusals(gateway, "connections_full") == 33
        gateway.processor.go.set()
        for it in [*others, writer]:
            it.close()
