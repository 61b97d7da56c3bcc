"""The head of an Open Inference Protocol (v2) request: its inputs and wanted outputs, without the raw data.

A body is JSON, or a JSON head followed by raw tensors in the head's order (the binary tensor data extension). Every
byte comes from a client, so any violation of the protocol is an `InvalidRequest`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from reprlib import Repr
from threading import Lock
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from broker.errors import InvalidRequest
from broker.tensor.datatypes import DTYPES

Body: TypeAlias = bytes | memoryview

MAX_TENSORS: Final = 1024
MAX_DIMENSIONS: Final = 32
MAX_ELEMENTS: Final = 2**59
MAX_KNOWN_HEADS: Final = 1024
MAX_KNOWN_HEAD_BYTES: Final = 4096

_short = Repr()
_short.maxstring = _short.maxother = 60
_known_heads: dict[bytes, Head] = {}
_known_heads_lock = Lock()


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that a model declares. A dimension of -1 is free; the batch dimension, if there is one, comes first."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class InputHead(NamedTuple):
    """One input in the head: its data are raw bytes after the head (`binary_size`), or `data` in the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    binary_size: int | None
    data: list[Any] | None


class OutputHead(NamedTuple):
    """One wanted output; `binary` is None if the request's `binary_data_output` decides."""

    name: str
    binary: bool | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """A request without its raw tensors. `outputs` None asks for all of them.

    It is equal only to itself. A `shared` head is the same object for equal bytes and has no data, so that it can be
    the key of a cache.
    """

    id: str | None
    parameters: Mapping[str, Any]
    inputs: tuple[InputHead, ...]
    outputs: tuple[OutputHead, ...] | None
    binary_output: bool
    binary_bytes: int
    shared: bool


def parse_head(body: Body, json_length: int | None) -> Head:
    """Return the head of a body whose first `json_length` bytes are JSON (None: all of it).

    Raises `InvalidRequest`. `decode` checks that the raw tensors after the head are complete.
    """
    if json_length is None:
        return _read_head(_load(body), raw=False, shareable=False)
    if not 0 < json_length <= len(body):
        raise InvalidRequest(_wrong_length(json_length, len(body)))
    if json_length > MAX_KNOWN_HEAD_BYTES:
        return _read_head(_load(body[:json_length]), raw=True, shareable=False)
    text = bytes(body[:json_length])
    head = _known_heads.get(text)
    if head is None:
        head = _read_head(_load(text), raw=True, shareable=True)
        if head.shared:
            _remember(text, head)
    return head


def shown(value: object) -> str:
    """Return `value` as an error message quotes it: shortened, because a client can send any size."""
    return _short.repr(value)


def _wrong_length(json_length: int, body_bytes: int) -> str:
    if json_length == 0:
        return "a JSON length of 0 marks a raw tensor without a head, which only a model with one input can take"
    return (
        f"Inference-Header-Content-Length is {json_length}, but the body has {body_bytes} bytes: "
        "it must be the length of the JSON head, uncompressed"
    )


def _remember(text: bytes, head: Head) -> None:
    with _known_heads_lock:
        if len(_known_heads) >= MAX_KNOWN_HEADS:
            del _known_heads[next(iter(_known_heads))]
        _known_heads[text] = head


def _load(text: Body) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(
            f"the request is not valid JSON: {exc.msg}, at {exc.pos} (is Inference-Header-Content-Length the length of "
            "the JSON, if tensors follow it? NaN and infinity can only be sent as raw tensors)"
        ) from exc


def _read_head(document: Any, *, raw: bool, shareable: bool) -> Head:
    if type(document) is not dict:
        raise InvalidRequest(f"a request is a JSON object with inputs, not {_kind(document)}")
    request_id = document.get("id")
    if request_id is not None and type(request_id) is not str:
        raise InvalidRequest(f"id is {shown(request_id)}: it must be a string")
    parameters = _read_parameters(document, "the request")
    inputs = _read_inputs(document.get("inputs"), raw=raw)
    binary = [item.binary_size for item in inputs if item.binary_size is not None]
    return Head(
        id=request_id,
        parameters=parameters,
        inputs=inputs,
        outputs=_read_outputs(document.get("outputs")),
        binary_output=_read_flag(parameters, "binary_data_output", "the request") or False,
        binary_bytes=sum(binary),
        # An id makes a head unique: remembering it would only displace heads that repeat.
        shared=shareable and request_id is None and len(binary) == len(inputs),
    )


def _read_inputs(entries: Any, *, raw: bool) -> tuple[InputHead, ...]:
    if type(entries) is not list or not 0 < len(entries) <= MAX_TENSORS:
        raise InvalidRequest(f"inputs is {_kind(entries)}, and must be a list of 1 to {MAX_TENSORS} input tensors")
    inputs = tuple([_read_input(entry, raw=raw) for entry in entries])
    _refuse_repeated("input", [item.name for item in inputs])
    return inputs


