"""Reads configuration that people write: strict models, values with units, and errors that tell how to fix it."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError, WithJsonSchema
from pydantic.annotated_handlers import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core.core_schema import CoreSchema, no_info_after_validator_function

from broker.channels import NAME, check_name
from broker.errors import Misconfigured

_M = TypeVar("_M", bound=BaseModel)

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s|m|h|d)")
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SHOWN_CHARACTERS = 60
NAMED: dict[str, Any] = {"pattern": f"^{NAME.pattern}$"}  # the JSON schema of a name
DURATION_PATTERN = rf"\s*{_DURATION.pattern}\s*"


def seconds(value: Any) -> float:
    """Read a duration such as `250ms`, `2s` or `10m` as seconds; raises ValueError for a number without a unit."""
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{shown(value)} is not a duration: write a number with us, ms, s, m, h or d, such as 250ms")
    return float(match[1]) * _SECONDS[match[2]]


def duration(value_s: float) -> str:
    """Return a duration as text, without an exponent, from which `seconds` reads exactly the same number."""
    return f"{Decimal(repr(value_s)):f}".removesuffix(".0") + "s"


def number(value: Any) -> float:
    """Read a finite number; raises ValueError for anything else, including true, false and text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{shown(value)} is not a number")  # noqa: TRY004 - pydantic handles only ValueError
    try:
        read = float(value)
    except OverflowError:
        read = math.inf
    if not math.isfinite(read):
        raise ValueError(f"{shown(value)} is not a finite number")
    return read


def fraction(value: Any) -> float:
    """Read a share as a number from 0 to 1: `20%`, or the bare number; raises ValueError."""
    match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        share = float(match[1]) / 100.0 if match else number(value)
    except ValueError:
        share = math.nan
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{shown(value)} is not a share: write 20% or 0.2")
    return share


def shown(value: Any) -> str:
    """Return a value as an error message quotes it: at most 60 characters, and only the kind of a mapping or list."""
    if isinstance(value, (Mapping, list, tuple, set)):
        return f"a {'mapping' if isinstance(value, Mapping) else 'list'}"
    text = "a huge number" if isinstance(value, int) and value.bit_length() > 256 else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"


def meant(word: Any, known: Iterable[str]) -> str | None:
    """Return the known word most similar to `word`; None if none is similar."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5) if isinstance(word, str) else []
    return near[0] if near else None


def nearest(word: Any, known: Iterable[str], *, what: str = "keys") -> str:
    """Return the hint for an unknown word: the most similar known word, or all known words (`what` is their plural)."""
    words = list(known)
    near = meant(word, words)
    return f"did you mean {near!r}?" if near else f"known {what}: {', '.join(words)}"


def named(what: str, value: Any) -> str:
    """Return `value` if it is a valid name for channels, arms and series; raises ValueError."""
    try:
        return check_name(what, value)
    except Misconfigured as exc:
        raise ValueError(str(exc)) from exc


def whole(value: Any) -> int:
    """Read a whole number; accepts `3.0`, and raises ValueError for text, true and false."""
    read = number(value)
    if not read.is_integer():
        raise ValueError(f"{shown(value)} is not a whole number")
    return int(value)


@dataclass(frozen=True, slots=True)
class DurationBounds:
    """The bounds of a duration, for pydantic and for the JSON schema; both are allowed. `what` names the duration."""

    least: str
    most: str
    what: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check the bounds after the value was parsed."""
        return no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the bounds in words: JSON Schema cannot compare values with units."""
        return {**handler(schema), "description": f"from {self.least} to {self.most}"}

    def _checked(self, value_s: float) -> float:
        if not seconds(self.least) <= value_s <= seconds(self.most):
            raise ValueError(
                f"{value_s:g} seconds are not a valid {self.what}: write one from {self.least} to {self.most}"
            )
        return value_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareBounds:
    """The bounds of a share, for pydantic and for the JSON schema: from 0 to `most`.

    With `above`, 0 itself is excluded; with `below`, `most` itself.
    """

    above: bool = False
    most: float = 1.0
    below: bool = False
    why: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check the bounds after the value was parsed."""
        return no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        """Give the bounds of a number, and describe those of a value with `%` in words."""
        least, most = "exclusiveMinimum" if self.above else "minimum", "exclusiveMaximum" if self.below else "maximum"
        return {
            "anyOf": [
                {"type": "number", least: 0, most: self.most},
                {"type": "string", "pattern": r"^\s*0*(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)\s*%\s*$"},
            ],
            "description": self._described,
            "examples": ["20%", 0.2],
        }

    def _checked(self, value: float) -> float:
        if value > self.most or (self.above and value == 0.0) or (self.below and value == self.most):
            why = f": {self.why}" if self.why else ""
            raise ValueError(f"{value:g} is not allowed: write a share {self._described}{why}")
        return value

    @property
    def _described(self) -> str:
        return f"{'above' if self.above else 'from'} 0% {'and below' if self.below else 'to'} {self.most:.0%}"


