"""Triton's own HTTP client and Millrace read each other's bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from broker.tensor.datatypes import DTYPES, datatype_of
from broker.tensor.inference import TensorSpec
from broker.tensor.outputs import encode, encode_rows
from broker.tensor.tensors import Inputs, assemble, decode

triton = pytest.importorskip("tritonclient.http", reason="the extra with Triton's client is not installed")

NUMBERS = [dtype for name, dtype in DTYPES.items() if name != "BYTES"]
shapes = arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


def finite(dtype: np.dtype[Any]) -> st.SearchStrategy[Any]:
    return (
        arrays.from_dtype(dtype, allow_nan=False, allow_infinity=False)
        if dtype.kind == "f"
        else arrays.from_dtype(dtype)
    )


raw_tensors = st.sampled_from(NUMBERS).flatmap(
    lambda dtype: arrays.arrays(dtype, shapes, elements=arrays.from_dtype(dtype))
)
json_tensors = st.sampled_from(NUMBERS).flatmap(lambda dtype: arrays.arrays(dtype, shapes, elements=finite(dtype)))
byte_tensors = arrays.arrays(np.dtype(object), shapes, elements=st.binary(max_size=9))
text_tensors = arrays.arrays(np.dtype(object), shapes, elements=st.text(max_size=9).map(str.encode))


def sent(tensors: dict[str, Any], *, binary: bool, outputs: list[Any] | None = None, request_id: str = "") -> Inputs:
    inputs = []
    for name, values in tensors.items():
        tensor = triton.InferInput(name, list(values.shape), datatype_of(values.dtype))
        tensor.set_data_from_numpy(values, binary_data=binary)
        inputs.append(tensor)
    body, length = triton.InferenceServerClient.generate_request_body(
        inputs, outputs=outputs, request_id=request_id, parameters={"tag": "t"}
    )
    return decode(body, length)


def received(body: bytes, length: int | None) -> Any:
    return triton.InferResult.from_response_body(body, header_length=length)


def same(ours: Any, theirs: Any) -> None:
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(ours, theirs)


@given(raw_tensors | byte_tensors, raw_tensors | byte_tensors)
def test_its_raw_requests_are_read(x: Any, y: Any) -> None:
    inputs = sent({"x": x, "y": y}, binary=True)
    same(inputs.tensors["x"], x)
    same(inputs.tensors["y"], y)
    assert inputs.head.binary_output
    assert inputs.head.parameters["tag"] == "t"


@given(json_tensors | text_tensors)
def test_its_json_requests_are_read(x: Any) -> None:
    inputs = sent({"x": x}, binary=False, request_id="7")
    same(inputs.tensors["x"], x)
    assert inputs.head.id == "7"


@given(raw_tensors | byte_tensors)
def test_it_reads_our_raw_answers(y: Any) -> None:
    asked = sent({"x": np.zeros(1, np.float32)}, binary=True, request_id="7").head
    result = received(*encode({"y": y}, head=asked, model="m", version="1"))
    same(result.as_numpy("y"), y)
    assert result.get_response()["id"] == "7"


@given(json_tensors)
def test_it_reads_our_json_answers(y: Any) -> None:
    outputs = [triton.InferRequestedOutput("y", binary_data=False)]
    asked = sent({"x": np.zeros(1, np.float32)}, binary=True, outputs=outputs).head
    same(received(*encode({"y": y}, head=asked, model="m", version="1")).as_numpy("y"), y)


def test_it_reads_a_mixed_answer_in_the_order_it_asked_for() -> None:
    outputs = [triton.InferRequestedOutput("b", binary_data=True), triton.InferRequestedOutput("a", binary_data=False)]
    asked = sent({"x": np.zeros(1, np.float32)}, binary=True, outputs=outputs).head
    computed = {"a": np.array([[1], [2]], np.int32), "b": np.array([[b"\xff"], [b"cd"]], object)}
    (answer,) = encode_rows(computed, [(asked, 1, 2)], model="m", version="1")
    assert isinstance(answer, tuple)
    result = received(*answer)
    assert [item["name"] for item in result.get_response()["outputs"]] == ["b", "a"]
    assert result.as_numpy("b").tolist() == [[b"cd"]]
    assert result.as_numpy("a").tolist() == [[2]]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.booleans())
def test_a_batch_of_its_requests_comes_back_row_by_row(sizes: list[int], binary: bool) -> None:
    source = np.arange(sum(sizes) * 3, dtype=np.float32).reshape(-1, 3)
    stops = np.cumsum(sizes).tolist()
    spans = list(zip([0, *stops], stops, strict=False))
    outputs = None if binary else [triton.InferRequestedOutput("x", binary_data=False)]
    requests = [sent({"x": source[start:stop]}, binary=True, outputs=outputs) for start, stop in spans]
    batch = {"x": np.concatenate([request.tensors["x"] for request in requests])}
    same(assemble([request.tensors for request in requests], [TensorSpec("x", "FP32", (-1, 3))])["x"], batch["x"])
    items = [(request.head, start, stop) for request, (start, stop) in zip(requests, spans, strict=True)]
    for answer, (start, stop) in zip(encode_rows(batch, items, model="m", version="1"), spans, strict=True):
        assert isinstance(answer, tuple)
        same(received(*answer).as_numpy("x"), source[start:stop])
