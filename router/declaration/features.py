"""The features of a request that a linear bandit uses, as they are declared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import PlainValidator, WithJsonSchema

from broker.support.strict import number, shown, whole

_TEXT_LIMIT = 256
_VALUES_LIMIT = 200


@dataclass(frozen=True, slots=True)
class NumberFeature:
    """A parameter of the request: a number, or true or false."""

    name: str
    dimensions: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class OneHotFeature:
    """A parameter of the request, a text or a number: one dimension for each of `values`, 1 for the equal one."""

    name: str
    values: tuple[str | float, ...]

    @property
    def dimensions(self) -> int:
        """The number of values in the feature vector."""
        return len(self.values)


@dataclass(frozen=True, slots=True)
class TensorFeature:
    """A row of an input tensor: `dimensions` numbers."""

    name: str
    dimensions: int


Feature = NumberFeature | OneHotFeature | TensorFeature


def read_feature(value: Any) -> Feature:
    """Read one of the three forms: `name`, `{name: [values]}` and `{tensor: name, size: 3}`; raises ValueError."""
    if isinstance(value, str):
        return NumberFeature(_text(value))
    if isinstance(value, dict) and set(value) == {"tensor", "size"}:
        return TensorFeature(_text(value["tensor"]), _size(value["size"]))
    if isinstance(value, dict) and len(value) == 1:
        ((name, values),) = value.items()
        return OneHotFeature(_text(name), _values(values))
    raise ValueError(
        f"{shown(value)} is not a feature: write a parameter's name, {{name: [values]}} or {{tensor: name, size: 3}}"
    )


def _size(value: Any) -> int:
    try:
        size = whole(value)
    except ValueError:
        size = 0
    if not 1 <= size <= _VALUES_LIMIT:
        raise ValueError(f"size {shown(value)} is not a number of values: write one from 1 to {_VALUES_LIMIT}")
    return size


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= _TEXT_LIMIT:
        raise ValueError(f"{shown(value)} is not the name of a parameter or tensor")
    return value


def _values(values: Any) -> tuple[str | float, ...]:
    if not isinstance(values, list) or not 1 <= len(values) <= _VALUES_LIMIT:
        raise ValueError(f"{shown(values)} is not a list of 1 to {_VALUES_LIMIT} values")
    read = tuple(_text(value) if isinstance(value, str) else number(value) for value in values)
    if len(set(read)) < len(read):
        raise ValueError("a value is there twice")
    return read


_TEXT: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": _TEXT_LIMIT}
_COUNTABLE: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "maxItems": _VALUES_LIMIT,
    "uniqueItems": True,
    "items": {"anyOf": [_TEXT, {"type": "number"}]},
}
_FEATURE_SCHEMA = {
    "anyOf": [
        _TEXT,
        {
            "type": "object",
            "properties": {"tensor": _TEXT, "size": {"type": "integer", "minimum": 1, "maximum": _VALUES_LIMIT}},
            "required": ["tensor", "size"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "propertyNames": _TEXT,
            "additionalProperties": _COUNTABLE,
        },
    ]
}
FeatureDeclared = Annotated[Feature, PlainValidator(read_feature), WithJsonSchema(_FEATURE_SCHEMA)]
