"""The `millrace` header: all values about a request that Millrace's processes exchange, as one binary struct.

    head     version u8, form u8, count u16, shared length u16
    shared   the Route: the shared values of all requests in the message
    then     form SINGLE: one ticket, the body is the message's body
             form BUNDLE: nothing; the message's body is count x (ticket, body)
             form ANSWERS: nothing; the message's body is count x (answer, body)

All numbers are little-endian; strings are UTF-8 after their lengths. A ticket has a request's own values.
Sixteen plain AMQP headers cost 40 us per hop, one header of this size costs 1 us.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import orjson

from broker.channels import check_name
from broker.errors import InvalidRequest, Misconfigured

VERSION = 1
NO_JSON_LENGTH = -1

# The limits of brokers, rows and the framing: larger values are refused as malformed.
LEG_LIMIT = 255
ADDRESS_BYTES = 255  # AMQP's own limit for queues and correlation ids
ROUTE_BYTES = 16 * 1024
TEXTS_BYTES = 32 * 1024  # of one ticket: a request that came back has its whole ticket in its header

_HEAD = struct.Struct("<BBHH")
_ROUTE = struct.Struct("<BIQQIHHHHHH")
_TICKET = struct.Struct("<16sqqdiHBHHHHI")
_ANSWER = struct.Struct("<16sBIiIIIHI")


class BodyForm(IntEnum):
    """The layout of requests or answers in one broker message."""

    SINGLE = 0
    BUNDLE = 1
    ANSWERS = 2


class ReplyTo(IntEnum):
    """The destination of the answer."""

    NOWHERE = 0  # a shadow: computed and logged, never answered
    CLIENT = 1  # the client's own queue, one plain message per answer
    GATEWAY = 2  # an answer queue, which takes bundles of answers
    RESULTS = 3  # the endpoint's output queue


class Status(IntEnum):
    """The final status of a request; the word in the answer is the name in lower case."""

    OK = 0
    INVALID = 1
    EXPIRED = 2
    FAILED = 3
    OVERLOADED = 4
    CANCELLED = 5

    @property
    def word(self) -> str:
        """The text of the status in answers and rows."""
        return WORDS[self]


WORDS = {status: status.name.lower() for status in Status}
BY_WORD = {word: status for status, word in WORDS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The shared values of a bundle's requests: the decision that sent them, and the destination of their answers."""

    endpoint: str
    arm: str
    model: str
    version: int
    snapshot: int = 0
    mask: int = 0
    policy: str = ""
    tenant: str = ""
    reply: ReplyTo = ReplyTo.NOWHERE
    reply_to: str = ""
    leg: int = 0


class Request(NamedTuple):
    """One request: its route, its ticket and its body. It is a tuple because millions of them are made."""

    route: Route
    uid: bytes
    accepted_us: int
    deadline_us: int = 0  # 0: none
    propensity: float = 0.0  # 0: pinned, or not drawn
    json_length: int | None = None  # bytes of JSON before raw tensors; None: the body is all JSON
    attempts: int = 0
    key: str = ""
    correlation: str = ""
    trace: str = ""
    extra: bytes = b""  # JSON of rare values: tracestate, CloudEvents attributes
    body: bytes | memoryview = b""


class Answer(NamedTuple):
    """One answer for a gateway or a router."""

    uid: bytes
    status: Status
    arm: str = ""
    version: int = 0
    json_length: int | None = None
    queued_us: int = 0
    batched_us: int = 0
    computed_us: int = 0
    body: bytes | memoryview = b""


@lru_cache(maxsize=4096)
def pack_route(route: Route) -> bytes:
    """Return a route as bytes; equal routes give equal bytes, so that they can share a bundle."""
    texts = [
        text.encode() for text in (route.endpoint, route.arm, route.model, route.policy, route.tenant, route.reply_to)
    ]
    numbers = (route.reply, route.version, route.snapshot, route.mask, route.leg)
    return _ROUTE.pack(*numbers, *map(len, texts)) + b"".join(texts)


@lru_cache(maxsize=4096)
def unpack_route(data: bytes) -> Route:
    """Read a route; raises InvalidRequest if the bytes are malformed."""
    try:
        reply, version, snapshot, mask, leg, *lengths = _ROUTE.unpack_from(data)
        texts, at = [], _ROUTE.size
        for length in lengths:
            texts.append(data[at : at + length].decode())
            at += length
        endpoint, arm, model, policy, tenant, reply_to = texts
        if at != len(data):
            raise ValueError(f"{len(data)} bytes where the lengths require {at}")  # noqa: TRY301 - one place raises all errors
        if lengths[-1] > ADDRESS_BYTES or len(data) > ROUTE_BYTES or leg > LEG_LIMIT:
            raise ValueError(  # noqa: TRY301 - as above
                f"reply_to of {lengths[-1]} bytes, {len(data)} in all, leg {leg}:"
                f" {ADDRESS_BYTES}, {ROUTE_BYTES} and {LEG_LIMIT} are allowed"
            )
        check_name("endpoint", endpoint)
        return Route(
            endpoint=endpoint,
            arm=arm,
            model=model,
            version=version,
            snapshot=snapshot,
            mask=mask,
            policy=policy,
            tenant=tenant,
            reply=ReplyTo(reply),
            reply_to=reply_to,
            leg=leg,
        )
    except (struct.error, ValueError, Misconfigured) as exc:
        raise InvalidRequest(f"millrace header: the route cannot be read ({exc})") from exc