Duration = Annotated[
    float,
    BeforeValidator(seconds),
    PlainSerializer(duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": f"^{DURATION_PATTERN}$", "examples": ["250ms", "30m"]}),
]
Fraction = Annotated[float, BeforeValidator(fraction), ShareBounds()]


class StrictModel(BaseModel):
    """The base of all parts of a declaration: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def read_model(kind: type[_M], data: Any, *, source: str) -> _M:
    """Validate `data` as a strict pydantic model; raises one Misconfigured with all errors, each with its path."""
    if not isinstance(data, Mapping):
        raise Misconfigured(f"{source}: a mapping of keys is expected, found {type(data).__name__}")
    try:
        return kind.model_validate(data)
    except ValidationError as exc:
        raise Misconfigured("\n".join(f"{source}: {_explained(kind, error)}" for error in exc.errors())) from exc


def _explained(kind: type[BaseModel], error: Any) -> str:
    """Return the text of one of pydantic's errors, with the path that the person wrote."""
    path, found = _followed(kind, error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"unknown key; {nearest(path[-1], _keys(found))}"
    elif error["type"] == "missing":
        message = "this key is missing"
    elif error["type"] in ("bool_type", "bool_parsing"):
        message = f"{shown(error['input'])} is not a truth value: write true or false"
    elif error["type"] in ("model_type", "dict_type"):
        message = f"a mapping of keys is expected, found {type(error['input']).__name__}"
    where = ".".join(path)
    return f"{where}: {message}" if where else message


def _followed(kind: type[BaseModel], loc: tuple[Any, ...]) -> tuple[list[str], Any]:
    """Return an error's path without the class names that pydantic adds for unions, and the model where it ends."""
    path, choices, owner = list[str](), [kind], kind
    for part in loc:
        chosen = [choice for choice in choices if getattr(choice, "__name__", None) == part]
        if chosen and len(choices) > 1:
            choices = chosen
        else:
            path.append(str(part))
            choices = _choices(_inside(choices[0], part))
        owner = choices[0] if len(choices) == 1 and _is_model(choices[0]) else owner
    return path, owner


def _choices(annotation: Any) -> list[Any]:
    """Return the members of a union without None, or the annotation itself."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in (Union, UnionType):
        return [annotation]
    return [choice for one in get_args(annotation) if one is not type(None) for choice in _choices(one)]


def _inside(annotation: Any, part: Any) -> Any:
    """Return the annotation of a key of a model, or of a container's items."""
    if _is_model(annotation):
        fields = annotation.model_fields.items()
        return next((field.annotation for key, field in fields if part in (key, field.alias)), None)
    kind, held = get_origin(annotation), get_args(annotation)
    if not held or not isinstance(kind, type):
        return None
    return held[-1] if issubclass(kind, Mapping) else held[0]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _keys(kind: type[BaseModel]) -> list[str]:
    return [field.alias or key for key, field in kind.model_fields.items()]
