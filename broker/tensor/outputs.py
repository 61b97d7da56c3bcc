"""Answers from output tensors: cuts the results of a batch into one body for each request.

The text around the numbers depends on names, shapes and the wanted outputs. These repeat, so a template of the text is
made once. The numbers of a batch are converted to bytes once for each output, and each request gets its slice.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import orjson

from broker.errors import Failed, InvalidRequest, MillraceError
from broker.protocol.answers import ANSWER_LIMIT_BYTES, too_large
from broker.tensor.datatypes import DTYPES, FLOATS, Array, datatype_of
from broker.tensor.inference import Head, OutputHead, shown

Encoded: TypeAlias = tuple[bytes, int | None]
"""A body, and the length of its JSON head; None if all of it is JSON."""

Cut: TypeAlias = Callable[[int, int], bytes | memoryview]
"""Returns rows start up to stop of one output in the form of the answer."""

MAX_TEMPLATES: Final = 1024
_LENGTH: Final = struct.Struct("<I")


class _Field(NamedTuple):
    """The form of one output in one answer."""

    name: str
    datatype: str
    binary: bool


class _Template(NamedTuple):
    """Text before and after each field's slot; `text` is the whole head without its end, if no slot is open."""

    fields: tuple[_Field, ...]
    before: tuple[bytes, ...]
    after: tuple[bytes, ...]
    text: bytes | None


_templates: dict[tuple[Any, ...], _Template] = {}


def encode(outputs: Mapping[str, Array], *, head: Head, model: str, version: str) -> Encoded:
    """Return the answer with whole outputs, of any shapes, in the form that `head` asks for.

    Raises `InvalidRequest` for an output that the model does not have, `Failed` for values that the protocol cannot
    represent.
    """
    return _Batch(outputs, model, version, whole=True).answer(head, 0, 1)


def encode_rows(
    outputs: Mapping[str, Array], items: Sequence[tuple[Head, int, int]], *, model: str, version: str
) -> list[Encoded | MillraceError]:
    """Return an answer for each of `items`, with rows start up to stop of outputs that are batched along axis 0.

    The error of one item is returned in its place, and does not affect the other items.
    """
    rows = max([stop for _, _, stop in items], default=0)
    for name, array in outputs.items():
        if not array.ndim or len(array) < rows:
            reason = f"the model's output {name} has shape {list(array.shape)} for a batch of {rows} rows"
            return [Failed(reason) for _ in items]
    batch = _Batch(outputs, model, version, whole=False)
    return [batch.attempt(head, start, stop) for head, start, stop in items]


