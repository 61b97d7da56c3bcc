"""Bytes that a client sent ahead: they stay unparsed, and nothing more is read, while many of its requests wait."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl

from gateway.transport.door import Door

PIPELINED_MOST = 1  # waiting requests of one connection, besides the one that runs; the others stay unparsed


class PipelineBacklog(FlowControl):
    """uvicorn's flow control, plus the bytes that arrived before reading stopped."""

    def __init__(self, transport: Any, door: Door) -> None:
        super().__init__(transport)
        self._door = door
        self._data, self._at = b"", 0

    def __bool__(self) -> bool:
        """Return True if bytes are kept."""
        return bool(self._data)

    def keep(self, data: bytes, at: int) -> None:
        """Keep the bytes from `at` on, and stop reading. They count towards the limit on held bodies."""
        if 2 * at > len(data):  # most of them are parsed: free their memory
            data, at = data[at:], 0
        self._data, self._at = data, at
        self._door.held_bytes += len(data) - at
        self.pause_reading()

    def take(self) -> tuple[bytes, int]:
        """Return the kept bytes and the index of the first one, and keep nothing any longer."""
        data, at = self._data, self._at
        self._door.held_bytes -= len(data) - at
        self._data, self._at = b"", 0
        return data, at

    def resume_reading(self) -> None:
        """Read on, unless kept bytes must be parsed first."""
        if not self._data:
            super().resume_reading()
