"""Finds out whether a client that closed its sending direction is gone: only a write can fail.

`100 Continue` is written, which a client ignores; HTTP/1.0 has no such interim answer.
"""

from __future__ import annotations

from typing import Any

PROBE_S = 0.25
PROBE_LONGEST_S = 5.0
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def probe_half_closed(connection: Any, pause_s: float = PROBE_S) -> None:
    """Write to the client after growing pauses until its answer begins or the connection closes."""
    if connection.running.scope["http_version"] == "1.1":
        connection.loop.call_later(pause_s, _probe, connection, pause_s)


def _probe(connection: Any, pause_s: float) -> None:
    if connection.transport.is_closing() or connection.cycle.response_started:
        return
    if not connection.running.response_started:
        connection.transport.write(CONTINUE)
    probe_half_closed(connection, min(2 * pause_s, PROBE_LONGEST_S))
