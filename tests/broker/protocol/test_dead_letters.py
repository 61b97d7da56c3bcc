"""Dead letters with any content are read, selected, and replayed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.base import dead_letter_message
from broker.channels import Channels
from broker.messages import JSON, Message
from broker.protocol.bundle import bundle, requests_in, single
from broker.protocol.dead_letters import DeadLetter, DeadLetterFilter, body_of, read_dead_letter, replay_messages
from broker.protocol.header import BodyForm, ReplyTo, Request, Route, pack_route, pack_ticket
from broker.protocol.ids import new_uid, uid_text

CHANNELS = Channels("t.")
INPUTS = CHANNELS.inputs("fraud", 3)
LANE = CHANNELS.retry(INPUTS)
CLIENTS = CHANNELS.requests("shop")
NOW_US = 1_800_000_000_000_000
ROUTE = Route(
    endpoint="shop",
    arm="b",
    model="fraud",
    version=3,
    snapshot=7,
    mask=3,
    policy="split",
    tenant="t",
    reply=ReplyTo.CLIENT,
    reply_to="mine",
)


def request(number: int = 0) -> Request:
    uid = new_uid(NOW_US, lambda size: number.to_bytes(size, "big"))
    body = b'{"inputs":[%d]}' % number
    return Request(
        route=ROUTE,
        uid=uid,
        accepted_us=NOW_US,
        deadline_us=NOW_US + 5,
        propensity=0.25,
        attempts=2,
        key="key",
        correlation="corr",
        trace="trace",
        extra=b"{}",
        body=body,
    )


def buried(message: Message, reason: str = "attempts", **marks: Any) -> Message:
    dead_letter = dead_letter_message(message, CHANNELS.dead(message.queue), reason, 3, "it died")
    return replace(
        dead_letter,
        headers={**dead_letter.headers, **{f"millrace-dead-{name}": value for name, value in marks.items()}},
    )


def read(message: Message) -> DeadLetter:
    return read_dead_letter(message, CHANNELS)


def bundled(*numbers: int) -> Message:
    requests = [request(number) for number in numbers]
    parts = [part for one in requests for part in (pack_ticket(one, len(one.body)), one.body)]
    return bundle(INPUTS, BodyForm.BUNDLE, pack_route(ROUTE), parts, len(requests))


def five_seconds(_: str) -> int:
    return 5_000_000


def test_a_letter_has_its_origin_and_its_reason() -> None:
    letter = read(buried(single(LANE, request())))
    assert (letter.origin, letter.reason, letter.attempts, letter.error) == (LANE, "attempts", 3, "it died")
    assert (letter.endpoint, letter.ids, letter.stuck) == ("shop", (uid_text(request().uid),), "")


def test_a_replayed_request_keeps_its_uid_and_decision_and_starts_afresh() -> None:
    [message] = replay_messages(read(buried(single(LANE, request()))), NOW_US + 100, five_seconds)
    [sent] = requests_in(message)
    assert message.queue == LANE
    assert not [name for name in message.headers if name.startswith("millrace-dead-")]
    assert sent == request()._replace(attempts=0, deadline_us=NOW_US + 100 + 5_000_000)


def test_a_replayed_request_gets_the_deadline_of_its_endpoint() -> None:
    [message] = replay_messages(read(buried(single(INPUTS, request()))), NOW_US, {"shop": 9}.__getitem__)
    assert requests_in(message)[0].deadline_us == NOW_US + 9


def test_a_bundle_is_replayed_as_single_requests() -> None:
    messages = replay_messages(read(buried(bundled(1, 2, 3))), NOW_US, five_seconds)
    assert [requests_in(message)[0].uid for message in messages] == [request(number).uid for number in (1, 2, 3)]
    assert {message.count for message in messages} == {1}


def test_a_clients_own_message_is_replayed_unchanged() -> None:
    sent = Message(
        queue=CLIENTS,
        body=b"{}",
        header=b"forged",
        headers={"key": "k"},
        content_type=JSON,
        correlation_id="c",
        message_id="m",
        reply_to="r",
        timestamp_s=1,
        priority=4,
    )
    letter = read(buried(sent))
    assert (letter.endpoint, letter.requests) == ("shop", ())
    assert replay_messages(letter, NOW_US, five_seconds) == [sent]


def test_an_unreadable_message_is_marked_and_replayed_unchanged() -> None:
    sent = Message(queue=INPUTS, body=b"\xff" * 100, header=b"\x09garbage", headers={"own": 1})
    letter = read(buried(sent, "unreadable"))
    assert "version 9" in letter.unreadable
    assert letter.ids[0].startswith("raw-")
    assert replay_messages(letter, NOW_US, five_seconds) == [sent]


def test_a_message_whose_properties_were_lost_cannot_be_replayed() -> None:
    letter = read(Message(queue=CHANNELS.dead(INPUTS), body=b"x", headers={"millrace-unreadable": "bad table"}))
    assert letter.reason == "unreadable"
    assert "its headers would be lost" in letter.stuck


def test_a_message_that_the_broker_buried_is_replayed_to_the_origin_of_its_dead_queue() -> None:
    letter = read(replace(single(INPUTS, request()), queue=CHANNELS.dead(INPUTS)))
    assert (letter.origin, letter.reason, letter.at_us, letter.stuck) == (INPUTS, "unrecorded", None, "")


@pytest.mark.parametrize("named", [CHANNELS.answers("x"), "amq.rabbitmq.reply-to", CHANNELS.inputs("other", 1), 7, b""])
def test_a_forged_origin_is_not_used(named: Any) -> None:
    letter = read(buried(single(INPUTS, request()), queue=named))
    assert "which has another dead queue" in letter.stuck
    assert letter.origin == INPUTS


@pytest.mark.parametrize("value", [None, b"\xff\xfe", -1, 2**80, True, "x" * 100_000, [1], {"a": 1}, 0.5])
def test_marks_of_odd_types_are_read(value: Any) -> None:
    marks = {"reason": value, "attempts": value, "error": value, "at-us": value}
    letter = read(buried(single(INPUTS, request()), **marks))
    assert len(letter.reason) <= 1000
    assert letter.requests


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_header_that_was_cut_is_unreadable_or_read(cut: int) -> None:
    message = single(INPUTS, request())
    letter = read(buried(replace(message, header=message.header[:cut])))
    assert bool(letter.unreadable) != bool(letter.requests)


def test_a_filter_matches_letters_that_match_all_of_its_fields() -> None:
    message = buried(single(INPUTS, request()))
    letter = read(replace(message, headers={**message.headers, "millrace-dead-at-us": NOW_US}))
    assert DeadLetterFilter().takes(letter)
    assert DeadLetterFilter(reason="attempts", endpoint="shop", ids=frozenset(letter.ids), before_us=NOW_US + 1).takes(
        letter
    )
    for other in (
        DeadLetterFilter(reason="unreadable"),
        DeadLetterFilter(endpoint="other"),
        DeadLetterFilter(ids=frozenset({"x"})),
        DeadLetterFilter(before_us=NOW_US),
    ):
        assert not other.takes(letter)


def test_a_letter_of_unknown_age_is_not_older_than_a_time() -> None:
    letter = read(replace(single(INPUTS, request()), queue=CHANNELS.dead(INPUTS)))
    assert not DeadLetterFilter(before_us=NOW_US).takes(letter)


def test_a_bundle_is_selected_as_a_whole_or_not_at_all() -> None:
    letter = read(buried(bundled(1, 2)))
    some, both = DeadLetterFilter(ids=frozenset(letter.ids[:1])), DeadLetterFilter(ids=frozenset(letter.ids))
    assert (some.takes(letter), some.splits(letter)) == (False, True)
    assert (both.takes(letter), both.splits(letter)) == (True, False)


def test_a_body_is_found_by_its_request_id() -> None:
    letters = [read(buried(bundled(1, 2))), read(buried(Message(queue=CLIENTS, body=b"raw")))]
    assert body_of(letters, uid_text(request(2).uid)) == b'{"inputs":[2]}'
    assert body_of(letters, letters[1].ids[0]) == b"raw"
    assert body_of(letters, "nothing") is None