class _Batch:
    """Answers from one set of outputs. Work that several items share is done once."""

    __slots__ = ("_cuts", "_outputs", "_plans", "_signature", "_whole")

    def __init__(self, outputs: Mapping[str, Array], model: str, version: str, *, whole: bool) -> None:
        shapes = [(name, array.dtype, array.shape if whole else array.shape[1:]) for name, array in outputs.items()]
        self._signature = (model, version, tuple(shapes))
        self._outputs = outputs
        self._whole = whole
        self._plans: dict[tuple[Any, ...], tuple[_Template, list[Cut]]] = {}
        self._cuts: dict[_Field, Cut] = {}

    def attempt(self, head: Head, start: int, stop: int) -> Encoded | MillraceError:
        try:
            return self.answer(head, start, stop)
        except MillraceError as exc:
            return exc

    def answer(self, head: Head, start: int, stop: int) -> Encoded:
        wanted = (head.outputs, head.binary_output, stop - start)
        plan = self._plans.get(wanted)
        if plan is None:
            plan = self._plans[wanted] = self._plan(wanted)
        template, cuts = plan
        end = b"]}" if head.id is None else b'],"id":%b}' % orjson.dumps(head.id)
        if template.text is None:
            encoded = _filled(template, cuts, start, stop, end)
        else:
            text = template.text + end
            encoded = b"".join([text, *[cut(start, stop) for cut in cuts]]), len(text)
        if len(encoded[0]) > ANSWER_LIMIT_BYTES:
            raise too_large(len(encoded[0]))
        return encoded

    def _plan(self, wanted: tuple[tuple[OutputHead, ...] | None, bool, int]) -> tuple[_Template, list[Cut]]:
        key = (self._signature, self._whole, wanted)
        template = _templates.get(key)
        if template is None:
            if len(_templates) >= MAX_TEMPLATES:
                _templates.clear()
            template = _templates[key] = self._template(*wanted)
        return template, [self._cut(field) for field in template.fields]

    def _template(self, outputs: tuple[OutputHead, ...] | None, binary_output: bool, rows: int) -> _Template:
        fields = _fields(self._outputs, outputs, binary_output)
        if not fields:
            raise Failed("the model gave no outputs")
        shapes = {name: shape if self._whole else (rows, *shape) for name, _, shape in self._signature[2]}
        before = [_before(field, shapes[field.name]) for field in fields]
        before[1:] = [b"," + text for text in before[1:]]
        before[0] = _opening(*self._signature[:2]) + before[0]
        after = [b"}}" if field.binary else b"]}" for field in fields]
        text = None
        if all(field.binary and field.datatype != "BYTES" for field in fields):
            sizes = [b"%d" % (prod(shapes[field.name]) * DTYPES[field.datatype].itemsize) for field in fields]
            text = b"".join(chain.from_iterable(zip(before, sizes, after, strict=True)))
        return _Template(fields, tuple(before), tuple(after), text)

    def _cut(self, field: _Field) -> Cut:
        cut = self._cuts.get(field)
        if cut is None:
            array = self._outputs[field.name]
            rows = 1 if self._whole else len(array)
            cut = self._cuts[field] = _cut(field, array.reshape(rows, array.size // rows if rows else 0))
        return cut


def _fields(
    outputs: Mapping[str, Array], wanted: tuple[OutputHead, ...] | None, binary_output: bool
) -> tuple[_Field, ...]:
    if wanted is None:
        return tuple([_Field(name, _datatype(name, array), binary_output) for name, array in outputs.items()])
    for item in wanted:
        if item.name not in outputs:
            raise InvalidRequest(f"output {shown(item.name)} is not one of the model's: it has {', '.join(outputs)}")
    return tuple(
        [
            _Field(name, _datatype(name, outputs[name]), binary_output if binary is None else binary)
            for name, binary in wanted
        ]
    )


def _datatype(name: str, array: Array) -> str:
    datatype = datatype_of(array.dtype)
    if datatype is None:
        raise Failed(f"the model's output {name} has the type {array.dtype}, which the protocol cannot carry")
    return datatype


def _opening(model: str, version: str) -> bytes:
    return b'{"model_name":%b,"model_version":%b,"outputs":[' % (orjson.dumps(model), orjson.dumps(version))


def _before(field: _Field, shape: tuple[int, ...]) -> bytes:
    declared = orjson.dumps({"name": field.name, "datatype": field.datatype, "shape": shape})
    return declared[:-1] + (b',"parameters":{"binary_data_size":' if field.binary else b',"data":[')


def _filled(template: _Template, cuts: list[Cut], start: int, stop: int, end: bytes) -> Encoded:
    text: list[bytes | memoryview] = []
    raw: list[bytes | memoryview] = []
    for field, cut, before, after in zip(template.fields, cuts, template.before, template.after, strict=True):
        value = cut(start, stop)
        if field.binary:
            raw.append(value)
            value = b"%d" % len(value)
        text += (before, value, after)
    text.append(end)
    body = b"".join(text)
    return (body + b"".join(raw), len(body)) if raw else (body, None)


def _cut(field: _Field, rows: Array) -> Cut:
    if field.datatype == "BYTES":
        return _cut_packed(field.name, rows) if field.binary else _cut_strings(field.name, rows)
    if not rows.dtype.isnative:
        rows = rows.astype(rows.dtype.newbyteorder("="))
    return _cut_raw(rows) if field.binary else _cut_numbers(field, rows)


def _cut_raw(rows: Array) -> Cut:
    view = memoryview(rows.tobytes())
    width = rows.shape[1] * rows.itemsize
    return lambda start, stop: view[start * width : stop * width]


def _cut_numbers(field: _Field, rows: Array) -> Cut:
    if not rows.size:
        return lambda start, stop: b""
    text = orjson.dumps(np.ascontiguousarray(rows), option=orjson.OPT_SERIALIZE_NUMPY)
    lines = text[2:-2].split(b"],[")
    # orjson writes NaN and infinity as null, and no number has the letter n.
    dirty = field.datatype in FLOATS and b"n" in text

    def cut(start: int, stop: int) -> bytes:
        found = lines[start] if stop == start + 1 else b",".join(lines[start:stop])
        if dirty and b"n" in found:
            raise Failed(
                f"the model's output {field.name} holds NaN or infinity, which JSON cannot carry: "
                "ask for it in binary (binary_data or binary_data_output)"
            )
        return found

    return cut


def _cut_packed(name: str, rows: Array) -> Cut:
    def cut(start: int, stop: int) -> bytes:
        parts: list[bytes] = []
        for element in rows[start:stop].ravel().tolist():
            content = _content(name, element)
            parts += (_LENGTH.pack(len(content)), content)
        return b"".join(parts)

    return cut


def _cut_strings(name: str, rows: Array) -> Cut:
    def cut(start: int, stop: int) -> bytes:
        elements = [_content(name, element) for element in rows[start:stop].ravel().tolist()]
        try:
            return orjson.dumps([element.decode() for element in elements])[1:-1]
        except UnicodeDecodeError as exc:
            raise Failed(
                f"the model's output {name} holds bytes that are not UTF-8, which JSON cannot carry: "
                "ask for it in binary (binary_data or binary_data_output)"
            ) from exc

    return cut


def _content(name: str, element: object) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        try:
            return element.encode()
        except UnicodeEncodeError as exc:
            raise Failed(f"the model's output {name} holds {shown(element)}, which is no text: {exc.reason}") from exc
    raise Failed(f"the model's output {name} holds {shown(element)}, which is neither bytes nor a string")
