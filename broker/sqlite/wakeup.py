"""Hints between processes that a channel has new messages: one loopback datagram each, which may get lost.

Consumers and readers also poll; a hint only makes them poll sooner.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Iterable

LIMIT_BYTES = 4096


class Wakeups(asyncio.DatagramProtocol):
    """Sends hints to other processes, and receives theirs."""

    def __init__(self) -> None:
        self._events: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._transport: asyncio.DatagramTransport | None = None
        self.port = 0

    async def open(self) -> None:
        """Bind a free loopback port."""
        self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sender.setblocking(False)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.port = self._transport.get_extra_info("sockname")[1]

    def close(self) -> None:
        """Close both sockets."""
        if self._transport is not None:
            self._transport.close()
            self._sender.close()

    def listen(self, channel: str) -> asyncio.Event:
        """Return an event that is set whenever `channel` may have new messages."""
        event = asyncio.Event()
        self._events[channel].add(event)
        return event

    def forget(self, channel: str, event: asyncio.Event) -> None:
        """Stop setting `event`."""
        self._events[channel].discard(event)

    def notify(self, port: int, channels: Iterable[str]) -> None:
        """Send a hint about `channels` to the process at `port`. Safe from any thread."""
        data = "\n".join(channels).encode()[:LIMIT_BYTES]
        try:
            self._sender.sendto(data, ("127.0.0.1", port))
        except OSError:  # a full buffer or a dead process: polling covers it
            return

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Set the events of the named channels; ignore anything else."""
        for name in data.decode("utf-8", "replace").split("\n"):
            for event in self._events.get(name, ()):
                event.set()
