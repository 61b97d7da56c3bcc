"""Feedback: the outcome of a prediction, sent later by request id. It is a JSON record of the event log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import orjson

from broker.errors import InvalidRequest
from broker.messages import Record
from broker.protocol.answers import clean
from broker.protocol.ids import now_us, uid_of, uid_text
from broker.records.rewards import Reward
from broker.support.strict import nearest

TYPE = "millrace.feedback.v1"
NO_REWARDS: Mapping[str, Reward] = MappingProxyType({})
KNOWN = ("request_id", "values", "truth", "item", "event_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """Numbers by name, or a true label, for one request, or for one item of its answer."""

    uid: bytes
    values: Mapping[str, float] = field(default_factory=dict)
    truth: Any = None
    item: str | None = None
    event_id: str | None = None
    at_us: int = 0


def parse_feedback(body: bytes, rewards: Mapping[str, Reward] = NO_REWARDS) -> Feedback:
    """Read a client's feedback for an endpoint with these rewards; raises InvalidRequest with the wrong key.

    If an endpoint declares rewards from values, only their names are accepted: a misspelled one would never count.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"feedback: the body is not JSON ({exc})") from exc
    if not isinstance(data, dict):
        raise InvalidRequest(
            'feedback: a JSON object is expected, such as {"request_id": "…", "values": {"clicked": 1}}'
        )
    if unknown := sorted(set(data) - set(KNOWN)):
        raise InvalidRequest(f"feedback: unknown key {unknown[0]!r}; known keys: {', '.join(KNOWN)}")
    if ("values" in data) == ("truth" in data):
        raise InvalidRequest("feedback: give either 'values' or 'truth'")
    return Feedback(
        uid=_uid(data.get("request_id")),
        values=_rewarded(data.get("values", {}), rewards),
        truth=_truth(data),
        item=_item(data),
        event_id=_text(data, "event_id"),
        at_us=now_us(),
    )


def write_feedback(feedback: Feedback) -> tuple[bytes, dict[str, Any]]:
    """Return the body and the headers of a log record."""
    body = {
        "request_id": uid_text(feedback.uid),
        "values": dict(feedback.values),
        "truth": feedback.truth,
        "item": feedback.item,
        "event_id": feedback.event_id,
        "at_us": feedback.at_us,
    }
    return orjson.dumps(body), {"cloudEvents_type": TYPE}


def read_feedback(record: Record) -> Feedback | None:
    """Read a record of the event log; None if it is of another type or malformed."""
    if record.headers.get("cloudEvents_type") != TYPE:
        return None
    try:
        data = orjson.loads(record.body)
        at_us = data["at_us"]
        if type(at_us) is not int or not 0 <= at_us < 1 << 62:
            return None
        return Feedback(
            uid=_uid(data["request_id"]),
            values=_values(data["values"]),
            truth=data["truth"],
            item=_text(data, "item"),
            event_id=_text(data, "event_id"),
            at_us=at_us,
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, InvalidRequest):
        return None


def _uid(value: Any) -> bytes:
    try:
        return uid_of(value)
    except (ValueError, AttributeError) as exc:
        raise InvalidRequest(f"feedback: request_id {value!r} is not an id from a millrace-request-id header") from exc


def _rewarded(values: Any, rewards: Mapping[str, Reward]) -> dict[str, float]:
    if not isinstance(values, dict):
        return _values(values)
    given = [name for name, reward in rewards.items() if reward.source == "values"]
    for name in values:
        if name in rewards and name not in given:
            raise InvalidRequest(f"feedback: reward {name!r} is scored by the truth: send 'truth', not values.{name}")
        if given and name not in given:
            raise InvalidRequest(
                f"feedback: this endpoint has no reward {clean(name)[:60]!r}: {nearest(name, given, what='rewards')}"
            )
    flags = {name for name in given if rewards[name].type == "bool"}
    return _values({name: float(it) if name in flags and isinstance(it, bool) else it for name, it in values.items()})


def _values(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"feedback: values is {type(value).__name__}; a mapping of names to numbers is expected")
    for name, number in value.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise InvalidRequest(f"feedback: values.{name} is {number!r}; a finite number is expected")
    return {name: float(number) for name, number in value.items()}


def _truth(data: dict[str, Any]) -> Any:
    try:
        orjson.dumps({"truth": data.get("truth")})
    except TypeError as exc:  # orjson reads deeper nesting than it writes
        raise InvalidRequest(f"feedback: truth cannot be stored ({exc}): nest it less deeply") from exc
    return data.get("truth")


def _item(data: dict[str, Any]) -> str | None:
    """Return the item as text; integers are accepted, because some lists have integers as items."""
    value = data.get("item")
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(data, "item")


def _text(data: dict[str, Any], key: str) -> str | None:
    value = data.get(key)
    if value is not None and (not isinstance(value, str) or len(value) > 256):
        raise InvalidRequest(f"feedback: {key} is not a string of at most 256 characters")
    return value
