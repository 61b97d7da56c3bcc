"""Requests and answers of the demonstration, in the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from deploy.demo.digits import Array
from deploy.demo.folder import INPUT

JSON_LENGTH = "inference-header-content-length"
OK = "ok"
SHOWN_BYTES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRequest:
    """One request; `number` is unique among the requests to its endpoint."""

    number: int
    endpoint: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReply:
    """An answer, by HTTP or from the queue; `json_length` is None for a body that is all JSON."""

    number: int
    way: str
    request_id: str
    status: str
    arm: str
    body: bytes
    json_length: int | None
    latency_s: float

    @property
    def is_ok(self) -> bool:
        """True if the answer is a result."""
        return self.status == OK

    @property
    def outcome(self) -> str:
        """The status; for an error followed by the beginning of its body."""
        return OK if self.is_ok else f"{self.status} {self.body[:SHOWN_BYTES].decode('utf-8', 'replace')}"

    @property
    def label(self) -> int:
        """The most probable class of a result, -1 for an error."""
        return int(np.argmax(self.output())) if self.is_ok else -1

    def output(self) -> Any:
        """Return the numbers of a result's only output; raises ValueError for raw tensors of a wrong size."""
        if self.json_length is None:
            return orjson.loads(self.body)["outputs"][0]["data"]
        raw = self.body[self.json_length :]
        [output] = orjson.loads(self.body[: self.json_length])["outputs"]
        if output["parameters"]["binary_data_size"] != len(raw):
            raise ValueError(f"an answer with {len(raw)} raw bytes, whose head says {output}")
        return np.frombuffer(raw, "<f4")


def ask(endpoint: str, image: Array, number: int, parameters: Mapping[str, Any] | None = None) -> DemoRequest:
    """Build a request: pairs of numbers alternate between raw tensors and JSON."""
    body, headers = json_request(image, parameters) if number // 2 % 2 else binary_request(image, parameters)
    return DemoRequest(number=number, endpoint=endpoint, body=body, headers=headers)


def json_request(image: Array, parameters: Mapping[str, Any] | None = None) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a request that is all JSON."""
    inputs = [{"name": INPUT, "shape": [1, image.size], "datatype": "FP32", "data": image.tolist()}]
    document = {"inputs": inputs, **({"parameters": parameters} if parameters else {})}
    return orjson.dumps(document), {"Content-Type": "application/json"}


def binary_request(image: Array, parameters: Mapping[str, Any] | None = None) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a request with raw tensors after the JSON, which asks for raw outputs too."""
    raw = image.astype("<f4").tobytes()
    tensor = {"name": INPUT, "shape": [1, image.size], "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True, **(parameters or {})}})
    return head + raw, {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(head))}
