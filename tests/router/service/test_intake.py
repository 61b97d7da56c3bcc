"""Any message of a queue client is read, or refused with the name of the wrong header."""

from __future__ import annotations

from typing import Any

import pytest

from broker.channels import Channels
from broker.errors import InvalidRequest
from broker.messages import Delivery, Message
from broker.protocol.header import ReplyTo
from router.drawing.keys import key_of
from router.service.intake import identity, read_headers, tenant_of

CHANNELS = Channels()


def message(**parts: Any) -> Message:
    return Message(queue="millrace.requests.e", body=b'{"parameters":{"user":7}}', **parts)


def test_headers_of_any_client_are_read() -> None:
    asked = read_headers(
        message(
            reply_to="mine",
            headers={"timeout_ms": "250", "key": b"k\xff", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "x": [1]},
        ),
        CHANNELS,
    )
    assert (asked.reply, asked.reply_to, asked.timeout_ms, asked.key) == (ReplyTo.CLIENT, "mine", 250, "k�")
    assert asked.trace.startswith("00-aaa")


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"headers": {"timeout_ms": 0}}, "timeout_ms: '0'"),
        ({"headers": {"timeout_ms": -5}}, "timeout_ms"),
        ({"headers": {"timeout_ms": "soon"}}, "'soon'"),
        ({"headers": {"timeout_ms": True}}, "timeout_ms"),
        ({"headers": {"timeout_ms": 10**18}}, "timeout_ms"),
        ({"headers": {"inference-header-content-length": 1000}}, "inference-header-content-length"),
        ({"reply_to": "millrace.inputs.m.1"}, "is a channel of Millrace"),
        ({"reply_to": "r" * 300}, "reply_to"),
        ({"correlation_id": "c" * 300}, "correlation_id"),
        ({"headers": {f"cloudEvents_{n}": "x" for n in range(200)}}, "CloudEvents"),
    ],
)
def test_wrong_headers_are_refused_by_name(parts: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        read_headers(message(**parts), CHANNELS)


def test_a_redelivery_has_the_same_uid_wherever_that_can_be_told() -> None:
    delivery = Delivery(message(message_id="1", reply_to="mine"), 1, 0, None)
    again = Delivery(message(message_id="1", reply_to="mine"), 2, 1, None)
    other = Delivery(message(message_id="2", reply_to="mine"), 3, 0, None)
    assert identity("e", delivery, None, 5) == identity("e", again, None, 6)
    assert identity("e", delivery, None, 5) != identity("e", other, None, 5)
    assert identity("e", delivery, b"row 1", 5) == identity("e", other, b"row 1", 9)
    nameless = Delivery(message(), 1, 0, None)
    assert identity("e", nameless, None, 5) != identity("e", nameless, None, 5)


def test_a_key_comes_from_the_header_or_from_the_parameter_that_is_declared() -> None:
    body = b'{"parameters":{"user":7}}'
    assert key_of("parameters.user", "", body, None) == "7"
    assert key_of("parameters.user", "", body + b"raw", len(body)) == "7"
    assert key_of("parameters.user", "given", body, None) == "given"
    assert key_of("parameters.other", "", body, None) == ""
    assert key_of(None, "", b"never read", None) == ""
    with pytest.raises(InvalidRequest):
        key_of("parameters.user", "", b"{", None)


@pytest.mark.parametrize(
    "parts",
    [
        {"reply_to": b"\xff\xfe".decode("utf-8", "surrogateescape")},
        {"headers": {f"cloudEvents_{chr(1) * 200}{n}": chr(1) * 256 for n in range(32)}},
    ],
)
def test_values_that_do_not_fit_into_the_header_are_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        read_headers(message(**parts), CHANNELS)


def test_odd_attribute_names_and_users_are_made_writable() -> None:
    odd = b"\xff".decode("utf-8", "surrogateescape")
    asked = read_headers(message(headers={f"cloudEvents_{odd}": odd}, user_id=odd), CHANNELS)
    assert asked.extra == b'{"cloud_events":{"?":"?"}}'
    assert tenant_of(message(user_id=odd)) == "?"
