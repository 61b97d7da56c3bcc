"""What a client sent ahead: bytes that are not parsed while many of its requests wait. Nothing is read meanwhile."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl

from gateway.transport.door import Door

PIPELINED_MOST = 16  # requests of one connection that wait behind the one that runs


class PipelineBacklog(FlowControl):
    """uvicorn's flow control, with the bytes that came before it could stop the client."""

    def __init__(self, transport: Any, door: Door) -> None:
        super().__init__(transport)
        self._door = door
        self._data, self._at = b"", 0

    def __bool__(self) -> bool:
        """Whether bytes are kept."""
        return bool(self._data)

    def keep(self, data: bytes, at: int) -> None:
        """Keep the bytes from `at` on, which count as bytes of bodies do, and stop reading."""
        if 2 * at > len(data):  # most are parsed: free their memory
            data, at = data[at:], 0
        self._data, self._at = data, at
        self._door.held_bytes += len(data) - at
        self.pause_reading()

    def take(self) -> tuple[bytes, int]:
        """Return what was kept, and where it begins; it is kept no more."""
        data, at = self._data, self._at
        self._door.held_bytes -= len(data) - at
        self._data, self._at = b"", 0
        return data, at

    def resume_reading(self) -> None:
        """Read on, but not before what was kept is parsed."""
        if not self._data:
            super().resume_reading()
