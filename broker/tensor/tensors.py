"""Decodes requests into tensors, and assembles many requests into one batch; `outputs` does the reverse.

body ──decode──► Inputs ──check──► rows ──assemble──► one array per input, batched along axis 0
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np

from broker.errors import InvalidRequest, TooLarge
from broker.tensor.datatypes import DTYPES, FLOATS, Array
from broker.tensor.inference import Body, Head, InputHead, TensorSpec, parse_head, shown

_FORMATS: Final = {
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
    "BOOL": "B",
}
_LENGTH: Final = struct.Struct("<I")
_MAX_CHECKED: Final = 4096

_checked: dict[tuple[Head, int, int], tuple[Sequence[TensorSpec], int]] = {}


class Inputs(NamedTuple):
    """A decoded request. The tensors are read-only; the raw ones are views of the body and keep it alive."""

    head: Head
    tensors: dict[str, Array]


def decode(body: Body, json_length: int | None) -> Inputs:
    """Return the tensors of a request whose first `json_length` bytes are JSON (None: all of it).

    Raises `InvalidRequest`. A view can be unaligned, because the JSON is not padded; `assemble` copies it anyway.
    """
    head = parse_head(body, json_length)
    if json_length is None:
        return Inputs(head, {item.name: _from_json(item) for item in head.inputs})
    if json_length + head.binary_bytes != len(body):
        raise InvalidRequest(_wrong_bytes(head, len(body) - json_length))
    if type(body) is not bytes:
        body = memoryview(body).toreadonly()
    tensors: dict[str, Array] = {}
    start = json_length
    for item in head.inputs:
        if item.binary_size is None:
            tensors[item.name] = _from_json(item)
            continue
        tensors[item.name] = _from_bytes(item, item.binary_size, body, start)
        start += item.binary_size
    return Inputs(head, tensors)


def decode_raw(body: Body, specs: Sequence[TensorSpec], *, max_rows: int) -> Inputs:
    """Return the tensor of a body without a head (`json_length` 0): one row for a model with one input.

    At most one dimension besides the batch dimension may be free; a BYTES body is one element, without its length.
    Raises `InvalidRequest`. All outputs are wanted in binary.
    """
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise InvalidRequest(f"a raw tensor without a JSON head fits a model with one input; this one has {names}")
    spec = specs[0]
    shape = _raw_shape(spec, len(body), batched=max_rows > 0)
    item = InputHead(spec.name, spec.datatype, shape, len(body), None)
    if spec.datatype == "BYTES":
        tensor = _objects([bytes(body)], shape)
    else:
        tensor = _from_bytes(item, len(body), memoryview(body).toreadonly(), 0)
    head = Head(
        id=None, parameters={}, inputs=(item,), outputs=None, binary_output=True, binary_bytes=len(body), shared=False
    )
    return Inputs(head, {spec.name: tensor})


def check(inputs: Inputs, specs: Sequence[TensorSpec], *, max_rows: int) -> int:
    """Return the number of rows of a request after checking it against the model's declared inputs.

    `max_rows` 0 means that the model has no batch dimension: such a request has one row. Raises `InvalidRequest`, and
    `TooLarge` for more than `max_rows`. Remembers shared heads, so pass the same `specs` object each time.
    """
    head = inputs.head
    if not head.shared:
        return _check(head, specs, max_rows)
    key = (head, id(specs), max_rows)
    known = _checked.get(key)
    if known is None:
        if len(_checked) >= _MAX_CHECKED:
            _checked.clear()
        known = _checked[key] = (specs, _check(head, specs, max_rows))
    return known[1]


def assemble(batch: Sequence[Mapping[str, Array]], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the rows of many checked requests with one signature, as one writable array per input."""
    if len(batch) == 1:
        return {spec.name: batch[0][spec.name].copy() for spec in specs}
    return {spec.name: np.concatenate([tensors[spec.name] for tensors in batch]) for spec in specs}


def _check(head: Head, specs: Sequence[TensorSpec], max_rows: int) -> int:
    given = {item.name: item for item in head.inputs}
    for spec in specs:
        item = given.get(spec.name)
        if item is None:
            raise InvalidRequest(f"input {spec.name} is missing: the model takes {_listed(specs)}")
        _check_one(item, spec)
    if len(given) > len(specs):
        unknown = next(name for name in given if all(spec.name != name for spec in specs))
        raise InvalidRequest(f"input {shown(unknown)} is not one of the model's: it takes {_listed(specs)}")
    return _rows(head.inputs, max_rows) if max_rows else 1


def _check_one(item: InputHead, spec: TensorSpec) -> None:
    if item.datatype != spec.datatype:
        raise InvalidRequest(f"input {spec.name} is {item.datatype}, and the model takes {spec.datatype}")
    fits = len(item.shape) == len(spec.shape) and all(
        want in (-1, have) for want, have in zip(spec.shape, item.shape, strict=True)
    )
    if not fits:
        raise InvalidRequest(
            f"input {spec.name} has shape {list(item.shape)}, and the model takes {list(spec.shape)} (-1 is any size)"
        )


def _rows(items: Sequence[InputHead], max_rows: int) -> int:
    rows = items[0].shape[0]
    for item in items:
        if item.shape[0] != rows:
            raise InvalidRequest(
                f"input {shown(item.name)} has {item.shape[0]} rows and {shown(items[0].name)} has {rows}: "
                "the first dimension is the batch, equal in all inputs"
            )
    if rows == 0:
        raise InvalidRequest(f"input {shown(items[0].name)} has no rows: the first dimension is the batch, at least 1")
    if rows > max_rows:
        raise TooLarge(f"the request has {rows} rows, and the model takes at most {max_rows}: send several requests")
    return rows


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} ({spec.datatype} {list(spec.shape)})" for spec in specs)


