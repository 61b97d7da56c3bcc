"""Decodes answers of the Open Inference Protocol into tensors, for example to merge several answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import orjson

from broker.errors import InvalidRequest
from broker.tensor.datatypes import Array
from broker.tensor.inference import Body
from broker.tensor.tensors import decode


class DecodedResponse(NamedTuple):
    """A decoded answer."""

    id: str | None
    outputs: Mapping[str, Array]


def read_response(body: Body, json_length: int | None) -> DecodedResponse:
    """Return the outputs of an answer whose first `json_length` bytes are JSON (None: all of it).

    Raises `InvalidRequest` with the name of the tensor. Outputs and inputs have the same form, so it is decoded as
    inputs.
    """
    length = len(body) if json_length is None else json_length
    try:
        document = orjson.loads(body[:length])
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"the answer is not valid JSON: {exc.msg}, at {exc.pos}") from exc
    if type(document) is not dict or type(document.get("id", "")) is not str:
        raise InvalidRequest("the answer is not a JSON object, or its id is not a string")
    try:
        head = orjson.dumps({"inputs": document.get("outputs")})
    except TypeError as exc:  # orjson reads deeper nesting than it writes
        raise InvalidRequest(f"the answer cannot be read: {exc}") from exc
    inputs = decode(head + bytes(body[length:]), None if json_length is None else len(head))
    return DecodedResponse(document.get("id"), inputs.tensors)
