"""Requests with equal signatures may run in one batch."""

from __future__ import annotations

from typing import Any

import orjson

from broker.tensor.tensors import Inputs, decode
from processors.signature import signature


def raw(name: str, *shape: int, datatype: str = "UINT8") -> dict[str, Any]:
    size = 1
    for dimension in shape:
        size *= dimension
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


def request(*inputs: dict[str, Any]) -> Inputs:
    text = orjson.dumps({"inputs": inputs})
    return decode(text + bytes(sum(item["parameters"]["binary_data_size"] for item in inputs)), len(text))


def test_rows_and_order_of_inputs_do_not_matter() -> None:
    one = signature(request(raw("a", 1, 3), raw("b", 1)))
    assert one == signature(request(raw("b", 7), raw("a", 7, 3)))
    assert one == (("a", "UINT8", (3,)), ("b", "UINT8", ()))


def test_names_types_and_other_dimensions_of_inputs_matter() -> None:
    different = {
        signature(request(raw("a", 1, 3))),
        signature(request(raw("b", 1, 3))),
        signature(request(raw("a", 1, 4))),
        signature(request(raw("a", 1, 3, 1))),
        signature(request(raw("a", 1, 3, datatype="INT8"))),
    }
    assert len(different) == 5


def test_json_and_raw_requests_share_batches() -> None:
    text = orjson.dumps({"inputs": [{"name": "a", "datatype": "UINT8", "shape": [2, 1], "data": [1, 2]}]})
    assert signature(decode(text, None)) == signature(request(raw("a", 5, 1)))


def test_the_signature_of_a_shared_head_is_computed_once() -> None:
    assert signature(request(raw("a", 2, 3))) is signature(request(raw("a", 2, 3)))