def _wrong_bytes(head: Head, behind: int) -> str:
    if behind > head.binary_bytes:
        return (
            f"unexpected additional input data: {behind} bytes follow the JSON head, and the binary_data_size of its "
            f"inputs add up to {head.binary_bytes}"
        )
    return (
        f"input data is cut short: {behind} bytes follow the JSON head, and the binary_data_size of its "
        f"inputs add up to {head.binary_bytes}"
    )


def _from_bytes(item: InputHead, size: int, body: Body, start: int) -> Array:
    if item.datatype == "BYTES":
        return _objects(_elements(item, bytes(body[start : start + size])), item.shape)
    return np.ndarray(item.shape, DTYPES[item.datatype], body, start)


def _elements(item: InputHead, raw: bytes) -> list[bytes]:
    """Read pairs of a 4-byte length and its content; there must be exactly as many as the shape has elements."""
    elements: list[bytes] = []
    at = 0
    for _ in range(prod(item.shape)):
        end = at + 4
        if end <= len(raw):
            end += _LENGTH.unpack_from(raw, at)[0]
        if end > len(raw):
            raise InvalidRequest(f"input {shown(item.name)}: BYTES element {len(elements)} is cut short")
        elements.append(raw[at + 4 : end])
        at = end
    if at != len(raw):
        raise InvalidRequest(
            f"input {shown(item.name)}: {len(raw) - at} bytes are left over after {len(elements)} BYTES elements"
        )
    return elements


def _objects(elements: list[bytes], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    array = array.reshape(shape)
    array.setflags(write=False)
    return array


def _from_json(item: InputHead) -> Array:
    data = _flat(item)
    datatype = item.datatype
    kinds = set(map(type, data))
    if datatype == "BYTES":
        _refuse_kinds(item, data, kinds - {str}, "strings")
        return _objects([element.encode() for element in data], item.shape)
    if datatype in FLOATS:
        _refuse_kinds(item, data, kinds - {float, int}, "numbers")
    elif datatype == "BOOL":
        _refuse_kinds(item, data, kinds - {bool, int}, "true and false, or 1 and 0")
        _refuse_values(item, set(data) - {0, 1})
    else:
        _refuse_kinds(item, data, kinds - {int}, "integers within its range")
    return np.ndarray(item.shape, DTYPES[datatype], _packed(item, data))


def _flat(item: InputHead) -> list[Any]:
    """Return the data as a flat row-major list; the request has it nested exactly by the shape, or flat."""
    data = item.data or []
    count = prod(item.shape)
    if len(item.shape) < 2 or (len(data) == count and (not data or type(data[0]) is not list)):
        if len(data) != count:
            raise InvalidRequest(_wrong_data(item))
        return data
    level = data
    if len(level) != item.shape[0]:
        raise InvalidRequest(_wrong_data(item))
    for size in item.shape[1:]:
        if set(map(type, level)) - {list} or set(map(len, level)) - {size}:
            raise InvalidRequest(_wrong_data(item))
        level = list(chain.from_iterable(level))
    return level


def _packed(item: InputHead, data: list[Any]) -> bytes:
    try:
        # struct raises for a value out of range; NumPy would make it infinite, or need an int64 array first.
        return struct.pack(f"<{len(data)}{_FORMATS[item.datatype]}", *data)
    except (struct.error, OverflowError) as exc:
        raise InvalidRequest(
            f"input {shown(item.name)}: a value is out of range for {item.datatype} "
            f"(from {shown(min(data))} to {shown(max(data))})"
        ) from exc


def _refuse_kinds(item: InputHead, data: list[Any], wrong: set[type], wanted: str) -> None:
    if wrong:
        value = next(value for value in data if type(value) in wrong)
        raise InvalidRequest(f"input {shown(item.name)}: data holds {shown(value)}, and {item.datatype} takes {wanted}")


def _refuse_values(item: InputHead, wrong: set[Any]) -> None:
    if wrong:
        raise InvalidRequest(
            f"input {shown(item.name)}: data holds {shown(wrong.pop())}, and BOOL takes true and false"
        )


def _wrong_data(item: InputHead) -> str:
    return (
        f"input {shown(item.name)}: data does not match shape {list(item.shape)}: it must be a flat list of "
        f"{prod(item.shape)} values, or lists nested exactly by the shape"
    )


def _raw_shape(spec: TensorSpec, size: int, *, batched: bool) -> tuple[int, ...]:
    shape = [1, *spec.shape[1:]] if batched else list(spec.shape)
    if spec.datatype == "BYTES":
        if prod(shape) not in (1, -1):
            raise InvalidRequest(f"input {spec.name} has shape {list(spec.shape)}: a raw BYTES tensor is one element")
        return (1,) * len(shape)
    known = prod([dimension for dimension in shape if dimension >= 0]) * DTYPES[spec.datatype].itemsize
    free = shape.count(-1)
    if free > 1:
        raise InvalidRequest(
            f"input {spec.name} has shape {list(spec.shape)}: a raw tensor without a JSON head leaves at most one "
            "dimension free; send a head"
        )
    if (free and (not known or size % known)) or (not free and size != known):
        raise InvalidRequest(f"input {spec.name} of {spec.datatype} {shape} cannot be made of {size} bytes")
    return tuple([size // known if dimension < 0 else dimension for dimension in shape])
