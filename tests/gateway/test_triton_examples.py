"""The calls and checks of Triton's own Python examples, against this gateway."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio

from broker.records.replica_statistics import Statistics
from tests.gateway.infer_requests import BODY, URL
from tests.gateway.running_gateway import FULL, Gateway

X = np.array([[1.5, 2.5]], np.float32)
BIG = np.arange(20_000, dtype=np.float32).reshape(-1, 2)


def input_of(values: np.ndarray[Any, Any], *, binary: bool) -> triton.InferInput:
    given = triton.InferInput("x", list(values.shape), "FP32")
    given.set_data_from_numpy(values, binary_data=binary)
    return given


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("accepted", [None, "gzip", "deflate"])
@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
async def test_compressed_requests_get_compressed_answers(
    gateway: Gateway, binary: bool, accepted: str | None, sent: str | None
) -> None:
    def ask() -> Any:
        client = triton.InferenceServerClient(f"127.0.0.1:{gateway.port}")
        outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
        how = {"request_compression_algorithm": sent, "response_compression_algorithm": accepted}
        results = [client.infer("double", [input_of(it, binary=binary)], outputs=outputs, **how) for it in (X, BIG)]
        client.close()
        return [it.as_numpy("y") for it in results]

    small, big = await asyncio.to_thread(ask)
    assert small.tolist() == [[3.0, 5.0]]
    assert np.array_equal(big, 2 * BIG)


async def test_the_asyncio_client_works_like_the_other_one(gateway: Gateway) -> None:
    async with triton_aio.InferenceServerClient(f"127.0.0.1:{gateway.port}") as client:
        for accepted in (None, "gzip", "deflate"):
            result = await client.infer("double", [input_of(BIG, binary=True)], response_compression_algorithm=accepted)
            assert np.array_equal(result.as_numpy("y"), 2 * BIG)
        with pytest.raises(triton.InferenceServerException) as caught:
            await client.infer("wrong_model_name", [input_of(X, binary=True)])
        assert caught.value.message().startswith("Request for unknown model")
        assert len((await client.get_inference_statistics("double"))["model_stats"]) == 1


async def test_a_wrong_model_name_is_reported_in_tritons_words(gateway: Gateway) -> None:
    def ask() -> str:
        client = triton.InferenceServerClient(f"127.0.0.1:{gateway.port}")
        with pytest.raises(triton.InferenceServerException) as caught:
            client.infer("wrong_model_name", [input_of(X, binary=True)])
        client.close()
        return str(caught.value.message())

    assert (await asyncio.to_thread(ask)).startswith("Request for unknown model: 'wrong_model_name' is not found")


async def test_statistics_can_be_read_for_one_model_version(gateway: Gateway) -> None:
    for instance, version, rows in (("r1", 1, 3), ("r2", 1, 5), ("r3", 2, 8)):
        statistics = Statistics()
        statistics.computed(requests=2, rows=rows, queued_us=10, computing_us=100, at_us=1_700_000_000_000_000)
        statistics.fail.add(1, 7)
        await gateway.announce("double", version, "ready", instance=instance, full=FULL, stats=statistics.write())
    arms = {"a": "double@1", "b": "double@2", "c": "double@1"}
    await gateway.declare(endpoint="shop", arms=arms, policy={"split": list(arms)})
    await gateway.until("/v2/models/shop/versions/b/ready", 200)

    def ask() -> list[Any]:
        client = triton.InferenceServerClient(f"127.0.0.1:{gateway.port}")
        cases = (("shop",), ("shop", "2"), ("shop", "a"), ())
        found = [client.get_inference_statistics(*words)["model_stats"] for words in cases]
        assert "statistics" in client.get_server_metadata()["extensions"]
        with pytest.raises(triton.InferenceServerException, match="unknown model"):
            client.get_inference_statistics("nobody")
        client.close()
        return found

    both, second, first, every = await asyncio.to_thread(ask)
    assert [(it["name"], it["version"], it["inference_count"]) for it in both] == [("shop", "1", 8), ("shop", "2", 8)]
    assert (second, first, every) == ([both[1]], [both[0]], both)
    assert (both[0]["execution_count"], both[0]["last_inference"]) == (2, 1_700_000_000_000)
    assert both[0]["inference_stats"]["success"] == {"count": 4, "ns": 420_000}
    assert both[0]["inference_stats"]["fail"] == {"count": 2, "ns": 14_000}
    assert both[0]["inference_stats"]["compute_infer"] == {"count": 4, "ns": 400_000}
    assert [it["batch_size"] for it in both[0]["batch_stats"]] == [3, 5]


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "gzip"),
        ("gzip;q=0.1, deflate;q=0.5", "deflate"),
        ("x-gzip", "gzip"),
        ("*", "gzip"),
        ("gzip;q=0, *", "deflate"),
        ("br", None),
        ("gzip;q=0", None),
        ("", None),
        ("identity", None),
        ("gzip;q=much", None),
    ],
)
async def test_a_large_answer_has_the_preferred_coding(gateway: Gateway, accept: str, coding: str | None) -> None:
    async with gateway.client.stream("GET", "/openapi.json", headers={"accept-encoding": accept}) as answer:
        packed = b"".join([part async for part in answer.aiter_raw()])
    assert answer.headers.get("content-encoding") == coding
    assert answer.headers["vary"] == "accept-encoding"
    windows = {"gzip": 31, "deflate": 15}
    plain = packed if coding is None else zlib.decompress(packed, windows[coding])
    assert plain.startswith(b'{"openapi"')


async def test_a_small_answer_is_not_compressed(gateway: Gateway) -> None:
    answer = await gateway.client.post(URL, content=BODY, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in answer.headers


async def test_a_body_of_several_gzip_members_is_one_body(gateway: Gateway) -> None:
    for encoding in ("gzip", "x-gzip"):
        content = gzip.compress(BODY[:20]) + gzip.compress(BODY[20:])
        answer = await gateway.client.post(URL, content=content, headers={"content-encoding": encoding})
        assert answer.status_code == 200