def _read_input(entry: Any, *, raw: bool) -> InputHead:
    name = _read_name(entry, "input")
    datatype = entry.get("datatype")
    if type(datatype) is not str or datatype not in DTYPES:
        raise InvalidRequest(_wrong_datatype(name, datatype))
    shape = _read_shape(name, entry.get("shape"))
    parameters = entry.get("parameters")
    size = None if parameters is None else _read_binary_size(name, _read_parameters(entry, f"input {shown(name)}"))
    data = entry.get("data")
    elements = prod(shape)
    if size is None:
        return InputHead(name, datatype, shape, None, _checked_data(name, data, elements))
    if data is not None:
        raise InvalidRequest(f"input {shown(name)} has both data and binary_data_size: send one of them")
    if not raw:
        raise InvalidRequest(
            f"input {shown(name)} has binary_data_size, but the whole body is JSON: "
            "Inference-Header-Content-Length must say where the JSON ends"
        )
    _check_size(name, datatype, elements, size)
    return InputHead(name, datatype, shape, size, None)


def _checked_data(name: str, data: Any, elements: int) -> list[Any]:
    if type(data) is list:
        return data
    if data is None:
        if elements == 0:
            return []
        raise InvalidRequest(
            f"input {shown(name)} has no data: send it as a list, or as raw bytes with the parameter binary_data_size "
            "(shared memory is not served)"
        )
    raise InvalidRequest(f"input {shown(name)}: data is {_kind(data)}, and must be a list, nested by shape or flat")


def _check_size(name: str, datatype: str, elements: int, size: int) -> None:
    if datatype == "BYTES":
        if size < 4 * elements or (size and not elements):
            raise InvalidRequest(
                f"input {shown(name)}: binary_data_size is {size}, which cannot hold {elements} BYTES elements: "
                "each is a length of 4 bytes, then its content"
            )
        return
    expected = elements * DTYPES[datatype].itemsize
    if size != expected:
        raise InvalidRequest(
            f"input {shown(name)}: binary_data_size is {size}, "
            f"but {elements} elements of {datatype} are {expected} bytes"
        )


def _wrong_datatype(name: str, datatype: Any) -> str:
    if datatype == "BF16":
        return f"input {shown(name)}: BF16 is not served, because NumPy has no such type: send FP32 or FP16"
    return f"input {shown(name)}: datatype is {shown(datatype)}, and must be one of {', '.join(DTYPES)}"


def _read_shape(name: str, shape: Any) -> tuple[int, ...]:
    if type(shape) is not list or len(shape) > MAX_DIMENSIONS:
        raise InvalidRequest(
            f"input {shown(name)}: shape is {shown(shape)}, and must be a list of at most {MAX_DIMENSIONS} integers"
        )
    size = 1
    for dimension in shape:
        if type(dimension) is not int or dimension < 0:
            raise InvalidRequest(
                f"input {shown(name)}: shape {shown(shape)} has {shown(dimension)} as a dimension: "
                "each must be an integer of at least 0"
            )
        # The product with an empty dimension is 0, but NumPy checks the other dimensions too.
        size *= dimension or 1
    if size > MAX_ELEMENTS:
        raise InvalidRequest(f"input {shown(name)}: shape {shown(shape)} has more elements than can be addressed")
    return tuple(shape)


def _read_outputs(entries: Any) -> tuple[OutputHead, ...] | None:
    if entries is None or entries == []:
        return None
    if type(entries) is not list or len(entries) > MAX_TENSORS:
        raise InvalidRequest(f"outputs is {_kind(entries)}, and must be a list of at most {MAX_TENSORS} outputs")
    outputs = tuple([_read_output(entry) for entry in entries])
    _refuse_repeated("output", [item.name for item in outputs])
    return outputs


def _read_output(entry: Any) -> OutputHead:
    name = _read_name(entry, "output")
    where = f"output {shown(name)}"
    parameters = _read_parameters(entry, where)
    for refused in ("classification", "shared_memory_region"):
        if refused in parameters:
            raise InvalidRequest(f"{where} asks for {refused}, which is not served: ask for the tensor itself")
    return OutputHead(name, _read_flag(parameters, "binary_data", where))


def _read_name(entry: Any, what: str) -> str:
    if type(entry) is not dict:
        raise InvalidRequest(f"an {what} is {_kind(entry)}, and must be a JSON object with a name")
    name = entry.get("name")
    if type(name) is not str or not name:
        raise InvalidRequest(f"an {what} has {shown(name)} as its name, which must be a string that is not empty")
    return name


def _read_parameters(entry: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise InvalidRequest(f"{where}: parameters is {_kind(parameters)}, and must be a JSON object")
    return parameters


def _read_binary_size(name: str, parameters: dict[str, Any]) -> int | None:
    size = parameters.get("binary_data_size")
    if size is None or (type(size) is int and size >= 0):
        return size
    raise InvalidRequest(
        f"input {shown(name)}: binary_data_size is {shown(size)}, and must be an integer of at least 0"
    )


def _read_flag(parameters: dict[str, Any], flag: str, where: str) -> bool | None:
    value = parameters.get(flag)
    if value is None or type(value) is bool:
        return value
    raise InvalidRequest(f"{where}: {flag} is {shown(value)}, and must be true or false")


def _refuse_repeated(what: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise InvalidRequest(f"{what} {shown(twice)} is given more than once")


def _kind(value: object) -> str:
    """Return JSON's name for the type of `value`."""
    if type(value) is list:
        return f"a list of {len(value)}"
    kinds = {dict: "an object", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
