"""Answers out of output tensors: what a model computed for a batch, cut into one body for each request.

The text around the numbers depends on names, shapes and what was asked for, and these repeat: it is made once as
a template. The numbers of a batch are turned into bytes once an output, and each request takes its slice.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import orjson

from broker.datatypes import FLOATS, Array, datatype_of
from broker.errors import Failed, InvalidRequest, MillraceError
from broker.inference import Head, OutputHead, shown

Encoded: TypeAlias = tuple[bytes, int | None]
"""A body, and the length of its JSON head: None where all of it is JSON."""

Cut: TypeAlias = Callable[[int, int], bytes | memoryview]
"""Returns rows start up to stop of one output as the answer carries them."""

MAX_TEMPLATES: Final = 1024
_LENGTH: Final = struct.Struct("<I")


class _Column(NamedTuple):
    """One output: its rows as a contiguous array of two dimensions, and the shape that clients see of a row."""

    name: str
    datatype: str
    rows: Array
    tail: tuple[int, ...]


class _Template(NamedTuple):
    """Text before each tensor's slot, then the end; `text` is the whole head where no slot is left open."""

    wanted: tuple[tuple[str, bool], ...]
    before: tuple[bytes, ...]
    after: tuple[bytes, ...]
    text: bytes | None
    binary: bool


class _Plan(NamedTuple):
    template: _Template
    cuts: list[Cut]


_templates: dict[tuple[Any, ...], _Template] = {}


def encode(outputs: Mapping[str, Array], *, head: Head, model: str, version: str) -> Encoded:
    """Return the answer that carries whole outputs, of any shapes, as `head` asked for them.

    Raises `InvalidRequest` for what was asked and cannot be given, `Failed` for what is no tensor of the protocol.
    """
    columns = [_column(name, array, whole=True) for name, array in outputs.items()]
    return _Batch(columns, model, version, whole=True).answer(head, 0, 1)


def encode_rows(
    outputs: Mapping[str, Array], items: Sequence[tuple[Head, int, int]], *, model: str, version: str
) -> list[Encoded | MillraceError]:
    """Return an answer for each of `items`, which takes rows start up to stop of outputs batched along axis 0.

    The error that one item deserves stands in its place; the others are not touched by it.
    """
    try:
        rows = max([stop for _, _, stop in items], default=0)
        columns = [_column(name, array, rows=rows) for name, array in outputs.items()]
    except Failed as exc:
        return [exc] * len(items)
    batch = _Batch(columns, model, version, whole=False)
    return [batch.attempt(head, start, stop) for head, start, stop in items]


class _Batch:
    """Answers from one set of columns. What several items share is worked out once."""

    __slots__ = ("_columns", "_cuts", "_model", "_plans", "_version", "_whole")

    def __init__(self, columns: Sequence[_Column], model: str, version: str, *, whole: bool) -> None:
        self._columns = {column.name: column for column in columns}
        self._model = model
        self._version = version
        self._whole = whole
        self._plans: dict[tuple[Any, ...], _Plan] = {}
        self._cuts: dict[tuple[str, bool], Cut] = {}

    def attempt(self, head: Head, start: int, stop: int) -> Encoded | MillraceError:
        try:
            return self.answer(head, start, stop)
        except MillraceError as exc:
            return exc

    def answer(self, head: Head, start: int, stop: int) -> Encoded:
        key = (head.outputs, head.binary_output, stop - start)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._plan(*key)
        template, cuts = plan
        end = b"]}" if head.id is None else b'],"id":%b}' % orjson.dumps(head.id)
        if template.text is None:
            return _filled(template, cuts, start, stop, end)
        text = template.text + end
        return b"".join([text, *[cut(start, stop) for cut in cuts]]), len(text)

    def _plan(self, outputs: tuple[OutputHead, ...] | None, binary_output: bool, rows: int) -> _Plan:
        shapes = tuple([(column.name, column.datatype, column.tail) for column in self._columns.values()])
        key = (self._model, self._version, shapes, outputs, binary_output, None if self._whole else rows)
        template = _templates.get(key)
        if template is None:
            if len(_templates) >= MAX_TEMPLATES:
                _templates.clear()
            template = _templates[key] = self._template(_wanted(self._columns, outputs, binary_output), rows)
        return _Plan(template, [self._cut(name, binary) for name, binary in template.wanted])

    def _template(self, wanted: tuple[tuple[str, bool], ...], rows: int) -> _Template:
        opening = b'{"model_name":%b,"model_version":%b,"outputs":[' % (
            orjson.dumps(self._model),
            orjson.dumps(self._version),
        )
        before: list[bytes] = []
        after: list[bytes] = []
        sizes: list[int | None] = []
        for name, binary in wanted:
            column = self._columns[name]
            shape = column.tail if self._whole else (rows, *column.tail)
            declared = orjson.dumps({"name": name, "datatype": column.datatype, "shape": shape})
            slot = b',"parameters":{"binary_data_size":' if binary else b',"data":['
            before.append((b"," if before else opening) + declared[:-1] + slot)
            after.append(b"}}" if binary else b"]}")
            fixed = binary and column.datatype != "BYTES"
            sizes.append(prod(shape) * column.rows.itemsize if fixed else None)
        text = None
        if all(size is not None for size in sizes):
            text = b"".join([a + b"%d" % (size or 0) + b for a, size, b in zip(before, sizes, after, strict=True)])
            text = text or opening
        return _Template(wanted, tuple(before), tuple(after), text, any(binary for _, binary in wanted))

    def _cut(self, name: str, binary: bool) -> Cut:
        cut = self._cuts.get((name, binary))
        if cut is None:
            cut = self._cuts[name, binary] = _cut(self._columns[name], binary)
        return cut


