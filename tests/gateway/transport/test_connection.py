"""Connections: requests that are too large, too slow, half-closed or not HTTP get a typed answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from broker.errors import Misconfigured
from gateway.server import listen
from tests.gateway.infer_requests import BODY, URL
from tests.gateway.running_gateway import PATIENCE_S, Gateway, running_gateway
from tests.gateway.transport.raw_http import POST, answer_of, limited_gateway, refusals, serves_others
from tests.waiting import until

SHORT_S = 0.3
JAVA = """
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

class Ask {
    public static void main(String[] words) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int time = 0; time < 2; time++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(words[0]))
                .POST(HttpRequest.BodyPublishers.ofString(words[1])).build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body());
        }
    }
}
"""


async def refused(gateway: Gateway, *parts: bytes) -> tuple[int, str]:
    """Send bytes, and return the code and the error of the answer; then the gateway must close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    with contextlib.suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
    code, headers, body = await answer_of(reader)
    UUID(headers["millrace-request-id"])
    assert headers["connection"] == "close"
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
    writer.close()
    return code, str(json.loads(body)["error"])


@pytest.mark.parametrize(
    "parts",
    [
        (POST + b"x: " + b"a" * 70_000 + b"\r\n\r\n",),
        (POST + b"x: ", *[b"a" * 10_000] * 20),
        (POST, *[b"x%d: y\r\n" % number for number in range(20_000)]),
        (POST + b"transfer-encoding: chunked\r\n\r\n", b"1;" + b"a" * 200_000, b"a" * 500_000),
        (POST + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n{\r\n0\r\n", b"x: " + b"a" * 200_000, b"a" * 500_000),
    ],
    ids=["one header", "a header in pieces", "many headers", "a chunk's extension", "a trailer"],
)
async def test_a_head_over_the_limit_is_431(gateway: Gateway, parts: tuple[bytes, ...]) -> None:
    code, error = await refused(gateway, *parts)
    assert (code, "65536 bytes" in error) == (431, True)
    assert refusals(gateway, "head_too_large") == 1
    assert await serves_others(gateway)


async def test_a_head_over_the_limit_is_refused_even_if_it_arrives_at_once(tmp_path: Path) -> None:
    async with limited_gateway(tmp_path, head_bytes=4096) as gateway:
        chunked = POST + b"transfer-encoding: chunked\r\n\r\n%b\r\n%b\r\n0\r\n%b\r\n"
        size, trailer = b"%x" % len(BODY), b"x: " + b"a" * 100_000 + b"\r\n"
        assert (await refused(gateway, chunked % (size, BODY, trailer)))[0] == 431
        assert (await refused(gateway, chunked % (size + b";" + b"a" * 100_000, BODY, b"")))[0] == 431
        assert refusals(gateway, "head_too_large") == 2


@pytest.mark.parametrize("path", [URL, "/v2/models/double/feedback", "/v2/repository/index"])
async def test_a_body_over_the_limit_of_its_route_is_413_and_counted(gateway: Gateway, path: str) -> None:
    answer = await gateway.client.post(path, content=b" " * (9 << 20))
    assert answer.status_code == 413
    assert refusals(gateway, "body_too_large") == 1


async def test_a_body_that_goes_on_long_after_its_refusal_is_cut_off(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(POST + b"content-length: 9000000000\r\n\r\n")
    assert (await answer_of(reader))[0] == 413

    async def flood() -> None:
        for _ in range(64):
            writer.write(b" " * (1 << 20))
            await writer.drain()

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(flood(), PATIENCE_S)
    writer.close()
    assert await serves_others(gateway)


async def test_invalid_http_after_a_refused_body_ends_the_connection(tmp_path: Path) -> None:
    async with limited_gateway(tmp_path, head_s=SHORT_S, body_s=SHORT_S) as gateway:
        gateway.processor.go.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
        writer.write(POST + b"transfer-encoding: chunked\r\n\r\nnonsense\r\n")
        await gateway.until_seen()
        gateway.processor.go.set()
        assert (await answer_of(reader))[0] == 200
        async with asyncio.timeout(PATIENCE_S):
            await reader.read()
        writer.close()


async def test_a_target_over_the_limit_is_414(gateway: Gateway) -> None:
    code, error = await refused(gateway, b"GET /", *[b"a" * 5000] * 4)
    assert (code, "8192 bytes" in error) == (414, True)
    assert refusals(gateway, "target_too_long") == 1


async def test_a_head_within_the_limits_is_served_in_any_number_of_pieces(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = POST + b"x: " + b"a" * 60_000 + b"\r\ncontent-length: %d\r\n\r\n" % len(BODY)
    for at in range(0, len(head), 1000):
        writer.write(head[at : at + 1000])
        await writer.drain()
    writer.write(BODY)
    assert (await answer_of(reader))[0] == 200
    writer.close()


async def test_trailers_are_not_headers(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    chunk = b"%x\r\n%b\r\n0\r\nmillrace-key: forged\r\n\r\n" % (len(BODY), BODY)
    writer.write(POST + b"transfer-encoding: chunked\r\n\r\n" + chunk)
    assert (await answer_of(reader))[0] == 200
    assert gateway.processor.seen[0].key == ""
    writer.close()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [(b"POST /v2", "head_too_slow"), (POST, "head_too_slow"), (POST + b"content-length: 9\r\n\r\n{", "body_too_slow")],
)
async def test_a_request_that_is_incomplete_at_its_deadline_is_408(tmp_path: Path, sent: bytes, reason: str) -> None:
    async with limited_gateway(tmp_path, head_s=SHORT_S, body_s=SHORT_S) as gateway:
        code, error = await refused(gateway, sent)
        assert (code, "0.3 seconds" in error) == (408, True)
        assert refusals(gateway, reason) == 1
        assert await serves_others(gateway)


async def test_a_connection_that_sends_nothing_is_closed_without_an_answer(tmp_path: Path) -> None:
    async with limited_gateway(tmp_path, head_s=SHORT_S) as gateway:
        assert await gateway.raw(b"") == b""
        assert refusals(gateway, "head_too_slow") == 1


async def test_an_idle_connection_is_closed_and_not_counted_as_refused(tmp_path: Path) -> None:
    async with limited_gateway(tmp_path, idle_s=SHORT_S) as gateway:
        answer = await gateway.raw(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert answer.endswith(b'{"live":true}')
        assert refusals(gateway, "head_too_slow") == 0


async def test_a_client_that_does_not_read_its_answer_is_disconnected(tmp_path: Path) -> None:
    async with limited_gateway(tmp_path, body_s=SHORT_S) as gateway:
        request = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1)

        async def hung_up() -> bool:
            with contextlib.suppress(ConnectionError):
                writer.write(request * 100)
            return refusals(gateway, "answer_not_read") == 1

        await until(hung_up)
        writer.close()


async def test_the_oldest_of_too_many_incomplete_bodies_end_and_a_complete_one_is_served(tmp_path: Path) -> None:
    async with limited_gateway(tmp_path, arriving_bytes=250_000) as gateway:
        slow = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(POST + b"content-length: 200000\r\n\r\n" + b" " * 100_000)
            await writer.drain()
            slow.append((reader, writer))
        code, _, body = await answer_of(slow[0][0])
        assert (code, "bytes of bodies" in json.loads(body)["error"]) == (503, True)
        assert refusals(gateway, "bodies_full") == 1
        assert await serves_others(gateway)
        slow[2][1].write(b" " * 100_000)
        assert (await answer_of(slow[2][0]))[0] == 400  # complete, but not an inference request
        for _, writer in slow:
            writer.close()

        async def forgotten() -> bool:
            return gateway.registry.get_sample_value("millrace_gateway_arriving_bytes") == 0

        await until(forgotten)


async def test_the_bodies_of_all_waiting_requests_are_limited(tmp_path: Path) -> None:
    async with limited_gateway(tmp_path, bodies_bytes=100_000) as gateway:
        gateway.processor.go.clear()
        large = asyncio.create_task(gateway.client.post(URL, content=BODY + b" " * 100_000))
        await gateway.until_seen()
        answer = await gateway.client.post(URL, content=BODY)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert (await gateway.client.get("/v2/models")).status_code == 200
        gateway.processor.go.set()
        assert (await large).status_code == 200
        assert await serves_others(gateway)
        assert gateway.registry.get_sample_value("millrace_gateway_body_bytes") == 0


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_half_closed_client_gets_its_answer(gateway: Gateway, version: bytes) -> None:
    gateway.processor.go.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = POST.replace(b"HTTP/1.1", b"HTTP/" + version)
    writer.write(head + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
    writer.write_eof()
    await gateway.until_seen()
    if version == b"1.1":  # the gateway probes whether the client is there
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    gateway.processor.go.set()
    code, headers, _ = await answer_of(reader)
    while code == 100:
        code, headers, _ = await answer_of(reader)
    assert (code, headers["connection"]) == (200, "close")
    assert await reader.read() == b""
    writer.close()


async def test_a_client_of_http_1_0_may_keep_its_connection(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = POST.replace(b"HTTP/1.1", b"HTTP/1.0") + b"content-length: %d\r\n" % len(BODY)
    for _ in range(2):
        writer.write(head + b"connection: Keep-Alive\r\n\r\n" + BODY)
        code, headers, _ = await answer_of(reader)
        assert (code, headers["connection"]) == (200, "keep-alive")
    writer.write(head + b"\r\n" + BODY)
    code, headers, _ = await answer_of(reader)
    assert (code, headers["connection"]) == (200, "close")
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("pieces", [1, 7])
async def test_an_offered_upgrade_is_ignored_and_the_request_served(gateway: Gateway, pieces: int) -> None:
    head = POST + b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
    chunked = b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    plain = b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
    sent = (head + plain) * 2 + head + chunked + POST + b"connection: keep-alive, upgrade\r\nupgrade: websocket\r\n"
    sent += plain
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    size = -(-len(sent) // pieces)
    for at in range(0, len(sent), size):
        writer.write(sent[at : at + size])
        await writer.drain()
    for _ in range(4):
        code, headers, body = await answer_of(reader)
        assert (code, "connection" in headers) == (200, False)
        assert json.loads(body)["outputs"][0]["data"] == [3.0, 5.0]
    writer.close()


async def test_a_head_that_offers_an_upgrade_has_the_same_limit(tmp_path: Path) -> None:
    """It is parsed twice, and the second time without the bytes that had arrived before."""
    async with limited_gateway(tmp_path, head_bytes=8192) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(POST + b"connection: upgrade\r\nupgrade: h2c\r\na: " + b"x" * 7000 + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.1)  # the gateway reads the rest by itself
        writer.write(b"b: " + b"x" * 7000 + b"\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY))
        assert (await answer_of(reader))[0] == 431
        writer.close()


@pytest.mark.skipif(shutil.which("java") is None, reason="no java here")
async def test_javas_own_client_posts_with_its_defaults(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "Ask.java").write_text(JAVA)
    words = ["java", str(tmp_path / "Ask.java"), f"http://127.0.0.1:{gateway.port}{URL}", BODY.decode()]
    done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, timeout=100, check=False)
    assert [line[:12] for line in done.stdout.splitlines()] == ["200 HTTP_1_1"] * 2, done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
async def test_curl_that_offers_http_2_is_served_over_http_1_1(gateway: Gateway) -> None:
    words = ["curl", "-s", "--http2", "-w", " %{http_code} %{http_version}", "-d", BODY.decode()]
    words.append(f"http://127.0.0.1:{gateway.port}{URL}")
    done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.endswith(" 200 1.1"), done


async def test_invalid_http_after_a_request_does_not_cost_its_answer(gateway: Gateway) -> None:
    gateway.processor.go.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY + b"nonsense\r\n\r\n")
    await gateway.until_seen()
    assert refusals(gateway, "malformed") == 1
    gateway.processor.go.set()
    assert (await answer_of(reader))[0] == 200
    assert await reader.read() == b""
    writer.close()


async def test_a_gateway_at_all_ipv6_addresses_serves_ipv4_too(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, host="::") as gateway:
        for host in ("[::1]", "127.0.0.1"):
            answer = await gateway.client.get(f"http://{host}:{gateway.port}/v2/health/live")
            assert answer.json() == {"live": True}


async def test_an_ipv6_address_in_use_is_named_in_brackets(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, host="::") as gateway:
        with pytest.raises(Misconfigured, match=rf"port {gateway.port} of \[::1\] is in use"):
            listen("::1", gateway.port)
