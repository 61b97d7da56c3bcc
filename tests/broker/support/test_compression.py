"""Compressed bodies: every form that clients send, and never more than the limit."""

from __future__ import annotations

import gzip
import os
import zlib

import cramjam
import pytest

from broker.errors import InvalidRequest, TooLarge
from broker.messages import Message
from broker.support.compression import MEMBERS_LIMIT, PIECE_BYTES, decompress, decompressed

BODY = b'{"inputs": []}' * 100
LIMIT = 10_000


def raw_deflate(body: bytes) -> bytes:
    machine = zlib.compressobj(wbits=-15)
    return machine.compress(body) + machine.flush()


def zstd(body: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(body))


PACKED = [
    ("gzip", gzip.compress(BODY)),
    ("x-gzip", gzip.compress(BODY)),
    (" GZIP ", gzip.compress(BODY)),
    ("gzip", gzip.compress(BODY[:700]) + gzip.compress(BODY[700:])),
    ("deflate", zlib.compress(BODY)),
    ("deflate", raw_deflate(BODY)),
    ("zstd", zstd(BODY)),
    ("zstd", zstd(BODY[:700]) + zstd(BODY[700:])),
    ("identity", BODY),
    ("", BODY),
]


@pytest.mark.parametrize(("encoding", "packed"), PACKED)
def test_a_body_is_what_was_compressed(encoding: str, packed: bytes) -> None:
    assert decompress(packed, encoding, LIMIT) == BODY


@pytest.mark.parametrize(("encoding", "packed"), PACKED[:-2])
def test_the_limit_holds_for_all_members_together(encoding: str, packed: bytes) -> None:
    assert decompress(packed, encoding, len(BODY)) == BODY
    with pytest.raises(TooLarge, match=f"more than {len(BODY) - 1} bytes, the limit"):
        decompress(packed, encoding, len(BODY) - 1)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(BODY)[:-9]),
        ("gzip", gzip.compress(BODY) + b"more"),
        ("gzip", b""),
        ("gzip", BODY),
        ("gzip", zlib.compress(BODY)),
        ("deflate", b""),
        ("deflate", BODY),
        ("deflate", raw_deflate(BODY)[:-2]),
        ("zstd", b""),
        ("zstd", BODY),
        ("zstd", zstd(BODY)[:-1]),
        ("zstd", zstd(BODY) + b"more"),
    ],
)
def test_bytes_that_do_not_match_their_encoding_are_invalid(encoding: str, packed: bytes) -> None:
    with pytest.raises(InvalidRequest, match="is not complete"):
        decompress(packed, encoding, LIMIT)


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "x" * 5000])
def test_an_unknown_encoding_is_invalid_and_the_error_names_the_known_ones(encoding: str) -> None:
    with pytest.raises(InvalidRequest, match="gzip, deflate or zstd") as caught:
        decompress(BODY, encoding, LIMIT)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("size", [PIECE_BYTES - 23, PIECE_BYTES, 3 * PIECE_BYTES + 1])
def test_members_larger_and_smaller_than_a_piece_are_put_together(size: int) -> None:
    body = os.urandom(size)
    packed = gzip.compress(body) + gzip.compress(b"") + gzip.compress(BODY) + gzip.compress(body)
    plain = body + BODY + body
    assert decompress(packed, "gzip", len(plain)) == plain
    with pytest.raises(TooLarge):
        decompress(packed, "gzip", len(plain) - 1)
    with pytest.raises(InvalidRequest, match="is not complete"):
        decompress(packed[:-1], "gzip", len(plain))


def test_as_many_members_as_are_allowed_are_read_and_they_are_few() -> None:
    assert decompress(gzip.compress(b"a") * MEMBERS_LIMIT, "gzip", LIMIT) == b"a" * MEMBERS_LIMIT
    assert MEMBERS_LIMIT <= 64


def test_many_empty_members_are_refused_before_they_cost_time() -> None:
    with pytest.raises(InvalidRequest, match="members"):
        decompress(gzip.compress(b"") * (MEMBERS_LIMIT + 1), "gzip", LIMIT)


@pytest.mark.parametrize("encoding", [None, "utf-8", "UTF8", "binary"])
def test_a_charset_in_place_of_an_encoding_leaves_a_message_unchanged(encoding: str | None) -> None:
    message = Message(queue="q", body=BODY, content_encoding=encoding)
    assert decompressed(message, LIMIT) is message


def test_a_message_is_read_as_if_it_had_never_been_compressed() -> None:
    message = Message(queue="q", body=gzip.compress(BODY), content_encoding="gzip")
    assert decompressed(message, LIMIT) == Message(queue="q", body=BODY)
