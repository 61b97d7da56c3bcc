"""A valid infer request, and the errors in answers."""

from __future__ import annotations

import json
from uuid import UUID

import httpx

from tests.gateway.running_gateway import X

URL = "/v2/models/double/infer"
BODY = json.dumps({"id": "mine", "inputs": [X]}).encode()


def error_of(answer: httpx.Response) -> str:
    """Return the error text of an answer, which must have the usual form."""
    UUID(answer.headers["millrace-request-id"])
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    return str(answer.json()["error"])
