"""Hints between processes that a channel has something new: one loopback datagram, lost without harm.

The slow poll of consumers and readers is the truth; a hint only makes them look sooner.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Iterable

LIMIT_BYTES = 4096


class Wakeups(asyncio.DatagramProtocol):
    """This process's ear, and its voice towards the others."""

    def __init__(self) -> None:
        self._events: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._transport: asyncio.DatagramTransport | None = None
        self._voice = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._voice.setblocking(False)
        self.port = 0

    async def open(self) -> None:
        """Bind a free loopback port."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.port = self._transport.get_extra_info("sockname")[1]

    def close(self) -> None:
        """Stop to listen."""
        if self._transport is not None:
            self._transport.close()
        self._voice.close()

    def listen(self, channel: str) -> asyncio.Event:
        """Return an event that is set whenever `channel` may have something new."""
        event = asyncio.Event()
        self._events[channel].add(event)
        return event

    def forget(self, channel: str, event: asyncio.Event) -> None:
        """Stop to set `event`."""
        self._events[channel].discard(event)

    def call(self, port: int, channels: Iterable[str]) -> None:
        """Tell the process at `port` about `channels`. Safe from any thread."""
        data = "\n".join(channels).encode()[:LIMIT_BYTES]
        try:
            self._voice.sendto(data, ("127.0.0.1", port))
        except OSError:  # a full buffer or a process that is gone: the slow poll covers it
            return

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Set the events of the channels named; anything else is ignored."""
        for name in data.decode("utf-8", "replace").split("\n"):
            for event in self._events.get(name, ()):
                event.set()
