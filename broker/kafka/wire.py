"""Translates uvloop's error for a closed connection.

aiokafka expects OSError there, but uvloop raises a RuntimeError, which would end aiokafka's background tasks (the one
that fetches, the one that refreshes the metadata) and pass through all code here that tries again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

_SENDING = ("send", "_send_sasl_token")


def translate_closed() -> None:
    """Make every connection raise aiokafka's own error if it is closed."""
    for name in _SENDING:
        send = getattr(AIOKafkaConnection, name)
        if not hasattr(send, "__wrapped__"):
            setattr(AIOKafkaConnection, name, _translated(send))


def _translated(send: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(send)
    def translated(connection: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return send(connection, *arguments, **options)
        except RuntimeError as exc:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"{connection.host}:{connection.port} has closed the connection") from exc

    return translated
