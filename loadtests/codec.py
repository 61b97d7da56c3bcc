"""Measures the CPU time of the tensor codec for each request, compared with plain json and orjson.

python -m loadtests.codec [--json PATH]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
import orjson

from broker.tensor.inference import TensorSpec
from broker.tensor.outputs import encode, encode_rows
from broker.tensor.tensors import assemble, check, decode

BATCH = 32
SPECS = (TensorSpec("x", "FP32", (-1, 64)),)


class Case(NamedTuple):
    """One measured call, for `requests` requests; its time is compared with the case named `baseline`."""

    name: str
    call: Callable[[], Any]
    requests: int = 1
    baseline: str | None = None


def main() -> None:
    """Measure all cases, print a table, and write it as JSON if `--json` is given."""
    parser = argparse.ArgumentParser(description="Measures the inference codec, in µs for each request.")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the numbers to this file")
    path = parser.parse_args().json
    measured: dict[str, float] = {}
    for case in [*_parsing(), *_answering()]:
        measured[case.name] = _measure(case)
        ratio = f"{measured[case.baseline] / measured[case.name]:6.1f} x {case.baseline}" if case.baseline else ""
        sys.stdout.write(f"{measured[case.name]:8.2f} µs  {case.name:44} {ratio}\n")
    if path is not None:
        path.write_text(json.dumps({name: round(value, 3) for name, value in measured.items()}, indent=1))


def _parsing() -> list[Case]:
    x = np.random.default_rng(1).random((1, 64), np.float32)
    in_json = _request({"data": x.ravel().tolist()})
    nested = _request({"data": x.tolist()})
    head = _request({"parameters": {"binary_data_size": x.nbytes}})
    with_id = _request({"parameters": {"binary_data_size": x.nbytes}}, id="0123456789")
    body = head + x.tobytes()
    body_with_id = with_id + x.tobytes()
    inputs = decode(body, len(head))
    from_json = decode(in_json, None)
    batch = [inputs.tensors] * BATCH
    return [
        Case("json, 64 floats: json + numpy", lambda: _plainly(json.loads, in_json)),
        Case("json, 64 floats: orjson + numpy", lambda: _plainly(orjson.loads, in_json)),
        Case("json, 64 floats: decode", lambda: decode(in_json, None), 1, "json, 64 floats: json + numpy"),
        Case("json, nested: decode", lambda: decode(nested, None), 1, "json, 64 floats: json + numpy"),
        Case("binary, no cache: orjson + numpy", lambda: _plainly_binary(body, len(head))),
        Case("binary, head seen: decode", lambda: decode(body, len(head)), 1, "binary, no cache: orjson + numpy"),
        Case("binary, own id: decode", lambda: decode(body_with_id, len(with_id))),
        Case("check, head seen", lambda: check(inputs, SPECS, max_rows=BATCH)),
        Case("check, json", lambda: check(from_json, SPECS, max_rows=BATCH)),
        Case(f"batch of {BATCH}: assemble", lambda: assemble(batch, SPECS), BATCH),
    ]


def _answering() -> list[Case]:
    y = np.random.default_rng(2).random((BATCH, 10), np.float32)
    head = _request({"parameters": {"binary_data_size": 256}}, parameters={"binary_data_output": True})
    binary = decode(head + bytes(256), len(head)).head
    plain = decode(_request({"data": [0.0] * 64}), None).head
    as_binary = [(binary, row, row + 1) for row in range(BATCH)]
    as_json = [(plain, row, row + 1) for row in range(BATCH)]
    first = {"y": y[:1]}
    return [
        Case("answer in json: json", lambda: json.dumps(_answer(y[:1].ravel().tolist())).encode()),
        Case("answer in json: orjson", lambda: orjson.dumps(_answer(y[0]), option=orjson.OPT_SERIALIZE_NUMPY)),
        Case(
            "answer in json: encode",
            lambda: encode(first, head=plain, model="m", version="1"),
            1,
            "answer in json: json",
        ),
        Case("answer in binary: encode", lambda: encode(first, head=binary, model="m", version="1")),
        Case(
            f"answers in json, {BATCH} at once: encode_rows",
            lambda: encode_rows({"y": y}, as_json, model="m", version="1"),
            BATCH,
            "answer in json: orjson",
        ),
        Case(
            f"answers in binary, {BATCH} at once: encode_rows",
            lambda: encode_rows({"y": y}, as_binary, model="m", version="1"),
            BATCH,
            "answer in binary: encode",
        ),
    ]


def _request(how: dict[str, Any], **more: Any) -> bytes:
    return orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], **how}], **more})


def _answer(data: Any) -> dict[str, Any]:
    output = {"name": "y", "datatype": "FP32", "shape": [1, 10], "data": data}
    return {"model_name": "m", "model_version": "1", "outputs": [output]}


def _plainly(loads: Callable[[bytes], Any], body: bytes) -> Any:
    item = loads(body)["inputs"][0]
    return np.array(item["data"], np.float32).reshape(item["shape"])


def _plainly_binary(body: bytes, length: int) -> Any:
    item = orjson.loads(body[:length])["inputs"][0]
    return np.frombuffer(body, np.float32, offset=length).reshape(item["shape"])


def _measure(case: Case) -> float:
    calls = max(1, 20_000 // case.requests)
    times = []
    for _ in range(7):
        started = perf_counter_ns()
        for _ in range(calls):
            case.call()
        times.append(perf_counter_ns() - started)
    return median(times) / calls / case.requests / 1000


if __name__ == "__main__":
    main()
