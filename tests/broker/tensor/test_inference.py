"""The head of a request: its fields, and the refusal of malformed ones."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from broker.errors import InvalidRequest
from broker.tensor import inference
from broker.tensor.inference import InputHead, OutputHead, parse_head

X: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
RAW: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}


def test_a_json_body_gives_its_inputs_with_their_data() -> None:
    head = parse_head(orjson.dumps({"id": "a", "parameters": {"k": 1}, "inputs": [X]}), None)
    assert head.id == "a"
    assert head.parameters == {"k": 1}
    assert head.inputs == (InputHead("x", "FP32", (1, 2), None, [1.0, 2.0]),)
    assert head.outputs is None
    assert not head.binary_output
    assert not head.shared


def test_outputs_keep_their_order_and_leave_binary_open() -> None:
    outputs = [
        {"name": "b", "parameters": {"binary_data": True}},
        {"name": "a"},
        {"name": "c", "parameters": {"binary_data": False}},
    ]
    head = parse_head(orjson.dumps({"inputs": [X], "outputs": outputs}), None)
    assert head.outputs == (OutputHead("b", True), OutputHead("a", None), OutputHead("c", False))


def test_no_wanted_outputs_means_all() -> None:
    assert parse_head(orjson.dumps({"inputs": [X], "outputs": []}), None).outputs is None


def test_unknown_fields_and_parameters_pass() -> None:
    body = {"inputs": [{**X, "extra": 1}], "parameters": {"headers": {"a": "b"}, "priority": 3}, "more": []}
    assert parse_head(orjson.dumps(body), None).parameters == {"headers": {"a": "b"}, "priority": 3}


def test_equal_binary_heads_are_one_object() -> None:
    text = orjson.dumps({"inputs": [RAW]})
    head = parse_head(text + bytes(8), len(text))
    assert head.shared
    assert head.binary_bytes == 8
    assert parse_head(memoryview(text + b"12345678"), len(text)) is head


@pytest.mark.parametrize(
    "document",
    [
        {"id": "1", "inputs": [RAW]},
        {"inputs": [X]},
        {"inputs": [RAW, {**X, "name": "y"}]},
        {"inputs": [RAW], "parameters": {"pad": "p" * 5000}},
    ],
    ids=["an id", "data", "some data", "too long"],
)
def test_unique_heads_are_not_remembered(document: dict[str, Any]) -> None:
    text = orjson.dumps(document)
    head = parse_head(text, len(text))
    assert not head.shared
    assert parse_head(text, len(text)) is not head


def test_the_number_of_remembered_heads_is_limited() -> None:
    texts = [orjson.dumps({"inputs": [RAW], "parameters": {"n": n}}) for n in range(inference.MAX_KNOWN_HEADS + 1)]
    heads = [parse_head(text, len(text)) for text in texts]
    assert parse_head(texts[-1], len(texts[-1])) is heads[-1]
    assert parse_head(texts[0], len(texts[0])) is not heads[0]


def test_an_empty_tensor_needs_no_data() -> None:
    empty = {"name": "x", "datatype": "INT8", "shape": [0, 3]}
    assert parse_head(orjson.dumps({"inputs": [empty]}), None).inputs[0].data == []


NOT_A_REQUEST = {
    "nothing": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"inputs":[{"name":"\xff"}]}',
    "NaN": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}]}',
    "infinite": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1e999]}]}',
    "half a surrogate": b'{"id":"\\ud800","inputs":[]}',
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "deep lists": b"[" * 100_000,
    "deep parameters": b'{"parameters":' + b'{"a":' * 100_000,
    "two documents": b"{}{}",
}


@pytest.mark.parametrize("body", NOT_A_REQUEST.values(), ids=NOT_A_REQUEST.keys())
def test_bytes_that_are_not_a_request_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_head(body, None)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no inputs": ({}, "inputs is null, and must be a list"),
    "empty inputs": ({"inputs": []}, "inputs is a list of 0"),
    "inputs an object": ({"inputs": {}}, "inputs is an object"),
    "an input that is a string": ({"inputs": ["x"]}, "must be a JSON object"),
    "thousands of inputs": ({"inputs": [X] * 1025}, "inputs is a list of 1025, and must be a list of 1 to 1024"),
    "thousands of outputs": ({"inputs": [X], "outputs": [{}] * 1025}, "outputs is a list of 1025, and must"),
    "a name twice": ({"inputs": [X, X]}, "'x' is given more than once"),
    "no name": ({"inputs": [{**X, "name": None}]}, "None as its name"),
    "an empty name": ({"inputs": [{**X, "name": ""}]}, "as its name"),
    "a name that is a list": ({"inputs": [{**X, "name": ["x"]}]}, "as its name"),
    "an unknown datatype": ({"inputs": [{**X, "datatype": "FP8"}]}, "datatype is 'FP8'"),
    "a datatype that is a list": ({"inputs": [{**X, "datatype": []}]}, "datatype is"),
    "BF16": ({"inputs": [{**X, "datatype": "BF16"}]}, "send FP32 or FP16"),
    "no shape": ({"inputs": [{**X, "shape": None}]}, "shape is None"),
    "a shape that is a number": ({"inputs": [{**X, "shape": 2}]}, "shape is 2"),
    "a negative dimension": ({"inputs": [{**X, "shape": [-1, 2]}]}, "-1 as a dimension"),
    "a dimension that is a boolean": ({"inputs": [{**X, "shape": [True, 2]}]}, "True as a dimension"),
    "a dimension that is a float": ({"inputs": [{**X, "shape": [1.0, 2]}]}, "1.0 as a dimension"),
    "a dimension that is a string": ({"inputs": [{**X, "shape": ["1", 2]}]}, "'1' as a dimension"),
    "an overflowing shape": ({"inputs": [{**X, "shape": [2**31, 2**31]}]}, "more elements than can be addressed"),
    "an overflow hidden by a zero": ({"inputs": [{**X, "shape": [0, 2**40, 2**40], "data": []}]}, "more elements"),
    "too many dimensions": ({"inputs": [{**X, "shape": [1] * 33}]}, "at most 32"),
    "a million dimensions": ({"inputs": [{**X, "shape": [1] * 1_000_000}]}, "at most 32"),
    "no data": ({"inputs": [{**X, "data": None}]}, "has no data"),
    "data that is a string": ({"inputs": [{**X, "data": "abc"}]}, "data is a string"),
    "data that is an object": ({"inputs": [{**X, "data": {}}]}, "data is an object"),
    "data that is a number": ({"inputs": [{**X, "data": 1}]}, "data is a number"),
    "shared memory": ({"inputs": [{**RAW, "parameters": {"shared_memory_region": "r"}}]}, "shared memory"),
    "binary in a JSON body": ({"inputs": [RAW]}, "Inference-Header-Content-Length must say"),
    "data and a size": ({"inputs": [{**RAW, "data": [1.0, 2.0]}]}, "both data and binary_data_size"),
    "parameters a list": ({"inputs": [X], "parameters": []}, "parameters is a list"),
    "an input's parameters a list": ({"inputs": [{**X, "parameters": []}]}, "parameters is a list"),
    "an id that is a number": ({"inputs": [X], "id": 7}, "id is 7"),
    "an id that is empty parameters": ({"inputs": [X], "id": {}}, "id is {}"),
    "a flag that is a number": ({"inputs": [X], "parameters": {"binary_data_output": 1}}, "must be true or false"),
    "outputs an object": ({"inputs": [X], "outputs": {"name": "y"}}, "outputs is an object"),
    "an output that is a string": ({"inputs": [X], "outputs": ["y"]}, "must be a JSON object"),
    "an output twice": ({"inputs": [X], "outputs": [{"name": "y"}, {"name": "y"}]}, "'y' is given more than once"),
    "an output's flag a string": (
        {"inputs": [X], "outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]},
        "binary_data is 'yes'",
    ),
    "classification": (
        {"inputs": [X], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        "classification, which is not served",
    ),
}


@pytest.mark.parametrize(("document", "text"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_head_is_refused_with_the_reason(document: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text.replace("(", r"\(")) as caught:
        parse_head(orjson.dumps(document), None)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("size", [-1, 7, 9, 0, 8.0, "8", True, [8], 2**63])
def test_a_wrong_binary_size_is_refused(size: object) -> None:
    text = orjson.dumps({"inputs": [{**RAW, "parameters": {"binary_data_size": size}}]})
    with pytest.raises(InvalidRequest, match="binary_data_size is"):
        parse_head(text + bytes(8), len(text))


@pytest.mark.parametrize(("shape", "size"), [([2], 7), ([0], 1), ([10**12], 0)])
def test_a_binary_size_that_cannot_hold_its_bytes_elements_is_refused(shape: list[int], size: int) -> None:
    entry = {"name": "s", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": size}}
    text = orjson.dumps({"inputs": [entry]})
    with pytest.raises(InvalidRequest, match="cannot hold"):
        parse_head(text, len(text))


@pytest.mark.parametrize("length", [-1, 0, 10**6])
def test_a_json_length_outside_the_body_is_refused(length: int) -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        parse_head(orjson.dumps({"inputs": [X]}), length)


def test_a_json_length_that_cuts_the_json_is_refused_with_the_way_out() -> None:
    text = orjson.dumps({"inputs": [RAW]})
    with pytest.raises(InvalidRequest, match="Inference-Header-Content-Length"):
        parse_head(text + bytes(8), len(text) - 1)
