"""Output tensors into answers."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import orjson
import pytest

from broker.errors import Failed, InvalidRequest, MillraceError
from broker.tensor.inference import Head, OutputHead
from broker.tensor.outputs import Encoded, encode, encode_rows

Y = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def head(*, given: str | None = None, outputs: tuple[OutputHead, ...] | None = None, binary: bool = False) -> Head:
    return Head(id=given, parameters={}, inputs=(), outputs=outputs, binary_output=binary, binary_bytes=0, shared=False)


def read(encoded: Encoded | MillraceError) -> tuple[dict[str, Any], bytes]:
    assert not isinstance(encoded, MillraceError)
    body, length = encoded
    return orjson.loads(body[:length]), body[length:] if length is not None else b""


def one(outputs: dict[str, Any], asked: Head) -> tuple[dict[str, Any], bytes]:
    return read(encode(outputs, head=asked, model="m", version="3"))


def test_an_answer_in_json_carries_flat_data() -> None:
    answer, raw = one({"y": Y}, head())
    assert answer == {
        "model_name": "m",
        "model_version": "3",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [3, 2], "data": [1, 2, 3, 4, 5, 6]}],
    }
    assert raw == b""


def test_an_answer_in_binary_carries_raw_bytes() -> None:
    answer, raw = one({"y": Y, "n": np.arange(2)}, head(binary=True))
    assert answer["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [3, 2], "parameters": {"binary_data_size": 24}},
        {"name": "n", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}},
    ]
    assert raw == Y.tobytes() + np.arange(2).tobytes()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("given", ["", "7", 'a "quoted" ü'])
def test_an_id_is_echoed(given: str, binary: bool) -> None:
    assert one({"y": Y}, head(given=given, binary=binary))[0]["id"] == given


@pytest.mark.parametrize("binary", [True, False])
def test_no_id_is_invented(binary: bool) -> None:
    assert "id" not in one({"y": Y}, head(binary=binary))[0]


def test_an_answer_has_only_the_wanted_outputs_in_their_order_and_form() -> None:
    asked = (OutputHead("c", None), OutputHead("a", True), OutputHead("b", False))
    outputs = {name: np.array([number], np.int8) for number, name in enumerate("abcd")}
    answer, raw = one(outputs, head(outputs=asked))
    assert [(item["name"], item.get("data")) for item in answer["outputs"]] == [("c", [2]), ("a", None), ("b", [1])]
    assert raw == b"\x00"
    answer, raw = one(outputs, head(outputs=asked, binary=True))
    assert [(item["name"], item.get("data")) for item in answer["outputs"]] == [("c", None), ("a", None), ("b", [1])]
    assert raw == b"\x02\x00"


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="output 'z' is not one of the model's: it has y"):
        encode({"y": Y}, head=head(outputs=(OutputHead("z", None),)), model="m", version="1")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_json_cannot_represent_are_a_failure_of_the_model(dtype: str, value: float) -> None:
    with pytest.raises(Failed, match="ask for it in binary"):
        encode({"y": np.array([[1, value]], dtype)}, head=head(), model="m", version="1")


def test_nan_travels_in_binary() -> None:
    assert np.isnan(np.frombuffer(one({"y": np.array([np.nan])}, head(binary=True))[1])).all()


@pytest.mark.parametrize(
    ("values", "datatype", "data"),
    [
        (np.array([True, False]), "BOOL", [True, False]),
        (np.array([2**64 - 1], np.uint64), "UINT64", [2**64 - 1]),
        (np.array([-(2**63)], np.int64), "INT64", [-(2**63)]),
        (np.array([0.5, 65504], np.float16), "FP16", [0.5, 65504]),
        (np.array([0.1], np.float32), "FP32", [0.1]),
        (np.array([1, 2], ">i4"), "INT32", [1, 2]),
        (np.arange(6, dtype=np.int16).reshape(2, 3).T, "INT16", [0, 3, 1, 4, 2, 5]),
        (np.array([b"a", "ü"], object), "BYTES", ["a", "ü"]),
        (np.array(["ab", "c"]), "BYTES", ["ab", "c"]),
        (np.array([b"ab", b"c"]), "BYTES", ["ab", "c"]),
        (np.array(5, np.uint8), "UINT8", [5]),
        (np.zeros((0, 3), np.float32), "FP32", []),
        (np.zeros((2, 0), np.int8), "INT8", []),
        (np.zeros(0, object), "BYTES", []),
    ],
)
def test_every_type_of_output_is_encoded(values: Any, datatype: str, data: list[Any]) -> None:
    answer, _ = one({"y": values}, head())
    assert answer["outputs"] == [{"name": "y", "datatype": datatype, "shape": list(values.shape), "data": data}]
    answer, raw = one({"y": values}, head(binary=True))
    assert answer["outputs"][0]["parameters"] == {"binary_data_size": len(raw)}
    if datatype != "BYTES":
        assert raw == np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()


def test_strings_in_binary_follow_their_lengths() -> None:
    values = np.array([b"\xff", "é"], object)
    assert (
        one({"y": values}, head(binary=True))[1] == struct.pack("<I", 1) + b"\xff" + struct.pack("<I", 2) + b"\xc3\xa9"
    )


def test_bytes_that_are_not_utf8_are_a_failure_of_the_model_in_json() -> None:
    with pytest.raises(Failed, match=r"not UTF-8.*binary"):
        encode({"y": np.array([b"\xff"], object)}, head=head(), model="m", version="1")


@pytest.mark.parametrize("values", [np.array([1j]), np.array(["2026-01-01"], "M8[D]"), np.zeros(1, [("a", "i4")])])
def test_arrays_of_unsupported_types_are_a_failure_of_the_model(values: Any) -> None:
    with pytest.raises(Failed, match="the model's output y"):
        encode({"y": values}, head=head(), model="m", version="1")


@pytest.mark.parametrize("binary", [True, False])
def test_objects_that_are_not_strings_are_a_failure_of_the_model(binary: bool) -> None:
    with pytest.raises(Failed, match="neither bytes nor a string"):
        encode({"y": np.array([None], object)}, head=head(binary=binary), model="m", version="1")


def test_no_outputs_are_a_failure_of_the_model() -> None:
    with pytest.raises(Failed, match="no outputs"):
        encode({}, head=head(), model="m", version="1")


def test_answers_of_a_batch_are_the_answers_of_its_rows() -> None:
    outputs: dict[str, Any] = {
        "y": np.arange(24, dtype=np.float32).reshape(4, 2, 3),
        "n": np.arange(4),
        "s": np.array([[b"a"], [b"bc"], [b""], [b"d"]], object),
    }
    heads = [
        head(),
        head(given="1", binary=True),
        head(outputs=(OutputHead("s", True), OutputHead("n", False))),
        head(given="2", outputs=(OutputHead("n", True), OutputHead("y", True))),
        head(outputs=(OutputHead("n", False), OutputHead("y", False)), binary=True),
    ]
    spans = [(0, 1), (1, 3), (3, 4), (0, 4), (2, 2)]
    items = [(asked, start, stop) for asked in heads for start, stop in spans]
    answers = encode_rows(outputs, items, model="m", version="1")
    for (asked, start, stop), answer in zip(items, answers, strict=True):
        rows = {name: values[start:stop] for name, values in outputs.items()}
        assert answer == encode(rows, head=asked, model="m", version="1")


def test_an_item_that_cannot_be_encoded_does_not_affect_the_others() -> None:
    outputs = {"y": np.array([[1], [np.nan], [3]], np.float32)}
    items = [(head(), 0, 1), (head(), 1, 2), (head(binary=True), 1, 2), (head(outputs=(OutputHead("z", None),)), 2, 3)]
    first, second, third, fourth = encode_rows(outputs, items, model="m", version="1")
    assert read(first)[0]["outputs"][0]["data"] == [1]
    assert isinstance(second, Failed)
    assert np.isnan(np.frombuffer(read(third)[1], np.float32)).all()
    assert isinstance(fourth, InvalidRequest)


@pytest.mark.parametrize("values", [np.zeros((2, 1)), np.array(1.0), np.array([1j, 2j, 3j])])
def test_outputs_with_too_few_rows_fail_every_item(values: Any) -> None:
    answers = encode_rows({"y": values}, [(head(), 0, 1), (head(), 1, 3)], model="m", version="1")
    assert [type(answer) for answer in answers] == [Failed, Failed]


def test_models_do_not_share_templates() -> None:
    asked = head(binary=True)
    first = one({"y": Y}, asked)[0]
    second = read(encode({"y": Y}, head=asked, model="other", version="4"))[0]
    whole = read(encode_rows({"y": Y[None]}, [(asked, 0, 1)], model="m", version="3")[0])[0]
    assert (first["model_name"], second["model_name"], second["model_version"]) == ("m", "other", "4")
    assert first["outputs"][0]["shape"] == [3, 2]
    assert whole["outputs"][0]["shape"] == [1, 3, 2]
