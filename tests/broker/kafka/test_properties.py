"""Headers of Millrace and of other clients are written and read back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.kafka.properties import pack_headers, unpack_message
from broker.messages import Message

TEXT = st.text(max_size=20)
NAME = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12).map("x-{}".format)
VALUE = st.one_of(
    TEXT,
    st.binary(max_size=20),
    st.booleans(),
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(TEXT, max_size=3),
    st.dictionaries(NAME, TEXT),
)


@given(
    st.dictionaries(NAME, VALUE, max_size=5),
    st.binary(max_size=40),
    st.none() | TEXT,
    st.none() | TEXT,
    st.integers(0, 9),
    st.none() | st.integers(0, 2**40),
)
def test_a_message_is_read_back_as_it_was_written(
    headers: dict[str, object],
    body: bytes,
    correlation: str | None,
    kind: str | None,
    priority: int,
    timestamp_s: int | None,
) -> None:
    sent = Message(
        queue="q",
        body=body,
        headers=headers,
        correlation_id=correlation,
        content_type=kind,
        priority=priority,
        timestamp_s=timestamp_s,
        reply_to="topic#3",
    )
    read = unpack_message("q", pack_headers(sent), body)
    assert (dict(read.headers), read.body) == (headers, body)
    assert (read.correlation_id, read.content_type, read.priority) == (correlation, kind, priority)
    assert (read.timestamp_s, read.reply_to) == (timestamp_s, "topic#3")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "millrace",
                    "millrace-types",
                    "kafka_replyTopic",
                    "kafka_replyPartition",
                    "priority",
                    "timestamp",
                    "message_id",
                    "content-type",
                    "anything",
                ]
            ),
            st.none() | st.binary(max_size=30),
        ),
        max_size=8,
    ),
    st.none() | st.binary(max_size=10),
)
def test_any_headers_of_a_client_are_read(headers: list[tuple[str, bytes | None]], body: bytes | None) -> None:
    message = unpack_message("q", headers, body)
    assert message.queue == "q"
    assert message.count >= 1


def test_spring_names_a_partition_in_four_bytes() -> None:
    headers = [("kafka_replyTopic", b"answers"), ("kafka_replyPartition", (7).to_bytes(4, "big"))]
    assert unpack_message("q", headers, b"").reply_to == "answers#7"
    assert unpack_message("q", [headers[0], ("kafka_replyPartition", b"12")], b"").reply_to == "answers#12"


def test_four_digits_are_a_number_and_not_four_bytes() -> None:
    headers = [("kafka_replyTopic", b"answers"), ("kafka_replyPartition", b"1000")]
    assert unpack_message("q", headers, b"").reply_to == "answers#1000"


@given(st.text(max_size=12) | st.from_regex(r"t#[0-9a-f]{0,14}", fullmatch=True))
def test_any_reply_address_is_forwarded_unchanged(address: str) -> None:
    message = unpack_message("q", [("kafka_replyTopic", address.encode("utf-8", "surrogateescape"))], b"")
    assert message.reply_to == address
    assert unpack_message("q", pack_headers(message), b"").reply_to == message.reply_to or "#0" in address


def test_a_partition_that_is_not_a_number_is_ignored() -> None:
    for value in (b"x", b"9" * 5000, b"", b"-1"):
        headers = [("kafka_replyTopic", b"t"), ("kafka_replyPartition", value)]
        assert unpack_message("q", headers, b"").reply_to == "t"
