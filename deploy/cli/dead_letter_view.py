"""Formats dead letters as rows and lines.

Their content is untrusted: control characters are replaced, so that the terminal executes none of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from broker.channels import Channels
from broker.protocol.dead_letters import DeadLetter
from broker.protocol.header import ReplyTo, Request
from deploy.operations.dead_letters import DeadQueuePage

HEAD_CHARACTERS = 4096
SHOWN_CHARACTERS = 300
ERROR_CHARACTERS = 80

REPLIES = {
    ReplyTo.NOWHERE: "nobody",
    ReplyTo.RESULTS: "the endpoint's results",
    ReplyTo.GATEWAY: "a gateway, whose HTTP client is gone",
}


def printable(text: str) -> str:
    """Replace unprintable characters, such as the escape sequences of terminals."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def shorten(text: str, limit: int) -> str:
    """Join the lines of a text and cut it to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def queue_row(page: DeadQueuePage, now_us: int, channels: Channels) -> dict[str, Any]:
    """Return the row of one dead queue in `dead list`."""
    letters = page.letters
    times = [letter.at_us for letter in letters if letter.at_us is not None]
    last = max(letters, key=lambda letter: letter.at_us or 0, default=None)
    return {
        "queue": page.queue.removeprefix(channels.prefix),
        "messages": len(letters) + page.more,
        "looked at": len(letters),
        "oldest": when(min(times)) if times else "",
        "age s": max(0, round((now_us - min(times)) / 1e6)) if times else None,
        "reasons": dict(Counter(printable(letter.reason) for letter in letters).most_common()),
        "unreadable": sum(bool(letter.unreadable) for letter in letters),
        "last error": printable(shorten(last.error or last.unreadable, ERROR_CHARACTERS)) if last else "",
    }


def letter_row(letter: DeadLetter) -> dict[str, Any]:
    """Return the row of one letter in `dead show --json`."""
    message = letter.message
    return {
        "ids": list(letter.ids),
        "from": printable(letter.origin),
        "reason": printable(letter.reason),
        "attempts": letter.attempts,
        "error": printable(letter.error),
        "at": when(letter.at_us) if letter.at_us is not None else None,
        "endpoint": printable(letter.endpoint),
        "unreadable": printable(letter.unreadable),
        "stuck": printable(letter.stuck),
        "bytes": letter.size,
        "message_id": printable(message.message_id or ""),
        "correlation_id": printable(message.correlation_id or ""),
        "requests": [_request_row(request) for request in letter.requests],
        "head": "" if letter.requests else head(message.body, None),
    }


def letter_lines(letter: DeadLetter, now_us: int) -> Iterator[str]:
    """Yield the lines of one letter in `dead show`."""
    row = letter_row(letter)
    buried = f"{row['at']}, {age(now_us - letter.at_us)} ago" if letter.at_us is not None else "at an unknown time"
    yield f"{', '.join(letter.ids[:3])}{f' and {len(letter.ids) - 3} more' if len(letter.ids) > 3 else ''}"
    yield f"  from      {row['from']}"
    yield f"  buried    {buried}; reason {row['reason']}, attempts {letter.attempts}"
    yield from _unless_empty("error", row["error"])
    yield from _unless_empty("unreadable", row["unreadable"])
    yield from _unless_empty("stuck", row["stuck"])
    if not letter.requests:
        yield from _unless_empty("endpoint", row["endpoint"])
        yield f"  body      {letter.size} bytes {shorten(row['head'], SHOWN_CHARACTERS)}"
    for request in row["requests"]:
        yield f"  endpoint  {request['endpoint']}, arm {request['arm']}, model {request['model']}@{request['version']}"
        yield f"  answers   to {request['answers to']}"
        yield f"  body      {request['bytes']} bytes {shorten(request['head'], SHOWN_CHARACTERS)}"


def head(body: bytes | memoryview, json_length: int | None) -> str:
    """Return the first HEAD_CHARACTERS of a body's JSON, not parsed; empty if the body does not begin like JSON."""
    data = bytes(body[: HEAD_CHARACTERS if json_length is None else min(json_length, HEAD_CHARACTERS)])
    return printable(data.decode("utf-8", "replace")) if data.lstrip()[:1] in (b"{", b"[") else ""


def when(at_us: int) -> str:
    """Format a time in UTC, to the second; microseconds that are out of range are shown as they are."""
    try:
        return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{at_us} us"


def age(age_us: int) -> str:
    """Format an age in whole days, hours, minutes or seconds."""
    seconds = max(0, age_us // 1_000_000)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def counted(reasons: Mapping[str, int]) -> str:
    """Format counts by reason."""
    return ", ".join(f"{reason} {count}" for reason, count in reasons.items())


def _request_row(request: Request) -> dict[str, Any]:
    route = request.route
    to = f"queue {route.reply_to}" if route.reply is ReplyTo.CLIENT else REPLIES[route.reply]
    return {
        "endpoint": printable(route.endpoint),
        "arm": printable(route.arm),
        "model": printable(route.model),
        "version": route.version,
        "accepted": when(request.accepted_us),
        "attempts": request.attempts,
        "correlation_id": printable(request.correlation),
        "answers to": printable(to),
        "bytes": len(request.body),
        "head": head(request.body, request.json_length),
    }


def _unless_empty(what: str, text: str) -> Sequence[str]:
    return [f"  {what:9} {text}"] if text else []