def _wanted(
    columns: Mapping[str, _Column], outputs: tuple[OutputHead, ...] | None, binary_output: bool
) -> tuple[tuple[str, bool], ...]:
    if outputs is None:
        return tuple([(name, binary_output) for name in columns])
    for output in outputs:
        if output.name not in columns:
            raise InvalidRequest(f"output {shown(output.name)} is not one of the model's: it has {', '.join(columns)}")
    return tuple([(item.name, binary_output if item.binary is None else item.binary) for item in outputs])


def _filled(template: _Template, cuts: list[Cut], start: int, stop: int, end: bytes) -> Encoded:
    text: list[bytes | memoryview] = []
    raw: list[bytes | memoryview] = []
    for (_, binary), cut, before, after in zip(template.wanted, cuts, template.before, template.after, strict=True):
        value = cut(start, stop)
        if binary:
            raw.append(value)
            value = b"%d" % len(value)
        text += (before, value, after)
    text.append(end)
    body = b"".join(text)
    return (body + b"".join(raw), len(body)) if template.binary else (body, None)


def _column(name: str, array: Array, *, rows: int = 0, whole: bool = False) -> _Column:
    datatype = datatype_of(array.dtype)
    if datatype is None:
        raise Failed(f"the model's output {name} has the type {array.dtype}, which the protocol cannot carry")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if whole:
        return _Column(name, datatype, array.reshape(1, array.size), array.shape)
    if not array.ndim or len(array) < rows:
        raise Failed(f"the model's output {name} has shape {list(array.shape)} for a batch of {rows} rows")
    tail = array.shape[1:]
    return _Column(name, datatype, array.reshape(len(array), prod(tail)), tail)


def _cut(column: _Column, binary: bool) -> Cut:
    if column.datatype == "BYTES":
        return _cut_packed(column) if binary else _cut_strings(column)
    return _cut_raw(column.rows) if binary else _cut_numbers(column)


def _cut_raw(rows: Array) -> Cut:
    view = memoryview(rows.tobytes())
    width = rows.shape[1] * rows.itemsize
    return lambda start, stop: view[start * width : stop * width]


def _cut_numbers(column: _Column) -> Cut:
    if not len(column.rows):
        return lambda start, stop: b""
    text = orjson.dumps(np.ascontiguousarray(column.rows), option=orjson.OPT_SERIALIZE_NUMPY)
    lines = text[2:-2].split(b"],[")
    if not column.rows.shape[1]:
        return lambda start, stop: b""
    # orjson writes NaN and infinity as null, and no other number has an n in it.
    dirty = column.datatype in FLOATS and b"n" in text

    def cut(start: int, stop: int) -> bytes:
        found = lines[start] if stop == start + 1 else b",".join(lines[start:stop])
        if dirty and b"n" in found:
            raise InvalidRequest(
                f"output {column.name} holds NaN or infinity, which JSON cannot carry: "
                "ask for it in binary (binary_data or binary_data_output)"
            )
        return found

    return cut


def _cut_packed(column: _Column) -> Cut:
    def cut(start: int, stop: int) -> bytes:
        parts: list[bytes] = []
        for element in column.rows[start:stop].ravel().tolist():
            content = _content(column.name, element)
            parts += (_LENGTH.pack(len(content)), content)
        return b"".join(parts)

    return cut


def _cut_strings(column: _Column) -> Cut:
    def cut(start: int, stop: int) -> bytes:
        elements = [_content(column.name, element) for element in column.rows[start:stop].ravel().tolist()]
        try:
            return orjson.dumps([element.decode() for element in elements])[1:-1]
        except UnicodeDecodeError as exc:
            raise InvalidRequest(
                f"output {column.name} holds bytes that are not UTF-8, which JSON cannot carry: "
                "ask for it in binary (binary_data or binary_data_output)"
            ) from exc

    return cut


def _content(name: str, element: object) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        return element.encode()
    raise Failed(f"the model's output {name} holds {shown(element)}, which is neither bytes nor a string")