def pack_head(form: BodyForm, count: int, shared: bytes = b"") -> bytes:
    """Return the head and the shared part."""
    return _HEAD.pack(VERSION, form, count, len(shared)) + shared


def unpack_head(header: bytes) -> tuple[BodyForm, int, bytes, int]:
    """Return form, count, the shared bytes and the position after them; raises InvalidRequest."""
    try:
        version, form, count, length = _HEAD.unpack_from(header)
        if version != VERSION:
            raise ValueError(f"version {version}, {VERSION} is read here")  # noqa: TRY301 - as above
        end = _HEAD.size + length
        if end > len(header):
            raise ValueError(f"{len(header)} bytes, {end} expected")  # noqa: TRY301 - as above
        return BodyForm(form), count, header[_HEAD.size : end], end
    except (struct.error, ValueError) as exc:
        raise InvalidRequest(f"millrace header: {exc}") from exc


def count_of(header: bytes) -> int:
    """Return the number of requests or answers in a message, from its header alone; 1 for a plain message."""
    return int.from_bytes(header[2:4], "little") if len(header) >= _HEAD.size else 1


def pack_ticket(request: Request, body_length: int) -> bytes:
    """Return a request's own values; `body_length` is 0 if the body is not in the bundle's body."""
    key, correlation = request.key.encode(), request.correlation.encode("utf-8", "surrogateescape")
    trace, extra = request.trace.encode(), request.extra
    json_length = NO_JSON_LENGTH if request.json_length is None else request.json_length
    fixed = _TICKET.pack(
        request.uid,
        request.accepted_us,
        request.deadline_us,
        request.propensity,
        json_length,
        request.attempts,
        0,
        len(key),
        len(correlation),
        len(trace),
        len(extra),
        body_length,
    )
    return b"".join((fixed, key, correlation, trace, extra))


def unpack_ticket(route: Route, data: memoryview, at: int, body: bytes | memoryview | None) -> tuple[Request, int]:
    """Read the ticket at `at`, and its body too if `body` is None; return the request and the position after it."""
    (
        uid,
        accepted,
        deadline,
        propensity,
        json_length,
        attempts,
        _,
        key_length,
        correlation_length,
        trace_length,
        extra_length,
        body_length,
    ) = _TICKET.unpack_from(data, at)
    at += _TICKET.size
    if key_length + trace_length + extra_length > TEXTS_BYTES or correlation_length > ADDRESS_BYTES:
        raise ValueError(
            f"texts of {key_length + trace_length + extra_length} bytes, a correlation id of {correlation_length}:"
            f" {TEXTS_BYTES} and {ADDRESS_BYTES} are allowed"
        )
    key = correlation = trace = ""
    extra = b""
    if key_length:
        key = str(data[at : at + key_length], "utf-8")
        at += key_length
    if correlation_length:
        correlation = str(data[at : at + correlation_length], "utf-8", "surrogateescape")
        at += correlation_length
    if trace_length:
        trace = str(data[at : at + trace_length], "utf-8")
        at += trace_length
    if extra_length:
        extra = _checked_extra(bytes(data[at : at + extra_length]))
        at += extra_length
    if body is None:
        body = data[at : at + body_length]
        at += body_length
    if at > len(data):
        raise ValueError(f"{len(data)} bytes where the lengths require {at}")
    length = None if json_length == NO_JSON_LENGTH else json_length
    return Request(
        route, uid, accepted, deadline, propensity, length, attempts, key, correlation, trace, extra, body
    ), at


def _checked_extra(extra: bytes) -> bytes:
    """Return `extra` if it is a valid JSON object; raises ValueError."""
    document = orjson.loads(extra)
    cloud = document.get("cloud_events", {}) if isinstance(document, dict) else None
    if not isinstance(cloud, dict) or not isinstance(cloud.get("id", ""), str):
        raise ValueError("extra is not an object, or the id of its cloud_events is not a text")  # noqa: TRY004 - wrong bytes, not a wrong call
    return extra


def pack_answer(
    uid: bytes,
    status: Status,
    arm: bytes,
    version: int,
    json_length: int | None,
    times: tuple[int, int, int],
    body_length: int,
) -> bytes:
    """Return an answer's ticket; its body follows it. `times` are queued, batched and computed, in us."""
    length = NO_JSON_LENGTH if json_length is None else json_length
    return _ANSWER.pack(uid, status, version, length, *times, len(arm), body_length) + arm


def unpack_answer(data: memoryview, at: int) -> tuple[Answer, int]:
    """Read the answer and its body at `at`; return it and the position after it."""
    (uid, status, version, json_length, queued, batched, computed, arm_length, body_length) = _ANSWER.unpack_from(
        data, at
    )
    at += _ANSWER.size
    arm = str(data[at : at + arm_length], "utf-8")
    at += arm_length
    end = at + body_length
    if end > len(data):
        raise ValueError(f"{len(data)} bytes where the lengths require {end}")
    length = None if json_length == NO_JSON_LENGTH else json_length
    return Answer(uid, Status(status), arm, version, length, queued, batched, computed, data[at:end]), end
