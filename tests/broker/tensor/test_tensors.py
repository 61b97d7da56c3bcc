"""Decodes requests into tensors, and assembles tensors into batches."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import InvalidRequest, MillraceError, TooLarge
from broker.tensor.datatypes import DTYPES, Array
from broker.tensor.inference import TensorSpec
from broker.tensor.tensors import Inputs, assemble, check, decode, decode_raw

SPECS = (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("n", "INT64", (-1,)))


def from_json(datatype: str, shape: list[int], data: Any) -> Array:
    entry = {"name": "x", "datatype": datatype, "shape": shape, "data": data}
    return decode(orjson.dumps({"inputs": [entry]}), None).tensors["x"]


def binary(*tensors: tuple[str, str, list[int], bytes], **more: Any) -> tuple[bytes, int]:
    entries = [
        {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        for name, datatype, shape, raw in tensors
    ]
    text = orjson.dumps({"inputs": entries, **more})
    return text + b"".join(raw for _, _, _, raw in tensors), len(text)


def packed(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def request(x: Array, n: Array) -> Inputs:
    return decode(
        *binary(("x", "FP32", list(x.shape), x.tobytes()), ("n", "INT64", list(n.shape), n.tobytes()), parameters={})
    )


@pytest.mark.parametrize("data", [[1.5, 2, 3, 4], [[1.5, 2], [3, 4]]], ids=["flat", "nested"])
def test_json_data_may_be_nested_or_flat(data: list[Any]) -> None:
    array = from_json("FP32", [2, 2], data)
    assert array.dtype == np.float32
    assert array.tolist() == [[1.5, 2], [3, 4]]


@pytest.mark.parametrize(
    ("shape", "data"),
    [([0], []), ([0, 3], []), ([2, 0], []), ([2, 0], [[], []]), ([0, 2, 2], []), ([], [7]), ([3, 1], [[1], [2], [3]])],
)
def test_unusual_shapes_are_supported(shape: list[int], data: list[Any]) -> None:
    assert from_json("INT32", shape, data).shape == tuple(shape)


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([2, 2], [1, 2, 3]),
        ([2, 2], [1, 2, 3, 4, 5]),
        ([2, 2], [[1, 2]]),
        ([2, 2], [[1, 2], [3]]),
        ([2, 2], [[1, 2], [3, 4, 5]]),
        ([2, 2], [[1, 2], 3]),
        ([2, 2], [[1, 2], [3, 4], []]),
        ([2, 2], [[1, [2]], [3, 4]]),
        ([2, 2], [1, [2], 3, 4]),
        ([4], [[1, 2], [3, 4]]),
        ([2, 2, 2], [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ([1], []),
        ([0], [1]),
        ([0, 1], [[]]),
        ([2, 1], [{}, {}]),
        ([10**15], [1]),
    ],
)
def test_data_that_does_not_match_its_shape_is_refused(shape: list[int], data: list[Any]) -> None:
    with pytest.raises(InvalidRequest, match="'x'"):
        from_json("INT32", shape, data)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("UINT64", 2**64 - 1),
        ("UINT64", 2**53 + 1),
        ("INT64", -(2**63)),
        ("INT64", 2**53 + 1),
        ("INT8", -128),
        ("UINT8", 255),
        ("FP16", 0.5),
        ("FP32", 7),
        ("FP64", 1e308),
        ("BOOL", True),
    ],
)
def test_json_numbers_arrive_exactly(datatype: str, value: float) -> None:
    array = from_json(datatype, [1], [value])
    assert array.dtype == DTYPES[datatype]
    assert array.tolist() == [value]


def test_booleans_may_be_one_and_zero() -> None:
    assert from_json("BOOL", [4], [True, False, 1, 0]).tolist() == [True, False, True, False]


def test_strings_arrive_as_utf8_bytes() -> None:
    assert from_json("BYTES", [2, 1], [["a"], ["ü\u0000"]]).tolist() == [[b"a"], ["ü\u0000".encode()]]


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT8", 128),
        ("INT8", -129),
        ("UINT8", -1),
        ("UINT8", 256),
        ("INT16", 2**15),
        ("UINT16", -1),
        ("INT32", 2**31),
        ("UINT32", 2**32),
        ("INT64", 2**63),
        ("UINT64", 2**64),
        ("UINT64", -1),
        ("INT64", 1.0),
        ("INT32", 1.5),
        ("INT32", True),
        ("INT32", "1"),
        ("FP32", True),
        ("FP32", "1.0"),
        ("FP32", None),
        ("FP32", 1e39),
        ("FP16", 65520.0),
        ("FP64", {}),
        ("BOOL", 2),
        ("BOOL", -1),
        ("BOOL", 1.0),
        ("BOOL", "true"),
        ("BYTES", 1),
        ("BYTES", None),
    ],
)
def test_a_value_that_is_not_of_the_datatype_is_refused(datatype: str, value: object) -> None:
    document = '{"inputs":[{"name":"x","datatype":"%s","shape":[1],"data":[%s]}]}'
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else orjson.dumps(value).decode()
    with pytest.raises(InvalidRequest, match=f"input 'x': .*{datatype}"):
        decode((document % (datatype, text)).encode(), None)


@pytest.mark.parametrize("wrap", [bytes, memoryview, lambda body: memoryview(bytearray(body))])
def test_raw_tensors_are_read_only_views(wrap: Any) -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    body, length = binary(("x", "FP32", [3, 2], values.tobytes()))
    array = decode(wrap(body), length).tensors["x"]
    np.testing.assert_array_equal(array, values)
    assert array.base is not None
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
def test_every_fixed_datatype_arrives_raw(datatype: str) -> None:
    values = np.array([0, 1, 1], dtype=DTYPES[datatype])
    body, length = binary(("x", datatype, [3], values.tobytes()))
    array = decode(body, length).tensors["x"]
    assert array.dtype == values.dtype
    np.testing.assert_array_equal(array, values)


def test_nan_and_infinity_arrive_raw() -> None:
    values = np.array([np.nan, np.inf], dtype=np.float32)
    np.testing.assert_array_equal(decode(*binary(("x", "FP32", [2], values.tobytes()))).tensors["x"], values)


def test_raw_bytes_elements_are_split_by_their_lengths() -> None:
    array = decode(*binary(("s", "BYTES", [3, 1], packed(b"", b"\xff\x00", b"abc")))).tensors["s"]
    assert array.tolist() == [[b""], [b"\xff\x00"], [b"abc"]]
    assert not array.flags.writeable


def test_empty_raw_tensors_are_supported() -> None:
    tensors = decode(*binary(("a", "FP32", [0, 4], b""), ("b", "BYTES", [0], b""), ("c", "INT8", [1], b"\x07"))).tensors
    assert [tensors["a"].shape, tensors["b"].shape, tensors["c"].tolist()] == [(0, 4), (0,), [7]]


def test_an_empty_raw_tensor_may_end_the_body() -> None:
    assert decode(*binary(("a", "FP32", [0], b""))).tensors["a"].size == 0


def test_json_and_raw_inputs_mix_in_the_order_of_the_head() -> None:
    entries = [
        {"name": "a", "datatype": "INT8", "shape": [2], "parameters": {"binary_data_size": 2}},
        {"name": "b", "datatype": "BYTES", "shape": [1], "data": ["s"]},
        {"name": "c", "datatype": "UINT16", "shape": [1], "parameters": {"binary_data_size": 2}},
    ]
    text = orjson.dumps({"inputs": entries})
    tensors = decode(text + b"\x01\x02" + b"\x03\x00", len(text)).tensors
    assert {name: array.tolist() for name, array in tensors.items()} == {"a": [1, 2], "b": [b"s"], "c": [3]}


def test_a_json_body_may_have_its_own_length() -> None:
    text = orjson.dumps({"inputs": [{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}]})
    assert decode(text, len(text)).tensors["x"].tolist() == [1]
    with pytest.raises(InvalidRequest, match="unexpected additional input data: 1 bytes"):
        decode(text + b" ", len(text))


@pytest.mark.parametrize(("change", "text"), [(b"\x00", "unexpected additional input data"), (None, "cut short")])
def test_trailing_and_missing_bytes_are_refused(change: bytes | None, text: str) -> None:
    body, length = binary(("x", "FP32", [2], bytes(8)))
    with pytest.raises(InvalidRequest, match=text):
        decode(body + change if change else body[:-1], length)


@pytest.mark.parametrize(
    ("raw", "shape", "text"),
    [
        (packed(b"abc")[:-1] + packed(b""), [2], "left over|cut short"),
        (packed(b"abc", b"d"), [1], "left over"),
        (struct.pack("<I", 2**32 - 1) + b"ab", [1], "element 0 is cut short"),
        (packed(b"abcd") + b"\x00\x00", [2], "element 1 is cut short"),
    ],
)
def test_raw_bytes_elements_with_wrong_lengths_are_refused(raw: bytes, shape: list[int], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        decode(*binary(("s", "BYTES", shape, raw)))


def test_a_body_without_a_head_is_the_only_input_of_its_model() -> None:
    values = np.arange(6, dtype=np.float32)
    inputs = decode_raw(values.tobytes(), [TensorSpec("x", "FP32", (-1, -1, 2))], max_rows=8)
    assert inputs.tensors["x"].tolist() == values.reshape(1, 3, 2).tolist()
    assert inputs.head.binary_output
    assert check(inputs, [TensorSpec("x", "FP32", (-1, -1, 2))], max_rows=8) == 1


def test_a_body_without_a_head_may_be_one_string() -> None:
    tensors = decode_raw(memoryview(b"\xff text"), [TensorSpec("s", "BYTES", (-1, 1))], max_rows=8).tensors
    assert tensors["s"].tolist() == [[b"\xff text"]]


@pytest.mark.parametrize(
    ("specs", "text"),
    [
        ((TensorSpec("x", "FP32", (-1, 2)), TensorSpec("y", "FP32", (-1, 2))), "this one has x, y"),
        ((TensorSpec("x", "FP32", (-1, -1, -1)),), "at most one"),
        ((TensorSpec("x", "FP32", (-1, 3)),), "cannot be made of 8 bytes"),
        ((TensorSpec("x", "FP32", (-1, -1, 3)),), "cannot be made of 8 bytes"),
        ((TensorSpec("x", "FP32", (-1, -1, 0)),), "cannot be made of 8 bytes"),
        ((TensorSpec("x", "BYTES", (-1, 2)),), "one element"),
    ],
)
def test_a_body_without_a_head_that_does_not_fit_is_refused(specs: tuple[TensorSpec, ...], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        decode_raw(bytes(8), specs, max_rows=8)


def test_without_its_model_a_body_without_a_head_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="JSON length of 0"):
        decode(bytes(8), 0)


def test_a_request_that_fits_gives_its_rows() -> None:
    assert check(request(np.zeros((3, 2), np.float32), np.zeros(3, np.int64)), SPECS, max_rows=3) == 3


def test_a_model_without_a_batch_dimension_takes_one_row() -> None:
    specs = (TensorSpec("x", "FP32", (2,)), TensorSpec("n", "INT64", (-1,)))
    assert check(request(np.zeros(2, np.float32), np.zeros(5, np.int64)), specs, max_rows=0) == 1


def test_the_check_of_a_shared_head_is_remembered_for_one_model_only() -> None:
    inputs = request(np.zeros((3, 2), np.float32), np.zeros(3, np.int64))
    assert inputs.head.shared
    assert check(inputs, SPECS, max_rows=3) == check(inputs, SPECS, max_rows=3) == 3
    with pytest.raises(InvalidRequest):
        check(inputs, (TensorSpec("x", "FP32", (-1, 2)),), max_rows=3)
    with pytest.raises(TooLarge, match="3 rows, and the model takes at most 2"):
        check(inputs, SPECS, max_rows=2)


@pytest.mark.parametrize(
    ("specs", "text"),
    [
        ((*SPECS, TensorSpec("z", "FP32", (-1,))), "input z is missing"),
        (SPECS[:1], "input 'n' is not one of the model's"),
        ((SPECS[0], TensorSpec("n", "INT32", (-1,))), "input n is INT64, and the model takes INT32"),
        ((TensorSpec("x", "FP32", (-1, 3)), SPECS[1]), r"input x has shape \[3, 2\], and the model takes \[-1, 3\]"),
        ((TensorSpec("x", "FP32", (-1,)), SPECS[1]), "input x has shape"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(specs: tuple[TensorSpec, ...], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        check(request(np.zeros((3, 2), np.float32), np.zeros(3, np.int64)), specs, max_rows=4)


@pytest.mark.parametrize(("x", "n", "text"), [(3, 2, "equal in all inputs"), (0, 0, "has no rows")])
def test_inputs_must_agree_on_their_rows(x: int, n: int, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        check(request(np.zeros((x, 2), np.float32), np.zeros(n, np.int64)), SPECS, max_rows=4)


def test_requests_become_one_writable_batch_in_their_order() -> None:
    one = request(np.array([[1, 2]], np.float32), np.array([1]))
    two = request(np.array([[3, 4], [5, 6]], np.float32), np.array([2, 3]))
    batch = assemble([one.tensors, two.tensors], SPECS)
    assert batch["x"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert batch["n"].tolist() == [1, 2, 3]
    assert all(array.flags.writeable and array.flags.aligned for array in batch.values())


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 0), (2, 3)])
def test_one_request_alone_becomes_a_writable_copy(shape: tuple[int, ...]) -> None:
    source = np.ones(shape, np.float64)
    source.setflags(write=False)
    array = assemble([{"x": source}], [TensorSpec("x", "FP64", shape)])["x"]
    np.testing.assert_array_equal(array, source)
    assert array.flags.writeable


def test_strings_and_strided_rows_are_batched_too() -> None:
    specs = [TensorSpec("s", "BYTES", (-1, 1)), TensorSpec("x", "INT32", (-1, 2))]
    strided = np.arange(8, dtype=np.int32).reshape(2, 4)[:, ::2]
    one = {"s": np.array([[b"a"], [b"b"]], dtype=object), "x": strided}
    batch = assemble([one, one], specs)
    assert batch["s"].tolist() == [[b"a"], [b"b"]] * 2
    assert batch["x"].tolist() == strided.tolist() * 2


VALID = binary(
    ("x", "FP32", [2, 1], bytes(8)), ("s", "BYTES", [2], packed(b"a", b"bc")), id="i", outputs=[{"name": "y"}]
)


@given(st.binary(max_size=200), st.none() | st.integers(-5, 220))
def test_random_bytes_never_raise_anything_else(body: bytes, length: int | None) -> None:
    _survives(body, length)


@given(st.lists(st.tuples(st.integers(0, len(VALID[0]) - 1), st.integers(0, 255)), max_size=4), st.integers(-3, 3))
def test_mutated_requests_never_raise_anything_else(changes: list[tuple[int, int]], shift: int) -> None:
    body = bytearray(VALID[0])
    for position, value in changes:
        body[position] = value
    _survives(bytes(body), VALID[1] + shift)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["name", "datatype", "shape", "data", "parameters"]), json_values, st.sampled_from([*DTYPES]))
def test_any_json_in_any_field_never_raises_anything_else(field: str, value: Any, datatype: str) -> None:
    entry = {"name": "x", "datatype": datatype, "shape": [1, 2], "data": [1, 0]} | {field: value}
    _survives(orjson.dumps({"inputs": [entry]}), None)


def _survives(body: bytes, length: int | None) -> None:
    with suppress(MillraceError):
        check(decode(body, length), SPECS, max_rows=4)
