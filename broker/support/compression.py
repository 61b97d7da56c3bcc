"""Decompresses bodies from HTTP or from a queue, and never beyond a limit.

The names are HTTP's content codings. `gzip` and `deflate` may have several members, as RFC 1952 allows.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import cramjam

from broker.errors import InvalidRequest, TooLarge
from broker.messages import Message

MEMBERS_LIMIT = 64
PIECE_BYTES = 64 * 1024  # decompressed at once: the end of a member costs a copy of the rest of its piece
KNOWN = "gzip, deflate or zstd"
_PLAIN = frozenset({"", "identity"})
# Some AMQP libraries put the text's charset into content_encoding.
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "binary", "8bit"})
_GZIP = frozenset({"gzip", "x-gzip"})
_GZIP_WINDOW, _ZLIB_WINDOW, _RAW_WINDOW = 31, 15, -15
_NAME_CHARACTERS = 40
_ZSTD_FULL = "failed to write whole buffer"


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Return the decompressed body; an empty or `identity` encoding leaves it as it is.

    Raises TooLarge if that has more than `limit` bytes, and InvalidRequest for an unknown encoding or malformed bytes.
    """
    name = encoding.strip().lower()
    if name in _PLAIN:
        return body
    if name in _GZIP:
        return _inflate(body, name, limit, _GZIP_WINDOW)
    if name == "deflate":
        return _inflate(body, name, limit, _ZLIB_WINDOW if _is_zlib(body) else _RAW_WINDOW)
    if name == "zstd":
        return _unpack_zstd(body, limit)
    raise InvalidRequest(f"content encoding {encoding[:_NAME_CHARACTERS]!r} is unknown: use {KNOWN}, or none")


def decompressed(message: Message, limit: int) -> Message:
    """Return a queue client's message with a decompressed body; raises the errors of `decompress`."""
    encoding = message.content_encoding
    if encoding is None or encoding.strip().lower() in _CHARSETS:
        return message
    return replace(message, body=decompress(message.body, encoding, limit), content_encoding=None)


def _is_zlib(body: bytes) -> bool:
    """Return True if the body starts with a zlib header.

    As `deflate`, some clients send the zlib format, as RFC 9110 requires, and some the raw stream.
    """
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


def _inflate(body: bytes, name: str, limit: int, window: int) -> bytes:
    parts: list[bytes] = []
    room, at = limit + 1, 0
    for _ in range(MEMBERS_LIMIT):
        try:
            at, room = _inflate_member(body, at, parts, room, zlib.decompressobj(window))
        except zlib.error as exc:
            raise _not_whole(name) from exc
        if room <= 0:
            raise _too_large(limit)
        if at < 0:
            raise _not_whole(name)
        if at == len(body):
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise InvalidRequest(f"the body has more than {MEMBERS_LIMIT} members of {name}: send one")


def _inflate_member(body: bytes, at: int, parts: list[bytes], room: int, inflater: zlib._Decompress) -> tuple[int, int]:
    """Append one member's bytes to `parts`.

    Returns the position of the next member, -1 if this one is cut short, and the number of bytes that still have room.
    """
    view = memoryview(body)
    while not inflater.eof and room > 0:
        if at >= len(body):
            return -1, room
        piece = view[at : at + PIECE_BYTES]
        parts.append(inflater.decompress(piece, room))
        room -= len(parts[-1])
        at += len(piece) - len(inflater.unused_data)
    return at, room


def _unpack_zstd(body: bytes, limit: int) -> bytes:
    if not body:
        raise _not_whole("zstd")
    buffer = bytearray(limit + 1)
    try:
        size = cramjam.zstd.decompress_into(body, buffer)
    except cramjam.DecompressionError as exc:
        if _ZSTD_FULL in str(exc):
            raise _too_large(limit) from exc
        raise _not_whole("zstd") from exc
    if size > limit:
        raise _too_large(limit)
    return bytes(memoryview(buffer)[:size])


def _not_whole(name: str) -> InvalidRequest:
    return InvalidRequest(f"the body is not complete {name}, its content encoding: it is cut short or malformed")


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the decompressed body has more than {limit} bytes, the limit here")
