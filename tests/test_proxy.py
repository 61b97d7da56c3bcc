"""The proxy in front of brokers passes, cuts and holds connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.proxy import HOST, Proxy

SOON_S = 0.2
PATIENCE_S = 10.0


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    """The port of a server that echoes every line."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(line)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(HOST, int(proxy.url.rpartition(":")[2].rstrip("/")))
    try:
        yield reader, writer
    finally:
        writer.close()


async def read_line(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        return await reader.readline()


async def test_bytes_pass_both_ways(echo_port: int) -> None:
    async with Proxy(f"amqp://{HOST}:{echo_port}/") as proxy, connected(proxy) as (reader, writer):
        writer.write(b"one\n")
        assert await read_line(reader) == b"one\n"


async def test_a_cut_resets_all_connections_and_new_ones_are_accepted(echo_port: int) -> None:
    async with Proxy(f"amqp://{HOST}:{echo_port}/") as proxy:
        async with connected(proxy) as (reader, writer):
            writer.write(b"one\n")
            await read_line(reader)
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                await read_line(reader)
        async with connected(proxy) as (reader, writer):
            writer.write(b"two\n")
            assert await read_line(reader) == b"two\n"
        assert proxy.connections == 2


async def test_held_bytes_arrive_late_and_are_not_lost(echo_port: int) -> None:
    async with Proxy(f"amqp://{HOST}:{echo_port}/") as proxy, connected(proxy) as (reader, writer):
        writer.write(b"one\n")
        await read_line(reader)
        proxy.hold()
        writer.write(b"two\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readline(), SOON_S)
        proxy.go_on()
        assert await read_line(reader) == b"two\n"


async def test_a_connection_opened_during_a_hold_is_accepted_and_gets_no_bytes(echo_port: int) -> None:
    async with Proxy(f"amqp://{HOST}:{echo_port}/") as proxy:
        proxy.hold()
        async with connected(proxy) as (reader, writer):
            writer.write(b"one\n")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.readline(), SOON_S)
            proxy.go_on()
            assert await read_line(reader) == b"one\n"


async def test_without_a_broker_behind_the_proxy_a_connection_is_reset() -> None:
    async with Proxy(f"amqp://{HOST}:1/") as proxy, connected(proxy) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await read_line(reader)


async def test_kafkas_advertised_address_is_replaced_by_the_proxys() -> None:
    expected = b"\0\0\0\7\x0a127.0.0.1" + (9092).to_bytes(4, "big") + b"127.0.0.1:9092"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        whole = len(response).to_bytes(4, "big") + response
        for at in range(len(whole)):  # byte by byte: reads may end within an address
            writer.write(whole[at : at + 1])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    response = expected.replace((9092).to_bytes(4, "big"), port.to_bytes(4, "big"))
    async with server, Proxy(f"kafka://{HOST}:{port}") as proxy, connected(proxy) as (reader, writer):
        writer.write(b"metadata\n")
        async with asyncio.timeout(PATIENCE_S):
            length = int.from_bytes(await reader.readexactly(4), "big")
            received = await reader.readexactly(length)
    own = int(proxy.url.rpartition(":")[2]).to_bytes(4, "big")
    assert received == expected.replace((9092).to_bytes(4, "big"), own)
