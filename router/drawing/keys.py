"""The key of a request: the unit of sticky draws and of counting, from a header or from a declared parameter."""

from __future__ import annotations

import orjson

from broker.errors import InvalidRequest
from broker.records.endpoint import PARAMETER

KEY_CHARACTERS = 256


def key_of(declared: str | None, given: str, body: bytes | memoryview, json_length: int | None) -> str:
    """Return a request's key, empty if it has none.

    `given` is the key from a header, and comes first. `declared` is the endpoint's `key`; for `parameters.<name>` the
    request's JSON is parsed. Raises InvalidRequest if it cannot be parsed, and for a key that is too long: two keys
    that are cut could be equal.
    """
    key = given or _from_parameters(declared, body, json_length)
    if len(key) > KEY_CHARACTERS:
        raise InvalidRequest(f"the key has {len(key)} characters; {KEY_CHARACTERS} are allowed")
    return key


def _from_parameters(declared: str | None, body: bytes | memoryview, json_length: int | None) -> str:
    if declared is None or not declared.startswith(PARAMETER):
        return ""
    head = body if json_length is None else memoryview(body)[:json_length]
    try:
        document = orjson.loads(head)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"the request is not JSON: {exc}") from exc
    parameters = document.get("parameters") if isinstance(document, dict) else None
    value = parameters.get(declared.removeprefix(PARAMETER)) if isinstance(parameters, dict) else None
    return "" if value is None or isinstance(value, (dict, list)) else str(value)
