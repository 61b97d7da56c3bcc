"""Appending to a log where a failure is no error: the record is repeated later, or the next one replaces it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.base import Broker
from broker.errors import TryAgain


async def appended(broker: Broker, log: str, body: bytes, headers: Mapping[str, Any] | None = None) -> bool:
    """Append one record; return True once the broker has confirmed it, False if it has not or cannot be reached."""
    try:
        outcomes = await broker.append(log, [body], None if headers is None else dict(headers))
    except TryAgain:
        return False
    return outcomes[0].safe
