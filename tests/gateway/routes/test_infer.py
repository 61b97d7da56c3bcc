"""The infer route over real HTTP, with normal and hostile requests."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from broker.channels import Limits
from broker.protocol.header import Status
from broker.records.events import read_event
from tests.gateway.infer_requests import BODY, URL, error_of
from tests.gateway.running_gateway import FULL, DoublingProcessor, Gateway, X, running_gateway
from tests.waiting import until

RAW = np.array([[1.5, 2.5]], np.float32).tobytes()
HEAD = (
    json.dumps({"inputs": [{**X, "data": None, "parameters": {"binary_data_size": 8}}]})
    .replace('"data": null, ', "")
    .encode()
)


async def test_an_answer_has_the_output_and_names_the_arm(gateway: Gateway) -> None:
    answer = await gateway.client.post(URL, content=BODY)
    assert answer.status_code == 200
    assert answer.json()["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [3.0, 5.0]}]
    assert (answer.json()["id"], answer.json()["model_name"]) == ("mine", "double")
    assert (answer.headers["millrace-arm"], answer.headers["millrace-version"]) == ("v1", "1")
    assert answer.headers["millrace-status"] == "ok"
    assert UUID(answer.headers["millrace-request-id"]).version == 7


@pytest.mark.parametrize("binary", [True, False])
async def test_tritons_client_gets_the_outputs_that_it_requests(gateway: Gateway, binary: bool) -> None:
    def ask() -> Any:
        client = triton.InferenceServerClient(f"127.0.0.1:{gateway.port}")
        x = triton.InferInput("x", [1, 2], "FP32")
        x.set_data_from_numpy(np.array([[1.5, 2.5]], np.float32), binary_data=binary)
        outputs = None if binary else [triton.InferRequestedOutput("y", binary_data=False)]
        results = [
            client.infer("double", [x], outputs=outputs, request_compression_algorithm=how) for how in (None, "gzip")
        ]
        results.append(client.infer("double", [x], outputs=outputs, model_version="1"))
        client.close()
        return results

    for result in await asyncio.to_thread(ask):
        assert result.as_numpy("y").tolist() == [[3.0, 5.0]]


@pytest.mark.parametrize("pin", ["v1", "1"])
async def test_a_version_in_the_path_pins_an_arm(gateway: Gateway, pin: str) -> None:
    answer = await gateway.client.post(f"/v2/models/double/versions/{pin}/infer", content=BODY)
    assert answer.status_code == 200
    assert gateway.processor.seen[0].route.policy == "pinned"


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v2/models/nobody/infer", "nobody"),
        ("/v2/models/double/versions/7/infer", "'7'"),
        ("/v2/models/a%2Fb/infer", "a/b"),
        ("/v2/models/double%2525/infer", "%25"),
        ("/v2/models/%FF%00/infer", "letters"),
        ("/v2/models/fraud.v1/infer", "letters"),
        ("/v2/models/" + "a" * 5000 + "/infer", "letters"),
        ("/v2/models//infer", "letters"),
        ("/v1/infer", "/v1/infer"),
    ],
)
async def test_an_unknown_name_is_404(gateway: Gateway, path: str, named: str) -> None:
    answer = await gateway.client.post(path, content=BODY)
    assert answer.status_code == 404
    assert named in error_of(answer)


@pytest.mark.parametrize("length", ["-1", "1000", "eleven", "9" * 5000, "", "1.0", "\u00b2"])
async def test_a_wrong_json_length_is_400(gateway: Gateway, length: str) -> None:
    headers = [(b"inference-header-content-length", length.encode("latin-1"))]
    answer = await gateway.client.post(URL, content=BODY, headers=headers)
    assert answer.status_code == 400
    assert "Inference-Header-Content-Length" in error_of(answer)


async def test_a_json_length_in_the_middle_of_the_json_is_400(gateway: Gateway) -> None:
    answer = await gateway.client.post(URL, content=HEAD + RAW, headers={"inference-header-content-length": "5"})
    assert answer.status_code == 400
    error_of(answer)


async def test_raw_tensors_are_accepted_and_returned(gateway: Gateway) -> None:
    headers = {"inference-header-content-length": str(len(HEAD))}
    answer = await gateway.client.post(URL, content=HEAD + RAW, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == [3.0, 5.0]


@pytest.mark.parametrize("junk", ["soon", "0", "-5", "1e3", "9" * 5000, "1.5"])
async def test_a_timeout_that_is_no_number_is_400(gateway: Gateway, junk: str) -> None:
    answer = await gateway.client.post(URL, content=BODY, headers={"millrace-timeout-ms": junk})
    assert answer.status_code == 400
    assert "millrace-timeout-ms" in error_of(answer)


@pytest.mark.parametrize("header", ["millrace-timeout-ms", "timeout_ms"])
async def test_a_late_answer_is_504(gateway: Gateway, header: str) -> None:
    gateway.processor.go.clear()
    answer = await gateway.client.post(URL, content=BODY, headers={header: "120"})
    assert answer.status_code == 504
    assert "120 ms" in error_of(answer)
    gateway.processor.go.set()
    assert (await gateway.client.post(URL, content=BODY)).status_code == 200


@pytest.mark.parametrize(
    ("status", "code"), [(Status.EXPIRED, 504), (Status.FAILED, 500), (Status.OVERLOADED, 429), (Status.CANCELLED, 499)]
)
async def test_a_status_of_a_processor_becomes_a_code(gateway: Gateway, status: Status, code: int) -> None:
    gateway.processor.status = status
    answer = await gateway.client.post(URL, content=BODY)
    assert answer.status_code == code
    assert error_of(answer) == f"ended as {status.word}"
    assert ("retry-after" in answer.headers) == (code == 429)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[]", b'{"inputs": 7}'])
async def test_a_body_that_is_not_a_request_is_400(gateway: Gateway, body: bytes) -> None:
    answer = await gateway.client.post(URL, content=body)
    assert answer.status_code == 400
    error_of(answer)


async def pieces(size: int, piece: int) -> AsyncIterator[bytes]:
    for _ in range(0, size, piece):
        yield b" " * piece


async def test_a_body_in_chunks_is_put_together(gateway: Gateway) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(BODY), 7):
            yield BODY[at : at + 7]

    assert (await gateway.client.post(URL, content=chunks())).status_code == 200


@pytest.mark.parametrize("how", ["announced", "chunked", "gzip", "deflate"])
async def test_a_body_over_the_limit_is_413_in_every_encoding(tmp_path: Path, how: str) -> None:
    async with running_gateway(tmp_path, body_limit_bytes=100_000) as gateway:
        content: Any = b" " * 100_001
        headers = {}
        if how == "chunked":
            content = pieces(200_000, 10_000)
        elif how == "gzip":
            content, headers = gzip.compress(b"\0" * 50_000_000), {"content-encoding": "gzip"}
        elif how == "deflate":
            content, headers = zlib.compress(b"\0" * 50_000_000), {"content-encoding": "deflate"}
        answer = await gateway.client.post(URL, content=content, headers=headers)
        assert answer.status_code == 413
        assert "100000" in error_of(answer)
        assert gateway.processor.seen == []
        assert (await gateway.client.post(URL, content=BODY)).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "identity"])
async def test_a_compressed_body_is_read(gateway: Gateway, encoding: str) -> None:
    content = BODY if encoding == "identity" else gzip.compress(BODY)
    answer = await gateway.client.post(URL, content=content, headers={"content-encoding": encoding})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (BODY, "gzip"),
        (BODY, "br"),
        (gzip.compress(BODY)[:-9], "gzip"),
        (gzip.compress(BODY) + b"more", "gzip"),
        (gzip.compress(BODY), "gzip, gzip"),
    ],
)
async def test_a_wrong_content_encoding_is_400(gateway: Gateway, content: bytes, encoding: str) -> None:
    answer = await gateway.client.post(URL, content=content, headers={"content-encoding": encoding})
    assert answer.status_code == 400
    error_of(answer)


async def test_headers_that_are_not_text_are_harmless(gateway: Gateway) -> None:
    headers = [(b"millrace-key", b"\xff\xfe"), (b"tracestate", b"\xe9\xff"), (b"traceparent", b"\xff")]
    answer = await gateway.client.post(URL, content=BODY, headers=headers)
    assert answer.status_code == 200
    assert gateway.processor.seen[0].trace == ""


async def test_the_request_carries_its_trace_and_key(gateway: Gateway) -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    await gateway.client.post(
        URL, content=BODY, headers={"traceparent": trace, "millrace-key": "user-7", "tracestate": "a=1"}
    )
    seen = gateway.processor.seen[0]
    assert (seen.trace, seen.key, json.loads(seen.extra)) == (trace, "user-7", {"tracestate": "a=1"})


async def test_a_request_over_the_pending_limit_is_429_with_retry_after_and_has_a_row(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, pending_limit=1) as gateway:
        gateway.processor.go.clear()
        first = asyncio.create_task(gateway.client.post(URL, content=BODY))
        await gateway.until_seen()
        refused = await gateway.client.post(URL, content=BODY)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        error_of(refused)
        gateway.processor.go.set()
        assert (await first).status_code == 200
        (record,) = await gateway.broker.read(gateway.broker.channels.events("double"), 0).read(10)
        rows = read_event(record)
        assert rows is not None
        assert rows.column("status").to_pylist() == ["overloaded"]
        assert rows.column("uid").to_pylist() == [UUID(refused.headers["millrace-request-id"]).bytes]


async def test_a_model_that_hangs_leaves_room_for_the_others(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, pending_limit=4) as gateway:
        await gateway.broker.declare(gateway.broker.channels.inputs("other", 1))
        other = DoublingProcessor(gateway.broker, "other", 1)
        other.go.set()
        working = asyncio.create_task(other.work())
        await gateway.announce("other", 1, "ready", full=FULL)
        await gateway.until("/v2/models/other/ready", 200)
        gateway.processor.go.clear()
        hanging = [asyncio.create_task(gateway.client.post(URL, content=BODY)) for _ in range(2)]

        async def waits() -> bool:
            return gateway.registry.get_sample_value("millrace_gateway_pending_requests") == 2

        await until(waits)
        refused = await gateway.client.post(URL, content=BODY)
        assert (refused.status_code, error_of(refused)) == (429, "2 requests wait for double@1 here already")
        assert (await gateway.client.post("/v2/models/other/infer", content=BODY)).status_code == 200
        gateway.processor.go.set()
        assert [(await one).status_code for one in hanging] == [200, 200]
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_a_full_queue_is_429_at_once(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, limits=Limits(bytes=10)) as gateway:
        refused = await gateway.client.post(URL, content=BODY)
        assert refused.status_code == 429
        assert "full" in error_of(refused)


async def test_a_missing_queue_is_503(gateway: Gateway) -> None:
    await gateway.announce("other", 1, "ready")
    await gateway.until("/v2/models/other/ready", 200)
    refused = await gateway.client.post("/v2/models/other/infer", content=BODY)
    assert refused.status_code == 503
    assert "retry-after" in refused.headers


async def test_an_endpoint_without_any_replica_is_503(gateway: Gateway) -> None:
    await gateway.declare(endpoint="early", arms={"a": "late@1"})
    await gateway.until("/v2/models/early/ready", 503)
    refused = await gateway.client.post("/v2/models/early/infer", content=BODY)
    assert refused.status_code == 503
    assert "late@1" in error_of(refused)


async def test_a_client_that_disconnects_ends_its_request(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, pending_limit=1) as gateway:
        gateway.processor.go.clear()
        with pytest.raises(httpx.ReadTimeout):
            await gateway.client.post(URL, content=BODY, timeout=0.2)

        async def freed() -> bool:
            return gateway.registry.get_sample_value("millrace_gateway_pending_requests") == 0

        await until(freed)
        gateway.processor.go.set()
        assert (await gateway.client.post(URL, content=BODY)).status_code == 200


async def test_a_client_that_disconnects_in_its_body_publishes_nothing(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{" % URL.encode())
    await writer.drain()
    writer.close()
    await reader.read()
    assert (await gateway.client.post(URL, content=BODY)).status_code == 200
    assert len(gateway.processor.seen) == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD"])
async def test_another_method_is_405_and_names_the_right_one(gateway: Gateway, method: str) -> None:
    answer = await gateway.client.request(method, URL)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    if method != "HEAD":
        assert "POST" in error_of(answer)


@pytest.mark.parametrize(
    "request_line",
    [b"nonsense", b"GET /\xff\xff HTTP/1.1", b"POST /v2 HTTP/1.1\r\ncontent-length: minus", b"CONNECT x:1 HTTP/1.1"],
)
async def test_invalid_http_is_answered_with_json_too(gateway: Gateway, request_line: bytes) -> None:
    answer = await gateway.raw(request_line + b"\r\nhost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"millrace-request-id: " in head
    assert set(json.loads(body)) == {"error"}


def raw(values: np.ndarray[Any, Any]) -> tuple[bytes, dict[str, str]]:
    """Return a body with raw tensors that requests its answer as JSON, and the header for it."""
    x = {"name": "x", "shape": list(values.shape), "datatype": "FP32"}
    head = json.dumps({"inputs": [{**x, "parameters": {"binary_data_size": values.nbytes}}]}).encode()
    return head + values.tobytes(), {"inference-header-content-length": str(len(head))}


@pytest.mark.parametrize("prefer", ["", "respond-async"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[1, np.nan]], np.float32), "the model's output y holds NaN or infinity"),
        (np.full((1, 1_500_000), 0.1234567, np.float32), "can be sent: ask for fewer rows or outputs"),
    ],
    ids=["NaN", "an answer of 17 MB"],
)
async def test_an_answer_that_cannot_be_encoded_is_a_failure_of_the_model(
    gateway: Gateway, values: np.ndarray[Any, Any], message: str, prefer: str
) -> None:
    content, headers = raw(values)
    answer = await gateway.client.post(URL, content=content, headers={**headers, "prefer": prefer})
    if prefer:
        assert answer.status_code == 202
        answer = await gateway.until(answer.headers["location"], 500)
    assert (answer.status_code, answer.headers["millrace-status"]) == (500, "failed")
    assert message in error_of(answer)
